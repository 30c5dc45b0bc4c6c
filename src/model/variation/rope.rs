//! Rotary embeddings that turn by other angles.

use crate::model::{Gemma, Layer, PartialRope};

impl Gemma {
    /// The base and factor of the first layer of a kind in all of them; `None` without layers of
    /// either kind, or where all have the same.
    pub(super) fn with_rope_of(&self, kind: impl Fn(&Layer) -> bool) -> Option<Self> {
        let first = |is: bool| self.layers.iter().find(|layer| kind(layer) == is);
        let [wanted, other] = [first(true)?, first(false)?].map(|layer| &layer.attention.rope);
        let varied =
            |layer: &mut Layer| layer.attention.rope = layer.attention.rope.with_base_of(wanted);
        (!wanted.has_base_of(other)).then(|| self.map_layers(varied))
    }

    pub(super) fn without_rope_factor(&self) -> Option<Self> {
        self.varied_where(
            |layer| layer.attention.rope.is_scaled(),
            |layer| layer.attention.rope = layer.attention.rope.without_factor(),
        )
    }

    pub(super) fn with_partial_rope(&self, partial: PartialRope) -> Option<Self> {
        self.varied_where(
            |layer| layer.attention.rope.taken_for(partial).is_some(),
            |layer| {
                if let Some(rope) = layer.attention.rope.taken_for(partial) {
                    layer.attention.rope = rope;
                }
            },
        )
    }
}
