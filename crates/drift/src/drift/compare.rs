//! Two blocks on one input, ours or anyone's.

use super::gates::GateHistogram;
use super::layers::PointSums;
use super::metrics::{Accumulator, Metrics};
use super::side::Sides;
use super::verdict::Size;
use crate::error::Result;
use candle_core::{DType, Module, Tensor, Var};
use gemma_mlp::mlp::GemmaMlp;

/// What can be compared with another of its kind: a gated block, or any function of a tensor.
///
/// [`GemmaMlp`] is one, and so is every closure from a tensor to a tensor, of which the output
/// alone is compared: `|x: &Tensor| block.forward(x)` for any of candle's modules. Implement it for
/// a block of your own to have its activation and its product compared too.
pub trait AnyBlock {
    /// Runs the block on an input of the dtype that [`BlockSide::dtype`] names.
    ///
    /// # Errors
    /// Whatever the block fails with.
    fn run(&self, x: &Tensor) -> candle_core::Result<BlockTrace>;
}

/// A forward pass through a block, as far as the block shows it.
#[derive(Debug, Clone)]
pub struct BlockTrace {
    /// What the activation is taken of, `[…, intermediate]`.
    pub gate: Option<Tensor>,
    /// `activation(gate)`, `[…, intermediate]`.
    pub activation: Option<Tensor>,
    /// `activation(gate) ⊙ up`, `[…, intermediate]`.
    pub product: Option<Tensor>,
    /// The output, of any shape.
    pub output: Tensor,
}

/// A pass that shows its output alone.
impl From<Tensor> for BlockTrace {
    fn from(output: Tensor) -> Self {
        Self { gate: None, activation: None, product: None, output }
    }
}

impl<F: Fn(&Tensor) -> candle_core::Result<Tensor>> AnyBlock for F {
    fn run(&self, x: &Tensor) -> candle_core::Result<BlockTrace> {
        Ok(self(x)?.into())
    }
}

impl AnyBlock for GemmaMlp {
    fn run(&self, x: &Tensor) -> candle_core::Result<BlockTrace> {
        let trace = self.trace(x)?;
        Ok(BlockTrace {
            gate: Some(trace.gate),
            activation: Some(trace.activated),
            product: Some(trace.product),
            output: trace.output,
        })
    }
}

/// A block in the dtype that it computes in.
#[derive(Clone, Copy)]
pub struct BlockSide<'a> {
    /// The block.
    pub block: &'a dyn AnyBlock,
    /// What its input is converted to: f64, f32, bf16 or f16.
    pub dtype: DType,
}

impl<'a> BlockSide<'a> {
    /// A block that takes inputs of a dtype, and computes in it.
    pub fn new(block: &'a dyn AnyBlock, dtype: DType) -> Self {
        Self { block, dtype }
    }
}

/// How far two blocks are apart on one input, beside what rounding alone does.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BlockDrift {
    /// Figures of the pair of blocks.
    pub drift: BlockMetrics,
    /// Figures of the pair that differs by rounding alone.
    pub floor: BlockMetrics,
    /// Where a's gates lie, of which its activation is taken, if a shows them.
    pub gates: Option<GateHistogram>,
    /// The drift's class beside its floor, by the relative L2 of the output.
    pub size: Size,
}

/// Figures of a block's output, and of what both blocks show on the way there.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct BlockMetrics {
    /// `activation(gate)`.
    pub activation: Option<Metrics>,
    /// `activation(gate) ⊙ up`.
    pub product: Option<Metrics>,
    /// The block's output.
    pub output: Metrics,
}

