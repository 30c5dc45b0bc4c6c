//! The shell blocks of the README, docs/tool.md and docs/compare.md, run: a line with `$` is a command, what
//! follows is what it prints, and a line of nothing but `…` stands for any number of lines. At the end `$ echo $?`
//! shows an exit code other than 0. The files that a page's commands write are there for those behind them. (The
//! README's Rust block is a documentation test.)

use std::fs;
use std::path::Path;
use std::process::Command;

/// The pages whose commands are run, with how many of those each has.
const PAGES: [(&str, &str, usize); 3] = [
    ("README.md", include_str!("../README.md"), 1),
    ("docs/tool.md", include_str!("../docs/tool.md"), 7),
    ("docs/compare.md", include_str!("../docs/compare.md"), 2),
];

struct Example {
    page: &'static str,
    command: String,
    output: String,
    code: i32,
}

impl Example {
    /// The arguments of the program, if this is a call of it.
    fn args(&self) -> Option<Vec<String>> {
        let args = self.command.strip_prefix("cargo run --release")?.trim_start();
        Some(words(args.strip_prefix("--").unwrap_or(args)))
    }
}

fn examples() -> Vec<Example> {
    let of_page = |(page, text, _): (&'static str, &'static str, usize)| {
        text.split("```console\n").skip(1).map(move |block| {
            let block = block.split("```").next().unwrap();
            let (command, output) = block.strip_prefix("$ ").unwrap().split_once('\n').unwrap();
            let (output, code) = match output.split_once("$ echo $?\n") {
                Some((output, code)) => (output, code.trim().parse().unwrap()),
                None => (output, 0),
            };
            Example { page, command: command.into(), output: output.into(), code }
        })
    };
    PAGES.into_iter().flat_map(of_page).collect()
}

/// Splits as a shell does, as far as these commands need it.
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

/// Whether the words of two lines are the same, where two numbers are compared by `same_number`.
fn same_words(expected: &str, printed: &str, same_number: impl Fn(f64, f64) -> bool) -> bool {
    let same = |(a, b): (&str, &str)| match (a.parse(), b.parse()) {
        (Ok(a), Ok(b)) => same_number(a, b),
        _ => a == b || sparklines(a, b),
    };
    expected.split_whitespace().count() == printed.split_whitespace().count()
        && expected.split_whitespace().zip(printed.split_whitespace()).all(same)
}

/// The lines that are shown, and those of the printed text that they show: between two cuts the first
/// lines in a row that have the same words, whatever their numbers. `None` if there are none.
fn uncut<'a>(expected: &'a str, printed: &'a str) -> Option<(Vec<&'a str>, Vec<&'a str>)> {
    let [expected, printed] = [expected, printed].map(|text| text.lines().collect::<Vec<_>>());
    let runs: Vec<&[&str]> = expected.split(|line| ["…", "..."].contains(line)).collect();
    let (mut at, mut found) = (0, vec![]);
    for (i, run) in runs.iter().enumerate() {
        let end = printed.len().checked_sub(run.len())?;
        // Without a cut before it a run stands at the beginning, without one behind it at the end.
        let first = if i + 1 == runs.len() { end.max(at) } else { at };
        let last = if i == 0 { 0 } else { end };
        let same = |(a, b): (&&str, &&str)| same_words(a, b, |_, _| true);
        let fits = |&start: &usize| run.iter().zip(&printed[start..]).all(same);
        let start = (first..=last).find(fits)?;
        at = start + run.len();
        found.extend(&printed[start..at]);
    }
    Some((runs.concat(), found))
}

/// Equal but for cuts, and for numbers, as digits or drawn. Those of a drift in f32 may differ by half:
/// other processors sum in another order. The table under "logits" has bounds of its own.
fn same_text(expected: &str, printed: &str) -> bool {
    let Some((expected, printed)) = uncut(expected, printed) else { return false };
    let mut in_logits = false;
    let same_line = |(expected, printed): (&&str, &&str)| {
        in_logits = (in_logits || expected.starts_with("logits")) && !expected.is_empty();
        same_words(expected, printed, |a, b| in_logits || (a - b).abs() <= 0.5 * a.abs())
    };
    expected.iter().zip(&printed).all(same_line)
        && same_logits(&logits(&expected), &logits(&printed))
}

/// The rows under "logits": what the figure is called, the drift, the floor and perhaps their ratio.
fn logits<'a>(lines: &[&'a str]) -> Vec<Vec<&'a str>> {
    let rows = lines.iter().skip_while(|line| !line.starts_with("logits")).skip(1);
    let cells = |row: &&'a str| row.split("  ").map(str::trim).filter(|cell| !cell.is_empty());
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

/// A directory to run in, with the one model that pages name.
fn with_model() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("tests/goldens/gguf");
    fs::create_dir_all(&place).unwrap();
    for name in ["types.gguf", "tokenizer.json"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/gguf").join(name);
        fs::copy(from, place.join(name)).unwrap();
    }
    dir
}

#[test]
fn commands_print_what_the_pages_show() {
    let mut ran = [0; PAGES.len()];
    let directories = PAGES.map(|_| with_model());
    for example in examples() {
        let Some(args) = example.args() else { continue };
        let Example { page, command, output, code } = example;
        let index = PAGES.iter().position(|(name, ..)| *name == page).unwrap();
        let mut program = Command::new(env!("CARGO_BIN_EXE_gemma-mlp"));
        let result = program.args(&args).current_dir(&directories[index]).output().unwrap();
        assert_eq!(result.status.code(), Some(code), "{command}");
        let printed = String::from_utf8(result.stdout).unwrap();
        assert!(
            same_text(&output, &printed),
            "{command} prints\n{printed}\nand {page} says\n{output}"
        );
        ran[index] += 1;
    }
    assert_eq!(ran, PAGES.map(|(_, _, commands)| commands));
}

/// Every number of the outputs that are shown, ten times as large, is noticed.
#[test]
fn a_wrong_figure_is_noticed() {
    for (page, _, commands) in PAGES {
        let mut tried = 0;
        for Example { command, output, .. } in examples().into_iter().filter(|e| e.page == page) {
            assert!(same_text(&output, &output), "{command}");
            let mut at = 0;
            for word in output.split_inclusive(char::is_whitespace) {
                if let Ok(number) = word.trim().parse::<f64>() {
                    let end = at + word.trim_end().len();
                    let wrong =
                        format!("{}{}{}", &output[..at], 10.0 * number + 1e-9, &output[end..]);
                    assert!(!same_text(&output, &wrong), "{command}: {number} is {wrong}");
                    assert!(!same_text(&wrong, &output), "{command}: {number} is {wrong}");
                    tried += 1;
                }
                at += word.len();
            }
        }
        assert!(tried >= 10 * commands, "{page}: {tried}");
    }
}

/// A cut stands for lines, as many as there are, and for nothing else.
#[test]
fn a_cut_hides_whole_lines_only() {
    let printed = "a 1\n\nb 2\nc 3\nb 4\n";
    for shown in ["a 1\n…\n", "…\nb 4\n", "a 1\n...\nc 3\nb 4\n", "…\nb 2\n…\n", "…\n"] {
        assert!(same_text(shown, printed), "{shown}");
    }
    assert!(same_text("a 1\n…\n\nb 2\nc 3\nb 4\n", printed), "a cut of no lines");
    for shown in ["a 1\n", "b 2\n…\n", "…\nc 3\n", "a 1\n…\na 1\n…\n", "…\nb 9\n…\n", "a …\n"]
    {
        assert!(!same_text(shown, printed), "{shown}");
    }
}
