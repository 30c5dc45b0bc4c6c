//! One point of a text, computed by any model from theirs: what naming a mistake needs, again and again.

use super::align::{Rows, Text};
use super::dump::{Likeliest, Word};
use super::layer_pass::{Flow, LayerPass, Values};
use super::models::logits;
use super::point::{Place, Point};
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use gemma_mlp::model::{Attention, Gemma};
use std::cell::OnceCell;
use std::collections::BTreeSet;

/// A text's first positions, and the rows of the logits that are looked at.
pub(super) struct Segment<'a> {
    pub(super) text: &'a Text,
    /// How many of the first positions count.
    pub(super) positions: usize,
    /// Whether everything is computed from the tokens, and nothing from theirs.
    from_tokens: bool,
    /// The rows of the logits, all of positions that count.
    logit_rows: Vec<usize>,
    /// Where there are no logits, what is known of log-probabilities: words by their ids.
    known: Vec<Known>,
    /// Where theirs masks words with −∞, `[rows, vocab]`; nothing where it masks none. Read when it is first asked for.
    masked: OnceCell<Option<Tensor>>,
}

/// What theirs says of the likeliest words behind a position.
struct Known {
    position: usize,
    words: Vec<u32>,
    /// Log-probabilities without their mean, which a softmax over these words takes away.
    nats: Vec<f64>,
}

impl Known {
    /// Of a position that counts and has words that can be compared.
    fn of(likeliest: &Likeliest, positions: usize) -> Option<Self> {
        let finite = |(word, nats): &(Word, f64)| match word {
            Word::Id(id) if nats.is_finite() => Some((*id, *nats)),
            _ => None,
        };
        let (words, mut nats): (Vec<_>, Vec<_>) =
            likeliest.tokens.iter().filter_map(finite).unzip();
        let mean = nats.iter().sum::<f64>() / nats.len().max(1) as f64;
        nats.iter_mut().for_each(|nats| *nats -= mean);
        let position = likeliest.position;
        (position < positions && words.len() > 1).then_some(Self { position, words, nats })
    }
}

/// Rows of the logits that a mistake is looked for in: each is as long as the vocabulary.
const LOGIT_ROWS: usize = 48;

impl<'a> Segment<'a> {
    pub(super) fn new(text: &'a Text, positions: usize, from_tokens: bool) -> Self {
        let positions = positions.min(text.tokens.len());
        let logit_rows = match text.planes.get(&Point::Logits) {
            Some(rows) => {
                let all: Vec<_> =
                    (0..rows.len()).filter(|&r| rows.position(r) < positions).collect();
                let step = all.len().div_ceil(LOGIT_ROWS).max(1);
                // The last ones know most of the text.
                all.into_iter().rev().step_by(step).collect()
            }
            None => vec![],
        };
        let known = match text.planes.contains_key(&Point::Logits) {
            true => vec![],
            false => text.likeliest.iter().filter_map(|l| Known::of(l, positions)).collect(),
        };
        Self { text, positions, from_tokens, logit_rows, known, masked: OnceCell::new() }
    }

    /// Theirs at a point, of the positions that count: `[1, positions, …]`, or `[rows, vocab]`.
    pub(super) fn theirs(&self, point: Point) -> Result<Option<Tensor>> {
        if point == Point::Logits && !self.known.is_empty() {
            let nats: Vec<f64> = self.known.iter().flat_map(|known| known.nats.clone()).collect();
            return Ok(Some(Tensor::new(nats, &Device::Cpu)?.unsqueeze(0)?));
        }
        let Some(rows) = self.text.planes.get(&point) else { return Ok(None) };
        if point == Point::Logits {
            return self.read_logits(rows)?.map(|all| self.unmasked(all)).transpose();
        }
        let whole = rows.is_whole(self.text.tokens.len());
        match whole {
            true => Ok(Some(rows.read(0..self.positions)?.unsqueeze(0)?)),
            false => Ok(None),
        }
    }

    /// Theirs as it is, `[rows, vocab]`.
    fn read_logits(&self, rows: &Rows) -> Result<Option<Tensor>> {
        let read = self.logit_rows.iter().map(|&row| rows.read(row..row + 1));
        let read = read.collect::<Result<Vec<_>>>()?;
        Ok(if read.is_empty() { None } else { Some(Tensor::cat(&read, 0)?) })
    }

    /// Logits of the rows that are looked at, with 0 for the words that theirs masks: nothing differs there.
    fn unmasked(&self, logits: Tensor) -> Result<Tensor> {
        if self.masked.get().is_none() {
            let theirs = match self.text.planes.get(&Point::Logits) {
                Some(rows) => self.read_logits(rows)?,
                None => None,
            };
            let masked = theirs.map(|all| all.to_dtype(DType::F32)?.eq(f32::NEG_INFINITY));
            let masked = masked.transpose()?;
            let any = match &masked {
                Some(masked) => masked.max_all()?.to_scalar::<u8>()? > 0,
                None => false,
            };
            let _ = self.masked.set(masked.filter(|_| any));
        }
        let Some(Some(masked)) = self.masked.get() else { return Ok(logits) };
        let masked = masked.to_device(logits.device())?;
        Ok(masked.where_cond(&logits.zeros_like()?, &logits)?)
    }

    /// What a model makes of theirs at a point, and how far theirs is from it; nothing where theirs lacks it.
    pub(super) fn difference(
        &self,
        gemma: &Gemma,
        point: Point,
    ) -> Result<Option<(Tensor, Tensor)>> {
        let Some(theirs) = self.theirs(point)? else { return Ok(None) };
        let own = centred(point, &self.computed(gemma, point)?)?;
        let theirs = centred(point, &theirs.to_device(own.device())?)?.reshape(own.shape())?;
        let difference = (theirs - &own)?;
        Ok(Some((own, difference)))
    }

