//! The lines of a log: of bounded length, without colours, and whatever bytes stand in them.

use std::io::{self, BufRead};

/// No line that says anything is longer, in bytes; the rest of it is skipped.
const LONGEST: usize = 1 << 20;

/// Calls back with each line.
pub(super) fn each_line(
    mut reader: impl BufRead,
    mut line: impl FnMut(&str) -> io::Result<()>,
) -> io::Result<()> {
    let (mut bytes, mut ended) = (vec![], false);
    while !ended {
        bytes.clear();
        loop {
            let read = reader.fill_buf()?;
            ended = read.is_empty();
            let newline = read.iter().position(|byte| *byte == b'\n');
            let len = newline.unwrap_or(read.len());
            bytes.extend_from_slice(&read[..len.min(LONGEST - bytes.len())]);
            reader.consume(newline.map_or(len, |at| at + 1));
            if ended || newline.is_some() {
                break;
            }
        }
        if !(ended && bytes.is_empty()) {
            line(&without_colours(&String::from_utf8_lossy(&bytes)))?;
        }
    }
    Ok(())
}

/// Without what tells a terminal the colour: an escape, `[`, and all up to a letter.
fn without_colours(line: &str) -> String {
    let mut parts = line.split('\u{1b}');
    let mut plain = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let code = part.strip_prefix('[').unwrap_or(part);
        let end = code.find(|c: char| c.is_ascii_alphabetic()).map_or(code.len(), |at| at + 1);
        plain += &code[end..];
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    fn lines(text: &[u8]) -> Vec<String> {
        let mut all = vec![];
        let reader = BufReader::with_capacity(3, text);
        each_line(reader, |line| {
            all.push(line.into());
            Ok(())
        })
        .unwrap();
        all
    }

    #[test]
    fn lines_are_plain() {
        assert_eq!(lines(b"a\n\n\x1b[36mb\x1b[0m c\xff"), ["a", "", "b c\u{fffd}"]);
        assert_eq!(lines(b"a\n"), ["a"]);
        assert!(lines(b"").is_empty());
        let long = vec![b'x'; LONGEST + 10];
        assert_eq!(lines(&[&long[..], b"\ny"].concat())[1], "y");
        assert_eq!(lines(&long)[0].len(), LONGEST);
    }
}
