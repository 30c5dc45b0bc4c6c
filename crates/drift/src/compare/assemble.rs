//! A dump out of arrays with names: which is what, and which text of the batch has which part of it.

use super::dump::{Dump, DumpText};
use super::names::{Meaning, Names, Reading};
use super::plane::{Glimpse, Plane};
use super::point::{Place, Point};
use crate::error::{Error, InvalidDump, Result};
use candle_core::{DType, Tensor};
use gemma_mlp::checkpoint::{Remark, RemarkKind};
use gemma_mlp::internal::{FewNames, Numbers};
use std::collections::{BTreeMap, BTreeSet};

/// The most tokens and positions of a dump.
const MAX_IDS: usize = 1 << 24;

/// The most arrays that are read of a dump: a thousand layers with all their points.
const MAX_ARRAYS: usize = 1 << 14;

/// The most texts of a dump, and the most arrays of all of them together.
const MAX_TEXTS: usize = 1 << 12;
const MAX_PLANES: usize = 1 << 20;

/// An array, row-major.
pub(super) struct Array {
    pub(super) shape: Vec<usize>,
    pub(super) elements: Elements,
}

/// The elements of an array.
pub(super) enum Elements {
    /// In a file, of any dtype.
    File(Numbers),
    /// In memory, of any dtype.
    Memory(Tensor),
    /// Some of them, by their place in the whole, as they were printed: as exactly as the last number
    /// says.
    Printed(Vec<(usize, f64)>, f64),
}

/// Arrays that are put together to a dump.
pub(super) struct Assembly<'a> {
    source: String,
    names: &'a Names,
    found: BTreeMap<Meaning, Found>,
    /// Entries of the map that have been used.
    used: BTreeSet<&'a str>,
    unknown: FewNames,
    /// Those whose meaning is that of another.
    surplus: FewNames,
    /// Those that are not what they should be, with why.
    unfit: FewNames,
    remarks: Vec<Remark>,
    has_last_layer: bool,
}

struct Found {
    name: String,
    rank: usize,
    array: Array,
}

/// The texts of a batch, and how many tokens each has, where that is known.
#[derive(Clone, Copy)]
struct Batch {
    texts: usize,
    tokens: Option<usize>,
}

impl<'a> Assembly<'a> {
    /// An empty one; `source` is the file's or folder's name.
    pub(super) fn new(source: impl Into<String>, names: &'a Names) -> Self {
        Self {
            source: source.into(),
            names,
            found: BTreeMap::new(),
            used: BTreeSet::new(),
            unknown: FewNames::default(),
            surplus: FewNames::default(),
            unfit: FewNames::default(),
            remarks: vec![],
            has_last_layer: false,
        }
    }

    /// Says that the last layer that has an array is the model's last one.
    pub(super) fn has_last_layer(&mut self) {
        self.has_last_layer = true;
    }

    /// Says something about the dump.
    pub(super) fn remark(&mut self, remark: Remark) {
        self.remarks.push(remark);
    }

    /// Adds an array, which is asked for if its name is known and none with a surer name is there. Whether
    /// the name means anything.
    pub(super) fn add(
        &mut self,
        name: &str,
        array: impl FnOnce() -> Result<Array>,
    ) -> Result<bool> {
        self.names.mark(name, &mut self.used);
        let (meaning, rank) = match self.names.read(name) {
            Reading::As(meaning, rank) => (meaning, rank),
            Reading::LeftOut => return Ok(true),
            Reading::Unknown => {
                self.unknown.push(name);
                return Ok(false);
            }
        };
        if let Some(found) = self.found.get(&meaning) {
            if found.rank == rank {
                let (a, b) = (found.name.clone(), name.into());
                let meant = meaning.to_string();
                return Err(self.fail(InvalidDump::Twice { meant, a, b }));
            }
            if found.rank < rank {
                self.surplus.push(name);
                return Ok(true);
            }
            let name = found.name.clone();
            self.surplus.push(&name);
        } else if self.found.len() == MAX_ARRAYS {
            return Err(
                self.fail(InvalidDump::TooMany { limit: MAX_ARRAYS, of: "tensors of points" })
            );
        }
        let array = array()?;
        self.found.insert(meaning, Found { name: name.into(), rank, array });
        Ok(true)
    }

