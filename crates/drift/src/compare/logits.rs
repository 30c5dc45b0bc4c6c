//! The logits of both models, read in pieces: those of a long text do not fit in memory.

use super::align::Text;
use super::dump::{Likeliest, Word};
use super::layer_pass::Flow;
use super::measure::Streams;
use super::models::{Models, logits};
use super::pair::Pair;
use super::point::Point;
use super::result::Flip;
use crate::drift::{LogitSums, Notable, TokenDrift, compare_logits};
use crate::error::{Error, Result};
use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops::log_softmax;
use gemma_mlp::Checkpoint;
use gemma_mlp::checkpoint::{Remark, RemarkKind};

/// Rows that are compared at a time.
const ROWS: usize = 64;
/// Rows that the floor is measured on, and the head on theirs.
const FLOOR_ROWS: usize = 64;
/// Positions whose likeliest token is another, that are shown.
const FLIPS: usize = 32;

/// What the logits of all texts add up to.
#[derive(Default)]
pub(super) struct Sums {
    pub(super) drift: LogitSums,
    pub(super) floor: LogitSums,
    /// Theirs against what our head makes of their own last hidden state.
    pub(super) same_input: Option<Pair>,
    pub(super) worst: Vec<TokenDrift>,
    pub(super) flips: Vec<Flip>,
    /// Words of the vocabulary that are masked with −∞.
    pub(super) masked: Masked,
    /// The most words that a position was compared on.
    pub(super) words: usize,
}

impl Sums {
    /// Takes another right model's logits for the floor, where they are farther from ours.
    pub(super) fn widen_floor(&mut self, other: Self) {
        let kl = |sums: &LogitSums| sums.metrics().kl_mean_nats;
        if self.floor.kl_nats.is_empty() || kl(&other.drift) > kl(&self.floor) {
            self.floor = other.drift;
        }
    }
}

/// The models, and what they are asked on.
pub(super) struct Heads<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) models: &'a Models,
    /// The dtype of theirs, for units in the last place.
    pub(super) dtype: DType,
    pub(super) device: &'a Device,
}

/// Which rows are compared at once.
struct Piece<'a> {
    positions: &'a [usize],
    /// `[rows, words]`.
    theirs: Tensor,
    /// What the words are, if they are not all of the vocabulary.
    words: Option<Vec<u32>>,
}

