//! Text that comes from outside, as text: it never becomes markup.

/// A text as the content of an element or of a quoted attribute of XML. Characters that XML does not
/// allow, such as control characters, are shown as `�`.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            c => escaped.push(printable(c)),
        }
    }
    escaped
}

/// The character, or `�` in place of one that is not allowed or that nobody sees.
pub(super) fn printable(c: char) -> char {
    match c {
        '\n' | '\t' => c,
        // Right-to-left overrides reorder what stands around them.
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '�',
        '\u{fffe}' | '\u{ffff}' => '�',
        c if c.is_control() => '�',
        c => c,
    }
}

/// A text as a part of a line on a terminal, which control characters would do something to.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { '↵' } else { printable(c) }).collect()
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
        assert_eq!(plain("a\u{1b}[31m\nb\u{9b}2J\u{7f}<Φ>"), "a�[31m↵b�2J�<Φ>");
    }
}
