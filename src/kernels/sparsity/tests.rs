use super::*;
use candle_core::{Device, Var};
use proptest::prelude::*;

/// The dtypes, and what a rounded number may be off by relative to the largest of its row; those of
/// candle's operations, which compute in f32 where ours do in f64, behind.
const DTYPES: [(DType, f64, f64); 4] = [
    (DType::F64, 1e-14, 1e-14),
    (DType::F32, 6e-8, 4e-6),
    (DType::BF16, 0.00391, 0.00391),
    (DType::F16, 0.000_489, 0.000_493),
];

fn to_f64(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The bits of every number; all NaNs are alike.
fn bits(x: &Tensor) -> Vec<u64> {
    to_f64(x).into_iter().map(|x| if x.is_nan() { u64::MAX } else { x.to_bits() }).collect()
}

/// By its definition: how far the numbers of a row lie above the cutoff, and the gradient of what is
/// left of them, summed under weights.
fn defined(cutoff: Cutoff, row: &[f64], weights: &[f64]) -> [Vec<f64>; 2] {
    let (n, k) = (row.len() as f64, cutoff.multiplier);
    let divisor = n - cutoff.ddof as f64;
    let mean = row.iter().sum::<f64>() / n;
    let deviation = (row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / divisor).sqrt();
    let above: Vec<f64> = row.iter().map(|x| x - (mean + k * deviation)).collect();
    let derivative = |i: usize, j: usize| {
        f64::from(u8::from(i == j)) - 1.0 / n - k * (row[j] - mean) / (divisor * deviation)
    };
    let left = |j| (0..row.len()).filter(|&i| above[i] > 0.0).map(move |i| (i, j));
    let gradient = |j| left(j).map(|(i, j)| weights[i] * derivative(i, j)).sum();
    let gradients = (0..row.len()).map(gradient).collect();
    [above, gradients]
}

/// What is left, and the gradient of its sum under weights.
fn results(
    x: &Tensor,
    weights: &Tensor,
    rectify: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<[Tensor; 2]> {
    let x = Var::from_tensor(x)?;
    let y = rectify(&x)?;
    let mut gradients = (&y * weights)?.sum_all()?.backward()?;
    let gradient = gradients.remove(&x).ok_or_else(|| Error::Msg("no gradient".into()))?;
    Ok([y.detach(), gradient])
}

fn largest(v: &[f64]) -> f64 {
    v.iter().fold(0f64, |max, x| x.abs().max(max))
}

proptest! {
    /// Rows of any width, by the kernel and by candle's operations, forward and backward, in all dtypes.
    #[test]
    fn as_defined(
        rows in 1usize..4, width in 2usize..70, salt in 0.0..100.0f64, scale in 0.01..100.0f64,
        offset in -3.0..3.0f64, multiplier in -2.0..2.0f64, ddof in 0usize..2,
    ) {
        let cutoff = Cutoff { multiplier, ddof };
        let numbers = |salt: f64, scale: f64, offset: f64| -> Vec<f64> {
            let number = |i| scale * (((i as f64 * 1.37 + salt) * 12.9898).sin() + offset);
            (0..rows * width).map(number).collect()
        };
        for (dtype, ours, composed) in DTYPES {
            let tensor = |v| Tensor::from_vec(v, (rows, width), &Device::Cpu)?.to_dtype(dtype);
            let x = tensor(numbers(salt, scale, offset))?;
            let weights = tensor(numbers(salt + 7.7, 1.0, 0.0))?;
            let by_kernel = results(&x, &weights, |x| cutoff.rectify(x))?;
            let by_candle = results(&x, &weights, |x| cutoff.composed(x))?;
            for row in 0..rows {
                let of_row = |t: &Tensor| Ok::<_, Error>(to_f64(&t.get(row)?));
                let (x, weights) = (of_row(&x)?, of_row(&weights)?);
                let [above, gradient] = defined(cutoff, &x, &weights);
                let left: Vec<f64> = above.iter().map(|x| x.max(0.0)).collect();
                let near = |ours: &[f64], expected: &[f64], bound: f64| {
                    ours.iter().zip(expected).all(|(a, b)| (a - b).abs() <= bound)
                };
                // Whether a number as near as this to the cutoff is left is an accident of rounding.
                let scale = largest(&x).max(largest(&above));
                let on_edge = above.iter().any(|d| d.abs() < 1e-5 * scale);
                // Nearly constant rows have a gradient that no sum in f32 tells.
                let spread = x.iter().any(|&a| (a - x[0]).abs() > 0.1 * largest(&x));
                for (results, bound) in [(&by_kernel, ours), (&by_candle, composed)] {
                    let (y, dx) = (of_row(&results[0])?, of_row(&results[1])?);
                    prop_assert!(near(&y, &left, bound * scale), "{dtype:?}: {y:?} {left:?}");
                    let bound = 8.0 * bound * largest(&gradient).max(1.0);
                    let told = on_edge || !spread || near(&dx, &gradient, bound);
                    prop_assert!(told, "{dtype:?}: {dx:?} {gradient:?}");
                }
            }
        }
    }

    /// A row has the bits that it has alone, out of a view, and without a gradient, and those that its
    /// sums in order give it without any vectors.
    #[test]
    fn the_same_bits(rows in 1usize..9, width in 1usize..70, salt in 0.0..100.0f64, ddof in 0usize..2) {
        let cutoff = Cutoff { multiplier: 0.7, ddof };
        let count = rows * width;
        let numbers = (0..count).map(|i| ((i as f64 + salt) * 12.9898).sin()).collect::<Vec<_>>();
        for (dtype, ..) in DTYPES {
            let x = Tensor::from_slice(&numbers, (rows, width), &Device::Cpu)?.to_dtype(dtype)?;
            let y = cutoff.rectify(&x)?;
            prop_assert_eq!(y.dims(), x.dims());
            prop_assert_eq!(y.dtype(), dtype);
            let view = x.t()?.contiguous()?.t()?;
            prop_assert_eq!(bits(&cutoff.rectify(&view)?), bits(&y));
            prop_assert_eq!(bits(&cutoff.rectify(Var::from_tensor(&x)?.as_tensor())?), bits(&y));
            for row in 0..rows {
                prop_assert_eq!(bits(&cutoff.rectify(&x.get(row)?)?), bits(&y.get(row)?));
                let x = to_f64(&x.get(row)?);
                let sum = |f: &dyn Fn(f64) -> f64| {
                    let mut lanes = [0f64; 16];
                    x.iter().enumerate().for_each(|(i, &x)| lanes[i % 16] += f(x));
                    lanes.iter().sum::<f64>()
                };
                let mean = x[0] + sum(&|a| a - x[0]) / width as f64;
                let squares = sum(&|a| (a - mean) * (a - mean));
                let deviation = (squares / (width as f64 - ddof as f64)).sqrt();
                let above = x.iter().map(|x| x - (mean + deviation * 0.7));
                let left = above.map(|d| if d <= 0.0 { 0.0 } else { d }).collect::<Vec<_>>();
                let expected = Tensor::new(left, &Device::Cpu)?;
                // Rounded by the loops that tests of their own prove.
                let rounded = match dtype {
                    DType::F64 | DType::F32 => expected.to_dtype(dtype)?,
                    _ => continue,
                };
                prop_assert_eq!(bits(&rounded), bits(&y.get(row)?));
            }
        }
    }
}

/// Long rows, and enough of them for several threads: the same bits in pools of any size.
#[test]
fn threads_do_not_matter() -> Result<()> {
    let cutoff = Cutoff { multiplier: 1.6448536, ddof: 0 };
    let (rows, width) = if cfg!(miri) { (3, 100) } else { (37, 5003) };
    let x = Tensor::randn(0f32, 3., (rows, width), &Device::Cpu)?;
    let weights = Tensor::randn(0f32, 1., (rows, width), &Device::Cpu)?;
    let both = || results(&x, &weights, |x| cutoff.rectify(x)).map(|both| both.map(|t| bits(&t)));
    let expected = both()?;
    for threads in 1..4 {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        assert_eq!(pool.map_err(Error::wrap)?.install(both)?, expected);
    }
    Ok(())
}

/// What PyTorch 2.15 returns of rows that are out of the ordinary, and its gradients.
#[test]
fn odd_rows() -> Result<()> {
    let (nan, infinity) = (f64::NAN, f64::INFINITY);
    let cutoff = Cutoff { multiplier: f64::from(1.644_853_6f32), ddof: 0 };
    for (dtype, ..) in DTYPES {
        for by_kernel in [true, false] {
            let rectify = if by_kernel { Cutoff::rectify } else { Cutoff::composed };
            let of = |cutoff: Cutoff, row: &[f64]| -> Result<[Vec<u64>; 2]> {
                let x = Tensor::new(row, &Device::Cpu)?.to_dtype(dtype)?;
                let both = results(&x, &x.ones_like()?, |x| rectify(cutoff, x))?;
                Ok(both.map(|t| bits(&t)))
            };
            let all = |row: &[f64], x: f64| {
                let bits = if x.is_nan() { u64::MAX } else { x.to_bits() };
                [vec![bits; row.len()], vec![bits; row.len()]]
            };
            for row in [[1.0, nan, 3.0], [1.0, infinity, 3.0], [1.0, -infinity, 3.0]] {
                assert_eq!(of(cutoff, &row)?, all(&row, nan), "{dtype:?} {row:?}");
            }
            // Where all are equal nothing is left, and no gradient.
            let (long, one) = ([0.1; 77], [5.0]);
            for row in [&one[..], &[2.0; 3], &[0.0; 4]] {
                assert_eq!(of(cutoff, row)?, all(row, 0.0), "{dtype:?} {row:?}");
            }
            // The mean of these is rounded on the way where candle's operations take it.
            if by_kernel {
                assert_eq!(of(cutoff, &long)?, all(&long, 0.0), "{dtype:?}");
            }
            // A sample of one has no deviation.
            assert_eq!(of(Cutoff { ddof: 1, ..cutoff }, &one)?, all(&one, nan), "{dtype:?}");
        }
    }
    Ok(())
}

/// The squares of these are beyond f32. PyTorch's deviation is infinite for some lengths and not for
/// others; ours never is.
#[test]
fn large_numbers_do_not_overflow() -> Result<()> {
    let cutoff = Cutoff { multiplier: 0.5, ddof: 0 };
    for dtype in [DType::F32, DType::BF16] {
        let x = Tensor::new(&[3e38f64, -3e38, 1e38, 2e38], &Device::Cpu)?.to_dtype(dtype)?;
        let [above, gradient] = defined(cutoff, &to_f64(&x), &[1.0; 4]);
        let [y, dx] = results(&x, &x.ones_like()?, |x| cutoff.rectify(x))?;
        for ((y, dx), (above, gradient)) in
            to_f64(&y).iter().zip(to_f64(&dx)).zip(above.iter().zip(gradient))
        {
            assert!((y - above.max(0.0)).abs() <= 0.004 * above.abs(), "{dtype:?}: {y} {above}");
            assert!((dx - gradient).abs() <= 0.01, "{dtype:?}: {dx} {gradient}");
        }
    }
    Ok(())
}

#[test]
fn shapes_and_dtypes() -> Result<()> {
    let cutoff = Cutoff { multiplier: 1.0, ddof: 0 };
    for dims in [&[0usize][..], &[0, 3], &[2, 0], &[2, 0, 3]] {
        let x = Tensor::zeros(dims, DType::F32, &Device::Cpu)?;
        assert_eq!(cutoff.rectify(&x)?.dims(), dims);
    }
    assert!(cutoff.rectify(&Tensor::new(1f32, &Device::Cpu)?).is_err());
    assert!(cutoff.rectify(&Tensor::zeros((2, 3), DType::U32, &Device::Cpu)?).is_err());
    Ok(())
}
