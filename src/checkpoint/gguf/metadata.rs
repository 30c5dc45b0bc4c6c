//! The metadata of a GGUF file: keys with values, of which lists stay in the file until they are asked for.

use super::cursor::{Cursor, LONGEST};
use crate::checkpoint::tensors::File;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The most keys; files have some dozens.
const MAX_KEYS: u64 = 1 << 14;
/// The most bytes of a key; the format's own limit.
const LONGEST_KEY: usize = (1 << 16) - 1;
/// The most numbers of a list that is read whole: more layers than any model has.
const MAX_LIST: u64 = 1 << 12;

/// The types of values, by the format's numbers.
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// What a file says of itself, by key.
#[derive(Clone)]
pub(super) struct Metadata {
    file: Arc<File>,
    entries: BTreeMap<String, Place>,
}

/// Where a value is.
#[derive(Debug, Clone, Copy)]
struct Place {
    kind: u32,
    /// Of the value, or of a list's first one.
    at: u64,
    /// How many there are, in a list.
    len: Option<u64>,
}

/// A number or a truth value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Number {
    Whole(i128),
    Float(f64),
    Flag(bool),
}

/// One number for all layers, or one for each.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Numbers {
    One(Number),
    Each(Vec<Number>),
}

impl Metadata {
    /// Reads so many keys, and notes where their values are.
    pub(super) fn read(file: &Arc<File>, cursor: &mut Cursor, count: u64) -> Result<Self> {
        if count > MAX_KEYS {
            return Err(cursor.invalid(&format!("{count} keys; at most {MAX_KEYS} are read")));
        }
        let mut entries = BTreeMap::new();
        for i in 0..count {
            let key = cursor.text(LONGEST_KEY, &format!("the name of key {i}"))?.to_string();
            let place = place(cursor, &key)?;
            if entries.contains_key(&key) {
                return Err(cursor.invalid(&format!("key '{key}' is there twice")));
            }
            entries.insert(key, place);
        }
        Ok(Self { file: file.clone(), entries })
    }

    /// All keys, sorted.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// A text.
    pub(super) fn text(&self, key: &str) -> Result<Option<String>> {
        let Some(place) = self.entries.get(key) else { return Ok(None) };
        if (place.kind, place.len) != (STRING, None) {
            return Err(self.invalid(key, "is no text"));
        }
        let text = Cursor::new(&self.file, place.at).text(LONGEST, key)?.to_string();
        Ok(Some(text))
    }

    /// A whole number that is not negative.
    pub(super) fn whole(&self, key: &str) -> Result<Option<u64>> {
        match self.number(key)? {
            None => Ok(None),
            Some(Number::Whole(whole)) if u64::try_from(whole).is_ok() => Ok(Some(whole as u64)),
            Some(other) => {
                Err(self.invalid(key, &format!("is {other}; it must be a whole number")))
            }
        }
    }

    /// A float, as the decimal number that it was made from: the shortest that rounds to it. `1e-6` is kept in f32,
    /// and meant as it was in the config that a file was converted from.
    pub(super) fn float(&self, key: &str) -> Result<Option<f64>> {
        match self.number(key)? {
            None => Ok(None),
            Some(Number::Float(float)) if float.is_finite() => Ok(Some(float)),
            Some(Number::Whole(whole)) => Ok(Some(whole as f64)),
            Some(other) => {
                Err(self.invalid(key, &format!("is {other}; it must be a finite number")))
            }
        }
    }

