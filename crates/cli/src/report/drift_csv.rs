//! A drift run as comma-separated values.

use super::csv::Csv;
use super::page::shown;
use super::run::Run;
use anyhow::Result;
use gemma_mlp_drift::drift::{Drift, EmbeddingMetrics, LogitMetrics, Metrics};

/// Every figure of runs as a row: which run, which part of it, which layer, position or difference,
/// its name there, the figure's name as in the JSON report, its value, and the noise floor's where
/// there is one. docs/drift.md lists the sections.
///
/// # Errors
/// None that is known: the table is written to memory.
pub fn drift_csv(runs: &[Run]) -> Result<String> {
    let header = ["run", "section", "index", "name", "figure", "drift", "floor"];
    let mut csv = Csv::new(&header)?;
    for Run { name, drift } in runs {
        add(&mut Table { csv: &mut csv, run: name }, drift)?;
    }
    csv.text()
}

/// The rows of a run.
struct Table<'a> {
    csv: &'a mut Csv,
    run: &'a str,
}

/// Where a row belongs: its section, index and name.
type Place<'a> = (&'a str, String, &'a str);

impl Table<'_> {
    fn row(&mut self, place: &Place, figure: &str, drift: f64, floor: Option<f64>) -> Result<()> {
        let (section, index, name) = place;
        let [drift, floor] = [Some(drift), floor].map(|x| x.map_or(String::new(), Csv::number));
        self.csv.row(&[self.run, section, index, name, figure, &drift, &floor])
    }
}

fn add(table: &mut Table, drift: &Drift) -> Result<()> {
    for layer in &drift.layers {
        let place = ("layers", layer.index.to_string(), layer.name.as_str());
        let points = [
            ("activation", layer.drift.activation, layer.floor.activation),
            ("product", layer.drift.product, layer.floor.product),
            ("output", layer.drift.output, layer.floor.output),
        ];
        for (point, own, floor) in points {
            for (figure, of) in METRICS {
                table.row(&place, &format!("{point}.{figure}"), of(&own), Some(of(&floor)))?;
            }
        }
    }
    for layer in &drift.residual {
        let place = ("residual", layer.index.to_string(), "");
        table.row(&place, "rel_l2", layer.rel_l2, Some(layer.floor_rel_l2))?;
    }
    logits(table, drift)?;
    embedding(table, drift)?;
    gates(table, drift)?;
    positions(table, drift)?;
    for (section, tokens) in [("worst", &drift.worst), ("flips", &drift.flips)] {
        for token in tokens {
            let name = token.likeliest.each_ref().map(shown).join(" → ");
            let place = (section, token.position.to_string(), name.as_str());
            table.row(&place, "kl_nats", token.kl_nats, None)?;
            table.row(&place, "margins.a", token.margins[0], None)?;
            table.row(&place, "margins.b", token.margins[1], None)?;
        }
    }
    for layer in drift.gradients.iter().flat_map(|gradients| &gradients.gradients) {
        for ((name, own), (_, floor)) in layer.drift.matrices().zip(layer.floor.matrices()) {
            let place = ("gradients", layer.index.to_string(), name);
            table.row(&place, "rel_l2", own.rel_l2, Some(floor.rel_l2))?;
            table.row(&place, "cosine", own.cosine, Some(floor.cosine))?;
        }
    }
    for (i, ranked) in drift.ranking.iter().flatten().enumerate() {
        let place = ("ranking", i.to_string(), ranked.difference.as_ref());
        table.row(&place, "kl_mean_nats", ranked.kl_mean_nats, None)?;
        table.row(&place, "kl_max_nats", ranked.kl_max_nats, None)?;
        table.row(&place, "top1_agreement", ranked.top1_agreement, None)?;
        table.row(&place, "rel_l2", ranked.rel_l2, None)?;
        table.row(&place, "ppl", ranked.ppl, None)?;
    }
    Ok(())
}

fn logits(table: &mut Table, drift: &Drift) -> Result<()> {
    let Some(logits) = &drift.logits else { return Ok(()) };
    let place = ("logits", String::new(), "");
    for figure in LogitMetrics::FIGURES {
        for (name, of) in [(figure.name, figure.value)].into_iter().chain(figure.error) {
            table.row(&place, name, of(logits), drift.floor.logits.as_ref().map(of))?;
        }
    }
    Ok(())
}

fn embedding(table: &mut Table, drift: &Drift) -> Result<()> {
    let Some(own) = &drift.embedding else { return Ok(()) };
    let place = ("embedding", String::new(), "");
    type Figure = (&'static str, fn(&EmbeddingMetrics) -> f64);
    let figures: [Figure; 8] = [
        ("hidden.max_abs", |m| m.hidden.max_abs),
        ("hidden.rms", |m| m.hidden.rms),
        ("hidden.rel_l2", |m| m.hidden.rel_l2),
        ("hidden.cosine", |m| m.hidden.cosine),
        ("distance_mean", |m| m.distance_mean),
        ("distance_max", |m| m.distance_max),
        ("cosine_mean", |m| m.cosine_mean),
        ("cosine_min", |m| m.cosine_min),
    ];
    for (name, of) in figures {
        table.row(&place, name, of(own), drift.floor.embedding.as_ref().map(of))?;
    }
    Ok(())
}

/// The histogram of each layer, by the left ends of its bins.
fn gates(table: &mut Table, drift: &Drift) -> Result<()> {
    for layer in &drift.layers {
        let gates = &layer.gates;
        for (i, &count) in gates.counts.iter().enumerate() {
            let left = gates.low + gates.step * i as f64;
            let place = ("gates", layer.index.to_string(), layer.name.as_str());
            table.row(&place, &format!("count from {left}"), count as f64, None)?;
        }
    }
    Ok(())
}

fn positions(table: &mut Table, drift: &Drift) -> Result<()> {
    let Some(positions) = &drift.positions else { return Ok(()) };
    for (i, &kl) in positions.kl_mean_nats.iter().enumerate() {
        let place = ("positions", i.saturating_mul(positions.group).to_string(), "");
        let at = |list: &[f64]| list.get(i).copied().filter(|kl| !kl.is_nan());
        table.row(&place, "kl_mean_nats", kl, at(&positions.floor_kl_mean_nats))?;
        if positions.group > 1 {
            let largest = at(&positions.kl_max_nats).unwrap_or(f64::NAN);
            table.row(&place, "kl_max_nats", largest, None)?;
        }
    }
    Ok(())
}

/// A figure of a point in a block: its name, and its value.
type Figure = (&'static str, fn(&Metrics) -> f64);

const METRICS: [Figure; 4] = [
    ("max_abs", |m| m.max_abs),
    ("rms", |m| m.rms),
    ("rel_l2", |m| m.rel_l2),
    ("cosine", |m| m.cosine),
];
