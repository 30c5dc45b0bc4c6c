//! The points of a comparison, sorted for those who read: by the part of a layer, with the one that stands for it.

use super::number::{measured, short};
use gemma_mlp_drift::compare::{
    ComparedLayer, ComparedPoint, Comparison, Distance, DumpSummary, Reference, Sight,
};

/// A part of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Attention,
    Mlp,
    /// The residual stream behind the layer.
    Residual,
}

impl Part {
    pub(super) const ALL: [Self; 3] = [Self::Attention, Self::Mlp, Self::Residual];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::Mlp => "MLP",
            Self::Residual => "residual stream",
        }
    }

    /// For names of files and elements.
    pub(super) fn id(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::Mlp => "mlp",
            Self::Residual => "residual",
        }
    }

    /// The part that a point is in, by its name within a layer.
    fn of(point: &str) -> Self {
        match point {
            "hidden" => Self::Residual,
            point if point.starts_with("mlp.") => Self::Mlp,
            _ => Self::Attention,
        }
    }

    /// A point's name within its part.
    pub(super) fn short(self, point: &str) -> &str {
        let prefix = match self {
            Self::Attention => "attn.",
            Self::Mlp => "mlp.",
            Self::Residual => "",
        };
        point.strip_prefix(prefix).unwrap_or(point)
    }

    /// The points of a layer that are in it.
    pub(super) fn points(self, layer: &ComparedLayer) -> impl Iterator<Item = &ComparedPoint> {
        layer.points.iter().filter(move |point| Self::of(&point.point) == self)
    }

    /// Per layer the point that stands for it: the first one that differs, or else the one of the largest ratio.
    pub(super) fn rows(self, comparison: &Comparison) -> Vec<Row<'_>> {
        let row = |layer| -> Option<Row> {
            let known = || self.points(layer).filter(|point| distance(point).is_some());
            let guilty = known().find(|point| point.differs);
            let farthest = || known().max_by(|a, b| weight(a).total_cmp(&weight(b)));
            Some(Row { layer: layer.index, point: guilty.or_else(farthest)? })
        };
        comparison.layers.iter().filter_map(row).collect()
    }
}

/// A layer, and the point that stands for a part of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) layer: usize,
    pub(super) point: &'a ComparedPoint,
}

/// How far a point is from ours by its own doing, or in all where only that is known.
pub(super) fn distance(point: &ComparedPoint) -> Option<&Distance> {
    point.same_input.as_ref().or(point.accumulated.as_ref())
}

/// What points are sorted by: the ratio to the floor, and above all what is NaN.
pub(super) fn weight(point: &ComparedPoint) -> f64 {
    match distance(point) {
        Some(distance) if distance.rel_l2.is_nan() => f64::INFINITY,
        Some(distance) if !distance.ratio.is_nan() => distance.ratio,
        _ => 0.0,
    }
}

/// A ratio to the floor: `nan` where the difference is, `-` where there is no floor.
pub(super) fn ratio(distance: &Distance, write: fn(f64) -> String) -> String {
    if distance.rel_l2.is_nan() { "nan".into() } else { measured(distance.ratio, write) }
}

/// A cosine: what is far from 1 is seen in a few digits.
pub(super) fn cosine(x: f64) -> String {
    if x.is_nan() { "nan".into() } else { format!("{x:.5}") }
}

/// ‖theirs‖/‖ours‖.
pub(super) fn norm_ratio(x: f64) -> String {
    if (0.1..10.0).contains(&x) { format!("{x:.3}") } else { short(x) }
}

/// What a point is called in a dump.
pub(super) fn full_name(layer: Option<usize>, point: &str) -> String {
    match layer {
        Some(layer) if point == "hidden" => format!("hidden.{layer}"),
        Some(layer) => format!("layers.{layer}.{point}"),
        None => point.into(),
    }
}

/// What a dump is of, in a line.
pub(super) fn dump_line(dump: &DumpSummary) -> String {
    let of = dump.framework.as_ref().map_or(String::new(), |name| format!(" of {name}"));
    format!(
        "{}: {}{of}, computed in {}: {}",
        dump.source, dump.format, dump.dtype, dump.dtype_reason
    )
}

