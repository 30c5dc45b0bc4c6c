//! Captures what a model in candle computes.
fn main() {}
