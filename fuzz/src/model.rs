//! Whole models: a config with odd values, and weights that fit it or nearly do.

use super::changes::change;
use super::oracle::{one_line, remarks, told};
use super::small::{Layout, elements, gemma3, specs, write};
use arbitrary::{Result, Unstructured};
use candle_core::{DType, Device, Tensor};
use gemma_mlp::checkpoint::{Config, inspect};
use gemma_mlp::internal::checkpoint_from_bytes;
use gemma_mlp::model::Cache;
use gemma_mlp::{Checkpoint, EncoderDecoder, Gemma};
use serde_json::{Value, json};
use std::path::Path;

/// The largest model that is made, in elements.
const LARGEST: usize = 1 << 15;

/// Opens, inspects, loads and runs a model. `inspect` tells rightly whether it loads, and logits have the same bits
/// with a cache and without.
pub fn model(data: &[u8]) {
    // Bytes that end early stand for zeros.
    let _ = run(&mut Unstructured::new(data));
}

fn run(u: &mut Unstructured) -> Result<()> {
    let config = arbitrary_config(u)?.to_string();
    let Some(parsed) = told(Config::parse(&config, Path::new("config.json"))) else {
        return Ok(());
    };
    if parsed.stacks.iter().map(elements).sum::<usize>() > LARGEST {
        return Ok(());
    }
    let layout = Layout {
        prefix: u.choose(&["model.", "", "language_model.model.", "odd."])?,
        fused_gate_up: u.ratio(1, 4)?,
        fused_qkv: u.ratio(1, 4)?,
        head: u.ratio(1, 4)?,
        dtype: u.choose(&["F32", "BF16", "F16", "F64"])?,
    };
    let mut specs: Vec<_> = parsed.stacks.iter().flat_map(|stack| specs(stack, &layout)).collect();
    let mut odd = None;
    if u.ratio(1, 3)? {
        let at = u.choose_index(specs.len())?;
        match u.int_in_range(0..=5)? {
            0 => drop(specs.remove(at)),
            1 => specs[at].dtype = u.choose(&["F32", "BF16", "F16", "F64", "I32"])?,
            2 => specs[at].shape.reverse(),
            3 => specs[at].shape.push(u.int_in_range(0..=2)?),
            4 => specs[at].name.insert_str(0, u.choose(&["module.", "x.", "_orig_mod."])?),
            _ => odd = Some((at, u.arbitrary()?)),
        }
    }
    let Some(checkpoint) = told(checkpoint_from_bytes(&config, write(&specs, odd))) else {
        return Ok(());
    };
    remarks(checkpoint.remarks());
    let inspection = told(inspect(&checkpoint, |_| ())).expect("nobody wrote to memory");
    remarks(&inspection.remarks);
    let dtype = *u.choose(&[DType::F32, DType::BF16, DType::F16, DType::F64])?;
    let supported = inspection.stacks.iter().all(|stack| stack.attention == "supported");
    let agrees = |loaded: Result<(), String>| {
        let said = inspection.stacks.iter().map(|stack| &stack.attention).collect::<Vec<_>>();
        assert_eq!(supported, loaded.is_ok(), "inspect says {said:?}, and loading: {loaded:?}");
    };
    if checkpoint.config().encoder().is_some() {
        let loaded = EncoderDecoder::load(&checkpoint, &Device::Cpu, dtype);
        agrees(loaded.as_ref().map(|_| ()).map_err(|e| e.to_string()));
        if let Some(model) = told(loaded) {
            both(&checkpoint, &model, u)?;
        }
        return Ok(());
    }
    let loaded = Gemma::load(&checkpoint, &Device::Cpu, dtype);
    agrees(loaded.as_ref().map(|_| ()).map_err(|e| e.to_string()));
    if let Some(gemma) = told(loaded) {
        forward(&checkpoint, &gemma, u)?;
    }
    Ok(())
}

/// Runs an encoder on a text, some of which may be padding, and a decoder beside it, at once and in two steps.
fn both(checkpoint: &Checkpoint, model: &EncoderDecoder, u: &mut Unstructured) -> Result<()> {
    let config = checkpoint.config();
    let batch = u.int_in_range(1..=2)?;
    let mut ids = |vocab: usize| -> Result<Tensor> {
        let seq = u.int_in_range(1..=9)?;
        let ids = (0..batch * seq).map(|_| Ok(u32::from(u.arbitrary::<u8>()?) % vocab as u32));
        let ids = ids.collect::<Result<Vec<_>>>()?;
        Ok(Tensor::from_vec(ids, (batch, seq), &Device::Cpu).unwrap())
    };
    let source = ids(config.stacks[0].vocab_size)?;
    let target = ids(config.decoder().vocab_size)?;
    let (length, seq) = (source.dims()[1], target.dims()[1]);
    // The first position is a token, the others are not in the second text.
    let mask = (0..batch * length).map(|at| u32::from(at <= length));
    let mask = Tensor::from_iter(mask, &Device::Cpu).unwrap().reshape((batch, length)).unwrap();
    let encoded = model.encode(&source, Some(&mask)).expect("what loads runs");
    let hidden = model.decode(&encoded, &target, &mut ()).expect("what loads runs");
    if model.decoder().head().is_none() {
        return Ok(());
    }
    let whole = model.logits(&hidden).expect("what loads runs");
    assert_eq!(whole.dims(), [batch, seq, config.decoder().vocab_size]);
    let (mut cache, first) = (Cache::default(), u.int_in_range(1..=seq)?);
    for (start, len) in [(0, first), (first, seq - first)].into_iter().filter(|&(_, len)| len > 0) {
        let part = target.narrow(1, start, len).unwrap();
        let ours = model.forward_cached(&encoded, &part, &mut cache).expect("what loads runs");
        let of_whole = whole.narrow(1, start + len - 1, 1).unwrap();
        same_bits(&ours, &of_whole);
    }
    Ok(())
}