    /// A truth value.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.number(key)? {
            None => Ok(None),
            Some(Number::Flag(flag)) => Ok(Some(flag)),
            Some(other) => Err(self.invalid(key, &format!("is {other}; it must be true or false"))),
        }
    }

    fn number(&self, key: &str) -> Result<Option<Number>> {
        match self.numbers(key)? {
            None => Ok(None),
            Some(Numbers::One(number)) => Ok(Some(number)),
            Some(Numbers::Each(_)) => Err(self.invalid(key, "is a list; it must be one number")),
        }
    }

    /// One number, or a list of at most 4096.
    pub(super) fn numbers(&self, key: &str) -> Result<Option<Numbers>> {
        let Some(&Place { kind, at, len }) = self.entries.get(key) else { return Ok(None) };
        if kind == STRING {
            return Err(self.invalid(key, "is a text; it must be a number"));
        }
        let mut cursor = Cursor::new(&self.file, at);
        let mut next = || number(&mut cursor, kind);
        match len {
            None => Ok(Some(Numbers::One(next()?))),
            Some(len) if len <= MAX_LIST => {
                Ok(Some(Numbers::Each((0..len).map(|_| next()).collect::<Result<_>>()?)))
            }
            Some(len) => {
                Err(self.invalid(key, &format!("has {len} numbers; at most {MAX_LIST} are read")))
            }
        }
    }

    /// How many items a list has; `None` where there is none.
    pub(super) fn len(&self, key: &str) -> Option<u64> {
        self.entries.get(key)?.len
    }

    /// The texts of a list, one after the other, each of at most so many bytes.
    pub(super) fn each_text(
        &self,
        key: &str,
        longest: usize,
        mut with: impl FnMut(usize, &str) -> Result<()>,
    ) -> Result<()> {
        let Some(&Place { kind, at, len: Some(len) }) = self.entries.get(key) else {
            return Err(self.missing(key));
        };
        if kind != STRING {
            return Err(self.invalid(key, "is no list of texts"));
        }
        let mut cursor = Cursor::new(&self.file, at);
        for i in 0..len as usize {
            with(i, cursor.text(longest, &format!("item {i} of '{key}'"))?)?;
        }
        Ok(())
    }

    /// The numbers of a list, one after the other.
    pub(super) fn each_number(
        &self,
        key: &str,
        mut with: impl FnMut(usize, Number) -> Result<()>,
    ) -> Result<()> {
        let Some(&Place { kind, at, len: Some(len) }) = self.entries.get(key) else {
            return Err(self.missing(key));
        };
        if kind == STRING {
            return Err(self.invalid(key, "is no list of numbers"));
        }
        let mut cursor = Cursor::new(&self.file, at);
        (0..len as usize).try_for_each(|i| with(i, number(&mut cursor, kind)?))
    }

    /// The error about a key that should be there.
    pub(super) fn missing(&self, key: &str) -> Error {
        self.invalid(key, "is missing, or is no list where it must be one")
    }

    /// The error about a key's value.
    pub(super) fn invalid(&self, key: &str, reason: &str) -> Error {
        Error::Gguf { path: self.file.path().into(), reason: format!("'{key}' {reason}") }
    }
}

/// Where the value is that follows, which is passed over.
fn place(cursor: &mut Cursor, key: &str) -> Result<Place> {
    let mut kind = cursor.u32()?;
    let mut len = None;
    if kind == ARRAY {
        kind = cursor.u32()?;
        len = Some(cursor.u64()?);
    }
    let place = Place { kind, at: cursor.at(), len };
    let unknown =
        |cursor: &Cursor| cursor.invalid(&format!("'{key}' is of type {kind}, which is not read"));
    match kind {
        STRING => {
            for _ in 0..len.unwrap_or(1) {
                let len = cursor.u64()?;
                cursor.skip(len)?;
            }
        }
        _ => {
            let size = size(kind).ok_or_else(|| unknown(cursor))?;
            let bytes = len.unwrap_or(1).checked_mul(size).ok_or_else(|| unknown(cursor))?;
            cursor.skip(bytes)?;
        }
    }
    Ok(place)
}

/// How many bytes a number takes.
fn size(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

fn number(cursor: &mut Cursor, kind: u32) -> Result<Number> {
    let whole = |whole: i128| Ok(Number::Whole(whole));
    match kind {
        0 => whole(u8::from_le_bytes(cursor.array()?).into()),
        1 => whole(i8::from_le_bytes(cursor.array()?).into()),
        2 => whole(u16::from_le_bytes(cursor.array()?).into()),
        3 => whole(i16::from_le_bytes(cursor.array()?).into()),
        4 => whole(u32::from_le_bytes(cursor.array()?).into()),
        5 => whole(i32::from_le_bytes(cursor.array()?).into()),
        6 => Ok(Number::Float(decimal(f32::from_le_bytes(cursor.array()?)))),
        7 => Ok(Number::Flag(cursor.array::<1>()? != [0])),
        10 => whole(u64::from_le_bytes(cursor.array()?).into()),
        11 => whole(i64::from_le_bytes(cursor.array()?).into()),
        12 => Ok(Number::Float(f64::from_le_bytes(cursor.array()?))),
        other => Err(cursor.invalid(&format!("a value of type {other} is no number"))),
    }
}

/// The shortest decimal number that rounds to a float.
fn decimal(float: f32) -> f64 {
    format!("{float:?}").parse().unwrap_or(float.into())
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(whole) => write!(f, "{whole}"),
            Self::Float(float) => write!(f, "{float:?}"),
            Self::Flag(flag) => write!(f, "{flag}"),
        }
    }
}
