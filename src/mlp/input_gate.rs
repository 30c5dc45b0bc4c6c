//! The gate of an input that comes from elsewhere.

use super::gating::Gating;
use super::layers::{Result, check_sizes, layer, variable};
use super::pair::Pair;
use super::trace::Trace;
use crate::error::InvalidLayer;
use crate::kernels::activation::Activation;
use crate::kernels::linear::{InputRoundings, Linear};
use crate::rounding::Rounding;
use candle_core::{DType, Module, Tensor, Var};
use candle_nn::{VarBuilder, linear_b};

/// `out(activation(gate(x)) ⊙ input)`: a gated block whose right factor is given instead of projected
/// from `x`.
///
/// In Gemma 3n and 4 it lets a layer's own input in, the per-layer embedding of the token
/// (`per_layer_input_gate` and `per_layer_projection`; transformers, `Gemma3nTextDecoderLayer`,
/// `Gemma4TextDecoderLayer`). In RecurrentGemma it gates what the recurrence returns (`linear_y` and
/// `linear_out`; `RecurrentGemmaRecurrentBlock`).
///
/// Takes `x`, `[..., hidden]` of any rank and any batch shape, and `input`, `[..., width]` of the same
/// batch shape and dtype; returns `[..., out]`, which is `[..., hidden]` in all Gemmas, in that dtype.
/// Cloning it, or switching its activation, copies no weights.
///
/// Its weights are tensors, which train, and which candle multiplies by, in the weights' dtype;
/// [`Self::packed`] packs them for inference on a CPU.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_nn::{VarBuilder, VarMap};
/// use gemma_mlp::{Gelu, input_gate};
///
/// let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
/// let names = ["per_layer_input_gate", "per_layer_projection"];
/// let tanh = input_gate(64, 16, Gelu::Tanh, names, vb)?; // trainable
/// let exact = tanh.with_activation(Gelu::Exact); // the same weights
/// let x = Tensor::randn(0f32, 1., (2, 5, 64), &Device::Cpu)?;
/// let input = Tensor::randn(0f32, 1., (2, 5, 16), &Device::Cpu)?;
/// let drift = (exact.forward(&x, &input)? - tanh.forward(&x, &input)?)?;
/// assert_eq!(drift.dims(), [2, 5, 64]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct InputGate {
    gate: Linear,
    out: Linear,
    gating: Gating,
    inputs: InputRoundings,
}

/// Builds the gate without biases, as Gemma 3n and 4 have it.
///
/// `names` are those of gate and out: reads `{gate}.weight` (`[width, hidden]`) and `{out}.weight`
/// (`[hidden, width]`).
///
/// # Errors
/// A tensor that is missing or has another shape, sizes of 0 or beyond any memory.
pub fn input_gate(
    hidden_size: usize,
    width: usize,
    activation: impl Into<Activation>,
    names: [&str; 2],
    vb: VarBuilder,
) -> Result<InputGate> {
    input_gate_b(hidden_size, width, false, activation, names, vb)
}

/// Builds the gate with biases on both projections if `bias` is set, as RecurrentGemma has them; named
/// as candle-nn names `linear_b`.
///
/// Reads what [`input_gate`] reads, and `{gate}.bias` (`[width]`) and `{out}.bias` (`[hidden]`).
///
/// # Errors
/// A tensor that is missing or has another shape, sizes of 0 or beyond any memory.
pub fn input_gate_b(
    hidden_size: usize,
    width: usize,
    bias: bool,
    activation: impl Into<Activation>,
    names: [&str; 2],
    vb: VarBuilder,
) -> Result<InputGate> {
    check_sizes(hidden_size, width, 1)?;
    let [gate, out] = names;
    let gate = linear_b(hidden_size, width, bias, vb.pp(gate))?;
    let out = linear_b(width, hidden_size, bias, vb.pp(out))?;
    Ok(InputGate::new(gate, out, activation)?)
}

impl InputGate {
    /// A gate of two layers, candle-nn's or ours: `gate` from hidden to the input's width, `out` from
    /// there to any size.
    ///
    /// # Errors
    /// Shapes that do not fit each other, by layer; dtypes other than f64, f32, bf16 and f16. The error
    /// becomes candle's by `?`.
    pub fn new<G, O>(
        gate: G,
        out: O,
        activation: impl Into<Activation>,
    ) -> Result<Self, InvalidLayer>
    where
        G: TryInto<Linear, Error: Into<InvalidLayer>>,
        O: TryInto<Linear, Error: Into<InvalidLayer>>,
    {
        let ((gate, of_gate), (out, of_out)) = (layer("gate", gate)?, layer("out", out)?);
        if of_out[1] != of_gate[0] {
            return Err(InvalidLayer::Out { out: of_out.into(), gate: of_gate.into() });
        }
        Ok(Self { gate, out, gating: Gating::new(activation), inputs: InputRoundings::default() })
    }

    /// The gate for inference on the CPU, its weights packed in the dtype they have. Pack after training:
    /// a backward pass through a packed gate is an error, unless it is [frozen](Self::frozen).
    ///
    /// Inputs may be f32, bf16 or f16, whatever the weights are. Sums are f32; a token has the same bits
    /// alone and in a batch, and for any number of threads. (An f64 input takes another way, in f64, by
    /// weights that are unpacked on every call.)
    ///
    /// # Errors
    /// Weights that are not in the CPU's memory, or of another dtype than f32, bf16 and f16.
    pub fn packed(&self) -> Result<Self> {
        Ok(Self { gate: self.gate.packed()?, out: self.out.packed()?, ..self.clone() })
    }

