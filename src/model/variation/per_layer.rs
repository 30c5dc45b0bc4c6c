//! Per-layer inputs that come together otherwise.

use crate::model::gemma::Gemma;
use crate::model::per_layer::PerLayerRule;

impl Gemma {
    /// A model whose per-layer inputs follow another rule, if they come from a table and a projection.
    pub(super) fn with_per_layer_rule(
        &self,
        change: impl FnOnce(&mut PerLayerRule),
    ) -> Option<Self> {
        let mut varied = self.another();
        let inputs = varied.per_layer.as_mut().filter(|inputs| inputs.has_table())?;
        change(&mut inputs.rule);
        Some(varied)
    }
}
