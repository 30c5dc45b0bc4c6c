//! The index of a checkpoint in several files.

use super::oracle::told;
use gemma_mlp::internal::parse_index;
use serde_json::{Map, Value};
use std::collections::HashSet;

/// Reads an index, and compares what is accepted with a plain reading of the same JSON.
pub fn index(data: &[u8]) {
    let Ok(json) = std::str::from_utf8(data) else { return };
    let Some((files, tensors)) = told(parse_index(json)) else { return };
    // A value beside the map may be a number that no f64 is: it is passed over.
    let Ok(index) = serde_json::from_str::<Map<String, Value>>(json) else { return };
    let map = index["weight_map"].as_object().unwrap();
    let names: HashSet<&str> = map.values().map(|file| file.as_str().unwrap()).collect();
    assert_eq!((names.len(), map.len()), (files, tensors));
    for name in names {
        assert!(!name.contains('/') && !["", ".", ".."].contains(&name), "{name} leads elsewhere");
    }
}
