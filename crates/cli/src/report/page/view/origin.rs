//! By what a run was measured.

use super::{Content, Section, single};
use crate::report::page::html::facts;
use crate::report::run::Run;
use maud::html;

pub(super) fn section(runs: &[Run]) -> Option<Section> {
    let drift = single(runs)?;
    let (header, origin) = (&drift.header, &drift.origin);
    let all = [
        ("Program", format!("gemma-mlp {}, candle {}", header.version, origin.candle)),
        ("Machine", format!("{}; computed on {}", origin.machine, header.device)),
        ("Layout", format!("version {} of the JSON report", header.schema)),
    ];
    Some(Section {
        id: "origin",
        name: "Origin",
        heading: "How this was measured".into(),
        how_to_read: "What it takes to run it again.".into(),
        content: Content::Html(html! {
            (facts(&all))
            @if let Some(command) = &origin.command { p.code { "$ " (command) } }
        }),
    })
}
