//! Frameworks' arithmetic of GEGLU on half types, bit for bit on all 65,536 numbers of each: against
//! what `scripts/goldens_rounding.py` recorded of PyTorch and JAX and `scripts/goldens_gguf.py` of ggml, and against
//! candle in process.

use crate::common::halves::{HALVES, bits, differing, every, goldens, ups};
use candle_core::{DType, Device, Tensor};
use candle_nn::Linear;
use gemma_mlp::mlp::GateUp;
use gemma_mlp::{Activation, Framework, Gelu, GemmaMlp, Rounding};
use sha2::{Digest, Sha256};

/// The activation and the product of a block that computes so.
fn activated_and_product(
    rounding: Rounding,
    activation: impl Into<Activation>,
    gate: &Tensor,
    up: &Tensor,
) -> [Tensor; 2] {
    let linear = || Linear::new(Tensor::zeros((1, 1), gate.dtype(), &Device::Cpu).unwrap(), None);
    let block =
        GemmaMlp::new(linear(), linear(), linear(), activation).unwrap().with_rounding(rounding);
    let projected = GateUp { gate: gate.clone(), up: up.clone() };
    let (activated, product) = block.activated_and_product(&projected).unwrap();
    assert_eq!(differing(&block.gated(&projected).unwrap(), &product), 0);
    [activated, product]
}

/// PyTorch's and JAX's activation and product: 2 frameworks, 2 forms, 2 types, 65,536 numbers.
#[test]
fn proven_frameworks_bit_for_bit() {
    let goldens = goldens();
    let mut compared = 0;
    for (framework, name) in [(Framework::PyTorch, "torch"), (Framework::Jax, "jax")] {
        assert!(framework.is_proven());
        for &gelu in Gelu::ALL {
            for dtype in HALVES {
                let (gate, up) = (every(dtype), ups(dtype));
                let ours = activated_and_product(Rounding::Like(framework), gelu, &gate, &up);
                for (ours, part) in ours.iter().zip(["activation", "product"]) {
                    let key = format!("{name}.{gelu}.{}.{part}", dtype.as_str());
                    let golden = &goldens[&key];
                    assert_eq!(ours.dtype(), golden.dtype(), "{key}");
                    assert_eq!(differing(ours, golden), 0, "{key}");
                    compared += 1;
                }
            }
        }
    }
    assert_eq!(compared, goldens.len(), "every golden");
    let proven = Framework::ALL.iter().filter(|framework| framework.is_proven());
    assert_eq!(proven.count(), 2, "the others are read from source");
}

/// llama.cpp's table of GELU, as ggml filled it: of every f16 that is looked up in it.
#[test]
fn table_of_ggml_bit_for_bit() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/gguf/ggml.safetensors");
    let goldens = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let llama = Rounding::Like(Framework::LlamaCpp);
    let (x, up) = (every(DType::F16), ups(DType::F16));
    let [activated, _] = activated_and_product(llama, Gelu::Tanh, &x, &up);
    let looked_up = x.to_vec1::<half::f16>().unwrap().into_iter().map(|x| x.to_f32().abs() < 10.0);
    let table = bits(&activated).into_iter().zip(looked_up);
    let table = table.flat_map(|(y, is)| (y * u16::from(is)).to_le_bytes()).collect::<Vec<_>>();
    assert_eq!(Sha256::digest(&table).to_vec(), goldens["gelu"].to_vec1::<u8>().unwrap());
}

/// candle's own operations, in process.
#[test]
fn candle_bit_for_bit() {
    for dtype in HALVES {
        let (gate, up) = (every(dtype), ups(dtype));
        for (gelu, theirs) in [(Gelu::Exact, gate.gelu_erf()), (Gelu::Tanh, gate.gelu())] {
            let theirs = theirs.unwrap();
            let candle = Rounding::from_name("candle").unwrap();
            let [activated, product] = activated_and_product(candle, gelu, &gate, &up);
            assert_eq!(differing(&activated, &theirs), 0, "{gelu} {dtype:?}");
            assert_eq!(differing(&product, &(theirs * &up).unwrap()), 0, "{gelu} {dtype:?}");
        }
    }
}

/// No two roundings have the same products, but for pairs that compute the same formula.
#[test]
fn roundings_differ() {
    let roundings = [Rounding::Once, Rounding::AfterActivation, Rounding::EveryOp]
        .into_iter()
        .chain(Framework::ALL.iter().copied().map(Rounding::Like));
    let roundings: Vec<_> = roundings.collect();
    let mut alike = vec![];
    for dtype in HALVES {
        let (gate, up) = (every(dtype), ups(dtype));
        for &gelu in Gelu::ALL {
            let product = |&rounding| {
                let [_, product] = activated_and_product(rounding, gelu, &gate, &up);
                product
            };
            let products: Vec<_> = roundings.iter().map(product).collect();
            for (j, b) in products.iter().enumerate() {
                for (i, a) in products.iter().enumerate().take(j) {
                    if differing(a, b) == 0 {
                        let [a, b] = [i, j].map(|at| roundings[at].name());
                        alike.push(format!("{a} {b} {gelu} {}", dtype.as_str()));
                    }
                }
            }
        }
    }
    let same_formula = [
        "flashinfer llama.cpp exact bf16",
        "flashinfer llama.cpp exact f16",
        "jax candle-cuda tanh f16",
    ];
    assert_eq!(alike, same_formula);
}

