//! Calls into the crate `tokenizers`, which panics on some files that are no good.
//!
//! The panics are caught and become errors. Their messages go wherever the process sends those of
//! panics: the hook is the program's, and a library that replaced it, even for a moment, would take it
//! from other threads. A program that wants the error alone asks [`is_guarded`] in a hook of its own.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread, now, would be caught and returned as an error.
pub fn is_guarded() -> bool {
    GUARDED.get()
}

/// The result of a call, or why there is none, in one line.
pub(super) fn guard<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    let outer = GUARDED.replace(true);
    // A tokenizer is only read: its caches are per thread and hold finished entries alone.
    let result = catch_unwind(AssertUnwindSafe(call));
    GUARDED.set(outer);
    match result {
        Ok(result) => result.map_err(|e| one_line(&e.to_string())),
        Err(panic) => Err(format!(
            "the crate that reads tokenizers fails on it ({}); download or export it again",
            one_line(message(&*panic))
        )),
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no reason given")
}

/// A message in one line of bounded length, whatever of a file it quotes.
pub(super) fn one_line(text: &str) -> String {
    const LONGEST: usize = 300;
    let mut line = String::new();
    for c in text.trim().chars() {
        if line.len() >= LONGEST {
            line.push('…');
            break;
        }
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_and_errors_are_one_line() {
        assert_eq!(guard(|| Ok(3)), Ok(3));
        let error = guard::<()>(|| Err("two\nlines\u{1b}[31m".into())).unwrap_err();
        assert_eq!(error, "two\\nlines\\u{1b}[31m");
        let error = guard::<()>(|| {
            assert!(is_guarded());
            std::panic::panic_any("a\nb".to_string())
        });
        assert!(error.unwrap_err().contains("(a\\nb)"));
        assert!(!is_guarded());
        assert!(one_line(&"x".repeat(1 << 20)).len() < 310);
    }
}
