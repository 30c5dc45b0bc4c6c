//! RecurrentGemma's recurrent block, which stands in place of attention in most of its layers.

mod conv;
mod one_pass;
mod rg_lru;
mod state;

pub use state::RecurrentState;

use super::identity::Identity;
use super::per_layer::by_part;
use crate::checkpoint::RecurrentConfig;
use crate::kernels::activation::Activation;
use crate::kernels::linear::{InputRounding, InputRoundings, Linear};
use crate::mlp::{Gating, InputGate, Pair, input_gate_b};
use candle_core::{Module, Result, Tensor};
use candle_nn::{VarBuilder, linear};
use conv::CausalConv;
use rg_lru::RgLru;

/// The recurrent block of Griffin (De et al. 2024, <https://arxiv.org/abs/2402.19427>; transformers
/// `RecurrentGemmaRecurrentBlock`): `out(gelu(linear_y(x)) ⊙ lru(conv(linear_x(x))))`.
///
/// What is gated comes out of a short causal convolution and a linear recurrence over the positions, the RG-LRU
/// (`RecurrentGemmaRglru`): `s[t] = a[t] ⊙ s[t-1] + sqrt(1 - a[t]²) ⊙ i[t] ⊙ u[t]`, where `a` and `i` are gates of the
/// input `u`, and the first position's input is not scaled. The gate is an [`InputGate`], so that its GELU is switched
/// as everywhere.
///
/// `[batch, seq, hidden]` to the same shape, in the input's dtype. Between the products everything is f32 (f64 in an
/// f64 model), and so is the state. On the CPU a packed block gives a position the same bits alone, after a
/// [`RecurrentState`] and in a text of any length; with gradients, in f64 and on other devices it is made of candle's
/// operations.
#[derive(Debug, Clone)]
pub struct RecurrentBlock {
    gate: InputGate,
    linear_x: Linear,
    conv: CausalConv,
    lru: RgLru,
    inputs: InputRounding,
    identity: Identity,
}

impl RecurrentBlock {
    /// Reads `linear_{x,y,out}.{weight,bias}`, `conv_1d.{weight,bias}` (`[width, 1, conv_width]`, the last tap that of
    /// the current position) and `rg_lru.{recurrent_param,{input,recurrent}_gate_{weight,bias}}` (`[width]`, `[heads,
    /// width / heads, width / heads]`, `[heads, width / heads]`).
    ///
    /// # Errors
    /// A tensor that is missing or has another shape; heads that cannot share the width equally, sizes of 0.
    pub fn new(
        config: &RecurrentConfig,
        hidden_size: usize,
        activation: impl Into<Activation>,
        vb: VarBuilder,
    ) -> Result<Self> {
        let RecurrentConfig { width, heads, conv_width } = *config;
        if heads == 0 || !width.is_multiple_of(heads) || conv_width == 0 {
            candle_core::bail!(
                "a recurrence of width {width} in {heads} heads, behind a convolution of width {conv_width}: heads \
                 share the width equally, and a position sees at least itself"
            )
        }
        let names = ["linear_y", "linear_out"];
        Ok(Self {
            gate: input_gate_b(hidden_size, width, true, activation, names, vb.clone())?,
            linear_x: Linear::try_from(linear(hidden_size, width, vb.pp("linear_x"))?)?,
            conv: CausalConv::new(width, conv_width, vb.pp("conv_1d"))?,
            lru: RgLru::new(width, heads, vb.pp("rg_lru"))?,
            inputs: InputRounding::Exact,
            identity: Identity::new(),
        })
    }

    /// The block for inference on the CPU, its matrices packed in the dtype they have. Pack after training: a backward
    /// pass through a packed block is an error, unless it is [frozen](Self::frozen).
    ///
    /// # Errors
    /// Weights that are not in the CPU's memory, or of another dtype than f32, bf16 and f16.
    pub fn packed(&self) -> Result<Self> {
        Ok(Self {
            gate: self.gate.packed()?,
            linear_x: self.linear_x.packed()?,
            conv: self.conv.packed()?,
            lru: self.lru.packed()?,
            ..self.clone()
        })
    }

    /// The block with its packed matrices as constants to a backward pass. Nothing is copied.
    pub fn frozen(&self) -> Self {
        Self {
            gate: self.gate.frozen(),
            linear_x: self.linear_x.frozen(),
            lru: self.lru.frozen(),
            ..self.clone()
        }
    }

