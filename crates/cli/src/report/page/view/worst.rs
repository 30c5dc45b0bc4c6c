//! The positions where the sides differ most, in their context.

use super::{Content, Section, single};
use crate::report::number::{grouped, pretty};
use crate::report::page::plot::shown;
use crate::report::run::Run;
use gemma_mlp_drift::drift::TokenDrift;
use maud::{Markup, html};

/// As many as are shown without being asked for.
const TOKENS: usize = 8;

pub(super) fn section(runs: &[Run]) -> Option<Section> {
    let worst = &single(runs)?.worst;
    (!worst.is_empty()).then(|| Section {
        id: "worst",
        name: "Worst tokens",
        heading: "The positions where the sides differ most, in their context".into(),
        how_to_read: "The marked token is the one that follows in the text. The margin is how far the likeliest token's logit is above the next one.".into(),
        content: Content::Html(tokens(worst, ["a", "b"])),
    })
}

/// Positions in their context; those beyond the first few are there to be opened. The sides have names.
pub(in crate::report::page) fn tokens(all: &[TokenDrift], sides: [&str; 2]) -> Markup {
    let (first, rest) = all.split_at(all.len().min(TOKENS));
    html! {
        (list(first, 1, sides))
        @if !rest.is_empty() {
            details { summary { (rest.len()) " more" } (list(rest, TOKENS + 1, sides)) }
        }
    }
}

fn list(tokens: &[TokenDrift], start: usize, sides: [&str; 2]) -> Markup {
    html! { ol.tokens start=(start) { @for token in tokens { (item(token, sides)) } } }
}

fn item(token: &TokenDrift, [a, b]: [&str; 2]) -> Markup {
    let context = visible(token.context.as_deref().unwrap_or_default());
    let next = match &token.next {
        Some(next) => visible(&next.text.clone().unwrap_or_else(|| format!("[{}]", next.id))),
        None => "end of the text".into(),
    };
    // A space in front belongs to the token, but a mark that begins with one is ugly.
    let word = next.trim_start_matches(' ');
    let says = |side: usize| {
        let [likeliest, margin] = [shown(&token.likeliest[side]), pretty(token.margins[side])];
        html! { b { (likeliest) } " (margin " (margin) ")" }
    };
    html! {
        li {
            div.kl {
                (pretty(token.kl_nats))
                small { "position " (grouped(token.position as u64)) }
            }
            div {
                p.context {
                    bdi { (context.trim_start()) }
                    @if word.len() < next.len() { " " }
                    mark dir="auto" { @if word.is_empty() { "␣" } @else { (word) } }
                }
                p {
                    @if token.likeliest[0].id == token.likeliest[1].id {
                        "Both say " (says(0))
                    } @else {
                        (a) " says " (says(0)) ", " (b) " says " (says(1))
                    }
                    @if let Some([p, q]) = token.next_probability {
                        "; what follows has a probability of " (pretty(p)) " under " (a) ", " (pretty(q)) " under " (b)
                    }
                    "."
                }
            }
        }
    }
}

/// Text with its line breaks and tabs to be seen.
fn visible(text: &str) -> String {
    text.replace('\n', "↵").replace('\t', "⇥")
}
