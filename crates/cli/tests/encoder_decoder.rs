//! T5Gemma from the command line: what its encoder reads, and what its decoder does.

use crate::common::{Spec, write_checkpoint};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};

const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/goldens/families");
const TOKENIZER: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../weights/tiny-gemma3/tokenizer.json");
const MODELS: [&str; 3] = ["t5gemma", "t5gemma2-odd", "t5gemma2-even"];
const SOURCE: &str = "[2, 5, 9, 11, 60, 7, 8, 4, 3, 9, 22, 17]";
const TARGET: &str = "[2, 8, 60, 13, 4, 5, 6]";

/// Runs a command on a checkpoint, with what is in files for its encoder and its decoder.
fn run(args: &[&str], model: &Path, source: Option<&str>, target: Option<&str>) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_gemma-mlp"));
    command.args(args).arg("--model").arg(model);
    for (flag, ids) in [("--ids", source), ("--target-ids", target)] {
        if let Some(ids) = ids {
            let file = dir.path().join(&flag[2..]);
            std::fs::write(&file, ids).unwrap();
            command.arg(flag).arg(file);
        }
    }
    if args[0] == "capture" {
        command.arg("--out").arg(dir.path().join("dump.safetensors"));
    }
    command.output().unwrap()
}

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(GOLDENS).join(name)
}

