//! Tensors as PyTorch prints them: `tensor([[1.0000e+00, ..., 2.5000e-01]], dtype=torch.bfloat16)`.

/// The most axes of a tensor.
const MAX_RANK: usize = 8;

/// A shape as Python shows it: `torch.Size([1, 5, 8])`.
pub(super) fn shape(text: &str) -> Option<Vec<usize>> {
    let dims = text.strip_prefix("torch.Size([")?.strip_suffix("])")?;
    let dims = dims.split(',').map(str::trim).filter(|dim| !dim.is_empty());
    let shape: Vec<usize> = dims.map(|dim| dim.parse().ok()).collect::<Option<_>>()?;
    shape.iter().try_fold(1, |n: usize, &dim| n.checked_mul(dim))?;
    (shape.len() <= MAX_RANK).then_some(shape)
}

/// The numbers that are shown of a tensor of a shape, by their place in the whole, and half a unit of the
/// last digit that any of them has; `None` if it is not printed so.
pub(super) fn printed(text: &str, shape: &[usize]) -> Option<(Vec<(usize, f64)>, f64)> {
    let rest = text.trim_start().strip_prefix("tensor(")?;
    if shape.is_empty() || shape.contains(&0) {
        return None;
    }
    let mut printed = Printed { rest, values: vec![], precision: 0.0 };
    printed.list(shape)?;
    Some((printed.values, printed.precision))
}

struct Printed<'a> {
    rest: &'a str,
    values: Vec<(usize, f64)>,
    precision: f64,
}

impl Printed<'_> {
    /// A list of as many items as the first axis has, perhaps with `...` for those in the middle.
    fn list(&mut self, shape: &[usize]) -> Option<()> {
        let (&dim, inner) = shape.split_first()?;
        let stride: usize = inner.iter().product();
        self.rest = self.rest.trim_start().strip_prefix('[')?;
        // Where the values of each item begin, and how many items come before the gap.
        let (mut starts, mut gap) = (vec![], None);
        loop {
            self.rest = self.rest.trim_start();
            if let Some(rest) = self.rest.strip_prefix("...") {
                if gap.replace(starts.len()).is_some() {
                    return None;
                }
                self.rest = rest;
            } else {
                if starts.len() == dim {
                    return None;
                }
                starts.push(self.values.len());
                match inner {
                    [] => self.number()?,
                    _ => self.list(inner)?,
                }
            }
            self.rest = self.rest.trim_start();
            match self.rest.split_at_checked(1)? {
                (",", rest) => self.rest = rest,
                ("]", rest) => {
                    self.rest = rest;
                    break;
                }
                _ => return None,
            }
        }
        let before = match gap {
            Some(before) if starts.len() < dim => before,
            None if starts.len() == dim => dim,
            _ => return None,
        };
        for (item, &start) in starts.iter().enumerate() {
            let end = starts.get(item + 1).copied().unwrap_or(self.values.len());
            let place = if item < before { item } else { dim - (starts.len() - item) };
            for (at, _) in &mut self.values[start..end] {
                *at += place * stride;
            }
        }
        Some(())
    }

    fn number(&mut self) -> Option<()> {
        let end = self.rest.find([',', ']', '\n', ' '])?;
        let (number, rest) = self.rest.split_at(end);
        let value: f64 = number.parse().ok()?;
        self.rest = rest;
        self.values.push((0, value));
        if value.is_finite() && number.contains('.') {
            self.precision = self.precision.max(half_unit(number));
        }
        Some(())
    }
}

/// Half a unit of a number's last digit.
fn half_unit(number: &str) -> f64 {
    let (digits, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let decimals = digits.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let last = exponent.saturating_sub(decimals.try_into().unwrap_or(i32::MAX));
    0.5 * 10f64.powi(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn printed_numbers_are_in_their_places() {
        assert_eq!(shape("torch.Size([1, 5])"), Some(vec![1, 5]));
        assert_eq!(shape("torch.Size([])"), Some(vec![]));
        assert_eq!(shape("torch.Size([18446744073709551615, 2])"), None);
        let text = "tensor([[ 1.0000e+00, -2.5000e-01, nan],\n        [inf, 2., 3.0000e+01]], dtype=torch.bfloat16)";
        let (values, precision) = printed(text, &[2, 3]).unwrap();
        assert_eq!(values[..2], [(0, 1.0), (1, -0.25)]);
        assert!(values[2].1.is_nan() && values[5] == (5, 30.0));
        assert_eq!(precision, 0.5);
        let text = "tensor([[[1.0, ..., 2.0],\n  ...,\n [3.0, 4.0, ..., 5.0]]])";
        let (values, precision) = printed(text, &[1, 5, 7]).unwrap();
        assert_eq!(values, [(0, 1.0), (6, 2.0), (28, 3.0), (29, 4.0), (34, 5.0)]);
        assert!((precision - 0.05).abs() < 1e-12);
        let (values, precision) = printed("tensor([2, 5])", &[2]).unwrap();
        assert_eq!((values, precision), (vec![(0, 2.0), (1, 5.0)], 0.0));
        for (text, shape) in [
            ("tensor([1.0, 2.0])", &[3][..]),
            ("tensor([1.0, 2.0])", &[1]),
            ("tensor([1.0, ..., 2.0])", &[2]),
            ("tensor([..., ...])", &[2]),
            ("tensor([[1.0]])", &[1]),
            ("tensor([1.0])", &[1, 1]),
            ("tensor([True])", &[1]),
            ("tensor([1.0", &[1]),
            ("tensor([])", &[0]),
            ("[1.0]", &[1]),
            ("", &[]),
        ] {
            assert_eq!(printed(text, shape), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "tensor\\([\\[\\]0-9., \n]{0,60}|.{0,40}", dims in prop::collection::vec(0usize..4, 0..4)) {
            let _ = printed(&text, &dims);
            let _ = shape(&text);
        }
    }
}
