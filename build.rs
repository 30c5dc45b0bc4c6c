//! With the feature `cuda`, makes PTX of the kernels, which `src/kernels/geglu/cuda.rs` embeds.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest generation that they run on, and by translation all later ones.
const ARCHITECTURE: &str = "compute_80";
const SOURCE: &str = "src/kernels/geglu/cuda";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed={SOURCE}");
    for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    if let Err(message) = compile() {
        println!("cargo::error={}", message.replace('\n', " "));
    }
}

fn compile() -> Result<(), String> {
    let nvcc = nvcc();
    let source = Path::new(SOURCE);
    let ptx =
        Path::new(&env::var_os("OUT_DIR").ok_or("no OUT_DIR; build with cargo")?).join("geglu.ptx");
    let mut command = Command::new(&nvcc);
    command.arg("--options-file").arg(source.join("nvcc.options"));
    command.args(["-ptx", &format!("-arch={ARCHITECTURE}"), "-o"]).arg(ptx);
    let output = command.arg(source.join("geglu.cu")).output().map_err(|e| {
        format!("the feature cuda needs NVIDIA's nvcc, and {} does not start ({e}); install the CUDA toolkit, 11.8 or later, and set CUDA_HOME", nvcc.display())
    })?;
    let messages = String::from_utf8_lossy(&output.stderr);
    output.status.success().then_some(()).ok_or_else(|| format!("{}: {messages}", nvcc.display()))
}

/// nvcc by NVCC, in CUDA_HOME or CUDA_PATH, or by PATH.
fn nvcc() -> PathBuf {
    let named = env::var_os("NVCC").map(PathBuf::from);
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os);
    let mut in_homes = homes.map(|home| Path::new(&home).join("bin").join("nvcc"));
    named.or_else(|| in_homes.find(|nvcc| nvcc.exists())).unwrap_or_else(|| "nvcc".into())
}
