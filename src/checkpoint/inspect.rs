//! What a checkpoint is, as data.

use super::Checkpoint;
use super::blocks::BlockSpec;
use super::config::activation::Resolved;
use super::config::attention::LayerAttention;
use super::config::feed_forward::{AltUpConfig, ExpertsConfig, PerLayerInputs};
use super::config::head::HeadKind;
use super::config::recurrent::RecurrentConfig;
use super::config::stack::Stack;
use super::config::unusual;
use super::families::{Family, NormWeight};
use super::remark::{Remark, RemarkKind};
use super::tensors::Tensors;
use crate::error::Result;
use crate::kernels::activation::Activation;
use serde::Serialize;
use std::collections::BTreeMap;

/// Everything that a checkpoint says about itself, and what is odd about it.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// Version of this layout.
    pub schema: u32,
    /// Where the checkpoint comes from.
    pub source: String,
    /// The family of its text part.
    pub family: Family,
    /// `model_type` in its config.
    pub model_type: String,
    /// Its stacks of layers.
    pub stacks: Vec<StackInspection>,
    /// The ids that end a text.
    pub end_tokens: Vec<u32>,
    /// Number of elements of all tensors.
    pub parameters: u64,
    /// Number of elements of the MLP blocks alone: of their projections, and neither of experts beside them nor of the
    /// gates of per-layer inputs.
    pub mlp_parameters: u64,
    /// Number of elements of the experts' projections.
    pub expert_parameters: u64,
    /// Size of the files with weights, in bytes.
    pub bytes: u64,
    /// How many tensors there are of each dtype or quantised type, as the file's format calls it.
    pub dtypes: BTreeMap<String, usize>,
    /// What is not used, was guessed, or is odd.
    pub remarks: Vec<Remark>,
}

/// One stack of an [`Inspection`].
#[derive(Debug, Clone, Serialize)]
pub struct StackInspection {
    /// Empty, `encoder` or `decoder`.
    pub name: String,
    /// Prefix of the first block's tensors.
    pub first_block: String,
    /// By whose values its own are judged: the released model of its widths, or all of its family; `None` where blocks
    /// alone are run.
    pub judged_by: Option<String>,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width between up and down, of the first layer if they differ.
    pub intermediate_size: usize,
    /// The layers, each kind by itself.
    pub layers: Vec<LayerKind>,
    /// Query heads of every layer, where attention is computed.
    pub num_attention_heads: Option<usize>,
    /// Experts beside every block.
    pub experts: Option<ExpertsConfig>,
    /// Inputs of every layer beside the residual stream.
    pub per_layer_inputs: Option<PerLayerInputs>,
    /// Several residual streams, and the low-rank path beside attention.
    pub altup: Option<AltUpConfig>,
    /// Whether a layer ends with a factor of its own on the residual stream.
    pub layer_scalar: bool,
    /// What norms multiply by.
    pub norm_weight: NormWeight,
    /// How many GELUs follow the activation when the whole model runs: of blocks, experts and per-layer inputs.
    pub gates: usize,
    /// Whether gate and up are stored as one tensor.
    pub fused_gate_up: bool,
    /// Whether the MLP's projections have biases.
    pub mlp_bias: bool,
    /// The activation, with the reason.
    pub activation: Resolved<Activation>,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// What makes logits, with the reason.
    pub head: Resolved<HeadKind>,
    /// `supported`, or why the whole model does not run here.
    pub attention: String,
    /// Fields that the config leaves out, with the family's default.
    pub defaults: Vec<String>,
}

/// Layers that are alike.
#[derive(Debug, Clone, Serialize)]
pub struct LayerKind {
    /// Which they are.
    pub layers: Vec<usize>,
    /// Width between up and down.
    pub intermediate_size: usize,
    /// The fraction of the gate's values that are set to 0.
    pub sparsity: f64,
    /// Their attention, where it is computed.
    pub attention: Option<LayerAttention>,
    /// What they have in place of attention (RecurrentGemma).
    pub recurrence: Option<RecurrentConfig>,
}