/// Compares two blocks on an input that you choose, such as a model's own activations: any two
/// functions of a tensor whose outputs have one shape.
///
/// `floor` is the pair that shows what rounding alone does: block a in a type that hardly rounds,
/// and in the type whose rounding a drift is to be judged by, mostly bf16. A block of candle-nn's
/// layers takes a second copy of its weights for that; a packed [`GemmaMlp`] computes in any dtype.
///
/// `x` is `[…, hidden]`, or whatever the blocks take, in any floating-point dtype. Both sides of a
/// pair get it rounded to both of their dtypes, so that they read the same numbers. Figures are of
/// the tensors as the blocks return them, differences and sums in f64. [`input_gradient`] makes of
/// a block the function whose values are its gradient.
///
/// ```
/// use candle_core::{DType, Device, Module, Tensor};
/// use candle_nn::{VarBuilder, VarMap};
/// use gemma_mlp::{Gelu, gemma_mlp};
/// use gemma_mlp_drift::drift::{BlockSide, Sides, Size, compare_blocks};
///
/// let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
/// let ours = gemma_mlp(64, 256, Gelu::Tanh, vb)?.packed()?;
/// let theirs = |x: &Tensor| ours.forward(x)? * 2.0;
/// let ours_in = |dtype| BlockSide::new(&ours, dtype);
/// let x = Tensor::randn(0f32, 1., (5, 64), &Device::Cpu)?;
/// let sides = Sides { a: ours_in(DType::F32), b: BlockSide::new(&theirs, DType::F32) };
/// let floor = Sides { a: ours_in(DType::F32), b: ours_in(DType::BF16) };
/// let drift = compare_blocks(sides, floor, &x)?;
/// assert_eq!(drift.drift.output.rel_l2, 1.0); // ‖2y − y‖/‖y‖
/// assert!(drift.floor.output.rel_l2 < 0.01);
/// assert_eq!(drift.size, Size::FarAboveFloor);
/// # Ok::<(), gemma_mlp_drift::Error>(())
/// ```
///
/// # Errors
/// Outputs of different shapes, an integer dtype, whatever a block fails with.
pub fn compare_blocks(
    sides: Sides<BlockSide>,
    floor: Sides<BlockSide>,
    x: &Tensor,
) -> Result<BlockDrift> {
    let (drift, floor) = (BlockSums::of(sides, x)?, BlockSums::of(floor, x)?);
    let size = match drift.output.is_finite() {
        true => Size::of(drift.output.metrics().rel_l2, floor.output.metrics().rel_l2),
        false => Size::NotFinite,
    };
    let gates = drift.gates.clone();
    Ok(BlockDrift { drift: drift.metrics(), floor: floor.metrics(), gates, size })
}

/// The gradient of a module's summed outputs for its input, of the input's shape and dtype. As a
/// closure, `|x: &Tensor| input_gradient(&module, x)`, it is compared as any other function.
///
/// # Errors
/// A module that has no gradient, such as a packed [`GemmaMlp`] that is not
/// [frozen](GemmaMlp::frozen).
pub fn input_gradient(module: &impl Module, x: &Tensor) -> candle_core::Result<Tensor> {
    let x = Var::from_tensor(x)?;
    let gradients = module.forward(&x)?.sum_all()?.backward()?;
    match gradients.get(&x) {
        Some(gradient) => Ok(gradient.clone()),
        None => x.zeros_like(),
    }
}

/// The sums of a pair of blocks.
pub(super) struct BlockSums {
    activation: Option<Accumulator>,
    product: Option<Accumulator>,
    output: Accumulator,
    /// a's gates.
    pub(super) gates: Option<GateHistogram>,
}

impl BlockSums {
    /// Runs both blocks on one input.
    pub(super) fn of(Sides { a, b }: Sides<BlockSide>, x: &Tensor) -> Result<Self> {
        let x = x.to_dtype(a.dtype)?.to_dtype(b.dtype)?; // what both can represent
        let (a, b) = (a.block.run(&x.to_dtype(a.dtype)?)?, b.block.run(&x)?);
        let shown = |a: &Option<Tensor>, b: &Option<Tensor>| {
            a.as_ref().zip(b.as_ref()).map(|(a, b)| Accumulator::of(a, b)).transpose()
        };
        Ok(Self {
            activation: shown(&a.activation, &b.activation)?,
            product: shown(&a.product, &b.product)?,
            output: Accumulator::of(&a.output, &b.output)?,
            gates: a.gate.as_ref().map(GateHistogram::of).transpose()?,
        })
    }

