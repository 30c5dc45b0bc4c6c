//! ggml's types of tensors, by the numbers that files have for them.

use crate::checkpoint::tensors::Storage;
use candle_core::quantized::GgmlDType;
use safetensors::Dtype;

/// What a tensor of a type is stored as, or what it is and what to do.
pub(super) fn storage(kind: u32) -> Result<Storage, String> {
    use GgmlDType::*;
    let numbers = |dtype| Ok(Storage::Numbers(dtype));
    let blocks = |kind| Ok(Storage::Blocks(kind));
    match kind {
        0 => numbers(Dtype::F32),
        1 => numbers(Dtype::F16),
        28 => numbers(Dtype::F64),
        30 => numbers(Dtype::BF16),
        // What nothing is multiplied with.
        24 => numbers(Dtype::I8),
        25 => numbers(Dtype::I16),
        26 => numbers(Dtype::I32),
        27 => numbers(Dtype::I64),
        2 => blocks(Q4_0),
        3 => blocks(Q4_1),
        6 => blocks(Q5_0),
        7 => blocks(Q5_1),
        8 => blocks(Q8_0),
        10 => blocks(Q2K),
        11 => blocks(Q3K),
        12 => blocks(Q4K),
        13 => blocks(Q5K),
        14 => blocks(Q6K),
        other => {
            let name = OTHERS.iter().find(|(kind, _)| *kind == other);
            let name = name.map_or_else(|| format!("type {other}"), |(_, name)| name.to_string());
            Err(format!(
                "{name}, which is not read; F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and Q2_K to Q6_K are: take a \
                 file in one of these"
            ))
        }
    }
}

/// Those that are known and not read.
const OTHERS: &[(u32, &str)] = &[
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];
