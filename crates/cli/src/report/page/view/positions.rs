//! KL divergence along the text.

use super::{Content, Section, single};
use crate::report::chart::{Axis, Chart, Colour, Mark, Series};
use crate::report::number::{grouped, precise};
use crate::report::page::plot::{Plot, strings};
use crate::report::run::Run;
use gemma_mlp_drift::drift::Drift;

pub(super) fn section(runs: &[Run]) -> Option<Section> {
    let plot = plot(single(runs)?)?;
    Some(Section {
        id: "positions",
        name: "Positions",
        heading: plot.chart.title.clone(),
        how_to_read: "Each dot compares the sides' predictions after reading the text up to there. The noise floor is measured on the first tokens of each window.".into(),
        content: Content::Plot(plot.into()),
    })
}

fn plot(drift: &Drift) -> Option<Plot> {
    let positions = drift.positions.as_ref()?;
    let group = positions.group.max(1);
    let x = |i: usize| i as f64 * group as f64 + 0.5 * (group as f64 - 1.0);
    let points =
        |y: &[f64]| -> Vec<(f64, f64)> { y.iter().enumerate().map(|(i, &y)| (x(i), y)).collect() };
    let (own, floor) = (points(&positions.kl_mean_nats), points(&positions.floor_kl_mean_nats));
    let values: Vec<f64> = own.iter().chain(&floor).map(|p| p.1).collect();
    if !values.iter().any(|y| y.is_finite() && *y > 0.0) {
        return None;
    }
    let row = |i: usize| {
        let start = i.saturating_mul(group);
        let end = start.saturating_add(group).min(drift.tokens).saturating_sub(1);
        let at = |list: &[f64]| precise(list.get(i).copied().unwrap_or(f64::NAN));
        let [kl, floor] = [&positions.kl_mean_nats, &positions.floor_kl_mean_nats].map(|kl| at(kl));
        if group == 1 {
            return vec![start.to_string(), kl, floor];
        }
        vec![format!("{start} to {end}"), kl, at(&positions.kl_max_nats), floor]
    };
    let mut columns = strings(["position", "KL, nats", "noise floor"]);
    let mut title = "KL divergence, position by position".to_string();
    if group > 1 {
        columns = strings(["positions", "mean KL, nats", "largest", "noise floor, mean"]);
        title = format!("KL divergence along the text, {group} positions a dot");
    }
    let dots = |name: &str, colour, points| Series {
        name: name.into(),
        mark: Mark::Dots,
        colour,
        on_right: false,
        points,
    };
    let last = x(own.len().saturating_sub(1)).max(1.0);
    Some(Plot {
        rows: (0..own.len()).map(row).collect(),
        chart: Chart {
            id: "positions".into(),
            title,
            description: format!("{} positions.", grouped(drift.tokens as u64)),
            x: Axis::whole("position in the text", (-0.01 * last, 1.01 * last)),
            y: Axis::log_around("KL divergence, nats", values.into_iter()),
            right: None,
            series: vec![
                dots("drift", Colour::Blue, own),
                dots("noise floor", Colour::Grey, floor),
            ],
        },
        columns,
    })
}
