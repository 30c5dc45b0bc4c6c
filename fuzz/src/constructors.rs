//! Layers and blocks out of tensors of any shape, dtype and strides.

use super::oracle::one_line;
use arbitrary::{Result, Unstructured};
use candle_core::{DType, Device, Module, Tensor};
use gemma_mlp::linear::{Linear, Packed, Weight};
use gemma_mlp::{Gelu, GemmaMlp};
use std::fmt::Display;

/// Builds a layer or a block, packs it, converts it and runs it: whatever does not fit is an error, and what packs gives
/// nearly what tensors do.
pub fn constructors(data: &[u8]) {
    let _ = run(&mut Unstructured::new(data));
}

fn run(u: &mut Unstructured) -> Result<()> {
    let linear = |u: &mut Unstructured, dims: [usize; 2]| -> Result<Option<Linear>> {
        let weight = Weight::Tensor(tensor(u, &dims)?);
        let weight = match u.ratio(1, 4)? {
            true => match told(weight.packed()) {
                Some(packed) => packed,
                None => return Ok(None),
            },
            false => weight,
        };
        let bias = if u.ratio(1, 3)? { Some(tensor(u, &dims[..1])?) } else { None };
        Ok(told(Linear::new(weight, bias)))
    };
    let (hidden, inner) = (u.int_in_range(1..=40)?, u.int_in_range(1..=40)?);
    let layer = match u.int_in_range(0..=2)? {
        0 => Layer::Linear(linear(u, [inner, hidden])?),
        1 => {
            let (gate_up, down) = (linear(u, [2 * inner, hidden])?, linear(u, [hidden, inner])?);
            let both = gate_up.zip(down);
            Layer::Mlp(both.and_then(|(a, b)| told(GemmaMlp::from_gate_up(a, b, Gelu::Tanh))))
        }
        _ => {
            let (gate, up) = (linear(u, [inner, hidden])?, linear(u, [inner, hidden])?);
            let (down, both) = (linear(u, [hidden, inner])?, gate.zip(up));
            let all = both.zip(down);
            Layer::Mlp(all.and_then(|((a, b), c)| told(GemmaMlp::new(a, b, c, Gelu::Exact))))
        }
    };
    let rows = [u.int_in_range(0..=3)?, u.int_in_range(0..=3)?];
    let x = tensor(u, &[rows[0], rows[1], hidden])?;
    let dtype = float(u)?;
    match layer {
        Layer::Linear(Some(layer)) => {
            let changed = [told(layer.packed()), told(layer.to_dtype(dtype)), Some(layer.frozen())];
            check(&layer, changed.iter().flatten(), &x);
            let weights: Vec<_> =
                [told(Packed::new(&x)), told(Packed::interleaved(&[&x, &x]))].into();
            for packed in weights.into_iter().flatten() {
                let (start, len) = (u.int_in_range(0..=64)?, u.int_in_range(0..=64)?);
                told(packed.narrow(start, len));
                told(packed.index_select(&[start, len]));
                told(packed.unpacked());
                told(Weight::Packed(packed).matmul(&x, None));
            }
            told(Linear::stacked(&[&layer, &layer]));
        }
        Layer::Mlp(Some(mlp)) => {
            let changed = [told(mlp.packed()), told(mlp.to_dtype(dtype)), Some(mlp.frozen())];
            check(&mlp, changed.iter().flatten(), &x);
            for mlp in changed.iter().flatten().chain([&mlp]) {
                let [pair, trace] = [
                    told(mlp.forward_pair(&x)).map(|pair| [pair.exact, pair.tanh]),
                    told(mlp.trace(&x)).map(|trace| [trace.product, trace.output]),
                ];
                let runs = told(mlp.forward(&x)).is_some();
                assert_eq!([pair.is_some(), trace.is_some()], [runs; 2]);
                told(mlp.down(&x));
                told(mlp.with_variables());
            }
        }
        _ => {}
    }
    Ok(())
}

enum Layer {
    Linear(Option<Linear>),
    Mlp(Option<GemmaMlp>),
}

/// What runs runs in every form, to the same shape, and not far from its first one.
fn check<'a, M: Module + 'a>(module: &M, changed: impl Iterator<Item = &'a M>, x: &Tensor) {
    let expected = told(module.forward(x));
    for module in changed {
        let y = told(module.forward(x));
        let (Some(expected), Some(y)) = (&expected, y) else { continue };
        assert_eq!((expected.dims(), expected.dtype()), (y.dims(), y.dtype()));
        let wide = |t: &Tensor| -> Vec<f64> {
            t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
        };
        let (expected, y) = (wide(expected), wide(&y));
        let scale = expected.iter().fold(1.0, |max: f64, x| max.max(x.abs()));
        for (a, b) in expected.iter().zip(&y).filter(|(a, b)| a.is_finite() && b.is_finite()) {
            assert!((a - b).abs() <= 0.1 * scale, "{a} and {b} at a scale of {scale}");
        }
    }
}

/// A result whose error has a line; candle adds a backtrace below, if it is asked to.
fn told<T, E: Display>(result: std::result::Result<T, E>) -> Option<T> {
    result.inspect_err(|e| one_line(e.to_string().lines().next().unwrap_or_default())).ok()
}

fn float(u: &mut Unstructured) -> Result<DType> {
    let all = [DType::F32, DType::BF16, DType::F16, DType::F64, DType::U32, DType::U8, DType::I64];
    // Mostly those that are computed in.
    let first = if u.ratio(1, 8)? { all.len() } else { 4 };
    u.choose(&all[..first]).copied()
}

/// A tensor of a shape, or of another one; contiguous, or a part of a larger one.
fn tensor(u: &mut Unstructured, dims: &[usize]) -> Result<Tensor> {
    let mut dims = dims.to_vec();
    if u.ratio(1, 12)? {
        dims = (0..u.int_in_range(0..=4)?).map(|_| u.int_in_range(0..=5)).collect::<Result<_>>()?;
    } else if u.ratio(1, 12)? {
        let at = u.choose_index(dims.len())?;
        dims[at] = u.int_in_range(0..=70)?;
    }
    let dtype = float(u)?;
    let count: usize = dims.iter().product();
    let wave = |n: usize| (0..n).map(|i| (0.5 * (1.7 + i as f64 * 0.737).sin()) as f32);
    let make = |dims: &[usize]| -> candle_core::Result<Tensor> {
        let n = dims.iter().product();
        Tensor::from_iter(wave(n), &Device::Cpu)?.reshape(dims)?.to_dtype(dtype)
    };
    let strided = match (u.int_in_range(0..=5)?, dims.len()) {
        (0, 2..) => {
            let last = dims.len() - 1;
            let mut turned = dims.clone();
            turned.swap(last - 1, last);
            make(&turned).and_then(|t| t.transpose(last - 1, last))
        }
        (1, 1..) => {
            let mut larger = dims.clone();
            larger[0] += 3;
            make(&larger).and_then(|t| t.narrow(0, 2, dims[0]))
        }
        (2, 1..) if count > 0 => {
            let ones = vec![1; dims.len()];
            make(&ones).and_then(|t| t.broadcast_as(dims.clone()))
        }
        _ => make(&dims),
    };
    Ok(strided.expect("a tensor that candle makes"))
}
