//! Someone else's model against ours: where it differs first by more than rounding, and which mistake
//! it is.

mod allow;
mod capture;
mod dump;
pub mod formats;
mod plane;
mod point;
mod result;
mod run;
pub mod server;

pub use allow::{Allow, InvalidAllow};
pub use capture::{Capture, CaptureOptions, CaptureSummary, capture};
pub use dump::{Dump, DumpText, Likeliest, Word};
pub use plane::{Glimpse, Plane};
pub use point::{Place, Point, UnknownPoint};
pub use result::*;
pub use run::{CompareOptions, compare, compare_dumps};
