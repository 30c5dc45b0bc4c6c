//! What the names of other programs' tensors mean: a table of what frameworks call the points of a model,
//! and a user's own map.

mod table;

use super::point::Point;
use crate::error::{Error, InvalidDump, Result};
use gemma_mlp::internal::FewNames;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use table::{Pattern, normal, role};

/// What stands for the index of a layer, in both names of a map.
const LAYER: &str = "{N}";

/// The most layers of a model; an index beyond is no layer's.
const MAX_LAYERS: usize = 1 << 16;

/// The most entries of a map with a layer in them, each of which is compared with each name.
const MAX_PATTERNS: usize = 1 << 10;

/// What tensors' names mean: the canonical names of [`Point`], the names of the frameworks that are known,
/// and before both a map of one's own.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// By the whole name; `None` leaves a tensor out.
    exact: BTreeMap<String, Option<Meaning>>,
    /// With a layer's index in the name and the meaning.
    patterns: Vec<(String, Pattern, Option<String>)>,
}

/// What a tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Meaning {
    /// The token ids.
    Tokens,
    /// The positions of the logits.
    Positions,
    /// The numbers of a point.
    Point(Point),
    /// The residual stream that enters the last norm: that of the last layer, whichever it is.
    LastHidden,
}

impl fmt::Display for Meaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tokens => f.write_str("tokens"),
            Self::Positions => f.write_str("positions"),
            Self::Point(point) => point.fmt(f),
            Self::LastHidden => f.write_str("the last residual stream"),
        }
    }
}

impl Meaning {
    /// By its canonical name.
    fn named(name: &str) -> Option<Self> {
        match name {
            "tokens" => Some(Self::Tokens),
            "positions" => Some(Self::Positions),
            _ => {
                let point: Point = name.parse().ok()?;
                (point.layer().unwrap_or(0) < MAX_LAYERS).then_some(Self::Point(point))
            }
        }
    }
}

/// How a name was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// As this. Of two tensors of one meaning the one of the lower rank is meant; of one rank neither is.
    As(Meaning, usize),
    /// The map says to leave it out.
    LeftOut,
    /// It means nothing that is known.
    Unknown,
}

impl Names {
    /// A map from JSON: an object from names in the dump to canonical names, `tokens` and `positions`
    /// among them, or null for what is to be left out. `{N}` stands for the index of a layer, once in
    /// both: `{"block_{N}/ffn": "layers.{N}.mlp.output"}`. What the map has comes before the names that
    /// are known anyway. `name` is the file's, for messages.
    ///
    /// # Errors
    /// No such object, an entry that is there twice or has no meaning, more than 1024 with `{N}`.
    pub fn from_json(name: &str, json: &str) -> Result<Self> {
        let fail = |reason| Error::Dump { name: name.into(), reason };
        let Entries(entries) =
            serde_json::from_str(json.trim_start_matches('\u{feff}')).map_err(|e| {
                let want = r#"not a map of names, as in {"their name": "hidden.0"}"#;
                fail(InvalidDump::Malformed(format!("{want}: {e}")))
            })?;
        let mut names = Self::default();
        for (theirs, ours) in entries {
            let entry = |reason: &str| {
                fail(InvalidDump::MapEntry { entry: theirs.clone(), reason: reason.into() })
            };
            let layers = |name: &str| name.matches(LAYER).count();
            let of_layer = layers(&theirs);
            if of_layer > 1 || ours.as_deref().is_some_and(|ours| layers(ours) != of_layer) {
                return Err(entry(
                    "{N}, the index of a layer, stands once in both names or in neither",
                ));
            }
            let sample = ours.as_deref().map(|ours| ours.replace(LAYER, "0"));
            let meaning = sample.as_deref().map(Meaning::named);
            if meaning == Some(None) {
                return Err(entry(
                    "not mapped to the name of a point, as hidden.3 and layers.{N}.mlp.gate are, to tokens \
                     or positions, or to null",
                ));
            }
            if of_layer == 0 {
                names.exact.insert(theirs, meaning.flatten());
                continue;
            }
            if names.patterns.len() == MAX_PATTERNS {
                return Err(fail(InvalidDump::TooMany {
                    limit: MAX_PATTERNS,
                    of: "entries with {N}",
                }));
            }
            let pattern = Pattern::whole(&theirs);
            names.patterns.push((theirs, pattern, ours));
        }
        Ok(names)
    }

