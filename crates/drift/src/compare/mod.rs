//! Someone else's model against ours: where it differs first by more than rounding, and which mistake
//! it is.

mod assemble;
mod dump;
pub mod formats;
mod names;
mod plane;
mod point;
mod result;
#[cfg(feature = "server")]
pub mod server;
mod words;

pub use dump::{Dump, DumpText, Likeliest, Word};
pub use names::Names;
pub use plane::{Glimpse, Plane};
pub use point::{Place, Point, UnknownPoint};
pub use result::*;
pub use words::resolve;