impl Heads<'_> {
    /// Adds a text's logits.
    pub(super) fn add(
        &self,
        text: &Text,
        streams: &Streams,
        sums: &mut Sums,
        mut progress: impl FnMut(f64) -> Result<()>,
    ) -> Result<()> {
        let Some(rows) = text.planes.get(&Point::Logits) else { return Ok(()) };
        let normed = self.normed(streams)?;
        let mut floor_rows = 0;
        for start in (0..rows.len()).step_by(ROWS) {
            let end = (start + ROWS).min(rows.len());
            let positions: Vec<usize> = (start..end).map(|row| rows.position(row)).collect();
            let theirs = rows.read(start..end)?.to_device(self.device)?;
            let floor = floor_rows < FLOOR_ROWS;
            let piece = Piece { positions: &positions, theirs, words: None };
            let measured = self.piece(text, &normed, piece, floor, sums)?;
            floor_rows += measured;
            if let Some(local) = &streams.local
                && start == 0
            {
                let own = [&self.models.ours, &self.models.beside];
                let theirs = rows.read(0..end.min(FLOOR_ROWS))?.to_device(self.device)?;
                let at = &positions[..end.min(FLOOR_ROWS)];
                self.same_input(text, local, own, at, &theirs, sums)?;
            }
            progress(end as f64 / rows.len() as f64)?;
        }
        Ok(())
    }

    /// Adds what theirs says of the likeliest words, each position renormalised over the words that it names.
    pub(super) fn add_likeliest(
        &self,
        text: &Text,
        streams: &Streams,
        sums: &mut Sums,
    ) -> Result<()> {
        let normed = self.normed(streams)?;
        for Likeliest { position, tokens } in &text.likeliest {
            let known = tokens.iter().filter_map(|(word, nats)| match word {
                Word::Id(id) => Some((*id, *nats)),
                Word::Text(_) => None,
            });
            let mut known: Vec<(u32, f64)> = known.collect();
            known.sort_by_key(|(id, _)| *id);
            if known.len() < 2 || *position >= text.tokens.len() {
                continue; // one word alone has all of the probability
            }
            let (words, nats): (Vec<u32>, Vec<f64>) = known.into_iter().unzip();
            let theirs = log_softmax(&Tensor::new(nats, self.device)?.unsqueeze(0)?, 1)?;
            let positions = [*position];
            let piece = Piece { positions: &positions, theirs, words: Some(words) };
            self.piece(text, &normed, piece, true, sums)?;
        }
        Ok(())
    }

    /// Normed hidden states of ours and of the model beside it, `[positions, hidden]`.
    fn normed(&self, streams: &Streams) -> Result<[Tensor; 2]> {
        let of = |gemma: &gemma_mlp::Gemma, stream: &Tensor| {
            Ok::<_, Error>(gemma.final_norm(stream)?.squeeze(0)?)
        };
        let Models { ours, beside } = self.models;
        Ok([of(ours, &streams.ours.stream)?, of(beside, &streams.beside.stream)?])
    }

    /// Adds some rows; returns on how many the floor was measured.
    fn piece(
        &self,
        text: &Text,
        normed: &[Tensor; 2],
        piece: Piece,
        floor: bool,
        sums: &mut Sums,
    ) -> Result<usize> {
        let Piece { positions, theirs, words } = piece;
        let label = |&position: &usize| {
            let next = *text.tokens.get(position + 1)?;
            match &words {
                Some(words) => words.iter().position(|&word| word == next).map(|at| at as u32),
                None => Some(next),
            }
        };
        let labels: Vec<_> = positions.iter().map(label).collect();
        let ours = self.of(&self.models.ours, &normed[0], positions, &words)?;
        let mask = Mask::of(&theirs, &ours)?;
        sums.masked.add(mask.found);
        let (theirs, ours) = (mask.apply(theirs)?, mask.apply(ours)?);
        sums.words = sums.words.max(theirs.dim(1)?);
        let known = normed[1].dim(0)?;
        let reach = positions.iter().take_while(|&&position| position < known).count();
        let reach = if floor { reach } else { 0 };
        let mut all = vec![ours, theirs];
        if reach > 0 {
            let beside = self.of(&self.models.beside, &normed[1], &positions[..reach], &words)?;
            all.push(mask.apply(beside)?);
        }
        let beside = if self.models.is_beside_wider() { (2, 0) } else { (0, 2) };
        let pairs: &[(usize, usize)] = if reach > 0 { &[(0, 1), beside] } else { &[(0, 1)] };
        let compared = compare_logits(&all, pairs, &labels)?;
        self.notable(text, &compared[0], positions, &labels, &words, &all, sums)?;
        for (sums, mut more) in [&mut sums.drift, &mut sums.floor].into_iter().zip(compared) {
            more.forget_tokens();
            sums.merge(&more);
        }
        Ok(reach)
    }

    /// A model's logits at some positions, `[rows, words]`; of some words alone, their log-probabilities among these.
    fn of(
        &self,
        gemma: &gemma_mlp::Gemma,
        normed: &Tensor,
        positions: &[usize],
        words: &Option<Vec<u32>>,
    ) -> Result<Tensor> {
        let head = gemma.head().ok_or(Error::NoHead { lacks: "has no logits to compare" })?;
        let at: Vec<u32> = positions.iter().map(|&position| position as u32).collect();
        let at = Tensor::new(&at[..], self.device)?;
        let all = logits(head, &normed.index_select(&at, 0)?)?;
        match words {
            Some(words) => {
                let words = Tensor::new(&words[..], self.device)?;
                Ok(log_softmax(&all.index_select(&words, 1)?, 1)?)
            }
            None => Ok(all),
        }
    }

    fn same_input(
        &self,
        text: &Text,
        local: &[Flow; 2],
        models: [&gemma_mlp::Gemma; 2],
        positions: &[usize],
        theirs: &Tensor,
        sums: &mut Sums,
    ) -> Result<()> {
        let mut normed = vec![];
        for (gemma, Flow { stream, .. }) in models.iter().zip(local) {
            // The final norm of theirs, where it is there.
            let own = match text.planes.get(&Point::Normed) {
                Some(rows) if rows.is_whole(text.tokens.len()) => {
                    let some = rows.read(0..stream.dim(1)?)?.to_device(self.device)?;
                    some.to_dtype(gemma.dtype())?
                }
                _ => gemma.final_norm(stream)?.squeeze(0)?,
            };
            normed.push(own);
        }
        let known = normed[1].dim(0)?;
        let reach = positions.iter().take_while(|&&position| position < known).count();
        if reach == 0 {
            return Ok(());
        }
        let ours = self.of(models[0], &normed[0], &positions[..reach], &None)?;
        let beside = self.of(models[1], &normed[1], &positions[..reach], &None)?;
        let theirs = theirs.narrow(0, 0, reach)?;
        let mask = Mask::of(&theirs, &ours)?;
        let [theirs, ours, beside] = [theirs, ours, beside].map(|x| mask.apply(x));
        let (theirs, ours, beside) = (theirs?, ours?, beside?);
        let batch = |x: &Tensor| x.unsqueeze(0);
        let pair = sums.same_input.get_or_insert_default();
        pair.add(self.models, &batch(&ours)?, &batch(&beside)?, &batch(&theirs)?, 0)
    }

    /// Keeps the positions that are shown.
    #[expect(clippy::too_many_arguments, reason = "what a piece is made of")]
    fn notable(
        &self,
        text: &Text,
        compared: &LogitSums,
        positions: &[usize],
        labels: &[Option<u32>],
        words: &Option<Vec<u32>>,
        all: &[Tensor],
        sums: &mut Sums,
    ) -> Result<()> {
        let word = |at: u32| words.as_ref().map_or(at, |words| words[at as usize]);
        let mut found =
            Notable::of(self.checkpoint, &text.tokens, positions, labels, compared, word);
        for flip in &mut found.flips {
            let row = flip.position;
            let highest = |side: usize| -> Result<f64> {
                let row = all[side].get(row)?.to_dtype(DType::F64)?;
                Ok(row.max(D::Minus1)?.to_scalar::<f64>()?)
            };
            let mut margin_ulps = [0.0; 2];
            for side in [0, 1] {
                margin_ulps[side] = flip.margins[side] / ulp(highest(side)?, self.dtype);
            }
            let mut token = flip.clone();
            token.position = positions[row];
            sums.flips.push(Flip { token, margin_ulps, tie: false });
        }
        for token in &mut found.worst {
            token.position = positions[token.position];
        }
        sums.worst.append(&mut found.worst);
        sums.worst.sort_by(|a, b| b.kl_nats.total_cmp(&a.kl_nats));
        sums.worst.truncate(Notable::WORST);
        sums.flips.sort_by(|a, b| b.token.margins[0].total_cmp(&a.token.margins[0]));
        sums.flips.truncate(FLIPS);
        Ok(())
    }
}

