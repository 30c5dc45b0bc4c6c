//! Which keys a query sees.

use super::padding::Padding;
use candle_core::{Device, Result, Tensor};
use std::ops::Range;

/// How far a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reach {
    /// It sees keys before it, and its own, at a distance below this.
    pub before: usize,
    /// It sees keys behind it at a distance below this; 1 where it sees none.
    pub behind: usize,
    /// So many first positions all see one another, whatever the rest.
    pub prefix: usize,
}

/// A run of queries and keys, by their positions in the text.
#[derive(Debug, Clone)]
pub(super) struct Visible {
    /// Positions of the queries.
    pub queries: Range<usize>,
    /// Positions of the keys.
    pub keys: Range<usize>,
    pub reach: Reach,
}

impl Visible {
    /// The keys that the query at a position sees, as indices into `keys`. Never empty where the
    /// query's own key is among them.
    pub fn range(&self, query: usize) -> Range<usize> {
        let Reach { before, behind, prefix } = self.reach;
        let mut first = query.saturating_sub(before - 1);
        let mut end = query.saturating_add(behind);
        if query < prefix {
            (first, end) = (0, end.max(prefix));
        }
        let index =
            |position: usize| position.clamp(self.keys.start, self.keys.end) - self.keys.start;
        index(first)..index(end)
    }

    /// These queries, with only those keys that any of the queries sees.
    pub fn trimmed(self) -> Self {
        let first = self.range(self.queries.start).start;
        let end = self.range(self.queries.end - 1).end;
        Self { keys: self.keys.start + first..self.keys.start + end, ..self }
    }

    /// 0 where a query may look, -∞ elsewhere, in f32: `[queries, keys]`, or `[batch, 1, queries, keys]` with padding,
    /// which no query sees, but one that is padding itself: it sees itself, so that there is no mean of nothing.
    pub fn mask(&self, padding: Option<&Padding>, device: &Device) -> Result<Tensor> {
        let (queries, keys) = (self.queries.len(), self.keys.len());
        let rows = |text: usize| {
            self.queries.clone().flat_map(move |query| {
                let visible = self.range(query);
                (0..keys).map(move |key| {
                    let position = self.keys.start + key;
                    let is_there = |p: &Padding| query == position || p.is_token(text, position);
                    match visible.contains(&key) && padding.is_none_or(is_there) {
                        true => 0f32,
                        false => f32::NEG_INFINITY,
                    }
                })
            })
        };
        match padding {
            None => Tensor::from_iter(rows(0), device)?.reshape((queries, keys)),
            Some(padding) => {
                let batch = padding.batch();
                Tensor::from_iter((0..batch).flat_map(rows), device)?
                    .reshape((batch, 1, queries, keys))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows() {
        let visible = |before, behind| {
            let reach = Reach { before, behind, prefix: 0 };
            Visible { queries: 0..9, keys: 2..9, reach }
        };
        assert_eq!(visible(3, 1).range(4), 0..3); // positions 2, 3, 4
        assert_eq!(visible(3, 1).range(8), 4..7); // positions 6, 7, 8
        assert_eq!(visible(2, 2).range(4), 1..4); // positions 3, 4, 5
        assert_eq!(visible(2, 3).range(4), 1..5); // positions 3 to 6
        assert_eq!(visible(usize::MAX, 1).range(8), 0..7);
        assert_eq!(visible(usize::MAX, usize::MAX).range(2), 0..7);
        let reach = Reach { before: 3, behind: 1, prefix: 0 };
        let some = Visible { queries: 5..7, keys: 0..9, reach }.trimmed();
        assert_eq!(some.keys, 3..7);
    }

    /// Those of the prefix see all of it; the others their window of what is before them.
    #[test]
    fn prefixes() {
        let reach = Reach { before: 3, behind: 1, prefix: 6 };
        let visible = Visible { queries: 0..9, keys: 0..9, reach };
        assert_eq!([0, 5].map(|query| visible.range(query)), [0..6, 0..6]);
        assert_eq!([6, 8].map(|query| visible.range(query)), [4..7, 6..9]);
        let trimmed = |queries| Visible { queries, ..visible.clone() }.trimmed().keys;
        assert_eq!([0..2, 3..8, 7..9].map(trimmed), [0..6, 0..8, 5..9]);
    }

    #[test]
    fn padding_is_seen_by_itself_alone() -> Result<()> {
        let padding = Padding::new(&Tensor::new(&[[1u32, 1, 0]], &Device::Cpu)?)?;
        let reach = Reach { before: usize::MAX, behind: usize::MAX, prefix: 0 };
        let visible = Visible { queries: 0..3, keys: 0..3, reach };
        let mask = visible.mask(padding.as_ref(), &Device::Cpu)?.reshape((3, 3))?;
        let hidden = f32::NEG_INFINITY;
        let rows = [[0.0, 0.0, hidden], [0.0, 0.0, hidden], [0.0, 0.0, 0.0]];
        assert_eq!(mask.to_vec2::<f32>()?, rows);
        Ok(())
    }
}
