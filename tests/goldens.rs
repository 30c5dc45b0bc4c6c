//! Against PyTorch, transformers, JAX and DeepMind's gemma: what `scripts/goldens.py` recorded.

use crate::common::goldens::{Goldens, checkpoint, goldens, gradients, ids, weights_of};
use crate::common::halves::differing;
use crate::common::{rel_l2, to_f64};
use candle_core::{DType, Device, Module, Tensor, Var};
use candle_nn::{Linear, VarBuilder};
use gemma_mlp::mlp::{Deviation, GateUp, Sparsity};
use gemma_mlp::model::{Block, Cache, Observer};
use gemma_mlp::{Framework, Gelu, Gemma, GemmaMlp, InputGate, Rounding, activate, gemma_mlp_b};

fn other(gelu: Gelu) -> Gelu {
    if gelu == Gelu::Exact { Gelu::Tanh } else { Gelu::Exact }
}

/// `F.gelu`, `jax.nn.gelu` and their derivatives on a grid and at extremes.
#[test]
fn gelu_of_torch_and_jax() {
    let goldens = goldens("gelu");
    const GRID: usize = 601; // then ±0, ±1e-30, ±40, ±100, ±1e4
    for &gelu in Gelu::ALL {
        for framework in ["torch", "jax"] {
            for (dtype, x) in [("f32", "x"), ("bf16", "x_bf16")] {
                let x = Var::from_tensor(&goldens[x]).unwrap();
                let y = activate(&x, gelu).unwrap();
                let dy = y.sum_all().unwrap().backward().unwrap().remove(&x).unwrap();
                for (ours, part) in [(y, "y"), (dy, "dy")] {
                    let name = format!("{framework}.{gelu}.{dtype}.{part}");
                    let golden = &goldens[&name];
                    assert_eq!(ours.dtype(), golden.dtype(), "{name}");
                    let on_grid = |x: &Tensor| x.narrow(0, 0, GRID).unwrap();
                    let distance = |golden| rel_l2(&on_grid(golden), &on_grid(&ours));
                    let bound = match (framework, dtype, part) {
                        (_, "f32", _) => 2e-6,
                        ("torch", ..) => 1e-6, // far out on the left it has no digits left
                        // JAX's bf16 rounds after every operation, ours once: they differ by design,
                        // and by more than the forms do. Its values' bits are in the next test.
                        (.., "y") => 4e-4,
                        _ => 4.5e-3,
                    };
                    let near = distance(golden);
                    assert!(near < bound, "{name}: {near:e}");
                    let far =
                        distance(&goldens[&format!("{framework}.{}.{dtype}.{part}", other(gelu))]);
                    let tells = framework == "torch" || dtype == "f32";
                    assert!(!tells || far > 10.0 * bound, "{name}: {far:e} for the other form");
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

/// Computed as they do, PyTorch's and JAX's bf16 GELU bit for bit. The other form has others.
#[test]
fn bf16_gelu_has_the_frameworks_bits() {
    let goldens = goldens("gelu");
    let gate = &goldens["x_bf16"];
    let projected = GateUp { gate: gate.clone(), up: gate.ones_like().unwrap() };
    for &gelu in Gelu::ALL {
        for (framework, name) in [(Framework::PyTorch, "torch"), (Framework::Jax, "jax")] {
            let none =
                || Linear::new(Tensor::zeros((1, 1), gate.dtype(), &Device::Cpu).unwrap(), None);
            let block = GemmaMlp::new(none(), none(), none(), gelu).unwrap();
            let block = block.with_rounding(Rounding::Like(framework));
            let (ours, _) = block.activated_and_product(&projected).unwrap();
            let golden = |gelu| &goldens[&format!("{name}.{gelu}.bf16.y")];
            assert_eq!(differing(&ours, golden(gelu)), 0, "{name} {gelu}");
            let others = differing(&ours, golden(other(gelu)));
            assert!(others > 90, "{name} {gelu}: {others}");
        }
    }
}

/// PyTorch's bf16 GELU rounds once, as ours does: the same bits wherever its f32 has any.
#[test]
fn bf16_gelu_has_torch_s_bits() {
    let goldens = goldens("gelu");
    let x = &goldens["x_bf16"];
    for &gelu in Gelu::ALL {
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
    (GemmaMlp::new(gate, up, down, gelu).unwrap(), vars)
}

/// The block's output `y`, and the gradients of the input and of all variables that have one.
fn forward_backward(
    goldens: &Goldens,
    mlp: &GemmaMlp,
    vars: &[(&str, Var)],
    dtype: DType,
) -> Goldens {
    let x = Var::from_tensor(&goldens["x"].to_dtype(dtype).unwrap()).unwrap();
    let y = mlp.forward(&x).unwrap();
    let loss = (&y * goldens["dy"].to_dtype(dtype).unwrap()).unwrap().sum_all().unwrap();
    let grads = loss.backward().unwrap();
    let all = vars.iter().map(|(name, var)| (*name, var)).chain([("x", &x)]);
    let grads = all.filter_map(|(name, var)| Some((format!("d{name}"), grads.get(var)?.clone())));
    grads.chain([("y".to_string(), y.clone())]).collect()
}

/// GemmaMLP, Gemma2MLP, Gemma3MLP, Gemma3nTextMLP, RecurrentGemmaMlp and DeepMind's FeedForward, with
/// the gradients of input, weights and biases.
#[test]
fn blocks_forward_and_backward() {
    let goldens = goldens("mlp");
    let mut compared = 0;
    for name in ["gemma", "gemma2", "gemma3", "gemma3n", "recurrent_gemma", "deepmind"] {
        for gelu in
            Gelu::ALL.iter().copied().filter(|&gelu| name != "deepmind" || gelu == Gelu::Tanh)
        {
            for dtype in [DType::F32, DType::BF16] {
                let (mlp, vars) = block(&goldens, dtype, name == "recurrent_gemma", gelu);
                let sparsity = (name == "gemma3n").then(|| Sparsity::new(0.75).unwrap());
                let mlp = mlp.with_sparsity(sparsity);
                for (part, ours) in forward_backward(&goldens, &mlp, &vars, dtype) {
                    let key = format!("{name}.{gelu}.{}.{part}", dtype.as_str());
                    let distance = rel_l2(&goldens[&key], &ours);
                    // bf16 keeps 8 bits; PyTorch and JAX themselves are up to 5.3e-3 apart in it. That is
                    // more than the forms are: the next test tells them apart.
                    // Before its activation PyTorch rounds the mean, the deviation, the cutoff and what is left
                    // of a sparse gate too.
                    let bound = match (dtype, name) {
                        (DType::F32, _) => 2e-6,
                        (_, "gemma3n") => 2e-2,
                        _ => 7e-3,
                    };
                    assert!(distance < bound, "{key}: {distance:e}");
                    compared += 1;
                }
            }
        }
    }
    assert_eq!(compared, 4 * 2 * 2 * 5 + 2 * 2 * 8 + 2 * 5);
}

/// Another standard deviation or fraction, or no sparsity, is told apart.
#[test]
fn another_sparsity_does_not_pass() {
    let goldens = goldens("mlp");
    let (mlp, _) = block(&goldens, DType::F32, false, Gelu::Tanh);
    let golden = &goldens["gemma3n.tanh.f32.y"];
    let right = Sparsity::new(0.75).unwrap();
    let distance = |sparsity: Option<Sparsity>| {
        rel_l2(golden, &mlp.with_sparsity(sparsity).forward(&goldens["x"]).unwrap())
    };
    assert!(distance(Some(right)) < 2e-6);
    let sample = right.with_deviation(Deviation::Sample);
    for wrong in [Some(sample), Some(Sparsity::new(0.76).unwrap()), None] {
        assert!(distance(wrong) > 5e-3, "{wrong:?}: {:e}", distance(wrong));
    }
}

/// The gate of a layer's own input in Gemma 3n and 4, with the gradients of both inputs and of the
/// weights.
#[test]
fn input_gate_forward_and_backward() {
    let goldens = goldens("mlp");
    for &gelu in Gelu::ALL {
        for dtype in [DType::F32, DType::BF16] {
            let names = ["x", "input", "gate_proj.weight", "down_proj.weight"];
            let vars = names.map(|name| Var::from_tensor(&goldens[name].to_dtype(dtype).unwrap()));
            let vars = vars.map(Result::unwrap);
            let linear = |weight: &Var| Linear::new(weight.as_tensor().clone(), None);
            let gate = InputGate::new(linear(&vars[2]), linear(&vars[3]), gelu).unwrap();
            let y = gate.forward(&vars[0], &vars[1]).unwrap();
            let dy = goldens["dy"].to_dtype(dtype).unwrap();
            let gradients = (&y * dy).unwrap().sum_all().unwrap().backward().unwrap();
            let near = |part: &str, ours: &Tensor, gelu: Gelu| {
                let key = format!("input_gate.{gelu}.{}.{part}", dtype.as_str());
                let bound = if dtype == DType::F32 { 2e-6 } else { 7e-3 };
                let distance = rel_l2(&goldens[&key], ours);
                (distance < bound, format!("{key}: {distance:e}"))
            };
            for (part, ours) in [("y", &y)].into_iter().chain(
                ["dx", "dinput", "dgate_proj.weight", "ddown_proj.weight"]
                    .into_iter()
                    .zip(vars.iter().map(|var| gradients.get(var).unwrap())),
            ) {
                let (is_near, what) = near(part, ours, gelu);
                assert!(is_near, "{what}");
                assert!(dtype == DType::BF16 || !near(part, ours, other(gelu)).0, "{what}");
            }
        }
    }
}

/// In bf16, rounding as a framework does: its bits, and not those of the other form. PyTorch's with all
/// gradients; where there are biases, and of JAX, what comes before the derivative, which has
/// a rounding of its own there.
#[test]
fn blocks_have_the_frameworks_bits_in_bf16() {
    let goldens = goldens("mlp");
    let all = ["y", "dx", "dgate_proj.weight", "dup_proj.weight", "ddown_proj.weight"];
    let mut compared = 0;
    for (name, rounding, parts) in [
        ("gemma", Rounding::AfterActivation, &all[..]),
        ("gemma2", Rounding::AfterActivation, &all),
        ("gemma3", Rounding::AfterActivation, &all),
        ("recurrent_gemma", Rounding::AfterActivation, &["y"]),
        ("deepmind", Rounding::Like(Framework::Jax), &["y", "ddown_proj.weight"]),
    ] {
        for gelu in
            Gelu::ALL.iter().copied().filter(|&gelu| name != "deepmind" || gelu == Gelu::Tanh)
        {
            let pass = |gelu| {
                let bias = name == "recurrent_gemma";
                let (mlp, vars) = block(&goldens, DType::BF16, bias, gelu);
                // PyTorch adds a bias before it rounds: so does a packed block, candle's layers do not.
                let mlp = if bias { mlp.packed().unwrap().frozen() } else { mlp };
                forward_backward(&goldens, &mlp.with_rounding(rounding), &vars, DType::BF16)
            };
            let (right, wrong) = (pass(gelu), pass(other(gelu)));
            for &part in parts {
                let golden = &goldens[&format!("{name}.{gelu}.bf16.{part}")];
                let n = golden.elem_count();
                // None here. Other processors sum in another order, and then round a few otherwise.
                let few = differing(golden, &right[part]);
                assert!(50 * few <= n, "{name} {gelu} {part}: {few} of {n}");
                let many = differing(golden, &wrong[part]);
                assert!(8 * many > n, "{name} {gelu} {part}: {many} of {n} for the other form");
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 3 * 2 * 5 + 2 + 2);
}

/// The bounds of f32 tell the modes apart.
#[test]
fn the_other_mode_does_not_pass() {
    let goldens = goldens("mlp");
    for name in ["gemma", "recurrent_gemma"] {
        for &gelu in Gelu::ALL {
            let (mlp, vars) = block(&goldens, DType::F32, name == "recurrent_gemma", gelu);
            for (part, ours) in forward_backward(&goldens, &mlp, &vars, DType::F32) {
                let golden = &goldens[&format!("{name}.{}.f32.{part}", other(gelu))];
                let distance = rel_l2(golden, &ours);
                // The last bias is added behind the activation.
                assert!(
                    distance > 5e-5 || part == "ddown_proj.bias",
                    "{name} {gelu} {part}: {distance:e}"
                );
            }
        }
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

const FAMILIES: [&str; 6] =
    ["gemma", "gemma2", "gemma3", "gemma3_bidirectional", "gemma3_full", "vaultgemma"];

/// A family's model on disk, with its config in either spelling.
/// Keeps the residual stream after each layer, and the first block's input.
#[derive(Default)]
struct Watch {
    first_input: Option<Tensor>,
    streams: Vec<Tensor>,
}

impl Observer for Watch {
    fn block(&mut self, block: Block) -> candle_core::Result<()> {
        self.first_input.get_or_insert(block.input.clone());
        Ok(())
    }

    fn residual(&mut self, _: usize, stream: &Tensor) -> candle_core::Result<()> {
        self.streams.push(stream.clone());
        Ok(())
    }
}

/// Whole models of every family, on prompts longer than the window: the first block's input, the
/// residual stream after every layer, and the logits.
#[test]
fn whole_models() {
    let goldens = goldens("model");
    for family in FAMILIES {
        for spelling in ["config", "config_hub"] {
            let checkpoint = checkpoint(&goldens, family, spelling);
            let assert_close = |part: &str, ours: &Tensor| {
                let distance = rel_l2(&goldens[&format!("{family}.{part}")], ours);
                assert!(distance < 5e-6, "{family} {spelling} {part}: {distance:e}");
            };
            for dtype in [DType::F32, DType::F64] {
                let gemma = Gemma::load(&checkpoint, &Device::Cpu, dtype).unwrap();
                let mut watch = Watch::default();
                let hidden = gemma.hidden(&ids(&goldens), &mut watch).unwrap();
                assert_close("mlp_input", &watch.first_input.unwrap());
                for (i, stream) in watch.streams.iter().enumerate() {
                    assert_close(&format!("hidden.{i}"), stream);
                }
                assert_close("last_hidden", &hidden);
                if family != "gemma3_bidirectional" {
                    assert_close("logits", &gemma.forward(&ids(&goldens)).unwrap());
                }
                let exact = gemma.with_activation(Gelu::Exact);
                let hidden = exact.hidden(&ids(&goldens), &mut Watch::default()).unwrap();
                let other = rel_l2(&goldens[&format!("{family}.last_hidden")], &hidden);
                assert!(other > 1e-4, "{family}: the modes are not told apart, {other:e}");
            }
        }
    }
}

/// A prompt, then one token at a time: the logits of the whole text at once, bit for bit. And a text
/// alone has those that it has in a batch.
#[test]
fn cache_and_batch_change_nothing() {
    let goldens = goldens("model");
    let ids = ids(&goldens);
    for family in FAMILIES.into_iter().filter(|&family| family != "gemma3_bidirectional") {
        let checkpoint = checkpoint(&goldens, family, "config");
        let gemma = Gemma::load(&checkpoint, &Device::Cpu, DType::F32).unwrap();
        let expected = &goldens[&format!("{family}.logits")];
        let whole = gemma.forward(&ids).unwrap();
        let bits = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let mut cache = Cache::default();
        let mut at = 0;
        for n in [9, 3, 1, 1, 1, 1, 1] {
            let part = ids.narrow(1, at, n).unwrap();
            let ours = gemma.forward_cached(&part, &mut cache).unwrap();
            at += n;
            let distance = rel_l2(&expected.narrow(1, at - 1, 1).unwrap(), &ours);
            assert!(distance < 1e-5, "{family} after {at} tokens: {distance:e}");
            assert_eq!(bits(&ours), bits(&whole.narrow(1, at - 1, 1).unwrap()), "{family}, {at}");
        }
        assert_eq!(at, ids.dim(1).unwrap());
        let alone = gemma.forward(&ids.narrow(0, 1, 1).unwrap()).unwrap();
        assert!(rel_l2(&expected.narrow(0, 1, 1).unwrap(), &alone) < 5e-6, "{family}");
        assert_eq!(bits(&alone), bits(&whole.narrow(0, 1, 1).unwrap()), "{family}");
    }
}

/// The whole model's gradients under both activations.
#[test]
fn whole_model_backward() {
    let goldens = goldens("model");
    let checkpoint = checkpoint(&goldens, "gemma3", "config");
    let weights = weights_of(&goldens, "gemma3");
    for &gelu in Gelu::ALL {
        let (loss, gradients) = gradients(&checkpoint, &weights, &ids(&goldens), gelu);
        let expected = to_f64(&goldens[&format!("gemma3.loss.{gelu}")])[0];
        assert!((loss / expected - 1.0).abs() < 5e-7, "{gelu}: {loss} {expected}");
        let wrong = to_f64(&goldens[&format!("gemma3.loss.{}", other(gelu))])[0];
        assert!((loss / wrong - 1.0).abs() > 5e-6, "{gelu}: {loss} {wrong}");
        for i in 0..3 {
            for matrix in ["gate_proj", "up_proj", "down_proj"] {
                let ours = &gradients[&format!("model.layers.{i}.mlp.{matrix}.weight")];
                let golden = &goldens[&format!("gemma3.grad.{gelu}.layers.{i}.{matrix}")];
                let distance = rel_l2(golden, ours);
                assert!(distance < 5e-6, "{gelu} {i} {matrix}: {distance:e}");
                let wrong = &goldens[&format!("gemma3.grad.{}.layers.{i}.{matrix}", other(gelu))];
                let distance = rel_l2(wrong, ours);
                assert!(distance > 1e-4, "{gelu} {i} {matrix}: {distance:e} for the other form");
            }
        }
    }
}
