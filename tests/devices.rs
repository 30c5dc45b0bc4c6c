//! One body for every device: what is computed on the CPU and, where there is one, on the GPU,
//! against the CPU in f64. Without a GPU it runs on the CPU alone and says so.

use crate::common::{devices, halves, rel_l2, to_f64};
use candle_core::{DType, Device, Module, Result, Tensor, Var};
use candle_nn::Linear;
use gemma_mlp::internal::activation_truth;
use gemma_mlp::mlp::{Deviation, GateUp};
use gemma_mlp::{
    Activation, Framework, Gelu, GemmaMlp, InputGate, Rounding, Sparsity, activate, geglu,
};

/// What a result may be off by: relative to it; relative to the factors of a derivative, which is small
/// on its way through zero; and at all.
#[derive(Clone, Copy)]
struct Bound {
    dtype: DType,
    relative: f64,
    factors: f64,
    absolute: f64,
}

/// On the CPU f64 is within 4 ULP, f32 within 0.86, derivatives near zero within 2^-54 and 2^-28
/// (tests/gelu.rs), and products round twice more; half types round once, the least of f16 by 2^-25. On a GPU
/// candle's own erf and sigmoid, of which f64 and the other activations are composed, have errors of
/// their own.
fn bounds(device: &Device) -> [Bound; 4] {
    let on_cpu = [
        (DType::F64, 1.2e-15, 6e-17, 0.0),
        (DType::F32, 2.3e-7, 4e-9, 0.0),
        (DType::BF16, 0.00391, 4e-9, 0.0),
        (DType::F16, 0.000_489, 4e-9, 3e-8),
    ];
    let on_gpu = [
        (DType::F64, 1e-12, 0.0, 1e-12 * FACTOR * FACTOR),
        (DType::F32, 4e-7, 0.0, 1e-7 * FACTOR * FACTOR),
        (DType::BF16, 0.00391, 0.0, 1e-7 * FACTOR * FACTOR),
        (DType::F16, 0.000_489, 0.0, 1e-7 * FACTOR * FACTOR),
    ];
    let bounds = if device.is_cpu() { on_cpu } else { on_gpu };
    bounds.map(|(dtype, relative, factors, absolute)| Bound { dtype, relative, factors, absolute })
}

/// The largest of the numbers.
const FACTOR: f64 = 8.0;

/// Numbers of a dtype, exact in it.
fn numbers(shape: &[usize], salt: f64, dtype: DType) -> Result<Tensor> {
    let n: usize = shape.iter().product();
    let data: Vec<f64> = (0..n).map(|i| ((i as f64 + salt) * 0.77).sin() * FACTOR).collect();
    Tensor::from_vec(data, shape, &Device::Cpu)?.to_dtype(dtype)
}

/// The product, its gradients and the activation alone, as f64.
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

/// An activation and its derivative of a finite number, which share nothing with what is tested.
fn true_value_and_derivative(activation: Activation, x: f64) -> [f64; 2] {
    let truth = activation_truth(activation, x);
    [truth.value, truth.derivative].map(|number| number.hi[0])
}

/// What [`results`] should be, and the factors of each that is a derivative.
fn true_results(
    gate: &Tensor,
    up: &Tensor,
    grad: &Tensor,
    activation: Activation,
) -> [Vec<(f64, f64)>; 5] {
    let [gate, up, grad] = [gate, up, grad].map(to_f64);
    let mut all = [const { vec![] }; 5];
    for ((&gate, &up), &grad) in gate.iter().zip(&up).zip(&grad) {
        let [value, derivative] = true_value_and_derivative(activation, gate);
        all[0].push((value * up, 0.0));
        all[1].push((derivative * up * grad, (up * grad).abs()));
        all[2].push((value * grad, 0.0));
        all[3].push((value, 0.0));
        all[4].push((derivative * grad, grad.abs()));
    }
    all
}

/// How many of a result's numbers are too far off.
fn too_far(ours: &[f64], truth: &[(f64, f64)], bound: Bound) -> usize {
    assert_eq!(ours.len(), truth.len());
    let is_near = |(ours, (truth, factors)): (&f64, &(f64, f64))| {
        let bound = bound.relative * truth.abs() + bound.factors * factors + bound.absolute;
        (ours - truth).abs() <= bound
    };
    ours.iter().zip(truth).filter(|&pair| !is_near(pair)).count()
}

