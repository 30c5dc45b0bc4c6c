//! What the crates of this workspace share beyond the library's interface. It changes without notice.
#![allow(missing_docs)]

pub use crate::kernels::elementwise::{QUICK, widen_bf16};
pub use crate::kernels::exp::{exp, vectorized};
pub use crate::kernels::linear::{Number, Rows, nearest_bf16, packs};
pub use crate::kernels::memory::on_large_pages;
pub use crate::kernels::operands::{slice, with_slice};
pub use crate::kernels::threads;
pub use crate::model::wide_dtype;
