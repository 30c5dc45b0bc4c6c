//! A benchmark as aligned text for a terminal.

use super::align::align;
use super::number::short;
use crate::bench::{Bench, Limits, Row};

/// The table that `gemma-mlp bench` prints.
pub fn bench_table(bench: &Bench) -> String {
    let mut text = limits_line(&bench.limits);
    text += "block:  one forward pass under tanh, weights read from memory, not cache; medians; ours and candle's in turns\n\
             CPU:    computing time of all threads: twice the other where two share the work\n\n";
    if bench.rows.iter().any(|row| row.of_experts.is_some()) {
        text.insert_str(text.len() - 1, "experts: chosen at random for every token; the limit counts those that some token chose; candle's: \
             their rows selected, matrix products, added by index\n");
    }
    text += &rows(&bench.rows);
    text
}

/// What a machine can do at most, in the line that a benchmark begins with.
pub fn limits_line(limits: &Limits) -> String {
    let Limits { fma_gflops, bf16_gflops, read_gbps, threads } = limits;
    let plural = if *threads == 1 { "" } else { "s" };
    format!(
        "limits: {} GFLOP/s of f32 multiply-adds, {} of bf16, {} GB/s of reading memory, on {threads} thread{plural}\n",
        short(*fma_gflops),
        short(*bf16_gflops),
        short(*read_gbps)
    )
}

fn rows(rows: &[Row]) -> String {
    let mut table = vec![
        ["", "", "", "limit", "ours", "", "", "", "", "candle", "", "candle"].map(String::from),
        [
            "block", "weights", "tokens", "ms", "ms", "CPU ms", "of limit", "GFLOP/s", "GB/s",
            "ms", "CPU ms", "/ ours",
        ]
        .map(String::from),
    ];
    for row in rows {
        let [limit, ours, candle] = [row.limit_ms, row.median_ms, row.candle_ms].map(short);
        let [cpu, candle_cpu] = [row.cpu_ms, row.candle_cpu_ms].map(short);
        let [gflops, gbps, ratio] = [row.gflops, row.gbps, row.ratio_to_candle].map(short);
        table.push([
            match row.of_experts {
                Some(of) => {
                    format!("{}x{}, {} of {}", row.hidden, row.intermediate, of.top_k, of.experts)
                }
                None => format!("{}x{}", row.hidden, row.intermediate),
            },
            row.weights.to_string(),
            row.tokens.to_string(),
            limit,
            ours,
            cpu,
            format!("{:.0} %", 100.0 * row.of_limit),
            gflops,
            gbps,
            candle,
            candle_cpu,
            ratio,
        ]);
    }
    align(table, 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Weights;

    #[test]
    fn limits_first_then_a_row_for_each_case() {
        let limits = Limits { fma_gflops: 229.4, bf16_gflops: 458.8, read_gbps: 40.0, threads: 2 };
        let row = Row {
            hidden: 2048,
            intermediate: 16384,
            tokens: 1,
            weights: Weights::F32,
            median_ms: 12.58,
            cpu_ms: 24.0,
            candle_ms: 37.75,
            candle_cpu_ms: 39.0,
            limit_ms: 10.07,
            of_limit: 0.8,
            gflops: 16.0,
            gbps: 32.0,
            ratio_to_candle: 3.0,
            of_experts: None,
        };
        let prompt = Row { tokens: 512, weights: Weights::Bf16, median_ms: 1234.0, ..row };
        let table = bench_table(&Bench { limits, rows: vec![row, prompt] });
        let expected = "\
limits: 229 GFLOP/s of f32 multiply-adds, 459 of bf16, 40.0 GB/s of reading memory, on 2 threads
block:  one forward pass under tanh, weights read from memory, not cache; medians; ours and candle's in turns
CPU:    computing time of all threads: twice the other where two share the work

                             limit    ours                                   candle          candle
block       weights  tokens     ms      ms  CPU ms  of limit  GFLOP/s  GB/s      ms  CPU ms  / ours
2048x16384  f32           1   10.1    12.6    24.0      80 %     16.0  32.0    37.8    39.0    3.00
2048x16384  bf16        512   10.1  1.23e3    24.0      80 %     16.0  32.0    37.8    39.0    3.00
";
        assert_eq!(table, expected);
    }
}
