//! Keys and values of the tokens so far.

use crate::kernels::linear::{Columns, PANEL, Stored, TILE};
use crate::kernels::threads;
use crate::model::identity::Identity;
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::kv_cache::KvCache;
use std::borrow::Cow;
use std::ops::Range;

/// Keys and values of a layer's tokens so far; none at first. They belong to the layer whose attention
/// began them; other layers may share them ([`super::Keys::Shared`]).
#[derive(Debug, Clone, Default)]
pub struct KeyValues {
    owner: Option<Identity>,
    kept: Option<Kept>,
    /// Whether they are those of one call, and part of what is differentiated.
    once: bool,
}

const FOREIGN: &str =
    "keys and values are kept for another model, layer or batch size: begin a new cache";

/// Positions by which a cache of tensors grows.
const CACHE_STEP: usize = 256;

/// How they are kept.
#[derive(Debug, Clone)]
enum Kept {
    /// As tensors in one that grows, `[batch, kv_heads, seq, head_dim]`, which no gradient goes through.
    Growing(KvCache),
    /// As the tensors of one call.
    Once(Tensor, Tensor),
    /// As panels, for attention in one pass.
    Panels(Panels),
}

impl KeyValues {
    /// Those of one call, through which gradients go.
    pub fn once() -> Self {
        Self { once: true, ..Self::default() }
    }

    /// Keys and values that are there already, `[batch, kv_heads, seq, head_dim]` each, in f32 (f64 in an f64 model),
    /// for layers that share them.
    pub fn of(keys: Tensor, values: Tensor) -> Self {
        Self { owner: None, kept: Some(Kept::Once(keys, values)), once: true }
    }

    /// How many positions there are.
    pub fn len(&self) -> usize {
        match &self.kept {
            None => 0,
            Some(Kept::Growing(cache)) => cache.current_seq_len(),
            Some(Kept::Once(keys, _)) => keys.dims()[2],
            Some(Kept::Panels(panels)) => panels.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is kept for a layer's attention, which owns it from now on.
    fn kept_of(&mut self, attention: Identity) -> Result<&mut Option<Kept>> {
        match *self.owner.get_or_insert(attention) == attention {
            true => Ok(&mut self.kept),
            false => candle_core::bail!("{FOREIGN}"),
        }
    }

    /// All keys and values as tensors, `[batch, kv_heads, seq, head_dim]`, in f32 or f64.
    ///
    /// # Errors
    /// Where there are none yet.
    pub fn tensors(&self, kv_heads: usize) -> Result<(Tensor, Tensor)> {
        let tensors = match &self.kept {
            Some(Kept::Once(keys, values)) => Some((keys.clone(), values.clone())),
            Some(Kept::Growing(cache)) => cache.k()?.zip(cache.v()?),
            Some(Kept::Panels(panels)) => Some(panels.tensors(kv_heads)?),
            None => None,
        };
        match tensors {
            Some(tensors) => Ok(tensors),
            None => candle_core::bail!("there are no keys and values to share yet"),
        }
    }

    /// Adds keys and values, and returns all.
    pub(super) fn append(
        &mut self,
        attention: Identity,
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let once = self.once;
        let kept = self.kept_of(attention)?;
        if once {
            *kept = Some(Kept::Once(keys.clone(), values.clone()));
            return Ok((keys.clone(), values.clone()));
        }
        match kept.get_or_insert_with(|| Kept::Growing(KvCache::new(2, CACHE_STEP))) {
            Kept::Growing(cache) => cache.append(&keys.contiguous()?, &values.contiguous()?),
            _ => candle_core::bail!("{FOREIGN}"),
        }
    }

    /// The panels of some heads, to be added to.
    pub(super) fn panels(
        &mut self,
        attention: Identity,
        heads: usize,
        head_dim: usize,
    ) -> Result<&mut Panels> {
        let kept = self.kept_of(attention)?;
        match kept.get_or_insert_with(|| Kept::Panels(Panels::new(heads, head_dim))) {
            Kept::Panels(panels) if panels.heads() == heads => Ok(panels),
            _ => candle_core::bail!("{FOREIGN}"),
        }
    }

    /// The panels of as many heads, which another layer adds to.
    pub(super) fn shared_panels(&self, heads: usize, head_dim: usize) -> Result<Cow<'_, Panels>> {
        let panels = match &self.kept {
            Some(Kept::Panels(panels)) => Cow::Borrowed(panels),
            _ => {
                let (keys, values) = self.tensors(heads)?;
                Cow::Owned(Panels::of(&keys, &values)?)
            }
        };
        match (panels.heads(), panels.head_dim) == (heads, head_dim) {
            true => Ok(panels),
            false => candle_core::bail!("{FOREIGN}"),
        }
    }
}

/// Keys and values of some heads as the right sides of products: the keys' is multiplied by queries,
/// the values' by weights.
#[derive(Debug, Clone)]
pub(super) struct Panels {
    heads: Vec<Head>,
    head_dim: usize,
    len: usize,
}

/// Keys and values of one head of one text.
#[derive(Debug, Clone, Default)]
struct Head {
    /// A key is a row: `[len / 32, head_dim]` columns.
    keys: Vec<Columns<f32>>,
    /// A key's position is a column, and blocks of positions follow one another:
    /// `[len / TILE, head_dim / 32, TILE]` columns.
    values: Vec<Columns<f32>>,
}

impl Panels {
    /// None yet, of heads of a width.
    pub fn new(heads: usize, head_dim: usize) -> Self {
        Self { heads: vec![Head::default(); heads], head_dim, len: 0 }
    }

