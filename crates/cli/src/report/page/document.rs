//! A whole page, in one file that asks for nothing else.

use super::header::Header;
use super::html::plot;
use super::section::{Content, Section};
use crate::report::chart::{DARK, LIGHT, SHAPES, Theme, colours};
use crate::report::escape::printable;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::fmt::Write;

/// The script, whose hash the page's policy names: no other one runs.
const SCRIPT: &str = include_str!("script.js");
/// SHA-256 of it, in Base64.
const SCRIPT_HASH: &str = "GsVUWZwjSIcnpAZNKhMtXS1iAS7Q0Z/lrFb+p7lTqog=";

pub(super) fn document(header: &Header, sections: &[Section]) -> String {
    let policy = format!(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{SCRIPT_HASH}'; \
         base-uri 'none'; form-action 'none'"
    );
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (header.title) }
                style { (PreEscaped(style())) }
            }
            body {
                a.skip href="#main" { "Skip to the report" }
                div.wide {
                    header { (header.top) }
                    nav aria-label="Sections" {
                        ul { @for Section { id, name, .. } in sections { li { a href={ "#" (id) } { (name) } } } }
                    }
                    main #main { @for section in sections { (self::section(section)) } }
                    footer { (header.footer) }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    page.into_string().chars().map(printable).collect()
}

/// A heading, a sentence that says how to read what follows, and that.
fn section(Section { id, heading, how_to_read, content, .. }: &Section) -> Markup {
    html! {
        section id=(id) aria-labelledby={ "heading-" (id) } {
            h2 id={ "heading-" (id) } { (heading) }
            p { (how_to_read) }
            @match content {
                Content::Plot(drawn) => (plot(drawn)),
                Content::Html(html) => (html),
            }
        }
    }
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
