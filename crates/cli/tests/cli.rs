//! The binary: what it prints and saves, on checkpoints of every layout.

use crate::common::{self, Spec, gemma3_config, gemma3_specs, write_checkpoint, write_safetensors};
use gemma_mlp::Rounding;
use gemma_mlp::device::{self, IS_POSSIBLE};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

fn run(args: &[&str]) -> String {
    run_with_threads(args, "2")
}

fn run_with_threads(args: &[&str], threads: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gemma-mlp"));
    let output = command.args(args).env("RAYON_NUM_THREADS", threads).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {stderr}");
    // But what a build for GPUs says of the device.
    let mut said = stderr.lines().filter(|line| !(IS_POSSIBLE && line.starts_with("device: ")));
    assert_eq!(said.next(), None, "nothing on stderr where it is no terminal");
    String::from_utf8(output.stdout).unwrap()
}

fn run_json(args: &[&str]) -> Value {
    serde_json::from_str(&run(args)).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is a number"))
}

/// The figures of a block at a point.
fn assert_block_figures(point: &Value) {
    let [max_abs, rms, rel_l2, cosine] =
        ["max_abs", "rms", "rel_l2", "cosine"].map(|k| number(&point[k]));
    assert!(0.0 < rms && rms < max_abs && rel_l2 > 0.0 && cosine > 0.999 && cosine < 1.0);
}

/// The figures of logits, of which `floor` has the same.
fn assert_logit_figures(logits: &Value) {
    let [median, mean, p99, max] = ["median", "mean", "p99", "max"]
        .map(|figure| number(&logits[&format!("kl_{figure}_nats")]));
    assert!(0.0 < median && median < p99 && p99 <= max && mean < max, "{logits}");
    for figure in ["max_abs", "rel_l2", "rms_dp"] {
        assert!(number(&logits[figure]) > 0.0, "{figure}");
    }
    for figure in ["top1_agreement", "top5_agreement"] {
        assert!((0.9..=1.0).contains(&number(&logits[figure])), "{figure}");
    }
    let [a, b] = ["ppl_a", "ppl_b"].map(|figure| number(&logits[figure]));
    assert!(1.0 < a && (b / a - 1.0).abs() < 0.02, "{a} {b}");
}

#[test]
fn drift_json_has_the_fixed_names() {
    let drift = run_json(&["drift", "--json"]);
    assert!(drift["schema"].is_i64() && !drift["checkpoint"].is_null());
    let side = |activation: &str, dtype: &str| json!({"activation": activation, "rounding": "once", "dtype": dtype});
    assert_eq!(drift["sides"], json!({"a": side("tanh", "f32"), "b": side("exact", "f32")}));
    assert_eq!(drift["floor_sides"], json!({"a": side("tanh", "f32"), "b": side("tanh", "bf16")}));
    let layers = drift["layers"].as_array().unwrap();
    let residual = drift["residual"].as_array().unwrap();
    assert_eq!((layers.len(), residual.len()), (4, 4));
    for (i, (layer, residual)) in layers.iter().zip(residual).enumerate() {
        assert_eq!((&layer["index"], &residual["index"]), (&json!(i), &json!(i)));
        assert_eq!(layer["input"], "model");
        for part in [layer, &layer["floor"]] {
            for point in ["activation", "product", "output"] {
                assert_block_figures(&part[point]);
            }
        }
        let [drift, floor] = ["rel_l2", "floor_rel_l2"].map(|k| number(&residual[k]));
        assert!(0.0 < drift && drift < floor);
        // The switch is what it is known to be: 4.732e-4 at most, and a rounding of f32.
        let max_abs = number(&layer["activation"]["max_abs"]);
        assert!((4e-4..4.74e-4).contains(&max_abs), "{max_abs}");
    }
    assert_logit_figures(&drift["logits"]);
    assert_logit_figures(&drift["floor"]["logits"]);
    assert_eq!(drift["tokens"], drift["floor"]["tokens"]);
    assert_eq!(
        (&drift["first_above_floor"], &drift["first_nonfinite"]),
        (&Value::Null, &Value::Null)
    );
    let verdict = &drift["verdict"];
    assert_eq!((&verdict["size"], &drift["complete"]), (&json!("far-below-floor"), &json!(true)));
    let basis = &verdict["basis"]["logits"];
    assert_eq!(basis["kl_mean_nats"], drift["logits"]["kl_mean_nats"]);
    assert_eq!(basis["floor_kl_mean_nats"], drift["floor"]["logits"]["kl_mean_nats"]);
    let [kl, floor] = ["kl_mean_nats", "floor_kl_mean_nats"].map(|k| number(&basis[k]));
    assert_eq!((number(&verdict["ratio"]), &verdict["tokens"]), (kl / floor, &drift["tokens"]));
}

