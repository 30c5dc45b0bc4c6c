//! The tensors of the whole model, by name and shape.

use super::blocks::BlockSpec;
use super::config::attention::{AttentionConfig, CrossAttentionConfig, LayerAttention, ValuesFrom};
use super::config::head::HeadKind;
use super::config::stack::Stack;
use super::families::Cross;
use super::parts::Parts;
use super::tensors::Tensors;

/// Every tensor that a stack of the whole model is computed of, but for its blocks', with its shape.
pub(super) fn tensors(
    stack: &Stack,
    attention: &AttentionConfig,
    blocks: &[BlockSpec],
    parts: &Parts,
    tensors: &Tensors,
) -> Vec<(String, Vec<usize>)> {
    let hidden = stack.hidden_size;
    let table = vec![stack.vocab_size, hidden];
    let mut all = vec![
        (format!("{}.weight", parts.embedding), table.clone()),
        (format!("{}norm.weight", parts.backbone), vec![hidden]),
    ];
    if stack.head.value == HeadKind::Separate {
        all.push((format!("{}.weight", parts.head), table));
    }
    if stack.end_of_image.is_some() {
        all.push((format!("{}.eoi_embedding", parts.end_of_image), vec![hidden]));
    }
    for (block, layer) in blocks.iter().zip(&attention.layers) {
        all.extend(
            norms(stack).map(|norm| (format!("{}.{norm}.weight", block.layer), vec![hidden])),
        );
        let prefix = format!("{}.self_attn", block.layer);
        all.extend(of_attention(&prefix, attention, layer, hidden, tensors));
        if let Some(CrossAttentionConfig { kind: Cross::SubLayer, hidden_size }) = attention.cross {
            all.extend(cross(&block.layer, attention, layer, hidden, hidden_size));
        }
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
    let mut all = linears(prefix, &projections, attention.bias);
    if attention.qk_norm {
        for norm in ["q_norm", "k_norm"].into_iter().take(if own { 2 } else { 1 }) {
            all.push((format!("{prefix}.{norm}.weight"), vec![layer.head_dim]));
        }
    }
    all
}

/// The tensors of a layer's attention to an encoder's states of a width.
fn cross(
    layer: &str,
    attention: &AttentionConfig,
    own: &LayerAttention,
    hidden: usize,
    encoder: usize,
) -> Vec<(String, Vec<usize>)> {
    let queries = attention.num_attention_heads * own.head_dim;
    let keys = own.num_key_value_heads * own.head_dim;
    let projections = [
        ("q_proj", queries, hidden),
        ("k_proj", keys, encoder),
        ("v_proj", keys, encoder),
        ("o_proj", hidden, queries),
    ];
    let mut all = linears(&format!("{layer}.cross_attn"), &projections, attention.bias);
    for norm in ["pre_cross_attn_layernorm", "post_cross_attn_layernorm"] {
        all.push((format!("{layer}.{norm}.weight"), vec![hidden]));
    }
    all
}

/// The tensors of projections, by name, rows and columns.
fn linears(
    prefix: &str,
    projections: &[(&str, usize, usize)],
    bias: bool,
) -> Vec<(String, Vec<usize>)> {
    let mut all = vec![];
    for &(name, rows, columns) in projections {
        all.push((format!("{prefix}.{name}.weight"), vec![rows, columns]));
        if bias {
            all.push((format!("{prefix}.{name}.bias"), vec![rows]));
        }
    }
    all
}
