//! Where the MLP blocks of a checkpoint are, by name and shape.

use super::config::Config;
use super::config::activation::Resolved;
use super::names::prefix;
use super::tensors::Tensors;
use crate::error::Result;
use crate::kernels::activation::Activation;
use candle_core::DType;

/// One MLP block of a checkpoint: what to load, and the norm in front of it.
#[derive(Debug, Clone)]
pub struct BlockSpec {
    /// Counted from 0 over all stacks.
    pub index: usize,
    /// Prefix of its tensors, `model.layers.0.mlp`.
    pub name: String,
    /// Prefix of its layer, `model.layers.0`.
    pub layer: String,
    /// The weight of the norm that the block's input comes out of, `[hidden]`.
    pub norm: String,
    /// `rms_norm_eps` of that norm.
    pub eps: f64,
    /// Width of input and output.
    pub hidden_size: usize,
    /// Width of gate and up.
    pub intermediate_size: usize,
    /// The fraction of the gate's values that are set to 0 (Gemma 3n); 0 where none are.
    pub sparsity: f64,
    /// Whether the projections have biases.
    pub bias: bool,
    /// What the config means the activation to be.
    pub activation: Resolved<Activation>,
    /// The dtype that `down_proj.weight` is stored in.
    pub dtype: DType,
}

impl BlockSpec {
    /// Names and shapes of its tensors.
    ///
    /// Fused weights are `[2 * intermediate, hidden]`, all others `[out, in]`.
    pub fn tensors(&self, tensors: &Tensors) -> Vec<(String, Vec<usize>)> {
        let (h, i) = (self.hidden_size, self.intermediate_size);
        let name = |projection: &str, part: &str| format!("{}.{projection}.{part}", self.name);
        let projections = if tensors.contains(&name("gate_up_proj", "weight")) {
            vec![("gate_up_proj", 2 * i, h), ("down_proj", h, i)]
        } else {
            vec![("gate_proj", i, h), ("up_proj", i, h), ("down_proj", h, i)]
        };
        let mut all = vec![];
        for (projection, rows, columns) in projections {
            all.push((name(projection, "weight"), vec![rows, columns]));
            if self.bias {
                all.push((name(projection, "bias"), vec![rows]));
            }
        }
        all
    }
}

/// Finds and checks every block that the config promises.
pub(super) fn find(config: &Config, tensors: &Tensors) -> Result<Vec<BlockSpec>> {
    let mut blocks = vec![];
    for stack in &config.stacks {
        let mlp = config.family.profile().mlp.name;
        let prefix = prefix(stack, mlp, tensors)?;
        for i in 0..stack.num_hidden_layers {
            let layer = format!("{prefix}layers.{i}");
            let name = format!("{layer}.{mlp}");
            let down = format!("{name}.down_proj.weight");
            let block = BlockSpec {
                index: blocks.len(),
                norm: format!("{layer}.{}.weight", stack.norms.pre_mlp),
                eps: stack.rms_norm_eps,
                hidden_size: stack.hidden_size,
                intermediate_size: stack.feed_forward[i].intermediate_size,
                sparsity: stack.feed_forward[i].sparsity,
                bias: stack.mlp_bias,
                activation: stack.activation.clone(),
                dtype: tensors.dtype(&down)?,
                name,
                layer,
            };
            for (name, shape) in block.tensors(tensors) {
                tensors.check(&name, &shape)?;
            }
            tensors.check(&block.norm, &[block.hidden_size])?;
            blocks.push(block);
        }
    }
    Ok(blocks)
}
