//! The recurrence that some layers have in place of attention.

use super::limits::MAX_WIDTH;
use super::raw::{RawBlockType, RawConfig};
use crate::checkpoint::families::{AttentionProfile, BlockType};
use crate::checkpoint::notes::{Notes, Refusal};
use serde::Serialize;

/// A recurrent block: RecurrentGemma's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RecurrentConfig {
    /// Width of the recurrence, `lru_width`.
    pub width: usize,
    /// Parts of that width whose gates are products of their own; as many as query heads.
    pub heads: usize,
    /// How many positions the convolution in front of it spans, its own included.
    pub conv_width: usize,
}

impl RecurrentConfig {
    /// What every layer has in place of attention, if it has something; of a family without recurrences nothing.
    pub(super) fn resolve(
        profile: Option<&AttentionProfile>,
        raw: &RawConfig,
        hidden: usize,
        layers: usize,
        notes: &mut Notes,
    ) -> Result<Vec<Option<Self>>, Refusal> {
        /// Positions beyond these are no Gemma's: the released ones have 4.
        const MAX_CONV_WIDTH: usize = 64;
        let impossible = |reason| Err(Refusal::Impossible(reason));
        let Some((profile, recurrent)) = profile.and_then(|p| Some((p, p.recurrent.as_ref()?)))
        else {
            return Ok(vec![None; layers]);
        };
        let heads = raw.num_attention_heads.unwrap_or(profile.num_attention_heads);
        // `null` is the hidden size too.
        let width = notes.or("lru_width", raw.lru_width, hidden);
        let conv_width = notes.or("conv1d_width", raw.conv1d_width, recurrent.conv_width);
        let is_shared = heads > 0 && width.is_multiple_of(heads);
        if !(1..=MAX_WIDTH).contains(&width) || !is_shared {
            return impossible(format!(
                "lru_width is {width}; {heads} heads must share it equally, and it must be 1 to {MAX_WIDTH}"
            ));
        }
        if !(1..=MAX_CONV_WIDTH).contains(&conv_width) {
            return impossible(format!(
                "conv1d_width is {conv_width}; it must be 1 to {MAX_CONV_WIDTH}"
            ));
        }
        let types = block_types(recurrent.block_types, raw)?;
        let of_layer = |&block: &BlockType| match block {
            BlockType::Recurrent => Some(Self { width, heads, conv_width }),
            BlockType::Attention => None,
        };
        Ok(types.iter().map(of_layer).cycle().take(layers).collect())
    }
}

/// The types that layers have from the first on, and again. transformers 4 writes `_block_types`.
fn block_types(default: &[BlockType], raw: &RawConfig) -> Result<Vec<BlockType>, Refusal> {
    let Some(listed) = raw.block_types.as_ref().or(raw.older_block_types.as_ref()) else {
        return Ok(default.into());
    };
    if listed.is_empty() {
        return Err(Refusal::Impossible("block_types is empty; it must name a type".into()));
    }
    let of_name = |name: &RawBlockType| match name {
        RawBlockType::Recurrent => Ok(BlockType::Recurrent),
        RawBlockType::Attention => Ok(BlockType::Attention),
        RawBlockType::Other(name) => {
            Err(Refusal::Unsupported(format!("block type \"{name}\" is not supported")))
        }
    };
    listed.iter().map(of_name).collect()
}

#[cfg(test)]
mod tests {
    use crate::checkpoint::config::Config;
    use std::path::Path;

    fn parse(fields: &str) -> Result<Config, String> {
        let json = format!(
            r#"{{"model_type": "recurrent_gemma", "num_hidden_layers": 4, "hidden_size": 24, "num_attention_heads": 3{fields}}}"#
        );
        Config::parse(&json, Path::new("config.json")).map_err(|e| e.to_string())
    }

    fn recurrent(fields: &str) -> Vec<bool> {
        let layers = parse(fields).unwrap().stacks.remove(0).recurrent;
        layers.iter().map(Option::is_some).collect()
    }

    #[test]
    fn layers_repeat_a_pattern() {
        let released = [true, true, false, true];
        assert_eq!(recurrent(""), released);
        assert_eq!(recurrent(r#", "block_types": ["attention"]"#), [false; 4]);
        assert_eq!(recurrent(r#", "_block_types": ["recurrent"]"#), [true; 4]);
        let both = r#", "_block_types": ["recurrent"], "block_types": ["attention", "recurrent"]"#;
        assert_eq!(recurrent(both), [false, true, false, true]);
        let gemma = Config::parse(r#"{"model_type": "gemma"}"#, Path::new("config.json")).unwrap();
        assert_eq!(gemma.stacks[0].recurrent, [None; 28]);
    }

    #[test]
    fn its_own_keys() {
        let stack = parse(
            r#", "lru_width": 18, "conv1d_width": 3, "attention_window_size": 7, "logits_soft_cap": 20.0,
               "embeddings_scale_by_sqrt_dim": true, "w_init_variance_scale": 0.01, "final_w_init_variance_scale": 0.1"#,
        )
        .unwrap();
        assert_eq!(stack.remarks, []);
        let stack = &stack.stacks[0];
        let first = stack.recurrent[0].unwrap();
        assert_eq!((first.width, first.heads, first.conv_width), (18, 3, 3));
        let attention = stack.attention.as_ref().unwrap();
        let layer = attention.layers[2];
        assert_eq!(
            (layer.sliding_window, layer.head_dim, layer.num_key_value_heads),
            (Some(7), 8, 3)
        );
        assert_eq!((attention.bias, attention.output_bias), (false, true));
        assert_eq!((stack.final_softcap, stack.norms.last), (Some(20.0), "final_norm"));
        let other =
            parse(r#", "sliding_window": 9, "head_dim": 16, "final_logit_softcapping": 5.0"#);
        let other = other.unwrap();
        assert!(other.remarks[0].text.contains("final_logit_softcapping"), "{:?}", other.remarks);
        let layer = other.stacks[0].attention.as_ref().unwrap().layers[0];
        assert_eq!((layer.sliding_window, layer.head_dim), (Some(9), 16));
        assert_eq!(other.stacks[0].final_softcap, Some(30.0));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for fields in [
            r#", "lru_width": 20"#,
            r#", "lru_width": 0"#,
            r#", "conv1d_width": 0"#,
            r#", "conv1d_width": 100000"#,
            r#", "block_types": []"#,
            r#", "logits_soft_cap": null"#,
            r#", "logits_soft_cap": 0"#,
            r#", "attention_window_size": 0"#,
            r#", "partial_rotary_factor": 0.1"#,
            r#", "partial_rotary_factor": 1.5"#,
            r#", "partial_rotary_factor": 0.4"#,
        ] {
            assert!(parse(fields).unwrap_err().starts_with("config.json: "), "{fields}");
        }
        let other = parse(r#", "block_types": ["recurrent", "mamba"]"#).unwrap();
        let reason = other.stacks[0].attention.clone().unwrap_err().to_string();
        assert!(reason.contains("\"mamba\" is not supported"), "{reason}");
    }
}
