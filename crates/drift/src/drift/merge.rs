//! Adding up the parts of a run.

use super::embedding::EmbeddingSums;
use super::gradient::GradientDrift;
use super::logits::LogitSums;
use super::options::Shard;
use super::origin::Origin;
use super::result::{Drift, Header, Part};
use super::sums::WindowSums;
use crate::error::{EndedPart, Error, InvalidReport, Result};
use std::collections::{BTreeMap, HashSet};

/// Adds up the parts of one run, one after the other, so that only one report's text has to be there
/// at a time. The figures are exactly those of one run over all windows.
#[derive(Debug, Default)]
pub struct Merger {
    merged: Option<Merged>,
    /// The windows that are in.
    seen: HashSet<usize>,
}

/// What parts have added up to so far.
#[derive(Debug)]
struct Merged {
    /// The first report's name.
    first: String,
    header: Header,
    /// That of the first window that is in: whatever the order of the parts, the result is the same.
    origin: Origin,
    least: usize,
    /// Those of the first window, which every part has that was asked for them and was not ended early.
    gradients: Option<GradientDrift>,
    part: Part,
}

impl Merger {
    /// Of no parts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a part: its JSON report, and its name, for messages.
    ///
    /// # Errors
    /// A report that is no part, or of another run; a window that is there twice, that is none of the
    /// part's, or whose figures contradict each other. After an error there is nothing more to be had.
    pub fn add(&mut self, name: &str, json: &str) -> Result<()> {
        let report = Drift::from_json(name, json)?;
        let refused = |reason| Error::Report { name: name.into(), reason };
        let Drift { header, origin, gradients, part, .. } = report;
        let part = part.ok_or_else(|| refused(InvalidReport::NotAPart))?;
        check_shard(&part).map_err(refused)?;
        if let Some(Merged { first, header: other, part: sums, .. }) = &self.merged
            && (*other != header || sums.shard.of != part.shard.of)
        {
            return Err(refused(InvalidReport::OtherRun { first: first.clone() }));
        }
        let Some(own) = part.windows.first() else {
            return Err(refused(InvalidReport::NoWindows));
        };
        // What all windows must be like: the first one that was added.
        let first = self.merged.as_ref().and_then(|merged| merged.part.windows.first());
        let first = first.unwrap_or(own);
        for window in &part.windows {
            check_window(&header, &part, window, first).map_err(refused)?;
            if !self.seen.insert(window.index) {
                return Err(refused(InvalidReport::Repeated { window: window.index }));
            }
        }
        let least = part.windows.iter().map(|window| window.index).min().unwrap_or(usize::MAX);
        match &mut self.merged {
            None => {
                let first = name.to_string();
                self.merged = Some(Merged { first, header, origin, least, gradients, part });
            }
            Some(merged) => {
                if gradients.is_some() && (least < merged.least || merged.gradients.is_none()) {
                    merged.gradients = gradients;
                }
                if least < merged.least {
                    (merged.origin, merged.least) = (origin, least);
                }
                merged.part.windows.extend(part.windows);
                merged.part.take_in(part.shard.index, part.also);
            }
        }
        Ok(())
    }

    /// Checks that the run was split into `parts`, and that every window of every part is in. Parts beyond the number of
    /// windows have none, and are not missed.
    ///
    /// # Errors
    /// A run that was split into another number of parts; parts that are missing or were ended early; no parts.
    pub fn expect(&self, parts: usize) -> Result<()> {
        let Merged { header, part, .. } = self.merged.as_ref().ok_or(Error::NoReports)?;
        let of = part.shard.of;
        if of != parts {
            return Err(Error::SplitOtherwise { parts, of });
        }
        let mut there = BTreeMap::<usize, usize>::new();
        for window in &self.seen {
            *there.entry(window % of + 1).or_default() += 1;
        }
        // What is not there is found between what is: the number of parts is only what a file says.
        let last = of.min(header.windows);
        let (mut incomplete, mut ended, mut next) = (vec![], vec![], 1);
        for (index, windows) in there {
            let all = (header.windows - index) / of + 1;
            if windows < all {
                ended.push(EndedPart { index, windows, of: all });
                continue;
            }
            incomplete.extend((next < index).then(|| next..=index - 1));
            next = index + 1;
        }
        incomplete.extend((next <= last).then_some(next..=last));
        match incomplete.is_empty() {
            true => Ok(()),
            false => Err(Error::IncompleteParts { of, incomplete, ended }),
        }
    }

