//! Google's own files (transformers' `gemma`): integers of 8, 4 or 2 bits, of which the smaller ones lie in bytes.

use super::{AGAIN, Beside, Found, INSTEAD, scaled};
use crate::checkpoint::config::quantization::Gemma;
use crate::checkpoint::tensors::Tensors;
use crate::checkpoint::tensors::scaled::{Codes, Place, Scaled};
use safetensors::Dtype;

/// The weight whose codes a tensor has, if it is one.
pub(super) fn weight(tensors: &Tensors, name: &str, place: Place, config: &Gemma) -> Option<Found> {
    // A matrix's, or a table's of embeddings.
    let parts = [(".weight", ".weight_scale"), (".embedding_quantized", ".embedding_scale")];
    let (module, scale) =
        parts.iter().find_map(|(codes, scale)| Some((name.strip_suffix(codes)?, scale)))?;
    if !matches!(place.dtype, Dtype::I8 | Dtype::U8) {
        return None;
    }
    let scales = [format!("{module}{scale}")];
    let made = made(tensors, module, place, &scales, config);
    Some(Found { name: format!("{module}.weight"), made, parts: scales.into() })
}

fn made(
    tensors: &Tensors,
    module: &str,
    place: Place,
    scales: &[String],
    config: &Gemma,
) -> Result<Scaled, String> {
    let &[rows, bytes] = &place.shape[..] else {
        return Err(format!("it has shape {:?} and is no matrix; {INSTEAD}", place.shape));
    };
    let (codes, columns) = match (place.dtype, config.bits(module)?) {
        (Dtype::I8, _) => (Codes::Int8, bytes),
        // That of an odd width has one column more, and is refused by its shape.
        (_, bits @ (2 | 4)) => (Codes::Packed(bits), bytes * 8 / usize::from(bits)),
        (dtype, bits) => {
            return Err(format!(
                "it is {dtype:?}, which holds 2 or 4 bits, and config.json's quantization_config says {bits}; {AGAIN}"
            ));
        }
    };
    let beside = Beside { scales, zeros: None, blocks: &[], rounded: false, exponents: false };
    scaled(tensors, place, codes, vec![rows, columns], &beside)
}
