//! Tensors by name, out of safetensors files. Only the headers are read when the files are opened; a
//! tensor's bytes are read when it is asked for.

use super::json::{parse_json, read_text};
use super::shard::Shard;
use crate::error::{Error, Result};
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use half::{bf16, f16};
use safetensors::{Dtype, tensor::TensorInfo};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) const WEIGHTS: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// The tensors of a checkpoint. Cloning shares them.
#[derive(Clone)]
pub struct Tensors(Arc<Inner>);

struct Inner {
    /// The checkpoint, for messages about tensors that no file has.
    path: PathBuf,
    shards: Vec<Shard>,
    /// Which file has which tensor.
    routing: BTreeMap<String, usize>,
}

impl Tensors {
    /// Opens the safetensors files of a directory: `model.safetensors`, or else the shards that
    /// `model.safetensors.index.json` names, in the order in which transformers looks for them.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let (path, index) = (dir.join(WEIGHTS), dir.join(INDEX));
        if path.exists() {
            Ok(Self::single(dir, Shard::open(path)?))
        } else if index.exists() {
            Self::open_sharded(dir, &index)
        } else {
            let remedy =
                "a checkpoint has model.safetensors, or shards with model.safetensors.index.json";
            Err(Error::MissingFile { path, remedy: remedy.into() })
        }
    }

    /// One file that is part of the program.
    #[cfg(feature = "embedded")]
    pub(super) fn from_static(path: &Path, bytes: &'static [u8]) -> Result<Self> {
        Ok(Self::single(path, Shard::from_static(path, bytes)?))
    }

    fn single(path: &Path, shard: Shard) -> Self {
        let routing = shard.names().into_iter().map(|name| (name, 0)).collect();
        Self(Arc::new(Inner { path: path.into(), shards: vec![shard], routing }))
    }

    fn open_sharded(dir: &Path, index: &Path) -> Result<Self> {
        let weight_map = read_weight_map(index)?;
        let mut shards: Vec<Shard> = vec![];
        let mut opened: HashMap<&str, usize> = HashMap::new();
        let mut routing = BTreeMap::new();
        for (tensor, shard) in &weight_map {
            let at = match opened.get(shard.as_str()) {
                Some(&at) => at,
                None => {
                    shards.push(Shard::open(shard_path(dir, shard)?)?);
                    opened.insert(shard, shards.len() - 1);
                    shards.len() - 1
                }
            };
            if shards[at].info(tensor).is_none() {
                let remedy =
                    "model.safetensors.index.json says it is here; download the shard again";
                return Err(Error::MissingTensor {
                    path: shards[at].path().into(),
                    tensor: tensor.clone(),
                    remedy: remedy.into(),
                });
            }
            routing.insert(tensor.clone(), at);
        }
        Ok(Self(Arc::new(Inner { path: dir.into(), shards, routing })))
    }

    /// The checkpoint's directory, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.0.path
    }

    /// The files.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.0.shards.iter().map(Shard::path)
    }

    /// Whether a file has the tensor.
    pub fn contains(&self, name: &str) -> bool {
        self.0.routing.contains_key(name)
    }

    /// All names, sorted, with shape and dtype. No tensor is read.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &[usize], Dtype)> {
        self.0.routing.iter().filter_map(|(name, &at)| {
            let info = self.0.shards[at].info(name)?;
            Some((name.as_str(), info.shape.as_slice(), info.dtype))
        })
    }

    /// Bytes of all files together.
    pub fn size_in_bytes(&self) -> u64 {
        self.0.shards.iter().map(|shard| shard.len()).sum()
    }

    /// Refuses files that were written to since they were opened. Every read does so for its own
    /// file; through a `VarBuilder` the refusal comes back as candle's error.
    ///
    /// # Errors
    /// The first such file.
    pub fn check_unchanged(&self) -> Result<()> {
        self.0.shards.iter().try_for_each(|shard| shard.check_unchanged())
    }

    /// The shape of a tensor. It is not read.
    ///
    /// # Errors
    /// A name that no file has.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        self.info(name).map(|(_, info)| info.shape.as_slice())
    }

    /// Checks shape and dtype of a weight by the header alone and returns its dtype.
    ///
    /// # Errors
    /// A tensor that is missing, has another shape, or holds no F64, F32, BF16 or F16.
    pub fn check(&self, name: &str, shape: &[usize]) -> Result<DType> {
        let (shard, info) = self.info(name)?;
        if info.shape != shape {
            return Err(Error::Shape {
                path: shard.path().into(),
                tensor: name.into(),
                found: info.shape.clone(),
                expected: shape.into(),
            });
        }
        self.dtype(name)
    }

    /// The dtype of a weight.
    ///
    /// # Errors
    /// A tensor that is missing or holds no F64, F32, BF16 or F16.
    pub fn dtype(&self, name: &str) -> Result<DType> {
        let (shard, info) = self.info(name)?;
        match info.dtype {
            Dtype::F64 => Ok(DType::F64),
            Dtype::F32 => Ok(DType::F32),
            Dtype::BF16 => Ok(DType::BF16),
            Dtype::F16 => Ok(DType::F16),
            other => Err(Error::WeightDType {
                path: shard.path().into(),
                tensor: name.into(),
                dtype: format!("{other:?}"),
            }),
        }
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
            (DType::BF16, DType::F32) => {
                let wide = shard.elements(info, |b| bf16::from_le_bytes(b).to_f32())?;
                Tensor::from_vec(wide, shape, device)
            }
            (DType::BF16, _) => {
                Tensor::from_vec(shard.elements(info, bf16::from_le_bytes)?, shape, device)
            }
            (DType::F16, _) => {
                Tensor::from_vec(shard.elements(info, f16::from_le_bytes)?, shape, device)
            }
            (DType::F32, _) => {
                Tensor::from_vec(shard.elements(info, f32::from_le_bytes)?, shape, device)
            }
            _ => Tensor::from_vec(shard.elements(info, f64::from_le_bytes)?, shape, device),
        };
        Ok(tensor?.to_dtype(dtype)?)
    }

    /// Whether a dtype holds every weight as exactly as it is stored.
    pub fn are_exact_in(&self, dtype: DType) -> bool {
        self.0
            .routing
            .keys()
            .all(|name| self.dtype(name).map_or(true, |stored| is_exact(stored, dtype)))
    }

    /// Counts NaN and infinities in a weight. Reads all of it.
    ///
    /// # Errors
    /// As [`Self::dtype`]; a file that was written to since it was opened.
    pub fn count_nonfinite(&self, name: &str) -> Result<usize> {
        let (dtype, (shard, info)) = (self.dtype(name)?, self.info(name)?);
        match dtype {
            DType::F64 => shard.count_nonfinite(info, |b| f64::from_le_bytes(b).is_finite()),
            DType::F32 => shard.count_nonfinite(info, |b| f32::from_le_bytes(b).is_finite()),
            DType::BF16 => shard.count_nonfinite(info, |b| bf16::from_le_bytes(b).is_finite()),
            _ => shard.count_nonfinite(info, |b| f16::from_le_bytes(b).is_finite()),
        }
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

    fn info(&self, name: &str) -> Result<(&Shard, &TensorInfo)> {
        let found = self.0.routing.get(name).and_then(|&at| {
            let shard = &self.0.shards[at];
            Some((shard, shard.info(name)?))
        });
        found.ok_or_else(|| Error::MissingTensor {
            path: self.0.path.clone(),
            tensor: name.into(),
            remedy: "check that config.json and the weights belong together".into(),
        })
    }
}

/// Which shard has which tensor. An index must not lead out of its directory.
pub(super) fn read_weight_map(index: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let Index { weight_map } = parse_json(&read_text(index)?, index)?;
    for shard in weight_map.values() {
        if Path::new(shard).file_name() != Some(shard.as_ref()) {
            let reason = format!("the shard name '{shard}' is not a plain file name");
            return Err(Error::Json { path: index.into(), reason });
        }
    }
    Ok(weight_map)
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
        let stored = self.tensors.dtype(name)?;
        let dtype = if self.as_stored && is_exact(stored, dtype) { stored } else { dtype };
        self.tensors.load(name, shape, dtype, device)
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
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        self.load(name, shape.dims(), dtype, device).map_err(candle_core::Error::wrap)
    }

    fn get_unchecked(
        &self,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let shape = self.tensors.shape(name).map_err(candle_core::Error::wrap)?;
        self.load(name, shape, dtype, device).map_err(candle_core::Error::wrap)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.tensors.contains(name)
    }
}
