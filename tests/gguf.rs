//! GGUF files by llama.cpp's converter are the checkpoints that they were made of (`scripts/goldens_gguf.py`).

use crate::common::goldens::{Goldens, goldens, path as golden};
use crate::common::{self, directory_in, file_in, to_f64};
use candle_core::{DType, Device, Tensor};
use gemma_mlp::checkpoint::Storage;
use gemma_mlp::{Checkpoint, Gemma, internal};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn gguf(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/gguf");
    dir.join(format!("{name}.gguf"))
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(gguf(name)).unwrap()
}

/// What a model makes of ids: logits, or the last hidden states where it has no head.
fn run(checkpoint: &Checkpoint, ids: &Tensor, dtype: DType) -> Vec<f64> {
    let gemma = Gemma::load(checkpoint, &Device::Cpu, dtype).unwrap();
    let hidden = gemma.hidden(ids, &mut ()).unwrap();
    to_f64(&if gemma.head().is_some() { gemma.logits(&hidden).unwrap() } else { hidden })
}

fn ids(vocabulary: u32) -> Tensor {
    let ids: Vec<u32> = (0..40).map(|i| 3 + i * 7 % (vocabulary - 3)).collect();
    Tensor::from_vec(ids, (2, 20), &Device::Cpu).unwrap()
}

/// Every tensor has the numbers of another checkpoint's, under its name; and the model the same bits.
fn assert_same(name: &str, ours: &Checkpoint, theirs: &Checkpoint) {
    let (own, other) = (ours.tensors(), theirs.tensors());
    let f32 = |tensors: &gemma_mlp::checkpoint::Tensors, name: &str, shape: &[usize]| {
        to_f64(&tensors.load(name, shape, DType::F32, &Device::Cpu).unwrap())
    };
    for (tensor, shape, _) in own.entries() {
        let of_theirs = f32(other, tensor, other.shape(tensor).unwrap());
        let of_ours = f32(own, tensor, shape);
        // Gemma 3n's tables are filled up with zeros.
        let (same, rest) = of_ours.split_at(of_theirs.len());
        assert!(same == of_theirs && rest.iter().all(|&x| x == 0.0), "{name}: {tensor}");
    }
    assert_eq!(own.entries().count(), other.entries().count(), "{name}");
    let ids = ids(50);
    for dtype in [DType::F32, DType::BF16] {
        let (ours, theirs) = (run(ours, &ids, dtype), run(theirs, &ids, dtype));
        assert!(ours.iter().all(|x| x.is_finite()));
        assert_eq!(ours, theirs, "{name} in {dtype:?}");
    }
}

/// A model of `model.safetensors` in bf16, with some of its config changed.
fn rounded(goldens: &Goldens, family: &str, change: Value) -> TempDir {
    let bytes = fs::read(golden("model")).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let config = &header.metadata().clone().unwrap()[&format!("{family}.config")];
    let mut config: Value = serde_json::from_str(config).unwrap();
    config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    let own = format!("{family}.");
    let weights: HashMap<_, _> = goldens
        .iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix(&own)?, tensor)))
        .filter(|(name, _)| name.starts_with("model."))
        .map(|(name, tensor)| (name.to_string(), tensor.to_dtype(DType::BF16).unwrap()))
        .collect();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    candle_core::safetensors::save(&weights, dir.path().join("model.safetensors")).unwrap();
    dir
}

/// What the converter loses of these odd models, which no released one has, is in the changes of their configs.
#[test]
fn gemma_1_to_3_have_the_bits_of_what_they_were_made_of() {
    let goldens = goldens("model");
    // It has neither the factor on scores, which is the width of a head then, nor, of Gemma 1 and 2, the rotary base and a
    // head of their own; of Gemma 3 not which layers slide, if it is not all but every sixth.
    let base =
        json!({"rope_theta": 10_000.0, "rope_parameters": null, "tie_word_embeddings": true});
    let sliding = ["sliding_attention"; 3];
    let gemma3 = json!({"query_pre_attn_scalar": 8, "layer_types": sliding});
    let mut gemma2 = base.clone();
    gemma2["query_pre_attn_scalar"] = 8.into();
    for (name, change) in [
        ("gemma", base),
        ("gemma2", gemma2),
        ("gemma3", gemma3.clone()),
        ("gemma3_bidirectional", gemma3),
    ] {
        let dir = rounded(&goldens, name, change);
        assert_same(name, &open(name), &Checkpoint::open(dir.path()).unwrap());
    }
}

