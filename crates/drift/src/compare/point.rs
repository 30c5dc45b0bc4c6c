//! The points of a model at which numbers are captured and compared, by their canonical names.

use serde::{Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// A point of a model. Their order is that of computing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Point {
    /// The scaled embeddings, which enter the first layer; of several residual streams all that enters it, side by side.
    Embedding,
    /// A place in the layer with an index.
    Layer(usize, Place),
    /// The last residual stream, normed.
    Normed,
    /// What the last projection makes of it, in families that have one (EmbeddingGemma 2).
    Projected,
    /// The logits.
    Logits,
}

/// A place in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The normed residual stream, which queries, keys and values are made of.
    AttnInput,
    /// Queries after norm and rotary embedding, not scaled: `[positions, heads, head_dim]`.
    Queries,
    /// Keys after norm and rotary embedding, each head once: `[positions, kv_heads, head_dim]`.
    Keys,
    /// Values, each head once: `[positions, kv_heads, head_dim]`.
    Values,
    /// What attention returns, behind `o_proj`.
    AttnOutput,
    /// The same, normed, in families that norm it.
    AttnNormed,
    /// The residual stream after attention.
    Attended,
    /// The block's input.
    MlpInput,
    /// `gate(x)`.
    Gate,
    /// `up(x)`.
    Up,
    /// `activation(gate)`.
    Activated,
    /// `activation(gate) ⊙ up`.
    Product,
    /// The block's output.
    MlpOutput,
    /// The probabilities of all experts beside the block, by which some are chosen: `[positions, experts]`.
    Router,
    /// The weights of the experts that are chosen, 0 for all others: `[positions, experts]`.
    Routing,
    /// What the experts beside the block return, in front of their norm.
    ExpertsOutput,
    /// The block's output, joined by that of experts where there are some, normed, in families that norm it.
    MlpNormed,
    /// `gate(x)` of the layer's own input, the per-layer embedding: `[positions, size]`.
    PerLayerGate,
    /// `activation(gate) ⊙ input` there.
    PerLayerProduct,
    /// What the layer's own input adds to the residual stream, behind its norm.
    PerLayerOutput,
    /// The residual stream after the layer; several side by side.
    Hidden,
}

impl Place {
    /// All of them, in the order of computing.
    pub const ALL: [Self; 21] = [
        Self::AttnInput,
        Self::Queries,
        Self::Keys,
        Self::Values,
        Self::AttnOutput,
        Self::AttnNormed,
        Self::Attended,
        Self::MlpInput,
        Self::Gate,
        Self::Up,
        Self::Activated,
        Self::Product,
        Self::MlpOutput,
        Self::Router,
        Self::Routing,
        Self::ExpertsOutput,
        Self::MlpNormed,
        Self::PerLayerGate,
        Self::PerLayerProduct,
        Self::PerLayerOutput,
        Self::Hidden,
    ];

    /// Its name within a layer, as in `layers.3.mlp.gate`; the residual stream after a layer is called
    /// `hidden.3`.
    pub fn name(self) -> &'static str {
        match self {
            Self::AttnInput => "attn.input",
            Self::Queries => "attn.q",
            Self::Keys => "attn.k",
            Self::Values => "attn.v",
            Self::AttnOutput => "attn.output",
            Self::AttnNormed => "attn.normed",
            Self::Attended => "attended",
            Self::MlpInput => "mlp.input",
            Self::Gate => "mlp.gate",
            Self::Up => "mlp.up",
            Self::Activated => "mlp.activated",
            Self::Product => "mlp.product",
            Self::MlpOutput => "mlp.output",
            Self::Router => "experts.probabilities",
            Self::Routing => "experts.weights",
            Self::ExpertsOutput => "experts.output",
            Self::MlpNormed => "mlp.normed",
            Self::PerLayerGate => "per_layer.gate",
            Self::PerLayerProduct => "per_layer.product",
            Self::PerLayerOutput => "per_layer.output",
            Self::Hidden => "hidden",
        }
    }
}

impl Point {
    /// Its layer; `None` before the first and behind the last.
    pub fn layer(self) -> Option<usize> {
        match self {
            Self::Layer(index, _) => Some(index),
            _ => None,
        }
    }

    /// Its name without the layer.
    pub fn place(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Layer(_, place) => place.name(),
            Self::Normed => "normed",
            Self::Projected => "projected",
            Self::Logits => "logits",
        }
    }
}

/// Its name in a dump.
impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layer(index, Place::Hidden) => write!(f, "hidden.{index}"),
            Self::Layer(index, place) => write!(f, "layers.{index}.{}", place.name()),
            _ => f.write_str(self.place()),
        }
    }
}

impl Serialize for Point {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A name that is no point's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not the name of a point, as hidden.3 and layers.3.mlp.gate are")]
pub struct UnknownPoint(pub String);

impl FromStr for Point {
    type Err = UnknownPoint;

    fn from_str(name: &str) -> Result<Self, UnknownPoint> {
        let place = |index: &str, place: Option<Place>| {
            // Digits alone: `+3` and `03` are other names.
            let index = index.parse::<usize>().ok().filter(|n| n.to_string() == index)?;
            Some(Self::Layer(index, place?))
        };
        let named = |name: &str| {
            Place::ALL.into_iter().find(|place| *place != Place::Hidden && place.name() == name)
        };
        let point = match name {
            "embedding" => Some(Self::Embedding),
            "normed" => Some(Self::Normed),
            "projected" => Some(Self::Projected),
            "logits" => Some(Self::Logits),
            _ => match name.strip_prefix("hidden.") {
                Some(index) => place(index, Some(Place::Hidden)),
                None => name
                    .strip_prefix("layers.")
                    .and_then(|rest| rest.split_once('.'))
                    .and_then(|(index, name)| place(index, named(name))),
            },
        };
        point.ok_or_else(|| UnknownPoint(name.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_written() {
        let layers = [0, 7, 61].into_iter().flat_map(|n| Place::ALL.map(|p| Point::Layer(n, p)));
        let all: Vec<_> = [Point::Embedding].into_iter().chain(layers).collect();
        for &point in all.iter().chain(&[Point::Normed, Point::Projected, Point::Logits]) {
            assert_eq!(point.to_string().parse(), Ok(point));
        }
        assert!(all.is_sorted());
        assert_eq!("hidden.7".parse(), Ok(Point::Layer(7, Place::Hidden)));
        for odd in [
            "",
            "hidden",
            "hidden.",
            "hidden.+1",
            "hidden.01",
            "layers.1.hidden",
            "layers.x.mlp.gate",
        ] {
            assert!(odd.parse::<Point>().is_err(), "{odd}");
        }
    }
}
