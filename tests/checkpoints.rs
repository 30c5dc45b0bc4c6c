//! Checkpoints as people have them: what is read of them, and what is said of the rest.

use crate::common::{HIDDEN, INTERMEDIATE, Spec, gemma3_config, gemma3_specs, write_safetensors};
use candle_core::{DType, Device, Tensor};
use gemma_mlp::checkpoint::{HeadKind, Storage, inspect};
use gemma_mlp::{Checkpoint, Error, Gemma};
use proptest::prelude::*;
use safetensors::Dtype;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// A directory with a config and weights of one file.
fn directory(config: &Value, specs: &[Spec]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    write_safetensors(&dir.path().join("model.safetensors"), specs);
    dir
}

fn opened(config: &Value, specs: &[Spec]) -> Checkpoint {
    Checkpoint::open(directory(config, specs).path()).unwrap()
}

/// The tensors of [`gemma3_specs`], some of them under other names. (Their values follow their names.)
fn renamed(name: impl Fn(&str) -> String) -> Vec<Spec> {
    let rename = |spec: Spec| Spec { name: name(&spec.name), ..spec };
    gemma3_specs("model.").into_iter().map(rename).collect()
}

fn logits(checkpoint: &Checkpoint) -> Vec<f32> {
    let gemma = Gemma::load(checkpoint, &Device::Cpu, DType::F32).unwrap();
    let ids = Tensor::new(&[[2u32, 5, 9, 3, 12]], &Device::Cpu).unwrap();
    gemma.forward(&ids).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn remarks(checkpoint: &Checkpoint) -> Vec<String> {
    checkpoint.remarks().iter().map(|remark| remark.to_string()).collect()
}

#[track_caller]
fn told(checkpoint: &Checkpoint, words: &str) {
    let remarks = remarks(checkpoint);
    let count = remarks.iter().filter(|remark| remark.contains(words)).count();
    assert_eq!(count, 1, "'{words}' in {remarks:?}");
}

#[track_caller]
fn refused(opened: gemma_mlp::Result<Checkpoint>, words: &[&str]) {
    let error = opened.err().expect("it is refused");
    let text = error.to_string();
    assert!(error.is_input() && !text.contains('\n'), "{text}");
    for word in words {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
}

/// Whatever wraps the names, the model is the same, and other wrappers than those of the families are told.
#[test]
fn wrapped_names_are_read() {
    let plain = logits(&opened(&gemma3_config(), &gemma3_specs("model.")));
    for (prefix, is_told) in [
        ("model.", false),
        ("", false),
        ("language_model.", false),
        ("language_model.model.", false),
        ("model.language_model.", false),
        ("model.language_model.model.", false),
        ("some.other.wrapper.", false),
        ("_orig_mod.model.", true),
        ("module.model.", true),
        ("module._orig_mod.model.", true),
        ("base_model.model.model.", true),
    ] {
        let specs = renamed(|name| name.replacen("model.", prefix, 1));
        let checkpoint = opened(&gemma3_config(), &specs);
        assert_eq!(logits(&checkpoint), plain, "{prefix}");
        let remarks = remarks(&checkpoint);
        assert_eq!(
            remarks.iter().any(|r| r.contains("without the wrappers")),
            is_told,
            "{remarks:?}"
        );
    }
    let compiled = renamed(|name| name.replace("layers.0.", "layers.0._orig_mod."));
    assert_eq!(logits(&opened(&gemma3_config(), &compiled)), plain);
    let two: Vec<_> = ["a.", "b."].iter().flat_map(|prefix| gemma3_specs(prefix)).collect();
    refused(
        Checkpoint::open(directory(&gemma3_config(), &two).path()),
        &["several models", "'a.'"],
    );
}

/// Queries, keys and values in one matrix, as gemma_pytorch and vLLM hold them.
#[test]
fn fused_projections_are_read() {
    let mut specs = gemma3_specs("model.");
    let plain = logits(&opened(&gemma3_config(), &specs));
    let name = |part: &str| format!("model.layers.0.self_attn.{part}_proj.weight");
    let mut bytes = vec![];
    for part in ["q", "k", "v"] {
        let at = specs.iter().position(|spec| spec.name == name(part)).unwrap();
        bytes.extend(specs.remove(at).bytes);
    }
    specs.push(Spec { name: name("qkv"), shape: vec![16, HIDDEN], dtype: Dtype::F32, bytes });
    let checkpoint = opened(&gemma3_config(), &specs);
    assert_eq!(logits(&checkpoint), plain);
    assert_eq!(inspect(&checkpoint, |_| {}).unwrap().stacks[0].attention, "supported");
    assert_eq!(logits(&checkpoint.streamed()), plain, "read part by part");
}

/// Queries, keys and values that are stored in several dtypes are one product all the same.
#[test]
fn projections_of_several_dtypes() {
    let mut specs = gemma3_specs("model.");
    let expected = logits(&opened(&gemma3_config(), &specs));
    let keys = specs.iter_mut().find(|spec| spec.name.contains("k_proj")).unwrap();
    let upper = keys.bytes.chunks(4).flat_map(|bytes| bytes[2..].to_vec()).collect();
    (keys.dtype, keys.bytes) = (Dtype::BF16, upper);
    let checkpoint = opened(&gemma3_config(), &specs);
    let ours = logits(&checkpoint);
    let farthest = ours.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(farthest > 0.0 && farthest < 0.05, "{farthest}");
    for dtype in [DType::BF16, DType::F16, DType::F64] {
        assert!(Gemma::load(&checkpoint, &Device::Cpu, dtype).is_ok());
    }
}

/// The head is what the file has, whatever the config says of ties.
#[test]
fn heads() {
    let own = |name: &str| Spec::f32(name, &[16, HIDDEN]);
    let with = |ties: &[(&str, bool)], more: Vec<Spec>, left_out: &str| {
        let mut config = gemma3_config();
        for (level, tied) in ties {
            match *level {
                "top" => config["tie_word_embeddings"] = (*tied).into(),
                _ => config["text_config"]["tie_word_embeddings"] = (*tied).into(),
            }
        }
        let mut specs = gemma3_specs("model.");
        specs.extend(more);
        specs.retain(|spec| spec.name != left_out);
        Checkpoint::open(directory(&config, &specs).path())
    };
    let head = |checkpoint: &Checkpoint| checkpoint.config().stacks[0].head.value;
    let tied = with(&[], vec![], "").unwrap();
    assert_eq!((head(&tied), remarks(&tied).len()), (HeadKind::Embedding, 0));
    let (tied, separate) =
        (logits(&tied), with(&[("top", false)], vec![own("lm_head.weight")], ""));
    let separate = logits(&separate.unwrap());
    assert_ne!(tied, separate);
    for ties in [&[][..], &[("top", true)]] {
        let checkpoint = with(ties, vec![own("lm_head.weight")], "").unwrap();
        told(&checkpoint, "lm_head.weight differs from the embedding: it is used");
        assert_eq!(
            (head(&checkpoint), logits(&checkpoint)),
            (HeadKind::Separate, separate.clone())
        );
    }
    // One that is the embedding once more is no news.
    let equal = Spec { name: "lm_head.weight".into(), ..own("model.embed_tokens.weight") };
    let checkpoint = with(&[], vec![equal], "").unwrap();
    assert_eq!((logits(&checkpoint), remarks(&checkpoint).len()), (tied.clone(), 0));
    // The embedding under the head's name alone.
    let alone = Spec { name: "lm_head.weight".into(), ..own("model.embed_tokens.weight") };
    let checkpoint = with(&[], vec![alone], "model.embed_tokens.weight").unwrap();
    told(&checkpoint, "lm_head.weight is taken for it");
    assert_eq!(logits(&checkpoint), tied);
    refused(
        with(&[("top", false)], vec![], ""),
        &["lm_head.weight", "tie_word_embeddings says false"],
    );
    // One level ties it, and there is nothing else to take.
    let mut text = gemma3_config();
    text["tie_word_embeddings"] = true.into();
    let split = json!({"model_type": "gemma3", "tie_word_embeddings": false, "text_config": text});
    assert_eq!(head(&opened(&split, &gemma3_specs("model."))), HeadKind::Embedding);
}

/// A model that scores texts has no logits, and is known by its config.
#[test]
fn classifiers_have_no_head() {
    let mut config = gemma3_config();
    config["architectures"] = json!(["Gemma3ForSequenceClassification"]);
    let mut specs = gemma3_specs("model.");
    specs.push(Spec::f32("score.weight", &[1, HIDDEN]));
    let checkpoint = opened(&config, &specs);
    told(&checkpoint, "no logits");
    told(&checkpoint, "score.weight");
    assert!(Gemma::load(&checkpoint, &Device::Cpu, DType::F32).unwrap().head().is_none());
    // By its weights alone.
    let unsaid = opened(&gemma3_config(), &specs);
    told(&unsaid, "it is no language model");
    assert_eq!(unsaid.config().stacks[0].head.value, HeadKind::None);
    specs.push(Spec::f32("lm_head.weight", &[16, HIDDEN]));
    assert_eq!(opened(&gemma3_config(), &specs).config().stacks[0].head.value, HeadKind::Separate);
}

#[test]
fn tensors_that_are_not_used_are_told() {
    let plain = remarks(&opened(&gemma3_config(), &gemma3_specs("model.")));
    for (name, words) in [
        ("model.layers.0.mlp.gate_proj.lora_A.default.weight", "LoRA tensors are not applied (1: "),
        ("model.layers.1.mlp.gate_proj.weight", "layer 1 is in the weights and not used"),
        (
            "model.layers.0.mlp.gate_proj.weight_scale_inv",
            "scales of quantised weights are not applied",
        ),
        ("model.layers.0.mlp.gate_proj.absmax", "scales of quantised weights"),
        ("model.layers.0.altup.router.weight", "not used (1: model.layers.0.altup"),
        ("v_head.summary.weight", "not used (1: v_head"),
        ("vision_tower.encoder.layers.0.fc1.weight", "note: tensors are not of the text model"),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", "note: tensors are not of the text model"),
    ] {
        let mut specs = gemma3_specs("model.");
        specs.push(Spec::f32(name, &[2, 2]));
        let checkpoint = opened(&gemma3_config(), &specs);
        told(&checkpoint, words);
        assert_eq!(checkpoint.remarks().len(), plain.len() + 1, "{name}");
        let inspection = inspect(&checkpoint, |_| {}).unwrap();
        assert_eq!(inspection.remarks, checkpoint.remarks());
    }
}

/// Every norm of the layer, and the tensors around the layers, are needed: `inspect` says so, and so does loading.
#[test]
fn inspection_promises_what_loading_does() {
    for left_out in gemma3_specs("model.") {
        let specs = gemma3_specs("model.").into_iter().filter(|spec| spec.name != left_out.name);
        let specs: Vec<_> = specs.collect();
        let dir = directory(&gemma3_config(), &specs);
        let Ok(checkpoint) = Checkpoint::open(dir.path()) else { continue };
        let error = Gemma::load(&checkpoint, &Device::Cpu, DType::F32).unwrap_err().to_string();
        assert!(error.contains(&left_out.name), "{error}");
        let said = &inspect(&checkpoint, |_| {}).unwrap().stacks[0].attention;
        assert!(
            said.contains(&left_out.name) && said.contains("neither drift nor forward"),
            "{said}"
        );
    }
}

#[test]
fn quantised_weights_are_refused_by_name() {
    let mut config = gemma3_config();
    config["quantization_config"] = json!({"quant_method": "gptq", "bits": 4});
    let mlp = |name: &str, part: &str| {
        let own = name.contains("mlp");
        if own { name.replace("weight", part) } else { name.to_string() }
    };
    for part in ["qweight", "weight_packed"] {
        let dir = directory(&config, &renamed(|name| mlp(name, part)));
        refused(Checkpoint::open(dir.path()), &["quantised", "gptq", part]);
    }
    let integers = |spec: Spec| match spec.name.contains("mlp") {
        true => Spec { dtype: Dtype::I32, ..spec },
        false => spec,
    };
    let specs: Vec<_> = gemma3_specs("model.").into_iter().map(integers).collect();
    refused(Checkpoint::open(directory(&config, &specs).path()), &["I32", "dequantise", "gptq"]);
    let unmerged = renamed(|name| name.replace("down_proj.", "down_proj.base_layer."));
    let dir = directory(&gemma3_config(), &unmerged);
    refused(Checkpoint::open(dir.path()), &["adapter unmerged", "merge_and_unload"]);
    // Dequantised, and the config was left as it was.
    told(&opened(&config, &gemma3_specs("model.")), "quantised (gptq); they are stored as f32");
}

/// A directory with something else in place of what is missing.
#[test]
fn what_is_there_in_place_of_a_model_is_named() {
    let config = gemma3_config().to_string();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 536223056\n";
    let adapter = r#"{"peft_type": "LORA", "base_model_name_or_path": "google/gemma-3-270m"}"#;
    for (files, words) in [
        (
            &[("config.json", &config[..]), ("pytorch_model.bin", "PK")][..],
            &["pytorch_model.bin", "save_pretrained"][..],
        ),
        (
            &[("config.json", &config), ("gemma.Q4_K_M.gguf", "GGUF")],
            &["gemma.Q4_K_M.gguf", "cannot be read as GGUF"],
        ),
        (&[("gemma.Q4_K_M.gguf", "GGUF")], &["gemma.Q4_K_M.gguf", "cannot be read as GGUF"]),
        (
            &[("config.json", &config), ("weights.safetensors", "")],
            &["weights.safetensors", "rename"],
        ),
        (
            &[("config.json", &config), ("model.safetensors", pointer)],
            &["model.safetensors", "Git LFS"],
        ),
        (&[("config.json", pointer)], &["config.json", "Git LFS"]),
        (&[("adapter_config.json", adapter)], &["adapter", "google/gemma-3-270m"]),
        (&[("config.json", adapter)], &["LORA adapter"]),
        (
            &[("config.json", &config), ("adapter_config.json", adapter)],
            &["adapter", "google/gemma-3-270m"],
        ),
        (&[("config.json", &config)], &["model.safetensors.index.json"]),
        (&[], &["config.json"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(dir.path().join(name), content).unwrap();
        }
        refused(Checkpoint::open(dir.path()), words);
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other");
    fs::write(&path, "text").unwrap();
    refused(Checkpoint::open(&path), &["it is a file", "not a directory"]);
    for name in ["model.gguf", "other"] {
        let path = dir.path().join(name);
        fs::write(&path, "GGUF\x03\0\0\0").unwrap();
        refused(Checkpoint::open(&path), &[name, "the file ends within its header"]);
    }
    fs::rename(dir.path().join("other"), dir.path().join("other.gguf")).unwrap();
    refused(Checkpoint::open(dir.path()), &["several", "model.gguf", "other.gguf"]);
    let dir = directory(&gemma3_config(), &gemma3_specs("model."));
    fs::write(dir.path().join("adapter_config.json"), adapter).unwrap();
    told(&Checkpoint::open(dir.path()).unwrap(), "adapter beside the weights");
    fs::write(dir.path().join("modules.json"), "[]").unwrap();
    told(&Checkpoint::open(dir.path()).unwrap(), "parts behind the model");
}

#[test]
fn a_byte_order_mark_is_not_part_of_a_config() {
    let dir = directory(&gemma3_config(), &gemma3_specs("model."));
    let path = dir.path().join("config.json");
    fs::write(&path, format!("\u{feff}{}", gemma3_config())).unwrap();
    assert!(Checkpoint::open(dir.path()).is_ok());
    fs::write(&path, [0xff, 0xfe, b'{', 0]).unwrap();
    refused(Checkpoint::open(dir.path()), &["config.json", "not a JSON file"]);
}

/// Names out of files do not break a line, nor steer a terminal.
#[test]
fn messages_are_one_line() {
    let mut config = gemma3_config();
    let mut specs = gemma3_specs("model.");
    specs.push(Spec::f32("a\n\u{1b}[2Jb", &[1]));
    told(&opened(&config, &specs), "a\\n\\u{1b}[2Jb");
    config["hidden_activation"] = "gelu\nnew".into();
    refused(Checkpoint::open(directory(&config, &specs).path()), &["gelu\\nnew"]);
    config["model_type"] = "gem\tma\r".into();
    refused(Checkpoint::open(directory(&config, &specs).path()), &["gem\\tma\\r"]);
}

#[test]
fn end_tokens_of_generation_config() {
    let dir = directory(&gemma3_config(), &gemma3_specs("model."));
    let with = |json: &str| {
        fs::write(dir.path().join("generation_config.json"), json).unwrap();
        Checkpoint::open(dir.path()).unwrap()
    };
    for (json, ids) in [
        (r#"{"eos_token_id": [1, 106]}"#, vec![1, 106]),
        (r#"{"eos_token_id": 106, "temperature": 1.0}"#, vec![1, 106]),
        ("{}", vec![1]),
    ] {
        assert_eq!(with(json).config().eos_token_ids, ids);
    }
    told(&with(r#"{"eos_token_id": "x"}"#), "generation_config.json is not used");
}

/// Two shards, and an index that lists what `change` makes of it.
fn sharded(change: impl Fn(&mut Value)) -> TempDir {
    let mut map = json!({});
    let specs = gemma3_specs("model.");
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), gemma3_config().to_string()).unwrap();
    for (i, half) in specs.chunks(specs.len() / 2 + 1).enumerate() {
        let file = format!("model-0000{}-of-00002.safetensors", i + 1);
        write_safetensors(&dir.path().join(&file), half);
        half.iter().for_each(|spec| map[&spec.name] = file.clone().into());
    }
    change(&mut map);
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
    fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    dir
}

/// What the shards hold counts; an index that says otherwise is told.
#[test]
fn indexes_out_of_date() {
    let plain = logits(&opened(&gemma3_config(), &gemma3_specs("model.")));
    let fresh = Checkpoint::open(sharded(|_| {}).path()).unwrap();
    assert_eq!((logits(&fresh), remarks(&fresh).len()), (plain.clone(), 0));
    let shard = "model-00001-of-00002.safetensors";
    let more =
        Checkpoint::open(sharded(|map| map["lm_head.weight"] = shard.into()).path()).unwrap();
    told(&more, "lists 1 tensors that no shard has (lm_head.weight)");
    assert_eq!(logits(&more), plain);
    let wrong =
        |map: &mut Value| map["model.layers.0.post_feedforward_layernorm.weight"] = shard.into();
    assert_eq!(logits(&Checkpoint::open(sharded(wrong).path()).unwrap()), plain);
    let missing = |map: &mut Value| map["x"] = "model-00003-of-00003.safetensors".into();
    refused(
        Checkpoint::open(sharded(missing).path()),
        &["00003-of-00003", "download the missing shard"],
    );
    let empty = |map: &mut Value| *map = json!({});
    refused(Checkpoint::open(sharded(empty).path()), &["weight_map is empty"]);
    let both = sharded(|_| {});
    write_safetensors(&both.path().join("model.safetensors"), &gemma3_specs("model."));
    told(&Checkpoint::open(both.path()).unwrap(), "model.safetensors is read, as in transformers");
}

/// What the format's own crate reads is read, and nothing else.
fn agrees(bytes: &[u8]) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), gemma3_config().to_string()).unwrap();
    fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    let theirs = safetensors::SafeTensors::deserialize(bytes);
    match Checkpoint::open(dir.path()) {
        Ok(ours) => {
            let theirs =
                theirs.map_err(|e| TestCaseError::fail(format!("only ours is read: {e}")))?;
            for (name, shape, storage) in ours.tensors().entries() {
                let tensor = theirs.tensor(name).unwrap();
                let expected = Storage::Numbers(tensor.dtype());
                prop_assert_eq!((tensor.shape(), expected), (shape, storage));
            }
            prop_assert_eq!(ours.tensors().entries().count(), theirs.len());
        }
        Err(Error::Safetensors { reason, .. }) => {
            // Names that are there twice, and shapes of more than eight dimensions, are ours to refuse.
            let own = reason.contains("twice") || reason.contains("dimensions");
            prop_assert!(own || theirs.is_err(), "only theirs is read: {}", reason);
        }
        Err(_) => {}
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn headers_are_read_as_by_the_crate_of_the_format(
        edits in proptest::collection::vec((8usize..1600, any::<u8>()), 0..3),
        swaps in proptest::collection::vec((8usize..1600, 8usize..1600), 0..2),
        cut in 0usize..40,
    ) {
        let dir = directory(&gemma3_config(), &gemma3_specs("model."));
        let mut bytes = fs::read(dir.path().join("model.safetensors")).unwrap();
        for (at, byte) in edits {
            // Digits for digits keep more of them valid.
            bytes[at] = if bytes[at].is_ascii_digit() { b'0' + byte % 10 } else { byte };
        }
        for (a, b) in swaps {
            bytes.swap(a, b);
        }
        if cut < 8 {
            bytes.truncate(bytes.len() - cut);
        }
        agrees(&bytes)?;
    }
}

/// Files that few have, and that each parser of the format must get right.
#[test]
fn odd_headers() {
    let file = |header: &str, data: usize| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    };
    let tensor = |shape: &str, offsets: &str| {
        format!(r#"{{"a": {{"dtype": "F32", "shape": {shape}, "data_offsets": {offsets}}}}}"#)
    };
    for (header, data) in [
        ("{}".to_string(), 0),
        (tensor("[2]", "[0, 8]"), 8),
        (tensor("[]", "[0, 4]"), 4),
        (tensor("[0, 3]", "[0, 0]"), 0),
        (tensor("[2]", "[4, 12]"), 12),
        (tensor("[2]", "[0, 8]"), 9),
        (tensor("[2]", "[8, 0]"), 8),
        (tensor("[3]", "[0, 8]"), 8),
        (tensor("[-2]", "[0, 8]"), 8),
        (tensor("[4611686018427387904, 4]", "[0, 0]"), 0),
        (r#"{"__metadata__": {"format": "pt"}}"#.into(), 0),
        (r#"{"__metadata__": {"total_parameters": 19952}}"#.into(), 0),
        (r#"{"__metadata__": null}"#.into(), 0),
        (r#"{"__metadata__": 3}"#.into(), 0),
        (r#"{"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 2]}}"#.into(), 2),
        (r#"{"a": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}"#.into(), 2),
        (r#"{"a": {"dtype": "Q4", "shape": [4], "data_offsets": [0, 2]}}"#.into(), 2),
        ("[]".into(), 0),
    ] {
        agrees(&file(&header, data)).unwrap_or_else(|e| panic!("{header}: {e}"));
    }
    let dir = directory(&gemma3_config(), &gemma3_specs("model."));
    let path = dir.path().join("model.safetensors");
    let refused_header = |header: &str, words: &[&str]| {
        fs::write(&path, file(header, 8)).unwrap();
        refused(Checkpoint::open(dir.path()), words);
    };
    let twice = r#"{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}"#;
    refused_header(twice, &["'a' is there twice"]);
    let deep = format!(
        r#"{{"a": {{"dtype": "F32", "shape": [{}2], "data_offsets": [0, 8]}}}}"#,
        "1,".repeat(8)
    );
    refused_header(&deep, &["'a'", "at most 8 dimensions"]);
    refused_header(r#"{"__metadata__": {"n": 19952}}"#, &["__metadata__", "'n'"]);
}

/// The config's rows of the block are those that the weights have.
#[test]
fn shapes_are_checked_against_the_config() {
    let mut config = gemma3_config();
    config["intermediate_size"] = json!(INTERMEDIATE + 1);
    let dir = directory(&config, &gemma3_specs("model."));
    refused(Checkpoint::open(dir.path()), &["mlp", "[12, 8]", "[13, 8]"]);
    assert!(Path::new(dir.path()).exists());
}
