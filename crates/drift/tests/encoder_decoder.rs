//! Encoders and decoders: both stacks of all sides in one pass are what each model is alone.

use candle_core::{DType, Device, Tensor};
use gemma_mlp::model::Observer;
use gemma_mlp::{Checkpoint, EncoderDecoder, Gelu};
use gemma_mlp_drift::drift::{
    Caches, DIFFERENCES, DriftOptions, Lockstep, Score, Side, Sides, Windowing, continued_targets,
    drift, generate, gradient_drift, rank,
};
use gemma_mlp_drift::forward::{ForwardOptions, forward};
use gemma_mlp_drift::input::{Texts, TokenIds};
use gemma_mlp_drift::{Error, drift::Progress};
use std::ops::ControlFlow;

const MODELS: [&str; 3] = ["t5gemma", "t5gemma2-odd", "t5gemma2-even"];
const SOURCE: [u32; 17] = [2, 5, 9, 11, 60, 7, 8, 4, 3, 9, 22, 17, 18, 40, 41, 12, 50];
const TARGET: [u32; 11] = [2, 8, 60, 13, 4, 5, 6, 33, 35, 1, 7];

fn open(name: &str) -> Checkpoint {
    let dir = env!("CARGO_MANIFEST_DIR");
    Checkpoint::open(format!("{dir}/tests/goldens/families/{name}")).unwrap()
}

fn texts() -> Texts {
    Texts::from(TARGET.to_vec()).with_sources(SOURCE.to_vec().into()).unwrap()
}

fn sides() -> Sides {
    Sides { a: Side::new(Gelu::Tanh, DType::F32), b: Side::new(Gelu::Exact, DType::F32) }
}

