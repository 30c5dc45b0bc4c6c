//! A chart as text.

use super::{Axis, Chart, Mark, Series};
use crate::report::paint::{Paint, Tone};

/// Columns and rows between the axes.
const SIZE: (usize, usize) = (72, 18);

/// The marks of series where there is no colour to tell them apart.
const MARKS: [char; 8] = ['*', 'o', '+', 'x', '#', '@', '%', '.'];

/// A chart for a terminal: dots of Braille in the series' colours, or one letter a series where
/// there are no colours.
pub fn chart_text(chart: &Chart, paint: Paint) -> String {
    let mut canvas = Canvas::new();
    for (i, series) in chart.series.iter().enumerate().rev() {
        canvas.series(chart, series, i);
    }
    let ticks = chart.y.ticks(5);
    let label = |row: usize| {
        let at =
            |value: f64| ((1.0 - chart.y.place(value)) * (SIZE.1 - 1) as f64).round() == row as f64;
        ticks.iter().find(|(value, _)| at(*value)).map_or("", |(_, label)| label)
    };
    let width = ticks.iter().map(|(_, label)| label.chars().count()).max().unwrap_or(0);
    let mut text = format!("{}\n", paint.paint(Tone::Strong, &chart.title));
    if !chart.y.label.is_empty() {
        text += &format!("{}\n", paint.paint(Tone::Faint, &chart.y.label));
    }
    for row in 0..SIZE.1 {
        let label = label(row);
        let axis = if label.is_empty() { '│' } else { '┤' };
        let line = canvas.row(row, paint);
        text += format!("{label:>width$} {axis}{line}").trim_end();
        text.push('\n');
    }
    text += &x_axis(&chart.x, width);
    if chart.series.len() > 1 {
        let key = |(i, series): (usize, &Series)| {
            let mark = match paint {
                Paint::Plain => MARKS[i % MARKS.len()],
                Paint::Ansi => '━',
            };
            let mark = paint.paint(Tone::Series(series.colour as usize), mark);
            format!("{mark} {}", series.name)
        };
        let keys: Vec<_> = chart.series.iter().enumerate().map(key).collect();
        for keys in keys.chunks(4) {
            text += &format!("{:width$}  {}\n", "", keys.join("   "));
        }
    }
    text
}

/// The lower edge, its ticks, and what is measured.
fn x_axis(axis: &Axis, width: usize) -> String {
    let mut edge: Vec<char> = vec!['─'; SIZE.0];
    let mut labels = vec![' '; SIZE.0 + 8];
    let mut free = 0;
    for (value, label) in axis.ticks(8) {
        let at = (axis.place(value) * (SIZE.0 - 1) as f64).round().max(0.0) as usize;
        let length = label.chars().count();
        let start = at.saturating_sub(length / 2);
        if at >= SIZE.0 || start < free || start + length > labels.len() {
            continue;
        }
        edge[at] = '┬';
        labels[start..start + length].iter_mut().zip(label.chars()).for_each(|(l, c)| *l = c);
        free = start + length + 1;
    }
    let labels: String = labels.into_iter().collect();
    format!(
        "{:width$} └{}\n{:width$}  {}\n",
        "",
        edge.into_iter().collect::<String>(),
        "",
        labels.trim_end()
    )
}

/// Cells of two by four dots each.
struct Canvas {
    /// Per cell which of its dots are set, and by which series and colour last.
    cells: Vec<(u8, usize, usize)>,
}

impl Canvas {
    fn new() -> Self {
        Self { cells: vec![(0, 0, 0); SIZE.0 * SIZE.1] }
    }

    fn series(&mut self, chart: &Chart, series: &Series, index: usize) {
        let y_axis = match &chart.right {
            Some(right) if series.on_right => right,
            _ => &chart.y,
        };
        let dot = |p: &(f64, f64)| {
            let fits = chart.x.holds(p.0) && y_axis.holds(p.1);
            let x = chart.x.place(p.0) * (2 * SIZE.0 - 1) as f64;
            let y = (1.0 - y_axis.place(p.1)) * (4 * SIZE.1 - 1) as f64;
            fits.then_some((x, y))
        };
        let connected = matches!(series.mark, Mark::Line | Mark::Dashed | Mark::Dotted);
        let mut last: Option<(f64, f64)> = None;
        for point in &series.points {
            let here = dot(point);
            if let Some((x, y)) = here {
                let from = last.filter(|_| connected).unwrap_or((x, y));
                let steps = (x - from.0).abs().max((y - from.1).abs()).ceil().clamp(1.0, 1e4);
                for step in 0..=steps as usize {
                    let t = step as f64 / steps;
                    self.set(from.0 + t * (x - from.0), from.1 + t * (y - from.1), series, index);
                }
            }
            last = here;
        }
    }

    fn set(&mut self, x: f64, y: f64, series: &Series, index: usize) {
        /// The bits of a cell's dots in Unicode's Braille block, by column and row.
        const DOTS: [[u8; 4]; 2] = [[1, 2, 4, 64], [8, 16, 32, 128]];
        let (x, y) = (x.round(), y.round());
        if x < 0.0 || y < 0.0 || x >= (2 * SIZE.0) as f64 || y >= (4 * SIZE.1) as f64 {
            return;
        }
        let (x, y) = (x as usize, y as usize);
        let cell = &mut self.cells[y / 4 * SIZE.0 + x / 2];
        *cell = (cell.0 | DOTS[x % 2][y % 4], index, series.colour as usize);
    }

    fn row(&self, row: usize, paint: Paint) -> String {
        let cell = |&(dots, index, colour): &(u8, usize, usize)| match paint {
            _ if dots == 0 => " ".to_string(),
            Paint::Plain => MARKS[index % MARKS.len()].to_string(),
            Paint::Ansi => {
                let braille = char::from_u32(0x2800 + u32::from(dots)).unwrap_or(' ');
                paint.paint(Tone::Series(colour), braille)
            }
        };
        self.cells[row * SIZE.0..(row + 1) * SIZE.0].iter().map(cell).collect()
    }
}
