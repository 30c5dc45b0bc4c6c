//! Texts of any length, in windows that a model reads at once.

use crate::error::{Error, Result};
use crate::input::{Texts, TokenIds};
use gemma_mlp::checkpoint::{Remark, RemarkKind};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// What a model reads at once, and which of its positions count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    /// Token ids.
    pub(super) ids: Vec<u32>,
    /// What an encoder reads beside them; nothing where there is none.
    pub(super) source: Vec<u32>,
    /// The positions that no earlier window has scored; those before them are context.
    pub(super) scored: Range<usize>,
    /// The token that follows the last position, if the text goes on.
    pub(super) next: Option<u32>,
}

impl Window {
    /// Its ids, and those of its source.
    ///
    /// # Errors
    /// A window of no tokens, of which there is none.
    pub(super) fn token_ids(&self) -> Result<TokenIds> {
        let ids = Texts::from(self.ids.clone());
        TokenIds::batched(match self.source.is_empty() {
            true => ids,
            false => ids.with_sources(self.source.clone().into())?,
        })
    }

    /// The token that follows each scored position; `None` at the end of a text.
    pub(super) fn labels(&self) -> impl Iterator<Item = Option<u32>> {
        self.scored.clone().map(|at| self.ids.get(at + 1).copied().or(self.next))
    }
}

/// How texts are cut into windows, and which of their positions count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windowing {
    /// The longest window, in tokens: at least 2, or 3 with [`Score::SecondHalf`].
    pub window: usize,
    /// By how many tokens one window ends behind the one before it: from 1 to the window, or just
    /// the window with [`Score::SecondHalf`].
    pub stride: usize,
    /// Which positions count.
    pub score: Score,
}

/// Which positions of a text count in the figures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Score {
    /// All of them, each in the first window that has it.
    #[default]
    All,
    /// Those that llama.cpp's `perplexity` counts: of each window of n tokens the positions from n/2
    /// to n − 2. Windows do not overlap, BOS stands in place of each one's first token, and what is
    /// left of a text behind its last whole window is dropped.
    SecondHalf,
}

impl Windowing {
    /// The windows of texts, of which there is at least one.
    pub(super) fn cut(self, texts: &Texts, bos: u32) -> Result<Windows<'_>> {
        let Self { window, stride, score } = self;
        match score {
            Score::All if window < 2 || stride == 0 || stride > window => {
                Err(Error::InvalidWindow { window, stride })
            }
            Score::SecondHalf if window < 3 || stride != window => {
                Err(Error::InvalidHalves { window, stride })
            }
            Score::SecondHalf if texts.iter().all(|text| text.len() < window) => {
                Err(Error::NoWholeWindow { window })
            }
            _ => Ok(Windows { texts, windowing: self, bos }),
        }
    }

    /// Whole windows of a text, as llama.cpp's `perplexity` cuts and scores them.
    fn chunks(self, text: &[u32], bos: u32) -> impl Iterator<Item = Window> {
        let begins_with_bos = text.first() == Some(&bos);
        text.chunks_exact(self.window).map(move |chunk| {
            let mut ids = chunk.to_vec();
            if begins_with_bos {
                ids[0] = bos;
            }
            let scored = self.window / 2..self.window - 1;
            Window { ids, source: vec![], scored, next: None }
        })
    }

    /// What of the texts is in no window.
    pub(super) fn remarks(self, texts: &Texts) -> Vec<Remark> {
        if self.score == Score::All {
            return vec![];
        }
        let left = texts.iter().map(|text| text.len() % self.window).filter(|&tokens| tokens > 0);
        let (count, tokens) = (left.clone().count(), left.sum::<usize>());
        if count == 0 {
            return vec![];
        }
        let of = if texts.len() > 1 { format!(" of {count} texts") } else { String::new() };
        let window = self.window;
        let text = format!(
            "the last {tokens} tokens{of} make no whole window of {window} and are left out, as llama.cpp does"
        );
        vec![Remark::note(RemarkKind::Text, text)]
    }

    /// A text's windows, cut as transformers' perplexity guide does: they overlap unless the stride is as
    /// long as they are, and every token counts in the first one that has it.
    ///
    /// A text that begins with `bos` has it in front of each of its windows: Gemma computes
    /// nonsense without.
    fn overlapping(self, text: &[u32], bos: u32) -> impl Iterator<Item = Window> {
        let repeats_bos = text.first() == Some(&bos);
        let overlap = (self.window - usize::from(repeats_bos)).saturating_sub(self.stride);
        let mut done = 0;
        std::iter::from_fn(move || {
            if done >= text.len() {
                return None;
            }
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
            done = end;
            Some(Window { ids, source: vec![], scored, next: text.get(end).copied() })
        })
    }
}

