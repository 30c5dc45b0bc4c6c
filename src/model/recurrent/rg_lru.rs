//! The real-gated linear recurrent unit.

use super::one_pass::{self, Scan};
use crate::kernels::linear::{InputRounding, Linear, Weight};
use candle_core::{D, DType, Device, Module, Result, Tensor};
use candle_nn::VarBuilder;
use candle_nn::ops::sigmoid;
use std::sync::Arc;

/// The RG-LRU (transformers `RecurrentGemmaRglru`): `s[t] = a[t] ⊙ s[t-1] + sqrt(1 - a[t]²) ⊙ i[t] ⊙ u[t]` with `i =
/// σ(u·W_i + b_i)`, `r = σ(u·W_r + b_r)`, head by head, and `log a = -8 · r ⊙ softplus(param)`.
#[derive(Debug, Clone)]
pub(super) struct RgLru {
    /// `[width]`.
    param: Tensor,
    gates: Gates,
    heads: usize,
    /// `-8 · softplus(param)`, for one pass on the CPU.
    rates: Option<Arc<Vec<f64>>>,
}

/// The products of a head's inputs, as row vectors, by a matrix of the head's.
#[derive(Debug, Clone)]
enum Gates {
    /// Of the input and of the recurrence: `[heads, part, part]` and `[heads, part]` each.
    Tensors([(Tensor, Tensor); 2]),
    /// For each head both in one: `[2 · part, part]`.
    Packed(Vec<Linear>),
}

impl RgLru {
    pub fn new(width: usize, heads: usize, vb: VarBuilder) -> Result<Self> {
        let part = width / heads;
        let gate = |name: &str| {
            let weight = vb.get((heads, part, part), &format!("{name}_gate_weight"))?;
            Ok::<_, candle_core::Error>((
                weight,
                vb.get((heads, part), &format!("{name}_gate_bias"))?,
            ))
        };
        let gates = Gates::Tensors([gate("input")?, gate("recurrent")?]);
        Ok(Self { param: vb.get(width, "recurrent_param")?, gates, heads, rates: None })
    }

    pub fn packed(&self) -> Result<Self> {
        let Gates::Tensors(gates) = &self.gates else { return Ok(self.clone()) };
        let head = |head: usize| {
            let linear = |(weight, bias): &(Tensor, Tensor)| {
                let weight = weight.get(head)?.t()?.contiguous()?;
                Ok::<_, candle_core::Error>(Linear::new(
                    Weight::Tensor(weight),
                    Some(bias.get(head)?),
                )?)
            };
            let [input, recurrent] = gates;
            Linear::stacked_and_packed(&[&linear(input)?, &linear(recurrent)?])
        };
        let packed = (0..self.heads).map(head).collect::<Result<_>>()?;
        let param: Vec<f64> = self.param.to_dtype(DType::F64)?.to_vec1()?;
        let rate = |x: f64| -8.0 * (x.max(0.0) + libm::log1p(libm::exp(-x.abs())));
        let rates = param.into_iter().map(rate).collect();
        Ok(Self { gates: Gates::Packed(packed), rates: Some(Arc::new(rates)), ..self.clone() })
    }

    pub fn frozen(&self) -> Self {
        let gates = match &self.gates {
            Gates::Packed(heads) => Gates::Packed(heads.iter().map(Linear::frozen).collect()),
            tensors => tensors.clone(),
        };
        Self { gates, ..self.clone() }
    }

    /// Inputs `[batch, seq, width]` in f32 or f64, behind a state `[batch, width]`, if there is one, to the states at
    /// all positions, rounded to a dtype, and the last one as it is.
    pub fn forward(
        &self,
        u: &Tensor,
        past: Option<&Tensor>,
        restarts: &[Vec<usize>],
        inputs: InputRounding,
        dtype: DType,
    ) -> Result<(Tensor, Tensor)> {
        if let (Gates::Packed(gates), Some(rates)) = (&self.gates, &self.rates)
            && one_pass::takes(u)
        {
            let gates = gates.iter().enumerate().map(|(i, gate)| {
                gate.forward(&inputs.round(&self.head(u, i)?)?)?.flatten_all()?.to_vec1()
            });
            let gates = gates.collect::<Result<Vec<Vec<f32>>>>()?;
            let scan = Scan { gates: &gates, rates, restarts, past };
            return scan.run(u, dtype);
        }
        let [input, recurrent] = self.gates(u, inputs)?; // [batch, seq, width]
        let log_a = recurrent.broadcast_mul(&self.rates(u.dtype())?)?;
        // 1 - a², of which nothing is lost where a is close to 1.
        let tanh = log_a.tanh()?;
        let scale = sqrt(((&tanh * -2.0)? / (1.0 - &tanh)?)?)?;
        let first = firsts(u, past.is_none(), restarts)?; // [batch, seq, 1]
        let others = (1.0 - &first)?;
        let scale = scale.broadcast_mul(&others)?.broadcast_add(&first)?;
        let states = scan(
            log_a.exp()?.broadcast_mul(&others)?,
            ((u * input)? * scale)?,
            past.map(|past| past.to_dtype(u.dtype())).transpose()?,
        )?;
        let last = states.narrow(1, states.dim(1)? - 1, 1)?.squeeze(1)?.contiguous()?;
        Ok((states.to_dtype(dtype)?, last))
    }

