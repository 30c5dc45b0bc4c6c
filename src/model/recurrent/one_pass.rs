//! The recurrence in one pass on the CPU, without gradients.
//!
//! A number depends on its text and its channel alone, and is summed from the first position on.

use crate::kernels::exp::{exp, vectorized};
use crate::kernels::number::Float;
use crate::kernels::operands::with_slice;
use crate::kernels::threads;
use candle_core::{DType, Device, Error, Result, Tensor};
use half::{bf16, f16};

/// Whether these operations take a tensor: they have no gradient, and compute in f32.
pub(super) fn takes(x: &Tensor) -> bool {
    x.device().is_cpu() && !x.track_op() && x.dtype() != DType::F64
}

/// A recurrence over the positions of some texts.
pub(super) struct Scan<'a> {
    /// Of each head, before the sigmoids: `[batch, seq, 2 · part]`, the input's first.
    pub gates: &'a [Vec<f32>],
    /// What the recurrence's gates are multiplied by, `[width]`.
    pub rates: &'a [f64],
    /// Where in each text another one begins; empty for nowhere.
    pub restarts: &'a [Vec<usize>],
    /// The state before, `[batch, width]` in f32.
    pub past: Option<&'a Tensor>,
}

impl Scan<'_> {
    /// Inputs `[batch, seq, width]` in f32 to the states at all positions, in a dtype, and the last one in f32.
    pub fn run(&self, u: &Tensor, dtype: DType) -> Result<(Tensor, Tensor)> {
        match dtype {
            DType::F32 => self.run_in::<f32>(u),
            DType::BF16 => self.run_in::<bf16>(u),
            DType::F16 => self.run_in::<f16>(u),
            dtype => Err(Error::UnsupportedDTypeForOp(dtype, "recurrence")),
        }
    }

    fn run_in<T: Float>(&self, u: &Tensor) -> Result<(Tensor, Tensor)> {
        let (batch, seq, width) = u.dims3()?;
        let (heads, part) = (self.gates.len(), width / self.gates.len().max(1));
        let mut states = match self.past {
            Some(past) => past.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?,
            None => vec![0f32; batch * width],
        };
        // Head by head: [batch, heads, seq, part].
        let mut out = vec![T::zero(); batch * seq * width];
        with_slice(&u.contiguous()?, |u: &[f32]| {
            let pieces = out.chunks_mut((seq * part).max(1)).zip(states.chunks_mut(part.max(1)));
            // Three exponentials and a root.
            threads::for_each(10 * batch * seq * width, pieces.enumerate(), |(i, (out, state))| {
                let (text, head) = (i / heads, i % heads);
                let first = text * seq * width + head * part;
                let head = Head {
                    gates: &self.gates[head][text * seq * 2 * part..][..seq * 2 * part],
                    rates: &self.rates[head * part..][..part],
                    begins: self.past.is_none(),
                    restarts: self.restarts.get(text).map_or(&[], Vec::as_slice),
                };
                head.run(|at| &u[first + at * width..][..part], state, out);
            });
        })?;
        let out = Tensor::from_vec(out, (batch, heads, seq, part), &Device::Cpu)?;
        let out = out.transpose(1, 2)?.contiguous()?.reshape((batch, seq, width))?;
        Ok((out, Tensor::from_vec(states, (batch, width), &Device::Cpu)?))
    }
}

/// One head of one text.
struct Head<'a> {
    /// `[seq, 2 · part]`.
    gates: &'a [f32],
    rates: &'a [f64],
    /// Whether nothing was before the first position.
    begins: bool,
    restarts: &'a [usize],
}

impl Head<'_> {
    /// Brings a state over the positions, whose inputs are asked for, and writes it down at each.
    fn run<'u, T: Float>(
        &self,
        input: impl Fn(usize) -> &'u [f32],
        state: &mut [f32],
        out: &mut [T],
    ) {
        let part = state.len();
        let rows = self.gates.chunks(2 * part).zip(out.chunks_mut(part)).enumerate();
        for (at, (gates, out)) in rows {
            let is_first = at == 0 && self.begins || self.restarts.contains(&at);
            let (gates, u) = (gates.split_at(part), input(at));
            vectorized(
                #[inline(always)]
                || step(gates, u, self.rates, is_first, state),
            );
            T::from_f32s(state, out);
        }
    }
}

/// One position: computed in f64, and the state rounded to f32.
#[inline(always)]
fn step(
    (inputs, recurrences): (&[f32], &[f32]),
    u: &[f32],
    rates: &[f64],
    is_first: bool,
    state: &mut [f32],
) {
    let gates = inputs.iter().zip(recurrences);
    for (((state, &u), (&input, &recurrence)), &rate) in
        state.iter_mut().zip(u).zip(gates).zip(rates)
    {
        let x = f64::from(u) * sigmoid(input);
        let a = exp(rate * sigmoid(recurrence));
        let next = match is_first {
            true => x,
            false => a * f64::from(*state) + (1.0 - a * a).sqrt() * x,
        };
        *state = next as f32;
    }
}

#[inline(always)]
fn sigmoid(x: f32) -> f64 {
    let x = -f64::from(x);
    // No more than `exp` takes; NaN stays NaN.
    1.0 / (1.0 + exp(if x > 709.0 { 709.0 } else { x }))
}
