//! The tensors of the whole model, by name and shape.

use super::blocks::BlockSpec;
use super::config::attention::{AttentionConfig, CrossAttentionConfig, LayerAttention};
use super::config::feed_forward::{AltUpConfig, ExpertsConfig};
use super::config::head::HeadKind;
use super::config::recurrent::RecurrentConfig;
use super::config::stack::Stack;
use super::families::Cross;
use super::parts::{Parts, SCALAR};
use super::tensors::Tensors;

/// Names with shapes.
type Named = Vec<(String, Vec<usize>)>;

/// Every tensor that a stack of the whole model is computed of, but for its blocks', with its shape.
pub(super) fn tensors(
    stack: &Stack,
    attention: &AttentionConfig,
    blocks: &[BlockSpec],
    parts: &Parts,
    tensors: &Tensors,
) -> Named {
    let mut all = around_layers(stack, parts);
    for (index, block) in blocks.iter().take(attention.layers.len()).enumerate() {
        all.extend(of_layer(stack, attention, index, block, tensors));
    }
    all.into_iter().map(|(name, shape)| (parts.stored(&name), shape)).collect()
}

/// Of what is in front of the first layer and behind the last.
fn around_layers(stack: &Stack, parts: &Parts) -> Named {
    let (hidden, backbone) = (stack.hidden_size, &parts.backbone);
    let table = vec![stack.vocab_size, hidden];
    let own = |name: &str, shape: &[usize]| weight(&format!("{backbone}{name}"), shape);
    let mut all = vec![
        (format!("{}.weight", parts.embedding), table.clone()),
        own(stack.norms.last, &[hidden]),
    ];
    if stack.head.value == HeadKind::Separate {
        all.push((format!("{}.weight", parts.head), table));
    }
    if stack.end_of_image.is_some() {
        all.push((format!("{}.eoi_embedding", parts.end_of_image), vec![hidden]));
    }
    if let Some(inputs) = &stack.per_layer_inputs {
        let (width, prefix) = (inputs.size * stack.num_hidden_layers, inputs.names.model);
        all.extend(inputs.vocab_size.map(|rows| own("embed_tokens_per_layer", &[rows, width])));
        all.extend([
            own(&format!("{prefix}per_layer_model_projection"), &[width, hidden]),
            own(&format!("{prefix}per_layer_projection_norm"), &[inputs.size]),
        ]);
    }
    for i in 1..stack.altup.map_or(1, |altup| altup.inputs) {
        all.extend(
            ["altup_projections", "altup_unembed_projections"]
                .map(|projections| own(&format!("{projections}.{}", i - 1), &[hidden, hidden])),
        );
    }
    all.extend(stack.embedding_dim.map(|dim| own("embedding_projection", &[dim, hidden])));
    all
}

/// Of a layer, but for its block.
fn of_layer(
    stack: &Stack,
    attention: &AttentionConfig,
    index: usize,
    block: &BlockSpec,
    tensors: &Tensors,
) -> Named {
    let (hidden, layer) = (stack.hidden_size, &block.layer);
    let own = |name: &str, shape: &[usize]| weight(&format!("{layer}.{name}"), shape);
    let mut all: Named = norms(stack).map(|norm| own(norm, &[hidden])).collect();
    let prefix = format!("{layer}.{}", attention.name);
    let of_layer = &attention.layers[index];
    all.extend(match &stack.recurrent[index] {
        Some(recurrent) => of_recurrence(&prefix, recurrent, hidden),
        None => of_attention(&prefix, attention, of_layer, hidden, tensors),
    });
    if let Some(CrossAttentionConfig { kind: Cross::SubLayer, hidden_size }) = attention.cross {
        all.extend(of_cross(layer, attention, of_layer, hidden, hidden_size));
    }
    if let Some(experts) = &stack.feed_forward[index].experts {
        all.extend(of_experts(layer, experts, hidden));
    }
    if let Some(inputs) = &stack.per_layer_inputs {
        let prefix = inputs.names.layer;
        all.extend([
            own(&format!("{prefix}per_layer_input_gate"), &[inputs.size, hidden]),
            own(&format!("{prefix}per_layer_projection"), &[hidden, inputs.size]),
            own(&format!("{prefix}post_per_layer_input_norm"), &[hidden]),
        ]);
    }
    if stack.layer_scalar {
        all.push((format!("{layer}{SCALAR}"), vec![1]));
    }
    if let Some(altup) = &stack.altup {
        all.extend(of_streams(layer, altup, hidden));
    }
    all
}

fn weight(name: &str, shape: &[usize]) -> (String, Vec<usize>) {
    (format!("{name}.weight"), shape.to_vec())
}

