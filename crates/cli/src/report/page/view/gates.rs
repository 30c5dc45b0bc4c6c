//! The gates of all layers over the difference of the two activations.

use super::{Content, Section, single};
use crate::report::chart::{Axis, Chart, Colour, Mark, Series};
use crate::report::number::{grouped, precise};
use crate::report::page::plot::{Plot, strings};
use crate::report::run::Run;
use gemma_mlp_drift::drift::{Drift, Sides};

pub(super) fn section(runs: &[Run]) -> Option<Section> {
    let drift = single(runs)?;
    let sides = &drift.header.sides;
    let (heading, how_to_read) = if sides.a.activation == sides.b.activation {
        (
            "Where the gates lie",
            "The activation function is applied to the gates, and is the same on both sides.",
        )
    } else {
        (
            "Why this model drifts as it does",
            "The activation function is applied to the gates. Bars show where the gates lie, the line how far the two functions differ there: the more gates lie under the line's humps, the more the model drifts.",
        )
    };
    Some(Section {
        id: "gates",
        name: "Gates",
        heading: heading.into(),
        how_to_read: how_to_read.into(),
        content: Content::Plot(plot(drift)?.into()),
    })
}

fn plot(drift: &Drift) -> Option<Plot> {
    let first = &drift.layers.first()?.gates;
    let (low, step) = (first.low, first.step);
    let mut counts = vec![0u64; first.counts.len()];
    let mut total = 0u64;
    for layer in &drift.layers {
        for (n, &more) in counts.iter_mut().zip(&layer.gates.counts) {
            *n = n.saturating_add(more);
        }
        total = total.saturating_add(layer.gates.total());
    }
    if total == 0 {
        return None;
    }
    let centre = |i: usize| low + step * (i as f64 + 0.5);
    let end = end_of_most(&counts, total, centre);
    let shown: Vec<usize> = (0..counts.len()).filter(|&i| centre(i).abs() < end).collect();
    let share = |i: usize| 100.0 * counts[i] as f64 / total as f64;
    let Sides { a, b } = drift.header.sides;
    let difference = |x: &[f64]| -> Vec<f64> {
        let (mut of_a, mut of_b) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        a.activation.values(x, &mut of_a);
        b.activation.values(x, &mut of_b);
        of_a.iter().zip(of_b).map(|(a, b)| (b - a).abs()).collect()
    };
    let bars: Vec<_> = shown.iter().map(|&i| (centre(i), share(i))).collect();
    // The stops are the first series', the bars'.
    let mut series = vec![Series {
        name: "share of all gates".into(),
        mark: Mark::Bars(step),
        colour: Colour::Blue,
        on_right: false,
        points: bars,
    }];
    let mut rows: Vec<_> = shown
        .iter()
        .map(|&i| {
            let left = low + step * i as f64;
            vec![format!("{left} to {}", left + step), grouped(counts[i]), precise(share(i))]
        })
        .collect();
    let mut columns = strings(["gate(x)", "gates", "share, %"]);
    let mut title = "Where the gates lie".to_string();
    let mut description = format!("A histogram of {} gate values.", grouped(total));
    let mut right = None;
    if a.activation != b.activation {
        let name = format!("|{} − {}|", b.activation, a.activation);
        title += ", and where the two functions differ";
        description += &format!(" Over it {name}.");
        let centres: Vec<f64> = shown.iter().map(|&i| centre(i)).collect();
        rows.iter_mut().zip(difference(&centres)).for_each(|(row, y)| row.push(precise(y)));
        let x: Vec<f64> = (0..=600).map(|i| end * (f64::from(i) / 300.0 - 1.0)).collect();
        let y = difference(&x);
        right = Some(Axis::linear_around(&name, y.iter().copied(), true));
        let line = Series::line(&name, Colour::Orange, x.into_iter().zip(y).collect());
        series.push(Series { on_right: true, ..line });
        columns.push(name);
    }
    let shares: Vec<f64> = shown.iter().map(|&i| share(i)).collect();
    Some(Plot {
        chart: Chart {
            id: "gates".into(),
            title,
            description,
            x: Axis::linear("gate(x), the input of the activation function", (-end, end)),
            y: Axis::linear_around("% of gates", shares.into_iter(), true),
            right,
            series,
        },
        columns,
        rows,
    })
}

/// The least whole number that 99.9 % of the gates are within, from 4 to 8.
fn end_of_most(counts: &[u64], total: u64, centre: impl Fn(usize) -> f64) -> f64 {
    let within = |end: f64| -> f64 {
        (0..counts.len()).filter(|&i| centre(i).abs() < end).map(|i| counts[i] as f64).sum()
    };
    let most = 0.999 * total as f64;
    [4.0, 5.0, 6.0, 7.0].into_iter().find(|&end| within(end) >= most).unwrap_or(8.0)
}
