//! What the crate measures, as its callers know it, in one program.

mod candle_gemma4;
mod common;
mod compare;
mod differences;
mod dumps;
mod encoder_decoder;
mod examples;
mod families;
mod gradients;
mod model_on_devices;
mod options;
mod quantised;
mod recordings;
mod reports;

#[test]
fn every_file_is_here() {
    common::assert_has_every_file(env!("CARGO_MANIFEST_DIR"), include_str!("main.rs"));
}
