//! Quantised safetensors checkpoints have the weights that the libraries dequantise them to
//! (`scripts/goldens_quantised.py`).

use crate::common::{Spec, rel_l2, to_f64, write_safetensors};
use candle_core::{DType, Device};
use gemma_mlp::checkpoint::{Codes, Level, Storage, Tensors, inspect};
use gemma_mlp::{Checkpoint, Gemma};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const NAMES: [&str; 5] = ["fp8", "fp8-exponents", "compressed-float", "compressed-int", "gemma"];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/quantised").join(name)
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(golden(name)).unwrap()
}

fn logits(checkpoint: &Checkpoint, name: &str) -> candle_core::Tensor {
    let file = golden(name).join("logits.safetensors");
    let ids = candle_core::safetensors::load(file, &Device::Cpu).unwrap()["ids"].clone();
    let gemma = Gemma::load(checkpoint, &Device::Cpu, DType::F32).unwrap();
    gemma.forward(&ids.to_dtype(DType::U32).unwrap()).unwrap()
}

/// Some parts of a tensor, read alone, are those of the whole.
fn assert_parts(tensors: &Tensors, name: &str, whole: &[f64]) {
    let numbers = tensors.numbers(name).unwrap();
    let (len, columns) = (whole.len(), tensors.shape(name).unwrap()[1]);
    assert_eq!(numbers.len(), len);
    for range in [columns..len, 0..1, 5..columns + 3, len - 1..len, 7..7, columns..2 * columns] {
        let part = numbers.tensor(range.clone(), &[range.len()]).unwrap();
        assert_eq!(to_f64(&part), whole[range]);
    }
    assert!(numbers.tensor(0..len + 1, &[len + 1]).is_err());
}

#[test]
fn weights_are_what_the_libraries_make_of_them() {
    for name in NAMES {
        let checkpoint = open(name);
        let tensors = checkpoint.tensors();
        let listed = fs::read_to_string(golden(name).join("expected.json")).unwrap();
        let listed: BTreeMap<String, String> = serde_json::from_str(&listed).unwrap();
        // Scales and shapes are no tensors of the model.
        let names: Vec<_> = tensors.entries().map(|(name, ..)| name).collect();
        assert_eq!(names, listed.keys().collect::<Vec<_>>(), "{name}");
        for (tensor, digest) in &listed {
            let shape = tensors.shape(tensor).unwrap();
            let whole = tensors.load(tensor, shape, DType::F32, &Device::Cpu).unwrap();
            let numbers: Vec<f32> = whole.flatten_all().unwrap().to_vec1().unwrap();
            let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
            let own: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(&own, digest, "{name}: {tensor}");
            if shape.len() == 2 {
                assert_parts(tensors, tensor, &to_f64(&whole));
            }
            assert_eq!(tensors.count_nonfinite(tensor).unwrap(), 0);
        }
        let own = logits(&checkpoint, name);
        let file = golden(name).join("logits.safetensors");
        let theirs = &candle_core::safetensors::load(file, &Device::Cpu).unwrap()["logits"];
        let distance = rel_l2(theirs, &own);
        assert!(distance < 2e-6, "{name}: {distance:e}");
        // Out of the file, row by row.
        assert_eq!(to_f64(&logits(&open(name).streamed(), name)), to_f64(&own), "{name}");
    }
}

