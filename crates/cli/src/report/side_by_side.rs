//! Several runs in one table.

use super::align::align;
use super::drift::pair;
use super::escape::plain;
use super::figures::value;
use super::number::{grouped, short};
use super::run::Run;
use super::verdict::{NAT, NOISE_FLOOR, Words, size_words};
use gemma_mlp_drift::drift::{Drift, FigureKind, LayerDrift, LogitMetrics};

/// The table that `gemma-mlp report` prints of several runs: a row for each figure, a column for
/// each run.
pub fn side_by_side_table(runs: &[Run]) -> String {
    let names = runs.iter().map(|run| run.name.to_string());
    let header: Vec<String> = std::iter::once(String::new()).chain(names).collect();
    let rows = std::iter::once(header).chain(rows(runs));
    let rows = rows.map(|row| row.iter().map(|cell| plain(cell)).collect::<Vec<_>>());
    let mut text = align(rows, usize::MAX);
    for run in runs {
        text += &format!("\n{}: {}", plain(run.name), Words::new(run.drift, short).text());
    }
    text + &format!("\n\nThe noise floor is {NOISE_FLOOR}; {NAT}.\n")
}

/// The rows: the name of a figure, then that of each run.
pub(super) fn rows(runs: &[Run]) -> Vec<Vec<String>> {
    const FLOOR: &str = "  noise floor";
    let mut rows = vec![];
    let mut add = |name: &str, of: &dyn Fn(&Drift) -> String| {
        let cells = runs.iter().map(|run| of(run.drift));
        rows.push(std::iter::once(name.to_string()).chain(cells).collect());
    };
    add("weights", &|d| d.header.checkpoint.source.clone());
    add("sides", &|d| pair(&d.header.sides));
    add("noise floor", &|d| pair(&d.header.floor_sides));
    add("machine", &|d| format!("{}; {}", d.origin.machine, d.header.device));
    add("tokens", &|d| grouped(d.tokens as u64));
    for figure in LogitMetrics::FIGURES {
        let Some(name) = figure.brief else { continue };
        let of = |logits: &Option<LogitMetrics>| {
            logits.as_ref().map_or_else(|| "none".into(), |logits| value(figure, logits))
        };
        add(name, &|d| of(&d.logits));
        // A perplexity is of one side, and the floor's sides are others.
        if figure.kind != FigureKind::Perplexity {
            add(FLOOR, &|d| of(&d.floor.logits));
        }
    }
    let farthest = |drift: &Drift, of: fn(&LayerDrift) -> f64| {
        short(drift.layers.iter().map(of).fold(0.0, f64::max))
    };
    add("largest block drift, rel L2", &|d| farthest(d, |l| l.drift.output.rel_l2));
    add(FLOOR, &|d| farthest(d, |l| l.floor.output.rel_l2));
    add("verdict", &|d| size_words(d.verdict.size).into());
    rows
}
