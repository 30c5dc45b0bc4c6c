//! larql's dumps of the residual stream: a manifest with the token ids, and a file of f32 for the
//! embedding and for each layer.

use super::{Beginning, Format};
use crate::compare::dump::{Dump, DumpText};
use crate::compare::names::Names;
use crate::compare::plane::Plane;
use crate::compare::point::{Place, Point};
use crate::error::{Error, InvalidDump, Result};
use gemma_mlp::checkpoint::{Remark, RemarkKind};
use gemma_mlp::internal::{FewNames, File, Numbers, parse_json, read_text};
use safetensors::Dtype;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

const MANIFEST: &str = "layer_dump.json";

/// What the planes are stored in.
const DTYPE: &str = "f32-le";

/// What it calls a transformers model in f32, and its own.
const ENGINES: [(&str, &str); 2] = [("hf-torch-f32", "transformers"), ("larql-rust-f32", "larql")];

/// The most planes; their index is that of a layer.
const MAX_PLANES: usize = 1 << 12;

pub(super) const LARQL: Format = Format { name: "larql", recognises, read };

fn recognises(beginning: &Beginning) -> bool {
    beginning.files.iter().any(|name| name == MANIFEST)
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    engine: String,
    #[serde(default)]
    model: String,
    #[serde(default)]
    num_layers: Option<usize>,
    seq_len: usize,
    hidden_size: usize,
    token_ids: Vec<u32>,
    planes: Vec<String>,
    dtype: String,
}

fn read(path: &Path, _: &Names) -> Result<Dump> {
    let file = path.join(MANIFEST);
    let fail = |reason: String| Err(Error::dump(&file, InvalidDump::Malformed(reason)));
    let manifest: Manifest = parse_json(&read_text(&file)?, &file)?;
    let Manifest { seq_len, hidden_size, planes, .. } = &manifest;
    if manifest.dtype != DTYPE {
        return fail(format!("planes in {}; only {DTYPE} is read", manifest.dtype));
    }
    if manifest.token_ids.len() != *seq_len || *seq_len == 0 || *hidden_size == 0 {
        let ids = manifest.token_ids.len();
        return fail(format!(
            "{ids} token ids for planes of [{seq_len}, {hidden_size}]; capture it again"
        ));
    }
    if planes.len() > MAX_PLANES {
        let reason = InvalidDump::TooMany { limit: MAX_PLANES, of: "planes" };
        return Err(Error::dump(&file, reason));
    }
    let mut text = DumpText { tokens: Some(manifest.token_ids.clone()), ..DumpText::default() };
    let mut missing = FewNames::default();
    for (index, name) in planes.iter().enumerate() {
        if Path::new(name).file_name() != Some(name.as_ref()) {
            return fail(format!("the plane '{name}' is not a plain file name"));
        }
        let plane = path.join(name);
        if !plane.exists() {
            missing.push(name);
            continue;
        }
        let point = match number(name).unwrap_or(index) {
            0 => Point::Embedding,
            index => Point::Layer(index - 1, Place::Hidden),
        };
        let plane = open(&plane, [*seq_len, *hidden_size])?;
        if text.planes.insert(point, plane).is_some() {
            return fail(format!("two planes are {point}, of which one is {name}"));
        }
    }
    if text.planes.is_empty() {
        return fail("none of its planes is in the folder; copy them beside it".into());
    }
    let listed: BTreeSet<_> = planes.iter().map(String::as_str).collect();
    let unused = Beginning::of(path)?.unused(|name| name == MANIFEST || listed.contains(name));
    let mut remarks: Vec<_> = unused.into_iter().collect();
    if missing.count > 0 {
        let text = format!("planes of {MANIFEST} that are not in the folder: {missing}");
        remarks.push(Remark::warning(RemarkKind::Unused, text));
    }
    if manifest.num_layers.is_some_and(|layers| layers + 1 != planes.len()) {
        let text = format!(
            "{MANIFEST} lists {} planes, not one for the embedding and each layer",
            planes.len()
        );
        remarks.push(Remark::warning(RemarkKind::Chosen, text));
    }
    let source = path.display().to_string();
    Ok(Dump { source, format: "", metadata: metadata(manifest), texts: vec![text], remarks })
}

/// The number in a plane's name: 0 for the embedding, one more than the layer's index for a layer.
fn number(name: &str) -> Option<usize> {
    let digits = name.strip_prefix("layer_")?.strip_suffix(".f32")?;
    let number: usize = digits.parse().ok()?;
    (digits.len() >= 3 && number < MAX_PLANES).then_some(number)
}

fn open(path: &Path, shape: [usize; 2]) -> Result<Plane> {
    let file = Arc::new(File::closed(path.into())?);
    let wrong = || {
        let reason = format!(
            "{} bytes, where {DTYPE} of {shape:?} is meant; copy or capture it again",
            file.len()
        );
        Error::dump(path, InvalidDump::Malformed(reason))
    };
    let count = shape[0].checked_mul(shape[1]).ok_or_else(wrong)?;
    if (count as u64).checked_mul(4) != Some(file.len()) {
        return Err(wrong());
    }
    let numbers = Numbers::of(&file, 0, count, Dtype::F32).ok_or_else(wrong)?;
    Plane::in_file(numbers, shape.into()).ok_or_else(wrong)
}

fn metadata(Manifest { engine, model, .. }: Manifest) -> BTreeMap<String, String> {
    let mut metadata = BTreeMap::new();
    let mut put = |key: &str, value: String| {
        if !value.is_empty() {
            metadata.insert(key.to_string(), value);
        }
    };
    let known = ENGINES.iter().find(|(name, _)| *name == engine);
    if let Some((_, framework)) = known {
        put("framework", framework.to_string());
        put("dtype", "f32".into());
    }
    put("engine", engine);
    put("model", model);
    metadata
}
