//! The files that the tool reads and writes: what it replaces, what it refuses, what a failure leaves.
#![cfg(unix)]

use crate::common::{gemma3_config, gemma3_specs, write_checkpoint};
use serde_json::{Value, json};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const DRIFT: [&str; 5] = ["drift", "--prompt", "The fox", "--layers", "0"];
const FORWARD: [&str; 5] = ["forward", "--prompt", "The fox", "--layers", "0"];

fn command<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gemma-mlp"));
    command.args(args);
    command
}

/// A command with flags that are followed by a path.
fn with_paths(command: &[&str], flags: &[(&str, &Path)]) -> Command {
    let flags = flags.iter().flat_map(|(flag, path)| [OsStr::new(flag), path.as_os_str()]);
    self::command(command.iter().map(OsStr::new).chain(flags))
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn done(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    output
}

/// One line, an exit code, and words.
fn fails(mut command: Command, code: i32, words: &[&str]) -> Output {
    let output = command.output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    assert!(!said.contains("panicked"), "{said}");
    for word in words {
        assert!(said.contains(word), "'{word}' is not in: {said}");
    }
    output
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// Checks every command that writes files, with a file for each of its flags.
fn each_writer(dir: &Path, mut check: impl FnMut(Command, &[PathBuf])) {
    for (command, flags) in [
        (&DRIFT[..], &["--out", "--html", "--csv"][..]),
        (&FORWARD, &["--out"]),
        (&["plot"], &["--svg", "--png", "--csv"]),
    ] {
        let paths: Vec<_> = flags.iter().map(|flag| dir.join(&flag[2..])).collect();
        let with: Vec<_> = flags.iter().copied().zip(paths.iter().map(PathBuf::as_path)).collect();
        check(with_paths(command, &with), &paths);
        paths.iter().for_each(|path| drop(fs::remove_file(path)));
    }
}

#[test]
fn new_files_obey_umask_and_old_ones_keep_their_mode() {
    let dir = tempfile::tempdir().unwrap();
    each_writer(dir.path(), |command, paths| {
        let program = [command.get_program()].into_iter().chain(command.get_args());
        let mut shell = Command::new("sh");
        done(shell_with(&mut shell, "umask 027; exec \"$@\"", program));
        assert!(paths.iter().all(|path| mode(path) == 0o640), "{paths:?}");
        for kept in [0o600, 0o606] {
            for path in paths {
                fs::write(path, "old").unwrap();
                fs::set_permissions(path, PermissionsExt::from_mode(kept)).unwrap();
            }
            let program = [command.get_program()].into_iter().chain(command.get_args());
            done(shell_with(&mut Command::new("sh"), "umask 027; exec \"$@\"", program));
            assert!(paths.iter().all(|path| mode(path) == kept), "{paths:?}");
            assert!(paths.iter().all(|path| fs::metadata(path).unwrap().len() > 100));
        }
    });
}

fn shell_with<'a>(
    shell: &mut Command,
    script: &str,
    args: impl Iterator<Item = &'a OsStr>,
) -> Command {
    shell.args(["-c", script, "sh"]).args(args);
    std::mem::replace(shell, Command::new("sh"))
}

/// Root may give files away, and so what it replaces stays its owner's.
#[test]
fn owners_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run.json");
    fs::write(&out, "old").unwrap();
    if chown(&out, Some(1234), Some(4321)).is_err() {
        eprintln!("only root may give files away");
        return;
    }
    done(with_paths(&DRIFT, &[("--out", &out)]));
    let file = fs::metadata(&out).unwrap();
    assert_eq!((file.uid(), file.gid()), (1234, 4321));
    assert!(file.len() > 100);
}

/// A read-only file is not replaced, though its directory would allow it. Root may write to it.
#[test]
fn read_only_files() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run.json");
    fs::write(&out, "old").unwrap();
    fs::set_permissions(&out, PermissionsExt::from_mode(0o444)).unwrap();
    if File::options().write(true).open(&out).is_ok() {
        done(with_paths(&DRIFT, &[("--out", &out)]));
        assert_eq!(mode(&out), 0o444);
    } else {
        fails(with_paths(&DRIFT, &[("--out", &out)]), 2, &["run.json", "denied"]);
        assert_eq!(fs::read(&out).unwrap(), b"old");
    }
}

