//! What was compared with what.

use super::{Content, Section};
use crate::report::compared::{dump_line, points_line, reference_line};
use crate::report::number::grouped;
use crate::report::page::html::facts;
use gemma_mlp_drift::compare::{Comparison, Reference};

pub(super) fn section(comparison: &Comparison) -> Option<Section> {
    let Comparison { theirs, ours, floor, .. } = comparison;
    let mut all = vec![("Theirs", dump_line(theirs)), ("Ours", reference_line(ours))];
    if let Reference::Model(checkpoint) = ours {
        let activation = &checkpoint.activation;
        all.push(("Its activation", format!("{}: {}", activation.value, activation.reason)));
    }
    all.push(("Points", points_line(theirs)));
    let texts =
        if theirs.texts == 1 { "one text".into() } else { format!("{} texts", theirs.texts) };
    all.push(("Text", format!("{texts}, {} tokens", grouped(theirs.tokens as u64))));
    let on = match floor.tokens {
        0 => String::new(),
        tokens => format!(", on {} tokens", grouped(tokens as u64)),
    };
    all.push(("Noise floor", format!("{}{on}", floor.description)));
    if !floor.references.is_empty() {
        all.push(("Widened by", floor.references.join(", ")));
    }
    all.push(("Layout", format!("version {} of the JSON report", comparison.schema)));
    Some(Section {
        id: "compared",
        name: "Compared",
        heading: "What was compared".into(),
        how_to_read: "Theirs is what the other program wrote, ours is what this one computes."
            .into(),
        content: Content::Html(facts(&all)),
    })
}