/// What it was compared with, in a line.
pub(super) fn reference_line(ours: &Reference) -> String {
    match ours {
        Reference::Model(checkpoint) => format!(
            "{}: {}, {} layers, weights in {}",
            checkpoint.source, checkpoint.family, checkpoint.blocks, checkpoint.dtype
        ),
        Reference::Dump(dump) => dump_line(dump),
    }
}

/// Which points a dump has: those that as many layers have stand together.
pub(super) fn points_line(dump: &DumpSummary) -> String {
    let mut groups: Vec<(Vec<&str>, Option<usize>)> = vec![];
    for (name, layers) in &dump.points {
        let outside = ["embedding", "normed", "logits"].contains(&name.as_str());
        let layers = (!outside).then_some(*layers);
        match groups.iter_mut().find(|(_, other)| *other == layers) {
            Some((names, _)) => names.push(name),
            None => groups.push((vec![name], layers)),
        }
    }
    let group = |(names, layers): (Vec<&str>, Option<usize>)| match layers {
        None => folded(&names),
        Some(1) => format!("{} in 1 layer", folded(&names)),
        Some(n) => format!("{} in {n} layers", folded(&names)),
    };
    groups.into_iter().map(group).collect::<Vec<_>>().join("; ")
}

/// `attn.q, mlp.{gate,up}, hidden`.
fn folded(names: &[&str]) -> String {
    let prefix = |name: &str| name.split_once('.').map(|(prefix, _)| prefix.to_string());
    let alike = names.chunk_by(|a, b| prefix(a).is_some() && prefix(a) == prefix(b));
    let fold = |names: &[&str]| match (names, names[0].split_once('.')) {
        ([_, _, ..], Some((prefix, _))) => {
            let rest = names.iter().filter_map(|name| name.split_once('.')).map(|(_, rest)| rest);
            format!("{prefix}.{{{}}}", rest.collect::<Vec<_>>().join(","))
        }
        _ => names.join(", "),
    };
    alike.map(fold).collect::<Vec<_>>().join(", ")
}

/// `0, 3 to 5`.
pub(super) fn ranges(layers: &[usize]) -> String {
    let runs = layers.chunk_by(|a, b| a + 1 == *b);
    let run = |run: &[usize]| match run {
        [first, .., last] => format!("{first} to {last}"),
        run => run.iter().map(usize::to_string).collect(),
    };
    runs.map(run).collect::<Vec<_>>().join(", ")
}

/// What is said of a mistake below the floor.
pub(super) fn sight(sight: Sight) -> &'static str {
    match sight {
        Sight::Excluded => "not there",
        Sight::Suspected => "as if it were there",
        Sight::TooSmallToTell => "too small to tell",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_in_a_row_stand_together() {
        assert_eq!(ranges(&[0, 3, 4, 5, 9, 10]), "0, 3 to 5, 9 to 10");
        assert_eq!((ranges(&[]), ranges(&[7])), (String::new(), "7".to_string()));
    }

    #[test]
    fn names_with_a_prefix_stand_together() {
        let names = ["embedding", "attn.q", "mlp.gate", "mlp.up", "hidden", "normed"];
        assert_eq!(folded(&names), "embedding, attn.q, mlp.{gate,up}, hidden, normed");
    }

    #[test]
    fn points_have_a_part_and_a_name() {
        for (point, part, short) in [
            ("attn.q", Part::Attention, "q"),
            ("attended", Part::Attention, "attended"),
            ("mlp.gate", Part::Mlp, "gate"),
            ("hidden", Part::Residual, "hidden"),
        ] {
            assert_eq!((Part::of(point), part.short(point)), (part, short));
        }
        assert_eq!(full_name(Some(3), "hidden"), "hidden.3");
        assert_eq!(full_name(Some(3), "mlp.gate"), "layers.3.mlp.gate");
        assert_eq!(full_name(None, "logits"), "logits");
    }
}
