#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gemma_mlp_fuzz::gguf(data));
