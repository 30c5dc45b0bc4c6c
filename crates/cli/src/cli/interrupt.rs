//! Ctrl-C, and what a run that it ended leaves.

use anyhow::Result;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// An ear for Ctrl-C, which asks a run to end early with what it has.
pub struct Interrupt(Arc<AtomicBool>);

/// A run was ended early. What it had is printed and saved.
#[derive(Debug, Default)]
pub struct Interrupted {
    /// It had nothing yet that means anything.
    nothing: bool,
    /// Which files were not replaced by a part of a run, and where that part is.
    pub kept: Vec<String>,
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nothing {
            return f.write_str("interrupted: there are no results");
        }
        f.write_str("interrupted: the results are those of a part of the run")?;
        self.kept.iter().try_for_each(|kept| write!(f, "; {kept}"))
    }
}

impl std::error::Error for Interrupted {}

impl Interrupted {
    /// Of a run that leaves a part; `kept` says which files were not replaced.
    pub fn with(kept: Vec<String>) -> Self {
        Self { nothing: false, kept }
    }

    /// Of a run whose results are those of all of it, or none.
    pub fn without_results() -> Self {
        Self { nothing: true, kept: vec![] }
    }
}

impl Interrupt {
    /// From here on the first Ctrl-C only asks; the second one ends the program as ever.
    pub fn listen() -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        let heard = asked.clone();
        ctrlc::set_handler(move || {
            if heard.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
        })?;
        Ok(Self(asked))
    }

    /// Whether an early end was asked for.
    pub fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// What runs ask after each window: whether to go on.
    pub fn flow(&self) -> ControlFlow<()> {
        if self.asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