#[test]
fn links_are_written_through() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("far")).unwrap();
    each_writer(dir.path(), |mut command, paths| {
        // To a file, by way of a second link, and dangling.
        for (i, path) in paths.iter().enumerate() {
            if i == 0 {
                fs::write(at("far/0"), "old").unwrap();
            }
            symlink(format!("far/link{i}"), path).unwrap();
            symlink(i.to_string(), at(&format!("far/link{i}"))).unwrap();
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        for (i, path) in paths.iter().enumerate() {
            assert!(path.is_symlink() && at(&format!("far/link{i}")).is_symlink());
            let target = at(&format!("far/{i}"));
            assert!(!target.is_symlink() && fs::metadata(&target).unwrap().len() > 100);
            fs::remove_file(at(&format!("far/link{i}"))).unwrap();
            fs::remove_file(target).unwrap();
        }
    });
    symlink("loop2", at("loop1")).unwrap();
    symlink("loop1", at("loop2")).unwrap();
    fails(with_paths(&FORWARD, &[("--out", &at("loop1"))]), 2, &["loop1", "symbolic links"]);
    symlink("no/such/place", at("astray")).unwrap();
    fails(with_paths(&DRIFT, &[("--out", &at("astray"))]), 2, &["astray", "No such file"]);
    fails(with_paths(&DRIFT, &[("--out", Path::new("new/"))]), 2, &["new/", "directory"]);
}

#[test]
fn devices_and_pipes_are_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let null = at("null");
    symlink("/dev/null", &null).unwrap();
    each_writer(&at(""), |mut command, _| {
        // The same device may take several results.
        let flags: Vec<_> = command.get_args().map(OsStr::to_os_string).collect();
        let flags = flags.iter().map(|arg| {
            if Path::new(arg).is_absolute() { null.clone().into_os_string() } else { arg.clone() }
        });
        command = self::command(flags);
        done(command);
        assert!(null.is_symlink() && fs::metadata(&null).unwrap().file_type().is_char_device());
    });
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    let device = at("device");
    let made = Command::new("mknod").arg(&device).args(["c", "1", "3"]).output();
    if made.is_ok_and(|made| made.status.success()) {
        for command in [DRIFT, FORWARD] {
            done(with_paths(&command, &[("--out", &device)]));
            assert!(fs::symlink_metadata(&device).unwrap().file_type().is_char_device());
        }
    }
    let pipe = at("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for command in [DRIFT, FORWARD] {
        let child = with_paths(&command, &[("--out", &pipe)]).stdout(Stdio::null()).spawn();
        let mut received = vec![];
        File::open(&pipe).unwrap().read_to_end(&mut received).unwrap();
        assert!(child.unwrap().wait().unwrap().success());
        let file = at("file");
        done(with_paths(&command, &[("--out", &file)]));
        assert!(received.len() > 100 && received == fs::read(&file).unwrap());
        assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
    }
}

/// `/dev/stdout` is what the program has open, be it a pipe or a file.
#[cfg(target_os = "linux")]
#[test]
fn standard_output_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let printed = dir.path().join("printed");
    let stdout = || with_paths(&DRIFT, &[("--out", Path::new("/dev/stdout"))]);
    let table = done(command(DRIFT)).stdout;
    let to_pipe = done(stdout()).stdout;
    let report = to_pipe.strip_prefix(&table[..]).unwrap();
    assert!(serde_json::from_slice::<Value>(report).is_ok());
    assert!(stdout().stdout(File::create(&printed).unwrap()).status().unwrap().success());
    assert_eq!(fs::read(&printed).unwrap(), to_pipe);
    // By its own name it would be replaced, and the table lost.
    let mut twice = with_paths(&DRIFT, &[("--out", &printed)]);
    twice.stdout(File::create(&printed).unwrap());
    fails(twice, 2, &["printed", "standard output"]);
}

