//! Comparisons made by hand, to see what becomes of each kind.
#![allow(dead_code, reason = "not every test takes all of them")]

use gemma_mlp::checkpoint::{Remark, RemarkKind};
use gemma_mlp_drift::compare::{
    ActivationFit, ActivationReading, BelowFloor, Candidate, Cause, ComparedLayer, ComparedLogits,
    ComparedPoint, Comparison, Distance, DumpSummary, First, Flip, FloorSummary, MapRow,
    PositionMap, Reference, SCHEMA, Sight,
};
use gemma_mlp_drift::drift::{LogitMetrics, Token, TokenDrift};
use serde_json::json;

/// How many layers the model has.
pub const LAYERS: usize = 18;
/// The layer whose MLP is wrong.
pub const GUILTY: usize = 12;
const THRESHOLD: f64 = 2.0;

const PLACES: [(&str, &str); 9] = [
    ("attn.input", "hidden.{}"),
    ("attn.output", "layers.{}.attn.input"),
    ("attended", "layers.{}.attn.output"),
    ("mlp.input", "layers.{}.attended"),
    ("mlp.gate", "layers.{}.mlp.input"),
    ("mlp.up", "layers.{}.mlp.input"),
    ("mlp.activated", "layers.{}.mlp.gate"),
    ("mlp.output", "layers.{}.mlp.product"),
    ("hidden", "layers.{}.mlp.output"),
];

/// Numbers that vary a little from place to place, and not from run to run.
fn wobble(seed: usize) -> f64 {
    0.8 + 0.4 * ((seed * 2654435761) % 1000) as f64 / 1000.0
}

/// What is NaN differs, too.
fn beyond(ratio: f64) -> bool {
    ratio.is_nan() || ratio > THRESHOLD
}

fn distance(ratio: f64, floor: f64) -> Distance {
    let rel_l2 = ratio * floor;
    Distance {
        rel_l2,
        cosine: 1.0 - 0.5 * rel_l2 * rel_l2,
        norm_ratio: 1.0 + 0.1 * rel_l2,
        floor,
        ratio,
    }
}

fn point(name: &str, same_input: Option<Distance>, accumulated: Option<Distance>) -> ComparedPoint {
    let differs = same_input.or(accumulated).is_some_and(|d| beyond(d.ratio));
    ComparedPoint {
        point: name.into(),
        accumulated,
        same_input,
        from: vec![],
        glimpse: None,
        differs,
        allowed: None,
    }
}

/// Every layer, of which one may have a wrong activation.
fn layers(guilty: Option<usize>) -> Vec<ComparedLayer> {
    let layer = |index: usize| {
        let point = |(i, (name, from)): (usize, &(&str, &str))| {
            let seed = index * PLACES.len() + i;
            let wrong = guilty == Some(index) && *name == "mlp.activated";
            let behind = guilty.is_some_and(|guilty| index > guilty || index == guilty && i > 5);
            let same = if wrong { 48.3 } else { 0.9 * wobble(seed) };
            let total = if behind { 31.0 * wobble(seed) } else { wobble(seed + 1) };
            let floor = 2.3e-3 * wobble(seed + 2);
            let mut point =
                self::point(name, Some(distance(same, floor)), Some(distance(total, 2.0 * floor)));
            point.from = vec![from.replace("{}", &index.to_string())];
            point
        };
        ComparedLayer { index, points: PLACES.iter().enumerate().map(point).collect() }
    };
    (0..LAYERS).map(layer).collect()
}

fn dump() -> DumpSummary {
    let points = PLACES.map(|(name, _)| (name.to_string(), LAYERS));
    let ends = [("embedding", 1), ("normed", 1), ("logits", 1)].map(|(n, c)| (n.to_string(), c));
    DumpSummary {
        source: "theirs.safetensors".into(),
        format: "a dump".into(),
        framework: Some("transformers 5.24.0".into()),
        dtype: "bf16".into(),
        dtype_reason: "its metadata says so".into(),
        texts: 1,
        tokens: 256,
        points: points.into_iter().chain(ends).collect(),
    }
}

