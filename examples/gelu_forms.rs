//! Where the two forms of GELU part, by the double-double truth: the figures of docs/gelu.md.
//!
//! `cargo run --release --example gelu_forms`

use gemma_mlp::Gelu;
use gemma_mlp::gelu::truth;

fn main() {
    for (name, derivative) in [("exact - tanh", false), ("exact' - tanh'", true)] {
        println!("{name}: the local extremes for x > 0");
        for (x, difference) in extremes(|x| difference(x, derivative)) {
            println!("    {difference:+.6e} at x = {x:.6}");
        }
    }
    for &gelu in Gelu::ALL {
        let (x, value) = minimum(gelu);
        println!("{gelu}: the minimum is {value:.9} at x = {x:.9}, where the derivative is 0");
        let [(low, lowest), (high, highest)] = [-1.0, 1.0].map(|side| steepest(gelu, side));
        println!(
            "    the derivative lies between {lowest:.6} at {low:.4} and {highest:.6} at {high:.4}"
        );
        let last = |least: f64| bisect(-40.0, -1.0, |x| -value_of(gelu, x) < least);
        let [f32_tail, bf16_tail, f16_tail] =
            [2f64.powi(-150), 2f64.powi(-134), 2f64.powi(-25)].map(last);
        println!(
            "    rounds to -0 below x = {f32_tail:.3} in f32, {bf16_tail:.3} in bf16, {f16_tail:.3} in f16"
        );
        // f32 has no number between 1 - 2^-24 and 1.
        let digits = bisect(-40.0, -1.0, |x| value_of(gelu, x) / x < 2f64.powi(-26));
        println!("    1 + erf or 1 + tanh is 0 in f32 below x = {digits:.3}");
    }
    println!("relative difference (exact - tanh)/exact on the left:");
    for x in [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -8.0] {
        println!("    {:+.3e} at x = {x}", difference(x, false) / value_of(Gelu::Exact, x));
    }
}

fn value_of(gelu: Gelu, x: f64) -> f64 {
    truth(gelu, [x]).value.hi[0]
}

fn derivative_of(gelu: Gelu, x: f64) -> f64 {
    truth(gelu, [x]).derivative.hi[0]
}

/// exact - tanh, or of their derivatives; rounded once.
fn difference(x: f64, derivative: bool) -> f64 {
    let [exact, tanh] = [Gelu::Exact, Gelu::Tanh].map(|gelu| truth(gelu, [x]));
    let (a, b) =
        if derivative { (exact.derivative, tanh.derivative) } else { (exact.value, tanh.value) };
    (a.hi[0] - b.hi[0]) + (a.lo[0] - b.lo[0])
}

/// The extremes of f between 0 and 8 that exceed 1e-6.
fn extremes(f: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
    let slope = |x: f64| f(x + 1e-4) - f(x - 1e-4);
    let grid = |i: u32| f64::from(i) * 0.01 + 0.005;
    (0..800)
        .filter(|&i| slope(grid(i)) * slope(grid(i + 1)) < 0.0)
        .map(|i| bisect(grid(i), grid(i + 1), |x| slope(x) * slope(grid(i)) > 0.0))
        .map(|x| (x, f(x)))
        .filter(|(_, difference)| difference.abs() > 1e-6)
        .collect()
}

fn minimum(gelu: Gelu) -> (f64, f64) {
    let x = bisect(-1.0, -0.5, |x| derivative_of(gelu, x) < 0.0);
    (x, value_of(gelu, x))
}

/// The extreme of the derivative on one side.
fn steepest(gelu: Gelu, side: f64) -> (f64, f64) {
    let slope =
        |x: f64| derivative_of(gelu, side * (x + 1e-4)) - derivative_of(gelu, side * (x - 1e-4));
    let x = side * bisect(1.0, 2.0, |x| slope(x) * slope(1.0) > 0.0);
    (x, derivative_of(gelu, x))
}

/// Where a condition that holds at `low` ceases to.
fn bisect(mut low: f64, mut high: f64, holds: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if holds(middle) { low = middle } else { high = middle }
    }
    low
}