    /// The run, or what of it is there.
    ///
    /// # Errors
    /// No parts.
    pub fn finish(self) -> Result<Drift> {
        let Merged { header, origin, gradients, part, .. } = self.merged.ok_or(Error::NoReports)?;
        Ok(Drift { gradients, ..Drift::new(header, origin, part) })
    }
}

/// [`Merger`] on reports that are there already: their names, and their JSON.
///
/// # Errors
/// Those of [`Merger::add`] and [`Merger::finish`].
pub fn merge<N: AsRef<str>, J: AsRef<str>>(
    reports: impl IntoIterator<Item = (N, J)>,
) -> Result<Drift> {
    let mut merger = Merger::new();
    for (name, json) in reports {
        merger.add(name.as_ref(), json.as_ref())?;
    }
    merger.finish()
}

fn check_shard(Part { shard: Shard { index, of }, also, .. }: &Part) -> Result<(), InvalidReport> {
    match std::iter::once(index).chain(also).find(|&&index| !Shard { index, of: *of }.exists()) {
        Some(&index) => Err(InvalidReport::NoSuchPart { index, of: *of }),
        None => Ok(()),
    }
}

/// Checks that a window is one of its part's, and that its figures are as many as they should be and
/// small enough for those of all windows to be added up.
fn check_window(
    header: &Header,
    part: &Part,
    window: &WindowSums,
    first: &WindowSums,
) -> Result<(), InvalidReport> {
    let Part { shard: Shard { index, of }, also, .. } = part;
    let (windows, at) = (header.windows, window.index);
    let takes = |&index: &usize| Shard { index, of: *of }.takes(at);
    if at >= windows || !std::iter::once(index).chain(also).any(takes) {
        let (index, of) = (*index, *of);
        return Err(InvalidReport::Misplaced { window: at, windows, index, of });
    }
    let inconsistent = |what| Err(InvalidReport::Inconsistent { window: at, what });
    let most = usize::MAX / windows;
    if window.positions > header.window || window.positions > most {
        return inconsistent("more scored positions than a window has");
    }
    if window.floor_positions > window.positions {
        return inconsistent("the floor has more positions than are scored");
    }
    if window.notable.positions().any(|position| position >= window.positions) {
        return inconsistent("a position is shown that is not scored");
    }
    if window.layers.len() != header.blocks.len() {
        return inconsistent("not one sum for each layer");
    }
    if window.logits.is_some() != first.logits.is_some() {
        return inconsistent("only some windows have logits");
    }
    if window.embedding.is_some() != first.embedding.is_some() {
        return inconsistent("only some windows have embeddings");
    }
    let one = |sums: &EmbeddingSums| (sums.distances.len(), sums.cosines.len()) == (1, 1);
    if !window.embedding.iter().flatten().all(one) {
        return inconsistent("not one embedding");
    }
    let embeddings = window.embedding.iter().flatten().map(|sums| &sums.hidden);
    let logits = window.logits.iter().flatten();
    let layers = window.layers.iter().flat_map(|layer| layer.accumulators());
    if layers
        .chain(logits.clone().map(|sums| &sums.logits))
        .chain(embeddings)
        .any(|sums| sums.count() > most)
    {
        return inconsistent("a count is larger than any run's");
    }
    for (layer, first) in window.layers.iter().zip(&first.layers) {
        if !layer.gates.has_bins_of(&first.gates) {
            return inconsistent("its histograms have other bins than another window's");
        }
        if layer.gates.largest() > most as u64 {
            return inconsistent("a count is larger than any run's");
        }
    }
    if let Some([pair, floor, _]) = &window.logits
        && (pair.kl_nats.len(), floor.kl_nats.len()) != (window.positions, window.floor_positions)
    {
        return inconsistent("not one divergence for each position");
    }
    match logits.clone().all(|sums| is_consistent(sums, window.positions)) {
        true => Ok(()),
        false => inconsistent("figures of the logits that are not one for each position"),
    }
}

fn is_consistent(sums: &LogitSums, positions: usize) -> bool {
    let count = sums.kl_nats.len();
    count <= positions
        && (sums.top1.len(), sums.top5.len()) == (count, count)
        && sums.nll_a.len() == sums.nll_b.len()
        && sums.nll_a.len() <= count
}
