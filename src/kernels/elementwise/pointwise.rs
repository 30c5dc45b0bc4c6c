//! Activations and their derivatives of many numbers, in the precision that they are computed in.

use super::activation::{Activation, QUICK};
use crate::kernels::exp::vectorized;
use crate::kernels::gelu::{Gelu, Precision, exact, exact_f32, logistic, tanh};
use std::ops::MulAssign;

/// An activation or its derivative.
#[derive(Debug, Clone, Copy)]
pub struct Pointwise {
    pub activation: Activation,
    pub derivative: bool,
}

/// A type that is computed in: `f32` or `f64`.
pub trait Wide: Copy + Default + Send + Sync + MulAssign + 'static {
    /// Writes `f` of every x, rounded to this type.
    fn map(x: &[Self], y: &mut [Self], f: impl Fn(f64) -> f64);
    /// Writes `x·Φ(x)` of every x.
    fn exact<P: Precision>(x: &[Self], y: &mut [Self]);
}

impl Pointwise {
    /// Writes the function of every x to y.
    pub fn evaluate<W: Wide, P: Precision>(self, x: &[W], y: &mut [W]) {
        if self.derivative {
            derivatives::<W, P>(self.activation, x, y);
        } else {
            values::<W, P>(self.activation, x, y);
        }
    }
}

fn values<W: Wide, P: Precision>(activation: Activation, x: &[W], y: &mut [W]) {
    match activation {
        Activation::Gelu(Gelu::Exact) => W::exact::<P>(x, y),
        Activation::Gelu(Gelu::Tanh) => W::map(
            x,
            y,
            #[inline(always)]
            |x| tanh::value::<P>(x),
        ),
        Activation::Silu => W::map(
            x,
            y,
            #[inline(always)]
            |x| logistic::value::<P>(x, identity),
        ),
        Activation::QuickGelu => W::map(
            x,
            y,
            #[inline(always)]
            |x| logistic::value::<P>(x, quick),
        ),
        Activation::Relu => W::map(x, y, |x| if x <= 0.0 { 0.0 } else { x }),
    }
}

fn derivatives<W: Wide, P: Precision>(activation: Activation, x: &[W], dy: &mut [W]) {
    match activation {
        Activation::Gelu(Gelu::Exact) => W::map(
            x,
            dy,
            #[inline(always)]
            |x| exact::derivative::<P>(x),
        ),
        Activation::Gelu(Gelu::Tanh) => W::map(
            x,
            dy,
            #[inline(always)]
            |x| tanh::derivative::<P>(x),
        ),
        Activation::Silu => W::map(
            x,
            dy,
            #[inline(always)]
            |x| logistic::derivative::<P>(x, identity, |_| (1.0, 0.0)),
        ),
        Activation::QuickGelu => W::map(
            x,
            dy,
            #[inline(always)]
            |x| logistic::derivative::<P>(x, quick, |_| (QUICK, 0.0)),
        ),
        // NaN is neither above nor below.
        Activation::Relu => W::map(x, dy, |x| {
            if x > 0.0 {
                1.0
            } else if x <= 0.0 {
                0.0
            } else {
                x
            }
        }),
    }
}

/// `z`, in two parts.
#[inline(always)]
fn identity(z: f64) -> (f64, f64) {
    (z, 0.0)
}

/// `1.702·z`, in two parts.
#[inline(always)]
fn quick(z: f64) -> (f64, f64) {
    let product = QUICK * z;
    (product, QUICK.mul_add(z, -product))
}

/// `f` of every number, with the widest vectors there are.
#[inline(always)]
pub fn map<A: Copy, B>(x: &[A], y: &mut [B], f: impl Fn(A) -> B) {
    assert_eq!(x.len(), y.len(), "slices of one length");
    vectorized(
        #[inline(always)]
        || {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = f(x);
            }
        },
    );
}

/// Multiplies every product by its counterpart.
pub fn multiply<W: Wide>(products: &mut [W], by: &[W]) {
    vectorized(
        #[inline(always)]
        || products.iter_mut().zip(by).for_each(|(product, &by)| *product *= by),
    );
}

impl Wide for f32 {
    #[inline(always)]
    fn map(x: &[f32], y: &mut [f32], f: impl Fn(f64) -> f64) {
        map(
            x,
            y,
            #[inline(always)]
            |x| f(f64::from(x)) as f32,
        );
    }

    fn exact<P: Precision>(x: &[f32], y: &mut [f32]) {
        exact_f32::values(x, y);
    }
}

impl Wide for f64 {
    #[inline(always)]
    fn map(x: &[f64], y: &mut [f64], f: impl Fn(f64) -> f64) {
        map(x, y, f);
    }

    fn exact<P: Precision>(x: &[f64], y: &mut [f64]) {
        map(
            x,
            y,
            #[inline(always)]
            |x| exact::value::<P>(x),
        );
    }
}
