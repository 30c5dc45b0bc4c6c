//! The router and its experts as one module.

use super::{ExpertsTrace, GatedExperts, Router, Routing};
use crate::error::InvalidLayer;
use crate::kernels::activation::Activation;
use crate::kernels::linear::InputRoundings;
use crate::mlp::gating::Gating;
use crate::mlp::layers::Result;
use crate::mlp::pair::Pair;
use crate::rounding::Rounding;
use candle_core::{DType, Tensor, Var};
use candle_nn::{Init, VarBuilder, init};

/// A router and its experts: Gemma 4's mixture of experts, to be embedded as one module.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_nn::{VarBuilder, VarMap};
/// use gemma_mlp::{Gelu, mlp::{ExpertSizes, mixture_of_experts}};
///
/// let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
/// let sizes = ExpertSizes { hidden: 64, intermediate: 32, experts: 8, top_k: 2 };
/// let mixture = mixture_of_experts(sizes, 1e-6, Gelu::Tanh, vb)?;
/// let residual = Tensor::randn(0f32, 1., (2, 5, 64), &Device::Cpu)?;
/// let normed = &residual; // in Gemma 4: pre_feedforward_layernorm_2(residual)
/// assert_eq!(mixture.forward(&residual, normed)?.dims(), [2, 5, 64]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct MixtureOfExperts {
    router: Router,
    experts: GatedExperts,
}

/// The sizes of a mixture of experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertSizes {
    /// Width of input and output.
    pub hidden: usize,
    /// Width of gate and up in every expert.
    pub intermediate: usize,
    /// How many experts there are.
    pub experts: usize,
    /// How many of them a row goes through.
    pub top_k: usize,
}

/// Builds router and experts, as Gemma 4 has them in every layer.
///
/// Reads `router.proj.weight` (`[experts, hidden]`), `router.scale` (`[hidden]`), `router.per_expert_scale`
/// (`[experts]`), `experts.gate_up_proj` (`[experts, 2 * intermediate, hidden]`, gate first) and
/// `experts.down_proj` (`[experts, hidden, intermediate]`). `eps` is that of the router's norm.
///
/// # Errors
/// A tensor that is missing or has another shape, sizes of 0 or beyond any memory, more experts for a row
/// than there are.
pub fn mixture_of_experts(
    sizes: ExpertSizes,
    eps: f64,
    activation: impl Into<Activation>,
    vb: VarBuilder,
) -> Result<MixtureOfExperts> {
    let ExpertSizes { hidden, intermediate, experts, top_k } = sizes;
    // Gate and up together, in the widest dtype: an allocation of more ends the program.
    let both =
        [hidden, intermediate, experts].iter().try_fold(2 * 8usize, |n, &size| n.checked_mul(size));
    if both.is_none_or(|bytes| bytes > isize::MAX as usize) {
        return Err(InvalidLayer::TooLarge {
            hidden,
            intermediate: intermediate.saturating_mul(experts),
        }
        .into());
    }
    if both == Some(0) {
        let weight = vec![experts, intermediate.saturating_mul(2), hidden];
        return Err(InvalidLayer::Experts { layer: "experts.gate_up_proj", weight }.into());
    }
    let (router, of_experts) = (vb.pp("router"), vb.pp("experts"));
    let uniform = |width: usize| {
        let bound = 1.0 / (width as f64).sqrt();
        Init::Uniform { lo: -bound, up: bound }
    };
    let matrix = init::DEFAULT_KAIMING_UNIFORM;
    let router = Router::new(
        router.get_with_hints((experts, hidden), "proj.weight", matrix)?,
        router.get_with_hints(hidden, "scale", Init::Const(1.0))?,
        router.get_with_hints(experts, "per_expert_scale", Init::Const(1.0))?,
        top_k,
        eps,
    )?;
    let gate_up = (experts, 2 * intermediate, hidden);
    let down = (experts, hidden, intermediate);
    let experts = GatedExperts::new(
        of_experts.get_with_hints(gate_up, "gate_up_proj", uniform(hidden))?,
        of_experts.get_with_hints(down, "down_proj", uniform(intermediate))?,
        activation,
    )?;
    Ok(MixtureOfExperts::new(router, experts)?)
}

impl MixtureOfExperts {
    /// A router with experts.
    ///
    /// # Errors
    /// A router for another number of experts, or of another hidden size.
    pub fn new(router: Router, experts: GatedExperts) -> Result<Self, InvalidLayer> {
        let shape = vec![router.experts(), router.hidden_size()];
        let expected = vec![experts.experts(), experts.hidden_size()];
        if shape != expected {
            return Err(InvalidLayer::Shape { layer: "router.proj", shape, expected });
        }
        Ok(Self { router, experts })
    }

    /// What chooses.
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// What is chosen from.
    pub fn experts(&self) -> &GatedExperts {
        &self.experts
    }

    /// The experts with what `change` makes of their router: one of a mistake, for example.
    pub fn map_router(&self, change: impl FnOnce(&Router) -> Router) -> Self {
        Self { router: change(&self.router), experts: self.experts.clone() }
    }

