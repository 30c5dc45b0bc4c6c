//! The scripts of examples/many-machines, run as Slurm and Kubernetes run them. What their parts add up to has the bytes
//! of the whole run.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gemma-mlp");
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/weights/tiny-gemma3");
const SLURM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/many-machines/slurm.sh");
const KUBERNETES: &str = include_str!("many-machines/kubernetes.yaml");

/// Takes what Slurm's takes, and starts the task.
const SRUN: &str = "#!/bin/sh\n[ \"$1\" = --cpus-per-task=1 ] || exit 64\nshift\nexec \"$@\"\n";

/// A command in a directory that has the program and srun in its `bin`.
fn within(dir: &Path, name: &str) -> Command {
    let bin = dir.join("bin");
    if !bin.exists() {
        fs::create_dir(&bin).unwrap();
        symlink(PROGRAM, bin.join("gemma-mlp")).unwrap();
        fs::write(bin.join("srun"), SRUN).unwrap();
        fs::set_permissions(bin.join("srun"), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = std::env::var("PATH").unwrap();
    let mut command = Command::new(name);
    command.current_dir(dir).env("PATH", format!("{}:{path}", bin.display()));
    command
}

fn done(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    output
}

/// The only line, of bad input.
fn refused(output: &Output) -> String {
    assert_eq!((output.status.code(), &*output.stdout), (Some(2), &b""[..]));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr.into_owned()
}

/// A job array whose second task is lost, and run again.
#[test]
fn slurm() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let ids: Vec<u32> = std::iter::once(2).chain((0..150).map(|i| 4 + i * 37 % 900)).collect();
    fs::write(dir.join("ids.json"), serde_json::to_string(&ids).unwrap()).unwrap();
    let args = ["--model", MODEL, "--ids", "ids.json", "--window", "32"];
    done(within(dir, "gemma-mlp").arg("drift").args(args).args(["--out", "whole.json"]));
    let task = |index: usize| {
        let mut command = within(dir, "sh");
        command.arg(SLURM).args(args).env("PARTS", "3").env("SLURM_CPUS_PER_TASK", "1");
        done(command.env("SLURM_ARRAY_TASK_ID", index.to_string()));
    };
    let merge = || {
        let merge = "gemma-mlp merge --expect 3 --out run.json parts/part-*-of-3.json";
        let mut command = within(dir, "sh");
        command.args(["-c", merge]);
        command
    };
    [3, 1].into_iter().for_each(task);
    let line = refused(&merge().output().unwrap());
    assert!(line.contains("of 3 parts, missing: 2; run these again with --shard I/3"), "{line}");
    assert!(!dir.join("run.json").exists());
    task(2);
    done(&mut merge());
    assert!(fs::read(dir.join("run.json")).unwrap() == fs::read(dir.join("whole.json")).unwrap());
    let outside = within(dir, "sh").arg(SLURM).output().unwrap();
    assert!(String::from_utf8_lossy(&outside.stderr).contains("start this with sbatch"));
}

/// An Indexed Job of more parts than there are windows, which are two.
#[test]
fn kubernetes() {
    let (_, block) = KUBERNETES.split_once("          args:\n            - |\n").unwrap();
    let indent = " ".repeat(14);
    let script: Vec<_> = block.lines().map_while(|line| line.strip_prefix(&indent)).collect();
    let script = script.join("\n");
    assert!(KUBERNETES.contains("command: [sh, -euc]\n"));
    assert!(KUBERNETES.contains("\n  completions: 16\n") && script.contains(" parts=16\n"));
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    symlink(MODEL, dir.join("model")).unwrap();
    fs::create_dir(dir.join("texts")).unwrap();
    for (name, text) in [("a b.txt", "The cat sat on the mat."), ("c.txt", "It rained.")] {
        fs::write(dir.join("texts").join(name), text).unwrap();
    }
    let [model, texts] = ["model", "texts"].map(|name| dir.join(name));
    let mut whole = within(dir, "gemma-mlp");
    whole.args(["drift", "--out", "whole.json", "--model"]).arg(model).arg("--text");
    done(whole.args([texts.join("a b.txt"), texts.join("c.txt")]));
    let pod = |index: usize| {
        let mut command = within(dir, "sh");
        command.args(["-euc", &script]).env("DATA", dir);
        command.env("JOB_COMPLETION_INDEX", index.to_string()).output().unwrap()
    };
    assert!([1, 0].into_iter().all(|index| pod(index).status.success()));
    assert!(refused(&pod(2)).contains("part 3/16 is empty"));
    let merge = "gemma-mlp merge --expect 16 --out run.json parts/part-*-of-16.json";
    done(within(dir, "sh").args(["-c", merge]));
    assert!(fs::read(dir.join("run.json")).unwrap() == fs::read(dir.join("whole.json")).unwrap());
}
