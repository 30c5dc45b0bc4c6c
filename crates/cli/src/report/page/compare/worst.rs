//! The positions where the predictions differ most, in their context.

use super::{Content, Section};
use crate::report::page::view::worst::tokens;
use gemma_mlp_drift::compare::Comparison;

pub(super) fn section(comparison: &Comparison) -> Option<Section> {
    let worst = &comparison.logits.as_ref()?.worst;
    (!worst.is_empty()).then(|| Section {
        id: "worst",
        name: "Worst tokens",
        heading: "The positions where the predictions differ most, in their context".into(),
        how_to_read: "The marked token is the one that follows in the text. The margin is how far the likeliest token's logit \
            is above the next one."
            .into(),
        content: Content::Html(tokens(worst, ["ours", "theirs"])),
    })
}