    /// The part of inputs `[batch, seq, width]` that is a head's.
    fn head(&self, u: &Tensor, head: usize) -> Result<Tensor> {
        let part = u.dim(D::Minus1)? / self.heads;
        u.narrow(D::Minus1, head * part, part)?.contiguous()
    }

    /// The gates of the input and of the recurrence, `[batch, seq, width]` each.
    fn gates(&self, u: &Tensor, inputs: InputRounding) -> Result<[Tensor; 2]> {
        let u = inputs.round(u)?;
        let (batch, seq, width) = u.dims3()?;
        let part = width / self.heads;
        match &self.gates {
            Gates::Tensors(gates) => {
                let by_head = u.reshape((batch * seq, self.heads, part))?.transpose(0, 1)?;
                let by_head = by_head.contiguous()?; // [heads, batch · seq, part]
                let gate = |(weight, bias): &(Tensor, Tensor)| {
                    let product = by_head.matmul(&weight.to_dtype(u.dtype())?)?;
                    let sum = product.broadcast_add(&bias.to_dtype(u.dtype())?.unsqueeze(1)?)?;
                    sigmoid(&sum.transpose(0, 1)?.contiguous()?.reshape((batch, seq, width))?)
                };
                Ok([gate(&gates[0])?, gate(&gates[1])?])
            }
            Gates::Packed(gates) => {
                let both =
                    gates.iter().enumerate().map(|(i, gate)| gate.forward(&self.head(&u, i)?));
                let both = both.collect::<Result<Vec<_>>>()?; // [batch, seq, 2 · part] each
                let gate = |at: usize| {
                    let parts = both.iter().map(|head| head.narrow(D::Minus1, at, part));
                    sigmoid(&Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, D::Minus1)?)
                };
                Ok([gate(0)?, gate(part)?])
            }
        }
    }

    /// `-8 · softplus(param)`, `[width]`: in f64, where 1 + e^x keeps small numbers, if the device has it.
    fn rates(&self, dtype: DType) -> Result<Tensor> {
        let wide = if matches!(self.param.device(), Device::Metal(_)) { dtype } else { DType::F64 };
        let param = self.param.to_dtype(wide)?;
        let logarithm = (param.abs()?.neg()?.exp()? + 1.0)?.log()?;
        ((param.relu()? + logarithm)? * -8.0)?.to_dtype(dtype)
    }
}

/// A square root whose derivative is 1000 at most, as transformers' `SqrtBoundDerivative` has it.
pub(super) fn sqrt(x: Tensor) -> Result<Tensor> {
    // The root as a constant, and a line of value 0 whose slope is the derivative.
    let constant = x.detach();
    let slope = (&constant * 4.0)?.maximum(1e-6)?.sqrt()?.recip()?;
    constant.sqrt()? + ((x - &constant)? * slope)?
}

/// 1 at positions where a text begins, elsewhere 0: `[batch, seq, 1]`.
fn firsts(u: &Tensor, begins: bool, restarts: &[Vec<usize>]) -> Result<Tensor> {
    let (batch, seq, _) = u.dims3()?;
    let mut first = vec![0f32; batch * seq];
    for text in 0..batch {
        let own = restarts.get(text).into_iter().flatten().copied();
        for at in own.chain(begins.then_some(0)).filter(|&at| at < seq) {
            first[text * seq + at] = 1.0;
        }
    }
    Tensor::from_vec(first, (batch, seq, 1), u.device())?.to_dtype(u.dtype())
}

/// `s[t] = a[t] ⊙ s[t-1] + x[t]` over the positions of `[batch, seq, width]`, by doubling: after n rounds a position
/// has the sum over 2^n positions (Hillis and Steele 1986), so that a backward pass is not as deep as a text is long.
fn scan(a: Tensor, x: Tensor, past: Option<Tensor>) -> Result<Tensor> {
    let (seq, (mut a, mut x)) = (x.dim(1)?, (a, x));
    if let Some(past) = past {
        let first = (x.narrow(1, 0, 1)? + (a.narrow(1, 0, 1)? * past.unsqueeze(1)?)?)?;
        x = match seq {
            1 => first,
            _ => Tensor::cat(&[first, x.narrow(1, 1, seq - 1)?], 1)?,
        };
    }
    let mut by = 1;
    while by < seq {
        // Before a text's start there is nothing.
        let earlier = |t: &Tensor| {
            let kept = t.narrow(1, 0, seq - by)?;
            Tensor::cat(&[&t.narrow(1, 0, by)?.zeros_like()?, &kept], 1)
        };
        x = (&x + (&a * earlier(&x)?)?)?;
        a = (&a * earlier(&a)?)?;
        by *= 2;
    }
    Ok(x)
}