    /// The gate, `linear_y` and `linear_out`.
    pub fn gate(&self) -> &InputGate {
        &self.gate
    }

    /// The block with another gate: one with variables, say, or another activation.
    pub fn with_gate(&self, gate: InputGate) -> Self {
        Self { gate, ..self.clone() }
    }

    /// The same with another activation in its gate. It shares the weights: nothing is copied.
    pub fn with_activation(&self, activation: impl Into<Activation>) -> Self {
        self.with_gate(self.gate.with_activation(activation))
    }

    /// The same with inputs of its matrix products that are rounded before them.
    pub fn with_input_rounding(&self, inputs: impl Into<InputRoundings>) -> Self {
        let inputs = inputs.into();
        let gate = self.gate.with_input_rounding(inputs);
        Self { inputs: inputs.entering, ..self.with_gate(gate) }
    }

    /// What the gate lets through, of `x`, `[batch, seq, hidden]`: `[batch, seq, width]`, in the dtype of `x`. The
    /// positions follow those of a state, which is brought up to date; `restarts` lists for each text of the batch,
    /// unless it is empty, the positions where another text begins: the state is empty there, while the convolution
    /// sees across, as in transformers where `position_ids` are 0.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit; a state that another block or batch began; restarts of another batch.
    pub fn recurrence(
        &self,
        x: &Tensor,
        state: Option<&mut RecurrentState>,
        restarts: &[Vec<usize>],
    ) -> Result<Tensor> {
        let u = self.linear_x.forward(&self.inputs.round(x)?)?; // [batch, seq, width]
        let (batch, seq, _) = u.dims3()?;
        if !restarts.is_empty() && restarts.len() != batch {
            candle_core::bail!("restarts of {} texts in a batch of {batch}", restarts.len())
        }
        if seq == 0 {
            return Ok(u);
        }
        let kept = match &state {
            Some(state) => state.of(self.identity, batch)?,
            None => None,
        };
        let (before, past) =
            kept.map_or((None, None), |kept| (Some(&kept.inputs), Some(&kept.state)));
        let seen = self.conv.with_past(&u, before)?; // [batch, conv_width - 1 + seq, width]
        let convolved = self.conv.forward(&seen)?; // [batch, seq, width], wide
        let (mixed, last) = self.lru.forward(&convolved, past, restarts, self.inputs, x.dtype())?;
        if let Some(state) = state {
            let inputs = seen.narrow(1, seq, self.conv.width() - 1)?.contiguous()?.detach();
            state.keep(self.identity, inputs, last.detach());
        }
        Ok(mixed)
    }

    /// Of positions that follow those of a state, which is brought up to date: `[batch, seq, hidden]` to the same
    /// shape.
    ///
    /// # Errors
    /// Those of [`Self::recurrence`].
    pub fn forward_after(&self, x: &Tensor, state: &mut RecurrentState) -> Result<Tensor> {
        self.gate.forward(x, &self.recurrence(x, Some(state), &[])?)
    }

    /// The output under both forms of GELU, whatever its own activation, from one recurrence.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn forward_pair(&self, x: &Tensor) -> Result<Pair> {
        self.gate.forward_pair(x, &self.recurrence(x, None, &[])?)
    }

    /// In the middle of a model: each of the activations, if there are any, gets an equal part of the batch.
    pub(super) fn forward_in(
        &self,
        x: &Tensor,
        state: Option<&mut RecurrentState>,
        restarts: &[Vec<usize>],
        gatings: &[Gating],
    ) -> Result<Tensor> {
        let input = self.recurrence(x, state, restarts)?;
        if gatings.is_empty() {
            return self.gate.forward(x, &input);
        }
        let gate = self.gate.project(x)?; // [batch, seq, width]
        let product = by_part(x.dim(0)?, gatings, |gating, start, len| {
            let part = |t: &Tensor| t.narrow(0, start, len)?.contiguous();
            self.gate.with_gating(gating).gated(&part(&gate)?, &part(&input)?)
        })?;
        self.gate.out(&product)
    }
}

impl Module for RecurrentBlock {
    /// A whole text, `[batch, seq, hidden]` to the same shape.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.gate.forward(x, &self.recurrence(x, None, &[])?)
    }
}

#[cfg(test)]
mod tests;
