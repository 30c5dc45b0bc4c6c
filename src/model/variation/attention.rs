//! Attention over other keys and values, or by other norms of them.

use crate::model::{Gemma, Layer};
use candle_core::Result;

impl Gemma {
    pub(super) fn without_qk_norm(&self) -> Option<Self> {
        self.varied_where(
            |layer| layer.attention.norms.q.is_some(),
            |layer| {
                let norms = &mut layer.attention.norms;
                (norms.q, norms.k) = (None, None);
            },
        )
    }

    pub(super) fn without_value_norm(&self) -> Option<Self> {
        self.varied_where(
            |layer| layer.attention.norms.v.is_some(),
            |layer| layer.attention.norms.v = None,
        )
    }

    pub(super) fn with_values_after_key_norm(&self) -> Option<Self> {
        let is_one = |layer: &Layer| {
            layer.attention.has_keys_as_values() && layer.attention.norms.k.is_some()
        };
        self.varied_where(is_one, |layer| {
            layer.attention.values_after_key_norm = is_one(layer);
        })
    }

    /// Keys and values of its own for every layer that shares another's, if the file has them for all.
    pub(super) fn with_stray_keys(&self) -> Result<Option<Self>> {
        let mut own = vec![];
        for (index, layer) in self.layers.iter().enumerate() {
            let Some(lender) = layer.attention.shares() else { continue };
            let Some(lender) = self.layers.get(lender) else { return Ok(None) };
            match layer.attention.with_stray_keys(&lender.attention)? {
                Some(attention) => own.push((index, attention)),
                None => return Ok(None),
            }
        }
        if own.is_empty() {
            return Ok(None);
        }
        let mut own = own.into_iter().peekable();
        Ok(Some(self.map_layers(|layer| {
            if let Some((_, attention)) = own.next_if(|(index, _)| *index == layer.index()) {
                layer.attention = attention;
            }
        })))
    }

    /// A model with other sliding windows, if it has any.
    pub(super) fn with_window(&self, change: impl Fn(usize) -> Option<usize>) -> Option<Self> {
        self.varied_where(Layer::is_sliding, |layer| {
            let window = layer.attention.sliding_window.and_then(&change);
            layer.attention.sliding_window = window.map(|window| window.max(1));
        })
    }
}

impl Layer {
    /// Whether its attention sees a window only.
    pub(super) fn is_sliding(&self) -> bool {
        self.attention.sliding_window.is_some()
    }
}
