//! Gates that are made sparse otherwise.

use crate::mlp::{Deviation, Sparsity};
use crate::model::gemma::Gemma;
use crate::model::layer::Layer;
use candle_core::{Error, Result};

/// What Gemma 3n's releases have: so many layers at the start, and what fraction of their gates becomes 0.
const RELEASED: (usize, f64) = (10, 0.95);

impl Gemma {
    pub(super) fn without_sparsity(&self) -> Option<Self> {
        self.varied_where(is_sparse, |layer| layer.mlp = layer.mlp.with_sparsity(None))
    }

    pub(super) fn with_sparsity_by_sample(&self) -> Option<Self> {
        self.varied_where(is_sparse, |layer| {
            let sparsity = layer.mlp.sparsity().map(|own| own.with_deviation(Deviation::Sample));
            layer.mlp = layer.mlp.with_sparsity(sparsity);
        })
    }

    /// Gemma 3n's alone; `None` where the layers are so.
    pub(super) fn with_sparsity_of_releases(&self) -> Result<Option<Self>> {
        let (first, fraction) = RELEASED;
        let sparsity = Sparsity::new(fraction).map_err(Error::wrap)?;
        let wanted = |layer: &Layer| (layer.index() < first).then_some(sparsity);
        let differs =
            |layer: &Layer| layer.streams.is_some() && layer.mlp.sparsity() != wanted(layer);
        Ok(self.varied_where(differs, |layer| {
            layer.mlp = layer.mlp.with_sparsity(wanted(layer));
        }))
    }
}

fn is_sparse(layer: &Layer) -> bool {
    layer.mlp.sparsity().is_some()
}