    /// The point that a tensor of this name has the numbers of.
    pub fn point(&self, name: &str) -> Option<Point> {
        match self.read(name) {
            Reading::As(Meaning::Point(point), _) => Some(point),
            _ => None,
        }
    }

    /// What a tensor of this name is.
    pub(super) fn read(&self, name: &str) -> Reading {
        let by_map = self.entry(name).map(|(_, meaning)| meaning);
        match by_map {
            Some(Some(meaning)) => return Reading::As(meaning, 0),
            Some(None) => return Reading::LeftOut,
            None => {}
        }
        if let Some(meaning) = Meaning::named(name) {
            return Reading::As(meaning, 1);
        }
        match role(&normal(name)) {
            Some((meaning, row)) => Reading::As(meaning, row + 2),
            None => Reading::Unknown,
        }
    }

    /// The entry of the map that a name is read by, and what it means.
    fn entry(&self, name: &str) -> Option<(&str, Option<Meaning>)> {
        if let Some((entry, meaning)) = self.exact.get_key_value(name) {
            return Some((entry, *meaning));
        }
        self.patterns.iter().find_map(|(entry, pattern, ours)| {
            let layer = pattern.layer(name)??;
            let meaning = ours.as_deref().map(|ours| ours.replace(LAYER, &layer.to_string()));
            Some((entry.as_str(), meaning.as_deref().and_then(Meaning::named)))
        })
    }

    /// Takes down that a name was seen, for [`Self::unused`].
    pub(super) fn mark<'a>(&'a self, name: &str, seen: &mut BTreeSet<&'a str>) {
        seen.extend(self.entry(name).map(|(entry, _)| entry));
    }

    /// The entries of the map that no name was read by.
    pub(super) fn unused(&self, seen: &BTreeSet<&str>) -> FewNames {
        let exact = self.exact.keys().map(String::as_str);
        let all = exact.chain(self.patterns.iter().map(|(entry, ..)| entry.as_str()));
        all.filter(|entry| !seen.contains(entry)).collect()
    }
}