#[test]
fn an_output_is_no_input() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let model = at("model");
    fs::create_dir(&model).unwrap();
    write_checkpoint(&model, &gemma3_config(), &gemma3_specs("model."));
    fs::write(model.join("tokenizer.json"), "{}").unwrap();
    fs::write(at("ids"), "[1, 2]").unwrap();
    fs::write(at("text"), "a fox").unwrap();
    symlink("model/model.safetensors", at("link")).unwrap();
    fs::hard_link(model.join("model.safetensors"), at("hard")).unwrap();
    let before = fs::read(model.join("model.safetensors")).unwrap();
    let words = ["is an input too", "choose another name"];
    let ids = ("--ids", &*at("ids"));
    for name in [
        "model/model.safetensors",
        "model/../model/config.json",
        "model/tokenizer.json",
        "link",
        "hard",
        "ids",
    ] {
        for subcommand in ["forward", "drift"] {
            let flags = [("--model", &*model), ids, ("--out", &at(name))];
            fails(with_paths(&[subcommand], &flags), 2, &[&words[..], &[name]].concat());
        }
    }
    for flag in ["--out", "--html", "--csv"] {
        fails(with_paths(&["drift"], &[("--text", &at("text")), (flag, &at("text"))]), 2, &words);
    }
    assert_eq!(fs::read(model.join("model.safetensors")).unwrap(), before);
    // In shards.
    let map: Value =
        gemma3_specs("model.").iter().map(|s| (s.name.clone(), json!("shard"))).collect();
    fs::rename(model.join("model.safetensors"), model.join("shard")).unwrap();
    let index = model.join("model.safetensors.index.json");
    fs::write(&index, json!({ "weight_map": map }).to_string()).unwrap();
    for out in [&index, &model.join("shard")] {
        fails(with_paths(&["forward"], &[("--model", &model), ids, ("--out", out)]), 2, &words);
    }
    // What only lies beside the model is not read, and may be replaced.
    fs::write(model.join("run.json"), "old").unwrap();
    done(with_paths(&["drift"], &[("--model", &model), ids, ("--out", &model.join("run.json"))]));

    let [a, b] = ["a.json", "b.json"].map(at);
    done(with_paths(&DRIFT, &[("--out", &a)]));
    fs::copy(&a, &b).unwrap();
    symlink("a.json", at("a.csv")).unwrap();
    let reports = |command: &str, flag: &str, out: &Path| {
        let args = [OsStr::new(command), a.as_os_str(), b.as_os_str(), OsStr::new(flag)];
        self::command(args.into_iter().chain([out.as_os_str()]))
    };
    for command in ["report", "merge"] {
        fails(reports(command, "--csv", &at("a.csv")), 2, &words);
        fails(reports(command, "--html", &b), 2, &words);
    }
    // One of many figures.
    done(reports("report", "--figures", &at("figures")));
    let figure = fs::read_dir(at("figures")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(&figure).unwrap();
    symlink("../b.json", &figure).unwrap();
    fails(reports("report", "--figures", &at("figures")), 2, &words);
    assert_eq!(fs::read(&a).unwrap(), fs::read(&b).unwrap());
}

#[test]
fn two_outputs_are_two_files() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    symlink("new", at("link")).unwrap();
    for (a, b) in [("new", "new"), ("new", "./new"), ("link", "new")] {
        let flags = [("--html", &*at(a)), ("--csv", &*at(b))];
        fails(with_paths(&DRIFT, &flags), 2, &["two results cannot go to one file"]);
    }
    fs::write(at("new"), "old").unwrap();
    fs::hard_link(at("new"), at("hard")).unwrap();
    let flags = [("--svg", &*at("hard")), ("--png", &*at("link"))];
    fails(with_paths(&["plot"], &flags), 2, &["link", "two results", "hard"]);
    assert_eq!(fs::read(at("new")).unwrap(), b"old");
}

#[test]
fn names_that_are_no_text() {
    let dir = tempfile::tempdir().unwrap();
    let name = |bytes: &[u8]| dir.path().join(OsString::from_vec(bytes.to_vec()));
    let (text, out, html) = (name(b"t\xff\x1b[31m"), name(b"r\xfe.json"), name(b"p\xfd.html"));
    fs::write(&text, "a fox").unwrap();
    let flags = [("--text", &*text), ("--out", &out), ("--html", &html)];
    let output = done(with_paths(&["drift", "--json"], &flags));
    assert_eq!(output.stdout, fs::read(&out).unwrap());
    assert!(fs::metadata(html).unwrap().len() > 1000);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let command = report["origin"]["command"].as_str().unwrap();
    assert!(command.contains(r"--text $'") && command.ends_with(r"/t\xff\x1b[31m'"), "{command}");
    let missing = name(b"no\xff\x1b]0;title\x07");
    let output = fails(with_paths(&["inspect"], &[("--model", &missing)]), 2, &[r"\u{1b}]0;title"]);
    assert!(!output.stderr.contains(&0x1b));
}

