//! The header of a safetensors file: which tensors it has, and where.
//!
//! The format is that of <https://huggingface.co/docs/safetensors>. It is read here and not by the crate of that name,
//! whose maps take up to twenty times the header's length: what is kept is one table, in at most four times.

use super::canonical::canonical;
use super::file::File;
use super::scaled::Scaled;
use super::storage::Storage;
use super::table::Table;
use crate::checkpoint::json::is_lfs_pointer;
use crate::error::{Error, Result};
use safetensors::Dtype;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A length in front of everything.
const LENGTH: u64 = size_of::<u64>() as u64;

/// The longest header: the limit of safetensors itself.
const LONGEST: u64 = 100_000_000;

/// The most dimensions that a tensor may have; weights have two, convolutions four.
const MAX_RANK: usize = 8;

/// The most entries that are kept of `__metadata__`, and the most bytes of their texts together: far more
/// than anyone writes there.
const METADATA: (usize, usize) = (1 << 10, 1 << 20);

/// What a header says.
pub(in crate::checkpoint) struct Header {
    /// Where the tensors' bytes begin in the file.
    pub(in crate::checkpoint) data: u64,
    /// Where and what each is, by its canonical name.
    pub(in crate::checkpoint) tensors: Table<Stored>,
    /// How many of them have a wrapper in their name in the file.
    pub(in crate::checkpoint) renamed: usize,
    /// Its `__metadata__`, but for what goes beyond [`METADATA`].
    pub(in crate::checkpoint) metadata: BTreeMap<String, String>,
}

/// A tensor in a file.
#[derive(Clone)]
pub(in crate::checkpoint) struct Stored {
    pub(in crate::checkpoint) storage: Storage,
    shape: Dims,
    /// Its bytes, from [`Header::data`] on.
    pub(in crate::checkpoint) offsets: [usize; 2],
    /// Whether the file has every number plus 1, which is taken off again (norms in GGUF).
    pub(in crate::checkpoint) plus_one: bool,
    /// The weight that it is with its scales, where it has some, or why these make none of it.
    pub(in crate::checkpoint) scaled: Option<std::result::Result<Arc<Scaled>, Arc<str>>>,
}

impl Stored {
    /// One that lies somewhere; `None` if it has more dimensions than are read.
    pub(in crate::checkpoint) fn new(
        storage: Storage,
        shape: &[usize],
        offsets: [usize; 2],
    ) -> Option<Self> {
        let mut dims = Dims { rank: shape.len().try_into().ok()?, ..Dims::default() };
        dims.dims.get_mut(..shape.len())?.copy_from_slice(shape);
        Some(Self { storage, shape: dims, offsets, plus_one: false, scaled: None })
    }

    /// The weight that it is with its scales, or why it is none.
    pub(in crate::checkpoint) fn of(
        self,
        scaled: &std::result::Result<Arc<Scaled>, Arc<str>>,
    ) -> Self {
        let own = scaled.as_ref().ok().and_then(|scaled| {
            Self::new(Storage::Codes(scaled.codes()), scaled.shape(), self.offsets)
        });
        Self { scaled: Some(scaled.clone()), ..own.unwrap_or(self) }
    }

    pub(in crate::checkpoint) fn shape(&self) -> &[usize] {
        &self.shape.dims[..usize::from(self.shape.rank)]
    }

    /// How many bytes its shape and dtype take.
    pub(in crate::checkpoint) fn bytes(&self) -> Option<usize> {
        let elements = self.shape().iter().try_fold(1, |n: usize, &dim| n.checked_mul(dim))?;
        self.storage.bytes(elements)
    }
}

/// Reads the header, and nothing else, and checks it: that shapes and dtypes fill the offsets
/// exactly, without gaps or overlaps, from its own end to the end of the file.
pub(super) fn read(file: &File) -> Result<Header> {
    let invalid = |reason: String| Error::Safetensors { path: file.path().into(), reason };
    let mut beginning = [0; 64];
    let beginning = &mut beginning[..file.len().min(64) as usize];
    file.fill(0, beginning)?;
    if is_lfs_pointer(beginning) {
        return Err(Error::GitLfs { path: file.path().into() });
    }
    let Some((length, _)) = beginning.split_first_chunk() else {
        return Err(invalid("header too small".into()));
    };
    let length = u64::from_le_bytes(*length);
    if length > LONGEST {
        return Err(invalid("header too large".into()));
    }
    let data = LENGTH + length;
    if data > file.len() {
        return Err(invalid("the file ends within its header".into()));
    }
    let mut header = vec![0; length as usize];
    file.fill(LENGTH, &mut header)?;
    file.check_unchanged()?;
    let header = std::str::from_utf8(&header)
        .map_err(|e| invalid(format!("invalid UTF-8 in its header: {e}")))?;
    let Tensors { table, renamed, metadata } =
        serde_json::from_str(header).map_err(|e| invalid(format!("invalid header: {e}")))?;
    let tensors =
        table.sorted().map_err(|name| invalid(format!("tensor '{name}' is there twice")))?;
    check_places(&tensors, data, file.len()).map_err(invalid)?;
    Ok(Header { data, tensors, renamed, metadata })
}

