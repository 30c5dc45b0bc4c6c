//! How far a dump is from ours at every point: in two passes over the text, and on the dump's own numbers.

use super::align::Text;
use super::glimpses::{GlimpseSums, glimpse};
use super::graph::Graph;
use super::layer_pass::{Flow, LayerPass, Values, has};
use super::models::Models;
use super::pair::Pair;
use super::point::{Place, Point};
use crate::error::Result;
use candle_core::{DType, Device, Tensor};
use gemma_mlp::model::{Gemma, Layer};
use std::collections::{BTreeMap, BTreeSet};

/// Positions that the floor is measured on: its size takes few.
pub(super) const FLOOR_POSITIONS: usize = 256;

/// What theirs and ours add up to at a point.
#[derive(Debug, Clone, Default)]
pub(super) struct PointSums {
    /// Each in its own pass over the text.
    pub(super) accumulated: Pair,
    /// Theirs against what ours makes of theirs; nothing where a point's inputs are not in the dump.
    pub(super) same_input: Option<Pair>,
    /// Whether that depends on which numbers f32 moves across a step of a coarser rounding: a few, and by chance.
    pub(super) scatters: bool,
    /// The same by a few numbers, where that is all there is.
    pub(super) glimpse: Option<GlimpseSums>,
    /// The points of theirs that this was made of.
    pub(super) inputs: BTreeSet<Point>,
}

/// A layer along a text: of each position, the squares of the difference and of ours.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) point: Point,
    pub(super) squares: Vec<[f64; 2]>,
}

/// What the layers of a run leave.
pub(super) struct Measured {
    pub(super) points: BTreeMap<Point, PointSums>,
    pub(super) rows: Vec<Row>,
    /// For each text, what enters the final norm.
    pub(super) streams: Vec<Streams>,
}

/// A text in the middle of a pass.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    /// Of ours.
    pub(super) ours: Flow,
    /// Of the model beside it, on the first positions.
    pub(super) beside: Flow,
    /// What ours and the model beside it made of theirs, or theirs; none where nothing of theirs came before.
    pub(super) local: Option<[Flow; 2]>,
}

/// Runs all layers. `watch` is handed what is given of each layer.
pub(super) fn measure(
    texts: &[Text],
    models: &Models,
    graph: &Graph,
    device: &Device,
    mut watch: impl FnMut(usize, &Layer, &Values) -> Result<()>,
    mut progress: impl FnMut(f64) -> Result<()>,
) -> Result<Measured> {
    let mut measured = Measured { points: BTreeMap::new(), rows: vec![], streams: vec![] };
    for text in texts {
        let ids = Tensor::new(&text.tokens[..], device)?.unsqueeze(0)?;
        let floor = floor_positions(&models.ours, text.tokens.len());
        let ours = Flow::begin(&models.ours, &ids)?;
        let beside = Flow::begin(&models.beside, &ids.narrow(1, 0, floor)?)?;
        let mut local = None;
        if let Some(rows) = text.planes.get(&Point::Embedding) {
            let theirs = whole(rows.all()?, device)?;
            let sums = measured.points.entry(Point::Embedding).or_default();
            let first = text.tokens.len() - rows.len();
            sums.accumulated.add(models, &ours.stream, &beside.stream, &theirs, first)?;
            sums.same_input = Some(sums.accumulated);
            if rows.is_whole(text.tokens.len()) {
                let [own, own_beside] = start(models, &theirs, floor)?;
                local = Some([ours.with_stream(own), beside.with_stream(own_beside)]);
            }
        }
        if let Some(theirs) = text.glimpses.get(&Point::Embedding) {
            let seen = glimpse(models, &ours.stream, &beside.stream, theirs)?;
            measured.points.entry(Point::Embedding).or_default().glimpse = Some(seen);
        }
        measured.streams.push(Streams { ours, beside, local });
    }
    let layers = models.ours.layers().len();
    for index in 0..layers {
        let mut row = None;
        for (i, text) in texts.iter().enumerate() {
            let run = LayerRun { index, text, models, graph, device };
            let given = run.given()?;
            watch(index, &models.ours.layers()[index], &given)?;
            let squares = run.run(&given, &mut measured.streams[i], &mut measured.points)?;
            if i == 0 {
                row = squares;
            }
            progress((index as f64 + (i + 1) as f64 / texts.len() as f64) / layers as f64)?;
        }
        measured.rows.extend(row);
    }
    Ok(measured)
}

/// How many of a text's first positions the floor is measured on: few, unless they see what is behind them, without
/// which they would be others.
pub(super) fn floor_positions(ours: &Gemma, tokens: usize) -> usize {
    tokens.min(FLOOR_POSITIONS.max(ours.seen_ahead()))
}

/// Theirs, as the models beside each other take it.
fn start(models: &Models, theirs: &Tensor, floor: usize) -> Result<[Tensor; 2]> {
    let beside = theirs.narrow(1, 0, floor)?.to_dtype(models.beside.dtype())?;
    Ok([theirs.to_dtype(DType::F32)?, beside])
}

