//! Tensors by name, out of safetensors files or those of another format whose headers are read elsewhere. Only
//! headers are read when files are opened; a tensor's bytes are read when it is asked for.

mod canonical;
mod elements;
mod file;
pub(super) mod header;
pub(super) mod index;
mod numbers;
pub(super) mod scaled;
pub(super) mod shard;
pub(super) mod siblings;
mod storage;
pub(super) mod table;

use super::json::malformed;
use super::remark::{Names, Remark, RemarkKind};
use crate::error::{Error, Result};
use crate::kernels::linear::matrix::{Source, deferred, is_deferring};
use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use canonical::renamed;
pub use file::File;
use half::bf16;
use header::Stored;
use index::Index;
pub use numbers::Numbers;
pub use scaled::Codes;
use scaled::{Place, Scaled};
use shard::Shard;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
pub use storage::Storage;
use table::Table;

pub(in crate::checkpoint) const WEIGHTS: &str = "model.safetensors";
pub(in crate::checkpoint) const INDEX: &str = "model.safetensors.index.json";

/// The tensors of a checkpoint. Cloning shares them.
///
/// Names are without what wrappers add to them (`_orig_mod.`, `module.`, `base_model.model.`).
#[derive(Clone)]
pub struct Tensors {
    files: Arc<Inner>,
    /// What weights are turned into when they are read, by name.
    requantised: Option<Arc<BTreeMap<String, Storage>>>,
}

struct Inner {
    /// The checkpoint, for messages about tensors that no file has.
    path: PathBuf,
    shards: Vec<Shard>,
    /// Which file has which tensor, if there are several.
    routing: Table<u16>,
    /// What is odd about the files.
    remarks: Vec<Remark>,
    /// What to check where a tensor is missing.
    remedy: &'static str,
}

/// That of a checkpoint whose config is a file of its own.
const BELONG_TOGETHER: &str = "check that config.json and the weights belong together";

impl Tensors {
    /// Opens the safetensors files of a directory: `model.safetensors`, or else the shards that
    /// `model.safetensors.index.json` names, in the order in which transformers looks for them.
    pub(in crate::checkpoint) fn open(dir: &Path) -> Result<Self> {
        let (path, index) = (dir.join(WEIGHTS), dir.join(INDEX));
        let mut remarks = siblings::remarks(dir);
        if path.exists() {
            if index.exists() {
                let text = format!(
                    "there are {WEIGHTS} and {INDEX}; {WEIGHTS} is read, as in transformers"
                );
                remarks.push(Remark::warning(RemarkKind::Chosen, text));
            }
            Self::new(dir, vec![Shard::open(path)?], Table::default(), remarks)
        } else if index.exists() {
            Self::open_sharded(dir, &index, remarks)
        } else {
            Err(Error::MissingFile { path, remedy: siblings::remedy(dir) })
        }
    }

    /// One safetensors file, whatever it holds.
    ///
    /// # Errors
    /// A file that cannot be opened, or is not a valid safetensors file.
    pub fn open_file(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        Self::new(&path.clone(), vec![Shard::open(path)?], Table::default(), vec![])
    }

    /// Several safetensors files of one directory, whatever they hold. They are opened for each reading,
    /// so that there may be more of them than a program may have open.
    ///
    /// # Errors
    /// As [`Self::open_file`]; no files or more than 4096; two that have a tensor of one name.
    pub fn open_files(dir: &Path, names: &[String]) -> Result<Self> {
        if names.is_empty() || names.len() > index::MAX_SHARDS {
            let most = index::MAX_SHARDS;
            return Err(malformed(
                dir,
                format!("{} safetensors files; 1 to {most} are read", names.len()),
            ));
        }
        let open = |name: &String| Shard::closed(dir.join(name));
        let shards = names.iter().map(open).collect::<Result<Vec<_>>>()?;
        let routing = routing(dir, &shards)?;
        Self::new(dir, shards, routing, vec![])
    }

    /// Files of another format, with what was read of their headers: at most [`index::MAX_SHARDS`]. `path` is for
    /// messages, and `remedy` says what to check where a tensor is missing.
    ///
    /// # Errors
    /// Two that have a tensor of one name.
    pub(in crate::checkpoint) fn of_shards(
        path: &Path,
        shards: Vec<Shard>,
        remedy: &'static str,
    ) -> Result<Self> {
        let routing = routing(path, &shards)?;
        Ok(Self::of(Inner { path: path.into(), shards, routing, remarks: vec![], remedy }))
    }

