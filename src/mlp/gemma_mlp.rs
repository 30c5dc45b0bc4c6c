//! The gated block itself.

use super::gating::Gating;
use super::layers::{Result, check_sizes, layer, variable};
use super::one_pass::OnePass;
use super::pair::Pair;
use super::projection::{GateUp, Projection};
use super::sparsity::Sparsity;
use super::trace::Trace;
use crate::error::InvalidLayer;
use crate::kernels::activation::Activation;
use crate::kernels::linear::matrix::deferring;
use crate::kernels::linear::quantised::quantised;
use crate::kernels::linear::{InputRoundings, Linear, Weight};
use crate::rounding::Rounding;
use candle_core::quantized::GgmlDType;
use candle_core::{DType, Module, Tensor, Var};
use candle_nn::{VarBuilder, linear_b};

/// The gated block, with the activation as a switch.
///
/// Takes `[..., hidden]` of any rank and any batch shape, returns the same shape and dtype. Cloning
/// it, or switching its activation, copies no weights.
///
/// Its weights are tensors, which train, and which candle multiplies by, in the weights' dtype;
/// [`Self::packed`] packs them for inference on a CPU, at the machine's limit.
///
/// ```
/// use candle_core::{DType, Device, Module, Tensor};
/// use candle_nn::{VarBuilder, VarMap};
/// use gemma_mlp::{Gelu, gemma_mlp};
///
/// let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
/// let tanh = gemma_mlp(64, 256, Gelu::Tanh, vb.pp("mlp"))?; // trainable
/// let exact = tanh.with_activation(Gelu::Exact); // the same weights
/// let x = Tensor::randn(0f32, 1., (2, 5, 64), &Device::Cpu)?;
/// let drift = (exact.forward(&x)? - tanh.forward(&x)?)?;
/// assert_eq!(drift.dims(), [2, 5, 64]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct GemmaMlp {
    gate_up: Projection,
    down: Linear,
    gating: Gating,
    sparsity: Option<Sparsity>,
    inputs: InputRoundings,
}

/// Builds the block without biases, as all Gemmas but RecurrentGemma have it.
///
/// Reads `gate_proj.weight` and `up_proj.weight` (each `[intermediate, hidden]`), or both in one,
/// `gate_up_proj.weight` (`[2 * intermediate, hidden]`, gate first) where that exists, and
/// `down_proj.weight` (`[hidden, intermediate]`).
///
/// # Errors
/// A tensor that is missing or has another shape, sizes of 0 or beyond any memory.
pub fn gemma_mlp(
    hidden_size: usize,
    intermediate_size: usize,
    activation: impl Into<Activation>,
    vb: VarBuilder,
) -> Result<GemmaMlp> {
    gemma_mlp_b(hidden_size, intermediate_size, false, activation, vb)
}

/// Builds the block with biases on all projections if `bias` is set, as RecurrentGemma has them; named
/// as candle-nn names `linear_b`.
///
/// Reads what [`gemma_mlp`] reads, and `gate_proj.bias` and `up_proj.bias` (each `[intermediate]`), or
/// `gate_up_proj.bias` (`[2 * intermediate]`), and `down_proj.bias` (`[hidden]`).
///
/// # Errors
/// A tensor that is missing or has another shape, sizes of 0 or beyond any memory.
pub fn gemma_mlp_b(
    hidden_size: usize,
    intermediate_size: usize,
    bias: bool,
    activation: impl Into<Activation>,
    vb: VarBuilder,
) -> Result<GemmaMlp> {
    check_sizes(hidden_size, intermediate_size, 2)?; // gate and up together
    let into = |n, name| linear_b(hidden_size, n, bias, vb.pp(name));
    let down = linear_b(intermediate_size, hidden_size, bias, vb.pp("down_proj"))?;
    if vb.contains_tensor("gate_up_proj.weight") {
        let gate_up = into(2 * intermediate_size, "gate_up_proj")?;
        Ok(GemmaMlp::from_gate_up(gate_up, down, activation)?)
    } else {
        let (gate, up) =
            (into(intermediate_size, "gate_proj")?, into(intermediate_size, "up_proj")?);
        Ok(GemmaMlp::new(gate, up, down, activation)?)
    }
}

