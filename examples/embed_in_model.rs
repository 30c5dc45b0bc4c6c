//! A small transformer on candle that takes our block as its feed-forward, trained for a few
//! steps to continue a sentence, under both forms of GELU.
//!
//! `cargo run --release --example embed_in_model`

use anyhow::Result;
use candle_core::{D, DType, Device, Module, Tensor};
use candle_nn::{AdamW, Embedding, Linear, Optimizer, RmsNorm, VarBuilder, VarMap};
use candle_nn::{embedding, linear_no_bias, rms_norm};
use gemma_mlp::{Gelu, GemmaMlp, gemma_mlp};

const VOCAB: usize = 128;
const HIDDEN: usize = 32;
const LAYERS: usize = 2;
const TEXT: &str = "the same sentence over and over: the same sentence over and over";

/// One pre-norm layer: attention with one head, then our block.
struct Layer {
    attention_norm: RmsNorm,
    qkv: Linear,
    out: Linear,
    mlp_norm: RmsNorm,
    mlp: GemmaMlp,
}

impl Layer {
    fn new(gelu: Gelu, vb: VarBuilder) -> candle_core::Result<Self> {
        Ok(Self {
            attention_norm: rms_norm(HIDDEN, 1e-6, vb.pp("attention_norm"))?,
            qkv: linear_no_bias(HIDDEN, 3 * HIDDEN, vb.pp("qkv"))?,
            out: linear_no_bias(HIDDEN, HIDDEN, vb.pp("out"))?,
            mlp_norm: rms_norm(HIDDEN, 1e-6, vb.pp("mlp_norm"))?,
            mlp: gemma_mlp(HIDDEN, 4 * HIDDEN, gelu, vb.pp("mlp"))?,
        })
    }

    fn attention(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let seq = x.dim(1)?;
        let qkv = self.qkv.forward(x)?.chunk(3, D::Minus1)?; // 3 of [batch, seq, hidden]
        let scores = (qkv[0].matmul(&qkv[1].t()?)? / (HIDDEN as f64).sqrt())?; // [batch, seq, seq]
        let visible = Tensor::tril2(seq, DType::U8, x.device())?.broadcast_as(scores.shape())?;
        let hidden = Tensor::full(f32::NEG_INFINITY, scores.shape(), x.device())?;
        let weights = candle_nn::ops::softmax(&visible.where_cond(&scores, &hidden)?, D::Minus1)?;
        self.out.forward(&weights.matmul(&qkv[2])?)
    }
}

impl Module for Layer {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let x = (x + self.attention(&self.attention_norm.forward(x)?)?)?;
        &x + self.mlp.forward(&self.mlp_norm.forward(&x)?)?
    }
}

struct Model {
    embedding: Embedding,
    layers: Vec<Layer>,
}

impl Model {
    fn new(gelu: Gelu, vb: VarBuilder) -> candle_core::Result<Self> {
        let layer = |i| Layer::new(gelu, vb.pp(format!("layers.{i}")));
        Ok(Self {
            embedding: embedding(VOCAB, HIDDEN, vb.pp("embedding"))?,
            layers: (0..LAYERS).map(layer).collect::<candle_core::Result<_>>()?,
        })
    }

    /// The mean loss of the next character.
    fn loss(&self, ids: &Tensor) -> candle_core::Result<Tensor> {
        let n = ids.dim(1)? - 1;
        let mut x = self.embedding.forward(&ids.narrow(1, 0, n)?)?; // [1, seq, hidden]
        for layer in &self.layers {
            x = layer.forward(&x)?;
        }
        let logits = x.squeeze(0)?.matmul(&self.embedding.embeddings().t()?)?; // [seq, vocab]
        let logits = (logits / HIDDEN as f64)?;
        candle_nn::loss::cross_entropy(&logits, &ids.narrow(1, 1, n)?.squeeze(0)?)
    }
}

fn main() -> Result<()> {
    let device = Device::Cpu;
    let ids: Vec<u32> = TEXT.bytes().map(u32::from).collect();
    let ids = Tensor::new(ids, &device)?.unsqueeze(0)?; // [1, seq]
    let varmap = VarMap::new();
    let vb = VarBuilder::from_varmap(&varmap, DType::F32, &device);
    Model::new(Gelu::Tanh, vb.clone())?; // makes the variables, with random values
    let variables = varmap.all_vars();
    let start = variables.iter().map(|var| var.copy()).collect::<candle_core::Result<Vec<_>>>()?;
    for &gelu in Gelu::ALL {
        // Both forms start from the same weights: what differs in the end is the activation's doing.
        for (var, value) in variables.iter().zip(&start) {
            var.set(value)?;
        }
        let model = Model::new(gelu, vb.clone())?;
        let mut adam = AdamW::new_lr(variables.clone(), 3e-3)?;
        let before = model.loss(&ids)?.to_scalar::<f32>()?;
        for _ in 0..200 {
            adam.backward_step(&model.loss(&ids)?)?;
        }
        let after = model.loss(&ids)?.to_scalar::<f32>()?;
        println!("{gelu:5}  loss {before:.4} -> {after:.4}");
        anyhow::ensure!(after < 0.5 * before, "the model did not learn");
    }
    Ok(())
}
