//! Gemma 4's mixture of experts: gated blocks of which every row goes through a few.
//!
//! [`Router`] chooses the experts and their weights ([`Routing`]), [`GatedExperts`] computes them, and
//! [`MixtureOfExperts`] is both. In Gemma 4 both start from one residual stream, but the router norms it for
//! itself, without a weight, while the experts get a norm of their own: hence the two inputs.
//!
//! The names are those of transformers (`models/gemma4/modeling_gemma4.py`, `Gemma4TextRouter` and
//! `Gemma4TextExperts`).

mod mixture;
mod one_pass;
mod router;
mod routing;

pub use mixture::{ExpertSizes, MixtureOfExperts, mixture_of_experts};
pub use router::Router;
pub use routing::Routing;

use super::gating::Gating;
use super::pair::Pair;
use super::projection::GateUp;
use crate::error::InvalidLayer;
use crate::kernels::activation::Activation;
use crate::kernels::gelu::Gelu;
use crate::kernels::linear::matrix::Matrix;
use crate::kernels::linear::{
    InputRoundings, Packed, Weight, as_rows, is_float, packed_matmul, packed_matmul_wide,
};
use crate::kernels::number::wide_dtype;
use crate::rounding::Rounding;
use candle_core::{D, DType, Tensor, Var};
use one_pass::OnePass;
use routing::Choice;
use std::ops::Range;
use std::sync::Arc;

type Result<T, E = candle_core::Error> = std::result::Result<T, E>;

/// Gated blocks of one shape, of which every row of an input goes through those that a [`Routing`] says:
/// `Σ weight · down(activation(gate(x)) ⊙ up(x))`, in order of expert index.
///
/// Between gate and down everything is rounded as in [`GemmaMlp`](super::GemmaMlp); what the experts return,
/// its product with the weight and the sum are in f32 (f64 for f64), and rounded once to the input's dtype.
///
/// Only experts that some row chose are read. Cloning shares the weights.
///
/// Packed, a row has the same bits alone and in a batch, whatever other rows chose, and for any number of
/// threads.
#[derive(Debug, Clone)]
pub struct GatedExperts {
    weights: Weights,
    sizes: [usize; 3],
    gating: Gating,
    inputs: InputRoundings,
}

/// How the weights are held.
#[derive(Debug, Clone)]
enum Weights {
    Tensors {
        /// `[experts, 2 * intermediate, hidden]`, gate's rows first.
        gate_up: Tensor,
        /// `[experts, hidden, intermediate]`.
        down: Tensor,
    },
    Packed(Arc<[Expert]>),
}

/// One expert, packed.
#[derive(Debug, Clone)]
struct Expert {
    /// Gate and up, `[2, intermediate, hidden]`.
    gate_up: Packed,
    /// `[hidden, intermediate]`.
    down: Packed,
}

/// Every intermediate of the experts that were chosen.
#[derive(Debug, Clone)]
pub struct ExpertsTrace {
    /// In order of expert index. What nobody chose is not among them.
    pub experts: Vec<ExpertTrace>,
    /// The sum, `[..., hidden]`, with the bits that [`GatedExperts::forward`] returns.
    pub output: Tensor,
}

/// Every intermediate of one expert, for the rows that chose it.
#[derive(Debug, Clone)]
pub struct ExpertTrace {
    /// Which expert it is.
    pub expert: usize,
    /// Which rows of the input these are, counted through all its dimensions but the last.
    pub rows: Vec<u32>,
    /// `gate(x)`: `[rows, intermediate]` in the input's dtype.
    pub gate: Tensor,
    /// `up(x)`: `[rows, intermediate]`.
    pub up: Tensor,
    /// `activation(gate)`: `[rows, intermediate]`.
    pub activated: Tensor,
    /// `activation(gate) ⊙ up`: `[rows, intermediate]`.
    pub product: Tensor,
    /// `down(product)`: `[rows, hidden]`, in f32 (f64 for f64), before the weight.
    pub output: Tensor,
    /// What the output is multiplied by: `[rows]`, in its dtype.
    pub weights: Tensor,
}

