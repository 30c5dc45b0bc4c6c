//! Someone else's model against ours: where it differs first by more than rounding, and which mistake
//! it is.

mod activation;
mod align;
mod allow;
mod arithmetic;
mod assemble;
mod below;
mod capture;
mod checks;
mod dump;
mod dumps;
pub mod formats;
mod glimpses;
mod graph;
mod layer_pass;
mod logits;
mod measure;
mod models;
mod names;
mod naming;
mod options;
mod pair;
mod plane;
mod point;
mod precision;
mod resolve;
mod result;
mod rule;
mod run;
mod segment;
#[cfg(feature = "server")]
pub mod server;
mod words;

pub use allow::{Allow, InvalidAllow};
pub use capture::{Capture, CaptureOptions, CaptureSummary, capture};
pub use dump::{Dump, DumpText, Likeliest, Word};
pub use dumps::compare_dumps;
pub use names::Names;
pub use options::CompareOptions;
pub use plane::{Glimpse, Plane};
pub use point::{Place, Point, UnknownPoint};
pub use resolve::resolve;
pub use result::*;
pub use run::compare;
