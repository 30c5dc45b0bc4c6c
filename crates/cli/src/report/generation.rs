//! Two continuations side by side.

use super::align::remarks;
use super::drift::pair;
use super::number::short;
use gemma_mlp_drift::drift::{Continuation, Generation};
use std::fmt::Write;

/// What `gemma-mlp generate` prints.
pub fn generation_table(generation: &Generation) -> String {
    let sides = &generation.sides;
    let mut text = format!("{}: {}\n\n", generation.checkpoint.source, pair(sides));
    let mut side = |name: &str, side: String, continuation: &Continuation| {
        let _ = writeln!(text, "{name} ({side}), {} tokens:", continuation.ids.len());
        let words = match &continuation.text {
            Some(words) => words.clone(),
            None => format!("{:?}", continuation.ids),
        };
        let _ = writeln!(text, "{words}\n");
    };
    side("a", sides.a.to_string(), &generation.a);
    side("b", sides.b.to_string(), &generation.b);
    match &generation.parting {
        None => text += "They are the same.\n",
        Some(parting) => {
            let shown = |i: usize| match &parting.texts[i] {
                Some(token) => format!("{token:?}"),
                None => parting.ids[i].to_string(),
            };
            let _ = writeln!(
                text,
                "They differ from token {} on: a takes {} (its logit leads by {}), b takes {} (leads by {}).",
                parting.index,
                shown(0),
                short(parting.margins[0]),
                shown(1),
                short(parting.margins[1])
            );
        }
    }
    text += &remarks(&generation.remarks);
    text
}
