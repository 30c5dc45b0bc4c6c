//! A comparison as comma-separated values.

use super::compared::full_name;
use super::csv::Csv;
use super::page::shown;
use anyhow::Result;
use gemma_mlp_drift::compare::{ComparedPoint, Comparison};
use gemma_mlp_drift::drift::LogitMetrics;

/// Every figure of a comparison as a row: which part of it, which layer or position, its name there, the figure's name
/// as in the JSON report, its value, and the noise floor's where there is one. docs/compare.md lists the sections.
///
/// # Errors
/// None that is known: the table is written to memory.
pub fn compare_csv(comparison: &Comparison) -> Result<String> {
    let mut table = Table(Csv::new(&["section", "index", "name", "figure", "value", "floor"])?);
    for layer in &comparison.layers {
        for point in &layer.points {
            points(&mut table, "layers", Some(layer.index), point)?;
        }
    }
    for point in &comparison.ends {
        points(&mut table, "ends", None, point)?;
    }
    for reading in &comparison.activations {
        for fit in &reading.tried {
            let place = ("activations", reading.layer.to_string(), fit.side.as_str());
            table.row(&place, "same_bits", fit.same_bits, None)?;
            table.row(&place, "rel_l2", fit.rel_l2, None)?;
        }
    }
    logits(&mut table, comparison)?;
    for (i, candidate) in comparison.candidates.iter().enumerate() {
        let place = ("candidates", i.to_string(), candidate.name.as_str());
        table.row(&place, "cosine", candidate.cosine, None)?;
        table.row(&place, "size", candidate.size, None)?;
        table.row(&place, "left", candidate.left, None)?;
        table.row(&place, "ratio", candidate.ratio, None)?;
    }
    for (i, below) in comparison.below_floor.iter().enumerate() {
        let place = ("below_floor", i.to_string(), below.name.as_str());
        table.row(&place, "ratio", below.ratio, None)?;
        table.row(&place, "size", below.size, None)?;
        table.row(&place, "error", below.error, None)?;
    }
    for row in comparison.map.iter().flat_map(|map| &map.rows) {
        let group = comparison.map.as_ref().map_or(1, |map| map.group);
        for (i, &ratio) in row.ratios.iter().enumerate() {
            let name = full_name(Some(row.layer), &row.point);
            let place = ("map", i.saturating_mul(group).to_string(), name.as_str());
            table.row(&place, "ratio", ratio, None)?;
        }
    }
    table.0.text()
}

struct Table(Csv);

/// Where a row belongs: its section, index and name.
type Place<'a> = (&'a str, String, &'a str);

impl Table {
    fn row(&mut self, place: &Place, figure: &str, value: f64, floor: Option<f64>) -> Result<()> {
        let (section, index, name) = place;
        let [value, floor] = [Some(value), floor].map(|x| x.map_or(String::new(), Csv::number));
        self.0.row(&[section, index, name, figure, &value, &floor])
    }
}

fn points(
    table: &mut Table,
    section: &str,
    layer: Option<usize>,
    point: &ComparedPoint,
) -> Result<()> {
    let index = layer.map_or(String::new(), |layer| layer.to_string());
    let place = (section, index, point.point.as_str());
    for (name, distance) in [("same_input", point.same_input), ("accumulated", point.accumulated)] {
        let Some(distance) = distance else { continue };
        let floor = Some(distance.floor);
        table.row(&place, &format!("{name}.rel_l2"), distance.rel_l2, floor)?;
        table.row(&place, &format!("{name}.cosine"), distance.cosine, None)?;
        table.row(&place, &format!("{name}.norm_ratio"), distance.norm_ratio, None)?;
        table.row(&place, &format!("{name}.ratio"), distance.ratio, None)?;
    }
    if let Some(glimpse) = point.glimpse {
        table.row(&place, "glimpse", glimpse, None)?;
    }
    table.row(&place, "differs", f64::from(u8::from(point.differs)), None)
}

fn logits(table: &mut Table, comparison: &Comparison) -> Result<()> {
    let Some(logits) = &comparison.logits else { return Ok(()) };
    let place = ("logits", String::new(), "");
    for figure in LogitMetrics::FIGURES {
        for (name, of) in [(figure.name, figure.value)].into_iter().chain(figure.error) {
            table.row(&place, name, of(&logits.metrics), logits.floor.as_ref().map(of))?;
        }
    }
    let flips = logits.flips.iter().map(|flip| ("flips", &flip.token, Some(flip)));
    let worst = logits.worst.iter().map(|token| ("worst", token, None));
    for (section, token, flip) in worst.chain(flips) {
        let name = token.likeliest.each_ref().map(shown).join(" → ");
        let place = (section, token.position.to_string(), name.as_str());
        table.row(&place, "kl_nats", token.kl_nats, None)?;
        table.row(&place, "margins.ours", token.margins[0], None)?;
        table.row(&place, "margins.theirs", token.margins[1], None)?;
        if let Some(flip) = flip {
            table.row(&place, "margin_ulps.ours", flip.margin_ulps[0], None)?;
            table.row(&place, "margin_ulps.theirs", flip.margin_ulps[1], None)?;
            table.row(&place, "tie", f64::from(u8::from(flip.tie)), None)?;
        }
    }
    Ok(())
}
