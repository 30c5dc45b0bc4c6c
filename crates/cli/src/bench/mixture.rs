//! One forward pass of a mixture of experts: ours beside candle's own operations.

use super::case::Case;
use super::experts::Experts;
use super::noise::gaussian;
use super::timing::{Time, turns};
use super::weights::Weights;
use candle_core::{D, Device, Tensor};
use gemma_mlp::mlp::{GatedExperts, Routing};
use gemma_mlp::{Gelu, Result};

/// Experts as we compute them and as candle does.
pub(super) struct Sides {
    experts: Experts,
    ours: GatedExperts,
    /// Gate and up of each expert, and down: in bf16 in tensors of their own, since of a part of a tensor candle
    /// would widen all for every product.
    theirs: Vec<[Tensor; 2]>,
}

impl Sides {
    /// Both from the same weights, of a case's shape and type.
    pub fn new(case: Case, experts: Experts) -> Result<Self> {
        let (hidden, intermediate) = (case.shape.hidden(), case.shape.intermediate());
        let weight = |rows: usize, columns: usize, seed| -> Result<Tensor> {
            let stdev = 1.0 / (columns as f32).sqrt();
            let all = gaussian(experts.count() * rows, columns, stdev, seed)?;
            Ok(all.to_dtype(case.weights.dtype())?.reshape((experts.count(), rows, columns))?)
        };
        let gate_up = weight(2 * intermediate, hidden, 1)?;
        let down = weight(hidden, intermediate, 3)?;
        let ours = GatedExperts::new(gate_up.clone(), down.clone(), Gelu::Tanh)?.packed()?;
        let part = |all: &Tensor, i| match case.weights {
            Weights::Bf16 => all.get(i)?.force_contiguous(),
            _ => all.get(i),
        };
        let theirs = (0..experts.count()).map(|i| Ok([part(&gate_up, i)?, part(&down, i)?]));
        let theirs = theirs.collect::<Result<Vec<_>>>()?;
        Ok(Self { experts, ours, theirs })
    }

    /// candle's forward pass: the rows of every expert selected, and its three products with them.
    fn candle(&self, x: &Tensor, routing: &Routing) -> candle_core::Result<Tensor> {
        let indices = routing.indices().to_vec2::<u32>()?;
        let weights = routing.weights().to_dtype(x.dtype())?.flatten_all()?;
        let mut y = x.zeros_like()?;
        for (expert, [gate_up, down]) in self.theirs.iter().enumerate() {
            let (mut rows, mut pairs) = (vec![], vec![]);
            for (row, chosen) in indices.iter().enumerate() {
                if let Some(at) = chosen.iter().position(|&at| at as usize == expert) {
                    rows.push(row as u32);
                    pairs.push((row * self.experts.top() + at) as u32);
                }
            }
            if rows.is_empty() {
                continue;
            }
            let count = rows.len();
            let rows = Tensor::from_vec(rows, count, &Device::Cpu)?;
            let pairs = Tensor::from_vec(pairs, count, &Device::Cpu)?;
            let x = x.index_select(&rows, 0)?; // [count, hidden]
            let both = x.matmul(&gate_up.t()?)?.chunk(2, D::Minus1)?;
            let product = (both[0].gelu()? * &both[1])?; // [count, intermediate]
            let output = product.matmul(&down.t()?)?;
            let weights = weights.index_select(&pairs, 0)?.unsqueeze(1)?;
            y = y.index_add(&rows, &output.broadcast_mul(&weights)?, 0)?;
        }
        Ok(y)
    }

    /// The input and the routing of some tokens, whose weights sum to 1.
    fn inputs(&self, case: Case) -> Result<(Tensor, Routing)> {
        let (tokens, top) = (case.tokens.get(), self.experts.top());
        let x = gaussian(tokens, case.shape.hidden(), 1.0, 0)?.to_dtype(case.weights.dtype())?;
        let chosen: Vec<u32> = self.experts.chosen(tokens).flatten().collect();
        let indices = Tensor::from_vec(chosen, (tokens, top), &Device::Cpu)?;
        let weights = Tensor::full(1.0 / top as f32, (tokens, top), &Device::Cpu)?;
        Ok((x, Routing::new(&indices, &weights)?))
    }

    /// Times both in a case of these experts': [`super::block::Sides::times`].
    pub fn times(&self, case: Case, cool: impl Fn()) -> Result<[Time; 2]> {
        let (x, routing) = self.inputs(case)?;
        turns([&|| self.ours.forward(&x, &routing), &|| self.candle(&x, &routing)], cool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Shape, assert_agree};
    use std::num::NonZeroUsize;

    /// Both sides compute one function, so that their times can be compared.
    #[test]
    fn both_sides_agree() -> Result<()> {
        let [count, top, tokens] = [6, 2, 5].map(|n| NonZeroUsize::new(n).unwrap());
        for weights in [Weights::F32, Weights::Bf16] {
            let experts = Experts::new(count, top)?;
            let shape = Shape::new(64, 40)?;
            let case = Case { shape, weights, tokens, experts: Some(experts) };
            let sides = Sides::new(case, experts)?;
            let (x, routing) = sides.inputs(case)?;
            assert_agree(
                weights,
                &sides.ours.forward(&x, &routing)?,
                &sides.candle(&x, &routing)?,
            )?;
        }
        Ok(())
    }
}
