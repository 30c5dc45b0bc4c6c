//! What is computed from what.

use super::point::{Place, Point};
use std::collections::BTreeSet;

/// The points of a model, some of which are given.
pub(super) struct Graph<'a> {
    /// How many layers it has.
    pub(super) layers: usize,
    /// The points that are given at all positions.
    pub(super) given: &'a BTreeSet<Point>,
}

impl Graph<'_> {
    /// The given points that a point is computed from: the nearest on every way to it; none where all
    /// lead to the tokens.
    pub(super) fn inputs(&self, point: Point) -> BTreeSet<Point> {
        let mut inputs = BTreeSet::new();
        let mut rest = self.parents(point);
        while let Some(parent) = rest.pop() {
            match self.given.contains(&parent) {
                true => drop(inputs.insert(parent)),
                false => rest.extend(self.parents(parent)),
            }
        }
        inputs
    }

    /// What a point is computed from in one step, as [`super::layer_pass::LayerPass`] does it; nothing but the tokens
    /// for the embedding.
    fn parents(&self, point: Point) -> Vec<Point> {
        let stream = |layer: usize| match layer.checked_sub(1) {
            Some(before) => Point::Layer(before, Place::Hidden),
            None => Point::Embedding,
        };
        let (n, place) = match point {
            Point::Embedding => return vec![],
            Point::Normed => return vec![stream(self.layers)],
            Point::Logits => return vec![Point::Normed],
            Point::Layer(n, place) => (n, place),
        };
        let at = |place| Point::Layer(n, place);
        let given = |place| self.given.contains(&at(place));
        let qkv = [Place::Queries, Place::Keys, Place::Values];
        match place {
            Place::AttnInput => vec![stream(n)],
            Place::Queries | Place::Keys | Place::Values => vec![at(Place::AttnInput)],
            Place::AttnOutput if qkv.into_iter().any(given) => qkv.map(at).to_vec(),
            Place::AttnOutput => vec![at(Place::AttnInput)],
            Place::AttnNormed => vec![at(Place::AttnOutput)],
            Place::Attended if given(Place::AttnNormed) => vec![stream(n), at(Place::AttnNormed)],
            Place::Attended => vec![stream(n), at(Place::AttnOutput)],
            Place::MlpInput => vec![at(Place::Attended)],
            Place::Gate | Place::Up => vec![at(Place::MlpInput)],
            Place::Activated => vec![at(Place::Gate)],
            Place::Product if given(Place::Activated) => vec![at(Place::Activated), at(Place::Up)],
            Place::Product => vec![at(Place::Gate), at(Place::Up)],
            Place::MlpOutput => vec![at(Place::Product)],
            Place::MlpNormed => vec![at(Place::MlpOutput)],
            Place::Hidden if given(Place::MlpNormed) => {
                vec![at(Place::Attended), at(Place::MlpNormed)]
            }
            Place::Hidden => vec![at(Place::Attended), at(Place::MlpOutput)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(given: &[&str], point: &str) -> Vec<String> {
        let given = given.iter().map(|name| name.parse().unwrap()).collect();
        let graph = Graph { layers: 3, given: &given };
        graph.inputs(point.parse().unwrap()).iter().map(Point::to_string).collect()
    }

    #[test]
    fn the_nearest_on_every_way() {
        let streams = ["hidden.0", "hidden.1", "hidden.2"];
        assert_eq!(inputs(&streams, "hidden.1"), ["hidden.0"]);
        assert!(inputs(&streams, "hidden.0").is_empty());
        assert_eq!(inputs(&streams, "logits"), ["hidden.2"]);
        let blocks = ["hidden.0", "layers.1.mlp.input", "layers.1.mlp.output"];
        assert_eq!(inputs(&blocks, "layers.1.mlp.output"), ["layers.1.mlp.input"]);
        assert_eq!(inputs(&blocks, "hidden.1"), ["hidden.0", "layers.1.mlp.output"]);
        let inside = ["layers.1.mlp.gate", "layers.1.mlp.activated"];
        assert_eq!(inputs(&inside, "layers.1.mlp.activated"), ["layers.1.mlp.gate"]);
        assert_eq!(inputs(&inside, "layers.1.mlp.product"), ["layers.1.mlp.activated"]);
        let heads = ["layers.1.attn.input", "layers.1.attn.q"];
        let from = inputs(&heads, "layers.1.attn.output");
        assert_eq!(from, ["layers.1.attn.input", "layers.1.attn.q"]);
    }
}
