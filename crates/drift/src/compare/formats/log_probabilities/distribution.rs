//! Tokens with their log-probabilities, in the shapes that programs give them.

use crate::compare::dump::Word;
use crate::compare::formats::python_json::Number;
use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// A log-probability as it is given. `null` stands for minus infinity where JSON knows none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Given(pub(super) f64);

/// vLLM puts this for minus infinity, and llama.cpp the least of all f32.
const MINUS_INFINITY: f64 = -9999.0;

impl Given {
    fn of<E: de::Error>(number: Number) -> Result<Self, E> {
        match number.0 {
            None => Ok(Self(f64::NEG_INFINITY)),
            Some(number) if number <= MINUS_INFINITY => Ok(Self(f64::NEG_INFINITY)),
            // Rounding may leave a little above 0.
            Some(number) if number < 0.01 => Ok(Self(number)),
            Some(number) => Err(E::custom(format!(
                "{number} is no log-probability; ask the server for log-probabilities before sampling"
            ))),
        }
    }
}

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        Self::of(Number::deserialize(json)?)
    }
}

/// What keys of a map are.
pub(super) trait Key {
    fn word(key: &str) -> Option<Word>;
}

/// Ids, as vLLM's `prompt_logprobs` has them.
pub(super) struct ById;

impl Key for ById {
    fn word(key: &str) -> Option<Word> {
        key.parse().ok().map(Word::Id)
    }
}

/// Texts, unless `return_tokens_as_token_ids` was asked for.
pub(super) struct ByText;

impl Key for ByText {
    fn word(key: &str) -> Option<Word> {
        Some(word(key))
    }
}

/// A token by its text, or `token_id:818`.
pub(super) fn word(text: &str) -> Word {
    let id = text.strip_prefix("token_id:").and_then(|id| id.parse().ok());
    id.map_or_else(|| Word::Text(text.into()), Word::Id)
}

/// A map of tokens to log-probabilities, or to objects that have one, or a list of [`Entries`].
pub(super) struct Distribution<K> {
    pub(super) tokens: Vec<(Word, f64)>,
    key: PhantomData<K>,
}

impl<'de, K: Key> Deserialize<'de> for Distribution<K> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(DistributionVisitor(PhantomData))
    }
}

struct DistributionVisitor<K>(PhantomData<K>);

impl<'de, K: Key> Visitor<'de> for DistributionVisitor<K> {
    type Value = Distribution<K>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("tokens and their log-probabilities")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut tokens = vec![];
        while let Some((key, Value(given))) = map.next_entry::<String, Value>()? {
            let word = K::word(&key);
            let expected = "a token id";
            let word =
                word.ok_or_else(|| de::Error::invalid_value(de::Unexpected::Str(&key), &expected))?;
            tokens.push((word, given.0));
        }
        Ok(Distribution { tokens, key: PhantomData })
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        let Entries(tokens) = Entries::deserialize(de::value::SeqAccessDeserializer::new(list))?;
        Ok(Distribution { tokens, key: PhantomData })
    }
}

/// A log-probability, alone or in an object with a rank and a text.
struct Value(Given);

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a log-probability")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let mut given = None;
        while let Some(key) = object.next_key::<String>()? {
            match key.as_str() {
                "logprob" => given = Some(object.next_value()?),
                _ => drop(object.next_value::<IgnoredAny>()?),
            }
        }
        given.map(Value).ok_or_else(|| de::Error::missing_field("logprob"))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Value, E> {
        Given::of(Number(Some(number))).map(Value)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Value, E> {
        self.visit_f64(number as f64)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Value, E> {
        self.visit_f64(number as f64)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Given::of(Number(None)).map(Value)
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<Value, E> {
        let number = Number::deserialize(de::value::StrDeserializer::new(word))?;
        Given::of(number).map(Value)
    }
}

/// A list of objects with a token's id, if it is given, its text and its log-probability.
pub(super) struct Entries(pub(super) Vec<(Word, f64)>);

#[derive(serde::Deserialize)]
struct Entry {
    id: Option<u32>,
    token: Option<String>,
    logprob: Given,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        let entries = Vec::<Entry>::deserialize(json)?;
        let tokens = entries.into_iter().map(|entry| {
            let named = name(entry.id, entry.token.as_deref());
            named.map(|word| (word, entry.logprob.0)).ok_or_else(|| de::Error::missing_field("id"))
        });
        tokens.collect::<Result<_, _>>().map(Self)
    }
}

/// A token by its id, if there is one.
pub(super) fn name(id: Option<u32>, text: Option<&str>) -> Option<Word> {
    id.map(Word::Id).or_else(|| text.map(word))
}
