//! Drift inside one block.

use super::DriftOptions;
use super::metrics::{Accumulator, Metrics};
use super::side::{Side, Sides};
use crate::checkpoint::{BlockSpec, Checkpoint};
use crate::error::Result;
use crate::mlp::{GemmaMlp, Trace};
use crate::model::{InputKind, TokenIds, load_mlp, mlp_input};
use candle_core::{D, DType, Device, Tensor};
use serde::Serialize;

/// One block's drift.
#[derive(Debug, Clone, Serialize)]
pub struct LayerDrift {
    /// Which block.
    pub index: usize,
    /// Prefix of its tensors in the checkpoint.
    pub name: String,
    /// Where its input comes from.
    pub input: InputKind,
    /// Of the pair of sides.
    #[serde(flatten)]
    pub drift: BlockPoints,
    /// Of the pair that differs by rounding alone.
    pub floor: BlockPoints,
}

/// Figures at three points of a block.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BlockPoints {
    /// `activation(gate)`.
    pub activation: Metrics,
    /// `activation(gate) ⊙ up`.
    pub product: Metrics,
    /// The block's output.
    pub output: Metrics,
}

/// Rows (positions) that are computed at a time: the memory in use does not grow with the text.
const ROWS: usize = 512;

/// The drift of one block, and its floor.
pub(super) fn layer_drift(
    checkpoint: &Checkpoint,
    block: &BlockSpec,
    ids: &TokenIds,
    options: &DriftOptions,
    device: &Device,
) -> Result<LayerDrift> {
    let (input, kind) = mlp_input(checkpoint, block, ids, device)?;
    let rows = input.flatten_to(D::Minus2)?; // [batch * seq, hidden]
    let mut weights = Weights { checkpoint, block, device, loaded: vec![] };
    Ok(LayerDrift {
        index: block.index,
        name: block.name.clone(),
        input: kind,
        drift: compare(&mut weights, &rows, options.sides)?,
        floor: compare(&mut weights, &rows, options.floor_sides)?,
    })
}

/// A block's weights in the dtypes that were asked for.
struct Weights<'a> {
    checkpoint: &'a Checkpoint,
    block: &'a BlockSpec,
    device: &'a Device,
    loaded: Vec<(DType, GemmaMlp)>,
}

impl Weights<'_> {
    fn side(&mut self, side: Side) -> Result<GemmaMlp> {
        let found = self.loaded.iter().find(|(dtype, _)| *dtype == side.dtype);
        let mlp = match found {
            Some((_, mlp)) => mlp.clone(),
            None => {
                let mlp = load_mlp(self.checkpoint, self.block, side.dtype, self.device)?;
                self.loaded.push((side.dtype, mlp.clone()));
                mlp
            }
        };
        Ok(mlp.with_activation(side.activation))
    }
}

/// Compares two sides on the same rows, `[rows, hidden]` in f32.
fn compare(weights: &mut Weights, rows: &Tensor, sides: Sides) -> Result<BlockPoints> {
    let (a, b) = (weights.side(sides.a)?, weights.side(sides.b)?);
    let mut sums = [Accumulator::default(); 3];
    let count = rows.dim(0)?;
    for at in (0..count).step_by(ROWS) {
        let x = rows.narrow(0, at, ROWS.min(count - at))?;
        // Both sides see the same numbers, namely those that both can represent.
        let x = x.to_dtype(sides.a.dtype)?.to_dtype(sides.b.dtype)?;
        let (a, b) = traces(&a, &b, &x, sides)?;
        let points =
            [(&a.activated, &b.activated), (&a.product, &b.product), (&a.output, &b.output)];
        for (sums, (a, b)) in sums.iter_mut().zip(points) {
            sums.add(a, b)?;
        }
    }
    let [activation, product, output] = sums.map(|sums| sums.metrics());
    Ok(BlockPoints { activation, product, output })
}

/// Both sides' traces, from one projection where they share the dtype.
fn traces(a: &GemmaMlp, b: &GemmaMlp, x: &Tensor, sides: Sides) -> Result<(Trace, Trace)> {
    let projected_a = a.project(&x.to_dtype(sides.a.dtype)?)?;
    let projected_b = match sides.a.dtype == sides.b.dtype {
        true => projected_a.clone(),
        false => b.project(x)?,
    };
    Ok((a.trace_projected(&projected_a)?, b.trace_projected(&projected_b)?))
}
