//! Two dumps against each other, where there is no model to compute anything with.

use super::dump::{Dump, DumpText};
use super::logits::{Mask, Masked};
use super::options::CompareOptions;
use super::plane::Plane;
use super::point::Point;
use super::precision::Precision;
use super::result::*;
use super::rule::{THRESHOLD, allowance, distance, unit_roundoff};
use super::words;
use crate::drift::{Accumulator, LogitSums, compare_logits};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// How many units of rounding two right models of one dtype are apart: nothing measures it here, and right ones in f32
/// and bf16 stay below it in Gemma 3 270M.
const UNITS: f64 = 16.0;

/// Rows that are read at a time.
const ROWS: usize = 64;

/// Compares two dumps point by point. Nothing is computed anew: what differs early differs in all that follows, the
/// noise floor is assumed and not measured, and no mistake is named. [`compare`](super::compare) does all that, with
/// the checkpoint.
///
/// # Errors
/// [`Error::NotComparable`]: other tokens, other shapes, no point in common. [`Error::Stopped`], if `progress` says so.
pub fn compare_dumps(
    theirs: &Dump,
    ours: &Dump,
    options: &CompareOptions,
    mut progress: impl FnMut(f64) -> ControlFlow<()>,
) -> Result<Comparison> {
    let refused = |reason: String| Error::NotComparable { name: theirs.source.clone(), reason };
    if theirs.texts.len() != ours.texts.len() {
        let (a, b) = (theirs.texts.len(), ours.texts.len());
        return Err(refused(format!("it has {a} texts, {} has {b}", ours.source)));
    }
    let [theirs_in, ours_in] = [theirs, ours].map(|dump| Precision::of_dump(dump, options.dtype));
    let (theirs_in, ours_in) = (theirs_in?, ours_in?);
    let unit = unit_roundoff(theirs_in.dtype).max(unit_roundoff(ours_in.dtype));
    let floor = UNITS * unit;
    let mut points: BTreeMap<Point, Accumulator> = BTreeMap::new();
    let (mut logits, mut masked) = (LogitSums::default(), Masked::default());
    let mut words_compared = 0;
    let pairs = || theirs.texts.iter().zip(&ours.texts);
    let all = pairs().map(|(a, b)| a.planes.keys().filter(|p| b.planes.contains_key(p)).count());
    let (all, mut done) = (all.sum::<usize>(), 0);
    if all == 0 {
        return Err(refused(format!("it has no point in common with {}", ours.source)));
    }
    for (a, b) in pairs() {
        if let (Some(theirs_ran), Some(ours_ran)) = (&a.tokens, &b.tokens)
            && theirs_ran != ours_ran
        {
            let at = theirs_ran.iter().zip(ours_ran).take_while(|(a, b)| a == b).count();
            let counts = (theirs_ran.len(), ours_ran.len());
            return Err(refused(format!(
                "it ran other tokens than {}: they part at position {at} ({} and {} tokens)",
                ours.source, counts.0, counts.1
            )));
        }
        for (&point, plane) in &a.planes {
            let Some(own) = b.planes.get(&point) else { continue };
            if plane.shape() != own.shape() {
                let (a, b) = (plane.shape(), own.shape());
                return Err(refused(format!(
                    "{point} has the shape {a:?}, in {} {b:?}; with --model the axes can be told",
                    ours.source
                )));
            }
            masked.add(add(point, plane, own, b, &mut points, &mut logits)?);
            words_compared =
                words_compared.max(if point == Point::Logits { plane.width() } else { 0 });
            done += 1;
            if progress(done as f64 / all as f64).is_break() {
                return Err(Error::Stopped);
            }
        }
    }
    let mut layers: Vec<ComparedLayer> = vec![];
    let (mut ends, mut first, mut largest) = (vec![], None, 0f64);
    for (&point, sums) in &points {
        let found = distance(sums, floor);
        let allowance = allowance(options, point);
        let differs = allowance.exceeded_by(found.ratio);
        match &first {
            None if differs => first = Some((point, found.ratio)),
            None => largest = largest.max(found.ratio),
            Some(_) => {}
        }
        let compared = ComparedPoint {
            point: point.place().into(),
            accumulated: Some(found),
            same_input: None,
            from: vec![],
            glimpse: None,
            differs,
            allowed: allowance.rule,
        };
        let reports = |index| options.layers.is_empty() || options.layers.contains(&index);
        match point.layer() {
            Some(index) if !reports(index) => {}
            Some(index) => ComparedLayer::add(&mut layers, index, compared),
            None => ends.push(compared),
        }
    }
    let verdict = match first {
        None => format!(
            "agrees: nothing is above {largest:.1} times the floor that is assumed ({floor:.1e})"
        ),
        Some((point, ratio)) => format!(
            "{} is the first that differs: {} the floor that is assumed ({floor:.1e}). With --model it can be told whether it or something before it is to blame, and which mistake it is.",
            words::name(point),
            words::ratio(ratio)
        ),
    };
    let logits = (!logits.kl_nats.is_empty()).then(|| ComparedLogits {
        positions: logits.kl_nats.len(),
        words: words_compared,
        whole_vocabulary: true,
        metrics: logits.metrics(),
        floor: None,
        ratio: f64::NAN,
        differs: points.get(&Point::Logits).is_some_and(|p| distance(p, floor).ratio > THRESHOLD),
        worst: vec![],
        flip_count: logits.flips(),
        flips: vec![],
    });
    Ok(Comparison {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").into(),
        agrees: first.is_none(),
        with: vec![],
        verdict,
        first: first.map(|(point, ratio)| First {
            layer: point.layer(),
            point: point.place().into(),
            ratio,
            from: vec![],
        }),
        causes: vec![],
        candidates: vec![],
        below_floor: vec![],
        theirs: summary(theirs, &theirs_in),
        ours: Reference::Dump(summary(ours, &ours_in)),
        floor: FloorSummary {
            description: format!("assumed, not measured: {UNITS} times what rounding to {} does", theirs_in.dtype.as_str()),
            tokens: 0,
            references: vec![],
        },
        threshold: THRESHOLD,
        layers,
        ends,
        activations: vec![],
        logits,
        map: None,
        untold: vec![
            "what differs on its own input, and which mistake it is: that takes the model (--model)".into(),
        ],
        remarks: theirs
            .remarks
            .iter()
            .chain(&ours.remarks)
            .cloned()
            .chain(masked.remarks([&theirs.source, &ours.source]))
            .collect(),
    })
}