#[test]
fn a_model_against_itself_does_not_drift() {
    let drift = run_json(&["drift", "--a", "gelu", "--b", "none", "--json", "--layers", "0,2-3"]);
    for figure in ["kl_mean_nats", "kl_max_nats", "max_abs", "rms_dp", "ln_ppl_ratio"] {
        assert_eq!(drift["logits"][figure], 0.0, "{figure}");
    }
    assert_eq!(drift["logits"]["ppl_a"], drift["logits"]["ppl_b"]);
    let size = &drift["verdict"]["size"];
    assert_eq!((size, &drift["residual"][1]["rel_l2"]), (&json!("none"), &json!(0.0)));
    let layers = drift["layers"].as_array().unwrap();
    assert_eq!(layers.iter().map(|l| l["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 2, 3]);
    for layer in layers {
        for point in ["activation", "product", "output"] {
            assert_eq!(
                layer[point],
                json!({"max_abs": 0.0, "rms": 0.0, "rel_l2": 0.0, "cosine": 1.0})
            );
        }
    }
}

#[test]
fn dtypes_and_floors() {
    let rel_l2 = |args: &[&str], part: &str| {
        let drift = run_json(&[&["drift", "--json", "--layers", "0"], args].concat());
        let layer = &drift["layers"][0];
        number(&if part == "floor" { &layer["floor"] } else { layer }["output"]["rel_l2"])
    };
    let (f32, bf16) = (rel_l2(&[], ""), rel_l2(&["--dtype", "bf16"], ""));
    assert!(bf16 > 2.0 * f32, "bf16 adds its rounding to the switch: {bf16} {f32}");
    let f64 = rel_l2(&["--dtype", "f64"], "");
    assert!((f64 / f32 - 1.0).abs() < 1e-3, "f32 resolves the switch: {f64} {f32}");
    let floors = ["f32", "f16", "bf16"].map(|dtype| rel_l2(&["--floor-dtype", dtype], "floor"));
    assert!(
        floors[0] < 1e-6 && 10.0 * floors[0] < floors[1] && 2.0 * floors[1] < floors[2],
        "{floors:?}"
    );
    // The floor does not depend on the pair, but for its first side.
    assert_eq!(rel_l2(&["--b", "silu"], "floor"), rel_l2(&[], "floor"));
    assert!(rel_l2(&["--b", "silu"], "") > 0.05);
}

#[test]
fn no_arguments_are_the_drift_table() {
    let table = run(&[]);
    assert_eq!(table, run(&["drift"]));
    assert_eq!(table, run(&["--cpu"]));
    for word in
        ["generated text", "activation", "output", "residual", "floor", "KL mean", "perplexity"]
    {
        assert!(table.contains(word), "{word}: {table}");
    }
}

#[test]
fn the_same_bytes_for_any_number_of_threads() {
    // Hundreds of tokens: several chunks of every parallel loop.
    let text = "a b ".repeat(150);
    for args in [
        &["drift", "--json", "--prompt", &text][..],
        &["drift", "--json", "--dtype", "bf16", "--gradients", "--rank"],
        &["generate", "--json", "--b", "tanh:bf16"],
    ] {
        let one = run_with_threads(args, "1");
        assert!(["2", "3", "7"].iter().all(|threads| run_with_threads(args, threads) == one));
    }
}

#[test]
fn forward_saves_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.safetensors");
    let ids = dir.path().join("ids.json");
    std::fs::write(&ids, "[[2, 40, 41], [2, 50, 51]]").unwrap();
    let args = [
        "forward",
        "--ids",
        ids.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
        "--layers",
        "0,3",
    ];
    let tensor_dtype = |dtype: &str| {
        run(&[&args[..], &["--dtype", dtype, "--activation", "gelu"]].concat());
        let bytes = std::fs::read(&out).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let mut names: Vec<_> = tensors.names().into_iter().map(String::from).collect();
        names.sort();
        let mut expected = vec!["hidden.0".to_string(), "hidden.3".into(), "logits".into()];
        for layer in [0, 3] {
            for part in ["activated", "gate", "input", "output", "product", "up"] {
                expected.push(format!("layers.{layer}.mlp.{part}"));
            }
        }
        expected.sort();
        assert_eq!(names, expected);
        assert_eq!(tensors.tensor("hidden.3").unwrap().shape(), [2, 3, 128]);
        assert_eq!(tensors.tensor("logits").unwrap().shape(), [2, 3, 1024]);
        assert_eq!(tensors.tensor("layers.0.mlp.input").unwrap().shape(), [2, 3, 128]);
        assert_eq!(tensors.tensor("layers.3.mlp.gate").unwrap().shape(), [2, 3, 512]);
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header.metadata().as_ref().unwrap()["activation"], "exact");
        tensors.tensor("layers.0.mlp.output").unwrap().dtype()
    };
    assert_eq!(tensor_dtype("f32"), safetensors::Dtype::F32);
    assert_eq!(tensor_dtype("bf16"), safetensors::Dtype::BF16);
}

#[test]
fn forward_takes_the_config_s_activation_or_another() {
    let activation = |args: &[&str]| {
        run_json(&[&["forward", "--json"], args].concat())["layers"][0]["activation"]["value"]
            .clone()
    };
    assert_eq!(activation(&[]), "tanh");
    assert_eq!(activation(&["--activation", "config"]), "tanh");
    assert_eq!(activation(&["--activation", "approximate=none"]), "exact");
    let output = |name| {
        run_json(&["forward", "--json", "--activation", name])["layers"][0]["output"].clone()
    };
    assert_ne!(output("exact"), output("tanh"));
    assert_eq!(output("config"), output("gelu_pytorch_tanh"));
}

/// A text file ends with a line break that is not part of the text.
#[test]
fn prompt_and_text_agree() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("prompt.txt");
    std::fs::write(&path, "two words\n").unwrap();
    assert_eq!(
        run(&["drift", "--text", path.to_str().unwrap()]),
        run(&["drift", "--prompt", "two words"])
    );
}

fn inspect(dir: &Path) -> Value {
    run_json(&["inspect", "--json", "--model", dir.to_str().unwrap()])
}

