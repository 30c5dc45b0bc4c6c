//! The README's shell blocks, run: a line with `$` is a command, what follows is what it prints.
//! (Its Rust block is a documentation test.)

use std::path::Path;
use std::process::Command;

struct Example {
    command: String,
    output: String,
}

fn examples() -> Vec<Example> {
    let readme = include_str!("../README.md");
    let blocks = readme.split("```console\n").skip(1);
    blocks
        .map(|block| {
            let block = block.split("```").next().unwrap();
            let (command, output) = block.strip_prefix("$ ").unwrap().split_once('\n').unwrap();
            Example { command: command.into(), output: output.into() }
        })
        .collect()
}

/// Splits as a shell does, as far as the README's commands need it.
fn words(command: &str) -> Vec<String> {
    let quoted = command.split('"').enumerate();
    quoted
        .flat_map(|(i, part)| match i % 2 {
            0 => part.split_whitespace().map(String::from).collect(),
            _ => vec![part.to_string()],
        })
        .collect()
}

/// Both draw numbers, as many.
fn sparklines(a: &str, b: &str) -> bool {
    let drawn = |text: &str| text.chars().all(|c| ('▁'..='█').contains(&c));
    drawn(a) && drawn(b) && a.chars().count() == b.chars().count()
}

/// Equal but for numbers, as digits or drawn. Those of a drift in f32 may differ by half: other processors sum in another
/// order. What rounding to bf16 does to the logits of so small a model is another draw on each
/// processor; there numbers only have to be numbers.
fn assert_same_text(command: &str, expected: &str, printed: &str) {
    let complain = || panic!("{command} prints\n{printed}\nand the README says\n{expected}");
    if expected.lines().count() != printed.lines().count() {
        complain();
    }
    let mut logits = false;
    for (expected, printed) in expected.lines().zip(printed.lines()) {
        logits = (logits || expected.starts_with("logits")) && !expected.is_empty();
        let words = |line: &str| line.split_whitespace().map(String::from).collect::<Vec<_>>();
        let (expected, printed) = (words(expected), words(printed));
        let mut compared = 0;
        let mut same = |a: &String, b: &String| match (a.parse::<f64>(), b.parse::<f64>()) {
            (Ok(a), Ok(b)) => {
                compared += 1;
                logits && compared > 1 || (a - b).abs() <= 0.5 * a.abs()
            }
            _ => a == b || sparklines(a, b),
        };
        if expected.len() != printed.len()
            || !expected.iter().zip(&printed).all(|(a, b)| same(a, b))
        {
            complain();
        }
    }
}

#[test]
fn commands_print_what_the_readme_shows() {
    let mut ran = 0;
    for Example { command, output } in examples() {
        let Some(args) = command.strip_prefix("cargo run --release") else { continue };
        let args = words(args.trim_start().strip_prefix("--").unwrap_or(args));
        let result = Command::new(env!("CARGO_BIN_EXE_gemma-mlp")).args(&args).output().unwrap();
        assert!(result.status.success(), "{command}");
        assert_same_text(&command, &output, &String::from_utf8(result.stdout).unwrap());
        ran += 1;
    }
    assert_eq!(ran, 4);
}

/// The command that passes the tests is the one that CI runs.
#[test]
fn ci_runs_the_test_command() {
    let test = examples().into_iter().find(|e| e.command.starts_with("cargo test")).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/run");
    let script = std::fs::read_to_string(script).unwrap();
    assert!(script.lines().any(|line| line == test.command), "{}", test.command);
}
