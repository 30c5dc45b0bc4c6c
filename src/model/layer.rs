//! A decoder layer up to its MLP.

use super::attention::Attention;
use super::load::load_norm;
use super::norm::RmsNorm;
use crate::checkpoint::{AttentionConfig, BlockSpec, Checkpoint, Family};
use crate::error::Result;
use candle_core::{DType, Device, Module, Tensor};

/// What a decoder layer does before its MLP: norm, attention, norm, residual, norm.
///
/// Gemma 2 and 3 norm what attention returns; Gemma 1 and VaultGemma do not, and in Gemma 1 the
/// norm named "post attention" is the one in front of the MLP.
#[derive(Debug, Clone)]
pub struct LayerFront {
    input_norm: RmsNorm,
    attention: Attention,
    post_attention_norm: Option<RmsNorm>,
    mlp_norm: RmsNorm,
}

impl LayerFront {
    /// Loads the layer of a block, in f32. `index` counts within the block's stack.
    ///
    /// # Errors
    /// A tensor that is missing or does not fit the config.
    pub fn load(
        checkpoint: &Checkpoint,
        block: &BlockSpec,
        attention: &AttentionConfig,
        index: usize,
        device: &Device,
    ) -> Result<Self> {
        check(checkpoint, block, attention)?;
        let norm = |name: &str| {
            load_norm(checkpoint, block, &format!("{}.{name}.weight", block.layer), device)
        };
        let vb =
            checkpoint.tensors().var_builder(DType::F32, device).pp(&block.layer).pp("self_attn");
        let has_post_norm = matches!(checkpoint.config().family, Family::Gemma2 | Family::Gemma3);
        Ok(Self {
            input_norm: norm("input_layernorm")?,
            attention: Attention::new(attention, index, block.hidden_size, block.eps, vb)?,
            post_attention_norm: match has_post_norm {
                true => Some(norm("post_attention_layernorm")?),
                false => None,
            },
            mlp_norm: load_norm(checkpoint, block, &block.norm, device)?,
        })
    }

    /// The MLP's input from the layer's, both `[batch, seq, hidden]` in f32.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn mlp_input(&self, x: &Tensor) -> Result<Tensor> {
        let mut attended = self.attention.forward(&self.input_norm.forward(x)?)?;
        if let Some(norm) = &self.post_attention_norm {
            attended = norm.forward(&attended)?;
        }
        Ok(self.mlp_norm.forward(&(x + attended)?)?)
    }
}

/// Checks the attention's tensors by their headers, so that what does not fit is named with its
/// file.
fn check(checkpoint: &Checkpoint, block: &BlockSpec, attention: &AttentionConfig) -> Result<()> {
    let hidden = block.hidden_size;
    let queries = attention.num_attention_heads * attention.head_dim;
    let keys = attention.num_key_value_heads * attention.head_dim;
    let check = |name: &str, shape: &[usize]| {
        checkpoint.tensors().check(&format!("{}.self_attn.{name}", block.layer), shape)
    };
    for (name, rows, columns) in [
        ("q_proj", queries, hidden),
        ("k_proj", keys, hidden),
        ("v_proj", keys, hidden),
        ("o_proj", hidden, queries),
    ] {
        check(&format!("{name}.weight"), &[rows, columns])?;
        if attention.bias {
            check(&format!("{name}.bias"), &[rows])?;
        }
    }
    if attention.qk_norm {
        check("q_norm.weight", &[attention.head_dim])?;
        check("k_norm.weight", &[attention.head_dim])?;
    }
    Ok(())
}