fn model() -> Reference {
    let summary = json!({
        "source": "google/gemma-3-270m", "family": "Gemma 3", "model_type": "gemma3_text",
        "dtype": "bf16", "blocks": LAYERS,
        "activation": {"value": "tanh", "reason": "hidden_activation says \"gelu_pytorch_tanh\""},
    });
    Reference::Model(serde_json::from_value(summary).unwrap())
}

fn metrics(kl: f64, agreement: f64, nonfinite: usize) -> LogitMetrics {
    let all = json!({
        "max_abs": 900.0 * kl, "rel_l2": 5.0 * kl, "kl_mean_nats": kl, "kl_mean_se_nats": 0.1 * kl,
        "kl_median_nats": 0.5 * kl, "kl_p90_nats": 2.0 * kl, "kl_p99_nats": 8.0 * kl,
        "kl_p999_nats": 12.0 * kl, "kl_max_nats": 12.5 * kl, "rms_dp": 3.0 * kl,
        "top1_agreement": agreement, "top5_agreement": 0.9 * agreement,
        "ppl_a": 21.3, "ppl_a_se": 2.1, "ppl_b": 21.3 * (1.0 + kl), "ppl_b_se": 2.2,
        "ln_ppl_ratio": kl, "ln_ppl_ratio_se": 0.3 * kl, "nonfinite_positions": nonfinite,
    });
    serde_json::from_value(all).unwrap()
}

fn token(position: usize, kl: f64, words: [&str; 2]) -> TokenDrift {
    let token = |(i, text): (usize, &str)| Token { id: 100 + i as u32, text: Some(text.into()) };
    let mut likeliest = words.iter().enumerate().map(|(i, word)| token((i, word)));
    TokenDrift {
        position,
        kl_nats: kl,
        context: Some("It was the best of times, it was".into()),
        next: Some(Token { id: 7, text: Some(" the".into()) }),
        next_probability: Some([0.91, 0.85]),
        likeliest: [likeliest.next().unwrap(), likeliest.next().unwrap()],
        margins: [0.125, 0.0625],
    }
}

fn logits(kl: f64, flips: usize) -> ComparedLogits {
    let floor = 7.6e-4;
    let flip = |i: usize| Flip {
        token: token(17 * i + 3, 0.1 / (i + 1) as f64, [" the", " a"]),
        margin_ulps: [(40 / (i + 1)) as f64, 2.0],
        tie: i > 1,
    };
    ComparedLogits {
        positions: 256,
        words: 262_144,
        whole_vocabulary: true,
        metrics: metrics(kl, 1.0 - flips as f64 / 256.0, 0),
        floor: Some(metrics(floor, 0.988, 0)),
        ratio: kl / floor,
        differs: beyond(kl / floor),
        worst: (0..10)
            .map(|i| token(11 * i, 10.0 * kl / (i + 1) as f64, [" the", " the"]))
            .collect(),
        flip_count: flips,
        flips: (0..flips).map(flip).collect(),
    }
}

fn map(guilty: Option<usize>) -> PositionMap {
    let row = |layer: usize| {
        let ratio = |i: usize| match guilty {
            Some(guilty) if layer >= guilty => {
                10f64.powf(0.6 + 2.8 * wobble(i * 31 + layer) * i as f64 / 100.0)
            }
            _ => wobble(i * 7 + layer),
        };
        MapRow { layer, point: "hidden".into(), ratios: (0..64).map(ratio).collect() }
    };
    PositionMap { group: 4, rows: (0..LAYERS).map(row).collect() }
}

fn reading(layer: usize, best: &str, next: &str, differs: bool) -> ActivationReading {
    ActivationReading {
        layer,
        best: best.into(),
        activation: Some(best.split(':').next().unwrap().into()),
        differs,
        tried: vec![
            ActivationFit { side: best.into(), same_bits: 0.9998, rel_l2: 3e-5 },
            ActivationFit { side: next.into(), same_bits: 0.612, rel_l2: 8e-3 },
        ],
    }
}

