//! Which experts a row goes to, and with what weights.

use crate::error::InvalidLayer;
use candle_core::{DType, Result, Tensor};

/// The experts that were chosen for every row of an input, and their weights.
///
/// Its rows are those of an input `[..., hidden]`, of any rank, one after the other.
#[derive(Debug, Clone)]
pub struct Routing {
    indices: Tensor,
    weights: Tensor,
}

impl Routing {
    /// Experts by index, `[rows, k]` in any integer dtype, and their weights, `[rows, k]` in f32, f64, bf16
    /// or f16, through which a backward pass goes.
    ///
    /// # Errors
    /// Other shapes or dtypes. Whether the experts exist is checked where they are used.
    pub fn new(indices: &Tensor, weights: &Tensor) -> Result<Self> {
        if indices.rank() != 2 || indices.dims() != weights.dims() {
            return Err(InvalidLayer::Routing {
                indices: indices.dims().to_vec(),
                weights: weights.dims().to_vec(),
            }
            .into());
        }
        if !indices.dtype().is_int() {
            return Err(InvalidLayer::RoutingDType { dtype: indices.dtype() }.into());
        }
        if !matches!(weights.dtype(), DType::F32 | DType::F64 | DType::BF16 | DType::F16) {
            return Err(InvalidLayer::DType { layer: "router", dtype: weights.dtype() }.into());
        }
        Ok(Self { indices: indices.clone(), weights: weights.clone() })
    }

    /// The experts of every row, by index: `[rows, k]`. Of [`Router`](super::Router)'s the likeliest is first.
    pub fn indices(&self) -> &Tensor {
        &self.indices
    }

    /// Their weights: `[rows, k]`.
    pub fn weights(&self) -> &Tensor {
        &self.weights
    }

    /// Which rows chose which expert, in order of expert index; an expert that nobody chose is not among
    /// them.
    pub(super) fn choices(&self, rows: usize, experts: usize) -> Result<Vec<Choice>> {
        let (found, k) = self.indices.dims2()?;
        if found != rows {
            candle_core::bail!("a routing of {found} rows for an input of {rows}")
        }
        if u32::try_from(self.indices.elem_count()).is_err() {
            candle_core::bail!("{rows} rows of {k} experts are more than 2^32 choices")
        }
        // Every integer dtype fits into i64: nothing is cut off before it is checked.
        let indices = self.indices.to_dtype(DType::I64)?.flatten_all()?.to_vec1::<i64>()?;
        let mut choices: Vec<Option<Choice>> = (0..experts).map(|_| None).collect();
        for (pair, &index) in indices.iter().enumerate() {
            let Some(expert) = usize::try_from(index).ok().filter(|&expert| expert < experts)
            else {
                candle_core::bail!("row {} chose expert {index} of {experts}", pair / k)
            };
            let choice = choices[expert].get_or_insert_with(|| Choice {
                expert,
                rows: vec![],
                pairs: vec![],
            });
            choice.rows.push((pair / k) as u32);
            choice.pairs.push(pair as u32);
        }
        Ok(choices.into_iter().flatten().collect())
    }
}

/// An expert, and who chose it.
#[derive(Debug, Clone)]
pub(super) struct Choice {
    pub expert: usize,
    /// The rows that chose it, in their order.
    pub rows: Vec<u32>,
    /// For each of them where in a routing's `[rows · k]` numbers the choice is.
    pub pairs: Vec<u32>,
}
