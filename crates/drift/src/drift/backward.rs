//! The loss's gradient through a model, layer by layer.

use super::head::loss;
use super::stacks::Stacks;
use crate::error::{Error, Result};
use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use gemma_mlp::internal::wide_dtype;
use gemma_mlp::model::{Attention, Encoded, Gemma, KeyValues, Layer, LayerVariables, Pass};
use std::collections::BTreeMap;

/// A model's pass over a text: forward, and then backward from saved residual streams, so that the gradients of one
/// layer are held at a time.
pub(super) struct Backward {
    stacks: Stacks,
    ids: Tensor,
    /// What enters each layer, `[1, seq, …]`; of two stacks the encoder's first.
    streams: Vec<Tensor>,
    encoder: Option<EncoderPass>,
    /// What the layers get beside it, `[1, seq, layers, size]`.
    per_layer_inputs: Option<Tensor>,
    /// The keys and values that a layer lends, and the gradients for them of the layers that share them so far.
    lent: BTreeMap<usize, Lent>,
    /// The mean negative log-likelihood, in nats.
    pub(super) loss: f64,
    /// The loss's gradient for what the last layer so far returned, `[1, seq, …]`.
    gradient: Tensor,
    /// The gradients for what the layers so far got beside it, `[1, seq, size]` each, by layer.
    of_inputs: BTreeMap<usize, Tensor>,
}

/// What an encoder read, and what the decoder's layers so far say of its states.
struct EncoderPass {
    source: Tensor,
    /// What its last layer returned, and its normed states, `[1, seq, hidden]`.
    last: Tensor,
    states: Tensor,
    /// The gradient for the states.
    gradient: Tensor,
    /// That for the decoder's scaled embeddings, once its layers are done.
    of_decoder: Option<Tensor>,
}

/// Keys and values, `[1, kv_heads, seq, head_dim]` each.
struct Lent {
    tensors: [Tensor; 2],
    gradients: Option<[Tensor; 2]>,
}

/// The loss's gradients for the matrices around a layer's GELUs.
pub(super) struct MatrixGradients {
    /// Of gate, up and down.
    pub(super) mlp: [Tensor; 3],
    /// Of the per-layer input's gate and projection.
    pub(super) per_layer: Option<[Tensor; 2]>,
    /// Of the experts' gate and up in one, and down.
    pub(super) experts: Option<[Tensor; 2]>,
}

impl Backward {
    /// The forward pass over ids `[1, seq]`, beside what an encoder reads, and back through head and final norm.
    pub(super) fn new(
        stacks: &Stacks,
        source: Option<&Tensor>,
        ids: &Tensor,
        labels: &[Option<u32>],
    ) -> Result<Self> {
        let stacks = stacks.frozen();
        let decoder = &stacks.decoder;
        let Some(head) = decoder.head() else {
            return Err(Error::NoHead { lacks: "has no loss" });
        };
        let (mut streams, mut lent) = (vec![], BTreeMap::new());
        let encoder = match (&stacks.encoder, source) {
            (Some(encoder), Some(source)) => Some(EncoderPass::new(encoder, source, &mut streams)?),
            _ => None,
        };
        let pass = match &encoder {
            Some(own) => Pass::new().with_encoded(Encoded::new(own.states.clone(), None)?),
            None => Pass::new(),
        };
        let (mut x, mut pass) = decoder.begin(ids, pass)?;
        for layer in decoder.layers() {
            streams.push(x.clone());
            x = layer.forward(&x, &mut pass)?;
            if let Some(tensors) = lent_by(layer, &pass)? {
                lent.insert(layer.index(), Lent { tensors, gradients: None });
            }
        }
        let last = Var::from_tensor(&x)?;
        let hidden = decoder.final_norm(&last)?;
        let (loss, gradient) = loss(head, &hidden.detach().get(0)?, labels)?;
        let pulled = pull(&hidden, &gradient.unsqueeze(0)?)?.backward()?;
        let gradient = of(&pulled, &last)?;
        let per_layer_inputs = pass.per_layer_inputs().cloned();
        let (ids, of_inputs) = (ids.clone(), BTreeMap::new());
        Ok(Self {
            stacks,
            ids,
            streams,
            encoder,
            per_layer_inputs,
            lent,
            loss,
            gradient,
            of_inputs,
        })
    }

