//! The operations on the CPU, each one pass over its operands: any strides in, contiguous out, f32 or
//! f64 in between.

use super::op::Op;
use crate::kernels::activation::{Activation, Pointwise};
use crate::kernels::number::{BUFFER, Float, buffer, multiply};
use crate::kernels::threads;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, DType, Error, Layout, Result, bail};
use half::{bf16, f16};

/// A tensor as an operation receives it.
type Strided<'a> = (&'a CpuStorage, &'a Layout);

/// Elements that one thread takes at a time. Fewer than that are not worth waking another one.
const CHUNK: usize = 16 * BUFFER;

/// Runs an operation. Two results lie one behind the other.
pub(super) fn run(op: Op, operands: &[Strided]) -> Result<CpuStorage> {
    match operands[0].0.dtype() {
        DType::F32 => run_in::<f32>(op, operands),
        DType::F64 => run_in::<f64>(op, operands),
        DType::BF16 => run_in::<bf16>(op, operands),
        DType::F16 => run_in::<f16>(op, operands),
        dtype => Err(Error::UnsupportedDTypeForOp(dtype, op.name())),
    }
}

fn run_in<T: Float>(op: Op, operands: &[Strided]) -> Result<CpuStorage> {
    let readers = operands.iter().map(|&operand| Reader::<T>::new(operand));
    let readers = readers.collect::<Result<Vec<_>>>()?;
    let result = match (op, readers.as_slice()) {
        (Op::Activate(activation), [x]) => produce(x.count(), |at, y| {
            x.read(at, y.len(), |x| activation.values(x, y));
        }),
        (Op::ActivateBackward(activation), [x, grad]) => times(activation.derivative(), x, grad),
        (Op::Geglu(activation), [gate, up]) => times(activation.value(), gate, up),
        (Op::GegluPair, [gate, up]) => geglu_pair(gate, up),
        (Op::ActivatedAndProduct(activation), [gate, up]) => {
            activated_and_product(activation, gate, up)
        }
        (Op::GegluBackward(activation), [gate, up, grad]) => {
            geglu_backward(activation, gate, up, grad)
        }
        _ => bail!("{} of {} tensors", op.name(), operands.len()),
    };
    Ok(T::to_cpu_storage_owned(result))
}

/// `function(x) ⊙ by`, rounded once.
fn times<T: Float>(function: &Pointwise, x: &Reader<T>, by: &Reader<T>) -> Vec<T> {
    produce(x.count(), |at, out| {
        let n = out.len();
        x.read(at, n, |x| by.read(at, n, |by| function.gated::<T>(x, by, out)));
    })
}

/// The product under the exact form, then that under the tanh form.
fn geglu_pair<T: Float>(gate: &Reader<T>, up: &Reader<T>) -> Vec<T> {
    let (exact, tanh) = (Activation::EXACT.value(), Activation::TANH.value());
    produce_two(gate.count(), |at, of_exact, of_tanh| {
        let n = of_exact.len();
        gate.read(at, n, |gate| {
            up.read(at, n, |up| {
                exact.gated::<T>(gate, up, of_exact);
                tanh.gated::<T>(gate, up, of_tanh);
            });
        });
    })
}

/// `activation(gate)`, then its product with up before it is rounded.
fn activated_and_product<T: Float>(
    activation: Activation,
    gate: &Reader<T>,
    up: &Reader<T>,
) -> Vec<T> {
    let function = activation.value();
    produce_two(gate.count(), |at, activated, product| {
        let n = activated.len();
        let mut wide = buffer();
        let wide = &mut wide[..n];
        gate.read(at, n, |gate| function.evaluate_wide::<T>(gate, wide));
        T::narrow(wide, activated);
        up.read(at, n, |up| multiply_widened::<T>(wide, up));
        T::narrow(wide, product);
    })
}

/// The gradient of gate, then that of up.
fn geglu_backward<T: Float>(
    activation: Activation,
    gate: &Reader<T>,
    up: &Reader<T>,
    grad: &Reader<T>,
) -> Vec<T> {
    let (value, derivative) = (activation.value(), activation.derivative());
    produce_two(gate.count(), |at, dgate, dup| {
        let n = dgate.len();
        let (mut wide_dgate, mut wide_dup) = (buffer(), buffer());
        let (wide_dgate, wide_dup) = (&mut wide_dgate[..n], &mut wide_dup[..n]);
        gate.read(at, n, |gate| {
            value.evaluate_wide::<T>(gate, wide_dup);
            derivative.evaluate_wide::<T>(gate, wide_dgate);
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
    })
}

/// Multiplies every number by one of the element type.
fn multiply_widened<T: Float>(products: &mut [T::Wide], by: &[T]) {
    let mut wide = buffer();
    let wide = &mut wide[..by.len()];
    T::widen(by, wide);
    multiply(products, wide);
}

/// Fills a new vector buffer by buffer: `fill(at, out)` writes the elements from `at` on.
/// Every element depends on its own inputs only, hence the same bits for any number of threads.
fn produce<T: Float>(count: usize, fill: impl Fn(usize, &mut [T]) + Sync) -> Vec<T> {
    let mut out = vec![T::zero(); count];
    for_each_chunk(out.chunks_mut(CHUNK), |start, out: &mut [T]| {
        for (i, out) in out.chunks_mut(BUFFER).enumerate() {
            fill(start + i * BUFFER, out);
        }
    });
    out
}

/// Fills a new vector with two results, one behind the other, buffer by buffer: `fill(at, first,
/// second)` writes the elements of both from `at` on.
fn produce_two<T: Float>(count: usize, fill: impl Fn(usize, &mut [T], &mut [T]) + Sync) -> Vec<T> {
    let mut out = vec![T::zero(); 2 * count];
    let (first, second) = out.split_at_mut(count);
    let chunks = first.chunks_mut(CHUNK).zip(second.chunks_mut(CHUNK));
    for_each_chunk(chunks, |start, (first, second): (&mut [T], &mut [T])| {
        let pieces = first.chunks_mut(BUFFER).zip(second.chunks_mut(BUFFER));
        for (i, (first, second)) in pieces.enumerate() {
            fill(start + i * BUFFER, first, second);
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

impl<'a, T: Float> Reader<'a, T> {
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
        let (mut gathered, mut done) = ([T::zero(); BUFFER], 0);
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