/// Checks that tensors lie one behind the other, each as long as its shape says, up to the end of the file.
fn check_places(tensors: &Table<Stored>, data: u64, len: u64) -> std::result::Result<(), String> {
    let mut places: Vec<(usize, usize)> = Vec::with_capacity(tensors.len());
    for (name, stored) in tensors.iter() {
        let [start, end] = stored.offsets;
        let bytes = end.checked_sub(start);
        if bytes.is_none() || bytes != stored.bytes() {
            let (shape, dtype) = (stored.shape(), stored.storage);
            return Err(format!(
                "invalid offsets: tensor '{name}' of shape {shape:?} in {dtype} lies from byte {start} to {end}"
            ));
        }
        places.push((start, end));
    }
    places.sort_unstable();
    let mut done = 0;
    for (start, end) in places {
        if start != done {
            return Err(format!(
                "invalid offsets: a tensor begins at byte {start}, the one before it ends at {done}"
            ));
        }
        done = end;
    }
    let end = data.checked_add(done as u64);
    if end != Some(len) {
        let end = end.map_or("beyond any file".into(), |end| format!("at byte {end}"));
        return Err(format!("its tensors end {end}, the file at {len}"));
    }
    Ok(())
}

/// The object of a header.
struct Tensors {
    table: Table<Stored>,
    renamed: usize,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Tensors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Tensors;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Tensors, A::Error> {
        let (mut table, mut renamed, mut metadata) = (Table::default(), 0, BTreeMap::new());
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value_seed(TextMap(&mut metadata))?;
                continue;
            }
            let about = |e: A::Error| A::Error::custom(format!("tensor '{name}': {e}"));
            let Entry { dtype, shape, data_offsets } = map.next_value().map_err(about)?;
            let storage = Storage::Numbers(dtype);
            let stored =
                Stored { storage, shape, offsets: data_offsets, plus_one: false, scaled: None };
            let own = canonical(&name);
            renamed += usize::from(own != name);
            table.push(&own, stored).map_err(|_| A::Error::custom("its names are too long"))?;
        }
        Ok(Tensors { table, renamed, metadata })
    }
}

#[derive(Deserialize)]
struct Entry {
    dtype: Dtype,
    shape: Dims,
    data_offsets: [usize; 2],
}

/// A shape, of a size that is known.
#[derive(Debug, Clone, Default)]
struct Dims {
    dims: [usize; MAX_RANK],
    rank: u8,
}

impl<'de> Deserialize<'de> for Dims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct DimsVisitor;
        impl<'de> Visitor<'de> for DimsVisitor {
            type Value = Dims;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a shape of at most {MAX_RANK} dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut list: A,
            ) -> std::result::Result<Dims, A::Error> {
                let mut shape = Dims::default();
                while let Some(dim) = list.next_element()? {
                    let place = shape.dims.get_mut(usize::from(shape.rank));
                    *place.ok_or_else(|| A::Error::invalid_length(MAX_RANK + 1, &self))? = dim;
                    shape.rank += 1;
                }
                Ok(shape)
            }
        }
        deserializer.deserialize_seq(DimsVisitor)
    }
}

/// Checks that `__metadata__` maps texts to texts, as the format asks (other readers refuse anything else),
/// and keeps them within [`METADATA`].
struct TextMap<'a>(&'a mut BTreeMap<String, String>);

impl<'de> DeserializeSeed<'de> for TextMap<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for TextMap<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("__metadata__ to be an object of texts; write it anew with texts alone")
    }

    fn visit_unit<E>(self) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        /// A text of at most so many bytes; a longer one is passed over.
        struct Text(usize);
        impl<'de> DeserializeSeed<'de> for Text {
            type Value = Option<String>;

            fn deserialize<D: Deserializer<'de>>(
                self,
                deserializer: D,
            ) -> std::result::Result<Option<String>, D::Error> {
                deserializer.deserialize_str(self)
            }
        }
        impl Visitor<'_> for Text {
            type Value = Option<String>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E>(self, text: &str) -> std::result::Result<Option<String>, E> {
                Ok((text.len() <= self.0).then(|| text.into()))
            }
        }
        let (most, mut room) = METADATA;
        while let Some(key) = map.next_key::<String>()? {
            let about = |e: A::Error| {
                A::Error::custom(format!(
                    "__metadata__ must map texts to texts, and '{key}' does not: {e}"
                ))
            };
            let left = if self.0.len() < most { room.saturating_sub(key.len()) } else { 0 };
            if let Some(text) = map.next_value_seed(Text(left)).map_err(about)?
                && left > 0
            {
                room -= key.len() + text.len();
                self.0.insert(key, text);
            }
        }
        Ok(())
    }
}