fn json(output: Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The one line of an input that is refused.
fn refused(output: Output) -> String {
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

fn says(result: &Value, what: &str) -> bool {
    let remarks = result["remarks"].as_array().unwrap();
    remarks.iter().any(|remark| remark["text"].as_str().unwrap().contains(what))
}

#[test]
fn every_command_runs() {
    for name in MODELS {
        let model = golden(name);
        let inspection = json(run(&["inspect", "--json"], &model, None, None));
        let stacks = inspection["stacks"].as_array().unwrap();
        assert!(stacks.iter().all(|stack| stack["attention"] == "supported"), "{inspection}");
        let heads: Vec<_> = stacks.iter().map(|stack| &stack["head"]["value"]).collect();
        assert_eq!(heads, ["none", "embedding"]);
        let args = ["drift", "--json", "--rank", "--gradients"];
        let drift = json(run(&args, &model, Some(SOURCE), Some(TARGET)));
        let layers = drift["layers"].as_array().unwrap();
        assert_eq!(layers.len(), drift["checkpoint"]["blocks"].as_u64().unwrap() as usize);
        assert!(layers[0]["name"].as_str().unwrap().starts_with("model.encoder.layers.0"));
        assert_eq!((&drift["tokens"], &drift["blocks_only"]), (&json!(7), &Value::Null));
        assert!(drift["logits"]["kl_mean_nats"].as_f64().unwrap() > 0.0);
        assert!(drift["ranking"].as_array().unwrap().len() > 8);
        assert_eq!(drift["gradients"].as_array().unwrap().len(), layers.len());
        assert!(says(&drift, "reads 12 tokens; the decoder reads 7"), "{}", drift["remarks"]);
        assert!(!says(&drift, "there is no --target"));
        let forward = json(run(&["forward", "--json"], &model, Some(SOURCE), Some(TARGET)));
        assert_eq!(forward["layers"].as_array().unwrap().len(), layers.len());
        assert_eq!(forward["top"][0].as_array().unwrap().len(), 5);
        let generation = json(run(&["generate", "--json", "-n", "3"], &model, Some(SOURCE), None));
        assert!(says(&generation, "the decoder begins with BOS alone"));
        let error = refused(run(&["capture"], &model, Some(SOURCE), None));
        assert!(error.contains("an encoder and a decoder"), "{error}");
    }
}

/// Without a target the decoder reads its own continuation, and the report says so.
#[test]
fn a_decoder_without_a_text_goes_on_by_itself() {
    let model = golden("t5gemma2-odd");
    let generation = json(run(&["generate", "--json", "-n", "64"], &model, Some(SOURCE), None));
    let ids: Vec<u64> = [2]
        .into_iter()
        .chain(generation["a"]["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()))
        .collect();
    let drift = json(run(&["drift", "--json"], &model, Some(SOURCE), None));
    assert_eq!(drift["tokens"], json!(ids.len()));
    assert!(says(&drift, "there is no --target: the decoder reads BOS and what it goes on with"));
    let same = json(run(&["drift", "--json"], &model, Some(SOURCE), Some(&format!("{ids:?}"))));
    assert_eq!(drift["logits"], same["logits"]);
}

#[test]
fn a_target_that_does_not_fit_is_refused() {
    let t5 = golden("t5gemma");
    let drift = |args: &[&str], model: &Path, source, target| {
        refused(run(&[&["drift"], args].concat(), model, Some(source), Some(target)))
    };
    for (error, what) in [
        (drift(&[], &golden("gemma4-dense"), SOURCE, TARGET), "has no encoder beside its decoder"),
        (
            drift(&[], &t5, SOURCE, "[[2, 5], [2, 6]]"),
            "1 texts for the encoder and 2 for the decoder",
        ),
        (drift(&[], &t5, SOURCE, "[2, 64]"), "token id 64 is out of the vocabulary"),
        (drift(&[], &t5, "[2, 99]", TARGET), "token id 99 is out of the vocabulary"),
        (drift(&["--window", "4"], &t5, SOURCE, TARGET), "7 tokens, and the window 4"),
        (drift(&["--score", "second-half"], &t5, SOURCE, TARGET), "all of it counts"),
        (drift(&[], &t5, SOURCE, "[]"), "no token ids"),
        (
            refused(run(
                &["forward", "--target", "x"],
                &golden("gemma4-dense"),
                Some(SOURCE),
                None,
            )),
            "leave --target",
        ),
    ] {
        assert!(error.contains(what), "{error}");
    }
}

/// A T5Gemma of a layer each, with the words of a tokenizer.
fn with_words(dir: &Path) {
    let sizes = json!({"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 4, "vocab_size": 1024, "sliding_window": 4});
    let mut specs = vec![];
    for stack in ["encoder", "decoder"] {
        let mut add = |name: &str, shape: &[usize]| {
            specs.push(Spec::f32(format!("model.{stack}.{name}.weight"), shape));
        };
        add("embed_tokens", &[1024, 8]);
        add("norm", &[8]);
        let attentions: &[&str] = if stack == "encoder" { &["self"] } else { &["self", "cross"] };
        for attention in attentions {
            for (name, shape) in [("q", [8, 8]), ("k", [4, 8]), ("v", [4, 8]), ("o", [8, 8])] {
                add(&format!("layers.0.{attention}_attn.{name}_proj"), &shape);
            }
            add(&format!("layers.0.pre_{attention}_attn_layernorm"), &[8]);
            add(&format!("layers.0.post_{attention}_attn_layernorm"), &[8]);
        }
        for (name, shape) in [("gate", [12, 8]), ("up", [12, 8]), ("down", [8, 12])] {
            add(&format!("layers.0.mlp.{name}_proj"), &shape);
        }
        add("layers.0.pre_feedforward_layernorm", &[8]);
        add("layers.0.post_feedforward_layernorm", &[8]);
    }
    let config = json!({"model_type": "t5gemma", "encoder": sizes, "decoder": sizes});
    write_checkpoint(dir, &config, &specs);
    std::fs::copy(TOKENIZER, dir.join("tokenizer.json")).unwrap();
}

#[test]
fn texts_as_words() {
    let dir = tempfile::tempdir().unwrap();
    with_words(dir.path());
    let texts = ["--prompt", "The small dog", "--target", "Mia sings."];
    for command in ["drift", "forward"] {
        let result =
            json(run(&[&[command, "--json"][..], &texts].concat(), dir.path(), None, None));
        assert!(says(&result, "the encoder, whose layers are those before 1, reads"), "{result}");
        assert!(!says(&result, "BOS"), "{result}");
    }
    let generation = json(run(
        &["generate", "--json", "-n", "2", "--prompt", "The dog"],
        dir.path(),
        None,
        None,
    ));
    assert!(generation["a"]["text"].is_string());
}

/// A part that is missing is named, of either stack and of what stands between them.
#[test]
fn missing_parts_are_named() {
    for name in [
        "model.encoder.norm.weight",
        "model.encoder.embed_tokens.weight",
        "model.decoder.layers.0.cross_attn.k_proj.weight",
        "model.decoder.layers.0.post_cross_attn_layernorm.weight",
        "model.decoder.layers.0.self_attn.q_proj.weight",
    ] {
        let dir = tempfile::tempdir().unwrap();
        with_words(dir.path());
        let weights = dir.path().join("model.safetensors");
        let bytes = std::fs::read(&weights).unwrap();
        let all = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let kept = all.tensors().into_iter().filter(|(own, _)| own != name);
        let written = safetensors::serialize(kept, None).unwrap();
        std::fs::write(&weights, written).unwrap();
        let error = refused(run(&["drift"], dir.path(), Some(SOURCE), Some(TARGET)));
        assert!(error.contains(name), "{error}");
    }
}
