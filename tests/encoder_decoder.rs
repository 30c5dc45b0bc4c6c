//! Encoders and decoders, against transformers: T5Gemma 1 and 2.

use crate::common::family::Family;
use crate::common::{rel_l2, to_f64};
use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use gemma_mlp::model::{Block, Cache, Encoded, Observer, Padding, Variation};
use gemma_mlp::{Checkpoint, EncoderDecoder, Gelu, Gemma};
use std::collections::HashMap;

const MODELS: [&str; 3] = ["t5gemma", "t5gemma2-odd", "t5gemma2-even"];

/// A checkpoint, and the texts that it was recorded on.
struct Pair {
    family: Family,
    encoder_ids: Tensor,
    mask: Tensor,
    decoder_ids: Tensor,
}

/// What a pass leaves.
struct Run {
    /// The residual streams of both stacks, the encoder's first.
    streams: Vec<Tensor>,
    /// The encoder's normed states.
    states: Tensor,
    normed: Tensor,
    logits: Tensor,
}

/// Layers by the order in which they are watched.
#[derive(Default)]
struct Streams(Vec<Tensor>, Vec<usize>);

impl Observer for Streams {
    fn block(&mut self, block: Block) -> Result<()> {
        self.1.push(block.index);
        Ok(())
    }

    fn residual(&mut self, layer: usize, stream: &Tensor) -> Result<()> {
        assert_eq!(layer, self.0.len());
        self.0.push(stream.clone());
        Ok(())
    }
}

impl Pair {
    fn open(name: &str) -> Self {
        let family = Family::open(name);
        let ids = |name: &str| family.golden[name].to_dtype(DType::U32).unwrap();
        let (encoder_ids, mask) = (ids("encoder_ids"), ids("encoder_mask"));
        let decoder_ids = ids("decoder_ids");
        Self { encoder_ids, mask, decoder_ids, family }
    }

    fn load(&self, dtype: DType) -> EncoderDecoder {
        load(&self.family.checkpoint, dtype)
    }

    fn run(&self, model: &EncoderDecoder) -> Run {
        let mut streams = Streams::default();
        let encoded =
            model.encode_observed(&self.encoder_ids, Some(&self.mask), &mut streams).unwrap();
        let normed = model.decode(&encoded, &self.decoder_ids, &mut streams).unwrap();
        let logits = model.logits(&normed).unwrap();
        assert_eq!(streams.1, (0..streams.0.len()).collect::<Vec<_>>());
        Run { streams: streams.0, states: encoded.states().clone(), normed, logits }
    }

    /// How far the encoder's states are from a golden, padding aside.
    fn far(&self, golden: &str, states: &Tensor) -> f64 {
        let tokens = self.mask.to_dtype(states.dtype()).unwrap().unsqueeze(2).unwrap();
        let ours = states.broadcast_mul(&tokens).unwrap();
        let tokens = tokens.to_dtype(DType::F32).unwrap();
        rel_l2(&self.family.golden[golden].broadcast_mul(&tokens).unwrap(), &ours)
    }
}

fn load(checkpoint: &Checkpoint, dtype: DType) -> EncoderDecoder {
    EncoderDecoder::load(checkpoint, &Device::Cpu, dtype).unwrap()
}

/// f64 is within 1e-6 of transformers' f64 in every layer of both stacks; f32 and bf16 are no farther from it than twice
/// transformers' own; the exact GELU is transformers' too.
#[test]
fn they_agree_with_transformers() {
    for name in MODELS {
        let pair = Pair::open(name);
        let golden = &pair.family.golden;
        let wide = pair.load(DType::F64);
        let run = pair.run(&wide);
        let layers = wide.encoder().layers().len();
        let (encoder, decoder) = run.streams.split_at(layers);
        for (i, stream) in encoder.iter().enumerate() {
            assert!(pair.far(&format!("encoder.hidden.{i}"), stream) < 1e-6, "{name} encoder {i}");
        }
        assert!(pair.far("encoder.last_hidden", &run.states) < 1e-6, "{name}");
        for (i, stream) in decoder.iter().enumerate() {
            let expected = &golden[&format!("decoder.hidden.{i}")];
            assert!(rel_l2(expected, stream) < 1e-6, "{name} decoder {i}");
        }
        assert!(rel_l2(&golden["decoder.last_hidden"], &run.normed) < 1e-6, "{name}");
        assert!(rel_l2(&golden["logits"], &run.logits) < 1e-6, "{name}");
        let exact = pair.run(&wide.with_activation(Gelu::Exact)).logits;
        assert!(rel_l2(&golden["logits.exact"], &exact) < 1e-6, "{name}");
        for (dtype, theirs) in [(DType::F32, "logits.f32"), (DType::BF16, "logits.bf16")] {
            let theirs = rel_l2(&golden["logits"], &golden[theirs]);
            let ours = rel_l2(&golden["logits"], &pair.run(&pair.load(dtype)).logits);
            assert!(ours < 2.0 * theirs, "{name} {dtype:?} {ours:e}, transformers {theirs:e}");
        }
    }
}

