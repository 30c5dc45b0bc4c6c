//! What the library refuses: errors, and never a panic or a wrong result.

use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::{VarBuilder, VarMap};
use gemma_mlp::linear::{Linear, Weight};
use gemma_mlp::model::{Cache, Head};
use gemma_mlp::{Checkpoint, Gelu, Gemma, GemmaMlp, InvalidLayer, gemma_mlp, gemma_mlp_b};

fn zeros(dims: &[usize], dtype: DType) -> Tensor {
    Tensor::zeros(dims, dtype, &Device::Cpu).unwrap()
}

fn f32s(dims: &[usize]) -> Tensor {
    zeros(dims, DType::F32)
}

fn block(hidden: usize, intermediate: usize, bias: bool) -> Result<GemmaMlp> {
    let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
    gemma_mlp_b(hidden, intermediate, bias, Gelu::Tanh, vb)
}

/// Of 40 rows, of a tensor or packed, as ours or candle's layer, alone or in a block.
#[test]
fn biases_of_another_length() {
    let weight = Weight::Tensor(f32s(&[40, 8]));
    let down = || candle_nn::Linear::new(f32s(&[8, 40]), None);
    for dims in [&[0][..], &[1], &[3], &[39], &[41], &[80], &[40, 1], &[1, 40], &[]] {
        let bias = || Some(f32s(dims));
        for weight in [weight.clone(), weight.packed().unwrap()] {
            let error = Linear::new(weight.clone(), bias()).unwrap_err();
            assert!(matches!(error, InvalidLayer::Bias { .. }), "{dims:?}: {error}");
            // The product alone takes its bias as it comes.
            if dims.iter().product::<usize>() != 40 {
                assert!(weight.matmul(&f32s(&[2, 8]), bias().as_ref()).is_err(), "{dims:?}");
            }
        }
        let spoiled = || candle_nn::Linear::new(f32s(&[40, 8]), bias());
        let good = || candle_nn::Linear::new(f32s(&[40, 8]), None);
        let of_gate = GemmaMlp::new(spoiled(), good(), down(), Gelu::Tanh).unwrap_err();
        let of_up = GemmaMlp::new(good(), spoiled(), down(), Gelu::Tanh).unwrap_err();
        assert!(matches!(of_gate, InvalidLayer::Bias { layer: "gate", .. }), "{of_gate}");
        assert!(matches!(of_up, InvalidLayer::Bias { layer: "up", .. }), "{of_up}");
    }
    for len in [7, 9] {
        let good = || candle_nn::Linear::new(f32s(&[40, 8]), None);
        let down = candle_nn::Linear::new(f32s(&[8, 40]), Some(f32s(&[len])));
        let error = GemmaMlp::new(good(), good(), down, Gelu::Tanh).unwrap_err();
        assert!(matches!(error, InvalidLayer::Bias { layer: "down", .. }), "{error}");
        let both = candle_nn::Linear::new(f32s(&[80, 8]), Some(f32s(&[80 + len])));
        let down = candle_nn::Linear::new(f32s(&[8, 40]), None);
        let error = GemmaMlp::from_gate_up(both, down, Gelu::Tanh).unwrap_err();
        assert!(matches!(error, InvalidLayer::Bias { layer: "gate_up", .. }), "{error}");
    }
}

#[test]
fn sizes_of_nothing_and_beyond_memory() {
    let most = usize::MAX;
    for (hidden, intermediate) in
        [(most, 1), (1, most), (most, most), (8, most / 2 + 1), (1 << 32, 1 << 31), (1 << 60, 1)]
    {
        for bias in [false, true] {
            let error = block(hidden, intermediate, bias).unwrap_err().to_string();
            assert!(error.contains("larger than any memory"), "{error}");
        }
    }
    for (hidden, intermediate) in [(0, 4), (4, 0), (0, 0), (0, most)] {
        assert!(block(hidden, intermediate, false).is_err());
    }
}

