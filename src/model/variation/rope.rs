//! Rotary embeddings that turn by other angles.

use crate::model::attention::Attention;
use crate::model::gemma::Gemma;
use crate::model::rope::PartialRope;

impl Gemma {
    /// The base and factor of the first layer of a kind in all of them; `None` without layers of
    /// either kind, or where all have the same.
    pub(super) fn with_rope_of(&self, kind: impl Fn(&Attention) -> bool) -> Option<Self> {
        let first = |is: bool| self.attentions().find(|attention| kind(attention) == is);
        let [wanted, other] = [first(true)?, first(false)?].map(|attention| &attention.rope);
        let varied =
            |attention: &mut Attention| attention.rope = attention.rope.with_base_of(wanted);
        (!wanted.has_base_of(other)).then(|| self.map_attention(varied))
    }

    pub(super) fn without_rope_factor(&self) -> Option<Self> {
        self.attention_where(
            |attention| attention.rope.is_scaled(),
            |attention| attention.rope = attention.rope.without_factor(),
        )
    }

    pub(super) fn with_partial_rope(&self, partial: PartialRope) -> Option<Self> {
        self.attention_where(
            |attention| attention.rope.taken_for(partial).is_some(),
            |attention| {
                if let Some(rope) = attention.rope.taken_for(partial) {
                    attention.rope = rope;
                }
            },
        )
    }
}
