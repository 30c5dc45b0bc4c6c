use super::*;
use crate::kernels::gelu::Gelu;
use crate::kernels::linear::Weight;
use crate::rounding::Framework;
use candle_core::Device;
use candle_nn::VarMap;

fn random(dims: &[usize], dtype: DType) -> Result<Tensor> {
    Tensor::randn(0f32, 1., dims, &Device::Cpu)?.to_dtype(dtype)
}

/// A trainable gate of hidden size 8 and width 5.
fn varmap_gate(bias: bool) -> (VarMap, InputGate) {
    let varmap = VarMap::new();
    let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu);
    let gate = input_gate_b(8, 5, bias, Gelu::Tanh, ["linear_y", "linear_out"], vb).unwrap();
    (varmap, gate)
}

fn bits(t: &Tensor) -> Vec<u32> {
    let t = t.to_dtype(DType::F32).unwrap();
    t.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

#[test]
fn names_and_shapes() -> Result<()> {
    let (varmap, gate) = varmap_gate(true);
    let data = varmap.data().lock().unwrap();
    let mut names: Vec<_> = data.iter().map(|(name, var)| (name.as_str(), var.dims())).collect();
    names.sort();
    let expected: [(&str, &[usize]); 4] = [
        ("linear_out.bias", &[8]),
        ("linear_out.weight", &[8, 5]),
        ("linear_y.bias", &[5]),
        ("linear_y.weight", &[5, 8]),
    ];
    assert_eq!(names, expected);
    for gate in [gate.packed()?, gate] {
        for batch in [&[][..], &[1], &[2, 3], &[2, 1, 3], &[0], &[2, 0]] {
            let x = random(&[batch, &[8]].concat(), DType::F32)?;
            let input = random(&[batch, &[5]].concat(), DType::F32)?;
            assert_eq!(gate.forward(&x, &input)?.dims(), x.dims());
            assert_eq!(gate.forward_pair(&x, &input)?.tanh.dims(), x.dims());
            assert_eq!(gate.trace(&x, &input)?.output.dims(), x.dims());
        }
        // Inputs that lie apart.
        let x = random(&[2, 8, 3], DType::F32)?.transpose(1, 2)?;
        let input = random(&[2, 5, 3], DType::F32)?.transpose(1, 2)?;
        let straight = gate.forward(&x.contiguous()?, &input.contiguous()?)?;
        assert_eq!(bits(&gate.forward(&x, &input)?), bits(&straight));
        // Another width, batch or dtype.
        let x = random(&[2, 3, 8], DType::F32)?;
        for (dims, dtype) in [
            (&[2, 3, 4][..], DType::F32),
            (&[2, 1, 5], DType::F32),
            (&[5], DType::F32),
            (&[2, 3, 5], DType::BF16),
            (&[2, 3, 5], DType::U32),
        ] {
            let input = random(dims, DType::F32)?.abs()?.to_dtype(dtype)?;
            assert!(gate.forward(&x, &input).is_err(), "{dims:?} {dtype:?}");
            assert!(gate.forward_pair(&x, &input).is_err(), "{dims:?} {dtype:?}");
            assert!(gate.trace(&x, &input).is_err(), "{dims:?} {dtype:?}");
        }
        let input = random(&[2, 3, 5], DType::F32)?;
        assert!(gate.forward(&random(&[2, 3, 7], DType::F32)?, &input).is_err());
    }
    Ok(())
}

#[test]
fn layers_that_do_not_fit() {
    let linear = |rows: usize, columns: usize| {
        let weight = Tensor::zeros((rows, columns), DType::F32, &Device::Cpu).unwrap();
        Linear::new(Weight::Tensor(weight), None).unwrap()
    };
    let error = InputGate::new(linear(5, 8), linear(8, 6), Gelu::Tanh).unwrap_err();
    assert_eq!(error, InvalidLayer::Out { out: vec![8, 6], gate: vec![5, 8] });
    // Out may lead anywhere.
    assert!(InputGate::new(linear(5, 8), linear(3, 5), Gelu::Tanh).is_ok());
    let vb = || VarBuilder::zeros(DType::F32, &Device::Cpu);
    for (hidden, width) in [(0, 5), (5, 0), (usize::MAX, 2), (1 << 40, 1 << 40)] {
        let gate = input_gate(hidden, width, Gelu::Tanh, ["a", "b"], vb());
        assert!(gate.is_err(), "{hidden} {width}");
    }
}

/// As its formula says, and under every rounding forward, trace and pair have the same bits, packed or
/// not, with and without a gradient.
#[test]
fn forward_trace_and_pair() -> Result<()> {
    let roundings = [
        Rounding::Once,
        Rounding::AfterActivation,
        Rounding::EveryOp,
        Rounding::Like(Framework::PyTorch),
    ];
    for bias in [false, true] {
        for dtype in [DType::F32, DType::BF16, DType::F16, DType::F64] {
            let (_, gate) = varmap_gate(bias);
            let (x, input) = (random(&[2, 3, 8], dtype)?, random(&[2, 3, 5], dtype)?);
            let gate = gate.to_dtype(dtype)?;
            let packed = gate.to_dtype(DType::F32)?.packed()?.frozen();
            for (gate, rounding) in
                [gate, packed].iter().flat_map(|gate| roundings.map(|rounding| (gate, rounding)))
            {
                let tanh = gate.with_rounding(rounding);
                let exact = tanh.with_activation(Gelu::Exact);
                assert_eq!(exact.gating(), Gating { activation: Activation::EXACT, rounding });
                let by_gating = gate.with_gating(exact.gating());
                assert_eq!(
                    bits(&by_gating.forward(&x, &input)?),
                    bits(&exact.forward(&x, &input)?)
                );
                let pair = tanh.forward_pair(&x, &input)?;
                // Half types may round both forms to the same few numbers.
                let products = [&tanh, &exact].map(|gate| gate.trace(&x, &input));
                let [of_tanh, of_exact] = products.map(|trace| trace.map(|t| bits(&t.product)));
                assert!(of_tanh? != of_exact? || matches!(dtype, DType::BF16 | DType::F16));
                for (gate, of_pair) in [(tanh, pair.tanh), (exact, pair.exact)] {
                    let expected = bits(&gate.forward(&x, &input)?);
                    assert_eq!(bits(&of_pair), expected);
                    let variable = Var::from_tensor(&x)?;
                    assert_eq!(bits(&gate.forward(&variable, &input)?), expected);
                    let trace = gate.trace(&x, &input)?;
                    assert_eq!(bits(&trace.output), expected);
                    assert_eq!(bits(&trace.gate), bits(&gate.project(&x)?));
                    assert_eq!(bits(&trace.activated), bits(&gate.activate(&trace.gate)?));
                    assert_eq!(bits(&trace.product), bits(&gate.gated(&trace.gate, &input)?));
                    assert_eq!(bits(&trace.output), bits(&gate.out(&trace.product)?));
                }
            }
        }
    }
    Ok(())
}

/// Packed it is what it is of tensors, but for the order of sums; in any dtype, for odd sizes, alone and
/// in a batch, in pools of any size.
#[test]
fn packed_gate() -> Result<()> {
    for (hidden, width) in [(8, 5), (33, 71), (70, 300)] {
        for (bias, of_x, of_weights) in [
            (false, DType::F32, DType::F32),
            (true, DType::F32, DType::BF16),
            (true, DType::BF16, DType::BF16),
            (false, DType::F16, DType::F32),
            (true, DType::F64, DType::F32),
        ] {
            let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
            let tensors = input_gate_b(hidden, width, bias, Gelu::Exact, ["a", "b"], vb)?;
            let tensors = tensors.to_dtype(of_weights)?;
            let packed = tensors.packed()?;
            let (x, input) = (random(&[9, hidden], of_x)?, random(&[9, width], of_x)?);
            let y = packed.forward(&x, &input)?;
            assert_eq!(y.dtype(), of_x);
            let wide = tensors.to_dtype(DType::F64)?;
            let expected = wide.forward(&x.to_dtype(DType::F64)?, &input.to_dtype(DType::F64)?)?;
            let norm = |t: &Tensor| t.sqr()?.sum_all()?.sqrt()?.to_scalar::<f64>();
            let distance = norm(&(y.to_dtype(DType::F64)? - &expected)?)? / norm(&expected)?;
            let bound = match of_x {
                DType::F64 => 1e-14,
                DType::F32 => 1e-6,
                _ => 0.01, // gate, product and output are each off by up to 2^-9 of themselves
            };
            assert!(distance < bound, "{hidden} {width} {of_x:?} {of_weights:?}: {distance:e}");
            for row in 0..9 {
                let alone = packed.forward(&x.get(row)?, &input.get(row)?)?;
                if of_x != DType::F64 {
                    assert_eq!(bits(&alone), bits(&y.get(row)?));
                }
            }
            for threads in 1..4 {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                let pool = pool.map_err(candle_core::Error::wrap)?;
                assert_eq!(bits(&pool.install(|| packed.forward(&x, &input))?), bits(&y));
            }
        }
    }
    Ok(())
}

/// Tensors train, packed weights do not, frozen ones let the gradient through to both inputs; variables
/// are copies.
#[test]
fn gradients() -> Result<()> {
    let (varmap, gate) = varmap_gate(true);
    let (x, input) = (random(&[3, 8], DType::F32)?, random(&[3, 5], DType::F32)?);
    let gradients = gate.forward(&x, &input)?.sum_all()?.backward()?;
    assert!(varmap.all_vars().iter().all(|var| gradients.get(var).is_some()));
    let (x, input) = (Var::from_tensor(&x)?, Var::from_tensor(&input)?);
    let packed = gate.packed()?;
    assert!(packed.forward(&x, &input)?.sum_all()?.backward().is_err());
    let of_tensors = gate.forward(&x, &input)?.sum_all()?.backward()?;
    let of_frozen = packed.frozen().forward(&x, &input)?.sum_all()?.backward()?;
    for var in [&x, &input] {
        let (a, b) = (of_tensors.get(var).unwrap(), of_frozen.get(var).unwrap());
        assert!((a - b)?.abs()?.max_all()?.to_scalar::<f32>()? < 1e-5);
    }
    for gate in [&gate, &packed] {
        let (with, vars) = gate.with_variables()?;
        assert_eq!([vars[0].dims(), vars[1].dims()], [[5, 8], [8, 5]]);
        let y = with.forward(&x, &input)?;
        assert!((&y - gate.forward(&x, &input)?)?.abs()?.max_all()?.to_scalar::<f32>()? < 1e-5);
        let gradients = y.sum_all()?.backward()?;
        assert!(vars.iter().all(|var| gradients.get(var).is_some()));
        vars[0].set(&vars[0].zeros_like()?)?;
        assert_ne!(bits(&with.forward(&x, &input)?), bits(&gate.forward(&x, &input)?));
    }
    Ok(())
}

/// Its inputs can be rounded in front of both products.
#[test]
fn inputs_are_rounded() -> Result<()> {
    let (_, gate) = varmap_gate(false);
    let rounded = gate.with_input_rounding(crate::kernels::linear::InputRounding::To(DType::BF16));
    let (x, input) = (random(&[3, 8], DType::F32)?, random(&[3, 5], DType::F32)?);
    let to_bf16 = |t: &Tensor| t.to_dtype(DType::BF16)?.to_dtype(DType::F32);
    let product = gate.gated(&gate.project(&to_bf16(&x)?)?, &input)?;
    let expected = gate.out(&to_bf16(&product)?)?;
    assert_eq!(bits(&rounded.forward(&x, &input)?), bits(&expected));
    assert_ne!(bits(&gate.forward(&x, &input)?), bits(&expected));
    Ok(())
}
