use super::kernel::PanelMatmul;
use super::stored::{Columns, Stored};
use super::*;
use candle_core::{Device, Var};
use half::{bf16, f16};
use proptest::prelude::*;
use pulp::Scalar;

const DTYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

fn random(shape: impl Into<candle_core::Shape>, dtype: DType) -> Result<Tensor> {
    Tensor::randn(0f32, 1., shape, &Device::Cpu)?.to_dtype(dtype)
}

fn bits(t: &Tensor) -> Result<Vec<u32>> {
    let numbers: Vec<f32> = t.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    Ok(numbers.into_iter().map(f32::to_bits).collect())
}

/// The product and the sum of its terms' magnitudes, in f64.
fn truth(x: &Tensor, weight: &Tensor) -> Result<[Vec<f64>; 2]> {
    let (x, weight) = (x.to_dtype(DType::F64)?, weight.to_dtype(DType::F64)?);
    let product = |x: &Tensor, weight: &Tensor| x.matmul(&weight.t()?)?.flatten_all()?.to_vec1();
    Ok([product(&x, &weight)?, product(&x.abs()?, &weight.abs()?)?])
}

/// Half a unit in the last place of a number, relative to it.
fn half_ulp(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 2f64.powi(-8),
        DType::F16 => 2f64.powi(-11),
        _ => 0.0,
    }
}

/// The largest dimension that is tried.
const MOST: usize = if cfg!(miri) { 40 } else { 70 };

proptest! {
    // Miri takes its time.
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 64 }))]

    /// Any shape, any dtype on either side, any strides: within the bound, with the same bits for a
    /// row alone, for the weights widened to f32, and for a part of the rows.
    #[test]
    fn products(
        (rows, columns, out) in (0..=MOST, 1..=MOST, 1..=MOST),
        long in prop_oneof![Just(0), MOST..=MOST * MOST / 8],
        (of_x, of_weight) in (0usize..3, 0usize..3),
        offset in 0usize..3,
        transposed in any::<bool>(),
    ) {
        let columns = columns + long;
        let check = || -> Result<()> {
            let weight = match transposed {
                true => random((columns, out + offset), DTYPES[of_weight])?.t()?,
                false => random((out + offset, columns), DTYPES[of_weight])?,
            };
            let weight = weight.narrow(0, offset, out)?;
            let x = match transposed {
                true => random((columns, rows + offset), DTYPES[of_x])?.t()?,
                false => random((rows + offset, columns), DTYPES[of_x])?,
            };
            let x = x.narrow(0, offset, rows)?;
            let packed = Weight::Tensor(weight.clone()).packed()?;
            assert_eq!(bits(&packed.to_tensor(DType::F32)?)?, bits(&weight)?);

            let wide = x.to_dtype(DType::F32)?;
            let y = packed.matmul(&wide, None)?;
            let [right, magnitude] = truth(&x, &weight)?;
            for (y, half_ulp) in [(&y, 0.0), (&packed.matmul(&x, None)?, half_ulp(x.dtype()))] {
                assert_eq!(y.dims(), [rows, out]);
                let sums: Vec<f64> = y.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
                for ((&sum, &right), &magnitude) in sums.iter().zip(&right).zip(&magnitude) {
                    let bound = 2.0 * (columns as f64).sqrt() * 2f64.powi(-24) * magnitude;
                    let rounded = bound + half_ulp * (right.abs() + bound) + 2f64.powi(-25);
                    let bound = if half_ulp == 0.0 { bound } else { rounded };
                    assert!((sum - right).abs() <= bound, "{sum} {right} {bound:e}");
                }
            }
            let widened = Weight::Tensor(weight.to_dtype(DType::F32)?).packed()?;
            assert_eq!(bits(&widened.matmul(&wide, None)?)?, bits(&y)?);
            for x in [&wide, &x] {
                let all = packed.matmul(x, None)?;
                assert_eq!(all.dtype(), x.dtype());
                for row in (0..rows).step_by(9) {
                    let alone = packed.matmul(&x.narrow(0, row, 1)?, None)?;
                    assert_eq!(bits(&alone)?, bits(&all.narrow(0, row, 1)?)?);
                }
            }
            if out > 32 && rows > 0 {
                let some = packed.narrow(32, out - 32)?.matmul(&wide, None)?;
                assert_eq!(bits(&some)?, bits(&y.narrow(1, 32, out - 32)?)?);
            }
            Ok(())
        };
        check().unwrap();
    }

    /// A product has the same sums on every instruction set that this machine has; without fused
    /// multiplication they are near.
    #[test]
    fn instruction_sets_agree(rows in 1usize..40, steps in 1usize..600, seed in any::<u32>()) {
        fn check<W: Stored>(rows: usize, steps: usize, seed: u32, of: impl Fn(f32) -> W) {
            let number = |i: usize| {
                let hash = (i as u32).wrapping_add(seed).wrapping_mul(0x9e37_79b9);
                (hash >> 8) as f32 / (1 << 24) as f32 - 0.5
            };
            let columns = |i: usize| {
                let mut columns = Columns::ZEROS;
                for row in 0..PANEL {
                    let at = |k: usize| of(number((2 * i + k) * PANEL + row));
                    W::set(&mut columns, row, &[at(0), at(1)]);
                }
                columns
            };
            let panels: Vec<_> = (0..2 * steps).map(columns).collect();
            let tiles = steps.div_ceil(TILE / W::WIDTH) * rows;
            let x: Vec<[f32; TILE]> =
                (0..tiles).map(|t| std::array::from_fn(|i| number(t * TILE + i + 7))).collect();
            let sums = |run: &dyn Fn(PanelMatmul<W, f32>)| {
                let width = 2 * PANEL;
                let mut sums = vec![0.0; rows * width];
                run(PanelMatmul { x: &x, rows, panels: &panels, steps, sums: &mut sums, width });
                sums
            };
            let best = sums(&|product| product.add());
            let portable = sums(&|product| pulp::WithSimd::with_simd(product, Scalar));
            for (best, portable) in best.iter().zip(&portable) {
                assert!((best - portable).abs() < 1e-5 * (steps as f32), "{best} {portable}");
            }
            #[cfg(target_arch = "x86_64")]
            if let Some(simd) = pulp::x86::V3::try_new() {
                assert_eq!(sums(&|product| pulp::Simd::vectorize(simd, product)), best);
            }
        }
        check::<f32>(rows, steps, seed, |x| x);
        check::<bf16>(rows, steps, seed, bf16::from_f32);
        check::<f16>(rows, steps, seed, f16::from_f32);
    }
}

