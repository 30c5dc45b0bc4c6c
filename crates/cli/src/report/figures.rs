//! The figures of the logits, written as their kinds say.

use super::number::{NOT_MEASURED, grouped, measured, percent, short};
use gemma_mlp_drift::drift::{Drift, EmbeddingMetrics, FigureKind, LogitFigure, LogitMetrics};

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

/// The figures of an encoder: name, what it is, and value, that of the floor, and their ratio.
pub(super) fn of_embedding(drift: &Drift) -> Vec<(&'static str, [String; 4])> {
    type Figure = (&'static str, &'static str, bool, fn(&EmbeddingMetrics) -> f64);
    const FIGURES: [Figure; 5] = [
        (
            "hidden states, rel L2",
            "‖b − a‖/‖a‖ of the normed hidden states.",
            true,
            |m| m.hidden.rel_l2,
        ),
        (
            "distance, mean",
            "‖b − a‖ of a window's embeddings, each of unit length.",
            true,
            |m| m.distance_mean,
        ),
        ("distance, largest", "Of the window that moves farthest.", true, |m| m.distance_max),
        ("cosine, mean", "Between both sides' embeddings of a window.", false, |m| m.cosine_mean),
        ("cosine, smallest", "Of the window that turns farthest.", false, |m| m.cosine_min),
    ];
    let (Some(own), Some(floor)) = (&drift.embedding, &drift.floor.embedding) else {
        return vec![];
    };
    let row = |(label, description, is_distance, of): Figure| {
        let ratio = match is_distance {
            true => measured(of(own) / of(floor), short),
            false => String::new(),
        };
        let value = |metrics| match is_distance {
            true => measured(of(metrics), short),
            false => measured(of(metrics), |cosine| format!("{cosine:.8}")),
        };
        (description, [label.into(), value(own), value(floor), ratio])
    };
    FIGURES.into_iter().map(row).collect()
}

/// Those of a drift.
pub(super) fn of_drift(drift: &Drift) -> Vec<(&'static LogitFigure, [String; 4])> {
    match (&drift.logits, &drift.floor.logits) {
        (Some(own), Some(floor)) => rows(own, Some(floor)),
        _ => vec![],
    }
}