/// That a cache changes no bit of finite logits.
fn same_bits(ours: &Tensor, of_whole: &Tensor) {
    let [a, b] = [ours, of_whole].map(|logits| {
        let wide = logits.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
        wide.to_vec1::<f64>().unwrap()
    });
    let finite = a.iter().chain(&b).all(|x| x.is_finite());
    // f64 is multiplied by candle, whose order of summation depends on the shape, and weights that cancel each
    // other out make that any difference.
    if finite && ours.dtype() != DType::F64 {
        assert_eq!(a, b, "with a cache and without");
    }
}

/// Small models of the later families.
const LATER: &[&str] = &[
    include_str!("../../tests/goldens/families/gemma4-e2b/config_hub.json"),
    include_str!("../../tests/goldens/families/gemma4-moe/config.json"),
    include_str!("../../tests/goldens/families/gemma4-proportional/config.json"),
    include_str!("../../tests/goldens/families/gemma4-all/config.json"),
    include_str!("../../tests/goldens/families/gemma3n-b/config.json"),
    include_str!("../../tests/goldens/families/gemma3n-c/config_hub.json"),
    include_str!("../../tests/goldens/families/embedding-gemma2/config.json"),
    include_str!("../../tests/goldens/families/diffusion-encoder/config.json"),
];

/// A config with small sizes, some of whose values are changed to whatever.
fn arbitrary_config(u: &mut Unstructured) -> Result<Value> {
    match u.ratio(1, 2)? {
        true => later_config(u),
        false => early_config(u),
    }
}

/// Of Gemma 3n, 4 or a family that is like them.
fn later_config(u: &mut Unstructured) -> Result<Value> {
    let mut config: Value = serde_json::from_str(u.choose(LATER)?).unwrap();
    let other: Value = serde_json::from_str(u.choose(LATER)?).unwrap();
    let text = match config.get_mut("text_config") {
        Some(text) => text,
        None => &mut config,
    };
    for _ in 0..u.int_in_range(0..=3)? {
        let (name, value) = match u.int_in_range(0..=13)? {
            0 => ("num_kv_shared_layers", json!(u.int_in_range(0..=5)?)),
            1 => ("attention_k_eq_v", json!(u.arbitrary::<bool>()?)),
            2 => ("use_double_wide_mlp", json!(u.arbitrary::<bool>()?)),
            3 => ("hidden_size_per_layer_input", json!(u.int_in_range(0..=8)?)),
            4 => ("vocab_size_per_layer_input", json!(u.int_in_range(0..=70)?)),
            5 => ("per_layer_config", json!({"00": {"head_dim": u.int_in_range(0..=10)?}})),
            6 => ("global_head_dim", json!(u.int_in_range(0..=20)?)),
            7 => ("activation_sparsity_pattern", json!(u.arbitrary::<f64>()?)),
            8 => ("altup_active_idx", json!(u.int_in_range(0..=4)?)),
            9 => ("altup_num_inputs", json!(u.int_in_range(0..=5)?)),
            10 => ("laurel_rank", json!(u.int_in_range(0..=5)?)),
            11 => ("top_k_experts", json!(u.int_in_range(0..=9)?)),
            12 => ("use_bidirectional_attention", json!(u.choose(&["all", "vision", "none"])?)),
            _ => ("sliding_window", json!(u.arbitrary::<usize>()?)),
        };
        text[name] = value;
    }
    if u.ratio(1, 4)? {
        change(&mut config, &other, u)?;
    }
    Ok(config)
}

