use super::*;
use crate::kernels::gelu::Gelu;
use candle_core::Device;
use candle_nn::{Optimizer, VarMap};
use std::collections::HashMap;

fn varmap_mlp(bias: bool, activation: impl Into<Activation>) -> (VarMap, GemmaMlp) {
    let varmap = VarMap::new();
    let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu);
    let mlp = gemma_mlp_b(8, 12, bias, activation, vb).unwrap();
    (varmap, mlp)
}

fn bits(t: &Tensor) -> Vec<u32> {
    let v: Vec<f32> = t.flatten_all().unwrap().to_vec1().unwrap();
    v.into_iter().map(f32::to_bits).collect()
}

#[test]
fn pair_trace_and_switch_give_the_bits_of_forward() -> Result<()> {
    for bias in [false, true] {
        let (_, mlp) = varmap_mlp(bias, Gelu::Tanh);
        let x = Tensor::randn(0f32, 1., (2, 3, 8), &Device::Cpu)?;
        let pair = mlp.forward_pair(&x)?;
        let exact = mlp.with_activation(Gelu::Exact);
        assert_eq!(bits(&pair.tanh), bits(&mlp.forward(&x)?));
        assert_eq!(bits(&pair.exact), bits(&exact.forward(&x)?));
        assert_ne!(bits(&pair.exact), bits(&pair.tanh));
        let trace = exact.trace(&x)?;
        assert_eq!(bits(&trace.output), bits(&pair.exact));
        assert_eq!(bits(&trace.product), bits(&(&trace.activated * &trace.up)?));
        assert_eq!(exact.activation(), Activation::EXACT);
    }
    Ok(())
}

#[test]
fn merged_weights_are_gate_then_up() -> Result<()> {
    for bias in [false, true] {
        let (varmap, mlp) = varmap_mlp(bias, Gelu::Tanh);
        let mut tensors: HashMap<String, Tensor> = HashMap::new();
        let data = varmap.data().lock().unwrap();
        for (name, var) in data.iter() {
            tensors.insert(name.clone(), var.as_tensor().clone());
        }
        for part in ["weight", "bias"].iter().take(1 + bias as usize) {
            let [gate, up] =
                ["gate", "up"].map(|n| tensors.remove(&format!("{n}_proj.{part}")).unwrap());
            tensors.insert(format!("gate_up_proj.{part}"), Tensor::cat(&[gate, up], 0)?);
        }
        let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let merged = gemma_mlp_b(8, 12, bias, Gelu::Tanh, vb)?;
        assert!(matches!(merged.gate_up, Projection::Merged(_)));
        let x = Tensor::randn(0f32, 1., (5, 8), &Device::Cpu)?;
        let difference = (merged.forward(&x)? - mlp.forward(&x)?)?.abs()?.max_all()?;
        assert!(difference.to_scalar::<f32>()? < 1e-6);
    }
    Ok(())
}

#[test]
fn any_batch_shape() -> Result<()> {
    let (_, mlp) = varmap_mlp(true, Gelu::Exact);
    for mlp in [mlp.packed()?, mlp] {
        for dims in [
            &[8usize][..],
            &[1, 8],
            &[2, 3, 8],
            &[2, 1, 3, 8],
            &[1, 2, 1, 3, 8],
            &[0, 8],
            &[2, 0, 8],
        ] {
            let x = Tensor::randn(0f32, 1., dims, &Device::Cpu)?;
            assert_eq!(mlp.forward(&x)?.dims(), dims);
            assert_eq!(mlp.forward_pair(&x)?.tanh.dims(), dims);
            assert_eq!(mlp.trace(&x)?.output.dims(), dims);
        }
        let x = Tensor::randn(0f32, 1., (3, 8, 2), &Device::Cpu)?.transpose(1, 2)?; // strided
        assert_eq!(bits(&mlp.forward(&x)?), bits(&mlp.forward(&x.contiguous()?)?));
        assert!(mlp.forward(&Tensor::zeros((2, 7), DType::F32, &Device::Cpu)?).is_err());
    }
    Ok(())
}

