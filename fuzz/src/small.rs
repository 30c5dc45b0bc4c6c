//! Small checkpoints in memory.

use gemma_mlp::Checkpoint;
use gemma_mlp::checkpoint::{
    Cross, CrossAttentionConfig, FeedForward, LayerAttention, RecurrentConfig, Stack, ValuesFrom,
};
use gemma_mlp::internal::checkpoint_from_bytes;
use serde_json::{Value, json};

/// A tensor to be written.
#[derive(Clone)]
pub struct Spec {
    pub name: String,
    pub shape: Vec<usize>,
    pub dtype: &'static str,
}

/// A safetensors file of a header and so many bytes, from values of one period or another.
pub fn safetensors(header: &str, body: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), body].concat()
}

/// Numbers of a dtype: some around 0, or one pattern of bits.
fn values(dtype: &str, elements: usize, pattern: Option<u64>) -> Vec<u8> {
    let mut bytes = vec![];
    for i in 0..elements {
        let value = ((i * 37 % 64) as f32 - 31.5) / 64.0;
        let (single, double) = (value.to_bits(), f64::from(value).to_bits());
        match dtype {
            "F64" => bytes.extend(pattern.unwrap_or(double).to_le_bytes()),
            // As an f16 the bits of a bf16 are another number of the same sign, and finite here.
            "BF16" | "F16" => {
                let bits = pattern.map_or((single >> 16) as u16, |pattern| pattern as u16);
                bytes.extend(bits.to_le_bytes());
            }
            _ => bytes.extend(pattern.map_or(single, |pattern| pattern as u32).to_le_bytes()),
        }
    }
    bytes
}

/// The file of some tensors, one of which may be filled with a pattern.
pub fn write(specs: &[Spec], odd: Option<(usize, u64)>) -> Vec<u8> {
    let (mut header, mut body) = (serde_json::Map::new(), vec![]);
    for (i, Spec { name, shape, dtype }) in specs.iter().enumerate() {
        let start = body.len();
        let pattern = odd.filter(|(at, _)| *at == i).map(|(_, pattern)| pattern);
        body.extend(values(dtype, shape.iter().product(), pattern));
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, body.len()]});
        header.insert(name.clone(), entry);
    }
    safetensors(&Value::Object(header).to_string(), &body)
}

/// How a checkpoint is laid out.
pub struct Layout {
    pub prefix: &'static str,
    pub fused_gate_up: bool,
    pub fused_qkv: bool,
    pub head: bool,
    pub dtype: &'static str,
}

impl Default for Layout {
    fn default() -> Self {
        let (fused_gate_up, fused_qkv, head) = (false, false, false);
        Self { prefix: "model.", fused_gate_up, fused_qkv, head, dtype: "F32" }
    }
}

