//! The mixture of experts against plain loops in f64, its bits, its gradients and what it refuses.

use crate::common::{rel_l2, to_f64};
use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use gemma_mlp::linear::InputRounding;
use gemma_mlp::mlp::{
    ExpertSizes, GatedExperts, Gating, MixtureOfExperts, Router, Routing, mixture_of_experts,
};
use gemma_mlp::{Activation, Framework, Gelu, InvalidLayer, Rounding};
use proptest::prelude::*;
use rayon::ThreadPoolBuilder;

const CPU: &Device = &Device::Cpu;

/// Numbers between -1 and 1, the same for the same salt.
fn numbers(shape: &[usize], salt: f64) -> Tensor {
    let n: usize = shape.iter().product();
    let value = |i: usize| ((i as f64 + 1.0) * (salt + 0.37) * 12.9898).sin() * 43758.5453 % 1.0;
    Tensor::from_vec((0..n).map(value).collect::<Vec<f64>>(), shape, CPU).unwrap()
}

/// A router and experts in f64.
fn mixture(sizes: ExpertSizes, salt: f64) -> MixtureOfExperts {
    let ExpertSizes { hidden, intermediate, experts, top_k } = sizes;
    let spread = |shape: &[usize], salt, width: usize| {
        (numbers(shape, salt) * (3.0 / (width as f64).sqrt())).unwrap()
    };
    let proj = spread(&[experts, hidden], salt, 1);
    let scale = numbers(&[hidden], salt + 1.0).affine(0.5, 1.0).unwrap();
    let of_experts = numbers(&[experts], salt + 2.0).affine(0.5, 1.0).unwrap();
    let router = Router::new(proj, scale, of_experts, top_k, 1e-6).unwrap();
    let gate_up = spread(&[experts, 2 * intermediate, hidden], salt + 3.0, hidden);
    let down = spread(&[experts, hidden, intermediate], salt + 4.0, intermediate);
    let experts = GatedExperts::new(gate_up, down, Gelu::Tanh).unwrap();
    MixtureOfExperts::new(router, experts).unwrap()
}

fn sizes(hidden: usize, intermediate: usize, experts: usize, top_k: usize) -> ExpertSizes {
    ExpertSizes { hidden, intermediate, experts, top_k }
}

