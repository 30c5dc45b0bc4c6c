use super::*;
use crate::compare::point::Place;
use proptest::prelude::*;
use std::fmt::Write;

/// Prints as llama.cpp does, of a tensor whose numbers are given by their places.
fn print(
    log: &mut String,
    line: &str,
    sizes: [usize; 4],
    number: impl Fn(usize) -> f64,
    sum: Option<f64>,
) {
    let [a, b, c, d] = sizes;
    writeln!(log, "common_debug_cb_eval: {line} = {{{a}, {b}, {c}, {d}}}").unwrap();
    let skips = |at: usize, size: usize| at == 3 && size > 6;
    let mut all = 0.0;
    for l in 0..d {
        log.push_str("    [\n");
        let mut k = 0;
        while k < c {
            if skips(k, c) {
                log.push_str("        ..., \n");
                k = c - 3;
            }
            log.push_str("        [\n");
            let mut j = 0;
            while j < b {
                if skips(j, b) {
                    log.push_str("            ..., \n");
                    j = b - 3;
                }
                log.push_str("            [");
                let mut i = 0;
                while i < a {
                    if skips(i, a) {
                        log.push_str("   ..., ");
                        i = a - 3;
                    }
                    let number = number(i + a * (j + b * (k + c * l)));
                    all += number;
                    write!(log, "{number:12.4}").unwrap();
                    log.push_str(if i < a - 1 { ", " } else { "" });
                    i += 1;
                }
                log.push_str("  ],\n");
                j += 1;
            }
            log.push_str("        ],\n");
            k += 1;
        }
        log.push_str("    ]\n");
        writeln!(log, "    sum = {:.6}", sum.unwrap_or(all)).unwrap();
    }
}

fn number(at: usize) -> f64 {
    (at as f64 * 0.37).sin()
}

fn point(name: &str) -> Point {
    name.parse().unwrap()
}

fn read(log: &str) -> Dump {
    parse(log.as_bytes()).unwrap()
}

/// A run of two layers, the last of which computes one row.
fn run(log: &mut String, positions: usize) {
    let mut print = |line: &str, sizes| print(log, line, sizes, number, Some(1.5));
    let t = positions;
    print("inp_scaled = (f32) SCALE(embd{8, 9, 1, 1}, })", [8, t, 1, 1]);
    print("norm-0 = (f32) RMS_NORM(inp_scaled{8, 9, 1, 1}, })", [8, t, 1, 1]);
    print("Qcur-0 = (f32) MUL_MAT(blk.0.attn_q.weight{8, 8, 1, 1}, x{8, 9, 1, 1}})", [14, t, 1, 1]);
    print("Qcur-0 (reshaped) = (f32) RESHAPE(Qcur-0{14, 9, 1, 1}, })", [7, 2, t, 1]);
    print("Qcur-0 = (f32) ROPE(Qcur_normed-0{7, 2, 9, 1}, inp_pos{9, 1, 1, 1}})", [7, 2, t, 1]);
    print("kqv_out-0 = (f32) CONT(node{7, 2, 9, 1}, })", [14, t, 1, 1]);
    print(
        "node_9 = (f32) MUL_MAT(blk.0.attn_output.weight{14, 8, 1, 1}, k{1, 1, 1, 1}})",
        [8, t, 1, 1],
    );
    print("l_out-0 = (f32) ADD(a-0{8, 9, 1, 1}, b{8, 9, 1, 1}})", [8, t, 1, 1]);
    print("l_out-1 = (f32) ADD(a-0{8, 1, 1, 1}, b{8, 1, 1, 1}})", [8, 1, 1, 1]);
    print("result_output = (f32) MUL_MAT(t{8, 40, 1, 1}, n{8, 1, 1, 1}})", [40, 1, 1, 1]);
}

#[test]
fn points_are_named_and_turned() {
    let mut log = String::from("build: 7000 (abc)\n0.1 I number of input tokens = 9\n");
    (0..9).for_each(|id| writeln!(log, "0.1 I   {id}").unwrap());
    run(&mut log, 2);
    log.push_str("\u{1b}[0mwarming up is over\n");
    run(&mut log, 9);
    run(&mut log, 1);
    let dump = read(&log);
    let text = &dump.texts[0];
    assert_eq!(text.tokens, Some((0..9).collect()));
    assert_eq!(dump.metadata["framework_version"], "7000 (abc)");
    let names: Vec<_> = text.glimpses.keys().map(Point::to_string).collect();
    let expected = ["embedding", "layers.0.attn.q", "layers.0.attn.output", "hidden.0", "logits"];
    assert_eq!(names, expected);
    let queries = &text.glimpses[&Point::Layer(0, Place::Queries)];
    assert_eq!(queries.shape, [9, 2, 7]);
    let places: Vec<_> = queries.values.iter().map(|(place, _)| *place).collect();
    assert_eq!(places[..8], [0, 1, 2, 4, 5, 6, 7, 8]);
    assert_eq!(places.last(), Some(&125));
    for (place, value) in &queries.values {
        assert!((value - number(*place)).abs() <= queries.precision, "{place}");
    }
    assert_eq!((queries.sum, queries.precision), (Some(1.5), 5e-5));
    assert_eq!(text.glimpses[&Point::Logits].shape, [1, 40]);
    assert_eq!(text.logit_positions, Some(vec![8]));
    let remarks: Vec<_> = dump.remarks.iter().map(|remark| remark.text.as_str()).collect();
    assert!(remarks[0].contains("3 runs") && remarks[0].contains("run 2"), "{remarks:?}");
    assert!(remarks[1].contains("left out: hidden.1;"), "{remarks:?}");
}

