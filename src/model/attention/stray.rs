//! Keys and values that a file has for a layer, and the model does not.

use super::{Attention, KeysFrom, Projections};
use crate::kernels::linear::Linear;
use candle_core::Result;
use candle_nn::{VarBuilder, linear_no_bias};
use std::fmt;

/// Where the keys and values are that a file has for a layer which shares another's. They are read when a mistake
/// asks for them.
#[derive(Clone)]
pub(in crate::model) struct StrayKeys(pub VarBuilder<'static>);

impl fmt::Debug for StrayKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StrayKeys({})", self.0.prefix())
    }
}

impl Attention {
    /// Names and shapes of the tensors that its keys and values come from; none if it has biases.
    pub(in crate::model) fn key_tensors(&self) -> Result<Vec<(&'static str, Vec<usize>)>> {
        if self.o_proj.bias().is_some() {
            return Ok(vec![]);
        }
        let (hidden, _) = self.o_proj.weight().dims()?;
        let matrix = vec![self.num_key_value_heads * self.head_dim, hidden];
        let of_keys = [("k_proj.weight", matrix.clone()), ("v_proj.weight", matrix)];
        let projections = match self.keys {
            KeysFrom::Projections => 2,
            KeysFrom::OneProjection => 1,
            KeysFrom::Layer(_) => 0,
        };
        let norm = self.norms.k.is_some().then(|| ("k_norm.weight", vec![self.head_dim]));
        Ok(of_keys.into_iter().take(projections).chain(norm).collect())
    }

    /// Attention that has keys and values of its own, from the stray ones, as `lender` has that it shares those of;
    /// `None` where it does not share, or has none.
    pub(in crate::model) fn with_stray_keys(&self, lender: &Self) -> Result<Option<Self>> {
        let (Some(StrayKeys(vb)), Some(_)) = (&self.stray, self.shares()) else { return Ok(None) };
        let (queries, pack) = match &self.projections {
            Projections::Packed(queries) => (queries, true),
            Projections::Separate(all) => (&all[0], false),
        };
        let (mut projections, mut norm) = (vec![queries.clone()], None);
        for (name, shape) in lender.key_tensors()? {
            let vb = vb.pp(name.trim_end_matches(".weight"));
            match shape[..] {
                [rows, hidden] => {
                    let projection = Linear::try_from(linear_no_bias(hidden, rows, vb)?)?;
                    projections.push(if pack { projection.packed()? } else { projection });
                }
                _ => norm = Some(vb.get(shape, "weight")?),
            }
        }
        let mut norms = self.norms.clone();
        norms.v.clone_from(&lender.norms.v);
        norms.k = match (&lender.norms.k, norm) {
            (Some(own), Some(weight)) => Some(own.map_weight(|_| Ok(weight))?),
            _ => None,
        };
        let projections = Projections::Separate(projections);
        Ok(Some(Self { projections, norms, keys: lender.keys, ..self.clone() }))
    }
}
