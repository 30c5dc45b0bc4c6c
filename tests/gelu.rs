//! GELU in both forms and its derivatives: limits, shape, errors against the truth, and the same bits
//! however the numbers arrive.

use candle_core::{Device, Tensor, WithDType};
use gemma_mlp::gelu::measure::{Errors, Function, Measured, measure};
use gemma_mlp::{Activation, Float, Gelu, activate};
use half::{bf16, f16};
use proptest::prelude::*;

fn values<T: Float + Default>(activation: impl Into<Activation>, x: &[T]) -> Vec<T> {
    let mut y = vec![T::default(); x.len()];
    activation.into().values(x, &mut y);
    y
}

fn derivatives<T: Float + Default>(activation: impl Into<Activation>, x: &[T]) -> Vec<T> {
    let mut dy = vec![T::default(); x.len()];
    activation.into().derivatives(x, &mut dy);
    dy
}

fn of<T: Float + Default>(function: Function, x: &[T]) -> Vec<T> {
    if function.derivative { derivatives(function.gelu, x) } else { values(function.gelu, x) }
}

/// The errors of our functions on many numbers.
fn errors<T: Float + Default + Measured>(function: Function, x: impl Iterator<Item = T>) -> Errors {
    let x: Vec<T> = x.collect();
    x.chunks(1 << 16)
        .fold(Errors::default(), |errors, x| errors.and(measure(function, x, &of(function, x))))
}

fn all<T>(from_bits: impl Fn(u16) -> T) -> impl Iterator<Item = T> {
    (0..=u16::MAX).map(from_bits)
}

/// Every bf16 and every f16, subnormal or not: no other number of the type is nearer.
#[test]
fn halves_are_correctly_rounded() {
    for &function in Function::ALL {
        for errors in
            [errors(function, all(bf16::from_bits)), errors(function, all(f16::from_bits))]
        {
            assert!(errors.inputs > 63_000);
            assert_eq!((errors.misrounded, errors.not_finite), (0, 0), "{function}: {errors:?}");
        }
    }
}

/// One f32 in every 256, over all exponents: 2^24 of them. `examples/prove_gelu` takes them all.
#[test]
fn f32_is_within_an_ulp() {
    for &function in Function::ALL {
        let stratum = |i: u32| f32::from_bits((i << 8) + i.wrapping_mul(0x9e37_79b9) % 256);
        let errors = errors(function, (0..1 << 24).map(stratum));
        let exact = function == Function::ALL[0];
        assert!(errors.ulp <= if exact { 0.86 } else { 0.51 }, "{function}: {errors:?}");
        assert!(errors.zero < 2f64.powi(-28), "{function}: {errors:?}");
        assert_eq!(errors.not_finite, 0);
    }
}

#[test]
fn f64_is_within_four_ulp() {
    for &function in Function::ALL {
        let left = if function.gelu == Gelu::Exact { -35.0 } else { -19.0 };
        let x = (0..1_000_000).map(|i| left + (9.0 - left) * f64::from(i) / 999_999.7);
        let errors = errors(function, x);
        assert!(errors.ulp < 4.0 && errors.zero < 2f64.powi(-54), "{function}: {errors:?}");
    }
}

/// The harness tells a wrong function from a right one.
#[test]
fn the_other_form_does_not_pass() {
    let x: Vec<f32> = (-400..400).map(|i| i as f32 * 0.01).collect();
    let errors = measure(Function::ALL[0], &x, &values(Gelu::Tanh, &x));
    assert!(errors.ulp > 1000.0 && errors.misrounded > 500, "{errors:?}");
    let mut y = values(Gelu::Tanh, &x);
    y[7] = f32::NAN;
    assert_eq!(measure(Function::ALL[1], &x, &y).not_finite, 1);
}

#[test]
fn limits_signed_zeros_and_nan() {
    fn check<T: Float + Default + Measured>(of: impl Fn(f64) -> T) {
        let x = [f64::NEG_INFINITY, -1e4, -0.0, 0.0, 1e4, f64::INFINITY, f64::NAN].map(of);
        for &activation in Activation::ALL {
            let y: Vec<f64> = values(activation, &x).iter().map(|y| y.wide()).collect();
            let large = x[4].wide();
            assert_eq!(y[..6], [0.0, 0.0, 0.0, 0.0, large, f64::INFINITY], "{activation}");
            assert!(y[6].is_nan() && y[3].is_sign_positive(), "{activation}");
            if activation != Activation::Relu {
                assert!(y[..3].iter().all(|y| y.is_sign_negative()), "{activation}: {y:?}");
            }
            let dy: Vec<f64> = derivatives(activation, &x).iter().map(|y| y.wide()).collect();
            let at_0 = if activation == Activation::Relu { 0.0 } else { 0.5 };
            assert_eq!(dy[..6], [0.0, 0.0, at_0, at_0, 1.0, 1.0], "{activation}");
            assert!(dy[6].is_nan(), "{activation}");
        }
    }
    check(|x| x);
    check(|x| x as f32);
    check(bf16::from_f64);
    check(f16::from_f64);
}