/// The entries of a map, each name once.
struct Entries(BTreeMap<String, Option<String>>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from names to names or null")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Entries, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((name, meaning)) = map.next_entry::<String, Option<String>>()? {
                    if entries.contains_key(&name) {
                        return Err(A::Error::custom(format!("'{name}' is there twice")));
                    }
                    entries.insert(name, meaning);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(EntriesVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn point(name: &str) -> Option<String> {
        Names::default().point(name).map(|point| point.to_string())
    }

    #[test]
    fn frameworks_names_are_known() {
        for (name, ours) in [
            ("hidden.3", "hidden.3"),
            ("model.embed_tokens", "embedding"),
            ("model.language_model.layers.3.mlp", "layers.3.mlp.output"),
            ("model.layers.3.mlp.input", "layers.3.mlp.input"),
            ("model.layers.3.mlp.down_proj_input", "layers.3.mlp.product"),
            ("model.layers.3.self_attn[0]", "layers.3.attn.output"),
            ("model.layers.3", "hidden.3"),
            ("_orig_mod.model.layers.3.mlp.act_fn", "layers.3.mlp.activated"),
            ("Gemma3ForCausalLM.model.layers.0_inputs_args_0", "embedding"),
            ("Gemma3ForCausalLM.model.layers.4_inputs_kwargs_hidden_states", "hidden.3"),
            (
                "Gemma3ForCausalLM.model.layers.3.mlp.down_proj_inputs_args_0",
                "layers.3.mlp.product",
            ),
            (
                "Gemma3ForCausalLM.model.layers.3.pre_feedforward_layernorm_inputs_args_0",
                "layers.3.attended",
            ),
            ("Gemma3TextModel.norm_outputs", "normed"),
            ("Gemma3ForCausalLM_outputs_logits", "logits"),
            ("Gemma3ForCausalLM.lm_head_outputs", "logits"),
            ("layer_3/attn/__call__[1]", "layers.3.attn.output"),
            ("layer_3/pre_ffw_norm/__call__", "layers.3.mlp.input"),
            ("decoder_block_3/ffw_gating_2", "layers.3.mlp.up"),
            ("decoder_block_3", "hidden.3"),
            ("l_out-3", "hidden.3"),
            ("Qcur-3", "layers.3.attn.q"),
            ("result_norm", "normed"),
        ] {
            assert_eq!(point(name).as_deref(), Some(ours), "{name}");
        }
        for odd in [
            "",
            "model.layers.3.mlp.gate_proj.weight",
            "model.vision_tower.encoder.layers.3.mlp",
            "model.layers.x.mlp",
            "model.layers.03.mlp",
            "xlayers.3.mlp",
            "model.layers.3.norm",
            "model.layers.99999999999999999999.mlp",
            "hidden.70000",
            "model.layers.3.self_attn_inputs_kwargs_position_ids",
            "model.layers.3.self_attn.q_norm",
            "l_out",
            "{N}",
        ] {
            assert_eq!(point(odd), None, "{odd}");
        }
        assert_eq!(Names::default().read("input_ids"), Reading::As(Meaning::Tokens, 2));
    }

    #[test]
    fn a_map_comes_first_and_says_what_it_cannot_mean() {
        let json =
            r#"{"a.{N}.b": "layers.{N}.mlp.up", "x": "logits", "hidden.0": null, "ids": "tokens"}"#;
        let names = Names::from_json("names.json", json).unwrap();
        let up: Point = "layers.12.mlp.up".parse().unwrap();
        assert_eq!(names.point("a.12.b"), Some(up));
        assert_eq!(names.point("a..b"), None);
        assert_eq!(names.point("a.12.bc"), None);
        assert_eq!(names.read("hidden.0"), Reading::LeftOut);
        assert_eq!(names.read("ids"), Reading::As(Meaning::Tokens, 0));
        let mut seen = BTreeSet::new();
        names.mark("a.1.b", &mut seen);
        names.mark("hidden.0", &mut seen);
        assert_eq!(names.unused(&seen).to_string(), "ids, x");
        for (json, part) in [
            ("[]", "not a map of names"),
            (r#"{"a": 1}"#, "not a map of names"),
            (r#"{"a": "b"}"#, "not mapped to the name of a point"),
            (r#"{"a": "hidden.{N}"}"#, "stands once in both"),
            (r#"{"a{N}": "logits"}"#, "stands once in both"),
            (r#"{"{N}{N}": "hidden.{N}"}"#, "stands once in both"),
            (r#"{"a": "logits", "a": "normed"}"#, "'a' is there twice"),
        ] {
            let error = Names::from_json("names.json", json).unwrap_err().to_string();
            assert!(error.starts_with("names.json: ") && error.contains(part), "{error}");
            assert_eq!(error.lines().count(), 1);
        }
    }

    proptest! {
        #[test]
        fn any_name_is_read(name in "[a-z0-9./_<>{}\\[\\]-]{0,40}|(layers|hidden|layer_|Qcur-)[.0-9]{1,25}.*") {
            Names::default().read(&name);
        }

        #[test]
        fn any_map_is_read(theirs in "[ab{}N]{0,8}", name in "[ab0-9]{0,8}", ours in "hidden\\.\\{N\\}|logits|x") {
            let json = serde_json::json!({ theirs: ours }).to_string();
            if let Ok(names) = Names::from_json("names.json", &json) {
                names.read(&name);
            }
        }
    }
}
