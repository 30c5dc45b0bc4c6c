//! Experts that are chosen, weighed or normed otherwise.

use crate::mlp::Router;
use crate::model::{ExpertsBranch, Gemma};

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
