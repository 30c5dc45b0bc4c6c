//! What several tests share: skips, distances, and small checkpoints on disk.
#![allow(dead_code)] // each crate uses a part of it

pub mod family;
pub mod goldens;
pub mod halves;
pub mod texts;

use candle_core::{DType, Device, Tensor};
use gemma_mlp::device;
use safetensors::{Dtype, tensor::TensorView};
use std::fmt::Display;
use std::path::{Path, PathBuf};

/// What a machine may lack, as GEMMA_MLP_REQUIRE names it: a browser, a C++ compiler, a GPU, nvcc,
/// Python with numpy and safetensors, the real weights with their reference, the same quantised and what llama.cpp
/// computes with them, a terminal.
pub const NEEDS: [&str; 8] = ["browser", "cxx", "gguf", "gpu", "ptx", "python", "real", "terminal"];

/// The variable that lists what no test may skip for, such as `real,browser`, or `all`.
pub fn required() -> String {
    std::env::var("GEMMA_MLP_REQUIRE").unwrap_or_default()
}

/// Whether such a list names a need.
pub fn names(list: &str, need: &str) -> bool {
    let words: Vec<_> = list.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
    for &word in [need].iter().chain(&words) {
        let known = word == "all" || NEEDS.contains(&word);
        assert!(known, "GEMMA_MLP_REQUIRE: no test needs '{word}'; they need {NEEDS:?}");
    }
    words.contains(&need) || words.contains(&"all")
}

/// Says that a test is skipped for want of something; fails if it is required.
pub fn skip(need: &str, why: impl Display) {
    assert!(!names(&required(), need), "GEMMA_MLP_REQUIRE names {need}, and {why}");
    eprintln!("skipped ({need}): {why}");
}

/// The directory that a variable names; says that a test is skipped where it names none.
pub fn directory_in(variable: &str, need: &str) -> Option<PathBuf> {
    path_in(variable, need, "a directory", Path::is_dir)
}

/// The file that a variable names; says that a test is skipped where it names none.
pub fn file_in(variable: &str, need: &str) -> Option<PathBuf> {
    path_in(variable, need, "a file", Path::is_file)
}

fn path_in(variable: &str, need: &str, what: &str, is: fn(&Path) -> bool) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from).filter(|path| is(path));
    if path.is_none() {
        skip(need, format!("{variable} does not name {what}"));
    }
    path
}

/// The CPU, and the GPU if there is one.
pub fn devices() -> Vec<Device> {
    let gpu = device::gpu().inspect_err(|why| skip("gpu", why));
    [Device::Cpu].into_iter().chain(gpu).collect()
}

/// ‖b − a‖ / ‖a‖.
pub fn rel_l2(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let (a, b) = (to_f64(a), to_f64(b));
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(&b).map(|(a, b)| b - a)) / norm(&mut a.iter().copied())
}

pub fn to_f64(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// A tensor of a checkpoint to be written.
pub struct Spec {
    pub name: String,
    pub shape: Vec<usize>,
    pub dtype: Dtype,
    pub bytes: Vec<u8>,
}

impl Spec {
    /// A small deterministic f32 tensor, different for each name.
    pub fn f32(name: impl Into<String>, shape: &[usize]) -> Self {
        let name = name.into();
        let seed = name.bytes().fold(1.0, |seed, b| (seed * 1.7 + f64::from(b)) % 97.0);
        let n: usize = shape.iter().product();
        let value = |i: usize| (0.5 * (seed + i as f64 * 0.737).sin()) as f32;
        let bytes = (0..n).flat_map(|i| value(i).to_le_bytes()).collect();
        Self { name, shape: shape.into(), dtype: Dtype::F32, bytes }
    }
}

pub fn write_safetensors(path: &Path, specs: &[Spec]) {
    let views = specs
        .iter()
        .map(|s| (s.name.as_str(), TensorView::new(s.dtype, s.shape.clone(), &s.bytes).unwrap()));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

pub const HIDDEN: usize = 8;
pub const INTERMEDIATE: usize = 12;

/// The tensors of a Gemma 3 of one layer, under a prefix such as `model.`.
pub fn gemma3_specs(prefix: &str) -> Vec<Spec> {
    let (h, i) = (HIDDEN, INTERMEDIATE);
    let mut specs = vec![
        Spec::f32(format!("{prefix}embed_tokens.weight"), &[16, h]),
        Spec::f32(format!("{prefix}norm.weight"), &[h]),
    ];
    for (name, shape) in [
        ("input_layernorm", &[h][..]),
        ("self_attn.q_proj", &[8, h]),
        ("self_attn.k_proj", &[4, h]),
        ("self_attn.v_proj", &[4, h]),
        ("self_attn.o_proj", &[h, 8]),
        ("self_attn.q_norm", &[4]),
        ("self_attn.k_norm", &[4]),
        ("post_attention_layernorm", &[h]),
        ("pre_feedforward_layernorm", &[h]),
        ("mlp.gate_proj", &[i, h]),
        ("mlp.up_proj", &[i, h]),
        ("mlp.down_proj", &[h, i]),
        ("post_feedforward_layernorm", &[h]),
    ] {
        specs.push(Spec::f32(format!("{prefix}layers.0.{name}.weight"), shape));
    }
    specs
}

/// The config that fits [`gemma3_specs`].
pub fn gemma3_config() -> serde_json::Value {
    serde_json::json!({
        "model_type": "gemma3_text",
        "vocab_size": 16,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "query_pre_attn_scalar": 4,
        "sliding_window": 4,
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
    })
}

/// Writes a directory with a config and one safetensors file.
pub fn write_checkpoint(dir: &Path, config: &serde_json::Value, specs: &[Spec]) {
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    write_safetensors(&dir.join("model.safetensors"), specs);
}

/// A file that its crate's main.rs does not name would never run, and nobody would notice.
pub fn assert_has_every_file(package: &str, main: &str) {
    for entry in std::fs::read_dir(Path::new(package).join("tests")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(module) = name.strip_suffix(".rs").filter(|&name| name != "main") {
            assert!(main.contains(&format!("\nmod {module};\n")), "main.rs does not name {name}");
        }
    }
}
