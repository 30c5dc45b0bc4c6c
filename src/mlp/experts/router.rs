//! The choice of experts.

mod one_pass;

use super::Result;
use super::routing::Routing;
use crate::error::InvalidLayer;
use crate::kernels::linear::{Linear, Weight, as_rows, is_float, wide_dtype};
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
        Ok(Self { proj, scale, per_expert_scale, top_k, eps, renormalises, scales_experts })
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

    /// The router for inference on the CPU, in one operation. The choice is that of the same weights in f32.
    ///
    /// # Errors
    /// Weights that are not in the CPU's memory, or of another dtype than f32, bf16 and f16.
    pub fn packed(&self) -> Result<Self> {
        Ok(Self { proj: self.proj.packed()?, ..self.clone() })
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
        let x = as_rows(xs)?; // [rows, hidden]
        if x.dim(1)? != self.hidden_size() {
            let hidden = self.hidden_size();
            candle_core::bail!("an input {:?} for a router of hidden size {hidden}", xs.dims())
        }
        let (rows, device) = (x.dim(0)?, x.device());
        if rows == 0 {
            let shape = (0, self.top_k);
            let indices = Tensor::zeros(shape, DType::U32, device)?;
            return Routing::new(&indices, &Tensor::zeros(shape, wide_dtype(x.dtype()), device)?);
        }
        match self.one_pass(&x)? {
            Some(routing) => Ok(routing),
            None => self.composed(&x),
        }
    }

    /// Out of candle's operations, which it differentiates.
    fn composed(&self, x: &Tensor) -> Result<Routing> {
        let wide = wide_dtype(x.dtype());
        let x = x.to_dtype(wide)?;
        let mean_square = (x.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?; // [rows, 1]
        let normed = x.broadcast_div(&mean_square.sqrt()?)?;
        let scaled = normed.broadcast_mul(&self.scale.to_dtype(wide)?)?;
        let scores = self.proj.weight().matmul(&(scaled * self.root())?, None)?; // [rows, experts]
        let probabilities = candle_nn::ops::softmax(&scores, D::Minus1)?;
        let indices = self.top_of(&probabilities)?; // [rows, top_k]
        let mut weights = probabilities.gather(&indices, D::Minus1)?;
        if self.renormalises {
            weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
        }
        if self.scales_experts {
            let scale = self.per_expert_scale.to_dtype(wide)?;
            let scale = scale.index_select(&indices.flatten_all()?, 0)?;
            weights = (weights * scale.reshape(indices.shape())?)?;
        }
        Routing::new(&indices, &weights)
    }

    /// `hidden^(-1/2)`.
    fn root(&self) -> f64 {
        1.0 / (self.hidden_size() as f64).sqrt()
    }

    /// The indices of the largest of every row, in falling order: `[rows, experts]` to `[rows, top_k]`.
    fn top_of(&self, probabilities: &Tensor) -> Result<Tensor> {
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
