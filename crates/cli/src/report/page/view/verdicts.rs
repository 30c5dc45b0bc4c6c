//! The verdicts of several runs.

use super::{Content, Section};
use crate::report::number::pretty;
use crate::report::page::html::badge;
use crate::report::run::Run;
use crate::report::verdict::{NAT, NOISE_FLOOR, Words};
use maud::html;

pub(super) fn section(runs: &[Run]) -> Option<Section> {
    let list = html! {
        dl.facts {
            @for Run { name, drift } in runs {
                dt { (name) }
                dd { (badge(drift)) br; (Words::new(drift, pretty).text()) }
            }
        }
    };
    (runs.len() > 1).then(|| Section {
        id: "verdicts",
        name: "Verdicts",
        heading: "What follows from each".into(),
        how_to_read: format!("Every run beside its own noise floor, {NOISE_FLOOR}; {NAT}."),
        content: Content::Html(list),
    })
}
