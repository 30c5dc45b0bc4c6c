//! JSON documents one behind the other, as in JSONL, which are read as they come.

use super::python_json::PythonJson;
use super::recording::InvalidRecording;
use serde_json::Deserializer;
use serde_json::de::IoRead;
use std::io::{BufReader, Read};

type Json<'a> = Deserializer<IoRead<BufReader<PythonJson<BufReader<&'a mut dyn Read>>>>>;

/// Calls `read` until nothing but white space is left. A byte order mark in front is skipped.
pub(super) fn each_document(
    input: &mut dyn Read,
    mut read: impl FnMut(&mut Json) -> serde_json::Result<()>,
) -> Result<(), InvalidRecording> {
    let mut beginning = [0; 3];
    let mut len = 0;
    while len < beginning.len() {
        match input.read(&mut beginning[len..])? {
            0 => break,
            more => len += more,
        }
    }
    let kept = if beginning == [0xef, 0xbb, 0xbf] { &[][..] } else { &beginning[..len] };
    let mut all = kept.chain(input);
    let all: &mut dyn Read = &mut all;
    let json = PythonJson::new(BufReader::with_capacity(1 << 16, all));
    let mut json = Deserializer::from_reader(BufReader::with_capacity(1 << 16, json));
    while json.end().is_err() {
        read(&mut json)?;
    }
    Ok(())
}

/// The first key of the first object, if `beginning` has it whole.
pub(super) fn first_key(beginning: &[u8]) -> Option<&str> {
    let text = beginning.strip_prefix(b"\xef\xbb\xbf").unwrap_or(beginning).trim_ascii_start();
    let text = text.strip_prefix(b"[").unwrap_or(text).trim_ascii_start();
    let text = text.strip_prefix(b"{")?.trim_ascii_start().strip_prefix(b"\"")?;
    let end = text.iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(&text[..end]).ok()
}
