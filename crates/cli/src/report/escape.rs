//! Text that comes from outside, as text: it never becomes markup, nor a terminal's commands.

use super::paint::Paint;

/// A text as the content of an element or of a quoted attribute of XML. Characters that XML does not
/// allow, such as control characters, are shown as `�`.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            c => escaped.push(printable(c)),
        }
    }
    escaped
}

/// The character, or `�` in place of one that is not allowed or that nobody sees.
pub(super) fn printable(c: char) -> char {
    if is_printable(c) { c } else { '�' }
}

fn is_printable(c: char) -> bool {
    match c {
        '\n' | '\t' => true,
        // Right-to-left overrides reorder what stands around them.
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => false,
        '\u{fffe}' | '\u{ffff}' => false,
        c => !c.is_control(),
    }
}

/// A text for a terminal. Characters that would steer it are shown as escapes, such as `\u{1b}`; our own colours
/// remain.
pub(crate) fn for_terminal(text: &str, paint: Paint) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let colour = if paint == Paint::Ansi { colour(rest) } else { 0 };
        let len = if colour > 0 { colour } else { c.len_utf8() };
        if colour > 0 || is_printable(c) {
            shown += &rest[..len];
        } else {
            shown.extend(c.escape_unicode());
        }
        rest = &rest[len..];
    }
    shown
}

/// How long the colour is that a text begins with: `ESC [ digits m`.
fn colour(text: &str) -> usize {
    let Some(code) = text.strip_prefix("\u{1b}[") else { return 0 };
    let digits = code.len() - code.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    if code[digits..].starts_with('m') { digits + 3 } else { 0 }
}

/// A text as a part of a line on a terminal, which control characters would do something to.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { '↵' } else { printable(c) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_not_steered() {
        let table = "\u{1b}[31mred\u{1b}[0m \u{1b}[2Jä\r\n\u{9b}2J\u{202e}�\u{1b}[1;31m\u{1b}[";
        let rest = r"\u{1b}[2Jä\u{d}\n\u{9b}2J\u{202e}�\u{1b}[1;31m\u{1b}[".replace(r"\n", "\n");
        let painted = format!("\u{1b}[31mred\u{1b}[0m {rest}");
        assert_eq!(for_terminal(table, Paint::Ansi), painted);
        let plain = format!(r"\u{{1b}}[31mred\u{{1b}}[0m {rest}");
        assert_eq!(for_terminal(table, Paint::Plain), plain);
    }

    #[test]
    fn markup_becomes_text() {
        let hostile = "</script><img src=x onerror='a()'>\"&\u{0}\u{1b}\u{202e}\r";
        let safe = "&lt;/script&gt;&lt;img src=x onerror=&#39;a()&#39;&gt;&quot;&amp;����";
        assert_eq!(escape(hostile), safe);
        assert_eq!(escape("Ä Φ ▁ 漢"), "Ä Φ ▁ 漢");
        assert_eq!(plain("a\u{1b}[31m\nb\u{9b}2J\u{7f}<Φ>"), "a�[31m↵b�2J�<Φ>");
    }
}
