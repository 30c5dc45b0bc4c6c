//! What transformers calls the tensors of a GGUF file.

/// Names that are not a layer's, with transformers' for them.
const AROUND: &[(&str, &str)] = &[
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
    ("per_layer_token_embd.weight", "model.embed_tokens_per_layer.weight"),
    ("per_layer_model_proj.weight", "model.per_layer_model_projection.weight"),
    ("per_layer_proj_norm.weight", "model.per_layer_projection_norm.weight"),
];

/// Names of a layer, behind `blk.N.`, with transformers', behind `model.layers.N.`.
const OF_LAYER: &[(&str, &str)] = &[
    ("attn_norm.weight", "input_layernorm.weight"),
    ("attn_q.weight", "self_attn.q_proj.weight"),
    ("attn_k.weight", "self_attn.k_proj.weight"),
    ("attn_v.weight", "self_attn.v_proj.weight"),
    ("attn_qkv.weight", "self_attn.qkv_proj.weight"),
    ("attn_output.weight", "self_attn.o_proj.weight"),
    ("attn_q_norm.weight", "self_attn.q_norm.weight"),
    ("attn_k_norm.weight", "self_attn.k_norm.weight"),
    ("post_attention_norm.weight", "post_attention_layernorm.weight"),
    ("ffn_norm.weight", "pre_feedforward_layernorm.weight"),
    ("ffn_gate.weight", "mlp.gate_proj.weight"),
    ("ffn_up.weight", "mlp.up_proj.weight"),
    ("ffn_down.weight", "mlp.down_proj.weight"),
    ("post_ffw_norm.weight", "post_feedforward_layernorm.weight"),
    // Gemma 3n and 4.
    ("inp_gate.weight", "per_layer_input_gate.weight"),
    ("proj.weight", "per_layer_projection.weight"),
    ("post_norm.weight", "post_per_layer_input_norm.weight"),
    ("layer_output_scale.weight", "layer_scalar"),
    // Gemma 3n.
    ("altup_correct_coef.weight", "altup.correction_coefs.weight"),
    ("altup_correct_scale.weight", "altup.correct_output_scale"),
    ("altup_predict_coef.weight", "altup.prediction_coefs.weight"),
    ("altup_router.weight", "altup.modality_router.weight"),
    ("altup_router_norm.weight", "altup.router_norm.weight"),
    ("laurel_l.weight", "laurel.linear_left.weight"),
    ("laurel_r.weight", "laurel.linear_right.weight"),
    ("laurel_post_norm.weight", "laurel.post_laurel_norm.weight"),
    // Gemma 4's experts.
    ("ffn_gate_inp.weight", "router.proj.weight"),
    ("ffn_gate_inp.scale", "router.scale"),
    ("ffn_down_exps.weight", "experts.down_proj"),
    ("ffn_down_exps.scale", "router.per_expert_scale"),
    ("ffn_gate_up_exps.weight", "experts.gate_up_proj"),
    ("pre_ffw_norm_2.weight", "pre_feedforward_layernorm_2.weight"),
    ("post_ffw_norm_1.weight", "post_feedforward_layernorm_1.weight"),
    ("post_ffw_norm_2.weight", "post_feedforward_layernorm_2.weight"),
];

/// Matrices that stand in one tensor, one behind the other, with what transformers calls them in front of their number.
const STACKS: &[(&str, &str)] = &[
    ("altup_proj.weight", "model.altup_projections"),
    ("altup_unembd_proj.weight", "model.altup_unembed_projections"),
];

/// What transformers calls a tensor; the name itself where it has none. `pre_mlp` is the family's norm in front of the
/// MLP.
pub(super) fn transformers(name: &str, pre_mlp: &str) -> String {
    let find = |names: &[(&str, &'static str)], name: &str| {
        names.iter().find(|(own, _)| *own == name).map(|(_, theirs)| *theirs)
    };
    if let Some(theirs) = find(AROUND, name) {
        return theirs.into();
    }
    let Some((layer, part)) = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'))
    else {
        return name.into();
    };
    match part {
        "ffn_norm.weight" => format!("model.layers.{layer}.{pre_mlp}.weight"),
        _ => match find(OF_LAYER, part) {
            Some(theirs) => format!("model.layers.{layer}.{theirs}"),
            None => name.into(),
        },
    }
}

/// What transformers calls the matrices of a tensor that is several of theirs.
pub(super) fn stack(name: &str) -> Option<&'static str> {
    STACKS.iter().find(|(own, _)| *own == name).map(|(_, theirs)| *theirs)
}