    /// Theirs in a layer, to compute from.
    fn given(&self, layer: usize) -> Result<Values> {
        let mut given = Values::new();
        if self.from_tokens {
            return Ok(given);
        }
        for place in Place::ALL {
            if let Some(theirs) = self.theirs(Point::Layer(layer, place))? {
                given.insert(place, theirs);
            }
        }
        Ok(given)
    }

    /// What enters a layer, which is as near in front of layer `last` as theirs allows, and that layer.
    fn start(&self, gemma: &Gemma, last: usize) -> Result<(Flow, usize)> {
        let ids = Tensor::new(&self.text.tokens[..self.positions], gemma.device())?;
        let mut flow = Flow::begin(gemma, &ids.unsqueeze(0)?)?;
        if self.from_tokens {
            return Ok((flow, 0));
        }
        for before in (0..last).rev() {
            let Some(theirs) = self.theirs(Point::Layer(before, Place::Hidden))? else { continue };
            // Layers from here on may use keys and values of earlier ones.
            let lenders = gemma.layers()[before + 1..].iter().take(last - before);
            let lenders = lenders.filter_map(|layer| layer.attention().and_then(Attention::shares));
            let lenders: BTreeSet<_> = lenders.filter(|&lender| lender <= before).collect();
            let mut from_here = flow.with_stream(theirs.to_dtype(gemma.dtype())?);
            let mut lent = 0;
            for &lender in &lenders {
                let [k, v] = [Place::Keys, Place::Values].map(|place| Point::Layer(lender, place));
                if let (Some(k), Some(v)) = (self.theirs(k)?, self.theirs(v)?) {
                    from_here.lend(lender, [&k, &v], gemma.dtype())?;
                    lent += 1;
                }
            }
            if lent == lenders.len() {
                return Ok((from_here, before + 1));
            }
        }
        if let Some(theirs) = self.theirs(Point::Embedding)? {
            flow.stream = theirs.to_dtype(gemma.dtype())?;
        }
        Ok((flow, 0))
    }

    /// What a model makes of theirs at a point.
    pub(super) fn computed(&self, gemma: &Gemma, point: Point) -> Result<Tensor> {
        let layers = gemma.layers().len();
        let (last, place) = match point {
            Point::Embedding => {
                let ids = Tensor::new(&self.text.tokens[..self.positions], gemma.device())?;
                return Ok(Flow::begin(gemma, &ids.unsqueeze(0)?)?.stream);
            }
            Point::Layer(index, place) => (index, Some(place)),
            Point::Normed | Point::Projected | Point::Logits => (layers, None),
        };
        if matches!(point, Point::Projected | Point::Logits)
            && !self.from_tokens
            && let Some(normed) = self.theirs(Point::Normed)?
        {
            return self.behind_norm(gemma, point, &normed.to_dtype(gemma.dtype())?);
        }
        let (mut flow, first) = self.start(gemma, last)?;
        for index in first..last {
            let given = self.given(index)?;
            let layer = &gemma.layers()[index];
            let left = LayerPass::new(layer, gemma.dtype(), &flow, &given).leave()?;
            flow.follow(left);
        }
        if let Some(place) = place {
            let given = self.given(last)?;
            let layer = &gemma.layers()[last];
            return LayerPass::new(layer, gemma.dtype(), &flow, &given).computed(place);
        }
        self.behind_norm(gemma, point, &gemma.final_norm(&flow.stream)?)
    }

    /// A point behind the final norm, out of normed hidden states `[1, positions, hidden]`.
    fn behind_norm(&self, gemma: &Gemma, point: Point, normed: &Tensor) -> Result<Tensor> {
        match point {
            Point::Logits => self.logits(gemma, normed),
            Point::Projected => Ok(gemma.embedding_states(normed)?),
            _ => Ok(normed.clone()),
        }
    }

    /// Logits of the rows that are looked at, out of normed hidden states `[1, positions, hidden]`.
    fn logits(&self, gemma: &Gemma, normed: &Tensor) -> Result<Tensor> {
        let head = gemma.head().ok_or(Error::NoHead { lacks: "has no logits to compare" })?;
        let rows = self.text.planes.get(&Point::Logits);
        let of_row = |&row: &usize| rows.map_or(0, |rows| rows.position(row));
        let of_known = |known: &Known| known.position;
        let positions: Vec<u32> = match self.known.is_empty() {
            true => self.logit_rows.iter().map(of_row).map(|at| at as u32).collect(),
            false => self.known.iter().map(of_known).map(|at| at as u32).collect(),
        };
        let at = Tensor::new(&positions[..], normed.device())?;
        let normed = normed.squeeze(0)?.contiguous()?.index_select(&at, 0)?;
        if self.known.is_empty() {
            return self.unmasked(logits(head, &normed)?);
        }
        let mut all = vec![];
        for (row, known) in self.known.iter().enumerate() {
            let words = Tensor::new(&known.words[..], normed.device())?;
            let own = logits(head, &normed.narrow(0, row, 1)?)?.index_select(&words, 1)?;
            all.push(own.broadcast_sub(&own.mean_keepdim(1)?)?);
        }
        Ok(Tensor::cat(&all, 1)?)
    }
}

/// Logits without what a softmax takes away: each row's mean.
pub(super) fn centred(point: Point, x: &Tensor) -> Result<Tensor> {
    let x = x.to_dtype(DType::F32)?;
    match point {
        Point::Logits => Ok(x.broadcast_sub(&x.mean_keepdim(1)?)?),
        _ => Ok(x),
    }
}
