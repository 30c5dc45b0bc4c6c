//! Linear layers: matrix products with weights that stay.
//!
//! A weight is candle's tensor, which trains, or [`Packed`], which is fast: packed once, read as it
//! is stored, multiplied and summed in f32. Every element of a product with a packed weight is summed
//! in one order, so that a row of x has the same bits alone and in a batch, and for any number of
//! threads.

mod ahead;
#[cfg(target_arch = "x86_64")]
mod dot_bf16;
pub(crate) mod gathered;
mod input;
mod kernel;
mod matmul;
pub(crate) mod matrix;
mod pack;
mod packed;
mod panels;
mod pin;
pub(crate) mod quantised;
pub(crate) mod rows;
mod stored;
pub(crate) mod streamed;
mod strips;

pub use input::{InputRounding, InputRoundings};
pub use packed::Packed;
#[doc(hidden)]
pub use packed::in_pieces;
#[doc(hidden)]
pub use panels::Panels;

pub(crate) use kernel::{PanelMatmul, TILE};
pub(crate) use matmul::{packed_matmul, packed_matmul_wide};
pub(crate) use panels::rows_at_a_time;
pub(crate) use rows::{Rows, TileType};
pub(crate) use stored::{Columns, PANEL, Stored};
pub(crate) use strips::{Strip, strips};

pub(crate) use crate::kernels::number::is_float;

use crate::error::InvalidLayer;
use candle_core::{D, DType, Device, Error, Module, Result, Tensor};
use matrix::Matrix;

/// A matrix `[out, in]` that inputs are multiplied by.
#[derive(Debug, Clone)]
pub enum Weight {
    /// On any device, in any dtype; a backward pass gives it a gradient.
    Tensor(Tensor),
    /// For inference on the CPU. A backward pass through it is an error, unless it is
    /// [frozen](Packed::frozen).
    Packed(Packed),
}

impl Weight {
    /// The weight packed, in the dtype it has. Of a packed one it is a copy of the handle.
    ///
    /// # Errors
    /// Those of [`Packed::new`].
    pub fn packed(&self) -> Result<Self> {
        match self {
            Self::Tensor(weight) => Packed::new(weight).map(Self::Packed),
            Self::Packed(_) => Ok(self.clone()),
        }
    }

    /// The weight as a table that stays in its file, if it is in one.
    pub(crate) fn table(&self) -> Result<Self> {
        match self {
            Self::Tensor(weight) => Packed::table(weight).map(Self::Packed),
            Self::Packed(_) => Ok(self.clone()),
        }
    }

    /// The weight with a packed one [frozen](Packed::frozen), a constant to a backward pass. A tensor
    /// stays as it is. Nothing is copied.
    pub fn frozen(&self) -> Self {
        match self {
            Self::Tensor(_) => self.clone(),
            Self::Packed(packed) => Self::Packed(packed.frozen()),
        }
    }

    /// Rows and columns: `[out, in]`.
    ///
    /// # Errors
    /// A tensor that is no matrix.
    pub fn dims(&self) -> Result<(usize, usize)> {
        match self {
            Self::Tensor(weight) => weight.dims2(),
            Self::Packed(packed) => Ok((packed.out_features(), packed.in_features())),
        }
    }

    /// Where it is.
    pub fn device(&self) -> &Device {
        match self {
            Self::Tensor(weight) => weight.device(),
            Self::Packed(_) => &Device::Cpu,
        }
    }

    /// Whether both are one tensor of candle's, or one part of one packed weight.
    pub fn shares_storage(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tensor(a), Self::Tensor(b)) => a.id() == b.id(),
            (Self::Packed(a), Self::Packed(b)) => a.shares_storage(b),
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

