//! Matrix products with packed weights as a candle operation.

use super::packed::{Packed, in_pieces};
use super::panels::{Panels, rows_at_a_time};
use super::stored::PANEL;
use crate::kernels::number::Float;
use crate::kernels::operands::slice;
use crate::kernels::threads;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, D, DType, Error, Layout, Result, Shape, Tensor};
use half::{bf16, f16};

/// `x·weightᵀ + bias` for each matrix of a packed weight: `[rows, in]` to `[parts, rows, out]`, in
/// the dtype of x; a bias is `[out]`, or `[parts, out]`.
pub fn packed_matmul(weight: &Packed, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let bias = match bias {
        Some(bias) => Some(bias.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?),
        None => None,
    };
    let (found, expected) = (bias.as_ref().map(Vec::len), weight.parts() * weight.out_features());
    if found.is_some_and(|found| found != expected) {
        candle_core::bail!("a bias of {} numbers for {expected} rows", found.unwrap_or_default())
    }
    product(weight, &x.contiguous()?, bias, false)
}

/// `x·weightᵀ` for the matrix of a packed weight, `[rows, in]` to `[rows, out]`, in f32: the sums as they are.
pub fn packed_matmul_wide(weight: &Packed, x: &Tensor) -> Result<Tensor> {
    product(weight, &x.contiguous()?, None, true)?.get(0)
}

/// The product with every matrix of a weight; with a table in a file it is made piece by piece.
fn product(weight: &Packed, x: &Tensor, bias: Option<Vec<f32>>, wide: bool) -> Result<Tensor> {
    if !weight.is_table() {
        return x.apply_op1(Matmul { weight: weight.clone(), bias, wide });
    }
    let mut products = vec![];
    in_pieces(&[weight], PANEL, |first, pieces| {
        let weight = &pieces[0];
        let bias = bias.as_ref().map(|bias| bias[first..][..weight.out_features()].to_vec());
        products.push(x.apply_op1(Matmul { weight: weight.clone(), bias, wide })?);
        Ok::<_, Error>(())
    })?;
    Tensor::cat(&products, D::Minus1)
}

struct Matmul {
    weight: Packed,
    bias: Option<Vec<f32>>,
    /// Whether the product stays in f32.
    wide: bool,
}

impl CustomOp1 for Matmul {
    fn name(&self) -> &'static str {
        "packed-matmul"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = layout.shape().dims2()?;
        if width != self.weight.in_features() {
            let columns = self.weight.in_features();
            candle_core::bail!("an input of width {width} for a weight of {columns} columns")
        }
        let panels = &self.weight.panels()?;
        let y = match x {
            CpuStorage::F32(_) => self.matmul::<f32, f32>(panels, slice(x, layout)?),
            CpuStorage::BF16(_) if self.wide => self.matmul::<bf16, f32>(panels, slice(x, layout)?),
            CpuStorage::BF16(_) => self.matmul::<bf16, bf16>(panels, slice(x, layout)?),
            CpuStorage::F16(_) if self.wide => self.matmul::<f16, f32>(panels, slice(x, layout)?),
            CpuStorage::F16(_) => self.matmul::<f16, f16>(panels, slice(x, layout)?),
            _ => Err(Error::UnsupportedDTypeForOp(x.dtype(), "packed-matmul")),
        };
        Ok((y?, Shape::from((self.weight.parts(), rows, self.weight.out_features()))))
    }

    /// The input's gradient, `Σ gradient·weight` over the matrices, if these are meant to stay.
    fn bwd(&self, x: &Tensor, _y: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        if !self.weight.is_frozen() {
            candle_core::bail!(
                "packed weights do not train: pack after training, or call frozen() on the packed \
                 layer to go through it to its input"
            )
        }
        let mut sum = Tensor::zeros(x.shape(), DType::F32, x.device())?;
        for (part, weight) in self.weight.unpacked()?.into_iter().enumerate() {
            let gradient = gradient.get(part)?.to_dtype(DType::F32)?; // [rows, out]
            sum = (sum + gradient.contiguous()?.matmul(&weight.to_dtype(DType::F32)?)?)?;
        }
        sum.to_dtype(x.dtype()).map(Some)
    }
}

impl Matmul {
    fn matmul<T: Float, Y: Float>(&self, panels: &Panels, x: &[T]) -> Result<CpuStorage> {
        let width = self.weight.in_features();
        let rows = x.len().checked_div(width).unwrap_or(0);
        let mut y = vec![Y::zero(); self.weight.parts() * rows * self.weight.out_features()];
        let bias = self.bias.as_deref();
        let at_a_time = rows_at_a_time(width);
        threads::operation(|| {
            for (i, some) in x.chunks((at_a_time * width).max(1)).enumerate() {
                let row_of = |part: usize, row: usize| part * rows + i * at_a_time + row;
                panels.with_rows(some, |some| panels.matmul(some, bias, &mut y, row_of));
            }
        });
        Ok(Y::to_cpu_storage_owned(y))
    }
}