    /// What the arrays are a dump of.
    pub(super) fn finish(mut self, metadata: BTreeMap<String, String>) -> Result<Dump> {
        self.name_last_hidden();
        let tokens = match self.found.remove(&Meaning::Tokens) {
            Some(found) => Some(self.ids("token ids", &found)?),
            None => None,
        };
        let batch = match &tokens {
            Some((batch, _)) => *batch,
            None => Batch { texts: self.guess_texts(), tokens: None },
        };
        let positions = match self.found.remove(&Meaning::Positions) {
            Some(found) => {
                let name = found.name.clone();
                let (of, ids) = self.ids("positions", &found)?;
                if of.texts != batch.texts && of.texts != 1 {
                    let reason =
                        format!("it is of {} texts, the rest of {}", of.texts, batch.texts);
                    return Err(self.tensor(&name, reason));
                }
                Some((name, of, ids))
            }
            None => None,
        };
        if batch.texts > MAX_TEXTS {
            return Err(self.fail(InvalidDump::TooMany { limit: MAX_TEXTS, of: "texts" }));
        }
        if batch.texts * self.found.len() > MAX_PLANES {
            let of = "tensors over all texts of the batch";
            return Err(self.fail(InvalidDump::TooMany { limit: MAX_PLANES, of }));
        }
        let mut texts = vec![DumpText::default(); batch.texts];
        if let Some((Batch { tokens: Some(len), .. }, ids)) = &tokens {
            for (text, ids) in texts.iter_mut().zip(ids.chunks_exact(*len)) {
                text.tokens = Some(ids.to_vec());
            }
        }
        for (meaning, found) in std::mem::take(&mut self.found) {
            let Meaning::Point(point) = meaning else { continue };
            let name = found.name.clone();
            if let Err(reason) = place(point, found.array, batch, &mut texts)? {
                self.unfit.push(&format!("{name} ({reason})"));
            }
        }
        if let Some((name, of, ids)) = &positions {
            self.place_positions(name, *of, ids, &mut texts)?;
        }
        self.check(&texts, tokens.is_some())?;
        self.say();
        let Self { source, remarks, .. } = self;
        Ok(Dump { source, format: "", metadata, texts, remarks })
    }

    /// What enters the last norm is what leaves the last layer, which is known if it is said, or if all
    /// layers are there from the first one on.
    fn name_last_hidden(&mut self) {
        let Some(found) = self.found.remove(&Meaning::LastHidden) else { return };
        let layer = |meaning: &Meaning| match meaning {
            Meaning::Point(point) => point.layer(),
            _ => None,
        };
        let layers: BTreeSet<_> = self.found.keys().filter_map(layer).collect();
        match layers.last().copied() {
            Some(last) if self.has_last_layer || layers.len() == last + 1 => {
                let hidden = Meaning::Point(Point::Layer(last, Place::Hidden));
                self.found.entry(hidden).or_insert(found);
            }
            _ => self.unfit.push(&format!("{} (which layer is the last is not known)", found.name)),
        }
    }

    /// How many texts planes have that must have an axis for them.
    fn guess_texts(&self) -> usize {
        let batched = self.found.iter().find_map(|(meaning, found)| match meaning {
            Meaning::Point(Point::Layer(_, Place::Queries | Place::Keys | Place::Values)) => None,
            Meaning::Point(_) if found.array.shape.len() == 3 => found.array.shape.first().copied(),
            _ => None,
        });
        batched.unwrap_or(1).max(1)
    }