    /// One file in memory, with a path for messages.
    pub(crate) fn from_bytes(path: &Path, bytes: impl Into<Cow<'static, [u8]>>) -> Result<Self> {
        let shard = Shard::from_bytes(path, bytes.into())?;
        Self::new(path, vec![shard], Table::default(), vec![])
    }

    fn new(
        path: &Path,
        shards: Vec<Shard>,
        routing: Table<u16>,
        mut remarks: Vec<Remark>,
    ) -> Result<Self> {
        remarks.extend(renamed(shards.iter().map(Shard::renamed).sum()));
        let (path, remedy) = (path.into(), BELONG_TOGETHER);
        Ok(Self::of(Inner { path, shards, routing, remarks, remedy }))
    }

    /// All tensors of all shards, as transformers has them. The index says which shards there are, and decides where
    /// two of them have a tensor of one name.
    fn open_sharded(dir: &Path, index: &Path, mut remarks: Vec<Remark>) -> Result<Self> {
        let Index { files, tensors } = Index::read(index)?;
        let open = |file: &String| Shard::open(shard_path(dir, file)?);
        let shards = files.iter().map(open).collect::<Result<Vec<_>>>()?;
        let mut routing = Table::default();
        for (at, shard) in shards.iter().enumerate() {
            for (name, _) in shard.tensors().iter() {
                let others = shards[..at].iter().chain(&shards[at + 1..]);
                let elsewhere =
                    others.filter(|shard| shard.tensors().get(name).is_some()).count() > 0;
                let meant = tensors.get(name).is_some_and(|&meant| usize::from(meant) == at);
                if meant || !elsewhere {
                    routing
                        .push(name, at as u16)
                        .map_err(|_| malformed(index, "its names are too long"))?;
                }
            }
        }
        let routing = routing
            .sorted()
            .map_err(|name| malformed(index, format!("tensor '{name}' is there twice")))?;
        let names = tensors.iter().map(|(name, _)| name);
        let lacking: Names = names.filter(|name| routing.get(name).is_none()).collect();
        if lacking.count > 0 {
            let text = format!(
                "{INDEX} lists {} tensors that no shard has ({}); it is out of date, or a shard is",
                lacking.count, lacking
            );
            remarks.push(Remark::warning(RemarkKind::Chosen, text));
        }
        Self::new(dir, shards, routing, remarks)
    }

    /// The checkpoint's directory, for messages.
    pub(in crate::checkpoint) fn path(&self) -> &Path {
        &self.files.path
    }

    /// What is odd about the files.
    pub fn remarks(&self) -> &[Remark] {
        &self.files.remarks
    }

