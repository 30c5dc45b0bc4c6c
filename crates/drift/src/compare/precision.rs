//! In which dtype, and with whose arithmetic, a dump was computed.

use super::dump::Dump;
use super::models::varied;
use crate::error::Result;
use candle_core::{DType, Tensor};
use gemma_mlp::model::{AttentionRounding, NormRounding, RopeRounding, Variation};
use gemma_mlp::{Framework, Gemma, Rounding};

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

/// A framework's arithmetic in a dtype: what its model rounds, which belongs to the noise floor.
pub(super) struct Arithmetic {
    /// As changes of our model.
    pub(super) variations: Vec<Variation>,
    /// Those of them that are the same at every position, and so no noise: a model in f32 that has them is what theirs
    /// is scattered around.
    centre: Vec<Variation>,
    /// Of the gated activation.
    pub(super) rounding: Rounding,
    /// In a few words.
    pub(super) description: String,
}

impl Arithmetic {
    /// Of a framework and its attention, by the names that a dump has for them.
    pub(super) fn of(framework: Option<&str>, attention: Option<&str>, dtype: DType) -> Self {
        if dtype.size_in_bytes() != 2 {
            let description = format!("our model in {}", dtype.as_str());
            let rounding = Rounding::Once;
            return Self { variations: vec![], centre: vec![], rounding, description };
        }
        // Scores stay f32 in kernels that fuse attention.
        let fused = matches!(attention, Some("sdpa" | "flash" | "flash_attention_2" | "fused"));
        let attention = match fused {
            true => AttentionRounding::Fused(dtype),
            false => AttentionRounding::EveryOp(dtype),
        };
        let (rounding, name) = match framework {
            Some("transformers" | "pytorch" | "torch") => {
                (Rounding::Like(Framework::PyTorch), "transformers")
            }
            Some("jax" | "flax") => (Rounding::Like(Framework::Jax), "JAX"),
            Some("candle") => (Rounding::EveryOp, "candle"),
            _ => (Rounding::AfterActivation, "a framework that rounds every operation"),
        };
        let mut variations = vec![
            Variation::RopeRounding(RopeRounding::Tables(dtype)),
            Variation::AttentionRounding(attention),
        ];
        if name == "JAX" {
            variations.push(Variation::NormRounding(NormRounding::EveryOp(dtype)));
        }
        let centre = vec![
            Variation::EmbeddingScaleRounded(dtype),
            Variation::RopeRounding(RopeRounding::Tables(dtype)),
        ];
        let description = format!("our model in {}, rounded as {name} does", dtype.as_str());
        Self { variations, centre, rounding, description }
    }

    /// A model in f32 with what is no noise.
    pub(super) fn centre(&self, ours: &Gemma) -> Result<Gemma> {
        varied(ours, &self.centre)
    }
}
