//! Which positions of a batch's texts are tokens, and which fill shorter texts up.

use candle_core::{DType, Device, Result, Tensor};

/// The tokens and the padding of some texts of one length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Padding {
    /// Text after text.
    tokens: Vec<bool>,
    seq: usize,
}

impl Padding {
    /// Of a mask `[batch, seq]` of any dtype that has 1 at tokens and 0 at padding; `None` if there is no padding.
    ///
    /// # Errors
    /// A mask of another rank, or with other numbers; a text without a token.
    pub fn new(mask: &Tensor) -> Result<Option<Self>> {
        let (_, seq) = mask.dims2()?;
        let numbers = mask.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?;
        let tokens = numbers.to_vec1::<f64>()?.into_iter().map(|number| match number {
            0.0 => Ok(false),
            1.0 => Ok(true),
            other => candle_core::bail!("a mask has {other}; it has 1 at tokens and 0 at padding"),
        });
        let tokens = tokens.collect::<Result<Vec<bool>>>()?;
        if let Some(text) = tokens.chunks(seq.max(1)).position(|text| !text.contains(&true)) {
            candle_core::bail!("text {text} of the batch is padding alone")
        }
        Ok(tokens.contains(&false).then_some(Self { tokens, seq }))
    }

    /// How many texts there are.
    pub fn batch(&self) -> usize {
        self.tokens.len() / self.seq.max(1)
    }

    /// How many positions a text has.
    pub fn seq(&self) -> usize {
        self.seq
    }

    /// Whether a position of a text is a token's.
    pub fn is_token(&self, text: usize, position: usize) -> bool {
        self.tokens[text * self.seq + position]
    }

    /// Checks that it is that of so many texts of so many positions.
    pub(super) fn check(&self, batch: usize, seq: usize) -> Result<()> {
        if (self.batch(), self.seq) != (batch, seq) {
            candle_core::bail!(
                "a mask of {} texts of {} positions for {batch} of {seq}",
                self.batch(),
                self.seq
            )
        }
        Ok(())
    }

    /// 0 at tokens, -∞ at padding: `[batch, 1, 1, seq]`, in f32.
    pub(super) fn mask(&self, device: &Device) -> Result<Tensor> {
        let numbers = self.tokens.iter().map(|&is| if is { 0f32 } else { f32::NEG_INFINITY });
        Tensor::from_iter(numbers, device)?.reshape((self.batch(), 1, 1, self.seq))
    }
}
