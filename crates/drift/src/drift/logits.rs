//! Drift of the logits: KL divergence, perplexity and agreement, in the terms of llama.cpp's
//! `--kl-divergence`.

use super::metrics::{Accumulator, nan_from_null};
use serde::{Deserialize, Serialize};

/// A figure of [`LogitMetrics`], and how reports show it.
#[derive(Debug, Clone, Copy)]
pub struct LogitFigure {
    /// As the field, JSON and CSV name it.
    pub name: &'static str,
    /// What it says, in a sentence.
    pub description: &'static str,
    /// How it is written.
    pub kind: FigureKind,
    /// Its name in a table of the logits.
    pub label: &'static str,
    /// Its name where a few figures stand for all, if it is one of them.
    pub brief: Option<&'static str>,
    /// Reads it.
    pub value: Read,
    /// The field of its standard error, if it has one.
    pub error: Option<(&'static str, Read)>,
}

type Read = fn(&LogitMetrics) -> f64;

/// How a figure is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FigureKind {
    /// A number from 0 on, of which the ratio to the floor's tells.
    Distance,
    /// A fraction, in percent.
    Fraction,
    /// A perplexity of one side, with its error.
    Perplexity,
    /// A number of either sign, with its error.
    Change,
    /// How many there are, which is shown where there are any.
    Count,
}

/// Defines [`LogitMetrics`] and [`LogitMetrics::FIGURES`]: a line is a field, `+-` that of its standard
/// error, the kind, the label, and the brief one.
macro_rules! figures {
    ($(
        #[doc = $description:literal]
        $name:ident $(+- $error:ident)?: $kind:ident, $label:literal $(, $brief:literal)?;
    )+) => {
        /// How far two sides' next-token distributions are apart, over all scored positions.
        #[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
        #[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
        #[non_exhaustive]
        pub struct LogitMetrics {
            $(
                #[doc = $description]
                #[serde(deserialize_with = "nan_from_null")]
                pub $name: f64,
                $(
                    #[doc = concat!("The standard error of `", stringify!($name), "`.")]
                    #[serde(deserialize_with = "nan_from_null")]
                    pub $error: f64,
                )?
            )+
        }

        impl LogitMetrics {
            /// Every figure, in the order of reports.
            pub const FIGURES: &[LogitFigure] = &[$(LogitFigure {
                name: stringify!($name),
                description: $description.trim_ascii_start(),
                kind: FigureKind::$kind,
                label: $label,
                brief: figures!(@option $($brief)?),
                value: |m| m.$name,
                error: figures!(@option $((stringify!($error), |m| m.$error))?),
            }),+];
        }
    };
    (@option) => { None };
    (@option $some:expr) => { Some($some) };
}

figures! {
    /// The largest difference of a logit.
    max_abs: Distance, "max abs";
    /// ‖b − a‖/‖a‖ over all logits.
    rel_l2: Distance, "relative L2", "logits, rel L2";
    /// KL(A‖B) of a position in nats, on average; its error takes positions as independent.
    kl_mean_nats +- kl_mean_se_nats: Distance, "KL mean, nats", "KL mean, nats";
    /// KL of the middle position.
    kl_median_nats: Distance, "KL median";
    /// KL below which 90 % of the positions are.
    kl_p90_nats: Distance, "KL 90 %";
    /// KL below which 99 % of the positions are.
    kl_p99_nats: Distance, "KL 99 %", "KL 99 %";
    /// KL below which 99.9 % of the positions are.
    kl_p999_nats: Distance, "KL 99.9 %";
    /// KL of the worst position.
    kl_max_nats: Distance, "KL maximum", "KL maximum";
    /// Root mean square of the change in the right token's probability (a fraction, not percent).
    rms_dp: Distance, "RMS Δp of the next token";
    /// The fraction of positions whose likeliest token is the same, of those where both sides have one.
    top1_agreement: Fraction, "same top token", "same top token";
    /// How many of the five likeliest tokens the sides have in common, as a fraction, where they have any.
    top5_agreement: Fraction, "shared among the top 5";
    /// Perplexity of a: exp of the mean negative log-likelihood of the right token.
    ppl_a +- ppl_a_se: Perplexity, "perplexity of a", "perplexity of a";
    /// Perplexity of b.
    ppl_b +- ppl_b_se: Perplexity, "perplexity of b", "perplexity of b";
    /// ln(ppl_b/ppl_a); its error is from the differences position by position.
    ln_ppl_ratio +- ln_ppl_ratio_se: Change, "ln(ppl b / ppl a)";
    /// Positions where a side's logits are not finite: they have no likeliest token, and leave no mean.
    nonfinite_positions: Count, "positions not finite";
}

/// Every scored position of a pair of sides, in order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub(crate) struct LogitSums {
    pub(crate) logits: Accumulator,
    #[serde(deserialize_with = "nans_from_nulls")]
    pub(crate) kl_nats: Vec<f64>,
    /// How many of the five likeliest tokens are common, and whether the likeliest is.
    pub(crate) top5: Vec<u8>,
    /// None where a side's logits are not finite, and it has no likeliest token.
    pub(crate) top1: Vec<Option<bool>>,
    /// Negative log-likelihood of the right token under a and b, where it is known.
    #[serde(deserialize_with = "nans_from_nulls")]
    pub(crate) nll_a: Vec<f64>,
    #[serde(deserialize_with = "nans_from_nulls")]
    pub(crate) nll_b: Vec<f64>,
    /// The likeliest token under a and b, and how far its logit is above the second largest: until
    /// the window's notable positions are found.
    #[serde(skip)]
    pub(crate) tops: Vec<[u32; 2]>,
    #[serde(skip)]
    pub(crate) margins: Vec<[f64; 2]>,
}

