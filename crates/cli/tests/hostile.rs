//! Bad input through the binary: one line on standard error that names the culprit, exit code 2.

use crate::common::{Spec, gemma3_config, gemma3_specs, write_checkpoint, write_safetensors};
use gemma_mlp::Checkpoint;
use proptest::prelude::*;
use safetensors::Dtype;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gemma-mlp"));
    command.args(args).env("RUST_BACKTRACE", "1"); // candle would append backtraces
    command
}

/// Asserts one line, exit code 2 and every one of the fragments in it.
fn assert_refused(output: Output, fragments: &[&str]) {
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert_eq!(stderr.trim_end().lines().count(), 1, "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    for fragment in fragments {
        assert!(stderr.contains(fragment), "'{fragment}' is not in: {stderr}");
    }
}

fn refused(args: &[&str], fragments: &[&str]) {
    assert_refused(command(args).output().unwrap(), fragments);
}

/// All subcommands refuse the checkpoint with the same words.
fn refused_by_all(dir: &Path, fragments: &[&str]) {
    for subcommand in ["drift", "forward", "inspect", "bench"] {
        refused(&[subcommand, "--model", dir.to_str().unwrap()], fragments);
    }
}

/// A good checkpoint that `spoil` then makes a bad one.
fn spoiled(spoil: impl FnOnce(&Path), fragments: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(dir.path(), &gemma3_config(), &gemma3_specs("model."));
    assert!(Checkpoint::open(dir.path()).is_ok(), "good before it is spoiled");
    spoil(dir.path());
    refused_by_all(dir.path(), fragments);
}

fn with_config(change: impl FnOnce(&mut Value), fragments: &[&str]) {
    let mut config = gemma3_config();
    change(&mut config);
    spoiled(|dir| std::fs::write(dir.join("config.json"), config.to_string()).unwrap(), fragments);
}

fn with_weights(bytes: impl FnOnce(Vec<u8>) -> Vec<u8>, fragments: &[&str]) {
    spoiled(
        |dir| {
            let path = dir.join("model.safetensors");
            std::fs::write(&path, bytes(std::fs::read(&path).unwrap())).unwrap();
        },
        fragments,
    );
}

fn with_specs(change: impl FnOnce(&mut Vec<Spec>), fragments: &[&str]) {
    let mut specs = gemma3_specs("model.");
    change(&mut specs);
    spoiled(|dir| write_safetensors(&dir.join("model.safetensors"), &specs), fragments);
}

/// A safetensors file with a header of our own making.
fn with_header(header: Value, data: usize) -> Vec<u8> {
    let header = header.to_string().into_bytes();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.resize(bytes.len() + data, 0);
    bytes
}

/// A small model of a later family, of whose config some fields are others.
fn with_fields(name: &str, fields: &[(&str, Value)], fragments: &[&str]) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/families").join(name);
    let dir = tempfile::tempdir().unwrap();
    let copy = |file: &str| {
        std::fs::copy(golden.join(file), dir.path().join(file)).unwrap();
    };
    ["config.json", "model.safetensors"].into_iter().for_each(copy);
    assert!(Checkpoint::open(dir.path()).unwrap().check_whole_model().is_ok(), "{name}");
    let path = dir.path().join("config.json");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    for (field, value) in fields {
        config[field] = value.clone();
    }
    std::fs::write(path, config.to_string()).unwrap();
    refused_by_all(dir.path(), fragments);
}