impl GatedExperts {
    /// Experts of two tensors: gate and up, `[experts, 2 * intermediate, hidden]` with gate's rows first, and
    /// down, `[experts, hidden, intermediate]`.
    ///
    /// # Errors
    /// Other shapes, sizes of 0, dtypes other than f64, f32, bf16 and f16. The error becomes candle's by `?`.
    pub fn new(
        gate_up: Tensor,
        down: Tensor,
        activation: impl Into<Activation>,
    ) -> Result<Self, InvalidLayer> {
        const GATE_UP: &str = "experts.gate_up_proj";
        const DOWN: &str = "experts.down_proj";
        for (layer, tensor) in [(GATE_UP, &gate_up), (DOWN, &down)] {
            if tensor.rank() != 3 || tensor.elem_count() == 0 {
                let weight = tensor.dims().to_vec();
                return Err(InvalidLayer::Experts { layer, weight });
            }
            if !is_float(tensor.dtype()) {
                return Err(InvalidLayer::DType { layer, dtype: tensor.dtype() });
            }
        }
        let &[experts, rows, hidden] = gate_up.dims() else {
            let weight = gate_up.dims().to_vec();
            return Err(InvalidLayer::Experts { layer: GATE_UP, weight });
        };
        if !rows.is_multiple_of(2) {
            return Err(InvalidLayer::OddGateUp { rows });
        }
        let expected = vec![experts, hidden, rows / 2];
        if down.dims() != expected {
            let shape = down.dims().to_vec();
            return Err(InvalidLayer::Shape { layer: DOWN, shape, expected });
        }
        let (weights, sizes) = (Weights::Tensors { gate_up, down }, [experts, rows / 2, hidden]);
        let gating = Gating { activation: activation.into(), rounding: Rounding::Once };
        Ok(Self { weights, sizes, gating, inputs: InputRoundings::default() })
    }

    /// How many experts there are.
    pub fn experts(&self) -> usize {
        self.sizes[0]
    }

    /// Width of gate and up in each.
    pub fn intermediate_size(&self) -> usize {
        self.sizes[1]
    }

    /// Width of input and output.
    pub fn hidden_size(&self) -> usize {
        self.sizes[2]
    }

    /// The activation in use.
    pub fn activation(&self) -> Activation {
        self.gating.activation
    }

    /// The activation in use, and where it rounds.
    pub fn gating(&self) -> Gating {
        self.gating
    }

    /// The experts with another activation. They share the weights: nothing is copied.
    pub fn with_activation(&self, activation: impl Into<Activation>) -> Self {
        let gating = Gating { activation: activation.into(), ..self.gating };
        Self { gating, ..self.clone() }
    }

    /// The experts with another rounding between gate and down. They share the weights: nothing is copied.
    pub fn with_rounding(&self, rounding: Rounding) -> Self {
        Self { gating: Gating { rounding, ..self.gating }, ..self.clone() }
    }

    /// The experts with inputs of their matrix products that are rounded before them.
    pub fn with_input_rounding(&self, inputs: impl Into<InputRoundings>) -> Self {
        Self { inputs: inputs.into(), ..self.clone() }
    }

    /// The experts for inference on the CPU, their weights packed in the dtype they have: one token reads the
    /// experts it chose at what the memory allows, and many tokens run at what the arithmetic allows. Pack
    /// after training: a backward pass through packed experts is an error, unless they are
    /// [frozen](Self::frozen).
    ///
    /// Inputs may be f32, bf16 or f16, whatever the weights are; an f64 input takes another way, in f64, by
    /// the chosen weights, unpacked on every call. Threads are shared as in
    /// [`GemmaMlp::packed`](super::GemmaMlp::packed).
    ///
    /// # Errors
    /// Weights that are not in the CPU's memory, or of another dtype than f32, bf16 and f16.
    pub fn packed(&self) -> Result<Self> {
        let Weights::Tensors { gate_up, down } = &self.weights else { return Ok(self.clone()) };
        let [experts, intermediate, hidden] = self.sizes;
        let (gate_up, down) = (Matrix::of(gate_up)?, Matrix::of(down)?);
        let part = |at: usize| gate_up.narrow(at * intermediate, intermediate);
        let gates_ups = (0..experts).map(|i| vec![part(2 * i), part(2 * i + 1)]);
        let gates_ups = Packed::side_by_side(gates_ups.collect())?;
        let downs = (0..experts).map(|i| vec![down.narrow(i * hidden, hidden)]);
        let downs = Packed::side_by_side(downs.collect())?;
        let packed = gates_ups.into_iter().zip(downs);
        let packed = packed.map(|(gate_up, down)| Expert { gate_up, down }).collect();
        Ok(Self { weights: Weights::Packed(packed), ..self.clone() })
    }

    /// The experts with packed weights as constants to a backward pass, which then goes through them to the
    /// input, and to the routing's weights. Tensors stay as they are. Nothing is copied.
    pub fn frozen(&self) -> Self {
        let Weights::Packed(experts) = &self.weights else { return self.clone() };
        let frozen = experts.iter().map(|Expert { gate_up, down }| Expert {
            gate_up: gate_up.frozen(),
            down: down.frozen(),
        });
        Self { weights: Weights::Packed(frozen.collect()), ..self.clone() }
    }

