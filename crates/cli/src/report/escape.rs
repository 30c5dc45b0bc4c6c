//! Text that comes from outside, as text: it never becomes markup.

/// A text as the content of an element or of a quoted attribute of XML or HTML. Characters that XML
/// does not allow, such as control characters, are shown as `�`.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            '\n' | '\t' => escaped.push(c),
            // Right-to-left overrides reorder what stands around them.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => escaped.push('�'),
            '\u{fffe}' | '\u{ffff}' => escaped.push('�'),
            c if c.is_control() => escaped.push('�'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A cell of a CSV file (RFC 4180): quoted where it has to be.
pub(super) fn csv_cell(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_becomes_text() {
        let hostile = "</script><img src=x onerror='a()'>\"&\u{0}\u{1b}\u{202e}\r";
        let safe = "&lt;/script&gt;&lt;img src=x onerror=&#39;a()&#39;&gt;&quot;&amp;����";
        assert_eq!(escape(hostile), safe);
        assert_eq!(escape("Ä Φ ▁ 漢"), "Ä Φ ▁ 漢");
        assert_eq!(csv_cell("a \"b\", c"), "\"a \"\"b\"\", c\"");
        assert_eq!(csv_cell("plain"), "plain");
    }
}