#[test]
fn later_families() {
    let shared = [("num_kv_shared_layers", json!(5))];
    with_fields("gemma4-e2b", &shared, &["config.json", "num_kv_shared_layers is 5 of 5 layers"]);
    let sizes = [("use_double_wide_mlp", json!(false))];
    with_fields("gemma4-e2b", &sizes, &["model.layers.2.mlp.", "[36, 12]", "[18, 12]"]);
    let by_layer = [("per_layer_config", json!({"01": {"sliding_window": 4}}))];
    with_fields("gemma4-e2b", &by_layer, &["gives layer 1 a sliding_window of its own"]);
    let by_layer = [("per_layer_config", json!({"7": {"head_dim": 4}}))];
    with_fields("gemma4-e2b", &by_layer, &["per_layer_config has layer 7; num_hidden_layers is 5"]);
    let experts = [("top_k_experts", json!(9))];
    with_fields("gemma4-moe", &experts, &["top_k_experts is 9; it must be 1 to 8"]);
    let experts = [("num_experts", json!(1u64 << 40)), ("top_k_experts", json!(1u64 << 39))];
    with_fields("gemma4-moe", &experts, &["num_experts is 1099511627776"]);
    let sparsity = [("activation_sparsity_pattern", json!([0.5, 0.5]))];
    with_fields("gemma3n-b", &sparsity, &["activation_sparsity_pattern lists 2 layers of 4"]);
    let streams = [("altup_num_inputs", json!(u64::MAX))];
    with_fields("gemma3n-b", &streams, &["altup_num_inputs is 18446744073709551615"]);
    let inputs = [("hidden_size_per_layer_input", json!(1u64 << 63))];
    with_fields("gemma3n-b", &inputs, &["hidden_size_per_layer_input is 9223372036854775808"]);
    let method =
        [("quantization_config", json!({"quant_method": "awq"})), ("hidden_size", json!("12"))];
    with_fields("gemma4-moe", &method, &["config.json", "quantised by awq, which is not read"]);
}

#[test]
fn quantised_weights() {
    let method = |method: Value| [("quantization_config", method)];
    for name in ["gptq", "awq", "bitsandbytes", "hqq"] {
        let words = ["model.safetensors", "F8_E4M3", name, "which is not read", "GGUF"];
        with_fields("../quantised/fp8", &method(json!({"quant_method": name})), &words);
    }
    let blocks = json!({"quant_method": "fp8", "weight_block_size": [0, 0]});
    with_fields("../quantised/fp8", &method(blocks), &["config.json", "weight_block_size has a 0"]);
    let group = json!({"weights": {"num_bits": 4, "group_size": 0}});
    let groups = json!({"quant_method": "compressed-tensors", "config_groups": {"a": group}});
    with_fields(
        "../quantised/compressed-int",
        &method(groups),
        &["config.json", "group_size of a"],
    );
    let groups =
        json!({"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": 4}}});
    with_fields("../quantised/compressed-int", &method(groups), &["config.json", "config_groups"]);
    let bits = json!({"quant_method": "gemma", "num_bits": 3});
    let words = ["model.safetensors", "model.layers.0.mlp.gate_proj.weight", "says 3", "again"];
    with_fields("../quantised/gemma", &method(bits), &words);
}

/// A scale that is no number is met when weights are loaded, and `inspect` counts what it spoils.
#[test]
fn scales_that_are_no_numbers() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/quantised/fp8");
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(golden.join("config.json"), dir.path().join("config.json")).unwrap();
    let mut bytes = std::fs::read(golden.join("model.safetensors")).unwrap();
    let name = "model.layers.0.mlp.gate_proj.weight_scale_inv";
    let (header, tensors) = {
        let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        (header, metadata.info(name).unwrap().data_offsets)
    };
    let place = 8 + header + tensors.0;
    bytes[place..place + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    let model = dir.path().to_str().unwrap();
    let words =
        ["model.safetensors", name, "1 of its scales are NaN", "download or quantise it again"];
    let ids = dir.path().join("ids.json");
    std::fs::write(&ids, "[2, 3, 4, 5]").unwrap();
    for subcommand in ["forward", "drift", "generate"] {
        refused(&[subcommand, "--model", model, "--ids", ids.to_str().unwrap()], &words);
    }
    let output = command(&["inspect", "--model", model]).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.contains("gate_proj.weight holds 384 values that are NaN"), "{stdout}");
}

#[test]
fn directories() {
    refused_by_all(Path::new("/no/such/place"), &["/no/such/place", "no such file", "config.json"]);
    refused_by_all(Path::new("Cargo.toml"), &["Cargo.toml", "it is a file"]);
    spoiled(|dir| std::fs::remove_file(dir.join("config.json")).unwrap(), &["config.json"]);
    spoiled(
        |dir| std::fs::remove_file(dir.join("model.safetensors")).unwrap(),
        &["model.safetensors"],
    );
}

