//! What compressed-tensors (llm-compressor) writes: integers packed into words (`pack-quantized`), in bytes
//! (`int-quantized`, `naive-quantized`), and floats of 8 bits (`float-quantized`). It multiplies them with their scales
//! in these' dtype.

use super::{AGAIN, Beside, Found, INSTEAD, fp8, scaled};
use crate::checkpoint::config::quantization::Compressed;
use crate::checkpoint::tensors::Tensors;
use crate::checkpoint::tensors::scaled::{Codes, Place, Scaled};
use crate::error::Result;
use safetensors::Dtype;

/// The weight whose codes a tensor has, if it is one.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn weight(
    tensors: &Tensors,
    name: &str,
    place: Place,
    config: &Compressed,
) -> Result<Option<Found>> {
    let found = if let Some(module) = name.strip_suffix(".weight_packed") {
        Some(packed(tensors, module, place, config)?)
    } else if let Some(module) = name.strip_suffix(".weight")
        && place.dtype == Dtype::I8
    {
        Some(bytes(tensors, module, place, config))
    } else {
        fp8::found(tensors, name, place, &config.blocks, true)
    };
    // What the config has that is not read may be of any weight.
    Ok(found.map(|found| match &config.refused {
        Some(what) => {
            let made = Err(format!(
                "config.json's quantization_config has {what}, which is not read; {INSTEAD}"
            ));
            Found { made, ..found }
        }
        None => found,
    }))
}

/// Integers in words of 32 bits.
fn packed(tensors: &Tensors, module: &str, place: Place, config: &Compressed) -> Result<Found> {
    let part = |part: &str| format!("{module}.weight_{part}");
    let made = match shape(tensors, &part("shape"), &place)? {
        Ok(shape) => of_shape(tensors, module, place, shape, config),
        Err(reason) => Err(reason),
    };
    let parts = ["scale", "shape", "zero_point", "g_idx", "global_scale"].map(part).into();
    Ok(Found { name: format!("{module}.weight"), made, parts })
}

/// The rows and columns of a packed weight, which are a tensor of their own.
fn shape(tensors: &Tensors, name: &str, place: &Place) -> Result<Result<[usize; 2], String>> {
    if place.dtype != Dtype::I32 {
        return Ok(Err(format!("it is packed into {:?}, and I32 is read; {INSTEAD}", place.dtype)));
    }
    let Some(own) = tensors.place(name) else {
        return Ok(Err(format!("no tensor '{name}'; {AGAIN}")));
    };
    let ids = match (own.dtype, own.len()) {
        (Dtype::I64 | Dtype::I32, 2) => tensors.numbers(name)?.ids(0..2)?,
        _ => vec![],
    };
    Ok(match (&ids[..], &place.shape[..]) {
        (&[Some(rows), Some(columns)], &[own, _]) if rows as usize == own && columns > 0 => {
            Ok([own, columns as usize])
        }
        (_, own) => Err(format!(
            "'{name}' is not the shape of a matrix whose codes have shape {own:?}; {AGAIN}"
        )),
    })
}

fn of_shape(
    tensors: &Tensors,
    module: &str,
    place: Place,
    shape: [usize; 2],
    config: &Compressed,
) -> Result<Scaled, String> {
    let part = |part: &str| format!("{module}.weight_{part}");
    let (words, columns) = (place.shape[1], shape[1]);
    let fits = |bits: &u8| (columns * usize::from(*bits)).div_ceil(32) == words;
    let bits: Vec<u8> = (1..=8).filter(fits).collect();
    let asked = |bits: &&u8| config.bits.is_empty() || config.bits.contains(bits);
    let bits = match bits.iter().filter(asked).collect::<Vec<_>>()[..] {
        [&bits] => bits,
        [] => {
            let asked: Vec<_> = config.bits.iter().map(u8::to_string).collect();
            let asked = match &asked[..] {
                [] => "1 to 8".into(),
                [one] => one.clone(),
                [others @ .., last] => format!("{} or {last}", others.join(", ")),
            };
            return Err(format!(
                "rows of {words} words do not have {columns} integers of {asked} bits; {AGAIN}"
            ));
        }
        [first, .., last] => {
            return Err(format!(
                "its integers may have {first} to {last} bits, by their words; {AGAIN}"
            ));
        }
    };
    if tensors.contains(&part("g_idx")) {
        return Err(format!(
            "its groups are in the order of activations ('{}'), which is not read; {INSTEAD}",
            part("g_idx")
        ));
    }
    integers(tensors, module, place, Codes::Packed(bits), shape.into(), config)
}

/// Integers in bytes.
fn bytes(tensors: &Tensors, module: &str, place: Place, config: &Compressed) -> Found {
    let shape = place.shape.clone();
    let made = match shape.len() {
        2 => integers(tensors, module, place, Codes::Int8, shape, config),
        _ => Err(format!("it has shape {shape:?} and is no matrix; {INSTEAD}")),
    };
    let parts = ["scale", "zero_point"].map(|part| format!("{module}.weight_{part}")).into();
    Found { name: format!("{module}.weight"), made, parts }
}

fn integers(
    tensors: &Tensors,
    module: &str,
    place: Place,
    codes: Codes,
    shape: Vec<usize>,
    config: &Compressed,
) -> Result<Scaled, String> {
    let zeros = format!("{module}.weight_zero_point");
    if config.asymmetric && !tensors.contains(&zeros) {
        return Err(format!(
            "config.json says that it is not symmetric, and there is no '{zeros}'; {AGAIN}"
        ));
    }
    let beside = Beside {
        scales: &[format!("{module}.weight_scale")],
        zeros: Some((&zeros, codes.bits() as u8)),
        blocks: &config.blocks,
        rounded: true,
        exponents: false,
    };
    scaled(tensors, place, codes, shape, &beside)
}