    /// Token ids or positions, `[T]` or `[B, T]`.
    fn ids(&mut self, what: &str, Found { name, array, .. }: &Found) -> Result<(Batch, Vec<u32>)> {
        let (texts, len) = match array.shape[..] {
            [len] => (1, len),
            [texts, len] => (texts, len),
            _ => {
                let reason =
                    format!("{what} of shape {:?}; they must be [T] or [B, T]", array.shape);
                return Err(self.tensor(name, reason));
            }
        };
        let count = texts.checked_mul(len).filter(|&count| count <= MAX_IDS);
        let Some(count) = count else {
            return Err(self.fail(InvalidDump::TooMany { limit: MAX_IDS, of: "token ids" }));
        };
        if count == 0 {
            return Err(
                self.tensor(name, format!("{what} of shape {:?}: there are none", array.shape))
            );
        }
        let (floats, ids) = match &array.elements {
            Elements::File(numbers) => {
                use safetensors::Dtype::*;
                let dtype = numbers.dtype();
                let integers = matches!(dtype, U8 | I8 | U16 | I16 | U32 | I32 | U64 | I64);
                if !integers && numbers.float().is_none() {
                    return Err(
                        self.tensor(name, format!("{what} in {dtype:?}; store them as integers"))
                    );
                }
                (!integers, numbers.ids(0..count)?)
            }
            Elements::Memory(tensor) => (tensor.dtype().is_float(), in_memory(tensor)?),
            Elements::Printed(values, _) => {
                // Places in a row, or some were left out.
                if values.len() != count {
                    let reason =
                        format!("{what}, of which {} of {count} are printed", values.len());
                    return Err(self.tensor(name, reason));
                }
                (false, values.iter().map(|&(_, value)| whole(value)).collect())
            }
        };
        if let Some(at) = ids.iter().position(Option::is_none) {
            let reason =
                format!("number {at}, from 0 on, is not a whole number from 0 to {}", u32::MAX);
            return Err(self.tensor(name, format!("{what} that are none: {reason}")));
        }
        if floats {
            let text = format!(
                "the {what} ({name}) are stored as floating-point numbers, and read as integers"
            );
            self.remark(Remark::note(RemarkKind::Chosen, text));
        }
        Ok((Batch { texts, tokens: Some(len) }, ids.into_iter().flatten().collect()))
    }

    /// The positions of each text's logits; of one text they are those of all.
    fn place_positions(
        &self,
        name: &str,
        of: Batch,
        ids: &[u32],
        texts: &mut [DumpText],
    ) -> Result<()> {
        let len = ids.len() / of.texts;
        for (i, text) in texts.iter_mut().enumerate() {
            let at = if of.texts == 1 { 0 } else { i * len };
            let ids = &ids[at..at + len];
            let rows = text.planes.get(&Point::Logits).map(Plane::positions);
            if rows.is_some_and(|rows| rows != len) {
                let rows = rows.unwrap_or_default();
                return Err(self.tensor(name, format!("{len} positions for {rows} rows of logits")));
            }
            let end = text.tokens.as_ref().map_or(usize::MAX, Vec::len);
            if let Some(position) = ids.iter().find(|&&position| position as usize >= end) {
                let reason = format!("position {position} of {end} tokens; they count from 0");
                return Err(self.tensor(name, reason));
            }
            text.logit_positions = Some(ids.iter().map(|&id| id as usize).collect());
        }
        Ok(())
    }

    /// Refuses a dump of nothing that was computed.
    fn check(&self, texts: &[DumpText], has_tokens: bool) -> Result<()> {
        if texts.iter().any(|text| !text.planes.is_empty() || !text.glimpses.is_empty()) {
            return Ok(());
        }
        let names = self.unknown.to_string();
        let first = names.split(", ").next().unwrap_or_default();
        Err(self.fail(match () {
            () if self.unfit.count > 0 => {
                InvalidDump::Malformed(format!("nothing can be read: {}", self.unfit))
            }
            () if first.ends_with(".weight") => InvalidDump::Weights { first: first.into() },
            () if has_tokens && self.unknown.count == 0 => InvalidDump::TokensAlone,
            () if self.unknown.count == 0 => InvalidDump::Empty,
            () => InvalidDump::NothingKnown { names },
        }))
    }