/// The drift of a checkpoint without a tokenizer.
fn drift(dir: &Path) -> Value {
    let ids = dir.join("ids.json");
    std::fs::write(&ids, "[1, 2, 3]").unwrap();
    let [dir, ids] = [dir, &ids].map(|path| path.to_str().unwrap());
    run_json(&["drift", "--json", "--model", dir, "--ids", ids])
}

/// Every prefix that checkpoints use gives the same figures.
#[test]
fn prefixes() {
    let mut figures = vec![];
    for prefix in
        ["model.", "language_model.model.", "model.language_model.", "language_model.", ""]
    {
        let dir = tempfile::tempdir().unwrap();
        let specs: Vec<Spec> = gemma3_specs("model.")
            .into_iter()
            .map(|s| Spec { name: format!("{prefix}{}", &s.name["model.".len()..]), ..s })
            .collect();
        let mut config = gemma3_config();
        if prefix.contains("language") {
            config["model_type"] = "gemma3_text".into();
            config = json!({"model_type": "gemma3", "text_config": config});
        }
        write_checkpoint(dir.path(), &config, &specs);
        let inspection = inspect(dir.path());
        assert_eq!(inspection["stacks"][0]["first_block"], format!("{prefix}layers.0.mlp"));
        let drift = drift(dir.path());
        assert_eq!(drift["layers"][0]["input"], "model");
        figures.push(drift["layers"][0]["output"].clone());
    }
    assert!(figures.iter().all(|f| f == &figures[0]), "{figures:?}");
}

#[test]
fn fused_weights_and_shards() {
    let dir = tempfile::tempdir().unwrap();
    let (mut specs, mut mlp) = (vec![], vec![]);
    for spec in gemma3_specs("model.") {
        if spec.name.contains(".mlp.") { mlp.push(spec) } else { specs.push(spec) }
    }
    // gate_proj and up_proj become one tensor in a second shard.
    let [gate, up, down] = <[Spec; 3]>::try_from(mlp).ok().unwrap();
    let fused = Spec {
        name: "model.layers.0.mlp.gate_up_proj.weight".into(),
        shape: vec![24, 8],
        dtype: gate.dtype,
        bytes: [gate.bytes.clone(), up.bytes.clone()].concat(),
    };
    let whole = tempfile::tempdir().unwrap();
    write_checkpoint(whole.path(), &gemma3_config(), &gemma3_specs("model."));
    let second = [fused, down];
    let shards = [
        ("model-00001-of-00002.safetensors", &specs[..]),
        ("model-00002-of-00002.safetensors", &second[..]),
    ];
    let mut map = serde_json::Map::new();
    for (file, specs) in shards {
        write_safetensors(&dir.path().join(file), specs);
        map.extend(specs.iter().map(|s| (s.name.clone(), file.into())));
    }
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
    std::fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    std::fs::write(dir.path().join("config.json"), gemma3_config().to_string()).unwrap();

    assert_eq!(inspect(dir.path())["stacks"][0]["fused_gate_up"], true);
    assert_eq!(inspect(dir.path())["parameters"], inspect(whole.path())["parameters"]);
    let rel_l2 = |dir: &Path| number(&drift(dir)["layers"][0]["output"]["rel_l2"]);
    assert!((rel_l2(dir.path()) / rel_l2(whole.path()) - 1.0).abs() < 1e-2);
}

