//! A checkpoint: config, weights, tokenizer; in files of their own, or all in a GGUF file. Knows families, names and
//! their quirks, and computes nothing.

mod blocks;
mod config;
mod families;
mod gguf;
mod head;
#[cfg(feature = "hub")]
pub(crate) mod hub;
mod inspect;
pub(crate) mod json;
mod layers;
mod mixture;
mod names;
mod notes;
mod parts;
mod quantised;
pub(crate) mod remark;
pub(crate) mod tensors;
pub(crate) mod tokenizer;
mod unused;
mod whole;

pub use blocks::BlockSpec;
pub use config::Config;
pub use config::activation::Resolved;
pub use config::attention::{AttentionConfig, CrossAttentionConfig, LayerAttention, ValuesFrom};
pub use config::feed_forward::{AltUpConfig, ExpertsConfig, FeedForward, PerLayerInputs};
pub use config::head::HeadKind;
pub use config::prefix::Prefix;
pub use config::quantization::Quantization;
pub use config::recurrent::RecurrentConfig;
pub use config::rope::Rotated;
pub use config::stack::Stack;
pub use families::{Cross, EmbeddingScale, Family, NormNames, NormWeight, PerLayerNames};
#[cfg(feature = "hub")]
pub use hub::Hub;
pub use inspect::{Inspection, LayerKind, StackInspection, inspect};
pub use layers::Layers;
pub use mixture::Mixture;
pub(crate) use parts::Parts;
pub use remark::{Level, Remark, RemarkKind};
pub use tensors::{Codes, Storage, Tensors};

use crate::error::{Error, Result};
use candle_core::DType;
use config::raw::RawGeneration;
use gguf::Opened;
use json::{parse_json, read_text};
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokenizer::{TOKENIZER, Tokenizer};

const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";

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
    /// Of each stack.
    parts: Vec<Parts>,
    tokenizer: Arc<Tokenizer>,
    remarks: Vec<Remark>,
    streamed: bool,
}

/// Where a checkpoint comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A directory on this machine.
    Directory(PathBuf),
    /// A GGUF file on this machine; of a split one, the part that was named.
    File(PathBuf),
    /// A repository on the Hugging Face Hub, as it was at a commit.
    Hub {
        /// `org/name`, with a file's name behind it where one was asked for.
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
            Self::Directory(path) | Self::File(path) => write!(f, "{}", path.display()),
            Self::Hub { id, commit } => write!(f, "{id} (revision {commit})"),
            #[cfg(feature = "embedded")]
            Self::Embedded => f.write_str("embedded tiny-gemma3 (trained on generated text)"),
        }
    }
}

