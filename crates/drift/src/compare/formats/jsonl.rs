//! Logits in lines of JSON, `{"prompt": …, "tokens": […], "logits": [[…], …]}`, as MaxText's
//! `forward_pass_logit_checker` reads and writes them: objects, or arrays of them.

use super::Format;
use super::documents::{each_document, first_key};
use super::python_json::Number;
use super::recording::InvalidRecording;
use crate::compare::dump::{Dump, DumpText};
use crate::compare::plane::Plane;
use crate::compare::point::Point;
use crate::error::Result;
use candle_core::{Device, Tensor};
use gemma_mlp::checkpoint::{Remark, RemarkKind};
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

pub(super) const JSONL: Format = Format {
    name: NAME,
    recognises: |beginning| recognises(&beginning.bytes),
    read: |path, _| read(path),
};
const NAME: &str = "logits in lines of JSON";

/// Logits that MaxText writes beside transformers' own, without ids.
const OF_MAXTEXT: &str = "mt_logits";
/// Pictures and the like, which these models are not given here.
const OTHER_INPUTS: [&str; 4] =
    ["pixel_values", "image_grid_thw", "video_grid_thw", "input_features"];
/// No key that says anything is longer.
const LONGEST_KEY: usize = 40;

fn recognises(beginning: &[u8]) -> bool {
    let known = ["prompt", "tokens", "logits", "formatted_prompt", OF_MAXTEXT, "hf_logits"];
    let has_logits = || beginning.windows(8).any(|bytes| bytes == b"\"logits\"");
    first_key(beginning).is_some_and(|key| known.contains(&key) || has_logits())
}

fn read(path: &Path) -> Result<Dump> {
    let file = File::open(path).map_err(|error| InvalidRecording::from(error).of(path))?;
    let dump = parse(file).map_err(|error| error.of(path))?;
    Ok(Dump { source: path.display().to_string(), ..dump })
}

/// What has been read so far.
#[derive(Default)]
struct Lines {
    texts: Vec<DumpText>,
    prompts: Vec<String>,
    unknown: BTreeSet<String>,
    longer: usize,
    without_tokens: usize,
}

fn parse(mut input: impl Read) -> Result<Dump, InvalidRecording> {
    let mut lines = Lines::default();
    each_document(&mut input, |json| Document(&mut lines).deserialize(json))?;
    if lines.texts.is_empty() {
        return Err(InvalidRecording::Invalid("there is no text in it".into()));
    }
    let mut remarks = vec![];
    if !lines.unknown.is_empty() {
        let keys: Vec<_> = lines.unknown.iter().take(8).map(String::as_str).collect();
        let text = format!("keys that are not used: {}", keys.join(", "));
        remarks.push(Remark::note(RemarkKind::Unused, text));
    }
    if lines.longer > 0 {
        let text = format!(
            "{} of {} texts have more rows of logits than tokens; the rows of padding are not used",
            lines.longer,
            lines.texts.len()
        );
        remarks.push(Remark::note(RemarkKind::Unused, text));
    }
    if lines.without_tokens > 0 {
        let (without, all) = (lines.without_tokens, lines.texts.len());
        let text = format!("{without} of {all} texts have no token ids");
        remarks.push(Remark::warning(RemarkKind::Text, text));
    }
    let mut dump = Dump { format: NAME, texts: lines.texts, remarks, ..Dump::default() };
    if let [prompt] = &lines.prompts[..] {
        dump.metadata.insert("prompt".into(), prompt.clone());
    }
    Ok(dump)
}

/// One object, or an array of them.
struct Document<'a>(&'a mut Lines);

impl<'de> DeserializeSeed<'de> for Document<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Document<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object with tokens and logits, or an array of such objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Object(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<(), A::Error> {
        Object(self.0).visit_map(object)
    }
}

