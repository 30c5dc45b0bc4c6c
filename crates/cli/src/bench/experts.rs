//! How many experts a mixture has, and which of them tokens go through.

use super::shape::Shape;
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
    pub(super) fn chosen(self, tokens: usize) -> impl Iterator<Item = Vec<u32>> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use gemma_mlp::Result;

    fn experts(count: usize, top: usize) -> Result<Experts, InvalidExperts> {
        Experts::new(NonZeroUsize::new(count).unwrap(), NonZeroUsize::new(top).unwrap())
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
