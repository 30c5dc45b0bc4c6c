//! One point of a text, computed by any model from theirs: what naming a mistake needs, again and again.

use super::align::Text;
use super::layer_pass::{LayerPass, Values};
use super::models::logits;
use super::point::{Place, Point};
use crate::error::{Error, Result};
use candle_core::{DType, Tensor};
use gemma_mlp::model::Gemma;

/// A text's first positions, and the rows of the logits that are looked at.
pub(super) struct Segment<'a> {
    pub(super) text: &'a Text,
    /// How many of the first positions count.
    pub(super) positions: usize,
    /// The rows of the logits, all of positions that count.
    pub(super) logit_rows: Vec<usize>,
}

/// Rows of the logits that a mistake is looked for in: each is as long as the vocabulary.
const LOGIT_ROWS: usize = 48;

impl<'a> Segment<'a> {
    pub(super) fn new(text: &'a Text, positions: usize) -> Self {
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
        Self { text, positions, logit_rows }
    }

    /// Theirs at a point, of the positions that count: `[1, positions, …]`, or `[rows, vocab]`.
    pub(super) fn theirs(&self, point: Point) -> Result<Option<Tensor>> {
        let Some(rows) = self.text.planes.get(&point) else { return Ok(None) };
        if point == Point::Logits {
            let read = self.logit_rows.iter().map(|&row| rows.read(row..row + 1));
            let read = read.collect::<Result<Vec<_>>>()?;
            return Ok(if read.is_empty() { None } else { Some(Tensor::cat(&read, 0)?) });
        }
        let whole = rows.is_whole(self.text.tokens.len());
        match whole {
            true => Ok(Some(rows.read(0..self.positions)?.unsqueeze(0)?)),
            false => Ok(None),
        }
    }

    fn given(&self, layer: usize) -> Result<Values> {
        let mut given = Values::new();
        for place in Place::ALL {
            if let Some(theirs) = self.theirs(Point::Layer(layer, place))? {
                given.insert(place, theirs);
            }
        }
        Ok(given)
    }

    /// The residual stream of theirs nearest before a layer, and the layer that it enters.
    fn start(&self, gemma: &Gemma, layer: usize) -> Result<(Tensor, usize)> {
        for before in (0..layer).rev() {
            if let Some(theirs) = self.theirs(Point::Layer(before, Place::Hidden))? {
                return Ok((theirs.to_dtype(gemma.dtype())?, before + 1));
            }
        }
        if let Some(theirs) = self.theirs(Point::Embedding)? {
            return Ok((theirs.to_dtype(gemma.dtype())?, 0));
        }
        Ok((self.embedding(gemma)?, 0))
    }

    fn embedding(&self, gemma: &Gemma) -> Result<Tensor> {
        let ids = Tensor::new(&self.text.tokens[..self.positions], gemma.device())?;
        Ok(gemma.embed(&ids.unsqueeze(0)?)?)
    }

    /// What a model makes of theirs at a point.
    pub(super) fn computed(&self, gemma: &Gemma, point: Point) -> Result<Tensor> {
        let layers = gemma.layers().len();
        let (last, place) = match point {
            Point::Embedding => return self.embedding(gemma),
            Point::Layer(index, place) => (index, Some(place)),
            Point::Normed | Point::Logits => (layers, None),
        };
        if point == Point::Logits
            && let Some(normed) = self.theirs(Point::Normed)?
        {
            return self.logits(gemma, &normed.to_dtype(gemma.dtype())?);
        }
        let (mut stream, first) = self.start(gemma, last)?;
        for index in first..last {
            let given = self.given(index)?;
            let layer = &gemma.layers()[index];
            stream = LayerPass::new(layer, gemma.dtype(), &stream, &given).value(Place::Hidden)?;
        }
        if let Some(place) = place {
            let given = self.given(last)?;
            let layer = &gemma.layers()[last];
            return LayerPass::new(layer, gemma.dtype(), &stream, &given).computed(place);
        }
        let normed = gemma.final_norm(&stream)?;
        match point {
            Point::Logits => self.logits(gemma, &normed),
            _ => Ok(normed),
        }
    }

    /// Logits of the rows that are looked at, out of normed hidden states `[1, positions, hidden]`.
    fn logits(&self, gemma: &Gemma, normed: &Tensor) -> Result<Tensor> {
        let head = gemma.head().ok_or(Error::NoHead { lacks: "has no logits to compare" })?;
        let rows = self.text.planes.get(&Point::Logits);
        let position = |&row: &usize| rows.map_or(0, |rows| rows.position(row)) as u32;
        let at: Vec<u32> = self.logit_rows.iter().map(position).collect();
        let at = Tensor::new(&at[..], normed.device())?;
        logits(head, &normed.squeeze(0)?.contiguous()?.index_select(&at, 0)?)
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
