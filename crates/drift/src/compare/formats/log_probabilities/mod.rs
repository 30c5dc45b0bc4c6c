//! Log-probabilities as servers and libraries give them: OpenAI's `/v1/completions` and what answers
//! like it, vLLM's `prompt_logprobs` there or in a bare object, llama.cpp's own `/completion`.
//! An answer, an array of them, or one behind the other.

mod distribution;
mod read_out;
mod response;
#[cfg(test)]
mod tests;

pub(crate) use read_out::{Reading, read_out};
pub(crate) use response::Response;

use super::Format;
use super::documents::{each_document, first_key};
use super::recording::InvalidRecording;
use crate::compare::dump::Dump;
use crate::error::Result;
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

pub(super) const LOG_PROBABILITIES: Format = Format {
    name: NAME,
    recognises: |beginning| recognises(&beginning.bytes),
    read: |path, _| read(path),
};
const NAME: &str = "log-probabilities of a server";

fn recognises(beginning: &[u8]) -> bool {
    const KEYS: [&str; 6] = [
        "choices",
        "prompt_logprobs",
        "prompt_token_ids",
        "completion_probabilities",
        "logprobs",
        "tokens_evaluated",
    ];
    let text = String::from_utf8_lossy(beginning);
    let said = || KEYS.iter().any(|key| text.contains(&format!("\"{key}\"")));
    let failure = |key| matches!(key, "error" | "detail");
    first_key(beginning).is_some_and(|key| failure(key) || said()) || is_stream(beginning)
}

/// An answer in pieces, which do not say where they belong.
fn is_stream(beginning: &[u8]) -> bool {
    beginning.starts_with(b"data: {")
}

fn read(path: &Path) -> Result<Dump> {
    let file = File::open(path).map_err(|error| InvalidRecording::from(error).of(path))?;
    let dump = parse(file).map_err(|error| error.of(path))?;
    Ok(Dump { source: path.display().to_string(), ..dump })
}

fn parse(mut input: impl Read) -> Result<Dump, InvalidRecording> {
    let mut beginning = vec![];
    input.by_ref().take(7).read_to_end(&mut beginning)?;
    if is_stream(&beginning) {
        let text = "an answer in pieces; ask for it with \"stream\": false";
        return Err(InvalidRecording::Invalid(text.into()));
    }
    let input = beginning.chain(input);
    let (mut reading, mut model) = (Reading::default(), None);
    for mut response in responses(input)? {
        if let Some(complaint) = response.complaint().filter(|_| response.is_empty()) {
            return Err(InvalidRecording::Invalid(format!("the server says: {complaint}")));
        }
        model = model.or(response.take_model());
        read_out(response, &mut reading)?;
    }
    let mut dump = reading.dump(NAME)?;
    dump.metadata.extend(model.map(|model| ("model".into(), model)));
    Ok(dump)
}

/// The answers in some JSON.
pub(crate) fn responses(mut input: impl Read) -> Result<Vec<Response>, InvalidRecording> {
    let mut all = vec![];
    each_document(&mut input, |json| Document(&mut all).deserialize(json))?;
    Ok(all)
}

struct Document<'a>(&'a mut Vec<Response>);

impl<'de> DeserializeSeed<'de> for Document<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Document<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an answer of a server, or an array of them")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(response) = list.next_element()? {
            self.0.push(response);
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<(), A::Error> {
        let object = de::value::MapAccessDeserializer::new(object);
        self.0.push(Response::deserialize(object)?);
        Ok(())
    }
}
