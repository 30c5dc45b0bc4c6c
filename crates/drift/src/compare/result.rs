//! The result of a comparison: plain data, of which table, JSON, CSV and page are views.

use crate::drift::{CheckpointSummary, LogitMetrics, TokenDrift};
use gemma_mlp::checkpoint::Remark;
use serde::Serialize;

/// The version of the layout that docs/compare.schema.json describes.
pub const SCHEMA: u32 = 1;

/// How far someone else's model is from ours, where it begins, and why.
///
/// JSON shows figures that are NaN or infinite as null.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct Comparison {
    /// Version of this layout.
    #[cfg_attr(feature = "schemars", schemars(extend("const" = SCHEMA)))]
    pub schema: u32,
    /// The version of this crate.
    pub version: String,
    /// Whether nothing differs by more than rounding.
    pub agrees: bool,
    /// The mistakes that were put into ours before it was compared.
    pub with: Vec<String>,
    /// What was found, in a sentence or a few.
    pub verdict: String,
    /// The first point that differs by more than rounding; null if none does.
    pub first: Option<First>,
    /// The mistakes that explain it, best first; empty where none is claimed.
    pub causes: Vec<Cause>,
    /// All mistakes that were tried at the first point that differs, best first.
    pub candidates: Vec<Candidate>,
    /// Where nothing differs by more than rounding: what can be said of mistakes that rounding hides, largest effect
    /// first.
    pub below_floor: Vec<BelowFloor>,
    /// What was compared.
    pub theirs: DumpSummary,
    /// With what.
    pub ours: Reference,
    /// What the noise floor is.
    pub floor: FloorSummary,
    /// How large a ratio to the floor still counts as rounding.
    pub threshold: f64,
    /// Per layer, the points that were compared, in the order of computing.
    pub layers: Vec<ComparedLayer>,
    /// The points in front of the first layer and behind the last.
    pub ends: Vec<ComparedPoint>,
    /// Which activation each layer's numbers are of, where the dump has both sides of it.
    pub activations: Vec<ActivationReading>,
    /// Of the logits or log-probabilities; null where the dump has none.
    pub logits: Option<ComparedLogits>,
    /// How far each layer is from ours along the text; null where that was not measured.
    pub map: Option<PositionMap>,
    /// What could not be told, and for want of what.
    pub untold: Vec<String>,
    /// What was aligned, not used, guessed, or is odd.
    #[cfg_attr(feature = "schemars", schemars(with = "Vec<crate::drift::RemarkSchema>"))]
    pub remarks: Vec<Remark>,
}

/// The first point that differs.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct First {
    /// Its layer; null in front of the first and behind the last.
    pub layer: Option<usize>,
    /// Its name within the layer, as in `mlp.output`; `embedding`, `normed` or `logits` outside of one.
    pub point: String,
    /// How many times its floor it differs.
    pub ratio: f64,
    /// The points it was computed from, by their names in a dump: theirs, so that nothing before it
    /// counts. Empty where it was computed from the tokens.
    pub from: Vec<String>,
}

/// A mistake that explains what differs.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct Cause {
    /// As `drift --rank` names it.
    pub name: String,
    /// Where it comes from, or who does it.
    pub source: String,
    /// The cosine between what it changes and what differs.
    pub cosine: f64,
    /// How large what differs is along it, over its own length: 1 where it is all of it.
    pub size: f64,
    /// The cosine of the next best mistake; null if there is none.
    pub runner_up: Option<f64>,
    /// That mistake's name.
    pub runner_up_name: Option<String>,
    /// Where it was found.
    pub layer: Option<usize>,
    /// The point within the layer.
    pub point: String,
}

/// A mistake that was tried.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct Candidate {
    /// As `drift --rank` names it.
    pub name: String,
    /// The cosine between what it changes and what differs.
    pub cosine: f64,
    /// How large what differs is along it, over its own length.
    pub size: f64,
    /// The fraction of what differs (its square) that is left once the mistake is taken away.
    pub left: f64,
    /// How large its effect is, over the floor.
    pub ratio: f64,
}

/// A mistake whose effect is below the noise floor.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct BelowFloor {
    /// As `drift --rank` names it.
    pub name: String,
    /// How large its effect is, over the floor.
    pub ratio: f64,
    /// How large what differs is along that effect, over its length: 1 on average if the mistake is there, 0 if not.
    pub size: f64,
    /// The standard error of `size`, from the scatter of eight parts of the text.
    pub error: f64,
    /// What follows.
    pub sight: Sight,
    /// How many tokens would be enough to tell, where these are too few.
    pub tokens: Option<usize>,
}

/// What a projection on a mistake says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Sight {
    /// It is not there.
    Excluded,
    /// It looks as if it were there.
    Suspected,
    /// The error is too large to tell.
    TooSmallToTell,
}

/// A dump as results name it.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct DumpSummary {
    /// The file, folder or server.
    pub source: String,
    /// Its format, in words.
    pub format: String,
    /// The framework it is of, where that is known.
    pub framework: Option<String>,
    /// The dtype it was computed in.
    pub dtype: String,
    /// How that is known.
    pub dtype_reason: String,
    /// How many texts it has.
    pub texts: usize,
    /// How many tokens, over all texts.
    pub tokens: usize,
    /// Which points it has, by name within a layer, and in how many layers.
    pub points: Vec<(String, usize)>,
}

