//! Logits and log-probabilities that other programs have written, read from files.

use candle_core::DType;
use gemma_mlp::Checkpoint;
use gemma_mlp_drift::compare::{Dump, Likeliest, Names, Point, Word, formats, resolve};
use proptest::prelude::*;
use serde_json::json;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

fn read(path: &Path) -> Result<Dump, String> {
    formats::read(path, &Names::default()).map_err(|error| {
        let message = error.to_string();
        assert!(error.is_input() && message.lines().count() == 1, "{message}");
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(message.contains(name), "{message}");
        message
    })
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> std::path::PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn read(&self, name: &str, bytes: impl AsRef<[u8]>) -> Result<Dump, String> {
        read(&self.write(name, bytes))
    }
}

fn bytes<const N: usize, T>(numbers: &[T], of: impl Fn(&T) -> [u8; N]) -> Vec<u8> {
    numbers.iter().flat_map(of).collect()
}

fn says(dump: &Dump, fragment: &str) -> bool {
    dump.remarks.iter().any(|remark| remark.text.contains(fragment))
}

#[test]
fn logits_that_llama_cpp_saves() {
    let folder = Folder::new();
    let logits = bytes(&[1.5f32, -2.0, 3.25], |n| n.to_le_bytes());
    let dump = folder.read("llamacpp-tiny-q8.bin", &logits).unwrap();
    assert!(says(&dump, "-tokens.bin is not there") && dump.texts[0].tokens.is_none());

    folder.write("llamacpp-tiny-q8-tokens.bin", bytes(&[2i32, 818, 5], |n| n.to_le_bytes()));
    folder.write(
        "llamacpp-tiny-q8-prompt.txt",
        "prompt: a\nn_tokens: b\nn_tokens: 3\ntoken ids: 2\n",
    );
    let dump = folder.read("llamacpp-tiny-q8.bin", &logits).unwrap();
    let text = &dump.texts[0];
    assert_eq!((&text.tokens, &text.logit_positions), (&Some(vec![2, 818, 5]), &Some(vec![2])));
    let plane = &text.planes[&Point::Logits];
    assert_eq!((plane.shape(), plane.dtype()), (&[1, 3][..], DType::F32));
    assert_eq!(plane.tensor().unwrap().to_vec2::<f32>().unwrap(), [[1.5, -2.0, 3.25]]);
    assert_eq!(dump.metadata["prompt"], "a\nn_tokens: b");
    assert_eq!((&*dump.metadata["framework"], &*dump.metadata["model"]), ("llama.cpp", "tiny-q8"));

    for (name, content, fragment) in [
        ("llamacpp-m.bin", &b"abcde"[..], "5 bytes"),
        ("llamacpp-m.bin", b"", "0 bytes"),
        ("llamacpp-m-embeddings.bin", &logits, "…-m.bin"),
        ("llamacpp-m-tokens.bin", &logits, "token ids"),
    ] {
        let refusal = folder.read(name, content).unwrap_err();
        assert!(refusal.contains(fragment), "{refusal}");
    }
    for ids in [&[][..], &[2, -1]] {
        folder.write("llamacpp-tiny-q8-tokens.bin", bytes(ids, |n: &i32| n.to_le_bytes()));
        assert!(folder.read("llamacpp-tiny-q8.bin", &logits).unwrap_err().contains("token ids"));
    }
}

/// The base file of some rows of logits, as llama.cpp writes it.
fn base(
    chunk: usize,
    vocab: usize,
    tokens: &[i32],
    logits: impl Fn(usize, usize) -> f32,
) -> Vec<u8> {
    let sizes = [chunk as i32, vocab as i32, (tokens.len() / chunk) as i32];
    let mut file = b"_logits_".to_vec();
    file.extend(bytes(&sizes, |n| n.to_le_bytes()));
    file.extend(bytes(tokens, |n| n.to_le_bytes()));
    for start in (0..tokens.len()).step_by(chunk) {
        for position in chunk / 2..chunk - 1 {
            let row: Vec<f32> = (0..vocab).map(|word| logits(start + position, word)).collect();
            let max = row.iter().copied().fold(f32::MIN, f32::max);
            let min = row.iter().copied().fold(f32::MAX, f32::min).max(max - 16.0);
            let sum = row.iter().map(|n| f64::from(n - max).exp()).sum::<f64>().ln() as f32;
            let scale = (max - min) / 65535.0;
            file.extend(scale.to_le_bytes());
            file.extend((min - max - sum).to_le_bytes());
            for word in 0..vocab.next_multiple_of(2) {
                let step = row.get(word).map_or(0.0, |n| ((n - min) / scale).round().max(0.0));
                file.extend((step as u16).to_le_bytes());
            }
        }
    }
    file
}