#[test]
fn both_spellings_of_a_config_are_one_model() {
    for name in MODELS {
        let pair = Pair::open(name);
        let hubs = pair.family.in_the_hubs_spelling();
        for dtype in [DType::F32, DType::F64] {
            let [own, hubs] = [&pair.family.checkpoint, &hubs]
                .map(|checkpoint| to_f64(&pair.run(&load(checkpoint, dtype)).logits));
            assert!(own == hubs, "{name}");
        }
    }
}

/// Alone, in a batch, beside padding at either end of another text, and token by token after a cache.
#[test]
fn a_text_has_the_same_bits_alone_in_a_batch_and_after_a_cache() -> Result<()> {
    for name in MODELS {
        let pair = Pair::open(name);
        for dtype in [DType::F32, DType::BF16] {
            let model = pair.load(dtype);
            let whole = pair.run(&model).logits;
            for (text, len) in [19, 15].into_iter().enumerate() {
                let encoder = pair.encoder_ids.narrow(0, text, 1)?.narrow(1, 0, len)?;
                let decoder = pair.decoder_ids.narrow(0, text, 1)?;
                let alone = model.forward(&encoder, None, &decoder)?;
                let ones = Tensor::ones((1, len), DType::U8, &Device::Cpu)?;
                let masked = model.forward(&encoder, Some(&ones), &decoder)?;
                let in_batch = to_f64(&whole.narrow(0, text, 1)?);
                assert!(
                    to_f64(&alone) == in_batch && to_f64(&masked) == in_batch,
                    "{name} {dtype:?}"
                );
            }
            let encoded = model.encode(&pair.encoder_ids, Some(&pair.mask))?;
            let (mut cache, mut at) = (Cache::default(), 0);
            for len in [1, 4, 1, 1, 9, 7] {
                let part = pair.decoder_ids.narrow(1, at, len)?;
                at += len;
                let logits = model.forward_cached(&encoded, &part, &mut cache)?;
                let expected = whole.narrow(1, at - 1, 1)?;
                assert!(to_f64(&logits) == to_f64(&expected), "{name} {dtype:?} at {at}");
            }
            assert_eq!(at, pair.decoder_ids.dims()[1]);
        }
    }
    Ok(())
}

/// The way of f64 and of GPUs, which keeps tensors.
#[test]
fn a_cache_in_f64() -> Result<()> {
    for name in MODELS {
        let pair = Pair::open(name);
        let model = pair.load(DType::F64);
        let whole = pair.run(&model).logits;
        let encoded = model.encode(&pair.encoder_ids, Some(&pair.mask))?;
        let (mut cache, mut at) = (Cache::default(), 0);
        for len in [6, 1, 1, 15] {
            let part = pair.decoder_ids.narrow(1, at, len)?;
            let logits = model.forward_cached(&encoded, &part, &mut cache)?;
            at += len;
            assert!(rel_l2(&whole.narrow(1, at - 1, 1)?, &logits) < 1e-12, "{name}");
        }
    }
    Ok(())
}

