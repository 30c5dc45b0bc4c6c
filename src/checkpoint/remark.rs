//! What a user should know before trusting a figure: what was not used, guessed or is odd.

use crate::error::Line;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A fact about a checkpoint or a text on which figures may depend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remark {
    /// What it is about.
    pub kind: RemarkKind,
    /// How much it matters.
    pub level: Level,
    /// One sentence, without a full stop.
    pub text: String,
}

/// What a [`Remark`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RemarkKind {
    /// Something in the checkpoint's files that is not used.
    Unused,
    /// A value that no released model of the family has.
    Unusual,
    /// Something that the files leave open or contradict each other on, and what was chosen.
    Chosen,
    /// Weights that are odd in themselves.
    Weights,
    /// Something about the texts or token ids.
    Text,
}

/// How much a [`Remark`] matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Good to know; the figures are right.
    Note,
    /// The figures may not be those of the model that is meant.
    Warning,
}

impl Remark {
    /// A remark of level [`Level::Note`].
    pub fn note(kind: RemarkKind, text: impl fmt::Display) -> Self {
        Self { kind, level: Level::Note, text: Line(text).to_string() }
    }

    /// A remark of level [`Level::Warning`].
    pub fn warning(kind: RemarkKind, text: impl fmt::Display) -> Self {
        Self { kind, level: Level::Warning, text: Line(text).to_string() }
    }

    /// Whether it is a warning.
    pub fn is_warning(&self) -> bool {
        self.level == Level::Warning
    }
}

/// `warning: …`, as programs print it.
impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Note => "note",
            Level::Warning => "warning",
        };
        write!(f, "{level}: {}", self.text)
    }
}

/// Any number of names, of which the first few are kept and shown: `a, b, c, d and 3 more`.
#[derive(Default)]
pub struct Names {
    first: Vec<String>,
    /// How many there are.
    pub count: usize,
}

impl Names {
    const SHOWN: usize = 4;

    /// Adds one.
    pub fn push(&mut self, name: &str) {
        if self.first.len() <= Self::SHOWN {
            self.first.push(name.into());
        }
        self.count += 1;
    }
}

impl<'a> FromIterator<&'a str> for Names {
    fn from_iter<I: IntoIterator<Item = &'a str>>(all: I) -> Self {
        let mut names = Self::default();
        all.into_iter().for_each(|name| names.push(name));
        names
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count.checked_sub(Self::SHOWN) {
            None | Some(0 | 1) => f.write_str(&self.first.join(", ")),
            Some(more) => write!(f, "{} and {more} more", self.first[..Self::SHOWN].join(", ")),
        }
    }
}