    /// The rows of some indices, `[ids]` of any integer dtype to `[ids, in]`, in the dtype that it is
    /// stored in.
    ///
    /// # Errors
    /// An index out of range, indices that are no integers.
    pub fn index_select(&self, ids: &Tensor) -> Result<Tensor> {
        if !ids.dtype().is_int() {
            return Err(Error::UnsupportedDTypeForOp(ids.dtype(), "index-select"));
        }
        // Every integer dtype fits into i64: nothing is cut off before it is checked.
        let ids = ids.to_dtype(DType::I64)?;
        if let (Self::Tensor(weight), false) = (self, ids.device().is_cpu()) {
            // A GPU's memory is not read just for this.
            return weight.index_select(&ids, 0);
        }
        let (count, _) = self.dims()?;
        let row = |id: i64| {
            let row = usize::try_from(id).ok().filter(|&row| row < count);
            row.ok_or_else(|| Error::Msg(format!("row {id} of {count}")))
        };
        let rows = ids.to_vec1()?.into_iter().map(row).collect::<Result<Vec<usize>>>()?;
        match self {
            // candle takes its types' largest number for a row of zeros, which is why rows are checked.
            Self::Tensor(weight) => weight.index_select(&ids, 0),
            Self::Packed(packed) => packed.index_select(&rows),
        }
    }

    /// The weight in a dtype, as candle converts numbers. A packed one is unpacked, converted and
    /// packed again, unless it has that dtype already: for a moment several copies of it are there.
    ///
    /// # Errors
    /// Of a packed weight, another dtype than f32, bf16 and f16.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        match self {
            Self::Tensor(weight) => weight.to_dtype(dtype).map(Self::Tensor),
            Self::Packed(packed) => packed.to_dtype(dtype).map(Self::Packed),
        }
    }

    /// A tensor of the weight in a dtype, `[out, in]`: unpacked if it is packed.
    ///
    /// # Errors
    /// candle's, if memory runs out.
    pub fn to_tensor(&self, dtype: DType) -> Result<Tensor> {
        match self {
            Self::Tensor(weight) => weight.to_dtype(dtype),
            Self::Packed(packed) => Tensor::cat(&packed.unpacked()?, 0)?.to_dtype(dtype),
        }
    }

    /// `xs·weightᵀ + bias` over the last dimension of a tensor of any rank but 0: `[..., in]` to
    /// `[..., out]`, in the dtype of `xs`. `bias` is `[out]`.
    ///
    /// With a packed weight it is summed in f32, in tiles of 512 columns, and rounded once. With a tensor
    /// it is candle's: in the common dtype of all three, or, where they differ, in f32 (f64 if one is f64),
    /// to which the weight is then widened on every call. An f64 input of a packed weight is
    /// multiplied in f64, by the weight unpacked on every call.
    ///
    /// # Errors
    /// A last dimension that is not the weight's; a bias of another shape; an input that is not f64,
    /// f32, bf16 or f16; for a packed weight one that is not on the CPU.
    pub fn matmul(&self, xs: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let x = as_rows(xs)?; // [rows, in]
        let (out, width) = self.dims()?;
        if x.dim(1)? != width {
            candle_core::bail!("an input {:?} for a weight [{out}, {width}]", xs.dims())
        }
        let dims = [&xs.dims()[..xs.rank() - 1], &[out]].concat();
        let weight = match self {
            Self::Packed(packed) if xs.dtype() != DType::F64 => {
                return packed_matmul(packed, &x, bias)?.reshape(dims);
            }
            Self::Packed(_) => self.to_tensor(DType::F64)?,
            Self::Tensor(weight) => weight.clone(),
        };
        let dtype = common_dtype([Some(xs), Some(&weight), bias].into_iter().flatten())?;
        let product = x.to_dtype(dtype)?.matmul(&weight.to_dtype(dtype)?.t()?)?; // [rows, out]
        let biased = match bias {
            Some(bias) => product.broadcast_add(&bias.to_dtype(dtype)?.reshape(out)?)?,
            None => product,
        };
        biased.to_dtype(xs.dtype())?.reshape(dims)
    }
}

/// What some tensors are multiplied in: their dtype if they have one in common, or else f32, or f64 if
/// one is.
pub(crate) fn common_dtype<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> Result<DType> {
    let mut common = None;
    for dtype in tensors.map(Tensor::dtype) {
        if !is_float(dtype) {
            return Err(Error::UnsupportedDTypeForOp(dtype, "linear"));
        }
        common = match common {
            None => Some(dtype),
            Some(other) if other == dtype => common,
            Some(DType::F64) => common,
            Some(_) if dtype == DType::F64 => Some(dtype),
            Some(_) => Some(DType::F32),
        };
    }
    Ok(common.unwrap_or(DType::F32))
}

