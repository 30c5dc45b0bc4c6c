//! What a run takes of memory, roughly, before it is started.

use crate::drift::Model;
use crate::error::Result;
use candle_core::DType;
use gemma_mlp::Checkpoint;
use gemma_mlp::checkpoint::Storage;
use gemma_mlp::internal::should_pack;
use std::collections::BTreeMap;

/// What a run takes of memory on the CPU, in bytes, roughly: by names, shapes and dtypes, without a weight being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Footprint {
    /// All weights, once for each of the dtypes that cannot share them.
    pub weights: u64,
    /// Those that are there at a time if they [stay in their files](Checkpoint::streamed): two layers, and two pieces of
    /// the head.
    pub streamed: u64,
    /// What is between two layers, and inside one, for each token of a text.
    pub token: u64,
}

impl Footprint {
    /// Of models of a checkpoint that run at once.
    ///
    /// # Errors
    /// Weights that are to be quantised, and are already.
    pub fn of(checkpoint: &Checkpoint, models: &[Model]) -> Result<Self> {
        /// Bytes of two pieces of the head, and of what is not counted.
        const OTHERS: u64 = 192 << 20;
        let (mut weights, mut layers) = (0, BTreeMap::<String, u64>::new());
        let mut counted = vec![];
        for &model in models {
            model.of(checkpoint, |checkpoint| {
                let held = Held::of(checkpoint, model.dtype);
                if counted.contains(&(model.weights, held)) {
                    return Ok(());
                }
                counted.push((model.weights, held));
                for (name, shape, storage) in checkpoint.tensors().entries() {
                    let count: u64 = shape.iter().map(|&n| n as u64).product();
                    let bytes = held.bytes(count, storage);
                    // Rows of it are read where they lie.
                    if !name.contains("embed_tokens_per_layer") {
                        weights += bytes;
                    }
                    if let Some(layer) = layer(name) {
                        *layers.entry(layer.into()).or_default() += bytes;
                    }
                }
                Ok(())
            })?;
        }
        let largest = layers.values().max().copied().unwrap_or(weights);
        let (mut hidden, mut heads) = (0, 0);
        for stack in &checkpoint.config().stacks {
            let streams = stack.altup.as_ref().map_or(1, |altup| altup.inputs);
            hidden = hidden.max(stack.hidden_size * streams);
            if let Ok(attention) = &stack.attention {
                let width = |kv: usize, dim: usize| (attention.num_attention_heads + 2 * kv) * dim;
                let layers = attention.layers.iter();
                let widest = layers.map(|layer| width(layer.num_key_value_heads, layer.head_dim));
                heads = heads.max(widest.max().unwrap_or(0));
            }
        }
        let streamed = 2 * largest + OTHERS;
        let token = (4 * models.len() * (6 * hidden + 3 * heads)) as u64;
        Ok(Self { weights, streamed, token })
    }

    /// How many texts of so many tokens fit into so much memory, at least one.
    pub fn texts(self, tokens: usize, memory: u64) -> usize {
        let free = memory.saturating_sub(self.streamed);
        usize::try_from(free / (self.token * tokens as u64).max(1)).unwrap_or(usize::MAX).max(1)
    }
}

/// The layer that a tensor belongs to: what is in front of its number, and the number.
fn layer(name: &str) -> Option<&str> {
    let at = name.find("layers.")? + "layers.".len();
    let digits = name[at..].bytes().take_while(u8::is_ascii_digit).count();
    (digits > 0).then(|| &name[..at + digits])
}

/// How weights are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    /// As they are stored.
    Stored,
    /// In so many bytes each, unless they stay quantised.
    Rounded(u64),
    /// In so many bytes each.
    Tensors(u64),
}

impl Held {
    fn of(checkpoint: &Checkpoint, dtype: DType) -> Self {
        let packs = should_pack(dtype, &candle_core::Device::Cpu) || checkpoint.is_streamed();
        let bytes = dtype.size_in_bytes() as u64;
        match packs {
            false => Self::Tensors(bytes),
            true if checkpoint.tensors().are_exact_in(dtype) => Self::Stored,
            true => Self::Rounded(bytes),
        }
    }

    /// Bytes of so many weights.
    fn bytes(self, count: u64, storage: Storage) -> u64 {
        match self {
            Self::Tensors(bytes) => count * bytes,
            Self::Rounded(bytes) if storage.kept().is_none() => count * bytes,
            _ => (count as f64 * storage.bits() / 8.0) as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gemma_mlp::checkpoint::Mixture;

    #[test]
    fn what_can_be_shared_counts_once() -> gemma_mlp::Result<()> {
        let checkpoint = Checkpoint::open("../../weights/tiny-gemma3")?;
        let of = |dtypes: &[DType]| {
            let models: Vec<_> = dtypes.iter().map(|&dtype| Model::new(dtype)).collect();
            Footprint::of(&checkpoint, &models).unwrap()
        };
        let bytes: u64 = checkpoint
            .tensors()
            .entries()
            .map(|(_, shape, storage)| {
                shape.iter().product::<usize>() as u64 * storage.bits() as u64 / 8
            })
            .sum();
        assert_eq!(of(&[DType::BF16]).weights, bytes, "stored in bf16");
        assert_eq!(of(&[DType::F32, DType::BF16]).weights, bytes);
        assert_eq!(of(&[DType::F32, DType::F64]).weights, 5 * bytes);
        let quantised = Model { weights: Some(Mixture::Q8_0), ..Model::new(DType::F32) };
        let both = Footprint::of(&checkpoint, &[Model::new(DType::F32), quantised]).unwrap();
        assert!((1.5..1.6).contains(&(both.weights as f64 / bytes as f64)), "bf16 and 8.5 bits");
        assert_eq!(of(&[DType::F32, DType::BF16]).token, 2 * of(&[DType::F32]).token);
        Ok(())
    }

    #[test]
    fn as_many_texts_as_fit() {
        let footprint = Footprint { weights: 0, streamed: 1000, token: 10 };
        assert_eq!(footprint.texts(5, 1000), 1);
        assert_eq!(footprint.texts(5, 1199), 3);
        assert_eq!(footprint.texts(0, 1005), 5);
    }

    #[test]
    fn layers_by_name() {
        let expected = Some("model.language_model.layers.12");
        assert_eq!(layer("model.language_model.layers.12.mlp.up_proj.weight"), expected);
        assert_eq!(layer("model.layers.x.weight"), None);
        assert_eq!(layer("model.embed_tokens.weight"), None);
    }
}
