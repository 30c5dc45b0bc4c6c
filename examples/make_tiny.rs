//! Makes `weights/tiny-gemma3`, the checkpoint inside the binary: a Gemma 3 of four layers with
//! seeded random weights and a byte-level tokenizer.
//!
//! `cargo run --release --example make_tiny [-- DIRECTORY]` writes the same bytes every time.

use anyhow::Result;
use half::bf16;
use rand::{SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, StandardNormal};
use safetensors::{Dtype, tensor::TensorView};
use std::path::{Path, PathBuf};
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer};

const HIDDEN: usize = 128;
const INTERMEDIATE: usize = 512;
const LAYERS: usize = 4;
const HEADS: usize = 2;
const KV_HEADS: usize = 1;
const HEAD_DIM: usize = 64;
const SPECIAL: [&str; 4] = ["<pad>", "<eos>", "<bos>", "<unk>"];
const VOCAB: usize = SPECIAL.len() + 256;

fn main() -> Result<()> {
    let dir = std::env::args().nth(1).map_or("weights/tiny-gemma3".into(), PathBuf::from);
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("config.json"), config() + "\n")?;
    write_weights(&dir.join("model.safetensors"))?;
    write_tokenizer(&dir.join("tokenizer.json"))
}

fn config() -> String {
    let layer_types: Vec<_> = (1..=LAYERS)
        .map(|i| if i % LAYERS == 0 { "full_attention" } else { "sliding_attention" })
        .collect();
    let config = serde_json::json!({
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "query_pre_attn_scalar": HEAD_DIM,
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "sliding_window": 32,
        "layer_types": layer_types,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "max_position_embeddings": 2048,
        "attention_bias": false,
        "tie_word_embeddings": true,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "torch_dtype": "bfloat16",
    });
    format!("{config:#}")
}

/// Every tensor with its shape and the standard deviation of its elements.
///
/// Matrices keep the RMS of what they are given, gate's a little more, so that its output lies
/// where the two GELUs differ; norms are stored as their distance from 1.
fn tensors() -> Vec<(String, Vec<usize>, f64)> {
    let matrix = |rows: usize, columns: usize| (vec![rows, columns], 1.0 / (columns as f64).sqrt());
    let norm = |n: usize| (vec![n], 0.1);
    let mut all = vec![("model.embed_tokens.weight".to_string(), matrix(VOCAB, HIDDEN))];
    for i in 0..LAYERS {
        let (gate, deviation) = matrix(INTERMEDIATE, HIDDEN);
        for (name, tensor) in [
            ("input_layernorm", norm(HIDDEN)),
            ("self_attn.q_proj", matrix(HEADS * HEAD_DIM, HIDDEN)),
            ("self_attn.k_proj", matrix(KV_HEADS * HEAD_DIM, HIDDEN)),
            ("self_attn.v_proj", matrix(KV_HEADS * HEAD_DIM, HIDDEN)),
            ("self_attn.o_proj", matrix(HIDDEN, HEADS * HEAD_DIM)),
            ("self_attn.q_norm", norm(HEAD_DIM)),
            ("self_attn.k_norm", norm(HEAD_DIM)),
            ("post_attention_layernorm", norm(HIDDEN)),
            ("pre_feedforward_layernorm", norm(HIDDEN)),
            ("mlp.gate_proj", (gate, 1.5 * deviation)),
            ("mlp.up_proj", matrix(INTERMEDIATE, HIDDEN)),
            ("mlp.down_proj", matrix(HIDDEN, INTERMEDIATE)),
            ("post_feedforward_layernorm", norm(HIDDEN)),
        ] {
            all.push((format!("model.layers.{i}.{name}.weight"), tensor));
        }
    }
    all.push(("model.norm.weight".to_string(), norm(HIDDEN)));
    all.into_iter().map(|(name, (shape, deviation))| (name, shape, deviation)).collect()
}

fn write_weights(path: &Path) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(2024);
    let mut random = |n: usize, deviation: f64| -> Vec<u8> {
        let normal = StandardNormal.sample_iter(&mut rng);
        normal.take(n).flat_map(|x: f64| bf16::from_f64(deviation * x).to_le_bytes()).collect()
    };
    let data: Vec<_> = tensors()
        .into_iter()
        .map(|(name, shape, deviation)| (name, random(shape.iter().product(), deviation), shape))
        .collect();
    let views = data
        .iter()
        .map(|(name, bytes, shape)| Ok((name, TensorView::new(Dtype::BF16, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>>>()?;
    Ok(std::fs::write(path, safetensors::serialize(views, None)?)?)
}

/// One token per byte, and BOS in front.
fn write_tokenizer(path: &Path) -> Result<()> {
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let tokens = SPECIAL.map(String::from).into_iter().chain(alphabet.iter().map(char::to_string));
    let vocab: Vocab = tokens.zip(0..).collect();
    let model =
        BPE::builder().vocab_and_merges(vocab, vec![]).build().map_err(anyhow::Error::msg)?;
    let mut tokenizer = Tokenizer::new(model);
    let byte_level = ByteLevel::default().add_prefix_space(false).use_regex(false);
    let bos = TemplateProcessing::builder()
        .try_single("<bos> $A")
        .and_then(|t| t.try_pair("<bos> $A $B:1"))
        .map_err(anyhow::Error::msg)?
        .special_tokens(vec![("<bos>", 2)])
        .build()?;
    tokenizer
        .with_pre_tokenizer(Some(byte_level))
        .with_decoder(Some(byte_level))
        .with_post_processor(Some(bos));
    tokenizer
        .add_special_tokens(SPECIAL.map(|token| AddedToken::from(token, true)))
        .map_err(anyhow::Error::msg)?;
    std::fs::write(path, tokenizer.to_string(true).map_err(anyhow::Error::msg)? + "\n")?;
    Ok(())
}
