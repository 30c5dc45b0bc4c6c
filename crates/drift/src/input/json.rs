//! Token ids out of JSON, as people write them and tokenizers print them.

use super::texts::Texts;
use crate::error::{Error, Result};
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// Reads token ids: a JSON array of them, an array of such arrays, or an object with either as
/// `input_ids`, as transformers' tokenizers make it: one text or several.
///
/// The object may also have `attention_mask` and `token_type_ids` if they say nothing: all 1, and all
/// 0. Padding and images are refused, and so is any other key. A byte order mark in front is skipped.
///
/// # Errors
/// [`Error::InvalidIds`] of anything else, which says what is wrong and where; [`Error::NoIds`] and
/// [`Error::EmptyText`] where ids are missing.
pub fn parse_ids(json: &str) -> Result<Texts> {
    let json = json.strip_prefix('\u{feff}').unwrap_or(json);
    let File(texts) = serde_json::from_str(json).map_err(|e| Error::InvalidIds(e.to_string()))?;
    let empty = texts.iter().position(<[u32]>::is_empty);
    match empty {
        _ if texts.is_empty() => Err(Error::NoIds),
        Some(_) if texts.len() == 1 => Err(Error::NoIds),
        Some(index) => Err(Error::EmptyText { index }),
        None => Ok(texts),
    }
}

/// All that is in a file.
struct File(Texts);

/// One list of numbers, or several, each of which goes to `T`. A visitor of our own, since serde's untagged enums hold
/// a second copy of everything, at 32 bytes an element.
struct Lists<T>(T);

/// What takes the numbers of lists.
trait Sink: Default {
    type Number: Number;
    fn push(&mut self, number: Self::Number);
    /// A list is over.
    fn end(&mut self);
}

impl Sink for Texts {
    type Number = u32;

    fn push(&mut self, id: u32) {
        self.push_token(id);
    }

    fn end(&mut self) {
        Texts::end(self);
    }
}

/// Numbers that say nothing: they are checked, and no more.
#[derive(Default)]
struct Checked<N>(PhantomData<N>);

impl<N: Number + Default> Sink for Checked<N> {
    type Number = N;

    fn push(&mut self, _: N) {}

    fn end(&mut self) {}
}

/// Numbers that a list may have.
trait Number: Sized + Copy {
    const EXPECTED: &str;
    /// `None` if it is none of them.
    fn of(number: u64) -> Option<Self>;
}

impl Number for u32 {
    const EXPECTED: &str = "a token id from 0 to 4294967295";

    fn of(number: u64) -> Option<Self> {
        number.try_into().ok()
    }
}

/// A number that says nothing.
#[derive(Clone, Copy, Default)]
struct Only<const N: u64>;

impl Number for Only<1> {
    const EXPECTED: &str = "1 alone, since padding is not supported: leave out padded positions";

    fn of(number: u64) -> Option<Self> {
        (number == 1).then_some(Self)
    }
}

impl Number for Only<0> {
    const EXPECTED: &str = "0 alone, since nothing but text is supported";

    fn of(number: u64) -> Option<Self> {
        (number == 0).then_some(Self)
    }
}

/// A number and nothing else.
struct Element<T>(T);

impl<'de, T: Number> de::Deserialize<'de> for Element<T> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(ElementVisitor(PhantomData)).map(Self)
    }
}

struct ElementVisitor<T>(PhantomData<T>);

impl<T: Number> Visitor<'_> for ElementVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        let of = T::of(number);
        of.ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
    }
}

/// An element of the outer list: a number, or a list, which goes straight to the sink.
struct Item<'a, S>(&'a mut S);

/// What an item was.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Number,
    List,
}

impl<'de, S: Sink> de::DeserializeSeed<'de> for Item<'_, S> {
    type Value = Kind;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Kind, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de, S: Sink> Visitor<'de> for Item<'_, S> {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(S::Number::EXPECTED)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Kind, E> {
        self.0.push(ElementVisitor(PhantomData).visit_u64(number)?);
        Ok(Kind::Number)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Kind, A::Error> {
        while let Some(Element(number)) = list.next_element()? {
            self.0.push(number);
        }
        self.0.end();
        Ok(Kind::List)
    }
}

impl<'de, S: Sink> de::Deserialize<'de> for Lists<S> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_seq(ListsVisitor(PhantomData))
    }
}

