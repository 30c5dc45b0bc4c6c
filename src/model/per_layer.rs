//! Inputs of every layer beside the residual stream: Gemma 3n's and 4's per-layer embeddings.

use super::embedding::rounded;
use super::norm::RmsNorm;
use crate::checkpoint::tensors::Numbers;
use crate::checkpoint::{PerLayerInputs, Stack};
use crate::error::Error;
use crate::kernels::linear::{InputRoundings, Linear, Weight};
use crate::mlp::{Gating, InputGate, input_gate};
use candle_core::{DType, Module, Result, Tensor};
use candle_nn::{VarBuilder, linear_no_bias};

/// What makes the inputs of all layers: rows of a table, and a projection of the embeddings.
///
/// `(norm(projection(e) · hidden^-1/2) + table[id] · size^1/2) · 2^-1/2` (transformers
/// `Gemma4TextModel.project_per_layer_inputs`); without a table `norm(projection(e) · hidden^-1/2)`
/// (`EmbeddingGemma2TextModel`).
#[derive(Debug, Clone)]
pub(super) struct PerLayerEmbedding {
    table: Option<Table>,
    projection: Linear,
    pub(super) norm: RmsNorm,
    layers: usize,
    size: usize,
    /// Whether ids beyond the table have row 0, and factors are rounded to the model's dtype.
    guarded: bool,
    hidden_size: usize,
    pub(super) rule: PerLayerRule,
}

/// How the two parts come together; all of it as the family has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PerLayerRule {
    /// Whether rows of the table are scaled by `size^1/2`.
    pub(super) scales_rows: bool,
    /// Whether the sum is scaled by `2^-1/2`.
    pub(super) scales_sum: bool,
}

/// Where rows are looked up.
#[derive(Debug, Clone)]
pub(super) enum Table {
    /// In memory, `[vocab, layers · size]`.
    Weight(Weight),
    /// In the file: it is the largest matrix of a model, and a token needs one row of it.
    File(Numbers),
}

impl PerLayerEmbedding {
    /// Reads `per_layer_model_projection` and `per_layer_projection_norm`, and `embed_tokens_per_layer` where it is not
    /// given.
    pub(super) fn new(
        config: &PerLayerInputs,
        stack: &Stack,
        table: Option<Numbers>,
        vb: VarBuilder,
    ) -> Result<Self> {
        let (hidden, layers, size) = (stack.hidden_size, stack.num_hidden_layers, config.size);
        let own = config.names.model.split_terminator('.').fold(vb.clone(), |vb, part| vb.pp(part));
        let Some(width) = layers.checked_mul(size) else {
            candle_core::bail!("per-layer inputs of {size} for {layers} layers are too large")
        };
        let table = match (config.vocab_size, table) {
            (None, _) => None,
            (Some(_), Some(numbers)) => Some(Table::File(numbers)),
            (Some(rows), None) => {
                let weight = vb.pp("embed_tokens_per_layer").get((rows, width), "weight")?;
                Some(Table::Weight(Weight::Tensor(weight)))
            }
        };
        let projection = linear_no_bias(hidden, width, own.pp("per_layer_model_projection"))?;
        let norm = own.pp("per_layer_projection_norm").get(size, "weight")?;
        Ok(Self {
            table,
            projection: Linear::try_from(projection)?,
            norm: RmsNorm::of(norm, stack.norm_weight, stack.rms_norm_eps),
            layers,
            size,
            guarded: config.guarded,
            hidden_size: hidden,
            rule: PerLayerRule { scales_rows: true, scales_sum: true },
        })
    }

    pub(super) fn packed(self) -> Result<Self> {
        Ok(Self { projection: self.projection.packed()?, ..self })
    }

    pub(super) fn frozen(&self) -> Self {
        Self { projection: self.projection.frozen(), ..self.clone() }
    }

    /// Whether it has a table.
    pub(super) fn has_table(&self) -> bool {
        self.table.is_some()
    }

    /// Ids `[batch, seq]` and their scaled embeddings `[batch, seq, hidden]` to the inputs of all layers,
    /// `[batch, seq, layers, size]`.
    pub(super) fn forward(&self, ids: &Tensor, embedded: &Tensor) -> Result<Tensor> {
        let dtype = embedded.dtype();
        // transformers' Gemma 3n keeps these two as tensors of the weights' dtype, Gemma 4 as numbers.
        let factor = |x: f64| if self.guarded { rounded(x, dtype) } else { x };
        let (batch, seq) = ids.dims2()?;
        let shape = (batch, seq, self.layers, self.size);
        let projected = self.projection.forward(embedded)?;
        let projected = (projected * factor((self.hidden_size as f64).powf(-0.5)))?;
        let projected = self.norm.forward(&projected.reshape(shape)?.contiguous()?)?;
        let Some(table) = &self.table else { return Ok(projected) };
        let rows = self.rows(table, ids)?.to_device(embedded.device())?.to_dtype(dtype)?;
        let mut rows = rows.reshape(shape)?;
        if self.rule.scales_rows {
            rows = (rows * rounded((self.size as f64).sqrt(), dtype))?;
        }
        let sum = (projected + rows)?;
        if self.rule.scales_sum { sum * factor(0.5f64.sqrt()) } else { Ok(sum) }
    }