/// Nothing that a checkpoint holds, or is called, steers the terminal.
#[test]
fn names_that_are_commands_to_terminals() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("\u{1b}[2J\u{9b}1mmodel");
    fs::create_dir(&model).unwrap();
    let ids = dir.path().join("ids");
    fs::write(&ids, "[1, 2]").unwrap();
    write_checkpoint(&model, &gemma3_config(), &gemma3_specs("model."));
    for subcommand in ["inspect", "drift", "forward"] {
        let mut flags = vec![("--model", &*model)];
        flags.extend((subcommand != "inspect").then_some(("--ids", &*ids)));
        let table = String::from_utf8(done(with_paths(&[subcommand], &flags)).stdout).unwrap();
        assert!(table.contains(r"\u{1b}[2J\u{9b}1mmodel"), "{table}");
        assert!(!table.contains(['\u{1b}', '\u{9b}']), "{table}");
    }
    fs::write(model.join("config.json"), "{\"model_type\": \"\\u001b[31m\\nx\"}").unwrap();
    let output = fails(with_paths(&["inspect"], &[("--model", &model)]), 2, &[r"\u{1b}[31m"]);
    assert!(!output.stderr.contains(&0x1b));
}

#[test]
fn texts_come_from_pipes_but_not_without_end() {
    let dir = tempfile::tempdir().unwrap();
    let piped = |args: &[&str], text: &[u8]| {
        let mut command = command(args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        output.stdout
    };
    let file = dir.path().join("text");
    fs::write(&file, "The quick brown fox").unwrap();
    let from_file = done(with_paths(&["forward"], &[("--text", &file)])).stdout;
    assert_eq!(piped(&["forward", "--text", "/dev/stdin"], b"The quick brown fox"), from_file);
    let ids = piped(&["forward", "--ids", "/dev/stdin"], b"[2, 5, 9]");
    assert!(String::from_utf8(ids).unwrap().contains("3 tokens"));
    let report = done(with_paths(&DRIFT, &[("--out", &file)])).stdout;
    assert_eq!(piped(&["report", "/dev/stdin"], &fs::read(&file).unwrap()), report);

    for args in [["drift", "--text"], ["forward", "--ids"], ["report", "--"], ["merge", "--"]] {
        let endless = args.into_iter().chain(["/dev/zero"]);
        fails(command(endless), 2, &["/dev/zero", "a device", "pass a file or a pipe"]);
        let huge = dir.path().join("huge");
        File::create(&huge).unwrap().set_len((1 << 30) + 1).unwrap();
        let huge = args.into_iter().chain([huge.to_str().unwrap()]);
        fails(command(huge), 2, &["huge", "longer than 1 GiB", "split it"]);
        fails(command(args.into_iter().chain(["/"])), 2, &["/: ", "directory"]);
    }
    // Nothing is no text, though no error of reading either.
    fails(with_paths(&["drift"], &[("--text", Path::new("/dev/null"))]), 2, &["empty"]);
}

#[test]
fn texts_are_utf8() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text");
    let forward = || with_paths(&["forward"], &[("--text", &text)]);
    fs::write(&text, b"caf\xe9 au lait").unwrap();
    fails(forward(), 2, &["text: not UTF-8", "0xe9 at position 3", "iconv"]);
    fs::write(&text, b"\xff\xfea\0").unwrap();
    fails(forward(), 2, &["0xff at position 0", "iconv -f UTF-16 -t UTF-8"]);
}

/// A file that is mounted by itself, as into a container, cannot be renamed onto. It is written to.
#[cfg(target_os = "linux")]
#[test]
fn mounted_files_are_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let script = "mount --bind inside mounted || exit 77; exec \"$@\"";
    let run = with_paths(&DRIFT, &[("--out", Path::new("mounted"))]);
    fs::write(dir.path().join("inside"), "old ".repeat(100_000)).unwrap();
    fs::write(dir.path().join("mounted"), "").unwrap();
    let program = [run.get_program()].into_iter().chain(run.get_args());
    let mut unshare = Command::new("unshare");
    unshare.args(["-m", "sh", "-c", script, "sh"]).args(program).current_dir(dir.path());
    match unshare.output() {
        Ok(output) if output.status.success() => {
            let report = fs::read(dir.path().join("inside")).unwrap();
            assert!(serde_json::from_slice::<Value>(&report).is_ok());
            assert_eq!(fs::read_dir(&dir).unwrap().count(), 2);
        }
        Ok(output) if ![Some(1), Some(77)].contains(&output.status.code()) => {
            panic!("{}", stderr(&output));
        }
        Ok(output) if stderr(&output).contains("cannot write") => panic!("{}", stderr(&output)),
        _ => eprintln!("nothing may be mounted here"),
    }
}