    /// Goes back through a layer, the last one first: leaves the gradient for what enters it, and returns those of its
    /// matrices.
    pub(super) fn layer(&mut self, index: usize) -> Result<MatrixGradients> {
        let encoder_layers = self.stacks.encoder_layers();
        if index + 1 == encoder_layers {
            self.enter_encoder()?;
        }
        let (layer, variables) = self.stacks.layer(index).with_variables()?;
        let x = Var::from_tensor(&self.streams[index])?;
        let states = self.encoder.as_ref().filter(|_| index >= encoder_layers);
        let states = states.map(|own| Var::from_tensor(&own.states)).transpose()?;
        let mut pass = match &states {
            Some(states) => {
                Pass::new().with_encoded(Encoded::new(states.as_tensor().clone(), None)?)
            }
            None => Pass::new(),
        };
        let inputs = self.per_layer_inputs.as_ref().map(Var::from_tensor).transpose()?;
        pass.set_per_layer_inputs(inputs.as_ref().map(|inputs| inputs.as_tensor().clone()));
        let shared = match layer.attention().and_then(Attention::shares) {
            Some(lender) => Some((lender, self.lend(lender, &mut pass)?)),
            None => None,
        };
        let y = layer.forward(&x, &mut pass)?;
        let mut pulls = pull(&y, &self.gradient)?;
        let gradients = self.lent.get(&index).and_then(|lent| lent.gradients.as_ref());
        if let (Some(own), Some(gradients)) = (lent_by(&layer, &pass)?, gradients) {
            for (own, gradient) in own.iter().zip(gradients) {
                pulls = (pulls + pull(own, gradient)?)?;
            }
        }
        let pulled = pulls.backward()?;
        self.gradient = of(&pulled, &x)?;
        if let Some(inputs) = &inputs {
            let own = of(&pulled, inputs)?.narrow(2, index, 1)?.squeeze(2)?;
            self.of_inputs.insert(index, own);
        }
        if let (Some(states), Some(own)) = (&states, &mut self.encoder) {
            own.gradient = (&own.gradient + of(&pulled, states)?)?;
        }
        if let Some((lender, [k, v])) = &shared {
            self.add_lent(*lender, [of(&pulled, k)?, of(&pulled, v)?])?;
        }
        MatrixGradients::new(&pulled, &variables)
    }

    /// Goes from the decoder's first layer to what the encoder's last one returned.
    fn enter_encoder(&mut self) -> Result<()> {
        let (Some(own), Some(encoder)) = (&mut self.encoder, &self.stacks.encoder) else {
            return Err(broken("a decoder beside no encoder".into()));
        };
        let last = Var::from_tensor(&own.last)?;
        let pulled = pull(&encoder.final_norm(&last)?, &own.gradient)?.backward()?;
        own.of_decoder = Some(std::mem::replace(&mut self.gradient, of(&pulled, &last)?));
        Ok(())
    }

    /// Lends a layer's keys and values in a pass, as variables.
    fn lend(&self, lender: usize, pass: &mut Pass) -> Result<[Var; 2]> {
        let Some(Lent { tensors: [k, v], .. }) = self.lent.get(&lender) else {
            return Err(broken(format!("layer {lender} lends no keys and values")));
        };
        let [k, v] = [Var::from_tensor(k)?, Var::from_tensor(v)?];
        pass.lend(lender, KeyValues::of(k.as_tensor().clone(), v.as_tensor().clone()));
        Ok([k, v])
    }

    /// Adds what a layer that shares them says of a layer's keys and values.
    fn add_lent(&mut self, lender: usize, [k, v]: [Tensor; 2]) -> Result<()> {
        if let Some(lent) = self.lent.get_mut(&lender) {
            lent.gradients = Some(match &lent.gradients {
                Some([sum_k, sum_v]) => [(sum_k + k)?, (sum_v + v)?],
                None => [k, v],
            });
        }
        Ok(())
    }

