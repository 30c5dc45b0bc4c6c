//! The fused passes on the CPU: any strides in, contiguous out, f32 or f64 in between.

use crate::kernels::elementwise::Activation;
use crate::kernels::elementwise::{BLOCK, Float, buffer};
use crate::kernels::elementwise::{Pointwise, multiply};
use crate::kernels::threads;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, DType, Error, Layout, Result, WithDType};
use half::{bf16, f16};

/// A tensor as an operation receives it.
type Strided<'a> = (&'a CpuStorage, &'a Layout);

/// Elements that one thread takes at a time. Fewer than that are not worth waking another one.
const CHUNK: usize = 16 * BLOCK;

/// An element type that tensors come in.
trait Element: WithDType + Float {}

impl<T: WithDType + Float> Element for T {}

/// Calls a function that is generic over the element type with the type of a storage.
macro_rules! for_dtype {
    ($dtype:expr, $op:expr, $t:ident => $call:expr) => {
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
        Ok(produce(x.count(), |at, y| x.read(at, y.len(), |x| activation.values(x, y))))
    })
}

pub(super) fn activate_backward(
    activation: Activation,
    x: Strided,
    grad: Strided,
) -> Result<CpuStorage> {
    times("activate-backward", Pointwise { activation, derivative: true }, x, grad)
}

pub(super) fn geglu(activation: Activation, gate: Strided, up: Strided) -> Result<CpuStorage> {
    times("geglu", Pointwise { activation, derivative: false }, gate, up)
}

/// The product under the exact form, then that under the tanh form, in one storage.
pub(super) fn geglu_pair(gate: Strided, up: Strided) -> Result<CpuStorage> {
    let [exact, tanh] = [Activation::EXACT, Activation::TANH]
        .map(|activation| Pointwise { activation, derivative: false });
    for_dtype!(gate.0.dtype(), "geglu", T => {
        let (gate, up) = (Reader::<T>::new(gate)?, Reader::<T>::new(up)?);
        Ok(produce_two(gate.count(), |at, of_exact, of_tanh| {
            let n = of_exact.len();
            gate.read(at, n, |gate| up.read(at, n, |up| {
                T::gated(exact, gate, up, of_exact);
                T::gated(tanh, gate, up, of_tanh);
            }));
        }))
    })
}

/// `activation(gate)`, then its product with up before it is rounded, in one storage.
pub(super) fn activated_and_product(
    activation: Activation,
    gate: Strided,
    up: Strided,
) -> Result<CpuStorage> {
    let function = Pointwise { activation, derivative: false };
    for_dtype!(gate.0.dtype(), "geglu", T => {
        let (gate, up) = (Reader::<T>::new(gate)?, Reader::<T>::new(up)?);
        Ok(produce_two(gate.count(), |at, activated, product| {
            let n = activated.len();
            let mut wide = buffer();
            let wide = &mut wide[..n];
            gate.read(at, n, |gate| T::evaluate_wide(function, gate, wide));
            T::narrow(wide, activated);
            up.read(at, n, |up| multiply_widened::<T>(wide, up));
            T::narrow(wide, product);
        }))
    })
}

/// `function(x) ⊙ by`, rounded once.
fn times(op: &'static str, function: Pointwise, x: Strided, by: Strided) -> Result<CpuStorage> {
    for_dtype!(x.0.dtype(), op, T => {
        let (x, by) = (Reader::<T>::new(x)?, Reader::<T>::new(by)?);
        Ok(produce(x.count(), |at, out| {
            let n = out.len();
            x.read(at, n, |x| by.read(at, n, |by| T::gated(function, x, by, out)));
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
        let [value, derivative] =
            [false, true].map(|derivative| Pointwise { activation, derivative });
        Ok(produce_two(gate.count(), |at, dgate, dup| {
            let n = dgate.len();
            let (mut wide_dgate, mut wide_dup) = (buffer(), buffer());
            let (wide_dgate, wide_dup) = (&mut wide_dgate[..n], &mut wide_dup[..n]);
            gate.read(at, n, |gate| {
                T::evaluate_wide(value, gate, wide_dup);
                T::evaluate_wide(derivative, gate, wide_dgate);
            });
            // Gradient times derivative first: the derivative is at most 1.13, so that only a
            // product whose true value overflows does, where grad·up might on the way to 0.
            grad.read(at, n, |grad| {
                multiply_widened::<T>(wide_dgate, grad);
                multiply_widened::<T>(wide_dup, grad);
            });
            up.read(at, n, |up| multiply_widened::<T>(wide_dgate, up));
            T::narrow(wide_dgate, dgate);
            T::narrow(wide_dup, dup);
        }))
    })
}

/// Multiplies every number by one of the element type.
fn multiply_widened<T: Float>(products: &mut [T::Wide], by: &[T]) {
    let mut wide = buffer();
    let wide = &mut wide[..by.len()];
    T::widen(by, wide);
    multiply(products, wide);
}

/// Fills a new vector block by block: `fill(at, out)` writes the elements from `at` on.
/// Every element depends on its own inputs only, hence the same bits for any number of threads.
fn produce<T: Element>(count: usize, fill: impl Fn(usize, &mut [T]) + Sync) -> Vec<T> {
    let mut out = vec![T::zero(); count];
    for_each_chunk(out.chunks_mut(CHUNK), |start, out: &mut [T]| {
        for (i, out) in out.chunks_mut(BLOCK).enumerate() {
            fill(start + i * BLOCK, out);
        }
    });
    out
}

/// As [`produce`], with two results one behind the other.
fn produce_two<T: Element>(
    count: usize,
    fill: impl Fn(usize, &mut [T], &mut [T]) + Sync,
) -> Vec<T> {
    let mut out = vec![T::zero(); 2 * count];
    let (first, second) = out.split_at_mut(count);
    let chunks = first.chunks_mut(CHUNK).zip(second.chunks_mut(CHUNK));
    for_each_chunk(chunks, |start, (first, second): (&mut [T], &mut [T])| {
        let blocks = first.chunks_mut(BLOCK).zip(second.chunks_mut(BLOCK));
        for (i, (first, second)) in blocks.enumerate() {
            fill(start + i * BLOCK, first, second);
        }
    });
    out
}

/// Runs `work(index of the first element, chunk)` for all chunks.
fn for_each_chunk<C: Send>(
    chunks: impl ExactSizeIterator<Item = C> + Send,
    work: impl Fn(usize, C) + Sync,
) {
    let nanoseconds = chunks.len() * CHUNK; // one an element
    threads::for_each(nanoseconds, chunks.enumerate(), |(i, chunk)| work(i * CHUNK, chunk));
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

    /// Passes `n` elements from the `at`-th on to `f`: as they lie, or gathered if they lie apart.
    fn read(&self, at: usize, n: usize, f: impl FnOnce(&[T])) {
        if at % self.run + n <= self.run {
            let start = self.start_of_run(at / self.run) + at % self.run;
            return f(&self.data[start..start + n]);
        }
        let (mut gathered, mut done) = ([T::zero(); BLOCK], 0);
        while done < n {
            let (run, into) = ((at + done) / self.run, (at + done) % self.run);
            let start = self.start_of_run(run) + into;
            let len = (self.run - into).min(n - done);
            gathered[done..done + len].copy_from_slice(&self.data[start..start + len]);
            done += len;
        }
        f(&gathered[..n]);
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
