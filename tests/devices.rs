//! One body for every device: what is computed on the CPU and, where there is one, on the GPU,
//! against the CPU in f64. Without a GPU it runs on the CPU alone and says so.

mod common;

use candle_core::{DType, Device, Module, Result, Tensor, Var};
use candle_nn::Linear;
use common::{rel_l2, to_f64};
use gemma_mlp::drift::{DriftOptions, Shard, Side, Sides, Windowing, drift, floor_sides};
use gemma_mlp::mlp::GateUp;
use gemma_mlp::{
    Activation, Checkpoint, Framework, Gelu, GemmaMlp, Rounding, activate, device, geglu, report,
};
use std::ops::ControlFlow;

/// The CPU, and the GPU if there is one.
fn devices() -> Vec<Device> {
    let gpu = device::gpu().inspect_err(|why| eprintln!("skipped on a GPU: {why}"));
    [Device::Cpu].into_iter().chain(gpu).collect()
}

const ACTIVATIONS: [Activation; 5] = [
    Activation::EXACT,
    Activation::TANH,
    Activation::Silu,
    Activation::QuickGelu,
    Activation::Relu,
];

/// What a result of a dtype may be off by, relative to it and to the product of two factors, which
/// the derivative, small on its way through zero, is multiplied by: half types are rounded once,
/// f32 at most three times; candle's own erf and sigmoid, of which the other activations and f64 are
/// composed on a GPU, have errors of their own.
const BOUNDS: [(DType, f64, f64); 4] = [
    (DType::F64, 1e-12, 1e-12),
    (DType::F32, 4e-7, 1e-7),
    (DType::BF16, 0.00391, 1e-7),
    (DType::F16, 0.000_489, 1e-7),
];

/// The largest of the numbers.
const FACTOR: f64 = 8.0;

/// Numbers of a dtype, exact in it.
fn numbers(shape: &[usize], salt: f64, dtype: DType) -> Result<Tensor> {
    let n: usize = shape.iter().product();
    let data: Vec<f64> = (0..n).map(|i| ((i as f64 + salt) * 0.77).sin() * FACTOR).collect();
    Tensor::from_vec(data, shape, &Device::Cpu)?.to_dtype(dtype)
}

/// The product, its gradients and the activation alone: all in f64 on the CPU.
fn results(
    gate: &Tensor,
    up: &Tensor,
    grad: &Tensor,
    activation: Activation,
) -> Result<[Vec<f64>; 5]> {
    let (gate, up) = (Var::from_tensor(gate)?, Var::from_tensor(up)?);
    let product = geglu(&gate, &up, activation)?;
    let gradients = product.mul(grad)?.sum_all()?.backward()?;
    let activated = activate(&gate, activation)?;
    let of_activated = activated.mul(grad)?.sum_all()?.backward()?;
    let gradient = |x: &Var| gradients.get(x).unwrap();
    let all =
        [&product, gradient(&gate), gradient(&up), &activated, of_activated.get(&gate).unwrap()];
    Ok(all.map(to_f64))
}

#[test]
fn operations() -> Result<()> {
    for device in devices() {
        for (dtype, relative, absolute) in BOUNDS {
            // No multiple of 16 bytes.
            let [gate, up, grad] = [0.1, 0.2, 0.3].map(|salt| numbers(&[3, 1001], salt, dtype));
            let (gate, up, grad) = (gate?, up?, grad?);
            for activation in ACTIVATIONS {
                let on = |x: &Tensor| x.to_device(&device);
                let ours = results(&on(&gate)?, &on(&up)?, &on(&grad)?, activation)?;
                let wide = |x: &Tensor| x.to_dtype(DType::F64);
                let truth = results(&wide(&gate)?, &wide(&up)?, &wide(&grad)?, activation)?;
                for (what, (ours, truth)) in ours.iter().zip(&truth).enumerate() {
                    for (i, (ours, truth)) in ours.iter().zip(truth).enumerate() {
                        let bound = absolute * FACTOR * FACTOR + relative * truth.abs();
                        let named = format!("{device:?} {dtype:?} {activation} {what} [{i}]");
                        assert!((ours - truth).abs() <= bound, "{named}: {ours} {truth}");
                    }
                }
            }
        }
    }
    Ok(())
}

