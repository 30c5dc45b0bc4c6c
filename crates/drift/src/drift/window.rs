//! Texts of any length, in windows that a model reads at once.

use crate::error::{Error, Result};
use std::ops::Range;

/// What a model reads at once, and which of its positions count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    /// Token ids.
    pub(super) ids: Vec<u32>,
    /// The positions that no earlier window has scored; those before them are context.
    pub(super) scored: Range<usize>,
    /// The token that follows the last position, if the text goes on.
    pub(super) next: Option<u32>,
}

impl Window {
    /// The token that follows each scored position; `None` at the end of a text.
    pub(super) fn labels(&self) -> impl Iterator<Item = Option<u32>> {
        self.scored.clone().map(|at| self.ids.get(at + 1).copied().or(self.next))
    }
}

/// How texts are cut: into windows of at least two tokens, at a stride from 1 to the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windowing {
    /// The longest window, in tokens.
    pub window: usize,
    /// By how many tokens one window ends behind the one before it.
    pub stride: usize,
}

impl Windowing {
    /// Cuts texts as transformers' perplexity guide does: windows overlap unless the stride is as
    /// long as they are, and every token counts in the first one that has it.
    ///
    /// A text that begins with `bos` has it in front of each of its windows: Gemma computes
    /// nonsense without.
    pub(super) fn cut(self, texts: &[Vec<u32>], bos: u32) -> Result<Vec<Window>> {
        let Self { window, stride } = self;
        if window < 2 || stride == 0 || stride > window {
            return Err(Error::InvalidWindow { window, stride });
        }
        Ok(texts.iter().flat_map(|text| self.cut_one(text, bos)).collect())
    }

    fn cut_one(self, text: &[u32], bos: u32) -> Vec<Window> {
        let repeats_bos = text.first() == Some(&bos);
        let overlap = (self.window - usize::from(repeats_bos)).saturating_sub(self.stride);
        let mut windows = vec![];
        let mut done = 0;
        while done < text.len() {
            // All but the first begin behind 0: the first one is longer than the overlap.
            let start = done.saturating_sub(overlap);
            let mut ids = vec![];
            if start > 0 && repeats_bos {
                ids.push(bos);
            }
            let shift = ids.len();
            let end = text.len().min(start.saturating_add(self.window - shift));
            ids.extend(&text[start..end]);
            let scored = shift + done - start..shift + end - start;
            windows.push(Window { ids, scored, next: text.get(end).copied() });
            done = end;
        }
        windows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &[u32], window: usize, stride: usize) -> Vec<Window> {
        Windowing { window, stride }.cut(&[text.to_vec()], 2).unwrap()
    }

    #[test]
    fn a_short_text_is_one_window() {
        let windows = cut(&[2, 5, 6], 8, 8);
        assert_eq!(windows, [Window { ids: vec![2, 5, 6], scored: 0..3, next: None }]);
        assert_eq!(windows[0].labels().collect::<Vec<_>>(), [Some(5), Some(6), None]);
    }

    #[test]
    fn every_position_counts_once_behind_bos() {
        for (window, stride) in [(4, 4), (4, 2), (5, 1), (2, 1), (7, 3)] {
            for first in [2, 9] {
                let text: Vec<u32> = std::iter::once(first).chain(10..30).collect();
                let windows = cut(&text, window, stride);
                let scored: Vec<u32> =
                    windows.iter().flat_map(|w| w.ids[w.scored.clone()].to_vec()).collect();
                assert_eq!(scored, text, "{window} {stride}");
                let labels: Vec<_> = windows.iter().flat_map(Window::labels).collect();
                let next: Vec<_> = text[1..].iter().copied().map(Some).chain([None]).collect();
                assert_eq!(labels, next, "{window} {stride}");
                for w in &windows {
                    assert!(w.ids.len() <= window && (first != 2 || w.ids[0] == 2));
                }
            }
        }
        let windows = cut(&[2, 5, 6, 7, 8, 9], 4, 2);
        assert_eq!((&windows[1].ids[..], windows[1].scored.clone()), (&[2, 7, 8, 9][..], 2..4));
    }

    /// Texts that end within their first windows, and windows longer than any text.
    #[test]
    fn short_texts() {
        for len in 0..=9 {
            let text: Vec<u32> = [2].into_iter().chain(10..).take(len).collect();
            for (window, stride) in (2..=9).flat_map(|w| (1..=w).map(move |s| (w, s))) {
                let windows = cut(&text, window, stride);
                let scored = windows.iter().flat_map(|w| w.ids[w.scored.clone()].to_vec());
                assert!(scored.eq(text.iter().copied()), "{len} {window} {stride}");
                if (1..=window).contains(&len) {
                    let whole = Window { ids: text.clone(), scored: 0..len, next: None };
                    assert_eq!(windows, [whole], "{window} {stride}");
                }
            }
            for stride in [1, 8, usize::MAX] {
                assert_eq!(cut(&text, usize::MAX, stride).len(), len.min(1));
            }
        }
    }

    #[test]
    fn impossible_windows() {
        for (window, stride) in [(1, 1), (0, 0), (4, 0), (4, 5)] {
            assert!(Windowing { window, stride }.cut(&[vec![1]], 2).is_err());
        }
    }
}
