//! The figures of the logits, written as their kinds say.

use super::number::short;
use gemma_mlp_drift::drift::{Drift, FigureKind, LogitFigure, LogitMetrics};

/// A figure's value, with its error where that is half of it.
pub(super) fn value(figure: &LogitFigure, logits: &LogitMetrics) -> String {
    let value = (figure.value)(logits);
    let error = figure.error.map_or(f64::NAN, |(_, of)| of(logits));
    match figure.kind {
        FigureKind::Distance => short(value),
        FigureKind::Fraction => format!("{:.2} %", 100.0 * value),
        FigureKind::Perplexity => format!("{value:.4} ± {error:.4}"),
        FigureKind::Change => format!("{value:.2e} ± {error:.1e}"),
    }
}

/// Every figure of a drift's logits: name, drift, floor, and their ratio where that tells something.
pub(super) fn rows(drift: &Drift) -> Vec<(&'static LogitFigure, [String; 4])> {
    let (Some(own), Some(floor)) = (&drift.logits, &drift.floor.logits) else { return vec![] };
    let row = |figure: &'static LogitFigure| {
        let ratio = match figure.kind {
            FigureKind::Distance => short((figure.value)(own) / (figure.value)(floor)),
            _ => String::new(),
        };
        (figure, [figure.label.into(), value(figure, own), value(figure, floor), ratio])
    };
    LogitMetrics::FIGURES.iter().map(row).collect()
}
