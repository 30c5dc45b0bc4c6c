//! Matrices before they are packed: in memory, or in a file.

use super::stored::PANEL;
use crate::kernels::number::is_float;
use candle_core::quantized::GgmlDType;
use candle_core::{DType, Error, Result, Tensor};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::iter::repeat_n;
use std::ops::Range;
use std::sync::Arc;

/// A matrix whose rows are read when they are needed.
pub(crate) trait Source: Debug + Send + Sync {
    /// Some of its rows, `[rows, columns]`, on the CPU, in f32, bf16 or f16.
    ///
    /// # Errors
    /// Rows that cannot be read.
    fn rows(&self, rows: Range<usize>) -> Result<Tensor>;

    /// The type of its blocks, if its numbers are quantised and are to stay so.
    fn blocks(&self) -> Option<GgmlDType> {
        None
    }

    /// Some of its rows, as blocks.
    ///
    /// # Errors
    /// Rows that cannot be read; numbers that are not quantised.
    fn read_blocks(&self, rows: Range<usize>) -> Result<Vec<u8>> {
        candle_core::bail!("rows {rows:?} of {self:?} are not quantised")
    }
}

thread_local! {
    /// What stands for which source, while a model is made.
    static DEFERRED: RefCell<Option<HashMap<candle_core::TensorId, Arc<dyn Source>>>> =
        const { RefCell::new(None) };
}

/// Calls `make`, which makes layers and packs them: matrices that a `VarBuilder` of a checkpoint's gives it are read when
/// they are packed, straight into their place there.
///
/// # Errors
/// Those of `make`; a matrix that was not packed, and so never read.
pub(crate) fn deferring<T>(make: impl FnOnce() -> Result<T>) -> Result<T> {
    /// Ends it, also if `make` fails or panics.
    struct Before(Option<HashMap<candle_core::TensorId, Arc<dyn Source>>>);
    impl Drop for Before {
        fn drop(&mut self) {
            DEFERRED.set(self.0.take());
        }
    }
    let _before = Before(DEFERRED.replace(Some(HashMap::new())));
    let made = make()?;
    match DEFERRED.with_borrow(|all| all.iter().flat_map(HashMap::values).next().cloned()) {
        None => Ok(made),
        Some(source) => candle_core::bail!("{source:?} was not packed, and so not read"),
    }
}

/// Whether matrices are read only when they are packed.
pub(crate) fn is_deferring() -> bool {
    DEFERRED.with_borrow(Option::is_some)
}

/// A tensor that stands for a source until it is packed. It takes no memory, and all its numbers are NaN: whatever is
/// computed with it by mistake shows.
pub(crate) fn deferred(source: Arc<dyn Source>, shape: &[usize], dtype: DType) -> Result<Tensor> {
    let nan = Tensor::full(f32::NAN, 1, &candle_core::Device::Cpu)?.to_dtype(dtype)?;
    let tensor = nan.broadcast_as(shape)?;
    DEFERRED.with_borrow_mut(|all| all.get_or_insert_default().insert(tensor.id(), source));
    Ok(tensor)
}

/// What a tensor stands for, if it does; it does no longer.
fn take_source(tensor: &Tensor) -> Option<Arc<dyn Source>> {
    DEFERRED.with_borrow_mut(|all| all.as_mut()?.remove(&tensor.id()))
}

/// The rows of a matrix as several, of so many rows each; of what stands for a source these stand for its parts.
pub(super) fn split(tensor: &Tensor, rows: &[usize]) -> Result<Vec<Tensor>> {
    let source = take_source(tensor);
    let mut first = 0;
    let part = |&len: &usize| {
        let start = first;
        first += len;
        match &source {
            None => tensor.narrow(0, start, len)?.contiguous(),
            Some(source) => {
                let part = Arc::new(Part { source: source.clone(), first: start });
                deferred(part, &[len, tensor.dim(1)?], tensor.dtype())
            }
        }
    };
    rows.iter().map(part).collect()
}

/// The rows of a source from one on.
#[derive(Debug)]
struct Part {
    source: Arc<dyn Source>,
    first: usize,
}

impl Source for Part {
    fn rows(&self, rows: Range<usize>) -> Result<Tensor> {
        self.source.rows(self.first + rows.start..self.first + rows.end)
    }

    fn blocks(&self) -> Option<GgmlDType> {
        self.source.blocks()
    }

    fn read_blocks(&self, rows: Range<usize>) -> Result<Vec<u8>> {
        self.source.read_blocks(self.first + rows.start..self.first + rows.end)
    }
}

/// A matrix `[rows, columns]` to be packed: parts of tensors and of what stands for a source, one below the other.
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    blocks: Vec<Block>,
    columns: usize,
    dtype: DType,
}

#[derive(Debug, Clone)]
struct Block {
    content: Content,
    rows: Range<usize>,
}

#[derive(Debug, Clone)]
enum Content {
    Tensor(Tensor),
    Source(Arc<dyn Source>),
}

