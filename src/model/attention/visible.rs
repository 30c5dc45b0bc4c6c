//! Which keys a query sees.

use candle_core::{Device, Result, Tensor};
use std::ops::Range;

/// A run of queries and keys, by their positions in the text.
#[derive(Debug, Clone)]
pub(super) struct Visible {
    /// Positions of the queries.
    pub queries: Range<usize>,
    /// Positions of the keys.
    pub keys: Range<usize>,
    /// A query sees keys at a distance below this.
    pub window: usize,
    /// Whether it sees earlier keys only.
    pub causal: bool,
    /// So many first positions all see one another, whatever the window.
    pub prefix: usize,
}

impl Visible {
    /// The keys that the query at a position sees, as indices into `keys`. Never empty where the
    /// query's own key is among them.
    pub fn range(&self, query: usize) -> Range<usize> {
        let mut first = query.saturating_sub(self.window - 1);
        let mut end = if self.causal { query + 1 } else { query.saturating_add(self.window) };
        if query < self.prefix {
            (first, end) = (0, end.max(self.prefix));
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

    /// 0 where a query may look, -∞ elsewhere: `[queries, keys]`, in f32.
    pub fn mask(&self, device: &Device) -> Result<Tensor> {
        let row = |query: usize| {
            let visible = self.range(query);
            (0..self.keys.len()).map(move |key| match visible.contains(&key) {
                true => 0f32,
                false => f32::NEG_INFINITY,
            })
        };
        let mask: Vec<f32> = self.queries.clone().flat_map(row).collect();
        Tensor::from_vec(mask, (self.queries.len(), self.keys.len()), device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows() {
        let visible =
            |window, causal| Visible { queries: 0..9, keys: 2..9, window, causal, prefix: 0 };
        assert_eq!(visible(3, true).range(4), 0..3); // positions 2, 3, 4
        assert_eq!(visible(3, true).range(8), 4..7); // positions 6, 7, 8
        assert_eq!(visible(2, false).range(4), 1..4); // positions 3, 4, 5
        assert_eq!(visible(usize::MAX, true).range(8), 0..7);
        assert_eq!(visible(usize::MAX, false).range(2), 0..7);
        let some =
            Visible { queries: 5..7, keys: 0..9, window: 3, causal: true, prefix: 0 }.trimmed();
        assert_eq!(some.keys, 3..7);
    }

    /// Those of the prefix see all of it; the others their window of what is before them.
    #[test]
    fn prefixes() {
        let visible = Visible { queries: 0..9, keys: 0..9, window: 3, causal: true, prefix: 6 };
        assert_eq!([0, 5].map(|query| visible.range(query)), [0..6, 0..6]);
        assert_eq!([6, 8].map(|query| visible.range(query)), [4..7, 6..9]);
        let trimmed = |queries| Visible { queries, ..visible.clone() }.trimmed().keys;
        assert_eq!([0..2, 3..8, 7..9].map(trimmed), [0..6, 0..8, 5..9]);
    }
}