#[test]
fn what_is_dequantised_and_left_out_is_said() {
    let quantised = "they are dequantised to f32";
    for (name, counts, left_out) in [
        (
            "fp8",
            "11 of 28 tensors are quantised by fp8 (FP8_E4M3: 11)",
            Some("activation_scheme asks"),
        ),
        ("fp8-exponents", "FP8_E4M3: 6", Some("activation_scheme asks")),
        ("compressed-float", "FP8_E4M3: 13", Some("input_activations, input_scale ask")),
        ("compressed-int", "(INT3: 1, INT4: 3, INT5: 2, INT8: 7)", Some("input_activations asks")),
        (
            "gemma",
            "(INT2: 2, INT4: 9, INT8: 3)",
            Some("input_activation_scale, output_activation_scale ask"),
        ),
    ] {
        let checkpoint = open(name);
        let remarks = checkpoint.remarks();
        let about = |words: &str| remarks.iter().find(|remark| remark.text.contains(words));
        let said = about(quantised).unwrap_or_else(|| panic!("{name}: {remarks:?}"));
        assert!(said.level == Level::Note && said.text.contains(counts), "{said}");
        let warned = about("activations are not rounded");
        assert_eq!(warned.map(|remark| remark.level), left_out.map(|_| Level::Warning));
        assert!(warned.is_none_or(|remark| remark.text.contains(left_out.unwrap())), "{warned:?}");
        // Nothing of scales that are not applied, or tensors that are not used.
        assert!(
            remarks.iter().all(|r| !r.text.contains("not applied") && !r.text.contains("not used"))
        );
        assert_eq!(inspect(&checkpoint, |_| {}).unwrap().remarks, remarks);
    }
    let dtypes = inspect(&open("gemma"), |_| {}).unwrap().dtypes;
    assert_eq!(json!(dtypes), json!({"BF16": 14, "INT2": 2, "INT4": 9, "INT8": 3}));
}

/// Of weights alone there is nothing to warn of.
#[test]
fn weights_alone_are_a_note() {
    let dir = changed("compressed-int", |config, specs| {
        for group in config["config_groups"].as_object_mut().unwrap().values_mut() {
            group["input_activations"] = Value::Null;
        }
        // Shards: the scales in another one than the codes.
        specs.retain(|spec| !spec.name.ends_with("weight_scale"));
    });
    let scales =
        changed("compressed-int", |_, specs| specs.retain(|s| s.name.ends_with("weight_scale")));
    let mut index = serde_json::Map::new();
    for (from, to) in [(&dir, "a.safetensors"), (&scales, "b.safetensors")] {
        let bytes = fs::read(from.path().join("model.safetensors")).unwrap();
        for name in SafeTensors::deserialize(&bytes).unwrap().names() {
            index.insert(name.to_string(), to.into());
        }
        fs::write(dir.path().join(to), bytes).unwrap();
    }
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let index = json!({"weight_map": index}).to_string();
    fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert!(checkpoint.remarks().iter().all(|remark| !remark.is_warning()));
    let whole = open("compressed-int");
    let name = "compressed-int";
    assert_eq!(to_f64(&logits(&checkpoint, name)), to_f64(&logits(&whole, name)));
}

/// A golden checkpoint with something else in it.
fn changed(name: &str, change: impl FnOnce(&mut Value, &mut Vec<Spec>)) -> TempDir {
    let config = fs::read_to_string(golden(name).join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    let bytes = fs::read(golden(name).join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut specs: Vec<_> = tensors
        .iter()
        .map(|(name, view)| Spec {
            name: name.into(),
            shape: view.shape().into(),
            dtype: view.dtype(),
            bytes: view.data().into(),
        })
        .collect();
    change(&mut config["quantization_config"], &mut specs);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    write_safetensors(&dir.path().join("model.safetensors"), &specs);
    dir
}

/// What opening and reading all of a changed checkpoint fails with: one line about the input.
#[track_caller]
fn refused(name: &str, words: &[&str], change: impl FnOnce(&mut Value, &mut Vec<Spec>)) {
    let dir = changed(name, change);
    let error = match Checkpoint::open(dir.path()) {
        Err(error) => error.to_string(),
        Ok(checkpoint) => {
            let gemma = Gemma::load(&checkpoint, &Device::Cpu, DType::F32);
            gemma.expect_err("it is refused").to_string()
        }
    };
    assert!(!error.contains('\n'), "{error}");
    for word in words {
        assert!(error.contains(word), "'{word}' is not in: {error}");
    }
}

const GATE: &str = "model.layers.0.mlp.gate_proj";

fn spec<'a>(specs: &'a mut [Spec], name: &str) -> &'a mut Spec {
    specs.iter_mut().find(|spec| spec.name == name).unwrap_or_else(|| panic!("{name}"))
}

