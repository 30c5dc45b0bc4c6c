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

/// `a, b and 3 more`.
pub(super) fn list(names: &[String]) -> String {
    const SHOWN: usize = 4;
    match names.len() {
        all if all <= SHOWN + 1 => names.join(", "),
        all => format!("{} and {} more", names[..SHOWN].join(", "), all - SHOWN),
    }
}