    /// The gradient for the scaled embeddings, once all layers are done: `[1, seq, hidden]`; of two stacks the encoder's
    /// and the decoder's, one behind the other, `[both seq · hidden]`.
    pub(super) fn input(&self) -> Result<Tensor> {
        match (&self.encoder, &self.stacks.encoder) {
            (Some(EncoderPass { source, of_decoder: Some(gradient), .. }), Some(encoder)) => {
                let of_encoder = self.embedded(encoder, source, &self.gradient)?;
                let of_decoder = self.embedded(&self.stacks.decoder, &self.ids, gradient)?;
                Ok(Tensor::cat(&[of_encoder.flatten_all()?, of_decoder.flatten_all()?], 0)?)
            }
            _ => self.embedded(&self.stacks.decoder, &self.ids, &self.gradient),
        }
    }

    /// The gradient for a stack's scaled embeddings, from that for what enters its first layer.
    fn embedded(&self, gemma: &Gemma, ids: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        let embedded = Var::from_tensor(&gemma.embed(ids)?)?;
        let (x, pass) = gemma.begin_embedded(ids, &embedded, Pass::new())?;
        let mut pulls = pull(&x, gradient)?;
        for (&layer, gradient) in &self.of_inputs {
            if let Some(input) = pass.per_layer_input(layer)? {
                pulls = (pulls + pull(&input, gradient)?)?;
            }
        }
        of(&pulls.backward()?, &embedded)
    }
}

impl EncoderPass {
    /// The forward pass over a source `[1, seq]`, which keeps what enters each layer.
    fn new(encoder: &Gemma, source: &Tensor, streams: &mut Vec<Tensor>) -> Result<Self> {
        let (mut x, mut pass) = encoder.begin(source, Pass::new())?;
        for layer in encoder.layers() {
            streams.push(x.clone());
            x = layer.forward(&x, &mut pass)?;
        }
        let states = encoder.final_norm(&x)?;
        let gradient = states.zeros_like()?;
        Ok(Self { source: source.clone(), last: x, states, gradient, of_decoder: None })
    }
}

impl MatrixGradients {
    fn new(pulled: &GradStore, variables: &LayerVariables) -> Result<Self> {
        let all = |variables: &[Var]| {
            variables.iter().map(|variable| of(pulled, variable)).collect::<Result<Vec<_>>>()
        };
        let pair =
            |variables: &[Var]| Ok::<_, Error>(<[Tensor; 2]>::try_from(all(variables)?).ok());
        let mlp = match all(&variables.mlp)?.as_slice() {
            [gate, up, down] => [gate, up, down].map(Tensor::clone),
            [gate_up, down] => {
                let rows = gate_up.dim(0)? / 2;
                [gate_up.narrow(0, 0, rows)?, gate_up.narrow(0, rows, rows)?, down.clone()]
            }
            other => return Err(broken(format!("a block of {} matrices", other.len()))),
        };
        Ok(Self { mlp, per_layer: pair(&variables.per_layer)?, experts: pair(&variables.experts)? })
    }
}

/// What no model of the library is like.
fn broken(message: String) -> Error {
    candle_core::Error::Msg(message).into()
}

/// The keys and values that a layer has lent in a pass, if others share them.
fn lent_by(layer: &Layer, pass: &Pass) -> Result<Option<[Tensor; 2]>> {
    let (Some(lent), Some(attention)) = (pass.lent(layer.index()), layer.attention()) else {
        return Ok(None);
    };
    Ok(Some(lent.tensors(attention.key_value_heads())?.into()))
}

/// What has a gradient as its own: the sum of its products with it.
fn pull(x: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    let wide = |t: &Tensor| t.to_dtype(wide_dtype(x.dtype()));
    // One number, whatever dtypes are summed up in it.
    Ok((wide(x)? * wide(gradient)?)?.sum_all()?.to_dtype(DType::F64)?)
}

