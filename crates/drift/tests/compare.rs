//! Dumps of models that compute right, of models with one mistake each, and of what cannot be compared.

use candle_core::{DType, Device, Tensor};
use gemma_mlp::model::{Gemma, Keys, Layer, NormRounding, Pass, RopeRounding, Variation};
use gemma_mlp::{Activation, Checkpoint, Framework, Rounding};
use gemma_mlp_drift::compare::{
    CaptureOptions, CompareOptions, Comparison, Dump, DumpText, Glimpse, Likeliest, Names, Place,
    Plane, Point, Word, capture, compare, compare_dumps,
};
use gemma_mlp_drift::drift::{Change, DIFFERENCES};
use gemma_mlp_drift::input::TokenIds;
use gemma_mlp_drift::{Error, Result};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

fn checkpoint() -> Checkpoint {
    Checkpoint::open("weights/tiny-gemma3").unwrap()
}

/// More tokens than the sliding window of 32.
fn ids() -> Vec<u32> {
    [2].into_iter().chain((0..71).map(|i| 5 + (i * i * 7 + i) % 480)).collect()
}

fn tensor(ids: &[u32]) -> Tensor {
    Tensor::new(ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap()
}

/// What a model computes, by its layers' own steps: another way than that of the code under test.
fn dump(gemma: &Gemma, ids: &[u32], keep: impl Fn(Point) -> bool) -> Dump {
    let mut planes = BTreeMap::new();
    let mut put = |point: Point, value: &Tensor| {
        if keep(point) {
            planes.insert(point, Plane::new(value.squeeze(0).unwrap()));
        }
    };
    put(Point::Embedding, &gemma.embed(&tensor(ids)).unwrap());
    let (mut x, mut pass) = gemma.begin(&tensor(ids), Pass::new()).unwrap();
    for (n, layer) in gemma.layers().iter().enumerate() {
        x = step(layer, &x, &mut pass, |place, value| put(Point::Layer(n, place), value)).unwrap();
    }
    let normed = gemma.final_norm(&x).unwrap();
    put(Point::Normed, &normed);
    put(Point::Logits, &gemma.logits(&normed).unwrap());
    let text = DumpText { tokens: Some(ids.to_vec()), planes, ..DumpText::default() };
    let metadata = [("dtype", gemma.dtype().as_str()), ("framework", "transformers")];
    Dump {
        source: "theirs".into(),
        metadata: metadata.map(|(k, v)| (k.to_string(), v.to_string())).into(),
        texts: vec![text],
        ..Dump::default()
    }
}

fn step(
    layer: &Layer,
    x: &Tensor,
    pass: &mut Pass,
    mut put: impl FnMut(Place, &Tensor),
) -> candle_core::Result<Tensor> {
    let entered = layer.enter(x, pass)?;
    let input = layer.attention_input(&entered.stream)?;
    let output = layer.attention_output(&input, pass)?;
    let stream = layer.add_attention(&entered.stream, &input, output.clone())?;
    let attended = entered.with_stream(stream);
    let mlp_input = layer.mlp_input(&attended)?;
    let trace = layer.mlp().trace(&mlp_input)?;
    let hidden = layer.add_output(&attended, trace.output.clone())?;
    for (place, value) in [
        (Place::AttnInput, &input),
        (Place::AttnOutput, &output),
        (Place::Attended, &attended.stream),
        (Place::MlpInput, &mlp_input),
        (Place::Gate, &trace.gate),
        (Place::Up, &trace.up),
        (Place::Activated, &trace.activated),
        (Place::Product, &trace.product),
        (Place::MlpOutput, &trace.output),
        (Place::Hidden, &hidden),
    ] {
        put(place, value);
    }
    Ok(hidden)
}

fn all(_: Point) -> bool {
    true
}

fn logits_alone(point: Point) -> bool {
    point == Point::Logits
}

fn streams(point: Point) -> bool {
    matches!(point, Point::Logits | Point::Layer(_, Place::Hidden))
}

fn go_on(_: f64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn compared(dump: &Dump) -> Result<Comparison> {
    compare(dump, &checkpoint(), &CompareOptions::default(), &Device::Cpu, go_on)
}

fn load(dtype: DType) -> Gemma {
    Gemma::load(&checkpoint(), &Device::Cpu, dtype).unwrap()
}

fn with(variations: &[Variation]) -> Option<Gemma> {
    variations.iter().try_fold(load(DType::F32), |gemma, &v| gemma.varied(v).unwrap())
}

#[test]
fn what_computes_right_agrees() -> Result<()> {
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for keep in [all, streams, logits_alone] {
            let report = compared(&dump(&load(dtype), &ids(), keep))?;
            assert!(report.agrees && report.first.is_none(), "{dtype:?}: {}", report.verdict);
            assert!(report.causes.is_empty() && report.verdict.starts_with("agrees: "));
        }
    }
    Ok(())
}

/// Every mistake that the model can have, alone: named first wherever it shows, and never another one.
#[test]
fn every_mistake_is_named() -> Result<()> {
    for keep in [all, streams, logits_alone] {
        let mut named = 0;
        for difference in DIFFERENCES {
            let Change::Model(variations) = difference.change else { continue };
            let Some(gemma) = with(variations) else { continue };
            let report = compared(&dump(&gemma, &ids(), keep))?;
            assert!(!report.agrees, "{}: {}", difference.name, report.verdict);
            let first = report.causes.first();
            assert_eq!(
                first.map(|cause| &cause.name[..]),
                Some(difference.name),
                "{}",
                report.verdict
            );
            assert!(first.is_some_and(|cause| cause.cosine > 0.99), "{}", report.verdict);
            assert!(report.verdict.contains(difference.name));
            named += 1;
        }
        assert!(named > 12, "{named}");
    }
    Ok(())
}

#[test]
fn of_two_mistakes_both_are_named() -> Result<()> {
    let pairs = [
        [Variation::Activation(Activation::Silu), Variation::QkNormLeftOut],
        [Variation::RopeLocal, Variation::Activation(Activation::QuickGelu)],
        [Variation::EmbeddingNotScaled, Variation::NormRounding(NormRounding::Output(DType::BF16))],
    ];
    for pair in pairs {
        let report = compared(&dump(&with(&pair).unwrap(), &ids(), all))?;
        assert_eq!(report.causes.len(), 2, "{}", report.verdict);
    }
    Ok(())
}

#[test]
fn an_unknown_mistake_is_none_of_the_known() -> Result<()> {
    let mut theirs = dump(&load(DType::F32), &ids(), all);
    let planes = &mut theirs.texts[0].planes;
    let point = "layers.2.mlp.output".parse().unwrap();
    let value = planes[&point].tensor()?;
    planes.insert(point, Plane::new(value.sqr()?));
    let report = compared(&theirs)?;
    let first = report.first.unwrap();
    assert_eq!(
        (first.layer, &first.point[..], &first.from[..]),
        (Some(2), "mlp.output", &["layers.2.mlp.product".to_string()][..])
    );
    assert!(report.causes.is_empty(), "{}", report.verdict);
    assert!(report.verdict.contains("everything before agrees"), "{}", report.verdict);
    Ok(())
}

/// In bf16 rounding hides the switch, but not from who reads the numbers one by one.
#[test]
fn the_switch_in_bf16_is_read_off() -> Result<()> {
    let exact = load(DType::BF16).with_activation(Activation::EXACT);
    let report = compared(&dump(&exact, &ids(), all))?;
    assert!(!report.agrees, "{}", report.verdict);
    assert_eq!(report.causes[0].name, "GELU: exact (erf)");
    assert!(report.activations.iter().all(|reading| reading.differs));
    Ok(())
}

/// Axes and heads as others have them: brought into ours, and said.
#[test]
fn axes_are_turned_where_that_is_certain() -> Result<()> {
    let gemma = load(DType::F32);
    let right = dump(&gemma, &ids(), all);
    let turned = |change: &dyn Fn(&mut DumpText)| {
        let mut theirs = right.clone();
        change(&mut theirs.texts[0]);
        compared(&theirs)
    };
    let hidden: Point = "hidden.1".parse().unwrap();
    let plane = |text: &DumpText, point| text.planes[&point].tensor().unwrap();
    let report = turned(&|text| {
        let value = plane(text, hidden).t().unwrap().contiguous().unwrap();
        text.planes.insert(hidden, Plane::new(value));
    })?;
    assert!(report.agrees && said(&report, "[width, positions]"), "{}", report.verdict);
    let report = turned(&|text| {
        let value = plane(text, Point::Logits);
        let padded = value.pad_with_zeros(1, 0, 16).unwrap();
        text.planes.insert(Point::Logits, Plane::new(padded));
    })?;
    assert!(report.agrees && said(&report, "padded"), "{}", report.verdict);
    let report = turned(&|text| {
        let value = plane(text, Point::Logits);
        let last = value.narrow(0, value.dims()[0] - 1, 1).unwrap();
        text.planes.insert(Point::Logits, Plane::new(last));
    })?;
    assert!(report.agrees && said(&report, "last position"), "{}", report.verdict);
    let report = turned(&|text| {
        let normed = plane(text, Point::Normed);
        text.planes.remove(&Point::Normed);
        text.planes.insert("hidden.3".parse().unwrap(), Plane::new(normed));
    })?;
    assert!(report.agrees && said(&report, "final norm"), "{}", report.verdict);
    // Queries, keys and values, with heads in front or repeated.
    let layer = &gemma.layers()[0];
    let input = layer.attention_input(&gemma.embed(&tensor(&ids()))?)?;
    let [q, k, _] =
        layer.attention().unwrap().project(&input, Keys::Own)?.map(|t| t.squeeze(0).unwrap());
    let repeats = q.dims()[1] / k.dims()[1];
    let repeated = Tensor::stack(&vec![k.clone(); repeats], 2)?.flatten(1, 2)?;
    let report = turned(&|text| {
        let heads_first = q.transpose(0, 1).unwrap().contiguous().unwrap();
        text.planes.insert("layers.0.attn.q".parse().unwrap(), Plane::new(heads_first));
        text.planes.insert("layers.0.attn.k".parse().unwrap(), Plane::new(repeated.clone()));
    })?;
    assert!(report.agrees && said(&report, "[heads, positions, head_dim]"), "{}", report.verdict);
    assert!(repeats == 1 || said(&report, "repeated"));
    Ok(())
}

/// Logits from before the soft-cap of a model that has one.
#[test]
fn a_softcap_is_put_on_where_it_lacks() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let config = std::fs::read_to_string("weights/tiny-gemma3/config.json")?;
    let mut config: serde_json::Value = serde_json::from_str(&config)?;
    config["final_logit_softcapping"] = 5.0.into();
    std::fs::write(directory.path().join("config.json"), config.to_string())?;
    std::fs::copy(
        "weights/tiny-gemma3/model.safetensors",
        directory.path().join("model.safetensors"),
    )?;
    let capped = Checkpoint::open(directory.path())?;
    let right = Gemma::load(&capped, &Device::Cpu, DType::F32)?;
    let report = |gemma: &Gemma| {
        let theirs = dump(gemma, &ids(), logits_alone);
        compare(&theirs, &capped, &CompareOptions::default(), &Device::Cpu, go_on)
    };
    assert!(report(&right)?.agrees);
    let before = report(&load(DType::F32))?;
    assert!(before.agrees && said(&before, "soft-cap of 5"), "{}", before.verdict);
    Ok(())
}

