use super::*;
use candle_core::{DType, Device, Var};
use candle_nn::VarMap;

const HIDDEN: usize = 10;

/// A block with random weights, as tensors without gradients.
fn block(width: usize, heads: usize, conv_width: usize) -> Result<RecurrentBlock> {
    let varmap = VarMap::new();
    let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu);
    let config = RecurrentConfig { width, heads, conv_width };
    RecurrentBlock::new(&config, HIDDEN, crate::Gelu::Tanh, vb)?;
    for var in varmap.all_vars() {
        var.set(&Tensor::randn(0f32, 0.6, var.shape(), &Device::Cpu)?)?;
    }
    let data = varmap.data().lock().unwrap().clone();
    let constants = data.into_iter().map(|(name, var)| (name, var.as_detached_tensor()));
    let vb = VarBuilder::from_tensors(constants.collect(), DType::F32, &Device::Cpu);
    RecurrentBlock::new(&config, HIDDEN, crate::Gelu::Tanh, vb)
}

fn difference(a: &Tensor, b: &Tensor) -> Result<f32> {
    (a - b)?.abs()?.max_all()?.to_scalar()
}

#[test]
fn one_pass_agrees_with_candles_operations() -> Result<()> {
    for (width, heads, conv_width) in [(18, 3, 4), (5, 1, 1), (64, 2, 2), (7, 7, 9)] {
        let tensors = block(width, heads, conv_width)?;
        let packed = tensors.packed()?;
        let x = Tensor::randn(0f32, 1., (2, 130, HIDDEN), &Device::Cpu)?;
        let restarts = [vec![3, 64], vec![]];
        for restarts in [&[][..], &restarts] {
            let [ours, theirs] =
                [&packed, &tensors].map(|block| block.recurrence(&x, None, restarts));
            assert!(difference(&ours?, &theirs?)? < 1e-4, "{width} {heads} {conv_width}");
        }
        // A state goes from one way of computing to the other.
        let mut state = RecurrentState::default();
        packed.forward_after(&x.narrow(1, 0, 65)?, &mut state)?;
        let rest = tensors.forward_after(&x.narrow(1, 65, 65)?, &mut state)?;
        assert!(difference(&rest, &packed.forward(&x)?.narrow(1, 65, 65)?)? < 1e-4);
    }
    Ok(())
}

#[test]
fn half_precision_rounds_what_leaves_alone() -> Result<()> {
    let packed = block(18, 3, 4)?.packed()?;
    for dtype in [DType::BF16, DType::F16] {
        let x = Tensor::randn(0f32, 1., (1, 40, HIDDEN), &Device::Cpu)?.to_dtype(dtype)?;
        let narrow = packed.recurrence(&x, None, &[])?;
        assert_eq!(narrow.dtype(), dtype);
        let wide = packed.recurrence(&x.to_dtype(DType::F32)?, None, &[])?;
        assert!(difference(&wide, &narrow.to_dtype(DType::F32)?)? < 0.1);
    }
    Ok(())
}

/// Gates that are wide open or shut, and numbers that are none, pass through.
#[test]
fn extremes() -> Result<()> {
    let packed = block(6, 2, 2)?.packed()?;
    let large = (Tensor::ones((1, 9, HIDDEN), DType::F32, &Device::Cpu)? * 1e30)?;
    let finite = packed.recurrence(&large, None, &[])?.abs()?.max_all()?.to_scalar::<f32>()?;
    assert!(finite.is_finite());
    let nan = packed.recurrence(&(large * f64::NAN)?, None, &[])?;
    assert!(nan.flatten_all()?.to_vec1::<f32>()?.iter().all(|x| x.is_nan()));
    Ok(())
}

#[test]
fn the_roots_derivative_is_bounded() -> Result<()> {
    let x = Var::new(&[0.25f64, 1e-8, 0.0], &Device::Cpu)?;
    let root = rg_lru::sqrt(x.as_tensor().clone())?;
    assert_eq!(root.to_vec1::<f64>()?, [0.5, 1e-4, 0.0]);
    let gradient = root.sum_all()?.backward()?.get(&x).unwrap().to_vec1::<f64>()?;
    assert_eq!(gradient, [1.0, 1000.0, 1000.0]);
    Ok(())
}

#[test]
fn sizes_that_cannot_be() {
    for (width, heads, conv_width) in [(18, 4, 4), (18, 0, 4), (18, 3, 0), (0, 1, 4)] {
        assert!(block(width, heads, conv_width).is_err(), "{width} {heads} {conv_width}");
    }
}
