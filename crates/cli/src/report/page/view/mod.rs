//! What a page shows, view by view. A new view is a file here and its lines in this one.

mod by_layer;
mod compared;
mod distribution;
mod figures;
mod flips;
mod gates;
mod gradients;
mod layers;
mod origin;
mod positions;
mod ranking;
mod residual;
mod side_by_side;
mod verdicts;
pub(super) mod worst;

pub(super) use super::section::{Content, Section};
use crate::report::run::Run;
use gemma_mlp_drift::drift::Drift;

/// Everything that there is to see of runs.
#[derive(Clone, Copy)]
pub(super) enum View {
    Verdicts,
    SideBySide,
    Compared,
    Distribution,
    Figures,
    Layers,
    Residual,
    Gates,
    Positions,
    Worst,
    Flips,
    Gradients,
    Ranking,
    Origin,
}

impl View {
    /// The order of a page. Nothing else makes a variant, so the compiler warns of one that is missing.
    const ALL: &[Self] = &[
        Self::Verdicts,
        Self::SideBySide,
        Self::Compared,
        Self::Distribution,
        Self::Figures,
        Self::Layers,
        Self::Residual,
        Self::Gates,
        Self::Positions,
        Self::Worst,
        Self::Flips,
        Self::Gradients,
        Self::Ranking,
        Self::Origin,
    ];

    /// All views that runs have data for.
    pub(super) fn sections(runs: &[Run]) -> Vec<Section> {
        Self::ALL.iter().filter_map(|view| view.section(runs)).collect()
    }

    fn section(self, runs: &[Run]) -> Option<Section> {
        match self {
            Self::Verdicts => verdicts::section(runs),
            Self::SideBySide => side_by_side::section(runs),
            Self::Compared => compared::section(runs),
            Self::Distribution => distribution::section(runs),
            Self::Figures => figures::section(runs),
            Self::Layers => layers::section(runs),
            Self::Residual => residual::section(runs),
            Self::Gates => gates::section(runs),
            Self::Positions => positions::section(runs),
            Self::Worst => worst::section(runs),
            Self::Flips => flips::section(runs),
            Self::Gradients => gradients::section(runs),
            Self::Ranking => ranking::section(runs),
            Self::Origin => origin::section(runs),
        }
    }
}

/// The only run there is: of several, a view that calls this shows nothing.
fn single<'a>(runs: &[Run<'a>]) -> Option<&'a Drift> {
    match runs {
        [Run { drift, .. }] => Some(drift),
        _ => None,
    }
}
