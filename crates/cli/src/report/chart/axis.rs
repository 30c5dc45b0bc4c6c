//! Scales, and where they have ticks.

/// One direction of a chart.
#[derive(Debug, Clone)]
pub struct Axis {
    /// What is measured, with its unit.
    pub label: String,
    /// How numbers become places.
    pub scale: Scale,
    /// The ends.
    pub range: (f64, f64),
    /// Names of the whole numbers from 0 on, in place of ticks, the first one on top.
    pub categories: Vec<String>,
    /// Whether only whole numbers mean something.
    pub whole: bool,
}

/// How numbers become places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Evenly.
    Linear,
    /// By their logarithm.
    Log,
}

impl Axis {
    /// An axis that goes evenly from end to end.
    pub fn linear(label: &str, range: (f64, f64)) -> Self {
        Self { label: label.into(), scale: Scale::Linear, range, categories: vec![], whole: false }
    }

    /// A linear axis of things that are counted.
    pub fn whole(label: &str, range: (f64, f64)) -> Self {
        Self { whole: true, ..Self::linear(label, range) }
    }

    /// An even axis with room for all numbers, and for 0 if `from_0`.
    pub fn linear_around(label: &str, values: impl Iterator<Item = f64>, from_0: bool) -> Self {
        let ends = ends(values.filter(|v| v.is_finite())).unwrap_or((0.0, 1.0));
        let (low, high) = match from_0 {
            true if ends == (0.0, 0.0) => (0.0, 1.0),
            true => (ends.0.min(0.0), ends.1.max(0.0)),
            false => ends,
        };
        let room = if high > low { 0.12 * half_width((low, high)) } else { 0.5 * high.abs() };
        let room = room.max(1e-300);
        let low_room = if from_0 && low == 0.0 { 0.0 } else { room };
        let high_room = if from_0 && high == 0.0 { 0.0 } else { room };
        Self::linear(label, ((low - low_room).max(f64::MIN), (high + high_room).min(f64::MAX)))
    }

    /// A logarithmic axis with room for all positive numbers, one decade at least.
    pub fn log_around(label: &str, values: impl Iterator<Item = f64>) -> Self {
        let values = values.filter(|v| v.is_finite() && *v > 0.0);
        let (low, high) = ends(values).unwrap_or((1e-3, 1.0));
        let (mut low, mut high) = (low.log10() - 0.12, high.log10() + 0.12);
        if high - low < 1.0 {
            let middle = 0.5 * (low + high);
            (low, high) = (middle - 0.5, middle + 0.5);
        }
        let range = (10f64.powf(low.clamp(-300.0, 299.0)), 10f64.powf(high.clamp(-299.0, 300.0)));
        Self { scale: Scale::Log, ..Self::linear(label, range) }
    }

    /// An axis of named places.
    pub fn categories(names: Vec<String>) -> Self {
        let range = (names.len() as f64 - 0.5, -0.5);
        Self { categories: names, ..Self::linear("", range) }
    }

    /// Whether a number has a place on it.
    pub(super) fn holds(&self, value: f64) -> bool {
        value.is_finite() && (self.scale == Scale::Linear || value > 0.0)
    }

    /// Its place, 0 at the first end and 1 at the other.
    pub(super) fn place(&self, value: f64) -> f64 {
        let (low, high) = self.range;
        match self.scale {
            Scale::Linear => half_width((low, value)) / half_width((low, high)),
            Scale::Log => (value.ln() - low.ln()) / (high.ln() - low.ln()),
        }
    }

    /// Ticks with their labels, about `wanted` of them.
    pub(super) fn ticks(&self, wanted: usize) -> Vec<(f64, String)> {
        if !self.categories.is_empty() {
            return self
                .categories
                .iter()
                .enumerate()
                .map(|(i, n)| (i as f64, n.clone()))
                .collect();
        }
        match self.scale {
            Scale::Linear => linear_ticks(self.range, wanted, if self.whole { 1.0 } else { 0.0 }),
            Scale::Log => log_ticks(self.range, wanted),
        }
    }
}