fn said(report: &Comparison, what: &str) -> bool {
    report.remarks.iter().any(|remark| remark.text.contains(what))
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let gemma = load(DType::F32);
    let right = dump(&gemma, &ids(), all);
    let refused = |change: &dyn Fn(&mut Dump), options: CompareOptions| {
        let mut theirs = right.clone();
        change(&mut theirs);
        let report = compare(&theirs, &checkpoint(), &options, &Device::Cpu, go_on);
        match report {
            Err(error @ (Error::NotComparable { .. } | Error::OutOfVocabulary { .. })) => {
                error.to_string()
            }
            Err(error) => panic!("{error}"),
            Ok(report) => panic!("{}", report.verdict),
        }
    };
    let error = |change: &dyn Fn(&mut Dump)| refused(change, CompareOptions::default());
    assert!(error(&|theirs| theirs.texts[0].tokens = None).contains("--ids"));
    assert!(error(&|theirs| theirs.texts.clear()).contains("no text"));
    assert!(
        error(&|theirs| theirs.texts[0].tokens = Some(vec![1 << 20; 72])).contains("vocabulary")
    );
    let odd = |point: &str, shape: (usize, usize)| {
        let value = Plane::new(Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap());
        let point: Point = point.parse().unwrap();
        error(&move |theirs| drop(theirs.texts[0].planes.insert(point, value.clone())))
    };
    assert!(odd("hidden.1", (72, 127)).contains("hidden.1 has the shape [72, 127]"));
    assert!(odd("hidden.9", (72, 128)).contains("the model has 4 layers"));
    let other = error(&|theirs| {
        let gate: Point = "layers.0.mlp.gate".parse().unwrap();
        let value = theirs.texts[0].planes[&gate].tensor().unwrap();
        theirs.texts[0].planes.insert(gate, Plane::new(value.affine(-1.0, 0.5).unwrap()));
    });
    assert!(other.contains("other weights"), "{other}");
    let same = error(&|theirs| {
        let first = theirs.texts[0].planes[&"hidden.0".parse().unwrap()].clone();
        for n in 0..4 {
            theirs.texts[0].planes.insert(Point::Layer(n, Place::Hidden), first.clone());
        }
    });
    assert!(same.contains("one buffer"), "{same}");
    let meant = |tokens: Vec<u32>| CompareOptions { tokens: Some(tokens), ..Default::default() };
    let others = refused(&|_| (), meant((3..75).collect()));
    assert!(others.contains("other tokens"), "{others}");
}