/// Another shape, with as many bytes as that takes.
fn reshape(specs: &mut [Spec], name: &str, shape: &[usize]) {
    let spec = spec(specs, name);
    let len = shape.iter().product::<usize>() * spec.dtype.bitsize() / 8;
    spec.bytes = spec.bytes.iter().copied().cycle().take(len).collect();
    spec.shape = shape.into();
}

#[test]
fn scales_that_do_not_fit_are_refused() {
    let gate = |part: &str| format!("{GATE}.{part}");
    let (fp8, int, weight) = ("fp8", "compressed-int", &gate("weight")[..]);
    let scale = gate("weight_scale_inv");
    for shape in [&[6, 3][..], &[2, 6], &[7, 2], &[12], &[0, 2], &[6, 2, 1], &[96, 2]] {
        let words = ["model.safetensors", weight, &scale, "does not fit", "again"];
        refused(fp8, &words, |_, specs| reshape(specs, &scale, shape));
    }
    refused(fp8, &[weight, "no scales", &scale, "again"], |_, specs| {
        specs.retain(|spec| spec.name != scale);
    });
    refused(fp8, &[weight, "scales twice"], |_, specs| {
        specs.push(Spec::f32(gate("weight_scale"), &[1]));
    });
    refused(fp8, &[weight, &scale, "I32", "GGUF"], |_, specs| {
        spec(specs, &scale).dtype = Dtype::I32
    });
    refused(fp8, &["config.json", "weight_block_size"], |config, _| {
        config["weight_block_size"] = json!([0, 24]);
    });
    refused(fp8, &["down_proj.weight", "blocks of [32, 32]"], |config, _| {
        config["weight_block_size"] = json!([32, 32]);
    });
    refused(fp8, &["gate_proj.weight' has shape [95, 48]"], |_, specs| {
        reshape(specs, weight, &[95, 48]);
        reshape(specs, &scale, &[1]);
    });
    refused(int, &["config.json", "group_size"], |config, _| {
        config["config_groups"]["group"]["weights"]["group_size"] = 0.into();
    });
    refused(int, &[weight, "does not fit", "[1, 16]"], |config, _| {
        for group in ["group", "zeros", "three"] {
            config["config_groups"][group]["weights"]["group_size"] = 16.into();
        }
    });
    let words =
        ["down_proj.weight", "12 words do not have 96 integers of 3, 5, 6 or 8 bits", "again"];
    refused(int, &words, |config, _| {
        for group in ["group", "zeros", "tensor"] {
            config["config_groups"][group]["weights"]["num_bits"] = 6.into();
        }
    });
    for shape in [[96u64, 49], [95, 48], [96, 0], [u64::MAX, 48], [96, 1 << 40], [96, 1 << 62]] {
        refused(int, &["model.safetensors", weight, "again"], |_, specs| {
            spec(specs, &gate("weight_shape")).bytes =
                shape.iter().flat_map(|n| n.to_le_bytes()).collect();
        });
    }
    for shape in [&[96, 4][..], &[96, 0], &[0, 6], &[576], &[96, 6, 1]] {
        refused(int, &[weight, "again"], |_, specs| reshape(specs, &gate("weight_packed"), shape));
    }
    for part in ["weight_shape", "weight_scale"] {
        refused(int, &[weight, &gate(part), "again"], |_, specs| {
            specs.retain(|spec| spec.name != gate(part));
        });
    }
    refused(int, &[&gate("weight"), "twice"], |_, specs| specs.push(Spec::f32(weight, &[96, 48])));
    let up = "model.layers.0.mlp.up_proj";
    refused(int, &[up, "zero points", "again"], |_, specs| {
        reshape(specs, &format!("{up}.weight_zero_point"), &[11, 2]);
    });
    refused(int, &[weight, "g_idx", "GGUF"], |_, specs| {
        specs.push(Spec { dtype: Dtype::I32, ..Spec::f32(gate("weight_g_idx"), &[48]) });
    });
    refused(int, &["down_proj.weight", "zero_point", "symmetric"], |config, _| {
        for group in config["config_groups"].as_object_mut().unwrap().values_mut() {
            group["weights"]["symmetric"] = false.into();
        }
    });
    refused("gemma", &["gate_proj.weight", "2 or 4 bits", "says 8"], |config, _| {
        config["num_bits"] = 8.into()
    });
    refused("gemma", &["gate_proj.weight", "[96, 96]", "[96, 48]"], |config, _| {
        config["num_bits"] = 2.into()
    });
    refused("gemma", &["config.json", "module_quant_configs"], |config, _| {
        config["module_quant_configs"] = json!({"(": {"num_bits": 2}});
    });
    refused("gemma", &["embed_tokens.weight", "embedding_scale", "again"], |_, specs| {
        specs.retain(|spec| spec.name != "model.embed_tokens.embedding_scale");
    });
}