    /// The experts with their weights in another dtype, as candle converts numbers; inputs and outputs may
    /// have any dtype, before and after. Packed weights are unpacked, converted and packed again, and frozen
    /// ones stay frozen.
    ///
    /// # Errors
    /// Another dtype than f64, f32, bf16 and f16; of packed experts, f64 as well.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        let [gate_up, down] = self.tensors()?;
        let converted =
            Self::new(gate_up.to_dtype(dtype)?, down.to_dtype(dtype)?, self.activation())?;
        let converted = Self { weights: converted.weights, ..self.clone() };
        let Weights::Packed(experts) = &self.weights else { return Ok(converted) };
        let packed = converted.packed()?;
        let frozen = experts.iter().any(|expert| expert.down.is_frozen());
        Ok(if frozen { packed.frozen() } else { packed })
    }

    /// The experts with copies of their weights as variables, and the variables: gate and up,
    /// `[experts, 2 * intermediate, hidden]`, and down, `[experts, hidden, intermediate]`. After a backward
    /// pass each has a gradient. Those of packed experts are f32.
    ///
    /// # Errors
    /// candle's, if the device is out of memory.
    pub fn with_variables(&self) -> Result<(Self, Vec<Var>)> {
        let variable = |tensor: &Tensor| match &self.weights {
            Weights::Tensors { .. } => Var::from_tensor(tensor),
            Weights::Packed(_) => Var::from_tensor(&tensor.to_dtype(DType::F32)?),
        };
        let variables = self.tensors()?.iter().map(variable).collect::<Result<Vec<_>>>()?;
        let [gate_up, down] = [0, 1].map(|i| variables[i].as_tensor().clone());
        let weights = Weights::Tensors { gate_up, down };
        Ok((Self { weights, ..self.clone() }, variables))
    }

    /// Gate and up, `[experts, 2 * intermediate, hidden]`, and down, `[experts, hidden, intermediate]`,
    /// unpacked if they are packed.
    fn tensors(&self) -> Result<[Tensor; 2]> {
        match &self.weights {
            Weights::Tensors { gate_up, down } => Ok([gate_up.clone(), down.clone()]),
            Weights::Packed(experts) => {
                let (mut gates_ups, mut downs) = (vec![], vec![]);
                for expert in experts.iter() {
                    gates_ups.push(Tensor::cat(&expert.gate_up.unpacked()?, 0)?);
                    downs.extend(expert.down.unpacked()?);
                }
                Ok([Tensor::stack(&gates_ups, 0)?, Tensor::stack(&downs, 0)?])
            }
        }
    }

    /// The sum over the chosen experts: `[..., hidden]` to the same shape and dtype.
    ///
    /// # Errors
    /// An input whose last dimension is not the hidden size, or that is not f64, f32, bf16 or f16; of packed
    /// experts, one that is not on the CPU; a routing of another number of rows, or to experts that do not
    /// exist.
    pub fn forward(&self, xs: &Tensor, routing: &Routing) -> Result<Tensor> {
        self.forward_gated(xs, routing, &[])
    }

    /// The same, with parts of the batch under activations and roundings of their own: the rows of `xs` are
    /// as many equal parts, one after the other, as there are gatings; without any, all are under the
    /// experts' own. The weights are read once for all parts. Each row has the bits that it has
    /// alone under its gating.
    ///
    /// # Errors
    /// Those of [`Self::forward`]; rows that are no multiple of the parts.
    pub fn forward_gated(
        &self,
        xs: &Tensor,
        routing: &Routing,
        gatings: &[Gating],
    ) -> Result<Tensor> {
        let gatings = if gatings.is_empty() { &[self.gating] } else { gatings };
        let mut outputs = self.outputs(xs, routing, &[gatings])?;
        Ok(outputs.swap_remove(0))
    }

    /// The sum under both forms of GELU, whatever the experts' own activation: for little more than the price
    /// of one, since gate and up are computed once, and all weights are read once. Each has the bits that
    /// [`Self::forward`] returns under its form.
    ///
    /// # Errors
    /// Those of [`Self::forward`].
    pub fn forward_pair(&self, xs: &Tensor, routing: &Routing) -> Result<Pair> {
        let under = |gelu: Gelu| [Gating { activation: gelu.into(), ..self.gating }];
        let (exact, tanh) = (under(Gelu::Exact), under(Gelu::Tanh));
        let mut outputs = self.outputs(xs, routing, &[&exact, &tanh])?;
        let tanh = outputs.swap_remove(1);
        Ok(Pair { exact: outputs.swap_remove(0), tanh })
    }

    /// A forward pass that keeps every intermediate. `output` has the bits that [`Self::forward`] returns.
    ///
    /// # Errors
    /// Those of [`Self::forward`].
    pub fn trace(&self, xs: &Tensor, routing: &Routing) -> Result<ExpertsTrace> {
        let x = self.rows(xs)?;
        let mut sum = Sum::new(&x)?;
        let mut experts = vec![];
        for choice in routing.choices(x.dim(0)?, self.experts())? {
            let chosen = Chosen::new(&x, &choice, routing)?;
            let GateUp { gate, up } = self.project(choice.expert, &chosen.x)?;
            let Gating { activation, rounding } = self.gating;
            let (activated, product) = rounding.activated_and_product(&gate, &up, activation)?;
            let output = self.down(choice.expert, &product)?;
            sum.add(&chosen, &output)?;
            let (expert, rows, weights) = (choice.expert, choice.rows, chosen.weights);
            experts.push(ExpertTrace {
                expert,
                rows,
                gate,
                up,
                activated,
                product,
                output,
                weights,
            });
        }
        Ok(ExpertsTrace { experts, output: sum.output(xs)? })
    }

    /// The outputs of several sides, each of which has gatings for equal parts of the rows.
    fn outputs(&self, xs: &Tensor, routing: &Routing, sides: &[&[Gating]]) -> Result<Vec<Tensor>> {
        let x = self.rows(xs)?;
        let rows = x.dim(0)?;
        for gatings in sides {
            if !rows.is_multiple_of(gatings.len()) {
                candle_core::bail!("{rows} rows do not make up {} equal parts", gatings.len())
            }
        }
        let choices = routing.choices(rows, self.experts())?;
        if let Some(outputs) = self.one_pass(&x, routing, &choices, sides)? {
            return (0..sides.len()).map(|side| outputs.get(side)?.reshape(xs.shape())).collect();
        }
        let mut sums = sides.iter().map(|_| Sum::new(&x)).collect::<Result<Vec<_>>>()?;
        for choice in choices {
            let chosen = Chosen::new(&x, &choice, routing)?;
            let projected = self.project(choice.expert, &chosen.x)?;
            for (gatings, sum) in sides.iter().zip(&mut sums) {
                let product = gated(&projected, &choice.rows, gatings, rows)?;
                sum.add(&chosen, &self.down(choice.expert, &product)?)?;
            }
        }
        sums.into_iter().map(|sum| sum.output(xs)).collect()
    }

    /// All sides in one operation, `[sides, rows, hidden]`: if the experts are packed, round once, and no
    /// gradient is asked for.
    fn one_pass(
        &self,
        x: &Tensor,
        routing: &Routing,
        choices: &[Choice],
        sides: &[&[Gating]],
    ) -> Result<Option<Tensor>> {
        let Weights::Packed(experts) = &self.weights else { return Ok(None) };
        let tracked = x.track_op() || routing.weights().track_op();
        let once = |gating: &Gating| gating.rounding == Rounding::Once;
        let plain = sides.iter().copied().flatten().all(once) && self.inputs.are_exact();
        if tracked || !plain || x.dtype() == DType::F64 || !x.device().is_cpu() {
            return Ok(None);
        }
        let weights = routing.weights().to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let one_pass = OnePass { experts, choices, weights: &weights, sides };
        x.contiguous()?.apply_op1_no_bwd(&one_pass).map(Some)
    }

    /// An input as rows, checked: `[rows, hidden]`.
    fn rows(&self, xs: &Tensor) -> Result<Tensor> {
        let x = as_rows(xs)?;
        let hidden = self.hidden_size();
        if x.dim(1)? != hidden {
            candle_core::bail!("an input {:?} for experts of hidden size {hidden}", xs.dims())
        }
        if !is_float(x.dtype()) {
            return Err(candle_core::Error::UnsupportedDTypeForOp(x.dtype(), "experts"));
        }
        Ok(x)
    }

    /// What gate and up of an expert make of some rows, `[rows, hidden]`.
    fn project(&self, expert: usize, x: &Tensor) -> Result<GateUp> {
        let x = self.inputs.entering.round(x)?;
        let weight = match &self.weights {
            Weights::Packed(experts) if x.dtype() != DType::F64 => {
                let both = packed_matmul(&experts[expert].gate_up, &x, None)?; // [2, rows, intermediate]
                return Ok(GateUp { gate: both.get(0)?, up: both.get(1)? });
            }
            Weights::Packed(experts) => {
                Weight::Packed(experts[expert].gate_up.clone()).to_tensor(DType::F64)?
            }
            Weights::Tensors { gate_up, .. } => part(gate_up, expert)?,
        };
        let both = Weight::Tensor(weight).matmul(&x, None)?; // [rows, 2 * intermediate]
        let part = |start| both.narrow(D::Minus1, start, self.intermediate_size());
        Ok(GateUp { gate: part(0)?, up: part(self.intermediate_size())? })
    }

    /// The projection down of an expert, `[rows, intermediate]` to `[rows, hidden]`, in f32 (f64 for f64).
    fn down(&self, expert: usize, product: &Tensor) -> Result<Tensor> {
        let product = self.inputs.leaving.round(product)?;
        let wide = wide_dtype(product.dtype());
        match &self.weights {
            Weights::Packed(experts) if wide != DType::F64 => {
                packed_matmul_wide(&experts[expert].down, &product)
            }
            Weights::Packed(experts) => {
                Weight::Packed(experts[expert].down.clone()).matmul(&product, None)
            }
            Weights::Tensors { down, .. } => {
                Weight::Tensor(part(down, expert)?).matmul(&product.to_dtype(wide)?, None)
            }
        }
    }
}

