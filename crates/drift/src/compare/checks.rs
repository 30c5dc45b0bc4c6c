//! Whether a dump can be held against a model at all: the same tokens, the same weights, numbers that are numbers.

use super::align::{Text, refused};
use super::dump::Dump;
use super::point::{Place, Point};
use crate::drift::Accumulator;
use crate::error::Result;
use candle_core::{DType, Device, Tensor};
use gemma_mlp::Checkpoint;
use gemma_mlp::checkpoint::{Config, Remark, RemarkKind};
use gemma_mlp::model::Gemma;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// How a dump's tokens differ from those that were meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenFault {
    /// It lacks BOS, and is the same otherwise.
    NoBos,
    /// It has BOS twice.
    TwoBos,
}

/// Compares a dump's tokens with those that were meant.
///
/// # Errors
/// Other tokens, in no way that is known.
pub(super) fn check_tokens(
    dump: &Dump,
    theirs: &[u32],
    meant: &[u32],
    bos: u32,
) -> Result<Option<TokenFault>> {
    if theirs == meant {
        return Ok(None);
    }
    if meant.first() == Some(&bos) && theirs == &meant[1..] {
        return Ok(Some(TokenFault::NoBos));
    }
    if theirs.first() == Some(&bos) && &theirs[1..] == meant {
        return Ok(Some(TokenFault::TwoBos));
    }
    let at = theirs.iter().zip(meant).take_while(|(a, b)| a == b).count();
    let shown = |ids: &[u32]| ids.get(at).map_or("nothing".into(), |id| format!("token {id}"));
    let shifted = meant.len() > 2 && theirs.windows(meant.len() - 1).any(|w| w == &meant[1..]);
    let hint = if shifted { "; they look shifted" } else { "" };
    Err(refused(
        dump,
        format!(
            "it ran other tokens: {} of them against {}, and at position {at} {} in place of {}{hint}; capture both from one file of ids",
            theirs.len(),
            meant.len(),
            shown(theirs),
            shown(meant),
        ),
    ))
}