    /// What to check where a tensor is missing.
    pub(in crate::checkpoint) fn remedy(&self) -> &'static str {
        self.files.remedy
    }

    /// The files.
    pub(in crate::checkpoint) fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.shards.iter().map(Shard::path)
    }

    /// The files, each with what its header says of itself (`__metadata__`, of which the first 1024 entries
    /// and the first MiB are kept).
    pub fn metadata(&self) -> impl Iterator<Item = (&Path, &BTreeMap<String, String>)> {
        self.files.shards.iter().map(|shard| (shard.path(), shard.metadata()))
    }

    /// Whether a file has the tensor.
    pub fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn of(files: Inner) -> Self {
        Self { files: Arc::new(files), requantised: None }
    }

    /// The same with weights that are quantised, or rounded to f16, when they are read.
    pub(in crate::checkpoint) fn requantised(&self, to: BTreeMap<String, Storage>) -> Self {
        Self { files: self.files.clone(), requantised: Some(Arc::new(to)) }
    }

    /// What a weight is turned into when it is read.
    fn target(&self, name: &str) -> Option<Storage> {
        self.requantised.as_ref()?.get(name).copied()
    }

    /// All names, sorted.
    pub(in crate::checkpoint) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries().map(|(name, ..)| name)
    }

    /// All names, sorted, with shape and what the tensor is stored as, or turned into. No tensor is read.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &[usize], Storage)> {
        let Inner { shards, routing, .. } = &*self.files;
        let one = match &shards[..] {
            [only] => Some(only.tensors().iter()),
            _ => None,
        };
        let several = routing
            .iter()
            .filter_map(|(name, &at)| Some((name, shards[usize::from(at)].tensors().get(name)?)));
        let all = one.into_iter().flatten().chain(several);
        all.map(|(name, stored)| {
            (name, stored.shape(), self.target(name).unwrap_or(stored.storage))
        })
    }

    /// Bytes of all files together.
    pub fn size_in_bytes(&self) -> u64 {
        self.files.shards.iter().map(|shard| shard.len()).sum()
    }

    /// Refuses files that were written to since they were opened. Every read does so for its own
    /// file; through a `VarBuilder` the refusal comes back as candle's error.
    ///
    /// # Errors
    /// The first such file.
    pub fn check_unchanged(&self) -> Result<()> {
        self.files.shards.iter().try_for_each(|shard| shard.check_unchanged())
    }

    /// The shape of a tensor. It is not read.
    ///
    /// # Errors
    /// A name that no file has.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        self.info(name).map(|(_, stored)| stored.shape())
    }

    /// Checks shape and dtype of a weight by the header alone and returns its dtype.
    ///
    /// # Errors
    /// A tensor that is missing, has another shape, or holds neither F64, F32, BF16 or F16 nor what is dequantised.
    pub fn check(&self, name: &str, shape: &[usize]) -> Result<DType> {
        let (shard, stored) = self.info(name)?;
        // Packed weights have another shape too, which is not what is wrong with them.
        let dtype = self.dtype(name)?;
        if stored.shape() != shape {
            return Err(Error::Shape {
                path: shard.path().into(),
                tensor: name.into(),
                found: stored.shape().into(),
                expected: shape.into(),
            });
        }
        Ok(dtype)
    }

    /// The dtype that a weight is read as: the stored one, f32 where it is quantised.
    ///
    /// # Errors
    /// A tensor that is missing, or holds neither F64, F32, BF16 or F16 nor what is dequantised; one whose scales do not
    /// fit it.
    pub fn dtype(&self, name: &str) -> Result<DType> {
        let (shard, stored) = self.info(name)?;
        let numbers = self.numbers(name)?;
        numbers.float().ok_or_else(|| Error::WeightDType {
            path: shard.path().into(),
            tensor: name.into(),
            dtype: stored.storage.to_string(),
        })
    }

    /// Reads a weight, as `dtype`, onto a device.
    ///
    /// # Errors
    /// As [`Self::check`]; a file that was written to since it was opened.
    pub fn load(
        &self,
        name: &str,
        shape: &[usize],
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let stored = self.check(name, shape)?;
        let (shard, info) = self.info(name)?;
        let tensor = match (stored, dtype) {
            // Widened as they are read. What is turned into something else is read in another dtype.
            (DType::BF16, DType::F32) => {
                let wide = shard.elements(info, |b| bf16::from_le_bytes(b).to_f32())?;
                Tensor::from_vec(wide, shape, device)?
            }
            _ => {
                let numbers = self.numbers(name)?;
                numbers.tensor(0..numbers.len(), shape)?.to_device(device)?
            }
        };
        Ok(tensor.to_dtype(dtype)?)
    }

    /// The elements of a tensor of any dtype, row-major, to be read later and in part.
    ///
    /// # Errors
    /// A name that no file has; a weight whose scales do not fit it.
    #[doc(hidden)]
    pub fn numbers(&self, name: &str) -> Result<Numbers> {
        let (shard, stored) = self.info(name)?;
        fits(name, shard, stored)?;
        Ok(shard.numbers(stored).requantised(name, self.target(name)))
    }

    /// Where the numbers of a tensor are, if a file has it and they lie there one by one.
    pub(in crate::checkpoint) fn place(&self, name: &str) -> Option<Place> {
        let (shard, stored) = self.find(name)?;
        shard.place_of(stored)
    }

    /// The same with something else to check where a tensor is missing.
    pub(in crate::checkpoint) fn with_remedy(&self, remedy: &'static str) -> Result<Self> {
        self.with(remedy, &HashMap::new(), &HashSet::new())
    }

    /// The same with weights in place of the codes that are stored for them, by the names of these, and without some
    /// tensors.
    ///
    /// # Errors
    /// A weight that is there twice.
    pub(in crate::checkpoint) fn with_weights(
        &self,
        weights: &HashMap<String, Weight>,
        without: &HashSet<String>,
    ) -> Result<Self> {
        self.with(self.remedy(), weights, without)
    }

    fn with(
        &self,
        remedy: &'static str,
        weights: &HashMap<String, Weight>,
        without: &HashSet<String>,
    ) -> Result<Self> {
        let Inner { path, shards, remarks, .. } = &*self.files;
        let invalid =
            |path: &Path, reason: String| Error::Safetensors { path: path.into(), reason };
        let shards = shards.iter().map(|shard| {
            let mut table = Table::default();
            let left = shard.tensors().iter().filter(|(name, _)| !without.contains(*name));
            for (name, stored) in left {
                let (name, stored) = match weights.get(name) {
                    Some(weight) => (&*weight.name, stored.clone().of(&weight.scaled)),
                    None => (name, stored.clone()),
                };
                let pushed = table.push(name, stored);
                pushed.map_err(|_| invalid(shard.path(), "its names are too long".into()))?;
            }
            let twice = |name| {
                invalid(
                    shard.path(),
                    format!("tensor '{name}' is there twice, with and without scales"),
                )
            };
            Ok(shard.with_tensors(table.sorted().map_err(twice)?))
        });
        let shards = shards.collect::<Result<Vec<_>>>()?;
        let (path, remarks) = (path.clone(), remarks.clone());
        let mut routing = Table::default();
        for (name, &at) in self.files.routing.iter().filter(|(name, _)| !without.contains(*name)) {
            let name = weights.get(name).map_or(name, |weight| &weight.name);
            let pushed = routing.push(name, at);
            pushed.map_err(|_| malformed(&path, "its names are too long"))?;
        }
        let twice = |name| {
            malformed(&path, format!("tensor '{name}' is there twice, with and without scales"))
        };
        let routing = routing.sorted().map_err(twice)?;
        Ok(Self::of(Inner { path, shards, routing, remarks, remedy }))
    }

    /// Whether a dtype holds every weight as exactly as it is stored, but for those that stay in their blocks, whatever a
    /// model runs in.
    pub fn are_exact_in(&self, dtype: DType) -> bool {
        self.entries().all(|(name, _, storage)| {
            let is_exact = |stored| is_exact(stored, dtype);
            storage.kept().is_some() || self.dtype(name).map_or(true, is_exact)
        })
    }

    /// Whether two tensors have one dtype, one shape and the same bytes. Reads both up to where they differ.
    pub(in crate::checkpoint) fn are_equal(&self, name: &str, other: &str) -> Result<bool> {
        let ((shard, stored), other) = (self.info(name)?, self.info(other)?);
        if let (Some(Ok(scaled)), Some(Ok(other))) = (&stored.scaled, &other.1.scaled) {
            return scaled.is_equal(other);
        }
        let alike = stored.storage == other.1.storage
            && stored.plus_one == other.1.plus_one
            && stored.shape() == other.1.shape();
        Ok(alike && shard.are_equal(stored, other)?)
    }

    /// Counts NaN and infinities in a weight. Reads all of it.
    ///
    /// # Errors
    /// As [`Self::dtype`]; a file that was written to since it was opened.
    pub fn count_nonfinite(&self, name: &str) -> Result<usize> {
        self.dtype(name)?;
        let (shard, info) = self.info(name)?;
        shard.count_nonfinite(info)
    }

    /// A `VarBuilder` that reads from these tensors, for candle-nn's own layers, as a dtype.
    pub fn var_builder(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        self.builder(false, dtype, device)
    }

    /// A `VarBuilder` that reads weights as they are stored, and rounds to `dtype` only those that it
    /// does not hold exactly: for layers that are packed next, in the dtype that their weights have.
    pub fn var_builder_as_stored(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        self.builder(true, dtype, device)
    }

    fn builder(&self, as_stored: bool, dtype: DType, device: &Device) -> VarBuilder<'static> {
        let backend = Backend { tensors: self.clone(), as_stored };
        VarBuilder::from_backend(Box::new(backend), dtype, device.clone())
    }

    fn info(&self, name: &str) -> Result<(&Shard, &Stored)> {
        self.find(name).ok_or_else(|| Error::MissingTensor {
            path: self.files.path.clone(),
            tensor: name.into(),
            remedy: self.remedy().into(),
        })
    }

    fn find(&self, name: &str) -> Option<(&Shard, &Stored)> {
        let Inner { shards, routing, .. } = &*self.files;
        let shard = match &shards[..] {
            [only] => only,
            _ => &shards[usize::from(*routing.get(name)?)],
        };
        Some((shard, shard.tensors().get(name)?))
    }
}