/// The weights of a mixture as numbers: proj, scale, per_expert_scale, gate_up, down.
fn weights(mixture: &MixtureOfExperts) -> Vec<Vec<f64>> {
    mixture.with_variables().unwrap().1.iter().map(|var| to_f64(var)).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// One row's experts and weights, by plain loops.
fn route_row(weights: &[Vec<f64>], top_k: usize, x: &[f64]) -> Vec<(usize, f64)> {
    let hidden = x.len();
    let norm = (dot(x, x) / hidden as f64 + 1e-6).sqrt() * (hidden as f64).sqrt();
    let u: Vec<f64> = x.iter().zip(&weights[1]).map(|(x, scale)| x / norm * scale).collect();
    let scores: Vec<f64> = weights[0].chunks(hidden).map(|row| dot(row, &u)).collect();
    let sum: f64 = scores.iter().map(|score| score.exp()).sum();
    let mut chosen: Vec<_> = scores.iter().map(|score| score.exp() / sum).enumerate().collect();
    chosen.sort_by(|a, b| b.1.total_cmp(&a.1));
    chosen.truncate(top_k);
    let sum: f64 = chosen.iter().map(|(_, p)| p).sum();
    chosen.into_iter().map(|(at, p)| (at, p / sum * weights[2][at])).collect()
}

/// What experts make of one row, by plain loops: every number, and beside it the sum of its terms' sizes. Terms are
/// rounded each for itself, and where they cancel out, the number is small against what rounding does to it.
fn expert_row(weights: &[Vec<f64>], chosen: &[(usize, f64)], x: &[f64]) -> Vec<(f64, f64)> {
    let hidden = x.len();
    let intermediate = weights[4].len() / weights[2].len() / hidden;
    let mut y = vec![(0.0, 0.0); hidden];
    for &(expert, weight) in chosen {
        let gate_up = &weights[3][expert * 2 * intermediate * hidden..];
        let projected: Vec<f64> =
            gate_up.chunks(hidden).take(2 * intermediate).map(|row| dot(row, x)).collect();
        let (gate, up) = projected.split_at(intermediate);
        let mut activated = vec![0.0; intermediate];
        Activation::TANH.values(gate, &mut activated);
        let product: Vec<f64> = activated.iter().zip(up).map(|(a, up)| a * up).collect();
        let down = &weights[4][expert * hidden * intermediate..];
        for ((y, size), row) in y.iter_mut().zip(down.chunks(intermediate)) {
            for (down, product) in row.iter().zip(&product) {
                let term = weight * down * product;
                (*y, *size) = (*y + term, *size + term.abs());
            }
        }
    }
    y
}

/// A routing as pairs of expert and weight, row by row.
fn pairs(routing: &Routing) -> Vec<Vec<(usize, f64)>> {
    let indices = routing.indices().to_vec2::<u32>().unwrap();
    let weights = routing.weights().to_dtype(DType::F64).unwrap().to_vec2::<f64>().unwrap();
    let row = |(indices, weights): (Vec<u32>, Vec<f64>)| {
        indices.into_iter().map(|at| at as usize).zip(weights).collect()
    };
    indices.into_iter().zip(weights).map(row).collect()
}

/// The bits of a tensor, row by row.
fn bits(x: &Tensor) -> Vec<Vec<u64>> {
    let width = x.dims()[x.rank() - 1];
    let numbers = to_f64(x);
    numbers.chunks(width).map(|row| row.iter().map(|x| x.to_bits()).collect()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// In every dtype, packed and as tensors, with any numbers of rows and experts.
    #[test]
    fn agrees_with_plain_loops(
        hidden in 1usize..70,
        intermediate in 1usize..70,
        experts in 1usize..9,
        k in 1usize..9,
        rows in 1usize..9,
        salt in 0.0f64..100.0,
    ) {
        let sizes = sizes(hidden, intermediate, experts, k.min(experts));
        for dtype in [DType::F64, DType::F32, DType::BF16, DType::F16] {
            let mixture = mixture(sizes, salt).to_dtype(dtype).unwrap();
            let weights = weights(&mixture);
            let x = numbers(&[rows, hidden], salt + 9.0).to_dtype(dtype).unwrap();
            let packed = (dtype != DType::F64).then(|| mixture.packed().unwrap());
            for form in [&mixture].into_iter().chain(&packed) {
                let routing = form.route(&x).unwrap();
                let bound = if dtype == DType::F64 { 1e-12 } else { 2e-5 };
                for (x, ours) in to_f64(&x).chunks(hidden).zip(pairs(&routing)) {
                    let chosen = route_row(&weights, sizes.top_k, x);
                    for (ours, chosen) in ours.iter().zip(&chosen) {
                        let near = |a: f64, b: f64| (a - b).abs() < bound * b.abs().max(0.1);
                        // Of two that are as likely, either may be chosen.
                        let (ours, of_ours) = (ours.1, weights[2][ours.0]);
                        prop_assert!(near(ours / of_ours, chosen.1 / weights[2][chosen.0]));
                    }
                }
                let y = form.experts().forward(&x, &routing).unwrap();
                prop_assert_eq!((y.dims(), y.dtype()), (x.dims(), dtype));
                let inputs = to_f64(&x);
                let rows = inputs.chunks(hidden).zip(pairs(&routing)).flat_map(|(x, chosen)| {
                    expert_row(&weights, &chosen, x)
                });
                let (mut error, mut size) = (0.0f64, 0.0f64);
                for (y, (expected, of_terms)) in to_f64(&y).into_iter().zip(rows) {
                    (error, size) = (error.hypot(y - expected), size.hypot(of_terms));
                }
                let bound = match dtype {
                    DType::F64 => 1e-12,
                    DType::F32 => 2e-5,
                    _ => 2e-2,
                };
                prop_assert!(error < bound * size, "{:?}", dtype);
                let same = form.forward(&x, &x).unwrap();
                prop_assert_eq!(bits(&same), bits(&y));
            }
        }
    }

    /// A row's bits depend on nothing but the row.
    #[test]
    fn a_row_has_the_same_bits_anywhere(
        hidden in 1usize..600,
        intermediate in 1usize..100,
        experts in 1usize..9,
        k in 1usize..5,
        rows in 2usize..40,
        salt in 0.0f64..100.0,
    ) {
        let sizes = sizes(hidden, intermediate, experts, k.min(experts));
        let mixture = mixture(sizes, salt);
        for (of_weights, of_x) in [
            (DType::F32, DType::F32), (DType::BF16, DType::BF16), (DType::BF16, DType::F32),
            (DType::F16, DType::F16),
        ] {
            let packed = mixture.to_dtype(of_weights).unwrap().packed().unwrap();
            let x = numbers(&[rows, hidden], salt + 9.0).to_dtype(of_x).unwrap();
            let routing = packed.route(&x).unwrap();
            let y = packed.forward(&x, &x).unwrap();
            let bits_of_y = bits(&y);
            for row in [0, rows / 2, rows - 1] {
                let alone = x.narrow(0, row, 1).unwrap();
                let routed = packed.route(&alone).unwrap();
                prop_assert_eq!(&pairs(&routed)[0], &pairs(&routing)[row]);
                prop_assert_eq!(&bits(&packed.forward(&alone, &alone).unwrap())[0], &bits_of_y[row]);
            }
            for threads in [1, 3] {
                let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                prop_assert_eq!(&bits(&pool.install(|| packed.forward(&x, &x)).unwrap()), &bits_of_y);
            }
            let trace = packed.trace(&x, &x).unwrap().1;
            prop_assert_eq!(&bits(&trace.output), &bits_of_y);
            let pair = packed.forward_pair(&x, &x).unwrap();
            prop_assert_eq!(&bits(&pair.tanh), &bits_of_y);
            let exact = packed.with_activation(Gelu::Exact).forward(&x, &x).unwrap();
            prop_assert_eq!(bits(&pair.exact), bits(&exact));
        }
    }
}

/// Parts of a batch under gatings of their own have the bits of each gating alone, packed or not, in one pass or
/// out of operations.
#[test]
fn parts_under_their_own_gatings() -> Result<()> {
    let mixture = mixture(sizes(96, 40, 6, 2), 3.0);
    let gating = |activation: Activation, rounding| Gating { activation, rounding };
    let once = Rounding::Once;
    let (exact, tanh) = (Activation::EXACT, Activation::TANH);
    let torch = Rounding::Like(Framework::PyTorch);
    let sets: [&[Gating]; 4] = [
        &[gating(exact, once), gating(tanh, once)],
        &[gating(tanh, once), gating(Activation::Silu, once), gating(exact, once)],
        &[gating(tanh, Rounding::EveryOp), gating(tanh, once)],
        &[gating(exact, Rounding::AfterActivation), gating(tanh, torch)],
    ];
    for dtype in [DType::F32, DType::BF16] {
        let tensors = mixture.to_dtype(dtype)?;
        let packed = tensors.packed()?;
        let rounded = packed.with_input_rounding(InputRounding::To(DType::BF16));
        for mixture in [&packed, &rounded] {
            for gatings in sets {
                let x = numbers(&[gatings.len() * 3, 2, 96], 5.0).to_dtype(dtype)?;
                let y = mixture.forward_gated(&x, &x, gatings)?;
                assert_eq!(y.dims(), x.dims());
                for (part, gating) in gatings.iter().enumerate() {
                    let part = |x: &Tensor| x.narrow(0, 3 * part, 3);
                    let alone = mixture.with_activation(gating.activation);
                    let alone = alone.with_rounding(gating.rounding);
                    let expected = alone.forward(&part(&x)?, &part(&x)?)?;
                    assert_eq!(bits(&part(&y)?), bits(&expected), "{dtype:?} {gating:?}");
                }
                // Tensors are multiplied by candle, whose sums go by the batch.
                let theirs = tensors.forward_gated(&x, &x, gatings)?;
                assert!(rel_l2(&theirs, &y) < if dtype == DType::F32 { 5e-3 } else { 2e-2 });
            }
        }
        let x = numbers(&[5, 96], 5.0).to_dtype(dtype)?;
        assert!(packed.forward_gated(&x, &x, sets[0]).is_err(), "5 rows in 2 parts");
        let own = packed.forward_gated(&x, &x, &[])?;
        assert_eq!(bits(&own), bits(&packed.forward(&x, &x)?));
    }
    Ok(())
}

/// The roundings give in the experts what they give in the block.
#[test]
fn one_expert_is_the_block() -> Result<()> {
    use candle_core::Module;
    use gemma_mlp::GemmaMlp;
    let gate_up = (numbers(&[1, 80, 64], 1.0) * 0.2)?.to_dtype(DType::BF16)?;
    let down = (numbers(&[1, 64, 40], 2.0) * 0.2)?.to_dtype(DType::BF16)?;
    let experts = GatedExperts::new(gate_up.clone(), down.clone(), Gelu::Tanh)?.packed()?;
    let layer = |weight: &Tensor| weight.get(0).map(|weight| candle_nn::Linear::new(weight, None));
    let block = GemmaMlp::from_gate_up(layer(&gate_up)?, layer(&down)?, Gelu::Tanh)?.packed()?;
    let x = numbers(&[7, 64], 3.0).to_dtype(DType::BF16)?;
    let ones = Tensor::ones((7, 1), DType::F32, CPU)?;
    let routing = Routing::new(&ones.zeros_like()?.to_dtype(DType::U32)?, &ones)?;
    for &activation in Activation::ALL {
        for (_, rounding) in Rounding::names() {
            let experts = experts.with_activation(activation).with_rounding(rounding);
            let block = block.with_activation(activation).with_rounding(rounding);
            let (y, expected) = (experts.forward(&x, &routing)?, block.forward(&x)?);
            assert_eq!(bits(&y), bits(&expected), "{activation} {rounding}");
        }
    }
    Ok(())
}

/// Many rows of one expert, more than are computed at a time, and of all.
#[test]
fn more_rows_than_at_a_time() -> Result<()> {
    let mixture = mixture(sizes(8, 4, 3, 2), 1.0).to_dtype(DType::F32)?.packed()?;
    let few = numbers(&[60, 8], 2.0).to_dtype(DType::F32)?;
    let many = Tensor::cat(&vec![&few; 100], 0)?;
    let (of_few, of_many) = (bits(&mixture.forward(&few, &few)?), mixture.forward(&many, &many)?);
    let expected = vec![of_few; 100].concat();
    assert_eq!(bits(&of_many), expected);
    let pair = mixture.forward_pair(&many, &many)?;
    assert_eq!(bits(&pair.tanh), expected);
    Ok(())
}

/// The weights of experts that nobody chose are not read; rows that nobody computes with do not matter.
#[test]
fn experts_nobody_chose_do_not_matter() -> Result<()> {
    for packs in [false, true] {
        let nan = Tensor::full(f32::NAN, (1, 24, 16), CPU)?;
        let gate_up = numbers(&[2, 24, 16], 1.0).to_dtype(DType::F32)?;
        let down = numbers(&[2, 16, 12], 2.0).to_dtype(DType::F32)?;
        let gate_up = Tensor::cat(&[&gate_up, &nan], 0)?;
        let down = Tensor::cat(&[&down, &nan.narrow(1, 0, 16)?.narrow(2, 0, 12)?], 0)?;
        let experts = GatedExperts::new(gate_up, down, Gelu::Tanh)?;
        let experts = if packs { experts.packed()? } else { experts };
        let x = numbers(&[3, 16], 3.0).to_dtype(DType::F32)?;
        let weights = Tensor::ones((3, 2), DType::F32, CPU)?;
        let route = |indices: [[u8; 2]; 3]| Routing::new(&Tensor::new(&indices, CPU)?, &weights);
        let finite = |y: &Tensor| to_f64(y).iter().map(|y| y.is_finite()).collect::<Vec<_>>();
        let y = experts.forward(&x, &route([[0, 1], [1, 0], [1, 1]])?)?;
        assert!(finite(&y).iter().all(|&finite| finite));
        // One that chose it has NaN, and the others their bits.
        let spoiled = experts.forward(&x, &route([[0, 1], [1, 2], [1, 1]])?)?;
        assert_eq!(finite(&spoiled), [[true; 16], [false; 16], [true; 16]].concat());
        assert_eq!(bits(&spoiled)[0], bits(&y)[0]);
        // The order of choices does not count, and one that is chosen twice counts twice.
        let turned = experts.forward(&x, &route([[1, 0], [0, 1], [1, 1]])?)?;
        assert_eq!(bits(&turned), bits(&y));
        let once = Routing::new(&Tensor::new(&[[1u8]], CPU)?, &Tensor::new(&[[2f32]], CPU)?)?;
        let doubled = experts.forward(&x.narrow(0, 2, 1)?, &once)?;
        assert!(rel_l2(&doubled, &y.narrow(0, 2, 1)?) < 1e-6);
    }
    Ok(())
}

#[test]
fn no_rows_and_any_rank() -> Result<()> {
    let mixture = mixture(sizes(8, 4, 3, 2), 1.0).to_dtype(DType::F32)?;
    for mixture in [&mixture, &mixture.packed()?] {
        for dims in [&[0, 8][..], &[2, 0, 8], &[8], &[1, 1, 8], &[2, 3, 1, 8]] {
            let x = numbers(dims, 4.0).to_dtype(DType::F32)?;
            let y = mixture.forward(&x, &x)?;
            assert_eq!(y.dims(), dims);
            assert_eq!(mixture.forward_pair(&x, &x)?.exact.dims(), dims);
            let (routing, trace) = mixture.trace(&x, &x)?;
            assert_eq!(routing.indices().dims(), [x.elem_count() / 8, 2]);
            assert_eq!(trace.output.dims(), dims);
            assert_eq!(trace.experts.is_empty(), x.elem_count() == 0);
            // Strides that are no tensor's own.
            if let &[rows, _] = dims {
                let turned = x.t()?.contiguous()?.t()?;
                assert_eq!(rows, turned.dim(0)?);
                assert_eq!(bits(&mixture.forward(&turned, &turned)?), bits(&y));
            }
        }
    }
    Ok(())
}

#[test]
fn a_trace_has_every_step() -> Result<()> {
    let mixture = mixture(sizes(24, 12, 4, 2), 1.0).to_dtype(DType::BF16)?;
    let x = numbers(&[5, 24], 4.0).to_dtype(DType::BF16)?;
    for mixture in [&mixture, &mixture.packed()?] {
        let (routing, trace) = mixture.trace(&x, &x)?;
        let mut sums = vec![vec![0.0; 24]; 5];
        let mut all = 0;
        for step in &trace.experts {
            let rows = step.rows.len();
            all += rows;
            assert_eq!(step.output.dims(), [rows, 24]);
            assert_eq!((step.output.dtype(), step.product.dtype()), (DType::F32, DType::BF16));
            for part in [&step.gate, &step.up, &step.activated, &step.product] {
                assert_eq!(part.dims(), [rows, 12]);
            }
            let outputs = step.output.to_dtype(DType::F64)?.to_vec2::<f64>()?;
            for ((&row, output), weight) in step.rows.iter().zip(outputs).zip(to_f64(&step.weights))
            {
                let chosen = &pairs(&routing)[row as usize];
                assert!(chosen.contains(&(step.expert, weight)));
                sums[row as usize].iter_mut().zip(output).for_each(|(sum, y)| *sum += weight * y);
            }
        }
        assert_eq!(all, 10);
        assert!(trace.experts.is_sorted_by_key(|step| step.expert));
        let sums = Tensor::from_vec(sums.concat(), (5, 24), CPU)?;
        assert!(rel_l2(&sums, &trace.output) < 4e-3);
    }
    Ok(())
}

/// Equal probabilities: the lower index first. Scores far apart, and such as no softmax has.
#[test]
fn ties_and_extremes() -> Result<()> {
    let ones = |n: usize| Tensor::ones(n, DType::F32, CPU);
    for packs in [false, true] {
        let route = |proj: &Tensor, x: &Tensor, k: usize| {
            let (experts, hidden) = proj.dims2()?;
            let router = Router::new(proj.clone(), ones(hidden)?, ones(experts)?, k, 1e-6)?;
            if packs { router.packed()?.route(x) } else { router.route(x) }
        };
        let x = Tensor::ones((2, 4), DType::F32, CPU)?;
        let routing = route(&Tensor::zeros((130, 4), DType::F32, CPU)?, &x, 8)?;
        assert_eq!(routing.indices().to_vec2::<u32>()?, vec![(0..8).collect::<Vec<_>>(); 2]);
        assert_eq!(to_f64(routing.weights()), [0.125; 16]);
        let proj = Tensor::new(&[[1f32], [3.], [2.], [3.], [2.], [2.]], CPU)?;
        let routing = route(&proj, &Tensor::ones((1, 1), DType::F32, CPU)?, 4)?;
        assert_eq!(routing.indices().to_vec2::<u32>()?, [[1, 3, 2, 4]]);
        // Far apart: the second has no weight, and none is NaN.
        let proj = Tensor::new(&[[0f32], [1e4], [0.]], CPU)?;
        let routing = route(&proj, &Tensor::ones((1, 1), DType::F32, CPU)?, 2)?;
        assert_eq!(pairs(&routing)[0], [(1, 1.0), (0, 0.0)]);
        // No choice, but one all the same, and weights that say so.
        for spoiled in [f32::NAN, f32::INFINITY] {
            let x = Tensor::new(&[[spoiled, 1.], [1., 1.]], CPU)?;
            let routing = route(&numbers(&[5, 2], 1.0).to_dtype(DType::F32)?, &x, 3)?;
            let rows = routing.weights().to_vec2::<f32>()?;
            assert!(rows[0].iter().all(|x| x.is_nan()) && rows[1].iter().all(|x| x.is_finite()));
            assert_eq!(routing.indices().to_vec2::<u32>()?[0], [0, 1, 2]);
        }
        // 0 is normed to 0, and any size of an input to the same.
        let proj = numbers(&[5, 2], 1.0).to_dtype(DType::F32)?;
        let x = Tensor::new(&[[0f32, 0.], [1e18, 2e18], [1e10, 2e10]], CPU)?;
        let rows = pairs(&route(&proj, &x, 3)?);
        assert_eq!(rows[0].iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(
            rows[1].iter().map(|x| x.0).collect::<Vec<_>>(),
            rows[2].iter().map(|x| x.0).collect::<Vec<_>>()
        );
    }
    Ok(())
}

/// What porters forget changes the weights alone, by the factors that they forget.
#[test]
fn mistakes() -> Result<()> {
    let right = mixture(sizes(16, 4, 6, 3), 2.0).to_dtype(DType::F32)?;
    let x = numbers(&[4, 16], 1.0).to_dtype(DType::F32)?;
    for right in [right.router(), &right.router().packed()?] {
        let scale = weights(&mixture(sizes(16, 4, 6, 3), 2.0))[2].clone();
        let (expected, unscaled) = (right.route(&x)?, right.without_expert_scale().route(&x)?);
        let unnormed = right.without_renormalisation().route(&x)?;
        for ((expected, unscaled), unnormed) in
            pairs(&expected).iter().zip(pairs(&unscaled)).zip(pairs(&unnormed))
        {
            let sum: f64 = unscaled.iter().map(|(_, weight)| weight).sum();
            assert!((sum - 1.0).abs() < 1e-6, "{sum}");
            let factor = unnormed[0].1 / expected[0].1;
            assert!(factor < 0.99, "{factor}");
            for (&(at, right), (of_unscaled, of_unnormed)) in
                expected.iter().zip(unscaled.into_iter().zip(unnormed))
            {
                assert_eq!((at, at), (of_unscaled.0, of_unnormed.0));
                assert!((of_unscaled.1 * scale[at] - right).abs() < 1e-6);
                assert!((of_unnormed.1 - factor * right).abs() < 1e-6);
            }
        }
    }
    Ok(())
}

/// Every gradient against central differences in f64.
#[test]
fn gradients() -> Result<()> {
    const STEP: f64 = 1e-5;
    for k in [1, 2, 3] {
        let (mixture, variables) = mixture(sizes(5, 4, 3, k), 6.0).with_variables()?;
        let inputs = [7.0, 8.0].map(|salt| Var::from_tensor(&numbers(&[2, 3, 5], salt)).unwrap());
        let factors = numbers(&[2, 3, 5], 9.0);
        let gatings = [
            Gating { activation: Activation::EXACT, rounding: Rounding::Once },
            Gating { activation: Activation::TANH, rounding: Rounding::Once },
        ];
        let loss = || {
            let one = mixture.forward(&inputs[0], &inputs[1])?;
            let two = mixture.forward_gated(&inputs[0], &inputs[1], &gatings)?;
            ((one + two)? * &factors)?.sum_all()
        };
        let gradients = loss()?.backward()?;
        for (i, var) in variables.iter().chain(&inputs).enumerate() {
            let analytic = match gradients.get(var) {
                Some(gradient) => to_f64(gradient),
                None => panic!("no gradient of variable {i}"),
            };
            let original = var.copy()?;
            let at = |i: usize, step: f64| -> Result<f64> {
                let mut moved = to_f64(&original);
                moved[i] += step;
                var.set(&Tensor::from_vec(moved, original.shape(), CPU)?)?;
                let value = loss()?.to_scalar::<f64>();
                var.set(&original)?;
                value
            };
            for (j, analytic) in analytic.into_iter().enumerate() {
                let numeric = (at(j, STEP)? - at(j, -STEP)?) / (2.0 * STEP);
                let bound = 1e-7 * analytic.abs().max(1.0);
                assert!((analytic - numeric).abs() < bound, "{k} {i}[{j}]: {analytic} {numeric}");
            }
        }
    }
    Ok(())
}

/// A backward pass goes through frozen packed weights to both inputs, and stops at those that are not.
#[test]
fn gradients_through_packed_weights() -> Result<()> {
    let tensors = mixture(sizes(40, 12, 4, 2), 6.0).to_dtype(DType::F32)?;
    let packed = tensors.packed()?;
    let x = Var::from_tensor(&numbers(&[6, 40], 7.0).to_dtype(DType::F32)?)?;
    let r = Var::from_tensor(&numbers(&[6, 40], 8.0).to_dtype(DType::F32)?)?;
    let gradients = |mixture: &MixtureOfExperts| -> Result<_> {
        mixture.forward(&r, &x)?.sqr()?.sum_all()?.backward()
    };
    let (ours, theirs) = (gradients(&packed.frozen())?, gradients(&tensors)?);
    for var in [&x, &r] {
        let (ours, theirs) = (ours.get(var).unwrap(), theirs.get(var).unwrap());
        assert!(rel_l2(theirs, ours) < 1e-4);
    }
    let message = gradients(&packed).unwrap_err().to_string();
    assert!(message.contains("frozen()"), "{message}");
    // What is frozen stays so in another dtype.
    assert!(gradients(&packed.frozen().to_dtype(DType::BF16)?)?.get(&x).is_some());
    // One pass and operations agree.
    let (one_pass, composed) =
        (packed.forward(&r.detach(), &x.detach())?, packed.frozen().forward(&r, &x)?);
    assert!(rel_l2(&one_pass, &composed) < 1e-6);
    Ok(())
}

#[test]
fn packed_again_and_in_other_dtypes() -> Result<()> {
    let tensors = mixture(sizes(40, 36, 4, 2), 6.0).to_dtype(DType::F32)?;
    let x = numbers(&[6, 40], 7.0).to_dtype(DType::F32)?;
    let packed = tensors.packed()?;
    let y = packed.forward(&x, &x)?;
    assert_eq!(bits(&packed.packed()?.forward(&x, &x)?), bits(&y));
    let (variables, vars) = packed.with_variables()?;
    let dims: Vec<_> = vars.iter().map(|var| var.dims().to_vec()).collect();
    assert_eq!(dims, [vec![4, 40], vec![40], vec![4], vec![4, 72, 40], vec![4, 40, 36]]);
    assert_eq!(bits(&variables.packed()?.forward(&x, &x)?), bits(&y));
    for dtype in [DType::BF16, DType::F16] {
        let before = tensors.to_dtype(dtype)?.packed()?.forward(&x, &x)?;
        assert_eq!(bits(&packed.to_dtype(dtype)?.forward(&x, &x)?), bits(&before));
        assert_eq!(before.dtype(), DType::F32);
    }
    // In f64 by weights that are unpacked.
    let wide = x.to_dtype(DType::F64)?;
    let (ours, theirs) = (packed.forward(&wide, &wide)?, tensors.forward(&wide, &wide)?);
    assert!(ours.dtype() == DType::F64 && rel_l2(&theirs, &ours) < 1e-12);
    assert!(packed.to_dtype(DType::F64).is_err() && tensors.to_dtype(DType::U8).is_err());
    Ok(())
}

fn f32s(dims: &[usize]) -> Tensor {
    Tensor::zeros(dims, DType::F32, CPU).unwrap()
}

#[test]
fn shapes_that_do_not_fit_are_refused() -> Result<()> {
    let experts = |gate_up: &[usize], down: &[usize]| {
        GatedExperts::new(f32s(gate_up), f32s(down), Gelu::Tanh).unwrap_err()
    };
    use InvalidLayer::{DType as OfDType, Experts, OddGateUp, Shape, TopK, Weight};
    for (gate_up, down) in [
        (&[4, 8][..], &[2, 8, 4][..]),
        (&[2, 8, 8, 1], &[2, 8, 4]),
        (&[0, 8, 8], &[0, 8, 4]),
        (&[2, 0, 8], &[2, 8, 0]),
        (&[2, 8, 0], &[2, 0, 4]),
        (&[], &[]),
    ] {
        let error = experts(gate_up, down);
        assert!(matches!(error, Experts { layer: "experts.gate_up_proj", .. }), "{error}");
    }
    assert!(matches!(experts(&[2, 8, 6], &[2, 6]), Experts { layer: "experts.down_proj", .. }));
    assert!(matches!(experts(&[2, 7, 6], &[2, 6, 3]), OddGateUp { rows: 7 }));
    for down in [[2, 4, 6], [3, 6, 4], [2, 6, 8], [2, 6, 5]] {
        let message = experts(&[2, 8, 6], &down).to_string();
        assert!(
            message.contains("experts.down_proj") && message.contains("[2, 6, 4]"),
            "{message}"
        );
    }
    let integers = Tensor::zeros((2, 8, 6), DType::U8, CPU)?;
    let error = GatedExperts::new(integers, f32s(&[2, 6, 4]), Gelu::Tanh).unwrap_err();
    assert!(
        matches!(error, OfDType { layer: "experts.gate_up_proj", dtype: DType::U8 }),
        "{error}"
    );

    let router = |proj: &[usize], scale: &[usize], of_experts: &[usize], k| {
        Router::new(f32s(proj), f32s(scale), f32s(of_experts), k, 1e-6)
    };
    for proj in [&[6][..], &[3, 6, 1], &[0, 6], &[3, 0]] {
        let error = router(proj, &[6], &[3], 1).unwrap_err();
        assert!(matches!(error, Weight { layer: "router.proj", .. }), "{error}");
    }
    for (scale, of_experts) in [(&[5][..], &[3][..]), (&[6], &[6]), (&[1, 6], &[3]), (&[], &[3])] {
        let error = router(&[3, 6], scale, of_experts, 1).unwrap_err();
        assert!(matches!(error, Shape { .. }), "{error}");
    }
    for k in [0, 4, usize::MAX] {
        let error = router(&[3, 6], &[6], &[3], k).unwrap_err();
        assert!(matches!(error, TopK { experts: 3, .. }), "{error}");
    }

    let right = router(&[3, 6], &[6], &[3], 2)?;
    for (gate_up, down) in [([2, 8, 6], [2, 6, 4]), ([3, 8, 5], [3, 5, 4])] {
        let experts = GatedExperts::new(f32s(&gate_up), f32s(&down), Gelu::Tanh)?;
        assert!(matches!(MixtureOfExperts::new(right.clone(), experts), Err(Shape { .. })));
    }
    Ok(())
}

#[test]
fn sizes_that_no_memory_holds_are_refused() {
    let build = |sizes| {
        let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, CPU);
        mixture_of_experts(sizes, 1e-6, Gelu::Tanh, vb)
    };
    let most = usize::MAX;
    for sizes in [
        sizes(most, 1, 1, 1),
        sizes(1, most, 1, 1),
        sizes(1, 1, most, 1),
        sizes(1 << 32, 1 << 32, 2, 1),
        sizes(1 << 20, 1 << 20, 1 << 20, 1),
        sizes(0, most, most, 1),
        sizes(0, 4, 4, 1),
        sizes(4, 0, 4, 1),
        sizes(4, 4, 0, 0),
        sizes(4, 4, 4, 0),
        sizes(4, 4, 4, 5),
    ] {
        let message = build(sizes).unwrap_err().to_string();
        let line = message.lines().next().unwrap(); // candle adds a backtrace if asked to
        assert!(
            line.contains("any memory")
                || line.contains("[experts, out, in]")
                || line.contains("top k"),
            "{message}"
        );
    }
    assert!(build(sizes(4, 4, 4, 4)).is_ok());
}

#[test]
fn inputs_and_routings_that_do_not_fit_are_refused() -> Result<()> {
    let mixture = mixture(sizes(8, 4, 3, 2), 1.0).to_dtype(DType::F32)?;
    for mixture in [&mixture, &mixture.packed()?] {
        let x = f32s(&[4, 8]);
        for wrong in [f32s(&[4, 7]), f32s(&[4, 9]), f32s(&[]), f32s(&[5, 8]), f32s(&[4, 0])] {
            assert!(mixture.forward(&x, &wrong).is_err(), "{wrong:?}");
            assert!(mixture.forward(&wrong, &x).is_err(), "{wrong:?}");
            assert!(mixture.trace(&x, &wrong).is_err(), "{wrong:?}");
        }
        let integers = x.to_dtype(DType::I64)?;
        assert!(mixture.forward(&x, &integers).is_err() && mixture.route(&integers).is_err());
        let weights = f32s(&[4, 2]);
        for index in [3i64, -1, 1 << 32, i64::MAX, i64::MIN] {
            let routing = Routing::new(&Tensor::full(index, (4, 2), CPU)?, &weights)?;
            let message = mixture.experts().forward(&x, &routing).unwrap_err().to_string();
            assert!(message.contains(&format!("row 0 chose expert {index} of 3")), "{message}");
        }
        // None at all is a sum of nothing.
        let none = Routing::new(&Tensor::zeros((4, 0), DType::U32, CPU)?, &f32s(&[4, 0]))?;
        assert_eq!(to_f64(&mixture.experts().forward(&x, &none)?), vec![0.0; 32]);
    }
    let indices = Tensor::zeros((4, 2), DType::U32, CPU)?;
    for wrong in [f32s(&[4, 3]), f32s(&[8]), f32s(&[4, 2, 1])] {
        assert!(Routing::new(&indices, &wrong).is_err());
    }
    assert!(Routing::new(&f32s(&[4, 2]), &f32s(&[4, 2])).is_err());
    assert!(Routing::new(&indices, &indices).is_err());
    Ok(())
}

/// From tensors by their names in checkpoints, and from a map of variables that trains.
#[test]
fn built_by_names() -> Result<()> {
    let varmap = VarMap::new();
    let vb = VarBuilder::from_varmap(&varmap, DType::F32, CPU);
    let made = mixture_of_experts(sizes(8, 4, 3, 2), 1e-6, Gelu::Tanh, vb.pp("layer"))?;
    let mut names: Vec<_> = varmap.data().lock().unwrap().keys().cloned().collect();
    names.sort();
    let expected = [
        "layer.experts.down_proj",
        "layer.experts.gate_up_proj",
        "layer.router.per_expert_scale",
        "layer.router.proj.weight",
        "layer.router.scale",
    ];
    assert_eq!(names, expected);
    let x = numbers(&[5, 8], 1.0).to_dtype(DType::F32)?;
    let y = made.forward(&x, &x)?;
    let gradients = y.sqr()?.sum_all()?.backward()?;
    assert!(varmap.all_vars().iter().all(|var| gradients.get(var).is_some()));
    let tensors = varmap
        .data()
        .lock()
        .unwrap()
        .iter()
        .map(|(k, v)| (k.clone(), v.as_tensor().clone()))
        .collect();
    let vb = VarBuilder::from_tensors(tensors, DType::F32, CPU);
    let again = mixture_of_experts(sizes(8, 4, 3, 2), 1e-6, Gelu::Tanh, vb.pp("layer"))?;
    assert_eq!(bits(&again.forward(&x, &x)?), bits(&y));
    assert!(mixture_of_experts(sizes(8, 4, 3, 2), 1e-6, Gelu::Tanh, vb).is_err());
    Ok(())
}
