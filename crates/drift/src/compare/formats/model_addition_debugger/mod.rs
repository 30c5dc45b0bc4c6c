//! What transformers' `model_addition_debugger_context` writes: a tree of all calls of modules as JSON,
//! with the numbers in it as PyTorch prints them, or each tensor in a safetensors file beside it.
//!
//! Of a module that has others in it only what goes in is written, of the rest also what comes out.

mod printed;

use super::safetensors::ENDING;
use super::{Beginning, Format};
use crate::compare::assemble::{Array, Assembly, Elements};
use crate::compare::dump::Dump;
use crate::compare::names::Names;
use crate::error::{Error, InvalidDump, Result};
use gemma_mlp::checkpoint::{Remark, RemarkKind, Tensors};
use gemma_mlp::internal::{parse_json, read_text};
use printed::printed;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::path::Path;

pub(super) const MODEL_ADDITION_DEBUGGER: Format =
    Format { name: "transformers' model_addition_debugger", recognises, read };

const TREE: &str = "_debug_tree_FULL_TENSORS.json";
const SUMMARY: &str = "_debug_tree_SUMMARY.json";

/// The name of the only tensor of a file.
const DATA: &str = "data";

/// The token ids, which a model hands on to those within it.
const IDS: &str = "_inputs_kwargs_input_ids";

/// The longest text of one call's inputs or outputs: a tensor is printed in 1000 numbers at most.
const MAX_CALL: usize = 4 << 20;

fn recognises(beginning: &Beginning) -> bool {
    let named = beginning.has(TREE)
        || beginning.has(SUMMARY)
        || beginning.files.iter().any(|n| is_tensor(n));
    named || (beginning.text().starts_with('{') && beginning.text().contains(r#""module_path""#))
}

/// Whether a file has a tensor: `<class>.<module>_inputs_args_0.safetensors`.
fn is_tensor(name: &str) -> bool {
    let name = name.strip_suffix(ENDING);
    name.is_some_and(|name| {
        name.contains('.') && (name.ends_with("_outputs") || name.contains("_inputs_args_"))
    })
}

fn read(path: &Path, names: &Names) -> Result<Dump> {
    if !path.is_dir() {
        return tree(path, names);
    }
    let files = Beginning::of(path)?.files;
    if files.iter().any(|name| is_tensor(name)) {
        return tensors(path, names);
    }
    let trees: Vec<_> = files.iter().filter(|name| name.ends_with(TREE)).collect();
    match trees[..] {
        [one] => tree(&path.join(one), names),
        [] => {
            let reason =
                format!("a summary without numbers; put the file that ends in {TREE} beside it");
            Err(Error::dump(path, InvalidDump::Malformed(reason)))
        }
        _ => {
            let reason = format!("{} files that end in {TREE}; pass one of them", trees.len());
            Err(Error::dump(path, InvalidDump::Malformed(reason)))
        }
    }
}

/// A file for each tensor.
fn tensors(dir: &Path, names: &Names) -> Result<Dump> {
    let mut assembly = Assembly::new(dir.display().to_string(), names);
    assembly.has_last_layer();
    let folder = Beginning::of(dir)?;
    let ours = |name: &str| [ENDING, TREE, SUMMARY].iter().any(|ending| name.ends_with(ending));
    if let Some(unused) = folder.unused(ours) {
        assembly.remark(unused);
    }
    let mut has_ids = false;
    for file in &folder.files {
        let Some(name) = file.strip_suffix(ENDING) else { continue };
        if name.ends_with(IDS) && std::mem::replace(&mut has_ids, true) {
            continue;
        }
        assembly.add(name, || {
            let tensors = Tensors::open_files(dir, std::slice::from_ref(file))?;
            let shape = tensors.shape(DATA)?.to_vec();
            Ok(Array { shape, elements: Elements::File(tensors.numbers(DATA)?) })
        })?;
    }
    assembly.finish(metadata(None))
}

/// A call of a module.
#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Call<'a> {
    module_path: String,
    #[serde(borrow, default)]
    inputs: Option<&'a RawValue>,
    #[serde(borrow, default)]
    outputs: Option<&'a RawValue>,
    #[serde(borrow, default)]
    children: Vec<Call<'a>>,
}

/// The tree alone, with printed numbers.
fn tree(path: &Path, names: &Names) -> Result<Dump> {
    let json = read_text(path)?;
    let root: Call = parse_json(&json, path)?;
    let mut reader = Reader {
        path,
        assembly: Assembly::new(path.display().to_string(), names),
        dtype: None,
        has_ids: false,
        tensors: 0,
        in_files: false,
        without_values: false,
    };
    reader.call(&root)?;
    let Reader { mut assembly, dtype, in_files, without_values, tensors, .. } = reader;
    if in_files && let Some(dir) = path.parent() {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        return self::tensors(dir, names);
    }
    if without_values {
        let reason = format!("a summary without numbers; pass the file that ends in {TREE}");
        return Err(Error::dump(path, InvalidDump::Malformed(reason)));
    }
    assembly.has_last_layer();
    if tensors > 0 {
        let text = "its numbers are as PyTorch prints them: to a few digits, and of long tensors the ends \
                    alone; take use_repr=False to have all of them";
        assembly.remark(Remark::warning(RemarkKind::Unused, text));
    }
    assembly.finish(metadata(dtype))
}

fn metadata(dtype: Option<&str>) -> BTreeMap<String, String> {
    let framework = ("framework".to_string(), "transformers".to_string());
    let dtype = dtype.map(|dtype| ("dtype".to_string(), dtype.to_string()));
    [framework].into_iter().chain(dtype).collect()
}

struct Reader<'a> {
    path: &'a Path,
    assembly: Assembly<'a>,
    /// That of the first floating-point tensor.
    dtype: Option<&'static str>,
    has_ids: bool,
    tensors: usize,
    in_files: bool,
    without_values: bool,
}

