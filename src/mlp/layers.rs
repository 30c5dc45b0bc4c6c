//! What all blocks ask of their layers.

use crate::error::InvalidLayer;
use crate::kernels::linear::{Linear, Weight};
use candle_core::{DType, Tensor, Var};

/// candle's unless another error is named.
pub(super) type Result<T, E = candle_core::Error> = std::result::Result<T, E>;

/// A layer of ours out of one of candle-nn's, or of ours, and its shape, `[out, in]`.
pub(super) fn layer<L: TryInto<Linear, Error: Into<InvalidLayer>>>(
    name: &'static str,
    layer: L,
) -> Result<(Linear, [usize; 2]), InvalidLayer> {
    let layer: Linear = layer.try_into().map_err(|error| error.into().of(name))?;
    let shape = layer.check().map_err(|error| error.of(name))?;
    Ok((layer, shape))
}

/// The layer with a copy of its weight as a variable, and the variable; of a packed weight in f32.
pub(super) fn variable(layer: &Linear) -> Result<(Linear, Var)> {
    let weight = match layer.weight() {
        Weight::Tensor(weight) => weight.clone(),
        packed => packed.to_tensor(DType::F32)?,
    };
    of_variable(&weight, layer.bias())
}

/// A layer with a copy of a weight as a variable, and the variable.
pub(super) fn of_variable(weight: &Tensor, bias: Option<&Tensor>) -> Result<(Linear, Var)> {
    let variable = Var::from_tensor(&weight.detach())?; // of a variable candle would make no copy
    let weight = Weight::Tensor(variable.as_tensor().clone());
    Ok((Linear::new(weight, bias.cloned())?, variable))
}

/// Refuses sizes of a block before anything is allocated: 0, and more than any memory holds, of which
/// an allocation would end the program. `matrices` are the largest that are made at once.
pub(super) fn check_sizes(
    hidden: usize,
    intermediate: usize,
    matrices: usize,
) -> Result<(), InvalidLayer> {
    // In the widest dtype.
    let bytes = hidden.checked_mul(intermediate).and_then(|n| n.checked_mul(matrices * 8));
    if bytes.is_none_or(|bytes| bytes > isize::MAX as usize) {
        return Err(InvalidLayer::TooLarge { hidden, intermediate });
    }
    if hidden == 0 || intermediate == 0 {
        return Err(InvalidLayer::Weight { layer: "gate", weight: vec![intermediate, hidden] });
    }
    Ok(())
}
