//! By what a config says that its weights are quantised, and what their tensors do not say themselves.
//!
//! Which weights are quantised is not read here: tensors say it.

use super::raw::present;
use crate::checkpoint::json::{malformed, parse_json};
use crate::error::Result;
use fancy_regex::{Regex, RegexBuilder};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// The most groups, or patterns for modules, of a config; a few are usual.
const MAX_ENTRIES: usize = 1 << 10;

/// Steps in which a pattern finds a name or gives up.
const STEPS: usize = 1 << 14;

/// What a config says of quantised weights.
#[derive(Debug, Clone)]
pub struct Quantization {
    /// What they are quantised by (`quant_method`).
    pub method: String,
    pub(in crate::checkpoint) scheme: Scheme,
    /// The fields that ask for the rounding of activations when the model runs.
    pub(in crate::checkpoint) activations: Vec<&'static str>,
}

/// How they are, of methods that are read.
#[derive(Debug, Clone)]
pub(in crate::checkpoint) enum Scheme {
    /// Floats of 8 bits (transformers' `fp8`), with scales for blocks of this size unless they have other shapes.
    Fp8 { block: Option<[usize; 2]> },
    /// As compressed-tensors has them.
    Compressed(Compressed),
    /// As Google's files have them (transformers' `gemma`).
    Gemma(Gemma),
    /// None of these.
    Unread,
}

/// What compressed-tensors says of all groups of modules together.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::checkpoint) struct Compressed {
    /// The sizes of blocks with a scale.
    pub(in crate::checkpoint) blocks: Vec<[usize; 2]>,
    /// Of how many bits integers are.
    pub(in crate::checkpoint) bits: Vec<u8>,
    /// Whether each has zero points.
    pub(in crate::checkpoint) asymmetric: bool,
    /// What in it is not read.
    pub(in crate::checkpoint) refused: Option<String>,
}

/// Of how many bits the weights of modules are.
#[derive(Debug, Clone)]
pub(in crate::checkpoint) struct Gemma {
    default: u8,
    /// All patterns as alternatives, each a group; and the bits of each.
    patterns: Option<(Regex, Vec<u8>)>,
}

impl Gemma {
    /// The bits of a module's weights; why they cannot be told.
    pub(in crate::checkpoint) fn bits(&self, module: &str) -> Result<u8, String> {
        let Some((all, bits)) = &self.patterns else { return Ok(self.default) };
        let found = all.captures(module).map_err(|e| format!("module_quant_configs: {e}"))?;
        let group = |found: &fancy_regex::Captures| {
            (0..bits.len()).find(|i| found.name(&format!("g{i}")).is_some())
        };
        Ok(found.as_ref().and_then(group).map_or(self.default, |i| bits[i]))
    }
}

impl Quantization {
    /// What a config says, if it does.
    ///
    /// # Errors
    /// Fields of a method that is read which have other types, or contradict themselves.
    pub(super) fn parse(json: &str, path: &Path) -> Result<Option<Self>> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Raw<'a> {
            #[serde(borrow)]
            quantization_config: Option<&'a RawValue>,
            /// MLX's, which names no method.
            quantization: Option<IgnoredAny>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct RawMethod {
            quant_method: Option<String>,
        }
        let raw: Raw = parse_json(json, path)?;
        let unread = |method: String| Self { method, scheme: Scheme::Unread, activations: vec![] };
        let Some(own) = raw.quantization_config.map(RawValue::get) else {
            return Ok(raw.quantization.map(|_| unread("mlx".into())));
        };
        let RawMethod { quant_method } = fields(own, path)?;
        let method = quant_method.unwrap_or_else(|| "an unnamed method".into());
        let (scheme, activations) = match &*method {
            "fp8" => fp8(own, path)?,
            "compressed-tensors" => compressed(own, path)?,
            "gemma" => (gemma(own, path)?, vec![]),
            _ => return Ok(Some(unread(method))),
        };
        Ok(Some(Self { method, scheme, activations }))
    }

    /// Whether it is by a method that is read.
    pub(in crate::checkpoint) fn is_read(&self) -> bool {
        !matches!(self.scheme, Scheme::Unread)
    }

    /// Itself, for an error about a weight or a config.
    pub(in crate::checkpoint) fn said(&self) -> String {
        let unread = if self.is_read() { "" } else { ", which is not read" };
        format!("quantised by {}{unread}", self.method)
    }
}

/// The fields of `quantization_config`.
fn fields<'a, T: Deserialize<'a>>(json: &'a str, path: &Path) -> Result<T> {
    serde_json::from_str(json).map_err(|e| malformed(path, format!("quantization_config: {e}")))
}

fn wrong(path: &Path, reason: impl fmt::Display) -> crate::error::Error {
    malformed(path, format!("quantization_config: {reason}"))
}