impl Reader<'_> {
    fn call(&mut self, call: &Call) -> Result<()> {
        for (side, io) in [("inputs", call.inputs), ("outputs", call.outputs)] {
            let Some(io) = io else { continue };
            let name = format!("{}_{side}", call.module_path);
            if io.get().len() > MAX_CALL {
                let reason =
                    InvalidDump::TooMany { limit: MAX_CALL, of: "bytes of one call's tensors" };
                return Err(Error::dump(self.path, reason));
            }
            self.io(&parse_json(io.get(), self.path)?, name)?;
        }
        call.children.iter().try_for_each(|child| self.call(child))
    }

    /// Tensors in lists and objects, each named by its way, as files of them are.
    fn io(&mut self, value: &Value, name: String) -> Result<()> {
        match value {
            Value::Array(items) => {
                let mut items = items.iter().enumerate();
                items.try_for_each(|(i, item)| self.io(item, format!("{name}_{i}")))
            }
            Value::Object(items) => match (items.get("shape"), items.get("dtype")) {
                (Some(Value::String(shape)), Some(Value::String(dtype))) => {
                    self.tensor(&name, shape, dtype, items.get("value"))
                }
                _ => {
                    let mut items = items.iter();
                    items.try_for_each(|(key, item)| self.io(item, format!("{name}_{key}")))
                }
            },
            // What is no tensor, as Python shows it.
            _ => Ok(()),
        }
    }

    fn tensor(
        &mut self,
        name: &str,
        shape: &str,
        dtype: &str,
        value: Option<&Value>,
    ) -> Result<()> {
        let lines = match value {
            Some(Value::Array(lines)) => lines,
            Some(Value::String(_)) => {
                self.in_files = true;
                return Ok(());
            }
            _ => {
                self.without_values = true;
                return Ok(());
            }
        };
        if name.ends_with(IDS) && std::mem::replace(&mut self.has_ids, true) {
            return Ok(());
        }
        self.tensors += 1;
        let known = match dtype {
            "torch.float32" => Some("f32"),
            "torch.bfloat16" => Some("bf16"),
            "torch.float16" => Some("f16"),
            _ => None,
        };
        self.dtype = self.dtype.or(known);
        let source = self.path;
        self.assembly.add(name, || {
            let lines: Vec<_> = lines.iter().filter_map(Value::as_str).collect();
            let read = printed::shape(shape)
                .and_then(|shape| Some((printed(&lines.join("\n"), &shape)?, shape)));
            let ((values, precision), shape) = read.ok_or_else(|| {
                let reason = format!("not printed as a tensor of shape {shape} is");
                Error::dump(source, InvalidDump::Tensor { tensor: name.into(), reason })
            })?;
            Ok(Array { shape, elements: Elements::Printed(values, precision) })
        })?;
        Ok(())
    }
}
