//! What others write of their models is read as it is meant, or refused in one line.

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use gemma_mlp_drift::compare::{Dump, DumpText, Names, Point, formats};
use proptest::prelude::*;
use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use tempfile::{TempDir, tempdir};

const OWN: [(&str, &str); 2] = [("format", "gemma-mlp-dump/1"), ("framework", "jax")];

fn read(path: impl AsRef<Path>) -> Result<Dump> {
    Ok(formats::read(path.as_ref(), &Names::default())?)
}

/// The error about a path, which is one line that names it.
fn refused(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    let error = read(path).map(|dump| format!("{dump:?}")).expect_err("refused").to_string();
    assert!(error.contains(&path.display().to_string()), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

fn remarks(dump: &Dump) -> String {
    dump.remarks.iter().map(|remark| format!("{remark}\n")).collect()
}

/// Numbers from 0 on.
fn count(shape: &[usize]) -> Tensor {
    let len: usize = shape.iter().product();
    let all = Tensor::arange(0f32, len as f32, &Device::Cpu).expect("numbers");
    all.reshape(shape).expect("as many as the shape asks for")
}

fn ids(shape: &[usize], dtype: DType) -> Tensor {
    count(shape).to_dtype(dtype).expect("ids")
}

fn write(path: &Path, tensors: &[(&str, Tensor)], metadata: &[(&str, &str)]) -> Result<()> {
    let text = |&(key, value): &(&str, &str)| (key.to_string(), value.to_string());
    let metadata: HashMap<_, _> = metadata.iter().map(text).collect();
    let bytes = safetensors::serialize(tensors.iter().map(|(n, t)| (*n, t)), Some(metadata))?;
    Ok(fs::write(path, bytes)?)
}

fn values(text: &DumpText, point: &str) -> Result<Vec<f64>> {
    let point: Point = point.parse()?;
    let plane = text.planes.get(&point).with_context(|| format!("no {point}"))?;
    Ok(plane.tensor()?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

fn dir() -> Result<TempDir> {
    Ok(tempdir()?)
}

#[test]
fn our_own_format_is_split_into_texts() -> Result<()> {
    let dir = dir()?;
    let path = dir.path().join("dump.safetensors");
    let tensors = [
        ("tokens", ids(&[2, 3], DType::I64)),
        ("hidden.0", count(&[2, 3, 4]).to_dtype(DType::BF16)?),
        ("layers.0.attn.q", count(&[2, 3, 2, 5])),
        ("layers.0.attn.k", count(&[2, 3, 5])),
        ("positions", ids(&[2], DType::U8)),
        ("logits", count(&[2, 2, 7])),
        ("mask", count(&[2, 3])),
        ("normed", count(&[6])),
    ];
    write(&path, &tensors, &OWN)?;
    let dump = read(&path)?;
    assert_eq!((dump.format, dump.texts.len()), ("safetensors", 2));
    assert_eq!(dump.metadata["framework"], "jax");
    let second = &dump.texts[1];
    assert_eq!(second.tokens, Some(vec![3, 4, 5]));
    assert_eq!(second.logit_positions, Some(vec![0, 1]));
    assert_eq!(values(second, "hidden.0")?, (12..24).map(f64::from).collect::<Vec<_>>());
    assert_eq!(values(second, "logits")?[0], 14.0);
    let plane = |name: &str| &second.planes[&name.parse().expect("a point")];
    assert_eq!(plane("layers.0.attn.q").shape(), [3, 2, 5]);
    assert_eq!(plane("layers.0.attn.k").shape(), [3, 5]);
    assert_eq!(plane("hidden.0").dtype(), DType::BF16);
    let row = plane("layers.0.attn.q").rows(1..2)?;
    assert_eq!(row.dims(), [1, 2, 5]);
    assert_eq!(row.flatten_all()?.to_vec1::<f32>()?[0], 40.0);
    assert!(plane("hidden.0").rows(2..4).is_err());
    let said = remarks(&dump);
    assert!(said.contains("warning: tensors that are not used: normed (shape [6]"), "{said}");
    assert!(said.contains("note: tensors of unknown names, not used: mask; --map"));
    Ok(())
}

#[test]
fn a_batch_is_an_axis_or_lies_in_the_rows() -> Result<()> {
    let dir = dir()?;
    let path = dir.path().join("dump.safetensors");
    for (tokens, hidden, texts) in [
        (&[3][..], &[3, 4][..], 1),
        (&[3], &[1, 3, 4], 1),
        (&[1, 3], &[3, 4], 1),
        (&[2, 3], &[6, 4], 2),
    ] {
        write(&path, &[("tokens", ids(tokens, DType::U32)), ("hidden.0", count(hidden))], &OWN)?;
        let dump = read(&path)?;
        assert_eq!(dump.texts.len(), texts);
        for (i, text) in dump.texts.iter().enumerate() {
            let hidden: Vec<_> = (12 * i..12 * i + 12).map(|n| n as f64).collect();
            assert_eq!(values(text, "hidden.0")?, hidden);
        }
        assert_eq!(remarks(&dump), "");
    }
    // Another batch is not used, and if there is nothing else, that is an error.
    write(&path, &[("tokens", ids(&[2, 3], DType::U32)), ("hidden.0", count(&[3, 3, 4]))], &OWN)?;
    assert!(refused(&path).contains("a batch of 3, where the dump has 2"));
    Ok(())
}

#[test]
fn token_ids_may_be_floats_and_must_be_ids() -> Result<()> {
    let dir = dir()?;
    let path = dir.path().join("dump.safetensors");
    let with = |tokens: Tensor| -> Result<()> {
        write(&path, &[("tokens", tokens), ("hidden.0", count(&[3, 4]))], &OWN)
    };
    with(count(&[3]))?;
    let dump = read(&path)?;
    assert_eq!(dump.texts[0].tokens, Some(vec![0, 1, 2]));
    assert!(remarks(&dump).contains("stored as floating-point numbers"));
    for (odd, part) in [
        (Tensor::new(&[0.5f32, 1.0, 2.0], &Device::Cpu)?, "number 0, from 0 on, is not a whole"),
        (Tensor::new(&[0f32, f32::NAN, 2.0], &Device::Cpu)?, "number 1"),
        (Tensor::new(&[0i64, 1, -1], &Device::Cpu)?, "number 2"),
        (Tensor::new(&[0i64, 1 << 40, 1], &Device::Cpu)?, "number 1"),
        (ids(&[1, 1, 3], DType::I64), "[T] or [B, T]"),
        (Tensor::zeros((0,), DType::I64, &Device::Cpu)?, "there are none"),
    ] {
        with(odd)?;
        let error = refused(&path);
        assert!(error.contains("tensor 'tokens'") && error.contains(part), "{error}");
    }
    for (positions, part) in
        [(&[1][..], "1 positions for 3 rows"), (&[4], "4 positions for 3 rows")]
    {
        let positions = ids(positions, DType::I64);
        let tokens = ids(&[3], DType::I64);
        write(
            &path,
            &[("tokens", tokens), ("logits", count(&[3, 4])), ("positions", positions)],
            &OWN,
        )?;
        assert!(refused(&path).contains(part));
    }
    Ok(())
}

#[test]
fn other_names_are_read_by_framework_and_by_map() -> Result<()> {
    let dir = dir()?;
    let path = dir.path().join("dump.safetensors");
    let tensors = [
        ("input_ids", ids(&[3], DType::I64)),
        ("model.layers.0.mlp", count(&[1, 3, 4])),
        ("model.layers.0.mlp.down_proj", count(&[1, 3, 4])),
        ("block_7/out", count(&[3, 4])),
    ];
    write(&path, &tensors, &[("format", "pt")])?;
    let dump = read(&path)?;
    assert_eq!(dump.texts[0].planes.len(), 1);
    let said = remarks(&dump);
    for part in [
        "does not say that its format is gemma-mlp-dump/1",
        "tensors of unknown names, not used: block_7/out; --map",
        "tensors that hold what others hold too, not used: model.layers.0.mlp.down_proj",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let map = r#"{"block_{N}/out": "hidden.{N}", "model.layers.0.mlp": null, "gone": "logits"}"#;
    let dump = formats::read(&path, &Names::from_json("map.json", map)?)?;
    assert_eq!(values(&dump.texts[0], "hidden.7")?.len(), 12);
    let said = remarks(&dump);
    assert!(said.contains("warning: names in the map that the dump has not: gone"), "{said}");
    // Two of one kind are refused, with the way out.
    let two = [("model.layers.0.mlp", count(&[3, 4])), ("b.layers.0.mlp", count(&[3, 4]))];
    write(&path, &two, &[])?;
    let error = refused(&path);
    assert!(
        error.contains("'b.layers.0.mlp' and 'model.layers.0.mlp' are both layers.0.mlp.output")
    );
    let map = r#"{"b.layers.0.mlp": null}"#;
    assert!(formats::read(&path, &Names::from_json("map.json", map)?).is_ok());
    Ok(())
}

#[test]
fn shards_are_one_dump() -> Result<()> {
    let dir = dir()?;
    let shard = |name: &str| dir.path().join(name);
    write(&shard("a.safetensors"), &[("tokens", ids(&[3], DType::I64))], &OWN)?;
    write(&shard("b.safetensors"), &[("hidden.0", count(&[3, 4]))], &[("framework", "keras")])?;
    let dump = read(dir.path())?;
    assert_eq!(values(&dump.texts[0], "hidden.0")?.len(), 12);
    assert!(
        remarks(&dump)
            .contains("otherwise of themselves than those before them, which count: framework of")
    );
    fs::write(shard("notes.txt"), "hello")?;
    let index = shard("dump.safetensors.index.json");
    fs::write(&index, r#"{"weight_map": {"hidden.0": "b.safetensors"}}"#)?;
    assert!(
        remarks(&read(dir.path())?).contains("files in the folder that are not read: notes.txt")
    );
    fs::write(&index, r#"{"weight_map": {"hidden.1": "d.safetensors"}}"#)?;
    let error = refused(dir.path());
    assert!(error.contains("it names 'd.safetensors', which is not there"), "{error}");
    fs::remove_file(&index)?;
    write(&shard("c.safetensors"), &[("hidden.0", count(&[3, 4]))], &[])?;
    assert!(refused(dir.path()).contains("tensor 'hidden.0' is in two of its files"));
    Ok(())
}

#[test]
fn what_is_no_dump_is_named() -> Result<()> {
    let dir = dir()?;
    let path = dir.path().join("dump.safetensors");
    let refuse = |bytes: &[u8]| -> Result<String> {
        fs::write(&path, bytes)?;
        Ok(refused(&path))
    };
    for (bytes, part) in [
        (&b""[..], "empty"),
        (b"\x80\x02}q\x00.", "a pickle"),
        (
            b"PK\x03\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x0c\0\0\0x/data.pkl..",
            "--script transformers",
        ),
        (b"GGUF\x03\0\0\0", "weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff{}", "header too large"),
        (b"\x10\0\0\0\0\0\0\0{}", "ends within its header"),
        (b"\x93NUMPY\x01\0", "ends within its header"),
    ] {
        let error = refuse(bytes)?;
        assert!(error.contains(part), "{error}");
    }
    assert!(refused(dir.path().join("gone")).contains("No such file"));
    fs::remove_file(&path)?;
    assert!(refused(dir.path()).contains("empty"));
    fs::write(dir.path().join("notes.txt"), "hello")?;
    assert!(refused(dir.path()).contains("a folder with notes.txt"));
    assert!(refused(dir.path().join("notes.txt")).contains("not a dump of a known format"));
    write(&path, &[("tokens", ids(&[3], DType::I64))], &[("format", "gemma-mlp-dump/7")])?;
    assert!(refused(&path).contains("'gemma-mlp-dump/7' is not known"));
    write(&path, &[("tokens", ids(&[3], DType::I64))], &OWN)?;
    assert!(refused(&path).contains("nothing that was computed"));
    write(&path, &[("model.layers.0.mlp.up_proj.weight", count(&[3, 4]))], &[])?;
    assert!(refused(&path).contains("weights of a model"));
    write(&path, &[("a", count(&[3, 4]))], &[])?;
    assert!(refused(&path).contains("it has a; say with --map"));
    write(&path, &[("hidden.0", ids(&[3, 4], DType::I64))], &OWN)?;
    assert!(refused(&path).contains("stored as I64"));
    let bytes = fs::read(&path)?;
    assert!(refuse(&bytes[..bytes.len() - 1])?.contains("its tensors end at byte"));
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_pipe_is_not_waited_for() -> Result<()> {
    let dir = dir()?;
    let pipe = dir.path().join("pipe.safetensors");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status()?.success());
    assert!(refused(&pipe).contains("not a file"));
    Ok(())
}

/// A file that is written to while it is read is an error, and no other numbers.
#[test]
fn a_change_is_noticed() -> Result<()> {
    let dir = dir()?;
    let path = dir.path().join("dump.safetensors");
    write(&path, &[("hidden.0", count(&[3, 4]))], &OWN)?;
    let dump = read(&path)?;
    fs::OpenOptions::new().append(true).open(&path)?.write_all(b"x")?;
    let error = values(&dump.texts[0], "hidden.0").expect_err("changed").to_string();
    assert!(error.contains("changed since it was opened"), "{error}");
    Ok(())
}

#[test]
fn larqls_planes_are_layers() -> Result<()> {
    let dir = dir()?;
    let file = |name: &str| dir.path().join(name);
    let manifest = |extra: &str| {
        format!(
            r#"{{"engine": "hf-torch-f32", "model": "google/gemma-3-270m", "num_layers": 2, "seq_len": 3,
            "hidden_size": 4, "token_ids": [2, 7, 9], "dtype": "f32-le", {extra}}}"#
        )
    };
    let planes = r#""planes": ["layer_000.f32", "layer_001.f32", "layer_002.f32"]"#;
    fs::write(file("layer_dump.json"), manifest(planes))?;
    let bytes: Vec<u8> = (0..12).flat_map(|n| (n as f32).to_le_bytes()).collect();
    fs::write(file("layer_000.f32"), &bytes)?;
    fs::write(file("layer_002.f32"), &bytes)?;
    let dump = read(dir.path())?;
    assert_eq!((dump.format, &dump.metadata["framework"][..]), ("larql", "transformers"));
    let text = &dump.texts[0];
    assert_eq!(text.tokens, Some(vec![2, 7, 9]));
    assert_eq!(values(text, "embedding")?[11], 11.0);
    assert_eq!(values(text, "hidden.1")?[1], 1.0);
    assert!(
        remarks(&dump)
            .contains("planes of layer_dump.json that are not in the folder: layer_001.f32")
    );
    fs::write(file("layer_002.f32"), &bytes[1..])?;
    let error = read(dir.path()).expect_err("cut short").to_string();
    assert!(error.contains("layer_002.f32: 47 bytes, where f32-le of [3, 4]"), "{error}");
    for (planes, part) in [
        (r#""planes": ["../layer_000.f32"]"#, "not a plain file name"),
        (r#""planes": []"#, "none of its planes"),
        (r#""planes": ["layer_000.f32", "layer_000.f32"]"#, "two planes are embedding"),
        (r#""planes": 1"#, "malformed JSON"),
    ] {
        fs::write(file("layer_dump.json"), manifest(planes))?;
        let error = read(dir.path()).expect_err("refused").to_string();
        assert!(error.contains(part) && error.contains("layer_dump.json"), "{error}");
    }
    Ok(())
}

/// An array as `numpy.save` writes it.
fn npy(descr: &str, shape: &str, body: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let len = (header.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\0", &len[..], header.as_bytes(), body].concat()
}

fn floats(len: usize) -> Vec<u8> {
    (0..len).flat_map(|n| (n as f32).to_le_bytes()).collect()
}

#[test]
fn an_array_is_what_its_file_is_called() -> Result<()> {
    let dir = dir()?;
    let file = |name: &str| dir.path().join(name);
    fs::write(file("hidden.3.npy"), npy("<f4", "(3, 4)", &floats(12)))?;
    let dump = read(file("hidden.3.npy"))?;
    assert_eq!((dump.format, values(&dump.texts[0], "hidden.3")?[5]), ("npy", 5.0));
    fs::write(file("tokens.npy"), npy("<i4", "(3,)", &[1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]))?;
    assert!(refused(file("tokens.npy")).contains("nothing that was computed"));
    let dump = read(dir.path())?;
    assert_eq!(dump.texts[0].tokens, Some(vec![1, 2, 3]));
    let odd = file("out.npy");
    fs::write(&odd, npy("<f4", "(3, 4)", &floats(12)))?;
    assert!(refused(&odd).contains("'out' does not say of which point; rename the file"));
    let map = Names::from_json("map.json", r#"{"out": "logits"}"#)?;
    assert_eq!(values(&formats::read(&odd, &map)?.texts[0], "logits")?.len(), 12);
    fs::write(file("hidden.3.npy"), npy(">f4", "(3, 4)", &floats(12)))?;
    assert!(refused(file("hidden.3.npy")).contains("big-endian"));
    fs::write(file("hidden.3.npy"), npy("|O", "(3, 4)", b"\x80\x04."))?;
    assert!(refused(file("hidden.3.npy")).contains("a pickle"));
    Ok(())
}

fn npz(path: &Path, method: zip::CompressionMethod, entries: &[(&str, Vec<u8>)]) -> Result<()> {
    let mut archive = zip::ZipWriter::new(fs::File::create(path)?);
    for (name, bytes) in entries {
        let options = zip::write::SimpleFileOptions::default().compression_method(method);
        archive.start_file(*name, options)?;
        archive.write_all(bytes)?;
    }
    archive.finish()?;
    Ok(())
}

#[test]
fn archives_are_read_stored_and_compressed() -> Result<()> {
    use zip::CompressionMethod::{Deflated, Stored};
    let dir = dir()?;
    let path = dir.path().join("dump.npz");
    for method in [Stored, Deflated] {
        let entries = [
            ("tokens.npy", npy("<i8", "(1, 2)", &[5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0])),
            ("logits.npy", npy("<f4", "(1, 2, 9)", &floats(18))),
            ("readme.txt", b"hello".to_vec()),
        ];
        npz(&path, method, &entries)?;
        let dump = read(&path)?;
        assert_eq!((dump.format, dump.texts[0].tokens.clone()), ("npz", Some(vec![5, 6])));
        assert_eq!(values(&dump.texts[0], "logits")?[17], 17.0);
        assert!(remarks(&dump).contains("entries that are no arrays, not used: readme.txt"));
    }
    npz(&path, Stored, &[("logits.npy", npy("<f4", "(2, 9)", &floats(17)))])?;
    assert!(refused(&path).contains("logits.npy: an array of shape [2, 9] in F32, and 68 bytes"));
    let bytes = fs::read(&path)?;
    fs::write(&path, &bytes[..bytes.len() - 30])?;
    assert!(refused(&path).contains("a damaged zip archive"));
    Ok(())
}

/// Calls as transformers 5.24 writes them, of a model of random weights.
const TREE: &str = r#"{"module_path": "Gemma3ForCausalLM", "inputs": {"args": [], "kwargs": {"input_ids":
    {"shape": "torch.Size([1, 2])", "dtype": "torch.int64", "value": ["tensor([[2, 5]])"]}}}, "children": [
  {"module_path": "Gemma3ForCausalLM.model", "inputs": {"kwargs": {"input_ids":
      {"shape": "torch.Size([1, 2])", "dtype": "torch.int64", "value": ["tensor([[2, 5]])"]},
      "attention_mask": "None", "use_cache": "None"}}, "children": [
    {"module_path": "Gemma3ForCausalLM.model.layers.0", "inputs": {"args": [{"shape": "torch.Size([1, 2, 8])",
        "dtype": "torch.float32", "value": ["tensor([[[ 4.0045e-02, -5.8558e-03, -6.5698e-02,  ..., -7.0226e-02,  1.1506e-01,  7.7084e-03],",
        "         [-2.0499e-02,  2.0974e-03,  1.2302e-02,  ..., -8.7409e-03, -4.8812e-02,  1.3737e-01]]])"],
        "mean": "tensor(-9.6077e-03)"}]}, "children": [
      {"module_path": "Gemma3ForCausalLM.model.layers.0.mlp", "inputs": {"args": []}, "children": [
        {"module_path": "Gemma3ForCausalLM.model.layers.0.mlp.gate_proj", "inputs": null, "outputs":
          {"shape": "torch.Size([1, 2, 2])", "dtype": "torch.float32", "value": ["tensor([[[1.0000e+00, nan],", " [-inf, 2.5000e-01]]])"]}}]}]},
    {"module_path": "Gemma3ForCausalLM.model.norm", "inputs": {"args": [{"shape": "torch.Size([1, 2, 1])",
        "dtype": "torch.float32", "value": ["tensor([[[1.],", " [2.]]])"]}]}}]}]}"#;

#[test]
fn a_printed_tree_is_glimpses() -> Result<()> {
    let dir = dir()?;
    let path = dir.path().join("Gemma3ForCausalLM_debug_tree_FULL_TENSORS.json");
    fs::write(&path, TREE)?;
    for dump in [read(&path)?, read(dir.path())?] {
        assert_eq!(dump.format, "transformers' model_addition_debugger");
        assert_eq!(
            (&dump.metadata["framework"][..], &dump.metadata["dtype"][..]),
            ("transformers", "f32")
        );
        let text = &dump.texts[0];
        assert_eq!(text.tokens, Some(vec![2, 5]));
        let glimpse = |name: &str| &text.glimpses[&name.parse().expect("a point")];
        let embedding = glimpse("embedding");
        assert_eq!((&embedding.shape[..], embedding.values.len()), (&[2, 8][..], 12));
        assert_eq!((embedding.values[3], embedding.values[11]), ((5, -7.0226e-2), (15, 1.3737e-1)));
        assert!((embedding.precision - 5e-6).abs() < 1e-12);
        assert_eq!(glimpse("layers.0.mlp.gate").values[2].1, f64::NEG_INFINITY);
        // What enters the last norm.
        assert_eq!(glimpse("hidden.0").values, [(0, 1.0), (1, 2.0)]);
        assert!(remarks(&dump).contains("as PyTorch prints them"));
    }
    fs::write(&path, TREE.replace("[1, 2, 2]", "[1, 2, 3]"))?;
    assert!(refused(&path).contains("gate_proj_outputs': not printed as a tensor of shape"));
    fs::remove_file(&path)?;
    fs::write(dir.path().join("Gemma3ForCausalLM_debug_tree_SUMMARY.json"), "{}")?;
    assert!(refused(dir.path()).contains("a summary without numbers"));
    Ok(())
}

#[test]
fn a_file_for_each_tensor_is_read() -> Result<()> {
    let dir = dir()?;
    let put = |name: &str, tensor: Tensor| -> Result<()> {
        let path = dir.path().join(format!("Gemma3ForCausalLM{name}.safetensors"));
        write(&path, &[("data", tensor)], &[])
    };
    put("_inputs_kwargs_input_ids", ids(&[1, 3], DType::I64))?;
    put(".model_inputs_kwargs_input_ids", ids(&[1, 3], DType::I64))?;
    put(".model.embed_tokens_inputs_args_0", ids(&[1, 3], DType::I64))?;
    put(".model.layers.0_inputs_args_0", count(&[1, 3, 4]))?;
    put(".model.layers.0.mlp.down_proj_inputs_args_0", count(&[1, 3, 5]))?;
    put(".model.layers.0.mlp.down_proj_outputs", count(&[1, 3, 4]))?;
    put(".model.layers.0.self_attn_inputs_kwargs_position_ids", ids(&[1, 3], DType::I64))?;
    put(".model.norm_inputs_args_0", count(&[1, 3, 4]))?;
    put("_outputs_logits", count(&[1, 3, 6]))?;
    put(".lm_head_outputs", count(&[1, 3, 6]))?;
    let dump = read(dir.path())?;
    let text = &dump.texts[0];
    assert_eq!(text.tokens, Some(vec![0, 1, 2]));
    let points: Vec<_> = text.planes.keys().map(ToString::to_string).collect();
    let all = ["embedding", "layers.0.mlp.product", "layers.0.mlp.output", "hidden.0", "logits"];
    assert_eq!(points, all);
    assert_eq!(values(text, "layers.0.mlp.product")?[14], 14.0);
    Ok(())
}

#[test]
fn tensors_in_memory_are_a_dump() -> Result<()> {
    let tensors = [
        ("tokens".to_string(), ids(&[2, 3], DType::I64)),
        ("hidden.0".to_string(), count(&[2, 3, 4])),
    ];
    let dump = Dump::from_tensors("memory", Default::default(), tensors, &Names::default())?;
    assert_eq!(dump.texts[1].tokens, Some(vec![3, 4, 5]));
    assert_eq!(values(&dump.texts[1], "hidden.0")?[0], 12.0);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is done to a file of any format, it is read or refused in one line.
    #[test]
    fn damaged_files_are_read_or_refused(which in 0usize..4, at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let dir = dir().expect("a directory");
        let path = dir.path().join("logits.bin");
        match which {
            0 => write(&path, &[("tokens", ids(&[2, 3], DType::I64)), ("logits", count(&[2, 3, 4]))], &OWN).expect("a file"),
            1 => fs::write(&path, npy("<f4", "(3, 4)", &floats(12))).expect("a file"),
            2 => npz(&path, zip::CompressionMethod::Deflated, &[("logits.npy", npy("<f4", "(3, 4)", &floats(12)))]).expect("a file"),
            _ => fs::write(&path, TREE).expect("a file"),
        }
        let mut bytes = fs::read(&path).expect("a file");
        let at = at.index(bytes.len());
        match cut {
            true => bytes.truncate(at),
            false => bytes[at] = byte,
        }
        fs::write(&path, bytes).expect("a file");
        match read(&path) {
            Ok(dump) => {
                for plane in dump.texts.iter().flat_map(|text| text.planes.values()) {
                    let tensor = plane.tensor().expect("numbers");
                    prop_assert_eq!(tensor.dims(), plane.shape());
                }
            }
            Err(error) => prop_assert_eq!(error.to_string().lines().count(), 1),
        }
    }
}