/// Families whose layers differ from Gemma 3's: names, biases, stacks.
#[test]
fn other_families() {
    let mlp = |layer: &str, name: &str, norm: &str, bias: bool| {
        let mut specs = vec![Spec::f32(format!("{layer}.{norm}.weight"), &[8])];
        for (projection, rows, columns) in
            [("gate_proj", 12, 8), ("up_proj", 12, 8), ("down_proj", 8, 12)]
        {
            specs.push(Spec::f32(format!("{layer}.{name}.{projection}.weight"), &[rows, columns]));
            if bias {
                specs.push(Spec::f32(format!("{layer}.{name}.{projection}.bias"), &[rows]));
            }
        }
        specs
    };
    let sizes = json!({"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1});
    let config = |extra: Value| {
        let mut config = sizes.clone();
        config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        config
    };
    let unsupported = |sizes: &Value| {
        let mut part = sizes.clone();
        part["rope_scaling"] = json!({"rope_type": "yarn", "factor": 2.0});
        part
    };
    let t5_layer = |stack: &str| {
        mlp(&format!("model.{stack}.layers.0"), "mlp", "pre_feedforward_layernorm", false)
    };
    for (config, specs, blocks) in [
        (
            config(json!({
                "model_type": "recurrent_gemma", "intermediate_size": 24, "num_attention_heads": 2,
                "block_types": ["recurrent", "mamba"]
            })),
            mlp("model.layers.0", "mlp_block", "channel_pre_norm", true),
            vec!["model.layers.0.mlp_block"],
        ),
        (
            json!({"model_type": "t5gemma", "encoder": unsupported(&sizes), "decoder": unsupported(&sizes)}),
            [t5_layer("encoder"), t5_layer("decoder")].into_iter().flatten().collect(),
            vec!["model.encoder.layers.0.mlp", "model.decoder.layers.0.mlp"],
        ),
        (
            json!({"model_type": "paligemma", "text_config": config(json!({
                "model_type": "gemma", "rope_scaling": {"rope_type": "yarn", "factor": 2.0}
            }))}),
            mlp("language_model.model.layers.0", "mlp", "post_attention_layernorm", false),
            vec!["language_model.model.layers.0.mlp"],
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        write_checkpoint(dir.path(), &config, &specs);
        let drift = drift(dir.path());
        let layers = drift["layers"].as_array().unwrap();
        assert_eq!(layers.iter().map(|l| l["name"].as_str().unwrap()).collect::<Vec<_>>(), blocks);
        for layer in layers {
            assert_eq!(layer["input"], "gaussian");
            assert!(number(&layer["output"]["rel_l2"]) > 1e-5);
        }
        assert_eq!(inspect(dir.path())["stacks"].as_array().unwrap().len(), blocks.len());
    }
}

#[test]
fn inspect_says_what_is_odd() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = gemma3_config();
    config["hidden_activation"] = "gelu".into();
    config.as_object_mut().unwrap().remove("sliding_window");
    write_checkpoint(dir.path(), &config, &gemma3_specs("model."));
    let inspection = inspect(dir.path());
    assert_eq!(inspection["stacks"][0]["activation"]["value"], "exact");
    assert!(
        inspection["remarks"][0]["text"].as_str().unwrap().contains("trained with tanh"),
        "{inspection}"
    );
    assert_eq!(
        inspection["stacks"][0]["defaults"],
        json!([
            "sliding_window_pattern = 6",
            "sliding_window = 4096",
            "rope_local_base_freq = 10000.0"
        ])
    );
    assert_eq!(inspection["mlp_parameters"], 3 * 8 * 12);
    let text = run(&["inspect"]);
    assert!(
        text.contains("Gemma 3") && text.contains("1,116,800") && !text.contains("warning"),
        "{text}"
    );
}

/// What surrounds the blocks of the later families; the earlier ones have nothing of it.
#[test]
fn inspect_says_what_surrounds_the_blocks() {
    let golden = |name: &str| {
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/families");
        goldens.join(name).to_str().unwrap().to_string()
    };
    for (name, rows) in [
        (
            "gemma4-e2b",
            &[
                "5 of hidden 12 x intermediate 18, and 36 in layers 2 to 4, gate",
                "layer inputs  6 numbers for each, from a table of 64 words and from the embeddings",
                "layer 1: 4 of width 16, 1 for keys and values; every position; rotary base 1000000, 2 of 8 pairs",
                "layers 2 and 3: 4 of width 8, 1 for keys and values (those of layer 0); window 5; rotary base 10000",
                "scale by w, where those of Gemma 1 to 3 scale by 1 + w",
                "layer_scalar  a factor",
                "10 follow the activation: of each block and its layer's input",
            ][..],
        ),
        (
            "gemma4-moe",
            &[
                "1,944 in MLPs and 5,184 in experts",
                "8 of intermediate 6, of which a token gets 2",
                "1 for keys and values (of one projection)",
                "6 follow the activation: of each block and its experts",
            ],
        ),
        (
            "gemma3n-a",
            &[
                "0.95 of the gate's values are set to 0 in layers 0 to 9",
                "4, of which number 0 is computed",
                "a path of rank 5 (Laurel)",
            ],
        ),
    ] {
        let text = run(&["inspect", "--model", &golden(name)]);
        for row in rows {
            assert!(text.contains(row), "{row} is not in: {text}");
        }
    }
    let stacks = inspect(Path::new(&golden("gemma4-e2b")))["stacks"].clone();
    let kinds = stacks[0]["layers"].as_array().unwrap();
    assert_eq!((kinds.len(), &kinds[2]["layers"]), (4, &json!([2, 3])));
    assert_eq!(
        (&kinds[2]["intermediate_size"], &kinds[2]["attention"]["shares"]),
        (&json!(36), &json!(0))
    );
    assert_eq!(kinds[1]["attention"]["rotated"], json!({"pairs": 2}));
    assert_eq!((&stacks[0]["gates"], &stacks[0]["norm_weight"]), (&json!(10), &json!("plain")));
}

/// A text of several windows, and another one.
fn texts(dir: &Path) -> String {
    let path = dir.join("texts.json");
    let long: Vec<u32> = std::iter::once(2).chain((0..150).map(|i| 4 + i * 37 % 900)).collect();
    std::fs::write(&path, json!([long, [2, 300, 301, 302, 303]]).to_string()).unwrap();
    path.to_str().unwrap().to_string()
}

/// Parts of a run add up to the bytes of the whole.
#[test]
fn shards_merge_to_one_run() {
    let dir = tempfile::tempdir().unwrap();
    let ids = texts(dir.path());
    let args =
        ["drift", "--json", "--gradients", "--ids", &ids, "--window", "32", "--stride", "16"];
    let whole = run(&args);
    assert_eq!(serde_json::from_str::<Value>(&whole).unwrap()["tokens"], 156);
    let mut parts = vec![];
    for i in 1..=3 {
        let part = dir.path().join(format!("{i}.json")).to_str().unwrap().to_string();
        let shard = format!("{i}/3");
        let printed = run(&[&args[..], &["--shard", &shard, "--out", &part]].concat());
        assert_eq!(printed, std::fs::read_to_string(&part).unwrap());
        parts.push(part);
    }
    let merge = |parts: &[&str]| run(&[&["merge", "--json"], parts].concat());
    // In any order, and in two steps.
    assert_eq!(merge(&[&parts[2], &parts[0], &parts[1]]), whole);
    let two = merge(&[&parts[0], &parts[1]]);
    assert_eq!(serde_json::from_str::<Value>(&two).unwrap()["complete"], false);
    let merged = dir.path().join("two.json");
    std::fs::write(&merged, two).unwrap();
    assert_eq!(merge(&[merged.to_str().unwrap(), &parts[2]]), whole);
    // What is merged of some parts does not depend on their order.
    assert_eq!(merge(&[&parts[2], &parts[0]]), merge(&[&parts[0], &parts[2]]));
    assert_eq!(merge(&["--expect", "3", &parts[2], &parts[1], &parts[0]]), whole);
}

/// Weights that stay in their files give the bytes of those in memory, for any number of windows at once.
#[test]
fn streamed_runs_have_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let ids = texts(dir.path());
    let run_of = ["--ids", &ids, "--window", "32", "--stride", "16"];
    let args = [&["drift", "--json", "--rank", "--gradients"][..], &run_of].concat();
    let whole = run(&args);
    for windows in ["1", "4", "1000"] {
        let streamed = [&args[..], &["--stream", "--windows-at-once", windows]].concat();
        assert_eq!(run(&streamed), whole, "{windows} at once");
    }
    assert_eq!(run(&[&args[..], &["--stream"]].concat()), whole);
    assert_eq!(run(&[&args[..], &["--windows-at-once", "3"]].concat()), whole);
    let prompt = ["--prompt", "The fox", "--json"];
    for command in ["forward", "generate"] {
        let args = [&[command][..], &prompt].concat();
        assert_eq!(run(&[&args[..], &["--stream"]].concat()), run(&args));
    }
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let (memory, file) = (path("memory.safetensors"), path("file.safetensors"));
    run(&["capture", "--prompt", "The fox", "--out", &memory]);
    run(&["capture", "--prompt", "The fox", "--out", &file, "--stream"]);
    assert_eq!(std::fs::read(&memory).unwrap(), std::fs::read(&file).unwrap());
    assert_eq!(run(&["compare", &file, "--json", "--stream"]), run(&["compare", &file, "--json"]));
}

/// Mistakes that are named are ranked alone, and those that change nothing are told.
#[test]
fn some_of_the_ranking() {
    let all = run_json(&["drift", "--json", "--rank"]);
    let (silu, router) = ("GELU: SiLU in its place", "experts: router gets the normed input");
    let some = run_json(&["drift", "--json", "--rank", silu, router]);
    let is = |row: &&Value| row["difference"] == silu;
    let among_all = all["ranking"].as_array().unwrap().iter().find(is).unwrap();
    let ranking = some["ranking"].as_array().unwrap();
    assert_eq!(ranking.len(), 1);
    // How many there are divides the vocabulary otherwise, and with it the sums over it.
    let ratio = number(&ranking[0]["kl_mean_nats"]) / number(&among_all["kl_mean_nats"]);
    assert!((ratio - 1.0).abs() < 1e-12, "{ratio}");
    let told = |remark: &Value| remark["text"].as_str().is_some_and(|text| text.contains(router));
    assert!(some["remarks"].as_array().unwrap().iter().any(told), "{}", some["remarks"]);
}

#[test]
fn gradients_and_ranking() {
    let drift = run_json(&["drift", "--json", "--gradients", "--rank"]);
    let gradients = drift["gradients"].as_array().unwrap();
    assert_eq!(gradients.len(), 4);
    for (i, layer) in gradients.iter().enumerate() {
        assert_eq!(layer["index"], i);
        for matrix in ["gate_proj", "up_proj", "down_proj"] {
            let [drift, floor] = [layer, &layer["floor"]].map(|l| number(&l[matrix]["rel_l2"]));
            assert!(0.0 < drift && drift < floor, "{matrix} {drift} {floor}");
            assert!((0.99..=1.0).contains(&number(&layer[matrix]["cosine"])));
        }
    }
    let ranking = drift["ranking"].as_array().unwrap();
    let kl: Vec<_> = ranking.iter().map(|row| number(&row["kl_mean_nats"])).collect();
    assert!(kl.is_sorted_by(|a, b| a >= b), "{kl:?}");
    let place = |name: &str| {
        ranking.iter().position(|row| row["difference"].as_str().unwrap().contains(name)).unwrap()
    };
    let order = ["w in place of 1+w", "no BOS", "SiLU", "model in bf16", "exact", "in f64"];
    assert!(order.map(place).is_sorted(), "{order:?} {ranking:?}");
    for row in ranking {
        for figure in ["kl_max_nats", "top1_agreement", "rel_l2", "ppl"] {
            assert!(row[figure].is_f64(), "{figure} of {row}");
        }
    }
    // The switch among the differences is the switch.
    let exact = &ranking[place("exact")];
    let ratio = number(&exact["kl_mean_nats"]) / number(&drift["logits"]["kl_mean_nats"]);
    assert!((ratio - 1.0).abs() < 0.05, "{ratio}");
}

#[test]
fn generate_side_by_side() {
    let same = run_json(&["generate", "--json"]);
    assert_eq!((&same["parting"], &same["a"]["ids"]), (&Value::Null, &same["b"]["ids"]));
    let text = same["a"]["text"].as_str().unwrap();
    assert!(text.len() > 40 && text.contains('.'), "{text}");
    let parted = run_json(&["generate", "--json", "--b", "silu", "-n", "40"]);
    let index = parted["parting"]["index"].as_u64().unwrap() as usize;
    let ids = |side: &str| parted[side]["ids"].as_array().unwrap()[..=index].to_vec();
    assert_eq!(ids("a")[..index], ids("b")[..index]);
    assert_eq!(parted["parting"]["ids"], json!([ids("a")[index], ids("b")[index]]));
    assert!(number(&parted["parting"]["margins"][0]) > 0.0);
    assert!(run(&["generate", "--b", "silu"]).contains("They differ from token"));
}

/// What one pass over the text computes is what the cache computes token by token.
#[test]
fn generation_agrees_with_forward() {
    let generation = run_json(&["generate", "--json", "-n", "1", "--prompt", "The quick brown"]);
    let forward = run_json(&["forward", "--json", "--prompt", "The quick brown"]);
    assert_eq!(generation["a"]["ids"][0], forward["top"][0][0]["id"]);
}

/// Two frameworks' arithmetic on one bf16 checkpoint.
#[test]
fn frameworks_as_sides() {
    let args = ["drift", "--a", "pytorch:exact", "--b", "jax:tanh", "--dtype", "bf16"];
    assert!(run(&args).contains("tanh as jax in bf16 against exact as pytorch in bf16"));
    let drift = run_json(&[&args[..], &["--json"]].concat());
    let side = |activation: &str, rounding: &str| json!({"activation": activation, "rounding": rounding, "dtype": "bf16"});
    assert_eq!(drift["sides"], json!({"a": side("exact", "pytorch"), "b": side("tanh", "jax")}));
    assert!(number(&drift["layers"][0]["activation"]["rel_l2"]) > 0.0);

    let kl = |a: &str, b: &str| {
        let drift = run_json(&["drift", "--json", "--a", a, "--b", b, "--dtype", "bf16"]);
        number(&drift["logits"]["kl_mean_nats"])
    };
    assert_eq!(kl("transformers:tanh", "tanh:pytorch:bf16"), 0.0, "one arithmetic under two names");
    for framework in ["jax", "candle", "candle-cuda", "flashinfer", "llama.cpp"] {
        assert!(kl("pytorch:tanh", &format!("{framework}:tanh")) > 0.0, "{framework}");
    }
    let help = run(&["drift", "--help"]);
    for (name, _) in Rounding::names() {
        assert!(help.contains(name), "{name}");
    }
}

/// A side is any activation, rounding and dtype; f16 says where it overflows.
#[test]
fn sides_and_overflow() {
    let kl = |b: &str| number(&run_json(&["drift", "--json", "--b", b])["logits"]["kl_mean_nats"]);
    assert_eq!(kl("tanh:after-activation"), 0.0, "in f32 there is nothing to round");
    let (once, every) = (kl("tanh:bf16"), kl("tanh:every-op:bf16"));
    assert!(once > 0.0 && every > once, "{once} {every}");
    let f64 = run_json(&["drift", "--json", "--b", "tanh:f64"]);
    assert!((0.0..1e-10).contains(&number(&f64["logits"]["kl_mean_nats"])), "{f64}");

    let dir = tempfile::tempdir().unwrap();
    let mut specs = gemma3_specs("model.");
    let up = specs.iter_mut().find(|spec| spec.name.contains("up_proj")).unwrap();
    up.bytes = [3e4f32; 96].iter().flat_map(|x| x.to_le_bytes()).collect();
    write_checkpoint(dir.path(), &gemma3_config(), &specs);
    let ids = dir.path().join("ids.json");
    std::fs::write(&ids, "[1, 2, 3]").unwrap();
    let [model, ids] = [dir.path(), &ids].map(|path| path.to_str().unwrap());
    let args = ["drift", "--model", model, "--ids", ids, "--b", "tanh:f16"];
    let drift = run_json(&[&args[..], &["--json"]].concat());
    let size = &drift["verdict"]["size"];
    assert_eq!((&drift["first_nonfinite"], size), (&json!(0), &json!("not-finite")));
    let text = run(&args);
    assert!(text.contains("On 3 tokens only") && text.contains("first in layer 0"), "{text}");
}

/// Names and meanings of the benchmark's figures; how large they are is the machine's business.
#[test]
fn bench_json_has_the_fixed_names() {
    let args = ["bench", "--json", "--shape", "64x96", "--tokens", "1,4"];
    let bench = run_json(&args);
    let limits = ["fma_gflops", "bf16_gflops", "read_gbps"].map(|k| number(&bench["limits"][k]));
    assert!(limits.iter().all(|&limit| limit > 0.0) && bench["limits"]["threads"] == 2, "{bench}");
    let rows = bench["rows"].as_array().unwrap();
    let cases: Vec<_> = rows.iter().map(|row| (&row["weights"], &row["tokens"])).collect();
    let [f32, bf16] = ["f32", "bf16"].map(|name| json!(name));
    let [one, four] = [1, 4].map(|tokens| json!(tokens));
    assert_eq!(cases, [(&f32, &one), (&f32, &four), (&bf16, &one), (&bf16, &four)]);
    for row in rows {
        assert_eq!((&row["hidden"], &row["intermediate"]), (&json!(64), &json!(96)));
        let figure = |name: &str| number(&row[name]);
        let near = |a: f64, b: f64| assert!(a > 0.0 && (a / b - 1.0).abs() < 1e-9, "{a} {b} {row}");
        let [fma, bf16, read] = limits;
        let (size, peak) = if row["weights"] == "f32" { (4.0, fma) } else { (2.0, bf16) };
        let weights = 3.0 * 64.0 * 96.0;
        let (bytes, operations) = (size * weights, 2.0 * weights * figure("tokens"));
        near(figure("limit_ms"), (bytes / read).max(operations / peak) / 1e6);
        near(figure("of_limit"), figure("limit_ms") / figure("median_ms"));
        // The clocks of processors tick in ten milliseconds on some systems.
        assert!(figure("cpu_ms") >= 0.0 && figure("candle_cpu_ms") >= 0.0, "{row}");
        near(figure("ratio_to_candle"), figure("candle_ms") / figure("median_ms"));
        near(figure("gflops"), operations / figure("median_ms") / 1e6);
        near(figure("gbps"), bytes / figure("median_ms") / 1e6);
    }
}

/// Of experts: those that some token goes through count as read, and every token's as computed.
#[test]
fn bench_of_experts() {
    let args = ["--experts", "8", "--top", "2", "--shape", "64x32", "--tokens", "1,64"];
    let args = [&["bench", "--weights", "bf16"][..], &args].concat();
    let bench = run_json(&[&args[..], &["--json"]].concat());
    let read = number(&bench["limits"]["read_gbps"]);
    for (row, (tokens, chosen)) in bench["rows"].as_array().unwrap().iter().zip([(1, 2), (64, 8)]) {
        assert_eq!((&row["hidden"], &row["intermediate"]), (&json!(64), &json!(32)));
        assert_eq!((&row["experts"], &row["top_k"]), (&json!(8), &json!(2)));
        assert_eq!((&row["tokens"], &row["experts_read"]), (&json!(tokens), &json!(chosen)));
        let (bytes, ms) = (f64::from(chosen) * 2.0 * 3.0 * 64.0 * 32.0, number(&row["median_ms"]));
        assert!((number(&row["gbps"]) * ms * 1e6 / bytes - 1.0).abs() < 1e-9, "{row}");
        assert!(number(&row["limit_ms"]) >= bytes / read / 1e6 * (1.0 - 1e-9), "{row}");
    }
    let table = run(&args);
    assert_eq!(
        table.lines().filter(|line| line.starts_with("64x32, 2 of 8 ")).count(),
        2,
        "{table}"
    );
}

/// The shapes of a checkpoint's blocks, each once.
#[test]
fn bench_of_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(dir.path(), &gemma3_config(), &gemma3_specs("model."));
    let model = dir.path().to_str().unwrap();
    let table = run(&["bench", "--model", model, "--tokens", "2", "--weights", "f32"]);
    assert!(table.starts_with("limits: ") && table.contains("on 2 threads"), "{table}");
    assert_eq!(table.lines().filter(|line| line.starts_with("8x12 ")).count(), 1, "{table}");
}

