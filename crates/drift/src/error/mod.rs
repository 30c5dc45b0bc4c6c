//! What can be wrong with what is measured, as types. Every message is one line that names the
//! culprit.

#[cfg(feature = "server")]
mod server;

#[cfg(feature = "server")]
pub use server::ServerError;

use candle_core::{DType, Shape};
use gemma_mlp::checkpoint::Family;
use gemma_mlp::internal::Line;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;

/// A [`std::result::Result`] with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Anything that keeps a measurement from being made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The library's: a checkpoint that cannot be read, a model that does not run, candle's
    /// failures.
    #[error(transparent)]
    Model(#[from] gemma_mlp::Error),
    /// Nothing to run a model on.
    #[error("there are no token ids; pass at least one")]
    NoIds,
    /// No text, or none that has a token.
    #[error("there are no tokens; pass a text")]
    NoText,
    /// A text too short to have a token that follows another.
    #[error("a loss needs a text of at least two tokens")]
    NoLoss,
    /// One of several texts that has none.
    #[error("text {index}, counted from 0, has no tokens; leave it out")]
    EmptyText {
        /// Which text.
        index: usize,
    },
    /// A model with an encoder, and nothing for the encoder to read.
    #[error(
        "{family} has an encoder, which reads a text of its own; pass one beside each text of the decoder"
    )]
    NoSource {
        /// The model's family.
        family: Family,
    },
    /// Texts for an encoder that the model does not have.
    #[error("{family} has no encoder to read the sources of texts; leave them out")]
    NoEncoder {
        /// The model's family.
        family: Family,
    },
    /// More or fewer texts for the encoder than for the decoder.
    #[error(
        "there are {sources} texts for the encoder and {texts} for the decoder; pass one for each"
    )]
    SourceCount {
        /// How many the encoder would read.
        sources: usize,
        /// How many the decoder would.
        texts: usize,
    },
    /// A decoder's text that would be cut, or counted in part, beside an encoder's.
    #[error(
        "a decoder beside an encoder reads its text at once and all of it counts: text {index}, counted from 0, has \
         {tokens} tokens, and the window {window}; take a longer window, and no half of it"
    )]
    CutTarget {
        /// Which text.
        index: usize,
        /// How many tokens it has.
        tokens: usize,
        /// The longest window.
        window: usize,
    },
    /// What is done with one stack of layers alone.
    #[error("{family} is an encoder and a decoder, {lacks}")]
    TwoStacks {
        /// The model's family.
        family: Family,
        /// What is not done with these.
        lacks: &'static str,
    },
    /// A mistake that a model cannot have.
    #[error(
        "\"{name}\" cannot be put into this model: it lacks what that changes, or computes so already"
    )]
    NotAMistake {
        /// Its name.
        name: &'static str,
    },
    /// Ours was to round what another framework rounds, which is known of llama.cpp in f32 alone.
    #[error(
        "our model can be made to round like a dump that says it is of llama.cpp in f32; this one is of {} in {dtype}",
        .framework.as_deref().unwrap_or("an unnamed framework")
    )]
    NotReproduced {
        /// Its name, if the dump says it.
        framework: Option<String>,
        /// What it computed in.
        dtype: &'static str,
    },
    /// JSON that is not token ids: what is wrong, and where.
    #[error("not token ids, as in [2, 818, 63937]: {}", Line(.0))]
    InvalidIds(String),
    /// Texts of different lengths in one batch.
    #[error(
        "the texts of a batch must be equally long: number 0 has {first} ids, number {index} has {len}"
    )]
    UnevenBatch {
        /// How many ids the first text has.
        first: usize,
        /// Which text is longer or shorter.
        index: usize,
        /// How many ids it has.
        len: usize,
    },
    /// Queries, keys or values of a layer that mixes positions by a recurrence.
    #[error(
        "layer {layer} has a recurrence in place of attention, and no queries, keys or values; leave them out"
    )]
    Recurrent {
        /// Which layer.
        layer: usize,
    },
    /// A prompt that is shorter than the prefix whose tokens see one another.
    #[error(
        "the prompt has {prompt} tokens, and {prefix} are to see one another, of which none are generated; ask for \
         {prompt} at most"
    )]
    Prefix {
        /// How many tokens the prompt has.
        prompt: usize,
        /// How many it should have.
        prefix: usize,
    },
    /// A token id that is no word of the vocabulary.
    #[error("token id {id} is out of the vocabulary: the embedding has {vocab_size} rows")]
    OutOfVocabulary {
        /// The id.
        id: u32,
        /// How many words the vocabulary has.
        vocab_size: usize,
    },
    /// Windows that do not cover a text.
    #[error(
        "a window of {window} tokens with a stride of {stride} does not work: the window must be at \
         least 2, the stride 1 to the window"
    )]
    InvalidWindow {
        /// The longest window, in tokens.
        window: usize,
        /// By how many tokens one window ends behind the one before it.
        stride: usize,
    },
    /// Windows of which no half can be scored.
    #[error(
        "the second half of windows of {window} tokens, {stride} apart, cannot be scored: they must \
         have at least 3 tokens, and the stride must be the window"
    )]
    InvalidHalves {
        /// The window, in tokens.
        window: usize,
        /// By how many tokens one window ends behind the one before it.
        stride: usize,
    },
    /// Texts that are shorter than a window, where only whole ones count.
    #[error(
        "no text has the {window} tokens of a whole window, and only whole ones are scored by halves; \
         take a smaller window or a longer text"
    )]
    NoWholeWindow {
        /// The window, in tokens.
        window: usize,
    },
    /// A part of a run that has no window.
    #[error(
        "part {index}/{of} is empty: the texts make {windows} windows; take no more parts than that"
    )]
    EmptyShard {
        /// Which part, from 1 on.
        index: usize,
        /// How many parts there are.
        of: usize,
        /// How many windows there are.
        windows: usize,
    },
    /// An encoder, which predicts no tokens.
    #[error("an encoder without a head {lacks}")]
    NoHead {
        /// What it does not have or do.
        lacks: &'static str,
    },
    /// A model that attends in both directions, asked to continue a text.
    #[error(
        "every position of this model sees those behind it: it continues no text token by token"
    )]
    NotCausal,
    /// A dtype of which there is no noise floor.
    #[error("{} has no noise floor here: pass f32, bf16 or f16", .0.as_str())]
    NoFloor(DType),
    /// Activations that are to be rounded for weights that are not quantised.
    #[error(
        "activations are rounded to 8 bits for quantised weights, and these are not: take a quantised GGUF file, or quantise \
         them too, as in tanh:q4_k_m:q8-activations"
    )]
    NoBlocks,
    /// A floor that is measured on no token.
    #[error(
        "the noise floor would be measured on no scored position: of each window's first \
         {floor_tokens} tokens none is scored; take more floor tokens"
    )]
    NoFloorTokens {
        /// How many of a window's first tokens it was to be measured on.
        floor_tokens: usize,
    },
    /// No layer to report.
    #[error("there are no layers to report; pass at least one")]
    NoLayers,
    /// A dtype in which no framework rounds GELU otherwise than another.
    #[error("presets compute one and the same GELU in {}; pass bf16 or f16", .0.as_str())]
    NoPresets(DType),
    /// A dtype that is no floating-point type.
    #[error("{} has no GELU", .0.as_str())]
    NoGelu(DType),
    /// A saved report that cannot be used.
    #[error("{}: {reason}", Line(name))]
    Report {
        /// The report, as a file is called.
        name: String,
        /// Why.
        #[source]
        reason: InvalidReport,
    },
    /// A dump of what a model computed, or a map of names, that cannot be used.
    #[error("{}: {reason}", Line(name))]
    Dump {
        /// The file or folder.
        name: String,
        /// Why.
        #[source]
        reason: InvalidDump,
    },
    /// A server that gives no log-probabilities.
    #[cfg(feature = "server")]
    #[error("{}: {reason}", Line(server))]
    Server {
        /// Its address.
        server: String,
        /// Why.
        #[source]
        reason: ServerError,
    },
    /// What another program computed, and what cannot be held against ours.
    #[error("{}: {}", Line(name), Line(reason))]
    NotComparable {
        /// The file, folder or server it comes from.
        name: String,
        /// Why.
        reason: String,
    },
    /// A comparison that was ended early: half of it says nothing.
    #[error("ended early")]
    Stopped,
    /// Nothing to merge.
    #[error("there are no reports to merge")]
    NoReports,
    /// A run that was split into another number of parts than are expected.
    #[error(
        "the run was split into {of} parts, not into {parts}: pass --expect {of}, or the parts of the other run"
    )]
    SplitOtherwise {
        /// How many are expected.
        parts: usize,
        /// How many there are.
        of: usize,
    },
    /// Parts of a run that are missing, or that were ended early.
    #[error(
        "of {of} parts, {}: {}{}; run these again with --shard I/{of}, or leave out --expect to merge what there is",
        if ended.is_empty() { "missing" } else { "missing or ended early" },
        Ranges(incomplete),
        Ended(ended)
    )]
    IncompleteParts {
        /// How many parts there are.
        of: usize,
        /// Those that are missing or were ended early, in order.
        incomplete: Vec<RangeInclusive<usize>>,
        /// Those among them of which some windows are there, in order.
        ended: Vec<EndedPart>,
    },
    /// Logits that cannot be compared.
    #[error("logits of shapes {a:?} and {b:?} cannot be compared; both must be [seq, vocab]")]
    LogitShapes {
        /// The shape of a's.
        a: Shape,
        /// The shape of b's.
        b: Shape,
    },
    /// More or fewer labels than positions.
    #[error("there are {labels} labels for {positions} positions; pass one for each")]
    LabelCount {
        /// How many labels there are.
        labels: usize,
        /// How many positions the logits have.
        positions: usize,
    },
}

