//! Encoders and decoders, against transformers: T5Gemma 1 and 2.

mod common;

use candle_core::{DType, Device, Result, Tensor};
use common::rel_l2;
use gemma_mlp::model::{Block, Observer};
use gemma_mlp::{Checkpoint, EncoderDecoder};
use std::collections::HashMap;

type Goldens = HashMap<String, Tensor>;

const MODELS: [&str; 3] = ["t5gemma", "t5gemma2-odd", "t5gemma2-even"];

fn open(name: &str) -> (Checkpoint, Goldens) {
    let dir = format!("{}/tests/goldens/families/{name}", env!("CARGO_MANIFEST_DIR"));
    let goldens = candle_core::safetensors::load(format!("{dir}/golden.safetensors"), &Device::Cpu);
    (Checkpoint::open(dir).unwrap(), goldens.unwrap())
}

#[derive(Default)]
struct Watch(Vec<Tensor>);

impl Observer for Watch {
    fn block(&mut self, _: Block) -> Result<()> {
        Ok(())
    }

    fn residual(&mut self, _: usize, stream: &Tensor) -> Result<()> {
        self.0.push(stream.clone());
        Ok(())
    }
}

#[test]
fn draft() {
    for name in MODELS {
        let (checkpoint, goldens) = open(name);
        println!("{:#?}", checkpoint.remarks());
        let ids = |n: &str| goldens[n].to_dtype(DType::U32).unwrap();
        for dtype in [DType::F64, DType::F32] {
            let model = EncoderDecoder::load(&checkpoint, &Device::Cpu, dtype).unwrap();
            let mask = ids("encoder_mask");
            let mut watch = Watch::default();
            let hidden = model
                .hidden(&ids("encoder_ids"), Some(&mask), &ids("decoder_ids"), &mut watch)
                .unwrap();
            let layers = model.encoder().layers().len();
            for (i, s) in watch.0.iter().enumerate() {
                if i < layers {
                    let g = &goldens[&format!("encoder.hidden.{i}")];
                    for t in 0..2 {
                        let n = if t == 0 { 19 } else { 15 };
                        println!(
                            "{name} {dtype:?} e{i} {t} {:e}",
                            rel_l2(
                                &g.get(t).unwrap().narrow(0, 0, n).unwrap(),
                                &s.get(t).unwrap().narrow(0, 0, n).unwrap()
                            )
                        );
                    }
                } else {
                    let i = i - layers;
                    println!(
                        "{name} {dtype:?} d{i} {:e}",
                        rel_l2(&goldens[&format!("decoder.hidden.{i}")], s)
                    );
                }
            }
            println!(
                "{name} {dtype:?} logits {:e}",
                rel_l2(&goldens["logits"], &model.logits(&hidden).unwrap())
            );
        }
    }
}
