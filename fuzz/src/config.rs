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
        assert_eq!(stack.feed_forward.len(), stack.num_hidden_layers);
        for block in &stack.feed_forward {
            assert!((1..=1 << 20).contains(&block.intermediate_size));
            assert!((0.0..1.0).contains(&block.sparsity));
            let Some(experts) = block.experts else { continue };
            assert!((1..=experts.num_experts).contains(&experts.top_k));
            assert!((1..=1 << 20).contains(&experts.intermediate_size));
        }
        assert!(stack.altup.is_none_or(|altup| altup.active < altup.inputs && altup.inputs <= 16));
        assert!(stack.per_layer_inputs.is_none_or(|inputs| inputs.size > 0));
        for (i, layer) in attention.layers.iter().enumerate() {
            assert!(layer.shares.is_none_or(|earlier| earlier < i));
            assert!(attention.num_attention_heads * layer.head_dim <= 1 << 20);
            assert_eq!(attention.num_attention_heads % layer.num_key_value_heads, 0);
            assert!(layer.sliding_window != Some(0));
            assert!(layer.rope_theta > 0.0 && layer.rope_factor > 0.0);
        }
    }
}
