use super::*;
use crate::kernels::number::Float;
use candle_core::{DType, Error, Var};
use half::{bf16, f16};
use proptest::prelude::*;

const DTYPES: [DType; 4] = [DType::F32, DType::F64, DType::BF16, DType::F16];

fn to_f64(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Forward and both gradients, each as f64, for a loss of `sum(geglu · weights)`.
fn forward_backward(
    f: impl Fn(&Tensor, &Tensor) -> Result<Tensor>,
    gate: &Tensor,
    up: &Tensor,
    weights: &Tensor,
) -> Result<[Vec<f64>; 3]> {
    let (gate, up) = (Var::from_tensor(gate)?, Var::from_tensor(up)?);
    let y = f(&gate, &up)?;
    let grads = (&y * weights)?.sum_all()?.backward()?;
    let grad = |v: &Var| to_f64(grads.get(v).expect("a gradient"));
    Ok([to_f64(&y), grad(&gate), grad(&up)])
}

fn grid(dtype: DType) -> Result<(Tensor, Tensor, Tensor)> {
    let n = 3 * 1000;
    let at = |f: &dyn Fn(f64) -> f64| {
        Tensor::from_vec((0..n).map(|i| f(i as f64)).collect::<Vec<f64>>(), n, &Device::Cpu)?
            .to_dtype(dtype)
    };
    Ok((at(&|i| (i - 1500.0) * 0.011)?, at(&|i| (i * 0.7).sin() * 3.0)?, at(&|i| (i * 1.3).cos())?))
}

#[test]
fn composed_equals_the_kernels_forward_and_backward() -> Result<()> {
    for dtype in DTYPES {
        let (gate, up, w) = grid(dtype)?;
        // One unit in the last place of the dtype; f64's only bound is that of candle's erf.
        let (relative, absolute) = match dtype {
            DType::BF16 => (2f64.powi(-7), 1e-6),
            DType::F16 => (2f64.powi(-10), 1e-6),
            DType::F32 => (1e-5, 1e-5),
            _ => (1e-9, 1e-9),
        };
        for &act in Activation::ALL {
            let ours = forward_backward(|g, u| geglu(g, u, act), &gate, &up, &w)?;
            let other = forward_backward(|g, u| composed::geglu(g, u, act), &gate, &up, &w)?;
            for (ours, other) in ours.iter().zip(&other) {
                for (i, (a, b)) in ours.iter().zip(other).enumerate() {
                    let tolerance = absolute + relative * a.abs();
                    assert!((a - b).abs() <= tolerance, "{act} {dtype:?} [{i}]: {a} {b}");
                }
            }
            let alone = to_f64(&activate(&gate, act)?);
            let other = to_f64(&composed::activate(&gate, act)?);
            assert!(
                alone
                    .iter()
                    .zip(&other)
                    .all(|(a, b)| (a - b).abs() <= absolute + relative * a.abs())
            );
        }
    }
    Ok(())
}

/// Both forms at once: the bits and the gradients of each alone.
#[test]
fn a_pair_is_both() -> Result<()> {
    for dtype in DTYPES {
        let (gate, up, w) = grid(dtype)?;
        let (gate, up) = (Var::from_tensor(&gate)?, Var::from_tensor(&up)?);
        let pair = geglu_pair(&gate, &up)?;
        let weights = Tensor::stack(&[&w, &(&w * 0.5)?], 0)?;
        let of_pair = (&pair * &weights)?.sum_all()?.backward()?;
        let [exact, tanh] = [Gelu::Exact, Gelu::Tanh].map(|gelu| geglu(&gate, &up, gelu));
        let alone = Tensor::stack(&[exact?, tanh?], 0)?;
        assert_eq!(to_f64(&pair), to_f64(&alone));
        let of_alone = (&alone * &weights)?.sum_all()?.backward()?;
        for x in [&gate, &up] {
            assert_eq!(to_f64(of_pair.get(x).unwrap()), to_f64(of_alone.get(x).unwrap()));
        }
    }
    Ok(())
}

/// Strided too, as a side's part of projections is.
#[test]
fn activation_and_product_at_once_are_those_alone() -> Result<()> {
    for dtype in DTYPES {
        let (gate, up, w) = grid(dtype)?;
        let turned = |x: Tensor| x.reshape((3, 1000))?.t();
        let (gate, up, w) = (turned(gate)?, turned(up)?, turned(w)?.contiguous()?);
        let (gate, up) = (Var::from_tensor(&gate)?, Var::from_tensor(&up)?);
        for &act in Activation::ALL {
            let (activated, product) = activated_and_product(&gate.t()?, &up.t()?, act)?;
            let at_once = ((&activated + &product)? * w.t()?)?.sum_all()?.backward()?;
            let alone = [activate(&gate.t()?, act)?, geglu(&gate.t()?, &up.t()?, act)?];
            assert_eq!(to_f64(&activated), to_f64(&alone[0]));
            assert_eq!(to_f64(&product), to_f64(&alone[1]));
            let alone = ((&alone[0] + &alone[1])? * w.t()?)?.sum_all()?.backward()?;
            for x in [&gate, &up] {
                let [ours, theirs] = [&at_once, &alone].map(|all| to_f64(all.get(x).unwrap()));
                // Subnormal sums of both gradients, which candle takes, are not always the same.
                let alike = |(a, b): (&f64, &f64)| (a - b).abs() < 2f64.powi(-120);
                assert!(ours.iter().zip(&theirs).all(alike), "{dtype:?} {act}");
            }
        }
    }
    Ok(())
}

#[test]
fn gradients_are_finite_for_every_finite_number_of_16_bits() -> Result<()> {
    let halves = |bits: &dyn Fn(u16) -> f64| -> Vec<f64> {
        (0..=u16::MAX).map(bits).filter(|x| x.is_finite()).collect()
    };
    for (dtype, xs) in [
        (DType::F16, halves(&|b| f16::from_bits(b).to_f64())),
        (DType::BF16, halves(&|b| bf16::from_bits(b).to_f64())),
    ] {
        let gate = Tensor::from_slice(&xs, xs.len(), &Device::Cpu)?.to_dtype(dtype)?;
        let ones = gate.ones_like()?;
        for &act in Activation::ALL {
            for f in [geglu, composed::geglu] as [fn(&Tensor, &Tensor, Activation) -> _; 2] {
                let [y, dgate, dup] = forward_backward(|g, u| f(g, u, act), &gate, &ones, &ones)?;
                assert!(
                    y.iter().chain(&dgate).chain(&dup).all(|v| v.is_finite()),
                    "{act} {dtype:?}"
                );
                // The extremes are -0.129 and 1.129, which bf16 rounds to 1.1328.
                assert!(dgate.iter().all(|d| (-0.13..1.133).contains(d)), "{act} {dtype:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn nan_and_infinities_pass_by_their_limits() -> Result<()> {
    let x = Tensor::new(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY], &Device::Cpu)?;
    for dtype in DTYPES {
        let x = x.to_dtype(dtype)?;
        for &act in Activation::ALL {
            for f in [activate, composed::activate] as [fn(&Tensor, Activation) -> _; 2] {
                let y = to_f64(&f(&x, act)?);
                assert!(
                    y[0].is_nan() && y[1] == f64::INFINITY && y[2] == 0.0,
                    "{act} {dtype:?} {y:?}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn a_vanishing_derivative_beats_a_large_gradient() -> Result<()> {
    let at = |x: f32| Tensor::new(&[x], &Device::Cpu)?.to_dtype(DType::BF16);
    let [_, dgate, _] =
        forward_backward(|g, u| geglu(g, u, Gelu::Tanh), &at(-200.0)?, &at(1e30)?, &at(1e30)?)?;
    assert_eq!(dgate, [0.0]);
    Ok(())
}

/// To a half-precision type, each to the nearest number. candle goes by f32 or drops the last 32 bits.
fn nearest<T: Float<Wide = f64>>(x: &[f64]) -> Vec<f64> {
    let mut rounded = vec![T::zero(); x.len()];
    T::narrow(x, &mut rounded);
    rounded.into_iter().map(T::to_f64).collect()
}

/// Half-precision types: the result is the f64 result rounded, not rounded twice.
#[test]
fn half_precision_is_rounded_once() -> Result<()> {
    for dtype in [DType::BF16, DType::F16] {
        let (gate, up, _) = grid(dtype)?;
        for &act in Activation::ALL {
            let wide = to_f64(&geglu(&gate.to_dtype(DType::F64)?, &up.to_dtype(DType::F64)?, act)?);
            let once =
                if dtype == DType::BF16 { nearest::<bf16>(&wide) } else { nearest::<f16>(&wide) };
            assert!(to_f64(&geglu(&gate, &up, act)?) == once, "{act} {dtype:?}");
            let twice = (activate(&gate, act)? * &up)?;
            // ReLU's value needs no rounding; the others show that the test tells the two apart.
            assert!((to_f64(&twice) == once) == (act == Activation::Relu), "{act}");
        }
    }
    Ok(())
}

#[test]
fn zero_size_and_scalars() -> Result<()> {
    for dims in [&[0usize][..], &[2, 0, 3], &[0, 4]] {
        let empty = Tensor::zeros(dims, DType::F32, &Device::Cpu)?;
        assert_eq!(geglu(&empty, &empty, Gelu::Exact)?.dims(), dims);
        let [_, dgate, _] =
            forward_backward(|g, u| geglu(g, u, Gelu::Tanh), &empty, &empty, &empty)?;
        assert!(dgate.is_empty());
        assert_eq!(activate(&empty, Gelu::Tanh)?.dims(), dims);
    }
    let scalar = Tensor::new(1f32, &Device::Cpu)?;
    let y = geglu(&scalar, &scalar, Activation::Relu)?;
    assert_eq!(y.to_scalar::<f32>()?, 1.0);
    Ok(())
}

#[test]
fn mismatches_are_typed_errors() -> Result<()> {
    fn inner(e: Error) -> Error {
        match e {
            Error::WithBacktrace { inner, .. } => *inner,
            e => e,
        }
    }
    let a = Tensor::zeros((2, 3), DType::F32, &Device::Cpu)?;
    let geglu = |a: &Tensor, b: &Tensor| inner(geglu(a, b, Gelu::Tanh).unwrap_err());
    assert!(matches!(geglu(&a, &a.t()?), Error::ShapeMismatchBinaryOp { op: "geglu", .. }));
    let half = a.to_dtype(DType::F16)?;
    assert!(matches!(geglu(&a, &half), Error::DTypeMismatchBinaryOp { op: "geglu", .. }));
    let int = a.to_dtype(DType::U32)?;
    assert!(matches!(geglu(&int, &int), Error::UnsupportedDTypeForOp(DType::U32, "geglu")));
    Ok(())
}

/// candle's own second derivatives do not exist for this op; it says so instead of dropping them.
#[test]
fn the_backward_pass_is_not_differentiable_in_silence() -> Result<()> {
    let x = Var::new(&[0.5f32], &Device::Cpu)?;
    let dx = Op::GegluBackward(Activation::TANH).apply([&x, &x, &x])?;
    assert!(dx.sum_all()?.backward().is_err());
    Ok(())
}

/// A view of a bigger tensor: permuted, narrowed, broadcast or not.
fn view(base: &Tensor, kind: u8) -> Result<Tensor> {
    match kind {
        0 => base.narrow(2, 1, 5)?.narrow(0, 1, 3), // offset, rows of 5
        1 => base.transpose(0, 2)?.narrow(0, 2, 3)?.narrow(2, 0, 5), // nothing next to each other
        2 => base.get(1)?.narrow(1, 0, 5)?.broadcast_left(3), // stride 0 outside
        3 => base.narrow(2, 3, 1)?.narrow(0, 0, 3)?.broadcast_as((3, 4, 5)), // stride 0 inside
        _ => base.narrow(0, 2, 3)?.narrow(2, 0, 5)?.contiguous(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any layout gives the bits that its contiguous copy gives, forward and backward.
    #[test]
    fn layouts_do_not_matter(kinds in (0u8..5, 0u8..5, 0u8..5), seed in 0u64..1000, dtype in 0usize..4) {
        let base = |salt: f64| -> Result<Tensor> {
            let n = 5 * 4 * 7;
            let v: Vec<f64> = (0..n).map(|i| ((i as f64 + salt) * (1.0 + seed as f64)).sin() * 6.0).collect();
            Tensor::from_vec(v, (5, 4, 7), &Device::Cpu)?.to_dtype(DTYPES[dtype])
        };
        // [3, 4, 5] each; kind 1 is [3, 4, 5] out of [7, 4, 5].
        let (gate, up, w) = (view(&base(0.1)?, kinds.0)?, view(&base(0.2)?, kinds.1)?, view(&base(0.3)?, kinds.2)?);
        let plain = |t: &Tensor| Tensor::from_vec(to_f64(t), t.shape(), &Device::Cpu)?.to_dtype(t.dtype());
        for &act in Activation::ALL {
            let strided = geglu(&gate, &up, act)?;
            prop_assert_eq!(to_f64(&strided), to_f64(&geglu(&plain(&gate)?, &plain(&up)?, act)?));
            let both = gate.apply_op3_no_bwd(&up, &w, &Op::GegluBackward(act))?;
            let other = plain(&gate)?.apply_op3_no_bwd(&plain(&up)?, &plain(&w)?, &Op::GegluBackward(act))?;
            prop_assert_eq!(to_f64(&both), to_f64(&other));
        }
    }

    /// Lengths around the sizes of buffers and chunks: every element is computed once, at its place.
    #[test]
    fn lengths_do_not_matter(n in prop_oneof![1usize..600, 16_300usize..16_500, 40_000usize..40_010]) {
        let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin() * 4.0).collect();
        let t = Tensor::from_slice(&x, n, &Device::Cpu)?;
        let mut expected = vec![0.0; n];
        Activation::EXACT.values(&x, &mut expected);
        prop_assert_eq!(activate(&t, Gelu::Exact)?.to_vec1::<f32>()?, expected);
    }
}
