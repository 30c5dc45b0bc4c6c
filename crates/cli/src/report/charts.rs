//! The charts of drift runs, each with the table of what it shows.

use super::chart::{Axis, Chart, Colour, Mark, Series};
use super::number::{grouped, precise, short};
use gemma_mlp_drift::drift::{BlockGradients, Drift, LogitMetrics, Sides, Token, TokenDrift};

/// A run under the name that tells it from others.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// Its name, such as that of its file.
    pub name: &'a str,
    /// What was measured.
    pub drift: &'a Drift,
}

/// A chart, and the numbers in it: a row for each place that the reader can stop at.
#[derive(Debug, Clone)]
pub struct Plot {
    /// What is seen.
    pub chart: Chart,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<String>>,
}

/// All charts that runs have data for. Those of several runs have what can be compared.
pub fn drift_plots(runs: &[Run]) -> Vec<Plot> {
    let mut plots = vec![];
    plots.extend(divergence(runs));
    plots.extend([layers(runs), residual(runs)].into_iter().flatten());
    if let [Run { drift, .. }] = runs {
        plots.extend([gates(drift), positions(drift), flips(drift)].into_iter().flatten());
        plots.extend([gradients(drift), ranking(drift)].into_iter().flatten());
    }
    plots
}

fn strings<const N: usize>(names: [&str; N]) -> Vec<String> {
    names.map(String::from).to_vec()
}

/// What a series of a run is called.
fn named(runs: &[Run], run: &Run, what: &str) -> String {
    if runs.len() == 1 { what.to_string() } else { format!("{}: {what}", end_of(run.name)) }
}

/// A name, or the end of a long one: charts have little room.
fn end_of(name: &str) -> String {
    const LONGEST: usize = 40;
    match name.char_indices().rev().nth(LONGEST) {
        Some((start, c)) => format!("…{}", &name[start + c.len_utf8()..]),
        None => name.to_string(),
    }
}

/// The colours of a run and of its floor.
fn colours(runs: &[Run], index: usize) -> [Colour; 2] {
    let own = Colour::ALL[index % 7];
    [own, if runs.len() == 1 { Colour::Grey } else { own }]
}