#[test]
fn configs() {
    spoiled(
        |dir| std::fs::write(dir.join("config.json"), "{\"model_type\": ").unwrap(),
        &["config.json", "malformed"],
    );
    spoiled(|dir| std::fs::write(dir.join("config.json"), [0xff, 0xfe]).unwrap(), &["config.json"]);
    with_config(|c| c["model_type"] = "llama".into(), &["config.json", "llama", "not covered"]);
    with_config(
        |c| {
            c["model_type"] = "gemma4_assistant".into();
            c["text_config"] = 3.into();
        },
        &["gemma4_assistant", "it drafts for another Gemma 4"],
    );
    with_config(
        |c| {
            c["quantization_config"] = json!({"quant_method": "gemma", "module_quant_configs": {}});
            c["layer_types"] = "all".into();
        },
        &["config.json", "expected a list", "quantised by gemma"],
    );
    with_config(
        |c| c["hidden_activation"] = "mish".into(),
        &["config.json", "'mish'", "gelu_pytorch_tanh"],
    );
    with_config(|c| c["hidden_size"] = json!(-8), &["config.json"]);
    with_config(|c| c["hidden_size"] = json!(1u64 << 60), &["hidden_size"]);
    with_config(|c| c["num_hidden_layers"] = json!(2), &["model.layers.1.mlp.down_proj.weight"]);
    with_config(|c| c["num_hidden_layers"] = json!(0), &["num_hidden_layers"]);
}

#[test]
fn weights_files() {
    with_weights(|_| vec![], &["model.safetensors"]);
    with_weights(|b| b[..5].to_vec(), &["model.safetensors", "download"]);
    with_weights(|b| b[..b.len() / 2].to_vec(), &["model.safetensors", "download"]);
    with_weights(|b| [b, vec![0]].concat(), &["model.safetensors"]);
    with_weights(|b| [&(1u64 << 60).to_le_bytes()[..], &b[8..]].concat(), &["header too large"]);
    with_weights(|b| [&u64::MAX.to_le_bytes()[..], &b[8..]].concat(), &["model.safetensors"]);
    with_weights(|b| [&b[..8], &vec![b'x'; b.len() - 8]].concat(), &["model.safetensors"]);
    let tensor = |offsets: [u64; 2], shape: [u64; 1]| json!({"dtype": "F32", "shape": shape, "data_offsets": offsets});
    let overlapping = json!({"a": tensor([0, 8], [2]), "b": tensor([4, 12], [2])});
    with_weights(|_| with_header(overlapping, 12), &["model.safetensors", "invalid offset"]);
    let outside = json!({"a": tensor([0, 800], [200])});
    with_weights(|_| with_header(outside, 8), &["model.safetensors"]);
    let huge = json!({"a": {"dtype": "F32", "shape": [u64::MAX, 16], "data_offsets": [0, 8]}});
    with_weights(|_| with_header(huge, 8), &["model.safetensors"]);
    // Eight tensors whose bytes, with the header before them, would end beyond 2^64.
    let size = (1u64 << 61) - 1;
    let place = |i: u64| [i * size, (i + 1) * size];
    let tensor8 = |i| json!({"dtype": "U8", "shape": [size], "data_offsets": place(i)});
    let endless: BTreeMap<_, _> = (0..8).map(|i| (i.to_string(), tensor8(i))).collect();
    with_weights(|_| with_header(json!(endless), 8), &["model.safetensors", "beyond any file"]);
    let backwards = json!({"a": tensor([8, 0], [2])});
    with_weights(|_| with_header(backwards, 8), &["model.safetensors"]);
}

/// A pipe, whose other end nobody opens, does not keep anyone waiting.
#[cfg(unix)]
#[test]
fn pipes() {
    spoiled(
        |dir| {
            let path = dir.join("model.safetensors");
            std::fs::remove_file(&path).unwrap();
            assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        },
        &["model.safetensors", "not a file", "a pipe"],
    );
}

#[test]
fn tensors() {
    let down = "model.layers.0.mlp.down_proj.weight";
    let find = |specs: &mut Vec<Spec>| specs.iter().position(|s| s.name == down).unwrap();
    with_specs(|specs| specs.retain(|s| s.name != down), &[down, "its tensors are"]);
    with_specs(
        |specs| {
            let at = find(specs);
            specs[at] = Spec::f32(down, &[12, 8]);
        },
        &["model.safetensors", down, "[12, 8]", "[8, 12]"],
    );
    with_specs(
        |specs| {
            let at = find(specs);
            specs[at].dtype = Dtype::I32;
        },
        &["model.safetensors", down, "I32", "dequantise"],
    );
    with_specs(
        |specs| specs.retain(|s| !s.name.contains("up_proj")),
        &["model.layers.0.mlp.up_proj.weight"],
    );
    with_specs(
        |specs| specs.retain(|s| !s.name.contains("pre_feed")),
        &["pre_feedforward_layernorm"],
    );
}

