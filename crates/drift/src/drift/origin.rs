//! Where a result comes from.

use serde::{Deserialize, Serialize};

/// By which program and on which machine a result was computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct Origin {
    /// The command line, without what says where its result goes or which part of the work it does;
    /// null where the library was called.
    pub command: Option<String>,
    /// Processor, its vector instructions, and operating system.
    pub machine: String,
    /// The version of candle.
    pub candle: String,
}

/// The version of candle that this crate is built on.
const CANDLE: &str = "0.11.1";

impl Origin {
    /// What this program on this machine computes.
    pub(super) fn here() -> Self {
        let (arch, os) = (std::env::consts::ARCH, std::env::consts::OS);
        let machine = format!("{arch}{}, {os}", instructions());
        Self { command: None, machine, candle: CANDLE.into() }
    }
}

#[cfg(target_arch = "x86_64")]
fn instructions() -> &'static str {
    if is_x86_feature_detected!("avx512bf16") {
        " with AVX-512 and its bf16 instructions"
    } else if is_x86_feature_detected!("avx512f") {
        " with AVX-512"
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        " with AVX2"
    } else {
        ""
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn instructions() -> &'static str {
    ""
}

#[cfg(test)]
mod tests {
    /// The version is the lock file's.
    #[test]
    fn candle_is_the_one_that_is_linked() {
        // The workspace's, or a packed crate's own.
        let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let read = |dir: &std::path::Path| std::fs::read_to_string(dir.join("Cargo.lock")).ok();
        let lock = here.ancestors().find_map(read).unwrap();
        let entry = format!("name = \"candle-core\"\nversion = \"{}\"", super::CANDLE);
        assert!(lock.contains(&entry), "{entry}");
    }
}