#[test]
fn a_missing_bos_is_a_cause() -> Result<()> {
    let theirs = dump(&load(DType::F32), &ids()[1..], streams);
    let options = CompareOptions { tokens: Some(ids()), ..CompareOptions::default() };
    let report = compare(&theirs, &checkpoint(), &options, &Device::Cpu, go_on)?;
    assert!(!report.agrees && report.first.is_none(), "{}", report.verdict);
    assert_eq!(report.causes[0].name, "no BOS");
    assert!(report.verdict.contains("without BOS"), "{}", report.verdict);
    // Without the tokens that were meant it is a warning.
    let report = compared(&theirs)?;
    assert!(report.agrees && said(&report, "BOS"), "{}", report.verdict);
    Ok(())
}

#[test]
fn what_is_not_a_number_differs() -> Result<()> {
    let mut theirs = dump(&load(DType::F32), &ids(), streams);
    let point = "hidden.2".parse().unwrap();
    let value = (theirs.texts[0].planes[&point].tensor()? * f64::NAN)?;
    theirs.texts[0].planes.insert(point, Plane::new(value));
    let report = compared(&theirs)?;
    assert!(!report.agrees, "{}", report.verdict);
    assert_eq!(
        report.first.map(|first| (first.layer, first.point)),
        Some((Some(2), "hidden".into()))
    );
    Ok(())
}