impl Matrix {
    /// A tensor `[..., columns]`, of which all dimensions but the last count as rows. What stands for a source is
    /// read from there, and stands for it no longer.
    ///
    /// # Errors
    /// A scalar or a vector, nothing to pack, a tensor that is not in the CPU's memory, or of no dtype of floats.
    pub fn of(tensor: &Tensor) -> Result<Self> {
        let (Some(&columns), 2..) = (tensor.dims().last(), tensor.rank()) else {
            candle_core::bail!("a weight of shape {:?} is no matrix", tensor.dims())
        };
        if tensor.elem_count() == 0 {
            candle_core::bail!("a weight of shape {:?} has nothing to pack", tensor.dims())
        }
        let dtype = tensor.dtype();
        if !is_float(dtype) || dtype == DType::F64 {
            return Err(Error::UnsupportedDTypeForOp(dtype, "pack"));
        }
        if !tensor.device().is_cpu() {
            candle_core::bail!("weights are packed in the CPU's memory")
        }
        let rows = tensor.elem_count() / columns;
        let content = match take_source(tensor) {
            Some(source) => Content::Source(source),
            None => Content::Tensor(tensor.reshape((rows, columns))?.contiguous()?),
        };
        Ok(Self { blocks: vec![Block { content, rows: 0..rows }], columns, dtype })
    }

    /// Several, one below the other, in a dtype that holds the numbers of all.
    ///
    /// # Errors
    /// None at all, or of different widths.
    pub fn stacked(matrices: Vec<Self>) -> Result<Self> {
        let Some(first) = matrices.first() else { candle_core::bail!("no weight to pack") };
        let columns = first.columns;
        if let Some(other) = matrices.iter().find(|other| other.columns != columns) {
            candle_core::bail!("weights of {columns} and {} columns side by side", other.columns)
        }
        let matrices = Self::alike(matrices);
        let dtype = matrices[0].dtype;
        Ok(Self { blocks: matrices.into_iter().flat_map(|m| m.blocks).collect(), columns, dtype })
    }

    /// Several in one dtype: their own, or else f32, which holds the numbers of all.
    pub fn alike(mut matrices: Vec<Self>) -> Vec<Self> {
        let dtypes = matrices.iter().map(|matrix| matrix.dtype);
        if dtypes.collect::<HashSet<_>>().len() > 1 {
            matrices.iter_mut().for_each(|matrix| matrix.dtype = DType::F32);
        }
        matrices
    }

    /// Some of its rows.
    pub fn narrow(&self, start: usize, len: usize) -> Self {
        let wanted = start..start + len;
        let mut before = 0;
        let blocks = self.blocks.iter().filter_map(|block| {
            let first = before;
            before += block.rows.len();
            let start = wanted.start.max(first);
            let end = wanted.end.min(before);
            let at = block.rows.start;
            (start < end).then(|| Block {
                content: block.content.clone(),
                rows: at + start - first..at + end - first,
            })
        });
        Self { blocks: blocks.collect(), ..*self }
    }

    /// How many rows it has.
    pub fn rows(&self) -> usize {
        self.blocks.iter().map(|block| block.rows.len()).sum()
    }

    /// How many columns it has.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// What its numbers are.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Whether any of it is not in memory.
    pub fn is_deferred(&self) -> bool {
        self.blocks.iter().any(|block| matches!(block.content, Content::Source(_)))
    }

    /// The type of the blocks of each 32 rows; `None` unless all of it is quantised, and each 32 are of one type.
    pub fn blocks(&self) -> Option<Vec<GgmlDType>> {
        let mut kinds = vec![];
        for (i, Block { content, rows }) in self.blocks.iter().enumerate() {
            let Content::Source(source) = content else { return None };
            let last = i + 1 == self.blocks.len();
            let kind = source.blocks().filter(|_| last || rows.len().is_multiple_of(PANEL))?;
            kinds.extend(repeat_n(kind, rows.len().div_ceil(PANEL)));
        }
        Some(kinds)
    }

    /// Its rows, one below the other, as blocks.
    ///
    /// # Errors
    /// Those of [`Source::read_blocks`].
    pub fn read_blocks(&self) -> Result<Vec<u8>> {
        let read = |Block { content, rows }: &Block| match content {
            Content::Tensor(_) => candle_core::bail!("rows {rows:?} in memory are not quantised"),
            Content::Source(source) => source.read_blocks(rows.clone()),
        };
        Ok(self.blocks.iter().map(read).collect::<Result<Vec<_>>>()?.concat())
    }

    /// Its rows, one below the other: `[rows, columns]` of each block. Nothing in memory is copied.
    ///
    /// # Errors
    /// Those of [`Source::rows`].
    pub fn read(&self) -> Result<Vec<Tensor>> {
        let read = |Block { content, rows }: &Block| match content {
            Content::Tensor(tensor) => tensor.narrow(0, rows.start, rows.len()),
            Content::Source(source) => source.rows(rows.clone()),
        };
        self.blocks.iter().map(|block| read(block)?.to_dtype(self.dtype)).collect()
    }
}