/// Half of how far the second is above the first: all of it may be more than f64 holds.
fn half_width((low, high): (f64, f64)) -> f64 {
    0.5 * high - 0.5 * low
}

/// The least and the largest.
fn ends(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |ends, v| match ends {
        None => Some((v, v)),
        Some((low, high)) => Some((v.min(low), v.max(high))),
    })
}

/// Multiples of 1, 2 or 5 times a power of ten, `least` apart at least. There are none where they would differ in the
/// tenth digit, or in none that f64 holds.
fn linear_ticks((low, high): (f64, f64), wanted: usize, least: f64) -> Vec<(f64, String)> {
    let rough = (half_width((low, high)).abs() / (0.5 * wanted.max(1) as f64)).max(least);
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power);
    let step = step.into_iter().find(|&s| s >= rough * 0.999).unwrap_or(10.0 * power);
    let largest = low.abs().max(high.abs());
    if !(low.is_finite() && high.is_finite() && step.is_normal() && largest <= 1e9 * step) {
        return vec![];
    }
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    let largest = first.abs().max(last.abs()) as f64 * step;
    (first..=last.min(first.saturating_add(50)))
        .map(|i| (i as f64 * step, linear_label(i, step, largest)))
        .collect()
}

/// A multiple of the step, to the step's digits; small and large ones in powers of ten.
fn linear_label(i: i64, step: f64, largest: f64) -> String {
    let value = i as f64 * step;
    if i == 0 {
        return "0".into();
    }
    if (0.05..1e5).contains(&largest) {
        let digits = (-step.log10() - 1e-9).ceil().max(0.0) as usize;
        return format!("{value:.digits$}").replace('-', "−");
    }
    let power = largest.log10().floor() as i32;
    let mantissa = value / 10f64.powi(power);
    let digits = (power as f64 - step.log10() - 1e-9).ceil().max(0.0) as usize;
    format!("{mantissa:.digits$}·10{}", superscript(power)).replace('-', "−")
}