/// All near the truth; and of the other form of GELU hundreds of numbers are not.
#[test]
fn operations() -> Result<()> {
    for device in devices() {
        for bound in bounds(&device) {
            let dtype = bound.dtype;
            // No multiple of 16 bytes.
            let [gate, up, grad] = [0.1, 0.2, 0.3].map(|salt| numbers(&[3, 1001], salt, dtype));
            let (gate, up, grad) = (gate?, up?, grad?);
            for &activation in Activation::ALL {
                let on = |x: &Tensor| x.to_device(&device);
                let ours = results(&on(&gate)?, &on(&up)?, &on(&grad)?, activation)?;
                let far = |activation| {
                    let truth = true_results(&gate, &up, &grad, activation);
                    [0, 1, 2, 3, 4].map(|i| too_far(&ours[i], &truth[i], bound))
                };
                assert_eq!(far(activation), [0; 5], "{device:?} {dtype:?} {activation}");
                if let Activation::Gelu(gelu) = activation {
                    let far = far(other(gelu).into());
                    assert!(far.iter().all(|&n| n > 300), "{device:?} {dtype:?} {gelu}: {far:?}");
                }
            }
        }
    }
    Ok(())
}

fn other(gelu: Gelu) -> Gelu {
    if gelu == Gelu::Exact { Gelu::Tanh } else { Gelu::Exact }
}

