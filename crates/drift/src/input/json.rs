//! Token ids out of JSON, as people write them and tokenizers print them.

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
pub fn parse_ids(json: &str) -> Result<Vec<Vec<u32>>> {
    let json = json.strip_prefix('\u{feff}').unwrap_or(json);
    let File(texts) = serde_json::from_str(json).map_err(|e| Error::InvalidIds(e.to_string()))?;
    match texts.iter().position(Vec::is_empty) {
        _ if texts.is_empty() => Err(Error::NoIds),
        Some(_) if texts.len() == 1 => Err(Error::NoIds),
        Some(index) => Err(Error::EmptyText { index }),
        None => Ok(texts),
    }
}

/// All that is in a file.
struct File(Vec<Vec<u32>>);

/// One list of numbers, or several. A visitor of our own, since serde's untagged enums hold a second
/// copy of everything, at 32 bytes an element.
struct Lists<T>(Vec<Vec<T>>);

/// An element of the outer list.
enum Item<T> {
    Number(T),
    List(Vec<T>),
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
#[derive(Clone, Copy)]
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

impl<'de, T: Number> de::Deserialize<'de> for Item<T> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(ItemVisitor { lists: true, of: PhantomData })
    }
}

/// A number and nothing else.
struct Element<T>(T);

impl<'de, T: Number> de::Deserialize<'de> for Element<T> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        match json.deserialize_any(ItemVisitor { lists: false, of: PhantomData })? {
            Item::Number(number) => Ok(Self(number)),
            // No list was asked for.
            Item::List(_) => Err(de::Error::custom(format!("expected {}", T::EXPECTED))),
        }
    }
}

struct ItemVisitor<T> {
    lists: bool,
    of: PhantomData<T>,
}

impl<'de, T: Number> Visitor<'de> for ItemVisitor<T> {
    type Value = Item<T>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
        let of = T::of(number).map(Item::Number);
        of.ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        if !self.lists {
            return Err(de::Error::invalid_type(de::Unexpected::Seq, &self));
        }
        let mut numbers = vec![];
        while let Some(Element(number)) = list.next_element()? {
            numbers.push(number);
        }
        Ok(Item::List(numbers))
    }
}

impl<'de, T: Number> de::Deserialize<'de> for Lists<T> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_seq(ListsVisitor(PhantomData))
    }
}

struct ListsVisitor<T>(PhantomData<T>);

impl<'de, T: Number> Visitor<'de> for ListsVisitor<T> {
    type Value = Lists<T>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an array, or an array of arrays")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mixed = || de::Error::custom("numbers and arrays in one array");
        let (mut one, mut many) = (vec![], vec![]);
        while let Some(item) = list.next_element()? {
            match item {
                Item::Number(number) if many.is_empty() => one.push(number),
                Item::List(numbers) if one.is_empty() => many.push(numbers),
                _ => return Err(mixed()),
            }
        }
        if !one.is_empty() {
            many.push(one);
        }
        Ok(Lists(many))
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
                "input_ids" => texts = Some(object.next_value::<Lists<u32>>()?.0),
                "attention_mask" => drop(object.next_value::<Lists<Only<1>>>()?),
                "token_type_ids" => drop(object.next_value::<Lists<Only<0>>>()?),
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
            assert_eq!(parse_ids(json).unwrap(), texts, "{json}");
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
