//! The tensors of the whole model, by name and shape.

use super::blocks::BlockSpec;
use super::config::Config;
use super::config::attention::{AttentionConfig, LayerAttention, ValuesFrom};
use super::config::head::HeadKind;
use super::config::recurrent::RecurrentConfig;
use super::config::stack::Stack;
use super::tensors::Tensors;

/// Names of the parts around the layers, without `.weight`.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    /// What stands before `layers.N`: `model.`, or nothing.
    pub(crate) backbone: String,
    /// `model.embed_tokens`, or what is taken for it.
    pub(crate) embedding: String,
    /// `lm_head`, with its prefix.
    pub(crate) head: String,
}

/// Every tensor that the whole model is computed of, but for the blocks', with its shape.
pub(super) fn tensors(
    config: &Config,
    attention: &AttentionConfig,
    blocks: &[BlockSpec],
    parts: &Parts,
    tensors: &Tensors,
) -> Vec<(String, Vec<usize>)> {
    let stack = &config.stacks[0];
    let hidden = stack.hidden_size;
    let table = vec![stack.vocab_size, hidden];
    let mut all = vec![
        (format!("{}.weight", parts.embedding), table.clone()),
        (format!("{}{}.weight", parts.backbone, stack.norms.last), vec![hidden]),
    ];
    if stack.head.value == HeadKind::Separate {
        all.push((format!("{}.weight", parts.head), table));
    }
    for block in blocks {
        all.extend(
            norms(stack).map(|norm| (format!("{}.{norm}.weight", block.layer), vec![hidden])),
        );
        let prefix = format!("{}.{}", block.layer, attention.name);
        let layer = &attention.layers[block.index];
        all.extend(match &stack.recurrent[block.index] {
            Some(recurrent) => of_recurrence(&prefix, recurrent, hidden),
            None => of_attention(&prefix, attention, layer, hidden, tensors),
        });
    }
    all
}

fn norms(stack: &Stack) -> impl Iterator<Item = &'static str> {
    let names = &stack.norms;
    let norms = [Some(names.input), names.post_attention, Some(names.pre_mlp), names.post_mlp];
    norms.into_iter().flatten()
}

/// The tensors of a layer's attention.
fn of_attention(
    prefix: &str,
    attention: &AttentionConfig,
    layer: &LayerAttention,
    hidden: usize,
    tensors: &Tensors,
) -> Vec<(String, Vec<usize>)> {
    let queries = attention.num_attention_heads * layer.head_dim;
    let keys = layer.num_key_value_heads * layer.head_dim;
    let own = layer.shares.is_none();
    let fused = tensors.contains(&format!("{prefix}.qkv_proj.weight"));
    let mut projections = match fused {
        true => vec![("qkv_proj", queries + 2 * keys, hidden)],
        false => vec![("q_proj", queries, hidden)],
    };
    if own && !fused {
        projections.push(("k_proj", keys, hidden));
        if layer.values == ValuesFrom::Projection {
            projections.push(("v_proj", keys, hidden));
        }
    }
    projections.push(("o_proj", hidden, queries));
    let mut all = vec![];
    for (name, rows, columns) in projections {
        all.push((format!("{prefix}.{name}.weight"), vec![rows, columns]));
        let bias = if name == "o_proj" { attention.output_bias } else { attention.bias };
        if bias {
            all.push((format!("{prefix}.{name}.bias"), vec![rows]));
        }
    }
    if attention.qk_norm {
        for norm in ["q_norm", "k_norm"].into_iter().take(if own { 2 } else { 1 }) {
            all.push((format!("{prefix}.{norm}.weight"), vec![layer.head_dim]));
        }
    }
    all
}

/// The tensors of a layer's recurrent block.
fn of_recurrence(
    prefix: &str,
    recurrent: &RecurrentConfig,
    hidden: usize,
) -> Vec<(String, Vec<usize>)> {
    let RecurrentConfig { width, heads, conv_width } = *recurrent;
    let part = width / heads.max(1);
    let tensors: [(&str, &[usize]); 13] = [
        ("linear_x.weight", &[width, hidden]),
        ("linear_x.bias", &[width]),
        ("linear_y.weight", &[width, hidden]),
        ("linear_y.bias", &[width]),
        ("linear_out.weight", &[hidden, width]),
        ("linear_out.bias", &[hidden]),
        ("conv_1d.weight", &[width, 1, conv_width]),
        ("conv_1d.bias", &[width]),
        ("rg_lru.recurrent_param", &[width]),
        ("rg_lru.input_gate_weight", &[heads, part, part]),
        ("rg_lru.input_gate_bias", &[heads, part]),
        ("rg_lru.recurrent_gate_weight", &[heads, part, part]),
        ("rg_lru.recurrent_gate_bias", &[heads, part]),
    ];
    tensors.map(|(name, shape)| (format!("{prefix}.{name}"), shape.to_vec())).into()
}