/// In one operation or in steps, with odd sizes, biases, any dtype: the same bits, and near the
/// block of tensors.
#[test]
fn packed_block() -> Result<()> {
    let shapes = [(8, 12, 3), (33, 71, 1), (64, 513, 0), (70, 300, 14)];
    // The last one takes Miri hours.
    for (hidden, intermediate, rows) in shapes.into_iter().take(if cfg!(miri) { 3 } else { 4 }) {
        for (bias, of_x, of_weights) in [
            (false, DType::F32, DType::F32),
            (true, DType::F32, DType::BF16),
            (true, DType::BF16, DType::BF16),
            (false, DType::F16, DType::F32),
        ] {
            let varmap = VarMap::new();
            let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu);
            let mlp = gemma_mlp_b(hidden, intermediate, bias, Gelu::Tanh, vb)?;
            let layers = |mlp: &GemmaMlp| -> Result<GemmaMlp> {
                let Projection::Separate { gate, up } = &mlp.gate_up else {
                    candle_core::bail!("gate and up are separate here")
                };
                let [gate, up, down] = [gate, up, &mlp.down].map(|layer| -> Result<Linear> {
                    let weight = layer.weight().to_tensor(of_weights)?;
                    Ok(Linear::new(Weight::Tensor(weight), layer.bias().cloned())?)
                });
                Ok(GemmaMlp::new(gate?, up?, down?, Gelu::Tanh)?)
            };
            let packed = layers(&mlp)?.packed()?;
            let x = Tensor::randn(0f32, 1., (rows, hidden), &Device::Cpu)?.to_dtype(of_x)?;
            let wide = |t: &Tensor| bits(&t.to_dtype(DType::F32).unwrap());
            let pair = packed.forward_pair(&x)?;
            let exact = packed.with_activation(Gelu::Exact);
            assert_eq!(wide(&pair.tanh), wide(&packed.forward(&x)?));
            assert_eq!(wide(&pair.exact), wide(&exact.forward(&x)?));
            assert_eq!(wide(&pair.tanh), wide(&packed.forward_projected(&packed.project(&x)?)?));
            assert_eq!(wide(&pair.exact), wide(&exact.trace(&x)?.output));
            if rows > 0 {
                let expected = mlp.forward(&x.to_dtype(DType::F32)?)?;
                let difference = (pair.tanh.to_dtype(DType::F32)? - &expected)?;
                let norm = |t: &Tensor| t.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>();
                let distance = norm(&difference)? / norm(&expected)?;
                // Weights, input and output of bf16 are each off by up to 2^-9 of themselves.
                let bound =
                    if of_x == DType::F32 && of_weights == DType::F32 { 1e-5 } else { 0.02 };
                assert!(distance < bound, "{distance}");
            }
            let (variables, vars) = packed.with_variables()?;
            assert_eq!(vars.len(), 2);
            // In f32 they are not multiplied by the instruction for bf16.
            if of_x != DType::BF16 {
                assert_eq!(wide(&variables.packed()?.forward(&x)?), wide(&pair.tanh));
            }
        }
    }
    Ok(())
}

/// In another dtype: the weights that candle converts, whether they are packed before or after.
#[test]
fn another_dtype() -> Result<()> {
    for bias in [false, true] {
        let (varmap, mlp) = varmap_mlp(bias, Gelu::Tanh);
        let x = Tensor::randn(0f32, 1., (3, 8), &Device::Cpu)?;
        let same = mlp.to_dtype(DType::F32)?;
        assert_eq!(bits(&same.forward(&x)?), bits(&mlp.forward(&x)?));
        for dtype in [DType::BF16, DType::F16] {
            let converted = mlp.to_dtype(dtype)?;
            let y = converted.forward(&x)?;
            let difference = (&y - mlp.forward(&x)?)?.abs()?.max_all()?.to_scalar::<f32>()?;
            assert!(y.dtype() == DType::F32 && difference > 0.0 && difference < 0.1);
            let packed = converted.packed()?.forward(&x)?;
            let repacked = mlp.packed()?.frozen().to_dtype(dtype)?;
            assert_eq!(bits(&packed), bits(&repacked.forward(&x)?));
            let input = Var::from_tensor(&x)?;
            let gradients = repacked.forward(&input)?.sum_all()?.backward()?;
            assert!(gradients.get(&input).is_some(), "frozen weights stay so");
        }
        // Converted tensors still train.
        let gradients = mlp.to_dtype(DType::F64)?.forward(&x)?.sum_all()?.backward()?;
        assert!(varmap.all_vars().iter().all(|var| gradients.get(var).is_some()));
        assert!(mlp.packed()?.to_dtype(DType::F64).is_err());
        assert!(mlp.to_dtype(DType::U32).is_err());
    }
    Ok(())
}

/// The block learns a fixed random block's outputs, in both modes.
#[test]
fn training_lowers_the_loss() -> Result<()> {
    for &gelu in Gelu::ALL {
        let (_, teacher) = varmap_mlp(false, gelu);
        let (varmap, student) = varmap_mlp(false, gelu);
        let x = Tensor::randn(0f32, 1., (64, 8), &Device::Cpu)?;
        let target = teacher.forward(&x)?;
        let loss = || -> Result<Tensor> { candle_nn::loss::mse(&student.forward(&x)?, &target) };
        let before = loss()?.to_scalar::<f32>()?;
        let mut adam = candle_nn::AdamW::new_lr(varmap.all_vars(), 1e-2)?;
        for _ in 0..300 {
            adam.backward_step(&loss()?)?;
        }
        let after = loss()?.to_scalar::<f32>()?;
        assert!(after < 0.1 * before, "{gelu}: {before} to {after}");
    }
    Ok(())
}

