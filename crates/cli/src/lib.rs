//! The program `gemma-mlp`: what it does with the command line, and its reports as library types.
//!
//! | module | what it holds |
//! |---|---|
//! | [`report`] | results as tables, JSON, CSV, plots and pages |
//! | [`mod@bench`] | how fast the block is, beside candle's operations and the machine's limits |
//! | [`cli`] | flags, progress, which report to write, exit codes |
#![deny(missing_docs)]

pub mod bench;
pub mod cli;
pub mod report;