#[test]
fn gemma_3n_and_4_have_the_bits_of_what_they_were_made_of() {
    for name in ["gemma3n-a", "gemma4-dense", "gemma4-e2b", "gemma4-moe"] {
        let theirs =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/families").join(name);
        assert_same(name, &open(name), &Checkpoint::open(theirs).unwrap());
    }
}

/// A split file is the whole one, by whatever part it is named, and by its directory.
#[test]
fn parts_make_one() {
    let whole = run(&open("gemma3"), &ids(50), DType::F32);
    let dir = tempfile::tempdir().unwrap();
    for part in 1..=3 {
        let name = format!("split-0000{part}-of-00003");
        fs::copy(gguf(&name), dir.path().join(format!("{name}.gguf"))).unwrap();
        assert_eq!(run(&open(&name), &ids(50), DType::F32), whole);
    }
    assert_eq!(run(&Checkpoint::open(dir.path()).unwrap(), &ids(50), DType::F32), whole);
    assert_eq!(Checkpoint::open(dir.path()).unwrap().files().len(), 3);
}

/// Of every type, what gguf-py makes of it; and the model that of the dequantised numbers, up to the order of sums.
#[test]
fn quantised_weights_are_what_ggml_makes_of_them() {
    let listed = fs::read_to_string(gguf("types").with_extension("json")).unwrap();
    let listed: BTreeMap<String, Value> = serde_json::from_str(&listed).unwrap();
    let checkpoint = open("types");
    let tensors = checkpoint.tensors();
    let name = |name: &str| {
        let name =
            name.replace("blk.", "model.layers.").replace("token_embd", "model.embed_tokens");
        let name = name.replace("ffn_gate", "mlp.gate_proj").replace("ffn_up", "mlp.up_proj");
        let name =
            name.replace("ffn_down", "mlp.down_proj").replace("attn_output", "self_attn.o_proj");
        ["q", "k", "v"].iter().fold(name, |name, p| {
            name.replace(&format!("attn_{p}.w"), &format!("self_attn.{p}_proj.w"))
        })
    };
    let (mut seen, mut weights) = (vec![], HashMap::new());
    for (own, listed) in listed.iter().filter(|(own, _)| !own.contains("norm")) {
        let name = name(own);
        let shape = tensors.shape(&name).unwrap();
        let (rows, columns) = (shape[0], shape[1]);
        let storage = tensors.numbers(&name).unwrap().storage();
        assert_eq!(storage.to_string(), listed["type"].as_str().unwrap());
        seen.push(storage);
        let whole = tensors.load(&name, shape, DType::F32, &Device::Cpu).unwrap();
        let numbers: Vec<f32> = whole.flatten_all().unwrap().to_vec1().unwrap();
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        let digest: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(digest, listed["sha256"].as_str().unwrap(), "{own}: {storage}");
        // Any part, whether it begins with a block or not.
        let part = tensors.numbers(&name).unwrap();
        for range in [columns..rows * columns, 0..1, 5..columns + 300, 33..33, 0..rows * columns] {
            let part = part.tensor(range.clone(), &[range.len()]).unwrap();
            assert_eq!(to_f64(&part), to_f64(&whole.flatten_all().unwrap())[range]);
        }
        assert_eq!(tensors.count_nonfinite(&name).unwrap(), 0);
        weights.insert(name, whole);
    }
    let quantised = seen.iter().filter(|storage| matches!(storage, Storage::Blocks(_)));
    assert!(quantised.clone().count() >= 10 && seen.len() == 15);
    for (name, shape, _) in tensors.entries().filter(|(name, ..)| name.contains("norm")) {
        let weight = tensors.load(name, shape, DType::F32, &Device::Cpu).unwrap();
        weights.insert(name.into(), weight);
    }
    let dir = tempfile::tempdir().unwrap();
    candle_core::safetensors::save(&weights, dir.path().join("model.safetensors")).unwrap();
    let config = json!({
        "model_type": "gemma3_text", "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "query_pre_attn_scalar": 32,
        "vocab_size": 448, "rms_norm_eps": 1e-6, "sliding_window": 16, "max_position_embeddings": 64,
    });
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let theirs = Checkpoint::open(dir.path()).unwrap();
    let [ours, theirs] = [&checkpoint, &theirs].map(|model| run(model, &ids(400), DType::F32));
    let largest = theirs.iter().fold(0f64, |max, x| x.abs().max(max));
    assert!(ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() < 3e-6 * largest));
    let said =
        checkpoint.remarks().iter().find(|remark| remark.text.contains("quantised")).unwrap();
    assert!(said.text.contains("Q4_K: 1") && said.text.contains("Q8_0: 3"), "{said}");
}