/// Why a saved report cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidReport {
    /// No JSON, or none of a drift.
    #[error("not a report of a drift run: {}", Line(.0))]
    Malformed(String),
    /// Another version's layout.
    #[error("its layout is version {schema}, this program reads version {reads}; run drift again")]
    Layout {
        /// The report's version.
        schema: u32,
        /// This program's.
        reads: u32,
    },
    /// A whole run among parts.
    #[error("a whole run, not a part of one: there is nothing to merge")]
    NotAPart,
    /// Parts of two runs.
    #[error("belongs to another run than {first}")]
    OtherRun {
        /// The first report.
        first: String,
    },
    /// A part that has nothing to add up.
    #[error("a part without windows")]
    NoWindows,
    /// A window that is there twice, in one part or in two.
    #[error("window {window} is there twice; leave out one of the reports that have it")]
    Repeated {
        /// Which window.
        window: usize,
    },
    /// A part that its run does not have.
    #[error("part {index}/{of} does not exist")]
    NoSuchPart {
        /// Which part, from 1 on.
        index: usize,
        /// How many parts there are.
        of: usize,
    },
    /// A window that belongs to no part of this number, or to no part at all.
    #[error("window {window} of {windows} is none of part {index}/{of}")]
    Misplaced {
        /// Which window, from 0 on.
        window: usize,
        /// How many windows the run has.
        windows: usize,
        /// Which part has it, from 1 on.
        index: usize,
        /// How many parts there are.
        of: usize,
    },
    /// A window whose figures contradict each other or the rest of the report.
    #[error("window {window}: {what}")]
    Inconsistent {
        /// Which window, from 0 on.
        window: usize,
        /// What is wrong.
        what: &'static str,
    },
}

