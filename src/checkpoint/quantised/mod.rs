//! Quantised weights in safetensors files: codes in one tensor, scales in others.
//!
//! Each method has a file here, that finds its weights by the names and dtypes of tensors. What is found takes the
//! place of its tensors, as a weight like any other, which is dequantised to f32 when it is read.

mod compressed;
mod fp8;
mod gemma;

use super::config::quantization::{Quantization, Scheme};
use super::remark::{Remark, RemarkKind};
use super::tensors::scaled::{Codes, Grid, Place, Scaled, Scales, Zeros};
use super::tensors::{Storage, Tensors, Weight};
use crate::error::Result;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// What to do about a file that contradicts itself.
const AGAIN: &str = "download or quantise the checkpoint again";

/// What to do about one that is not read.
const INSTEAD: &str = "take the unquantised model or a GGUF file of it, or dequantise it first";

/// What is missing where a tensor is, if the config names a method that is not read.
const UNREAD: &str = "weights of this method are not read; take the unquantised model or a GGUF file of it, or dequantise it first";

/// What rounds activations, behind the name of a module with quantised weights.
const ACTIVATIONS: [&str; 7] = [
    ".activation_scale",
    ".input_activation_scale",
    ".input_scale",
    ".input_zero_point",
    ".output_activation_scale",
    ".output_scale",
    ".output_zero_point",
];

/// What rounds the queries, keys and values of an attention.
const ATTENTION: [&str; 5] =
    [".k_cache_scale", ".k_scale", ".q_scale", ".v_cache_scale", ".v_scale"];

/// A weight by the tensor that has its codes.
struct Found {
    /// What it is called.
    name: String,
    /// The weight, or why there is none.
    made: Result<Scaled, String>,
    /// The tensors beside that of its codes which it may have.
    parts: Vec<String>,
}

/// The tensors with weights in place of codes and scales, as the config says that they are quantised, and what is to be
/// said of it.
///
/// # Errors
/// A weight that is there twice; a file that cannot be read.
pub(super) fn dequantised(
    tensors: Tensors,
    quantization: Option<&Quantization>,
) -> Result<(Tensors, Vec<Remark>)> {
    let Some(quantization) = quantization else { return Ok((tensors, vec![])) };
    let (mut weights, mut without) = (HashMap::new(), HashSet::new());
    let (mut counts, mut rounding) = (BTreeMap::new(), quantization.activations.clone());
    for name in tensors.names() {
        let Some(place) = tensors.place(name) else { continue };
        let found = match &quantization.scheme {
            Scheme::Fp8 { block } => fp8::weight(&tensors, name, place, block.as_slice()),
            Scheme::Compressed(own) => compressed::weight(&tensors, name, place, own)?,
            Scheme::Gemma(own) => gemma::weight(&tensors, name, place, own),
            Scheme::Unread => return Ok((tensors.with_remedy(UNREAD)?, vec![])),
        };
        let Some(Found { name: own, made, parts }) = found else { continue };
        let module = own.strip_suffix(".weight").unwrap_or(&own);
        for part in ACTIVATIONS {
            let part_name = format!("{module}{part}");
            if tensors.contains(&part_name) {
                rounding.push(&part[1..]);
                without.insert(part_name);
            }
        }
        without.extend(parts.into_iter().filter(|part| tensors.contains(part)));
        if let Ok(scaled) = &made {
            *counts.entry(Storage::Codes(scaled.codes()).to_string()).or_default() += 1;
        }
        let scaled = made.map(Arc::new).map_err(Arc::from);
        weights.insert(name.to_string(), Weight { name: own, scaled });
    }
    if weights.is_empty() {
        return Ok((tensors, vec![]));
    }
    for name in tensors.names() {
        if let Some(part) = ATTENTION.iter().find(|part| name.ends_with(**part)) {
            rounding.push(&part[1..]);
            without.insert(name.to_string());
        }
    }
    let tensors = tensors.with_weights(&weights, &without)?;
    let remarks = remarks(&tensors, &quantization.method, &counts, rounding);
    Ok((tensors, remarks))
}