    /// The activation in use.
    pub fn activation(&self) -> Activation {
        self.experts.activation()
    }

    /// The same with another activation: [`GatedExperts::with_activation`].
    pub fn with_activation(&self, activation: impl Into<Activation>) -> Self {
        self.with_experts(self.experts.with_activation(activation))
    }

    /// The same with another rounding between gate and down: [`GatedExperts::with_rounding`].
    pub fn with_rounding(&self, rounding: Rounding) -> Self {
        self.with_experts(self.experts.with_rounding(rounding))
    }

    /// The same with inputs of the experts' matrix products that are rounded before them. The router's are
    /// not: [`GatedExperts::with_input_rounding`].
    pub fn with_input_rounding(&self, inputs: impl Into<InputRoundings>) -> Self {
        self.with_experts(self.experts.with_input_rounding(inputs))
    }

    fn with_experts(&self, experts: GatedExperts) -> Self {
        Self { router: self.router.clone(), experts }
    }

    /// Both for inference on the CPU: [`GatedExperts::packed`].
    ///
    /// # Errors
    /// Weights that are not in the CPU's memory, or of another dtype than f32, bf16 and f16.
    pub fn packed(&self) -> Result<Self> {
        Ok(Self { router: self.router.packed()?, experts: self.experts.packed()? })
    }

    /// Both with packed weights as constants to a backward pass: [`GatedExperts::frozen`].
    pub fn frozen(&self) -> Self {
        Self { router: self.router.frozen(), experts: self.experts.frozen() }
    }

    /// Both with their weights in another dtype: [`GatedExperts::to_dtype`].
    ///
    /// # Errors
    /// Another dtype than f64, f32, bf16 and f16; if they are packed, f64 as well.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        Ok(Self { router: self.router.to_dtype(dtype)?, experts: self.experts.to_dtype(dtype)? })
    }

    /// Both with copies of their weights as variables, and the variables: the router's weight, its scale and
    /// the experts' scales, then those of [`GatedExperts::with_variables`].
    ///
    /// # Errors
    /// candle's, if the device is out of memory.
    pub fn with_variables(&self) -> Result<(Self, Vec<Var>)> {
        let [proj, scale, per_expert_scale] = self.router.tensors()?;
        let variable = |tensor: &Tensor| Var::from_tensor(tensor);
        let (proj, scale, per_expert) =
            (variable(&proj)?, variable(&scale)?, variable(&per_expert_scale)?);
        let tensors = [&proj, &scale, &per_expert].map(|variable| variable.as_tensor().clone());
        let router = self.router.with_tensors(tensors)?;
        let (experts, of_experts) = self.experts.with_variables()?;
        let variables = [proj, scale, per_expert].into_iter().chain(of_experts).collect();
        Ok((Self { router, experts }, variables))
    }

    /// Chooses experts for every row, `[..., hidden]`: [`Router::route`].
    ///
    /// # Errors
    /// Those of [`Router::route`].
    pub fn route(&self, router_input: &Tensor) -> Result<Routing> {
        self.router.route(router_input)
    }

    /// The sum over the experts that the router chooses: `[..., hidden]` to the same shape and dtype. In
    /// Gemma 4 the router's input is the residual stream, and the experts' is its norm.
    ///
    /// # Errors
    /// Inputs of different numbers of rows; those of [`Router::route`] and [`GatedExperts::forward`].
    pub fn forward(&self, router_input: &Tensor, experts_input: &Tensor) -> Result<Tensor> {
        self.experts.forward(experts_input, &self.route(router_input)?)
    }

    /// The activation in use, and where it rounds.
    pub fn gating(&self) -> Gating {
        self.experts.gating()
    }

    /// The same with parts of the batch under gatings of their own: [`GatedExperts::forward_gated`].
    ///
    /// # Errors
    /// Those of [`Self::forward`]; rows that are no multiple of the parts.
    pub fn forward_gated(
        &self,
        router_input: &Tensor,
        experts_input: &Tensor,
        gatings: &[Gating],
    ) -> Result<Tensor> {
        self.experts.forward_gated(experts_input, &self.route(router_input)?, gatings)
    }

    /// The sum under both forms of GELU: [`GatedExperts::forward_pair`].
    ///
    /// # Errors
    /// Those of [`Self::forward`].
    pub fn forward_pair(&self, router_input: &Tensor, experts_input: &Tensor) -> Result<Pair> {
        self.experts.forward_pair(experts_input, &self.route(router_input)?)
    }

    /// The routing, and a forward pass that keeps every intermediate: [`GatedExperts::trace`].
    ///
    /// # Errors
    /// Those of [`Self::forward`].
    pub fn trace(
        &self,
        router_input: &Tensor,
        experts_input: &Tensor,
    ) -> Result<(Routing, ExpertsTrace)> {
        let routing = self.route(router_input)?;
        let trace = self.experts.trace(experts_input, &routing)?;
        Ok((routing, trace))
    }
}