/// A figure of KL divergence: its name, and how it is taken.
type Figure = (&'static str, fn(&LogitMetrics) -> f64);

/// The distribution of KL over positions, of the drift and of the floor.
fn divergence(runs: &[Run]) -> Option<Plot> {
    const FIGURES: [Figure; 4] = [
        ("median", |m| m.kl_median_nats),
        ("mean", |m| m.kl_mean_nats),
        ("99 %", |m| m.kl_p99_nats),
        ("largest", |m| m.kl_max_nats),
    ];
    let mut rows = vec![];
    for run in runs {
        let logits = (run.drift.logits, run.drift.floor.logits);
        if let (Some(drift), Some(floor)) = logits {
            rows.push((named(runs, run, "drift"), drift));
            rows.push((named(runs, run, "noise floor"), floor));
        }
    }
    let names: Vec<_> = rows.iter().map(|(name, _)| name.clone()).collect();
    let of = |figure: &Figure| -> Vec<(f64, f64)> {
        rows.iter().enumerate().map(|(i, (_, m))| (figure.1(m), i as f64)).collect()
    };
    let colours = [Colour::Cyan, Colour::Blue, Colour::Purple, Colour::Orange];
    let series = FIGURES.iter().zip(colours).map(|(figure, colour)| Series {
        name: figure.0.into(),
        mark: Mark::Dots,
        colour,
        on_right: false,
        points: of(figure),
    });
    let mut series: Vec<_> = series.collect();
    let all: Vec<f64> = series.iter().flat_map(|s| s.points.iter().map(|p| p.0)).collect();
    let ends = rows
        .iter()
        .enumerate()
        .flat_map(|(i, (_, m))| [m.kl_median_nats, m.kl_max_nats].map(|kl| (kl, i as f64)));
    let span = Series::line("", Colour::Grey, ends.collect()).drawn(Mark::Span);
    series.push(span);
    let largest =
        rows.iter().map(|(name, m)| format!("{name} {} on average", short(m.kl_mean_nats)));
    (!names.is_empty()).then(|| Plot {
        chart: Chart {
            id: "divergence".into(),
            title: "How far the next-token distributions move".into(),
            description: format!(
                "KL divergence in nats: {}.",
                largest.collect::<Vec<_>>().join(", ")
            ),
            x: Axis::log_around("KL divergence of a position, nats", all.into_iter()),
            y: Axis::categories(names),
            right: None,
            series,
        },
        columns: strings(["", "median", "mean", "99 %", "largest"]),
        rows: rows
            .iter()
            .map(|(name, m)| {
                [name.clone()].into_iter().chain(FIGURES.map(|(_, f)| precise(f(m)))).collect()
            })
            .collect(),
    })
}

/// One of the figures that every layer has, of the drift and of the floor.
type Pairs = Vec<(usize, f64, f64)>;

fn layers(runs: &[Run]) -> Option<Plot> {
    let of = |drift: &Drift| -> Pairs {
        let figure = |l: &gemma_mlp_drift::drift::LayerDrift| {
            (l.index, l.drift.output.rel_l2, l.floor.output.rel_l2)
        };
        drift.layers.iter().map(figure).collect()
    };
    by_layer(runs, of, "layers", "Each block on one input", "relative L2 of the block's output")
}

fn residual(runs: &[Run]) -> Option<Plot> {
    let of = |drift: &Drift| -> Pairs {
        drift.residual.iter().map(|r| (r.index, r.rel_l2, r.floor_rel_l2)).collect()
    };
    let title = "Accumulated in the residual stream";
    by_layer(runs, of, "residual", title, "relative L2 of the stream after the layer")
}

fn by_layer(
    runs: &[Run],
    of: impl Fn(&Drift) -> Pairs,
    id: &str,
    title: &str,
    unit: &str,
) -> Option<Plot> {
    let all: Vec<Pairs> = runs.iter().map(|run| of(run.drift)).collect();
    let mut indices: Vec<usize> = all.iter().flatten().map(|row| row.0).collect();
    indices.sort_unstable();
    indices.dedup();
    let (first, last) = (*indices.first()?, *indices.last()?);
    let (mut series, mut columns) = (vec![], vec!["layer".to_string()]);
    let mut rows: Vec<Vec<String>> = indices.iter().map(|i| vec![i.to_string()]).collect();
    for (i, (run, pairs)) in runs.iter().zip(&all).enumerate() {
        let [own, floor] = colours(runs, i);
        let at = |index: usize| pairs.iter().find(|row| row.0 == index);
        let points = |pick: fn(&(usize, f64, f64)) -> f64| -> Vec<(f64, f64)> {
            indices.iter().map(|&i| (i as f64, at(i).map_or(f64::NAN, pick))).collect()
        };
        let lines = [
            ("drift", own, Mark::Dotted, points(|row| row.1)),
            ("noise floor", floor, Mark::Dashed, points(|row| row.2)),
        ];
        for (what, colour, mark, points) in lines {
            let name = named(runs, run, what);
            columns.push(name.clone());
            for (row, point) in rows.iter_mut().zip(&points) {
                row.push(precise(point.1));
            }
            series.push(Series { name, mark, colour, on_right: false, points });
        }
        columns.push(named(runs, run, "ratio"));
        for (row, &index) in rows.iter_mut().zip(&indices) {
            row.push(at(index).map_or(String::new(), |(_, drift, floor)| precise(drift / floor)));
        }
    }
    let above = all.iter().flatten().filter(|row| row.1 > row.2).count();
    let count = all.iter().map(Vec::len).sum::<usize>();
    let values: Vec<f64> = series.iter().flat_map(|s| s.points.iter().map(|p| p.1)).collect();
    let width = (last - first) as f64;
    Some(Plot {
        chart: Chart {
            id: id.into(),
            title: title.into(),
            description: format!("{above} of {count} layers are above their noise floor."),
            x: Axis::whole(
                "layer",
                (first as f64 - 0.02 * width - 0.3, last as f64 + 0.02 * width + 0.3),
            ),
            y: Axis::log_around(unit, values.into_iter()),
            right: None,
            series,
        },
        columns,
        rows,
    })
}

/// The gates of all layers over the difference of the two activations.
fn gates(drift: &Drift) -> Option<Plot> {
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
        title += ", and where the two activations part";
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
            x: Axis::linear("gate(x), what the activation is taken of", (-end, end)),
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

fn positions(drift: &Drift) -> Option<Plot> {
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

/// A token as it is shown: quoted, control characters escaped.
pub(super) fn shown(token: &Token) -> String {
    token.text.as_ref().map_or_else(|| format!("token {}", token.id), |text| format!("{text:?}"))
}

fn flips(drift: &Drift) -> Option<Plot> {
    /// As many as a picture has room for.
    const MOST: usize = 16;
    let flips = &drift.flips[..drift.flips.len().min(MOST)];
    let name = |flip: &TokenDrift| {
        let [a, b] = &flip.likeliest;
        let short = |token: &Token| shown(token).chars().take(14).collect::<String>();
        format!("{} → {}", short(a), short(b))
    };
    let points = |side: usize| -> Vec<(f64, f64)> {
        flips.iter().enumerate().map(|(i, flip)| (flip.margins[side], i as f64)).collect()
    };
    let series = [("under a", Colour::Blue), ("under b", Colour::Orange)];
    let series = series.iter().enumerate().map(|(side, (name, colour))| Series {
        name: format!("margin {name}"),
        mark: if side == 0 { Mark::Lollipop } else { Mark::Dots },
        colour: *colour,
        on_right: false,
        points: points(side),
    });
    let row = |flip: &TokenDrift| {
        let [a, b] = [0, 1].map(|side| precise(flip.margins[side]));
        vec![name(flip), flip.position.to_string(), a, b, precise(flip.kl_nats)]
    };
    let margins = flips.iter().flat_map(|flip| flip.margins);
    (!flips.is_empty()).then(|| Plot {
        chart: Chart {
            id: "flips".into(),
            title: "Where the likeliest token changes".into(),
            description: format!("{} positions.", drift.flip_count),
            x: Axis::linear_around(
                "how far the likeliest logit is above the next one",
                margins,
                true,
            ),
            y: Axis::categories(flips.iter().map(name).collect()),
            right: None,
            series: series.collect(),
        },
        columns: strings(["a → b", "position", "margin under a", "margin under b", "KL, nats"]),
        rows: flips.iter().map(row).collect(),
    })
}

fn gradients(drift: &Drift) -> Option<Plot> {
    let layers = &drift.gradients.as_ref()?.gradients;
    type Pick = fn(&BlockGradients) -> f64;
    let matrices: [(&str, Colour, Pick); 3] = [
        ("gate_proj", Colour::Blue, |g| g.gate_proj.rel_l2),
        ("up_proj", Colour::Green, |g| g.up_proj.rel_l2),
        ("down_proj", Colour::Purple, |g| g.down_proj.rel_l2),
    ];
    let (mut series, mut columns) = (vec![], vec!["layer".to_string()]);
    let mut rows: Vec<Vec<String>> = layers.iter().map(|l| vec![l.index.to_string()]).collect();
    for (name, colour, pick) in matrices {
        for (mark, what) in [(Mark::Dotted, ""), (Mark::Dashed, ", floor")] {
            let floor = mark == Mark::Dashed;
            let points: Vec<(f64, f64)> = layers
                .iter()
                .map(|l| (l.index as f64, pick(if floor { &l.floor } else { &l.drift })))
                .collect();
            rows.iter_mut().zip(&points).for_each(|(row, point)| row.push(precise(point.1)));
            columns.push(format!("{name}{what}"));
            let name = format!("{name}{what}");
            series.push(Series { name, mark, colour, on_right: false, points });
        }
    }
    let values: Vec<f64> = series.iter().flat_map(|s| s.points.iter().map(|p| p.1)).collect();
    let last = layers.last()?.index as f64;
    Some(Plot {
        chart: Chart {
            id: "gradients".into(),
            title: "The loss's gradients for each matrix".into(),
            description: format!("{} layers, three matrices each, with their floor.", layers.len()),
            x: Axis::whole("layer", (-0.02 * last - 0.3, 1.02 * last + 0.3)),
            y: Axis::log_around("relative L2 of the gradient", values.into_iter()),
            right: None,
            series,
        },
        columns,
        rows,
    })
}

fn ranking(drift: &Drift) -> Option<Plot> {
    let ranking = drift.ranking.as_ref()?;
    let points: Vec<_> =
        ranking.iter().enumerate().map(|(i, r)| (r.kl_mean_nats, i as f64)).collect();
    let mut series = vec![Series {
        name: "a porting difference".into(),
        mark: Mark::Lollipop,
        colour: Colour::Purple,
        on_right: false,
        points,
    }];
    let mut values: Vec<f64> = ranking.iter().map(|r| r.kl_mean_nats).collect();
    let rules = [
        ("this drift", Colour::Blue, drift.logits),
        ("noise floor", Colour::Grey, drift.floor.logits),
    ];
    for (name, colour, logits) in rules {
        if let Some(logits) = logits.filter(|m| m.kl_mean_nats > 0.0) {
            values.push(logits.kl_mean_nats);
            let points = vec![(logits.kl_mean_nats, 0.0)];
            series.push(Series {
                name: name.into(),
                mark: Mark::Rule,
                colour,
                on_right: false,
                points,
            });
        }
    }
    let row = |r: &gemma_mlp_drift::drift::Ranked| {
        vec![
            r.difference.to_string(),
            precise(r.kl_mean_nats),
            precise(r.kl_max_nats),
            format!("{:.2} %", 100.0 * r.top1_agreement),
            precise(r.ppl),
            r.source.to_string(),
        ]
    };
    (!ranking.is_empty()).then(|| Plot {
        chart: Chart {
            id: "ranking".into(),
            title: "What other differences would do".into(),
            description: format!("{} differences that ports make, one at a time.", ranking.len()),
            x: Axis::log_around("mean KL divergence, nats", values.into_iter()),
            y: Axis::categories(ranking.iter().map(|r| r.difference.to_string()).collect()),
            right: None,
            series,
        },
        columns: strings([
            "difference",
            "KL mean, nats",
            "KL largest",
            "same top token",
            "perplexity",
            "seen in",
        ]),
        rows: ranking.iter().map(row).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_long_names_the_end_is_shown() {
        assert_eq!(end_of(&"é".repeat(40)), "é".repeat(40));
        assert_eq!(end_of(&"é".repeat(41)), format!("…{}", "é".repeat(40)));
    }
}
