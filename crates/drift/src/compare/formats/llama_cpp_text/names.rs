//! What llama.cpp calls the points of a Gemma.

use super::printed::Printed;
use crate::compare::point::{Place, Point};

/// The point that a tensor is; `None` if it is none, or not yet: projections before the rotary
/// embedding have the same names as behind it.
pub(super) fn point(tensor: &Printed) -> Option<Point> {
    let name = tensor.name.as_str();
    match name {
        "inp_scaled" => return Some(Point::Embedding),
        "result_norm" => return Some(Point::Normed),
        "result_output" => return Some(Point::Logits),
        _ => {}
    }
    // It has no name of its own, and `kqv_out` is what goes into o_proj since 2025.
    if let ("MUL_MAT", Some(layer)) = (tensor.op.as_str(), attn_output(&tensor.source)) {
        return Some(Point::Layer(layer, Place::AttnOutput));
    }
    let (name, layer) = name.rsplit_once('-')?;
    let layer = index(layer)?;
    let place = match (name, tensor.op.as_str()) {
        ("attn_norm", _) => Place::AttnInput,
        ("Qcur", "ROPE") => Place::Queries,
        ("Kcur", "ROPE") => Place::Keys,
        ("Vcur" | "Vcur_normed", _) => Place::Values,
        ("attn_post_norm", _) => Place::AttnNormed,
        ("sa_out", _) | ("attn_out", "ADD") => Place::Attended,
        ("ffn_norm", _) => Place::MlpInput,
        ("ffn_gate", _) => Place::Gate,
        ("ffn_up", _) => Place::Up,
        ("ffn_gelu", _) => Place::Activated,
        ("ffn_geglu" | "ffn_gate_par", _) => Place::Product,
        ("ffn_out", _) => Place::MlpOutput,
        ("ffn_post_norm", _) => Place::MlpNormed,
        ("l_out", _) => Place::Hidden,
        _ => return None,
    };
    Some(Point::Layer(layer, place))
}

/// The layer whose `o_proj` a tensor is.
fn attn_output(source: &str) -> Option<usize> {
    index(source.strip_prefix("blk.")?.strip_suffix(".attn_output.weight")?)
}

fn index(digits: &str) -> Option<usize> {
    digits.parse::<usize>().ok().filter(|n| n.to_string() == digits)
}

/// The shape of a tensor, positions first; `None` if it is of no shape that
/// the point has in a Gemma.
pub(super) fn shape(point: Point, tensor: &Printed) -> Option<Vec<usize>> {
    match (point, tensor.sizes) {
        (Point::Layer(_, Place::Queries | Place::Keys), [dim, heads, positions, 1]) => {
            Some(vec![positions, heads, dim])
        }
        // Values have their heads once they are reshaped.
        (Point::Layer(_, Place::Values), [dim, heads, positions, 1]) if tensor.op != "MUL_MAT" => {
            Some(vec![positions, heads, dim])
        }
        (_, [width, positions, 1, 1]) => Some(vec![positions, width]),
        _ => None,
    }
}
