//! Colours, for a light and for a dark ground.

use super::Colour;
use std::fmt::Write;

/// The colours of a page or a picture.
#[derive(Debug, Clone, Copy)]
pub(in crate::report) struct Theme {
    pub(in crate::report) ground: &'static str,
    pub(in crate::report) ink: &'static str,
    /// Of labels: 4.5:1 at least.
    pub(in crate::report) soft: &'static str,
    pub(in crate::report) grid: &'static str,
    pub(in crate::report) palette: [&'static str; 8],
}

pub(in crate::report) const LIGHT: Theme = Theme {
    ground: "#ffffff",
    ink: "#1a2029",
    soft: "#566070",
    grid: "#e6e9ee",
    palette: [
        "#1f6feb", "#d4650a", "#138a62", "#8250df", "#cf222e", "#0a7ea4", "#8a6116", "#7d8796",
    ],
};

pub(in crate::report) const DARK: Theme = Theme {
    ground: "#0f141b",
    ink: "#e8ecf2",
    soft: "#a3adbb",
    grid: "#27303c",
    palette: [
        "#6cb0ff", "#ff9f52", "#4cc995", "#bd9bff", "#ff7b7b", "#56c7e8", "#d8ab58", "#8d98a8",
    ],
};

impl Colour {
    /// Its class.
    pub(super) fn class(self) -> String {
        format!("c{}", self as usize)
    }
}

/// The rules that give every class its colour, `to` standing for the value of the n-th.
pub(in crate::report) fn colours(to: impl Fn(usize) -> String) -> String {
    let mut css = String::new();
    for i in 0..Colour::ALL.len() {
        let colour = to(i);
        let _ = write!(css, ".c{i}{{color:{colour}}}");
    }
    css
}

/// What all pictures have in common, whatever their colours.
pub(in crate::report) const SHAPES: &str = "\
.line,.dashed,.stem,.rule{fill:none;stroke:currentColor}\
.dot,.bar,.cell{fill:currentColor}\
.line{stroke-width:2;stroke-linejoin:round;stroke-linecap:round}\
.dashed{stroke-dasharray:5 4;stroke-width:1.75;stroke-linejoin:round}\
.faint{fill-opacity:.6}.bar{fill-opacity:.5}\
.stem{stroke-width:3;stroke-opacity:.3;stroke-linecap:round}\
.rule{stroke-width:1.5;stroke-dasharray:3 3}\
.grid,.axis{stroke-width:1;fill:none}\
.tick,.label,.key{font-size:12px}.key{font-weight:500}.title{font-size:15px;font-weight:600}";

/// The style of a picture that stands alone.
pub(super) fn standalone() -> String {
    let theme = |t: &Theme| {
        format!(
            ".ground{{fill:{}}}text{{fill:{}}}.tick,.label{{fill:{}}}.grid{{stroke:{}}}.axis{{stroke:{}}}{}",
            t.ground,
            t.ink,
            t.soft,
            t.grid,
            t.soft,
            colours(|i| t.palette[i].to_string())
        )
    };
    format!(
        "text{{font-family:Inter,system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}}{SHAPES}{}\
         @media (prefers-color-scheme:dark){{{}}}",
        theme(&LIGHT),
        theme(&DARK)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// WCAG's contrast of two colours.
    fn contrast(a: &str, b: &str) -> f64 {
        let luminance = |hex: &str| {
            let channel = |i: usize| {
                let c = f64::from(u8::from_str_radix(&hex[i..i + 2], 16).unwrap()) / 255.0;
                if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
            };
            0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5)
        };
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn everything_can_be_seen() {
        for theme in [LIGHT, DARK] {
            assert!(contrast(theme.ink, theme.ground) > 7.0);
            assert!(contrast(theme.soft, theme.ground) > 4.5, "labels");
            for colour in theme.palette {
                let contrast = contrast(colour, theme.ground);
                assert!(contrast > 3.0, "{colour} {contrast}");
            }
        }
    }
}
