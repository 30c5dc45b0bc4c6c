//! Matrix products with weights that stay, in the weights' precision.

mod few;

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::Linear;

/// `xs·weightᵀ + bias` over the last dimension of a tensor of any rank, `[..., in]` to
/// `[..., out]`.
///
/// The product is taken in the weight's dtype and rounded once to that of `xs`. A half-precision
/// model on the CPU holds its weights widened to f32, which is exact, and so sums in f32.
///
/// # Errors
/// A last dimension that is not the weight's.
pub fn linear(layer: &Linear, xs: &Tensor) -> Result<Tensor> {
    let weight = layer.weight();
    let width = xs.dim(D::Minus1)?;
    let rows = xs.elem_count().checked_div(width).unwrap_or(0);
    let wide = xs.reshape((rows, width))?.to_dtype(weight.dtype())?; // [rows, in]
    let product = product(&wide, weight)?; // [rows, out]
    let biased = match layer.bias() {
        Some(bias) => product.broadcast_add(bias)?,
        None => product,
    };
    let dims = [&xs.dims()[..xs.rank() - 1], &biased.dims()[1..]].concat();
    biased.to_dtype(xs.dtype())?.reshape(dims)
}

/// `x·weightᵀ`: `[rows, in]` by `[out, in]` to `[rows, out]`.
fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let tracked = x.track_op() || weight.track_op();
    let on_cpu = matches!(x.device(), Device::Cpu) && x.dtype() == DType::F32;
    if on_cpu && !tracked && (1..=few::ROWS).contains(&x.dim(0)?) && weight.is_contiguous() {
        return few::product(x, weight);
    }
    x.matmul(&weight.t()?)
}

/// The dtype in which a model that runs in `dtype` holds its weights on a device: on the CPU, half
/// types are widened once at load, as candle's products there would on every call.
pub fn held_dtype(dtype: DType, device: &Device) -> DType {
    match (dtype, device) {
        (DType::BF16 | DType::F16, Device::Cpu) => DType::F32,
        _ => dtype,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_rows_agree_with_the_matrix_product_and_with_one_another() -> Result<()> {
        for (columns, out) in [(1, 1), (7, 5), (16, 33), (70, 130), (640, 70)] {
            let weight = Tensor::randn(0f32, 1., (out, columns), &Device::Cpu)?;
            let x = Tensor::randn(0f32, 1., (few::ROWS + 3, columns), &Device::Cpu)?;
            for rows in 1..few::ROWS + 3 {
                let ours = product(&x.narrow(0, 1, rows)?, &weight)?;
                let theirs = x.narrow(0, 1, rows)?.matmul(&weight.t()?)?;
                let difference = (&ours - theirs)?.abs()?.max_all()?.to_scalar::<f32>()?;
                assert!(difference < 1e-6 * columns as f32, "{rows} {columns} {out}");
                if rows <= few::ROWS {
                    let alone = product(&x.narrow(0, 1, 1)?, &weight)?;
                    let first = ours.narrow(0, 0, 1)?;
                    assert_eq!(first.to_vec2::<f32>()?, alone.to_vec2::<f32>()?);
                }
            }
        }
        Ok(())
    }

    #[test]
    fn bias_rank_and_dtype() -> Result<()> {
        let weight = Tensor::randn(0f32, 1., (5, 8), &Device::Cpu)?;
        let bias = Tensor::randn(0f32, 1., 5, &Device::Cpu)?;
        let layer = Linear::new(weight, Some(bias));
        for dims in [&[8][..], &[0, 8], &[2, 3, 8], &[2, 1, 20, 8]] {
            let x = Tensor::randn(0f32, 1., dims, &Device::Cpu)?.to_dtype(DType::BF16)?;
            let y = linear(&layer, &x)?;
            assert_eq!((y.dtype(), y.dims().last()), (DType::BF16, Some(&5)));
            let wide = linear(&layer, &x.to_dtype(DType::F32)?)?.to_dtype(DType::BF16)?;
            let bits = |t: &Tensor| t.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
            assert_eq!(bits(&y)?, bits(&wide)?);
        }
        Ok(())
    }
}
