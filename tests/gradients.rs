//! Every gradient of the block against central differences in f64.

use crate::common::to_f64;
use candle_core::{DType, Device, Module, Tensor, Var};
use candle_nn::Linear;
use gemma_mlp::mlp::Deviation;
use gemma_mlp::{Activation, Gelu, GemmaMlp, InputGate, Sparsity, activate};

const STEP: f64 = 1e-5;

/// A deterministic f64 variable without values near 0, where ReLU has no derivative.
fn var(shape: &[usize], salt: f64) -> Var {
    let n: usize = shape.iter().product();
    let value = |i: usize| ((i as f64 + salt) * 0.77).sin() + 0.3 * (salt * 1.3 + i as f64).cos();
    let data: Vec<f64> = (0..n).map(value).collect();
    Var::from_tensor(&Tensor::from_vec(data, shape, &Device::Cpu).unwrap()).unwrap()
}

/// Compares the gradient of `loss` in `var` with differences, element by element.
fn check(what: &str, var: &Var, loss: impl Fn() -> Tensor) {
    let grads = loss().backward().unwrap();
    let analytic = to_f64(grads.get(var).unwrap());
    let original = var.copy().unwrap();
    let at = |i: usize, step: f64| {
        let mut moved = to_f64(&original);
        moved[i] += step;
        var.set(&Tensor::from_vec(moved, original.shape(), &Device::Cpu).unwrap()).unwrap();
        let value = loss().to_scalar::<f64>().unwrap();
        var.set(&original).unwrap();
        value
    };
    for (i, analytic) in analytic.into_iter().enumerate() {
        let numeric = (at(i, STEP) - at(i, -STEP)) / (2.0 * STEP);
        let bound = 1e-7 * analytic.abs().max(1.0);
        assert!((analytic - numeric).abs() < bound, "{what}[{i}]: {analytic} {numeric}");
    }
}

#[test]
fn of_input_weights_and_biases() {
    let weights = [var(&[5, 4], 1.0), var(&[5, 4], 2.0), var(&[4, 5], 3.0)];
    let biases = [var(&[5], 4.0), var(&[5], 5.0), var(&[4], 6.0)];
    let x = var(&[2, 3, 4], 7.0);
    let factors = var(&[2, 3, 4], 8.0);
    for &activation in Activation::ALL {
        let loss = || {
            let linear = |i: usize| {
                Linear::new(weights[i].as_tensor().clone(), Some(biases[i].as_tensor().clone()))
            };
            let mlp = GemmaMlp::new(linear(0), linear(1), linear(2), activation).unwrap();
            (mlp.forward(&x).unwrap() * factors.as_tensor()).unwrap().sum_all().unwrap()
        };
        check(&format!("{activation} x"), &x, loss);
        for (i, name) in ["gate", "up", "down"].into_iter().enumerate() {
            check(&format!("{activation} {name}.weight"), &weights[i], loss);
            check(&format!("{activation} {name}.bias"), &biases[i], loss);
        }
    }
}

/// A block whose gate is made sparse by either deviation: μ and σ depend on the gate, too.
#[test]
fn of_a_sparse_block() {
    let weights = [var(&[5, 4], 1.0), var(&[5, 4], 2.0), var(&[4, 5], 3.0)];
    let bias = var(&[5], 4.0);
    let x = var(&[2, 3, 4], 7.0);
    let factors = var(&[2, 3, 4], 8.0);
    for deviation in [Deviation::Population, Deviation::Sample] {
        let sparsity = Sparsity::new(0.4).unwrap().with_deviation(deviation);
        let loss = || {
            let linear = |i: usize, bias: Option<&Var>| {
                Linear::new(weights[i].as_tensor().clone(), bias.map(|b| b.as_tensor().clone()))
            };
            let layers = (linear(0, Some(&bias)), linear(1, None), linear(2, None));
            let mlp = GemmaMlp::new(layers.0, layers.1, layers.2, Gelu::Tanh).unwrap();
            let mlp = mlp.with_sparsity(sparsity);
            (mlp.forward(&x).unwrap() * factors.as_tensor()).unwrap().sum_all().unwrap()
        };
        check(&format!("{deviation:?} x"), &x, loss);
        check(&format!("{deviation:?} gate.bias"), &bias, loss);
        for (i, name) in ["gate", "up", "down"].into_iter().enumerate() {
            check(&format!("{deviation:?} {name}.weight"), &weights[i], loss);
        }
    }
}

/// Both inputs, both weights and both biases of an input's gate.
#[test]
fn of_an_input_gate() {
    let weights = [var(&[3, 4], 1.0), var(&[5, 3], 3.0)];
    let biases = [var(&[3], 4.0), var(&[5], 6.0)];
    let (x, input) = (var(&[2, 3, 4], 7.0), var(&[2, 3, 3], 2.0));
    let factors = var(&[2, 3, 5], 8.0);
    for &activation in Activation::ALL {
        let loss = || {
            let linear = |i: usize| {
                Linear::new(weights[i].as_tensor().clone(), Some(biases[i].as_tensor().clone()))
            };
            let gate = InputGate::new(linear(0), linear(1), activation).unwrap();
            let y = gate.forward(&x, &input).unwrap();
            (y * factors.as_tensor()).unwrap().sum_all().unwrap()
        };
        check(&format!("{activation} x"), &x, loss);
        check(&format!("{activation} input"), &input, loss);
        for (i, name) in ["gate", "out"].into_iter().enumerate() {
            check(&format!("{activation} {name}.weight"), &weights[i], loss);
            check(&format!("{activation} {name}.bias"), &biases[i], loss);
        }
    }
}

/// Far out on both sides, where the derivative is about to reach its limit.
#[test]
fn of_the_activation_alone() {
    let grid: Vec<f64> = (-160..=160).map(|i| f64::from(i) * 0.05 + 0.01).collect();
    let x = Var::from_slice(&grid, grid.len(), &Device::Cpu).unwrap();
    assert_eq!(x.dtype(), DType::F64);
    for &activation in Activation::ALL {
        check(&activation.to_string(), &x, || activate(&x, activation).unwrap().sum_all().unwrap());
    }
}
