//! The interval in which functions are looked at.

use serde::Serialize;
use std::{fmt, str::FromStr};

/// A closed interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Range {
    low: f64,
    high: f64,
}

/// A text that is no [`Range`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no range; write -4:4, from -1000 to 1000, the smaller end first, and at least 1e-300 and a millionth of the larger end apart"
)]
pub struct InvalidRange(String);

impl Range {
    /// From `low` to `high`; `None` unless both are finite, of size 1000 at most, in this order, and far enough apart
    /// for thousands of f64 between them: by 1e-300 and by a millionth of the larger size.
    pub fn new(low: f64, high: f64) -> Option<Self> {
        let sane = |x: f64| x.abs() <= 1000.0;
        let least = 1e-300_f64.max(1e-6 * low.abs().max(high.abs()));
        (sane(low) && sane(high) && high - low >= least).then_some(Self { low, high })
    }

    /// The left end.
    pub fn low(self) -> f64 {
        self.low
    }

    /// The right end.
    pub fn high(self) -> f64 {
        self.high
    }

    /// `count` evenly spaced numbers from end to end.
    pub fn points(self, count: usize) -> Vec<f64> {
        let last = count.saturating_sub(1).max(1) as f64;
        let width = self.high - self.low;
        (0..count).map(|i| self.low + width * (i as f64 / last)).collect()
    }

    /// Whether a number lies in it.
    pub fn contains(self, x: f64) -> bool {
        (self.low..=self.high).contains(&x)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.low, self.high)
    }
}

impl FromStr for Range {
    type Err = InvalidRange;

    /// Reads `-4:4`.
    fn from_str(text: &str) -> Result<Self, InvalidRange> {
        let ends = text
            .split_once(':')
            .and_then(|(low, high)| Self::new(low.trim().parse().ok()?, high.trim().parse().ok()?));
        ends.ok_or_else(|| InvalidRange(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings() {
        assert_eq!("-4:4".parse(), Ok(Range { low: -4.0, high: 4.0 }));
        assert_eq!("-1e1 : .5".parse(), Ok(Range { low: -10.0, high: 0.5 }));
        for text in ["", "4", "4:-4", "1:1", "nan:1", "0:inf", "a:b", "0:1e9", "-1e308:1e308"] {
            assert!(text.parse::<Range>().is_err(), "{text}");
        }
        for text in ["0:5e-324", "0:1e-301", "0.5:0.5000000000000001", "-1000:-999.9999"] {
            assert!(text.parse::<Range>().is_err(), "{text}");
        }
        for text in ["0:1e-300", "-1e-40:1e-40", "0.5:0.500001", "-1000:1000"] {
            assert!(text.parse::<Range>().is_ok(), "{text}");
        }
    }
}