/// All f16, subnormals, infinities and NaN among them, and all bf16.
#[test]
fn weights_are_widened_exactly() -> Result<()> {
    let all = 1 << 16;
    let halves = (0..=u16::MAX).map(f16::from_bits).collect::<Vec<_>>();
    let bf16s = (0..=u16::MAX).map(bf16::from_bits).collect::<Vec<_>>();
    let one = Tensor::ones((1, 1), DType::F32, &Device::Cpu)?;
    for weight in [
        Tensor::from_vec(halves, (all, 1), &Device::Cpu)?,
        Tensor::from_vec(bf16s, (all, 1), &Device::Cpu)?,
    ] {
        let product = Packed::new(&weight).map(Weight::Packed)?.matmul(&one, None)?;
        let product: Vec<f32> = product.flatten_all()?.to_vec1()?;
        let right: Vec<f32> = weight.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        for (product, right) in product.iter().zip(&right) {
            assert!(product == right || product.is_nan() && right.is_nan(), "{product} {right}");
        }
    }
    Ok(())
}

/// NaN and infinities reach what they are multiplied into, and nothing else: neither other rows nor
/// what pads odd sizes.
#[test]
fn nonfinite_numbers_pass_through() -> Result<()> {
    for (columns, out) in [(33, 35), (1, 1), (513, 40)] {
        for special in [f32::NAN, f32::INFINITY] {
            let weight = Tensor::ones((out, columns), DType::F32, &Device::Cpu)?;
            let mut x = vec![1f32; 3 * columns];
            x[columns + columns / 2] = special;
            let x = Tensor::from_vec(x, (3, columns), &Device::Cpu)?;
            let y = Weight::Tensor(weight).packed()?.matmul(&x, None)?.to_vec2::<f32>()?;
            assert!(y[0].iter().chain(&y[2]).all(|&y| y == columns as f32));
            assert!(
                y[1].iter()
                    .all(|y| y.to_bits() == special.to_bits() || y.is_nan() && special.is_nan())
            );
        }
    }
    Ok(())
}

