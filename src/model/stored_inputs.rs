//! Inputs of matrix products, rounded as llama.cpp rounds them for the types that a checkpoint's weights are stored in.

use super::gemma::{Gemma, TWO_STACKS};
use super::layer::LayerInputs;
use crate::checkpoint::{Checkpoint, Layers, Remark, RemarkKind, Storage};
use crate::error::{Error, Result};
use crate::kernels::linear::{InputRounding, InputRoundings};
use candle_core::DType;
use candle_core::quantized::GgmlDType;
use safetensors::Dtype;

impl Gemma {
    /// A model of these weights that rounds the input of each matrix product as llama.cpp's kernels on a CPU do
    /// ([`InputRounding::of`]) for the type that the checkpoint stores that matrix in, and what there is to say of it. It
    /// shares the weights: nothing is copied.
    ///
    /// Routers of experts, Gemma 3n's AltUp and Laurel, and the projection that makes per-layer inputs have theirs as they
    /// are.
    ///
    /// # Errors
    /// A checkpoint of an encoder and a decoder; one that has not the layers of this model.
    pub fn with_inputs_as_stored(&self, checkpoint: &Checkpoint) -> Result<(Self, Vec<Remark>)> {
        let [parts] = checkpoint.parts() else { return Err(Error::Input(TWO_STACKS.into())) };
        let blocks = checkpoint.blocks();
        if blocks.len() != self.layers().len() {
            let (own, other) = (self.layers().len(), blocks.len());
            return Err(Error::Input(format!("a checkpoint of {other} layers, a model of {own}")));
        }
        let mut several = vec![];
        let mut of_layers = vec![];
        for (index, block) in blocks.iter().enumerate() {
            let mut of = |module: &str, entering: &[&str], leaving: &str| {
                let of = |name: &&str| rounding(checkpoint, &format!("{module}.{name}"));
                let all: Vec<_> = entering.iter().filter_map(of).collect();
                if all.iter().any(|other| *other != all[0]) && several.last() != Some(&index) {
                    several.push(index);
                }
                InputRoundings {
                    entering: all.first().copied().unwrap_or_default(),
                    leaving: of(&leaving).unwrap_or_default(),
                }
            };
            let layer = &block.layer;
            let attention = ["q_proj.weight", "k_proj.weight", "v_proj.weight", "qkv_proj.weight"];
            let mlp = ["gate_proj.weight", "up_proj.weight", "gate_up_proj.weight"];
            of_layers.push(LayerInputs {
                mixer: of(&format!("{layer}.self_attn"), &attention, "o_proj.weight"),
                mlp: of(&block.name, &mlp, "down_proj.weight"),
                experts: of(&format!("{layer}.experts"), &["gate_up_proj"], "down_proj"),
                per_layer: of(
                    layer,
                    &["per_layer_input_gate.weight"],
                    "per_layer_projection.weight",
                ),
            });
        }
        let head = [&parts.head, &parts.embedding];
        let head =
            head.into_iter().find_map(|name| rounding(checkpoint, &format!("{name}.weight")));
        let mut of_layers = of_layers.into_iter();
        let varied = self
            .with_head(|own| own.with_input_rounding(head.unwrap_or_default()))
            .map_layers(|layer| layer.round_inputs(of_layers.next().unwrap_or_default()));
        let mut remarks = vec![];
        if !several.is_empty() {
            let text = format!(
                "in {} matrices that multiply one input are stored in types that llama.cpp rounds it for differently: it is rounded once, for the first of them",
                Layers(&several)
            );
            remarks.push(Remark::warning(RemarkKind::Chosen, text));
        }
        remarks.extend(of_sums(checkpoint));
        Ok((varied, remarks))
    }
}

/// What is left out of the rounding for weights whose blocks have an offset.
fn of_sums(checkpoint: &Checkpoint) -> Option<Remark> {
    let has_offset =
        |storage| matches!(storage, Storage::Blocks(GgmlDType::Q4_1 | GgmlDType::Q5_1));
    let entries = checkpoint.tensors().entries();
    let count = entries.filter(|(.., storage)| has_offset(*storage)).count();
    let text = format!(
        "{count} tensors in Q4_1 and Q5_1: llama.cpp also rounds the sum of each 32 inputs to f16 for them, which ours does not; their products differ by about 1e-3"
    );
    (count > 0).then(|| Remark::warning(RemarkKind::Chosen, text))
}

/// What the input is rounded to for a tensor, if there is one of that name.
fn rounding(checkpoint: &Checkpoint, name: &str) -> Option<InputRounding> {
    let tensors = checkpoint.tensors();
    let storage = tensors.contains(name).then(|| tensors.numbers(name).ok())??.storage();
    Some(match storage {
        Storage::Blocks(kind) => InputRounding::of(kind),
        Storage::Numbers(Dtype::F16) => InputRounding::To(DType::F16),
        Storage::Numbers(Dtype::BF16) => InputRounding::To(DType::BF16),
        Storage::Numbers(_) | Storage::Codes(_) => InputRounding::Exact,
    })
}