/// What was computed is printed, and the other files are written, if one cannot be.
#[cfg(target_os = "linux")]
#[test]
fn a_late_failure_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (full, csv) = (Path::new("/dev/full"), dir.path().join("run.csv"));
    let table = done(command(DRIFT)).stdout;
    let failing = with_paths(&DRIFT, &[("--html", full), ("--out", full), ("--csv", &csv)]);
    let output = fails(failing, 1, &["cannot write /dev/full: No space left"]);
    assert_eq!(stderr(&output).matches("/dev/full").count(), 2, "both are named");
    assert_eq!(output.stdout, table);
    assert!(fs::read_to_string(&csv).unwrap().lines().count() > 10);
    let output = fails(with_paths(&FORWARD, &[("--out", full)]), 1, &["/dev/full"]);
    assert_eq!(output.stdout, done(command(FORWARD)).stdout);
    fails(with_paths(&["plot"], &[("--png", full)]), 1, &["/dev/full"]);

    // Standard output is an output too.
    fs::remove_file(&csv).unwrap();
    let mut printing = with_paths(&DRIFT, &[("--csv", &csv)]);
    printing.stdout(File::options().write(true).open(full).unwrap());
    fails(printing, 1, &["standard output", "space"]);
    assert!(csv.exists());
    for args in [&DRIFT[..], &["inspect", "--json"], &["verify"], &["plot"]] {
        let mut child =
            command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).starts_with("error: cannot write standard output: Broken pipe"));
    }
}

#[test]
fn equal_runs_make_equal_files() {
    let dir = tempfile::tempdir().unwrap();
    let file = |i: usize| {
        let out = dir.path().join(i.to_string());
        done(with_paths(&FORWARD, &[("--out", &out)]));
        fs::read(out).unwrap()
    };
    let first = file(0);
    assert!((1..4).all(|i| file(i) == first));
}

/// Ctrl-C and SIGTERM end a run after the window at hand, with what there is, and replaces nothing by it. SIGKILL leaves the old
/// report and, at most, a file that says what it was to be.
#[test]
fn ended_in_the_middle() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let long: Vec<u32> = (0..60_000).map(|i| 4 + i * 37 % 900).collect();
    fs::write(at("ids.json"), json!(long).to_string()).unwrap();
    let ended_by = |signal: &str| {
        let flags = [
            ("--ids", &*at("ids.json")),
            ("--out", &at("out.json")),
            ("--csv", &at("new.csv")),
            ("--html", Path::new("/dev/null")),
        ];
        let mut command = with_paths(&["drift", "--json", "--window", "128"], &flags);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(1500));
        assert!(child.try_wait().unwrap().is_none(), "the run was over too soon");
        let id = child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
        child.wait_with_output().unwrap()
    };
    fs::write(at("out.json"), "the old report").unwrap();
    assert!(!ended_by("-KILL").status.success());
    assert_eq!(fs::read_to_string(at("out.json")).unwrap(), "the old report");
    for (signal, part, said) in
        [("-INT", "out.partial.json", "new.partial.csv"), ("-TERM", "out.partial2.json", "x")]
    {
        let output = ended_by(signal);
        assert_eq!(output.status.code(), Some(130));
        let drift: Value = serde_json::from_slice(&output.stdout).unwrap();
        let tokens = drift["tokens"].as_f64().unwrap();
        assert!(0.0 < tokens && tokens < 60_000.0 && drift["complete"] == false, "{tokens}");
        assert_eq!(fs::read_to_string(at("out.json")).unwrap(), "the old report");
        assert_eq!(fs::read(at(part)).unwrap(), output.stdout);
        let line = stderr(&output);
        assert!(line.starts_with("interrupted: ") && line.contains(part), "{line}");
        assert_eq!(line.contains("new.csv"), said == "x", "new at first: {line}");
    }
    let mut files: Vec<_> =
        fs::read_dir(&dir).unwrap().map(|file| file.unwrap().file_name()).collect();
    files.sort();
    let expected = [
        "ids.json",
        "new.csv",
        "new.partial.csv",
        "out.json",
        "out.partial.json",
        "out.partial2.json",
    ];
    assert_eq!(files, expected);
}

/// The narrowest and the widest ranges are drawn in every form.
#[test]
fn ranges_at_their_limits() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for range in ["0:1e-300", "-1e-300:1e-300", "999.99:1000", "-1000:1000", "-1e-40:0"] {
        let plot = ["plot", "--derivative", "--range", range];
        let text = String::from_utf8(done(command(plot)).stdout).unwrap();
        assert!(text.contains("GELU tanh"));
        let flags = [("--svg", &*at("a.svg")), ("--csv", &at("a.csv"))];
        done(with_paths(&plot, &flags));
        let svg = fs::read_to_string(at("a.svg")).unwrap();
        assert!(!svg.contains("NaN") && !svg.contains("\"inf"), "{range}");
    }
}