/// The windows of texts, each made when it is asked for: there may be millions.
#[derive(Clone, Copy)]
pub(super) struct Windows<'a> {
    texts: &'a Texts,
    windowing: Windowing,
    bos: u32,
}

impl<'a> Windows<'a> {
    pub(super) fn iter(self) -> impl Iterator<Item = Window> + use<'a> {
        let Self { texts, windowing, bos } = self;
        texts.with_their_sources().flat_map(move |(text, source)| {
            let halves = windowing.score == Score::SecondHalf;
            let chunks = halves.then(|| windowing.chunks(text, bos));
            let overlapping = (!halves).then(|| windowing.overlapping(text, bos));
            let windows = chunks.into_iter().flatten().chain(overlapping.into_iter().flatten());
            windows.map(|window| Window { source: source.to_vec(), ..window })
        })
    }

    pub(super) fn count(self) -> usize {
        self.iter().count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &[u32], window: usize, stride: usize) -> Vec<Window> {
        Windowing { window, stride, score: Score::All }
            .cut(&text.to_vec().into(), 2)
            .unwrap()
            .iter()
            .collect()
    }

    #[test]
    fn a_short_text_is_one_window() {
        let windows = cut(&[2, 5, 6], 8, 8);
        assert_eq!(
            windows,
            [Window { ids: vec![2, 5, 6], source: vec![], scored: 0..3, next: None }]
        );
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
                    let (ids, source) = (text.clone(), vec![]);
                    let whole = Window { ids, source, scored: 0..len, next: None };
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
        let text = Texts::from(vec![1; 9]);
        let cut = |window, stride, score| {
            Windowing { window, stride, score }.cut(&text, 2).map(Windows::count)
        };
        for (window, stride) in [(1, 1), (0, 0), (4, 0), (4, 5)] {
            assert!(cut(window, stride, Score::All).is_err());
        }
        for (window, stride) in [(0, 0), (1, 1), (2, 2), (4, 0), (4, 2), (4, 5)] {
            let error = cut(window, stride, Score::SecondHalf);
            assert!(matches!(error, Err(Error::InvalidHalves { .. })), "{window} {stride}");
        }
        for window in [10, usize::MAX] {
            let error = cut(window, window, Score::SecondHalf);
            assert!(matches!(error, Err(Error::NoWholeWindow { .. })));
        }
    }

    /// llama.cpp's loop, `for i in 0..tokens/n: for j in n/2..n-1: score(tokens[i*n + j + 1])`, in
    /// each window behind BOS.
    #[test]
    fn second_halves_are_those_of_llama_cpp() {
        for n in 3..=9 {
            for len in n..40 {
                for first in [2, 9] {
                    let text: Vec<u32> = std::iter::once(first).chain(10..).take(len).collect();
                    let windowing = Windowing { window: n, stride: n, score: Score::SecondHalf };
                    let texts = Texts::from(text.clone());
                    let windows = windowing.cut(&texts, 2).unwrap();
                    assert_eq!(windows.count(), len / n);
                    for (i, window) in windows.iter().enumerate() {
                        let mut read = text[i * n..(i + 1) * n].to_vec();
                        let right: Vec<_> = (n / 2..n - 1).map(|j| Some(read[j + 1])).collect();
                        if first == 2 {
                            read[0] = 2;
                        }
                        assert_eq!(window.ids, read);
                        assert_eq!(window.labels().collect::<Vec<_>>(), right);
                    }
                    let remarks = windowing.remarks(&texts);
                    assert_eq!(remarks.len(), usize::from(len % n > 0));
                    if let [remark] = &remarks[..] {
                        assert!(remark.text.contains(&format!("last {} tokens", len % n)));
                    }
                }
            }
        }
    }
}
