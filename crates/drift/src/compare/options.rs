//! What to compare with, and how far it may be.

use super::dump::Dump;
use super::point::Point;
use candle_core::DType;
use std::str::FromStr;

/// How to compare a dump.
#[derive(Debug, Clone, Default)]
pub struct CompareOptions {
    /// Which layers to report, by index; all if it is empty.
    pub layers: Vec<usize>,
    /// The dtype that theirs was computed in, where the dump leaves it open or is wrong about it.
    pub dtype: Option<DType>,
    /// Points that may be farther from ours than rounding brings them.
    pub allow: Vec<Allow>,
    /// Other frameworks' dumps on the same tokens, whose own spread widens the floor.
    pub references: Vec<Dump>,
    /// The tokens that should have been run, if the dump's own are to be checked.
    pub tokens: Option<Vec<u32>>,
}

/// How far some points may be from ours.
#[derive(Debug, Clone)]
pub struct Allow {
    /// Matches their names in a dump, anywhere in them.
    pattern: regex::Regex,
    /// The ratio to the floor that still counts as rounding.
    pub ratio: f64,
}

impl Allow {
    /// Whether it is about a point.
    pub fn is_about(&self, point: Point) -> bool {
        self.pattern.is_match(&point.to_string())
    }

    /// As it was written.
    pub fn pattern(&self) -> &str {
        self.pattern.as_str()
    }
}

/// A text that is no [`Allow`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not REGEX=RATIO, as in mlp.output=10: {reason}")]
pub struct InvalidAllow {
    /// All of it.
    pub text: String,
    /// What is wrong.
    pub reason: String,
}

impl FromStr for Allow {
    type Err = InvalidAllow;

    fn from_str(text: &str) -> Result<Self, InvalidAllow> {
        let invalid = |reason: String| InvalidAllow { text: text.into(), reason };
        let (pattern, ratio) =
            text.rsplit_once('=').ok_or_else(|| invalid("there is no =".into()))?;
        let number = ratio.parse::<f64>().ok().filter(|ratio| *ratio > 0.0 && ratio.is_finite());
        let ratio = number.ok_or_else(|| invalid(format!("'{ratio}' is not a number above 0")))?;
        // What comes last says what is wrong with a pattern; before it stands the pattern itself.
        let of_pattern = |e: regex::Error| {
            let lines = e.to_string();
            let last = lines.lines().last().unwrap_or_default().trim();
            invalid(last.trim_start_matches("error: ").into())
        };
        let pattern = regex::RegexBuilder::new(pattern).size_limit(1 << 20).build();
        Ok(Self { pattern: pattern.map_err(of_pattern)?, ratio })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        let rule: Allow = r"layers\.\d+\.mlp=10".parse().unwrap();
        assert!(rule.is_about("layers.3.mlp.gate".parse().unwrap()));
        assert!(!rule.is_about("hidden.3".parse().unwrap()));
        assert_eq!(rule.ratio, 10.0);
        for odd in ["", "mlp", "mlp=", "mlp=x", "mlp=-1", "mlp=inf", "mlp=nan", "(=3"] {
            assert!(odd.parse::<Allow>().is_err(), "{odd}");
        }
        assert!("(=3".parse::<Allow>().unwrap_err().to_string().contains("unclosed group"));
    }
}