/// The tensors that a stack asks for, as transformers calls them.
pub fn specs(stack: &Stack, layout: &Layout) -> Vec<Spec> {
    let hidden = stack.hidden_size;
    let mut specs = vec![];
    let mut add = |name: String, shape: &[usize]| {
        specs.push(Spec { name, shape: shape.into(), dtype: layout.dtype });
    };
    let stack_prefix =
        if stack.name.is_empty() { String::new() } else { format!("{}.", stack.name) };
    let prefix = format!("{}{stack_prefix}", layout.prefix);
    add(format!("{prefix}embed_tokens.weight"), &[stack.vocab_size, hidden]);
    add(format!("{prefix}{}.weight", stack.norms.last), &[hidden]);
    // An encoder has none, and that of a decoder beside one is called otherwise.
    match stack.name {
        "" if layout.head => add("lm_head.weight".into(), &[stack.vocab_size, hidden]),
        "decoder" if layout.head => {
            add("lm_head.out_proj.weight".into(), &[stack.vocab_size, hidden]);
        }
        _ => {}
    }
    if stack.end_of_image.is_some() {
        add(format!("{prefix}embed_tokens.eoi_embedding"), &[hidden]);
    }
    for i in 0..stack.num_hidden_layers {
        let layer = format!("{prefix}layers.{i}");
        let norms = &stack.norms;
        for norm in [Some(norms.input), norms.post_attention, Some(norms.pre_mlp), norms.post_mlp]
            .into_iter()
            .flatten()
        {
            add(format!("{layer}.{norm}.weight"), &[hidden]);
        }
        let mlp = stack.mlp_name;
        let inner = stack.feed_forward[i].intermediate_size;
        let into = match layout.fused_gate_up {
            true => vec![("gate_up_proj", 2 * inner)],
            false => vec![("gate_proj", inner), ("up_proj", inner)],
        };
        for (name, rows, columns) in into
            .into_iter()
            .map(|(name, rows)| (name, rows, hidden))
            .chain([("down_proj", hidden, inner)])
        {
            add(format!("{layer}.{mlp}.{name}.weight"), &[rows, columns]);
            if stack.mlp_bias {
                add(format!("{layer}.{mlp}.{name}.bias"), &[rows]);
            }
        }
        let Ok(attention) = &stack.attention else { continue };
        if let Some(CrossAttentionConfig { kind: Cross::SubLayer, hidden_size }) = attention.cross {
            let queries = attention.num_attention_heads * attention.layers[i].head_dim;
            let keys = attention.layers[i].num_key_value_heads * attention.layers[i].head_dim;
            for (name, rows, columns) in [
                ("q_proj", queries, hidden),
                ("k_proj", keys, hidden_size),
                ("v_proj", keys, hidden_size),
                ("o_proj", hidden, queries),
            ] {
                add(format!("{layer}.cross_attn.{name}.weight"), &[rows, columns]);
                if attention.bias {
                    add(format!("{layer}.cross_attn.{name}.bias"), &[rows]);
                }
            }
            add(format!("{layer}.pre_cross_attn_layernorm.weight"), &[hidden]);
            add(format!("{layer}.post_cross_attn_layernorm.weight"), &[hidden]);
        }
        let mixer = format!("{layer}.{}", attention.name);
        if let Some(RecurrentConfig { width, heads, conv_width }) = stack.recurrent[i] {
            let part = width / heads;
            for (name, shape) in [
                ("linear_x.weight", vec![width, hidden]),
                ("linear_x.bias", vec![width]),
                ("linear_y.weight", vec![width, hidden]),
                ("linear_y.bias", vec![width]),
                ("linear_out.weight", vec![hidden, width]),
                ("linear_out.bias", vec![hidden]),
                ("conv_1d.weight", vec![width, 1, conv_width]),
                ("conv_1d.bias", vec![width]),
                ("rg_lru.recurrent_param", vec![width]),
                ("rg_lru.input_gate_weight", vec![heads, part, part]),
                ("rg_lru.input_gate_bias", vec![heads, part]),
                ("rg_lru.recurrent_gate_weight", vec![heads, part, part]),
                ("rg_lru.recurrent_gate_bias", vec![heads, part]),
            ] {
                add(format!("{mixer}.{name}"), &shape);
            }
            continue;
        }
        let of_layer = &attention.layers[i];
        let queries = attention.num_attention_heads * of_layer.head_dim;
        let keys = of_layer.num_key_value_heads * of_layer.head_dim;
        let own = match (of_layer.shares, of_layer.values) {
            (Some(_), _) => 0,
            (None, ValuesFrom::Keys) => 1,
            (None, ValuesFrom::Projection) => 2,
        };
        let mut projections = match layout.fused_qkv {
            true => vec![("qkv_proj", queries + own * keys, hidden)],
            false => {
                let all = [
                    ("q_proj", queries, hidden),
                    ("k_proj", keys, hidden),
                    ("v_proj", keys, hidden),
                ];
                all[..=own].to_vec()
            }
        };
        projections.push(("o_proj", hidden, queries));
        for (name, rows, columns) in projections {
            add(format!("{mixer}.{name}.weight"), &[rows, columns]);
            if if name == "o_proj" { attention.output_bias } else { attention.bias } {
                add(format!("{mixer}.{name}.bias"), &[rows]);
            }
        }
        if attention.qk_norm {
            for name in ["q_norm", "k_norm"].into_iter().take(1 + own) {
                add(format!("{mixer}.{name}.weight"), &[of_layer.head_dim]);
            }
        }
        later_layer(stack, &stack.feed_forward[i], &layer, &mut add);
    }
    around_later_layers(stack, &prefix, &mut add);
    specs
}

