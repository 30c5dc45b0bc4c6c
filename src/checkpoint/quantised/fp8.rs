//! Floats of 8 bits, E4M3: transformers' `fp8`, which multiplies them with their scales in f32.

use super::{Beside, Found, scaled};
use crate::checkpoint::tensors::Tensors;
use crate::checkpoint::tensors::scaled::{Codes, Place};
use safetensors::Dtype;

/// The weight whose codes a tensor has, if it is one.
pub(super) fn weight(
    tensors: &Tensors,
    name: &str,
    place: Place,
    blocks: &[[usize; 2]],
) -> Option<Found> {
    found(tensors, name, place, blocks, false)
}

/// The same of any method: whether products are rounded to the scales' dtype.
pub(super) fn found(
    tensors: &Tensors,
    name: &str,
    place: Place,
    blocks: &[[usize; 2]],
    rounded: bool,
) -> Option<Found> {
    if place.dtype != Dtype::F8_E4M3 || name.ends_with("_scale") || name.ends_with("_scale_inv") {
        return None;
    }
    let scales = ["scale_inv", "scale"].map(|part| format!("{name}_{part}"));
    let beside = Beside { scales: &scales, zeros: None, blocks, rounded, exponents: !rounded };
    let shape = place.shape.clone();
    let made = scaled(tensors, place, Codes::Fp8, shape, &beside);
    let parts = [&scales[..], &[format!("{name}_activation_scale")]].concat();
    Some(Found { name: name.into(), made, parts })
}