fn go_on(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn tensor(ids: &[u32]) -> Tensor {
    Tensor::new(ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap()
}

fn bits(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[derive(Default)]
struct Streams(Vec<Tensor>);

impl Observer for Streams {
    fn residual(&mut self, _: usize, stream: &Tensor) -> candle_core::Result<()> {
        self.0.push(stream.clone());
        Ok(())
    }
}

#[test]
fn sides_in_one_batch_are_sides_alone() {
    let sides = [sides().a, sides().b, Side::new(Gelu::Exact, DType::BF16)];
    for name in MODELS {
        let checkpoint = open(name);
        let lockstep = Lockstep::load(&checkpoint, &sides, &Device::Cpu).unwrap();
        let (source, target) = (tensor(&SOURCE), tensor(&TARGET));
        let mut together: Vec<Vec<Tensor>> = vec![vec![]; sides.len()];
        let watch = |_, _, lanes: &[gemma_mlp_drift::drift::LaneStep]| {
            together.iter_mut().zip(lanes).for_each(|(all, lane)| all.push(lane.stream.clone()));
            Ok(())
        };
        let lengths = [TARGET.len(); 3];
        let hidden = lockstep.run(Some(&source), &target, &lengths, watch).unwrap();
        for (i, side) in sides.iter().enumerate() {
            let alone = EncoderDecoder::load(&checkpoint, &Device::Cpu, side.dtype).unwrap();
            let alone = alone.with_activation(side.activation);
            let mut streams = Streams::default();
            let own = alone.hidden(&source, None, &target, &mut streams).unwrap();
            assert!(bits(&own) == bits(&hidden[i]), "{name} {side}");
            assert_eq!((streams.0.len(), lockstep.gates()), (together[i].len(), alone.gates()));
            for (layer, (own, other)) in streams.0.iter().zip(&together[i]).enumerate() {
                assert!(bits(own) == bits(other), "{name} {side}, layer {layer}");
            }
        }
        assert!(bits(&hidden[0]) != bits(&hidden[1]), "{name}: the switch changes something");
    }
}

/// Token by token, two sides with tokens of their own, beside one source.
#[test]
fn a_cache_changes_nothing() {
    let pair = [sides().a, sides().b];
    for name in MODELS {
        let checkpoint = open(name);
        let lockstep = Lockstep::load(&checkpoint, &pair, &Device::Cpu).unwrap();
        let targets = [TARGET.to_vec(), TARGET.iter().rev().copied().collect()];
        let mut caches = Caches::default();
        assert!(lockstep.next(&targets, &mut Caches::default()).is_err(), "nothing is encoded");
        lockstep.begin(&tensor(&SOURCE), &mut caches).unwrap();
        let mut at = 0;
        for n in [1, 1, 5, 1, 3] {
            let part = targets.each_ref().map(|text| text[at..at + n].to_vec());
            at += n;
            let logits = lockstep.next(&part, &mut caches).unwrap();
            for ((side, target), logits) in pair.iter().zip(&targets).zip(logits) {
                let model = EncoderDecoder::load(&checkpoint, &Device::Cpu, side.dtype).unwrap();
                let model = model.with_activation(side.activation);
                let whole = model.forward(&tensor(&SOURCE), None, &tensor(&target[..at])).unwrap();
                let last = whole.get(0).unwrap().get(at - 1).unwrap();
                assert!(bits(&last) == bits(&logits), "{name} {side} at {at}");
            }
        }
    }
}

/// Figures of a run: of each layer over its own text, of the logits what both models give.
#[test]
fn figures_are_those_of_both_models() {
    for name in MODELS {
        let checkpoint = open(name);
        let options = DriftOptions::new(&checkpoint, sides()).unwrap();
        let drift = drift(&checkpoint, &texts(), &options, &Device::Cpu, go_on).unwrap();
        assert_eq!((drift.layers.len(), drift.tokens), (checkpoint.blocks().len(), TARGET.len()));
        let encoder = checkpoint.config().encoder().unwrap();
        for layer in &drift.layers {
            let of_encoder = layer.index < encoder.num_hidden_layers;
            assert_eq!(layer.name.contains("encoder"), of_encoder, "{}", layer.name);
            let width = checkpoint.blocks()[layer.index].intermediate_size as u64;
            let tokens = if of_encoder { SOURCE.len() } else { TARGET.len() } as u64;
            assert_eq!(layer.gates.total(), width * tokens, "{name} {}", layer.index);
            assert!(layer.drift.output.rel_l2 < layer.floor.output.rel_l2, "{name}");
        }
        let model = EncoderDecoder::load(&checkpoint, &Device::Cpu, DType::F32).unwrap();
        let logits = |model: &EncoderDecoder| {
            bits(&model.forward(&tensor(&SOURCE), None, &tensor(&TARGET)).unwrap())
        };
        let (a, b) = (logits(&model), logits(&model.with_activation(Gelu::Exact)));
        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
        let far = norm(&mut a.iter().zip(&b).map(|(a, b)| b - a)) / norm(&mut a.iter().copied());
        let measured = drift.logits.as_ref().unwrap().rel_l2;
        assert!((far - measured).abs() < 1e-3 * far, "{name}: {far:e} {measured:e}");
        let said = |what: &str| drift.header.remarks.iter().any(|r| r.text.contains(what));
        assert!(said("reads 17 tokens; the decoder reads 11"), "{name}");
    }
}

#[test]
fn ranking_and_gradients() {
    let names = |name: &str| {
        let checkpoint = open(name);
        let options = DriftOptions::new(&checkpoint, sides()).unwrap();
        let ranked =
            rank(&checkpoint, &texts(), &options, DIFFERENCES, &Device::Cpu, go_on).unwrap();
        ranked.iter().map(|ranked| ranked.difference.to_string()).collect::<Vec<_>>()
    };
    let of = |name: &str| {
        let names = names(name);
        ["cross attention: keys rotated", "window as far to both sides"]
            .map(|what| names.iter().any(|name| name.contains(what)))
    };
    assert_eq!(MODELS.map(of), [[false, false], [true, false], [true, true]]);
    for name in MODELS {
        let checkpoint = open(name);
        let options = DriftOptions::new(&checkpoint, sides()).unwrap();
        let gradients =
            gradient_drift(&checkpoint, &texts(), &options, &Device::Cpu, |_| ()).unwrap();
        assert_eq!(gradients.gradients.len(), checkpoint.blocks().len());
        for layer in &gradients.gradients {
            for ((_, drift), (_, floor)) in layer.drift.matrices().zip(layer.floor.matrices()) {
                assert!(drift.rel_l2 > 0.0 && drift.rel_l2 < floor.rel_l2, "{name}");
            }
        }
        assert!(gradients.input_gradient.rel_l2 > 0.0);
    }
}

/// Every layer of both stacks, under the names of its index over both; what follows is what the model says.
#[test]
fn forward_and_what_it_goes_on_with() {
    for name in MODELS {
        let checkpoint = open(name);
        let options = ForwardOptions {
            activation: None,
            dtype: DType::F32,
            layers: (0..checkpoint.blocks().len()).collect(),
            keep: true,
        };
        let ids = TokenIds::batched(texts()).unwrap();
        let run = forward(&checkpoint, &ids, &options, &Device::Cpu, |_| ()).unwrap();
        assert_eq!(run.summary.layers.len(), checkpoint.blocks().len());
        let model = EncoderDecoder::load(&checkpoint, &Device::Cpu, DType::F32).unwrap();
        let logits = model.forward(&tensor(&SOURCE), None, &tensor(&TARGET)).unwrap();
        let kept = run.tensors.iter().find(|(name, _)| name == "logits").unwrap();
        assert!(bits(&kept.1) == bits(&logits), "{name}");
        let continued =
            continued_targets(&checkpoint, &SOURCE.to_vec().into(), sides().a, 4, &Device::Cpu);
        let continued = continued.unwrap();
        let ids: Vec<_> = continued.iter().next().unwrap().to_vec();
        let text =
            generate(&checkpoint, &SOURCE, sides(), 4, &Device::Cpu, |_| ControlFlow::Continue(()));
        assert_eq!(ids, [&[2], &text.unwrap().a.ids[..]].concat(), "{name}");
    }
}

#[test]
fn texts_that_do_not_fit_are_refused() {
    let checkpoint = open("t5gemma");
    let run = |checkpoint: &Checkpoint, texts: &Texts, change: fn(&mut DriftOptions)| {
        let mut options = DriftOptions::new(checkpoint, sides()).unwrap();
        change(&mut options);
        drift(checkpoint, texts, &options, &Device::Cpu, go_on).unwrap_err()
    };
    let alone = Texts::from(TARGET.to_vec());
    let error = run(&checkpoint, &alone, |_| ());
    assert!(matches!(error, Error::NoSource { .. }), "{error}");
    let error = run(&open("gemma3-linear"), &texts(), |_| ());
    assert!(matches!(error, Error::NoEncoder { .. }), "{error}");
    let narrow = |options: &mut DriftOptions| {
        options.windowing = Windowing { window: 8, stride: 8, score: Score::All };
    };
    let error = run(&checkpoint, &texts(), narrow);
    assert!(matches!(error, Error::CutTarget { index: 0, tokens: 11, window: 8 }), "{error}");
    let halves = |options: &mut DriftOptions| options.windowing.score = Score::SecondHalf;
    assert!(matches!(run(&checkpoint, &texts(), halves), Error::CutTarget { .. }));
    let beyond = alone.clone().with_sources(vec![2, 64].into()).unwrap();
    let error = run(&checkpoint, &beyond, |_| ());
    assert!(matches!(error, Error::OutOfVocabulary { id: 64, .. }), "{error}");
    let two: Texts = vec![vec![2, 5], vec![2, 6]].into();
    let error = alone.clone().with_sources(two).unwrap_err();
    assert!(matches!(error, Error::SourceCount { sources: 2, texts: 1 }), "{error}");
    assert!(alone.with_sources(vec![vec![]].into()).is_err());
}
