//! Changes of a JSON value, wherever in it.

use arbitrary::{Result, Unstructured};
use serde_json::{Value, json};

/// Texts and numbers at the edges of what is read.
fn odd(u: &mut Unstructured) -> Result<Value> {
    Ok(match u.int_in_range(0..=21)? {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(0),
        3 => json!(1),
        4 => json!(-1),
        5 => json!(u64::MAX),
        6 => json!(i64::MIN),
        7 => json!(u32::MAX),
        8 => json!(1u64 << 32),
        9 => json!(1e308),
        10 => json!(-0.0),
        11 => json!(5e-324),
        12 => json!(""),
        13 => json!("a\nb\u{1b}[31m\u{202e}<b>&"),
        14 => json!([]),
        15 => json!({}),
        16 => json!([[[]]]),
        17 => json!(u.arbitrary::<u64>()?),
        18 => json!(u.arbitrary::<f64>()?),
        19 => json!(u.arbitrary::<&str>()?),
        20 => json!(u.arbitrary::<u8>()?),
        _ => json!(f64::from(u.arbitrary::<f32>()?)),
    })
}

/// Some place in a value: down by arbitrary steps.
fn place<'a>(mut value: &'a mut Value, u: &mut Unstructured) -> Result<&'a mut Value> {
    loop {
        let len = match value {
            Value::Array(items) => items.len(),
            Value::Object(fields) => fields.len(),
            _ => 0,
        };
        // Now and then a whole list or object.
        if len == 0 || u.ratio(1, 16)? {
            return Ok(value);
        }
        let at = u.int_in_range(0..=len - 1)?;
        value = match value {
            Value::Array(items) => &mut items[at],
            Value::Object(fields) => fields.values_mut().nth(at).unwrap(),
            _ => return Ok(value),
        };
    }
}

/// Changes a value in one place: to an odd one, or to what another one has somewhere.
pub fn change(value: &mut Value, other: &Value, u: &mut Unstructured) -> Result<()> {
    let place = place(value, u)?;
    match (u.int_in_range(0..=6)?, place) {
        (0, Value::Array(items)) if !items.is_empty() => {
            let at = u.choose_index(items.len())?;
            items.remove(at);
        }
        (1, Value::Array(items)) if !items.is_empty() => {
            let again = items[u.choose_index(items.len())?].clone();
            items.push(again);
        }
        (0, Value::Object(fields)) if !fields.is_empty() => {
            let key = fields.keys().nth(u.choose_index(fields.len())?).unwrap().clone();
            fields.remove(&key);
        }
        (1, Value::Object(fields)) => {
            fields.insert(u.arbitrary::<&str>()?.into(), odd(u)?);
        }
        (2, place) => *place = self::place(&mut other.clone(), u)?.clone(),
        // One that an earlier or later number would be.
        (3, place @ Value::Number(_)) => {
            let step = i64::from(u.arbitrary::<i8>()?);
            if let Some(number) = place.as_i64() {
                *place = json!(number.saturating_add(step));
            } else if let Some(number) = place.as_f64() {
                *place = json!(number * step as f64);
            }
        }
        (_, place) => *place = odd(u)?,
    }
    Ok(())
}