/// Of Gemma 1, 2 or 3, or a family that is like them.
fn early_config(u: &mut Unstructured) -> Result<Value> {
    let mut config = gemma3();
    let mut size = |name: &str, max: usize| -> Result<()> {
        config[name] = json!(u.int_in_range(1..=max)?);
        Ok(())
    };
    size("hidden_size", 24)?;
    size("intermediate_size", 40)?;
    size("vocab_size", 20)?;
    size("num_hidden_layers", 3)?;
    size("num_key_value_heads", 2)?;
    size("head_dim", 8)?;
    size("sliding_window", 6)?;
    let fields = config.as_object_mut().unwrap();
    fields.remove("layer_types");
    let kv = fields["num_key_value_heads"].as_u64().unwrap();
    fields.insert("num_attention_heads".into(), json!(kv * u.int_in_range(1..=3)?));
    fields.insert("head_dim".into(), json!(2 * fields["head_dim"].as_u64().unwrap()));
    let kinds = [
        "gemma3_text",
        "gemma",
        "gemma2",
        "vaultgemma",
        "recurrent_gemma",
        "gemma3",
        "paligemma",
        "t5gemma",
    ];
    let kind = *u.choose(&kinds)?;
    fields.insert("model_type".into(), json!(kind));
    if kind == "recurrent_gemma" {
        let heads = fields["num_attention_heads"].as_u64().unwrap();
        fields.insert("lru_width".into(), json!(heads * u.int_in_range(1..=4)?));
        fields.insert("conv1d_width".into(), json!(u.int_in_range(1..=5)?));
    }
    for _ in 0..u.int_in_range(0..=3)? {
        let (name, value) = match u.int_in_range(0..=15)? {
            0 => ("sliding_window", Value::Null),
            1 => ("sliding_window", json!(u.arbitrary::<usize>()?)),
            2 => ("rope_theta", json!(u.arbitrary::<f64>()?)),
            3 => ("rope_scaling", json!({"rope_type": "linear", "factor": u.arbitrary::<f64>()?})),
            4 => ("use_bidirectional_attention", json!(true)),
            5 => ("attention_bias", json!(true)),
            6 => ("tie_word_embeddings", json!(u.arbitrary::<bool>()?)),
            7 => ("final_logit_softcapping", json!(u.arbitrary::<f32>()?)),
            8 => ("attn_logit_softcapping", json!(u.arbitrary::<f32>()?)),
            9 => ("query_pre_attn_scalar", json!(u.arbitrary::<f64>()?)),
            10 => ("rms_norm_eps", json!(u.arbitrary::<f64>()?)),
            11 => ("hidden_activation", json!(u.choose(&["gelu", "relu", "silu", "mish"])?)),
            12 => ("architectures", json!(["Gemma3TextModel"])),
            13 => ("partial_rotary_factor", json!(0.5)),
            14 => ("quantization_config", json!({"quant_method": u.arbitrary::<&str>()?})),
            _ => ("sliding_window_pattern", json!(u.arbitrary::<usize>()?)),
        };
        fields.insert(name.into(), value);
    }
    let mut config = match kind {
        "gemma3" | "paligemma" => {
            let text = if kind == "gemma3" { "gemma3_text" } else { "gemma" };
            fields.insert("model_type".into(), json!(text));
            json!({"model_type": kind, "text_config": config})
        }
        "t5gemma" => json!({"model_type": kind, "encoder": config.clone(), "decoder": config}),
        _ => config,
    };
    if u.ratio(1, 4)? {
        let other = config.clone();
        change(&mut config, &other, u)?;
    }
    Ok(config)
}

/// Runs a text at once and in two steps.
fn forward(checkpoint: &Checkpoint, gemma: &Gemma, u: &mut Unstructured) -> Result<()> {
    let vocab = checkpoint.config().stacks[0].vocab_size as u32;
    let (batch, seq) = (u.int_in_range(1..=2)?, u.int_in_range(1..=9)?);
    let ids: Vec<u32> = (0..batch * seq)
        .map(|_| u.arbitrary::<u8>().map(|id| u32::from(id) % vocab))
        .collect::<Result<_>>()?;
    let ids = Tensor::from_vec(ids, (batch, seq), &Device::Cpu).unwrap();
    let whole = gemma.forward(&ids);
    let mut cache = Cache::default();
    if gemma.head().is_none() {
        one_line(whole.expect_err("it has no head").to_string().lines().next().unwrap());
        assert!(gemma.forward_cached(&ids, &mut cache).is_err());
        return Ok(());
    }
    let whole = whole.expect("what loads runs");
    assert_eq!(whole.dims(), [batch, seq, vocab as usize]);
    let outside = Tensor::full(vocab, (1, 1), &Device::Cpu).unwrap();
    assert!(gemma.forward(&outside).is_err(), "an id out of the vocabulary");
    if !checkpoint.attention().unwrap().causal {
        assert!(gemma.forward_cached(&ids, &mut cache).is_err(), "it keeps no cache");
        return Ok(());
    }
    if gemma.seen_ahead() > 0 {
        return Ok(());
    }
    let first = u.int_in_range(1..=seq)?;
    for (start, len) in [(0, first), (first, seq - first)] {
        if len == 0 {
            continue;
        }
        let part = ids.narrow(1, start, len).unwrap();
        let ours = gemma.forward_cached(&part, &mut cache).expect("what loads runs");
        let of_whole = whole.narrow(1, start + len - 1, 1).unwrap();
        same_bits(&ours, &of_whole);
    }
    Ok(())
}