/// SHA-256 of the first block's gate, up and down weights as files of transformers have them, each as f32.
pub(super) fn first_mlp_sha256(checkpoint: &Checkpoint) -> Result<String> {
    let block = checkpoint.block(0)?;
    let (hidden, intermediate) = (block.hidden_size, block.intermediate_size);
    let tensors = checkpoint.tensors();
    let fused = format!("{}.gate_up_proj.weight", block.name);
    let down = ("down_proj", [hidden, intermediate]);
    let parts: Vec<(String, [usize; 2])> = match tensors.contains(&fused) {
        true => vec![(fused, [2 * intermediate, hidden])],
        false => ["gate_proj", "up_proj"]
            .map(|name| (format!("{}.{name}.weight", block.name), [intermediate, hidden]))
            .to_vec(),
    };
    let down = (format!("{}.{}.weight", block.name, down.0), down.1);
    let mut hash = Sha256::new();
    for (name, shape) in parts.into_iter().chain([down]) {
        let weight = tensors.load(&name, &shape, DType::F32, &Device::Cpu)?;
        for row in weight.to_vec2::<f32>()? {
            let bytes: Vec<u8> = row.into_iter().flat_map(f32::to_le_bytes).collect();
            hash.update(&bytes);
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The key under which a dump has the hash of its first block's weights.
pub(super) const WEIGHTS: &str = "first_mlp_sha256";

/// The relative L2 from which two gate projections of one input are of other weights: quantising them to 4 bits changes
/// them by 0.1.
const OTHER_WEIGHTS: f64 = 0.5;

/// What is known of the weights that a dump was computed with: an answer in words.
///
/// # Errors
/// Another checkpoint's.
pub(super) fn check_weights(
    dump: &Dump,
    text: &Text,
    checkpoint: &Checkpoint,
    gemma: &Gemma,
) -> Result<Weights> {
    let stated = dump.metadata.get(WEIGHTS);
    if let Some(stated) = stated
        && *stated == first_mlp_sha256(checkpoint)?
    {
        return Ok(Weights::Same);
    }
    let at = |place| text.planes.get(&Point::Layer(0, place));
    if let (Some(input), Some(gate)) = (at(Place::MlpInput), at(Place::Gate))
        && input.len() == gate.len()
    {
        let rows = input.len().min(16);
        let input = input.read(0..rows)?.to_dtype(DType::F32)?.to_device(gemma.device())?;
        let gate = gate.read(0..rows)?.to_device(gemma.device())?;
        let ours = gemma.layers()[0].mlp().project(&input)?.gate;
        let distance = Accumulator::of(&ours, &gate)?.metrics().rel_l2;
        if distance > OTHER_WEIGHTS {
            return Err(refused(
                dump,
                format!(
                    "it was computed with other weights than {}: of its own input, the gate projection of layer 0 makes something else (relative L2 {distance:.2})",
                    checkpoint.source()
                ),
            ));
        }
        return Ok(if stated.is_some() { Weights::Near } else { Weights::Alike });
    }
    Ok(if stated.is_some() { Weights::OtherHash } else { Weights::Unknown })
}

/// What is known of a dump's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weights {
    /// The same hash.
    Same,
    /// No hash; they compute alike.
    Alike,
    /// Another hash, but they compute alike: rounded or quantised.
    Near,
    /// Another hash, and nothing to recompute.
    OtherHash,
    /// No hash, and nothing to recompute.
    Unknown,
}

/// Planes that hold no numbers, one number, or those of another plane.
pub(super) fn odd_planes(dump: &Dump, text: &Text, config: &Config) -> Result<Vec<Remark>> {
    let mut seen: BTreeMap<(usize, Vec<u32>), Point> = BTreeMap::new();
    let (mut remarks, mut repeated, mut hidden) = (vec![], vec![], 0);
    for (&point, rows) in &text.planes {
        if rows.len() == 0 {
            continue;
        }
        let last = rows.read(rows.len() - 1..rows.len())?;
        let values = last.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        let warn = |what: &str| Remark::warning(RemarkKind::Chosen, format!("{point} {what}"));
        // A gate that is made sparse may be 0 all over, and so what comes of it.
        let is_sparse = |layer: usize| {
            let layer = config.stacks[0].feed_forward.get(layer);
            layer.is_some_and(|layer| layer.sparsity > 0.0)
        };
        let may_be_zero = values.first() == Some(&0.0) && point.layer().is_some_and(is_sparse);
        let is_one = values.len() > 1 && values.iter().all(|value| *value == values[0]);
        if is_one && !may_be_zero {
            remarks.push(warn("holds one and the same number at its last position"));
        }
        let bits: Vec<u32> = values.iter().take(64).map(|value| value.to_bits()).collect();
        let is_stream = matches!(point, Point::Layer(_, Place::Hidden));
        hidden += usize::from(is_stream);
        if let Some(&other) = seen.get(&(values.len(), bits.clone()))
            && same(text, point, other)?
        {
            repeated.push((point, other));
        }
        seen.insert((values.len(), bits), point);
    }
    let streams = repeated.iter().filter(|(p, _)| matches!(p, Point::Layer(_, Place::Hidden)));
    if hidden > 1 && streams.count() + 1 == hidden {
        return Err(refused(
            dump,
            "every residual stream holds the same numbers, as if one buffer had been kept; capture each one by a copy",
        ));
    }
    for (point, other) in repeated {
        let text = format!("{point} holds the same numbers as {other}");
        remarks.push(Remark::warning(RemarkKind::Chosen, text));
    }
    Ok(remarks)
}

fn same(text: &Text, a: Point, b: Point) -> Result<bool> {
    let (Some(a), Some(b)) = (text.planes.get(&a), text.planes.get(&b)) else { return Ok(false) };
    if a.len() != b.len() {
        return Ok(false);
    }
    // Logits are long, and a few rows of them tell.
    let rows = a.len().min(64);
    let (a, b) = (a.read(0..rows)?.flatten_all()?, b.read(0..rows)?.flatten_all()?);
    let differs = |a: &Tensor, b: &Tensor| a.to_dtype(DType::F32)?.ne(&b.to_dtype(DType::F32)?);
    Ok(differs(&a, &b)?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()? == 0.0)
}