/// Logits that are −∞, over all positions: no probability is left for their words.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Masked {
    /// In both models.
    both: usize,
    /// In the first alone, and in the second.
    alone: [usize; 2],
}

impl Masked {
    pub(super) fn add(&mut self, other: Self) {
        self.both += other.both;
        self.alone.iter_mut().zip(other.alone).for_each(|(own, other)| *own += other);
    }

    /// What there is to say of them; `names` are the models'.
    pub(super) fn remarks(self, names: [&str; 2]) -> Vec<Remark> {
        let mut remarks = vec![];
        if self.both > 0 {
            let text = format!("{} logits are −∞ in both, and count as equal", self.both);
            remarks.push(Remark::note(RemarkKind::Chosen, text));
        }
        for (count, name) in self.alone.into_iter().zip(names).filter(|(count, _)| *count > 0) {
            let text = format!(
                "{count} logits are −∞ in {name} alone, which masks their words; they are left out of all figures"
            );
            remarks.push(Remark::warning(RemarkKind::Chosen, text));
        }
        remarks
    }
}

/// The words that either of two models masks, to be masked in all that are compared: of equal logits neither is likelier.
pub(super) struct Mask {
    pub(super) found: Masked,
    /// 1 where a word is masked, and what its logit becomes; nothing where none is.
    words: Option<(Tensor, f32)>,
}

impl Mask {
    /// Of two models' logits, of one shape `[rows, words]`.
    pub(super) fn of(a: &Tensor, b: &Tensor) -> Result<Self> {
        let masked = |x: &Tensor| x.to_dtype(DType::F32)?.eq(f32::NEG_INFINITY);
        let count = |mask: &Tensor| {
            Ok::<_, Error>(mask.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()? as usize)
        };
        let (of_a, of_b) = (masked(a)?, masked(b)?);
        let all = (&of_a + &of_b)?; // 0, 1 or 2
        let (both, in_a, in_b) = (count(&all.gt(1u8)?)?, count(&of_a)?, count(&of_b)?);
        let found = Masked { both, alone: [in_a - both, in_b - both] };
        if found == Masked::default() {
            return Ok(Self { found, words: None });
        }
        let either = all.gt(0u8)?;
        let lowest = |x: &Tensor| -> Result<f32> {
            let x = x.to_dtype(DType::F32)?;
            Ok(either.where_cond(&x.zeros_like()?, &x)?.min_all()?.to_scalar()?)
        };
        // So far below all others that no probability is left, and no farther: norms are of all logits.
        let low = lowest(a)?.min(lowest(b)?) - 64.0;
        Ok(Self { found, words: Some((either, low)) })
    }

    /// Logits of the first rows, `[rows, words]`, masked.
    pub(super) fn apply(&self, x: Tensor) -> Result<Tensor> {
        let Some((words, low)) = &self.words else { return Ok(x) };
        let words = words.narrow(0, 0, x.dim(0)?)?.contiguous()?;
        let low = Tensor::full(*low, x.shape(), x.device())?.to_dtype(x.dtype())?;
        Ok(words.where_cond(&low, &x)?)
    }
}

/// The distance of a number of a dtype to the next larger one.
fn ulp(x: f64, dtype: DType) -> f64 {
    let bits = match dtype {
        DType::BF16 => 7,
        DType::F16 => 10,
        DType::F64 => 52,
        _ => 23,
    };
    let exponent = x.abs().max(f64::MIN_POSITIVE).log2().floor();
    (exponent - f64::from(bits)).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_in_the_last_place() {
        assert_eq!(ulp(1.0, DType::BF16), 2f64.powi(-7));
        assert_eq!(ulp(-30.0, DType::BF16), 0.125);
        assert_eq!(ulp(1.5, DType::F32), f64::from(f32::EPSILON));
    }
}
