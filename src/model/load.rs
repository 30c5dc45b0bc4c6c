//! Weights of a checkpoint as layers and models.

use super::attention::{Attention, StrayKeys};
use super::gemma::{Builders, Gemma};
use super::norm::RmsNorm;
use crate::checkpoint::{BlockSpec, Checkpoint, Parts, Tensors};
use crate::error::Result;
use crate::kernels::linear::should_pack;
use crate::mlp::{GemmaMlp, Sparsity, gemma_mlp_b};
use candle_core::{DType, Device};
use candle_nn::VarBuilder;

impl Gemma {
    /// Loads a checkpoint's model to run in a dtype, under the activation that its config means.
    ///
    /// On the CPU, but for f64, its matrices are packed ([`crate::kernels::linear::Packed`]) in the dtype they
    /// are stored in, or rounded to if that is wider than `dtype`: a bf16 checkpoint takes 2 bytes a
    /// weight whatever it runs in. Products are summed in f32 and rounded once, and every activation
    /// in between has the model's dtype. Packed weights do not train: see [`Self::new`].
    ///
    /// # Errors
    /// A family whose attention is not supported, a tensor that is missing or does not fit the
    /// config, a file that was written to since the checkpoint was opened.
    pub fn load(checkpoint: &Checkpoint, device: &Device, dtype: DType) -> Result<Self> {
        checkpoint.check_whole_model()?;
        let vb = var_builder(checkpoint, dtype, device).rename_f({
            let parts = checkpoint.parts().clone();
            move |name| parts.stored(name)
        });
        let at = |name: &str| name.split_terminator('.').fold(vb.clone(), |vb, part| vb.pp(part));
        let Parts { backbone, embedding, head, .. } = checkpoint.parts();
        let table = format!("{backbone}embed_tokens_per_layer.weight");
        let per_layer_table = match device.is_cpu() && checkpoint.tensors().contains(&table) {
            true => Some(checkpoint.tensors().numbers(&table)?),
            false => None,
        };
        let parts = Builders {
            backbone: at(backbone),
            embedding: at(embedding),
            head: at(head),
            per_layer_table,
        };
        let config = checkpoint.config();
        let loaded = Self::from_parts(config, dtype, parts, should_pack(dtype, device));
        let mut gemma = from_unchanged(checkpoint, loaded)?;
        gemma.find_stray_keys(checkpoint.tensors(), backbone, &at(backbone))?;
        Ok(gemma)
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
    let mlp = gemma_mlp_b(hidden, intermediate, block.bias, block.activation.value, vb);
    let mlp = from_unchanged(checkpoint, mlp)?;
    let mlp = mlp.with_sparsity(match block.sparsity {
        0.0 => None,
        fraction => Some(Sparsity::new(fraction)?),
    });
    Ok(if should_pack(dtype, device) { mlp.packed()? } else { mlp })
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