/// That weights are dequantised, and what else is rounded where the model runs as it is meant.
fn remarks(
    tensors: &Tensors,
    method: &str,
    counts: &BTreeMap<String, usize>,
    mut rounding: Vec<&str>,
) -> Vec<Remark> {
    let all: usize = counts.values().sum();
    if all == 0 {
        return vec![];
    }
    let counts: Vec<_> = counts.iter().map(|(kind, count)| format!("{kind}: {count}")).collect();
    let text = format!(
        "{all} of {} tensors are quantised by {method} ({}); they are dequantised to f32",
        tensors.names().count(),
        counts.join(", ")
    );
    let mut remarks = vec![Remark::note(RemarkKind::Chosen, text)];
    rounding.sort_unstable();
    rounding.dedup();
    if !rounding.is_empty() {
        let asks = if rounding.len() == 1 { "asks" } else { "ask" };
        let text = format!(
            "activations are not rounded to the few bits that {} {asks} for; figures are those of the dequantised weights \
             alone",
            rounding.join(", ")
        );
        remarks.push(Remark::warning(RemarkKind::Unused, text));
    }
    remarks
}

/// What a weight of codes has beside them.
struct Beside<'a> {
    /// The names that its scales may have, one of which is there.
    scales: &'a [String],
    /// The name that its zero points may have, and of how many bits they are where they are packed.
    zeros: Option<(&'a str, u8)>,
    /// The sizes of blocks that the config has.
    blocks: &'a [[usize; 2]],
    /// Whether products are rounded to the scales' dtype.
    rounded: bool,
    /// Whether scales may be exponents.
    exponents: bool,
}

/// A weight of a shape of its codes and of what is beside them.
fn scaled(
    tensors: &Tensors,
    place: Place,
    codes: Codes,
    shape: Vec<usize>,
    beside: &Beside,
) -> Result<Scaled, String> {
    let mut there = beside.scales.iter().filter_map(|name| Some((name, tensors.place(name)?)));
    let (name, scales) = match (there.next(), there.next()) {
        (Some(one), None) => one,
        (None, _) => {
            return Err(format!(
                "it has no scales: no tensor '{}'; {AGAIN}",
                beside.scales.join("' or '")
            ));
        }
        (Some((name, _)), Some((other, _))) => {
            return Err(format!("it has scales twice, '{name}' and '{other}'; {AGAIN}"));
        }
    };
    if !Scales::are_read(scales.dtype, beside.exponents) {
        return Err(format!("its scales, '{name}', are {:?}; {INSTEAD}", scales.dtype));
    }
    let grid = Grid::new(&shape, &scales.shape, beside.blocks)
        .map_err(|reason| format!("{reason} ('{name}'); {AGAIN}"))?;
    let zeros = beside.zeros.and_then(|(name, bits)| Some((name, tensors.place(name)?, bits)));
    let zeros = zeros.map(|(name, place, bits)| {
        let of = (place.dtype, &*place.shape);
        let rows = shape[0];
        let packed = [(rows * usize::from(bits)).div_ceil(32), grid.width()];
        match of {
            (safetensors::Dtype::I8, own) if own == scales.shape => Ok(Zeros::Bytes(place)),
            (safetensors::Dtype::I32, own) if own == packed && grid.is_by_row(rows) => {
                Ok(Zeros::Packed(place, bits))
            }
            (dtype, own) => Err(format!(
                "its zero points, '{name}', are {dtype:?} of shape {own:?}, which does not fit its scales of shape {:?}; {AGAIN}",
                scales.shape
            )),
        }
    });
    let zeros = zeros.transpose()?;
    let (name, rounded) = (name.clone(), beside.rounded);
    Ok(Scaled::new(place, codes, shape, Scales { name, place: scales, grid, zeros, rounded }))
}
