//! An activation, or its derivative, of many numbers of any type.

use super::formula::Formula;
use crate::kernels::gelu::{Double, Single};
use crate::kernels::number::{Float, map};
use half::{bf16, f16};
use std::sync::OnceLock;

/// A function of one number, as loops over slices of one length.
///
/// The loops are compiled for each function: a call goes by a pointer, an element does not.
pub struct Pointwise {
    /// Within an ULP of f32.
    pub f32: fn(&[f32], &mut [f32]),
    /// Within a few ULP of f64.
    pub f64: fn(&[f64], &mut [f64]),
    /// In f64, as exactly as the nearest number of a half-precision type asks for.
    single: fn(&[f64], &mut [f64]),
    pub bf16: Tabulated<bf16>,
    pub f16: Tabulated<f16>,
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
