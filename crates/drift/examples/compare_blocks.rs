//! Measures a block that is not ours, as a port of Gemma might have it, on the model's own
//! activations: `cargo run --release -p gemma-mlp-drift --example compare_blocks`.

use candle_core::{DType, Device, Module, Result, Tensor, safetensors};
use candle_nn::{Linear, VarBuilder, linear_no_bias};
use gemma_mlp::{Checkpoint, Gelu, gemma_mlp};
use gemma_mlp_drift::drift::{
    AnyBlock, BlockSide, BlockTrace, Sides, compare_blocks, input_gradient,
};
use gemma_mlp_drift::forward::{ForwardOptions, forward};
use gemma_mlp_drift::input::TokenIds;

/// Somebody's port of Gemma's block, with one mistake.
struct Ported {
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Ported {
    fn new(hidden: usize, intermediate: usize, vb: VarBuilder) -> Result<Self> {
        let gate = linear_no_bias(hidden, intermediate, vb.pp("gate_proj"))?;
        let up = linear_no_bias(hidden, intermediate, vb.pp("up_proj"))?;
        let down = linear_no_bias(intermediate, hidden, vb.pp("down_proj"))?;
        Ok(Self { gate, up, down })
    }
}

/// `|x: &Tensor| ported.forward(x)` would do as well, and compare the outputs alone.
impl AnyBlock for Ported {
    fn run(&self, x: &Tensor) -> Result<BlockTrace> {
        let gate = self.gate.forward(x)?;
        let activation = gate.gelu_erf()?; // the mistake: Gemma's is tanh
        let product = (&activation * self.up.forward(x)?)?;
        let output = self.down.forward(&product)?;
        Ok(BlockTrace { activation: Some(activation), product: Some(product), ..output.into() })
    }
}

fn main() -> anyhow::Result<()> {
    let dir = std::env::args().nth(1).unwrap_or("weights/tiny-gemma3".into());
    let checkpoint = Checkpoint::open(&dir)?;
    let ids = checkpoint.encode("Every Friday, Mia and Leo sing in the garden.")?;
    let layers: Vec<usize> = (0..checkpoint.blocks().len()).collect();
    let options =
        ForwardOptions { activation: None, dtype: DType::F32, layers: layers.clone(), keep: true };
    let pass = forward(&checkpoint, &TokenIds::single(ids)?, &options, &Device::Cpu, |_| ())?;
    let weights = safetensors::load(format!("{dir}/model.safetensors"), &Device::Cpu)?;
    let vb = VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu);

    println!("layer  activation     floor    output     floor  gradient     floor  size");
    for layer in layers {
        let spec = checkpoint.block(layer)?;
        let (hidden, intermediate) = (spec.hidden_size, spec.intermediate_size);
        let vb = vb.pp(format!("model.layers.{layer}.mlp"));
        let name = format!("layers.{layer}.mlp.input");
        let Some((_, x)) = pass.tensors.iter().find(|(of, _)| *of == name) else {
            anyhow::bail!("the pass kept no {name}")
        };

        // Ours computes in any dtype; the noise floor is what bf16 does to it.
        let ours = gemma_mlp(hidden, intermediate, Gelu::Tanh, vb.clone())?.packed()?.frozen();
        let theirs = Ported::new(hidden, intermediate, vb)?;
        let in_f32 = |block| BlockSide::new(block, DType::F32);
        let in_bf16 = |block| BlockSide::new(block, DType::BF16);
        let floor = Sides { a: in_f32(&ours), b: in_bf16(&ours) };
        let drift = compare_blocks(Sides { a: in_f32(&ours), b: in_f32(&theirs) }, floor, x)?;

        // The gradient is a function of the input like any other.
        let of_ours = |x: &Tensor| input_gradient(&ours, x);
        let their_output = |x: &Tensor| Ok(theirs.run(x)?.output);
        let of_theirs = |x: &Tensor| input_gradient(&their_output, x);
        let floor = Sides { a: in_f32(&of_ours), b: in_bf16(&of_ours) };
        let sides = Sides { a: in_f32(&of_ours), b: in_f32(&of_theirs) };
        let gradient = compare_blocks(sides, floor, x)?;

        let of = |metrics: Option<gemma_mlp_drift::drift::Metrics>| {
            metrics.map_or(f64::NAN, |metrics| metrics.rel_l2)
        };
        println!(
            "{layer:5}  {:10.2e} {:9.2e} {:9.2e} {:9.2e} {:9.2e} {:9.2e}  {:?}",
            of(drift.drift.activation),
            of(drift.floor.activation),
            drift.drift.output.rel_l2,
            drift.floor.output.rel_l2,
            gradient.drift.output.rel_l2,
            gradient.floor.output.rel_l2,
            drift.size,
        );
    }
    Ok(())
}
