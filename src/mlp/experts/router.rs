//! The choice of experts.

mod one_pass;

use super::routing::Routing;
use crate::error::InvalidLayer;
use crate::kernels::linear::{Linear, Weight, as_rows, is_float};
use crate::kernels::number::wide_dtype;
use crate::mlp::layers::Result;
use candle_core::{D, DType, Device, Tensor};
use std::cmp::Ordering;

/// Chooses experts for every row, as Gemma 4 does (transformers, `models/gemma4/modeling_gemma4.py`,
/// `Gemma4TextRouter`):
///
/// `u = x / sqrt(mean(x²) + eps) ⊙ scale · hidden^(-1/2)`, `p = softmax(proj u)` over all experts, and of these
/// the `top_k` largest, divided by their sum and multiplied by their experts' scales.
///
/// All of it is computed in f32, from the input to the weights (in f64 for f64). Of equal probabilities
/// that of the lower index comes first, as in JAX's `top_k`; PyTorch's `topk` leaves the order open.
///
/// Packed, a row has the same choice and weights, to the bit, alone and in a batch, and for any number of
/// threads.
#[derive(Debug, Clone)]
pub struct Router {
    proj: Linear,
    /// `[hidden]`.
    scale: Tensor,
    /// `[experts]`.
    per_expert_scale: Tensor,
    top_k: usize,
    eps: f64,
    renormalises: bool,
    scales_experts: bool,
    /// What every operation in front of the softmax is rounded to.
    rounding: Option<DType>,
}

impl Router {
    /// A router of a weight `[experts, hidden]`, a scale of the normed input, `[hidden]`, and scales of the
    /// experts' weights, `[experts]`. `eps` is the norm's.
    ///
    /// # Errors
    /// Other shapes, dtypes other than f64, f32, bf16 and f16; a `top_k` that is 0 or more than there are
    /// experts.
    pub fn new(
        proj: Tensor,
        scale: Tensor,
        per_expert_scale: Tensor,
        top_k: usize,
        eps: f64,
    ) -> Result<Self, InvalidLayer> {
        let layer = "router.proj";
        let proj = Linear::new(Weight::Tensor(proj), None).map_err(|error| error.of(layer))?;
        let [experts, hidden] = proj.check().map_err(|error| error.of(layer))?;
        for (layer, tensor, len) in [
            ("router.scale", &scale, hidden),
            ("router.per_expert_scale", &per_expert_scale, experts),
        ] {
            if tensor.dims() != [len] {
                let (shape, expected) = (tensor.dims().to_vec(), vec![len]);
                return Err(InvalidLayer::Shape { layer, shape, expected });
            }
            if !is_float(tensor.dtype()) {
                return Err(InvalidLayer::DType { layer, dtype: tensor.dtype() });
            }
        }
        if !(1..=experts).contains(&top_k) {
            return Err(InvalidLayer::TopK { top_k, experts });
        }
        let (renormalises, scales_experts) = (true, true);
        let rounding = None;
        Ok(Self {
            proj,
            scale,
            per_expert_scale,
            top_k,
            eps,
            renormalises,
            scales_experts,
            rounding,
        })
    }

    /// How many experts a row gets.
    pub fn top_k(&self) -> usize {
        self.top_k
    }

    /// How many experts there are to choose from.
    pub fn experts(&self) -> usize {
        self.per_expert_scale.elem_count()
    }

    /// Width of its input.
    pub fn hidden_size(&self) -> usize {
        self.scale.elem_count()
    }

    /// The router with a mistake that ports make: the chosen probabilities are not divided by their sum.
    pub fn without_renormalisation(&self) -> Self {
        Self { renormalises: false, ..self.clone() }
    }

    /// The router with a mistake that ports make: `per_expert_scale` is left out.
    pub fn without_expert_scale(&self) -> Self {
        Self { scales_experts: false, ..self.clone() }
    }

    /// The router that rounds every operation in front of the softmax to a dtype, as frameworks do that compute in it.
    pub fn with_rounding(&self, dtype: DType) -> Self {
        Self { rounding: Some(dtype), ..self.clone() }
    }

    /// The router for inference on the CPU, in one operation, its scales constants to a backward pass. The choice is that
    /// of the same weights in f32.
    ///
    /// # Errors
    /// Weights that are not in the CPU's memory, or of another dtype than f32, bf16 and f16.
    pub fn packed(&self) -> Result<Self> {
        Ok(Self {
            proj: self.proj.packed()?,
            scale: self.scale.detach(),
            per_expert_scale: self.per_expert_scale.detach(),
            ..self.clone()
        })
    }

    /// The router with its packed weight as a constant to a backward pass, which then goes through it to
    /// the input. Tensors stay as they are. Nothing is copied.
    pub fn frozen(&self) -> Self {
        Self { proj: self.proj.frozen(), ..self.clone() }
    }