fn fp8(json: &str, path: &Path) -> Result<(Scheme, Vec<&'static str>)> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Raw {
        #[serde(deserialize_with = "present")]
        weight_block_size: Option<Option<[usize; 2]>>,
    }
    let Raw { weight_block_size } = fields(json, path)?;
    let block = weight_block_size.unwrap_or(Some([128, 128]));
    if let Some([0, _] | [_, 0]) = block {
        return Err(wrong(path, "weight_block_size has a 0"));
    }
    // Of every model: "dynamic" or "static".
    Ok((Scheme::Fp8 { block }, vec!["activation_scheme"]))
}

/// A group of modules, by its fields or by the name of a preset, under which its modules are listed.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a group in config_groups has fields of other types")]
enum RawGroup {
    // First, as a list would be taken for fields in their order.
    #[expect(dead_code, reason = "it is told by its type alone")]
    Preset(Vec<IgnoredAny>),
    Fields(Box<RawFields>),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawFields {
    format: Option<String>,
    weights: Option<RawWeights>,
    input_activations: Option<IgnoredAny>,
    output_activations: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawWeights {
    num_bits: Option<u8>,
    r#type: Option<String>,
    symmetric: Option<bool>,
    group_size: Option<i64>,
    block_structure: Option<[usize; 2]>,
}

fn compressed(json: &str, path: &Path) -> Result<(Scheme, Vec<&'static str>)> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Raw {
        format: Option<String>,
        config_groups: Option<Ordered<RawGroup>>,
        kv_cache_scheme: Option<IgnoredAny>,
        sparsity_config: Option<BTreeMap<String, IgnoredAny>>,
        transform_config: Option<BTreeMap<String, IgnoredAny>>,
    }
    let raw: Raw = fields(json, path)?;
    let groups = raw.config_groups.unwrap_or_default().0;
    let mut own = Compressed { asymmetric: !groups.is_empty(), ..Compressed::default() };
    let mut activations = vec![];
    let mut formats: Vec<_> = raw.format.into_iter().collect();
    for (name, group) in groups {
        let RawGroup::Fields(group) = group else {
            own.asymmetric = false;
            activations.extend((!name.ends_with("A16")).then_some("input_activations"));
            continue;
        };
        formats.extend(group.format);
        activations.extend(group.input_activations.map(|_| "input_activations"));
        activations.extend(group.output_activations.map(|_| "output_activations"));
        let Some(weights) = group.weights else { continue };
        own.asymmetric &= weights.symmetric == Some(false);
        match weights.group_size {
            Some(0 | ..=-2) => {
                return Err(wrong(path, format!("group_size of {name} must be 1 or more, or -1")));
            }
            Some(size @ 1..) => own.blocks.push([1, size as usize]),
            _ => {}
        }
        if let Some([0, _] | [_, 0]) = weights.block_structure {
            return Err(wrong(path, format!("block_structure of {name} has a 0")));
        }
        own.blocks.extend(weights.block_structure);
        let is_float = weights.r#type.as_deref() == Some("float");
        own.bits.extend(weights.num_bits.filter(|_| !is_float));
    }
    own.bits.sort_unstable();
    own.bits.dedup();
    activations.extend(raw.kv_cache_scheme.map(|_| "kv_cache_scheme"));
    activations.dedup();
    own.refused = formats
        .iter()
        .find(|format| !READ_FORMATS.contains(&format.as_str()))
        .map(|format| format!("format {format}"));
    for (name, field) in
        [("sparsity_config", raw.sparsity_config), ("transform_config", raw.transform_config)]
    {
        if own.refused.is_none() && field.is_some_and(|field| !field.is_empty()) {
            own.refused = Some(name.into());
        }
    }
    Ok((Scheme::Compressed(own), activations))
}

/// How compressed-tensors may store what is read.
const READ_FORMATS: [&str; 6] = [
    "dense",
    "float-quantized",
    "int-quantized",
    "mixed-precision",
    "naive-quantized",
    "pack-quantized",
];

fn gemma(json: &str, path: &Path) -> Result<Scheme> {
    #[derive(Default, Deserialize)]
    #[serde(default, expecting = "an object with num_bits")]
    struct RawModule {
        num_bits: Option<u8>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Raw {
        num_bits: Option<u8>,
        module_quant_configs: Option<Ordered<RawModule>>,
    }
    let raw: Raw = fields(json, path)?;
    let default = raw.num_bits.unwrap_or(4);
    let modules = raw.module_quant_configs.unwrap_or_default().0;
    if modules.is_empty() {
        return Ok(Scheme::Gemma(Gemma { default, patterns: None }));
    }
    // As transformers joins them: what counts is the leftmost place where one of them is found, and there the first.
    let (mut patterns, mut bits) = (vec![], vec![]);
    for (i, (pattern, module)) in modules.into_iter().enumerate() {
        patterns.push(format!("(?P<g{i}>{pattern})"));
        bits.push(module.num_bits.unwrap_or(default));
    }
    let all = RegexBuilder::new(&patterns.join("|")).backtrack_limit(STEPS).build();
    let all = all.map_err(|e| wrong(path, format!("module_quant_configs: {e}")))?;
    Ok(Scheme::Gemma(Gemma { default, patterns: Some((all, bits)) }))
}

/// An object whose order counts.
struct Ordered<T>(Vec<(String, T)>);

impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Self(vec![])
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct OrderedVisitor<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for OrderedVisitor<T> {
            type Value = Ordered<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Ordered<T>, A::Error> {
                let mut entries = vec![];
                while let Some(entry) = map.next_entry()? {
                    if entries.len() == MAX_ENTRIES {
                        return Err(A::Error::custom(format!("more than {MAX_ENTRIES} entries")));
                    }
                    entries.push(entry);
                }
                Ok(Ordered(entries))
            }
        }
        deserializer.deserialize_map(OrderedVisitor(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(own: &str) -> Result<Quantization> {
        let json = format!(r#"{{"quantization_config": {own}}}"#);
        Ok(Quantization::parse(&json, Path::new("config.json"))?.expect("it is there"))
    }

    fn bits(own: &str, module: &str) -> Result<u8, String> {
        match parse(own).unwrap().scheme {
            Scheme::Gemma(gemma) => gemma.bits(module),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn blocks_and_groups() {
        for (own, expected) in [
            (r#"{"quant_method": "fp8"}"#, Some([128, 128])),
            (r#"{"quant_method": "fp8", "weight_block_size": null}"#, None),
            (r#"{"quant_method": "fp8", "weight_block_size": [1, 32]}"#, Some([1, 32])),
        ] {
            let scheme = parse(own).unwrap().scheme;
            assert!(matches!(scheme, Scheme::Fp8 { block } if block == expected), "{own}");
        }
        let own = r#"{"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {
            "b": {"weights": {"num_bits": 4, "type": "int", "group_size": 32, "symmetric": false}, "input_activations": null},
            "a": {"weights": {"num_bits": 8, "type": "float", "block_structure": [128, 64], "symmetric": false},
                  "input_activations": {"num_bits": 8}, "format": "float-quantized"}}}"#;
        let Quantization { scheme, activations, .. } = parse(own).unwrap();
        let expected = Compressed {
            blocks: vec![[1, 32], [128, 64]],
            bits: vec![4],
            asymmetric: true,
            refused: None,
        };
        assert!(matches!(scheme, Scheme::Compressed(own) if own == expected));
        assert_eq!(activations, ["input_activations"]);
        for (own, refused) in [
            (r#""format": "marlin-24""#, "format marlin-24"),
            (r#""config_groups": {"NVFP4": {"format": "nvfp4-pack-quantized"}}"#, "nvfp4"),
            (r#""format": "pack-quantized", "transform_config": {"R1": {}}"#, "transform_config"),
        ] {
            let own = format!(r#"{{"quant_method": "compressed-tensors", {own}}}"#);
            let Scheme::Compressed(scheme) = parse(&own).unwrap().scheme else { panic!("{own}") };
            assert!(scheme.refused.unwrap().contains(refused), "{own}");
        }
        let preset =
            r#"{"quant_method": "compressed-tensors", "config_groups": {"W8A8": ["Linear"]}}"#;
        assert_eq!(parse(preset).unwrap().activations, ["input_activations"]);
        for own in [
            r#"{"quant_method": "fp8", "weight_block_size": [0, 128]}"#,
            r#"{"quant_method": "fp8", "weight_block_size": [128]}"#,
            r#"{"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"group_size": 0}}}}"#,
            r#"{"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"block_structure": [0, 1]}}}}"#,
            r#"{"quant_method": "gemma", "module_quant_configs": {"(": {}}}"#,
            r#"{"quant_method": "gemma", "module_quant_configs": {".*": 4}}"#,
            r#"{"quant_method": "gemma", "num_bits": -4}"#,
            r#"{"quant_method": 4}"#,
        ] {
            let error = parse(own).unwrap_err();
            assert!(
                error.is_input() && error.to_string().contains("quantization_config"),
                "{error}"
            );
        }
    }

    /// Those of Python's `re`, joined as transformers joins them.
    #[test]
    fn patterns_of_modules() {
        let own = r#"{"quant_method": "gemma", "num_bits": 8, "module_quant_configs": {
            "mlp\\.(gate|up)_proj$": {"num_bits": 2}, "layers\\.1\\.": {"num_bits": 4}, "(?<!q)_proj": {}}}"#;
        for (module, expected) in [
            ("model.layers.0.mlp.gate_proj", 2),
            ("model.layers.1.mlp.gate_proj", 4),
            ("model.layers.0.mlp.down_proj", 8),
            ("lm_head", 8),
        ] {
            assert_eq!(bits(own, module), Ok(expected), "{module}");
        }
        assert_eq!(bits(r#"{"quant_method": "gemma"}"#, "lm_head"), Ok(4));
    }
}