/// Why a dump cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidDump {
    /// A file of no bytes, or a folder of no files.
    #[error("empty; capture it again")]
    Empty,
    /// Of no format that is read.
    #[error("not a dump of a known format{}; known are {formats}", Line(what))]
    UnknownFormat {
        /// ` (what it looks like)`, or nothing.
        what: String,
        /// The formats that are read.
        formats: String,
    },
    /// PyTorch's own format, or another made of pickles.
    #[error(
        "{what}, a pickle, which can run code when it is read; write safetensors: gemma-mlp capture \
         --script transformers prints a script that does"
    )]
    Pickle {
        /// What it is.
        what: &'static str,
    },
    /// Our own format in a version that this program does not read.
    #[error(
        "format '{}' is not known, this program reads {reads}; update it, or capture again",
        Line(found)
    )]
    Version {
        /// The dump's.
        found: String,
        /// This program's.
        reads: &'static str,
    },
    /// No tensor has a name that says what it is.
    #[error(
        "no tensor has the name of a point, as hidden.3 and logits are; it has {}; say with --map which is \
         which",
        Line(names)
    )]
    NothingKnown {
        /// The first few names, and how many there are.
        names: String,
    },
    /// Weights in place of what a model computes.
    #[error("weights of a model ({}), not what it computed; pass a dump", Line(first))]
    Weights {
        /// One of them.
        first: String,
    },
    /// Token ids, and nothing that was computed of them.
    #[error("there are token ids, and nothing that was computed of them; capture it again")]
    TokensAlone,
    /// Two tensors of one point.
    #[error(
        "'{}' and '{}' are both {meant}; leave one out with --map and {{\"its name\": null}}",
        Line(a),
        Line(b)
    )]
    Twice {
        /// What both are, by its canonical name.
        meant: String,
        /// One.
        a: String,
        /// The other.
        b: String,
    },
    /// A tensor that is not what it must be.
    #[error("tensor '{}': {}", Line(tensor), Line(reason))]
    Tensor {
        /// Its name.
        tensor: String,
        /// What is wrong, and what it must be.
        reason: String,
    },
    /// Files or arrays that contradict each other or themselves.
    #[error("{}", Line(.0))]
    Malformed(String),
    /// More of something than any dump has.
    #[error("more than {limit} {of}; pass a smaller dump")]
    TooMany {
        /// How many there may be.
        limit: usize,
        /// Of what.
        of: &'static str,
    },
    /// An entry of a map of names.
    #[error("'{}': {reason}", Line(entry))]
    MapEntry {
        /// The name that is mapped.
        entry: String,
        /// What is wrong.
        reason: String,
    },
}

