//! Against PyTorch, transformers, JAX and DeepMind's gemma: what `scripts/goldens.py` recorded.

mod common;

use candle_core::{DType, Device, Module, Tensor, Var};
use candle_nn::{Linear, VarBuilder};
use common::{rel_l2, to_f64};
use gemma_mlp::model::{TokenIds, load_mlp, mlp_input};
use gemma_mlp::{Checkpoint, Gelu, GemmaMlp, activate, gemma_mlp_b};
use std::collections::HashMap;

type Goldens = HashMap<String, Tensor>;

fn goldens(file: &str) -> Goldens {
    let path = format!("{}/tests/goldens/{file}.safetensors", env!("CARGO_MANIFEST_DIR"));
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

/// `F.gelu`, `jax.nn.gelu` and their derivatives on a grid and at extremes.
#[test]
fn gelu_of_torch_and_jax() {
    let goldens = goldens("gelu");
    const GRID: usize = 601; // then ±0, ±1e-30, ±40, ±100, ±1e4
    for gelu in Gelu::ALL {
        for framework in ["torch", "jax"] {
            for (dtype, x) in [("f32", "x"), ("bf16", "x_bf16")] {
                let x = Var::from_tensor(&goldens[x]).unwrap();
                let y = activate(&x, gelu).unwrap();
                let dy = y.sum_all().unwrap().backward().unwrap().remove(&x).unwrap();
                for (ours, part) in [(y, "y"), (dy, "dy")] {
                    let name = format!("{framework}.{gelu}.{dtype}.{part}");
                    let golden = &goldens[&name];
                    assert_eq!(ours.dtype(), golden.dtype(), "{name}");
                    let distance = rel_l2(
                        &golden.narrow(0, 0, GRID).unwrap(),
                        &ours.narrow(0, 0, GRID).unwrap(),
                    );
                    // JAX's bf16 rounds after every operation, ours once: they differ by design.
                    let bound = if dtype == "f32" { 2e-6 } else { 5e-3 };
                    assert!(distance < bound, "{name}: {distance:e}");
                    for (i, (a, b)) in
                        to_f64(golden).iter().zip(to_f64(&ours)).enumerate().skip(GRID)
                    {
                        assert!((a - b).abs() <= 1e-6, "{name}[{i}]: {a} {b}");
                    }
                }
            }
        }
    }
}

/// PyTorch's bf16 GELU rounds once, as ours does: the same bits wherever its f32 has any.
#[test]
fn bf16_gelu_has_torch_s_bits() {
    let goldens = goldens("gelu");
    let x = &goldens["x_bf16"];
    for gelu in Gelu::ALL {
        let ours = to_f64(&activate(x, gelu).unwrap());
        let torch = to_f64(&goldens[&format!("torch.{gelu}.bf16.y")]);
        let x = to_f64(x);
        let differing: Vec<_> =
            (0..x.len()).filter(|&i| x[i] > -3.5 && ours[i] != torch[i]).collect();
        assert!(
            differing.is_empty(),
            "{gelu}: {:?}",
            differing.iter().map(|&i| x[i]).collect::<Vec<_>>()
        );
    }
}

/// The shared weights as trainable variables, so that gradients reach them.
fn block(
    goldens: &Goldens,
    dtype: DType,
    bias: bool,
    gelu: Gelu,
) -> (GemmaMlp, Vec<(&'static str, Var)>) {
    let mut vars = vec![];
    let mut var = |name: &'static str| {
        let var = Var::from_tensor(&goldens[name].to_dtype(dtype).unwrap()).unwrap();
        vars.push((name, var.clone()));
        var.as_tensor().clone()
    };
    let mut linear = |weight, bias_name| Linear::new(var(weight), bias.then(|| var(bias_name)));
    let gate = linear("gate_proj.weight", "gate_proj.bias");
    let up = linear("up_proj.weight", "up_proj.bias");
    let down = linear("down_proj.weight", "down_proj.bias");
    (GemmaMlp::new(gate, up, down, gelu), vars)
}

/// GemmaMLP, Gemma2MLP, Gemma3MLP, RecurrentGemmaMlp and DeepMind's FeedForward, with the
/// gradients of input, weights and biases.
#[test]
fn blocks_forward_and_backward() {
    let goldens = goldens("mlp");
    let mut compared = 0;
    for name in ["gemma", "gemma2", "gemma3", "recurrent_gemma", "deepmind"] {
        for gelu in Gelu::ALL.into_iter().filter(|&gelu| name != "deepmind" || gelu == Gelu::Tanh) {
            for dtype in [DType::F32, DType::BF16] {
                let (mlp, vars) = block(&goldens, dtype, name == "recurrent_gemma", gelu);
                let x = Var::from_tensor(&goldens["x"].to_dtype(dtype).unwrap()).unwrap();
                let y = mlp.forward(&x).unwrap();
                let loss =
                    (&y * goldens["dy"].to_dtype(dtype).unwrap()).unwrap().sum_all().unwrap();
                let grads = loss.backward().unwrap();
                let gradients = vars.iter().map(|(name, var)| (*name, var)).chain([("x", &x)]);
                let gradients =
                    gradients.map(|(name, var)| (format!("d{name}"), grads.get(var).unwrap()));
                for (part, ours) in gradients.chain([("y".to_string(), &y)]) {
                    let key = format!("{name}.{gelu}.{}.{part}", dtype.as_str());
                    let distance = rel_l2(&goldens[&key], ours);
                    // bf16 keeps 8 bits; PyTorch and JAX themselves are up to 5.3e-3 apart in it.
                    let bound = if dtype == DType::F32 { 2e-6 } else { 1e-2 };
                    assert!(distance < bound, "{key}: {distance:e}");
                    compared += 1;
                }
            }
        }
    }
    assert_eq!(compared, 3 * 2 * 2 * 5 + 2 * 2 * 8 + 2 * 5);
}

/// The bounds above tell the modes apart.
#[test]
fn the_other_mode_does_not_pass() {
    let goldens = goldens("mlp");
    for gelu in Gelu::ALL {
        let (mlp, _) = block(&goldens, DType::F32, false, gelu);
        let other = if gelu == Gelu::Exact { Gelu::Tanh } else { Gelu::Exact };
        let y = mlp.forward(&goldens["x"]).unwrap();
        assert!(rel_l2(&goldens[&format!("gemma3.{other}.f32.y")], &y) > 5e-5);
    }
}

/// The same block from a `VarBuilder`, as checkpoints are loaded.
#[test]
fn var_builder_reads_the_same_names() {
    let goldens = goldens("mlp");
    let vb = VarBuilder::from_tensors(goldens.clone(), DType::F32, &Device::Cpu);
    let mlp = gemma_mlp_b(24, 40, true, Gelu::Exact, vb).unwrap();
    let y = mlp.forward(&goldens["x"]).unwrap();
    assert!(rel_l2(&goldens["recurrent_gemma.exact.f32.y"], &y) < 2e-6);
}

/// What the first layer of each family hands to its MLP, read from a checkpoint on disk with its
/// config in both spellings.
#[test]
fn first_mlp_input_of_every_family() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/attention.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone().unwrap();
    let goldens = goldens("attention");
    let ids: Vec<Vec<i64>> = goldens["input_ids"].to_vec2().unwrap();
    let ids = ids.into_iter().map(|text| text.into_iter().map(|id| id as u32).collect());
    let ids = TokenIds::batched(ids.collect()).unwrap();

    for family in ["gemma", "gemma2", "gemma3", "gemma3_bidirectional", "gemma3_full", "vaultgemma"]
    {
        let own = format!("{family}.model.");
        let weights: HashMap<_, _> = goldens
            .iter()
            .filter_map(|(name, t)| {
                Some((format!("model.{}", name.strip_prefix(&own)?), t.clone()))
            })
            .collect();
        for spelling in ["config", "config_hub"] {
            let mut config: serde_json::Value =
                serde_json::from_str(&metadata[&format!("{family}.{spelling}")]).unwrap();
            // The goldens hold the first of two layers.
            config["num_hidden_layers"] = 1.into();
            if let Some(types) = config["layer_types"].as_array_mut() {
                types.truncate(1);
            }
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
            candle_core::safetensors::save(&weights, dir.path().join("model.safetensors")).unwrap();

            let checkpoint = Checkpoint::open(dir.path()).unwrap();
            let block = &checkpoint.blocks()[0];
            let (input, _) = mlp_input(&checkpoint, block, &ids, &Device::Cpu).unwrap();
            let distance = rel_l2(&goldens[&format!("{family}.mlp_input")], &input);
            assert!(distance < 2e-6, "{family} {spelling}: input {distance:e}");
            let mlp = load_mlp(&checkpoint, block, DType::F32, &Device::Cpu).unwrap();
            let output = mlp.forward(&input).unwrap();
            let distance = rel_l2(&goldens[&format!("{family}.mlp_output")], &output);
            assert!(distance < 2e-6, "{family} {spelling}: output {distance:e}");
        }
    }
}
