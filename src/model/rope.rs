//! Rotary position embedding.

use crate::checkpoint::{LayerAttention, Rotated};
use crate::kernels::number::wide_dtype;
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
    turned: Turned,
    rounding: RopeRounding,
    /// Cosines and sines of all positions so far, in f32.
    tables: Arc<Mutex<Option<Tables>>>,
}

type Tables = (Tensor, Tensor);

/// Which pairs of a head are turned, and how fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Turned {
    /// Numbers of a head.
    head_dim: usize,
    /// How many of the first ones pair up, `(x[i], x[i + width/2])`; the rest stay as they are.
    width: usize,
    /// The first pairs that have an angle; that of the others is 0.
    pairs: usize,
    /// What exponents are divided by: `theta^(-2i/over)`.
    over: usize,
}

impl Turned {
    fn new(rotated: Rotated, head_dim: usize) -> Self {
        let all = Self { head_dim, width: head_dim, pairs: head_dim / 2, over: head_dim };
        match rotated {
            Rotated::All => all,
            Rotated::Pairs(pairs) => Self { pairs: pairs.min(head_dim / 2), ..all },
            Rotated::First(width) => Self { head_dim, width, pairs: width / 2, over: width },
        }
    }

    /// Of one pair the angle is the position, whatever exponents are divided by.
    fn normal_form(self) -> Self {
        if self.pairs > 1 { self } else { Self { over: self.head_dim, ..self } }
    }

    /// The same taken for something else.
    fn taken_for(self, partial: PartialRope) -> Self {
        let part = 2 * self.pairs;
        match partial {
            PartialRope::FirstNumbers => Self { width: part, ..self },
            PartialRope::ExponentsOverPart => Self { over: part, ..self },
            PartialRope::Part => Self { width: part, over: part, ..self },
            PartialRope::WholeHead => Self::new(Rotated::All, self.head_dim),
        }
    }
}