/// Views of bigger tensors give the bits of their contiguous copies.
#[test]
fn layouts() -> Result<()> {
    for device in devices() {
        for Bound { dtype, .. } in bounds(&device) {
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

/// The block's weights and biases, and an input: numbers that every dtype has.
struct Parts {
    x: Tensor,
    /// Of gate, up and down.
    layers: [(Tensor, Tensor); 3],
    /// What the loss is multiplied by.
    scale: f64,
}

impl Parts {
    /// With gates around 0, where most are. The loss is small, so that f16 has finite gradients.
    fn in_the_middle() -> Result<Self> {
        Self::new(1.0, 0.0, 2.0, 0.015_625)
    }

    /// With gates around -3.5, where the forms are so far apart that no rounding hides which it is. The
    /// loss is large, so that gradients in f16 are not subnormal.
    fn on_the_left() -> Result<Self> {
        Self::new(0.125, -3.5, 0.0039, 64.0)
    }

    fn new(spread: f64, around: f64, down_bias: f64, scale: f64) -> Result<Self> {
        let scaled = |shape: &[usize], salt, by: f64| numbers(shape, salt, DType::BF16)? * by;
        let gate_bias = (scaled(&[40], 5.0, 0.0625 * spread)? + around)?;
        let gate = (scaled(&[40, 24], 1.0, 0.0625 * spread)?, gate_bias);
        let up = (scaled(&[40, 24], 2.0, 0.0625)?, scaled(&[40], 6.0, 0.5)?);
        let down = (scaled(&[24, 40], 3.0, 0.0625)?, scaled(&[24], 7.0, down_bias)?);
        let x = scaled(&[2, 5, 24], 4.0, 0.125)?; // [batch, seq, hidden]
        Ok(Self { x, layers: [gate, up, down], scale })
    }

    fn without_bias(mut self, layer: usize) -> Result<Self> {
        self.layers[layer].1 = self.layers[layer].1.zeros_like()?;
        Ok(self)
    }

    /// The output, computed alone and as one of both forms at once; then of either the gradients of the
    /// input and of each layer's weight and bias: in f64.
    fn pass(
        &self,
        device: &Device,
        dtype: DType,
        gelu: Gelu,
        rounding: Rounding,
    ) -> Result<Vec<Tensor>> {
        let variable = |x: &Tensor| Var::from_tensor(&x.to_device(device)?.to_dtype(dtype)?);
        let mut variables = vec![variable(&self.x)?];
        let mut layers = vec![];
        for (weight, bias) in &self.layers {
            let (weight, bias) = (variable(weight)?, variable(bias)?);
            layers.push(Linear::new(weight.as_tensor().clone(), Some(bias.as_tensor().clone())));
            variables.extend([weight, bias]);
        }
        let [gate, up, down] = layers.try_into().unwrap();
        let mlp = GemmaMlp::new(gate, up, down, gelu)?.with_rounding(rounding);
        let y = mlp.forward(&variables[0])?;
        let pair = mlp.forward_pair(&variables[0])?;
        let of_pair = if gelu == Gelu::Exact { pair.exact } else { pair.tanh };
        let mut all = vec![y.clone(), of_pair.clone()];
        for y in [y, of_pair] {
            let gradients = (y.sqr()? * self.scale)?.sum_all()?.backward()?;
            all.extend(variables.iter().map(|x| gradients.get(x).unwrap().clone()));
        }
        all.iter().map(|t| t.to_device(&Device::Cpu)?.to_dtype(DType::F64)).collect()
    }
}

/// The error of each result.
fn errors(ours: &[Tensor], truth: &[Tensor]) -> Vec<f64> {
    assert_eq!((ours.len(), truth.len()), (16, 16));
    truth.iter().zip(ours).map(|(truth, ours)| rel_l2(truth, ours)).collect()
}

const HALF_AND_SINGLE: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// The block under every rounding that is computed everywhere. On the CPU the bounds are 1.4 times what was
/// measured in half types, 4 times in f32; on a GPU nothing was.
#[test]
fn block() -> Result<()> {
    let truth = |parts: Parts, gelu| parts.pass(&Device::Cpu, DType::F64, gelu, Rounding::Once);
    for &gelu in Gelu::ALL {
        let right = truth(Parts::in_the_middle()?, gelu)?;
        let wrong = truth(Parts::in_the_middle()?, other(gelu))?;
        for device in devices() {
            let bounds = if device.is_cpu() { [5e-7, 7e-3, 7e-4] } else { [2e-6, 2e-2, 2e-3] };
            for (dtype, bound) in HALF_AND_SINGLE.into_iter().zip(bounds) {
                for rounding in [Rounding::Once, Rounding::AfterActivation, Rounding::EveryOp] {
                    let ours = Parts::in_the_middle()?.pass(&device, dtype, gelu, rounding)?;
                    let named = format!("{device:?} {dtype:?} {gelu} {rounding}");
                    let errors_of = |truth| errors(&ours, truth);
                    let is_near = |error: &f64| *error < bound;
                    assert!(
                        errors_of(&right).iter().all(is_near),
                        "{named}: {:?}",
                        errors_of(&right)
                    );
                    // Half types do not tell the forms apart here, f32 does.
                    let wrong = errors_of(&wrong);
                    assert!(
                        dtype != DType::F32 || !wrong.iter().any(is_near),
                        "{named}: {wrong:?}"
                    );
                }
            }
        }
        // Without one of the biases it is far out of all bounds.
        for layer in 0..3 {
            let without = truth(Parts::in_the_middle()?.without_bias(layer)?, gelu)?;
            let moved = rel_l2(&right[0], &without[0]);
            assert!(moved > 0.04, "{layer}: {moved}");
        }
    }
    Ok(())
}

/// The block where one form is far from the other: in every dtype the wrong one is three times as far
/// away as is allowed. (`EveryOp` has no digits left there.)
#[test]
fn block_of_either_form() -> Result<()> {
    let parts = Parts::on_the_left()?;
    let truth = |gelu| parts.pass(&Device::Cpu, DType::F64, gelu, Rounding::Once);
    for &gelu in Gelu::ALL {
        let (right, wrong) = (truth(gelu)?, truth(other(gelu))?);
        for device in devices() {
            for (dtype, bound) in HALF_AND_SINGLE.into_iter().zip([2e-6, 2e-2, 2e-3]) {
                for rounding in [Rounding::Once, Rounding::AfterActivation] {
                    let ours = parts.pass(&device, dtype, gelu, rounding)?;
                    let [right, wrong] = [&right, &wrong].map(|truth| errors(&ours, truth));
                    let named = format!("{device:?} {dtype:?} {gelu} {rounding}");
                    assert!(right.iter().all(|error| *error < bound), "{named}: {right:?}");
                    assert!(wrong.iter().all(|error| *error > 3.0 * bound), "{named}: {wrong:?}");
                }
            }
        }
    }
    Ok(())
}

/// What is left of a sparse gate, and its gradient: in each dtype what the CPU computes of the same
/// numbers. Another deviation is told apart.
#[test]
fn sparsity() -> Result<()> {
    let population = Sparsity::new(0.75)?;
    let sample = population.with_deviation(Deviation::Sample);
    for device in devices() {
        for (dtype, bound) in
            [(DType::F64, 1e-12), (DType::F32, 1e-6), (DType::BF16, 4e-3), (DType::F16, 5e-4)]
        {
            let results = |sparsity: Sparsity, device: &Device| -> Result<[Tensor; 2]> {
                let gate = Var::from_tensor(&numbers(&[5, 131], 0.1, dtype)?.to_device(device)?)?;
                let grad = numbers(&[5, 131], 0.2, dtype)?.to_device(device)?;
                let left = sparsity.apply(&gate)?;
                let gradients = left.mul(&grad)?.sum_all()?.backward()?;
                let gradient = gradients.get(&gate).unwrap().clone();
                Ok([left.to_device(&Device::Cpu)?, gradient.to_device(&Device::Cpu)?])
            };
            let expected = results(population, &Device::Cpu)?;
            let (right, wrong) = (results(population, &device)?, results(sample, &device)?);
            for ((expected, right), wrong) in expected.iter().zip(&right).zip(&wrong) {
                let error = rel_l2(expected, right);
                assert!(error < bound, "{device:?} {dtype:?}: {error:e}");
                let error = rel_l2(expected, wrong);
                let told = error > 2.0 * bound || dtype == DType::BF16; // which has no digits for it
                assert!(told, "{device:?} {dtype:?}: {error:e}");
            }
        }
    }
    Ok(())
}

/// An input's gate of f32, near that in f64 on the CPU, with the gradients of both inputs.
#[test]
fn input_gate() -> Result<()> {
    let results = |device: &Device, dtype: DType, gelu: Gelu| -> Result<Vec<Tensor>> {
        let part = |shape: &[usize], salt: f64| {
            (numbers(shape, salt, DType::BF16)? * 0.0625)?.to_dtype(dtype)?.to_device(device)
        };
        let gate = Linear::new(part(&[40, 24], 1.0)?, Some(part(&[40], 5.0)?));
        let out = Linear::new(part(&[24, 40], 3.0)?, Some(part(&[24], 7.0)?));
        let gate = InputGate::new(gate, out, gelu)?;
        let x = Var::from_tensor(&part(&[2, 5, 24], 4.0)?)?;
        let input = Var::from_tensor(&part(&[2, 5, 40], 2.0)?)?;
        let y = gate.forward(&x, &input)?;
        let gradients = y.sqr()?.sum_all()?.backward()?;
        let all = [&y, gradients.get(&x).unwrap(), gradients.get(&input).unwrap()];
        all.into_iter().map(|t| t.to_device(&Device::Cpu)?.to_dtype(DType::F64)).collect()
    };
    for &gelu in Gelu::ALL {
        let right = results(&Device::Cpu, DType::F64, gelu)?;
        let wrong = results(&Device::Cpu, DType::F64, other(gelu))?;
        for device in devices() {
            let ours = results(&device, DType::F32, gelu)?;
            for ((ours, right), wrong) in ours.iter().zip(&right).zip(&wrong) {
                let (near, far) = (rel_l2(right, ours), rel_l2(wrong, ours));
                assert!(near < 2e-6 && far > 1e-5, "{device:?} {gelu}: {near:e} {far:e}");
            }
        }
    }
    Ok(())
}

/// PyTorch's own bits of every gate, wherever the tensors are, with the true gradient through them; and
/// candle's own operations. The other form has other bits and another gradient.
#[test]
fn frameworks() -> Result<()> {
    let goldens = halves::goldens();
    for dtype in halves::HALVES {
        let pytorch = |gelu: Gelu| &goldens[&format!("torch.{gelu}.{}.product", dtype.as_str())];
        for device in devices() {
            let bound = bounds(&device).into_iter().find(|bound| bound.dtype == dtype).unwrap();
            let gate = Var::from_tensor(&halves::every(dtype).to_device(&device)?)?;
            let up = halves::ups(dtype).to_device(&device)?;
            let factors: Vec<_> = to_f64(&gate).into_iter().zip(to_f64(&up)).collect();
            let product = |gelu: Gelu, rounding: Rounding| {
                let none = || Linear::new(Tensor::zeros((1, 1), dtype, &device).unwrap(), None);
                let block = GemmaMlp::new(none(), none(), none(), gelu)?.with_rounding(rounding);
                block.gated(&GateUp { gate: gate.as_tensor().clone(), up: up.clone() })
            };
            let candle = |gelu: Gelu| {
                let activated = if gelu == Gelu::Exact { gate.gelu_erf() } else { gate.gelu() };
                activated? * &up
            };
            for &gelu in Gelu::ALL {
                let named = format!("{device:?} {dtype:?} {gelu}");
                let ours = product(gelu, Rounding::EveryOp)?;
                assert_eq!(halves::differing(&ours, &candle(gelu)?), 0, "{named}");
                assert!(halves::differing(&ours, &candle(other(gelu))?) > 500, "{named}");
                let ours = product(gelu, Rounding::Like(Framework::PyTorch))?;
                assert_eq!(halves::differing(&ours, pytorch(gelu)), 0, "{named}");
                assert!(halves::differing(&ours, pytorch(other(gelu))) > 500, "{named}");

                let gradients = ours.sum_all()?.backward()?;
                let of_gate = to_f64(gradients.get(&gate).unwrap());
                let far = |gelu: Gelu| {
                    let pairs =
                        of_gate.iter().zip(&factors).filter(|(_, (gate, _))| gate.is_finite());
                    let pairs = pairs.map(|(ours, (gate, up))| {
                        let [_, derivative] = true_value_and_derivative(gelu.into(), *gate);
                        (*ours, (derivative * up, up.abs()))
                    });
                    let (ours, truth): (Vec<_>, Vec<_>) = pairs.unzip();
                    too_far(&ours, &truth, bound)
                };
                assert_eq!(far(gelu), 0, "{named}");
                assert!(far(other(gelu)) > 300, "{named}: {}", far(other(gelu)));
            }
        }
    }
    Ok(())
}
