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

/// Equal but for numbers, as digits or drawn. Those of a drift in f32 may differ by half: other
/// processors sum in another order. The table under "logits" has bounds of its own.
fn same_text(expected: &str, printed: &str) -> bool {
    let mut in_logits = false;
    let mut same_line = |(expected, printed): (&str, &str)| {
        in_logits = (in_logits || expected.starts_with("logits")) && !expected.is_empty();
        let words = |line: &str| line.split_whitespace().map(String::from).collect::<Vec<_>>();
        let same = |(a, b): (&String, &String)| match (a.parse::<f64>(), b.parse::<f64>()) {
            (Ok(a), Ok(b)) => in_logits || (a - b).abs() <= 0.5 * a.abs(),
            _ => a == b || sparklines(a, b),
        };
        let (expected, printed) = (words(expected), words(printed));
        expected.len() == printed.len() && expected.iter().zip(&printed).all(same)
    };
    expected.lines().count() == printed.lines().count()
        && expected.lines().zip(printed.lines()).all(&mut same_line)
        && same_logits(&logits(expected), &logits(printed))
}

/// The rows under "logits": what the figure is called, the drift, the floor and perhaps their ratio.
fn logits(text: &str) -> Vec<Vec<&str>> {
    let rows = text.lines().skip_while(|line| !line.starts_with("logits")).skip(1);
    let cells = |row| str::split(row, "  ").map(str::trim).filter(|cell| !cell.is_empty());
    rows.take_while(|row| !row.is_empty()).map(|row| cells(row).collect()).collect()
}

/// The numbers of a cell such as `12.7215 ± 4.9851`; the second is 0 where there is none.
fn numbers(cell: &str) -> [f64; 2] {
    let mut all = cell.split(' ').filter_map(|word| word.parse().ok());
    [all.next().unwrap(), all.next().unwrap_or(0.0)]
}

/// Whether the figures of one table agree with each other, as far as they are printed.
fn agree(rows: &[Vec<&str>]) -> bool {
    let named = |name: &str| rows.iter().find(|row| row[0].starts_with(name)).unwrap();
    rows.iter().all(|row| match row[..] {
        // Three digits each.
        [_, drift, floor, ratio] => {
            let [[drift, _], [floor, _], [ratio, _]] = [drift, floor, ratio].map(numbers);
            (drift / floor / ratio - 1.0).abs() < 0.016
        }
        [name, ..] if name.starts_with("ln(") => (1..3).all(|column| {
            let [a, b] = ["perplexity of a", "perplexity of b"].map(|name| named(name)[column]);
            let ([a, _], [b, _], [ln, error]) = (numbers(a), numbers(b), numbers(row[column]));
            // Four decimals of a and of b.
            (ln - (b / a).ln()).abs() < 1.1e-4 / a + 0.01 * ln.abs() && ln.abs() < 4.0 * error
        }),
        _ => true,
    })
}

/// The drift is the same on every processor up to the noise of f32: f64 moves the median KL by 4 %,
/// the other figures by at most 1.3 %, and perplexities by less than is printed. The floor is another
/// draw on each: other ways to round to bf16 move a figure by up to 2.4 times, a perplexity by up to
/// 0.4 %, and agreement by up to one point.
fn same_logits(expected: &[Vec<&str>], printed: &[Vec<&str>]) -> bool {
    let close = |a: f64, b: f64, by: f64| (a - b).abs() <= by * a.abs();
    let within = |a: f64, b: f64, times: f64| a == b || (1.0 / times..times).contains(&(b / a));
    let same_row = |(expected, printed): (&Vec<&str>, &Vec<&str>)| {
        let [[drift, drift_error], [floor, floor_error]] = [1, 2].map(|i| numbers(expected[i]));
        let [[drift_b, drift_error_b], [floor_b, floor_error_b]] =
            [1, 2].map(|i| numbers(printed[i]));
        expected[0] == printed[0]
            && match expected[0] {
                name if name.starts_with("perplexity") => {
                    close(drift, drift_b, 2e-5)
                        && close(drift_error, drift_error_b, 1e-4)
                        && close(floor, floor_b, 0.01)
                        && close(floor_error, floor_error_b, 0.01)
                }
                // Around 0: `agree` holds the floor's.
                name if name.starts_with("ln(") => {
                    close(drift, drift_b, 0.2)
                        && close(drift_error, drift_error_b, 0.2)
                        && within(floor_error, floor_error_b, 3.0)
                }
                _ if expected[1].ends_with('%') => {
                    (drift - drift_b).abs() < 0.5 && (floor - floor_b).abs() < 3.0
                }
                _ => close(drift, drift_b, 0.2) && within(floor, floor_b, 3.0),
            }
    };
    agree(expected) && agree(printed) && expected.iter().zip(printed).all(same_row)
}

#[test]
fn commands_print_what_the_readme_shows() {
    let mut ran = 0;
    for Example { command, output } in examples() {
        let Some(args) = command.strip_prefix("cargo run --release") else { continue };
        let args = words(args.trim_start().strip_prefix("--").unwrap_or(args));
        let result = Command::new(env!("CARGO_BIN_EXE_gemma-mlp")).args(&args).output().unwrap();
        assert!(result.status.success(), "{command}");
        let printed = String::from_utf8(result.stdout).unwrap();
        assert!(
            same_text(&output, &printed),
            "{command} prints\n{printed}\nand the README says\n{output}"
        );
        ran += 1;
    }
    assert_eq!(ran, 4);
}

/// Every number of the README's outputs, ten times as large, is noticed.
#[test]
fn a_wrong_figure_is_noticed() {
    let mut tried = 0;
    for Example { command, output } in examples() {
        assert!(same_text(&output, &output), "{command}");
        let mut at = 0;
        for word in output.split_inclusive(char::is_whitespace) {
            if let Ok(number) = word.trim().parse::<f64>() {
                let end = at + word.trim_end().len();
                let wrong = format!("{}{}{}", &output[..at], 10.0 * number + 1e-9, &output[end..]);
                assert!(!same_text(&output, &wrong), "{command}: {number} is {wrong}");
                assert!(!same_text(&wrong, &output), "{command}: {number} is {wrong}");
                tried += 1;
            }
            at += word.len();
        }
    }
    assert!(tried > 100, "{tried}");
}

/// The command that passes the tests is the one that CI runs.
#[test]
fn ci_runs_the_test_command() {
    let test = examples().into_iter().find(|e| e.command.starts_with("cargo test")).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/run");
    let script = std::fs::read_to_string(script).unwrap();
    assert!(script.lines().any(|line| line == test.command), "{}", test.command);
}