/// What a rotary embedding that turns a part of each head is taken for. Gemma 4's "proportional" turns the first
/// `n` of the pairs `(x[i], x[i + d/2])` by `position · theta^(-2i/d)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartialRope {
    /// The first `2n` numbers turn among themselves, `(x[i], x[i + n])`, by the right angles.
    FirstNumbers,
    /// The right pairs turn by `position · theta^(-i/n)`.
    ExponentsOverPart,
    /// Both: partial rotary embeddings as most other models have them, by which the first `2n` numbers are a head of
    /// their own.
    Part,
    /// All pairs turn.
    WholeHead,
}

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
    /// The embedding of a layer.
    pub fn new(layer: &LayerAttention) -> Self {
        Self {
            theta: layer.rope_theta,
            factor: layer.rope_factor,
            turned: Turned::new(layer.rotated, layer.head_dim),
            rounding: RopeRounding::None,
            tables: Arc::default(),
        }
    }

    /// Whether it rotates as a layer asks for.
    pub fn fits(&self, layer: &LayerAttention) -> bool {
        let turned = Turned::new(layer.rotated, layer.head_dim);
        (self.theta, self.factor, self.turned) == (layer.rope_theta, layer.rope_factor, turned)
    }

    /// Whether another has its base and factor.
    pub(super) fn has_base_of(&self, other: &Self) -> bool {
        (self.theta, self.factor) == (other.theta, other.factor)
    }

    /// One of this width that rotates by another's base and factor.
    pub(super) fn with_base_of(&self, other: &Self) -> Self {
        Self { theta: other.theta, factor: other.factor, tables: Arc::default(), ..self.clone() }
    }

    /// Whether positions are divided by something.
    pub(super) fn is_scaled(&self) -> bool {
        self.factor != 1.0
    }

    /// One that divides positions by nothing.
    pub(super) fn without_factor(&self) -> Self {
        Self { factor: 1.0, tables: Arc::default(), ..self.clone() }
    }

    /// One that turns a part of each head taken for something else; `None` where that is the same.
    pub(super) fn taken_for(&self, partial: PartialRope) -> Option<Self> {
        let turned = self.turned.taken_for(partial);
        let differs = self.turned.normal_form() != turned.normal_form();
        let varied = || Self { turned, tables: Arc::default(), ..self.clone() };
        (turned.pairs > 0 && differs).then(varied)
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
        let (cos, sin) = self.rows(start, x.dim(2)?, x.device())?; // [seq, pairs]
        let wide = |table: Tensor| table.to_dtype(wide_dtype(x.dtype()));
        let (cos, sin) = (wide(cos)?, wide(sin)?);
        self.on_turned(x, |x| Self::rotate(x, &cos, &sin))
    }

    /// Changes the numbers that are turned, and leaves the rest of a head as it is.
    fn on_turned(
        &self,
        x: &Tensor,
        turn: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (width, all) = (self.turned.width, x.dim(D::Minus1)?);
        if width == all {
            return turn(x);
        }
        let rest = x.narrow(D::Minus1, width, all - width)?;
        Tensor::cat(&[turn(&x.narrow(D::Minus1, 0, width)?)?, rest], D::Minus1)
    }

    /// [`Self::apply`], rounded to a dtype after every operation.
    pub(super) fn apply_rounded(&self, x: &Tensor, start: usize, dtype: DType) -> Result<Tensor> {
        let round = |x: Tensor| x.to_dtype(dtype)?.to_dtype(x.dtype());
        let (cos, sin) = self.rows(start, x.dim(2)?, x.device())?; // [seq, pairs]
        let (cos, sin) = (round(cos)?.to_dtype(x.dtype())?, round(sin)?.to_dtype(x.dtype())?);
        self.on_turned(x, |x| {
            let half = x.dim(D::Minus1)? / 2;
            let (a, b) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
            let times = |x: &Tensor, table: &Tensor| round(x.broadcast_mul(table)?);
            let first = round((times(&a, &cos)? - times(&b, &sin)?)?)?;
            let second = round((times(&b, &cos)? + times(&a, &sin)?)?)?;
            Tensor::cat(&[first, second], D::Minus1)
        })
    }

    fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
        // candle's rotation in one pass has no gradient.
        let rotate = if x.track_op() { rope_slow } else { rope };
        rotate(&x.contiguous()?, cos, sin)
    }

    /// Cosines and sines of some positions in f32, each `[seq, pairs]`.
    pub(super) fn rows(&self, start: usize, seq: usize, device: &Device) -> Result<Tables> {
        let (cos, sin) = self.tables(start + seq, device)?;
        Ok((cos.narrow(0, start, seq)?, sin.narrow(0, start, seq)?))
    }

    /// Cosines and sines of at least the positions `0..len`, each `[≥ len, pairs]`.
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

    /// Pairs `(x[i], x[i + pairs])` of a head, of which some may have an angle of 0.
    pub(super) fn pairs(&self) -> usize {
        self.turned.width / 2
    }

    /// The angles of positions `0..len`, row after row.
    fn wide_angles(&self, len: usize) -> Vec<f64> {
        let (pairs, turning) = (self.pairs(), self.turned.pairs);
        let angle = |at: usize| {
            let (position, pair) = (at / pairs, at % pairs);
            let exponent = -2.0 * pair as f64 / self.turned.over as f64;
            match pair < turning {
                true => position as f64 * self.theta.powf(exponent) / self.factor,
                false => 0.0,
            }
        };
        (0..len * pairs).map(angle).collect()
    }

    fn iterated_angles(&self, len: usize) -> Vec<f64> {
        let step = (self.theta as f32).powf(-2.0 / self.turned.over as f32);
        let factor = self.factor.recip() as f32;
        let (pairs, turning) = (self.pairs(), self.turned.pairs);
        let row = |position: usize| {
            let angles =
                std::iter::successors(Some(position as f32), move |angle| Some(angle * step));
            let angles = angles.take(turning).map(move |angle| f64::from(angle * factor));
            angles.chain(std::iter::repeat(0.0)).take(pairs)
        };
        (0..len).flat_map(row).collect()
    }

    /// Cosines and sines of angles.
    fn tables_of(&self, angles: Vec<f64>, device: &Device) -> Result<Tables> {
        let half = self.pairs();
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
        let (theta, dim) = (self.theta as f32, self.turned.over as f32);
        let frequency = |i: usize| match i < self.turned.pairs {
            true => 1.0 / theta.powf((2 * i) as f32 / dim) / self.factor as f32,
            false => 0.0,
        };
        let frequencies: Vec<f32> = (0..self.pairs()).map(frequency).collect();
        let frequencies = Tensor::from_vec(frequencies, (1, self.pairs()), device)?;
        let positions = Tensor::arange(0u32, len as u32, device)?.to_dtype(DType::F32)?;
        let positions = positions.unsqueeze(1)?; // [len, 1]
        let round = |t: Tensor, dtype: DType| t.to_dtype(dtype)?.to_dtype(DType::F32);
        let angles = |p: &Tensor, f: &Tensor| p.broadcast_mul(f); // [len, pairs]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::ValuesFrom;

    fn rope(rotated: Rotated) -> RotaryEmbedding {
        RotaryEmbedding::new(&LayerAttention {
            num_key_value_heads: 1,
            head_dim: 16,
            sliding_window: None,
            sliding_window_behind: None,
            rope_theta: 1e4,
            rope_factor: 1.0,
            rotated,
            values: ValuesFrom::Projection,
            shares: None,
        })
    }

    #[test]
    fn what_a_partial_rotation_is_taken_for() -> Result<()> {
        let x = Tensor::randn(0f32, 1., (1, 2, 9, 16), &Device::Cpu)?;
        let numbers = |rope: &RotaryEmbedding| rope.apply(&x, 3)?.flatten_all()?.to_vec1::<f32>();
        let pairs = rope(Rotated::Pairs(3));
        for (partial, rotated) in
            [(PartialRope::Part, Rotated::First(6)), (PartialRope::WholeHead, Rotated::All)]
        {
            let taken = pairs.taken_for(partial).unwrap();
            assert_eq!(numbers(&taken)?, numbers(&rope(rotated))?);
            assert!(rope(Rotated::All).taken_for(partial).is_none());
            assert!(rope(Rotated::Pairs(0)).taken_for(PartialRope::Part).is_none());
        }
        // The exponent of a single pair is 0.
        let one = rope(Rotated::Pairs(1));
        assert!(one.taken_for(PartialRope::ExponentsOverPart).is_none());
        assert!(one.taken_for(PartialRope::FirstNumbers).is_some());
        Ok(())
    }
}