/// What a dump was compared with.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Reference {
    /// Our own model of a checkpoint.
    Model(CheckpointSummary),
    /// Another dump. Nothing can be computed on the same input.
    Dump(DumpSummary),
}

/// What the noise floor is.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct FloorSummary {
    /// What is rounded how, in a sentence.
    pub description: String,
    /// How many tokens it was measured on.
    pub tokens: usize,
    /// The dumps of other frameworks that widen it.
    pub references: Vec<String>,
}

/// The points of a layer.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct ComparedLayer {
    /// Which layer.
    pub index: usize,
    /// Its points, in the order of computing.
    pub points: Vec<ComparedPoint>,
}

impl ComparedLayer {
    /// Adds a point to the layer that it is of, which is the last or a new one.
    pub(super) fn add(layers: &mut Vec<Self>, index: usize, point: ComparedPoint) {
        match layers.last_mut() {
            Some(layer) if layer.index == index => layer.points.push(point),
            _ => layers.push(Self { index, points: vec![point] }),
        }
    }
}

/// A point in both models.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct ComparedPoint {
    /// Its name within the layer, or alone outside of one.
    pub point: String,
    /// Theirs against ours, each in its own pass over the text.
    pub accumulated: Option<Distance>,
    /// Theirs against what we make of their own input.
    pub same_input: Option<Distance>,
    /// The points of theirs that are this input, by their names in a dump; `tokens` for the tokens.
    pub from: Vec<String>,
    /// What a program printed of it against ours, if that is all there is: the largest difference of a
    /// printed number, over the root mean square of ours.
    pub glimpse: Option<f64>,
    /// Whether it differs by more than rounding, on its own input where that was there.
    pub differs: bool,
    /// The rule of `--allow` that lets it differ so far.
    pub allowed: Option<String>,
}

/// How far theirs is from ours, beside what rounding alone does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct Distance {
    /// ‖theirs − ours‖/‖ours‖.
    pub rel_l2: f64,
    /// The cosine between the two.
    pub cosine: f64,
    /// ‖theirs‖/‖ours‖.
    pub norm_ratio: f64,
    /// `rel_l2` of rounding alone.
    pub floor: f64,
    /// `rel_l2` over `floor`.
    pub ratio: f64,
}

/// Which activation a layer's numbers are of.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct ActivationReading {
    /// Which layer.
    pub layer: usize,
    /// What fits best, as a side of `drift` is written: `tanh`, `exact:pytorch`.
    pub best: String,
    /// The activation of that, and null if nothing fits.
    pub activation: Option<String>,
    /// Whether the config means another one.
    pub differs: bool,
    /// What fits how well, best first.
    pub tried: Vec<ActivationFit>,
}

/// How well an activation explains a layer's numbers.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct ActivationFit {
    /// As a side of `drift` is written.
    pub side: String,
    /// The fraction of numbers that have the same bits.
    pub same_bits: f64,
    /// ‖theirs − its‖/‖its‖.
    pub rel_l2: f64,
}

/// Logits or log-probabilities of both models.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct ComparedLogits {
    /// Positions that were compared.
    pub positions: usize,
    /// How many tokens a position's figures are over: the vocabulary, or the likeliest that both sides
    /// have.
    pub words: usize,
    /// Whether they are all of the vocabulary.
    pub whole_vocabulary: bool,
    /// Theirs (b) against ours (a).
    pub metrics: LogitMetrics,
    /// What rounding alone does; null where that was not measured.
    pub floor: Option<LogitMetrics>,
    /// The mean KL over the floor's.
    pub ratio: f64,
    /// Whether they differ by more than rounding.
    pub differs: bool,
    /// The positions of the largest KL, the largest first.
    pub worst: Vec<TokenDrift>,
    /// At how many positions the likeliest token is another.
    pub flip_count: usize,
    /// Those positions, the most decided of ours first.
    pub flips: Vec<Flip>,
}

/// A position where the likeliest token is another.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct Flip {
    /// The position and its tokens.
    #[serde(flatten)]
    pub token: TokenDrift,
    /// How far the likeliest logit is above the second, in units of the last place of their dtype, under
    /// ours and theirs.
    pub margin_ulps: [f64; 2],
    /// Whether rounding may decide it: the gap of ours is within what the floor moves logits by.
    pub tie: bool,
}

/// How far each layer is from ours along the text.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct PositionMap {
    /// How many positions make a group; the last one may have fewer.
    pub group: usize,
    /// One row for each layer.
    pub rows: Vec<MapRow>,
}

/// A layer along the text.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct MapRow {
    /// Which layer.
    pub layer: usize,
    /// Which point of it: the last that was compared, mostly the residual stream behind the layer.
    pub point: String,
    /// The distance of each group over the floor, accumulated up to there: a mistake shows from its layer on.
    pub ratios: Vec<f64>,
}
