//! What was compared, on what.

use super::{Content, Section, single};
use crate::report::drift::{gates, pair};
use crate::report::number::grouped;
use crate::report::page::html::facts;
use crate::report::run::Run;
use crate::report::verdict::NOISE_FLOOR;
use gemma_mlp_drift::drift::{Drift, EXCERPT, Score};

pub(super) fn section(runs: &[Run]) -> Option<Section> {
    let drift = single(runs)?;
    Some(Section {
        id: "compared",
        name: "Compared",
        heading: "What was compared".into(),
        how_to_read: format!(
            "Side b against side a, and beside it the noise floor: side a in two dtypes, \
             {NOISE_FLOOR}."
        ),
        content: Content::Html(facts(&all(drift))),
    })
}

fn all(drift: &Drift) -> Vec<(&'static str, String)> {
    let header = &drift.header;
    let checkpoint = &header.checkpoint;
    let windows = match header.windows {
        1 => String::new(),
        n => format!(
            " in {n} windows of at most {}, each ending {} tokens after the one before",
            header.window, header.stride
        ),
    };
    let texts =
        if header.texts == 1 { "one text".into() } else { format!("{} texts", header.texts) };
    let mut all = vec![
        ("Side a", header.sides.a.to_string()),
        ("Side b", header.sides.b.to_string()),
        (
            "Noise floor",
            format!(
                "{}, on {} tokens",
                pair(&header.floor_sides),
                grouped(drift.floor.tokens as u64)
            ),
        ),
        ("Model", format!("{}, {} blocks", checkpoint.family, checkpoint.blocks)),
        ("Weights", format!("{}, in {}", checkpoint.source, checkpoint.dtype)),
        (
            "Its activation",
            format!("{}: {}", checkpoint.activation.value, checkpoint.activation.reason),
        ),
        ("Text", format!("{texts}, {} tokens{windows}", grouped(drift.tokens as u64))),
    ];
    if let Some(gates) = gates(drift) {
        all.push(("GELUs", gates));
    }
    if header.score == Score::SecondHalf {
        let half = "the second half of each window, as llama.cpp scores it";
        all.push(("Scored", half.into()));
    }
    if let Some(why) = &header.blocks_only {
        all.push(("Blocks only", format!("each on Gaussian noise; {why}")));
    }
    if let Some(excerpt) = &header.excerpt {
        let (name, more) =
            if drift.tokens > EXCERPT { ("It begins", "…") } else { ("It reads", "") };
        all.push((name, format!("“{}{more}”", excerpt.trim())));
    }
    all
}
