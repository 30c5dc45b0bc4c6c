//! A dump's planes in our axes and over our positions, where the rule for it is certain.

use super::dump::{Dump, DumpText, Likeliest};
use super::plane::{Glimpse, Plane};
use super::point::{Place, Point};
use crate::error::{Error, Result};
use crate::input::check_ids;
use candle_core::{D, DType, Tensor};
use gemma_mlp::Checkpoint;
use gemma_mlp::checkpoint::{Config, LayerAttention, Remark, RemarkKind};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A text of a dump, in our axes.
#[derive(Debug, Clone, Default)]
pub(super) struct Text {
    pub(super) tokens: Vec<u32>,
    pub(super) planes: BTreeMap<Point, Rows>,
    /// Points of which a few numbers are known.
    pub(super) glimpses: BTreeMap<Point, Glimpse>,
    pub(super) likeliest: Vec<Likeliest>,
}

impl Text {
    /// Its first positions alone.
    pub(super) fn first(&self, positions: usize) -> Self {
        let positions = positions.min(self.tokens.len());
        let mut planes = BTreeMap::new();
        for (&point, rows) in &self.planes {
            if rows.is_whole(self.tokens.len()) {
                planes.insert(point, rows.first(positions));
            }
        }
        Self { tokens: self.tokens[..positions].to_vec(), planes, ..Self::default() }
    }
}

/// A plane, and the positions its rows belong to.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    plane: Plane,
    /// What a row has in our model; a vocabulary that is padded has more in the plane.
    width: Vec<usize>,
    /// How many of its rows count.
    count: usize,
    /// A soft-cap that they lack.
    softcap: Option<f64>,
    positions: Positions,
}

#[derive(Debug, Clone)]
enum Positions {
    /// From one on, without gaps.
    From(usize),
    Listed(Vec<usize>),
}

impl Rows {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The rows with a soft-cap, `cap·tanh(x/cap)`.
    pub(super) fn capped(&self, cap: f64) -> Self {
        Self { softcap: Some(cap), ..self.clone() }
    }

    fn first(&self, count: usize) -> Self {
        Self { count, ..self.clone() }
    }

    /// The position of a row.
    pub(super) fn position(&self, row: usize) -> usize {
        match &self.positions {
            Positions::From(first) => first + row,
            Positions::Listed(positions) => positions[row],
        }
    }

    /// Whether there is a row for each of so many positions.
    pub(super) fn is_whole(&self, positions: usize) -> bool {
        matches!(self.positions, Positions::From(0)) && self.len() == positions
    }

    /// Some rows, `[rows, …]` as our model has them, in the dtype they are stored in.
    pub(super) fn read(&self, rows: Range<usize>) -> Result<Tensor> {
        let tensor = self.plane.rows(rows)?;
        let (count, width) = (tensor.dim(0)?, self.plane.width());
        let wanted = self.width.iter().product::<usize>();
        let flat = tensor.reshape((count, width))?;
        let flat = if width > wanted { flat.narrow(1, 0, wanted)? } else { flat };
        let shape: Vec<usize> = [count].into_iter().chain(self.width.iter().copied()).collect();
        let rows = flat.reshape(shape)?;
        Ok(match self.softcap {
            Some(cap) => ((rows.to_dtype(DType::F32)? / cap)?.tanh()? * cap)?,
            None => rows,
        })
    }

    /// All rows.
    pub(super) fn all(&self) -> Result<Tensor> {
        self.read(0..self.len())
    }
}

/// The widths of a model's points.
pub(super) struct Widths {
    hidden: usize,
    /// How many residual streams lie side by side.
    streams: usize,
    /// Width of what the last projection makes, if there is one.
    projected: Option<usize>,
    /// Width of layers' own inputs, if they have any.
    per_layer: Option<usize>,
    /// How many experts layers have beside the block, if any.
    experts: Option<usize>,
    /// Of each layer.
    intermediate: Vec<usize>,
    vocab: usize,
    heads: usize,
    /// Heads of keys, and the width of heads, of each layer.
    of_layers: Vec<[usize; 2]>,
    pub(super) layers: usize,
}

impl Widths {
    pub(super) fn of(config: &Config, layers: usize) -> Self {
        let stack = &config.stacks[0];
        let attention = stack.attention.as_ref().ok();
        Self {
            hidden: stack.hidden_size,
            streams: stack.altup.as_ref().map_or(1, |altup| altup.inputs),
            projected: stack.embedding_dim,
            per_layer: stack.per_layer_inputs.as_ref().map(|inputs| inputs.size),
            experts: stack
                .feed_forward
                .iter()
                .find_map(|layer| Some(layer.experts.as_ref()?.num_experts)),
            intermediate: stack.feed_forward.iter().map(|layer| layer.intermediate_size).collect(),
            vocab: stack.vocab_size,
            heads: attention.map_or(0, |a| a.num_attention_heads),
            of_layers: attention.map_or(vec![], |attention| {
                let of = |layer: &LayerAttention| [layer.num_key_value_heads, layer.head_dim];
                attention.layers.iter().map(of).collect()
            }),
            layers,
        }
    }