/// A sparse block, of tensors or packed, in any dtype and under any rounding: forward, pair, trace and
/// steps have the same bits; its gate is the raw projection, and what is activated is not.
#[test]
fn sparse_block() -> Result<()> {
    let sparsity = Sparsity::new(0.6).unwrap();
    for (bias, dtype) in [
        (false, DType::F32),
        (true, DType::F32),
        (true, DType::BF16),
        (false, DType::F16),
        (true, DType::F64),
    ] {
        let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
        let mlp = gemma_mlp_b(33, 71, bias, Gelu::Tanh, vb)?;
        let x = Tensor::randn(0f32, 1., (2, 3, 33), &Device::Cpu)?.to_dtype(dtype)?;
        let wide = |t: &Tensor| bits(&t.to_dtype(DType::F32).unwrap());
        for dense in [mlp.to_dtype(dtype)?, mlp.packed()?] {
            for rounding in [Rounding::Once, Rounding::AfterActivation, Rounding::EveryOp] {
                let dense = dense.with_rounding(rounding);
                let tanh = dense.with_sparsity(sparsity);
                assert_eq!((tanh.sparsity(), dense.sparsity()), (Some(sparsity), None));
                let y = wide(&tanh.forward(&x)?);
                assert_ne!(y, wide(&dense.forward(&x)?));
                assert_eq!(wide(&tanh.with_sparsity(None).forward(&x)?), wide(&dense.forward(&x)?));
                let exact = tanh.with_activation(Gelu::Exact);
                let pair = tanh.forward_pair(&x)?;
                for (block, of_pair) in [(&tanh, pair.tanh), (&exact, pair.exact)] {
                    let y = wide(&block.forward(&x)?);
                    assert_eq!(wide(&of_pair), y);
                    let (projected, trace) = (block.project(&x)?, block.trace(&x)?);
                    assert_eq!(wide(&block.forward_projected(&projected)?), y);
                    assert_eq!(wide(&trace.output), y);
                    assert_eq!(wide(&trace.gate), wide(&projected.gate));
                    assert_eq!(wide(&block.gated(&projected)?), wide(&trace.product));
                    assert_eq!(wide(&block.activate(&projected.gate)?), wide(&trace.activated));
                    // What the dense block makes of the gate made sparse beforehand.
                    let gate = sparsity.apply(&projected.gate)?;
                    let dense = block.with_sparsity(None);
                    let sparse = GateUp { gate, up: projected.up };
                    assert_eq!(wide(&dense.forward_projected(&sparse)?), y);
                    // Of a normal gate 60 % are 0; of this one about as many.
                    let zeros = trace.activated.eq(0f64)?.to_dtype(DType::F32)?.mean_all()?;
                    let zeros = zeros.to_scalar::<f32>()?;
                    assert!((0.45..0.75).contains(&zeros), "{zeros}");
                }
                let variable = Var::from_tensor(&x)?;
                assert_eq!(wide(&tanh.frozen().forward(&variable)?), y);
                if dtype != DType::F64 {
                    let alone = tanh.forward(&x.get(1)?.get(2)?)?;
                    let packed = matches!(tanh.gate_up, Projection::Packed(..));
                    assert!(!packed || wide(&alone) == y[5 * 33..]);
                }
                for threads in 1..4 {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                    let pool = pool.map_err(candle_core::Error::wrap)?;
                    assert_eq!(wide(&pool.install(|| tanh.forward(&x))?), y);
                }
            }
        }
        // Packed, the same but for the order of sums.
        let tanh = mlp.with_sparsity(sparsity);
        let x = x.to_dtype(DType::F32)?;
        let difference = (tanh.packed()?.forward(&x)? - tanh.forward(&x)?)?.abs()?.max_all()?;
        assert!(difference.to_scalar::<f32>()? < 1e-5);
    }
    Ok(())
}

/// How a gate is computed is one value.
#[test]
fn gating() -> Result<()> {
    let (_, mlp) = varmap_mlp(false, Gelu::Tanh);
    let gating = Gating { activation: Activation::Silu, rounding: Rounding::AfterActivation };
    let other = mlp.with_gating(gating);
    assert_eq!((other.gating(), other.activation()), (gating, Activation::Silu));
    assert_eq!(mlp.gating(), Gating::new(Gelu::Tanh));
    let x = Tensor::randn(0f32, 1., (3, 8), &Device::Cpu)?.to_dtype(DType::BF16)?;
    let same = mlp.with_activation(Activation::Silu).with_rounding(Rounding::AfterActivation);
    let wide = |t: Tensor| Ok::<_, candle_core::Error>(bits(&t.to_dtype(DType::F32)?));
    assert_eq!(wide(other.forward(&x)?)?, wide(same.forward(&x)?)?);
    Ok(())
}