fn below(name: &str, ratio: f64, sight: Sight) -> BelowFloor {
    let (size, error) = match sight {
        Sight::Excluded => (-0.01, 0.03),
        Sight::Suspected => (0.98, 0.05),
        Sight::TooSmallToTell => (3.1, 40.0),
    };
    let tokens = (sight == Sight::TooSmallToTell).then_some(1_000_000);
    BelowFloor { name: name.into(), ratio, size, error, sight, tokens }
}

/// All points of a model that is right.
pub fn agrees() -> Comparison {
    Comparison {
        schema: SCHEMA,
        version: "0.1.0".into(),
        with: vec![],
        agrees: true,
        verdict:
            "Agrees: none of 165 points differs by more than rounding to bf16 does; the farthest, \
                  layers.3.mlp.gate, by 1.08 times the floor."
                .into(),
        first: None,
        causes: vec![],
        candidates: vec![],
        below_floor: vec![
            below("GELU: exact (erf)", 0.4, Sight::Suspected),
            below("norm: epsilon 1e-5", 0.02, Sight::Excluded),
            below("RoPE: another base", 1e-4, Sight::TooSmallToTell),
        ],
        theirs: dump(),
        ours: model(),
        floor: FloorSummary {
            description: "tanh in bf16 against tanh in f32".into(),
            tokens: 256,
            references: vec![],
        },
        threshold: THRESHOLD,
        layers: layers(None),
        ends: vec![
            point("embedding", Some(distance(0.4, 1e-3)), None),
            point("normed", Some(distance(0.9, 3e-3)), Some(distance(1.1, 6e-3))),
        ],
        activations: (0..LAYERS)
            .map(|i| reading(i, "tanh:pytorch", "exact:pytorch", false))
            .collect(),
        logits: Some(logits(7e-4, 0)),
        map: Some(map(None)),
        untold: vec![],
        remarks: vec![Remark::note(
            RemarkKind::Chosen,
            "a batch axis of 1 was taken away from 165 tensors",
        )],
    }
}

/// The activation of one layer's MLP is another.
pub fn wrong_mlp() -> Comparison {
    let candidate = |name: &str, cosine: f64, ratio: f64| Candidate {
        name: name.into(),
        cosine,
        size: 1.02 * cosine,
        left: 1.0 - cosine * cosine,
        ratio,
    };
    let readings = |i: usize| match i {
        GUILTY => reading(i, "exact:pytorch", "tanh:pytorch", true),
        i => reading(i, "tanh:pytorch", "exact:pytorch", false),
    };
    Comparison {
        agrees: false,
        verdict: "Differs from layer 12 on: layers.12.mlp.activated is 48.3 times its floor from what we compute from \
                  their own gate. It is SiLU in place of GELU (cosine 0.999)."
            .into(),
        first: Some(First {
            layer: Some(GUILTY),
            point: "mlp.activated".into(),
            ratio: 48.3,
            from: vec!["layers.12.mlp.gate".into()],
        }),
        causes: vec![Cause {
            name: "SiLU in place of GELU".into(),
            source: "seen in ports that read hidden_act alone".into(),
            cosine: 0.999,
            size: 1.01,
            runner_up: Some(0.84),
            runner_up_name: Some("x·sigmoid(1.702x) in place of GELU".into()),
            layer: Some(GUILTY),
            point: "mlp.activated".into(),
        }],
        candidates: vec![
            candidate("SiLU in place of GELU", 0.999, 48.0),
            candidate("x·sigmoid(1.702x) in place of GELU", 0.84, 20.0),
            candidate("exact GELU in place of tanh", 0.31, 0.03),
            candidate("ReLU in place of GELU", -0.12, 71.0),
        ],
        below_floor: vec![],
        layers: layers(Some(GUILTY)),
        activations: (0..LAYERS).map(readings).collect(),
        logits: Some(logits(0.0641, 12)),
        map: Some(map(Some(GUILTY))),
        untold: vec!["what the layers behind 12 do by themselves in attention: the dump has no attn.q, attn.k and attn.v".into()],
        ..agrees()
    }
}

