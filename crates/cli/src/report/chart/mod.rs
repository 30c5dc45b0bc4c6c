//! Pictures as data: axes, and what is drawn between them. SVG, PNG and a terminal's text are views
//! of it.

mod axis;
mod figure;
mod png;
mod style;
mod svg;
mod terminal;

pub use png::{PngError, png};

pub(super) use axis::{Axis, superscript};
pub(super) use figure::figure;
pub(super) use style::{DARK, LIGHT, SHAPES, Theme, colours};
pub(super) use svg::draw;
pub(super) use terminal::chart_text;

/// A picture.
#[derive(Debug, Clone)]
pub struct Chart {
    /// A short name of letters, digits and hyphens: of files and of elements in a page.
    pub id: String,
    /// What it shows, in a line.
    pub title: String,
    /// What there is to see, for those who do not see it.
    pub description: String,
    /// From left to right.
    pub x: Axis,
    /// From the bottom up.
    pub y: Axis,
    /// A second scale on the right, for series that say so.
    pub right: Option<Axis>,
    /// What is drawn, the first on top.
    pub series: Vec<Series>,
}

/// Numbers that belong together.
#[derive(Debug, Clone)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// How it is drawn.
    pub mark: Mark,
    /// In which colour.
    pub colour: Colour,
    /// Whether it goes by the scale on the right.
    pub on_right: bool,
    /// Pairs of x and y. Where one is not finite, or cannot be on its scale, nothing is drawn.
    pub points: Vec<(f64, f64)>,
}

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mark {
    /// A line.
    Line,
    /// A dashed line: what is compared with.
    Dashed,
    /// A line with a dot at each point.
    Dotted,
    /// Dots alone.
    Dots,
    /// Bars of this width in units of x, from the bottom.
    Bars(f64),
    /// For a y axis of categories: a dot at x, on a line from the left, or from 0 if that lies within.
    Lollipop,
    /// Lines that join the first point with the second, the third with the fourth, and so on.
    Span,
    /// A vertical line over the whole height at each point's x.
    Rule,
    /// The cells of a map: one unit of y high and this wide in units of x, around each point; the second number is how
    /// strong the colour is, from 0 to 1. The cells of a map's series do not overlap, and the reader stops at each of
    /// its columns.
    Cells(f64, f64),
}

/// A colour by its place in the palette, which is made to be told apart by people who see few
/// colours, on a light and on a dark ground.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Colour {
    Blue,
    Orange,
    Green,
    Purple,
    Red,
    Cyan,
    Brown,
    Grey,
}

impl Colour {
    /// All of them, in the order in which series take them; grey is for what is compared with.
    pub const ALL: [Self; 8] = [
        Self::Blue,
        Self::Orange,
        Self::Green,
        Self::Purple,
        Self::Red,
        Self::Cyan,
        Self::Brown,
        Self::Grey,
    ];
}

impl Series {
    /// A line.
    pub fn line(name: &str, colour: Colour, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), mark: Mark::Line, colour, on_right: false, points }
    }

    /// This series, drawn in another way.
    pub fn drawn(self, mark: Mark) -> Self {
        Self { mark, ..self }
    }
}

#[cfg(test)]
impl Chart {
    /// How many marks there are: points that can be drawn.
    pub fn marks(&self) -> usize {
        let drawable = |series: &Series| {
            let y = if series.on_right { self.right.as_ref().unwrap_or(&self.y) } else { &self.y };
            series.points.iter().filter(|p| self.x.holds(p.0) && y.holds(p.1)).count()
        };
        self.series.iter().map(drawable).sum()
    }
}
