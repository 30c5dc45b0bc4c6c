//! The fused passes on the CPU: any strides in, contiguous out, f32 or f64 in between.

use crate::activation::Activation;
use crate::float::{BLOCK, Float, buffer};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, DType, Error, Layout, Result, WithDType};
use half::{bf16, f16};
use rayon::prelude::*;

/// A tensor as an operation receives it.
type Strided<'a> = (&'a CpuStorage, &'a Layout);

/// Elements that one thread takes at a time. Fewer than that are not worth waking another one.
const CHUNK: usize = 64 * BLOCK;

/// An element type that tensors come in.
trait Element: WithDType + Float {}

impl<T: WithDType + Float> Element for T {}

/// Calls a function that is generic over the element type with the type of a storage.
macro_rules! for_dtype {
    ($dtype:expr, $op:literal, $t:ident => $call:expr) => {
        match $dtype {
            DType::F32 => for_dtype!(@ f32, $t, $call),
            DType::F64 => for_dtype!(@ f64, $t, $call),
            DType::BF16 => for_dtype!(@ bf16, $t, $call),
            DType::F16 => for_dtype!(@ f16, $t, $call),
            dtype => Err(Error::UnsupportedDTypeForOp(dtype, $op)),
        }
    };
    (@ $type:ty, $t:ident, $call:expr) => {{
        type $t = $type;
        $call.map(<$type as WithDType>::to_cpu_storage_owned)
    }};
}

pub(super) fn activate(activation: Activation, x: Strided) -> Result<CpuStorage> {
    for_dtype!(x.0.dtype(), "activate", T => {
        let x = Reader::<T>::new(x)?;
        Ok(produce(x.count(), |at, y| {
            let mut wide = buffer();
            activation.wide_values::<T>(x.read(at, y.len(), &mut wide), y);
        }))
    })
}

pub(super) fn activate_backward(
    activation: Activation,
    x: Strided,
    grad: Strided,
) -> Result<CpuStorage> {
    for_dtype!(x.0.dtype(), "activate-backward", T => {
        let (x, grad) = (Reader::<T>::new(x)?, Reader::<T>::new(grad)?);
        Ok(produce(x.count(), |at, dx| {
            let mut wide = buffer();
            activation.wide_derivatives::<T>(x.read(at, dx.len(), &mut wide), dx);
            let grad = grad.read(at, dx.len(), &mut wide);
            dx.iter_mut().zip(grad).for_each(|(dx, &g)| *dx *= g);
        }))
    })
}

pub(super) fn geglu(activation: Activation, gate: Strided, up: Strided) -> Result<CpuStorage> {
    for_dtype!(gate.0.dtype(), "geglu", T => {
        let (gate, up) = (Reader::<T>::new(gate)?, Reader::<T>::new(up)?);
        Ok(produce(gate.count(), |at, product| {
            let mut wide = buffer();
            activation.wide_values::<T>(gate.read(at, product.len(), &mut wide), product);
            let up = up.read(at, product.len(), &mut wide);
            product.iter_mut().zip(up).for_each(|(p, &u)| *p *= u);
        }))
    })
}

/// The gradient of gate, then that of up, in one storage.
pub(super) fn geglu_backward(
    activation: Activation,
    gate: Strided,
    up: Strided,
    grad: Strided,
) -> Result<CpuStorage> {
    for_dtype!(gate.0.dtype(), "geglu-backward", T => {
        let (gate, up) = (Reader::<T>::new(gate)?, Reader::<T>::new(up)?);
        let grad = Reader::<T>::new(grad)?;
        Ok(produce_two(gate.count(), |at, dgate, dup| {
            let n = dgate.len();
            let mut wide = buffer();
            let x = gate.read(at, n, &mut wide);
            activation.wide_values::<T>(x, dup);
            activation.wide_derivatives::<T>(x, dgate);
            let grad = grad.read(at, n, &mut wide);
            // Gradient times derivative first: the derivative is at most 1.13, so that only a
            // product whose true value overflows does, where grad·up might on the way to 0.
            for ((dgate, dup), &g) in dgate.iter_mut().zip(dup).zip(grad) {
                (*dgate, *dup) = (*dgate * g, *dup * g);
            }
            let up = up.read(at, n, &mut wide);
            dgate.iter_mut().zip(up).for_each(|(dgate, &u)| *dgate *= u);
        }))
    })
}

