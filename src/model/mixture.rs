//! Experts beside the block of a layer, and the norms around them.

use super::norm::RmsNorm;
use crate::checkpoint::{ExpertsConfig, Stack};
use crate::kernels::linear::InputRoundings;
use crate::mlp::{ExpertSizes, Gating, MixtureOfExperts, Routing, mixture_of_experts};
use candle_core::{Module, Result, Tensor, Var};
use candle_nn::VarBuilder;

/// A second branch behind attention, which begins at the residual stream as the block does:
/// `norm_1(mlp) + norm_2(experts(pre_norm(x), router(x)))` (transformers `Gemma4TextDecoderLayer`).
#[derive(Debug, Clone)]
pub struct ExpertsBranch {
    pub(super) mixture: MixtureOfExperts,
    /// Behind the block, `post_feedforward_layernorm_1`.
    pub(super) mlp_norm: RmsNorm,
    /// In front of the experts, `pre_feedforward_layernorm_2`.
    pub(super) pre_norm: RmsNorm,
    /// Behind them, `post_feedforward_layernorm_2`.
    pub(super) post_norm: RmsNorm,
    /// Whether the router gets what the experts get, which is wrong.
    pub(super) routes_normed: bool,
}

impl ExpertsBranch {
    pub(super) fn new(config: &ExpertsConfig, stack: &Stack, vb: VarBuilder) -> Result<Self> {
        let norm = |name: &str| -> Result<RmsNorm> {
            let weight = vb.pp(name).get(stack.hidden_size, "weight")?;
            Ok(RmsNorm::of(weight, stack.norm_weight, stack.rms_norm_eps))
        };
        let sizes = ExpertSizes {
            hidden: stack.hidden_size,
            intermediate: config.intermediate_size,
            experts: config.num_experts,
            top_k: config.top_k,
        };
        let activation = stack.activation.value;
        Ok(Self {
            mixture: mixture_of_experts(sizes, stack.rms_norm_eps, activation, vb.clone())?,
            mlp_norm: norm("post_feedforward_layernorm_1")?,
            pre_norm: norm("pre_feedforward_layernorm_2")?,
            post_norm: norm("post_feedforward_layernorm_2")?,
            routes_normed: false,
        })
    }

    /// The router and its experts.
    pub fn mixture(&self) -> &MixtureOfExperts {
        &self.mixture
    }

    pub(super) fn packed(self) -> Result<Self> {
        Ok(Self { mixture: self.mixture.packed()?, ..self })
    }

    pub(super) fn frozen(&self) -> Self {
        Self { mixture: self.mixture.frozen(), ..self.clone() }
    }

    /// With the experts' matrices as variables; those of the router stay.
    pub(super) fn with_variables(&self) -> Result<(Self, Vec<Var>)> {
        let (experts, variables) = self.mixture.experts().with_variables()?;
        let mixture = MixtureOfExperts::new(self.mixture.router().clone(), experts)?;
        Ok((Self { mixture, ..self.clone() }, variables))
    }

    pub(super) fn with_input_rounding(&self, inputs: InputRoundings) -> Self {
        Self { mixture: self.mixture.with_input_rounding(inputs), ..self.clone() }
    }

    pub(super) fn norms_mut(&mut self) -> [&mut RmsNorm; 3] {
        [&mut self.mlp_norm, &mut self.pre_norm, &mut self.post_norm]
    }

    /// What the experts return, `[batch, seq, hidden]` like the residual stream `x`; each of the activations, if there are
    /// any, gets an equal part of the batch.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn output(&self, x: &Tensor, gatings: &[Gating]) -> Result<Tensor> {
        let input = self.pre_norm.forward(x)?;
        let routed = if self.routes_normed { &input } else { x };
        match gatings {
            [] => self.mixture.forward(routed, &input),
            _ => self.mixture.forward_gated(routed, &input, gatings),
        }
    }

    /// The probabilities by which experts are chosen, `[batch, seq, experts]` in f32 (f64 for f64), of the residual
    /// stream `x`, `[batch, seq, hidden]`.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn probabilities(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, seq, _) = x.dims3()?;
        let routed = if self.routes_normed { self.pre_norm.forward(x)? } else { x.clone() };
        self.mixture.router().probabilities(&routed)?.reshape((batch, seq, ()))
    }

    /// The weights of the experts that some probabilities choose, 0 for all others: `[batch, seq, experts]`, like the
    /// probabilities, in f32 or f64, and like `order`, whose largest are chosen: mostly the probabilities themselves.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn weights(&self, probabilities: &Tensor, order: &Tensor) -> Result<Tensor> {
        let rows = probabilities.flatten_to(1)?;
        let routing = self.mixture.router().choose(&rows, &order.flatten_to(1)?)?;
        let all = rows.zeros_like()?.scatter_add(routing.indices(), routing.weights(), 1)?;
        all.reshape(probabilities.shape())
    }

    /// What the experts return under some weights, `[batch, seq, experts]` in f32 or f64 as [`Self::weights`] has them,
    /// whoever chose: `[batch, seq, hidden]` like the residual stream `x`.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn weighted_output(&self, x: &Tensor, weights: &Tensor) -> Result<Tensor> {
        let weights = weights.flatten_to(1)?.contiguous()?;
        let indices = self.mixture.router().top_of(&weights.abs()?)?;
        let routing = Routing::new(&indices, &weights.gather(&indices, 1)?)?;
        self.mixture.experts().forward(&self.pre_norm.forward(x)?, &routing)
    }

    /// Both branches' sum, of what the block and the experts returned, `[batch, seq, hidden]` each.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn join(&self, mlp: &Tensor, experts: &Tensor) -> Result<Tensor> {
        self.mlp_norm.forward(mlp)? + self.post_norm.forward(experts)?
    }
}
