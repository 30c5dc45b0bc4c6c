//! The page in a real browser: Chromium without a screen. Skipped where there is none; `CHROMIUM`
//! names one that is not on the path.

use crate::common::skip;
use crate::comparisons;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What runs beside the page's own script, and leaves what it saw in the page.
const PROBE: &str = include_str!("page/probe.js");

fn chromium() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("CHROMIUM") {
        return Some(path.into());
    }
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = std::env::split_paths(&path)
        .flat_map(|dir| names.map(|name| dir.join(name)))
        .find(|path| path.is_file());
    if found.is_none() {
        skip("browser", "there is no Chromium; install it, or set CHROMIUM to its path");
    }
    found
}

/// Runs the browser on a page with more arguments; what it prints, and what it logs.
fn browse(browser: &Path, page: &Path, args: &[&str]) -> (String, String) {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--enable-logging=stderr", "--window-size=1200,900"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(args)
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// What the page itself logs: errors of scripts, refused resources.
fn console(log: &str) -> Vec<&str> {
    log.lines().filter(|line| line.contains("CONSOLE")).collect()
}

/// Writes the page with a probe in it, and reads what that saw. The page's policy would not let it run.
fn probe(browser: &Path, page: &Path, dark: bool) -> Value {
    let html = std::fs::read_to_string(page).unwrap();
    let (before, policy) = html.split_once("<meta http-equiv=\"Content-Security-Policy\"").unwrap();
    let after = policy.split_once('>').unwrap().1;
    let probed =
        format!("{before}{after}").replace("</body>", &format!("<script>{PROBE}</script></body>"));
    let copy = page.with_extension("probed.html");
    std::fs::write(&copy, probed).unwrap();
    let scheme = format!("--blink-settings=preferredColorScheme={}", if dark { 0 } else { 1 });
    let (dom, log) = browse(browser, &copy, &[&scheme, "--dump-dom"]);
    let found =
        dom.split_once("<pre id=\"probe\">").and_then(|(_, rest)| rest.split_once("</pre>"));
    let text = found.unwrap_or_else(|| panic!("the probe did not run: {log}")).0;
    let plain = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    serde_json::from_str(&plain).unwrap()
}

fn run(args: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_gemma-mlp")).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

struct Report {
    dir: tempfile::TempDir,
}

impl Report {
    /// A run with everything in it.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let report = Self { dir };
        let [html, json] = ["report.html", "report.json"].map(|name| report.path(name));
        let files = ["--html", html.to_str().unwrap(), "--out", json.to_str().unwrap()];
        run(&[&["drift", "--b", "silu", "--gradients", "--rank"], &files[..]].concat());
        report
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn json(&self) -> Value {
        serde_json::from_str(&std::fs::read_to_string(self.path("report.json")).unwrap()).unwrap()
    }
}

/// What a reader finds under the cursor, by plot and place.
fn read(seen: &Value, plot: &str, place: usize, column: &str) -> f64 {
    let text = &seen["plots"][plot]["readouts"][place][column];
    let text = text
        .as_str()
        .unwrap_or_else(|| panic!("{plot} {place} has no {column}: {}", seen["plots"][plot]));
    text.replace(',', "").parse().unwrap()
}

#[test]
fn values_on_hover_are_those_of_the_json() {
    let Some(browser) = chromium() else { return };
    let report = Report::new();
    let seen = probe(&browser, &report.path("report.html"), false);
    let json = report.json();
    let same = |plot: &str, place: usize, column: &str, value: &Value| {
        let (shown, value) = (read(&seen, plot, place, column), value.as_f64().unwrap());
        assert!(
            (shown - value).abs() <= 1e-4 * value.abs(),
            "{plot} {place} {column}: {shown} {value}"
        );
    };
    for i in 0..4 {
        let layer = &json["layers"][i];
        same("layers", i, "drift", &layer["output"]["rel_l2"]);
        same("layers", i, "noise floor", &layer["floor"]["output"]["rel_l2"]);
        same("residual", i, "drift", &json["residual"][i]["rel_l2"]);
        same("residual", i, "noise floor", &json["residual"][i]["floor_rel_l2"]);
        for matrix in ["gate_proj", "up_proj", "down_proj"] {
            let gradients = &json["gradients"][i];
            same("gradients", i, matrix, &gradients[matrix]["rel_l2"]);
            same(
                "gradients",
                i,
                &format!("{matrix}, floor"),
                &gradients["floor"][matrix]["rel_l2"],
            );
        }
    }
    for (place, part) in [(0, &json["logits"]), (1, &json["floor"]["logits"])] {
        for (column, figure) in [
            ("median", "kl_median_nats"),
            ("mean", "kl_mean_nats"),
            ("99 %", "kl_p99_nats"),
            ("largest", "kl_max_nats"),
        ] {
            same("divergence", place, column, &part[figure]);
        }
    }
    for (i, kl) in json["positions"]["kl_mean_nats"].as_array().unwrap().iter().enumerate() {
        same("positions", i, "KL, nats", kl);
    }
    for (i, ranked) in json["ranking"].as_array().unwrap().iter().enumerate() {
        same("ranking", i, "KL mean, nats", &ranked["kl_mean_nats"]);
    }
    for (i, flip) in json["flips"].as_array().unwrap().iter().enumerate() {
        same("flips", i, "margin under a", &flip["margins"][0]);
        same("flips", i, "margin under b", &flip["margins"][1]);
    }
    let gates = seen["plots"]["gates"]["readouts"].as_array().unwrap();
    let counted: f64 = (0..gates.len()).map(|i| read(&seen, "gates", i, "gates")).sum();
    let of_layer = |l: &Value| {
        l["gates"]["counts"].as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).sum::<f64>()
    };
    let all: f64 = json["layers"].as_array().unwrap().iter().map(of_layer).sum();
    assert!(counted <= all && counted > 0.99 * all, "{counted} {all}");
    for (name, plot) in seen["plots"].as_object().unwrap() {
        assert!(plot["marks"].as_u64().unwrap() >= 2, "{name} is empty");
        // The mouse finds what the keyboard finds, and the cursor is where the mark is.
        assert_eq!(
            plot["pointer"],
            plot["readouts"][plot["pointed"].as_u64().unwrap() as usize],
            "{name}"
        );
        assert_eq!(plot["hidden"], true, "{name}: Escape closes it");
    }
    assert_eq!(seen["plots"].as_object().unwrap().len(), 8);
}

#[test]
fn it_is_light_and_dark_and_labelled() {
    let Some(browser) = chromium() else { return };
    let report = Report::new();
    let page = report.path("report.html");
    is_for_all_readers(&browser, &page);
    // As it is, policy and all: its script runs, nothing is refused, and it prints.
    let pdf = report.path("report.pdf");
    let (dom, log) = browse(&browser, &page, &["--dump-dom"]);
    assert!(dom.contains("data-ready"), "its script ran");
    assert_eq!(console(&log), [""; 0]);
    browse(&browser, &page, &[&format!("--print-to-pdf={}", pdf.display())]);
    assert!(std::fs::read(&pdf).unwrap().len() > 20_000);
}

/// Light and dark, with contrast, names and tables, and nothing wider than the window.
fn is_for_all_readers(browser: &Path, page: &Path) {
    for dark in [false, true] {
        let seen = probe(browser, page, dark);
        assert_eq!(seen["dark"], dark);
        let faint: Vec<_> = seen["contrasts"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|c| c[0].as_f64().unwrap() < 4.5)
            .collect();
        assert!(faint.is_empty(), "text of too little contrast, dark {dark}: {faint:?}");
        assert!(seen["contrasts"].as_array().unwrap().len() > 200);
        assert_eq!(seen["problems"], json!([]), "dark {dark}");
        assert_eq!(
            seen["landmarks"],
            json!({"header": 1, "nav": 1, "main": 1, "footer": 1, "h1": 1})
        );
        let widths = (&seen["width"], &seen["scroll_width"]);
        assert_eq!(widths.0, widths.1, "nothing sticks out");
    }
}

/// A comparison's page is read as a drift's is, and under its map's cursor is what its data says.
#[test]
fn comparisons_are_for_all_readers() {
    let Some(browser) = chromium() else { return };
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("compare.html");
    let comparison = comparisons::wrong_mlp();
    std::fs::write(&page, gemma_mlp_cli::report::compare_page(&comparison)).unwrap();
    is_for_all_readers(&browser, &page);
    let seen = probe(&browser, &page, false);
    let plots = seen["plots"].as_object().unwrap();
    let names: Vec<_> = plots.keys().map(String::as_str).collect();
    assert_eq!(names, ["attention", "candidates", "flips", "map", "mlp", "residual"]);
    for (name, plot) in plots {
        assert!(plot["marks"].as_u64().unwrap() >= 2, "{name} is empty");
        let pointed = plot["pointed"].as_u64().unwrap() as usize;
        assert_eq!(plot["pointer"], plot["readouts"][pointed], "{name}");
    }
    let map = comparison.map.unwrap();
    let columns = plots["map"]["readouts"].as_array().unwrap();
    assert_eq!(columns.len(), map.rows[0].ratios.len());
    for (i, column) in columns.iter().enumerate() {
        assert_eq!(
            column["first layer beyond rounding"],
            format!("hidden.{}", comparisons::GUILTY)
        );
        // Two columns have this name; the last one is seen.
        let shown: f64 = column["its ratio"].as_str().unwrap().parse().unwrap();
        let farthest = map.rows.iter().map(|row| row.ratios[i]).fold(0.0, f64::max);
        assert!((shown / farthest - 1.0).abs() < 1e-4, "{i}: {shown} {farthest}");
    }
    for layer in &comparison.layers {
        let own = layer.points.iter().find(|point| point.differs);
        if let Some(own) = own {
            let shown = read(&seen, "mlp", layer.index, "rel L2");
            assert!((shown / own.same_input.unwrap().rel_l2 - 1.0).abs() < 1e-4);
        }
    }
    let (_, log) = browse(&browser, &page, &["--dump-dom"]);
    assert_eq!(console(&log), [""; 0]);
}

/// Every text that comes from outside, replaced.
fn poison(value: &mut Value, at: &str, hostile: &str) {
    match value {
        Value::Object(map) => map.iter_mut().for_each(|(name, value)| poison(value, name, hostile)),
        Value::Array(list) => list.iter_mut().for_each(|value| poison(value, at, hostile)),
        Value::String(text) => {
            // Names that are read as one of a few cannot carry anything.
            let of_a_few =
                ["activation", "rounding", "dtype", "family", "value", "input", "size", "score"];
            if !of_a_few.contains(&at) {
                *text = hostile.to_string();
            }
        }
        _ => {}
    }
}

#[test]
fn hostile_text_stays_text() {
    let Some(browser) = chromium() else { return };
    let report = Report::new();
    let hostile = "</script></title></style><script>window.pwned = 1</script><img src=x onerror=\"window.pwned = 1\">\
                   <svg onload='window.pwned = 1'>\" onfocus=\"window.pwned = 1\" autofocus x=\"'\u{202e}-->]]>&lt;b&gt;";
    let mut json = report.json();
    poison(&mut json, "", hostile);
    let (poisoned, page) = (report.path("<img src=x onerror=1>.json"), report.path("hostile.html"));
    std::fs::write(&poisoned, json.to_string()).unwrap();
    let [poisoned, other, figures] =
        [&poisoned, &report.path("report.json"), &report.path("figures")];
    let [poisoned, other, figures] = [poisoned, other, figures].map(|path| path.to_str().unwrap());
    let to = page.to_str().unwrap();
    for args in [
        &["report", poisoned, "--html", to, "--figures", figures][..],
        &["report", poisoned, other, "--html", to],
    ] {
        run(args);
        let seen = probe(&browser, &page, false);
        assert_eq!(seen["pwned"], Value::Null);
        // The page's own script, and the probe.
        assert_eq!((&seen["scripts"], &seen["foreign"]), (&json!(2), &json!([])));
        assert!(
            seen["text"].as_str().unwrap().contains("<script>window.pwned = 1</script>"),
            "{args:?}"
        );
        let (_, log) = browse(&browser, &page, &["--dump-dom"]);
        assert_eq!(console(&log), [""; 0]);
    }
    for file in std::fs::read_dir(report.path("figures")).unwrap() {
        let svg = std::fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(!svg.contains("<script") && !svg.contains("<img"), "{svg}");
        gemma_mlp_cli::report::png(&svg).unwrap();
    }
    // A prompt that is one.
    let out = report.path("prompt.html");
    run(&["drift", "--prompt", hostile, "--html", out.to_str().unwrap()]);
    let seen = probe(&browser, &out, false);
    assert_eq!((&seen["pwned"], &seen["scripts"]), (&Value::Null, &json!(2)));
}

/// However long the text, a page stays small.
#[test]
fn long_texts_make_no_large_pages() {
    let dir = tempfile::tempdir().unwrap();
    let [ids, page, csv] = ["ids.json", "page.html", "run.csv"].map(|name| dir.path().join(name));
    let long: Vec<u32> = std::iter::once(2).chain((0..9_000).map(|i| 4 + i * 37 % 900)).collect();
    std::fs::write(&ids, json!(long).to_string()).unwrap();
    let [ids, page_name, csv_name] = [&ids, &page, &csv].map(|path| path.to_str().unwrap());
    run(&[
        "drift", "--b", "silu", "--ids", ids, "--html", page_name, "--csv", csv_name, "--window",
        "512",
    ]);
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.len() < 1_500_000, "{}", html.len());
    assert!(html.contains("5 positions a dot"));
    assert!(!html.contains("http://") && !html.contains("https://"), "it asks for nothing");
    let csv = std::fs::read_to_string(&csv).unwrap();
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows[0], ["run", "section", "index", "name", "figure", "drift", "floor"]);
    assert!(rows.iter().all(|row| row.len() == 7));
    assert_eq!(
        rows.iter().filter(|row| row[1] == "positions" && row[4] == "kl_mean_nats").count(),
        9001usize.div_ceil(5)
    );
}

/// A run with everything in it shows every view, and its list of contents has them all.
#[test]
fn every_view_is_shown() {
    let html = std::fs::read_to_string(Report::new().path("report.html")).unwrap();
    let ids = |before: &str| -> Vec<&str> {
        html.split(before).skip(1).filter_map(|rest| rest.split('"').next()).collect()
    };
    let views = [
        "compared",
        "distribution",
        "logits",
        "layers",
        "residual",
        "gates",
        "positions",
        "worst",
        "flips",
        "gradients",
        "ranking",
        "origin",
    ];
    assert_eq!(ids("<section id=\""), views);
    assert_eq!(ids("<li><a href=\"#"), views);
}