/// Loading refuses scales that are no numbers; `inspect` counts what they spoil.
#[test]
fn scales_that_are_no_numbers_are_refused() {
    let nan = |name: &'static str| {
        move |_: &mut Value, specs: &mut Vec<Spec>| {
            let spec = spec(specs, name);
            let size = spec.dtype.bitsize() / 8;
            spec.bytes[..size].fill(0xff);
        }
    };
    for (name, scale, count) in [
        ("fp8", "model.layers.0.mlp.gate_proj.weight_scale_inv", 16 * 24),
        ("fp8-exponents", "model.layers.0.mlp.up_proj.weight_scale_inv", 16 * 24),
        ("compressed-int", "model.layers.0.mlp.gate_proj.weight_scale", 24),
        ("gemma", "model.embed_tokens.embedding_scale", 48),
    ] {
        refused(
            name,
            &["model.safetensors", scale, "1 of its scales are NaN", "again"],
            nan(scale),
        );
        let checkpoint = Checkpoint::open(changed(name, nan(scale)).path()).unwrap();
        let remarks = inspect(&checkpoint, |_| {}).unwrap().remarks;
        let said = format!(".weight holds {count} values that are NaN");
        assert!(remarks.iter().any(|remark| remark.text.contains(&said)), "{remarks:?}");
    }
}

/// One line with the method, and what to do.
#[test]
fn other_methods_are_refused_by_name() {
    for method in ["gptq", "awq", "bitsandbytes", "hqq", "torchao", "quark", "mxfp4", "fbgemm_fp8"]
    {
        refused("fp8", &[method, "which is not read", "F8_E4M3", "GGUF"], |config, _| {
            *config = json!({"quant_method": method, "weight_block_size": "x"});
        });
        let words = [method, "which is not read", "down_proj.qweight", "GGUF"];
        refused("fp8", &words, |config, specs| {
            *config = json!({"quant_method": method});
            for spec in specs.iter_mut().filter(|spec| spec.name.contains("mlp")) {
                spec.name = spec.name.replace(".weight", ".qweight");
            }
        });
        // In one layer alone.
        refused(
            "fp8-exponents",
            &[method, "which is not read", "up_proj.weight", "GGUF"],
            |config, specs| {
                *config = json!({"quant_method": method});
                specs.retain(|spec| !spec.name.ends_with("_inv"));
                for spec in specs.iter_mut().filter(|spec| spec.dtype == Dtype::F8_E4M3) {
                    let plain = Spec::f32(&spec.name, &spec.shape);
                    *spec = plain;
                }
                spec(specs, "model.layers.0.mlp.up_proj.weight").name =
                    "model.layers.0.mlp.up_proj.W_q".into();
            },
        );
    }
    for format in ["nvfp4-pack-quantized", "marlin-24", "mxfp8-quantized"] {
        refused(
            "compressed-int",
            &[".weight", &format!("format {format}"), "GGUF"],
            |config, _| {
                config["format"] = format.into();
            },
        );
    }
    // Codes without a word in the config about them.
    refused("fp8", &["down_proj.weight", "F8_E4M3", "dequantise"], |config, _| {
        *config = Value::Null
    });
}

