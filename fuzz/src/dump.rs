//! Dumps of what other programs computed.

use super::header::framed;
use super::oracle::{remarks, told};
use gemma_mlp_drift::compare::{Names, formats};
use std::sync::LazyLock;
use std::{env, fs, path::PathBuf, process};

/// Reads a file, given whole, or as the text of a safetensors file's header, with or without a map of names in its
/// first line. What is accepted can be read to the last number.
pub fn dump(data: &[u8]) {
    let Some((&how, mut rest)) = data.split_first() else { return };
    let mut names = Names::default();
    if how & 1 == 1 {
        let end = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
        let map = String::from_utf8_lossy(&rest[..end]);
        let Some(map) = told(Names::from_json("map.json", &map)) else { return };
        (names, rest) = (map, rest.get(end + 1..).unwrap_or_default());
    }
    let bytes = match how & 2 {
        0 => rest.to_vec(),
        _ => match framed(rest) {
            Some(bytes) => bytes,
            None => return,
        },
    };
    fs::write(&*FILE, bytes).expect("a temporary file");
    let Some(dump) = told(formats::read(&FILE, &names)) else { return };
    remarks(&dump.remarks);
    assert!(!dump.format.is_empty() && !dump.texts.is_empty());
    for text in &dump.texts {
        for plane in text.planes.values() {
            let tensor = told(plane.tensor()).expect("what is accepted is there");
            assert_eq!(tensor.dims(), plane.shape());
            assert_eq!(tensor.dtype(), plane.dtype());
        }
        for glimpse in text.glimpses.values() {
            let len: usize = glimpse.shape.iter().product();
            assert!(glimpse.values.iter().all(|&(at, _)| at < len));
        }
    }
}

/// One file for each process: readers take paths. It is named so that an array alone is the logits.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = env::temp_dir().join(format!("gemma-mlp-fuzz-{}", process::id()));
    fs::create_dir_all(&dir).expect("a temporary directory");
    dir.join("logits")
});