#[test]
fn older_programs_print_otherwise() {
    let new =
        "common_debug_cb_eval: l_out-0 = (f32) ADD(a{8, 1, 1, 1}, b{8, 1, 1, 1}}) = {8, 1, 1, 1}\n";
    let rows = "[\n[\n[ 1.0000, 2.0000, 3.0000, ..., 6.0000, 7.0000, 8.0000],\n],\n]";
    // The sum is of what is shown, and not of all: 27 and not 36.
    for (sum, read_as) in [("sum = 27.000000", None), ("sum    = 36.0\nsum_sq = 204.0", Some(36.0))]
    {
        let log = format!("{}{rows}\n{sum}\n", new.replace("common_debug_cb_eval", "ggml_debug"));
        let dump = read(&log);
        let glimpse = &dump.texts[0].glimpses[&point("hidden.0")];
        assert_eq!(glimpse.sum, read_as);
        assert_eq!(glimpse.values[3], (5, 6.0));
        assert!(dump.texts[0].tokens.is_none());
    }
}

#[test]
fn numbers_that_are_none_stay() {
    let mut log = String::new();
    let number = |at: usize| [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.0][at % 4];
    print(&mut log, "l_out-0 = (f32) ADD(a{4, 1, 1, 1}, })", [4, 2, 1, 1], number, None);
    let log = log.replace("NaN", "-nan");
    let glimpse = &read(&log).texts[0].glimpses[&point("hidden.0")];
    assert!(glimpse.values[4].1.is_nan() && glimpse.values[5].1 == f64::INFINITY);
}

#[test]
fn refusals_say_what_is_there() {
    let refusal = |log: &str| parse(log.as_bytes()).unwrap_err().to_string();
    assert!(refusal("llama_model_loader: x\n").contains("without tensors"));
    let mut log = String::new();
    print(&mut log, "mamba-0 = (f32) ADD(a{4, 1, 1, 1}, })", [4, 2, 1, 1], number, None);
    assert!(refusal(&log).contains("none that a Gemma has"));
    let mut log = String::new();
    print(&mut log, "l_out-0 = (f32) ADD(a{4, 1, 1, 1}, })", [4, 2, 1, 1], number, None);
    let log = log.replace("0.0000,", "");
    let text = read(&log).remarks.iter().map(|remark| remark.text.clone()).collect::<String>();
    assert!(text.contains("hidden.0") && text.contains("another count"), "{text}");
}

proptest! {
    #[test]
    fn any_shape_is_read_as_printed(
        a in 1usize..10, b in 1usize..10, c in 1usize..10, d in 1usize..3,
    ) {
        let mut log = String::new();
        print(&mut log, "x = (f32) ADD(a{4, 1, 1, 1}, })", [a, b, c, d], number, None);
        let mut lines = log.lines();
        let mut tensor = Printed::header(lines.next().unwrap()).unwrap();
        lines.for_each(|line| tensor.take(line));
        prop_assert!(tensor.is_over());
        let numbers = tensor.numbers().unwrap();
        for (place, value) in numbers.values {
            prop_assert!((value - number(place)).abs() <= 5e-5 && place < a * b * c * d);
        }
    }

    #[test]
    fn no_log_breaks_it(
        lines in prop::collection::vec(
            prop::sample::select(&[
                "common_debug_cb_eval: l_out-0 = (f32) ADD(a{4, 1, 1, 1}, }) = {4, 1, 1, 1}",
                "ggml_debug: l_out-0 = (f32) ADD(a{}, }) = {18446744073709551615, 3, 0, 1}",
                "ggml_debug: Qcur-9 = (f32) ROPE(a{}, }) = {0, 0, 0, 0}",
                "ggml_debug: = (", "ggml_debug: x = (f32) = {1, 1, 1, 1}",
                "[1.0, 2.0, 3.0, 4.0],", "[..., 1.0]", "[nan, inf]", "sum = 10", "sum = x",
                "number of input tokens = 1", "Token ids (2):", "7", "a(1) b(2) ", "é\u{1b}[3",
            ][..]),
            0..30,
        ),
    ) {
        let _ = parse(lines.join("\n").as_bytes());
    }
}
