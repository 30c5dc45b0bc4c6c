//! Pieces of a page.

use super::plot::Plot;
use crate::report::chart::draw;
use crate::report::verdict::{is_hidden_mistake, size_words};
use gemma_mlp_drift::drift::Drift;
use maud::{Markup, PreEscaped, html};

/// The size of a run's verdict, with its colour.
pub(super) fn badge(drift: &Drift) -> Markup {
    let words = size_words(drift.verdict.size);
    let mistake = if is_hidden_mistake(drift) { " mistake" } else { "" };
    html! { span class={ "badge " (words.replace(' ', "-")) (mistake) } { (words) } }
}

/// A plot with its table: a figure that can be read with eyes, mouse, keyboard or screen reader.
pub(super) fn plot(Plot { chart, columns, rows }: &Plot) -> Markup {
    const WIDTH: f64 = 940.0;
    let bars = chart.y.categories.len() as f64;
    let height =
        if bars > 0.0 { 92.0 + if bars < 8.0 { 34.0 } else { 26.0 } * bars } else { 380.0 };
    let drawn = draw(chart, (WIDTH, height));
    let joined = |numbers: &[f64]| {
        let numbers: Vec<_> = numbers.iter().map(|x| format!("{x:.1}")).collect();
        numbers.join(" ")
    };
    let (id, title) = (&chart.id, &chart.title);
    let caption = format!("{title}, table");
    html! {
        figure id={ "figure-" (id) } {
            div.plot
                tabindex="0" role="group" aria-label={ (title) ". Arrow keys read its values." }
                data-table={ "table-" (id) } data-axis=(if drawn.vertical { "y" } else { "x" })
                data-stops=(joined(&drawn.stops)) data-area=(joined(&drawn.area)) {
                svg viewBox={ "0 0 " (WIDTH) " " (height) } role="img"
                    aria-labelledby={ "title-" (id) " desc-" (id) } {
                    title id={ "title-" (id) } { (title) }
                    desc id={ "desc-" (id) } { (chart.description) }
                    (PreEscaped(drawn.elements))
                }
                div.readout role="status" hidden {}
            }
            details {
                summary { "Table of these values" }
                (scrolled(&caption, &table(&format!("table-{id}"), title, columns, rows)))
            }
        }
    }
}

/// What may be wider or longer than its place.
pub(super) fn scrolled(label: &str, content: &Markup) -> Markup {
    html! { div.scroll tabindex="0" role="region" aria-label=(label) { (content) } }
}

/// A table whose first column names its rows.
pub(super) fn table(id: &str, caption: &str, columns: &[String], rows: &[Vec<String>]) -> Markup {
    html! {
        table id=(id) {
            caption { (caption) }
            thead { tr { @for column in columns { th scope="col" { (column) } } } }
            tbody {
                @for row in rows {
                    tr {
                        @for (i, cell) in row.iter().enumerate() {
                            @if i == 0 {
                                th scope="row" { (cell) }
                            } @else {
                                td.words[cell.len() > 40] { (cell) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Figures as large as their weight: name, value, and what it is compared with.
pub(super) fn figures(figures: &[[String; 3]]) -> Markup {
    html! {
        dl.figures {
            @for [name, value, note] in figures {
                div { dt { (name) } dd { (value) } dd { (note) } }
            }
        }
    }
}

/// Names and what they stand for.
pub(super) fn facts(facts: &[(&str, String)]) -> Markup {
    html! { dl.facts { @for (name, value) in facts { dt { (name) } dd { (value) } } } }
}
