//! Every figure of the logits, or of an encoder's embeddings, with what it means.

use super::{Content, Section, single};
use crate::report::figures::{of_drift, of_embedding};
use crate::report::page::html::{scrolled, table};
use crate::report::page::plot::strings;
use crate::report::run::Run;
use maud::html;

pub(super) fn section(runs: &[Run]) -> Option<Section> {
    let drift = single(runs)?;
    let of_logits = of_drift(drift).into_iter().map(|(figure, cells)| (figure.description, cells));
    let with_words = |(words, cells): (&str, [String; 4])| {
        cells.into_iter().chain([words.to_string()]).collect::<Vec<_>>()
    };
    let rows: Vec<_> = of_logits.chain(of_embedding(drift)).map(with_words).collect();
    let (heading, caption) = match drift.embedding.is_some() {
        true => ("The embeddings, figure by figure", "Figures of the embeddings"),
        false => ("The logits, figure by figure", "Figures of the logits"),
    };
    let columns = strings(["", "drift", "noise floor", "ratio", "what it is"]);
    (!rows.is_empty()).then(|| Section {
        id: "logits",
        name: "Figures",
        heading: heading.into(),
        how_to_read: "The ratio says how many times the noise floor's a figure is.".into(),
        content: Content::Html(html! {
            figure { (scrolled(caption, &table("table-logits", caption, &columns, &rows))) }
        }),
    })
}