/// A variable's gradient: 0 where the loss does not depend on it.
fn of(gradients: &GradStore, variable: &Var) -> Result<Tensor> {
    Ok(match gradients.get(variable) {
        Some(gradient) => gradient.clone(),
        None => variable.zeros_like()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use gemma_mlp::Checkpoint;
    use std::collections::HashMap;

    fn distance(a: &Tensor, b: &Tensor) -> Result<f64> {
        let norm = |t: &Tensor| t.sqr()?.sum_all()?.to_scalar::<f64>();
        let a = a.to_dtype(DType::F64)?;
        let b = b.to_dtype(DType::F64)?.reshape(a.shape())?;
        Ok((norm(&(&a - b)?)? / norm(&a)?).sqrt())
    }

    /// The loss's gradient for scaled embeddings, through the whole model at once.
    fn by_autograd(gemma: &Gemma, ids: &Tensor) -> Result<Tensor> {
        let embedded = Var::from_tensor(&gemma.embed(ids)?)?;
        let (mut x, mut pass) = gemma.begin_embedded(ids, &embedded, Pass::new())?;
        for layer in gemma.layers() {
            x = layer.forward(&x, &mut pass)?;
        }
        let (last, next) = (ids.dim(1)? - 1, ids.get(0)?);
        let logits = gemma.logits(&gemma.final_norm(&x)?)?.get(0)?.narrow(0, 0, last)?;
        let loss = candle_nn::loss::cross_entropy(&logits, &next.narrow(0, 1, last)?)?;
        of(&loss.backward()?, &embedded)
    }

    /// The gradients of the loss for every matrix around a GELU, through shared keys and values, per-layer inputs, experts
    /// and several streams: transformers', in f64.
    #[test]
    fn the_gradients_are_transformers() -> Result<()> {
        // transformers' tables of RoPE are f32: it moves two of the models by more than 1e-6.
        for (name, matrices, bound) in [
            ("gemma3-linear", 3, 1e-6),
            ("gemma4-dense", 3, 4e-6),
            ("gemma4-e4b", 5, 1e-6),
            ("gemma4-e2b", 5, 1e-6),
            ("gemma4-moe", 5, 1e-6),
            ("gemma4-proportional", 3, 1e-6),
            ("gemma4-all", 5, 1e-6),
            ("gemma4-unified", 3, 1e-6),
            ("gemma3n-a", 5, 6e-6),
            ("gemma3n-b", 5, 1e-6),
            ("gemma3n-c", 5, 1e-6),
        ] {
            let dir = format!("{}/tests/goldens/families/{name}", env!("CARGO_MANIFEST_DIR"));
            let goldens =
                candle_core::safetensors::load(format!("{dir}/golden.safetensors"), &Device::Cpu)?;
            let stacks = Stacks::load(&Checkpoint::open(dir)?, DType::F64, &Device::Cpu)?;
            let gemma = &stacks.decoder;
            let texts = goldens["input_ids"].to_dtype(DType::U32)?;
            let (mut sums, mut loss) = (HashMap::<String, Tensor>::new(), 0.0);
            for text in texts.chunk(texts.dim(0)?, 0)? {
                let ids = text.get(0)?.to_vec1::<u32>()?;
                let labels: Vec<_> = ids[1..].iter().copied().map(Some).chain([None]).collect();
                let mut pass = Backward::new(&stacks, None, &text, &labels)?;
                loss += pass.loss / texts.dim(0)? as f64;
                for layer in (0..gemma.layers().len()).rev() {
                    let MatrixGradients { mlp, per_layer, experts } = pass.layer(layer)?;
                    let names = ["gate_proj", "up_proj", "down_proj"].map(|n| format!("mlp.{n}"));
                    let all = names.into_iter().zip(mlp);
                    let named = |names: [&str; 2], pair: Option<[Tensor; 2]>| {
                        names.map(String::from).into_iter().zip(pair.into_iter().flatten())
                    };
                    let names = ["per_layer_input_gate", "per_layer_projection"];
                    let all = all.chain(named(names, per_layer));
                    let names = ["experts.gate_up_proj", "experts.down_proj"];
                    for (matrix, gradient) in all.chain(named(names, experts)) {
                        let name = format!("grad.layers.{layer}.{matrix}");
                        let gradient = (gradient / texts.dim(0)? as f64)?;
                        let sum = match sums.remove(&name) {
                            Some(sum) => (sum + gradient)?,
                            None => gradient,
                        };
                        sums.insert(name, sum);
                    }
                }
                let far = distance(&by_autograd(gemma, &text)?, &pass.input()?)?;
                assert!(far < 1e-12, "{name}: {far:e} for the embeddings");
            }
            assert!((loss / goldens["loss"].get(0)?.to_scalar::<f64>()? - 1.0).abs() < 1e-6);
            let names: Vec<_> = goldens.keys().filter(|name| name.starts_with("grad.")).collect();
            assert_eq!(names.len(), matrices * gemma.layers().len(), "{name}");
            assert_eq!(names.len(), sums.len(), "{name}");
            for matrix in names {
                let far = distance(&goldens[matrix], &sums[matrix])?;
                assert!(far < bound, "{name} {matrix}: {far:e}");
            }
        }
        Ok(())
    }
    /// The same through an encoder's states and both stacks.
    #[test]
    fn the_gradients_of_both_stacks_are_transformers() -> Result<()> {
        for name in ["t5gemma", "t5gemma2-odd", "t5gemma2-even"] {
            let dir = format!("{}/tests/goldens/families/{name}", env!("CARGO_MANIFEST_DIR"));
            let goldens =
                candle_core::safetensors::load(format!("{dir}/golden.safetensors"), &Device::Cpu)?;
            let stacks = Stacks::load(&Checkpoint::open(dir)?, DType::F64, &Device::Cpu)?;
            let ids = |name: &str| goldens[name].to_dtype(DType::U32);
            let (sources, texts, masks) =
                (ids("encoder_ids")?, ids("decoder_ids")?, ids("encoder_mask")?);
            let (mut sums, mut loss) = (HashMap::<String, Tensor>::new(), 0.0);
            for text in 0..2 {
                // Padding is left out: the texts run one by one.
                let tokens = masks.get(text)?.sum_all()?.to_scalar::<u32>()? as usize;
                let source = sources.narrow(0, text, 1)?.narrow(1, 0, tokens)?;
                let target = texts.narrow(0, text, 1)?;
                let ids = target.get(0)?.to_vec1::<u32>()?;
                let labels: Vec<_> = ids[1..].iter().copied().map(Some).chain([None]).collect();
                let mut pass = Backward::new(&stacks, Some(&source), &target, &labels)?;
                loss += pass.loss / 2.0;
                for layer in (0..stacks.layers().count()).rev() {
                    let MatrixGradients { mlp, .. } = pass.layer(layer)?;
                    let (stack, at) = match layer.checked_sub(stacks.encoder_layers()) {
                        None => ("encoder", layer),
                        Some(at) => ("decoder", at),
                    };
                    for (matrix, gradient) in ["gate_proj", "up_proj", "down_proj"].iter().zip(mlp)
                    {
                        let name = format!("grad.{stack}.layers.{at}.mlp.{matrix}");
                        let gradient = (gradient / 2.0)?;
                        let sum = match sums.remove(&name) {
                            Some(sum) => (sum + gradient)?,
                            None => gradient,
                        };
                        sums.insert(name, sum);
                    }
                }
                let widths = [&source, &target].map(|ids| ids.elem_count());
                let hidden = |gemma: &Gemma| gemma.embed(&target.narrow(1, 0, 1)?)?.dim(2);
                let encoder = hidden(stacks.encoder.as_ref().unwrap())?;
                let expected = widths[0] * encoder + widths[1] * hidden(&stacks.decoder)?;
                assert_eq!(pass.input()?.dims(), [expected]);
            }
            assert!((loss / goldens["loss"].get(0)?.to_scalar::<f64>()? - 1.0).abs() < 1e-6);
            let names: Vec<_> = goldens.keys().filter(|name| name.starts_with("grad.")).collect();
            assert_eq!((names.len(), sums.len()), (3 * stacks.gates(), 3 * stacks.gates()));
            for matrix in names {
                let far = distance(&goldens[matrix], &sums[matrix])?;
                assert!(far < 1e-6, "{name} {matrix}: {far:e}");
            }
        }
        Ok(())
    }
}
