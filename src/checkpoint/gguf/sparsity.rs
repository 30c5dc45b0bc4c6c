//! Gemma 3n's fractions of a gate that are set to 0, out of what GGUF has of them: their quantiles of the normal
//! distribution.

use crate::mlp::Sparsity;

/// The fraction with this quantile, of all such the one with the fewest digits; `None` if none has it. A fraction of 0 has
/// minus infinity.
pub(super) fn fraction(quantile: f32) -> Option<f64> {
    if quantile == f32::NEG_INFINITY {
        return Some(0.0);
    }
    let near = probability(quantile.into());
    let rounded = |digits: usize| format!("{near:.digits$}").parse().ok();
    let within = |distance: f32| {
        (1..=17).filter_map(rounded).find(|&fraction| {
            let own = Sparsity::new(fraction).map(|own| own.multiplier());
            own.is_ok_and(|own| (own - quantile).abs() <= distance)
        })
    };
    // Libraries differ in a quantile's last bits; llama.cpp's of 0.95 is 1.6448533.
    within(0.0).or_else(|| within(1e-6 * quantile.abs().max(1.0)))
}

/// How much of a normal distribution lies below.
fn probability(x: f64) -> f64 {
    0.5 * libm::erfc(-x / std::f64::consts::SQRT_2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_come_back() {
        for fraction in [0.95, 0.5, 0.9, 0.99, 0.123456] {
            let quantile = Sparsity::new(fraction).unwrap().multiplier();
            assert_eq!(super::fraction(quantile), Some(fraction));
        }
        assert_eq!(super::fraction(f32::NEG_INFINITY), Some(0.0));
        assert_eq!(super::fraction(1.644_853_3), Some(0.95));
        for odd in [f32::NAN, f32::INFINITY, 9.0] {
            assert_eq!(super::fraction(odd), None, "{odd}");
        }
    }
}
