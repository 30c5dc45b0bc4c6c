//! Experts that are chosen, weighed or normed otherwise.

use crate::mlp::Router;
use crate::model::gemma::Gemma;
use crate::model::layer::Layer;
use crate::model::mixture::ExpertsBranch;
use candle_core::DType;

impl Gemma {
    /// A model with every layer's experts changed, if it has some.
    pub(super) fn with_experts(&self, mut change: impl FnMut(&mut ExpertsBranch)) -> Option<Self> {
        self.varied_where(
            |layer| layer.experts.is_some(),
            |layer| layer.experts.iter_mut().for_each(&mut change),
        )
    }

    pub(super) fn with_experts_norms_exchanged(&self) -> Option<Self> {
        self.with_experts(|experts| std::mem::swap(&mut experts.mlp_norm, &mut experts.post_norm))
    }

    pub(super) fn without_expert_scale(&self) -> Option<Self> {
        self.with_experts(|experts| {
            experts.mixture = experts.mixture.map_router(Router::without_expert_scale);
        })
    }

    pub(super) fn without_renormalisation(&self) -> Option<Self> {
        self.with_experts(|experts| {
            experts.mixture = experts.mixture.map_router(Router::without_renormalisation);
        })
    }
}

impl Gemma {
    /// The router of experts, and the cutoff of sparse gates, rounded to a dtype after every operation.
    pub(super) fn with_choice_rounding(&self, dtype: DType) -> Option<Self> {
        let has = |layer: &Layer| layer.experts.is_some() || layer.mlp.sparsity().is_some();
        self.varied_where(has, |layer| {
            let sparsity = layer.mlp.sparsity().map(|own| own.with_rounding(dtype));
            layer.mlp = layer.mlp.with_sparsity(sparsity);
            if let Some(branch) = &mut layer.experts {
                branch.mixture = branch.mixture.map_router(|own| own.with_rounding(dtype));
            }
        })
    }
}
