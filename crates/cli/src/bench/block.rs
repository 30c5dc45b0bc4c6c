//! One forward pass of a block: ours beside candle's own operations.

use super::case::Case;
use super::noise::gaussian;
use super::shape::Shape;
use super::timing::{Time, turns};
use super::weights::Weights;
use candle_core::quantized::{QMatMul, QStorage, QTensor};
use candle_core::{Device, Module, Tensor};
use candle_nn::Linear;
use gemma_mlp::Gelu;
use gemma_mlp::GemmaMlp;
use gemma_mlp::Result;
use gemma_mlp::internal::quantise;

/// One block as we compute it and as candle does.
pub(super) struct Sides {
    ours: GemmaMlp,
    gate: Candle,
    up: Candle,
    down: Candle,
}

/// A layer as candle computes it: quantised weights with an input that it rounds to 8 bits.
enum Candle {
    Linear(Linear),
    Quantised(QMatMul),
}

impl Candle {
    fn new(layer: Linear, weights: Weights) -> Result<Self> {
        Ok(match weights.blocks() {
            // In the same blocks as ours: candle's own quantiser makes others of the K types.
            Some(kind) => {
                let blocks = quantise(layer.weight().flatten_all()?.to_vec1()?, kind)?;
                let blocks = QStorage::from_data(blocks.into(), &Device::Cpu, kind)?;
                let quantised = QTensor::new(blocks, layer.weight().shape())?;
                Self::Quantised(QMatMul::from_qtensor(quantised)?)
            }
            None => Self::Linear(layer),
        })
    }
}

impl Module for Candle {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Linear(layer) => layer.forward(x),
            Self::Quantised(layer) => layer.forward(x),
        }
    }
}

impl Sides {
    /// Both from the same weights.
    pub fn new(shape: Shape, weights: Weights) -> Result<Self> {
        let layer = |rows, columns, seed| -> Result<Linear> {
            let stdev = 1.0 / (columns as f32).sqrt();
            Ok(Linear::new(gaussian(rows, columns, stdev, seed)?.to_dtype(weights.dtype())?, None))
        };
        let gate = layer(shape.intermediate(), shape.hidden(), 1)?;
        let up = layer(shape.intermediate(), shape.hidden(), 2)?;
        let down = layer(shape.hidden(), shape.intermediate(), 3)?;
        let ours = GemmaMlp::new(gate.clone(), up.clone(), down.clone(), Gelu::Tanh)?;
        let ours = match weights.blocks() {
            Some(kind) => ours.quantised(kind)?,
            None => ours.packed()?,
        };
        let candle = |layer| Candle::new(layer, weights);
        Ok(Self { ours, gate: candle(gate)?, up: candle(up)?, down: candle(down)? })
    }

    /// candle's forward pass.
    fn candle(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let product = (self.gate.forward(x)?.gelu()? * self.up.forward(x)?)?; // [tokens, intermediate]
        self.down.forward(&product)
    }

    /// Times both in a case of this block's: the medians, ours first, with helpers that are awake as they
    /// are in a model, whose operations follow one another.
    pub fn times(&self, case: Case, cool: impl Fn()) -> Result<[Time; 2]> {
        let x = gaussian(case.tokens.get(), case.shape.hidden(), 1.0, 0)?;
        let x = x.to_dtype(case.weights.dtype())?; // [tokens, hidden]
        turns([&|| self.ours.forward(&x), &|| self.candle(&x)], cool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::assert_agree;

    /// Both sides compute one function, so that their times can be compared.
    #[test]
    fn both_sides_agree() -> Result<()> {
        for weights in Weights::ALL {
            let sides = Sides::new(Shape::new(256, 512).unwrap(), weights)?;
            let x = gaussian(5, 256, 1.0, 0)?.to_dtype(weights.dtype())?;
            assert_agree(weights, &sides.ours.forward(&x)?, &sides.candle(&x)?)?;
        }
        Ok(())
    }
}
