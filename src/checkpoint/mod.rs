//! A checkpoint: `config.json`, weights, tokenizer. Knows families, names and their quirks, and
//! computes nothing.

mod activation;
mod attention;
mod blocks;
mod config;
mod defaults;
mod families;
mod file;
mod header;
#[cfg(feature = "hub")]
mod hub;
mod inspect;
mod json;
mod limits;
mod raw;
mod remark;
mod shard;
mod tensors;
pub(crate) mod tokenizer;

pub use activation::Resolved;
pub use attention::{AttentionConfig, LayerAttention};
pub use blocks::BlockSpec;
pub use config::{Config, Stack};
pub use families::{Family, NormNames};
#[cfg(feature = "hub")]
pub use hub::Hub;
pub use inspect::{Inspection, StackInspection, inspect};
pub use remark::{Level, Remark, RemarkKind};
pub use tensors::Tensors;

use crate::error::{Error, Result};
use candle_core::DType;
use json::read_text;
use std::fmt;
use std::path::{Path, PathBuf};
use tokenizer::Tokenizer;

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";

/// A checkpoint that has been opened and checked, with no weight read yet.
///
/// ```
/// use gemma_mlp::Checkpoint;
/// let checkpoint = Checkpoint::open("weights/tiny-gemma3")?; // or any directory from the Hub
/// println!("{}: {} blocks", checkpoint.config().family, checkpoint.blocks().len());
/// println!("{}", checkpoint.blocks()[0].activation.reason);
/// # Ok::<(), gemma_mlp::Error>(())
/// ```
pub struct Checkpoint {
    source: Source,
    config: Config,
    tensors: Tensors,
    blocks: Vec<BlockSpec>,
    tokenizer: Tokenizer,
    remarks: Vec<Remark>,
}

/// Where a checkpoint comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A directory on this machine.
    Directory(PathBuf),
    /// A repository on the Hugging Face Hub, as it was at a commit.
    Hub {
        /// `org/name`.
        id: String,
        /// The commit, which also names the revision in the cache.
        commit: String,
    },
    /// The one inside the program, trained on generated text by `examples/train_tiny.rs`. With the
    /// feature `embedded`.
    #[cfg(feature = "embedded")]
    Embedded,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(dir) => write!(f, "{}", dir.display()),
            Self::Hub { id, commit } => write!(f, "{id} (revision {commit})"),
            #[cfg(feature = "embedded")]
            Self::Embedded => f.write_str("embedded tiny-gemma3 (trained on generated text)"),
        }
    }
}

