//! Every figure of the logits, with what it means.

use super::{Content, Section, single};
use crate::report::figures::of_drift;
use crate::report::page::html::{scrolled, table};
use crate::report::page::plot::strings;
use crate::report::run::Run;
use maud::html;

pub(super) fn section(runs: &[Run]) -> Option<Section> {
    let rows: Vec<Vec<String>> = of_drift(single(runs)?)
        .into_iter()
        .map(|(figure, cells)| cells.into_iter().chain([figure.description.into()]).collect())
        .collect();
    let caption = "Figures of the logits";
    let columns = strings(["", "drift", "noise floor", "ratio", "what it is"]);
    (!rows.is_empty()).then(|| Section {
        id: "logits",
        name: "Figures",
        heading: "The logits, figure by figure".into(),
        how_to_read: "The ratio says how many times the noise floor's a figure is.".into(),
        content: Content::Html(html! {
            figure { (scrolled(caption, &table("table-logits", caption, &columns, &rows))) }
        }),
    })
}
