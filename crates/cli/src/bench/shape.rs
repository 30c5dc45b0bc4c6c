//! The sizes of a block.

use std::fmt;
use std::str::FromStr;

/// Sizes that no block to be measured has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidShape {
    /// Not two numbers.
    #[error("'{0}' is no shape; write hidden and intermediate size as in 2048x16384")]
    Malformed(String),
    /// No weights at all.
    #[error("a block of {hidden}x{intermediate} has no weights; both sizes must be at least 1")]
    Empty {
        /// Width of input and output.
        hidden: usize,
        /// Width of gate and up.
        intermediate: usize,
    },
    /// More weights than a machine's memory is likely to hold.
    #[error(
        "a block of {hidden}x{intermediate} is too large; gate, up and down may have 2^31 weights in all"
    )]
    TooLarge {
        /// Width of input and output.
        hidden: usize,
        /// Width of gate and up.
        intermediate: usize,
    },
}

impl From<InvalidShape> for gemma_mlp::Error {
    fn from(error: InvalidShape) -> Self {
        Self::Input(error.to_string())
    }
}

/// The sizes of a block, `2048x16384` in words: hidden, then intermediate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    hidden: usize,
    intermediate: usize,
}

impl Shape {
    /// The most weights that a block may have: six times those of the largest Gemma's block.
    pub const MAX_WEIGHTS: usize = 1 << 31;

    /// The blocks of Gemma 3 270M, Gemma 2 2B and Gemma 1 2B.
    pub const GEMMAS: [Self; 3] = [
        Self { hidden: 640, intermediate: 2048 },
        Self { hidden: 2304, intermediate: 9216 },
        Self { hidden: 2048, intermediate: 16384 },
    ];

    /// One expert of Gemma 4 26B-A4B.
    pub const EXPERT: Self = Self { hidden: 2816, intermediate: 704 };

    /// A block from `hidden` to `intermediate` and back.
    ///
    /// # Errors
    /// A size of 0, or more weights than [`Self::MAX_WEIGHTS`].
    pub fn new(hidden: usize, intermediate: usize) -> Result<Self, InvalidShape> {
        let weights = hidden.checked_mul(intermediate).and_then(|n| n.checked_mul(3));
        match weights {
            Some(0) => Err(InvalidShape::Empty { hidden, intermediate }),
            Some(1..=Self::MAX_WEIGHTS) => Ok(Self { hidden, intermediate }),
            _ => Err(InvalidShape::TooLarge { hidden, intermediate }),
        }
    }

    /// Width of input and output.
    pub fn hidden(self) -> usize {
        self.hidden
    }

    /// Width of gate and up.
    pub fn intermediate(self) -> usize {
        self.intermediate
    }

    /// How many weights the block has.
    pub fn weights(self) -> usize {
        3 * self.hidden * self.intermediate
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}x{}", self.hidden, self.intermediate)
    }
}

impl FromStr for Shape {
    type Err = InvalidShape;

    fn from_str(text: &str) -> Result<Self, InvalidShape> {
        let sizes = text
            .split_once('x')
            .and_then(|(hidden, intermediate)| Some((size(hidden)?, size(intermediate)?)));
        match sizes {
            Some((hidden, intermediate)) => Self::new(hidden, intermediate),
            None => Err(InvalidShape::Malformed(text.into())),
        }
    }
}

/// Digits alone: the standard parser would take a plus sign.
fn size(text: &str) -> Option<usize> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read_as_they_are_written() {
        for text in ["1x1", "640x2048", "2048x16384", "5376x21504"] {
            assert_eq!(text.parse::<Shape>().unwrap().to_string(), text);
        }
        assert_eq!("64x96".parse::<Shape>().unwrap().weights(), 3 * 64 * 96);
        assert!(Shape::GEMMAS.iter().all(|s| Shape::new(s.hidden, s.intermediate) == Ok(*s)));
    }

    #[test]
    fn hidden_comes_first() {
        let shape: Shape = "2048x16384".parse().unwrap();
        assert_eq!((shape.hidden(), shape.intermediate()), (2048, 16384));
    }

    #[test]
    fn other_shapes_are_refused_by_kind() {
        for text in ["", "x", "64", "64x", "x96", "64 x 96", "+64x96", "-1x2", "64X96", "1x2x3"] {
            assert_eq!(text.parse::<Shape>(), Err(InvalidShape::Malformed(text.into())));
        }
        for text in ["0x96", "64x0", "0x0", "0x18446744073709551615"] {
            assert!(matches!(text.parse::<Shape>(), Err(InvalidShape::Empty { .. })), "{text}");
        }
        for text in ["65536x65536", "2x357913942", "4294967296x4294967296"] {
            assert!(matches!(text.parse::<Shape>(), Err(InvalidShape::TooLarge { .. })), "{text}");
        }
    }
}
