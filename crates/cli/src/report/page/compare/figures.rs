//! Every figure of the logits, with what it means.

use super::{Content, Section};
use crate::report::figures::rows;
use crate::report::number::grouped;
use crate::report::page::html::{scrolled, table};
use crate::report::page::plot::strings;
use gemma_mlp_drift::compare::Comparison;
use maud::html;

pub(super) fn section(comparison: &Comparison) -> Option<Section> {
    let logits = comparison.logits.as_ref()?;
    let rows: Vec<Vec<String>> = rows(&logits.metrics, logits.floor.as_ref())
        .into_iter()
        .map(|(figure, cells)| cells.into_iter().chain([figure.description.into()]).collect())
        .collect();
    let caption = "Figures of the logits";
    let columns = strings(["", "difference", "noise floor", "ratio", "what it is"]);
    let words = match logits.whole_vocabulary {
        true => format!("all {} tokens", grouped(logits.words as u64)),
        false => {
            format!("the {} likeliest tokens that both sides have", grouped(logits.words as u64))
        }
    };
    Some(Section {
        id: "logits",
        name: "Logits",
        heading: "The logits, figure by figure".into(),
        how_to_read: format!(
            "Theirs (b) against ours (a) at {} positions, over {words}. The ratio says how many times the noise floor's a \
             figure is.",
            grouped(logits.positions as u64)
        ),
        content: Content::Html(html! {
            figure { (scrolled(caption, &table("table-logits", caption, &columns, &rows))) }
        }),
    })
}