impl Checkpoint {
    /// Opens a directory with `config.json`, `model.safetensors` (or shards and their
    /// `model.safetensors.index.json`) and, if text is to be read, `tokenizer.json`.
    ///
    /// Reads the config and the headers, and checks the name, shape and dtype of every MLP weight.
    /// The files stay open; weights are read from them when they are asked for.
    ///
    /// # Errors
    /// Anything missing, malformed or contradictory, by file and tensor; a family whose MLP is
    /// not the plain gated block.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        Self::open_as(Source::Directory(dir.into()), dir)
    }

    fn open_as(source: Source, dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG);
        if !path.exists() {
            return Err(missing_config(dir, path));
        }
        let config = Config::parse(&read_text(&path)?, &path)?;
        let tokenizer = Tokenizer::file(dir.join(TOKENIZER), &config);
        Self::new(source, config, Tensors::open(dir)?, tokenizer)
    }

    /// The checkpoint inside the program: a Gemma 3 of four layers, trained under tanh on generated
    /// text, so that everything runs anywhere. `weights/tiny-gemma3/README.md` says what it learnt.
    ///
    /// It takes the feature `embedded`, which adds its 2.2 MB to the program.
    ///
    /// # Errors
    /// None, unless the program was built from damaged files.
    #[cfg(feature = "embedded")]
    pub fn embedded() -> Result<Self> {
        let path = Path::new("weights/tiny-gemma3");
        let file = |name: &str| path.join(name);
        let config = include_str!("../../weights/tiny-gemma3/config.json");
        let weights = include_bytes!("../../weights/tiny-gemma3/model.safetensors");
        let tokenizer = include_bytes!("../../weights/tiny-gemma3/tokenizer.json");
        let config = Config::parse(config, &file("config.json"))?;
        let tokenizer = Tokenizer::bytes(tokenizer, &config);
        let tensors = Tensors::from_static(&file("model.safetensors"), weights)?;
        Self::new(Source::Embedded, config, tensors, tokenizer)
    }

    fn new(source: Source, config: Config, tensors: Tensors, tokenizer: Tokenizer) -> Result<Self> {
        let blocks = blocks::find(&config, &tensors)?;
        let remarks = config.remarks.clone();
        Ok(Self { source, config, tensors, blocks, tokenizer, remarks })
    }

    /// Where it comes from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// What its `config.json` says.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What its config and its tensors' names say that is not used, was guessed, or is odd.
    pub fn remarks(&self) -> &[Remark] {
        &self.remarks
    }

    /// Its weights.
    pub fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    /// Its MLP blocks, in order; T5Gemma's encoder before its decoder. Never empty.
    pub fn blocks(&self) -> &[BlockSpec] {
        &self.blocks
    }

    /// The block with an index.
    ///
    /// # Errors
    /// An index beyond the last block.
    pub fn block(&self, index: usize) -> Result<&BlockSpec> {
        self.blocks.get(index).ok_or_else(|| {
            let last = self.blocks.len() - 1;
            Error::Input(format!(
                "layer {index} does not exist: the checkpoint has layers 0 to {last}"
            ))
        })
    }

    /// The attention of its layers.
    ///
    /// # Errors
    /// A family whose whole model is not run here; the sentence says why.
    pub fn attention(&self) -> Result<&AttentionConfig> {
        let attention = self.config.stacks[0].attention.as_ref();
        attention.map_err(|reason| Error::Input(format!("the whole model does not run: {reason}")))
    }

    /// What stands before `embed_tokens`, `layers` and `norm` in its names: `model.`, or nothing.
    pub(crate) fn backbone(&self) -> &str {
        // The embedding is the layers' sibling.
        let layer = &self.blocks[0].layer;
        layer.strip_suffix("layers.0").unwrap_or(layer)
    }

    /// What stands before `lm_head` in its names: mostly nothing.
    pub(crate) fn head_prefix(&self) -> &'static str {
        let prefixes = ["", "language_model.", "model."];
        let holds = |prefix: &&str| self.tensors.contains(&format!("{prefix}lm_head.weight"));
        prefixes.into_iter().find(holds).unwrap_or("")
    }

    /// The dtype that its MLP weights are stored in (that of the first one).
    pub fn dtype(&self) -> DType {
        self.blocks[0].dtype
    }

    /// The dtype that it is meant to run in: the stored one, or f32 where that is f64.
    pub fn run_dtype(&self) -> DType {
        match self.dtype() {
            DType::F64 => DType::F32,
            stored => stored,
        }
    }

    /// Token ids of a text, with the special tokens around it: those that `tokenizer.json` adds, and BOS
    /// as `tokenizer_config.json` asks, if it does. A text that begins with BOS itself has it once.
    ///
    /// # Errors
    /// A missing or malformed `tokenizer.json`, a text of no tokens.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.tokenizer.encode(text)?.0)
    }

    /// As [`Self::encode`], with what is odd about the text.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_with_remarks(&self, text: &str) -> Result<(Vec<u32>, Vec<Remark>)> {
        self.tokenizer.encode(text)
    }

    /// What `tokenizer.json`, and `tokenizer_config.json` beside it, say that is not used, contradicts
    /// itself, or is odd. Takes a tenth of the time in which the tokenizer itself is read.
    ///
    /// # Errors
    /// A missing or malformed `tokenizer.json`.
    pub fn tokenizer_remarks(&self) -> Result<Vec<Remark>> {
        self.tokenizer.remarks().map(<[Remark]>::to_vec)
    }

    /// Whether [`Self::encode`] puts BOS before a text.
    ///
    /// # Errors
    /// A missing or malformed `tokenizer.json`.
    pub fn adds_bos(&self) -> Result<bool> {
        self.tokenizer.adds_bos()
    }

    /// The text of token ids, without special tokens.
    ///
    /// # Errors
    /// A missing or malformed `tokenizer.json`.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.decode(ids)
    }
}

fn missing_config(dir: &Path, path: PathBuf) -> Error {
    let (path, remedy) = if dir.is_dir() {
        (path, "a checkpoint directory has config.json beside its safetensors files")
    } else if dir.exists() {
        (dir.into(), "it is a file: pass the directory that holds config.json and the weights")
    } else {
        (dir.into(), "pass a directory with config.json and model.safetensors")
    };
    Error::MissingFile { path, remedy: remedy.into() }
}
