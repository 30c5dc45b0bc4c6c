//! What people and programs see of a comparison.

use crate::comparisons::{
    GUILTY, LAYERS, agrees, all, glimpses, logits_only, not_finite, wrong_mlp,
};
use gemma_mlp_cli::report::{Paint, compare_csv, compare_page, compare_table, json};
use gemma_mlp_drift::compare::{Comparison, PositionMap};

fn table(comparison: &Comparison) -> String {
    compare_table(comparison, Paint::Plain)
}

/// To look at: `SHOW=DIR cargo test --release -p gemma-mlp-cli --test program compare::show` writes what each is shown as.
#[test]
fn show() {
    let Some(dir) = std::env::var_os("SHOW").map(std::path::PathBuf::from) else { return };
    for (name, comparison) in all() {
        let write = |ending, text: String| {
            std::fs::write(dir.join(name).with_extension(ending), text).unwrap();
        };
        write("txt", table(&comparison));
        write("html", compare_page(&comparison));
        write("csv", compare_csv(&comparison).unwrap());
        write("json", json(&comparison).unwrap());
    }
}

/// The words stand in the text, in this order.
fn in_order(text: &str, words: &[&str]) {
    let mut rest = text;
    for word in words {
        let at =
            rest.find(word).unwrap_or_else(|| panic!("no '{word}' where it belongs in {text}"));
        rest = &rest[at + word.len()..];
    }
}

#[test]
fn it_says_first_what_matters() {
    in_order(
        &table(&wrong_mlp()),
        &[
            "theirs: theirs.safetensors",
            "ours:   google/gemma-3-270m",
            "points: attn.{input,output}, attended",
            "note: a batch axis",
            "Differs from layer 12 on",
            "attention: all 18 layers agree",
            "MLP: 17 of 18 layers agree; beyond rounding: 12 ",
            "residual stream: all 18 layers agree",
            "outside of the layers",
            "layer 12",
            "mlp.activated",
            "computed again from their own layers.12.mlp.gate",
            "layer 12                   exact:pytorch",
            "KL mean, nats",
            "12 of 256 likeliest tokens are others, 10 of them ties",
            "cause: SiLU in place of GELU",
            "the next best is x·sigmoid(1.702x) in place of GELU, at 0.840",
            "not told: ",
        ],
    );
    let right = table(&agrees());
    in_order(&right, &["Agrees: ", "attention: all 18", "MLP: all 18", "layers 0 to 17"]);
    let below = ["GELU: exact (erf)", "0.98 ± 0.05", "as if it were there", "too small to tell"];
    in_order(&right, &below);
    assert!(!right.contains("  differs") && !right.contains("cause"), "{right}");
    in_order(
        &table(&logits_only()),
        &["over the 20 likeliest", "cause: none of the known", "0.310", "not told"],
    );
    in_order(
        &table(&glimpses()),
        &["largest difference", "layers.4.mlp.output", "24 points are not shown"],
    );
    in_order(
        &table(&not_finite()),
        &["nan  differs", "7 of 18 layers agree; beyond rounding: 7 to 17"],
    );
}

/// Of many layers the first that differs is shown with its neighbours, and how many are not shown.
#[test]
fn long_models_are_shortened() {
    let text = table(&wrong_mlp());
    let (_, mlp) = text.split_once("\nMLP ").unwrap();
    let (mlp, summary) = mlp.split_once("\nMLP: ").unwrap();
    let layers: Vec<usize> =
        mlp.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect();
    for shown in [0, GUILTY - 1, GUILTY, GUILTY + 1, LAYERS - 1] {
        assert!(layers.contains(&shown), "{layers:?}");
    }
    let hidden = LAYERS - layers.len();
    assert!(hidden > 0 && summary.contains(&format!("({hidden} are not shown here")), "{summary}");
    let mut few = wrong_mlp();
    few.layers.drain(..8);
    let text = table(&few);
    assert!(!text.contains('…') && !text.contains("not shown here"), "{text}");
}

/// Tables fit a terminal of 100 columns; sentences break where they please.
#[test]
fn tables_are_not_wide() {
    for (name, comparison) in all() {
        for line in table(&comparison).lines().filter(|line| line.contains("   ")) {
            assert!(line.chars().count() <= 100, "{name}: {line}");
        }
    }
}

