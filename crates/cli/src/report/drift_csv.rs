//! A drift run as comma-separated values.

use super::charts::{Run, shown};
use super::csv::Csv;
use gemma_mlp_drift::drift::{Drift, LogitMetrics, Metrics};

/// Every figure of runs as a row: which run, which part of it, which layer, position or difference,
/// its name there, the figure's name as in the JSON report, its value, and the noise floor's where
/// there is one. docs/drift.md lists the sections.
pub fn drift_csv(runs: &[Run]) -> String {
    let header = ["run", "section", "index", "name", "figure", "drift", "floor"];
    let mut table = Table { csv: Csv::new(&header), run: String::new() };
    for Run { name, drift } in runs {
        table.run = name.to_string();
        add(&mut table, drift);
    }
    table.csv.text
}

struct Table {
    csv: Csv,
    run: String,
}

/// Where a row belongs: its section, index and name.
type Place<'a> = (&'a str, String, &'a str);

impl Table {
    fn row(&mut self, place: &Place, figure: &str, drift: f64, floor: Option<f64>) {
        let (section, index, name) = place;
        let cells = [
            self.run.clone(),
            section.to_string(),
            index.clone(),
            name.to_string(),
            figure.to_string(),
            Csv::number(drift),
            floor.map_or(String::new(), Csv::number),
        ];
        self.csv.row(&cells);
    }
}

fn add(table: &mut Table, drift: &Drift) {
    for layer in &drift.layers {
        let place = ("layers", layer.index.to_string(), layer.name.as_str());
        let points = [
            ("activation", layer.drift.activation, layer.floor.activation),
            ("product", layer.drift.product, layer.floor.product),
            ("output", layer.drift.output, layer.floor.output),
        ];
        for (point, own, floor) in points {
            for (figure, of) in METRICS {
                table.row(&place, &format!("{point}.{figure}"), of(&own), Some(of(&floor)));
            }
        }
    }
    for layer in &drift.residual {
        let place = ("residual", layer.index.to_string(), "");
        table.row(&place, "rel_l2", layer.rel_l2, Some(layer.floor_rel_l2));
    }
    if let Some(logits) = &drift.logits {
        for (figure, of) in LOGITS {
            table.row(
                &("logits", String::new(), ""),
                figure,
                of(logits),
                drift.floor.logits.as_ref().map(of),
            );
        }
    }
    gates(table, drift);
    if let Some(positions) = &drift.positions {
        for (i, &kl) in positions.kl_mean_nats.iter().enumerate() {
            let place = ("positions", i.saturating_mul(positions.group).to_string(), "");
            let at = |list: &[f64]| list.get(i).copied().filter(|kl| !kl.is_nan());
            let floor = at(&positions.floor_kl_mean_nats);
            table.row(&place, "kl_mean_nats", kl, floor);
            if positions.group > 1 {
                table.row(
                    &place,
                    "kl_max_nats",
                    at(&positions.kl_max_nats).unwrap_or(f64::NAN),
                    None,
                );
            }
        }
    }
    for (section, tokens) in [("worst", &drift.worst), ("flips", &drift.flips)] {
        for token in tokens {
            let name = token.likeliest.each_ref().map(shown).join(" → ");
            let place = (section, token.position.to_string(), name.as_str());
            table.row(&place, "kl_nats", token.kl_nats, None);
            table.row(&place, "margins.a", token.margins[0], None);
            table.row(&place, "margins.b", token.margins[1], None);
        }
    }
    for layer in drift.gradients.iter().flat_map(|gradients| &gradients.gradients) {
        let matrices = [
            ("gate_proj", layer.drift.gate_proj, layer.floor.gate_proj),
            ("up_proj", layer.drift.up_proj, layer.floor.up_proj),
            ("down_proj", layer.drift.down_proj, layer.floor.down_proj),
        ];
        for (name, own, floor) in matrices {
            let place = ("gradients", layer.index.to_string(), name);
            table.row(&place, "rel_l2", own.rel_l2, Some(floor.rel_l2));
            table.row(&place, "cosine", own.cosine, Some(floor.cosine));
        }
    }
    for (i, ranked) in drift.ranking.iter().flatten().enumerate() {
        let place = ("ranking", i.to_string(), ranked.difference.as_ref());
        table.row(&place, "kl_mean_nats", ranked.kl_mean_nats, None);
        table.row(&place, "kl_max_nats", ranked.kl_max_nats, None);
        table.row(&place, "top1_agreement", ranked.top1_agreement, None);
        table.row(&place, "rel_l2", ranked.rel_l2, None);
        table.row(&place, "ppl", ranked.ppl, None);
    }
}

/// The histogram of each layer, by the left ends of its bins.
fn gates(table: &mut Table, drift: &Drift) {
    for layer in &drift.layers {
        let gates = &layer.gates;
        for (i, &count) in gates.counts.iter().enumerate() {
            let left = gates.low + gates.step * i as f64;
            let place = ("gates", layer.index.to_string(), layer.name.as_str());
            table.row(&place, &format!("count from {left}"), count as f64, None);
        }
    }
}

type Figure<T> = (&'static str, fn(&T) -> f64);

const METRICS: [Figure<Metrics>; 4] = [
    ("max_abs", |m| m.max_abs),
    ("rms", |m| m.rms),
    ("rel_l2", |m| m.rel_l2),
    ("cosine", |m| m.cosine),
];

const LOGITS: [Figure<LogitMetrics>; 18] = [
    ("max_abs", |m| m.max_abs),
    ("rel_l2", |m| m.rel_l2),
    ("kl_mean_nats", |m| m.kl_mean_nats),
    ("kl_mean_se_nats", |m| m.kl_mean_se_nats),
    ("kl_median_nats", |m| m.kl_median_nats),
    ("kl_p90_nats", |m| m.kl_p90_nats),
    ("kl_p99_nats", |m| m.kl_p99_nats),
    ("kl_p999_nats", |m| m.kl_p999_nats),
    ("kl_max_nats", |m| m.kl_max_nats),
    ("rms_dp", |m| m.rms_dp),
    ("top1_agreement", |m| m.top1_agreement),
    ("top5_agreement", |m| m.top5_agreement),
    ("ppl_a", |m| m.ppl_a),
    ("ppl_a_se", |m| m.ppl_a_se),
    ("ppl_b", |m| m.ppl_b),
    ("ppl_b_se", |m| m.ppl_b_se),
    ("ln_ppl_ratio", |m| m.ln_ppl_ratio),
    ("ln_ppl_ratio_se", |m| m.ln_ppl_ratio_se),
];
