//! An activation, or its derivative, of many numbers of any type.

use crate::kernels::gelu::{Double, Formula, Single};
use crate::kernels::number::{Float, SMALL_BUFFER, map, multiply, small_buffer};
use candle_core::DType;
use half::{bf16, f16};
use pulp::bytemuck::{cast_slice, cast_slice_mut};
use std::sync::OnceLock;

/// A function of one number, as loops over slices of one length.
///
/// The loops are compiled for each function: a call goes by a pointer, an element does not.
pub struct Pointwise {
    /// Within an ULP of f32.
    f32: fn(&[f32], &mut [f32]),
    /// Within a few ULP of f64.
    f64: fn(&[f64], &mut [f64]),
    /// In f64, as exactly as the nearest number of a half-precision type asks for.
    single: fn(&[f64], &mut [f64]),
    bf16: Tabulated<bf16>,
    f16: Tabulated<f16>,
}

impl Pointwise {
    /// An activation.
    pub const fn value<F: Formula>() -> Self {
        Self {
            f32: F::values_f32,
            f64: |x, y| {
                map(
                    x,
                    y,
                    #[inline(always)]
                    |x| F::value::<Double>(x),
                );
            },
            single: |x, y| {
                map(
                    x,
                    y,
                    #[inline(always)]
                    |x| F::value::<Single>(x),
                );
            },
            bf16: Tabulated::not_yet(),
            f16: Tabulated::not_yet(),
        }
    }

    /// An activation's derivative.
    pub const fn derivative<F: Formula>() -> Self {
        Self {
            f32: |x, y| {
                map(
                    x,
                    y,
                    #[inline(always)]
                    |x| F::derivative::<Single>(f64::from(x)) as f32,
                );
            },
            f64: |x, y| {
                map(
                    x,
                    y,
                    #[inline(always)]
                    |x| F::derivative::<Double>(x),
                );
            },
            single: |x, y| {
                map(
                    x,
                    y,
                    #[inline(always)]
                    |x| F::derivative::<Single>(x),
                );
            },
            bf16: Tabulated::not_yet(),
            f16: Tabulated::not_yet(),
        }
    }
}

impl Pointwise {
    /// Writes the function of every x, rounded to nearest.
    pub fn evaluate<T: Float>(&self, x: &[T], y: &mut [T]) {
        match T::DTYPE {
            DType::F32 => (self.f32)(cast_slice(x), cast_slice_mut(y)),
            DType::BF16 => {
                let table = &self.bf16.of(self, bf16::from_bits).rounded;
                look_up(table, cast_slice(x), cast_slice_mut(y), |x: bf16| x.to_bits());
            }
            DType::F16 => {
                let table = &self.f16.of(self, f16::from_bits).rounded;
                look_up(table, cast_slice(x), cast_slice_mut(y), |x: f16| x.to_bits());
            }
            _ => (self.f64)(cast_slice(x), cast_slice_mut(y)),
        }
    }

    /// Writes the function of every x as it is to be computed with.
    pub fn evaluate_wide<T: Float>(&self, x: &[T], y: &mut [T::Wide]) {
        match T::DTYPE {
            DType::F32 => (self.f32)(cast_slice(x), cast_slice_mut(y)),
            DType::BF16 => {
                let table = &self.bf16.of(self, bf16::from_bits).wide;
                look_up(table, cast_slice(x), cast_slice_mut(y), |x: bf16| x.to_bits());
            }
            DType::F16 => {
                let table = &self.f16.of(self, f16::from_bits).wide;
                look_up(table, cast_slice(x), cast_slice_mut(y), |x: f16| x.to_bits());
            }
            _ => (self.f64)(cast_slice(x), cast_slice_mut(y)),
        }
    }

    /// Writes the function of every x times its counterpart, rounded once.
    pub fn gated<T: Float>(&self, x: &[T], by: &[T], y: &mut [T]) {
        if matches!(T::DTYPE, DType::F32 | DType::F64) {
            self.evaluate(x, y);
            multiply(y, by);
            return;
        }
        let [mut product, mut factor] = [small_buffer::<T::Wide>(); 2];
        let pieces = x.chunks(SMALL_BUFFER).zip(by.chunks(SMALL_BUFFER));
        for ((x, by), y) in pieces.zip(y.chunks_mut(SMALL_BUFFER)) {
            let (product, factor) = (&mut product[..x.len()], &mut factor[..x.len()]);
            self.evaluate_wide(x, product);
            T::widen(by, factor);
            multiply(product, factor);
            T::narrow(product, y);
        }
    }
}

/// Writes every x's entry.
fn look_up<T: Copy, Y: Copy>(table: &[Y], x: &[T], y: &mut [Y], bits: impl Fn(T) -> u16) {
    assert_eq!(x.len(), y.len(), "slices of one length");
    for (y, &x) in y.iter_mut().zip(x) {
        *y = table[usize::from(bits(x))];
    }
}

/// The function of a half-precision type, made when it is first asked for: what it costs does not
/// depend on the function then.
pub struct Tabulated<T>(OnceLock<Table<T>>);

/// The function of all 65,536 numbers, by their bits.
pub struct Table<T> {
    /// Rounded to the type.
    pub rounded: Vec<T>,
    /// Before rounding.
    pub wide: Vec<f64>,
}

impl<T: Float<Wide = f64>> Tabulated<T> {
    const fn not_yet() -> Self {
        Self(OnceLock::new())
    }

    /// The table of a function, which this is part of.
    pub fn of(&self, function: &Pointwise, from_bits: fn(u16) -> T) -> &Table<T> {
        self.0.get_or_init(|| {
            let all: Vec<T> = (0..=u16::MAX).map(from_bits).collect();
            let (mut x, mut wide) = (vec![0.0; all.len()], vec![0.0; all.len()]);
            T::widen(&all, &mut x);
            (function.single)(&x, &mut wide);
            let mut rounded = all;
            T::narrow(&wide, &mut rounded);
            Table { rounded, wide }
        })
    }
}
