//! Curves as charts, as CSV, and the table of `verify`.

use super::align::align;
use super::chart::{Axis, Chart, Colour, Mark, Series, chart_text, figure};
use super::csv::Csv;
use super::number::short;
use super::paint::{Paint, Tone};
use anyhow::Result;
use gemma_mlp_drift::curves::{Curve, Curves, Distance, ErrorCurves, Verification};
use std::fmt::Write;

/// The pictures that `gemma-mlp plot` draws.
pub fn curve_charts(curves: &Curves) -> Vec<Chart> {
    let mut charts = vec![];
    if !curves.values.is_empty() {
        charts.push(functions(curves, false));
    }
    if !curves.derivatives.is_empty() {
        charts.push(functions(curves, true));
    }
    charts.extend(curves.differences.iter().enumerate().map(|(i, curve)| {
        let derivative = i == 1;
        let [id, of] = if derivative {
            ["difference-derivative", "derivatives"]
        } else {
            ["difference", "functions"]
        };
        let colour = if derivative { Colour::Green } else { Colour::Purple };
        let (at, y) = extreme(curve);
        let x = curves.range;
        Chart {
            id: id.into(),
            title: format!("The two GELUs' {of}: {}", curve.name),
            description: format!("At most {} in size, at x = {at:.2}.", short(y.abs())),
            x: Axis::linear("x", (x.low(), x.high())),
            y: Axis::linear_around("", curve.y.iter().copied(), true),
            right: None,
            series: vec![Series::line("", colour, points(curve))],
        }
    }));
    charts.extend(curves.errors.iter().map(|errors| error_chart(errors, curves)));
    charts
}

fn functions(curves: &Curves, derivative: bool) -> Chart {
    let (all, id, title) = match derivative {
        false => (&curves.values, "functions", "The functions"),
        true => (&curves.derivatives, "derivatives", "Their derivatives"),
    };
    let lines = all.iter().enumerate();
    let series = |(i, curve): (usize, &Curve)| {
        let line = Series::line(&curve.name, Colour::ALL[i % 7], points(curve));
        // Where it lies on the exact form, both are seen.
        if curve.name.starts_with("GELU tanh") { line.drawn(Mark::Dashed) } else { line }
    };
    let names: Vec<_> = all.iter().map(|curve| curve.name.as_str()).collect();
    let values = all.iter().flat_map(|curve| curve.y.iter().copied());
    Chart {
        id: id.into(),
        title: title.into(),
        description: format!(
            "{} from {} to {}.",
            names.join(", "),
            curves.range.low(),
            curves.range.high()
        ),
        x: Axis::linear("x", (curves.range.low(), curves.range.high())),
        y: Axis::linear_around("", values, true),
        right: None,
        series: lines.map(series).collect(),
    }
}

fn error_chart(errors: &ErrorCurves, curves: &Curves) -> Chart {
    let values = errors.presets.iter().flat_map(|curve| curve.y.iter().copied());
    let worst = errors.presets.iter().map(|curve| {
        let worst = curve.y.iter().copied().filter(|y| y.is_finite()).fold(0.0, f64::max);
        format!("{} {}", curve.name, short(worst))
    });
    let lines = alike(&errors.presets).into_iter().enumerate();
    let line = |(i, (name, curve)): (usize, (String, &Curve))| {
        Series::line(&name, Colour::ALL[i % 8], points(curve))
    };
    // Ours comes first in the legend and is drawn last, on top.
    let series: Vec<_> = lines.map(line).collect();
    let [id, title, remark] = match errors.derivative {
        false => [
            format!("error-{}", errors.form),
            format!("GELU {} in {}: error of each preset", errors.form, errors.dtype),
            "* taken from the framework's source, not run".into(),
        ],
        true => [
            format!("error-{}-derivative", errors.form),
            format!("GELU {}′ in {}: error of the gradient", errors.form, errors.dtype),
            "no other preset has its own gradients".into(),
        ],
    };
    Chart {
        id,
        title,
        description: format!("The worst of each: {}.", worst.collect::<Vec<_>>().join(", ")),
        x: Axis::linear("x", (curves.range.low(), curves.range.high())),
        y: Axis::log_around(&format!("largest relative error around x; {remark}"), values),
        right: None,
        series,
    }
}

/// Presets with one curve in common under all their names.
fn alike(presets: &[Curve]) -> Vec<(String, &Curve)> {
    let mut groups: Vec<(String, &Curve)> = vec![];
    for preset in presets {
        let name = preset.name.replace(" (read from source)", "*");
        let bits = |curve: &Curve| curve.y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
        match groups.iter_mut().find(|(_, other)| bits(other) == bits(preset)) {
            Some((names, _)) => *names += &format!(", {name}"),
            None => groups.push((name, preset)),
        }
    }
    groups
}

fn points(curve: &Curve) -> Vec<(f64, f64)> {
    curve.x.iter().copied().zip(curve.y.iter().copied()).collect()
}

/// The point that is farthest from 0.
fn extreme(curve: &Curve) -> (f64, f64) {
    let far = |a: &(f64, f64), b: &(f64, f64)| a.1.abs().total_cmp(&b.1.abs());
    points(curve).into_iter().filter(|p| p.1.is_finite()).max_by(far).unwrap_or_default()
}

