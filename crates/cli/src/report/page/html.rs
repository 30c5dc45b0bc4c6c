//! Pieces of a page.

use crate::report::chart::{DARK, LIGHT, SHAPES, Theme, colours, draw};
use crate::report::charts::Plot;
use crate::report::escape::escape;
use crate::report::verdict::size_words;
use gemma_mlp_drift::drift::Size;
use std::fmt::Write;

/// The script, whose hash the page's policy names: no other one runs.
const SCRIPT: &str = include_str!("script.js");
/// SHA-256 of it, in Base64.
const SCRIPT_HASH: &str = "GsVUWZwjSIcnpAZNKhMtXS1iAS7Q0Z/lrFb+p7lTqog=";

/// A part of a page.
pub(super) struct Section {
    pub(super) id: &'static str,
    /// In the list of contents.
    pub(super) name: &'static str,
    pub(super) heading: String,
    pub(super) how_to_read: String,
    pub(super) content: String,
}

/// A whole page, in one file that asks for nothing else.
pub(super) fn document(title: &str, header: &str, sections: &[Section], footer: &str) -> String {
    let contents = contents(sections);
    let sections: String = sections.iter().map(section).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src \
         'unsafe-inline'; script-src 'sha256-{SCRIPT_HASH}'; base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}</title>\n<style>{}</style>\n</head>\n<body>\n\
         <a class=\"skip\" href=\"#main\">Skip to the report</a>\n<div class=\"wide\">\n\
         <header>\n{header}</header>\n{contents}<main id=\"main\">\n{sections}</main>\n\
         <footer>\n{footer}</footer>\n</div>\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
        escape(title),
        style()
    )
}

/// Colours by name, light and dark, and everything else.
fn style() -> String {
    let variables = |theme: &Theme, card: &str, line: &str| {
        let mut css = format!(
            "--ground:{};--ink:{};--soft:{};--grid:{};--card:{card};--line:{line};",
            theme.ground, theme.ink, theme.soft, theme.grid
        );
        for (i, colour) in theme.palette.iter().enumerate() {
            let _ = write!(css, "--c{i}:{colour};");
        }
        css
    };
    let (light, dark) =
        (variables(&LIGHT, "#fbfcfd", "#e3e7ec"), variables(&DARK, "#151b23", "#2a333f"));
    format!(
        ":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\
         svg text{{fill:var(--ink);font-family:inherit}}svg .tick,svg .label{{fill:var(--soft)}}\
         .grid{{stroke:var(--grid)}}.axis{{stroke:var(--soft)}}{SHAPES}{}\n{}",
        colours(|i| format!("var(--c{i})")),
        include_str!("style.css")
    )
}

/// A verdict's size, with its colour.
pub(super) fn badge(size: Size) -> String {
    let words = size_words(size);
    format!("<span class=\"badge {}\">{words}</span>", words.replace(' ', "-"))
}

/// A plot with its table: a figure that can be read with eyes, mouse, keyboard or screen reader.
pub(super) fn plot(plot: &Plot) -> String {
    let chart = &plot.chart;
    let rows = chart.y.categories.len() as f64;
    let height =
        if rows > 0.0 { 92.0 + if rows < 8.0 { 34.0 } else { 26.0 } * rows } else { 380.0 };
    const WIDTH: f64 = 940.0;
    let drawn = draw(chart, (WIDTH, height));
    let joined = |numbers: &[f64]| {
        let numbers: Vec<_> = numbers.iter().map(|x| format!("{x:.1}")).collect();
        numbers.join(" ")
    };
    let (id, title) = (escape(&chart.id), escape(&chart.title));
    let axis = if drawn.vertical { "y" } else { "x" };
    format!(
        "<figure id=\"figure-{id}\">\n\
         <div class=\"plot\" tabindex=\"0\" role=\"group\" aria-label=\"{title}. Arrow keys read its \
         values.\" data-table=\"table-{id}\" data-axis=\"{axis}\" data-stops=\"{}\" data-area=\"{}\">\
         <svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-labelledby=\"title-{id} desc-{id}\">\
         <title id=\"title-{id}\">{title}</title><desc id=\"desc-{id}\">{}</desc>{}</svg>\
         <div class=\"readout\" role=\"status\" hidden></div></div>\n\
         <details><summary>Table of these values</summary>\n<div class=\"scroll\" tabindex=\"0\" \
         role=\"region\" aria-label=\"{title}, table\">{}</div></details>\n</figure>\n",
        joined(&drawn.stops),
        joined(&drawn.area),
        escape(&chart.description),
        drawn.elements,
        table(&format!("table-{id}"), &chart.title, &plot.columns, &plot.rows)
    )
}

