//! A chart as SVG elements.

use super::{Axis, Chart, Mark, Series};
use crate::report::escape::escape;
use std::fmt::Write;

/// A chart's elements in a frame of given size, its upper left corner at 0.
#[derive(Debug)]
pub(in crate::report) struct Drawn {
    pub(in crate::report) elements: String,
    /// The places of the points of the first series, from left to right, or of the categories from
    /// the top down.
    pub(in crate::report) stops: Vec<f64>,
    /// Whether the stops are from the top down.
    pub(in crate::report) vertical: bool,
    /// The area between the axes: left, top, right, bottom.
    pub(in crate::report) area: [f64; 4],
}

/// The width of a text of 12 px, as far as one can tell without its font.
fn width(text: &str) -> f64 {
    let narrow = |c: char| "⁻⁰¹²³⁴⁵⁶⁷⁸⁹il.,·' ′".contains(c);
    text.chars().map(|c| if narrow(c) { 4.2 } else { 7.2 }).sum()
}

/// Where the axes lie, and how numbers become pixels.
struct Frame<'a> {
    chart: &'a Chart,
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
    /// The right edge of all.
    edge: f64,
}

/// Draws a chart.
pub(in crate::report) fn draw(chart: &Chart, size: (f64, f64)) -> Drawn {
    let mut out = String::new();
    let legend = legend(&mut out, chart, size.0);
    let frame = Frame::new(chart, size, legend);
    frame.grid(&mut out);
    frame.labels(&mut out);
    for series in drawing_order(chart) {
        frame.series(&mut out, series);
    }
    let vertical = !chart.y.categories.is_empty();
    let is_map = chart.series.iter().any(|series| matches!(series.mark, Mark::Cells(..)));
    let stops = match chart.series.first() {
        _ if is_map => columns(chart).into_iter().map(|x| frame.x(x)).collect(),
        _ if vertical => (0..chart.y.categories.len()).map(|i| frame.y(i as f64, false)).collect(),
        Some(first) => first.points.iter().map(|p| frame.x(p.0)).collect(),
        None => vec![],
    };
    let area = [frame.left, frame.top, frame.right, frame.bottom];
    Drawn { elements: out, stops, vertical, area }
}

/// The places from left to right at which a chart has a point.
fn columns(chart: &Chart) -> Vec<f64> {
    let mut all: Vec<f64> =
        chart.series.iter().flat_map(|s| s.points.iter().map(|p| p.0)).collect();
    all.sort_by(f64::total_cmp);
    all.dedup();
    all
}

/// The first series lies on top, but bars lie below everything, and dashes above the lines that they
/// are compared with.
pub(super) fn drawing_order(chart: &Chart) -> impl Iterator<Item = &Series> {
    let level = |series: &Series| match series.mark {
        Mark::Bars(_) => 0,
        Mark::Dashed => 2,
        _ => 1,
    };
    let of = move |wanted| chart.series.iter().rev().filter(move |series| level(series) == wanted);
    of(0).chain(of(1)).chain(of(2))
}

