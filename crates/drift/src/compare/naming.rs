//! The mistake's name: every mistake that is known, put into our model alone, and what it does at the first point
//! that differs, in direction and size.

use super::arithmetic::Arithmetic;
use super::models::varied;
use super::point::Point;
use super::segment::{Segment, centred};
use crate::drift::{self, Accumulator, Change, DIFFERENCES, Difference};
use crate::error::Result;
use candle_core::Tensor;
use gemma_mlp::model::{Gemma, Variation};

/// A mistake that was tried at a point.
#[derive(Debug, Clone)]
pub(super) struct Tried {
    pub(super) difference: &'static Difference,
    pub(super) variations: &'static [Variation],
    /// Between what differs and what the mistake changes.
    pub(super) cosine: f64,
    /// What differs along it, over its own length.
    pub(super) size: f64,
    /// The fraction of what differs (its square) that is left without it, taken as large as it fits best, within
    /// [`SIZE`]: rounding makes a mistake of bits part with its own effect elsewhere.
    pub(super) left: f64,
    /// How large its effect is over the floor.
    pub(super) ratio: f64,
}

/// A mistake is claimed from this cosine on: half of what differs, as squares, is more than an unknown mistake has in
/// common with a known one.
const LEAST_COSINE: f64 = 0.5;
/// Its size may be off by this factor.
const SIZE: f64 = 2.0;
/// By how much less must be left than after the next best.
const LEAD: f64 = 0.9;

/// Tries all mistakes at a point, best first. `model` computes right as far as is known, and what `arithmetic`
/// has of its own is none; `floor` is what rounding does
/// there, as the norm of a difference over ours.
pub(super) fn try_all(
    model: &Gemma,
    arithmetic: &Arithmetic,
    segment: &Segment,
    point: Point,
    floor: f64,
    progress: impl FnMut(f64) -> Result<()>,
) -> Result<Vec<Tried>> {
    let Some((right, differs)) = segment.difference(model, point)? else { return Ok(vec![]) };
    let own = Accumulator::of(&right, &right)?.products()[0].sqrt();
    let mut tried = vec![];
    for_each_mistake(model, arithmetic, progress, |difference, variations, other| {
        let effect = (centred(point, &segment.computed(&other, point)?)? - &right)?;
        tried.extend(Tried::new(difference, variations, &differs, &effect, own * floor)?);
        Ok(())
    })?;
    tried.sort_by(|a, b| a.left.total_cmp(&b.left));
    Ok(tried)
}

/// Every mistake that a model can have and that is not its framework's own, with the model that has it. `progress` is
/// called with the fraction that is done.
pub(super) fn for_each_mistake(
    model: &Gemma,
    arithmetic: &Arithmetic,
    mut progress: impl FnMut(f64) -> Result<()>,
    mut with: impl FnMut(&'static Difference, &'static [Variation], Gemma) -> Result<()>,
) -> Result<()> {
    for (i, difference) in DIFFERENCES.iter().enumerate() {
        progress(i as f64 / DIFFERENCES.len() as f64)?;
        let Change::Model(variations) = difference.change else { continue };
        if arithmetic.has(variations) {
            continue;
        }
        if let Some(other) = drift::varied(model, variations)? {
            with(difference, variations, other)?;
        }
    }
    Ok(())
}

impl Tried {
    /// Nothing where the mistake changes nothing.
    fn new(
        difference: &'static Difference,
        variations: &'static [Variation],
        differs: &Tensor,
        effect: &Tensor,
        floor: f64,
    ) -> Result<Option<Self>> {
        let [differs, effect, dot] = Accumulator::of(differs, effect)?.products();
        if effect == 0.0 || !(effect + differs).is_finite() {
            return Ok(None);
        }
        let taken = (dot / effect).clamp(1.0 / SIZE, SIZE);
        Ok(Some(Self {
            difference,
            variations,
            cosine: dot / (differs * effect).sqrt(),
            size: dot / effect,
            left: (differs - 2.0 * taken * dot + taken * taken * effect) / differs,
            ratio: effect.sqrt() / floor,
        }))
    }

    /// Whether it explains what differs, by itself.
    fn fits(&self) -> bool {
        self.cosine >= LEAST_COSINE && (1.0 / SIZE..SIZE).contains(&self.size)
    }
}

/// The mistake that explains what differs, of those that were tried: the first fits, and no other fits as well.
pub(super) fn claimed(tried: &[Tried]) -> Option<&Tried> {
    let best = tried.first().filter(|best| best.fits())?;
    let rival = tried.get(1).is_some_and(|next| best.left > LEAD * next.left);
    (!rival).then_some(best)
}

/// A model that has a mistake, to look for another.
pub(super) fn repaired(model: &Gemma, mistake: &Tried) -> Result<Gemma> {
    varied(model, mistake.variations)
}
