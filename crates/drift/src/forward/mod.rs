//! A forward pass with everything that happens inside the blocks.

mod recorder;
mod summary;
mod top;

pub use summary::{BlockSummary, ForwardSummary, Stats};
pub use top::TopToken;

use crate::dump_file;
use crate::error::{Error, Result};
use crate::input::{Texts, TokenIds, both_read, source_remark, text_remarks, without_texts};
use candle_core::{DType, Device, Tensor};
use gemma_mlp::checkpoint::Remark;
use gemma_mlp::model::Observer;
use gemma_mlp::{Activation, Checkpoint, EncoderDecoder, Gemma};
use recorder::Recorder;
use std::io::{self, Write};
use top::top_tokens;

/// How to run a forward pass.
#[derive(Debug, Clone)]
pub struct ForwardOptions {
    /// The activation; `None` for what the config means.
    pub activation: Option<Activation>,
    /// What to compute in.
    pub dtype: DType,
    /// Which blocks to report, by index.
    pub layers: Vec<usize>,
    /// Whether to keep the tensors of these blocks, the residual stream and the logits.
    pub keep: bool,
}

/// What a forward pass leaves.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Forward {
    /// What was measured, as data.
    pub summary: ForwardSummary,
    /// By name: `layers.N.mlp.{input, gate, up, activated, product, output}`; where the whole model
    /// ran also `hidden.N`, the residual stream after layer N, and `logits`. Empty unless they
    /// were to be kept.
    pub tensors: Vec<(String, Tensor)>,
}

/// How many of the likeliest next tokens a summary lists.
const TOP: usize = 5;

/// Runs a checkpoint on token ids. Where the family's attention is not supported, its blocks run
/// one by one on [`gaussian_input`](crate::input::gaussian_input), and there are no logits.
///
/// `progress` is called after each block with how many are done.
///
/// # Errors
/// No layers to report, a source that an encoder lacks or that none reads, an id out of the vocabulary, a tensor that is missing or does not fit.
pub fn forward(
    checkpoint: &Checkpoint,
    ids: &TokenIds,
    options: &ForwardOptions,
    device: &Device,
    progress: impl FnMut(usize),
) -> Result<Forward> {
    if options.layers.is_empty() {
        return Err(Error::NoLayers);
    }
    let (mut tensors, mut top) = (vec![], vec![]);
    let mut recorder =
        Recorder { checkpoint, options, layers: vec![], kept: vec![], done: 0, progress };
    let blocks_only = checkpoint.attention().err().map(|why| why.to_string());
    if blocks_only.is_none() {
        let (gemma, hidden) = run(checkpoint, ids, options, device, &mut recorder)?;
        if gemma.head().is_some() {
            let last = hidden.narrow(1, ids.seq_len() - 1, 1)?;
            top = top_tokens(checkpoint, &gemma.logits(&last)?.squeeze(1)?, TOP)?;
            if options.keep {
                tensors.push(("logits".to_string(), gemma.logits(&hidden)?));
            }
        }
    } else {
        recorder.blocks(ids, device)?;
    }
    tensors.append(&mut recorder.kept);
    let mut remarks = remarks(checkpoint, options)?;
    remarks.extend(text_remarks(checkpoint, ids.texts(), ids.seq_len()));
    if let Some(source) = ids.source() {
        let tokens = |ids: &TokenIds| ids.batch() * ids.seq_len();
        remarks.extend(both_read(checkpoint, tokens(source), tokens(ids)));
        let sources: Texts = source.texts().collect();
        remarks.extend(source_remark(checkpoint, &sources));
    }
    if let Some(first) = top.first().and_then(|tokens| tokens.first()) {
        remarks.extend(without_texts(checkpoint, &[first.id]));
    }
    Ok(Forward {
        summary: ForwardSummary {
            schema: 3,
            checkpoint: checkpoint.source().to_string(),
            tokens: ids.seq_len(),
            batch: ids.batch(),
            dtype: options.dtype.as_str(),
            blocks_only,
            remarks,
            layers: recorder.layers,
            top,
        },
        tensors,
    })
}

/// The model whose head makes logits, and its normed hidden states, `[batch, seq, hidden]`.
fn run(
    checkpoint: &Checkpoint,
    ids: &TokenIds,
    options: &ForwardOptions,
    device: &Device,
    recorder: &mut impl Observer,
) -> Result<(Gemma, Tensor)> {
    let config = checkpoint.config();
    ids.check(config.decoder().vocab_size)?;
    let tokens = ids.tensor(device)?;
    match (config.encoder(), ids.source()) {
        (None, None) => {
            let mut gemma = Gemma::load(checkpoint, device, options.dtype)?;
            if let Some(activation) = options.activation {
                gemma = gemma.with_activation(activation);
            }
            let hidden = gemma.hidden(&tokens, recorder)?;
            Ok((gemma, hidden))
        }
        (Some(encoder), Some(source)) => {
            source.check(encoder.vocab_size)?;
            let mut model = EncoderDecoder::load(checkpoint, device, options.dtype)?;
            if let Some(activation) = options.activation {
                model = model.with_activation(activation);
            }
            let hidden = model.hidden(&source.tensor(device)?, None, &tokens, recorder)?;
            Ok((model.decoder().clone(), hidden))
        }
        (Some(_), None) => Err(Error::NoSource { family: config.family }),
        (None, Some(_)) => Err(Error::NoEncoder { family: config.family }),
    }
}

fn remarks(checkpoint: &Checkpoint, options: &ForwardOptions) -> Result<Vec<Remark>> {
    let mut remarks = checkpoint.remarks().to_vec();
    for &index in &options.layers {
        remarks.extend(checkpoint.block(index)?.nonfinite(checkpoint.tensors())?);
    }
    Ok(remarks)
}

impl Forward {
    /// Writes the tensors as one safetensors file, with what they are in its header. Equal tensors make equal bytes.
    /// Besides them, memory is taken for a few megabytes at a time.
    ///
    /// # Errors
    /// The writer's; candle's, as [`io::ErrorKind::Other`], if a tensor cannot be copied from its device.
    pub fn write_to(&self, to: impl Write) -> io::Result<()> {
        let tensors = self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
        dump_file::write(tensors, self.summary.metadata(), to)
    }
}