/// What only the first layer's input needs is missed when that is computed, not before.
#[test]
fn attention_tensors() {
    let dir = tempfile::tempdir().unwrap();
    for (gone, text) in
        [("self_attn.k_proj", "self_attn.k_proj.weight"), ("embed_tokens", "embed_tokens.weight")]
    {
        let mut specs = gemma3_specs("model.");
        specs.retain(|s| !s.name.contains(gone));
        write_checkpoint(dir.path(), &gemma3_config(), &specs);
        let ids = dir.path().join("ids.json");
        std::fs::write(&ids, "[1, 2]").unwrap();
        refused(
            &["drift", "--model", dir.path().to_str().unwrap(), "--ids", ids.to_str().unwrap()],
            &[text],
        );
    }
}

#[test]
fn shards() {
    let index = |dir: &Path, map: Value| {
        std::fs::rename(dir.join("model.safetensors"), dir.join("shard.safetensors")).unwrap();
        let json = json!({"weight_map": map}).to_string();
        std::fs::write(dir.join("model.safetensors.index.json"), json).unwrap();
    };
    let down = "model.layers.0.mlp.down_proj.weight";
    spoiled(
        |dir| index(dir, json!({down: "model-00002-of-00002.safetensors"})),
        &["model-00002-of-00002", "missing shard"],
    );
    spoiled(
        |dir| index(dir, json!({down: "../shard.safetensors"})),
        &["index.json", "plain file name"],
    );
    spoiled(|dir| index(dir, json!([1, 2])), &["index.json"]);
    spoiled(|dir| index(dir, json!({})), &["index.json", "empty"]);
}

#[test]
fn texts_and_ids() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_string()
    };
    for subcommand in ["drift", "forward"] {
        refused(&[subcommand, "--prompt", ""], &["the prompt is empty"]);
        refused(&[subcommand, "--text", &file("empty.txt", "\n")], &["the prompt is empty"]);
        refused(&[subcommand, "--text", "/no/such.txt"], &["error: /no/such.txt: No such file"]);
        for bad in ["", "[]", "{}", "[1, -2]", "[[1], []]", "[1.5]"] {
            refused(&[subcommand, "--ids", &file("ids.json", bad)], &["ids.json"]);
        }
        refused(
            &[subcommand, "--ids", &file("ids.json", "[1, 1024]")],
            &["token id 1024", "vocabulary"],
        );
        refused(&[subcommand, "--layers", "4"], &["layer 4", "0 to 3"]);
        refused(&[subcommand, "--layers", "0-18446744073709551615"], &["layers 0 to 3"]);
    }
    let uneven = file("ids.json", "[[1], [2, 3]]");
    refused(&["forward", "--ids", &uneven], &["equally long"]);
    refused(&["drift", "--window", "1"], &["window of 1 tokens"]);
    refused(&["drift", "--window", "8", "--stride", "9"], &["stride of 9"]);
    refused(&["drift", "--shard", "2/2"], &["part 2/2 is empty", "1 windows"]);
    refused(&["drift", "--a", "tanh:f64", "--floor-dtype", "f64"], &["f64 has no noise floor"]);
    refused(&["drift", "--gradients", "--ids", &file("ids.json", "[2]")], &["two tokens"]);
    refused(&["merge", &file("no.json", "{}")], &["no.json", "not a report of a drift run"]);
    refused(&["merge", "/no/such.json"], &["/no/such.json"]);
    refused(&["report", "/no/such.json"], &["/no/such.json"]);
    for bad in ["", "[]", "{}", "{\"schema\": 6}", "nonsense"] {
        refused(&["report", &file("bad.json", bad)], &["bad.json", "not a report of a drift run"]);
    }
    refused(&["report", &file("old.json", "{\"schema\": 3}")], &["old.json", "version 3", "again"]);
    refused(&["plot", "--dtype", "f32"], &["f32", "bf16 or f16"]);
    let bad_utf8 = dir.path().join("latin1.txt");
    std::fs::write(&bad_utf8, [0xe9]).unwrap();
    refused(&["drift", "--text", bad_utf8.to_str().unwrap()], &["latin1.txt"]);
    // Usage errors are clap's: several lines, the same exit code.
    for args in [
        &["drift", "--prompt", "a", "--ids", "b"][..],
        &["drift", "--a", "mish"],
        &["drift", "--b", "tanh:u8"],
        &["drift", "--shard", "3/2"],
        &["drift", "--floor-tokens", "0"],
        &["drift", "--shard", "0/2"],
        &["merge"],
        &["report"],
        &["plot", "--range", "4:-4"],
        &["plot", "--range", "0:5e-324"],
        &["plot", "--range=-1e308:1e308"],
        &["plot", "--functions", "mish"],
        &["plot", "--functions", "gelu-silu"],
        &["verify", "--range", "0:nan"],
        &["forward", "--layers", "x"],
        &["nonsense"],
    ] {
        let output = command(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("error:"), "{args:?}");
    }
}

