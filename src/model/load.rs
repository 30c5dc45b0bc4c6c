//! Weights of a checkpoint as layers and models.

use super::attention::{Attention, StrayKeys};
use super::embedding::Embedding;
use super::encoder_decoder::EncoderDecoder;
use super::gemma::{Builders, Gemma, Hold, TWO_STACKS, Table};
use super::norm::RmsNorm;
use crate::checkpoint::{BlockSpec, Checkpoint, Parts, Stack, Tensors};
use crate::error::{Error, Result};
use crate::kernels::linear::matrix::deferring;
use crate::kernels::linear::should_pack;
use crate::kernels::linear::streamed::Streamed;
use crate::mlp::{GemmaMlp, Sparsity, gemma_mlp_b};
use candle_core::{DType, Device};
use candle_nn::VarBuilder;

impl Gemma {
    /// Loads a checkpoint's model to run in a dtype, under the activation that its config means.
    ///
    /// On the CPU, but for f64, its matrices are packed ([`crate::kernels::linear::Packed`]) in the dtype they
    /// are stored in, or rounded to if that is wider than `dtype`: a bf16 checkpoint takes 2 bytes a
    /// weight whatever it runs in. Products are summed in f32 and rounded once, and every activation
    /// in between has the model's dtype. Packed weights do not train: see [`Self::new`]. Of a checkpoint that is
    /// [streamed](Checkpoint::streamed) they stay in its files.
    ///
    /// # Errors
    /// A family whose attention is not supported, a tensor that is missing or does not fit the
    /// config, a file that was written to since the checkpoint was opened; a streamed checkpoint and a GPU, or f64 weights in
    /// f64.
    pub fn load(checkpoint: &Checkpoint, device: &Device, dtype: DType) -> Result<Self> {
        checkpoint.check_whole_model()?;
        let [parts] = checkpoint.parts() else { return Err(Error::Input(TWO_STACKS.into())) };
        let loading = Loading::of(checkpoint, device, dtype)?;
        load_stack(checkpoint, checkpoint.config().decoder(), parts, None, &loading)
    }

    /// Notes where the keys and values are that the file has for layers which share those of others.
    fn find_stray_keys(
        &mut self,
        tensors: &Tensors,
        backbone: &str,
        vb: &VarBuilder<'static>,
    ) -> Result<()> {
        for index in 0..self.layers.len() {
            let lender = self.layers[index].attention().and_then(Attention::shares);
            let lender = lender.and_then(|lender| self.layers.get(lender)?.attention());
            let Some(lender) = lender else { continue };
            let names = lender.key_tensors()?;
            let is_there = |(name, shape): &(&str, Vec<usize>)| {
                let name = format!("{backbone}layers.{index}.self_attn.{name}");
                tensors.check(&name, shape).is_ok()
            };
            if !names.is_empty() && names.iter().all(is_there) {
                let vb = vb.pp("layers").pp(index).pp("self_attn");
                if let Some(attention) = self.layers[index].attention_mut() {
                    attention.stray = Some(StrayKeys(vb));
                }
            }
        }
        Ok(())
    }
}

impl EncoderDecoder {
    /// Loads a checkpoint's encoder and decoder, each as [`Gemma::load`] does. A table that both look tokens up in is held
    /// once.
    ///
    /// # Errors
    /// Those of [`Gemma::load`]; a checkpoint of one stack alone.
    pub fn load(checkpoint: &Checkpoint, device: &Device, dtype: DType) -> Result<Self> {
        checkpoint.check_whole_model()?;
        let ([encoder, decoder], [of_encoder, of_decoder]) =
            (&checkpoint.config().stacks[..], checkpoint.parts())
        else {
            return Err(Error::Input("the checkpoint has no encoder beside its decoder".into()));
        };
        let loading = Loading::of(checkpoint, device, dtype)?;
        let load = |stack, parts, table| load_stack(checkpoint, stack, parts, table, &loading);
        let encoder = load(encoder, of_encoder, None)?;
        let one_table = of_encoder.embedding == of_decoder.embedding;
        let table = one_table.then(|| encoder.embedding.clone());
        Ok(Self::of(encoder, load(decoder, of_decoder, table)?))
    }
}

/// What a model is loaded as.
struct Loading {
    /// What it runs in.
    dtype: DType,
    /// What weights are rounded to that are not exact in it.
    held: DType,
    device: Device,
    hold: Hold,
}