/// What stands for the codes that a file has.
pub(in crate::checkpoint) struct Weight {
    /// What it is called.
    pub(in crate::checkpoint) name: String,
    /// The weight, or why there is none.
    pub(in crate::checkpoint) scaled: std::result::Result<Arc<Scaled>, Arc<str>>,
}

/// Refuses a weight of codes that cannot be dequantised.
fn fits(name: &str, shard: &Shard, stored: &Stored) -> Result<()> {
    match &stored.scaled {
        Some(Err(reason)) => Err(Error::Quantised {
            path: shard.path().into(),
            tensor: name.into(),
            reason: reason.to_string(),
        }),
        _ => Ok(()),
    }
}

/// Which of several files has which tensor; nothing of one alone.
fn routing(path: &Path, shards: &[Shard]) -> Result<Table<u16>> {
    let mut routing = Table::default();
    for (at, shard) in shards.iter().enumerate().filter(|_| shards.len() > 1) {
        for (name, _) in shard.tensors().iter() {
            let pushed = routing.push(name, at as u16);
            pushed.map_err(|_| malformed(path, "its names are too long"))?;
        }
    }
    let twice = |name| malformed(path, format!("tensor '{name}' is in two of its files"));
    routing.sorted().map_err(twice)
}

fn shard_path(dir: &Path, shard: &str) -> Result<PathBuf> {
    let path = dir.join(shard);
    if !path.exists() {
        let remedy = "model.safetensors.index.json names it; download the missing shard";
        return Err(Error::MissingFile { path, remedy: remedy.into() });
    }
    Ok(path)
}