/// Views of bigger tensors give the bits of their contiguous copies.
#[test]
fn layouts() -> Result<()> {
    for device in devices() {
        for (dtype, ..) in BOUNDS {
            let base = |salt: f64| numbers(&[6, 5, 7], salt, dtype)?.to_device(&device);
            let views: [fn(&Tensor) -> Result<Tensor>; 5] = [
                |x| x.narrow(2, 1, 5)?.narrow(0, 1, 3),
                |x| x.transpose(0, 2)?.narrow(0, 2, 3)?.narrow(2, 0, 5),
                |x| x.get(1)?.narrow(1, 0, 5)?.broadcast_left(3),
                |x| x.narrow(2, 3, 1)?.narrow(0, 0, 3)?.broadcast_as((3, 5, 5)),
                |x| x.narrow(0, 1, 3)?.narrow(2, 0, 5)?.contiguous(),
            ];
            for (i, view_of_gate) in views.iter().enumerate() {
                let gate = view_of_gate(&base(0.1)?)?;
                let up = views[(i + 1) % views.len()](&base(0.2)?)?;
                let grad = views[(i + 2) % views.len()](&base(0.3)?)?;
                let copies = [&gate, &up, &grad].map(|x| x.contiguous()?.copy());
                let [gate_copy, up_copy, grad_copy] = copies;
                let strided = results(&gate, &up, &grad, Activation::EXACT)?;
                let copied = results(&gate_copy?, &up_copy?, &grad_copy?, Activation::EXACT)?;
                assert!(strided == copied, "{device:?} {dtype:?} view {i}");
            }
            let empty = Tensor::zeros((2, 0, 3), dtype, &device)?;
            assert_eq!(geglu(&empty, &empty, Gelu::Tanh)?.dims(), [2, 0, 3]);
        }
    }
    Ok(())
}

/// The block under every rounding that is computed everywhere: both forms, both at once, and the
/// gradients of the input and of gate, up and down.
#[test]
fn block() -> Result<()> {
    let weights = [([40, 24], 1.0), ([40, 24], 2.0), ([24, 40], 3.0)];
    let x = (numbers(&[2, 5, 24], 4.0, DType::BF16)? * 0.125)?; // [batch, seq, hidden]
    let pass =
        |device: &Device, dtype: DType, gelu: Gelu, rounding: Rounding| -> Result<Vec<Tensor>> {
            let variables = weights.map(|(shape, salt)| -> Result<Var> {
                let weight = (numbers(&shape, salt, DType::BF16)? * 0.0625)?;
                Var::from_tensor(&weight.to_device(device)?.to_dtype(dtype)?)
            });
            let [gate, up, down] = variables;
            let (gate, up, down) = (gate?, up?, down?);
            let layer = |weight: &Var| Linear::new(weight.as_tensor().clone(), None);
            let mlp =
                GemmaMlp::new(layer(&gate), layer(&up), layer(&down), gelu).with_rounding(rounding);
            let x = Var::from_tensor(&x.to_device(device)?.to_dtype(dtype)?)?;
            let y = mlp.forward(&x)?;
            let pair = mlp.forward_pair(&x)?;
            let of_pair = if gelu == Gelu::Exact { pair.exact } else { pair.tanh };
            let mut all = vec![y.clone(), of_pair.clone()];
            for y in [y, of_pair] {
                let gradients = y.sqr()?.sum_all()?.backward()?;
                let gradient = |variable: &Var| gradients.get(variable).unwrap().clone();
                all.extend([&x, &gate, &up, &down].map(gradient));
            }
            all.iter().map(|t| t.to_device(&Device::Cpu)?.to_dtype(DType::F64)).collect()
        };
    for gelu in Gelu::ALL {
        let truth = pass(&Device::Cpu, DType::F64, gelu, Rounding::Once)?;
        for device in devices() {
            for (dtype, bound) in [(DType::F32, 2e-6), (DType::BF16, 2e-2), (DType::F16, 2e-3)] {
                for rounding in [Rounding::Once, Rounding::AfterActivation, Rounding::EveryOp] {
                    let ours = pass(&device, dtype, gelu, rounding)?;
                    for (i, (ours, truth)) in ours.iter().zip(&truth).enumerate() {
                        let error = rel_l2(ours, truth);
                        assert!(
                            error < bound,
                            "{device:?} {dtype:?} {gelu} {rounding} {i}: {error}"
                        );
                    }
                }
            }
        }
    }
    Ok(())
}