struct ListsVisitor<S>(PhantomData<S>);

impl<'de, S: Sink> Visitor<'de> for ListsVisitor<S> {
    type Value = Lists<S>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an array, or an array of arrays")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let (mut sink, mut kind) = (S::default(), None);
        while let Some(item) = list.next_element_seed(Item(&mut sink))? {
            if *kind.get_or_insert(item) != item {
                return Err(de::Error::custom("numbers and arrays in one array"));
            }
        }
        if kind == Some(Kind::Number) {
            sink.end();
        }
        Ok(Lists(sink))
    }
}

impl<'de> de::Deserialize<'de> for File {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(FileVisitor)
    }
}

struct FileVisitor;

impl<'de> Visitor<'de> for FileVisitor {
    type Value = File;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an array of token ids, an array of such arrays, or an object with input_ids")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<File, A::Error> {
        let Lists(texts) = ListsVisitor(PhantomData).visit_seq(list)?;
        Ok(File(texts))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<File, A::Error> {
        let mut texts = None;
        while let Some(key) = object.next_key::<String>()? {
            match key.as_str() {
                "input_ids" if texts.is_some() => {
                    return Err(de::Error::duplicate_field("input_ids"));
                }
                "input_ids" => texts = Some(object.next_value::<Lists<Texts>>()?.0),
                "attention_mask" => {
                    let Lists(Checked::<Only<1>>(_)) = object.next_value()?;
                }
                "token_type_ids" => {
                    let Lists(Checked::<Only<0>>(_)) = object.next_value()?;
                }
                other => {
                    let text =
                        format!("the key {other:?}, which nothing is known of; leave it out");
                    return Err(de::Error::custom(text));
                }
            }
        }
        texts.map(File).ok_or_else(|| de::Error::missing_field("input_ids"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_text_or_several() {
        for (json, texts) in [
            ("[2, 5, 9]", vec![vec![2, 5, 9]]),
            ("[[2, 5], [9]]", vec![vec![2, 5], vec![9]]),
            (r#"{"input_ids": [2, 5]}"#, vec![vec![2, 5]]),
            (
                r#"{"input_ids": [[2, 5]], "token_type_ids": [[0, 0]], "attention_mask": [[1, 1]]}"#,
                vec![vec![2, 5]],
            ),
            ("\u{feff}[0, 4294967295]", vec![vec![0, u32::MAX]]),
        ] {
            assert_eq!(parse_ids(json).unwrap(), Texts::from(texts), "{json}");
        }
    }

    #[test]
    fn what_is_wrong_and_where() {
        for (json, fragments) in [
            ("", &["EOF"][..]),
            ("{}", &["`input_ids`"]),
            ("5", &["integer `5`", "an array of token ids"]),
            ("[-1]", &["`-1`", "a token id", "line 1 column 3"]),
            ("[2, 1.5]", &["`1.5`", "column 7"]),
            ("[2,\n5, NaN]", &["line 2"]),
            ("[\"2\"]", &["string \"2\"", "a token id"]),
            ("[4294967296]", &["`4294967296`", "from 0 to 4294967295"]),
            ("[1e30]", &["`1e+30`"]),
            ("[null]", &["null"]),
            ("[1, [2]]", &["numbers and arrays"]),
            ("[[1], 2]", &["numbers and arrays"]),
            ("[[[1]]]", &["sequence", "a token id"]),
            ("[1] [2]", &["trailing"]),
            (r#"{"input_ids": [1], "input_ids": [1]}"#, &["duplicate"]),
            (r#"{"input_ids": [1], "labels": [1]}"#, &["\"labels\"", "leave it out"]),
            (r#"{"input_ids": [1, 0], "attention_mask": [1, 0]}"#, &["`0`", "padding"]),
            (r#"{"input_ids": [1], "token_type_ids": [1]}"#, &["`1`", "nothing but text"]),
        ] {
            let Err(Error::InvalidIds(reason)) = parse_ids(json) else { panic!("{json}") };
            for fragment in fragments {
                assert!(reason.contains(fragment), "{json}: {reason}");
            }
        }
        for json in ["[]", "[[]]", r#"{"input_ids": []}"#] {
            assert!(matches!(parse_ids(json), Err(Error::NoIds)), "{json}");
        }
        assert!(matches!(parse_ids("[[1], []]"), Err(Error::EmptyText { index: 1 })));
    }
}
