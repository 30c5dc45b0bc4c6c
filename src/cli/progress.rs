//! A progress bar on standard error: on a terminal only, and only once a second has passed.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use anyhow::Result;
use gemma_mlp::drift;
use std::cell::OnceCell;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub struct Progress {
    bar: ProgressBar,
    start: Instant,
}

impl Progress {
    /// A bar for things counted in `unit`s.
    pub fn new(total: usize, unit: &str) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::hidden());
        let template = format!("{{bar:30}} {{pos}}/{{len}} {unit}, {{eta}} left");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        Self { bar, start: Instant::now() }
    }

    /// `done` of the total are done.
    pub fn set(&self, done: usize) {
        if self.bar.is_hidden() && self.start.elapsed() > Duration::from_secs(1) {
            // Stays hidden where standard error is no terminal.
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_position(done as u64);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// An ear for Ctrl-C, which asks a run to end early with what it has.
pub struct Interrupt(Arc<AtomicBool>);

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

    /// The same, as runs take it.
    pub fn flow(&self) -> ControlFlow<()> {
        if self.asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// A progress bar in tokens, with their rate.
pub struct TokenProgress<'a> {
    bar: OnceCell<Progress>,
    interrupt: &'a Interrupt,
}

impl<'a> TokenProgress<'a> {
    pub fn new(interrupt: &'a Interrupt) -> Self {
        Self { bar: OnceCell::new(), interrupt }
    }

    /// Shows how far a run is, and says whether it is to go on.
    pub fn set(&self, progress: drift::Progress) -> ControlFlow<()> {
        let bar = self.bar.get_or_init(|| Progress::new(progress.of, "tokens, {per_sec}"));
        bar.set(progress.tokens as usize);
        self.interrupt.flow()
    }
}
