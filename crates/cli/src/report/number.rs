//! Numbers as text.

use super::chart::superscript;

/// Three significant digits, in scientific notation where that is shorter to read.
pub(super) fn short(x: f64) -> String {
    match x.abs() {
        _ if x.is_nan() => "nan".into(),
        a if a.is_infinite() => if x > 0.0 { "inf" } else { "-inf" }.into(),
        0.0 => "0".into(),
        0.01..1000.0 => {
            let digits = 2 - x.abs().log10().floor() as i32;
            format!("{x:.*}", digits.max(0) as usize)
        }
        _ => format!("{x:.2e}"),
    }
}

/// What stands in place of a figure that was not measured.
pub(super) const NOT_MEASURED: &str = "-";

/// A figure as `write` writes it, unless it was not measured.
pub(super) fn measured(x: f64, write: impl FnOnce(f64) -> String) -> String {
    if x.is_nan() { NOT_MEASURED.into() } else { write(x) }
}

/// A fraction in percent.
pub(super) fn percent(x: f64) -> String {
    measured(x, |x| format!("{:.2} %", 100.0 * x))
}

/// Three significant digits as people write them, with powers of ten: `1.68·10⁻⁶`.
pub(super) fn pretty(x: f64) -> String {
    let short = short(x);
    let power =
        short.split_once('e').and_then(|(digits, power)| Some((digits, power.parse().ok()?)));
    power.map_or(short.clone(), |(digits, power)| format!("{digits}·10{}", superscript(power)))
}

/// Five significant digits: for tables that are read figure by figure.
pub(super) fn precise(x: f64) -> String {
    match x.abs() {
        _ if x.is_nan() => "".into(),
        a if a.is_infinite() => short(x),
        0.0 => "0".into(),
        0.01..10000.0 => {
            let digits = 4 - x.abs().log10().floor() as i32;
            format!("{x:.*}", digits.max(0) as usize)
        }
        _ => format!("{x:.4e}"),
    }
}

/// A count with thousands separated.
pub(super) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|g| std::str::from_utf8(g).ok()).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_numbers() {
        for (x, text) in [
            (0.0, "0"),
            (1.0, "1.00"),
            (12.345, "12.3"),
            (999.4, "999"),
            (-0.0123, "-0.0123"),
            (4.732e-4, "4.73e-4"),
            (123456.0, "1.23e5"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(short(x), text);
        }
        assert_eq!([pretty(1.68e-6), pretty(0.5)], ["1.68·10⁻⁶", "0.500"]);
        assert_eq!([percent(0.12345), percent(f64::NAN)], ["12.35 %", "-"]);
        assert_eq!([measured(1.0, short), measured(f64::NAN, short)], ["1.00", "-"]);
        assert_eq!([precise(1.234567e-6), precise(12.34567)], ["1.2346e-6", "12.346"]);
        assert_eq!((grouped(7), grouped(1234567)), ("7".to_string(), "1,234,567".to_string()));
    }
}