impl GemmaMlp {
    /// A block of three layers, candle-nn's or ours: `gate` and `up` from hidden to intermediate,
    /// `down` back.
    ///
    /// # Errors
    /// Shapes that do not make up a block, by layer; dtypes other than f64, f32, bf16 and f16. The
    /// error becomes candle's by `?`.
    pub fn new<G, U, D>(
        gate: G,
        up: U,
        down: D,
        activation: impl Into<Activation>,
    ) -> Result<Self, InvalidLayer>
    where
        G: TryInto<Linear, Error: Into<InvalidLayer>>,
        U: TryInto<Linear, Error: Into<InvalidLayer>>,
        D: TryInto<Linear, Error: Into<InvalidLayer>>,
    {
        let ((gate, shape), (up, shape_of_up)) = (layer("gate", gate)?, layer("up", up)?);
        if shape != shape_of_up {
            return Err(InvalidLayer::GateUp { gate: shape.into(), up: shape_of_up.into() });
        }
        let gate_up = Projection::Separate { gate, up };
        Self::of(gate_up, shape, layer("down", down)?, activation.into())
    }

    /// A block of two layers, candle-nn's or ours: `gate_up` from hidden to twice intermediate, its
    /// weight `[2 * intermediate, hidden]` with gate's rows first, and `down` back.
    ///
    /// # Errors
    /// Shapes that do not make up a block, by layer; dtypes other than f64, f32, bf16 and f16. The
    /// error becomes candle's by `?`.
    pub fn from_gate_up<G, D>(
        gate_up: G,
        down: D,
        activation: impl Into<Activation>,
    ) -> Result<Self, InvalidLayer>
    where
        G: TryInto<Linear, Error: Into<InvalidLayer>>,
        D: TryInto<Linear, Error: Into<InvalidLayer>>,
    {
        let (gate_up, [rows, hidden]) = layer("gate_up", gate_up)?;
        if !rows.is_multiple_of(2) {
            return Err(InvalidLayer::OddGateUp { rows });
        }
        let (gate_up, shape) = (Projection::Merged(gate_up), [rows / 2, hidden]);
        Self::of(gate_up, shape, layer("down", down)?, activation.into())
    }

    /// `shape` is that of gate and of up, `[intermediate, hidden]`.
    fn of(
        gate_up: Projection,
        shape: [usize; 2],
        (down, found): (Linear, [usize; 2]),
        activation: Activation,
    ) -> Result<Self, InvalidLayer> {
        let [intermediate, hidden] = shape;
        if found != [hidden, intermediate] {
            let expected = [hidden, intermediate];
            return Err(InvalidLayer::Down { down: found.into(), expected: expected.to_vec() });
        }
        let (gating, inputs) = (Gating::new(activation), InputRoundings::default());
        Ok(Self { gate_up, down, gating, sparsity: None, inputs })
    }

    /// The block for inference on the CPU, its weights packed in the dtype they have: for any number of
    /// tokens it runs at what the machine's memory or arithmetic allows. Pack after training: a backward
    /// pass through a packed block is an error, unless it is [frozen](Self::frozen).
    ///
    /// Inputs may be f32, bf16 or f16, whatever the weights are. Sums are f32; a token has the same bits
    /// alone and in a batch, and for any number of threads. (An f64 input takes another way, in f64, by
    /// weights that are unpacked on every call.)
    ///
    /// Work is shared by as many threads as rayon's pool has: the caller's, and helpers that sleep
    /// between calls. With as many callers as that, each computes alone.
    ///
    /// # Errors
    /// Weights that are not in the CPU's memory, or of another dtype than f32, bf16 and f16.
    pub fn packed(&self) -> Result<Self> {
        Ok(Self { gate_up: self.gate_up.packed()?, down: self.down.packed()?, ..self.clone() })
    }

    /// The block for inference on the CPU, its weights quantised to blocks of a type as `llama-quantize` does it without an
    /// importance matrix, and packed: in Q4_0 they take a seventh of the memory of f32. Results are those of the same weights in
    /// f32, up to the order in which sums are rounded; they have the same bits for any number of threads and any batch.
    ///
    /// # Errors
    /// A type other than Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4K, Q5K and Q6K; rows of no whole blocks, which have 32 numbers, and
    /// 256 of the K types; weights that are NaN or infinite, packed already, or not in the CPU's memory.
    pub fn quantised(&self, kind: GgmlDType) -> Result<Self> {
        deferring(|| {
            let quantise = |weight: &Tensor| quantised(weight, kind);
            let gate_up = self.gate_up.map_tensors(quantise)?;
            let down = self.down.map_tensor(quantise)?;
            Self { gate_up, down, ..self.clone() }.packed()
        })
    }