struct Object<'a>(&'a mut Lines);

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object with tokens and logits")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let (mut tokens, mut logits) = (None, None);
        while let Some(key) = object.next_key::<String>()? {
            match key.as_str() {
                "tokens" if tokens.is_some() => return Err(de::Error::duplicate_field("tokens")),
                "tokens" => tokens = Some(object.next_value::<Vec<u32>>()?),
                "logits" | OF_MAXTEXT if logits.is_some() => {
                    return Err(de::Error::duplicate_field("logits"));
                }
                "logits" | OF_MAXTEXT => logits = Some(object.next_value_seed(Rows)?),
                "prompt" => self.0.prompts.push(object.next_value()?),
                "attention_mask" => {
                    if object.next_value::<Vec<u32>>()?.contains(&0) {
                        let text =
                            "an attention_mask with 0: padding is not supported; leave it out";
                        return Err(de::Error::custom(text));
                    }
                }
                key if OTHER_INPUTS.contains(&key) => {
                    let text =
                        format!("{key}: only texts can be compared, without pictures or sounds");
                    return Err(de::Error::custom(text));
                }
                key => {
                    self.0.unknown.insert(key.chars().take(LONGEST_KEY).collect());
                    object.next_value::<IgnoredAny>()?;
                }
            }
        }
        let mut logits = logits.ok_or_else(|| de::Error::missing_field("logits"))?;
        match &tokens {
            None => self.0.without_tokens += 1,
            Some(tokens) if tokens.is_empty() => {
                return Err(de::Error::custom("a text without tokens"));
            }
            Some(tokens) if tokens.len() > logits.rows => {
                let (tokens, rows) = (tokens.len(), logits.rows);
                let text = format!("{tokens} tokens, but {rows} rows of logits");
                return Err(de::Error::custom(text));
            }
            Some(tokens) if tokens.len() < logits.rows => {
                self.0.longer += 1;
                logits.rows = tokens.len();
                logits.numbers.truncate(logits.rows * logits.width);
            }
            Some(_) => {}
        }
        let plane = logits.plane().map_err(de::Error::custom)?;
        let planes = [(Point::Logits, plane)].into();
        self.0.texts.push(DumpText { tokens, planes, ..DumpText::default() });
        Ok(())
    }
}

/// Rows of numbers, which go straight into one list.
#[derive(Default)]
struct Matrix {
    rows: usize,
    width: usize,
    numbers: Vec<f32>,
}

impl Matrix {
    fn plane(self) -> candle_core::Result<Plane> {
        let shape = (self.rows, self.width);
        Ok(Plane::new(Tensor::from_vec(self.numbers, shape, &Device::Cpu)?))
    }
}

struct Rows;

impl<'de> DeserializeSeed<'de> for Rows {
    type Value = Matrix;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Matrix, D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Rows {
    type Value = Matrix;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("rows of logits")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Matrix, A::Error> {
        let mut matrix = Matrix::default();
        while let Some(width) = list.next_element_seed(Row(&mut matrix.numbers))? {
            if matrix.rows == 0 {
                matrix.width = width;
            }
            if width != matrix.width || width == 0 {
                let (row, first) = (matrix.rows, matrix.width);
                let text =
                    format!("row {row} of the logits has {width} numbers, row 0 has {first}");
                return Err(de::Error::custom(text));
            }
            matrix.rows += 1;
        }
        match matrix.rows {
            0 => Err(de::Error::custom("no rows of logits")),
            _ => Ok(matrix),
        }
    }
}

/// A row of numbers; its value is how many.
struct Row<'a>(&'a mut Vec<f32>);

impl<'de> DeserializeSeed<'de> for Row<'_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<usize, D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Row<'_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a row of logits")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<usize, A::Error> {
        let before = self.0.len();
        while let Some(number) = list.next_element::<Number>()? {
            let number = number.0.ok_or_else(|| de::Error::custom("null among the logits"))?;
            self.0.push(number as f32);
        }
        Ok(self.0.len() - before)
    }
}
