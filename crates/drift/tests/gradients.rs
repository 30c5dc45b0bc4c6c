//! Gradient drift against plain automatic differentiation.

use crate::common::goldens::{checkpoint, goldens, gradients, ids, weights_of};
use crate::common::rel_l2;
use candle_core::{DType, Device};
use gemma_mlp::Gelu;
use gemma_mlp_drift::drift::{
    BlockGradients, DriftOptions, Score, Shard, Side, Sides, Windowing, gradient_drift,
};

/// Gradient drift, which goes back layer by layer and through the head in pieces, against plain
/// automatic differentiation of the whole.
#[test]
fn gradient_drift_agrees_with_autograd() {
    let goldens = goldens("model");
    for family in ["gemma", "gemma2", "gemma3"] {
        let checkpoint = checkpoint(&goldens, family, "config");
        let text = ids(&goldens).narrow(0, 0, 1).unwrap();
        let weights = weights_of(&goldens, family);
        let [(_, tanh), (_, exact)] =
            [Gelu::Tanh, Gelu::Exact].map(|gelu| gradients(&checkpoint, &weights, &text, gelu));
        let side = |gelu: Gelu, dtype| Side::new(gelu, dtype);
        let sides = Sides { a: side(Gelu::Tanh, DType::F32), b: side(Gelu::Exact, DType::F32) };
        let options = DriftOptions {
            sides,
            floor_sides: Sides::floor(sides.a, DType::F32).unwrap(),
            layers: vec![],
            floor_tokens: 512,
            windowing: Windowing { window: 2048, stride: 2048, score: Score::All },
            shard: Shard::WHOLE,
            windows_at_once: 1,
        };
        let texts = text.to_vec2().unwrap().into();
        let drift = gradient_drift(&checkpoint, &texts, &options, &Device::Cpu, |_| ()).unwrap();
        assert_eq!(drift.gradients.len(), 3);
        for layer in &drift.gradients {
            let BlockGradients { gate_proj, up_proj, down_proj, .. } = layer.drift;
            for (matrix, ours) in [("gate", gate_proj), ("up", up_proj), ("down", down_proj)] {
                let name = format!("model.layers.{}.mlp.{matrix}_proj.weight", layer.index);
                let ratio = ours.rel_l2 / rel_l2(&tanh[&name], &exact[&name]);
                assert!((ratio - 1.0).abs() < 0.01, "{family} {name}: {ratio}");
            }
            assert!(layer.floor.gate_proj.rel_l2 < 1e-5, "f32 against f64");
        }
    }
}