/// Fills a new vector block by block: `fill(at, out)` writes the elements from `at` on.
/// Every element depends on its own inputs only, hence the same bits for any number of threads.
fn produce<T: Element>(count: usize, fill: impl Fn(usize, &mut [T::Wide]) + Sync) -> Vec<T> {
    let mut out = vec![T::zero(); count];
    for_each_chunk(out.chunks_mut(CHUNK), |start, out: &mut [T]| {
        for (i, out) in out.chunks_mut(BLOCK).enumerate() {
            let mut wide = buffer();
            let wide = &mut wide[..out.len()];
            fill(start + i * BLOCK, wide);
            T::round(wide, out);
        }
    });
    out
}

/// As [`produce`], with two results one behind the other.
fn produce_two<T: Element>(
    count: usize,
    fill: impl Fn(usize, &mut [T::Wide], &mut [T::Wide]) + Sync,
) -> Vec<T> {
    let mut out = vec![T::zero(); 2 * count];
    let (first, second) = out.split_at_mut(count);
    let chunks = first.chunks_mut(CHUNK).zip(second.chunks_mut(CHUNK));
    for_each_chunk(chunks, |start, (first, second): (&mut [T], &mut [T])| {
        let blocks = first.chunks_mut(BLOCK).zip(second.chunks_mut(BLOCK));
        for (i, (first, second)) in blocks.enumerate() {
            let (mut wide_first, mut wide_second) = (buffer(), buffer());
            let n = first.len();
            fill(start + i * BLOCK, &mut wide_first[..n], &mut wide_second[..n]);
            T::round(&wide_first[..n], first);
            T::round(&wide_second[..n], second);
        }
    });
    out
}

/// Runs `work(index of the first element, chunk)` on rayon's threads, or here if there is one only.
fn for_each_chunk<C: Send>(
    chunks: impl ExactSizeIterator<Item = C>,
    work: impl Fn(usize, C) + Sync,
) {
    let chunks: Vec<_> = chunks.enumerate().map(|(i, chunk)| (i * CHUNK, chunk)).collect();
    if chunks.len() == 1 {
        chunks.into_iter().for_each(|(at, chunk)| work(at, chunk));
    } else {
        chunks.into_par_iter().for_each(|(at, chunk)| work(at, chunk));
    }
}

/// Reads a strided tensor in logical order.
struct Reader<'a, T> {
    data: &'a [T],
    layout: &'a Layout,
    /// How many elements lie next to each other: the product of the trailing contiguous dimensions.
    run: usize,
    /// How many dimensions are left of them.
    outer: usize,
}

impl<'a, T: Element> Reader<'a, T> {
    fn new((storage, layout): Strided<'a>) -> Result<Self> {
        let data = T::cpu_storage_as_slice(storage)?;
        let (mut run, mut outer) = (1, layout.dims().len());
        for (&dim, &stride) in layout.dims().iter().zip(layout.stride()).rev() {
            if dim != 1 && stride != run {
                break;
            }
            run *= dim;
            outer -= 1;
        }
        Ok(Self { data, layout, run, outer })
    }

    fn count(&self) -> usize {
        self.layout.shape().elem_count()
    }

    /// Widens `n` elements from the `at`-th on into the buffer's beginning, and returns that.
    fn read<'b>(&self, mut at: usize, n: usize, wide: &'b mut [T::Wide; BLOCK]) -> &'b [T::Wide] {
        let mut done = 0;
        while done < n {
            let start = self.start_of_run(at / self.run) + at % self.run;
            let len = (self.run - at % self.run).min(n - done);
            T::widen(&self.data[start..start + len], &mut wide[done..done + len]);
            (at, done) = (at + len, done + len);
        }
        &wide[..n]
    }

    /// Where in `data` the given run begins.
    fn start_of_run(&self, mut run: usize) -> usize {
        let (dims, strides) = (&self.layout.dims()[..self.outer], self.layout.stride());
        let mut start = self.layout.start_offset();
        for (&dim, &stride) in dims.iter().zip(strides).rev() {
            start += run % dim * stride;
            run /= dim;
        }
        start
    }
}
