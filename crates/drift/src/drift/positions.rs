//! Drift position by position: where in the text it is, and at which tokens.

use super::logits::{LogitSums, nans_from_nulls};
use super::metrics::nan_from_null;
use gemma_mlp::Checkpoint;
use serde::{Deserialize, Serialize};

/// KL divergence along the text, in at most 2,048 groups of neighbouring positions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct Positions {
    /// How many positions make a group; the last one may have fewer.
    pub group: usize,
    /// The mean KL of each group.
    #[serde(deserialize_with = "nans_from_nulls")]
    pub kl_mean_nats: Vec<f64>,
    /// The largest KL of each group.
    #[serde(deserialize_with = "nans_from_nulls")]
    pub kl_max_nats: Vec<f64>,
    /// The mean KL of the pair that differs by rounding alone; null where that is not measured.
    #[serde(deserialize_with = "nans_from_nulls")]
    pub floor_kl_mean_nats: Vec<f64>,
}

/// A position where the sides differ much, in its context.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct TokenDrift {
    /// Which of the scored positions, from 0 on.
    pub position: usize,
    /// KL(A‖B) of the next token's distribution.
    #[serde(deserialize_with = "nan_from_null")]
    pub kl_nats: f64,
    /// The text up to here, its end at least; null without a tokenizer.
    pub context: Option<String>,
    /// The token that follows in the text, if one does.
    pub next: Option<Token>,
    /// Its probability under a and b.
    #[serde(default, deserialize_with = "some_pair_from_nulls")]
    pub next_probability: Option<[f64; 2]>,
    /// The likeliest token under a and b.
    pub likeliest: [Token; 2],
    /// How far its logit is above the second largest, under a and b.
    #[serde(deserialize_with = "pair_from_nulls")]
    pub margins: [f64; 2],
}

/// A token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Its text; null without a tokenizer, and of special tokens.
    pub text: Option<String>,
}

pub(super) fn pair_from_nulls<'de, D: serde::Deserializer<'de>>(
    list: D,
) -> Result<[f64; 2], D::Error> {
    Ok(<[Option<f64>; 2]>::deserialize(list)?.map(|x| x.unwrap_or(f64::NAN)))
}

/// A pair that may not be there; its numbers may be null, too.
pub(super) fn some_pair_from_nulls<'de, D: serde::Deserializer<'de>>(
    list: D,
) -> Result<Option<[f64; 2]>, D::Error> {
    let pair = Option::<[Option<f64>; 2]>::deserialize(list)?;
    Ok(pair.map(|pair| pair.map(|x| x.unwrap_or(f64::NAN))))
}

/// The tokens of a window, or of a run, that are shown.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub(crate) struct Notable {
    /// Those of the largest KL, the largest first.
    pub(crate) worst: Vec<TokenDrift>,
    /// Those where the likeliest token changes, the most decided of a first.
    pub(crate) flips: Vec<TokenDrift>,
}

/// Groups of [`Positions`].
const GROUPS: usize = 2048;
/// Changes of the likeliest token.
const FLIPS: usize = 32;
/// Tokens of context.
const CONTEXT: usize = 24;

impl Notable {
    /// Tokens of the largest KL.
    pub(crate) const WORST: usize = 16;

    /// Those of a pair of sides at some positions of a text, each with the token that follows it. `word` says which
    /// token a place among the logits is of.
    pub(crate) fn of(
        checkpoint: &Checkpoint,
        ids: &[u32],
        positions: &[usize],
        labels: &[Option<u32>],
        sums: &LogitSums,
        word: impl Fn(u32) -> u32,
    ) -> Self {
        // Likelihoods are kept of positions with a label alone.
        let mut known = 0;
        let likelihoods = labels.iter().map(|label| {
            label.map(|_| {
                known += 1;
                [sums.nll_a[known - 1], sums.nll_b[known - 1]].map(|nll| (-nll).exp())
            })
        });
        let likelihoods: Vec<_> = likelihoods.collect();
        // Of special tokens nothing is left.
        let text = |id| checkpoint.decode(&[id]).ok().filter(|text| !text.is_empty());
        let token = |at| Token { id: word(at), text: text(word(at)) };
        let describe = |&position: &usize| {
            let read = positions[position] + 1;
            let context = &ids[read.saturating_sub(CONTEXT)..read];
            TokenDrift {
                position,
                kl_nats: sums.kl_nats[position],
                context: checkpoint.decode(context).ok(),
                next: labels[position].map(token),
                next_probability: likelihoods[position],
                likeliest: sums.tops[position].map(token),
                margins: sums.margins[position],
            }
        };
        // Where logits are not finite there is no likeliest token, and no distance to be large.
        let all = (0..sums.kl_nats.len()).filter(|&i| sums.top1[i].is_some());
        let mut worst: Vec<usize> = all.clone().filter(|&i| sums.kl_nats[i] != 0.0).collect();
        worst.sort_by(|&i, &j| sums.kl_nats[j].total_cmp(&sums.kl_nats[i]));
        let mut flips: Vec<usize> = all.filter(|&i| sums.top1[i] == Some(false)).collect();
        flips.sort_by(|&i, &j| sums.margins[j][0].total_cmp(&sums.margins[i][0]));
        let take = |list: &[usize], count| list.iter().take(count).map(describe).collect();
        Self { worst: take(&worst, Self::WORST), flips: take(&flips, FLIPS) }
    }

    /// Adds those of the next window, whose positions begin at `from`.
    pub(super) fn merge(&mut self, other: &Self, from: usize) {
        merge_largest(&mut self.worst, &other.worst, Self::WORST, |token| token.kl_nats, from);
        merge_largest(&mut self.flips, &other.flips, FLIPS, |token| token.margins[0], from);
    }

    /// The positions that are shown, whatever for.
    pub(super) fn positions(&self) -> impl Iterator<Item = usize> {
        self.worst.iter().chain(&self.flips).map(|token| token.position)
    }
}

/// Adds a window's tokens to a list that has the largest ones first, and `most` of them at most. Of
/// equals the earlier come first. What does not belong there is not even copied: of the tokens of a
/// million windows few do.
fn merge_largest(
    list: &mut Vec<TokenDrift>,
    others: &[TokenDrift],
    most: usize,
    size: fn(&TokenDrift) -> f64,
    from: usize,
) {
    for token in others {
        let at = list.partition_point(|before| size(before).total_cmp(&size(token)).is_ge());
        if at < most {
            list.insert(at, TokenDrift { position: token.position + from, ..token.clone() });
            list.truncate(most);
        }
    }
}

impl Positions {
    /// Of all windows' sums, in their order.
    pub(super) fn of<'a>(windows: impl Iterator<Item = &'a [LogitSums; 3]>) -> Self {
        let (mut kl, mut floor_kl) = (vec![], vec![]);
        for [pair, floor, _] in windows {
            kl.extend(&pair.kl_nats);
            // The floor's positions are the window's first ones.
            floor_kl.extend(floor.kl_nats.iter().map(|&kl| Some(kl)));
            floor_kl.resize(kl.len(), None);
        }
        let group = kl.len().div_ceil(GROUPS).max(1);
        let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
        let measured = |of: &[Option<f64>]| mean(&of.iter().flatten().copied().collect::<Vec<_>>());
        Self {
            group,
            kl_mean_nats: kl.chunks(group).map(mean).collect(),
            kl_max_nats: kl
                .chunks(group)
                .map(|of| of.iter().copied().max_by(f64::total_cmp).unwrap_or(f64::NAN))
                .collect(),
            floor_kl_mean_nats: floor_kl.chunks(group).map(measured).collect(),
        }
    }
}