    /// The gate with its packed weights as constants to a backward pass, which then goes through them to
    /// both inputs. Tensors stay as they are. Nothing is copied.
    pub fn frozen(&self) -> Self {
        Self { gate: self.gate.frozen(), out: self.out.frozen(), ..self.clone() }
    }

    /// The gate with its weights and biases in another dtype, as candle converts numbers; inputs and
    /// outputs may have any dtype, before and after. Packed weights are unpacked, converted and packed
    /// again, and frozen ones stay frozen.
    ///
    /// # Errors
    /// Another dtype than f64, f32, bf16 and f16; of a packed gate, f64 as well.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        let (gate, out) = (self.gate.to_dtype(dtype)?, self.out.to_dtype(dtype)?);
        Ok(Self { gate, out, ..self.clone() })
    }

    /// The gate with copies of its weight matrices as variables, and the variables: gate and out
    /// (`[width, hidden]`, `[out, width]`). After a backward pass each has a gradient. Those of a packed
    /// gate are f32.
    ///
    /// # Errors
    /// candle's, if the device is out of memory.
    pub fn with_variables(&self) -> Result<(Self, Vec<Var>)> {
        let ((gate, of_gate), (out, of_out)) = (variable(&self.gate)?, variable(&self.out)?);
        Ok((Self { gate, out, ..self.clone() }, vec![of_gate, of_out]))
    }

    /// The activation in use.
    pub fn activation(&self) -> Activation {
        self.gating.activation
    }

    /// How the gate is computed.
    pub fn gating(&self) -> Gating {
        self.gating
    }

    /// The same with its gate computed in another way. It shares the weights: nothing is copied.
    pub fn with_gating(&self, gating: Gating) -> Self {
        Self { gating, ..self.clone() }
    }

    /// The same with another activation. It shares the weights: nothing is copied.
    pub fn with_activation(&self, activation: impl Into<Activation>) -> Self {
        self.with_gating(Gating { activation: activation.into(), ..self.gating })
    }

    /// The same with another rounding between gate and out. It shares the weights: nothing is copied.
    pub fn with_rounding(&self, rounding: Rounding) -> Self {
        self.with_gating(Gating { rounding, ..self.gating })
    }

    /// The same with inputs of its matrix products that are rounded before them.
    pub fn with_input_rounding(&self, inputs: impl Into<InputRoundings>) -> Self {
        Self { inputs: inputs.into(), ..self.clone() }
    }

    /// The first step: what gate makes of `x`, `[..., hidden]` to `[..., width]`. An `x` whose dtype is
    /// not the weights' is multiplied as [`Weight::matmul`](crate::linear::Weight::matmul) says, and
    /// never rounded.
    ///
    /// # Errors
    /// An input whose last dimension is not the hidden size, or that is not f64, f32, bf16 or f16; of a
    /// packed gate, one that is not on the CPU.
    pub fn project(&self, x: &Tensor) -> Result<Tensor> {
        self.gate.forward(&self.inputs.entering.round(x)?)
    }

    /// `activation(gate)` alone, rounded as the gate rounds it: the shape and dtype of `gate`.
    ///
    /// # Errors
    /// An integer dtype.
    pub fn activate(&self, gate: &Tensor) -> Result<Tensor> {
        self.gating.activate(gate)
    }

    /// The second step, `activation(gate) ⊙ input`: `[..., width]`.
    ///
    /// # Errors
    /// Shapes or dtypes that differ.
    pub fn gated(&self, gate: &Tensor, input: &Tensor) -> Result<Tensor> {
        self.gating.gated(gate, input)
    }

    /// The last step: `[..., width]` to `[..., out]`.
    ///
    /// # Errors
    /// A product whose last dimension is not the width.
    pub fn out(&self, product: &Tensor) -> Result<Tensor> {
        self.out.forward(&self.inputs.leaving.round(product)?)
    }

    /// `out(activation(gate(x)) ⊙ input)`, of `x`, `[..., hidden]`, and `input`, `[..., width]`:
    /// `[..., out]`.
    ///
    /// # Errors
    /// Those of [`Self::project`]; an input of another shape than the gate's, or of another dtype than
    /// `x`.
    pub fn forward(&self, x: &Tensor, input: &Tensor) -> Result<Tensor> {
        self.out(&self.gated(&self.project(x)?, input)?)
    }

    /// The output under both forms of GELU, whatever its own activation, from one projection. Each has
    /// the bits that [`Self::forward`] returns under its form.
    ///
    /// # Errors
    /// Those of [`Self::forward`].
    pub fn forward_pair(&self, x: &Tensor, input: &Tensor) -> Result<Pair> {
        let products = self.gating.both(&self.project(x)?, input)?; // [2, ..., width]
        Pair::of(&products, &self.out, |product| self.out(product))
    }

    /// A forward pass that keeps every intermediate; `up` is the input. `output` has the bits that
    /// [`Self::forward`] returns.
    ///
    /// # Errors
    /// Those of [`Self::forward`].
    pub fn trace(&self, x: &Tensor, input: &Tensor) -> Result<Trace> {
        let (gate, up) = (self.project(x)?, input.clone());
        let (activated, product) = self.gating.activated_and_product(&gate, &up)?;
        let output = self.out(&product)?; // [..., out]
        Ok(Trace { gate, up, activated, product, output })
    }
}

#[cfg(test)]
mod tests;
