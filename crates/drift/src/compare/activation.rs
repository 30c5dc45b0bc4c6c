//! Which activation stands between a gate and what was made of it, and whose arithmetic, number by number.

use super::result::{ActivationFit, ActivationReading};
use crate::drift::{Accumulator, Side};
use crate::error::Result;
use candle_core::{DType, Tensor};
use gemma_mlp::{Activation, Framework, Rounding};

/// Of what differs by more than this, in the relative L2 norm, nothing is said: an activation's own numbers are as close
/// as its dtype lets them be.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 4e-3,
        DType::F16 => 5e-4,
        _ => 2e-6,
    }
}

/// Positions that are read: each has thousands of numbers.
const POSITIONS: usize = 256;

/// Reads the activation of a layer from its gate and what theirs made of it, both `[1, positions, intermediate]`. `meant` is what the
/// config says.
pub(super) fn read(
    layer: usize,
    gate: &Tensor,
    activated: &Tensor,
    dtype: DType,
    meant: Activation,
) -> Result<ActivationReading> {
    let dtype = if dtype == DType::F64 { DType::F32 } else { dtype };
    let first = |x: &Tensor| x.narrow(1, 0, x.dim(1)?.min(POSITIONS))?.to_dtype(dtype);
    let (gate, theirs) = (first(gate)?, first(activated)?);
    let roundings: Vec<Rounding> = match dtype.size_in_bytes() {
        2 => {
            let frameworks = Framework::ALL.iter().map(|&framework| Rounding::Like(framework));
            // Of equals the first is taken: what a framework does says more than what ours does.
            frameworks.chain([Rounding::Once, Rounding::EveryOp]).collect()
        }
        _ => vec![Rounding::Once],
    };
    let mut tried = vec![];
    for &activation in Activation::ALL {
        for &rounding in &roundings {
            if matches!(rounding, Rounding::Like(_)) && !matches!(activation, Activation::Gelu(_)) {
                continue; // they have no arithmetic of their own there
            }
            let ours = rounding.activate(&gate, activation)?;
            tried.push((
                activation,
                fit(Side { rounding, ..Side::new(activation, dtype) }, &ours, &theirs)?,
            ));
        }
    }
    // What has the most bits in common; in f32, where functions differ in their last bits, what is nearest.
    tried.sort_by(|(_, a), (_, b)| {
        let bits = b.same_bits.total_cmp(&a.same_bits);
        let near = a.rel_l2.total_cmp(&b.rel_l2);
        if dtype.size_in_bytes() == 2 { bits.then(near) } else { near }
    });
    let best = tried.first().filter(|(_, fit)| fit.rel_l2 <= tolerance(dtype));
    let activation = best.map(|(activation, _)| *activation);
    Ok(ActivationReading {
        layer,
        best: best.map_or_else(|| "none that is known".into(), |(_, fit)| fit.side.clone()),
        activation: activation.map(|activation| activation.to_string()),
        differs: activation != Some(meant),
        tried: tried.into_iter().map(|(_, fit)| fit).collect(),
    })
}

fn fit(side: Side, ours: &Tensor, theirs: &Tensor) -> Result<ActivationFit> {
    let same = ours.eq(theirs)?.to_dtype(DType::F64)?.mean_all()?.to_scalar::<f64>()?;
    let rel_l2 = Accumulator::of(ours, theirs)?.metrics().rel_l2;
    let side = match side.rounding {
        Rounding::Once => side.activation.to_string(),
        rounding => format!("{}:{rounding}", side.activation),
    };
    Ok(ActivationFit { side, same_bits: same, rel_l2 })
}