/// Inputs of no dimension, of integers, and of another width.
#[test]
fn inputs() {
    let block = block(8, 12, true).unwrap();
    let weight = Weight::Tensor(f32s(&[40, 8]));
    for mlp in [block.clone(), block.packed().unwrap()] {
        for dtype in [DType::F32, DType::F64, DType::BF16, DType::U32, DType::I64] {
            for dims in [&[][..], &[7], &[2, 9]] {
                let x = zeros(dims, dtype);
                assert!(mlp.forward(&x).is_err() && mlp.forward_pair(&x).is_err(), "{x:?}");
                assert!(mlp.project(&x).is_err() && mlp.trace(&x).is_err(), "{x:?}");
            }
        }
        assert!(mlp.forward(&zeros(&[2, 8], DType::U32)).is_err());
    }
    for weight in [weight.clone(), weight.packed().unwrap()] {
        for softcap in [None, Some(30.0)] {
            let head = Head::new(weight.clone(), softcap).unwrap();
            for dtype in [DType::U8, DType::U32, DType::I64] {
                assert!(head.forward(&zeros(&[2, 8], dtype)).is_err());
            }
            assert!(head.forward(&f32s(&[])).is_err() && head.forward(&f32s(&[2, 7])).is_err());
        }
        let layer = Linear::new(weight, None).unwrap();
        assert!(layer.forward(&f32s(&[])).is_err());
    }
}

/// Ids in any integer dtype, of words that there are.
#[test]
fn ids() -> Result<()> {
    let checkpoint = Checkpoint::open("weights/tiny-gemma3").map_err(candle_core::Error::wrap)?;
    let packed = Gemma::load(&checkpoint, &Device::Cpu, DType::F32);
    let tensors = Gemma::load(&checkpoint, &Device::Cpu, DType::F64);
    for gemma in [packed, tensors] {
        let gemma = gemma.map_err(candle_core::Error::wrap)?;
        let right = Tensor::new(&[[5u32, 7]], &Device::Cpu)?;
        let logits = |ids: &Tensor| gemma.forward(ids)?.flatten_all()?.to_dtype(DType::F64);
        let expected = logits(&right)?.to_vec1::<f64>()?;
        for dtype in [DType::U8, DType::I64, DType::I32, DType::I16] {
            assert_eq!(logits(&right.to_dtype(dtype)?)?.to_vec1::<f64>()?, expected);
        }
        for id in [(1i64 << 32) + 5, -1, 1024, i64::MIN, i64::MAX] {
            let ids = Tensor::new(&[[5, id]], &Device::Cpu)?;
            let error = gemma.forward(&ids).unwrap_err().to_string();
            assert!(error.contains(&id.to_string()), "{error}");
            assert!(gemma.forward_cached(&ids, &mut Cache::default()).is_err());
        }
        assert!(gemma.forward(&Tensor::new(&[[u32::MAX]], &Device::Cpu)?).is_err());
        for id in [1.0f32, 1.5, f32::NAN] {
            assert!(gemma.forward(&Tensor::new(&[[id]], &Device::Cpu)?).is_err());
        }
        for dims in [&[][..], &[2], &[1, 2, 1]] {
            assert!(gemma.forward(&zeros(dims, DType::U32)).is_err());
            assert!(gemma.forward_cached(&zeros(dims, DType::U32), &mut Cache::default()).is_err());
        }
    }
    Ok(())
}

/// Configs that nobody parses, but anybody can make.
#[test]
fn configs() {
    let checkpoint = Checkpoint::open("weights/tiny-gemma3").unwrap();
    let built = |change: &dyn Fn(&mut gemma_mlp::checkpoint::Config)| {
        let mut config = checkpoint.config().clone();
        change(&mut config);
        let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
        Gemma::new(&config, DType::F32, vb)
    };
    assert!(built(&|_| ()).is_ok());
    assert!(built(&|config| config.stacks.clear()).is_err());
    let attention = |change: fn(&mut gemma_mlp::checkpoint::AttentionConfig)| {
        built(&|config| change(config.stacks[0].attention.as_mut().unwrap()))
    };
    let window = attention(|a| a.layers[0].sliding_window = Some(0)).unwrap_err();
    assert!(window.to_string().contains("window of 0"), "{window}");
    let wide = attention(|a| {
        a.num_attention_heads = (1 << 62) + 2;
        a.layers[0].head_dim = 4;
    });
    assert!(wide.is_err());
    assert!(attention(|a| a.layers[0].num_key_value_heads = 0).is_err());
    assert!(attention(|a| a.layers[1].shares = Some(0)).is_ok());
    let none = |size: fn(&mut gemma_mlp::checkpoint::Config)| built(&size).is_err();
    assert!(none(|config| config.stacks[0].feed_forward[0].intermediate_size = 0));
    assert!(none(|config| config.stacks[0].feed_forward[0].intermediate_size = usize::MAX));
    let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
    assert!(gemma_mlp(4, usize::MAX, Gelu::Tanh, vb).is_err());
}