    fn heads_of(&self, layer: usize) -> [usize; 2] {
        self.of_layers.get(layer).copied().unwrap_or_default()
    }

    /// Whether the model has a point.
    fn has(&self, point: Point) -> bool {
        match point {
            Point::Projected => self.projected.is_some(),
            Point::Layer(_, Place::Router | Place::Routing | Place::ExpertsOutput) => {
                self.experts.is_some()
            }
            Point::Layer(
                _,
                Place::PerLayerGate | Place::PerLayerProduct | Place::PerLayerOutput,
            ) => self.per_layer.is_some(),
            _ => true,
        }
    }

    /// Whether a point has all residual streams, of which this is another number.
    fn are_other_streams(&self, point: Point, width: usize) -> bool {
        let of_streams = matches!(point, Point::Embedding | Point::Layer(_, Place::Hidden));
        of_streams && self.streams > 1 && width == self.hidden
    }

    /// What a position has at a point.
    fn at(&self, point: Point) -> Vec<usize> {
        match point {
            Point::Embedding | Point::Layer(_, Place::Hidden) => vec![self.streams * self.hidden],
            Point::Layer(_, Place::Router | Place::Routing) => vec![self.experts.unwrap_or(0)],
            Point::Projected => vec![self.projected.unwrap_or(0)],
            Point::Layer(_, Place::PerLayerGate | Place::PerLayerProduct) => {
                vec![self.per_layer.unwrap_or(0)]
            }
            Point::Logits => vec![self.vocab],
            Point::Layer(n, Place::Queries) => vec![self.heads, self.heads_of(n)[1]],
            Point::Layer(n, Place::Keys | Place::Values) => self.heads_of(n).to_vec(),
            Point::Layer(n, Place::Gate | Place::Up | Place::Activated | Place::Product) => {
                vec![self.intermediate.get(n).copied().unwrap_or(0)]
            }
            _ => vec![self.hidden],
        }
    }
}

/// A dump in our axes, and what was done to it.
pub(super) struct Aligned {
    pub(super) texts: Vec<Text>,
    pub(super) remarks: Vec<Remark>,
}

/// Brings a dump into the axes of a checkpoint's model.
///
/// # Errors
/// No tokens, tokens that are no words of the vocabulary, a point whose shape fits in no certain way.
pub(super) fn align(dump: &Dump, checkpoint: &Checkpoint) -> Result<Aligned> {
    let widths = Widths::of(checkpoint.config(), checkpoint.blocks().len());
    let mut done = Done::default();
    let texts = dump.texts.iter().map(|text| align_text(dump, text, &widths, &mut done));
    let texts = texts.collect::<Result<Vec<_>>>()?;
    if texts.is_empty() {
        return Err(refused(dump, "it has no text"));
    }
    Ok(Aligned { texts, remarks: done.remarks() })
}

/// That a dump cannot be compared, and why.
pub(super) fn refused(dump: &Dump, reason: impl Into<String>) -> Error {
    Error::NotComparable { name: dump.source.clone(), reason: reason.into() }
}

/// What was done to make a dump fit, with the names of the points that it was done to.
#[derive(Default)]
struct Done(BTreeMap<String, BTreeSet<Point>>);

impl Done {
    fn note(&mut self, what: impl Into<String>, point: Point) {
        self.0.entry(what.into()).or_default().insert(point);
    }

    fn remarks(self) -> Vec<Remark> {
        let remark = |(what, points): (String, BTreeSet<Point>)| {
            let first = points.first().map(Point::to_string).unwrap_or_default();
            let names = match points.len() {
                1 => first,
                more => format!("{first} and {} more points", more - 1),
            };
            Remark::note(RemarkKind::Chosen, format!("{names}: {what}"))
        };
        self.0.into_iter().map(remark).collect()
    }
}

fn align_text(dump: &Dump, text: &DumpText, widths: &Widths, done: &mut Done) -> Result<Text> {
    let Some(tokens) = &text.tokens else {
        return Err(refused(
            dump,
            "it does not say which tokens were run; pass the ids it was made of with --ids",
        ));
    };
    if tokens.is_empty() {
        return Err(refused(dump, "it has no tokens"));
    }
    check_ids(tokens, widths.vocab)?;
    let mut planes = BTreeMap::new();
    for (&point, plane) in &text.planes {
        if let Point::Layer(index, _) = point
            && index >= widths.layers
        {
            let layers = widths.layers;
            return Err(refused(
                dump,
                format!("it has {point}, and the model has {layers} layers"),
            ));
        }
        if !widths.has(point) {
            return Err(refused(dump, format!("it has {point}, and the model has no such point")));
        }
        if widths.are_other_streams(point, plane.width()) {
            let streams = widths.streams;
            let what = format!(
                "one residual stream, where the model has {streams} side by side; it is not compared"
            );
            done.note(what, point);
            continue;
        }
        let listed = (point == Point::Logits).then(|| text.logit_positions.clone()).flatten();
        let rows = align_plane(dump, point, plane, tokens.len(), listed, widths, done)?;
        planes.insert(point, rows);
    }
    let mut glimpses = BTreeMap::new();
    for (&point, glimpse) in text.glimpses.iter().filter(|(point, _)| widths.has(**point)) {
        // Of fewer positions nobody says which they are, but for the logits of the last one.
        let width: usize = widths.at(point).iter().product();
        let numbers: usize = glimpse.shape.iter().skip(1).product();
        let positions = glimpse.shape.first().copied().unwrap_or(0);
        let last = point == Point::Logits && positions == 1;
        if numbers != width || !(positions == tokens.len() || last) {
            done.note("a few numbers of another shape than ours, which are not compared", point);
            continue;
        }
        let in_reach = point.layer().is_none_or(|layer| layer < widths.layers);
        if in_reach && glimpse.values.iter().all(|(at, _)| *at < positions * width) {
            glimpses.insert(point, glimpse.clone());
        }
    }
    Ok(Text { tokens: tokens.clone(), planes, glimpses, likeliest: text.likeliest.clone() })
}