/// Reads every weight of a checkpoint once, to find NaN, and says what the checkpoint is.
///
/// `progress` is called after each tensor with how many are done.
///
/// # Errors
/// A file that was written to since it was opened.
pub fn inspect(checkpoint: &Checkpoint, mut progress: impl FnMut(usize)) -> Result<Inspection> {
    let tensors = checkpoint.tensors();
    let mut dtypes = BTreeMap::new();
    let mut parameters = 0;
    let mut remarks = checkpoint.remarks().to_vec();
    for (done, (name, shape, storage)) in tensors.entries().enumerate() {
        let elements = count(shape);
        parameters += elements;
        *dtypes.entry(storage.to_string()).or_default() += 1;
        // Tensors of other dtypes (a vision tower's integers) cannot be NaN.
        if tensors.dtype(name).is_ok() {
            remarks.extend(nonfinite(name, tensors.count_nonfinite(name)?));
        }
        progress(done + 1);
    }
    Ok(Inspection {
        schema: 2,
        source: checkpoint.source().to_string(),
        family: checkpoint.config().family,
        model_type: checkpoint.config().model_type.clone(),
        stacks: stacks(checkpoint),
        end_tokens: checkpoint.config().eos_token_ids.clone(),
        parameters,
        mlp_parameters: checkpoint
            .blocks()
            .iter()
            .flat_map(|block| block.tensors(tensors))
            .map(|(_, shape)| count(&shape))
            .sum(),
        expert_parameters: expert_parameters(checkpoint),
        bytes: tensors.size_in_bytes(),
        dtypes,
        remarks,
    })
}
impl BlockSpec {
    /// A warning for every weight of the block that holds NaN or infinities. Reads them all.
    ///
    /// # Errors
    /// A file that was written to since it was opened.
    pub fn nonfinite(&self, tensors: &Tensors) -> Result<Vec<Remark>> {
        let mut remarks = vec![];
        for (name, _) in self.tensors(tensors) {
            remarks.extend(nonfinite(&name, tensors.count_nonfinite(&name)?));
        }
        Ok(remarks)
    }
}

fn count(shape: &[usize]) -> u64 {
    shape.iter().map(|&n| n as u64).product()
}

fn nonfinite(name: &str, count: usize) -> Option<Remark> {
    (count > 0).then(|| {
        let text = format!("{name} holds {count} values that are NaN or infinite");
        Remark::warning(RemarkKind::Weights, text)
    })
}

fn expert_parameters(checkpoint: &Checkpoint) -> u64 {
    let of = |stack: &Stack| -> u64 {
        let experts = stack.feed_forward.iter().filter_map(|layer| layer.experts);
        let sizes = experts.map(|e| count(&[3, e.num_experts, e.intermediate_size]));
        sizes.map(|size| size * stack.hidden_size as u64).sum()
    };
    checkpoint.config().stacks.iter().map(of).sum()
}

/// How many GELUs follow the activation.
fn gates(stack: &Stack) -> usize {
    let experts = stack.feed_forward.iter().filter(|layer| layer.experts.is_some()).count();
    let inputs = if stack.per_layer_inputs.is_some() { stack.num_hidden_layers } else { 0 };
    let recurrences = stack.recurrent.iter().flatten().count();
    stack.num_hidden_layers + experts + inputs + recurrences
}

/// The kinds of a stack's layers, in the order of their first ones.
fn kinds(stack: &Stack) -> Vec<LayerKind> {
    let mut kinds: Vec<LayerKind> = vec![];
    for (i, own) in stack.feed_forward.iter().enumerate() {
        let recurrence = stack.recurrent.get(i).copied().flatten();
        let attention = stack.attention.as_ref().ok().filter(|_| recurrence.is_none());
        let attention = attention.and_then(|attention| attention.layers.get(i)).copied();
        let kind = LayerKind {
            layers: vec![i],
            intermediate_size: own.intermediate_size,
            sparsity: own.sparsity,
            attention,
            recurrence,
        };
        match kinds.iter_mut().find(|known| known.is_like(&kind)) {
            Some(known) => known.layers.push(i),
            None => kinds.push(kind),
        }
    }
    kinds
}

impl LayerKind {
    fn is_like(&self, other: &Self) -> bool {
        (self.intermediate_size, self.sparsity, self.attention, self.recurrence)
            == (other.intermediate_size, other.sparsity, other.attention, other.recurrence)
    }
}

fn stacks(checkpoint: &Checkpoint) -> Vec<StackInspection> {
    let (mut first, family) = (0, checkpoint.config().family);
    let inspect = |stack: &Stack| {
        let block = &checkpoint.blocks()[first];
        first += stack.num_hidden_layers;
        StackInspection {
            name: stack.name.into(),
            first_block: block.name.clone(),
            judged_by: unusual::whose(family, stack),
            num_hidden_layers: stack.num_hidden_layers,
            hidden_size: stack.hidden_size,
            intermediate_size: stack.intermediate_size,
            layers: kinds(stack),
            num_attention_heads: stack
                .attention
                .as_ref()
                .ok()
                .map(|attention| attention.num_attention_heads),
            experts: stack.feed_forward[0].experts,
            per_layer_inputs: stack.per_layer_inputs,
            altup: stack.altup,
            layer_scalar: stack.layer_scalar,
            norm_weight: stack.norm_weight,
            gates: gates(stack),
            fused_gate_up: checkpoint
                .tensors()
                .contains(&format!("{}.gate_up_proj.weight", block.name)),
            mlp_bias: stack.mlp_bias,
            activation: stack.activation.clone(),
            vocab_size: stack.vocab_size,
            head: stack.head.clone(),
            attention: match (&stack.attention, checkpoint.check_whole_model()) {
                (Err(reason), _) => reason.to_string(),
                (Ok(_), Ok(())) => "supported".into(),
                (Ok(_), Err(e)) => {
                    format!("cannot be loaded, and neither drift nor forward runs: {e}")
                }
            },
            defaults: stack.defaults.clone(),
        }
    };
    checkpoint.config().stacks.iter().map(inspect).collect()
}