fn norms(stack: &Stack) -> impl Iterator<Item = &'static str> {
    let names = &stack.norms;
    let norms = [Some(names.input), names.post_attention, Some(names.pre_mlp), names.post_mlp];
    norms.into_iter().flatten()
}

/// Of the experts beside a layer's block, and of the norms around both.
fn of_experts(layer: &str, experts: &ExpertsConfig, hidden: usize) -> Named {
    let &ExpertsConfig { num_experts: count, intermediate_size: width, .. } = experts;
    let mut all: Named = vec![
        (format!("{layer}.router.proj.weight"), vec![count, hidden]),
        (format!("{layer}.router.scale"), vec![hidden]),
        (format!("{layer}.router.per_expert_scale"), vec![count]),
        (format!("{layer}.experts.gate_up_proj"), vec![count, 2 * width, hidden]),
        (format!("{layer}.experts.down_proj"), vec![count, hidden, width]),
    ];
    let norms = ["post_feedforward_layernorm_1", "pre_feedforward_layernorm_2"];
    let norms = norms.into_iter().chain(["post_feedforward_layernorm_2"]);
    all.extend(norms.map(|norm| weight(&format!("{layer}.{norm}"), &[hidden])));
    all
}

/// Of Gemma 3n's AltUp and Laurel in a layer.
fn of_streams(layer: &str, altup: &AltUpConfig, hidden: usize) -> Named {
    let own = |name: &str, shape: &[usize]| weight(&format!("{layer}.{name}"), shape);
    let &AltUpConfig { inputs, laurel_rank: rank, correct_scale, .. } = altup;
    let scale = (format!("{layer}.altup.correct_output_scale"), vec![hidden]);
    let mut all = vec![
        own("altup.router_norm", &[hidden]),
        own("altup.modality_router", &[inputs, hidden]),
        own("altup.prediction_coefs", &[inputs * inputs, inputs]),
        own("altup.correction_coefs", &[inputs, inputs]),
        own("laurel.linear_left", &[rank, hidden]),
        own("laurel.linear_right", &[hidden, rank]),
        own("laurel.post_laurel_norm", &[hidden]),
    ];
    all.extend(correct_scale.then_some(scale));
    all
}

/// Of a layer's attention.
fn of_attention(
    prefix: &str,
    attention: &AttentionConfig,
    layer: &LayerAttention,
    hidden: usize,
    tensors: &Tensors,
) -> Named {
    let heads = attention.num_attention_heads;
    // Their widths were checked with the config.
    let mut projections = layer.projections(heads).unwrap_or_default();
    if tensors.contains(&format!("{prefix}.qkv_proj.weight")) {
        projections = vec![("qkv_proj", projections.iter().map(|(_, rows)| rows).sum())];
    }
    let queries = heads * layer.head_dim;
    let sides = projections.into_iter().map(|(name, rows)| (name, rows, hidden));
    let mut all = linears(prefix, sides.chain([("o_proj", hidden, queries)]), attention);
    if attention.qk_norm {
        let norms =
            ["q_norm", "k_norm"].into_iter().take(if layer.shares.is_none() { 2 } else { 1 });
        all.extend(norms.map(|norm| weight(&format!("{prefix}.{norm}"), &[layer.head_dim])));
    }
    all
}

/// Of a layer's attention to an encoder's states of a width.
fn of_cross(
    layer: &str,
    attention: &AttentionConfig,
    own: &LayerAttention,
    hidden: usize,
    encoder: usize,
) -> Named {
    let queries = attention.num_attention_heads * own.head_dim;
    let keys = own.num_key_value_heads * own.head_dim;
    let projections = [
        ("q_proj", queries, hidden),
        ("k_proj", keys, encoder),
        ("v_proj", keys, encoder),
        ("o_proj", hidden, queries),
    ];
    let mut all = linears(&format!("{layer}.cross_attn"), projections, attention);
    let norms = ["pre_cross_attn_layernorm", "post_cross_attn_layernorm"];
    all.extend(norms.map(|norm| weight(&format!("{layer}.{norm}"), &[hidden])));
    all
}

/// Of attention's projections, by name, rows and columns.
fn linears<'a>(
    prefix: &str,
    projections: impl IntoIterator<Item = (&'a str, usize, usize)>,
    attention: &AttentionConfig,
) -> Named {
    let mut all = vec![];
    for (name, rows, columns) in projections {
        all.push(weight(&format!("{prefix}.{name}"), &[rows, columns]));
        let bias = if name == "o_proj" { attention.output_bias } else { attention.bias };
        if bias {
            all.push((format!("{prefix}.{name}.bias"), vec![rows]));
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