/// Whatever is quantised of what nobody reads, the model runs.
#[test]
fn parts_that_are_not_read_spoil_nothing() {
    let dir = changed("fp8", |_, specs| {
        let f8 = |name: &str, shape: &[usize]| Spec {
            name: name.into(),
            shape: shape.into(),
            dtype: Dtype::F8_E4M3,
            bytes: vec![0x38; shape.iter().product()],
        };
        specs.push(f8("vision_tower.a.weight", &[3, 4, 2]));
        specs.push(f8("vision_tower.b.weight", &[4]));
        specs.push(f8("vision_tower.c.weight", &[0, 4]));
        specs.push(Spec::f32("vision_tower.c.weight_scale_inv", &[0, 1]));
        specs.push(Spec::f32("model.layers.0.self_attn.k_scale", &[1]));
    });
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(to_f64(&logits(&checkpoint, "fp8")), to_f64(&logits(&open("fp8"), "fp8")));
    let remarks = inspect(&checkpoint, |_| {}).unwrap().remarks;
    assert!(remarks.iter().any(|remark| remark.text.contains("k_scale")), "{remarks:?}");
}

/// Several matrices in one tensor, as experts are, and a head of its own.
#[test]
fn matrices_below_one_another() {
    let dir = changed("fp8", |_, specs| {
        let bytes: Vec<u8> = (0..2 * 20 * 24).map(|i| (i * 7 % 120) as u8).collect();
        specs.push(Spec {
            name: "experts.up".into(),
            shape: vec![2, 20, 24],
            dtype: Dtype::F8_E4M3,
            bytes,
        });
        specs.push(Spec::f32("experts.up_scale_inv", &[2, 2, 1]));
    });
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let tensors = checkpoint.tensors();
    assert_eq!(tensors.numbers("experts.up").unwrap().storage(), Storage::Codes(Codes::Fp8));
    let whole = tensors.load("experts.up", &[2, 20, 24], DType::F32, &Device::Cpu).unwrap();
    let whole: Vec<f32> = whole.flatten_all().unwrap().to_vec1().unwrap();
    let scales = Spec::f32("experts.up_scale_inv", &[4]).bytes;
    let (scales, _) = scales.as_chunks::<4>();
    for (i, number) in whole.iter().enumerate() {
        let (matrix, row) = (i / (20 * 24), i / 24 % 20);
        let scale = f32::from_le_bytes(scales[2 * matrix + row / 16]);
        let code = float8::F8E4M3::from_bits((i * 7 % 120) as u8).to_f32();
        assert_eq!(number.to_bits(), (code * scale).to_bits(), "{i}");
    }
}

/// Sizes that fit something of the goldens, or almost.
const SIZES: [usize; 12] = [0, 1, 2, 3, 4, 6, 12, 16, 24, 48, 96, 97];

const DTYPES: [Dtype; 10] = [
    Dtype::BF16,
    Dtype::F16,
    Dtype::F32,
    Dtype::F64,
    Dtype::F8_E4M3,
    Dtype::F8_E8M0,
    Dtype::I8,
    Dtype::I32,
    Dtype::I64,
    Dtype::U8,
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a tensor is, there or not, a checkpoint is read or refused in one line.
    #[test]
    fn any_tensor_is_read_or_refused(
        name in select(&NAMES[..]),
        which in any::<Index>(),
        shape in proptest::collection::vec(select(&SIZES[..]), 0..4),
        dtype in select(&DTYPES[..]),
        (keeps_dtype, keeps_shape, is_left_out) in any::<(bool, bool, bool)>(),
        fill in any::<Option<u8>>(),
    ) {
        let dir = changed(name, |_, specs| {
            let Spec { name, shape: own, dtype: before, .. } = which.get(specs);
            let (name, own) = (name.clone(), own.clone());
            let dtype = if keeps_dtype { *before } else { dtype };
            spec(specs, &name).dtype = dtype;
            reshape(specs, &name, if keeps_shape { &own } else { &shape });
            if let Some(fill) = fill {
                spec(specs, &name).bytes.fill(fill);
            }
            if is_left_out && keeps_shape {
                specs.retain(|spec| spec.name != name);
            }
        });
        let read = || -> gemma_mlp::Result<()> {
            let checkpoint = Checkpoint::open(dir.path())?;
            inspect(&checkpoint, |_| {})?;
            Gemma::load(&checkpoint, &Device::Cpu, DType::F32).map(drop)
        };
        if let Err(error) = read() {
            prop_assert!(error.is_input() && !error.to_string().contains('\n'), "{error}");
        }
    }
}
