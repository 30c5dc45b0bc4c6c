//! Norms that multiply by something else.

use crate::checkpoint::NormWeight;
use crate::model::gemma::Gemma;
use candle_core::{DType, Result, Tensor};

impl Gemma {
    /// A model whose norms multiply by something else, if they multiply by what is given.
    pub(super) fn with_norm_weight(
        &self,
        from: NormWeight,
        to: NormWeight,
    ) -> Result<Option<Self>> {
        let varied = || self.map_norms(|norm| Ok(norm.with_kind(to)));
        (self.norm.kind() == Some(from)).then(varied).transpose()
    }

    /// `1 + w` rounded, where that is what norms multiply by.
    pub(super) fn with_norm_weight_rounded(&self, dtype: DType) -> Result<Option<Self>> {
        let is_one_plus = self.norm.kind() == Some(NormWeight::OnePlus);
        let round = |weight| one_plus_weight_rounded(weight, dtype);
        let varied = || self.map_norms(|norm| norm.map_weight(round));
        is_one_plus.then(varied).transpose()
    }

    pub(super) fn with_mlp_norm_behind_attention(&self) -> Option<Self> {
        self.varied_where(
            |layer| layer.post_attention_norm.is_some(),
            |layer| {
                if let Some(norm) = &mut layer.post_attention_norm {
                    norm.clone_from(&layer.mlp_norm);
                }
            },
        )
    }
}

/// The weight whose `1 + w` is that of the given one, rounded.
fn one_plus_weight_rounded(weight: Tensor, dtype: DType) -> Result<Tensor> {
    (&weight + 1.0)?.to_dtype(dtype)?.to_dtype(weight.dtype())? - 1.0
}
