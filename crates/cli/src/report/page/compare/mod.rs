//! The page of a comparison, view by view. A new view is a file here and its lines in this one.

mod activations;
mod below_floor;
mod candidates;
mod compared;
mod figures;
mod flips;
mod header;
mod layers;
mod map;
mod points;
mod worst;

use super::document::document;
use super::section::{Content, Section};
use crate::report::compared::Part;
use gemma_mlp_drift::compare::Comparison;

/// The page of a comparison. It loads nothing from the network; whatever text is in it stays text.
pub fn compare_page(comparison: &Comparison) -> String {
    document(&header::of(comparison), &View::sections(comparison))
}

/// Everything that there is to see of a comparison.
#[derive(Clone, Copy)]
enum View {
    Compared,
    Layers(Part),
    Map,
    Points,
    Activations,
    Figures,
    Worst,
    Flips,
    Candidates,
    BelowFloor,
}

impl View {
    /// The order of the page.
    const ALL: &[Self] = &[
        Self::Compared,
        Self::Map,
        Self::Layers(Part::Attention),
        Self::Layers(Part::Mlp),
        Self::Layers(Part::Residual),
        Self::Points,
        Self::Activations,
        Self::Candidates,
        Self::BelowFloor,
        Self::Figures,
        Self::Worst,
        Self::Flips,
    ];

    /// All views that there is something in.
    fn sections(comparison: &Comparison) -> Vec<Section> {
        Self::ALL.iter().filter_map(|view| view.section(comparison)).collect()
    }

    fn section(self, comparison: &Comparison) -> Option<Section> {
        match self {
            Self::Compared => compared::section(comparison),
            Self::Layers(part) => layers::section(comparison, part),
            Self::Map => map::section(comparison),
            Self::Points => points::section(comparison),
            Self::Activations => activations::section(comparison),
            Self::Figures => figures::section(comparison),
            Self::Worst => worst::section(comparison),
            Self::Flips => flips::section(comparison),
            Self::Candidates => candidates::section(comparison),
            Self::BelowFloor => below_floor::section(comparison),
        }
    }
}