impl Error {
    /// The error about a dump.
    pub(crate) fn dump(name: impl AsRef<Path>, reason: InvalidDump) -> Self {
        Self::Dump { name: name.as_ref().display().to_string(), reason }
    }

    /// Whether the cause lies in what was passed in, as opposed to a failure while computing.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Model(error) => error.is_input(),
            Self::Stopped => false,
            _ => true,
        }
    }
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Model(error.into())
    }
}

/// A part of a run that was ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedPart {
    /// Which part, from 1 on.
    pub index: usize,
    /// How many of its windows are there.
    pub windows: usize,
    /// How many it has.
    pub of: usize,
}

/// As in `3,7,10-12`, which Slurm's `--array` takes.
struct Ranges<'a>(&'a [RangeInclusive<usize>]);

impl fmt::Display for Ranges<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, range) in self.0.iter().enumerate() {
            let (first, last) = (range.start(), range.end());
            write!(f, "{}{first}", if at == 0 { "" } else { "," })?;
            if first < last {
                write!(f, "-{last}")?;
            }
        }
        Ok(())
    }
}

/// The first few in brackets, with how far they came.
struct Ended<'a>(&'a [EndedPart]);

impl fmt::Display for Ended<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 10;
        for (at, EndedPart { index, windows, of }) in self.0.iter().take(SHOWN).enumerate() {
            let before = if at == 0 { " (" } else { ", " };
            write!(f, "{before}{index} has {windows} of its {of} windows")?;
        }
        match self.0.len() {
            0 => Ok(()),
            all if all > SHOWN => write!(f, ", and so on for {} more)", all - SHOWN),
            _ => f.write_str(")"),
        }
    }
}
