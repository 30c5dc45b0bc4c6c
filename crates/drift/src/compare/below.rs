//! Mistakes whose effect is below the noise floor, where rounding hides them from a distance, but not from a projection:
//! what differs, along a mistake's own effect and over its length, is 1 on average if the mistake is there and 0 if it is
//! not.

use super::arithmetic::Arithmetic;
use super::naming::for_each_mistake;
use super::point::Point;
use super::result::{BelowFloor, Sight};
use super::segment::{Segment, centred};
use crate::error::Result;
use candle_core::{DType, Tensor};
use gemma_mlp::model::Gemma;

/// Parts of a text, whose scatter is the error of a projection: noise is not independent from number to number.
const PARTS: usize = 8;
/// The error below which a projection tells 0 from 1.
const ENOUGH: f64 = 0.2;
/// How far from 1 a projection may be beside its error: rounding has a part in common with some mistakes.
const NEAR: f64 = 0.25;

/// A point, what rounding does there (the norm of a difference over that of ours), and what differs.
struct Place {
    point: Point,
    right: Tensor,
    differs: Tensor,
    floor: f64,
}

/// Where mistakes are looked for: a text's first positions, and points with their floors.
pub(super) struct Spot<'a> {
    pub(super) segment: Segment<'a>,
    pub(super) points: Vec<(Point, f64)>,
    /// Whether it is long enough for sliding windows to show.
    pub(super) for_windows: bool,
}

fn places(model: &Gemma, spot: &Spot) -> Result<Vec<Place>> {
    let (segment, mut places) = (&spot.segment, vec![]);
    for &(point, floor) in &spot.points {
        let Some((right, differs)) = segment.difference(model, point)? else { continue };
        let own = norm(&right)?;
        places.push(Place { point, differs, right, floor: own * floor });
    }
    Ok(places)
}

/// Projects what differs on every known mistake, at the first of some spots that shows it. `model` computes right.
pub(super) fn below_floor(
    model: &Gemma,
    arithmetic: &Arithmetic,
    sights: &[Spot],
    threshold: f64,
    progress: impl FnMut(f64) -> Result<()>,
) -> Result<Vec<BelowFloor>> {
    let mut seen = vec![];
    for spot in sights {
        seen.push(places(model, spot)?);
    }
    let mut found = vec![];
    for_each_mistake(model, arithmetic, progress, |difference, variations, other| {
        let mut sums = [[0.0; 2]; PARTS];
        let mut ratio = 0f64;
        let of_windows = variations.iter().all(|variation| variation.is_of_windows());
        let Some(at) = sights.iter().position(|spot| !of_windows || spot.for_windows) else {
            return Ok(());
        };
        let segment = &sights[at].segment;
        for Place { point, right, differs, floor } in &seen[at] {
            let effect = (centred(*point, &segment.computed(&other, *point)?)? - right)?;
            ratio = ratio.max(norm(&effect)? / floor);
            let [dots, squares] = [rows(&(differs * &effect)?)?, rows(&effect.sqr()?)?];
            for (row, (dot, square)) in dots.iter().zip(&squares).enumerate() {
                let part = &mut sums[row * PARTS / dots.len()];
                part[0] += dot / (floor * floor);
                part[1] += square / (floor * floor);
            }
        }
        if ratio > 0.0 && ratio < threshold {
            found.extend(sight(difference.name, ratio, &sums, segment.positions));
        }
        Ok(())
    })?;
    found.sort_by(|a, b| b.ratio.total_cmp(&a.ratio));
    Ok(found)
}

/// What the parts' projections say; nothing of fewer than two parts.
fn sight(name: &str, ratio: f64, sums: &[[f64; 2]; PARTS], tokens: usize) -> Option<BelowFloor> {
    let parts: Vec<_> = sums.iter().filter(|[_, square]| *square > 0.0).collect();
    if parts.len() < 2 {
        return None;
    }
    let square = parts.iter().map(|part| part[1]).sum::<f64>();
    let size = parts.iter().map(|part| part[0]).sum::<f64>() / square;
    // Each part by its weight: a short one, or one where the mistake does little, says little.
    let scatter = parts.iter().map(|[dot, of]| (dot - size * of).powi(2)).sum::<f64>();
    let n = parts.len() as f64;
    let error = (scatter * n / (n - 1.0)).sqrt() / square;
    let sight = match error {
        error if error.is_nan() || error > ENOUGH => Sight::TooSmallToTell,
        error if (size - 1.0).abs() <= (2.0 * error).max(NEAR) => Sight::Suspected,
        _ => Sight::Excluded,
    };
    let enough = (tokens as f64 * (error / ENOUGH).powi(2)).ceil();
    let tokens = (sight == Sight::TooSmallToTell && enough.is_finite()).then_some(enough as usize);
    Some(BelowFloor { name: name.into(), ratio, size, error, sight, tokens })
}

fn norm(x: &Tensor) -> Result<f64> {
    Ok(rows(&x.sqr()?)?.iter().sum::<f64>().sqrt())
}

/// The sums of rows, `[1, positions, …]` or `[rows, vocab]`.
fn rows(x: &Tensor) -> Result<Vec<f64>> {
    let x = if x.dim(0)? == 1 && x.rank() > 2 { x.squeeze(0)? } else { x.clone() };
    Ok(x.flatten_from(1)?.to_dtype(DType::F32)?.sum(1)?.to_dtype(DType::F64)?.to_vec1()?)
}