/// One expert's matrix out of all.
fn part(all: &Tensor, expert: usize) -> Result<Tensor> {
    let part = all.get(expert)?;
    // candle multiplies bf16 on the CPU by widening whole tensors, those of views too.
    match all.dtype() == DType::BF16 && all.device().is_cpu() {
        true => part.force_contiguous(),
        false => Ok(part),
    }
}

/// The gated products of the rows that chose an expert, which are some out of `all`: each under the gating
/// of the part that it is in.
fn gated(projected: &GateUp, rows: &[u32], gatings: &[Gating], all: usize) -> Result<Tensor> {
    let runs = runs(rows, all / gatings.len()).map(|(part, run)| {
        let Gating { activation, rounding } = gatings[part];
        let some = |tensor: &Tensor| tensor.narrow(0, run.start, run.len());
        rounding.geglu(&some(&projected.gate)?, &some(&projected.up)?, activation)
    });
    let products = runs.collect::<Result<Vec<_>>>()?;
    Tensor::cat(&products, 0)
}

/// Where, among rows in their order, those of each part of `len` rows are. Parts of which there is none are
/// not among them.
fn runs(rows: &[u32], len: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    let part = move |row: u32| row as usize / len;
    let mut start = 0;
    rows.chunk_by(move |&a, &b| part(a) == part(b)).map(move |run| {
        let range = start..start + run.len();
        start = range.end;
        (part(run[0]), range)
    })
}

