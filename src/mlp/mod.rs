//! Gemma's MLP: `down(activation(gate(x)) ⊙ up(x))`.
//!
//! The block of `GemmaMLP`, `Gemma2MLP`, `Gemma3MLP` (transformers,
//! `models/gemma*/modeling_gemma*.py`), `RecurrentGemmaMlp` (the same with biases) and
//! `FeedForward` (DeepMind's `gemma/gm/nn/_modules.py`).

mod experts;
mod gating;
mod one_pass;

pub use experts::{
    ExpertSizes, ExpertTrace, ExpertsTrace, GatedExperts, MixtureOfExperts, Router, Routing,
    mixture_of_experts,
};
pub use gating::Gating;

use crate::error::InvalidLayer;
use crate::kernels::activation::Activation;
use crate::kernels::geglu::geglu_pair;
use crate::kernels::gelu::Gelu;
use crate::kernels::linear::{
    InputRounding, Linear, Packed, Weight, as_rows, common_dtype, packed_matmul,
};
use crate::rounding::Rounding;
use candle_core::{D, DType, Module, Tensor, Var};
use candle_nn::{VarBuilder, linear_b};
use one_pass::OnePass;

type Result<T, E = candle_core::Error> = std::result::Result<T, E>;

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
    activation: Activation,
    rounding: Rounding,
    inputs: InputRounding,
}

/// How the weights of gate and up are held.
#[derive(Debug, Clone)]
enum Projection {
    Separate {
        gate: Linear,
        up: Linear,
    },
    /// Both in one weight, `[2 * intermediate, hidden]`, gate's rows first.
    Merged(Linear),
    /// The weights packed into one stream, and the biases, `[2, intermediate]`.
    Packed(Packed, Option<Tensor>),
}

/// What the projections gate and up make of an input, before any activation.
#[derive(Debug, Clone)]
pub struct GateUp {
    /// `gate(x)`: `[..., intermediate]`.
    pub gate: Tensor,
    /// `up(x)`: `[..., intermediate]`.
    pub up: Tensor,
}

/// The block's output under both forms of GELU, from one gate and up projection.
#[derive(Debug, Clone)]
pub struct Pair {
    /// With [`Gelu::Exact`]: `[..., hidden]`.
    pub exact: Tensor,
    /// With [`Gelu::Tanh`]: `[..., hidden]`.
    pub tanh: Tensor,
}

