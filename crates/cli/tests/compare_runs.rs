//! `gemma-mlp capture` and `gemma-mlp compare` as programs call them.

use crate::fake_server::Fake;
use safetensors::{Dtype, SafeTensors, serialize_to_file, tensor::TensorView};
use serde_json::{Map, Value, json};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

fn tool(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gemma-mlp")).current_dir(dir).args(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// One line, this exit code, and words.
fn fails(dir: &Path, args: &[&str], code: i32, words: &[&str]) {
    let output = tool(dir, args);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    for word in words {
        assert!(said.contains(word), "{args:?}: '{word}' is not in: {said}");
    }
}

fn capture(dir: &Path, args: &[&str]) {
    let output = tool(dir, &[&["capture", "--prompt", "The quick brown fox"], args].concat());
    assert!(output.status.success(), "{}", stderr(&output));
}

/// Refused in one line.
fn refused(dir: &Path, args: &[&str], words: &[&str]) {
    fails(dir, args, 2, words);
    let said = stderr(&tool(dir, args));
    assert_eq!(said.trim_end().lines().count(), 1, "{args:?}: {said}");
}

/// The exit code, and the report.
fn compare(dir: &Path, args: &[&str]) -> (i32, Value) {
    let output = tool(dir, &[&["compare", "--json"], args].concat());
    let code = output.status.code().unwrap();
    assert!(code < 2, "{args:?}: {}", stderr(&output));
    (code, serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn help_has_the_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let help = String::from_utf8(tool(dir.path(), &["compare", "--help"]).stdout).unwrap();
    for words in ["THEIRS [OURS]", "--server URL", "Exit codes: 0", "3 any other failure"] {
        assert!(help.contains(words), "{help}");
    }
}

/// Whose roundings are not known to the bit, or where there is no model of ours to round.
#[test]
fn ours_rounds_like_llama_cpp_alone() {
    let dir = tempfile::tempdir().unwrap();
    let captured = tool(dir.path(), &["capture", "--out", "a.safetensors"]);
    assert!(captured.status.success(), "{}", stderr(&captured));
    let of =
        |args: &[&'static str]| [&["compare", "a.safetensors", "--like-theirs"], args].concat();
    fails(dir.path(), &of(&[]), 2, &["llama.cpp", "of gemma-mlp in f32"]);
    fails(dir.path(), &of(&["a.safetensors"]), 2, &["[OURS]", "--like-theirs"]);
}

#[test]
fn scripts_are_printed_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    for (name, file) in [
        ("transformers", include_str!("../python/gemma_mlp/transformers.py")),
        ("jax", include_str!("../python/gemma_mlp/jax.py")),
        ("keras", include_str!("../python/gemma_mlp/keras.py")),
        ("llama.cpp", include_str!("../python/gemma_mlp/llama_cpp.py")),
        ("candle", include_str!("../src/cli/scripts/capture_candle.rs")),
    ] {
        let output = tool(dir.path(), &["capture", "--script", name]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), file, "{name}");
    }
    fails(dir.path(), &["capture", "--script", "mxnet"], 2, &["transformers", "llama.cpp"]);
    fails(dir.path(), &["capture", "--script", "jax", "--out", "a"], 2, &["--script"]);
    fails(dir.path(), &["capture"], 2, &["--out"]);
}

/// What does not fit together is refused before anything is read, and never looks like a difference.
#[test]
fn usage() {
    let dir = tempfile::tempdir().unwrap();
    for (args, words) in [
        (&["compare"][..], &["THEIRS"][..]),
        (&["compare", "a", "b", "--model", "m"], &["--model"]),
        (&["compare", "a", "b", "--revision", "r"], &["--revision"]),
        (&["compare", "a", "--server", "http://x"], &["--server"]),
        (&["compare", "a", "--prompt", "x"], &["--server"]),
        (&["compare", "a", "--top", "3"], &["--server"]),
        (&["compare", "a", "--allow", "x"], &["REGEX=RATIO"]),
        (&["compare", "a", "--allow", "(=2"], &["regular expression"]),
        (&["compare", "a", "--allow", "x=0"], &["ratio"]),
        (&["compare", "a", "--layers", "x"], &["layer"]),
        (&["compare", "not-there"], &["not-there"]),
        (&["compare", "not-there", "also-not"], &["not-there"]),
        (&["compare", "a", "--map", "not-there.json"], &["not-there.json"]),
        (&["capture", "--out", "a", "--points", "("], &["--points"]),
        (&["capture", "--out", "a", "--layers", "99"], &["99"]),
        (&["capture", "--out", "no/a", "--layers", "0"], &["no/a"]),
    ] {
        fails(dir.path(), args, 2, words);
    }
}

#[test]
fn inputs_are_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["theirs", "ours", "reference", "map", "ids"] {
        fs::write(dir.path().join(name), "[2, 5]").unwrap();
    }
    let all = ["compare", "theirs", "--reference", "reference", "--map", "map", "--ids", "ids"];
    for name in ["theirs", "reference", "map", "ids"] {
        for flag in ["--csv", "--html", "--out"] {
            fails(dir.path(), &[&all[..], &[flag, name]].concat(), 2, &[name, "an input too"]);
        }
    }
    fails(dir.path(), &["compare", "theirs", "ours", "--csv", "ours"], 2, &["an input too"]);
    fails(dir.path(), &["capture", "--ids", "ids", "--out", "ids"], 2, &["an input too"]);
    fails(dir.path(), &["compare", "theirs", "--csv", "x", "--html", "x"], 2, &["two results"]);
    assert_eq!(fs::read_to_string(dir.path().join("theirs")).unwrap(), "[2, 5]");
}

