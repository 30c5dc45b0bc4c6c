//! The program, as people and other programs know it, and its library. All in one program.

mod cli;
mod common;
mod compare;
mod compare_runs;
mod comparisons;
mod encoder_decoder;
mod fake_hub;
mod fake_server;
mod families;
mod fuzz;
mod hostile;
mod hub;
mod many_machines;
mod nonfinite;
mod outputs;
mod page;
mod prompts;
mod python;
mod readme;
mod real;
mod schema;
mod server;
mod texts;

#[test]
fn every_file_is_here() {
    common::assert_has_every_file(env!("CARGO_MANIFEST_DIR"), include_str!("main.rs"));
}
