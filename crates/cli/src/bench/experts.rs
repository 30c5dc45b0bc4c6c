//! One forward pass of a mixture of experts: ours beside candle's own operations.

use super::block::{Case, gaussian};
use super::shape::Shape;
use super::timing::{Time, turns};
use super::weights::Weights;
use candle_core::{D, Device, Tensor};
use gemma_mlp::mlp::{GatedExperts, Routing};
use gemma_mlp::{Gelu, Result};
use rand::{SeedableRng, rngs::StdRng, seq::index};
use serde::Serialize;
use std::fmt;
use std::num::NonZeroUsize;

/// How many experts there are, and how many of them a token goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Experts {
    count: usize,
    top: usize,
}

/// Numbers of experts that cannot be measured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidExperts {
    /// More for a token than there are.
    #[error("a token cannot go through {top} of {count} experts; pass a smaller --top")]
    Top {
        /// How many a token would go through.
        top: usize,
        /// How many there are.
        count: usize,
    },
    /// More weights than a machine's memory is likely to hold.
    #[error("{count} experts of {shape} are too large; all of them may have 2^31 weights")]
    TooLarge {
        /// How many there would be.
        count: usize,
        /// The sizes of each.
        shape: Shape,
    },
}

impl From<InvalidExperts> for gemma_mlp::Error {
    fn from(error: InvalidExperts) -> Self {
        Self::Input(error.to_string())
    }
}

impl Experts {
    /// So many, and so many for a token.
    ///
    /// # Errors
    /// More for a token than there are.
    pub fn new(count: NonZeroUsize, top: NonZeroUsize) -> Result<Self, InvalidExperts> {
        let (count, top) = (count.get(), top.get());
        if top > count {
            return Err(InvalidExperts::Top { top, count });
        }
        Ok(Self { count, top })
    }

    /// Refuses experts of a shape that have more weights than a block may have.
    pub(super) fn check(self, shape: Shape) -> Result<(), InvalidExperts> {
        let weights = shape.weights().checked_mul(self.count);
        match weights.is_some_and(|weights| weights <= Shape::MAX_WEIGHTS) {
            true => Ok(()),
            false => Err(InvalidExperts::TooLarge { count: self.count, shape }),
        }
    }

    /// How many there are.
    pub fn count(self) -> usize {
        self.count
    }

    /// How many of them a token goes through.
    pub fn top(self) -> usize {
        self.top
    }

    /// The experts of every token, `[tokens, top]`: different ones, at random, the same on every run.
    fn chosen(self, tokens: usize) -> impl Iterator<Item = Vec<u32>> {
        (0..tokens).map(move |token| {
            let mut rng = StdRng::seed_from_u64(5 << 48 | token as u64);
            index::sample(&mut rng, self.count, self.top).into_iter().map(|at| at as u32).collect()
        })
    }

    /// How many experts some token goes through: those that must be read.
    pub(super) fn read(self, tokens: usize) -> usize {
        let mut read = vec![false; self.count];
        let mut left = self.count;
        for at in self.chosen(tokens).flatten() {
            left -= usize::from(!std::mem::replace(&mut read[at as usize], true));
            if left == 0 {
                break;
            }
        }
        self.count - left
    }
}

impl fmt::Display for Experts {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} of {}", self.top, self.count)
    }
}

/// What a row says of experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct OfExperts {
    /// How many experts there are; `hidden` and `intermediate` are the sizes of each.
    pub experts: usize,
    /// How many of them a token goes through, chosen at random.
    pub top_k: usize,
    /// How many some token goes through: what the limit takes for read.
    pub experts_read: usize,
}

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
            let all = gaussian(experts.count * rows, columns, stdev, seed)?;
            Ok(all.to_dtype(case.weights.dtype())?.reshape((experts.count, rows, columns))?)
        };
        let gate_up = weight(2 * intermediate, hidden, 1)?;
        let down = weight(hidden, intermediate, 3)?;
        let ours = GatedExperts::new(gate_up.clone(), down.clone(), Gelu::Tanh)?.packed()?;
        let part = |all: &Tensor, i| match case.weights {
            Weights::F32 => all.get(i),
            Weights::Bf16 => all.get(i)?.force_contiguous(),
        };
        let theirs = (0..experts.count).map(|i| Ok([part(&gate_up, i)?, part(&down, i)?]));
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
                    pairs.push((row * self.experts.top + at) as u32);
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
        let (tokens, top) = (case.tokens.get(), self.experts.top);
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
    use candle_core::DType;

    fn experts(count: usize, top: usize) -> Result<Experts, InvalidExperts> {
        Experts::new(NonZeroUsize::new(count).unwrap(), NonZeroUsize::new(top).unwrap())
    }

    /// Both sides compute one function, so that their times can be compared.
    #[test]
    fn both_sides_agree() -> Result<()> {
        for (weights, tolerance) in [(Weights::F32, 1e-5), (Weights::Bf16, 0.05)] {
            let experts = experts(6, 2)?;
            let shape = Shape::new(64, 40)?;
            let tokens = NonZeroUsize::new(5).unwrap();
            let case = Case { shape, weights, tokens, experts: Some(experts) };
            let sides = Sides::new(case, experts)?;
            let (x, routing) = sides.inputs(case)?;
            let [ours, candle] = [sides.ours.forward(&x, &routing)?, sides.candle(&x, &routing)?];
            assert_eq!((ours.dims(), ours.dtype()), (candle.dims(), candle.dtype()));
            let [ours, candle] = [ours.to_dtype(DType::F32)?, candle.to_dtype(DType::F32)?];
            let difference = (ours - &candle)?.abs()?.max_all()?.to_scalar::<f32>()?;
            assert!(difference < tolerance, "{weights}: {difference}");
            assert!(candle.abs()?.mean_all()?.to_scalar::<f32>()? > 0.1);
        }
        Ok(())
    }

    #[test]
    fn a_token_reads_its_experts_and_many_read_all() -> Result<()> {
        let gemma = experts(128, 8)?;
        assert_eq!((gemma.read(1), gemma.read(512)), (8, 128));
        assert!((9..=16).contains(&gemma.read(2)));
        assert_eq!(gemma.chosen(4).collect::<Vec<_>>(), gemma.chosen(4).collect::<Vec<_>>());
        assert_eq!(experts(3, 3)?.read(1), 3);
        Ok(())
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let message = experts(4, 5).unwrap_err().to_string();
        assert!(message.contains("5 of 4 experts"), "{message}");
        let shape = Shape::new(2816, 704).unwrap();
        assert!(experts(128, 8).unwrap().check(shape).is_ok());
        for count in [1 << 12, usize::MAX] {
            let message = experts(count, 1).unwrap().check(shape).unwrap_err().to_string();
            assert!(message.contains("experts of 2816x704 are too large"), "{message}");
        }
    }
}