/// What layers have since Gemma 3n.
fn later_layer(
    stack: &Stack,
    block: &FeedForward,
    layer: &str,
    add: &mut impl FnMut(String, &[usize]),
) {
    let hidden = stack.hidden_size;
    let mut add = |name: &str, shape: &[usize]| add(format!("{layer}.{name}"), shape);
    if let Some(experts) = block.experts {
        let (count, width) = (experts.num_experts, experts.intermediate_size);
        add("router.proj.weight", &[count, hidden]);
        add("router.scale", &[hidden]);
        add("router.per_expert_scale", &[count]);
        add("experts.gate_up_proj", &[count, 2 * width, hidden]);
        add("experts.down_proj", &[count, hidden, width]);
        add("post_feedforward_layernorm_1.weight", &[hidden]);
        add("pre_feedforward_layernorm_2.weight", &[hidden]);
        add("post_feedforward_layernorm_2.weight", &[hidden]);
    }
    if let Some(inputs) = stack.per_layer_inputs {
        let prefix = inputs.names.layer;
        add(&format!("{prefix}per_layer_input_gate.weight"), &[inputs.size, hidden]);
        add(&format!("{prefix}per_layer_projection.weight"), &[hidden, inputs.size]);
        add(&format!("{prefix}post_per_layer_input_norm.weight"), &[hidden]);
    }
    if stack.layer_scalar {
        add("layer_scalar", &[1]);
    }
    if let Some(altup) = stack.altup {
        let streams = altup.inputs;
        add("altup.router_norm.weight", &[hidden]);
        add("altup.modality_router.weight", &[streams, hidden]);
        add("altup.prediction_coefs.weight", &[streams * streams, streams]);
        add("altup.correction_coefs.weight", &[streams, streams]);
        add("altup.correct_output_scale", &[hidden]);
        add("laurel.linear_left.weight", &[altup.laurel_rank, hidden]);
        add("laurel.linear_right.weight", &[hidden, altup.laurel_rank]);
        add("laurel.post_laurel_norm.weight", &[hidden]);
    }
}

/// What is in front of the layers and behind them since Gemma 3n.
fn around_later_layers(stack: &Stack, prefix: &str, add: &mut impl FnMut(String, &[usize])) {
    let (hidden, layers) = (stack.hidden_size, stack.num_hidden_layers);
    let mut add = |name: &str, shape: &[usize]| add(format!("{prefix}{name}.weight"), shape);
    if let Some(inputs) = stack.per_layer_inputs {
        let (own, width) = (inputs.names.model, layers * inputs.size);
        if let Some(rows) = inputs.vocab_size {
            add("embed_tokens_per_layer", &[rows, width]);
        }
        add(&format!("{own}per_layer_model_projection"), &[width, hidden]);
        add(&format!("{own}per_layer_projection_norm"), &[inputs.size]);
    }
    for i in 1..stack.altup.map_or(1, |altup| altup.inputs) {
        add(&format!("altup_projections.{}", i - 1), &[hidden, hidden]);
        add(&format!("altup_unembed_projections.{}", i - 1), &[hidden, hidden]);
    }
    if let Some(dim) = stack.embedding_dim {
        add("embedding_projection", &[dim, hidden]);
    }
}

/// How many elements [`specs`] would have, about.
pub fn elements(stack: &Stack) -> usize {
    let (hidden, layers) = (stack.hidden_size, stack.num_hidden_layers);
    let attention = stack.attention.as_ref().map_or(0, |attention| {
        let of_layer = |layer: &LayerAttention| {
            2 * (attention.num_attention_heads + layer.num_key_value_heads) * layer.head_dim
        };
        attention.layers.iter().map(of_layer).sum()
    });
    let of_block = |block: &FeedForward| {
        let experts = block.experts.map_or(0, |e| e.num_experts * (3 * e.intermediate_size + 2));
        3 * block.intermediate_size + 8 + experts
    };
    let blocks: usize = stack.feed_forward.iter().map(of_block).sum();
    let (mut inputs, mut table) = (0, 0);
    if let Some(own) = stack.per_layer_inputs {
        inputs = 3 * layers * own.size;
        table = own.vocab_size.unwrap_or(0).saturating_mul(layers * own.size);
    }
    let streams = stack.altup.map_or(0, |altup| {
        2 * altup.inputs * hidden + layers * (2 * altup.laurel_rank + altup.inputs + 4)
    });
    let recurrences: usize =
        stack.recurrent.iter().flatten().map(|r| r.width * (3 * hidden + 2 * r.width + 80)).sum();
    let rows = [2 * stack.vocab_size, attention, blocks, inputs, streams];
    let rows = rows.into_iter().chain(stack.embedding_dim).fold(0, usize::saturating_add);
    hidden.saturating_mul(rows).saturating_add(table).saturating_add(recurrences)
}

/// The config of a Gemma 3 of two layers.
pub fn gemma3() -> Value {
    json!({
        "model_type": "gemma3_text", "vocab_size": 16, "hidden_size": 8, "intermediate_size": 12,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,
        "query_pre_attn_scalar": 4, "sliding_window": 4, "rms_norm_eps": 1e-6,
        "layer_types": ["sliding_attention", "full_attention"],
        "hidden_activation": "gelu_pytorch_tanh"
    })
}

/// A whole small checkpoint.
pub fn checkpoint() -> Checkpoint {
    let config = gemma3().to_string();
    let parsed = gemma_mlp::checkpoint::Config::parse(&config, "config.json".as_ref()).unwrap();
    let weights = write(&specs(&parsed.stacks[0], &Layout::default()), None);
    checkpoint_from_bytes(&config, weights).unwrap()
}
