//! What other differences would do.

use super::{Content, Section, single};
use crate::report::chart::{Axis, Chart, Colour, Mark, Series};
use crate::report::number::{percent, precise};
use crate::report::page::plot::{Plot, strings};
use crate::report::run::Run;
use gemma_mlp_drift::drift::{Drift, Ranked};

pub(super) fn section(runs: &[Run]) -> Option<Section> {
    let plot = plot(single(runs)?)?;
    Some(Section {
        id: "ranking",
        name: "Porting differences",
        heading: plot.chart.title.clone(),
        how_to_read: "Mistakes that ports of this family make, one at a time against side a on the same text. A mismatch of unknown cause is likely to be one of about its size.".into(),
        content: Content::Plot(plot.into()),
    })
}

fn plot(drift: &Drift) -> Option<Plot> {
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
    let row = |r: &Ranked| {
        vec![
            r.difference.to_string(),
            precise(r.kl_mean_nats),
            precise(r.kl_max_nats),
            percent(r.top1_agreement),
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