    /// The router with its weights in another dtype, as candle converts numbers. What is computed stays in
    /// f32, or f64 for an f64 input.
    ///
    /// # Errors
    /// Another dtype than f64, f32, bf16 and f16; of a packed router, f64 as well.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        Ok(Self {
            proj: self.proj.to_dtype(dtype)?,
            scale: self.scale.to_dtype(dtype)?,
            per_expert_scale: self.per_expert_scale.to_dtype(dtype)?,
            ..self.clone()
        })
    }

    /// The weight, `[experts, hidden]`, unpacked if it is packed, then the scale of the input, `[hidden]`, and
    /// the scales of the experts, `[experts]`.
    pub(super) fn tensors(&self) -> Result<[Tensor; 3]> {
        let proj = match self.proj.weight() {
            Weight::Tensor(weight) => weight.clone(),
            packed => packed.to_tensor(DType::F32)?,
        };
        Ok([proj, self.scale.clone(), self.per_expert_scale.clone()])
    }

    /// The router with other weights of the same shapes.
    pub(super) fn with_tensors(
        &self,
        [proj, scale, per_expert_scale]: [Tensor; 3],
    ) -> Result<Self> {
        let proj = Linear::new(Weight::Tensor(proj), None)?;
        Ok(Self { proj, scale, per_expert_scale, ..self.clone() })
    }

    /// Chooses experts for every row of `xs`, `[..., hidden]`, with weights in f32 (f64 for f64).
    ///
    /// A backward pass goes through the weights to the input and the router's own weights; the choice has
    /// no gradient.
    ///
    /// # Errors
    /// An input whose last dimension is not the hidden size, or that is not f64, f32, bf16 or f16; of a
    /// packed router, one that is not on the CPU.
    pub fn route(&self, xs: &Tensor) -> Result<Routing> {
        let x = self.rows_of(xs)?;
        let (rows, device) = (x.dim(0)?, x.device());
        if rows == 0 {
            let shape = (0, self.top_k);
            let indices = Tensor::zeros(shape, DType::U32, device)?;
            return Routing::new(&indices, &Tensor::zeros(shape, wide_dtype(x.dtype()), device)?);
        }
        match self.one_pass(&x)? {
            Some(routing) => Ok(routing),
            None => {
                let probabilities = self.scored(&x)?;
                self.choose(&probabilities, &probabilities)
            }
        }
    }

    /// The probabilities of all experts for every row of `xs`, `[..., hidden]`: `[rows, experts]` in f32 (f64 for f64),
    /// out of candle's operations, which it differentiates.
    ///
    /// # Errors
    /// Those of [`Self::route`].
    pub fn probabilities(&self, xs: &Tensor) -> Result<Tensor> {
        self.scored(&self.rows_of(xs)?)
    }

    /// The routing that probabilities of all experts make, `[rows, experts]` in f32 or f64, to the experts that are
    /// largest in `order`: mostly the probabilities themselves, or numbers that tell equal ones apart.
    ///
    /// # Errors
    /// Another number of experts, shapes that differ.
    pub fn choose(&self, probabilities: &Tensor, order: &Tensor) -> Result<Routing> {
        if probabilities.dim(D::Minus1)? != self.experts() {
            let experts = self.experts();
            candle_core::bail!("probabilities {:?} of {experts} experts", probabilities.dims())
        }
        let indices = self.top_of(order)?; // [rows, top_k]
        let mut weights = probabilities.gather(&indices, D::Minus1)?;
        if self.renormalises {
            weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
        }
        if self.scales_experts {
            let scale = self.per_expert_scale.to_dtype(weights.dtype())?;
            let scale = scale.index_select(&indices.flatten_all()?, 0)?;
            weights = (weights * scale.reshape(indices.shape())?)?;
        }
        Routing::new(&indices, &weights)
    }

    /// An input as rows, checked: `[rows, hidden]`.
    fn rows_of(&self, xs: &Tensor) -> Result<Tensor> {
        let x = as_rows(xs)?;
        if x.dim(1)? != self.hidden_size() {
            let hidden = self.hidden_size();
            candle_core::bail!("an input {:?} for a router of hidden size {hidden}", xs.dims())
        }
        if !is_float(x.dtype()) {
            return Err(candle_core::Error::UnsupportedDTypeForOp(x.dtype(), "router"));
        }
        Ok(x)
    }

    /// The probabilities of rows.
    fn scored(&self, x: &Tensor) -> Result<Tensor> {
        let wide = wide_dtype(x.dtype());
        let rounded = |x: Tensor| match self.rounding {
            Some(dtype) => x.to_dtype(dtype)?.to_dtype(wide),
            None => Ok(x),
        };
        let x = x.to_dtype(wide)?;
        let mean_square = (x.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?; // [rows, 1]
        let normed = rounded(x.broadcast_div(&mean_square.sqrt()?)?)?;
        let scaled = rounded(normed.broadcast_mul(&self.scale.to_dtype(wide)?)?)?;
        let scaled = rounded((scaled * self.root())?)?;
        let scores = rounded(self.proj.weight().matmul(&scaled, None)?)?; // [rows, experts]
        candle_nn::ops::softmax(&scores, D::Minus1)
    }

    /// `hidden^(-1/2)`.
    fn root(&self) -> f64 {
        1.0 / (self.hidden_size() as f64).sqrt()
    }

    /// The indices of the largest of every row, in falling order: `[rows, experts]` to `[rows, top_k]`.
    pub(crate) fn top_of(&self, probabilities: &Tensor) -> Result<Tensor> {
        let (rows, experts) = probabilities.dims2()?;
        // f64 holds every f32.
        let numbers = probabilities.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        let numbers = numbers.flatten_all()?.to_vec1::<f64>()?;
        let mut indices = Vec::with_capacity(rows * self.top_k);
        for row in numbers.chunks_exact(experts) {
            indices.extend(top(row, self.top_k));
        }
        Tensor::from_vec(indices, (rows, self.top_k), probabilities.device())
    }
}

/// The indices of the `k` largest numbers, in falling order, equal ones by rising index. NaN equals
/// everything: of a row of NaN they are the first.
fn top<T: PartialOrd>(numbers: &[T], k: usize) -> impl Iterator<Item = u32> + use<T> {
    let mut order: Vec<u32> = (0..numbers.len() as u32).collect();
    let number = |&at: &u32| &numbers[at as usize];
    order.sort_by(|a, b| number(b).partial_cmp(number(a)).unwrap_or(Ordering::Equal));
    order.truncate(k);
    order.into_iter()
}
