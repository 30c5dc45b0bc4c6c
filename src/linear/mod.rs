//! Matrix products with weights that stay.
//!
//! A weight is candle's tensor, which trains, or [`Packed`], which is fast: packed once, read as it
//! is stored, multiplied and summed in f32. Every element of a packed product is summed in one
//! order, so that a row has the same bits alone and in a batch, and for any number of threads.

mod convert;
#[cfg(target_arch = "x86_64")]
mod dot_bf16;
mod kernel;
mod packed;
mod product;
mod rows;
mod stored;
mod strips;

pub(crate) use convert::{Number, nearest_bf16};
pub(crate) use kernel::{BLOCK, Product};
pub use packed::Packed;
pub(crate) use product::packed_product;
pub(crate) use rows::{Block, Rows, with_memory};
pub(crate) use stored::{Columns, PANEL, Stored};
pub(crate) use strips::{Strip, strips};

use candle_core::{D, DType, Device, Module, Result, Tensor};

/// A matrix `[out, in]` that inputs are multiplied by.
#[derive(Debug, Clone)]
pub enum Weight {
    /// On any device, in any dtype; a backward pass gives it a gradient.
    Tensor(Tensor),
    /// For inference on the CPU. A constant to a backward pass, which goes through to the input.
    Packed(Packed),
}

impl Weight {
    /// The same, packed. Of a packed weight it is a copy of the handle.
    ///
    /// # Errors
    /// As [`Packed::new`].
    pub fn packed(&self) -> Result<Self> {
        match self {
            Self::Tensor(weight) => Packed::new(weight).map(Self::Packed),
            Self::Packed(_) => Ok(self.clone()),
        }
    }

    /// Rows and columns: `[out, in]`.
    ///
    /// # Errors
    /// A tensor that is no matrix.
    pub fn dims(&self) -> Result<(usize, usize)> {
        match self {
            Self::Tensor(weight) => weight.dims2(),
            Self::Packed(packed) => Ok((packed.rows(), packed.columns())),
        }
    }

    /// Where it is.
    pub fn device(&self) -> &Device {
        match self {
            Self::Tensor(weight) => weight.device(),
            Self::Packed(_) => &Device::Cpu,
        }
    }

    /// Whether two are the same memory.
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tensor(a), Self::Tensor(b)) => a.id() == b.id(),
            (Self::Packed(a), Self::Packed(b)) => a.is(b),
            _ => false,
        }
    }

    /// Some of its rows. Nothing is copied.
    ///
    /// # Errors
    /// Rows that do not exist; of a packed weight, rows that do not start at a multiple of 32.
    pub fn narrow(&self, start: usize, len: usize) -> Result<Self> {
        match self {
            Self::Tensor(weight) => weight.narrow(0, start, len).map(Self::Tensor),
            Self::Packed(packed) => packed.narrow(start, len).map(Self::Packed),
        }
    }

    /// The rows of some indices, `[ids]` to `[ids, in]`, in the dtype that it is stored in.
    ///
    /// # Errors
    /// An index out of range.
    pub fn index_select(&self, ids: &Tensor) -> Result<Tensor> {
        match self {
            Self::Tensor(weight) => weight.index_select(ids, 0),
            Self::Packed(packed) => {
                let ids = ids.to_dtype(DType::U32)?.to_vec1::<u32>()?;
                let ids: Vec<usize> = ids.into_iter().map(|id| id as usize).collect();
                packed.index_select(&ids)
            }
        }
    }

    /// As a tensor of a dtype: unpacked if it is packed.
    ///
    /// # Errors
    /// candle's, if memory runs out.
    pub fn to_tensor(&self, dtype: DType) -> Result<Tensor> {
        match self {
            Self::Tensor(weight) => weight.to_dtype(dtype),
            Self::Packed(packed) => Tensor::cat(&packed.unpacked()?, 0)?.to_dtype(dtype),
        }
    }

    /// `xs·weightᵀ + bias` over the last dimension of a tensor of any rank: `[..., in]` to
    /// `[..., out]`, in the dtype of `xs`.
    ///
    /// A packed product is summed in f32, in blocks of 512 columns, and rounded once; a tensor's is
    /// taken in the weight's dtype.
    ///
    /// # Errors
    /// A last dimension that is not the weight's; for a packed weight an input that is not f32, bf16
    /// or f16 on the CPU.
    pub fn product(&self, xs: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let (out, _) = self.dims()?;
        let dims = [&xs.dims()[..xs.rank() - 1], &[out]].concat();
        let x = as_rows(xs)?; // [rows, in]
        match self {
            Self::Packed(packed) => packed_product(packed, &x, bias)?.reshape(dims),
            Self::Tensor(weight) => {
                let product = x.to_dtype(weight.dtype())?.matmul(&weight.t()?)?; // [rows, out]
                let biased = match bias {
                    Some(bias) => product.broadcast_add(bias)?,
                    None => product,
                };
                biased.to_dtype(xs.dtype())?.reshape(dims)
            }
        }
    }
}

/// A tensor of any rank as a matrix: `[..., width]` to `[rows, width]`.
pub(crate) fn as_rows(xs: &Tensor) -> Result<Tensor> {
    let width = xs.dim(D::Minus1)?;
    let rows = xs.elem_count().checked_div(width).unwrap_or(0);
    xs.reshape((rows, width))
}

/// A layer: a weight and perhaps a bias.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Weight,
    /// `[out]`, or `[parts, out]`.
    bias: Option<Tensor>,
}

impl From<candle_nn::Linear> for Linear {
    fn from(layer: candle_nn::Linear) -> Self {
        Self { weight: Weight::Tensor(layer.weight().clone()), bias: layer.bias().cloned() }
    }
}

impl Linear {
    /// A layer of a weight `[out, in]` and a bias `[out]`.
    pub fn new(weight: Weight, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// One layer that returns what several return, one behind the other.
    ///
    /// # Errors
    /// Layers of different inputs, of which only some have a bias, or none at all.
    pub fn stacked(layers: &[&Self]) -> Result<Self> {
        let weights = layers.iter().map(|layer| match layer.weight() {
            Weight::Tensor(weight) => Ok(weight.clone()),
            Weight::Packed(packed) => Tensor::cat(&packed.unpacked()?, 0),
        });
        let weight = Tensor::cat(&weights.collect::<Result<Vec<_>>>()?, 0)?;
        let biases: Vec<_> = layers.iter().filter_map(|layer| layer.bias()).collect();
        let bias = match biases.len() {
            0 => None,
            n if n == layers.len() => Some(Tensor::cat(&biases, 0)?),
            _ => candle_core::bail!("either all stacked layers have a bias or none"),
        };
        Ok(Self { weight: Weight::Tensor(weight), bias })
    }

    /// Its weight.
    pub fn weight(&self) -> &Weight {
        &self.weight
    }

    /// Its bias, `[out]`.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// The same layer, packed for inference on the CPU.
    ///
    /// # Errors
    /// As [`Packed::new`].
    pub fn packed(&self) -> Result<Self> {
        Ok(Self { weight: self.weight.packed()?, bias: self.bias.clone() })
    }
}

impl Module for Linear {
    /// `[..., in]` to `[..., out]`: [`Weight::product`].
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.weight.product(xs, self.bias.as_ref())
    }
}

/// Whether a model that runs in a dtype on a device has its matrices packed when it is loaded.
pub fn packs(dtype: DType, device: &Device) -> bool {
    matches!((dtype, device), (DType::F32 | DType::BF16 | DType::F16, Device::Cpu))
}

#[cfg(test)]
mod tests;
