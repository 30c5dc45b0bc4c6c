//! What is computed from what.

use super::point::{Place, Point};
use std::collections::BTreeSet;

/// The points of a model, some of which are given.
pub(super) struct Graph<'a> {
    /// For each layer the earlier one whose keys and values it uses, if it has none of its own.
    pub(super) shares: Vec<Option<usize>>,
    /// Whether layers have experts beside the block.
    pub(super) experts: bool,
    /// Whether layers have an input of their own.
    pub(super) per_layer: bool,
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
            Point::Normed => return vec![stream(self.shares.len())],
            Point::Projected | Point::Logits => return vec![Point::Normed],
            Point::Layer(n, place) => (n, place),
        };
        let at = |place| Point::Layer(n, place);
        let given = |place| self.given.contains(&at(place));
        let shares = self.shares.get(n).copied().flatten();
        let of_keys = |place| Point::Layer(shares.unwrap_or(n), place);
        let heads = || vec![at(Place::Queries), at(Place::Keys), at(Place::Values)];
        let given_heads = [Place::Queries, Place::Keys, Place::Values].into_iter().any(given);
        // What the block returns, and what the experts do.
        let joined = || {
            let experts = self.experts.then(|| at(Place::ExpertsOutput));
            [at(Place::MlpOutput)].into_iter().chain(experts)
        };
        // The residual stream after the MLP.
        let behind_mlp = || match given(Place::MlpNormed) {
            true => vec![at(Place::Attended), at(Place::MlpNormed)],
            false => [at(Place::Attended)].into_iter().chain(joined()).collect(),
        };
        match place {
            Place::AttnInput => vec![stream(n)],
            Place::Keys | Place::Values if shares.is_some() => vec![of_keys(place)],
            Place::Queries | Place::Keys | Place::Values => vec![at(Place::AttnInput)],
            Place::AttnOutput if given_heads => heads(),
            Place::AttnOutput if shares.is_some() => {
                vec![at(Place::AttnInput), of_keys(Place::Keys), of_keys(Place::Values)]
            }
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
            Place::Router => vec![at(Place::Attended)],
            Place::Routing => vec![at(Place::Router)],
            Place::ExpertsOutput => vec![at(Place::Attended), at(Place::Routing)],
            Place::MlpNormed => joined().collect(),
            Place::PerLayerGate => behind_mlp(),
            Place::PerLayerProduct => vec![at(Place::PerLayerGate)],
            Place::PerLayerOutput => vec![at(Place::PerLayerProduct)],
            Place::Hidden if self.per_layer => {
                behind_mlp().into_iter().chain([at(Place::PerLayerOutput)]).collect()
            }
            Place::Hidden => behind_mlp(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(given: &[&str], point: &str) -> Vec<String> {
        let given = given.iter().map(|name| name.parse().unwrap()).collect();
        let shares = vec![None, None, Some(1)];
        let graph = Graph { shares, experts: false, per_layer: false, given: &given };
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
        // The last layer uses the keys and values of the one before.
        let shared = ["layers.1.attn.input", "layers.1.attn.k", "layers.2.attn.input"];
        assert_eq!(inputs(&shared, "layers.2.attn.output"), shared);
        let heads = ["layers.1.attn.input", "layers.1.attn.q"];
        let from = inputs(&heads, "layers.1.attn.output");
        assert_eq!(from, ["layers.1.attn.input", "layers.1.attn.q"]);
    }
}