/// Where a report says that theirs differs first.
fn first(report: &Value) -> (Option<u64>, &str) {
    let first = &report["first"];
    (first["layer"].as_u64(), first["point"].as_str().unwrap_or_default())
}

fn causes(report: &Value) -> Vec<&str> {
    let all = report["causes"].as_array().unwrap().iter();
    all.map(|cause| cause["name"].as_str().unwrap()).collect()
}

/// A dump of our own agrees with our own model, and another activation is named.
#[test]
fn exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    capture(dir, &["--out", "ours.safetensors", "--activation", "config"]);
    let (code, report) = compare(dir, &["ours.safetensors"]);
    assert_eq!((code, &report["agrees"], &report["first"]), (0, &true.into(), &Value::Null));
    assert_eq!(causes(&report), [""; 0]);
    capture(dir, &["--out", "theirs.safetensors", "--activation", "exact"]);
    let (code, report) = compare(dir, &["theirs.safetensors"]);
    assert_eq!((code, &report["agrees"]), (1, &false.into()));
    assert_eq!(first(&report), (Some(0), "mlp.activated"));
    assert_eq!(causes(&report), ["GELU: exact (erf)"]);
    // Two dumps: the same place, and no name.
    let (code, report) = compare(dir, &["theirs.safetensors", "ours.safetensors"]);
    assert_eq!((code, &report["agrees"]), (1, &false.into()));
    assert_eq!((first(&report), causes(&report)), ((Some(0), "mlp.activated"), vec![]));
    assert_eq!(compare(dir, &["ours.safetensors", "ours.safetensors"]).0, 0);
    // A result that cannot be written is no difference.
    if Path::new("/dev/full").exists() {
        let full = ["compare", "ours.safetensors", "--csv", "/dev/full"];
        fails(dir, &full, 3, &["cannot write"]);
    }
    // Files in place of what is printed.
    let files =
        ["compare", "theirs.safetensors", "--csv", "a.csv", "--html", "a.html", "--out", "a.json"];
    assert_eq!(tool(dir, &files).status.code(), Some(1));
    for (file, word) in [("a.csv", "same_input"), ("a.html", "</html>"), ("a.json", "\"verdict\"")]
    {
        assert!(fs::read_to_string(dir.join(file)).unwrap().contains(word), "{file}");
    }
}

/// What is known to differ may, by the name of the point; all else is judged as before.
#[test]
fn what_may_differ_and_which_layers_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    capture(dir, &["--out", "theirs.safetensors", "--activation", "exact"]);
    let with = |rules: &[&str]| {
        let rules = rules.iter().flat_map(|rule| ["--allow", rule]);
        compare(dir, &["theirs.safetensors"].into_iter().chain(rules).collect::<Vec<_>>())
    };
    let (code, report) = with(&[r"^layers\.0\.mlp\.activated$=1e9"]);
    assert_eq!((code, first(&report)), (1, (Some(1), "mlp.activated")));
    // What it moves the logits by is another matter.
    let (code, report) = with(&[r"mlp\.activated$=1e9"]);
    assert_eq!((code, first(&report)), (1, (None, "logits")));
    assert_eq!(with(&[r"mlp\.activated$=1e9", "logits=1e9"]).0, 0);
    assert_eq!(with(&[".=1e9"]).0, 0);
    assert_eq!(with(&[".=1e9", r"activated=2"]).0, 1, "the last rule counts");
    let (code, report) = compare(dir, &["theirs.safetensors", "--layers", "1,3"]);
    let layers: Vec<_> = report["layers"].as_array().unwrap().iter().map(|l| &l["index"]).collect();
    assert_eq!((code, json!(layers)), (1, json!([1, 3])));
    refused(dir, &["compare", "theirs.safetensors", "--layers", "4"], &["4"]);
}