impl Loading {
    fn of(checkpoint: &Checkpoint, device: &Device, dtype: DType) -> Result<Self> {
        let of = |held, hold| Self { dtype, held, device: device.clone(), hold };
        match (checkpoint.is_streamed(), dtype) {
            (false, _) if should_pack(dtype, device) => Ok(of(dtype, Hold::Packed)),
            (false, _) => Ok(of(dtype, Hold::Tensors)),
            (true, _) if !device.is_cpu() => Err(Error::Input(
                "weights that stay in their files are multiplied on the CPU alone: choose it, or have them in memory".into(),
            )),
            (true, DType::F64) if !checkpoint.tensors().are_exact_in(DType::F32) => {
                Err(Error::Input(
                    "f64 weights are not multiplied in f64 while they stay in their files: have them in memory".into(),
                ))
            }
            // Those of f32, bf16 and f16 are unpacked to f64 as they are used.
            (true, DType::F64) => Ok(of(DType::F32, Hold::Streamed(Streamed::new()))),
            (true, _) => Ok(of(dtype, Hold::Streamed(Streamed::new()))),
        }
    }
}

/// Makes layers; if they will be packed, their matrices are read straight into their place there.
fn packing<T>(
    packs: bool,
    make: impl FnOnce() -> candle_core::Result<T>,
) -> candle_core::Result<T> {
    if packs { deferring(make) } else { make() }
}

/// A stack of a checkpoint with what is around it, with an embedding that is there already, or its own.
fn load_stack(
    checkpoint: &Checkpoint,
    stack: &Stack,
    parts: &Parts,
    embedding: Option<Embedding>,
    Loading { dtype, held, device, hold }: &Loading,
) -> Result<Gemma> {
    let vb = var_builder(checkpoint, *held, device).rename_f({
        let parts = parts.clone();
        move |name| parts.stored(name)
    });
    let at = |name: &str| name.split_terminator('.').fold(vb.clone(), |vb, part| vb.pp(part));
    let Parts { backbone, head, .. } = parts;
    let table = format!("{backbone}embed_tokens_per_layer.weight");
    let per_layer_table = match device.is_cpu() && checkpoint.tensors().contains(&table) {
        true => Some(checkpoint.tensors().numbers(&table)?),
        false => None,
    };
    let builders = Builders {
        backbone: at(backbone),
        embedding: match embedding {
            Some(embedding) => Table::Shared(embedding),
            None => Table::Read(at(&parts.embedding), at(&parts.end_of_image)),
        },
        head: at(head),
        per_layer_table,
    };
    let loaded =
        packing(hold != &Hold::Tensors, || Gemma::from_parts(stack, *dtype, builders, hold));
    let mut gemma = from_unchanged(checkpoint, loaded)?;
    gemma.find_stray_keys(checkpoint.tensors(), backbone, &at(backbone))?;
    Ok(gemma)
}

/// Loads one block of a checkpoint to run in a dtype, under the activation that its config means.
///
/// # Errors
/// A file that was written to since the checkpoint was opened, and candle's, if the device is out of
/// memory: names, shapes and dtypes were checked on opening.
pub fn load_mlp(
    checkpoint: &Checkpoint,
    block: &BlockSpec,
    dtype: DType,
    device: &Device,
) -> Result<GemmaMlp> {
    let vb = var_builder(checkpoint, dtype, device).pp(&block.name);
    let (hidden, intermediate) = (block.hidden_size, block.intermediate_size);
    let packs = should_pack(dtype, device);
    let mlp = packing(packs, || {
        let mlp = gemma_mlp_b(hidden, intermediate, block.bias, block.activation.value, vb)?;
        if packs { mlp.packed() } else { Ok(mlp) }
    });
    Ok(from_unchanged(checkpoint, mlp)?.with_sparsity(match block.sparsity {
        0.0 => None,
        fraction => Some(Sparsity::new(fraction)?),
    }))
}

/// The norm in front of a block, in f32.
pub fn load_norm(checkpoint: &Checkpoint, block: &BlockSpec, device: &Device) -> Result<RmsNorm> {
    let weight =
        checkpoint.tensors().load(&block.norm, &[block.hidden_size], DType::F32, device)?;
    Ok(RmsNorm::new(weight, block.eps))
}

/// What was loaded through a `VarBuilder`. If that failed because a file has changed, the error is
/// ours again, and not candle's around it.
fn from_unchanged<T>(checkpoint: &Checkpoint, loaded: candle_core::Result<T>) -> Result<T> {
    if loaded.is_err() {
        checkpoint.tensors().check_unchanged()?;
    }
    Ok(loaded?)
}

/// Weights rounded to a dtype, and held in it, or as they are stored where they will be packed.
fn var_builder(checkpoint: &Checkpoint, dtype: DType, device: &Device) -> VarBuilder<'static> {
    match should_pack(dtype, device) {
        true => checkpoint.tensors().var_builder_as_stored(dtype, device),
        false => checkpoint.tensors().var_builder(dtype, device),
    }
}