/// The sizes that the documentation states, of the products of all numbers of a type.
#[test]
fn how_far_apart() {
    let [gate, up] = [every(DType::BF16), ups(DType::BF16)];
    let product = |rounding, gelu| {
        let [_, product] = activated_and_product(rounding, gelu, &gate, &up);
        product
    };
    let like = |framework| product(Rounding::Like(framework), Gelu::Tanh);
    let pytorch = like(Framework::PyTorch);
    assert_eq!(differing(&pytorch, &like(Framework::Jax)), 1563);
    assert_eq!(differing(&pytorch, &like(Framework::PyTorchCuda)), 4, "tanh's last bit near -5");
    // 154 from -4.03 down, where `1 + tanh` has no digits left, and 99 odd subnormal numbers, whose
    // half lies in the middle of two numbers and whose GELU does not.
    assert_eq!(differing(&pytorch, &product(Rounding::AfterActivation, Gelu::Tanh)), 253);
}

/// Strides, shapes without elements, f32 and other activations.
#[test]
fn any_tensor() {
    let like = Rounding::Like(Framework::PyTorch);
    let both = Tensor::cat(&[every(DType::BF16), ups(DType::BF16)], 0).unwrap();
    let both = both.reshape((2, 256, 256)).unwrap();
    let [gate, up] = [0, 1].map(|i| both.get(i).unwrap().t().unwrap());
    let strided = activated_and_product(like, Gelu::Exact, &gate, &up);
    let straight = activated_and_product(
        like,
        Gelu::Exact,
        &gate.contiguous().unwrap(),
        &up.contiguous().unwrap(),
    );
    assert_eq!(strided.map(|t| bits(&t)), straight.map(|t| bits(&t)));
    let none = Tensor::zeros((2, 0), DType::F16, &Device::Cpu).unwrap();
    assert_eq!(activated_and_product(like, Gelu::Tanh, &none, &none)[1].dims(), [2, 0]);
    let activated = |rounding| {
        let [_, product] = activated_and_product(rounding, Activation::Silu, &gate, &up);
        bits(&product)
    };
    assert_eq!(activated(like), activated(Rounding::AfterActivation));
    assert_eq!(activated(Rounding::Like(Framework::FlashInfer)), activated(Rounding::Once));
    assert_ne!(activated(like), activated(Rounding::Once));
}

/// The gradient is this crate's analytic one, whichever framework the values are.
#[test]
fn gradients() {
    let x = every(DType::BF16).to_dtype(DType::F32).unwrap();
    let finite: Vec<f32> =
        x.to_vec1().unwrap().into_iter().filter(|x: &f32| x.abs() < 1e4).collect();
    let wide = Tensor::new(finite, &Device::Cpu).unwrap();
    let x = wide.to_dtype(DType::BF16).unwrap();
    let gradients = |rounding| {
        let [gate, up] = [&x, &x].map(|x| candle_core::Var::from_tensor(x).unwrap());
        let [activated, product] = activated_and_product(rounding, Gelu::Tanh, &gate, &up);
        let sum = (activated + product).unwrap().sum_all().unwrap();
        let gradients = sum.backward().unwrap();
        // As numbers: sums of nothing but -0 may be either zero.
        let numbers = |x: &Tensor| x.to_dtype(DType::F32)?.to_vec1::<f32>();
        [gate, up].map(|x| numbers(gradients.get(&x).unwrap()).unwrap())
    };
    assert_eq!(gradients(Rounding::Like(Framework::Jax)), gradients(Rounding::Once));
    // llama.cpp's table is of f16 in f32 too.
    let gradients = |rounding: Rounding| {
        let [gate, up] = [&wide, &wide].map(|x| candle_core::Var::from_tensor(x).unwrap());
        let product = rounding.geglu(&gate, &up, Activation::TANH).unwrap();
        let gradients = product.sum_all().unwrap().backward().unwrap();
        [gate, up].map(|x| gradients.get(&x).unwrap().to_vec1::<f32>().unwrap())
    };
    let [table, once] = [Rounding::Like(Framework::LlamaCpp), Rounding::Once].map(gradients);
    assert_ne!(table, once);
    for (table, once) in table.iter().flatten().zip(once.iter().flatten()) {
        assert!((table - once).abs() <= 1e-3 * once.abs() + 1e-3, "{table} is not {once}");
    }
}
