//! A few printed numbers of a point against ours: enough to tell where two models part.

use super::models::Models;
use super::pair::Pair;
use super::plane::Glimpse;
use crate::drift::Accumulator;
use crate::error::Result;
use candle_core::{DType, Device, Tensor};

/// What is known of a point by a few numbers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct GlimpseSums {
    /// Theirs against ours, each in its own pass; rounding, and that of printing.
    pub(super) pair: Pair,
    /// The largest difference, over the root mean square of ours.
    pub(super) largest: f64,
}

/// The printed numbers of a point. Tensors are `[1, positions, …]`, of which the model beside ours has the first.
pub(super) fn glimpse(
    models: &Models,
    ours: &Tensor,
    beside: &Tensor,
    theirs: &Glimpse,
) -> Result<GlimpseSums> {
    let [ours, beside] = [values(ours)?, values(beside)?];
    // A sum of n numbers is off by the root of n times what one of them is off by.
    let (count, root) = (ours.len() as f64, (ours.len() as f64).sqrt());
    let sums = theirs.sum.iter().map(|sum| (sum / root, ours.iter().sum::<f64>() / root));
    let pairs: Vec<(f64, f64)> =
        theirs.values.iter().map(|&(at, value)| (value, ours[at])).chain(sums).collect();
    let mut known: Vec<(f64, f64)> = theirs
        .values
        .iter()
        .filter(|(at, _)| *at < beside.len())
        .map(|&(at, _)| (ours[at], beside[at]))
        .collect();
    // What printing rounds is no fault of the model's.
    known.extend(theirs.values.iter().map(|_| (0.0, theirs.precision)));
    let square = ours.iter().map(|x| x * x).sum::<f64>() / count;
    let largest = pairs.iter().map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let (theirs, own): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    let (a, b): (Vec<_>, Vec<_>) = known.into_iter().unzip();
    let floor = if models.is_beside_wider() { sums_of(b, a)? } else { sums_of(a, b)? };
    let pair = Pair { drift: sums_of(own, theirs)?, floor };
    Ok(GlimpseSums { pair, largest: largest / square.sqrt() })
}

fn values(x: &Tensor) -> Result<Vec<f64>> {
    Ok(x.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?)
}

fn sums_of(a: Vec<f64>, b: Vec<f64>) -> Result<Accumulator> {
    Ok(Accumulator::of(&Tensor::new(a, &Device::Cpu)?, &Tensor::new(b, &Device::Cpu)?)?)
}
