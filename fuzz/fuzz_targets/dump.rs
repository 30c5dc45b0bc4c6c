#![no_main]

libfuzzer_sys::fuzz_target!(
    // The pool's one thread is this one, so that no work is handed over.
    init: rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global().unwrap(),
    |data: &[u8]| gemma_mlp_fuzz::dump(data)
);
