//! The figures of several runs.

use super::{Content, Section};
use crate::report::page::html::{scrolled, table};
use crate::report::run::Run;
use crate::report::side_by_side::rows;
use maud::html;

pub(super) fn section(runs: &[Run]) -> Option<Section> {
    let names = runs.iter().map(|run| run.name.to_string());
    let columns: Vec<_> = std::iter::once(String::new()).chain(names).collect();
    let caption = "All figures";
    (runs.len() > 1).then(|| Section {
        id: "figures",
        name: "Figures",
        heading: "Figure by figure".into(),
        how_to_read: "The first rows say how the runs differ, the others what came of it.".into(),
        content: Content::Html(html! {
            figure { (scrolled(caption, &table("table-figures", caption, &columns, &rows(runs)))) }
        }),
    })
}