/// What cannot be measured is refused at once, in one line; clap adds where help is.
#[test]
fn benchmarks() {
    let endless = ["bench", "--shape", "64x96", "--tokens", "1000000000000"];
    refused(&endless, &["64x96", "1000000000000 tokens", "GiB", "free"]);
    let of_experts = |args: &[&'static str]| [&["bench", "--experts"][..], args].concat();
    refused(&of_experts(&["4", "--top", "5"]), &["5 of 4 experts", "--top"]);
    refused(&of_experts(&["4"]), &["8 of 4 experts", "--top"]);
    refused(&of_experts(&["4096"]), &["4096 experts of 2816x704", "too large"]);
    let endless = ["8", "--shape", "64x96", "--tokens", "1000000000000"];
    refused(&of_experts(&endless), &["8 experts of 64x96", "GiB", "free"]);
    for (shape, fragment) in [
        ("0x96", "has no weights"),
        ("64x0", "has no weights"),
        ("64", "as in 2048x16384"),
        ("a lot", "as in 2048x16384"),
        ("65536x65536", "too large"),
    ] {
        let output = command(&["bench", "--shape", shape]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        let says: Vec<_> = stderr.lines().filter(|line| !line.is_empty()).collect();
        assert!(says[0].contains(shape) && says[0].contains(fragment), "{stderr}");
        assert_eq!(says[1..], ["For more information, try '--help'."], "{stderr}");
    }
    for args in [
        &["--tokens", "0"][..],
        &["--weights", "f16"],
        &["--shape", "64x96", "--model", "."],
        &["--revision", "main"],
        &["--experts", "0"],
        &["--experts", "8x704"],
        &["--experts", "8", "--top", "0"],
        &["--experts", "8", "--model", "."],
        &["--top", "2"],
    ] {
        let output = command(&[&["bench"], args].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn tokenizers() {
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(dir.path(), &gemma3_config(), &gemma3_specs("model."));
    let args = ["drift", "--model", dir.path().to_str().unwrap()];
    refused(&args, &["tokenizer.json", "token ids"]);
    std::fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    refused(&args, &["tokenizer.json"]);
}

/// NaN in a weight is reported, and the rest goes on.
#[test]
fn nan_weights_are_reported_not_fatal() {
    let dir = tempfile::tempdir().unwrap();
    let mut specs = gemma3_specs("model.");
    let gate = specs.iter_mut().find(|s| s.name.contains("gate_proj")).unwrap();
    gate.bytes[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
    gate.bytes[8..12].copy_from_slice(&f32::INFINITY.to_le_bytes());
    write_checkpoint(dir.path(), &gemma3_config(), &specs);
    let ids = dir.path().join("ids.json");
    std::fs::write(&ids, "[1, 2]").unwrap();
    let (dir, ids) = (dir.path().to_str().unwrap(), ids.to_str().unwrap());
    for args in [
        &["inspect", "--model", dir][..],
        &["drift", "--model", dir, "--ids", ids],
        &["forward", "--model", dir, "--ids", ids],
    ] {
        let output = command(args).output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{args:?}");
        assert!(stdout.contains("model.layers.0.mlp.gate_proj.weight holds 2 values"), "{stdout}");
    }
    let page = Path::new(dir).join("page.html");
    let page = ["--html", page.to_str().unwrap()];
    let args = [&["drift", "--model", dir, "--ids", ids, "--json"], &page[..]].concat();
    let json = command(&args).output().unwrap().stdout;
    assert!(std::fs::read_to_string(page[1]).unwrap().contains("cannot be measured"));
    let json: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["layers"][0]["output"]["rms"], Value::Null);
    let remarks = json["remarks"].as_array().unwrap();
    assert_eq!(remarks.iter().filter(|remark| remark["kind"] == "weights").count(), 1);
}

#[test]
fn outputs_that_cannot_be_written() {
    refused(&["forward", "--out", "/no/such/place/out.safetensors"], &["/no/such/place"]);
    for flag in ["--html", "--csv", "--out"] {
        refused(&["drift", flag, "/no/such/place/out"], &["/no/such/place"]);
        refused(&["drift", flag, "/"], &["/: is a directory"]);
        // It is said before a model is even opened.
        let too_late = ["drift", "--model", "/no/model", flag, "/no/such/place/out"];
        refused(&too_late, &["/no/such/place"]);
    }
    for flag in ["--svg", "--png", "--csv"] {
        refused(&["plot", flag, "/no/such/place/out"], &["/no/such/place"]);
    }
}

/// A failed save leaves what was there.
#[cfg(unix)]
#[test]
fn a_failed_save_keeps_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.safetensors");
    std::fs::create_dir(&out).unwrap(); // nothing can be renamed onto a directory
    refused(&["forward", "--out", out.to_str().unwrap()], &["out.safetensors"]);
    assert!(out.is_dir() && std::fs::read_dir(dir.path()).unwrap().count() == 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is written into the header or the config, opening never panics.
    #[test]
    fn damaged_files_are_errors(
        in_config in any::<bool>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let dir = tempfile::tempdir().unwrap();
        write_checkpoint(dir.path(), &gemma3_config(), &gemma3_specs("model."));
        let path = dir.path().join(if in_config { "config.json" } else { "model.safetensors" });
        let mut bytes = std::fs::read(&path).unwrap();
        let header = if in_config { bytes.len() } else { 2000 };
        for (at, byte) in edits {
            bytes[at.index(header)] = byte;
        }
        std::fs::write(&path, bytes).unwrap();
        if let Err(e) = Checkpoint::open(dir.path()) {
            prop_assert!(e.is_input() && !e.to_string().contains('\n'), "{}", e);
        }
    }
}

/// The places of all leaves and lists of a value.
fn places(value: &Value, at: String, all: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(name, value)| places(value, format!("{at}/{name}"), all));
        }
        Value::Array(list) => {
            all.push(at.clone());
            for (i, value) in list.iter().enumerate() {
                places(value, format!("{at}/{i}"), all);
            }
        }
        _ => all.push(at),
    }
}

/// A report with anything anywhere is refused or shown, and never a panic.
#[test]
fn damaged_reports_are_refused_or_shown() {
    use gemma_mlp_cli::report::{self, Paint, Run};
    use gemma_mlp_drift::drift::Drift;
    let args = ["drift", "--json", "--prompt", "two words", "--gradients", "--rank"];
    let json = command(&args).output().unwrap().stdout;
    let whole: Value = serde_json::from_slice(&json).unwrap();
    let mut all = vec![];
    places(&whole, String::new(), &mut all);
    let values =
        [json!(null), json!(0), json!(-1), json!(1e308), json!(u64::MAX), json!(""), json!([])];
    let (mut shown, mut refused) = (0, 0);
    for (i, place) in all.iter().enumerate() {
        for value in values.iter().skip(i % 2).step_by(2) {
            let mut damaged = whole.clone();
            *damaged.pointer_mut(place).unwrap() = value.clone();
            let Ok(drift) = Drift::from_json("damaged", &damaged.to_string()) else {
                refused += 1;
                continue;
            };
            let run = Run { name: "damaged", drift: &drift };
            assert!(report::drift_page(&[run]).len() > 10_000);
            assert!(report::drift_page(&[run, run]).len() > 10_000);
            report::drift_table(&drift, Paint::Plain);
            report::drift_csv(&[run]).unwrap();
            shown += 1;
        }
    }
    assert!(shown > 500 && refused > 500, "{shown} {refused}");
}
