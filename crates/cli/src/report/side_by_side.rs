//! Several runs in one table.

use super::charts::Run;
use super::drift::pair;
use super::number::{grouped, precise, short};
use super::verdict::{NAT, NOISE_FLOOR, Words, size_words};
use gemma_mlp_drift::drift::{Drift, LogitMetrics};

/// The table that `gemma-mlp report` prints of several runs: a row for each figure, a column for
/// each run.
pub fn side_by_side_table(runs: &[Run]) -> String {
    let header = std::iter::once(String::new()).chain(runs.iter().map(|run| run.name.to_string()));
    let all: Vec<Vec<String>> = std::iter::once(header.collect()).chain(rows(runs)).collect();
    let columns = runs.len() + 1;
    let width =
        |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &all {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    for run in runs {
        text += &format!("\n{}: {}", run.name, Words::new(run.drift, short).text());
    }
    text + &format!("\n\nThe noise floor is {NOISE_FLOOR}; {NAT}.\n")
}

/// What a row shows of a run.
type Figure = (&'static str, fn(&Drift) -> String);

/// The rows: the name of a figure, then that of each run.
pub(super) fn rows(runs: &[Run]) -> Vec<Vec<String>> {
    fn of(logits: &Option<LogitMetrics>, figure: fn(&LogitMetrics) -> f64) -> String {
        logits.as_ref().map_or_else(|| "none".into(), |logits| short(figure(logits)))
    }
    fn exactly(logits: &Option<LogitMetrics>, figure: fn(&LogitMetrics) -> f64) -> String {
        logits.as_ref().map_or_else(|| "none".into(), |logits| precise(figure(logits)))
    }
    fn farthest(drift: &Drift, figure: fn(&gemma_mlp_drift::drift::LayerDrift) -> f64) -> String {
        short(drift.layers.iter().map(figure).fold(0.0, f64::max))
    }
    let figures: [Figure; 20] = [
        ("weights", |d| d.header.checkpoint.source.clone()),
        ("sides", |d| pair(&d.header.sides)),
        ("noise floor", |d| pair(&d.header.floor_sides)),
        ("machine", |d| format!("{}; {}", d.origin.machine, d.header.device)),
        ("tokens", |d| grouped(d.tokens as u64)),
        ("KL mean, nats", |d| of(&d.logits, |m| m.kl_mean_nats)),
        ("  of the floor", |d| of(&d.floor.logits, |m| m.kl_mean_nats)),
        ("KL 99 %", |d| of(&d.logits, |m| m.kl_p99_nats)),
        ("  of the floor", |d| of(&d.floor.logits, |m| m.kl_p99_nats)),
        ("KL maximum", |d| of(&d.logits, |m| m.kl_max_nats)),
        ("  of the floor", |d| of(&d.floor.logits, |m| m.kl_max_nats)),
        ("logits, rel L2", |d| of(&d.logits, |m| m.rel_l2)),
        ("  of the floor", |d| of(&d.floor.logits, |m| m.rel_l2)),
        ("same top token, %", |d| of(&d.logits, |m| 100.0 * m.top1_agreement)),
        ("  of the floor", |d| of(&d.floor.logits, |m| 100.0 * m.top1_agreement)),
        ("perplexity of a", |d| exactly(&d.logits, |m| m.ppl_a)),
        ("perplexity of b", |d| exactly(&d.logits, |m| m.ppl_b)),
        ("farthest block, rel L2", |d| farthest(d, |l| l.drift.output.rel_l2)),
        ("  of the floor", |d| farthest(d, |l| l.floor.output.rel_l2)),
        ("verdict", |d| size_words(d.verdict.size).to_string()),
    ];
    let row = |(name, figure): Figure| {
        std::iter::once(name.to_string()).chain(runs.iter().map(|run| figure(run.drift))).collect()
    };
    figures.map(row).to_vec()
}