/// The three numbers at each end of a row and a sum, as llama.cpp prints them.
#[test]
fn a_few_numbers_find_the_layer() -> Result<()> {
    let printed = |gemma: &Gemma| {
        let mut theirs = dump(gemma, &ids(), streams);
        let text = &mut theirs.texts[0];
        for (point, plane) in std::mem::take(&mut text.planes) {
            let Point::Layer(..) = point else { continue };
            let values = plane.tensor().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let width = plane.width();
            let ends = [0, 1, 2, width - 3, width - 2, width - 1];
            let at =
                [0, 1, 2, 69, 70, 71].into_iter().flat_map(|row| ends.map(|i| row * width + i));
            let shown = |x: f32| (f64::from(x) * 1e4).round() / 1e4;
            let glimpse = Glimpse {
                shape: plane.shape().to_vec(),
                values: at.map(|i| (i, shown(values[i]))).collect(),
                sum: Some(values.iter().map(|x| f64::from(*x)).sum()),
                precision: 5e-5,
            };
            text.glimpses.insert(point, glimpse);
        }
        theirs
    };
    let report = compared(&printed(&load(DType::F32)))?;
    assert!(report.agrees, "{}", report.verdict);
    let silu = with(&[Variation::Activation(Activation::Silu)]).unwrap();
    let report = compared(&printed(&silu))?;
    let first = report.first.map(|first| (first.layer, first.point));
    assert_eq!(first, Some((Some(0), "hidden".into())), "{}", report.verdict);
    Ok(())
}