    /// The three points of [`GemmaMlp`], which shows all of them.
    pub(super) fn points(&self) -> PointSums {
        [self.activation.unwrap_or_default(), self.product.unwrap_or_default(), self.output]
    }

    fn metrics(&self) -> BlockMetrics {
        BlockMetrics {
            activation: self.activation.map(|sums| sums.metrics()),
            product: self.product.map(|sums| sums.metrics()),
            output: self.output.metrics(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use candle_nn::{VarBuilder, VarMap};
    use gemma_mlp::{Gelu, gemma_mlp};

    fn block() -> candle_core::Result<GemmaMlp> {
        let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
        gemma_mlp(8, 12, Gelu::Tanh, vb)?.packed()
    }

    fn in_f32(block: &dyn AnyBlock) -> BlockSide<'_> {
        BlockSide::new(block, DType::F32)
    }

    #[test]
    fn what_both_show_is_compared() -> Result<()> {
        let tanh = block()?;
        let exact = tanh.with_activation(Gelu::Exact);
        let hidden = |x: &Tensor| exact.forward(x);
        let x = Tensor::randn(0f32, 1., (2, 3, 8), &Device::Cpu)?;
        let floor = || Sides { a: in_f32(&tanh), b: BlockSide::new(&tanh, DType::BF16) };
        let open = compare_blocks(Sides { a: in_f32(&tanh), b: in_f32(&exact) }, floor(), &x)?;
        let closed = compare_blocks(Sides { a: in_f32(&tanh), b: in_f32(&hidden) }, floor(), &x)?;
        assert_eq!(open.drift.output, closed.drift.output);
        assert!(open.drift.activation.is_some_and(|metrics| metrics.max_abs > 0.0));
        assert_eq!((closed.drift.activation, closed.drift.product), (None, None));
        assert_eq!(open.floor, closed.floor);
        assert_eq!(open.gates.map(|gates| gates.total()), Some(2 * 3 * 12));
        // By chance a tenth of the floor, or a little more.
        assert_eq!(open.size, closed.size);
        assert!(matches!(open.size, Size::FarBelowFloor | Size::BelowFloor), "{:?}", open.size);
        Ok(())
    }

    #[test]
    fn sizes_and_errors() -> Result<()> {
        let ours = block()?;
        let x = Tensor::randn(0f32, 1., (3, 8), &Device::Cpu)?;
        let compare = |b: &dyn AnyBlock| {
            let floor = Sides { a: in_f32(&ours), b: BlockSide::new(&ours, DType::BF16) };
            compare_blocks(Sides { a: in_f32(&ours), b: in_f32(b) }, floor, &x)
        };
        assert_eq!(compare(&ours)?.size, Size::None);
        let infinite = |x: &Tensor| ours.forward(x)? / 0.0;
        assert_eq!(compare(&infinite)?.size, Size::NotFinite);
        assert!(compare(&|x: &Tensor| x.narrow(0, 0, 1)).is_err());
        assert!(compare(&|x: &Tensor| x.to_dtype(DType::U32)).is_err());
        Ok(())
    }

    #[test]
    fn gradients_for_the_input() -> Result<()> {
        let x = Tensor::new(&[1f32, 2.0, -3.0], &Device::Cpu)?;
        let gradient = input_gradient(&|x: &Tensor| x * x, &x)?;
        assert_eq!(gradient.to_vec1::<f32>()?, [2.0, 4.0, -6.0]);
        let constant = input_gradient(&|_: &Tensor| Tensor::new(1f32, &Device::Cpu), &x)?;
        assert_eq!(constant.to_vec1::<f32>()?, [0.0; 3]);
        assert!(
            input_gradient(&block()?, &Tensor::ones((1, 8), DType::F32, &Device::Cpu)?).is_err()
        );
        assert!(
            input_gradient(&block()?.frozen(), &Tensor::ones((1, 8), DType::F32, &Device::Cpu)?)
                .is_ok()
        );
        Ok(())
    }
}