#[test]
fn plots_are_written_in_every_form() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let [svg, png, csv] = ["plot.svg", "plot.png", "plot.csv"].map(path);
    let files = ["--svg", &svg, "--png", &png, "--csv", &csv];
    let printed = run(&[&["plot", "--derivative", "--range", "-6:2"], &files[..]].concat());
    assert_eq!(printed, "", "nothing is printed where files are asked for");
    let svg = std::fs::read_to_string(&svg).unwrap();
    for word in
        ["role=\"img\"", "<title", "<desc", "prefers-color-scheme:dark", "GELU tanh′", "llama.cpp"]
    {
        assert!(svg.contains(word), "{word}");
    }
    assert!(std::fs::read(&png).unwrap().starts_with(b"\x89PNG"));
    let csv = std::fs::read_to_string(&csv).unwrap();
    // Ours at -2 by its definition: -2·Φ(-2).
    let row = csv.lines().find(|line| line.starts_with("functions,GELU exact,-2,")).unwrap();
    let y: f64 = row.rsplit(',').next().unwrap().parse().unwrap();
    assert!((y + 2.0 * 0.022_750_131_948_179_21).abs() < 1e-15, "{row}");

    // Gradients are drawn of ours and of candle's, both measured; no framework's are made up.
    let gradients: std::collections::BTreeSet<_> = csv
        .lines()
        .filter_map(|line| line.strip_prefix("relative-error-tanh-derivative-bf16,"))
        .map(|rest| rest.split(',').next().unwrap())
        .collect();
    assert_eq!(gradients.into_iter().collect::<Vec<_>>(), ["candle", "gemma-mlp"]);

    let text = run(&["plot", "--functions", "gelu_new,swish,gelu-exact,quick-gelu"]);
    for word in ["GELU tanh", "SiLU", "quick GELU", "exact − tanh", "error of each preset"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(!text.contains('\u{1b}') && !text.contains("ReLU"), "{text}");
}

