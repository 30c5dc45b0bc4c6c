//! In which dtype a dump was computed.

use super::dump::Dump;
use crate::error::Result;
use candle_core::{DType, Tensor};

/// The dtype of a dump's model, and how it is known.
pub(super) struct Precision {
    pub(super) dtype: DType,
    pub(super) reason: String,
}

/// Rows that are looked at: numbers that are all of a narrower type are no chance after a few thousand.
const ROWS: usize = 32;

impl Precision {
    /// What was asked for, what the dump says, or what its numbers show.
    pub(super) fn of_dump(dump: &Dump, asked: Option<DType>) -> Result<Self> {
        if let Some(dtype) = asked {
            return Ok(Self { dtype, reason: "asked for".into() });
        }
        let said = dump.metadata.get("dtype");
        if let Some((dtype, said)) = said.and_then(|said| Some((dtype(said)?, said))) {
            return Ok(Self { dtype, reason: format!("the dump says {said}") });
        }
        let Some((point, plane)) = dump.texts.iter().flat_map(|text| &text.planes).next() else {
            let reason = "the dump does not say it, and f32 is the least that can be meant".into();
            return Ok(Self { dtype: DType::F32, reason });
        };
        let stored = plane.dtype();
        if stored != DType::F32 && stored != DType::F64 {
            let reason = format!("{point} is stored in {}", stored.as_str());
            return Ok(Self { dtype: stored, reason });
        }
        let some = plane.rows(0..plane.positions().min(ROWS))?;
        for narrow in [DType::BF16, DType::F16] {
            if is_exact(&some, narrow)? {
                let reason = format!("every number of {point} is one of {}", narrow.as_str());
                return Ok(Self { dtype: narrow, reason });
            }
        }
        let reason = format!("{point} has numbers that no half type has");
        Ok(Self { dtype: DType::F32, reason })
    }
}

/// The dtype of a name as frameworks write it.
fn dtype(name: &str) -> Option<DType> {
    match name.rsplit('.').next()? {
        "f64" | "float64" => Some(DType::F64),
        "f32" | "float32" => Some(DType::F32),
        "bf16" | "bfloat16" => Some(DType::BF16),
        "f16" | "float16" => Some(DType::F16),
        _ => None,
    }
}

fn is_exact(values: &Tensor, narrow: DType) -> Result<bool> {
    let wide = values.to_dtype(DType::F64)?;
    let differs = wide.to_dtype(narrow)?.to_dtype(DType::F64)?.ne(&wide)?;
    Ok(differs.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()? == 0.0)
}