    /// What was not read, and why.
    fn say(&mut self) {
        let Self { unknown, surplus, unfit, .. } = &*self;
        let note = |text| Remark::note(RemarkKind::Unused, text);
        let warning = |text| Remark::warning(RemarkKind::Unused, text);
        let unused = self.names.unused(&self.used);
        let all = [
            (unfit.count > 0).then(|| warning(format!("tensors that are not used: {unfit}"))),
            (unknown.count > 0).then(|| {
                note(format!(
                    "tensors of unknown names, not used: {unknown}; --map says what they are"
                ))
            }),
            (surplus.count > 0).then(|| {
                note(format!("tensors that hold what others hold too, not used: {surplus}"))
            }),
            (unused.count > 0)
                .then(|| warning(format!("names in the map that the dump has not: {unused}"))),
        ];
        self.remarks.extend(all.into_iter().flatten());
    }

    fn fail(&self, reason: InvalidDump) -> Error {
        Error::Dump { name: self.source.clone(), reason }
    }

    fn tensor(&self, name: &str, reason: impl Into<String>) -> Error {
        self.fail(InvalidDump::Tensor { tensor: name.into(), reason: reason.into() })
    }
}

/// Gives each text its part of an array, or says why that cannot be.
fn place(
    point: Point,
    array: Array,
    batch: Batch,
    texts: &mut [DumpText],
) -> Result<std::result::Result<(), String>> {
    let Array { shape, elements } = unstacked(point, array, batch)?;
    let rows = match rows(point, &shape, batch) {
        Ok(rows) => rows,
        Err(reason) => return Ok(Err(reason)),
    };
    let mut flat = vec![rows * texts.len()];
    flat.extend(&shape[shape.len() - width_axes(point, &shape, batch)..]);
    let plane = match elements {
        Elements::File(numbers) => {
            let dtype = numbers.dtype();
            match Plane::in_file(numbers, flat) {
                Some(plane) => plane,
                None => {
                    return Ok(Err(format!(
                        "stored as {dtype:?}; it must be F64, F32, BF16 or F16"
                    )));
                }
            }
        }
        Elements::Memory(tensor) => match tensor.dtype() {
            DType::F64 | DType::F32 | DType::BF16 | DType::F16 => Plane::new(tensor.reshape(flat)?),
            other => {
                let other = other.as_str();
                return Ok(Err(format!("stored as {other}; it must be f64, f32, bf16 or f16")));
            }
        },
        Elements::Printed(values, precision) => {
            flat[0] = rows;
            let len: usize = flat.iter().product();
            let mut glimpses: Vec<Glimpse> = texts
                .iter()
                .map(|_| Glimpse { shape: flat.clone(), values: vec![], sum: None, precision })
                .collect();
            for (at, value) in values {
                if let Some(glimpse) = glimpses.get_mut(at / len) {
                    glimpse.values.push((at % len, value));
                }
            }
            for (text, glimpse) in texts.iter_mut().zip(glimpses) {
                text.glimpses.insert(point, glimpse);
            }
            return Ok(Ok(()));
        }
    };
    for (i, text) in texts.iter_mut().enumerate() {
        text.planes.insert(point, plane.part(i * rows..(i + 1) * rows)?);
    }
    Ok(Ok(()))
}

/// Residual streams that are stacked in front, `[streams, B, T, H]` as transformers' Gemma 3n has them, or `[streams, T,
/// H]`, side by side: `[B, T, streams · H]`.
fn unstacked(point: Point, array: Array, Batch { texts, tokens }: Batch) -> Result<Array> {
    let of_streams = matches!(point, Point::Embedding | Point::Layer(_, Place::Hidden));
    let stacked = match array.shape[..] {
        [_, batch, len, _] => batch == texts && tokens.is_none_or(|tokens| len <= tokens),
        // Of one text, whose axis is left out.
        [streams, len, _] => texts == 1 && streams > 1 && tokens == Some(len),
        _ => false,
    };
    if !(of_streams && stacked) || array.shape.contains(&0) {
        return Ok(array);
    }
    let tensor = match &array.elements {
        Elements::Memory(tensor) => tensor.clone(),
        Elements::File(numbers) => {
            let Some(plane) = Plane::in_file(numbers.clone(), array.shape.clone()) else {
                return Ok(array);
            };
            plane.tensor()?
        }
        Elements::Printed(..) => return Ok(array),
    };
    let (streams, hidden) = (array.shape[0], array.shape[array.shape.len() - 1]);
    let len = array.shape[array.shape.len() - 2];
    let tensor = tensor.reshape((streams, texts, len, hidden))?.permute((1, 2, 0, 3))?;
    let shape = vec![texts, len, streams * hidden];
    let tensor = tensor.contiguous()?.reshape(shape.as_slice())?;
    Ok(Array { shape, elements: Elements::Memory(tensor) })
}