/// Tensors one behind the other, in the dtype that they are multiplied in.
fn cat(tensors: Vec<Tensor>) -> Result<Tensor> {
    let dtype = common_dtype(tensors.iter())?;
    let alike = tensors.iter().map(|tensor| tensor.to_dtype(dtype));
    Tensor::cat(&alike.collect::<Result<Vec<_>>>()?, 0)
}

/// A tensor of any rank but 0 as a matrix: `[..., width]` to `[rows, width]`.
pub(crate) fn as_rows(xs: &Tensor) -> Result<Tensor> {
    if xs.rank() == 0 {
        candle_core::bail!("a scalar is no input of a layer; it takes [..., in]")
    }
    let width = xs.dim(D::Minus1)?;
    let rows = xs.elem_count().checked_div(width).unwrap_or(0);
    xs.reshape((rows, width))
}

/// A layer: a weight and perhaps a bias.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Weight,
    /// `[out]`.
    bias: Option<Tensor>,
}

impl TryFrom<candle_nn::Linear> for Linear {
    type Error = InvalidLayer;

    fn try_from(layer: candle_nn::Linear) -> std::result::Result<Self, InvalidLayer> {
        Self::new(Weight::Tensor(layer.weight().clone()), layer.bias().cloned())
    }
}

impl Linear {
    /// A layer of a weight `[out, in]` and a bias `[out]`.
    ///
    /// # Errors
    /// Other shapes, sizes of 0, dtypes other than f64, f32, bf16 and f16.
    pub fn new(weight: Weight, bias: Option<Tensor>) -> std::result::Result<Self, InvalidLayer> {
        let layer = Self { weight, bias };
        layer.check()?;
        Ok(layer)
    }

    /// Checks shapes and dtypes, and returns the weight's shape, `[out, in]`.
    pub(crate) fn check(&self) -> std::result::Result<[usize; 2], InvalidLayer> {
        let layer = "linear";
        let (weight, dtype) = match &self.weight {
            Weight::Tensor(weight) => (weight.dims().to_vec(), weight.dtype()),
            Weight::Packed(packed) => {
                // Several matrices are one input's, and no weight of a layer.
                let parts = Some(packed.parts()).filter(|&parts| parts != 1);
                let dims = parts.into_iter().chain([packed.out_features(), packed.in_features()]);
                (dims.collect(), packed.dtype())
            }
        };
        let &[rows, columns] = weight.as_slice() else {
            return Err(InvalidLayer::Weight { layer, weight });
        };
        if rows == 0 || columns == 0 {
            return Err(InvalidLayer::Weight { layer, weight });
        }
        let dtypes = [Some(dtype), self.bias.as_ref().map(Tensor::dtype)];
        if let Some(dtype) = dtypes.into_iter().flatten().find(|&dtype| !is_float(dtype)) {
            return Err(InvalidLayer::DType { layer, dtype });
        }
        match &self.bias {
            Some(bias) if bias.dims() != [rows] => {
                Err(InvalidLayer::Bias { layer, weight, bias: bias.dims().to_vec() })
            }
            _ => Ok([rows, columns]),
        }
    }

    /// One layer that returns what several return, one behind the other: `[..., in]` to
    /// `[..., sum of all out]`. Packed weights are unpacked; weights of several dtypes get one that
    /// holds them all, and so do biases.
    ///
    /// # Errors
    /// Layers of different inputs, of which only some have a bias, or none at all.
    pub fn stacked(layers: &[&Self]) -> Result<Self> {
        let weights = layers.iter().map(|layer| match layer.weight() {
            Weight::Tensor(weight) => Ok(weight.clone()),
            Weight::Packed(packed) => Tensor::cat(&packed.unpacked()?, 0),
        });
        let weight = cat(weights.collect::<Result<Vec<_>>>()?)?;
        Ok(Self::new(Weight::Tensor(weight), Self::stacked_biases(layers)?)?)
    }

