//! The library as its callers know it. All of it is one program: candle is linked once and not for every file.

mod checkpoints;
mod common;
mod devices;
mod embedding;
mod encoder_decoder;
mod examples;
mod experts;
mod families;
mod families_gradients;
mod gelu;
mod gguf;
mod gguf_hostile;
mod goldens;
mod gradients;
mod kernels;
mod mistakes;
mod mixtures;
mod paligemma;
mod peers;
mod quantised;
mod reading;
mod recurrent;
mod refused;
mod rounding;
mod skips;
mod streamed;
mod texts;
mod threads;

#[test]
fn every_file_is_here() {
    common::assert_has_every_file(env!("CARGO_MANIFEST_DIR"), include_str!("main.rs"));
}