/// Every intermediate of one forward pass, in the block's dtype.
#[derive(Debug, Clone)]
pub struct Trace {
    /// `gate(x)`: `[..., intermediate]`.
    pub gate: Tensor,
    /// `up(x)`: `[..., intermediate]`.
    pub up: Tensor,
    /// `activation(gate)`: `[..., intermediate]`. In a half-precision type it is rounded for you to
    /// see, while `product` is computed from its unrounded value.
    pub activated: Tensor,
    /// `activation(gate) ⊙ up`: `[..., intermediate]`.
    pub product: Tensor,
    /// `down(product)`: `[..., hidden]`, the block's output.
    pub output: Tensor,
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
    // Gate and up together, in the widest dtype: an allocation of more ends the program.
    let both = hidden_size.checked_mul(intermediate_size).and_then(|n| n.checked_mul(2 * 8));
    if both.is_none_or(|bytes| bytes > isize::MAX as usize) {
        let (hidden, intermediate) = (hidden_size, intermediate_size);
        return Err(InvalidLayer::TooLarge { hidden, intermediate }.into());
    }
    if hidden_size == 0 || intermediate_size == 0 {
        let weight = vec![intermediate_size, hidden_size];
        return Err(InvalidLayer::Weight { layer: "gate", weight }.into());
    }
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
        let (rounding, inputs) = (Rounding::Once, InputRounding::Exact);
        Ok(Self { gate_up, down, activation, rounding, inputs })
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
        let (gate, up) = match &self.gate_up {
            Projection::Packed(..) => return Ok(self.clone()),
            Projection::Separate { gate, up } => (gate.clone(), up.clone()),
            Projection::Merged(both) => unmerged(both)?,
        };
        let tensor = |layer: &Linear| match layer.weight() {
            Weight::Tensor(weight) => Ok(weight.clone()),
            Weight::Packed(packed) => packed.unpacked().map(|mut weights| weights.swap_remove(0)),
        };
        let (of_gate, of_up) = (tensor(&gate)?, tensor(&up)?);
        let dtype = common_dtype([&of_gate, &of_up].into_iter())?;
        let weights = [of_gate.to_dtype(dtype)?, of_up.to_dtype(dtype)?];
        let weight = Packed::interleaved(&[&weights[0], &weights[1]])?;
        let bias = match (gate.bias(), up.bias()) {
            (None, None) => None,
            (Some(gate), None) => Some(Tensor::stack(&[gate, &gate.zeros_like()?], 0)?),
            (None, Some(up)) => Some(Tensor::stack(&[&up.zeros_like()?, up], 0)?),
            (Some(gate), Some(up)) => {
                let wide = common_dtype([gate, up].into_iter())?;
                Some(Tensor::stack(&[gate.to_dtype(wide)?, up.to_dtype(wide)?], 0)?)
            }
        };
        let gate_up = Projection::Packed(weight, bias);
        Ok(Self { gate_up, down: self.down.packed()?, ..self.clone() })
    }

    /// The block with its packed weights as constants to a backward pass, which then goes through them
    /// to the input, as adapters beside frozen weights need it. Tensors stay as they are. Nothing is
    /// copied.
    pub fn frozen(&self) -> Self {
        let gate_up = match &self.gate_up {
            Projection::Packed(weight, bias) => Projection::Packed(weight.frozen(), bias.clone()),
            tensors => tensors.clone(),
        };
        Self { gate_up, down: self.down.frozen(), ..self.clone() }
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
        let gate_up = match &self.gate_up {
            Projection::Separate { gate, up } => {
                Projection::Separate { gate: gate.to_dtype(dtype)?, up: up.to_dtype(dtype)? }
            }
            Projection::Merged(both) => Projection::Merged(both.to_dtype(dtype)?),
            Projection::Packed(weight, bias) => {
                let bias = bias.as_ref().map(|bias| bias.to_dtype(dtype)).transpose()?;
                Projection::Packed(weight.to_dtype(dtype)?, bias)
            }
        };
        Ok(Self { gate_up, down: self.down.to_dtype(dtype)?, ..self.clone() })
    }

    /// The activation in use.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// The block with copies of its weight matrices as variables, and the variables: gate, up and down
    /// (`[intermediate, hidden]` twice, `[hidden, intermediate]`), or gate and up in one
    /// (`[2 * intermediate, hidden]`), and down. After a backward pass each has a gradient. Those of a
    /// packed block are f32.
    ///
    /// # Errors
    /// candle's, if the device is out of memory.
    pub fn with_variables(&self) -> Result<(Self, Vec<Var>)> {
        let mut variables = vec![];
        let mut variable = |weight: &Tensor, bias: Option<&Tensor>| {
            let weight = Var::from_tensor(weight)?;
            variables.push(weight.clone());
            let weight = Weight::Tensor(weight.into_inner());
            Ok::<_, candle_core::Error>(Linear::new(weight, bias.cloned())?)
        };
        let tensor = |layer: &Linear| match layer.weight() {
            Weight::Tensor(weight) => Ok(weight.clone()),
            packed => packed.to_tensor(DType::F32),
        };
        let gate_up = match &self.gate_up {
            Projection::Separate { gate, up } => Projection::Separate {
                gate: variable(&tensor(gate)?, gate.bias())?,
                up: variable(&tensor(up)?, up.bias())?,
            },
            Projection::Merged(both) => Projection::Merged(variable(&tensor(both)?, both.bias())?),
            Projection::Packed(weight, bias) => {
                let both = Weight::Packed(weight.clone()).to_tensor(DType::F32)?;
                let bias = bias.as_ref().map(Tensor::flatten_all).transpose()?;
                Projection::Merged(variable(&both, bias.as_ref())?)
            }
        };
        let down = variable(&tensor(&self.down)?, self.down.bias())?;
        Ok((Self { gate_up, down, ..self.clone() }, variables))
    }

    /// The block with another activation. It shares the weights: nothing is copied.
    pub fn with_activation(&self, activation: impl Into<Activation>) -> Self {
        Self { activation: activation.into(), ..self.clone() }
    }

    /// The block's first step: what gate and up make of `xs`, `[..., hidden]` to `[..., intermediate]`
    /// each. An input whose dtype is not the weights' is multiplied as [`Weight::matmul`] says, and never
    /// rounded.
    ///
    /// # Errors
    /// An input whose last dimension is not the hidden size, or that is not f64, f32, bf16 or f16; of a
    /// packed block, one that is not on the CPU.
    pub fn project(&self, xs: &Tensor) -> Result<GateUp> {
        let xs = &self.inputs.round(xs)?;
        match &self.gate_up {
            Projection::Packed(weight, bias) if xs.dtype() == DType::F64 => {
                let both = Weight::Packed(weight.clone()).to_tensor(DType::F64)?;
                let bias = bias.as_ref().map(Tensor::flatten_all).transpose()?;
                split(Linear::new(Weight::Tensor(both), bias)?.forward(xs)?)
            }
            Projection::Separate { gate, up } => {
                Ok(GateUp { gate: gate.forward(xs)?, up: up.forward(xs)? })
            }
            Projection::Packed(weight, bias) => {
                let x = as_rows(xs)?;
                let both = packed_matmul(weight, &x, bias.as_ref())?; // [2, rows, intermediate]
                let dims = [&xs.dims()[..xs.rank() - 1], &[weight.out_features()]].concat();
                let part = |i: usize| both.get(i)?.reshape(dims.as_slice()); // [..., intermediate]
                Ok(GateUp { gate: part(0)?, up: part(1)? })
            }
            Projection::Merged(gate_up) => split(gate_up.forward(xs)?),
        }
    }

    /// The block with another rounding between gate and down. It shares the weights: nothing is copied.
    pub fn with_rounding(&self, rounding: Rounding) -> Self {
        Self { rounding, ..self.clone() }
    }

    /// `activation(gate)` alone, rounded as the block rounds it: the shape and dtype of `gate`.
    ///
    /// # Errors
    /// An integer dtype.
    pub fn activate(&self, gate: &Tensor) -> Result<Tensor> {
        self.rounding.activate(gate, self.activation)
    }

    /// The block with inputs of its matrix products that are rounded before them.
    pub fn with_input_rounding(&self, inputs: InputRounding) -> Self {
        Self { inputs, ..self.clone() }
    }

    /// The block's second step, the gated activation `activation(gate) ⊙ up`: `[..., intermediate]`.
    ///
    /// # Errors
    /// Shapes or dtypes that differ.
    pub fn gated(&self, projected: &GateUp) -> Result<Tensor> {
        let GateUp { gate, up } = projected;
        self.rounding.geglu(gate, up, self.activation)
    }

    /// The block's last step, the projection down: `[..., intermediate]` to `[..., hidden]`.
    ///
    /// # Errors
    /// A product whose last dimension is not the intermediate size.
    pub fn down(&self, product: &Tensor) -> Result<Tensor> {
        self.down.forward(&self.inputs.round(product)?)
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
        if self.rounding == Rounding::Once {
            let both = geglu_pair(&projected.gate, &projected.up)?; // [2, ..., intermediate]
            let both = self.down(&both)?; // [2, ..., hidden]
            return Ok(Pair { exact: both.get(0)?, tanh: both.get(1)? });
        }
        let under = |gelu: Gelu| self.with_activation(gelu).forward_projected(&projected);
        Ok(Pair { exact: under(Gelu::Exact)?, tanh: under(Gelu::Tanh)? })
    }

    /// The block in one operation, for some activations: if it is packed, rounds once, and no
    /// gradient is asked for.
    fn one_pass(&self, xs: &Tensor, activations: &[Activation]) -> Option<OnePass> {
        match (&self.gate_up, self.down.weight()) {
            (Projection::Packed(gate_up, bias), Weight::Packed(down))
                if self.rounding == Rounding::Once
                    && self.inputs == InputRounding::Exact
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
        let GateUp { gate, up } = projected;
        self.rounding.activated_and_product(gate, up, self.activation)
    }
}