/// Log-probabilities of a server's likeliest tokens.
pub fn logits_only() -> Comparison {
    let all = logits(0.9, 3);
    Comparison {
        agrees: false,
        verdict: "Differs at the logits, by 1.18e3 times the floor; the cause is not among the known mistakes.".into(),
        first: Some(First { layer: None, point: "logits".into(), ratio: 1180.0, from: vec![] }),
        below_floor: vec![],
        candidates: vec![Candidate { name: "sliding window ignored".into(), cosine: 0.31, size: 0.2, left: 0.9, ratio: 300.0 }],
        theirs: DumpSummary {
            source: "http://localhost:8000".into(),
            format: "a server's log-probabilities".into(),
            framework: None,
            points: vec![("logits".into(), 1)],
            ..dump()
        },
        layers: vec![],
        ends: vec![],
        activations: vec![],
        map: None,
        logits: Some(ComparedLogits { whole_vocabulary: false, words: 20, ..all }),
        untold: vec!["which layer: a server gives no layers; capture the model itself (gemma-mlp capture --script)".into()],
        ..agrees()
    }
}

/// A program that prints a few numbers of each point.
pub fn glimpses() -> Comparison {
    let glimpse = |name: &str, value: f64| ComparedPoint {
        glimpse: Some(value),
        differs: value > 0.1,
        ..point(name, None, None)
    };
    let layer = |index: usize| ComparedLayer {
        index,
        points: vec![
            glimpse("attn.output", 0.01 * wobble(index)),
            glimpse("mlp.output", if index > 3 { 0.4 } else { 0.01 } * wobble(index + 5)),
        ],
    };
    Comparison {
        agrees: false,
        verdict: "Differs from layer 4 on, as far as a few numbers of each point tell: layers.4.mlp.output.".into(),
        below_floor: vec![],
        first: Some(First { layer: Some(4), point: "mlp.output".into(), ratio: 40.0, from: vec![] }),
        layers: (0..LAYERS).map(layer).collect(),
        ends: vec![],
        activations: vec![],
        map: None,
        logits: None,
        untold: vec!["by how much: the log has the ends of each row alone".into()],
        ..agrees()
    }
}

/// Their residual stream is NaN from a layer on, and there is nothing on the same input.
pub fn not_finite() -> Comparison {
    let nan = Distance {
        rel_l2: f64::NAN,
        cosine: f64::NAN,
        norm_ratio: f64::NAN,
        floor: 4e-3,
        ratio: f64::NAN,
    };
    let layer = |index: usize| {
        let d = if index > 6 { nan } else { distance(wobble(index), 4e-3) };
        ComparedLayer { index, points: vec![point("hidden", None, Some(d))] }
    };
    let bad = metrics(f64::NAN, f64::NAN, 256);
    let mut map = map(None);
    map.rows.iter_mut().skip(7).for_each(|row| row.ratios.fill(f64::NAN));
    Comparison {
        below_floor: vec![],
        agrees: false,
        verdict: "Differs from layer 7 on: hidden.7 of theirs is not finite.".into(),
        first: Some(First {
            layer: Some(7),
            point: "hidden".into(),
            ratio: f64::NAN,
            from: vec![],
        }),
        layers: (0..LAYERS).map(layer).collect(),
        ends: vec![point("normed", None, Some(nan))],
        activations: vec![],
        logits: Some(ComparedLogits {
            metrics: bad,
            floor: None,
            ratio: f64::NAN,
            worst: vec![],
            ..logits(0.0, 0)
        }),
        map: Some(map),
        remarks: vec![Remark::warning(
            RemarkKind::Weights,
            "11 of 18 hidden states have values that are not finite",
        )],
        ..agrees()
    }
}

/// One of each kind, by name.
pub fn all() -> [(&'static str, Comparison); 5] {
    [
        ("agrees", agrees()),
        ("wrong_mlp", wrong_mlp()),
        ("logits_only", logits_only()),
        ("glimpses", glimpses()),
        ("not_finite", not_finite()),
    ]
}