fn align_plane(
    dump: &Dump,
    point: Point,
    plane: &Plane,
    tokens: usize,
    listed: Option<Vec<usize>>,
    widths: &Widths,
    done: &mut Done,
) -> Result<Rows> {
    let width = widths.at(point);
    let numbers: usize = width.iter().product();
    let mut plane = plane.clone();
    let shape = plane.shape().to_vec();
    let fits = |plane: &Plane| plane.width() == numbers && plane.positions() <= tokens;
    if !fits(&plane) {
        let in_memory = |tensor: candle_core::Result<Tensor>| -> Result<Plane> {
            Ok(Plane::new(tensor?.contiguous()?))
        };
        let swapped = |rank: usize, a: usize, b: usize| {
            shape.len() == rank && {
                let mut other = shape.clone();
                other.swap(a, b);
                other[0] == tokens && other[1..].iter().product::<usize>() == numbers
            }
        };
        if swapped(2, 0, 1) {
            plane = in_memory(plane.tensor()?.t())?;
            done.note("stored as [width, positions], and turned", point);
        } else if width.len() == 2 && swapped(3, 0, 1) && shape[0] == width[0] {
            plane = in_memory(plane.tensor()?.transpose(0, 1))?;
            done.note("stored as [heads, positions, head_dim], and turned", point);
        } else if let Some(once) = heads_once(&plane, &width, tokens)? {
            plane = once;
            done.note(
                "key and value heads were repeated for the query heads; each is taken once",
                point,
            );
        } else if point == Point::Logits && plane.width() > numbers && plane.positions() <= tokens {
            let (theirs, ours) = (plane.width(), numbers);
            done.note(
                format!("a vocabulary of {theirs} words, padded beyond the model's {ours}; the first {ours} are compared"),
                point,
            );
        } else {
            let expected: Vec<String> = width.iter().map(usize::to_string).collect();
            return Err(refused(
                dump,
                format!(
                    "{point} has the shape {shape:?}; the model has [{tokens}, {}] there, for {tokens} tokens",
                    expected.join(", ")
                ),
            ));
        }
    }
    let rows = plane.positions();
    let positions = match listed {
        Some(listed) if listed.len() != rows => {
            let positions = listed.len();
            return Err(refused(
                dump,
                format!("{point} has {rows} rows for {positions} positions"),
            ));
        }
        Some(listed) if listed.iter().any(|&at| at >= tokens) => {
            return Err(refused(dump, format!("positions go beyond the {tokens} tokens")));
        }
        Some(listed) => Positions::Listed(listed),
        None if rows < tokens => {
            let which = if rows == 1 {
                "the last position alone".into()
            } else {
                format!("{rows} of {tokens} positions, taken as the last ones")
            };
            done.note(which, point);
            Positions::From(tokens - rows)
        }
        None => Positions::From(0),
    };
    Ok(Rows { count: plane.positions(), plane, width, softcap: None, positions })
}

/// Keys or values whose heads were repeated for the query heads, each head once.
fn heads_once(plane: &Plane, width: &[usize], tokens: usize) -> Result<Option<Plane>> {
    let (&[kv_heads, head_dim], &[positions, ref rest @ ..]) = (width, plane.shape()) else {
        return Ok(None);
    };
    let group = head_dim * kv_heads;
    let numbers: usize = rest.iter().product();
    if positions != tokens || group == 0 || numbers <= group || !numbers.is_multiple_of(group) {
        return Ok(None);
    }
    let repeats = numbers / group;
    let all = plane.tensor()?.reshape((positions, kv_heads, repeats, head_dim))?;
    let first = all.narrow(2, 0, 1)?;
    let wide = |t: &Tensor| t.to_dtype(DType::F32);
    let same = (wide(&all)?.broadcast_sub(&wide(&first)?)?).abs()?.max_all()?.to_scalar::<f32>()?;
    if same != 0.0 {
        return Ok(None);
    }
    Ok(Some(Plane::new(first.squeeze(D::Minus2)?.contiguous()?)))
}