/// The names of the series in rows from the top. Returns their height.
fn legend(out: &mut String, chart: &Chart, size: f64) -> f64 {
    let named: Vec<_> = chart.series.iter().filter(|s| !s.name.is_empty()).collect();
    if named.is_empty() {
        return 0.0;
    }
    let (mut x, mut y) = (0.0, 12.0);
    for series in named {
        let needed = 26.0 + width(&series.name) + 18.0;
        if x > 0.0 && x + needed > size {
            (x, y) = (0.0, y + 18.0);
        }
        let class = series.colour.class();
        let middle = y - 4.0;
        let _ = match series.mark {
            Mark::Line | Mark::Dotted => {
                write!(out, r#"<path class="line {class}" d="M{:.1} {middle:.1}h18"/>"#, x + 1.0)
            }
            Mark::Dashed | Mark::Rule => {
                write!(out, r#"<path class="dashed {class}" d="M{:.1} {middle:.1}h18"/>"#, x + 1.0)
            }
            Mark::Bars(_) => write!(
                out,
                r#"<rect class="bar {class}" x="{:.1}" y="{:.1}" width="18" height="10" rx="2"/>"#,
                x + 1.0,
                middle - 5.0
            ),
            Mark::Cells(_, strength) => write!(
                out,
                r#"<rect class="cell {class}" fill-opacity="{strength}" x="{:.1}" y="{:.1}" width="18" height="10"/>"#,
                x + 1.0,
                middle - 5.0
            ),
            Mark::Span => Ok(()),
            Mark::Dots | Mark::Lollipop => {
                write!(
                    out,
                    r#"<circle class="dot {class}" cx="{:.1}" cy="{middle:.1}" r="4"/>"#,
                    x + 10.0
                )
            }
        };
        let _ = write!(
            out,
            r#"<text class="key" x="{:.1}" y="{y:.1}">{}</text>"#,
            x + 26.0,
            escape(&series.name)
        );
        x += needed;
    }
    y + 12.0
}

impl<'a> Frame<'a> {
    fn new(chart: &'a Chart, (edge, height): (f64, f64), legend: f64) -> Self {
        let widest =
            |axis: &Axis| axis.ticks(5).iter().map(|(_, label)| width(label)).fold(14.0, f64::max);
        let label = if chart.y.label.is_empty() && chart.right.is_none() { 6.0 } else { 22.0 };
        Self {
            chart,
            left: widest(&chart.y) + 10.0,
            top: legend + label,
            right: edge - chart.right.as_ref().map_or(12.0, |axis| widest(axis) + 10.0),
            bottom: height - 40.0,
            edge,
        }
    }

    fn x(&self, value: f64) -> f64 {
        self.left + (self.right - self.left) * self.chart.x.place(value)
    }

    fn y(&self, value: f64, on_right: bool) -> f64 {
        self.bottom - (self.bottom - self.top) * self.y_axis(on_right).place(value)
    }

    fn y_axis(&self, on_right: bool) -> &Axis {
        match &self.chart.right {
            Some(right) if on_right => right,
            _ => &self.chart.y,
        }
    }

    fn grid(&self, out: &mut String) {
        let Self { left, top, right, bottom, .. } = *self;
        let wanted = (((bottom - top) / 44.0) as usize).clamp(3, 8);
        for (value, label) in self.chart.y.ticks(wanted) {
            let y = self.y(value, false);
            let _ = write!(out, r#"<path class="grid" d="M{left:.1} {y:.1}H{right:.1}"/>"#);
            let at = y + 4.0;
            text(out, "tick", "end", (left - 8.0, at), &label);
        }
        for (value, label) in self.chart.right.iter().flat_map(|axis| axis.ticks(wanted)) {
            text(out, "tick", "start", (right + 8.0, self.y(value, true) + 4.0), &label);
        }
        let wanted = (((right - left) / 56.0) as usize).clamp(3, 12);
        for (value, label) in self.chart.x.ticks(wanted) {
            let x = self.x(value);
            let _ = write!(out, r#"<path class="grid" d="M{x:.1} {top:.1}V{bottom:.1}"/>"#);
            text(out, "tick", "middle", (x, bottom + 17.0), &label);
        }
        let _ = write!(out, r#"<path class="axis" d="M{left:.1} {bottom:.1}H{right:.1}"/>"#);
    }

    fn labels(&self, out: &mut String) {
        let Self { left, top, right, bottom, edge, .. } = *self;
        text(out, "label", "start", (0.0, top - 9.0), &self.chart.y.label);
        if let Some(axis) = &self.chart.right {
            text(out, "label", "end", (edge, top - 9.0), &axis.label);
        }
        text(out, "label", "middle", (0.5 * (left + right), bottom + 35.0), &self.chart.x.label);
    }

    fn series(&self, out: &mut String, series: &Series) {
        let class = series.colour.class();
        let axis = self.y_axis(series.on_right);
        let holds = |p: &(f64, f64)| self.chart.x.holds(p.0) && axis.holds(p.1);
        let place = |p: &(f64, f64)| (self.x(p.0), self.y(p.1, series.on_right));
        let dots = |out: &mut String, radius: f64, extra: &str| {
            for (x, y) in series.points.iter().filter(|p| holds(p)).map(place) {
                let _ = write!(
                    out,
                    r#"<circle class="dot{extra} {class}" cx="{x:.1}" cy="{y:.1}" r="{radius}"/>"#
                );
            }
        };
        match series.mark {
            Mark::Line | Mark::Dashed | Mark::Dotted => {
                let kind = if series.mark == Mark::Dashed { "dashed" } else { "line" };
                let mut path = String::new();
                let mut pen = 'M';
                for point in &series.points {
                    if !holds(point) {
                        pen = 'M';
                        continue;
                    }
                    let (x, y) = place(point);
                    let _ = write!(path, "{pen}{x:.1} {y:.1}");
                    pen = 'L';
                }
                let _ = write!(out, r#"<path class="{kind} {class}" d="{path}"/>"#);
                if series.mark == Mark::Dotted {
                    dots(out, 3.5, "");
                }
            }
            Mark::Dots => {
                let many = series.points.len() > 200;
                dots(out, if many { 2.0 } else { 3.5 }, if many { " faint" } else { "" });
            }
            Mark::Bars(width) => {
                for &(x, y) in series.points.iter().filter(|p| holds(p)) {
                    let (left, right) = (self.x(x - 0.5 * width), self.x(x + 0.5 * width));
                    let y = self.y(y, series.on_right);
                    let height = (self.bottom - y).max(0.0);
                    if height > 0.05 {
                        let _ = write!(
                            out,
                            r#"<rect class="bar {class}" x="{left:.1}" y="{y:.1}" width="{:.1}" height="{height:.1}"/>"#,
                            (right - left - 0.5).max(0.5)
                        );
                    }
                }
            }
            Mark::Cells(width, strength) => {
                for (from, to, y) in rows_of_cells(&series.points, width) {
                    // Edges that two cells share are one, as printed: no gap shows between them.
                    let printed = |at: f64| (10.0 * at).round() / 10.0;
                    let [left, right] = [from, to].map(|x| printed(self.x(x)));
                    let [top, bottom] =
                        [y + 0.5, y - 0.5].map(|y| printed(self.y(y, series.on_right)));
                    let _ = write!(
                        out,
                        r#"<rect class="cell {class}" fill-opacity="{strength}" shape-rendering="crispEdges" x="{left:.1}" y="{top:.1}" width="{:.1}" height="{:.1}"/>"#,
                        right - left,
                        bottom - top
                    );
                }
            }
            Mark::Lollipop => {
                // From 0 on, where numbers of both signs stand.
                let (low, high) = self.chart.x.range;
                let start = if low < 0.0 && high > 0.0 { self.x(0.0) } else { self.left };
                for (x, y) in series.points.iter().filter(|p| holds(p)).map(place) {
                    let _ = write!(
                        out,
                        r#"<path class="stem {class}" d="M{:.1} {y:.1}H{x:.1}"/>"#,
                        start
                    );
                }
                dots(out, 5.0, "");
            }
            Mark::Span => {
                for pair in series.points.chunks_exact(2).filter(|pair| pair.iter().all(holds)) {
                    let ((from, y), (to, _)) = (place(&pair[0]), place(&pair[1]));
                    let _ = write!(
                        out,
                        r#"<path class="stem {class}" d="M{from:.1} {y:.1}H{to:.1}"/>"#
                    );
                }
            }
            Mark::Rule => {
                for x in series.points.iter().filter(|p| self.chart.x.holds(p.0)) {
                    let x = self.x(x.0);
                    let _ = write!(
                        out,
                        r#"<path class="rule {class}" d="M{x:.1} {:.1}V{:.1}"/>"#,
                        self.top, self.bottom
                    );
                }
            }
        }
    }
}

/// Cells, those side by side as one: their ends, and their row.
fn rows_of_cells(points: &[(f64, f64)], width: f64) -> Vec<(f64, f64, f64)> {
    let mut points = points.to_vec();
    points.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.total_cmp(&b.0)));
    let mut rows: Vec<(f64, f64, f64)> = vec![];
    for (x, y) in points {
        let (left, right) = (x - 0.5 * width, x + 0.5 * width);
        match rows.last_mut() {
            Some((_, end, row)) if *row == y && (left - *end).abs() < 1e-6 * width => *end = right,
            _ => rows.push((left, right, y)),
        }
    }
    rows
}

fn text(out: &mut String, class: &str, anchor: &str, (x, y): (f64, f64), content: &str) {
    if !content.is_empty() {
        let _ = write!(
            out,
            r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#,
            escape(content)
        );
    }
}
