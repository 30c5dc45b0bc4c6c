//! GGUF files that are spoiled, by accident or on purpose: one line each, and no panic.

use gemma_mlp::internal;
use std::fs;
use std::path::Path;

/// The metadata and tensors of a small file, to be spoiled.
struct File {
    version: u32,
    /// What is said of their number, if that is not so.
    counts: [Option<u64>; 2],
    /// Key, type, value.
    keys: Vec<(String, u32, Vec<u8>)>,
    /// Name, dimensions, type, offset.
    tensors: Vec<(String, Vec<u64>, u32, u64)>,
}

const I32: u32 = 5;
const U32: u32 = 4;
const F32: u32 = 6;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const U64: u32 = 10;

impl File {
    /// What opens as far as the first tensor of a layer.
    fn new() -> Self {
        let tensors = vec![("token_embd.weight".into(), vec![8, 2], 0, 0)];
        let mut file = Self { version: 3, counts: [None; 2], keys: vec![], tensors };
        file.set("general.architecture", STRING, string(b"gemma3"));
        for (key, value) in [
            ("block_count", 1),
            ("embedding_length", 8),
            ("feed_forward_length", 8),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
            ("attention.key_length", 4),
        ] {
            file.set(&format!("gemma3.{key}"), U32, u32::to_le_bytes(value).into());
        }
        file
    }

