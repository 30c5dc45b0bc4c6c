//! `model.safetensors.index.json`: which shards there are, and which tensor it has in which.

use super::canonical::canonical;
use super::table::Table;
use crate::checkpoint::json::{malformed, parse_json, read_text};
use crate::error::Result;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use std::collections::HashMap;
use std::fmt;
use std::path::Path;

/// The most shards of a checkpoint; the largest known have a few hundred.
pub(super) const MAX_SHARDS: usize = 1 << 12;

/// What an index says.
pub(in crate::checkpoint) struct Index {
    /// The shards' file names.
    pub(in crate::checkpoint) files: Vec<String>,
    /// In which of them a tensor is, by its canonical name.
    pub(in crate::checkpoint) tensors: Table<u16>,
}

impl Index {
    /// Reads an index, which must not lead out of its directory.
    pub(in crate::checkpoint) fn read(path: &Path) -> Result<Self> {
        Self::parse(&read_text(path)?, path)
    }

    pub(in crate::checkpoint) fn parse(json: &str, path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Raw {
            weight_map: WeightMap,
        }
        let malformed = |reason| malformed(path, reason);
        let Raw { weight_map: WeightMap(Index { files, tensors }) } = parse_json(json, path)?;
        for file in &files {
            if Path::new(file).file_name() != Some(file.as_ref()) {
                return Err(malformed(format!("the shard name '{file}' is not a plain file name")));
            }
        }
        if files.is_empty() {
            return Err(malformed("its weight_map is empty".into()));
        }
        let tensors = tensors.sorted();
        let tensors =
            tensors.map_err(|name| malformed(format!("tensor '{name}' is there twice")))?;
        Ok(Self { files, tensors })
    }
}

struct WeightMap(Index);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(WeightMapVisitor)
    }
}

struct WeightMapVisitor;

impl<'de> Visitor<'de> for WeightMapVisitor {
    type Value = WeightMap;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object from tensors to files")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<WeightMap, A::Error> {
        let mut numbers: HashMap<String, u16> = HashMap::new();
        let (mut files, mut tensors) = (vec![], Table::default());
        while let Some((name, file)) = map.next_entry::<String, String>()? {
            let number = match numbers.get(&file) {
                Some(&number) => number,
                None if files.len() == MAX_SHARDS => {
                    return Err(A::Error::custom(format!("more than {MAX_SHARDS} shards")));
                }
                None => {
                    let number = files.len() as u16;
                    files.push(file.clone());
                    numbers.insert(file, number);
                    number
                }
            };
            let pushed = tensors.push(&canonical(&name), number);
            pushed.map_err(|_| A::Error::custom("its names are too long"))?;
        }
        Ok(WeightMap(Index { files, tensors }))
    }
}