/// How many rows an array has for each text: `[T, …]`, `[B, T, …]`, or the texts one behind the other.
fn rows(point: Point, shape: &[usize], batch: Batch) -> std::result::Result<usize, String> {
    let Batch { texts, tokens } = batch;
    if shape.contains(&0) {
        return Err(format!("shape {shape:?}, which is empty"));
    }
    let axes = width_axes(point, shape, batch);
    match shape.len() - axes {
        _ if shape.len() < 2 => Err(format!("shape {shape:?}; it must be [T, …] or [B, T, …]")),
        1 if texts == 1 => Ok(shape[0]),
        1 if tokens.is_some_and(|tokens| Some(shape[0]) == tokens.checked_mul(texts)) => {
            Ok(shape[0] / texts)
        }
        1 => Err(format!("shape {shape:?} without an axis for the {texts} texts")),
        2 if shape[0] == texts => Ok(shape[1]),
        2 => Err(format!("shape {shape:?}, a batch of {}, where the dump has {texts}", shape[0])),
        _ => Err(format!("shape {shape:?}; it must be [T, …] or [B, T, …]")),
    }
}

/// How many of an array's axes are a position's own: one, or for queries, keys and values two, unless
/// their heads lie in one.
fn width_axes(point: Point, shape: &[usize], Batch { texts, tokens }: Batch) -> usize {
    let of_heads = matches!(point, Point::Layer(_, Place::Queries | Place::Keys | Place::Values));
    match shape.len() {
        0 => 0,
        4 if of_heads => 2,
        3 if of_heads => match tokens {
            Some(tokens) if texts == 1 && shape[0] == tokens => 2,
            Some(_) if shape[0] == texts => 1,
            Some(_) => 2,
            None if texts == 1 && shape[0] != 1 => 2,
            None => 1,
        },
        _ => 1,
    }
}

fn in_memory(tensor: &Tensor) -> Result<Vec<Option<u32>>> {
    let flat = tensor.flatten_all()?;
    Ok(if tensor.dtype().is_float() {
        flat.to_dtype(DType::F64)?.to_vec1()?.into_iter().map(whole).collect()
    } else {
        let integers: Vec<i64> = flat.to_dtype(DType::I64)?.to_vec1()?;
        integers.into_iter().map(|id| id.try_into().ok()).collect()
    })
}

fn whole(x: f64) -> Option<u32> {
    (x.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&x)).then_some(x as u32)
}

impl Dump {
    /// One of tensors in memory, by their canonical names or any that [`Names`] knows: as if they had been
    /// read from a file `source` with this metadata.
    ///
    /// # Errors
    /// No tensor of a known name, two of one meaning, `tokens` or `positions` that are none; candle's.
    pub fn from_tensors(
        source: &str,
        metadata: BTreeMap<String, String>,
        tensors: impl IntoIterator<Item = (String, Tensor)>,
        names: &Names,
    ) -> Result<Self> {
        let mut assembly = Assembly::new(source, names);
        for (name, tensor) in tensors {
            let shape = tensor.dims().to_vec();
            assembly.add(&name, || Ok(Array { shape, elements: Elements::Memory(tensor) }))?;
        }
        let dump = assembly.finish(metadata)?;
        Ok(Self { format: "tensors in memory", ..dump })
    }
}
