//! `config.json` as text.

use super::oracle::{remarks, told};
use gemma_mlp::checkpoint::Config;
use std::path::Path;

/// Reads a config. What is accepted is within the documented limits.
pub fn config(data: &[u8]) {
    let Ok(json) = std::str::from_utf8(data) else { return };
    let Some(config) = told(Config::parse(json, Path::new("config.json"))) else { return };
    remarks(&config.remarks);
    assert!(!config.stacks.is_empty() && config.stacks.len() <= 2);
    assert!((1..=2 << 12).contains(&config.eos_token_ids.len()));
    for stack in &config.stacks {
        for width in [stack.hidden_size, stack.intermediate_size] {
            assert!((1..=1 << 20).contains(&width), "a width of {width}");
        }
        assert!((1..=1 << 12).contains(&stack.num_hidden_layers));
        assert!((1..=1 << 24).contains(&stack.vocab_size));
        assert!(stack.rms_norm_eps > 0.0 && stack.rms_norm_eps.is_finite());
        assert!(stack.final_softcap.is_none_or(|cap| cap > 0.0 && cap.is_finite()));
        let Some(attention) = told(stack.attention.as_ref()) else { continue };
        assert_eq!(attention.layers.len(), stack.num_hidden_layers);
        assert!(attention.scaling > 0.0 && attention.scaling.is_finite());
        for layer in &attention.layers {
            assert!(attention.num_attention_heads * layer.head_dim <= 1 << 20);
            assert_eq!(attention.num_attention_heads % layer.num_key_value_heads, 0);
            assert!(layer.sliding_window != Some(0));
            assert!(layer.rope_theta > 0.0 && layer.rope_factor > 0.0);
        }
    }
}