const TEXTS: &[&str] = &[
    "the quick",
    "  two  spaces   and\n\n\nlines\t\ttabs\t",
    "<bos>a<start_of_turn>b<end_of_turn>\n<table>[multimodal]<mask>",
    "ein Wörtchen, ж и の 日本語 🦙 e\u{301}",
    "▁▁ ▁ 3.14159",
    "\u{0}\u{7f}\u{80}\r\n",
];

/// SentencePiece's scores and Gemma 4's merges lead to the ids of the `tokenizer.json`, to its merges, one by one, and to
/// the same text.
#[test]
fn tokenizers_give_the_ids_of_the_original() {
    let original = gguf("tokenizer").with_extension("json");
    let json = |bytes: &[u8]| -> Value { serde_json::from_slice(bytes).unwrap() };
    let expected = json(&fs::read(&original).unwrap());
    let tokenizer = tokenizers::Tokenizer::from_file(&original).unwrap();
    for name in ["types", "gemma4-dense"] {
        // Beside the golden's own tokenizer.json, which would be used.
        let dir = tempfile::tempdir().unwrap();
        fs::copy(gguf(name), dir.path().join("a.gguf")).unwrap();
        let checkpoint = Checkpoint::open(dir.path().join("a.gguf")).unwrap();
        let made = json(&internal::tokenizer_json(&checkpoint).unwrap());
        for part in ["vocab", "merges", "unk_token", "byte_fallback", "fuse_unk", "ignore_merges"] {
            assert_eq!(made["model"][part], expected["model"][part], "{name} {part}");
        }
        for part in ["normalizer", "decoder"] {
            assert_eq!(made[part], expected[part], "{name} {part}");
        }
        for text in TEXTS {
            // A `▁▁` of the text itself is a token before spaces become `▁`, which files of Gemma 4 do not say.
            if name == "gemma4-dense" && text.contains('▁') {
                continue;
            }
            let ids = checkpoint.encode(text).unwrap();
            let whole = tokenizer.encode(*text, true).unwrap();
            // One BOS that a text begins with itself is not doubled.
            let own = whole.get_ids();
            let own = if own[..2] == [2, 2] { &own[1..] } else { own };
            assert_eq!(ids, own, "{name} {text:?}");
            assert_eq!(checkpoint.decode(&ids).unwrap(), tokenizer.decode(own, true).unwrap());
        }
        fs::copy(&original, dir.path().join("tokenizer.json")).unwrap();
        let beside = Checkpoint::open(dir.path().join("a.gguf")).unwrap();
        assert!(beside.remarks().iter().any(|remark| remark.text.contains("beside the file")));
        assert_eq!(beside.encode(TEXTS[0]).unwrap(), checkpoint.encode(TEXTS[0]).unwrap());
    }
}

/// Of the real file, where GEMMA_GGUF names it and GEMMA_MODEL a directory with its `tokenizer.json`.
#[test]
fn the_real_tokenizer_gives_the_ids_of_the_original() {
    let (file, dir) = (file_in("GEMMA_GGUF", "gguf"), directory_in("GEMMA_MODEL", "gguf"));
    let (Some(file), Some(dir)) = (file, dir) else { return };
    let (ours, theirs) = (Checkpoint::open(file).unwrap(), Checkpoint::open(dir).unwrap());
    let text = common::texts::mixed(1 << 20);
    assert!(ours.encode(&text).unwrap() == theirs.encode(&text).unwrap());
    for text in TEXTS {
        assert_eq!(ours.encode(text).unwrap(), theirs.encode(text).unwrap(), "{text:?}");
    }
}