impl Checkpoint {
    /// Opens a directory with `config.json`, `model.safetensors` (or shards and their
    /// `model.safetensors.index.json`) and, if text is to be read, `tokenizer.json`; or a GGUF file, any part of
    /// a split one, or a directory that holds one such and no safetensors weights.
    ///
    /// Reads the config and the headers, and checks the name, shape and dtype of every MLP weight.
    /// The files stay open; weights are read from them when they are asked for. Those that are quantised, in
    /// GGUF or by `fp8`, compressed-tensors or Google's `gemma` in safetensors, are dequantised then.
    ///
    /// # Errors
    /// Anything missing, malformed or contradictory, by file and tensor; a family whose MLP is
    /// not the plain gated block.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        match gguf::is_gguf(path) {
            true => Self::open_gguf(Source::File(path.into()), path),
            false => Self::open_as(Source::Directory(path.into()), path),
        }
    }

    /// A GGUF file, by any of its parts.
    fn open_gguf(source: Source, path: &Path) -> Result<Self> {
        let Opened { mut config, tensors, tokenizer } = gguf::open(path)?;
        let beside =
            [CONFIG, GENERATION].into_iter().filter(|name| path.with_file_name(name).exists());
        let beside: Vec<_> = beside.collect();
        if !beside.is_empty() {
            let text = format!(
                "{} beside the file: not used, all is in its metadata",
                beside.join(" and ")
            );
            config.remarks.push(Remark::note(RemarkKind::Unused, text));
        }
        Self::new(source, config, tensors, tokenizer)
    }

    fn open_as(source: Source, dir: &Path) -> Result<Self> {
        if let Some(file) = gguf::parts::of_directory(dir)? {
            return Self::open_gguf(source, &file);
        }
        let path = dir.join(CONFIG);
        if !path.exists() {
            return Err(missing_config(dir, path));
        }
        let mut config = Config::parse(&read_text(&path)?, &path)?;
        config.add_end_tokens(&dir.join(GENERATION));
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
        let tensors = Tensors::from_bytes(&file("model.safetensors"), &weights[..])?;
        Self::new(Source::Embedded, config, tensors, tokenizer)
    }

    /// A checkpoint in memory, without a tokenizer.
    pub(crate) fn from_bytes(config: &str, weights: Vec<u8>) -> Result<Self> {
        let dir = Path::new("memory");
        let config = Config::parse(config, &dir.join(CONFIG))?;
        let tensors = Tensors::from_bytes(&dir.join(tensors::WEIGHTS), weights)?;
        let tokenizer = Tokenizer::file(dir.join(TOKENIZER), &config);
        Self::new(Source::Directory(dir.into()), config, tensors, tokenizer)
    }

    /// A GGUF file in memory.
    pub(crate) fn from_gguf(bytes: Vec<u8>) -> Result<Self> {
        let path = Path::new("memory.gguf");
        let Opened { config, tensors, tokenizer } = gguf::from_bytes(path, bytes)?;
        Self::new(Source::File(path.into()), config, tensors, tokenizer)
    }

    fn new(
        source: Source,
        mut config: Config,
        tensors: Tensors,
        tokenizer: Tokenizer,
    ) -> Result<Self> {
        let quantization = config.quantization.as_ref();
        let (tensors, dequantised) = quantised::dequantised(tensors, quantization)?;
        let by_method = |e: Error| e.quantised(quantization.map(Quantization::said));
        let blocks = blocks::find(&config, &tensors).map_err(by_method)?;
        let mut remarks = [tensors.remarks(), &config.remarks].concat();
        if let (Some(Quantization { method, .. }), []) = (quantization, &dequantised[..]) {
            let text = format!(
                "the config says that the weights are quantised ({method}); they are stored as {}, and taken as they are",
                blocks[0].dtype.as_str()
            );
            remarks.push(Remark::warning(RemarkKind::Unused, text));
        }
        remarks.extend(dequantised);
        let parts = parts::find(&mut config, &blocks, &tensors, &mut remarks)?;
        let (tokenizer, streamed) = (Arc::new(tokenizer), false);
        let mut checkpoint =
            Self { source, config, tensors, blocks, parts, tokenizer, remarks, streamed };
        let unused = checkpoint.unused();
        checkpoint.remarks.extend(unused);
        Ok(checkpoint)
    }

    /// What nothing is computed of.
    fn unused(&self) -> Vec<Remark> {
        let tensors = &self.tensors;
        let of_blocks = self.blocks.iter().flat_map(|block| {
            block.tensors(tensors).into_iter().map(|(name, _)| name).chain([block.norm.clone()])
        });
        let mut used: HashSet<String> = of_blocks.collect();
        let whole = self.whole_tensors();
        used.extend(whole.iter().flatten().map(|(name, _)| name.clone()));
        // One that is equal to the embedding is as good as used.
        used.extend(self.parts.iter().flat_map(Parts::equals).map(|name| format!("{name}.weight")));
        let stacks = self.config.stacks.iter().zip(&self.parts);
        let stacks: Vec<_> = stacks
            .map(|(stack, parts)| unused::Named { prefix: parts.backbone.clone(), stack })
            .collect();
        let left_out = self.config.family.profile().left_out.as_ref();
        unused::remarks(tensors, &used, &stacks, whole.is_some(), left_out)
    }

    /// The tensors of the whole model but for the blocks', if it runs here.
    fn whole_tensors(&self) -> Option<Vec<(String, Vec<usize>)>> {
        let (mut all, mut blocks) = (vec![], &self.blocks[..]);
        for (stack, parts) in self.config.stacks.iter().zip(&self.parts) {
            let attention = stack.attention.as_ref().ok()?;
            let (own, others) = blocks.split_at(stack.num_hidden_layers);
            all.extend(whole::tensors(stack, attention, own, parts, &self.tensors));
            blocks = others;
        }
        Some(all)
    }

    /// Checks by the headers alone that the whole model can be loaded.
    ///
    /// # Errors
    /// As [`Self::attention`]; a tensor that is missing or does not fit the config.
    pub fn check_whole_model(&self) -> Result<()> {
        self.attention()?;
        for (name, shape) in self.whole_tensors().unwrap_or_default() {
            let checked = self.tensors.check(&name, &shape);
            let said = || self.config.quantization.as_ref().map(Quantization::said);
            checked.map_err(|e| e.quantised(said()))?;
        }
        Ok(())
    }

    /// The checkpoint, for models that are larger than memory: models that are loaded of it leave their weights in its
    /// files, and compute the same, to the last bit (in f64 but for the order in which attention's products are summed).
    ///
    /// The matrices of a layer are then read and packed while the layer before it computes, and given up when the next
    /// one begins; rows of embeddings are read as they are looked up, experts as they are chosen, and the head in pieces
    /// of 32 MiB. Two layers and two such pieces are in memory at a time, and every pass through the model reads the files
    /// once. It pays to take many tokens through a layer before the next: a whole text, or several.
    ///
    /// On the CPU alone. What cannot be read is the error of the pass that needs it.
    pub fn streamed(self) -> Self {
        Self { streamed: true, ..self }
    }

    /// Whether models leave their weights in its files.
    pub fn is_streamed(&self) -> bool {
        self.streamed
    }

    /// The checkpoint with its weights quantised when they are read: models that are loaded of it have the weights that
    /// `llama-quantize` makes of it, without an importance matrix.
    ///
    /// # Errors
    /// Weights that are quantised already.
    pub fn quantised(&self, mixture: Mixture) -> Result<Self> {
        let entries = || self.tensors.entries();
        if let Some((name, _, storage)) = entries().find(|(.., storage)| storage.is_quantised()) {
            return Err(Error::Input(format!(
                "{}: tensor '{name}' is in {storage} already, and is not quantised to {mixture} as well; take the weights \
                 that it was made of",
                self.source
            )));
        }
        let to = mixture.of(entries().map(|(name, shape, _)| (name, shape)));
        Ok(Self {
            source: self.source.clone(),
            config: self.config.clone(),
            tensors: self.tensors.requantised(to),
            blocks: self.blocks.clone(),
            parts: self.parts.clone(),
            tokenizer: self.tokenizer.clone(),
            remarks: self.remarks.clone(),
            streamed: self.streamed,
        })
    }

    /// The checkpoint with other tokens at a text's start that all see one another, in place of all of them; for all
    /// that is computed of it.
    ///
    /// # Errors
    /// A model without such tokens: PaliGemma has them.
    pub fn with_prefix(mut self, prefix: Prefix) -> Result<Self> {
        let attention = self.config.stacks[0].attention.as_mut().ok();
        let Some(own) = attention.and_then(|attention| attention.prefix.as_mut()) else {
            return Err(Error::Input(format!(
                "{} is a {}: no part of a text is a prompt whose tokens see one another, as in PaliGemma; leave \
                 --prefix-tokens out",
                self.source, self.config.family
            )));
        };
        let was = std::mem::replace(own, prefix).remark();
        for remarks in [&mut self.remarks, &mut self.config.remarks] {
            remarks.iter_mut().filter(|remark| **remark == was).for_each(|r| *r = prefix.remark());
        }
        Ok(self)
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

    /// The files that it is read from, now or when a text is; none of the one inside the program.
    pub fn files(&self) -> Vec<PathBuf> {
        #[cfg(feature = "embedded")]
        if self.source == Source::Embedded {
            return vec![];
        }
        let path = self.tensors.path();
        let beside = match gguf::is_gguf(path) {
            true => vec![path.with_file_name(TOKENIZER), path.with_file_name(tokenizer::SETTINGS)],
            false => {
                let names = [CONFIG, GENERATION, TOKENIZER, tokenizer::SETTINGS, tensors::INDEX];
                names.map(|name| path.join(name)).into()
            }
        };
        let beside = beside.into_iter().filter(|path| path.exists());
        self.tensors.files().map(Path::to_path_buf).chain(beside).collect()
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

    /// The attention of its layers, of the decoder's where there is an encoder beside it.
    ///
    /// # Errors
    /// A family whose whole model is not run here; the sentence says why.
    pub fn attention(&self) -> Result<&AttentionConfig> {
        let why = |reason| Error::Input(format!("the whole model does not run: {reason}"));
        if let Some(encoder) = self.config.encoder() {
            encoder.attention.as_ref().map_err(why)?;
        }
        self.config.decoder().attention.as_ref().map_err(why)
    }

    /// What the parts around the layers of each stack are called.
    pub(crate) fn parts(&self) -> &[Parts] {
        &self.parts
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

    /// The `tokenizer.json` that texts are read with, where it lies or as it was made.
    pub(crate) fn tokenizer_json(&self) -> Result<Vec<u8>> {
        self.tokenizer.json().map(Cow::into_owned)
    }

    /// The text of one token, special ones included.
    pub(crate) fn token_text(&self, id: u32) -> Result<String> {
        self.tokenizer.token_text(id)
    }
}

/// The ids of a text, and the text of ids, by the tokenizer of a small Gemma 3.
pub(crate) fn tokenize(
    json: Vec<u8>,
    text: &str,
    ids: &[u32],
) -> (Result<Vec<u32>>, Result<String>) {
    let config = r#"{"model_type": "gemma3_text", "vocab_size": 1024}"#;
    let tokenizer =
        Config::parse(config, Path::new(CONFIG)).map(|config| Tokenizer::bytes(json, &config));
    match tokenizer {
        Ok(tokenizer) => {
            let decoded = tokenizer.decode(ids);
            (tokenizer.encode(text).map(|(ids, _)| ids), decoded)
        }
        Err(e) => (Err(e), Ok(String::new())),
    }
}

/// How many shards and tensors an index lists.
pub(crate) fn parse_index(json: &str) -> Result<(usize, usize)> {
    let index = tensors::index::Index::parse(json, Path::new(tensors::INDEX))?;
    Ok((index.files.len(), index.tensors.len()))
}

impl Config {
    /// Adds the end tokens of a file with settings of generation, if there is one.
    fn add_end_tokens(&mut self, path: &Path) {
        if !path.exists() {
            return;
        }
        match read_text(path).and_then(|json| parse_json::<RawGeneration>(&json, path)) {
            Ok(raw) => {
                for id in raw.eos_token_id {
                    if !self.eos_token_ids.contains(&id) {
                        self.eos_token_ids.push(id);
                    }
                }
            }
            Err(e) => {
                let text = format!("{GENERATION} is not used, nor are its end tokens: {e}");
                self.remarks.push(Remark::warning(RemarkKind::Unused, text));
            }
        }
    }
}

fn missing_config(dir: &Path, path: PathBuf) -> Error {
    if dir.is_dir() {
        return Error::MissingFile { path, remedy: tensors::siblings::without_config(dir) };
    }
    if !dir.exists() {
        let remedy =
            "pass a directory with config.json and model.safetensors, or a GGUF file".into();
        return Error::MissingFile { path: dir.into(), remedy };
    }
    let remedy =
        "it is a file and no GGUF; pass the directory that holds config.json and the weights";
    Error::NotADirectory { path: dir.into(), remedy: remedy.into() }
}