/// PyTorch's own bits, wherever the tensors are, and gradients through them.
#[test]
fn frameworks() -> Result<()> {
    let like = Rounding::Like(Framework::PyTorch);
    for dtype in [DType::BF16, DType::F16] {
        let [gate, up] = [0.1, 0.2].map(|salt| numbers(&[4, 500], salt, dtype));
        let (gate, up) = (gate?, up?);
        let results = |device: &Device| -> Result<[Vec<f64>; 2]> {
            let gate = Var::from_tensor(&gate.to_device(device)?)?;
            let none = || Linear::new(Tensor::zeros((1, 1), dtype, device).unwrap(), None);
            let block = GemmaMlp::new(none(), none(), none(), Gelu::Tanh).with_rounding(like);
            let projected = GateUp { gate: gate.as_tensor().clone(), up: up.to_device(device)? };
            let product = block.gated(&projected)?;
            let gradients = product.sum_all()?.backward()?;
            Ok([to_f64(&product), to_f64(gradients.get(&gate).unwrap())])
        };
        let [products, gradients] = results(&Device::Cpu)?;
        for device in devices() {
            let [ours, of_gate] = results(&device)?;
            assert!(ours == products, "{device:?} {dtype:?}");
            assert_eq!(of_gate.len(), gradients.len());
        }
    }
    Ok(())
}

/// The switch on the whole model inside the program, in f32: what every device says it does, layer
/// by layer and on the logits, is what f64 on the CPU says.
#[test]
fn drift_of_the_whole_model() -> gemma_mlp::Result<()> {
    let checkpoint = Checkpoint::open("weights/tiny-gemma3")?;
    let text =
        checkpoint.encode("Every Friday, Mia and Leo sing in the garden. The small dog runs.")?;
    let figures = |device: &Device, dtype: DType| -> gemma_mlp::Result<Vec<f64>> {
        let side = |gelu: Gelu| Side { activation: gelu.into(), rounding: Rounding::Once, dtype };
        let options = DriftOptions {
            sides: Sides { a: side(Gelu::Tanh), b: side(Gelu::Exact) },
            floor_sides: floor_sides(side(Gelu::Tanh), DType::BF16)?,
            layers: (0..checkpoint.blocks().len()).collect(),
            floor_tokens: 16,
            windowing: Windowing { window: 64, stride: 64 },
            shard: Shard::WHOLE,
        };
        let go_on = |_| ControlFlow::Continue(());
        let drift = drift(&checkpoint, std::slice::from_ref(&text), &options, device, go_on)?;
        let json: serde_json::Value = serde_json::from_str(&report::json(&drift).unwrap()).unwrap();
        let number = |value: &serde_json::Value| value.as_f64().unwrap();
        let mut figures = vec![number(&json["logits"]["rel_l2"]), number(&json["logits"]["ppl_a"])];
        for layer in json["layers"].as_array().unwrap() {
            figures.push(number(&layer["output"]["rel_l2"]));
            figures.push(number(&layer["activation"]["max_abs"]));
        }
        Ok(figures)
    };
    let truth = figures(&Device::Cpu, DType::F64)?;
    for device in devices() {
        let ours = figures(&device, DType::F32)?;
        assert_eq!(ours.len(), 2 + 2 * checkpoint.blocks().len());
        for (ours, truth) in ours.iter().zip(&truth) {
            assert!((ours / truth - 1.0).abs() < 0.01, "{device:?}: {ours} {truth}");
        }
    }
    Ok(())
}