#[test]
fn verify_says_how_far_and_where() {
    for dtype in ["f64", "f32", "bf16", "f16"] {
        let verified = run_json(&["verify", "--json", "--dtype", dtype, "--range", "-8:8"]);
        let functions = verified["functions"].as_array().unwrap();
        assert_eq!((functions.len(), &verified["dtype"]), (8, &json!(dtype)));
        for row in functions {
            let [ulp, bound] = [&row["truth"]["max_ulp"], &row["bound_ulp"]].map(number);
            assert!(ulp <= bound, "{row}");
            assert!((-8.0..=8.0).contains(&number(&row["candle"]["at"])), "{row}");
        }
    }
    assert!(run(&["verify"]).contains("within its error bound"));
}

/// What was saved can be shown again, alone and beside others.
#[test]
fn reports_are_shown_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let [one, two, first, second] = ["one.json", "two.json", "1.html", "2.html"].map(path);
    let [csv, again, figures] = ["1.csv", "2.csv", "figures"].map(path);
    let table = run(&["drift", "--out", &one, "--html", &first, "--csv", &csv]);
    assert_eq!(
        run(&["report", &one, "--html", &second, "--csv", &again, "--figures", &figures]),
        table
    );
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    assert_eq!(read(&first), read(&second), "redrawn to the byte");
    let but_name = |csv: &str| {
        csv.lines().map(|l| l.split_once(',').unwrap().1.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(but_name(&read(&csv)), but_name(&read(&again)));
    let mut names: Vec<_> =
        std::fs::read_dir(&figures).unwrap().map(|f| f.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(
        names,
        ["divergence.svg", "gates.svg", "layers.svg", "positions.svg", "residual.svg"]
    );

    let other = run(&["drift", "--b", "silu", "--dtype", "bf16", "--out", &two]);
    let both = run(&["report", &one, &two, "--html", &second]);
    let header: Vec<_> = both.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(header, ["one", "two"]);
    assert!(
        both.contains("silu against tanh, both in bf16")
            && both.contains(other.lines().last().unwrap())
    );
    assert!(read(&second).contains("2 runs side by side"));
    let command = serde_json::from_str::<Value>(&read(&two)).unwrap()["origin"]["command"].clone();
    assert_eq!(command, "gemma-mlp drift --b silu --dtype bf16");
}

/// Colours are for terminals, and for none that has NO_COLOR.
#[test]
#[cfg(target_os = "linux")]
fn colours_only_on_a_terminal() {
    let on_a_terminal = |environment: &str| {
        let command =
            format!("{environment} {} drift --prompt words", env!("CARGO_BIN_EXE_gemma-mlp"));
        let script = Command::new("script").args(["-qec", &command, "/dev/null"]).output();
        script.ok().map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let Some(coloured) = on_a_terminal("TERM=xterm NO_COLOR=") else {
        common::skip("terminal", "there is no `script` to make a terminal with");
        return;
    };
    assert!(coloured.contains("\u{1b}[33m"), "{coloured}");
    for environment in ["TERM=xterm NO_COLOR=1", "TERM=dumb NO_COLOR="] {
        let plain = on_a_terminal(environment).unwrap();
        assert!(!plain.contains('\u{1b}') && plain.contains("KL mean"), "{environment}: {plain}");
    }
    assert!(!run(&["drift", "--prompt", "words"]).contains('\u{1b}'));
}

/// A build for GPUs says in one line which device it computes on, and goes on without a GPU as with
/// `--cpu`, of which it says nothing.
#[test]
fn one_line_says_the_device() {
    let stderr = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gemma-mlp"));
        let output = command.args(["forward", "--prompt", "a"]).args(args).output().unwrap();
        assert!(output.status.success() && !output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(stderr(&["--cpu"]), "");
    let said = match device::gpu() {
        _ if !IS_POSSIBLE => "".into(),
        Ok(gpu) => format!("device: {}\n", device::name(&gpu)),
        Err(why) => format!("device: CPU; no usable GPU: {why}\n"),
    };
    assert_eq!(stderr(&[]), said);
}

/// The exit code of a check on a fine-tune, with what it says.
#[test]
fn strict_inspections_end_in_a_code() {
    let dir = tempfile::tempdir().unwrap();
    let inspected = |config: &Value, specs: &[Spec], strict: &[&str]| {
        write_checkpoint(dir.path(), config, specs);
        let model = dir.path().to_str().unwrap();
        let args = [&["inspect", "--model", model][..], strict].concat();
        let output = Command::new(env!("CARGO_BIN_EXE_gemma-mlp")).args(args).output().unwrap();
        let [stdout, stderr] =
            [output.stdout, output.stderr].map(|o| String::from_utf8(o).unwrap());
        (output.status.code(), stdout, stderr)
    };
    let (mut config, specs) = (gemma3_config(), gemma3_specs("model."));
    assert_eq!(inspected(&config, &specs, &["--strict"]).0, Some(0));
    config["rms_norm_eps"] = 1e-5.into();
    assert_eq!(inspected(&config, &specs, &[]).0, Some(0));
    for form in [&["--strict"][..], &["--strict", "--json"]] {
        let (code, stdout, stderr) = inspected(&config, &specs, form);
        assert_eq!(code, Some(1));
        assert!(stdout.contains("rms_norm_eps is 1e-5"), "{stdout}");
        assert!(
            stderr.contains("1 warning, and --strict") && stderr.lines().count() == 1,
            "{stderr}"
        );
    }
}

/// What inspect warns of stands beside every run, and in its JSON.
#[test]
fn remarks_stand_beside_every_result() {
    let dir = tempfile::tempdir().unwrap();
    let mut specs = gemma3_specs("model.");
    specs.push(Spec::f32("model.layers.0.mlp.gate_proj.lora_A.weight", &[2, 8]));
    write_checkpoint(dir.path(), &gemma3_config(), &specs);
    let ids = dir.path().join("ids.json");
    std::fs::write(&ids, "[2, 5, 9]").unwrap();
    let [model, ids] = [dir.path(), &ids].map(|path| path.to_str().unwrap());
    let warned = "LoRA tensors are not applied";
    for command in ["drift", "forward"] {
        let args = [command, "--model", model, "--ids", ids];
        assert!(run(&args).contains(&format!("warning: {warned}")), "{command}");
        let json: Value = serde_json::from_str(&run(&[&args[..], &["--json"]].concat())).unwrap();
        let remark = json["remarks"].as_array().unwrap().iter();
        let remark = remark.filter(|r| r["kind"] == "unused" && r["level"] == "warning");
        let texts: Vec<_> = remark.map(|r| r["text"].as_str().unwrap()).collect();
        assert!(matches!(texts[..], [text] if text.starts_with(warned)), "{command} {json}");
    }
}