/// Tensors for a `VarBuilder`.
struct Backend {
    tensors: Tensors,
    as_stored: bool,
}

impl Backend {
    fn load(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        self.tensors.load(name, shape, self.dtype(name, dtype)?, device)
    }

    /// What a tensor is read as, to be held in a dtype.
    fn dtype(&self, name: &str, dtype: DType) -> Result<DType> {
        let stored = self.tensors.dtype(name)?;
        Ok(if self.as_stored && is_exact(stored, dtype) { stored } else { dtype })
    }

    /// What stands for a matrix that is read when it is packed.
    fn defer(&self, name: &str, shape: &[usize], dtype: DType) -> candle_core::Result<Tensor> {
        let source = || -> Result<_> {
            self.tensors.check(name, shape)?;
            let numbers = self.tensors.numbers(name)?;
            let dtype = match numbers.storage().kept() {
                Some(_) => DType::F32,
                None => self.dtype(name, dtype)?,
            };
            let columns = shape.last().copied().unwrap_or(0);
            Ok(StoredRows { name: name.into(), numbers, columns, dtype })
        };
        let source = source().map_err(Error::into_candle)?;
        let dtype = source.dtype;
        deferred(Arc::new(source), shape, dtype)
    }
}

/// Rows of a matrix in a file.
struct StoredRows {
    name: String,
    numbers: Numbers,
    columns: usize,
    /// What they are rounded to.
    dtype: DType,
}

impl fmt::Debug for StoredRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tensor '{}'", self.name)
    }
}

impl Source for StoredRows {
    fn rows(&self, rows: Range<usize>) -> candle_core::Result<Tensor> {
        let (columns, shape) = (self.columns, [rows.len(), self.columns]);
        let numbers = self.numbers.tensor(rows.start * columns..rows.end * columns, &shape);
        numbers.map_err(Error::into_candle)?.to_dtype(self.dtype)
    }

    fn blocks(&self) -> Option<GgmlDType> {
        self.numbers.storage().kept()
    }

    fn read_blocks(&self, rows: Range<usize>) -> candle_core::Result<Vec<u8>> {
        let blocks = self.numbers.blocks(rows.start * self.columns..rows.end * self.columns);
        blocks.map_err(Error::into_candle)
    }
}

/// Whether every number of a dtype is one of another.
fn is_exact(stored: DType, dtype: DType) -> bool {
    match (stored, dtype) {
        (_, DType::F64) => true,
        (DType::F64, _) => false,
        (_, DType::F32) => true,
        _ => stored == dtype,
    }
}

impl SimpleBackend for Backend {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        // Weights that would be drawn at random are those that are multiplied by, and packed for it.
        let is_weight = shape.rank() >= 2 && !matches!(init, Init::Const(_));
        if is_weight && self.as_stored && is_deferring() {
            return self.defer(name, shape.dims(), dtype);
        }
        self.load(name, shape.dims(), dtype, device).map_err(Error::into_candle)
    }

    fn get_unchecked(
        &self,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let shape = self.tensors.shape(name).map_err(Error::into_candle)?;
        self.load(name, shape, dtype, device).map_err(Error::into_candle)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.tensors.contains(name)
    }
}