/// Rounding correctly keeps the order; in f32 and f64 a neighbour may step back by an ULP.
#[test]
fn monotone_on_either_side_of_the_minimum() {
    for &gelu in Gelu::ALL {
        let minimum = if gelu == Gelu::Exact { -0.751_8 } else { -0.752_5 };
        let mut x: Vec<bf16> = all(bf16::from_bits).filter(|x| x.is_finite()).collect();
        x.sort_by(|a, b| a.total_cmp(b));
        let y = values(gelu, &x);
        for (x, y) in x.windows(2).zip(y.windows(2)) {
            let falling = x[1].to_f64() < minimum;
            let rising = x[0].to_f64() > minimum;
            assert!(!falling || y[1] <= y[0], "{gelu} at {}", x[0]);
            assert!(!rising || y[1] >= y[0], "{gelu} at {}", x[0]);
        }
    }
}

/// The figures of docs/gelu.md: where and how far the two forms differ.
#[test]
fn largest_differences() {
    let x: Vec<f64> = (0..2_000_000).map(|i| i as f64 * 5e-6).collect();
    let largest = |of: fn(Activation, &[f64]) -> Vec<f64>| {
        let (exact, tanh) = (of(Activation::EXACT, &x), of(Activation::TANH, &x));
        let difference = exact.iter().zip(&tanh).map(|(e, t)| (e - t).abs());
        difference.zip(&x).fold((0.0, 0.0), |a, (d, &x)| if d > a.0 { (d, x) } else { a })
    };
    let (value, at) = largest(values);
    assert!((value - 4.732e-4).abs() < 1e-7 && (at - 2.699).abs() < 1e-3, "{value} at {at}");
    let (value, at) = largest(derivatives);
    assert!((value - 8.68e-4).abs() < 1e-6 && (at - 2.02).abs() < 1e-2, "{value} at {at}");
}

/// What a tensor operation makes of numbers that do not lie next to each other.
fn strided<T: WithDType + Float>(activation: Activation, x: &[T]) -> Vec<T> {
    let pairs: Vec<T> = x.iter().flat_map(|&x| [x, T::zero()]).collect();
    let x = Tensor::from_vec(pairs, (x.len(), 2), &Device::Cpu).unwrap().narrow(1, 0, 1).unwrap();
    activate(&x, activation).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Slices of every length and alignment, single numbers and strided tensors: the same bits.
fn one_function<T: WithDType + Float + Default + Measured>(
    x: &[T],
    from: usize,
) -> Result<(), TestCaseError> {
    let bits = |y: &[T]| -> Vec<u64> { y.iter().map(|y| y.wide().to_bits()).collect() };
    let from = from.min(x.len());
    for &activation in Activation::ALL {
        let alone: Vec<T> = x.iter().map(|&x| values(activation, &[x])[0]).collect();
        let slice = values(activation, &x[from..]);
        prop_assert_eq!(bits(&slice), bits(&alone[from..]), "{}", activation);
        prop_assert_eq!(bits(&strided(activation, x)), bits(&alone), "{}", activation);
        let alone: Vec<T> = x.iter().map(|&x| derivatives(activation, &[x])[0]).collect();
        prop_assert_eq!(bits(&derivatives(activation, &x[from..])), bits(&alone[from..]));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn slice_scalar_and_strided_are_one(x in prop::collection::vec(-12f64..12.0, 0..300), from in 0usize..20) {
        one_function(&x, from)?;
        one_function(&x.iter().map(|&x| x as f32).collect::<Vec<_>>(), from)?;
        one_function(&x.iter().map(|&x| bf16::from_f64(x)).collect::<Vec<_>>(), from)?;
        one_function(&x.iter().map(|&x| f16::from_f64(x)).collect::<Vec<_>>(), from)?;
    }

    /// Farther apart than rounding reaches, f32 is monotone too.
    #[test]
    fn order_is_kept(x in -14f32..20.0, step in 1e-5f32..3.0) {
        for &gelu in Gelu::ALL {
            let [low, high] = [x, x + step * (1.0 + x.abs())];
            let y = values(gelu, &[low, high]);
            prop_assert!(high > -0.7517 || y[1] <= y[0] || low > -0.7526 , "{gelu} {low} {high}");
            prop_assert!(low < -0.7517 || y[1] >= y[0], "{gelu} {low} {high}");
        }
    }

    /// `|exact - tanh|` nowhere exceeds what is stated, in any type's own rounding.
    #[test]
    fn the_forms_stay_close(x in any::<f32>()) {
        prop_assume!(x.is_finite());
        let [exact, tanh] = [Gelu::Exact, Gelu::Tanh].map(|gelu| values(gelu, &[x])[0]);
        let rounding = 2.0 * f32::EPSILON * x.abs();
        prop_assert!((exact - tanh).abs() <= 4.7321e-4 + rounding.min(1e-6 * x.abs()), "{x}");
        let [exact, tanh] = [Gelu::Exact, Gelu::Tanh].map(|gelu| values(gelu, &[f64::from(x)])[0]);
        prop_assert!((exact - tanh).abs() <= 4.7321e-4, "{x}");
    }

    #[test]
    fn derivatives_are_what_differences_tell(x in -9f64..9.0) {
        let step = 1e-4;
        for &activation in Activation::ALL.iter().filter(|&&a| a != Activation::Relu) {
            let y = values(activation, &[x - 2.0 * step, x - step, x + step, x + 2.0 * step]);
            // Five points: off by step⁴ and by the values' rounding over step.
            let difference = (8.0 * (y[2] - y[1]) - (y[3] - y[0])) / (12.0 * step);
            let derivative = derivatives(activation, &[x])[0];
            prop_assert!((difference - derivative).abs() < 1e-10, "{activation} {x}");
        }
    }
}
