//! Captures the logits that candle-transformers' Gemma 3 computes, into one safetensors file:
//!
//! `cargo run --release --example capture_candle -- MODEL IDS.json OUT.safetensors --dtype bf16`
//!
//! MODEL is a Hugging Face directory of a Gemma 3 for text. `gemma-mlp compare OUT.safetensors
//! --model MODEL` then says how far they are from Gemma's. In a project of your own, this file needs
//! anyhow, candle-core, candle-nn, candle-transformers, safetensors, serde_json and sha2.
//!
//! The model's layers are private and its forward pass returns the logits of the last token alone.
//! So each position takes a pass of its own, over the prefix that ends there: quadratic in the
//! number of tokens, and `--positions N` takes N of them, evenly spaced and with the last.
//! `--decode` goes token by token through the model's cache instead: linear, but another path
//! through the model, with other masks, so it can be right where the prefill is wrong.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor, safetensors::load};
use candle_nn::VarBuilder;
use candle_transformers::models::gemma3::{Config, Model};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

const USAGE: &str = "usage: capture_candle MODEL IDS.json OUT.safetensors [--dtype bf16|f32|f16] \
                     [--positions N] [--decode]";

struct Arguments {
    model: PathBuf,
    ids: PathBuf,
    out: PathBuf,
    dtype: DType,
    positions: Option<usize>,
    decode: bool,
}

fn main() -> Result<()> {
    let arguments = arguments()?;
    let device = Device::Cpu;
    let ids: Vec<u32> = serde_json::from_str(&read(&arguments.ids)?)
        .with_context(|| format!("{}: not a JSON array of ids", arguments.ids.display()))?;
    ensure!(!ids.is_empty(), "{}: no ids", arguments.ids.display());
    let config = config(&arguments.model)?;
    let weights = weights(&arguments.model, &device)?;
    let sha256 = first_mlp_sha256(&weights)?;
    let weights = VarBuilder::from_tensors(weights, arguments.dtype, &device);
    let mut model = Model::new(false, &config, weights)?;

    let count = arguments.positions.unwrap_or(ids.len()).clamp(1, ids.len());
    let positions: Vec<usize> = (1..=count).map(|i| ids.len() * i / count - 1).collect();
    let mut logits = Vec::with_capacity(count);
    if arguments.decode {
        for (position, &id) in ids.iter().enumerate() {
            let row = model.forward(&Tensor::new(&[[id]], &device)?, position)?; // [1, 1, vocab]
            if positions.binary_search(&position).is_ok() {
                logits.push(row.squeeze(0)?);
            }
        }
    } else {
        for &position in &positions {
            model.clear_kv_cache();
            let prefix = Tensor::new(vec![ids[..=position].to_vec()], &device)?;
            logits.push(model.forward(&prefix, 0)?.squeeze(0)?);
        }
    }

    let index = |values: Vec<i64>| Tensor::new(values, &device);
    let mut dump = HashMap::from([
        ("tokens", index(ids.iter().map(|&id| id.into()).collect())?),
        ("logits", Tensor::cat(&logits, 0)?), // [positions, vocab]
    ]);
    if count < ids.len() {
        // Which tokens the rows of `logits` belong to.
        dump.insert("positions", index(positions.iter().map(|&p| p as i64).collect())?);
    }
    let metadata = [
        ("format", "gemma-mlp-dump/1"),
        ("framework", "candle"),
        ("framework_version", "candle-transformers 0.11.1"),
        ("device", "cpu"),
        ("dtype", arguments.dtype.as_str()),
        ("attention", "eager"),
        ("phase", if arguments.decode { "decode" } else { "prefill" }),
        ("first_mlp_sha256", &sha256),
    ];
    let metadata = metadata.map(|(key, value)| (key.to_string(), value.to_string())).into();
    safetensors::serialize_to_file(dump, Some(metadata), &arguments.out)
        .with_context(|| format!("{}: cannot be written", arguments.out.display()))
}

/// The config, as candle reads it.
fn config(directory: &Path) -> Result<Config> {
    let path = directory.join("config.json");
    let mut config: Map<String, Value> = serde_json::from_str(&read(&path)?)
        .with_context(|| format!("{}: not a JSON object", path.display()))?;
    ensure!(
        config.get("model_type") == Some(&"gemma3_text".into()),
        "{}: not of a Gemma 3 for text",
        path.display()
    );
    // What newer directories say in other words.
    if let Some(kinds) = config.get("layer_types").and_then(Value::as_array).cloned() {
        let is_full = |kind: &Value| kind == "full_attention";
        let pattern = kinds.iter().position(is_full).map_or(kinds.len() + 1, |first| first + 1);
        ensure!(
            kinds.iter().enumerate().all(|(i, kind)| is_full(kind) == ((i + 1) % pattern == 0)),
            "{}: candle wants full attention in every n-th layer; layer_types are irregular",
            path.display()
        );
        config.insert("sliding_window_pattern".into(), pattern.into());
    }
    for (name, kind) in
        [("rope_theta", "full_attention"), ("rope_local_base_freq", "sliding_attention")]
    {
        let rope = config.get("rope_parameters").and_then(|kinds| kinds.get(kind));
        if let Some(theta) = rope.and_then(|rope| rope.get("rope_theta")).cloned() {
            config.entry(name).or_insert(theta);
        }
    }
    serde_json::from_value(config.into()).with_context(|| path.display().to_string())
}

/// All tensors of a directory's safetensors files, in the dtype they are stored in.
fn weights(directory: &Path, device: &Device) -> Result<HashMap<String, Tensor>> {
    let mut weights = HashMap::new();
    for entry in directory.read_dir().with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            weights.extend(load(&path, device).with_context(|| path.display().to_string())?);
        }
    }
    Ok(weights)
}

/// SHA-256 of layer 0's gate, up and down weights, as little-endian f32.
fn first_mlp_sha256(weights: &HashMap<String, Tensor>) -> Result<String> {
    let mut hash = Sha256::new();
    for part in ["gate", "up", "down"] {
        let name = format!("model.layers.0.mlp.{part}_proj.weight");
        let weight = weights.get(&name).with_context(|| format!("there is no {name}"))?;
        for value in weight.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()? {
            hash.update(value.to_le_bytes());
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

fn arguments() -> Result<Arguments> {
    let mut paths = Vec::new();
    let (mut dtype, mut positions, mut decode) = (DType::BF16, None, false);
    let mut rest = std::env::args().skip(1);
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--dtype" => {
                dtype = match rest.next().as_deref() {
                    Some("bf16") => DType::BF16,
                    Some("f16") => DType::F16,
                    Some("f32") => DType::F32,
                    _ => bail!(USAGE),
                }
            }
            "--positions" => {
                positions = Some(rest.next().and_then(|n| n.parse().ok()).context(USAGE)?)
            }
            "--decode" => decode = true,
            option if option.starts_with("--") => bail!(USAGE),
            path => paths.push(PathBuf::from(path)),
        }
    }
    let Ok([model, ids, out]) = <[PathBuf; 3]>::try_from(paths) else { bail!(USAGE) };
    Ok(Arguments { model, ids, out, dtype, positions, decode })
}