    /// The block with its packed weights as constants to a backward pass, which then goes through them
    /// to the input, as adapters beside frozen weights need it. Tensors stay as they are. Nothing is
    /// copied.
    pub fn frozen(&self) -> Self {
        Self { gate_up: self.gate_up.frozen(), down: self.down.frozen(), ..self.clone() }
    }

    /// The block with its weights and biases in another dtype, as candle converts numbers; inputs and
    /// outputs may have any dtype, before and after. Packed weights are unpacked, converted and packed
    /// again, and frozen ones stay frozen.
    ///
    /// ```
    /// # use candle_core::{DType, Device, Module, Tensor};
    /// # use candle_nn::{VarBuilder, VarMap};
    /// # use gemma_mlp::{Gelu, gemma_mlp};
    /// # let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
    /// let trained = gemma_mlp(64, 256, Gelu::Tanh, vb)?;
    /// let small = trained.to_dtype(DType::BF16)?.packed()?; // half the memory
    /// # let x = Tensor::ones((1, 64), DType::F32, &Device::Cpu)?;
    /// # assert_eq!(small.forward(&x)?.dtype(), DType::F32);
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// Another dtype than f64, f32, bf16 and f16; of a packed block, f64 as well.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        let (gate_up, down) = (self.gate_up.to_dtype(dtype)?, self.down.to_dtype(dtype)?);
        Ok(Self { gate_up, down, ..self.clone() })
    }

    /// The activation in use.
    pub fn activation(&self) -> Activation {
        self.gating.activation
    }

    /// How the gate is computed.
    pub fn gating(&self) -> Gating {
        self.gating
    }

    /// The block with its gate computed in another way. It shares the weights: nothing is copied.
    pub fn with_gating(&self, gating: Gating) -> Self {
        Self { gating, ..self.clone() }
    }

    /// The block with another activation. It shares the weights: nothing is copied.
    pub fn with_activation(&self, activation: impl Into<Activation>) -> Self {
        self.with_gating(Gating { activation: activation.into(), ..self.gating })
    }

    /// The block with another rounding between gate and down. It shares the weights: nothing is copied.
    pub fn with_rounding(&self, rounding: Rounding) -> Self {
        self.with_gating(Gating { rounding, ..self.gating })
    }

    /// The block with inputs of its matrix products that are rounded before them.
    pub fn with_input_rounding(&self, inputs: impl Into<InputRoundings>) -> Self {
        Self { inputs: inputs.into(), ..self.clone() }
    }

    /// How sparse the gate is made before its activation, if it is.
    pub fn sparsity(&self) -> Option<Sparsity> {
        self.sparsity
    }

    /// The block with the gate made sparse before its activation, as in the first layers of Gemma 3n,
    /// or with none of that. It shares the weights: nothing is copied.
    ///
    /// Packed, such a block runs in four operations instead of one: its gate is complete before the
    /// first number of it is activated.
    pub fn with_sparsity(&self, sparsity: impl Into<Option<Sparsity>>) -> Self {
        Self { sparsity: sparsity.into(), ..self.clone() }
    }

    /// The block with copies of its weight matrices as variables, and the variables: gate, up and down
    /// (`[intermediate, hidden]` twice, `[hidden, intermediate]`), or gate and up in one
    /// (`[2 * intermediate, hidden]`), and down. After a backward pass each has a gradient. Those of a
    /// packed block are f32.
    ///
    /// # Errors
    /// candle's, if the device is out of memory.
    pub fn with_variables(&self) -> Result<(Self, Vec<Var>)> {
        let (gate_up, mut variables) = self.gate_up.with_variables()?;
        let (down, of_down) = variable(&self.down)?;
        variables.push(of_down);
        Ok((Self { gate_up, down, ..self.clone() }, variables))
    }

    /// The block's first step: what gate and up make of `xs`, `[..., hidden]` to `[..., intermediate]`
    /// each. An input whose dtype is not the weights' is multiplied as [`Weight::matmul`] says, and never
    /// rounded.
    ///
    /// # Errors
    /// An input whose last dimension is not the hidden size, or that is not f64, f32, bf16 or f16; of a
    /// packed block, one that is not on the CPU.
    pub fn project(&self, xs: &Tensor) -> Result<GateUp> {
        self.gate_up.forward(&self.inputs.entering.round(xs)?)
    }

    /// `activation(gate)` alone, of the gate made sparse if the block has a [sparsity](Self::sparsity),
    /// rounded as the block rounds it: the shape and dtype of `gate`.
    ///
    /// # Errors
    /// An integer dtype.
    pub fn activate(&self, gate: &Tensor) -> Result<Tensor> {
        self.gating.activate(&self.sparse(gate)?)
    }

    /// The block's second step, the gated activation `activation(gate) ⊙ up`, with the gate made sparse
    /// first if the block has a [sparsity](Self::sparsity): `[..., intermediate]`.
    ///
    /// # Errors
    /// Shapes or dtypes that differ.
    pub fn gated(&self, projected: &GateUp) -> Result<Tensor> {
        self.gating.gated(&self.sparse(&projected.gate)?, &projected.up)
    }

    /// The block's last step, the projection down: `[..., intermediate]` to `[..., hidden]`.
    ///
    /// # Errors
    /// A product whose last dimension is not the intermediate size.
    pub fn down(&self, product: &Tensor) -> Result<Tensor> {
        self.down.forward(&self.inputs.leaving.round(product)?)
    }

    /// The block's output from projections at hand, `down(activation(gate) ⊙ up)`: `[..., hidden]`. They
    /// are the same under every activation.
    ///
    /// # Errors
    /// Shapes that do not fit the block, or dtypes that differ.
    pub fn forward_projected(&self, projected: &GateUp) -> Result<Tensor> {
        self.down(&self.gated(projected)?)
    }

    /// The block's output under both forms of GELU, whatever its own activation: for little more than
    /// the price of one, since gate and up, two thirds of the arithmetic, are computed once. Each has the
    /// bits that [`Module::forward`] returns under its form.
    ///
    /// # Errors
    /// Those of [`Self::project`].
    pub fn forward_pair(&self, xs: &Tensor) -> Result<Pair> {
        if let Some(one_pass) = self.one_pass(xs, &[Activation::EXACT, Activation::TANH]) {
            let both = one_pass.forward(xs)?; // [2, ..., hidden]
            return Ok(Pair { exact: both.get(0)?, tanh: both.get(1)? });
        }
        let projected = self.project(xs)?;
        let gate = self.sparse(&projected.gate)?;
        let products = self.gating.both(&gate, &projected.up)?; // [2, ..., intermediate]
        Pair::of(&products, &self.down, |product| self.down(product))
    }

    /// The gate as it is activated.
    fn sparse(&self, gate: &Tensor) -> Result<Tensor> {
        match &self.sparsity {
            Some(sparsity) => sparsity.apply(gate),
            None => Ok(gate.clone()),
        }
    }

    /// The block in one operation, for some activations: if it is packed, rounds once, is not
    /// made sparse, and no gradient is asked for.
    fn one_pass(&self, xs: &Tensor, activations: &[Activation]) -> Option<OnePass> {
        match (&self.gate_up, self.down.weight()) {
            (Projection::Packed(gate_up, bias), Weight::Packed(down))
                if self.gating.rounding == Rounding::Once
                    && self.sparsity.is_none()
                    && self.inputs.are_exact()
                    && !xs.track_op()
                    && xs.dtype() != DType::F64 =>
            {
                Some(OnePass {
                    gate_up: (gate_up.clone(), bias.clone()),
                    down: (down.clone(), self.down.bias().cloned()),
                    activations: activations.into(),
                })
            }
            _ => None,
        }
    }

    /// A forward pass that keeps every intermediate. `output` has the bits that
    /// [`Module::forward`] returns.
    ///
    /// # Errors
    /// Those of [`Self::project`].
    pub fn trace(&self, xs: &Tensor) -> Result<Trace> {
        self.trace_projected(&self.project(xs)?)
    }

    /// Every intermediate from projections at hand, which are the same under every activation.
    ///
    /// # Errors
    /// Shapes that do not fit the block, or dtypes that differ.
    pub fn trace_projected(&self, projected: &GateUp) -> Result<Trace> {
        let GateUp { gate, up } = projected.clone();
        let (activated, product) = self.activated_and_product(projected)?;
        let output = self.down(&product)?; // [..., hidden]
        Ok(Trace { gate, up, activated, product, output })
    }

    /// `activation(gate)` in the dtype of `gate`, and its product with `up`, rounded as the block
    /// rounds: both `[..., intermediate]`.
    ///
    /// # Errors
    /// Shapes or dtypes that differ.
    pub fn activated_and_product(&self, projected: &GateUp) -> Result<(Tensor, Tensor)> {
        self.gating.activated_and_product(&self.sparse(&projected.gate)?, &projected.up)
    }
}

impl Module for GemmaMlp {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        match self.one_pass(xs, &[self.activation()]) {
            Some(one_pass) => one_pass.forward(xs)?.get(0),
            None => self.forward_projected(&self.project(xs)?),
        }
    }
}

#[cfg(test)]
mod tests;
