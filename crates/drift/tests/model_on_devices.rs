//! One body for every device, as in the library's tests/devices.rs.

use crate::common::devices;
use candle_core::{DType, Device};
use gemma_mlp::{Checkpoint, Gelu};
use gemma_mlp_drift::drift::{DriftOptions, Score, Shard, Side, Sides, Windowing, drift};
use std::ops::ControlFlow;

/// The switch on the whole model inside the program, in f32: what every device says it does, layer
/// by layer and on the logits, is what f64 on the CPU says.
#[test]
fn drift_of_the_whole_model() -> gemma_mlp_drift::Result<()> {
    let checkpoint = Checkpoint::open("weights/tiny-gemma3")?;
    let text =
        checkpoint.encode("Every Friday, Mia and Leo sing in the garden. The small dog runs.")?;
    let figures = |device: &Device, dtype: DType| -> gemma_mlp_drift::Result<Vec<f64>> {
        let side = |gelu: Gelu| Side::new(gelu, dtype);
        let options = DriftOptions {
            sides: Sides { a: side(Gelu::Tanh), b: side(Gelu::Exact) },
            floor_sides: Sides::floor(side(Gelu::Tanh), DType::BF16)?,
            layers: (0..checkpoint.blocks().len()).collect(),
            floor_tokens: 16,
            windowing: Windowing { window: 64, stride: 64, score: Score::All },
            shard: Shard::WHOLE,
            windows_at_once: 1,
        };
        let go_on = |_| ControlFlow::Continue(());
        let drift = drift(&checkpoint, &text.clone().into(), &options, device, go_on)?;
        let json: serde_json::Value =
            serde_json::from_str(&serde_json::to_string(&drift).unwrap()).unwrap();
        let number = |value: &serde_json::Value| value.as_f64().unwrap();
        let logits = &json["logits"];
        let mut figures = ["ppl_a", "ppl_b", "rel_l2"].map(|name| number(&logits[name])).to_vec();
        for layer in json["layers"].as_array().unwrap() {
            figures.push(number(&layer["output"]["rel_l2"]));
            figures.push(number(&layer["activation"]["max_abs"]));
        }
        Ok(figures)
    };
    let truth = figures(&Device::Cpu, DType::F64)?;
    // f32 on the CPU is 3e-7 off in perplexity, of which the switch makes several times as much as is
    // allowed, and 4e-4 in the rest.
    let bound = |figure| if figure < 2 { 5e-6 } else { 2e-3 };
    assert!((truth[0] / truth[1] - 1.0).abs() > 3.0 * bound(0), "{truth:?}");
    for device in devices() {
        let ours = figures(&device, DType::F32)?;
        assert_eq!(ours.len(), 3 + 2 * checkpoint.blocks().len());
        for (i, (ours, truth)) in ours.iter().zip(&truth).enumerate() {
            assert!((ours / truth - 1.0).abs() < bound(i), "{device:?} {i}: {ours} {truth}");
        }
    }
    Ok(())
}
