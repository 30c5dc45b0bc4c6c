//! Today's families in lockstep: two sides in one batch, and one text after another, change nothing.

use candle_core::{DType, Device, Tensor};
use gemma_mlp::model::{Gemma, Observer};
use gemma_mlp::{Checkpoint, Gelu};
use gemma_mlp_drift::drift::{Caches, Lockstep, Side};

const MODELS: [&str; 7] = [
    "gemma4-dense",
    "gemma4-moe",
    "gemma4-e4b",
    "gemma4-e2b",
    "gemma3n-a",
    "gemma3n-b",
    "embedding-gemma2",
];

fn open(name: &str) -> Checkpoint {
    let goldens = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/families");
    Checkpoint::open(format!("{goldens}/{name}")).unwrap()
}

fn side(gelu: Gelu, dtype: DType) -> Side {
    Side::new(gelu, dtype)
}

/// Longer than a piece of a layer, and than every window.
fn ids(vocab: usize) -> Vec<u32> {
    (0..270).map(|i| (7 * i + i * i % 13) % vocab as u32).collect()
}

fn bits(x: &Tensor) -> Vec<u64> {
    let x: Vec<f64> = x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    x.into_iter().map(f64::to_bits).collect()
}

/// The residual stream after every layer.
#[derive(Default)]
struct Streams(Vec<Tensor>);

impl Observer for Streams {
    fn watches(&self, _: usize) -> bool {
        false
    }

    fn residual(&mut self, _: usize, stream: &Tensor) -> candle_core::Result<()> {
        self.0.push(stream.clone());
        Ok(())
    }
}

/// Every GELU of every layer follows its side, the block's and all others.
#[test]
fn sides_in_one_batch_are_sides_alone() {
    let sides = [
        side(Gelu::Tanh, DType::F32),
        side(Gelu::Exact, DType::F32),
        side(Gelu::Exact, DType::BF16),
    ];
    for name in MODELS {
        let checkpoint = open(name);
        let ids = Tensor::new(vec![ids(checkpoint.config().stacks[0].vocab_size)], &Device::Cpu);
        let ids = ids.unwrap();
        let lockstep = Lockstep::load(&checkpoint, &sides, &Device::Cpu).unwrap();
        let mut together: Vec<Vec<Vec<Tensor>>> = vec![vec![]; sides.len()];
        let run = lockstep.run(None, &ids, &[270; 3], |_, start, lanes| {
            for (all, lane) in together.iter_mut().zip(lanes) {
                if start == 0 {
                    all.push(vec![]);
                }
                all.last_mut().unwrap().push(lane.stream.clone());
            }
            Ok(())
        });
        let hidden = run.unwrap();
        for (i, side) in sides.iter().enumerate() {
            let alone: Gemma = Gemma::load(&checkpoint, &Device::Cpu, side.dtype).unwrap();
            let alone = alone.with_activation(side.activation);
            let mut streams = Streams::default();
            let own = alone.hidden(&ids, &mut streams).unwrap();
            assert!(bits(&own) == bits(&hidden[i]), "{name} {side}");
            for (layer, (own, pieces)) in streams.0.iter().zip(&together[i]).enumerate() {
                let pieces = Tensor::cat(pieces, 1).unwrap();
                assert!(bits(own) == bits(&pieces), "{name} {side}, layer {layer}");
            }
        }
        assert!(bits(&hidden[0]) != bits(&hidden[1]), "{name}: the switch changes something");
        let others = if ["gemma4-dense"].contains(&name) { 0 } else { lockstep.layers() };
        assert_eq!(lockstep.gates(), lockstep.layers() + others, "{name}");
    }
}

/// A prompt, then token by token, two sides with tokens of their own.
#[test]
fn a_cache_changes_nothing() {
    let sides = [side(Gelu::Tanh, DType::F32), side(Gelu::Exact, DType::F32)];
    for name in MODELS.into_iter().filter(|name| !name.starts_with("embedding")) {
        let checkpoint = open(name);
        let ids = ids(checkpoint.config().stacks[0].vocab_size);
        let texts = [ids[..30].to_vec(), ids[30..60].to_vec()];
        let lockstep = Lockstep::load(&checkpoint, &sides, &Device::Cpu).unwrap();
        let whole = [0, 1].map(|side| {
            let text = Tensor::new(vec![texts[side].clone()], &Device::Cpu).unwrap();
            lockstep.model(side).forward(&text).unwrap().get(0).unwrap()
        });
        let (mut caches, mut at) = (Caches::default(), 0);
        for n in [19, 1, 1, 1, 5, 1, 1, 1] {
            let part = texts.each_ref().map(|text| text[at..at + n].to_vec());
            let logits = lockstep.next(&part, &mut caches).unwrap();
            at += n;
            for side in [0, 1] {
                let expected = whole[side].get(at - 1).unwrap();
                assert!(bits(&logits[side]) == bits(&expected), "{name}, side {side}, {at}");
            }
        }
        assert_eq!(at, texts[0].len());
    }
}
