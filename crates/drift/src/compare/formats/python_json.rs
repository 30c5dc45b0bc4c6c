//! JSON as Python writes it, with `NaN`, `Infinity` and `-Infinity` for numbers.

use serde::de::{self, Deserialize, Deserializer, Visitor};
use std::fmt;
use std::io::{self, BufRead, Read};

/// JSON in which these three stand in quotes, so that any reader of JSON takes it. Of everything else
/// not a byte changes.
pub(crate) struct PythonJson<R> {
    inner: R,
    at: At,
    /// What is to come before the rest of `inner`, and how much of it has gone.
    word: Vec<u8>,
    sent: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum At {
    Outside,
    InString,
    /// Behind a backslash.
    Escaped,
}

/// No word that is a number is longer.
const LONGEST: usize = "-Infinity".len();

impl<R: BufRead> PythonJson<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, at: At::Outside, word: vec![], sent: 0 }
    }

    /// A word that begins with a letter or a minus sign, in quotes if it is one of the three.
    fn take_word(&mut self) -> io::Result<()> {
        self.word.clear();
        self.sent = 0;
        while self.word.len() <= LONGEST {
            let Some(&byte) = self.inner.fill_buf()?.first() else { break };
            let first = self.word.is_empty() && byte == b'-';
            if !(first || byte.is_ascii_alphabetic()) {
                break;
            }
            self.word.push(byte);
            self.inner.consume(1);
        }
        if matches!(&self.word[..], b"NaN" | b"Infinity" | b"-Infinity") {
            self.word.insert(0, b'"');
            self.word.push(b'"');
        }
        Ok(())
    }
}

impl<R: BufRead> Read for PythonJson<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            let waiting = &self.word[self.sent..];
            if !waiting.is_empty() {
                let len = waiting.len().min(out.len());
                out[..len].copy_from_slice(&waiting[..len]);
                self.sent += len;
                return Ok(len);
            }
            let bytes = self.inner.fill_buf()?;
            if bytes.is_empty() {
                return Ok(0);
            }
            let mut len = 0;
            for (&byte, to) in bytes.iter().zip(out.iter_mut()) {
                self.at = match (self.at, byte) {
                    (At::Outside, b'-' | b'N' | b'I') => break,
                    (At::Outside, b'"') => At::InString,
                    (At::Outside, _) => At::Outside,
                    (At::InString, b'"') => At::Outside,
                    (At::InString, b'\\') => At::Escaped,
                    (At::InString | At::Escaped, _) => At::InString,
                };
                *to = byte;
                len += 1;
            }
            if len > 0 {
                self.inner.consume(len);
                return Ok(len);
            }
            self.take_word()?;
        }
    }
}

/// A number, which may be NaN or infinite; `None` where `null` stands, which others write for these.
#[derive(Clone, Copy)]
pub(crate) struct Number(pub(crate) Option<f64>);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(NumberVisitor)
    }
}

struct NumberVisitor;

impl Visitor<'_> for NumberVisitor {
    type Value = Number;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Number, E> {
        Ok(Number(Some(number)))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Number, E> {
        Ok(Number(Some(number as f64)))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Number, E> {
        Ok(Number(Some(number as f64)))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Number, E> {
        Ok(Number(None))
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<Number, E> {
        Ok(Number(Some(match word {
            "NaN" => f64::NAN,
            "Infinity" => f64::INFINITY,
            "-Infinity" => f64::NEG_INFINITY,
            _ => return Err(E::invalid_value(de::Unexpected::Str(word), &self)),
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::BufReader;

    fn through(json: &[u8], buffer: usize, step: usize) -> Vec<u8> {
        let mut reader = PythonJson::new(BufReader::with_capacity(buffer, json));
        let (mut all, mut piece) = (vec![], vec![0; step]);
        loop {
            let len = reader.read(&mut piece).unwrap();
            if len == 0 {
                return all;
            }
            all.extend(&piece[..len]);
        }
    }

    #[test]
    fn pythons_words_are_numbers() {
        let json = br#"[NaN, -Infinity,Infinity, -1.5, null, -2e-3, 7]"#;
        for (buffer, step) in [(1, 1), (2, 7), (100, 3), (100, 100)] {
            let json = through(json, buffer, step);
            let numbers: Vec<Number> = serde_json::from_slice(&json).unwrap();
            let numbers: Vec<_> = numbers.iter().map(|number| number.0).collect();
            assert!(numbers[0].unwrap().is_nan());
            let rest = [Some(f64::NEG_INFINITY), Some(f64::INFINITY), Some(-1.5), None];
            assert_eq!(numbers[1..5], rest);
            assert_eq!(numbers[5..], [Some(-0.002), Some(7.0)]);
        }
    }

    proptest! {
        #[test]
        fn other_bytes_stay(
            json in prop::collection::vec(prop::sample::select(&br#"NaInfty-"\ 1,e"#[..]), 0..60),
            buffer in 1usize..9,
            step in 1usize..9,
        ) {
            let quoted = through(&json, buffer, step);
            prop_assert_eq!(&quoted, &through(&json, 100, 100));
            let bare = |bytes: &[u8]| bytes.iter().filter(|b| **b != b'"').copied().collect::<Vec<_>>();
            prop_assert_eq!(bare(&quoted), bare(&json));
        }

        #[test]
        fn json_stays(text in ".{0,30}", number: f64) {
            let value = serde_json::json!({ &text: [number, text, null, -1] });
            let json = value.to_string();
            prop_assert_eq!(through(json.as_bytes(), 5, 3), json.as_bytes());
        }
    }
}
