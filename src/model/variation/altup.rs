//! Streams that are predicted and corrected otherwise, and the path beside attention.

use crate::model::altup::AltUpRule;
use crate::model::gemma::Gemma;
use candle_core::Result;

impl Gemma {
    /// A model whose AltUp follows another rule, if it has one.
    pub(super) fn with_altup_rule(&self, change: impl Fn(&mut AltUpRule)) -> Option<Self> {
        self.varied_where(
            |layer| layer.streams.is_some(),
            |layer| layer.streams.iter_mut().for_each(|(altup, _)| change(&mut altup.rule)),
        )
    }

    /// `None` where no coefficient is beyond the bound.
    pub(super) fn with_altup_clipped(&self) -> Result<Option<Self>> {
        let mut altups = self.layers.iter().filter_map(|layer| layer.streams.as_ref());
        let is_beyond = altups.try_fold(false, |found, (altup, _)| {
            Ok::<_, candle_core::Error>(found || altup.is_beyond_clip()?)
        })?;
        Ok(is_beyond.then(|| self.with_altup_rule(|rule| rule.clips = true)).flatten())
    }

    /// `None` where all is f32 or wider.
    pub(super) fn with_altup_in_f32(&self) -> Option<Self> {
        let is_half = self.dtype().size_in_bytes() == 2;
        is_half.then(|| self.with_altup_rule(|rule| rule.wide = true)).flatten()
    }

    pub(super) fn with_laurel_from_stream(&self) -> Option<Self> {
        self.varied_where(
            |layer| layer.streams.is_some(),
            |layer| layer.streams.iter_mut().for_each(|(_, laurel)| laurel.from_stream = true),
        )
    }
}
