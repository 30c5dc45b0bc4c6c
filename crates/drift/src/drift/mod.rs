//! How far two ways of computing the same model are apart, beside what rounding alone does.
//!
//! Everything here is a pair of [`Side`]s: the switch is `tanh` against `exact` in one dtype, the
//! noise floor is one activation in two dtypes.

mod backward;
mod blocks;
mod compare;
mod difference;
mod embedding;
mod gates;
mod generate;
mod gradient;
mod head;
mod layers;
mod lockstep;
mod logits;
mod merge;
mod metrics;
mod options;
mod origin;
mod positions;
mod rank;
mod read;
mod result;
mod run;
mod side;
mod spelling;
mod stacks;
mod sums;
mod values;
mod verdict;
mod whole;
mod window;

pub use compare::{
    AnyBlock, BlockDrift, BlockMetrics, BlockSide, BlockTrace, compare_blocks, input_gradient,
};
pub use difference::{Change, DIFFERENCES, Difference};
pub use embedding::EmbeddingMetrics;
pub use gates::GateHistogram;
pub use generate::{Continuation, Generation, Parting, continued_targets, generate};
pub use gradient::{
    BlockGradients, GradientDrift, GradientMetrics, LayerGradients, gradient_drift,
};
pub(crate) use head::compare_logits;
pub use layers::{BlockPoints, LayerDrift, ResidualDrift};
pub(crate) use lockstep::load_sharing;
#[doc(hidden)]
pub use lockstep::{Caches, LaneStep, Lockstep};
pub(crate) use logits::LogitSums;
pub use logits::{FigureKind, LogitFigure, LogitMetrics};
pub use merge::{Merger, merge};
pub(crate) use metrics::Accumulator;
pub use metrics::{Metrics, NonFinite};
pub use options::{DriftOptions, Progress, Shard};
pub use origin::Origin;
pub(crate) use positions::Notable;
pub use positions::{Positions, Token, TokenDrift};
pub use rank::{Ranked, rank};
#[cfg(feature = "schemars")]
pub(crate) use result::RemarkSchema;
pub use result::{CheckpointSummary, Drift, EXCERPT, Floor, Header, RRatio, SCHEMA};
pub use run::drift;
pub use side::{Model, Side, Sides};
pub use spelling::{InvalidSide, SideSpec};
pub(crate) use stacks::varied;
pub use verdict::{Basis, Size, Verdict};
pub use window::{Score, Windowing};