#[test]
fn bits_do_not_depend_on_threads() -> Result<()> {
    let weight = Weight::Tensor(random((333, 300), DType::BF16)?).packed()?;
    let x = random((50, 300), DType::F32)?;
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.map_err(candle_core::Error::wrap)?.install(|| bits(&weight.matmul(&x, None)?))
    };
    let one = on(1)?;
    for threads in [2, 3, 7] {
        assert_eq!(on(threads)?, one);
    }
    Ok(())
}

#[test]
fn bias_rank_and_dtype() -> Result<()> {
    for packed in [false, true] {
        let layer =
            Linear::new(Weight::Tensor(random((5, 8), DType::F32)?), Some(random(5, DType::F32)?))?;
        let layer = if packed { layer.packed()? } else { layer };
        for dims in [&[8][..], &[0, 8], &[2, 3, 8], &[2, 1, 20, 8]] {
            let x = random(dims, DType::BF16)?;
            let y = layer.forward(&x)?;
            assert_eq!((y.dtype(), y.dims().last()), (DType::BF16, Some(&5)));
            let wide = layer.forward(&x.to_dtype(DType::F32)?)?.to_dtype(DType::BF16)?;
            assert_eq!(bits(&y)?, bits(&wide)?);
        }
        assert!(layer.forward(&random((2, 7), DType::F32)?).is_err());
    }
    Ok(())
}

/// A backward pass through a packed weight is an error, unless the weight is said to be a constant: then
/// the gradient goes through to the input.
#[test]
fn input_gradient() -> Result<()> {
    let weight = random((5, 8), DType::BF16)?;
    let x = Var::from_tensor(&random((3, 8), DType::F32)?)?;
    let pull = random((3, 5), DType::F32)?;
    let gradient = |y: Tensor| -> Result<Tensor> {
        let gradients = (y * &pull)?.sum_all()?.backward()?;
        Ok(gradients.get(&x).expect("x takes part").clone())
    };
    let packed = Weight::Tensor(weight.clone()).packed()?;
    let error = gradient(packed.matmul(&x, None)?).unwrap_err().to_string();
    assert!(error.contains("pack after training"), "{error}");
    let ours = gradient(packed.frozen().matmul(&x, None)?)?;
    let candles = gradient(x.matmul(&weight.to_dtype(DType::F32)?.t()?)?)?;
    let difference = (ours - candles)?.abs()?.max_all()?.to_scalar::<f32>()?;
    assert!(difference < 1e-5, "{difference}");
    Ok(())
}

#[test]
fn rows_can_be_looked_up() -> Result<()> {
    for dtype in DTYPES {
        let weight = random((100, 7), dtype)?;
        let packed = Weight::Tensor(weight.clone()).packed()?;
        let ids = Tensor::new(&[99u32, 0, 31, 32, 31], &Device::Cpu)?;
        let (ours, candles) = (packed.index_select(&ids)?, weight.index_select(&ids, 0)?);
        assert_eq!((ours.dtype(), bits(&ours)?), (dtype, bits(&candles)?));
        assert!(packed.index_select(&Tensor::new(&[100u32], &Device::Cpu)?).is_err());
        assert!(packed.narrow(64, 37).is_err() && packed.narrow(5, 1).is_err());
    }
    Ok(())
}

/// A table that is in several pieces, beside the same in memory.
#[test]
fn tables_in_files_are_multiplied_piece_by_piece() -> Result<()> {
    let weight = Tensor::randn(0f32, 1., (1003, 40), &Device::Cpu)?;
    let bias = Tensor::randn(0f32, 1., 1003, &Device::Cpu)?;
    let numbers = |tensor: Tensor| tensor.to_dtype(DType::F32)?.to_vec2::<f32>();
    for dtype in [DType::F32, DType::BF16] {
        let memory = Weight::Tensor(weight.to_dtype(dtype)?).packed()?;
        let file = Weight::Tensor(weight.to_dtype(dtype)?).table()?;
        let x = Tensor::randn(0f32, 1., (3, 40), &Device::Cpu)?;
        let ids = Tensor::new(&[0u32, 1, 2, 1002, 7, 7, 8], &Device::Cpu)?;
        let all = |weight: &Weight| -> Result<_> {
            let some = weight.narrow(96, 500)?;
            let products = [weight.matmul(&x, Some(&bias))?, some.matmul(&x, None)?];
            let rows = [weight.index_select(&ids)?, some.to_tensor(DType::F32)?];
            products.into_iter().chain(rows).map(numbers).collect::<Result<Vec<_>>>()
        };
        assert_eq!(all(&memory)?, all(&file)?);
    }
    Ok(())
}
