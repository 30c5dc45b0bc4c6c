//! A figure of every layer, of the drift and of the floor.

use crate::report::chart::{Axis, Chart, Mark, Series};
use crate::report::number::precise;
use crate::report::page::plot::{Plot, colours, named};
use crate::report::run::Run;
use gemma_mlp_drift::drift::Drift;

/// Which layer, the drift's figure, and the floor's.
pub(super) type Pairs = Vec<(usize, f64, f64)>;

/// How to read the plot of several runs.
pub(super) const LINES: &str = "Solid is the drift, dashed of the same colour its noise floor.";

pub(super) fn plot(
    runs: &[Run],
    of: impl Fn(&Drift) -> Pairs,
    id: &str,
    title: &str,
    unit: &str,
) -> Option<Plot> {
    let all: Vec<Pairs> = runs.iter().map(|run| of(run.drift)).collect();
    let mut indices: Vec<usize> = all.iter().flatten().map(|row| row.0).collect();
    indices.sort_unstable();
    indices.dedup();
    let (first, last) = (*indices.first()?, *indices.last()?);
    let (mut series, mut columns) = (vec![], vec!["layer".to_string()]);
    let mut rows: Vec<Vec<String>> = indices.iter().map(|i| vec![i.to_string()]).collect();
    for (i, (run, pairs)) in runs.iter().zip(&all).enumerate() {
        let [own, floor] = colours(runs, i);
        let at = |index: usize| pairs.iter().find(|row| row.0 == index);
        let points = |pick: fn(&(usize, f64, f64)) -> f64| -> Vec<(f64, f64)> {
            indices.iter().map(|&i| (i as f64, at(i).map_or(f64::NAN, pick))).collect()
        };
        let lines = [
            ("drift", own, Mark::Dotted, points(|row| row.1)),
            ("noise floor", floor, Mark::Dashed, points(|row| row.2)),
        ];
        for (what, colour, mark, points) in lines {
            let name = named(runs, run, what);
            columns.push(name.clone());
            for (row, point) in rows.iter_mut().zip(&points) {
                row.push(precise(point.1));
            }
            series.push(Series { name, mark, colour, on_right: false, points });
        }
        columns.push(named(runs, run, "ratio"));
        for (row, &index) in rows.iter_mut().zip(&indices) {
            row.push(at(index).map_or(String::new(), |(_, drift, floor)| precise(drift / floor)));
        }
    }
    let above = all.iter().flatten().filter(|row| row.1 > row.2).count();
    let count = all.iter().map(Vec::len).sum::<usize>();
    let values: Vec<f64> = series.iter().flat_map(|s| s.points.iter().map(|p| p.1)).collect();
    let width = (last - first) as f64;
    Some(Plot {
        chart: Chart {
            id: id.into(),
            title: title.into(),
            description: format!("{above} of {count} layers are above their noise floor."),
            x: Axis::whole(
                "layer",
                (first as f64 - 0.02 * width - 0.3, last as f64 + 0.02 * width + 0.3),
            ),
            y: Axis::log_around(unit, values.into_iter()),
            right: None,
            series,
        },
        columns,
        rows,
    })
}
