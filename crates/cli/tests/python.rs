//! The Python package: its own tests, and `gemma_mlp.compare` with the program that is built here; and the script that
//! makes the tables of docs/performance.md.
//!
//! With the packages numpy and safetensors in an environment of its own; tests that need torch, transformers, JAX, Keras
//! or llama.cpp run where `GEMMA_PYTHON` names an interpreter that has them, beside these two.
#![cfg(unix)]

use crate::common::skip;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long packages may take to come.
const PATIENCE: Duration = Duration::from_secs(40);

const PACKAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python");

/// Runs to its end, or to the end of patience.
fn within(mut command: Command, patience: Duration) -> Option<Output> {
    let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().ok()?;
    let start = Instant::now();
    while child.try_wait().ok()?.is_none() {
        if start.elapsed() > patience {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child.wait_with_output().ok()
}

/// An interpreter that has numpy and safetensors: the one of `GEMMA_PYTHON`, or a new environment's in `dir`.
fn interpreter(dir: &Path) -> Option<PathBuf> {
    if let Some(python) = std::env::var_os("GEMMA_PYTHON") {
        return Some(python.into());
    }
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv"]).arg(dir.join("venv"));
    if !within(venv, PATIENCE).is_some_and(|done| done.status.success()) {
        skip("python", "python3 or its module venv is not there");
        return None;
    }
    let python = dir.join("venv/bin/python");
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
        .args(["--retries", "0", "--timeout", "5", "--only-binary", ":all:"])
        .args(["numpy", "safetensors"]);
    if !within(pip, PATIENCE).is_some_and(|done| done.status.success()) {
        skip("python", "pip does not get numpy and safetensors");
        return None;
    }
    Some(python)
}

fn python(interpreter: &Path) -> Command {
    let mut command = Command::new(interpreter);
    command
        .env("PYTHONPATH", PACKAGE)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("GEMMA_MLP", env!("CARGO_BIN_EXE_gemma-mlp"))
        .env("JAX_PLATFORMS", "cpu");
    command
}

fn succeeds(mut command: Command) -> String {
    let done = command.output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{}\n{said}", String::from_utf8_lossy(&done.stdout));
    said.into_owned()
}

/// `scripts/perf_tables.py`: its own tests, and that `docs/performance.md` has what it makes of `docs/performance`.
#[test]
fn the_tables_of_performance_are_those_of_the_figures() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    if !root.join("scripts/perf_tables.py").exists() {
        eprintln!("skipped: a packed crate has no scripts");
        return;
    }
    let interpreter = std::env::var_os("GEMMA_PYTHON").unwrap_or_else(|| "python3".into());
    let mut works = python(Path::new(&interpreter));
    works.args(["-c", "import sys; sys.exit(sys.version_info < (3, 10))"]);
    if !works.output().is_ok_and(|done| done.status.success()) {
        skip("python", "python3 is not there, or older than 3.10");
        return;
    }
    let script = |arguments: &[&str]| {
        let mut command = python(Path::new(&interpreter));
        command.args(arguments).current_dir(root);
        eprintln!("{}", succeeds(command));
    };
    script(&["-m", "unittest", "discover", "scripts/tests"]);
    script(&["scripts/perf_tables.py", "docs/performance", "docs/performance.md", "--check"]);
}

#[test]
fn the_package_works() {
    let dir = tempfile::tempdir().unwrap();
    let Some(interpreter) = interpreter(dir.path()) else { return };

    let mut tests = python(&interpreter);
    tests.args(["-m", "unittest", "discover", "tests"]).current_dir(PACKAGE);
    eprintln!("{}", succeeds(tests));

    let mut capture = Command::new(env!("CARGO_BIN_EXE_gemma-mlp"));
    capture.args(["capture", "--activation", "exact", "--out"]).arg(dir.path().join("theirs"));
    succeeds(capture);
    std::fs::write(dir.path().join("script.py"), include_str!("python/script.py")).unwrap();
    let mut script = python(&interpreter);
    succeeds({
        script.arg("script.py").current_dir(dir.path());
        script
    });
}