/// A table whose first column names its rows.
pub(super) fn table(id: &str, caption: &str, columns: &[String], rows: &[Vec<String>]) -> String {
    let mut html =
        format!("<table id=\"{}\"><caption>{}</caption><thead><tr>", escape(id), escape(caption));
    for column in columns {
        let _ = write!(html, "<th scope=\"col\">{}</th>", escape(column));
    }
    html += "</tr></thead><tbody>\n";
    for row in rows {
        html += "<tr>";
        for (i, cell) in row.iter().enumerate() {
            let cell = escape(cell);
            let _ = match i {
                0 => write!(html, "<th scope=\"row\">{cell}</th>"),
                _ if cell.len() > 40 => write!(html, "<td class=\"words\">{cell}</td>"),
                _ => write!(html, "<td>{cell}</td>"),
            };
        }
        html += "</tr>\n";
    }
    html + "</tbody></table>"
}

/// A heading, a sentence that says how to read what follows, and that.
fn section(Section { id, heading, how_to_read, content, .. }: &Section) -> String {
    format!(
        "<section id=\"{id}\" aria-labelledby=\"heading-{id}\">\n<h2 id=\"heading-{id}\">{}</h2>\n\
         <p>{}</p>\n{content}</section>\n",
        escape(heading),
        escape(how_to_read)
    )
}

/// Figures as large as their weight: name, value, and what it is compared with.
pub(super) fn figures(figures: &[[String; 3]]) -> String {
    let mut html = "<dl class=\"figures\">\n".to_string();
    for [name, value, note] in figures {
        let [name, value, note] = [name, value, note].map(|text| escape(text));
        let _ = writeln!(html, "<div><dt>{name}</dt><dd>{value}</dd><dd>{note}</dd></div>");
    }
    html + "</dl>\n"
}

/// Names and what they stand for.
pub(super) fn facts(facts: &[(&str, String)]) -> String {
    let mut html = "<dl class=\"facts\">\n".to_string();
    for (name, value) in facts {
        let _ = writeln!(html, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
    }
    html + "</dl>\n"
}

/// Links to the sections of a page.
fn contents(sections: &[Section]) -> String {
    let mut html = "<nav aria-label=\"Sections\"><ul>".to_string();
    for Section { id, name, .. } in sections {
        let _ = write!(html, "<li><a href=\"#{id}\">{}</a></li>", escape(name));
    }
    html + "</ul></nav>\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    /// A script that was changed without its hash would not run.
    #[test]
    fn the_policy_names_the_script() {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let hash = Sha256::digest(SCRIPT);
        let mut base64 = String::new();
        for bytes in hash.chunks(3) {
            let word = bytes.iter().fold(0u32, |word, &b| word << 8 | u32::from(b))
                << (8 * (3 - bytes.len()));
            for i in 0..=bytes.len() {
                base64.push(DIGITS[(word >> (18 - 6 * i) & 63) as usize] as char);
            }
            base64 += &"=".repeat(3 - bytes.len());
        }
        assert_eq!(base64, SCRIPT_HASH);
    }
}
