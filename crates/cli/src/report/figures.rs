//! The figures of the logits, written as their kinds say.

use super::number::{NOT_MEASURED, grouped, measured, percent, short};
use gemma_mlp_drift::drift::{Drift, FigureKind, LogitFigure, LogitMetrics};

/// A figure's value, with its error where that is half of it.
pub(super) fn value(figure: &LogitFigure, logits: &LogitMetrics) -> String {
    let value = (figure.value)(logits);
    let error = figure.error.map_or(f64::NAN, |(_, of)| of(logits));
    // One position has a value, but no error.
    let with_error = |value: String, error: String| match figure.error {
        Some((_, of)) if !of(logits).is_nan() => format!("{value} ± {error}"),
        _ => value,
    };
    measured(value, |value| match figure.kind {
        FigureKind::Distance => short(value),
        FigureKind::Fraction => percent(value),
        FigureKind::Perplexity => with_error(format!("{value:.4}"), format!("{error:.4}")),
        FigureKind::Change => with_error(format!("{value:.2e}"), format!("{error:.1e}")),
        FigureKind::Count => grouped(value as u64),
    })
}

/// Every figure of logits: name, value, that of the floor, and their ratio where that tells something.
pub(super) fn rows(
    own: &LogitMetrics,
    floor: Option<&LogitMetrics>,
) -> Vec<(&'static LogitFigure, [String; 4])> {
    let row = |figure: &'static LogitFigure| {
        let ratio = match (figure.kind, floor) {
            (FigureKind::Distance, Some(floor)) => {
                measured((figure.value)(own) / (figure.value)(floor), short)
            }
            _ => String::new(),
        };
        let floor = floor.map_or_else(|| NOT_MEASURED.into(), |floor| value(figure, floor));
        (figure, [figure.label.into(), value(figure, own), floor, ratio])
    };
    // Nobody looks for what is not there.
    let counts = |figure: &&LogitFigure| {
        let mut all = std::iter::once(own).chain(floor);
        figure.kind != FigureKind::Count || all.any(|m| (figure.value)(m) != 0.0)
    };
    LogitMetrics::FIGURES.iter().filter(counts).map(row).collect()
}

/// Those of a drift.
pub(super) fn of_drift(drift: &Drift) -> Vec<(&'static LogitFigure, [String; 4])> {
    match (&drift.logits, &drift.floor.logits) {
        (Some(own), Some(floor)) => rows(own, Some(floor)),
        _ => vec![],
    }
}