/// The rows that chose an expert.
struct Chosen {
    /// `[chosen, hidden]`.
    x: Tensor,
    /// Which these are: `[chosen]`.
    rows: Tensor,
    /// `[chosen]`, in f32 or f64.
    weights: Tensor,
}

impl Chosen {
    fn new(x: &Tensor, choice: &Choice, routing: &Routing) -> Result<Self> {
        let ids = |ids: &[u32]| Tensor::from_slice(ids, ids.len(), x.device());
        let rows = ids(&choice.rows)?;
        let weights = routing.weights().flatten_all()?.index_select(&ids(&choice.pairs)?, 0)?;
        let weights = weights.to_dtype(wide_dtype(x.dtype()))?;
        Ok(Self { x: x.contiguous()?.index_select(&rows, 0)?, rows, weights })
    }
}

/// The sum over experts, `[rows, hidden]`, in f32 or f64.
struct Sum(Tensor);

impl Sum {
    fn new(x: &Tensor) -> Result<Self> {
        Tensor::zeros(x.shape(), wide_dtype(x.dtype()), x.device()).map(Self)
    }

    /// Adds what an expert returned, `[chosen, hidden]`.
    fn add(&mut self, chosen: &Chosen, output: &Tensor) -> Result<()> {
        let weighted = output.broadcast_mul(&chosen.weights.unsqueeze(1)?)?;
        self.0 = self.0.index_add(&chosen.rows, &weighted, 0)?;
        Ok(())
    }

    /// In the shape and dtype of an input.
    fn output(self, xs: &Tensor) -> Result<Tensor> {
        self.0.to_dtype(xs.dtype())?.reshape(xs.shape())
    }
}