pub(super) fn nans_from_nulls<'de, D: serde::Deserializer<'de>>(
    list: D,
) -> Result<Vec<f64>, D::Error> {
    #[derive(Deserialize)]
    struct Number(#[serde(deserialize_with = "nan_from_null")] f64);
    Ok(Vec::deserialize(list)?.into_iter().map(|Number(x)| x).collect())
}

impl LogitSums {
    /// Adds the sums of another window, which follows.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.logits.merge(&other.logits);
        self.kl_nats.extend(&other.kl_nats);
        self.top5.extend(&other.top5);
        self.top1.extend(&other.top1);
        self.nll_a.extend(&other.nll_a);
        self.nll_b.extend(&other.nll_b);
        self.tops.extend(&other.tops);
        self.margins.extend(&other.margins);
    }

    /// Drops which tokens were the likeliest, once the notable ones are found.
    pub(crate) fn forget_tokens(&mut self) {
        (self.tops, self.margins) = (vec![], vec![]);
    }

    pub(crate) fn metrics(&self) -> LogitMetrics {
        let logits = self.logits.metrics();
        let mut kl = self.kl_nats.clone();
        kl.sort_by(f64::total_cmp);
        let (kl_mean_nats, kl_mean_se_nats) = mean_and_error(&self.kl_nats);
        let pairs = || self.nll_a.iter().zip(&self.nll_b);
        let differences: Vec<f64> = pairs().map(|(a, b)| b - a).collect();
        let (ln_ppl_ratio, ln_ppl_ratio_se) = mean_and_error(&differences);
        let dp: Vec<f64> = pairs().map(|(a, b)| ((-b).exp() - (-a).exp()).powi(2)).collect();
        let (ppl_a, ppl_a_se) = perplexity(&self.nll_a);
        let (ppl_b, ppl_b_se) = perplexity(&self.nll_b);
        let ranked = self.top1.iter().flatten().count() as f64;
        let ranked_top5 = self.top5.iter().zip(&self.top1).filter(|(_, top1)| top1.is_some());
        let shared: f64 = ranked_top5.map(|(&n, _)| f64::from(n)).sum();
        LogitMetrics {
            max_abs: logits.max_abs,
            rel_l2: logits.rel_l2,
            kl_mean_nats,
            kl_mean_se_nats,
            kl_median_nats: quantile(&kl, 0.5),
            kl_p90_nats: quantile(&kl, 0.9),
            kl_p99_nats: quantile(&kl, 0.99),
            kl_p999_nats: quantile(&kl, 0.999),
            kl_max_nats: quantile(&kl, 1.0),
            rms_dp: mean_and_error(&dp).0.sqrt(),
            top1_agreement: self.top1.iter().flatten().filter(|&&same| same).count() as f64
                / ranked,
            top5_agreement: shared / 5.0 / ranked,
            ppl_a,
            ppl_a_se,
            ppl_b,
            ppl_b_se,
            ln_ppl_ratio,
            ln_ppl_ratio_se,
            nonfinite_positions: self.top1.iter().filter(|top1| top1.is_none()).count() as f64,
        }
    }

    /// At how many positions the likeliest token changes.
    pub(crate) fn flips(&self) -> usize {
        self.top1.iter().filter(|&&same| same == Some(false)).count()
    }
}

/// The mean and its standard error; NaN of nothing.
fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let square = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
    (mean, (square / (n - 1.0) / n).sqrt())
}

/// exp of the mean, with the standard error to first order.
fn perplexity(nll: &[f64]) -> (f64, f64) {
    let (mean, error) = mean_and_error(nll);
    (mean.exp(), mean.exp() * error)
}

/// The quantile of sorted values, interpolated linearly between neighbours as NumPy does.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = q * last as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    if low == high { low } else { low + (high - low) * at.fract() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.5), 2.0);
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.75), 3.0);
        assert_eq!(quantile(&[7.0], 0.999), 7.0);
        assert!(quantile(&[], 0.5).is_nan());
        assert_eq!(mean_and_error(&[1.0, 3.0]), (2.0, 1.0));
        let sums = LogitSums {
            kl_nats: vec![0.0, 0.5],
            top1: vec![Some(true), Some(false)],
            top5: vec![5, 3],
            nll_a: vec![2f64.ln()],
            nll_b: vec![4f64.ln()],
            ..LogitSums::default()
        };
        let m = sums.metrics();
        assert_eq!((m.kl_mean_nats, m.kl_median_nats, m.kl_max_nats), (0.25, 0.25, 0.5));
        assert_eq!((m.top1_agreement, m.top5_agreement), (0.5, 0.8));
        assert_eq!((m.nonfinite_positions, sums.flips()), (0.0, 1));
        assert!((m.ppl_a - 2.0).abs() < 1e-15 && (m.ppl_b - 4.0).abs() < 1e-15);
        assert!((m.rms_dp - 0.25).abs() < 1e-15 && (m.ln_ppl_ratio - 2f64.ln()).abs() < 1e-15);
    }

    /// What is not finite is no agreement, and is counted.
    #[test]
    fn positions_without_a_likeliest_token() {
        let sums = |top1: &[Option<bool>]| LogitSums {
            kl_nats: vec![f64::NAN; top1.len()],
            top5: vec![5; top1.len()],
            top1: top1.to_vec(),
            ..LogitSums::default()
        };
        let some = sums(&[None, Some(true), Some(false), None]).metrics();
        assert_eq!((some.top1_agreement, some.top5_agreement), (0.5, 1.0));
        assert_eq!(some.nonfinite_positions, 2.0);
        let none = sums(&[None; 3]).metrics();
        assert!(none.top1_agreement.is_nan() && none.top5_agreement.is_nan());
        assert_eq!(none.nonfinite_positions, 3.0);
    }
}
