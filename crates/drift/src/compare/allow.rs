//! How far points may differ that are known to.

use regex::Regex;
use std::fmt;
use std::str::FromStr;

/// A rule: points whose names match a pattern may differ by this many times their floor.
#[derive(Debug, Clone)]
pub struct Allow {
    /// Found anywhere in the name of a point, as in `layers.3.mlp.gate`; `^` and `$` stand for its ends.
    pattern: Regex,
    /// The ratio that replaces the threshold.
    ratio: f64,
}

/// What is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAllow {
    /// Without `=`, or without a pattern in front of it.
    #[error("write REGEX=RATIO, as in 'attn\\.[qk]$=8'")]
    Form,
    /// A ratio that is no number above 0.
    #[error("'{0}' is not a ratio: a number above 0, in times the floor")]
    Ratio(String),
    /// A pattern that is no regular expression.
    #[error("'{pattern}' is not a regular expression: {why}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Allow {
    /// Whether it is about a point, by its name in a dump.
    pub fn is_about(&self, point: &str) -> bool {
        self.pattern.is_match(point)
    }

    /// How many times its floor a point may differ.
    pub fn ratio(&self) -> f64 {
        self.ratio
    }
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.pattern, self.ratio)
    }
}

impl FromStr for Allow {
    type Err = InvalidAllow;

    fn from_str(rule: &str) -> Result<Self, InvalidAllow> {
        // A pattern may have = in it, a number has none.
        let (pattern, ratio) = rule.rsplit_once('=').ok_or(InvalidAllow::Form)?;
        if pattern.is_empty() {
            return Err(InvalidAllow::Form);
        }
        let number = ratio.trim().parse().ok().filter(|&ratio: &f64| ratio > 0.0);
        let ratio = number.ok_or_else(|| InvalidAllow::Ratio(ratio.into()))?;
        Ok(Self { pattern: pattern_of(pattern)?, ratio })
    }
}

/// A regular expression; what is wrong with one fits in a line.
fn pattern_of(pattern: &str) -> Result<Regex, InvalidAllow> {
    Regex::new(pattern).map_err(|error| {
        let said = error.to_string();
        let last = said.lines().next_back().unwrap_or_default();
        let why = last.trim_start_matches("error: ").to_string();
        InvalidAllow::Pattern { pattern: pattern.into(), why }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read() {
        let rule: Allow = r"^layers\.\d+\.attn\.[qk]$=8".parse().unwrap();
        assert_eq!(rule.ratio(), 8.0);
        assert!(rule.is_about("layers.12.attn.q") && !rule.is_about("layers.12.attn.output"));
        assert_eq!(rule.to_string(), r"^layers\.\d+\.attn\.[qk]$=8");
        assert!("a=b=2.5".parse::<Allow>().unwrap().is_about("xa=by"));
        assert!("logits=inf".parse::<Allow>().unwrap().ratio().is_infinite());
        for odd in ["", "logits", "=2", "logits=", "logits=-1", "logits=0", "logits=nan", "(=2"] {
            let said = odd.parse::<Allow>().unwrap_err().to_string();
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }
}
