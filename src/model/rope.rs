//! Rotary position embedding.

use super::norm::wide_dtype;
use crate::checkpoint::LayerAttention;
use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::rotary_emb::{rope, rope_slow};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Rotates pairs `(x[i], x[i + d/2])` of each head by `position · theta^(-2i/d) / factor`
/// (Su et al. 2021, <https://arxiv.org/abs/2104.09864>; transformers' "rotate half" layout).
///
/// Angles are computed in f32 as the reference does, whatever the model's dtype: in bf16,
/// positions above 256 could not even be told apart. Clones share their tables.
#[derive(Debug, Clone)]
pub struct RotaryEmbedding {
    theta: f64,
    factor: f64,
    head_dim: usize,
    rounding: RopeRounding,
    /// Cosines and sines of all positions so far, in f32.
    tables: Arc<Mutex<Option<Tables>>>,
}

type Tables = (Tensor, Tensor);

/// What of a rotary embedding is rounded on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RopeRounding {
    /// Nothing: all is f32.
    #[default]
    None,
    /// Nothing before cosine and sine, which are f32: angles are f64. What f32 does to angles, which are up to the
    /// position in size, is the distance from this.
    Wide,
    /// Angles, which llama.cpp multiplies up in f32 from one pair to the next (`ggml_rope_cache_init`).
    Iterated,
    /// Cosine and sine.
    Tables(DType),
    /// The inverse frequencies.
    Frequencies(DType),
    /// Positions, inverse frequencies, angles, cosine and sine.
    Everything(DType),
}

impl RotaryEmbedding {
    /// The embedding of a layer whose heads are `head_dim` wide.
    pub fn new(layer: &LayerAttention, head_dim: usize) -> Self {
        Self {
            theta: layer.rope_theta,
            factor: layer.rope_factor,
            head_dim,
            rounding: RopeRounding::None,
            tables: Arc::default(),
        }
    }

    /// Whether it rotates as a layer asks for.
    pub fn fits(&self, layer: &LayerAttention) -> bool {
        (self.theta, self.factor) == (layer.rope_theta, layer.rope_factor)
    }

    /// Whether another rotates by the same angles.
    pub(super) fn rotates_like(&self, other: &Self) -> bool {
        (self.theta, self.factor) == (other.theta, other.factor)
    }

    /// A rotary embedding that rounds on the way.
    pub fn with_rounding(&self, rounding: RopeRounding) -> Self {
        Self { rounding, tables: Arc::default(), ..self.clone() }
    }

    /// Rotates `[batch, heads, seq, head_dim]` in f32 or f64, whose first position is `start`.
    ///
    /// # Errors
    /// candle's, if the device is out of memory.
    pub fn apply(&self, x: &Tensor, start: usize) -> Result<Tensor> {
        let (cos, sin) = self.rows(start, x.dim(2)?, x.device())?; // [seq, head_dim / 2]
        let wide = |table: Tensor| table.to_dtype(wide_dtype(x.dtype()));
        let (cos, sin) = (wide(cos)?, wide(sin)?);
        Self::rotate(x, &cos, &sin)
    }

    /// [`Self::apply`], rounded to a dtype after every operation.
    pub(super) fn apply_rounded(&self, x: &Tensor, start: usize, dtype: DType) -> Result<Tensor> {
        let round = |x: Tensor| x.to_dtype(dtype)?.to_dtype(x.dtype());
        let (cos, sin) = self.rows(start, x.dim(2)?, x.device())?; // [seq, head_dim / 2]
        let (cos, sin) = (round(cos)?.to_dtype(x.dtype())?, round(sin)?.to_dtype(x.dtype())?);
        let half = x.dim(D::Minus1)? / 2;
        let (a, b) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
        let times = |x: &Tensor, table: &Tensor| round(x.broadcast_mul(table)?);
        let first = round((times(&a, &cos)? - times(&b, &sin)?)?)?;
        let second = round((times(&b, &cos)? + times(&a, &sin)?)?)?;
        Tensor::cat(&[first, second], D::Minus1)
    }

    fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
        // candle's rotation in one pass has no gradient.
        let rotate = if x.track_op() { rope_slow } else { rope };
        rotate(&x.contiguous()?, cos, sin)
    }

    /// Cosines and sines of some positions in f32, each `[seq, head_dim / 2]`.
    pub(super) fn rows(&self, start: usize, seq: usize, device: &Device) -> Result<Tables> {
        let (cos, sin) = self.tables(start + seq, device)?;
        Ok((cos.narrow(0, start, seq)?, sin.narrow(0, start, seq)?))
    }

    /// Cosines and sines of at least the positions `0..len`, each `[≥ len, head_dim / 2]`.
    fn tables(&self, len: usize, device: &Device) -> Result<Tables> {
        let long_enough = |(cos, _): &Tables| cos.dims()[0] >= len;
        if let Some(tables) = self.lock().clone().filter(long_enough) {
            return Ok(tables);
        }
        // Made without the lock: two threads at once make them twice, and neither waits.
        let made = self.make_tables(len.next_power_of_two(), device)?;
        let mut tables = self.lock();
        if !tables.as_ref().is_some_and(long_enough) {
            *tables = Some(made.clone());
        }
        Ok(made)
    }

    /// Held for a copy of two handles, or a move: whole tables or none, also after a panic.
    fn lock(&self) -> MutexGuard<'_, Option<Tables>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The angles of positions `0..len`, row after row.
    fn wide_angles(&self, len: usize) -> Vec<f64> {
        let half = self.head_dim / 2;
        let angle = |at: usize| {
            let exponent = -2.0 * (at % half) as f64 / self.head_dim as f64;
            (at / half) as f64 * self.theta.powf(exponent) / self.factor
        };
        (0..len * half).map(angle).collect()
    }

    fn iterated_angles(&self, len: usize) -> Vec<f64> {
        let step = (self.theta as f32).powf(-2.0 / self.head_dim as f32);
        let factor = self.factor.recip() as f32;
        let row = |position: usize| {
            let angles =
                std::iter::successors(Some(position as f32), move |angle| Some(angle * step));
            angles.take(self.head_dim / 2).map(move |angle| f64::from(angle * factor))
        };
        (0..len).flat_map(row).collect()
    }

    /// Cosines and sines of angles.
    fn tables_of(&self, angles: Vec<f64>, device: &Device) -> Result<Tables> {
        let half = self.head_dim / 2;
        let table = |of: fn(f64) -> f64| {
            let values: Vec<f32> = angles.iter().map(|&angle| of(angle) as f32).collect();
            Tensor::from_vec(values, (angles.len() / half.max(1), half), device)
        };
        Ok((table(f64::cos)?, table(f64::sin)?))
    }

    fn make_tables(&self, len: usize, device: &Device) -> Result<Tables> {
        match self.rounding {
            RopeRounding::Wide => return self.tables_of(self.wide_angles(len), device),
            RopeRounding::Iterated => return self.tables_of(self.iterated_angles(len), device),
            _ => {}
        }
        let (theta, dim) = (self.theta as f32, self.head_dim as f32);
        let frequency = |i: usize| 1.0 / theta.powf((2 * i) as f32 / dim) / self.factor as f32;
        let frequencies: Vec<f32> = (0..self.head_dim / 2).map(frequency).collect();
        let frequencies = Tensor::from_vec(frequencies, (1, self.head_dim / 2), device)?;
        let positions = Tensor::arange(0u32, len as u32, device)?.to_dtype(DType::F32)?;
        let positions = positions.unsqueeze(1)?; // [len, 1]
        let round = |t: Tensor, dtype: DType| t.to_dtype(dtype)?.to_dtype(DType::F32);
        let angles = |p: &Tensor, f: &Tensor| p.broadcast_mul(f); // [len, head_dim / 2]
        match self.rounding {
            RopeRounding::None | RopeRounding::Wide | RopeRounding::Iterated => {
                cos_sin(&angles(&positions, &frequencies)?, Ok)
            }
            RopeRounding::Tables(dtype) => {
                cos_sin(&angles(&positions, &frequencies)?, |t| round(t, dtype))
            }
            RopeRounding::Frequencies(dtype) => {
                cos_sin(&angles(&positions, &round(frequencies, dtype)?)?, Ok)
            }
            RopeRounding::Everything(dtype) => {
                let angles = angles(&round(positions, dtype)?, &round(frequencies, dtype)?)?;
                cos_sin(&round(angles, dtype)?, |t| round(t, dtype))
            }
        }
    }
}

fn cos_sin(angles: &Tensor, round: impl Fn(Tensor) -> Result<Tensor>) -> Result<Tables> {
    Ok((round(angles.cos()?)?, round(angles.sin()?)?))
}