/// The last position of every layer, as programs keep it that predict one token.
#[test]
fn the_last_position_finds_the_layer() -> Result<()> {
    let last = |gemma: &Gemma| {
        let mut theirs = dump(gemma, &ids(), streams);
        for plane in theirs.texts[0].planes.values_mut() {
            let all = plane.tensor().unwrap();
            *plane = Plane::new(all.narrow(0, all.dims()[0] - 1, 1).unwrap());
        }
        theirs
    };
    let report = compared(&last(&load(DType::F32)))?;
    assert!(report.agrees, "{}", report.verdict);
    let silu = with(&[Variation::Activation(Activation::Silu)]).unwrap();
    let report = compared(&last(&silu))?;
    assert_eq!(report.first.and_then(|first| first.layer), Some(0), "{}", report.verdict);
    Ok(())
}

/// Of each position the likeliest words alone, as servers give them.
#[test]
fn log_probabilities_are_enough() -> Result<()> {
    let likeliest = |gemma: &Gemma| {
        let mut theirs = dump(gemma, &ids(), logits_alone);
        let text = &mut theirs.texts[0];
        let logits = std::mem::take(&mut text.planes)[&Point::Logits].tensor().unwrap();
        let all = candle_nn::ops::log_softmax(&logits, 1).unwrap().to_vec2::<f32>().unwrap();
        for (position, row) in all.into_iter().enumerate() {
            let mut words: Vec<(u32, f32)> = (0..).zip(row).collect();
            words.sort_by(|a, b| b.1.total_cmp(&a.1));
            let tokens =
                words.into_iter().take(20).map(|(id, nats)| (Word::Id(id), f64::from(nats)));
            text.likeliest.push(Likeliest { position, tokens: tokens.collect() });
        }
        theirs
    };
    let report = compared(&likeliest(&load(DType::F32)))?;
    assert!(report.agrees, "{}", report.verdict);
    assert_eq!(report.logits.map(|logits| (logits.words, logits.positions)), Some((20, 72)));
    for (variation, name) in [
        (Variation::Activation(Activation::Silu), "GELU: SiLU in its place"),
        (Variation::RopeLocal, "RoPE: the local base in every layer"),
        (
            Variation::RopeRounding(RopeRounding::Everything(DType::BF16)),
            "RoPE: all in bf16, positions too",
        ),
    ] {
        let report = compared(&likeliest(&with(&[variation]).unwrap()))?;
        assert!(!report.agrees, "{}", report.verdict);
        assert_eq!(
            report.causes.first().map(|cause| &cause.name[..]),
            Some(name),
            "{}",
            report.verdict
        );
    }
    Ok(())
}

#[test]
fn rules_let_points_differ() -> Result<()> {
    let theirs = dump(&with(&[Variation::RopeLocal]).unwrap(), &ids(), streams);
    let options = CompareOptions {
        allow: vec!["hidden|logits=1e12".parse().unwrap()],
        ..CompareOptions::default()
    };
    let report = compare(&theirs, &checkpoint(), &options, &Device::Cpu, go_on)?;
    assert!(report.agrees, "{}", report.verdict);
    assert!(
        report.layers.iter().flat_map(|layer| &layer.points).all(|point| point.allowed.is_some())
    );
    let options = CompareOptions { references: vec![theirs.clone()], ..CompareOptions::default() };
    let report = compare(&theirs, &checkpoint(), &options, &Device::Cpu, go_on)?;
    assert!(report.layers.iter().flat_map(|l| &l.points).all(|point| !point.differs));
    Ok(())
}

