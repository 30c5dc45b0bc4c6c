//! Progress bars on standard error: on a terminal only, and only once a second has passed.

use super::interrupt::Interrupt;
use gemma_mlp_drift::drift;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::cell::OnceCell;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Once;
use std::time::{Duration, Instant};

/// Into how many steps a share is divided.
const SHARES: u64 = 1000;

pub struct Progress {
    bar: ProgressBar,
    start: Instant,
}

impl Progress {
    /// A bar for things counted in `unit`s.
    pub fn new(total: usize, unit: &str) -> Self {
        Self::styled(
            total as u64,
            &format!("{{bar:30}} {{pos}}/{{len}} {unit}, {{rate}}, {{eta}} left"),
        )
    }

    /// A bar for a share that is done, from 0 to 1.
    pub fn share() -> Self {
        Self::styled(SHARES, "{bar:30} {percent} %, {eta} left")
    }

    /// This share is done.
    pub fn set_share(&self, share: f64) {
        self.set_position((share * SHARES as f64) as u64);
    }

    fn styled(total: u64, template: &str) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.with_key("rate", rate));
        }
        Self { bar, start: Instant::now() }
    }

    /// `done` of the total are done.
    pub fn set(&self, done: usize) {
        self.set_position(done as u64);
    }

    /// As [`Self::set`], of a total that turns out on the way.
    pub fn set_of(&self, done: usize, total: usize) {
        self.bar.set_length(total as u64);
        self.set(done);
    }

    fn set_position(&self, done: u64) {
        if self.bar.is_hidden() && self.start.elapsed() > Duration::from_secs(1) {
            // Stays hidden where standard error is no terminal.
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_position(done);
    }
}

/// How many a second; indicatif's own has four digits behind the point.
fn rate(state: &ProgressState, out: &mut dyn fmt::Write) {
    let _ = write!(out, "{:.1}/s", state.per_sec());
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A progress bar in tokens, made when their number is known.
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
        let bar = self.bar.get_or_init(|| Progress::new(progress.of, "tokens"));
        bar.set(progress.tokens as usize);
        self.interrupt.flow()
    }
}

/// A bar for a download, whose size turns out on the way.
pub struct Bytes {
    progress: Progress,
    first: Once,
}

impl Bytes {
    pub fn new() -> Self {
        let template = "{bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left";
        Self { progress: Progress::styled(0, template), first: Once::new() }
    }

    /// `done` of `total` bytes are here.
    pub fn set(&self, done: u64, total: u64) {
        self.progress.bar.set_length(total);
        self.progress.set_position(done);
        // What an earlier run has fetched does not count as speed.
        self.first.call_once(|| self.progress.bar.reset_eta());
    }
}