/// All curves in one picture.
pub fn curves_svg(curves: &Curves) -> String {
    figure("The two forms of GELU, beside related functions", &curve_charts(curves))
}

/// All curves as text.
pub fn curves_text(curves: &Curves, paint: Paint) -> String {
    let charts: Vec<_> =
        curve_charts(curves).iter().map(|chart| chart_text(chart, paint)).collect();
    charts.join("\n")
}

/// All curves as a table with a row for each point: which picture, which curve, x and y.
///
/// # Errors
/// None that is known: the table is written to memory.
pub fn curves_csv(curves: &Curves) -> Result<String> {
    let mut csv = Csv::new(&["plot", "curve", "x", "y"])?;
    let mut add = |plot: &str, curve: &Curve| -> Result<()> {
        for (x, y) in curve.x.iter().zip(&curve.y) {
            csv.row(&[plot, &curve.name, &Csv::number(*x), &Csv::number(*y)])?;
        }
        Ok(())
    };
    curves.values.iter().try_for_each(|curve| add("functions", curve))?;
    curves.derivatives.iter().try_for_each(|curve| add("derivatives", curve))?;
    for (name, curve) in ["difference", "difference-derivative"].iter().zip(&curves.differences) {
        add(name, curve)?;
    }
    for errors in &curves.errors {
        let of = if errors.derivative { "-derivative" } else { "" };
        let name = format!("relative-error-{}{of}-{}", errors.form, errors.dtype);
        errors.presets.iter().try_for_each(|curve| add(&name, curve))?;
    }
    csv.text()
}

/// The table that `gemma-mlp verify` prints.
pub fn verification_table(verification: &Verification, paint: Paint) -> String {
    let mut rows = vec![
        [
            verification.dtype,
            "ours against the truth",
            "",
            "",
            "",
            "candle and the truth",
            "",
            "candle and ours",
            "",
        ]
        .map(String::from),
        ["function", "max abs", "at x", "max ULP", "bound", "max abs", "at x", "max abs", "at x"]
            .map(String::from),
    ];
    for row in &verification.functions {
        let pair = |d: Distance| {
            let missing = match d.not_finite {
                0 => String::new(),
                n => format!(" ({n} NaN or ∞)"),
            };
            [
                short(d.max_abs) + &missing,
                if d.max_abs == 0.0 { String::new() } else { format!("{:.4}", d.at) },
            ]
        };
        let [[d1, x1], [d2, x2], [d3, x3]] = [row.truth, row.candle_truth, row.candle].map(pair);
        let ulp = format!("{:.4}", row.truth.max_ulp);
        let bound = format!("{:.2}", row.bound_ulp);
        rows.push([row.function.clone(), d1, x1, ulp, bound, d2, x2, d3, x3]);
    }
    let mut text = align(rows, 1);
    let failed: Vec<_> = verification
        .functions
        .iter()
        .filter(|row| !row.holds())
        .map(|row| row.function.as_str())
        .collect();
    let verdict = if failed.is_empty() {
        paint.paint(Tone::Good, "every function is within its error bound")
    } else {
        paint.paint(Tone::Bad, format!("outside the error bound: {}", failed.join(", ")))
    };
    let (points, range) = (verification.points, verification.range);
    let _ = writeln!(text, "\n{verdict}, at {points} points of {range}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;
    use gemma_mlp::Activation;
    use gemma_mlp_drift::curves::CurveOptions;

    fn curves() -> Curves {
        let functions = vec![Activation::EXACT, Activation::TANH, Activation::Relu];
        let range = "-4:4".parse().unwrap();
        let options = CurveOptions { functions, range, derivatives: true, dtype: DType::BF16 };
        Curves::new(&options).unwrap()
    }

    #[test]
    fn every_chart_has_marks_and_words() {
        let charts = curve_charts(&curves());
        assert_eq!(charts.len(), 8);
        for chart in &charts {
            assert!(chart.marks() > 150 && !chart.description.is_empty(), "{}", chart.title);
        }
        let text = curves_text(&curves(), Paint::Plain);
        assert!(text.contains("exact − tanh") && !text.contains('\u{1b}'), "{text}");
        assert!(curves_text(&curves(), Paint::Ansi).contains('\u{1b}'));
    }

    #[test]
    fn csv_has_every_point() {
        let csv = curves_csv(&curves()).unwrap();
        assert_eq!(csv.lines().count(), 1 + (3 + 3 + 2) * 401 + 2 * (8 + 2) * 160);
        assert!(csv.starts_with("plot,curve,x,y\nfunctions,GELU exact,-4,"), "{csv}");
    }

    #[test]
    fn png_is_drawn_with_letters() {
        use crate::report::png;
        let svg = curves_svg(&curves());
        let with = png(&svg).unwrap();
        assert_eq!(&with[1..4], b"PNG");
        let without = png(&svg.replace("<text", "<g").replace("</text>", "</g>")).unwrap();
        assert!(with.len() > without.len() + 10_000, "{} {}", with.len(), without.len());
        assert!(png("<html>").is_err());
    }
}