#[test]
fn the_base_of_a_kl_divergence() {
    let folder = Folder::new();
    let tokens = [2, 3, 4, 5, 9, 6, 7, 8];
    let logits = |at: usize, word: usize| if word == 1 { -30.0 } else { (at * word % 7) as f32 };
    let file = base(4, 11, &tokens, logits);
    let dump = folder.read("x.kld", &file).unwrap();
    let ids: Vec<_> = dump.texts.iter().flat_map(|text| text.tokens.clone()).collect();
    assert_eq!(ids, [[2, 3, 4, 5], [2, 6, 7, 8]]);
    assert!(says(&dump, "BOS") && says(&dump, "16 nats"));
    for (start, text) in [0, 4].into_iter().zip(&dump.texts) {
        let [Likeliest { position: 2, tokens }] = &text.likeliest[..] else { panic!("{text:?}") };
        let row: Vec<f64> = (0..11).map(|word| f64::from(logits(start + 2, word))).collect();
        let sum = row.iter().map(|n| n.exp()).sum::<f64>().ln();
        assert!(tokens.iter().all(|(word, _)| *word != Word::Id(1)), "cut off");
        assert!(tokens.is_sorted_by(|a, b| a.1 >= b.1));
        for (word, given) in tokens {
            let Word::Id(word) = word else { panic!("{word:?}") };
            assert!((given - (row[*word as usize] - sum)).abs() < 3e-4, "{word}: {given}");
        }
    }
    for (damage, fragment) in [
        (file[..file.len() - 1].to_vec(), "bytes where its header asks for"),
        ([&file[..], b"x"].concat(), "bytes where its header asks for"),
        (file[..10].to_vec(), "fill"),
        ([&file[..8], &[0xff; 60]].concat(), "-1 for a size"),
        ([&file[..8], &[0x7f; 60]].concat(), "bytes where its header asks for"),
        ([&file[..20], &[0x7f; 4], &file[24..]].concat(), "is no token of 11"),
        ([&file[..52], &[0x7f; 4], &file[56..]].concat(), "makes no log-probabilities"),
    ] {
        let refusal = folder.read("x.kld", damage).unwrap_err();
        assert!(refusal.contains(fragment), "{refusal}");
    }
}

