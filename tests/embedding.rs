//! The block in other people's programs: whatever shapes, dtypes and threads they bring, what they get is
//! right or an error, and their process is left as it was.

use crate::common::to_f64;
use candle_core::{DType, Device, Module, Result, Tensor, Var};
use candle_nn::{Linear, Optimizer, VarBuilder, VarMap};
use gemma_mlp::model::{Block, Cache, KeyValues, Keys, Observer};
use gemma_mlp::{Checkpoint, Gelu, Gemma, GemmaMlp, InvalidLayer, gemma_mlp};
use proptest::prelude::*;

/// Every dtype that candle computes in or stores.
const DTYPES: [DType; 10] = [
    DType::F32,
    DType::BF16,
    DType::F16,
    DType::F64,
    DType::F8E4M3,
    DType::U8,
    DType::U32,
    DType::I16,
    DType::I32,
    DType::I64,
];

fn random(dims: &[usize], dtype: DType) -> Tensor {
    Tensor::randn(0f32, 1., dims, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// Mostly the first dtype, sometimes another one.
fn dtype() -> impl Strategy<Value = DType> {
    prop_oneof![
        4 => Just(DType::F32),
        2 => Just(DType::BF16),
        1 => (0..DTYPES.len()).prop_map(|i| DTYPES[i]),
    ]
}

/// What is done to a shape: nothing, mostly.
fn change() -> impl Strategy<Value = Option<(usize, usize)>> {
    prop_oneof![6 => Just(None), 1 => (0usize..4, 0usize..70).prop_map(Some)]
}

/// A shape with one of its sizes replaced, or, past the last one, added.
fn changed(shape: &[usize], change: Option<(usize, usize)>) -> Vec<usize> {
    let mut shape = shape.to_vec();
    match change {
        Some((at, size)) if at < shape.len() => shape[at] = size,
        Some((3, _)) => shape.truncate(shape.len() - 1),
        Some((_, size)) => shape.push(size),
        None => {}
    }
    shape
}

/// Two outcomes are alike: both errors, or numbers near each other, relative to the largest.
fn assert_alike(tensors: Result<Tensor>, packed: Result<Tensor>, bound: f64, what: &str) {
    match (tensors, packed) {
        (Err(_), Err(_)) => {}
        (Ok(tensors), Ok(packed)) => {
            assert_eq!(
                (tensors.dims(), tensors.dtype()),
                (packed.dims(), packed.dtype()),
                "{what}"
            );
            let (a, b) = (to_f64(&tensors), to_f64(&packed));
            let largest = a.iter().fold(1e-3, |largest: f64, x| largest.max(x.abs()));
            for (a, b) in a.iter().zip(&b) {
                assert!((a - b).abs() <= bound * largest, "{what}: {a} {b} of {largest}");
            }
        }
        (tensors, packed) => panic!(
            "{what}: as tensors {:?}, packed {:?}",
            tensors.map(|t| t.dims().to_vec()),
            packed.map(|t| t.dims().to_vec())
        ),
    }
}

/// What rounding to some dtypes, the narrowest of them, lets two ways of computing differ by.
fn bound(dtypes: &[DType]) -> f64 {
    let of = |dtype: &DType| match dtype {
        DType::BF16 => 0.04,
        DType::F16 => 0.005,
        _ => 1e-5,
    };
    dtypes.iter().map(of).fold(0.0, f64::max)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Any shapes, ranks and dtypes: a block is refused when it is made, or packing and input decide, and
    /// then the packed block errs where the block of tensors does, and agrees with it elsewhere.
    #[test]
    fn packed_errs_wherever_tensors_err_and_agrees_elsewhere(
        (hidden, intermediate) in (1usize..40, 1usize..70),
        of_weights in (dtype(), dtype(), dtype()),
        of_x in dtype(),
        changes in (change(), change(), change()),
        biases in prop::collection::vec(prop_oneof![2 => Just(None), 1 => change().prop_map(Some)], 3),
        joined in any::<bool>(),
        rank in 0usize..6,
        last in prop_oneof![6 => Just(None), 1 => (0usize..70).prop_map(Some)],
        sizes in prop::collection::vec(0usize..4, 5),
    ) {
        let layer = |shape: [usize; 2], change, bias: &Option<_>, dtype| {
            let weight = random(&changed(&shape, change), dtype);
            Linear::new(weight, bias.map(|change| random(&changed(&shape[..1], change), dtype)))
        };
        let rows = if joined { 2 * intermediate } else { intermediate };
        let gate = layer([rows, hidden], changes.0, &biases[0], of_weights.0);
        let up = layer([intermediate, hidden], changes.1, &biases[1], of_weights.1);
        let down = layer([hidden, intermediate], changes.2, &biases[2], of_weights.2);
        let made = match joined {
            true => GemmaMlp::from_gate_up(gate, down, Gelu::Tanh),
            false => GemmaMlp::new(gate, up, down, Gelu::Tanh),
        };
        let Ok(tensors) = made else { return Ok(()) };
        let f64_weights = [of_weights.0, of_weights.1, of_weights.2].contains(&DType::F64);
        let packed = match tensors.packed() {
            Ok(packed) => packed,
            Err(error) => {
                prop_assert!(f64_weights, "{error}");
                return Ok(());
            }
        };
        let mut dims: Vec<_> = sizes.into_iter().take(rank).collect();
        if let Some(size) = dims.last_mut() {
            *size = last.unwrap_or(hidden);
        }
        let x = random(&dims, of_x);
        let bound = bound(&[of_x, of_weights.0, of_weights.1, of_weights.2]);
        let pair = |mlp: &GemmaMlp| mlp.forward_pair(&x).map(|pair| pair.exact);
        let trace = |mlp: &GemmaMlp| mlp.trace(&x).map(|trace| trace.product);
        assert_alike(tensors.forward(&x), packed.forward(&x), bound, "forward");
        assert_alike(pair(&tensors), pair(&packed), bound, "forward_pair");
        assert_alike(trace(&tensors), trace(&packed), bound, "trace");
    }

    /// The same of a layer alone.
    #[test]
    fn packed_layers_too(
        (rows, columns) in (1usize..70, 1usize..40),
        (of_weight, of_x) in (dtype(), dtype()),
        (of_shape, of_bias) in (change(), prop_oneof![Just(None), change().prop_map(Some)]),
        dims in prop::collection::vec(0usize..4, 0..6),
        fits in prop_oneof![5 => Just(true), 1 => Just(false)],
    ) {
        let weight = random(&changed(&[rows, columns], of_shape), of_weight);
        let bias = of_bias.map(|change| random(&changed(&[rows], change), of_weight));
        let layer = gemma_mlp::linear::Linear::try_from(Linear::new(weight, bias));
        let Ok(layer) = layer else { return Ok(()) };
        let Ok(packed) = layer.packed() else {
            prop_assert_eq!(of_weight, DType::F64);
            return Ok(());
        };
        let mut dims = dims;
        if let (Some(last), true) = (dims.last_mut(), fits) {
            *last = columns;
        }
        let x = random(&dims, of_x);
        assert_alike(layer.forward(&x), packed.forward(&x), bound(&[of_weight, of_x]), "linear");
    }
}

/// What is wrong is said by name, when the block is made.
#[test]
fn wrong_shapes_are_named() {
    let layer = |rows, columns, bias: Option<usize>| {
        let bias = bias.map(|n| random(&[n], DType::F32));
        Linear::new(random(&[rows, columns], DType::F32), bias)
    };
    let new = |gate, up, down| GemmaMlp::new(gate, up, down, Gelu::Tanh).unwrap_err();
    let fine = || layer(12, 8, None);
    let down = new(fine(), fine(), layer(8, 16, None));
    assert_eq!(down, InvalidLayer::Down { down: vec![8, 16], expected: vec![8, 12] });
    assert_eq!(
        down.to_string(),
        "down has shape [8, 16]; it must be [8, 12], [hidden, intermediate]"
    );
    let gate_up = new(fine(), layer(12, 9, None), layer(8, 12, None));
    assert!(matches!(gate_up, InvalidLayer::GateUp { .. }), "{gate_up}");
    for bias in [5, 11, 13, 200] {
        let error = new(fine(), layer(12, 8, Some(bias)), layer(8, 12, None)).to_string();
        assert_eq!(
            error,
            format!("the bias of up has shape [{bias}]; for a weight of [12, 8] it must be [12]")
        );
    }
    let error = GemmaMlp::from_gate_up(layer(13, 8, None), layer(8, 6, None), Gelu::Tanh);
    assert_eq!(error.unwrap_err(), InvalidLayer::OddGateUp { rows: 13 });
    // `?` makes them candle's and this crate's errors.
    let as_candles: candle_core::Error = down.clone().into();
    assert!(as_candles.to_string().contains("[hidden, intermediate]"));
    assert!(gemma_mlp::Error::from(down).is_input());
}

/// An input of another dtype than the weights' is not rounded to theirs.
#[test]
fn inputs_keep_their_digits() -> Result<()> {
    let varmap = VarMap::new();
    let vb = VarBuilder::from_varmap(&varmap, DType::BF16, &Device::Cpu);
    let mlp = gemma_mlp(8, 12, Gelu::Tanh, vb)?;
    let x = random(&[3, 8], DType::F32);
    let wide = |dtype: DType| -> Result<GemmaMlp> {
        let tensors = varmap
            .data()
            .lock()
            .unwrap()
            .iter()
            .map(|(name, var)| Ok((name.clone(), var.as_tensor().to_dtype(dtype)?)))
            .collect::<Result<_>>()?;
        gemma_mlp(8, 12, Gelu::Tanh, VarBuilder::from_tensors(tensors, dtype, &Device::Cpu))
    };
    let right = to_f64(&wide(DType::F64)?.forward(&x.to_dtype(DType::F64)?)?);
    for mlp in [mlp.packed()?, mlp] {
        let y = mlp.forward(&x)?;
        assert_eq!(y.dtype(), DType::F32);
        for (y, right) in to_f64(&y).iter().zip(&right) {
            assert!((y - right).abs() < 1e-5, "{y} {right}");
        }
        let y = to_f64(&mlp.forward(&x.to_dtype(DType::F64)?)?);
        assert!(y.iter().zip(&right).all(|(y, right)| (y - right).abs() < 1e-12));
    }
    Ok(())
}

/// An optimiser that trains what is around a packed block is told that the block stays as it is.
#[test]
fn packed_blocks_do_not_train_in_silence() -> Result<()> {
    let varmap = VarMap::new();
    let mlp =
        gemma_mlp(8, 12, Gelu::Tanh, VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu))?;
    let packed = mlp.packed()?;
    let embedding = Var::from_tensor(&random(&[4, 8], DType::F32))?;
    let loss = |mlp: &GemmaMlp| mlp.forward(embedding.as_tensor())?.sqr()?.mean_all();
    let mut adam = candle_nn::AdamW::new_lr(vec![embedding.clone()], 0.1)?;
    let error = adam.backward_step(&loss(&packed)?).unwrap_err().to_string();
    assert!(error.contains("pack after training"), "{error}");
    // Those who mean it say so.
    let frozen = packed.frozen();
    let gradient = |mlp: &GemmaMlp| -> Result<Vec<f64>> {
        Ok(to_f64(loss(mlp)?.backward()?.get(&embedding).expect("the embedding takes part")))
    };
    for (ours, tensors) in gradient(&frozen)?.iter().zip(gradient(&mlp)?) {
        assert!((ours - tensors).abs() < 1e-5);
    }
    Ok(())
}

fn tiny() -> gemma_mlp::Result<Gemma> {
    let checkpoint = Checkpoint::open(concat!(env!("CARGO_MANIFEST_DIR"), "/weights/tiny-gemma3"))?;
    Gemma::load(&checkpoint, &Device::Cpu, DType::F32)
}

/// A cache goes on with the model that began it, and with its clones, only.
#[test]
fn caches_belong_to_one_model() -> gemma_mlp::Result<()> {
    let (one, other) = (tiny()?, tiny()?);
    let ids = Tensor::new(&[[2u32, 7, 9]], &Device::Cpu)?;
    let mut cache = Cache::default();
    one.forward_cached(&ids, &mut cache)?;
    one.clone().forward_cached(&ids, &mut cache)?;
    let before = cache.clone();
    for model in [other, one.with_activation(Gelu::Exact), one.with_dtype(DType::BF16)] {
        let error = model.forward_cached(&ids, &mut cache).unwrap_err().to_string();
        assert!(error.contains("begin a new one"), "{error}");
    }
    let [kept, untouched] = [cache, before].map(|mut cache| one.forward_cached(&ids, &mut cache));
    assert_eq!(to_f64(&kept?), to_f64(&untouched?));
    // A layer's, too, where layers are used alone.
    let (mut cache, x) = (Default::default(), random(&[1, 2, 128], DType::F32));
    let attend = |layer: usize, cache: &mut KeyValues| {
        one.layers()[layer].attention().unwrap().forward(&x, Keys::Kept(cache))
    };
    attend(0, &mut cache)?;
    let error = attend(1, &mut cache).unwrap_err().to_string();
    assert!(error.contains("another model, layer"), "{error}");
    Ok(())
}

/// Blocks are taken apart where somebody watches, and the bits do not show it.
#[test]
fn observers_see_what_they_watch() -> gemma_mlp::Result<()> {
    #[derive(Default)]
    struct Watch {
        blocks: Vec<usize>,
        streams: usize,
    }
    impl Observer for Watch {
        fn watches(&self, layer: usize) -> bool {
            layer % 2 == 1
        }

        fn block(&mut self, block: Block) -> Result<()> {
            self.blocks.push(block.index);
            Ok(())
        }

        fn residual(&mut self, _: usize, _: &Tensor) -> Result<()> {
            self.streams += 1;
            Ok(())
        }
    }
    let (model, mut watch) = (tiny()?, Watch::default());
    let ids = Tensor::new(&[[2u32, 7, 9, 100]], &Device::Cpu)?;
    let watched = model.hidden(&ids, &mut watch)?;
    assert_eq!((watch.blocks.as_slice(), watch.streams), (&[1, 3][..], 4));
    assert_eq!(to_f64(&watched), to_f64(&model.hidden(&ids, &mut ())?));
    Ok(())
}

/// Kilobytes of memory that the process has now.
#[cfg(target_os = "linux")]
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Large batches on many threads leave no more than a little scratch behind. In a process of its own:
/// other tests have memory, too.
#[cfg(target_os = "linux")]
#[test]
fn scratch_is_given_back() -> Result<()> {
    const ALONE: &str = "GEMMA_MLP_TEST_SCRATCH";
    if std::env::var_os(ALONE).is_none() {
        for threads in ["1", "8"] {
            let output = std::process::Command::new(std::env::current_exe()?)
                .args(["embedding::scratch_is_given_back", "--exact", "--nocapture"])
                // glibc keeps up to 64 MiB of freed tensors unless it is told how much: not ours.
                .envs([("MALLOC_TRIM_THRESHOLD_", "131072"), (ALONE, "1")])
                .env("RAYON_NUM_THREADS", threads)
                .output()?;
            assert!(
                output.status.success(),
                "{threads} threads: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        return Ok(());
    }
    let varmap = VarMap::new();
    let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu);
    let run = |rows: usize| -> Result<()> {
        let mlp = gemma_mlp(128, 1024, Gelu::Tanh, vb.clone())?.packed()?;
        let x = random(&[rows, 128], DType::F32);
        mlp.forward(&x)?;
        mlp.forward_pair(&x)?;
        Ok(())
    };
    run(8)?; // threads and code
    let before = resident();
    for _ in 0..3 {
        run(20_000)?;
    }
    let after = resident();
    assert!(after < before + 20_000, "{before} kB before, {after} kB after");
    Ok(())
}