const IDS: [u32; 12] = [2, 55, 301, 17, 17, 640, 90, 12, 811, 5, 33, 204];

/// A dump of ours in `ours.safetensors` on [`IDS`], which are in `ids.json`; its logits.
fn on_ids(dir: &Path, options: &[&str]) -> Vec<Vec<f32>> {
    fs::write(dir.join("ids.json"), json!(IDS).to_string()).unwrap();
    let all = ["capture", "--ids", "ids.json", "--out", "ours.safetensors"];
    let output = tool(dir, &[&all, options].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let logits = numbers(dir, "logits");
    logits.chunks(logits.len() / IDS.len()).map(<[f32]>::to_vec).collect()
}

/// Numbers of `ours.safetensors`.
fn numbers(dir: &Path, name: &str) -> Vec<f32> {
    let file = fs::read(dir.join("ours.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    let bytes = file.tensor(name).unwrap().data();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// The tokens of the dump beside those that were meant.
#[test]
fn tokens_are_held_against_those_that_were_meant() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    on_ids(dir, &[]);
    let write = |name: &str, ids: &[u32]| {
        fs::write(dir.join(name), json!(ids).to_string()).unwrap();
    };
    write("without.json", &IDS[1..]);
    let out = tool(dir, &["capture", "--ids", "without.json", "--out", "without.safetensors"]);
    assert!(out.status.success());
    let (code, report) = compare(dir, &["without.safetensors", "--ids", "ids.json"]);
    assert_eq!((code, causes(&report)), (1, vec!["no BOS"]), "{}", report["verdict"]);
    write("twice.json", &[&[2], &IDS[..]].concat());
    let out = tool(dir, &["capture", "--ids", "twice.json", "--out", "twice.safetensors"]);
    assert!(out.status.success());
    let (code, report) = compare(dir, &["twice.safetensors", "--ids", "ids.json"]);
    assert_eq!((code, causes(&report)), (1, vec!["two BOS"]), "{}", report["verdict"]);
    let mut other = IDS;
    other[5] += 1;
    write("other.json", &other);
    let words = ["other tokens", "position 5", "token 640"];
    refused(dir, &["compare", "ours.safetensors", "--ids", "other.json"], &words);
    refused(dir, &["compare", "ours.safetensors", "without.safetensors"], &["other tokens"]);
}

/// An `.npy` file of f32, or of i64.
fn npy(dtype: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend([header.as_bytes(), data].concat());
    file
}

/// Log-probabilities of the likeliest tokens, by id.
fn likeliest(logits: &[f32], top: usize) -> Vec<(usize, f64)> {
    let total: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
    let mut all: Vec<_> = logits.iter().map(|&x| f64::from(x) - total.ln()).enumerate().collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all.truncate(top);
    all
}

/// As vLLM gives them: of each token but the first, by the position before it.
fn prompt_logprobs(logits: &[Vec<f32>], top: usize) -> Vec<Value> {
    let of = |row: &Vec<f32>| {
        let entry = |(id, p): (usize, f64)| (id.to_string(), json!({ "logprob": p }));
        likeliest(row, top).into_iter().map(entry).collect::<Map<_, _>>().into()
    };
    let before = &logits[..logits.len() - 1];
    [Value::Null].into_iter().chain(before.iter().map(of)).collect()
}

/// What other programs would have written of the model inside this one agrees with it, and of one with another
/// activation it does not.
#[test]
fn other_formats_of_the_model_inside() {
    for (activation, code) in [("tanh", 0), ("silu", 1)] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let logits = on_ids(dir, &["--activation", activation]);
        let flat = |name: &str| numbers(dir, name).into_iter().flat_map(f32::to_le_bytes);
        let arrays = [
            ("tokens", npy("<i8", "(12,)", &IDS.map(u64::from).map(u64::to_le_bytes).concat())),
            ("hidden.1", npy("<f4", "(12, 128)", &flat("hidden.1").collect::<Vec<_>>())),
            ("logits", npy("<f4", "(1, 12, 1024)", &flat("logits").collect::<Vec<_>>())),
        ];
        let mut archive = zip::ZipWriter::new(fs::File::create(dir.join("all.npz")).unwrap());
        fs::create_dir(dir.join("arrays")).unwrap();
        for (name, bytes) in &arrays {
            let name = format!("{name}.npy");
            let options = zip::write::SimpleFileOptions::default();
            archive.start_file(&name, options).unwrap();
            archive.write_all(bytes).unwrap();
            fs::write(dir.join("arrays").join(name), bytes).unwrap();
        }
        archive.finish().unwrap();
        fs::write(
            dir.join("rows.jsonl"),
            json!({"prompt": "?", "tokens": IDS, "logits": logits}).to_string() + "\n",
        )
        .unwrap();
        let vllm =
            json!({"prompt_token_ids": IDS, "prompt_logprobs": prompt_logprobs(&logits, 20)});
        fs::write(dir.join("vllm.json"), vllm.to_string()).unwrap();
        // By the names of transformers' modules, and by one that nobody knows.
        let hidden: Vec<u8> = flat("layers.2.mlp.output").collect();
        let tokens: Vec<u8> = IDS.map(i64::from).map(i64::to_le_bytes).concat();
        let tensors = [
            ("input_ids", TensorView::new(Dtype::I64, vec![1, 12], &tokens).unwrap()),
            (
                "model.layers.2.mlp.down_proj",
                TensorView::new(Dtype::F32, vec![1, 12, 128], &hidden).unwrap(),
            ),
            ("my.2.ffn", TensorView::new(Dtype::F32, vec![12, 128], &hidden).unwrap()),
        ];
        serialize_to_file(tensors, None, &dir.join("modules.safetensors")).unwrap();
        for file in ["all.npz", "arrays", "rows.jsonl", "vllm.json", "modules.safetensors"] {
            let (got, report) = compare(dir, &[file]);
            assert_eq!(got, code, "{activation}, {file}: {}", report["verdict"]);
        }
        fs::write(dir.join("map.json"), r#"{"my.{N}.ffn": "layers.{N}.mlp.output"}"#).unwrap();
        let (got, report) = compare(dir, &["modules.safetensors", "--map", "map.json"]);
        assert_eq!(got, code, "{activation}, with a map: {}", report["verdict"]);
    }
}

/// Whatever is no dump is refused in a line, and looks neither like a difference nor like agreement.
#[test]
fn what_is_no_dump_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    on_ids(dir, &["--layers", "0"]);
    let whole = fs::read(dir.join("ours.safetensors")).unwrap();
    let header = u64::MAX.to_le_bytes();
    for (name, bytes, words) in [
        ("empty", &b""[..], &["empty"][..]),
        ("cut.safetensors", &whole[..whole.len() / 2], &["cut.safetensors"]),
        ("long.safetensors", &[&header[..], b"{}"].concat(), &["long.safetensors"]),
        ("theirs.pt", b"PK\x03\x04aaaaaaaaaaaaaaaaaaaaaaarchive/data.pkl", &["PyTorch"]),
        ("theirs.pkl", b"\x80\x04\x95cposix\nsystem\n", &["Python"]),
        ("theirs.gguf", b"GGUF\x03\0\0\0", &["GGUF"]),
        ("theirs.txt", b"Gemma computes\x1b[2J", &["theirs.txt"]),
        ("theirs.jsonl", br#"{"tokens": [2, 99999999], "logits": [[1.0], [2.0]]}"#, &["99999999"]),
        ("ids.jsonl", br#"{"tokens": [2, 5], "logits": [[1.0]]}"#, &["ids.jsonl"]),
        ("theirs.npy", b"\x93NUMPY\x01\x00\xff\xff{", &["theirs.npy"]),
        ("error.json", br#"{"error": {"message": "no\nmodel"}}"#, &["error.json"]),
    ] {
        fs::write(dir.join(name), bytes).unwrap();
        refused(dir, &["compare", name], words);
    }
    fs::create_dir(dir.join("folder")).unwrap();
    refused(dir, &["compare", "folder"], &["folder"]);
}

/// A server whose log-probabilities are those of the model inside the program.
#[test]
fn a_server_is_asked() {
    for (activation, code) in [("tanh", 0), ("silu", 1)] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let logits = on_ids(dir, &["--activation", activation]);
        let fake = Fake::new(move |path, body| {
            if path != "/v1/completions" {
                return (200, json!({"data": [{"id": "gemma"}]}).to_string());
            }
            assert_eq!(body["prompt"], json!(IDS));
            let top = body["prompt_logprobs"].as_u64().unwrap() as usize;
            let choice = json!({
                "prompt_token_ids": IDS, "prompt_logprobs": prompt_logprobs(&logits, top),
            });
            (200, json!({"choices": [choice]}).to_string())
        });
        let (got, report) =
            compare(dir, &["--server", &fake.url, "--ids", "ids.json", "--top", "10"]);
        assert_eq!(got, code, "{activation}: {}", report["verdict"]);
        assert_eq!(report["theirs"]["framework"], "vllm");
        assert_eq!(report["logits"]["words"], 10);
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let fake = Fake::new(|_, _| (404, "{}".into()));
    refused(dir, &["compare", "--server", &fake.url, "--prompt", "x"], &[&fake.url]);
}