/// Powers of ten; between few of them also 2 and 5 times these.
fn log_ticks((low, high): (f64, f64), wanted: usize) -> Vec<(f64, String)> {
    // Powers of ten beyond these are not exact enough.
    if !(1e-300 <= low && low <= high && high <= 1e300) {
        return vec![];
    }
    let (first, last) = (low.log10().ceil() as i32, high.log10().floor() as i32);
    let decades = high.log10() - low.log10();
    let every = ((decades / wanted.max(1) as f64).ceil() as i32).max(1);
    let mut ticks: Vec<(f64, String)> = (first..=last)
        .filter(|power| power.rem_euclid(every) == 0)
        .map(|power| (10f64.powi(power), power_label(1, power)))
        .collect();
    if decades < 2.5 {
        for power in first - 1..=last {
            for multiple in [2, 5] {
                let value = f64::from(multiple) * 10f64.powi(power);
                if (low..=high).contains(&value) {
                    ticks.push((value, power_label(multiple, power)));
                }
            }
        }
        ticks.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    ticks
}

fn power_label(multiple: u8, power: i32) -> String {
    match (multiple, power) {
        (1, 0) => "1".into(),
        (1, 1) => "10".into(),
        (1, 2) => "100".into(),
        (m, 0) => m.to_string(),
        (1, _) => format!("10{}", superscript(power)),
        (m, _) => format!("{m}·10{}", superscript(power)),
    }
}

/// `⁻⁴`.
pub(in crate::report) fn superscript(power: i32) -> String {
    let digit = |c: char| match c {
        '-' => '⁻',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        c => char::from_u32('⁰' as u32 + c as u32 - '0' as u32).unwrap_or(c),
    };
    power.to_string().chars().map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(axis: &Axis, wanted: usize) -> String {
        axis.ticks(wanted).into_iter().map(|(_, label)| label).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(labels(&Axis::linear("", (-4.0, 4.0)), 8), "−4 −3 −2 −1 0 1 2 3 4");
        assert_eq!(labels(&Axis::linear("", (0.0, 0.31)), 4), "0 0.1 0.2 0.3");
        assert_eq!(labels(&Axis::linear("", (-5e-4, 2.5e-4)), 4), "−4·10⁻⁴ −2·10⁻⁴ 0 2·10⁻⁴");
        let axis = Axis::log_around("", [1e-4, 1e-1].into_iter());
        assert_eq!(labels(&axis, 5), "10⁻⁴ 10⁻³ 10⁻² 10⁻¹");
        let axis = Axis::log_around("", [2e-4, 3e-4].into_iter());
        assert_eq!(labels(&axis, 5), "10⁻⁴ 2·10⁻⁴ 5·10⁻⁴");
        assert_eq!(labels(&Axis::whole("", (-0.3, 2.3)), 8), "0 1 2");
        assert_eq!(superscript(-12), "⁻¹²");
    }

    fn few_and_within(axis: &Axis, wanted: usize) {
        let ticks = axis.ticks(wanted);
        assert!(ticks.len() <= 60, "{axis:?}");
        let (low, high) = axis.range;
        let step = if axis.whole { 1.0 } else { 0.0 };
        let room = 1e-6 * (0.5 * high - 0.5 * low).max(step);
        for (value, label) in ticks {
            assert!(label.len() < 60 && (low - room..=high + room).contains(&value), "{axis:?}");
        }
    }

    /// Any, with many zeros and numbers next to it.
    fn numbers() -> impl Strategy<Value = f64> {
        prop_oneof![any::<f64>(), Just(0.0), (0u64..9).prop_map(f64::from_bits)]
    }

    proptest! {
        /// No range is too narrow, too wide or too odd for ticks.
        #[test]
        fn any_range_has_ticks(
            low in any::<f64>(), high in any::<f64>(), ulps in 0u64..100, wanted in 0usize..20,
        ) {
            let near = f64::from_bits(low.to_bits().saturating_add(ulps));
            for range in [(low, high), (low, near), (0.0, high), (f64::NAN, high), (low, f64::INFINITY)] {
                for axis in [Axis::linear("", range), Axis::whole("", range)] {
                    few_and_within(&axis, wanted);
                }
                few_and_within(&Axis { scale: Scale::Log, ..Axis::linear("", range) }, wanted);
            }
        }

        /// Whatever numbers an axis was made for have a place on it.
        #[test]
        fn axes_have_room(
            values in prop::collection::vec(numbers(), 0..5), from_0 in any::<bool>(), wanted in 0usize..20,
        ) {
            let within = |axis: &Axis, value: f64| {
                let place = axis.place(value);
                assert!((-1e-9..=1.0 + 1e-9).contains(&place), "{value} is at {place} of {axis:?}");
            };
            let axis = Axis::linear_around("", values.iter().copied(), from_0);
            few_and_within(&axis, wanted);
            values.iter().filter(|v| axis.holds(**v)).for_each(|&v| within(&axis, v));
            let axis = Axis::log_around("", values.iter().copied());
            few_and_within(&axis, wanted);
            values.iter().filter(|v| (1e-299..1e299).contains(*v)).for_each(|&v| within(&axis, v));
        }
    }

    #[test]
    fn places() {
        let axis = Axis::log_around("", [1.0, f64::NAN, 0.0, -3.0, 100.0].into_iter());
        assert!((axis.place(10.0) - 0.5).abs() < 1e-12);
        assert!(!axis.holds(0.0) && !axis.holds(f64::INFINITY) && axis.holds(1e-9));
        let categories = Axis::categories(vec!["a".into(), "b".into()]);
        assert_eq!((categories.place(0.0), categories.place(1.0)), (0.75, 0.25));
    }
}