/// A quantised port whose inputs are rounded to 8 bits by the types of its weights: that rounding hides another GELU until
/// ours rounds alike.
#[test]
fn ours_rounds_like_llama_cpp() -> Result<()> {
    let checkpoint = Checkpoint::open("tests/goldens/gguf/types.gguf").unwrap();
    let plain = Gemma::load(&checkpoint, &Device::Cpu, DType::F32).unwrap();
    let iterated = Variation::RopeRounding(RopeRounding::Iterated);
    let llama = plain.with_rounding(Rounding::Like(Framework::LlamaCpp)).varied(iterated).unwrap();
    let (llama, remarks) = llama.unwrap().with_inputs_as_stored(&checkpoint).unwrap();
    assert!(remarks[0].text.starts_with("in layer 1 matrices"), "{remarks:?}");
    let keep = |point| !matches!(point, Point::Layer(_, Place::Activated));
    let named = |gemma: &Gemma, framework: &str| {
        // It has 448 words.
        let ids: Vec<u32> = ids().into_iter().map(|id| id % 400).collect();
        let mut theirs = dump(gemma, &ids, keep);
        theirs.metadata.insert("framework".into(), framework.into());
        theirs.metadata.insert("weights".into(), "gemma3 Q4_K - Medium".into());
        theirs
    };
    let like = CompareOptions { like_theirs: true, ..CompareOptions::default() };
    let run = |theirs: &Dump, options| compare(theirs, &checkpoint, options, &Device::Cpu, go_on);
    let theirs = named(&llama, "llama.cpp");
    let farthest = |report: &Comparison| {
        let points = report.layers.iter().flat_map(|layer| &layer.points);
        let distances = points.filter_map(|point| Some(point.same_input.as_ref()?.rel_l2));
        distances.fold(0.0, f64::max)
    };
    let default = CompareOptions::default();
    let (plainly, alike) = (run(&theirs, &default)?, run(&theirs, &like)?);
    assert!(plainly.agrees && alike.agrees, "{}\n{}", plainly.verdict, alike.verdict);
    assert!(farthest(&plainly) > 1e-3 && farthest(&alike) < 1e-6);
    for remark in &remarks {
        assert!(alike.remarks.iter().any(|said| said.text == remark.text));
    }
    assert!(remarks[1].text.starts_with("2 tensors in Q4_1 and Q5_1"), "{remarks:?}");
    let exact = llama.with_activation(Activation::EXACT);
    let exact = run(&named(&exact, "llama.cpp"), &like)?;
    assert_eq!(exact.first.as_ref().unwrap().point, "mlp.product", "{}", exact.verdict);
    assert_eq!(exact.causes[0].name, "GELU: exact (erf)", "{}", exact.verdict);
    let refused = run(&named(&llama, "jax"), &like).unwrap_err().to_string();
    assert!(refused.contains("of jax in f32"), "{refused}");
    Ok(())
}

#[test]
fn two_dumps_and_nothing_else() -> Result<()> {
    let [right, other] = [load(DType::F32), load(DType::F32).with_activation(Activation::Silu)]
        .map(|gemma| dump(&gemma, &ids(), all));
    let options = CompareOptions::default();
    let report = compare_dumps(&right, &right, &options, go_on)?;
    assert!(report.agrees && report.causes.is_empty(), "{}", report.verdict);
    let report = compare_dumps(&other, &right, &options, go_on)?;
    let first = report.first.unwrap();
    assert_eq!((first.layer, &first.point[..]), (Some(0), "mlp.activated"));
    let shifted = dump(&load(DType::F32), &ids()[1..], all);
    assert!(matches!(
        compare_dumps(&shifted, &right, &options, go_on),
        Err(Error::NotComparable { .. })
    ));
    Ok(())
}

/// What we capture is read again, and is what the model computes.
#[test]
fn our_own_capture() -> anyhow::Result<()> {
    let checkpoint = checkpoint();
    let options =
        CaptureOptions { activation: None, dtype: DType::F32, layers: vec![], points: &|_| true };
    let tokens = TokenIds::single(ids())?;
    let captured = capture(&checkpoint, &tokens, &options, &Device::Cpu, go_on)?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("ours.safetensors");
    captured.write_to(std::fs::File::create(&path)?)?;
    let ours = gemma_mlp_drift::compare::formats::read(&path, &Names::default())?;
    let theirs = dump(&load(DType::F32), &ids(), all);
    for (point, plane) in &theirs.texts[0].planes {
        let own = ours.texts[0].planes[point].tensor()?.flatten_all()?.to_vec1::<f32>()?;
        assert!(own == plane.tensor()?.flatten_all()?.to_vec1::<f32>()?, "{point}");
    }
    let report = compared(&ours)?;
    assert!(report.agrees && report.untold.is_empty(), "{} {:?}", report.verdict, report.untold);
    Ok(())
}