impl Module for GemmaMlp {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        match self.one_pass(xs, &[self.activation]) {
            Some(one_pass) => one_pass.forward(xs)?.get(0),
            None => self.forward_projected(&self.project(xs)?),
        }
    }
}

/// A layer of ours out of one of candle-nn's, or of ours, and its shape, `[out, in]`.
fn layer<L: TryInto<Linear, Error: Into<InvalidLayer>>>(
    name: &'static str,
    layer: L,
) -> Result<(Linear, [usize; 2]), InvalidLayer> {
    let layer: Linear = layer.try_into().map_err(|error| error.into().of(name))?;
    let shape = layer.check().map_err(|error| error.of(name))?;
    Ok((layer, shape))
}

/// What gate and up make of an input, out of both in one: `[..., 2 * intermediate]`, gate first.
fn split(both: Tensor) -> Result<GateUp> {
    let intermediate = both.dim(D::Minus1)? / 2;
    let part = |at: usize| both.narrow(D::Minus1, at, intermediate);
    Ok(GateUp { gate: part(0)?, up: part(intermediate)? })
}

/// A layer whose weight is `[2n, in]` as two layers.
fn unmerged(both: &Linear) -> Result<(Linear, Linear)> {
    let n = both.weight().dims()?.0 / 2;
    let part = |at: usize| {
        let weight = both.weight().narrow(at, n)?;
        let bias = both.bias().map(|bias| bias.narrow(0, at, n)).transpose()?;
        Ok::<_, candle_core::Error>(Linear::new(weight, bias)?)
    };
    Ok((part(0)?, part(n)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use candle_nn::{Optimizer, VarMap};
    use std::collections::HashMap;

    fn varmap_mlp(bias: bool, activation: impl Into<Activation>) -> (VarMap, GemmaMlp) {
        let varmap = VarMap::new();
        let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu);
        let mlp = gemma_mlp_b(8, 12, bias, activation, vb).unwrap();
        (varmap, mlp)
    }

    fn bits(t: &Tensor) -> Vec<u32> {
        let v: Vec<f32> = t.flatten_all().unwrap().to_vec1().unwrap();
        v.into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn pair_trace_and_switch_give_the_bits_of_forward() -> Result<()> {
        for bias in [false, true] {
            let (_, mlp) = varmap_mlp(bias, Gelu::Tanh);
            let x = Tensor::randn(0f32, 1., (2, 3, 8), &Device::Cpu)?;
            let pair = mlp.forward_pair(&x)?;
            let exact = mlp.with_activation(Gelu::Exact);
            assert_eq!(bits(&pair.tanh), bits(&mlp.forward(&x)?));
            assert_eq!(bits(&pair.exact), bits(&exact.forward(&x)?));
            assert_ne!(bits(&pair.exact), bits(&pair.tanh));
            let trace = exact.trace(&x)?;
            assert_eq!(bits(&trace.output), bits(&pair.exact));
            assert_eq!(bits(&trace.product), bits(&(&trace.activated * &trace.up)?));
            assert_eq!(exact.activation(), Activation::EXACT);
        }
        Ok(())
    }

    #[test]
    fn merged_weights_are_gate_then_up() -> Result<()> {
        for bias in [false, true] {
            let (varmap, mlp) = varmap_mlp(bias, Gelu::Tanh);
            let mut tensors: HashMap<String, Tensor> = HashMap::new();
            let data = varmap.data().lock().unwrap();
            for (name, var) in data.iter() {
                tensors.insert(name.clone(), var.as_tensor().clone());
            }
            for part in ["weight", "bias"].iter().take(1 + bias as usize) {
                let [gate, up] =
                    ["gate", "up"].map(|n| tensors.remove(&format!("{n}_proj.{part}")).unwrap());
                tensors.insert(format!("gate_up_proj.{part}"), Tensor::cat(&[gate, up], 0)?);
            }
            let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
            let merged = gemma_mlp_b(8, 12, bias, Gelu::Tanh, vb)?;
            assert!(matches!(merged.gate_up, Projection::Merged(_)));
            let x = Tensor::randn(0f32, 1., (5, 8), &Device::Cpu)?;
            let difference = (merged.forward(&x)? - mlp.forward(&x)?)?.abs()?.max_all()?;
            assert!(difference.to_scalar::<f32>()? < 1e-6);
        }
        Ok(())
    }

    #[test]
    fn any_batch_shape() -> Result<()> {
        let (_, mlp) = varmap_mlp(true, Gelu::Exact);
        for mlp in [mlp.packed()?, mlp] {
            for dims in [
                &[8usize][..],
                &[1, 8],
                &[2, 3, 8],
                &[2, 1, 3, 8],
                &[1, 2, 1, 3, 8],
                &[0, 8],
                &[2, 0, 8],
            ] {
                let x = Tensor::randn(0f32, 1., dims, &Device::Cpu)?;
                assert_eq!(mlp.forward(&x)?.dims(), dims);
                assert_eq!(mlp.forward_pair(&x)?.tanh.dims(), dims);
                assert_eq!(mlp.trace(&x)?.output.dims(), dims);
            }
            let x = Tensor::randn(0f32, 1., (3, 8, 2), &Device::Cpu)?.transpose(1, 2)?; // strided
            assert_eq!(bits(&mlp.forward(&x)?), bits(&mlp.forward(&x.contiguous()?)?));
            assert!(mlp.forward(&Tensor::zeros((2, 7), DType::F32, &Device::Cpu)?).is_err());
        }
        Ok(())
    }

    /// In one operation or in steps, with odd sizes, biases, any dtype: the same bits, and near the
    /// block of tensors.
    #[test]
    fn packed_block() -> Result<()> {
        let shapes = [(8, 12, 3), (33, 71, 1), (64, 513, 0), (70, 300, 14)];
        // The last one takes Miri hours.
        for (hidden, intermediate, rows) in shapes.into_iter().take(if cfg!(miri) { 3 } else { 4 })
        {
            for (bias, of_x, of_weights) in [
                (false, DType::F32, DType::F32),
                (true, DType::F32, DType::BF16),
                (true, DType::BF16, DType::BF16),
                (false, DType::F16, DType::F32),
            ] {
                let varmap = VarMap::new();
                let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu);
                let mlp = gemma_mlp_b(hidden, intermediate, bias, Gelu::Tanh, vb)?;
                let layers = |mlp: &GemmaMlp| -> Result<GemmaMlp> {
                    let Projection::Separate { gate, up } = &mlp.gate_up else {
                        candle_core::bail!("gate and up are separate here")
                    };
                    let [gate, up, down] = [gate, up, &mlp.down].map(|layer| -> Result<Linear> {
                        let weight = layer.weight().to_tensor(of_weights)?;
                        Ok(Linear::new(Weight::Tensor(weight), layer.bias().cloned())?)
                    });
                    Ok(GemmaMlp::new(gate?, up?, down?, Gelu::Tanh)?)
                };
                let packed = layers(&mlp)?.packed()?;
                let x = Tensor::randn(0f32, 1., (rows, hidden), &Device::Cpu)?.to_dtype(of_x)?;
                let wide = |t: &Tensor| bits(&t.to_dtype(DType::F32).unwrap());
                let pair = packed.forward_pair(&x)?;
                let exact = packed.with_activation(Gelu::Exact);
                assert_eq!(wide(&pair.tanh), wide(&packed.forward(&x)?));
                assert_eq!(wide(&pair.exact), wide(&exact.forward(&x)?));
                assert_eq!(
                    wide(&pair.tanh),
                    wide(&packed.forward_projected(&packed.project(&x)?)?)
                );
                assert_eq!(wide(&pair.exact), wide(&exact.trace(&x)?.output));
                if rows > 0 {
                    let expected = mlp.forward(&x.to_dtype(DType::F32)?)?;
                    let difference = (pair.tanh.to_dtype(DType::F32)? - &expected)?;
                    let norm = |t: &Tensor| t.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>();
                    let distance = norm(&difference)? / norm(&expected)?;
                    // Weights, input and output of bf16 are each off by up to 2^-9 of themselves.
                    let bound =
                        if of_x == DType::F32 && of_weights == DType::F32 { 1e-5 } else { 0.02 };
                    assert!(distance < bound, "{distance}");
                }
                let (variables, vars) = packed.with_variables()?;
                assert_eq!(vars.len(), 2);
                // In f32 they are not multiplied by the instruction for bf16.
                if of_x != DType::BF16 {
                    assert_eq!(wide(&variables.packed()?.forward(&x)?), wide(&pair.tanh));
                }
            }
        }
        Ok(())
    }

    /// In another dtype: the weights that candle converts, whether they are packed before or after.
    #[test]
    fn another_dtype() -> Result<()> {
        for bias in [false, true] {
            let (varmap, mlp) = varmap_mlp(bias, Gelu::Tanh);
            let x = Tensor::randn(0f32, 1., (3, 8), &Device::Cpu)?;
            let same = mlp.to_dtype(DType::F32)?;
            assert_eq!(bits(&same.forward(&x)?), bits(&mlp.forward(&x)?));
            for dtype in [DType::BF16, DType::F16] {
                let converted = mlp.to_dtype(dtype)?;
                let y = converted.forward(&x)?;
                let difference = (&y - mlp.forward(&x)?)?.abs()?.max_all()?.to_scalar::<f32>()?;
                assert!(y.dtype() == DType::F32 && difference > 0.0 && difference < 0.1);
                let packed = converted.packed()?.forward(&x)?;
                let repacked = mlp.packed()?.frozen().to_dtype(dtype)?;
                assert_eq!(bits(&packed), bits(&repacked.forward(&x)?));
                let input = Var::from_tensor(&x)?;
                let gradients = repacked.forward(&input)?.sum_all()?.backward()?;
                assert!(gradients.get(&input).is_some(), "frozen weights stay so");
            }
            // Converted tensors still train.
            let gradients = mlp.to_dtype(DType::F64)?.forward(&x)?.sum_all()?.backward()?;
            assert!(varmap.all_vars().iter().all(|var| gradients.get(var).is_some()));
            assert!(mlp.packed()?.to_dtype(DType::F64).is_err());
            assert!(mlp.to_dtype(DType::U32).is_err());
        }
        Ok(())
    }

    /// The block learns a fixed random block's outputs, in both modes.
    #[test]
    fn training_lowers_the_loss() -> Result<()> {
        for &gelu in Gelu::ALL {
            let (_, teacher) = varmap_mlp(false, gelu);
            let (varmap, student) = varmap_mlp(false, gelu);
            let x = Tensor::randn(0f32, 1., (64, 8), &Device::Cpu)?;
            let target = teacher.forward(&x)?;
            let loss =
                || -> Result<Tensor> { candle_nn::loss::mse(&student.forward(&x)?, &target) };
            let before = loss()?.to_scalar::<f32>()?;
            let mut adam = candle_nn::AdamW::new_lr(varmap.all_vars(), 1e-2)?;
            for _ in 0..300 {
                adam.backward_step(&loss()?)?;
            }
            let after = loss()?.to_scalar::<f32>()?;
            assert!(after < 0.1 * before, "{gelu}: {before} to {after}");
        }
        Ok(())
    }
}
