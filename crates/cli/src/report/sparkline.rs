//! A row of numbers as a row of bars.

/// A bar for each number, by its logarithm between the least and the largest; a space where there is
/// none.
pub(super) fn sparkline(values: &[f64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let drawn = || values.iter().copied().filter(|v| v.is_finite() && *v > 0.0);
    let low = drawn().fold(f64::INFINITY, f64::min).ln();
    let high = drawn().fold(0.0, f64::max).ln();
    let bar = |&value: &f64| {
        if !value.is_finite() || value <= 0.0 {
            return ' ';
        }
        let share = if high > low { (value.ln() - low) / (high - low) } else { 0.5 };
        BARS[((share * 8.0) as usize).min(7)]
    };
    values.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_go_by_the_logarithm() {
        assert_eq!(sparkline(&[1.0, 10.0, 100.0, f64::NAN, 0.0, 1000.0]), "▁▃▆  █");
        assert_eq!(sparkline(&[5.0, 5.0]), "▅▅");
        assert_eq!(sparkline(&[]), "");
    }
}