#[test]
fn csv_has_every_figure() {
    for (name, comparison) in all() {
        let csv = compare_csv(&comparison).unwrap();
        let mut rows = csv.lines();
        assert_eq!(rows.next(), Some("section,index,name,figure,value,floor"));
        assert!(rows.all(|row| row.split(',').count() >= 6), "{name}");
    }
    let csv = compare_csv(&wrong_mlp()).unwrap();
    let has = |row: &str| assert!(csv.lines().any(|line| line.starts_with(row)), "{row}");
    has("layers,12,mlp.activated,same_input.ratio,48.3,");
    has("layers,12,mlp.activated,differs,1,");
    has("ends,,embedding,same_input.rel_l2,0.0004,0.001");
    has("activations,12,exact:pytorch,same_bits,0.9998,");
    has("logits,,,kl_mean_nats,0.0641,0.00076");
    has("candidates,0,SiLU in place of GELU,cosine,0.999,");
    has("map,252,hidden.17,ratio,");
    assert!(compare_csv(&agrees()).unwrap().contains("below_floor,0,GELU: exact (erf),size,0.98,"));
    has("flips,3,");
    let points = csv.lines().filter(|line| line.contains("same_input.rel_l2")).count();
    assert_eq!(points, 9 * LAYERS + 2);
}

/// The sections of a page, by id.
fn sections(html: &str) -> Vec<&str> {
    let rest = html.split("<section id=\"").skip(1);
    rest.filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
fn pages_show_what_there_is() {
    let html = compare_page(&wrong_mlp());
    let whole = [
        "compared",
        "map",
        "attention",
        "mlp",
        "residual",
        "points",
        "activations",
        "candidates",
        "logits",
        "worst",
        "flips",
    ];
    assert_eq!(sections(&html), whole);
    assert!(
        html.contains("It differs at layers.12.mlp.activated") && html.contains("badge differs")
    );
    assert!(html.contains("The mistake: SiLU in place of GELU"));
    let right = compare_page(&agrees());
    assert!(right.contains("Nothing differs by more than rounding"));
    assert!(right.contains("As if it were there: GELU: exact (erf)"));
    let few = compare_page(&logits_only());
    assert_eq!(sections(&few), ["compared", "candidates", "logits", "worst", "flips"]);
    assert_eq!(sections(&compare_page(&glimpses())), ["compared", "points"]);
    let nan = compare_page(&not_finite());
    assert_eq!(sections(&nan), ["compared", "map", "residual", "points", "logits", "flips"]);
    assert!(nan.contains("not finite") && nan.contains(">nan<"));
}

/// Whatever is in a dump's names or a server's answers is text.
#[test]
fn hostile_text_stays_text() {
    let hostile = "</script><img src=x onerror=1>\u{1b}[2J\u{202e}\n";
    let mut comparison = wrong_mlp();
    let Comparison { verdict, theirs, untold, causes, candidates, .. } = &mut comparison;
    let texts = [verdict, &mut theirs.source, &mut theirs.dtype_reason, &mut untold[0]];
    texts.into_iter().for_each(|text| *text = hostile.into());
    causes[0].name = hostile.into();
    candidates[0].name = hostile.into();
    comparison.layers[0].points[0].point = hostile.into();
    comparison.activations[0].best = hostile.into();
    let html = compare_page(&comparison);
    assert!(!html.contains("<img") && !html.contains('\u{1b}') && !html.contains('\u{202e}'));
    let text = table(&comparison);
    assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'), "{text:?}");
    assert_eq!(compare_csv(&comparison).unwrap().matches("section,index").count(), 1);
}

/// However many layers and positions, a page stays small.
#[test]
fn long_texts_make_no_large_pages() {
    let mut comparison = wrong_mlp();
    let layer = comparison.layers[GUILTY].clone();
    let row = comparison.map.as_ref().unwrap().rows[GUILTY].clone();
    let many = 0..62;
    comparison.layers = many
        .clone()
        .map(|index| {
            let mut l = layer.clone();
            l.index = index;
            l
        })
        .collect();
    let rows = many.map(|layer| {
        let mut row = row.clone();
        row.layer = layer;
        row.ratios = (0..128).map(|i| 3f64.powi((i * 7 + layer as i32 * 3) % 11 - 3)).collect();
        row
    });
    comparison.map = Some(PositionMap { group: 16, rows: rows.collect() });
    let html = compare_page(&comparison);
    assert!(html.len() < 1_500_000, "{}", html.len());
    assert!(!html.contains("http://") && !html.contains("https://"), "it asks for nothing");
}