/// Adds a point of a text.
fn add(
    point: Point,
    theirs: &Plane,
    ours: &Plane,
    text: &DumpText,
    points: &mut BTreeMap<Point, Accumulator>,
    logits: &mut LogitSums,
) -> Result<Masked> {
    let (rows, mut masked) = (theirs.positions(), Masked::default());
    let sums = points.entry(point).or_default();
    for start in (0..rows).step_by(ROWS) {
        let end = (start + ROWS).min(rows);
        let (mut theirs, mut ours) = (theirs.rows(start..end)?, ours.rows(start..end)?);
        if point == Point::Logits {
            let mask = Mask::of(&theirs, &ours)?;
            (theirs, ours) = (mask.apply(theirs)?, mask.apply(ours)?);
            masked.add(mask.found);
        }
        sums.add(&ours, &theirs)?;
        if point == Point::Logits {
            let next = |row: usize| match (&text.tokens, rows) {
                (Some(tokens), rows) if rows == tokens.len() => tokens.get(row + 1).copied(),
                _ => None,
            };
            let labels: Vec<_> = (start..end).map(next).collect();
            for mut more in compare_logits(&[ours, theirs], &[(0, 1)], &labels)? {
                more.forget_tokens();
                logits.merge(&more);
            }
        }
    }
    Ok(masked)
}

fn summary(dump: &Dump, precision: &Precision) -> DumpSummary {
    let points = dump.texts.iter().take(1).flat_map(|text| text.planes.keys().copied());
    DumpSummary {
        source: dump.source.clone(),
        format: dump.format.into(),
        framework: dump.metadata.get("framework").cloned(),
        dtype: precision.dtype.as_str().into(),
        dtype_reason: precision.reason.clone(),
        texts: dump.texts.len(),
        tokens: dump.texts.iter().flat_map(|text| &text.tokens).map(Vec::len).sum(),
        points: super::capture::counts(points),
    }
}
