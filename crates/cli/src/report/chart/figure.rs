//! Charts as a picture that stands alone.

use super::{Chart, draw, style};
use crate::report::escape::escape;
use std::fmt::Write;

/// The width and height of one chart with its margins, in pixels.
const PANEL: (f64, f64) = (520.0, 360.0);
/// Around and between charts.
const MARGIN: f64 = 24.0;
/// Of a chart's title.
const TITLE: f64 = 28.0;

/// One SVG picture of charts, side by side in rows of two. It follows the reader's light or dark
/// scheme, and carries titles and descriptions for screen readers; nothing in it comes from
/// elsewhere but the font, by name.
pub fn figure(title: &str, charts: &[Chart]) -> String {
    let columns = if charts.len() == 1 { 1 } else { 2 };
    let rows = charts.len().div_ceil(columns);
    let panel = if columns == 1 { (1.5 * PANEL.0, PANEL.1) } else { PANEL };
    let width = columns as f64 * (panel.0 + MARGIN) + MARGIN;
    let height = rows as f64 * (panel.1 + MARGIN) + MARGIN;
    let descriptions: Vec<_> =
        charts.iter().map(|c| format!("{}: {}", c.title, c.description)).collect();
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-labelledby="title desc"><title id="title">{}</title><desc id="desc">{}</desc><style>{}</style><rect class="ground" width="100%" height="100%"/>"#,
        escape(title),
        escape(&descriptions.join(" ")),
        style::standalone()
    );
    for (i, chart) in charts.iter().enumerate() {
        let x = MARGIN + (i % columns) as f64 * (panel.0 + MARGIN);
        let y = MARGIN + (i / columns) as f64 * (panel.1 + MARGIN);
        let drawn = draw(chart, (panel.0, panel.1 - TITLE));
        let _ = write!(
            svg,
            r#"<g transform="translate({x} {y})"><text class="title" y="14">{}</text><g transform="translate(0 {TITLE})">{}</g></g>"#,
            escape(&chart.title),
            drawn.elements
        );
    }
    svg + "</svg>\n"
}
