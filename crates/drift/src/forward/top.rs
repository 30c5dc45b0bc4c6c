//! The likeliest next tokens.

use crate::error::Result;
use candle_core::{DType, Tensor};
use gemma_mlp::Checkpoint;
use serde::Serialize;

/// A token that may come next.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TopToken {
    /// The token's id.
    pub id: u32,
    /// The token's text; `None` without a tokenizer.
    pub text: Option<String>,
    /// The token's logit.
    pub logit: f64,
    /// The token's probability.
    pub probability: f64,
}

/// The `count` largest of each row of logits, `[batch, vocab]`, largest first; of equals the lower
/// id comes first, and NaN last.
pub(super) fn top_tokens(
    checkpoint: &Checkpoint,
    logits: &Tensor,
    count: usize,
) -> Result<Vec<Vec<TopToken>>> {
    let rows = logits.to_dtype(DType::F64)?.to_vec2::<f64>()?;
    let top = |row: Vec<f64>| {
        let key = |id: u32| match row[id as usize] {
            x if x.is_nan() => f64::NEG_INFINITY,
            x => x,
        };
        let mut ids: Vec<u32> = (0..row.len() as u32).collect();
        ids.sort_by(|&a, &b| key(b).total_cmp(&key(a)));
        ids.truncate(count);
        let max = ids.first().map_or(0.0, |&id| key(id));
        let sum: f64 = row.iter().map(|x| (x - max).exp()).sum();
        let token = |id: u32| TopToken {
            id,
            text: checkpoint.decode(&[id]).ok(),
            logit: row[id as usize],
            probability: (row[id as usize] - max).exp() / sum,
        };
        ids.into_iter().map(token).collect()
    };
    Ok(rows.into_iter().map(top).collect())
}