/// A plane with the batch axis that models have.
fn whole(rows: Tensor, device: &Device) -> Result<Tensor> {
    Ok(rows.unsqueeze(0)?.to_device(device)?)
}

/// One layer on one text.
struct LayerRun<'a> {
    index: usize,
    text: &'a Text,
    models: &'a Models,
    graph: &'a Graph<'a>,
    device: &'a Device,
}

impl LayerRun<'_> {
    /// Theirs, where there is a row for each position.
    fn given(&self) -> Result<Values> {
        let mut given = Values::new();
        for (place, rows) in self.planes() {
            if rows.is_whole(self.text.tokens.len()) {
                given.insert(place, whole(rows.all()?, self.device)?);
            }
        }
        Ok(given)
    }

    fn planes(&self) -> impl Iterator<Item = (Place, &super::align::Rows)> {
        Place::ALL.into_iter().filter_map(|place| {
            Some((place, self.text.planes.get(&Point::Layer(self.index, place))?))
        })
    }

    /// Adds the layer's points, and moves the streams behind it.
    fn run(
        &self,
        given: &Values,
        streams: &mut Streams,
        points: &mut BTreeMap<Point, PointSums>,
    ) -> Result<Option<Row>> {
        let (models, index) = (self.models, self.index);
        let [layer, beside] = [&models.ours, &models.beside].map(|gemma| &gemma.layers()[index]);
        let dtype = models.beside.dtype();
        let floor = streams.beside.stream.dim(1)?;
        let nothing = Values::new();
        let mut own = LayerPass::new(layer, DType::F32, &streams.ours, &nothing);
        let mut own_beside = LayerPass::new(beside, dtype, &streams.beside, &nothing);
        for (place, rows) in self.planes() {
            let theirs = match given.get(&place) {
                Some(given) => given.clone(),
                None => whole(rows.all()?, self.device)?,
            };
            let first = self.text.tokens.len() - theirs.dim(1)?;
            let sums = points.entry(Point::Layer(index, place)).or_default();
            let (ours, beside) = (own.computed(place)?, own_beside.computed(place)?);
            sums.accumulated.add(models, &ours, &beside, &theirs, first)?;
        }
        for place in Place::ALL.into_iter().filter(|&place| has(layer, place)) {
            let point = Point::Layer(index, place);
            let Some(theirs) = self.text.glimpses.get(&point) else { continue };
            let (ours, beside) = (own.computed(place)?, own_beside.computed(place)?);
            let seen = glimpse(models, &ours, &beside, theirs)?;
            points.entry(point).or_default().glimpse = Some(seen);
        }
        let given_beside = given
            .iter()
            .map(|(&place, theirs)| Ok((place, theirs.narrow(1, 0, floor)?)))
            .collect::<Result<Values>>()?;
        let entering = match &streams.local {
            Some([local, local_beside]) => [local, local_beside],
            None => [&streams.ours, &streams.beside],
        };
        let mut local = LayerPass::new(layer, DType::F32, entering[0], given);
        let mut local_beside = LayerPass::new(beside, dtype, entering[1], &given_beside);
        let mut row = None;
        for (&place, theirs) in given {
            let point = Point::Layer(index, place);
            let sums = points.entry(point).or_default();
            sums.inputs = self.graph.inputs(point);
            row = Some((point, own.computed(place)?, theirs));
            if sums.inputs.is_empty() {
                sums.same_input = Some(sums.accumulated);
                continue;
            }
            let (ours, beside) = (local.computed(place)?, local_beside.computed(place)?);
            sums.same_input.get_or_insert_default().add(models, &ours, &beside, theirs, 0)?;
        }
        let row = row.map(|(point, ours, theirs)| row_of(point, &ours, theirs)).transpose()?;
        let left = match streams.local.is_some() || !given.is_empty() {
            true => Some([local.leave()?, local_beside.leave()?]),
            false => None,
        };
        let own = [own.leave()?, own_beside.leave()?];
        if let Some([left, left_beside]) = left {
            let Streams { ours, beside, local } = &mut *streams;
            let [local, local_beside] = local.get_or_insert_with(|| [ours.clone(), beside.clone()]);
            local.follow(left);
            local_beside.follow(left_beside);
        }
        let [left, left_beside] = own;
        streams.ours.follow(left);
        streams.beside.follow(left_beside);
        Ok(row)
    }
}

/// The squares of each position.
fn row_of(point: Point, ours: &Tensor, theirs: &Tensor) -> Result<Row> {
    let flat = |x: &Tensor| x.squeeze(0)?.flatten_from(1)?.to_dtype(DType::F32);
    let (ours, theirs) = (flat(ours)?, flat(theirs)?);
    let sums = |x: Tensor| x.sqr()?.sum(1)?.to_vec1::<f32>();
    let (difference, own) = (sums((&theirs - &ours)?)?, sums(ours)?);
    let pairs = difference.into_iter().zip(own);
    Ok(Row { point, squares: pairs.map(|(a, b)| [f64::from(a), f64::from(b)]).collect() })
}
