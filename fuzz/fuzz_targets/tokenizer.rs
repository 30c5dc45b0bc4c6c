#![no_main]

use std::panic::{set_hook, take_hook};
use std::sync::Once;

/// Panics of the crate `tokenizers` that become errors are no findings.
static HOOK: Once = Once::new();

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    HOOK.call_once(|| {
        let aborting = take_hook();
        set_hook(Box::new(move |panic| {
            if !gemma_mlp::internal::is_guarded() {
                aborting(panic);
            }
        }));
    });
    gemma_mlp_fuzz::tokenizer(data);
});
