//! Attention over other keys and values, or by other norms of them.

use crate::model::attention::Attention;
use crate::model::gemma::Gemma;
use candle_core::Result;

impl Gemma {
    /// A model with every attention changed, if any of them is one that the change is for.
    pub(super) fn attention_where(
        &self,
        is_one: impl Fn(&Attention) -> bool,
        change: impl FnMut(&mut Attention),
    ) -> Option<Self> {
        self.attentions().any(is_one).then(|| self.map_attention(change))
    }

    pub(super) fn without_qk_norm(&self) -> Option<Self> {
        self.attention_where(
            |attention| attention.norms.q.is_some(),
            |attention| (attention.norms.q, attention.norms.k) = (None, None),
        )
    }

    pub(super) fn without_value_norm(&self) -> Option<Self> {
        self.attention_where(
            |attention| attention.norms.v.is_some(),
            |attention| attention.norms.v = None,
        )
    }

    pub(super) fn with_values_after_key_norm(&self) -> Option<Self> {
        let is_one =
            |attention: &Attention| attention.has_keys_as_values() && attention.norms.k.is_some();
        self.attention_where(is_one, |attention| {
            attention.values_after_key_norm = is_one(attention);
        })
    }

    /// Keys and values of its own for every layer that shares another's, if the file has them for all.
    pub(super) fn with_stray_keys(&self) -> Result<Option<Self>> {
        let mut own = vec![];
        for (index, layer) in self.layers.iter().enumerate() {
            let Some(attention) = layer.attention() else { continue };
            let Some(lender) = attention.shares() else { continue };
            let lender = self.layers.get(lender).and_then(|layer| layer.attention());
            let Some(lender) = lender else { return Ok(None) };
            match attention.with_stray_keys(lender)? {
                Some(attention) => own.push((index, attention)),
                None => return Ok(None),
            }
        }
        if own.is_empty() {
            return Ok(None);
        }
        let mut own = own.into_iter().peekable();
        Ok(Some(self.map_layers(|layer| {
            let found = own.next_if(|(index, _)| *index == layer.index());
            if let (Some((_, attention)), Some(place)) = (found, layer.attention_mut()) {
                *place = attention;
            }
        })))
    }

    /// A model with other sliding windows, if it has any.
    pub(super) fn with_window(&self, change: impl Fn(usize) -> Option<usize>) -> Option<Self> {
        self.attention_where(Attention::is_sliding, |attention| {
            for window in [&mut attention.sliding_window, &mut attention.sliding_window_behind] {
                *window = window.and_then(&change).map(|window| window.max(1));
            }
        })
    }
}

impl Attention {
    /// Whether it sees a window only.
    pub(super) fn is_sliding(&self) -> bool {
        self.sliding_window.is_some()
    }
}