/// Padding anywhere is seen by nothing: what stands there changes no bit, whichever way it is computed.
#[test]
fn what_stands_in_padding_changes_nothing() -> Result<()> {
    for name in MODELS {
        let pair = Pair::open(name);
        // At the start, in the middle longer than a window, and at the end.
        let mask: Vec<u32> =
            (0..2 * 19).map(|at| u32::from(!matches!(at, 0 | 7..=15 | 37))).collect();
        let mask = Tensor::from_vec(mask, (2, 19), &Device::Cpu)?;
        let others = Tensor::full(5u32, (2, 19), &Device::Cpu)?;
        let others = mask.where_cond(&pair.encoder_ids, &others)?;
        for dtype in [DType::F32, DType::F64] {
            let model = pair.load(dtype);
            let logits = |ids| model.forward(ids, Some(&mask), &pair.decoder_ids);
            let (logits, changed) =
                (to_f64(&logits(&pair.encoder_ids)?), to_f64(&logits(&others)?));
            assert!(logits.iter().all(|logit| logit.is_finite()));
            assert!(logits == changed, "{name} {dtype:?}");
        }
        let [one_pass, composed] = [DType::F32, DType::F64].map(|dtype| {
            pair.load(dtype).forward(&pair.encoder_ids, Some(&mask), &pair.decoder_ids).unwrap()
        });
        assert!(rel_l2(&composed, &one_pass) < 2e-6, "{name}");
    }
    Ok(())
}

/// The loss's gradients for every matrix of the blocks of both stacks, within 1e-6 of transformers' in f64.
#[test]
fn gradients_are_transformers_own() {
    for name in MODELS {
        let pair = Pair::open(name);
        let vars = VarMap::new();
        let vb = VarBuilder::from_varmap(&vars, DType::F64, &Device::Cpu);
        let model = EncoderDecoder::new(pair.family.checkpoint.config(), DType::F64, vb).unwrap();
        let vars: HashMap<String, Var> = vars.data().lock().unwrap().clone();
        for (name, var) in &vars {
            let tensors = pair.family.checkpoint.tensors();
            let stored = tensors.load(name, var.dims(), DType::F64, &Device::Cpu).unwrap();
            var.set(&stored).unwrap();
        }
        let logits = model.forward(&pair.encoder_ids, Some(&pair.mask), &pair.decoder_ids).unwrap();
        let seq = logits.dims()[1];
        let logits = logits.narrow(1, 0, seq - 1).unwrap().flatten_to(1).unwrap();
        let labels = pair.decoder_ids.narrow(1, 1, seq - 1).unwrap().flatten_all().unwrap();
        let loss = candle_nn::loss::cross_entropy(&logits, &labels).unwrap();
        let golden = &pair.family.golden;
        assert!(rel_l2(&golden["loss"], &loss.reshape(1).unwrap()) < 1e-7, "{name}");
        let gradients = loss.backward().unwrap();
        let mut compared = 0;
        for (matrix, expected) in golden {
            let Some(matrix) = matrix.strip_prefix("grad.") else { continue };
            let ours = gradients.get(&vars[&format!("model.{matrix}.weight")]).unwrap();
            let far = rel_l2(expected, ours);
            assert!(far < 1e-6, "{name} {matrix} {far:e}");
            compared += 1;
        }
        assert_eq!(compared, 3 * model.gates(), "{name}");
    }
}

/// Variations are the mistakes that were put into transformers, by what they do to the logits.
#[test]
fn variations_are_transformers_mistakes() {
    let recorded = include_str!("goldens/families/mistakes.json");
    let recorded: serde_json::Value = serde_json::from_str(recorded).unwrap();
    let mut tried = 0;
    for mistake in recorded["mistakes"].as_array().unwrap() {
        let (name, slug) = (mistake["model"].as_str().unwrap(), mistake["slug"].as_str().unwrap());
        if !MODELS.contains(&name) {
            continue;
        }
        let variation = match slug {
            "cross-keys-rotated" => Variation::EncoderKeysRotated,
            "encoder-window-symmetric" => Variation::WindowSymmetric,
            "exact-gelu" => Variation::Activation(Gelu::Exact.into()),
            _ => panic!("{slug} is not known here"),
        };
        let pair = Pair::open(name);
        for dtype in [DType::F64, DType::F32] {
            let model = pair.load(dtype);
            let right = pair.run(&model).logits.to_dtype(DType::F64).unwrap();
            let varied = pair.run(&model.varied(variation).unwrap().unwrap()).logits;
            let varied = varied.to_dtype(DType::F64).unwrap();
            let kl = kl(&right, &varied).unwrap();
            let near = |what: &str, ours: f64| {
                let theirs = mistake[what].as_f64().unwrap();
                // What f32 can tell of two distributions that are next to one another.
                let noise = if dtype == DType::F32 { 1e-7 } else { 0.0 };
                let far = (ours - theirs).abs();
                assert!(
                    far < 0.01 * theirs + noise,
                    "{slug} {name} {dtype:?} {what}: {ours:e}, {theirs:e}"
                );
            };
            near("rel_l2", rel_l2(&right, &varied));
            near("kl_mean_nats", kl.iter().sum::<f64>() / kl.len() as f64);
            near("kl_max_nats", kl.iter().copied().fold(0.0, f64::max));
        }
        tried += 1;
    }
    assert_eq!(tried, 6);
}