#[test]
fn lines_of_json() {
    let folder = Folder::new();
    let line = json!({"prompt": "a", "tokens": [2, 5], "logits": [[1.5, -2, 0.1], [3, 4, 5]]});
    let padded = json!({"tokens": [2], "logits": [[1, 2], [0, 0]], "image_path": "x", "note": {}});
    let dump = folder.read("a.jsonl", format!("\u{feff}{line}\n")).unwrap();
    let plane = &dump.texts[0].planes[&Point::Logits];
    assert_eq!(
        plane.tensor().unwrap().to_vec2::<f32>().unwrap(),
        [[1.5, -2.0, 0.1], [3.0, 4.0, 5.0]]
    );
    assert_eq!(dump.texts[0].tokens, Some(vec![2, 5]));
    assert_eq!(dump.metadata["prompt"], "a");

    // MaxText writes an array into its line.
    let dump = folder.read("a.jsonl", format!("{}\n{line}", json!([line, padded]))).unwrap();
    assert_eq!(dump.texts.len(), 3);
    assert_eq!(dump.texts[1].planes[&Point::Logits].shape(), [1, 2]);
    assert!(says(&dump, "image_path, note") && says(&dump, "1 of 3 texts have more rows"));

    let special =
        r#"{"tokens": [2], "logits": [[NaN, -Infinity, Infinity]], "prompt": "NaN -Infinity"}"#;
    let dump = folder.read("a.jsonl", special).unwrap();
    let row = dump.texts[0].planes[&Point::Logits].tensor().unwrap().to_vec2::<f32>().unwrap();
    assert!(row[0][0].is_nan() && row[0][1..] == [f32::NEG_INFINITY, f32::INFINITY]);
    assert_eq!(dump.metadata["prompt"], "NaN -Infinity");

    let dump = folder.read("a.jsonl", json!({"mt_logits": [[1]], "hf_logits": [[2]]}).to_string());
    let dump = dump.unwrap();
    assert!(says(&dump, "hf_logits") && says(&dump, "no token ids"));

    for (json, fragment) in [
        (json!({"tokens": [2, 5], "logits": [[1]]}), "2 tokens, but 1 rows"),
        (json!({"tokens": [2, 5], "logits": [[1], [1, 2]]}), "row 1 of the logits has 2"),
        (json!({"tokens": [], "logits": [[1]]}), "without tokens"),
        (json!({"tokens": [2], "logits": [[]]}), "has 0 numbers"),
        (json!({"tokens": [2], "logits": []}), "no rows"),
        (json!({"tokens": [2], "logits": [[null]]}), "null among"),
        (json!({"tokens": [2], "logits": [["x"]]}), "a number"),
        (json!({"tokens": [-2], "logits": [[1]]}), "u32"),
        (json!({"prompt": "x", "tokens": [2]}), "logits"),
        (json!({"tokens": [2], "logits": [[1]], "pixel_values": [1]}), "pixel_values"),
        (json!({"tokens": [2], "logits": [[1]], "attention_mask": [0]}), "padding"),
    ] {
        let refusal = folder.read("a.jsonl", json.to_string()).unwrap_err();
        assert!(refusal.contains(fragment), "{json}: {refusal}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn logits_come_back_bit_for_bit(
        rows in (1usize..4, 1usize..5).prop_flat_map(|(rows, width)| {
            prop::collection::vec(prop::collection::vec(prop::num::f32::NORMAL, width), rows)
        }),
    ) {
        let folder = Folder::new();
        let wide: Vec<Vec<f64>> =
            rows.iter().map(|row| row.iter().map(|n| f64::from(*n)).collect()).collect();
        let ids: Vec<u32> = (0..rows.len() as u32).collect();
        let dump = folder.read("a.jsonl", json!({"tokens": ids, "logits": wide}).to_string()).unwrap();
        let plane = dump.texts[0].planes[&Point::Logits].tensor().unwrap();
        prop_assert_eq!(plane.to_vec2::<f32>().unwrap(), rows);
    }

    #[test]
    fn damage_breaks_nothing(at in 0usize..120, to: u8, len in 0usize..140) {
        let mut file = base(4, 5, &[2, 3, 4, 1], |at, word| (at * word) as f32);
        let (at, len) = (at.min(file.len() - 1), len.min(file.len()));
        file[at] = to;
        file.truncate(len);
        let _ = Folder::new().read("x.kld", file);
    }
}

#[test]
fn texts_are_looked_up() {
    let checkpoint = Checkpoint::open("../../weights/tiny-gemma3").unwrap();
    let ids = checkpoint.encode("The lighthouse").unwrap();
    let known = *ids.last().unwrap();
    let known_text = checkpoint.decode(&[known]).unwrap();
    let tokens = vec![
        (Word::Text(known_text.clone()), -0.5),
        (Word::Text("no token has this text".into()), -1.0),
        (Word::Text("\u{fffd}".into()), -2.0),
        (Word::Text("<bos>".into()), -3.0),
        (Word::Id(known), -0.5),
    ];
    let folder = Folder::new();
    let line = json!({"tokens": [2], "logits": [[1]]}).to_string();
    let mut dump = folder.read("a.jsonl", line).unwrap();
    dump.texts[0].likeliest = vec![Likeliest { position: 0, tokens }];
    resolve(&mut dump, &checkpoint).unwrap();
    let tokens = &dump.texts[0].likeliest[0].tokens;
    assert_eq!(tokens[..], [(Word::Id(2), -3.0), (Word::Id(known), -0.5)]);
    assert!(says(&dump, "4 tokens are named by their texts"), "{:?}", dump.remarks);
    let before = dump.remarks.len();
    resolve(&mut dump, &checkpoint).unwrap();
    assert_eq!(dump.remarks.len(), before);
}