    fn stacked_biases(layers: &[&Self]) -> Result<Option<Tensor>> {
        let biases: Vec<_> = layers.iter().filter_map(|layer| layer.bias().cloned()).collect();
        match biases.len() {
            0 => Ok(None),
            n if n == layers.len() => cat(biases).map(Some),
            _ => candle_core::bail!("either all stacked layers have a bias or none"),
        }
    }

    /// Several layers, each of which returns so many of the numbers that this one does, one behind the other.
    ///
    /// # Errors
    /// More than there are; of a packed weight, parts that do not start at multiples of 32.
    pub(crate) fn split(&self, rows: &[usize]) -> Result<Vec<Self>> {
        let starts = rows.iter().scan(0, |next, len| {
            *next += len;
            Some(*next - len)
        });
        let parts = || starts.clone().zip(rows);
        let weights = match &self.weight {
            Weight::Tensor(weight) => {
                matrix::split(weight, rows)?.into_iter().map(Weight::Tensor).collect()
            }
            packed => parts()
                .map(|(start, &len)| packed.narrow(start, len))
                .collect::<Result<Vec<_>>>()?,
        };
        let layers = weights.into_iter().zip(parts()).map(|(weight, (start, &len))| {
            let bias = self.bias.as_ref().map(|bias| bias.narrow(0, start, len)).transpose()?;
            Ok(Self::new(weight, bias)?)
        });
        layers.collect()
    }

    /// Its weight.
    pub fn weight(&self) -> &Weight {
        &self.weight
    }

    /// Its bias, `[out]`.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// The layer with a packed weight [frozen](Packed::frozen), a constant to a backward pass. Nothing
    /// is copied.
    pub fn frozen(&self) -> Self {
        Self { weight: self.weight.frozen(), bias: self.bias.clone() }
    }

    /// The layer with weight and bias in a dtype: [`Weight::to_dtype`].
    ///
    /// # Errors
    /// Of a packed weight, another dtype than f32, bf16 and f16; of a tensor, one that is not f64, f32,
    /// bf16 or f16.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        let bias = self.bias.as_ref().map(|bias| bias.to_dtype(dtype)).transpose()?;
        Ok(Self::new(self.weight.to_dtype(dtype)?, bias)?)
    }

    /// [`Self::stacked`], packed.
    ///
    /// # Errors
    /// Those of [`Self::stacked`] and [`Packed::new`].
    pub(crate) fn stacked_and_packed(layers: &[&Self]) -> Result<Self> {
        let tensors = layers.iter().map(|layer| match layer.weight() {
            Weight::Tensor(weight) => Some(weight),
            Weight::Packed(_) => None,
        });
        let Some(tensors) = tensors.collect::<Option<Vec<&Tensor>>>() else {
            return Self::stacked(layers)?.packed();
        };
        let matrices = tensors.into_iter().map(Matrix::of).collect::<Result<_>>()?;
        let weight = Packed::of(vec![Matrix::stacked(matrices)?])?;
        Ok(Self::new(Weight::Packed(weight), Self::stacked_biases(layers)?)?)
    }

    /// The layer with another tensor in place of its weight.
    ///
    /// # Errors
    /// A packed weight; those of `f`.
    pub(crate) fn map_tensor(&self, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let Weight::Tensor(weight) = &self.weight else {
            candle_core::bail!("the weight is packed already")
        };
        Ok(Self { weight: Weight::Tensor(f(weight)?), bias: self.bias.clone() })
    }

    /// The layer packed for inference on the CPU. Pack after training: a backward pass through a
    /// packed layer is an error, unless it is [frozen](Self::frozen).
    ///
    /// # Errors
    /// Those of [`Packed::new`].
    pub fn packed(&self) -> Result<Self> {
        Ok(Self { weight: self.weight.packed()?, bias: self.bias.clone() })
    }
}

impl Module for Linear {
    /// `[..., in]` to `[..., out]`: [`Weight::matmul`].
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.weight.matmul(xs, self.bias.as_ref())
    }
}

/// Whether a model that runs in a dtype on a device has its matrices packed when it is loaded.
#[doc(hidden)]
pub fn should_pack(dtype: DType, device: &Device) -> bool {
    matches!((dtype, device), (DType::F32 | DType::BF16 | DType::F16, Device::Cpu))
}

#[cfg(test)]
mod tests;
