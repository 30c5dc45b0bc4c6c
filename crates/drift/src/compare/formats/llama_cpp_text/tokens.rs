//! The token ids of the prompt, as logs print them.

/// Reads them from lines, which it is shown one after the other.
#[derive(Default)]
pub(super) struct Tokens {
    /// How many there are, and how they are printed, once that has been said.
    awaited: Option<(usize, Style)>,
    ids: Vec<u32>,
    /// What may still be the beginning of a `piece(id)`.
    rest: String,
    spoilt: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Style {
    /// An id a line.
    Lines,
    /// `piece(id) piece(id)`, where a piece may be anything, a line break too.
    Pieces,
}

/// No prompt has more.
const MAX: usize = 1 << 24;

impl Tokens {
    /// Whether the line is of the list.
    pub(super) fn take(&mut self, line: &str) -> bool {
        let Some((count, style)) = self.awaited else {
            self.awaited = announced(line);
            return self.awaited.is_some();
        };
        if self.ids.len() == count || self.spoilt {
            return false;
        }
        match style {
            Style::Lines => match line.split_whitespace().last().map(str::parse) {
                Some(Ok(id)) => self.ids.push(id),
                _ => self.spoilt = true,
            },
            Style::Pieces => {
                self.rest += line;
                self.rest.push('\n');
                self.take_pieces(count);
            }
        }
        true
    }

    fn take_pieces(&mut self, count: usize) {
        let mut from = 0;
        while self.ids.len() < count {
            let Some(at) = self.rest[from..].find('(').map(|at| from + at + 1) else { break };
            from = at;
            let digits = self.rest[at..].bytes().take_while(u8::is_ascii_digit).count();
            let (id, behind) = self.rest[at..].split_at(digits);
            if let (Ok(id), true) = (id.parse(), behind.starts_with(") ")) {
                self.ids.push(id);
                self.rest.drain(..at + digits + 2);
                from = 0;
            }
        }
        if self.ids.len() == count {
            self.spoilt = !self.rest.trim().is_empty();
        }
    }

    /// `None` if the log prints none, or not as it should.
    pub(super) fn ids(self) -> Option<Vec<u32>> {
        let (count, _) = self.awaited?;
        (count > 0 && self.ids.len() == count && !self.spoilt).then_some(self.ids)
    }
}

fn announced(line: &str) -> Option<(usize, Style)> {
    let count = |text: &str| text.trim().parse().ok().filter(|count| *count <= MAX);
    if let Some((_, number)) = line.split_once("number of input tokens = ") {
        return Some((count(number)?, Style::Lines));
    }
    let number = line.split_once("Token ids (")?.1.trim().strip_suffix("):")?;
    Some((count(number)?, Style::Pieces))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(log: &str) -> Option<Vec<u32>> {
        let mut tokens = Tokens::default();
        for line in log.lines() {
            tokens.take(line);
        }
        tokens.ids()
    }

    #[test]
    fn both_ways_of_printing() {
        assert_eq!(ids("x\nnumber of input tokens = 2\n  2\n0.1 I   818\n7"), Some(vec![2, 818]));
        let pieces = "Token ids (5):\n<bos>(2) The(818)  ((568) \n(107) )(271) \nend";
        assert_eq!(ids(pieces), Some(vec![2, 818, 568, 107, 271]));
        for odd in [
            "",
            "number of input tokens = 2\n2\nx\n3",
            "number of input tokens = 3\n2\n5",
            "Token ids (2):\na(1) b(2) c(3) ",
            "Token ids (2):\na(1) b(-2) ",
            "Token ids (0):\n\n",
        ] {
            assert_eq!(ids(odd), None, "{odd}");
        }
    }
}