    /// Of keys and values `[batch, kv_heads, seq, head_dim]`.
    fn of(keys: &Tensor, values: &Tensor) -> Result<Self> {
        let (batch, kv_heads, seq, head_dim) = keys.dims4()?;
        let numbers =
            |t: &Tensor| t.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1();
        let (keys, values): (Vec<f32>, Vec<f32>) = (numbers(keys)?, numbers(values)?);
        let mut panels = Self::new(batch * kv_heads, head_dim);
        let at = |head: usize, position: usize| (head * seq + position) * head_dim;
        panels.append(
            seq,
            |head, position, key| key.copy_from_slice(&keys[at(head, position)..][..head_dim]),
            |head, position, columns, value| {
                value.copy_from_slice(&values[at(head, position)..][..head_dim][columns]);
            },
        );
        Ok(panels)
    }

    /// Keys and values of texts with so many heads each, `[batch, kv_heads, seq, head_dim]` in f32.
    fn tensors(&self, kv_heads: usize) -> Result<(Tensor, Tensor)> {
        let (seq, head_dim) = (self.len, self.head_dim);
        let (mut keys, mut values) = (vec![], vec![]);
        for head in &self.heads {
            for position in 0..seq {
                let panel = &head.keys[position / PANEL * head_dim..][..head_dim];
                keys.extend(panel.iter().map(|column| column.numbers()[position % PANEL]));
                let block = position / TILE * self.panels_of_values();
                for panel in 0..self.panels_of_values() {
                    let column = &head.values[(block + panel) * TILE + position % TILE];
                    let rows = PANEL.min(head_dim - panel * PANEL);
                    values.extend_from_slice(&column.numbers()[..rows]);
                }
            }
        }
        let shape = (self.heads.len() / kv_heads.max(1), kv_heads, seq, head_dim);
        Ok((
            Tensor::from_vec(keys, shape, &Device::Cpu)?,
            Tensor::from_vec(values, shape, &Device::Cpu)?,
        ))
    }

    /// How many heads there are, those of all texts of a batch together.
    pub fn heads(&self) -> usize {
        self.heads.len()
    }

    /// How many positions there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Panels that the values' columns fill.
    pub fn panels_of_values(&self) -> usize {
        self.head_dim.div_ceil(PANEL)
    }

    /// Columns of a panel of keys.
    pub fn columns_of_keys(&self) -> usize {
        self.head_dim
    }

    /// Adds some positions. `key` and `value` write those of a head and a position, counted from
    /// the first one added.
    pub fn append(
        &mut self,
        count: usize,
        key: impl Fn(usize, usize, &mut [f32]) + Sync,
        value: impl Fn(usize, usize, Range<usize>, &mut [f32]) + Sync,
    ) {
        let (start, len) = (self.len, self.len + count);
        let (panels, head_dim) = (self.panels_of_values(), self.head_dim);
        // The positions, counted as above, that a piece of some positions gets.
        let added = move |first: usize, size: usize| {
            first.max(start) - start..(first + size).min(len).max(start) - start
        };
        let nanoseconds = 4 * count * self.heads.len() * head_dim;
        for kept in &mut self.heads {
            kept.keys.resize(len.div_ceil(PANEL) * head_dim, Columns::ZEROS);
            kept.values.resize(len.div_ceil(TILE) * panels * TILE, Columns::ZEROS);
        }
        let first = start / PANEL;
        let of_keys = self.heads.iter_mut().enumerate().flat_map(|(head, kept)| {
            let columns = kept.keys[first * head_dim..].chunks_mut(head_dim).enumerate();
            columns.map(move |(i, panel)| (head, first + i, panel))
        });
        threads::for_each(nanoseconds, of_keys, |(head, i, panel)| {
            let mut row = vec![0.0; head_dim];
            for at in added(i * PANEL, PANEL) {
                key(head, at, &mut row);
                for (column, number) in panel.iter_mut().zip(row.chunks_exact(1)) {
                    f32::set(column, (start + at) % PANEL, number);
                }
            }
        });
        let first = start / TILE * panels;
        let of_values = self.heads.iter_mut().enumerate().flat_map(|(head, kept)| {
            let columns = kept.values[first * TILE..].chunks_mut(TILE).enumerate();
            columns.map(move |(i, columns)| (head, first + i, columns))
        });
        threads::for_each(nanoseconds / 4, of_values, |(head, i, columns)| {
            let (block, panel) = (i / panels, i % panels);
            let rows = panel * PANEL..head_dim.min((panel + 1) * PANEL);
            for at in added(block * TILE, TILE) {
                let place = columns[(start + at) % TILE].numbers_mut();
                value(head, at, rows.clone(), &mut place[..rows.len()]);
            }
        });
        self.len = len;
    }

    /// The panels of some keys of a head, which start at a multiple of 32.
    pub fn keys(&self, head: usize, keys: &Range<usize>) -> &[Columns<f32>] {
        let (first, end) = (keys.start / PANEL, keys.end.div_ceil(PANEL));
        &self.heads[head].keys[first * self.head_dim..end * self.head_dim]
    }

    /// The columns in a panel of values that belong to some keys of one block.
    pub fn values(&self, head: usize, panel: usize, keys: &Range<usize>) -> &[Columns<f32>] {
        let block = keys.start / TILE * self.panels_of_values() + panel;
        let first = block * TILE + keys.start % TILE;
        &self.heads[head].values[first..first + keys.len()]
    }
}