    /// Rows of the table, `[batch · seq, layers · size]`, in the dtype that they are stored in.
    fn rows(&self, table: &Table, ids: &Tensor) -> Result<Tensor> {
        let width = self.layers * self.size;
        let count = match table {
            Table::Weight(weight) => weight.dims()?.0,
            Table::File(numbers) => numbers.len() / width.max(1),
        };
        let ids = ids.flatten_all()?.to_dtype(DType::I64)?.to_vec1::<i64>()?;
        let row = |id: i64| match usize::try_from(id).ok().filter(|&row| row < count) {
            Some(row) => Ok(row),
            None if self.guarded => Ok(0),
            None => candle_core::bail!("id {id} of {count} in the table of per-layer embeddings"),
        };
        let rows = ids.into_iter().map(row).collect::<Result<Vec<usize>>>()?;
        match table {
            Table::Weight(weight) => {
                let rows: Vec<_> = rows.into_iter().map(|row| row as i64).collect();
                weight.index_select(&Tensor::new(rows, weight.device())?)
            }
            Table::File(numbers) => {
                let read = |row: usize| {
                    let row = numbers.tensor(row * width..(row + 1) * width, &[1, width]);
                    row.map_err(Error::into_candle)
                };
                let read = rows.into_iter().map(read).collect::<Result<Vec<_>>>()?;
                Tensor::cat(&read, 0)
            }
        }
    }
}

/// The gate of a layer through which its own input joins the residual stream, and the norm behind it:
/// `norm(projection(gelu(gate(x)) ⊙ input))`.
#[derive(Debug, Clone)]
pub struct PerLayerBlock {
    pub(super) gate: InputGate,
    pub(super) norm: RmsNorm,
}

impl PerLayerBlock {
    pub(super) fn new(config: &PerLayerInputs, stack: &Stack, vb: VarBuilder) -> Result<Self> {
        let vb = config.names.layer.split_terminator('.').fold(vb, |vb, part| vb.pp(part));
        let hidden = stack.hidden_size;
        let names = ["per_layer_input_gate", "per_layer_projection"];
        let norm = vb.pp("post_per_layer_input_norm").get(hidden, "weight")?;
        Ok(Self {
            gate: input_gate(hidden, config.size, stack.activation.value, names, vb)?,
            norm: RmsNorm::of(norm, stack.norm_weight, stack.rms_norm_eps),
        })
    }

    /// The gate.
    pub fn gate(&self) -> &InputGate {
        &self.gate
    }

    /// The norm behind it.
    pub fn norm(&self) -> &RmsNorm {
        &self.norm
    }

    pub(super) fn packed(self) -> Result<Self> {
        Ok(Self { gate: self.gate.packed()?, ..self })
    }

    pub(super) fn frozen(&self) -> Self {
        Self { gate: self.gate.frozen(), ..self.clone() }
    }

    pub(super) fn with_input_rounding(&self, inputs: InputRoundings) -> Self {
        Self { gate: self.gate.with_input_rounding(inputs), ..self.clone() }
    }

    /// What joins the residual stream `x`, `[batch, seq, hidden]`, of an input `[batch, seq, size]`; each of the
    /// activations, if there are any, gets an equal part of the batch.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn forward(&self, x: &Tensor, input: &Tensor, gatings: &[Gating]) -> Result<Tensor> {
        if gatings.is_empty() {
            return self.norm.forward(&self.gate.forward(x, input)?);
        }
        let gate = self.gate.project(x)?; // [batch, seq, size]
        let product = by_part(x.dim(0)?, gatings, |gating, start, len| {
            let part = |t: &Tensor| t.narrow(0, start, len)?.contiguous();
            self.gate.with_gating(gating).gated(&part(&gate)?, &part(input)?)
        })?;
        self.norm.forward(&self.gate.out(&product)?)
    }
}

/// What is made of each part of a batch under its activation, one after the other again.
pub(super) fn by_part(
    batch: usize,
    gatings: &[Gating],
    make: impl Fn(Gating, usize, usize) -> Result<Tensor>,
) -> Result<Tensor> {
    if !batch.is_multiple_of(gatings.len()) {
        candle_core::bail!(
            "a batch of {batch} has no equal parts for {} activations",
            gatings.len()
        )
    }
    let len = batch / gatings.len();
    let parts = gatings.iter().enumerate().map(|(i, &gating)| make(gating, i * len, len));
    Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)
}