/// KL(right || varied) of every position, in nats.
fn kl(right: &Tensor, varied: &Tensor) -> Result<Vec<f64>> {
    let log = |logits: &Tensor| candle_nn::ops::log_softmax(logits, D::Minus1);
    let (right, varied) = (log(right)?, log(varied)?);
    Ok(to_f64(&(right.exp()? * (right - varied)?)?.sum(D::Minus1)?))
}

/// What a model does not have is not varied.
#[test]
fn variations_of_what_is_not_there() {
    let of = |name: &str| Pair::open(name).load(DType::F32);
    for (name, variation) in [
        ("t5gemma", Variation::EncoderKeysRotated),
        ("t5gemma", Variation::WindowSymmetric),
        ("t5gemma2-odd", Variation::WindowSymmetric),
        ("t5gemma", Variation::QkNormLeftOut),
        ("t5gemma2-odd", Variation::SoftcapsLeftOut),
    ] {
        assert!(of(name).varied(variation).unwrap().is_none(), "{name} {variation:?}");
    }
    for (name, variation) in [
        ("t5gemma", Variation::SoftcapsLeftOut),
        ("t5gemma", Variation::ScaledByHeadDim),
        ("t5gemma2-odd", Variation::QkNormLeftOut),
    ] {
        assert!(of(name).varied(variation).unwrap().is_some(), "{name} {variation:?}");
    }
}

#[test]
fn what_does_not_fit_is_said() -> Result<()> {
    let pair = Pair::open("t5gemma");
    let model = pair.load(DType::F32);
    let (ids, decoder) = (&pair.encoder_ids, &pair.decoder_ids);
    let says = |result: Result<Tensor>, what: &str| {
        let e = result.unwrap_err().to_string();
        assert!(e.contains(what), "{e}");
    };
    let mask =
        |numbers: Vec<f32>, shape: (usize, usize)| Tensor::from_vec(numbers, shape, &Device::Cpu);
    let forward = |mask: Tensor| model.forward(ids, Some(&mask), decoder);
    says(
        forward(mask(vec![1.0; 38], (19, 2))?),
        "a mask of shape [19, 2] for ids of shape [2, 19]",
    );
    says(forward(mask(vec![0.5; 38], (2, 19))?), "a mask has 0.5");
    let mut half = vec![1.0; 38];
    half[19..].fill(0.0);
    says(forward(mask(half, (2, 19))?), "text 1 of the batch is padding alone");
    says(
        model.forward(ids, None, &decoder.narrow(0, 0, 1)?),
        "states of 2 texts for 1 of the decoder",
    );
    says(model.forward(&ids.narrow(1, 0, 0)?, None, decoder), "no token");
    says(model.decoder().forward(decoder), "there are none in this pass");
    let encoder = model.encoder();
    says(encoder.forward(ids), "no language-model head");
    // A cache belongs to the states that began it.
    let (encoded, other) = (model.encode(ids, None)?, model.encode(ids, None)?);
    let mut cache = Cache::default();
    model.forward_cached(&encoded, decoder, &mut cache)?;
    says(model.forward_cached(&other, decoder, &mut cache), "other states of the encoder");
    let padding = Padding::new(&pair.mask)?;
    let states = encoded.states().narrow(1, 0, 5)?;
    assert!(Encoded::new(states, padding).unwrap_err().to_string().contains("of 19 positions"));
    let t5gemma2 = Pair::open("t5gemma2-odd").load(DType::F32);
    says(t5gemma2.decoder().forward(decoder), "attends to an encoder's states got none");
    let one = Gemma::load(&pair.family.checkpoint, &Device::Cpu, DType::F32);
    assert!(one.unwrap_err().to_string().contains("EncoderDecoder"));
    let gemma =
        EncoderDecoder::load(&Family::open("gemma4-dense").checkpoint, &Device::Cpu, DType::F32);
    assert!(gemma.unwrap_err().to_string().contains("no encoder beside its decoder"));
    Ok(())
}