    fn set(&mut self, key: &str, kind: u32, value: Vec<u8>) {
        self.keys.retain(|(own, ..)| own != key);
        self.keys.push((key.into(), kind, value));
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = [b"GGUF", &self.version.to_le_bytes()[..]].concat();
        let counts = [self.tensors.len() as u64, self.keys.len() as u64];
        for (count, said) in counts.iter().zip(self.counts) {
            bytes.extend(said.unwrap_or(*count).to_le_bytes());
        }
        for (key, kind, value) in &self.keys {
            bytes.extend(string(key.as_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        for (name, dims, kind, offset) in &self.tensors {
            bytes.extend(string(name.as_bytes()));
            bytes.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(32) + 96, 0);
        bytes
    }
}

fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

fn spoiled(change: impl FnOnce(&mut File)) -> Vec<u8> {
    let mut file = File::new();
    change(&mut file);
    file.bytes()
}

/// One line that names the file and the culprit.
#[track_caller]
fn assert_refused(bytes: Vec<u8>, word: &str) {
    let error = internal::checkpoint_from_gguf(bytes).err().expect("refused");
    let message = error.to_string();
    assert!(error.is_input() && !message.contains(char::is_control), "{message}");
    assert!(message.contains("memory.gguf") && message.contains(word), "'{word}' in: {message}");
}

#[test]
fn the_beginning() {
    assert_refused(spoiled(|_| ()), "no tensor 'model.layers.0.mlp.down_proj.weight'");
    assert_refused(vec![], "begin with");
    assert_refused(b"GGML".to_vec(), "begin with");
    assert_refused(b"version https://git-lfs.github.com/spec/v1\n".to_vec(), "git lfs pull");
    assert_refused(spoiled(|file| file.version = 1), "version 1");
    assert_refused(spoiled(|file| file.version = 3u32.swap_bytes()), "big-endian");
    assert_refused(spoiled(|file| file.counts[0] = Some(u64::MAX)), "tensors; at most");
    assert_refused(spoiled(|file| file.counts[1] = Some(u64::MAX)), "keys; at most");
    assert_refused(spoiled(|file| file.counts[1] = Some(8)), "memory.gguf");
}

#[test]
fn values() {
    for (key, kind, value, word) in [
        ("x", STRING, u64::MAX.to_le_bytes().to_vec(), "ends within its header"),
        ("x", STRING, (1u64 << 40).to_le_bytes().to_vec(), "ends within its header"),
        ("x", 77, vec![], "'x' is of type 77"),
        ("general.architecture", U32, vec![0; 4], "'general.architecture' is no text"),
        ("general.architecture", STRING, string(b"\xff"), "not UTF-8"),
        ("general.architecture", STRING, string(b"lla\nma"), "\"lla\\nma\" is not covered"),
        ("general.architecture", STRING, string(b"clip"), "sees"),
        ("general.architecture", STRING, string(b"gemma4-assistant"), "drafts"),
        ("general.alignment", U32, vec![3, 0, 0, 0], "power of 2"),
        ("general.alignment", U32, vec![0; 4], "power of 2"),
        ("gemma3.block_count", F32, 1f32.to_le_bytes().into(), "'gemma3.block_count' is 1.0"),
        ("gemma3.block_count", I32, (-1i32).to_le_bytes().into(), "is -1"),
        ("gemma3.block_count", U64, u64::MAX.to_le_bytes().into(), "num_hidden_layers"),
        ("gemma3.block_count", U32, vec![0; 4], "num_hidden_layers is 0"),
        ("gemma3.block_count", STRING, string(b"1"), "is a text"),
        ("gemma3.attention.value_length", U32, vec![9, 0, 0, 0], "value_length"),
        ("gemma3.rope.dimension_count", U32, vec![2, 0, 0, 0], "is 2 of heads of 4"),
        (
            "gemma3.attention.layer_norm_rms_epsilon",
            F32,
            f32::NAN.to_le_bytes().into(),
            "layer_norm_rms_epsilon",
        ),
        ("split.count", 2, vec![2, 0], "part 1 of 2"),
        ("split.no", 2, vec![1, 0], "part 2 of 1"),
        ("split.tensors.count", I32, vec![9, 0, 0, 0], "counts 9 tensors"),
    ] {
        assert_refused(spoiled(|file| file.set(key, kind, value)), word);
    }
    let twice = spoiled(|file| file.keys.push(file.keys[0].clone()));
    assert_refused(twice, "'general.architecture' is there twice");
    let architecture = spoiled(|file| file.keys.retain(|(key, ..)| key != "general.architecture"));
    assert_refused(architecture, "'general.architecture' is missing");
    let layers = spoiled(|file| file.keys.retain(|(key, ..)| key != "gemma3.block_count"));
    assert_refused(layers, "'gemma3.block_count' is missing");
}

#[test]
fn lists() {
    for (key, kind, len, items, word) in [
        ("x", 0, u64::MAX, &[][..], "ends within its header"),
        ("x", 12, u64::MAX / 4, &[], "'x' is of type 12"),
        ("x", STRING, u64::MAX, &[], "ends within its header"),
        ("x", ARRAY, 1, &[0; 12], "'x' is of type 9"),
        ("gemma3.block_count", U32, 1, &[1, 0, 0, 0], "is a list"),
        ("gemma3.feed_forward_length", U32, 0, &[], "feed_forward_length' is missing"),
        ("gemma3.attention.sliding_window_pattern", 7, 2, &[1, 0], "of each of 1 layers"),
        ("gemma3.attention.head_count_kv", U32, 2, &[1; 8], "lists 2 of 1 layers"),
        ("gemma3.attention.head_count_kv", 0, 5000, &[0; 5000], "at most 4096"),
    ] {
        let value = [&u32::to_le_bytes(kind)[..], &u64::to_le_bytes(len), items].concat();
        assert_refused(spoiled(|file| file.set(key, ARRAY, value)), word);
    }
}

#[test]
fn tensors() {
    for (name, dims, kind, offset, word) in [
        ("a\nb", vec![8], 99, 64, "tensor 'a\\nb' is stored as type 99"),
        ("a", vec![8], 23, 64, "tensor 'a' is stored as IQ4_XS, which is not read"),
        ("a", vec![8; 5], 0, 64, "5 dimensions"),
        ("a", vec![u64::MAX, 2], 0, 64, "tensor 'a'"),
        ("a", vec![1 << 40, 1 << 40], 0, 64, "larger than any file"),
        ("a", vec![8], 8, 64, "whole blocks"),
        ("a", vec![8], 0, u64::MAX, "no multiple of 32"),
        ("a", vec![8], 0, u64::MAX - 31, "the file ends before tensor 'a'"),
        ("a", vec![8], 0, 32, "within the one before it"),
        ("a", vec![64], 0, 64, "the file ends before tensor 'a'"),
        ("a", vec![8], 0, 7, "no multiple of 32"),
        ("blk.0.ffn_down.weight", vec![8, 7], 0, 64, "the file ends before"),
    ] {
        let tensor = (name.to_string(), dims, kind, offset);
        assert_refused(spoiled(|file| file.tensors.push(tensor)), word);
    }
    let empty = ("output_norm.weight".to_string(), vec![0], 0, 64);
    let twice = spoiled(|file| file.tensors.extend([empty.clone(), empty]));
    assert_refused(twice, "'model.norm.weight' is there twice");
    let long = spoiled(|file| file.tensors.push(("x".repeat(300), vec![8], 0, 64)));
    assert_refused(long, "at most 256 are read");
}

/// The factors that say which part of a head Gemma 4 rotates.
#[test]
fn factors() {
    let mut bytes = fs::read(goldens().join("gemma4-dense.gguf")).unwrap();
    let factors = [1.0f32, 1.0, 1e30, 1e30, 1e30, 1e30, 1e30, 1e30];
    let factors: Vec<u8> = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
    let at = bytes.windows(factors.len()).position(|window| window == factors).unwrap();
    for spoiled in [2.0, f32::NAN, 1e30] {
        bytes[at..at + 4].copy_from_slice(&spoiled.to_le_bytes());
        assert_refused(bytes.clone(), "'rope_freqs.weight' has other factors");
    }
}

/// Tokenizers are read with the first text, and refused then; the model runs on ids all the same.
#[test]
fn tokenizers() {
    let whole = fs::read(goldens().join("gemma3.gguf")).unwrap();
    let strings = |texts: &[&str]| texts.iter().flat_map(|t| string(t.as_bytes())).collect();
    let list = |kind: u32, len: usize, items: Vec<u8>| {
        [&kind.to_le_bytes()[..], &(len as u64).to_le_bytes(), &items].concat()
    };
    let tokens = |texts: &[&str]| list(STRING, texts.len(), strings(texts));
    let scores = |scores: &[f32]| {
        list(F32, scores.len(), scores.iter().flat_map(|score| score.to_le_bytes()).collect())
    };
    let runs: Vec<String> = (1..=500).map(|n| "a".repeat(n)).collect();
    let runs: Vec<&str> = runs.iter().map(String::as_str).collect();
    for (model, pieces, more, word) in [
        ("llama", tokens(&["a", "b"]), vec![], "scores"),
        ("llama", tokens(&["a", "b"]), vec![("scores", scores(&[0.0]))], "1 scores for 2 tokens"),
        ("llama", tokens(&["a"]), vec![("scores", scores(&[f32::NAN]))], "no score"),
        ("llama", tokens(&["a", "a"]), vec![("scores", scores(&[0.0; 2]))], "the ids 0 and 1"),
        ("llama", tokens(&[]), vec![], "has 0 tokens"),
        ("llama", tokens(&[&"a".repeat(600)]), vec![("scores", scores(&[0.0]))], "at most 512"),
        ("llama", tokens(&runs), vec![("scores", scores(&[0.0; 500]))], ""),
        ("llama", list(U32, 1, vec![0; 4]), vec![], "is no list of texts"),
        ("gpt2", tokens(&["a"]), vec![], "tokenizer.json beside"),
        ("gemma4", tokens(&["a"]), vec![], "merges"),
        ("gemma4", tokens(&["a", "b"]), vec![("merges", tokens(&["a b"]))], "item 0 that makes"),
        ("gemma4", tokens(&["a"]), vec![("token_type", tokens(&["a", "b"]))], "2 types for 1"),
        ("gemma4", tokens(&["a"]), vec![("bos_token_id", vec![])], "is 7; there are 1 tokens"),
    ] {
        let mut keys = vec![
            ("model".to_string(), STRING, string(model.as_bytes())),
            ("tokens".to_string(), ARRAY, pieces),
        ];
        for (key, value) in more {
            keys.push(match key {
                "bos_token_id" => (key.into(), U32, 7u32.to_le_bytes().into()),
                _ => (key.into(), ARRAY, value),
            });
        }
        if word.contains("is 7") {
            keys.push(("merges".into(), ARRAY, tokens(&[])));
        }
        let checkpoint = internal::checkpoint_from_gguf(with_keys(&whole, &keys)).unwrap();
        match checkpoint.encode("a") {
            Ok(_) => assert_eq!(word, ""),
            Err(error) => {
                let message = error.to_string();
                let one_line = !message.contains(char::is_control);
                assert!(
                    one_line && message.contains(word) && !word.is_empty(),
                    "{word}: {message}"
                );
            }
        }
    }
    let checkpoint = internal::checkpoint_from_gguf(whole).unwrap();
    let error = checkpoint.encode("a").unwrap_err().to_string();
    assert!(error.contains("put tokenizer.json beside it"), "{error}");
}

fn goldens() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/gguf")
}

/// A file with more keys of `tokenizer.ggml`, in front of its own.
fn with_keys(file: &[u8], keys: &[(String, u32, Vec<u8>)]) -> Vec<u8> {
    let mut more = vec![];
    for (key, kind, value) in keys {
        more.extend(string(format!("tokenizer.ggml.{key}").as_bytes()));
        more.extend(kind.to_le_bytes());
        more.extend(value);
    }
    // Tensors begin at multiples of 32 behind the header, which ends somewhere before: a text fills that up.
    let filled = (more.len() + 8 + 1 + 4 + 8).next_multiple_of(32) - (more.len() + 8 + 1 + 4 + 8);
    more.extend(string(b"x"));
    more.extend(STRING.to_le_bytes());
    more.extend(string(&vec![b' '; filled]));
    let count = u64::from_le_bytes(file[16..24].try_into().unwrap()) + keys.len() as u64 + 1;
    [&file[..16], &count.to_le_bytes(), &more, &file[24..]].concat()
}

/// Whatever happens to the bytes of whole files, there is an error of one line or a model.
#[test]
fn bytes_of_whole_files() {
    let attempt = |bytes: Vec<u8>| match internal::checkpoint_from_gguf(bytes) {
        Ok(checkpoint) => {
            for text in [checkpoint.encode("a text").err(), checkpoint.check_whole_model().err()] {
                assert!(!format!("{text:?}").contains(char::is_control));
            }
        }
        Err(error) => assert!(!error.to_string().contains(char::is_control), "{error}"),
    };
    for name in ["gemma3", "gemma4-dense", "gemma3n-a"] {
        let bytes = fs::read(goldens().join(format!("{name}.gguf"))).unwrap();
        let header = bytes.len().min(24 << 10);
        for at in (0..header).step_by(97).chain([bytes.len() - 1]) {
            attempt(bytes[..at].to_vec());
        }
        for at in (0..header).step_by(41) {
            for byte in [0, 0xff, bytes[at] ^ 1, bytes[at].wrapping_add(32)] {
                let mut spoiled = bytes.clone();
                spoiled[at] = byte;
                attempt(spoiled);
            }
        }
    }
}
