//! Colours on a terminal.

use std::fmt;

/// Whether text is coloured. Who prints knows: only a terminal shows colours, and not where
/// `NO_COLOR` is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Paint {
    /// Text alone.
    #[default]
    Plain,
    /// With the escape sequences of ANSI terminals.
    Ansi,
}

/// What a text means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Strong,
    Faint,
    Good,
    Notable,
    Bad,
    Series(usize),
}

impl Tone {
    fn code(self) -> String {
        match self {
            Self::Strong => "1".into(),
            Self::Faint => "2".into(),
            Self::Good => "32".into(),
            Self::Notable => "33".into(),
            Self::Bad => "31".into(),
            // The terminal's own colours: blue, yellow, green, magenta, red, cyan, then bright ones.
            Self::Series(i) => [34, 33, 32, 35, 31, 36, 94, 90][i % 8].to_string(),
        }
    }
}

impl Paint {
    /// A text in a tone.
    pub(super) fn paint(self, tone: Tone, text: impl fmt::Display) -> String {
        match self {
            Self::Plain => text.to_string(),
            Self::Ansi => format!("\u{1b}[{}m{text}\u{1b}[0m", tone.code()),
        }
    }
}
