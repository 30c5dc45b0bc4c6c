//! A tensor as `ggml_debug` prints it: a line with its name, operation and sizes, then three numbers
//! at either end of each dimension, then the sum.

/// What programs call the function that prints, by age.
const PRINTERS: [&str; 2] = ["ggml_debug:", "common_debug_cb_eval:"];
/// How many numbers are shown at either end, unless the text shows another count.
const SHOWN: usize = 3;
/// More numbers are of no tensor that is shown like this.
const MAX_VALUES: usize = 1 << 14;

/// A tensor as far as it is printed.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Printed {
    pub(super) name: String,
    /// The operation that made it, as in `MUL_MAT`.
    pub(super) op: String,
    /// What it was made of, as in `blk.0.ffn_down.weight`.
    pub(super) source: String,
    /// The fastest dimension first.
    pub(super) sizes: [usize; 4],
    numbers: Vec<f64>,
    sums: Vec<f64>,
    shown: Option<usize>,
    decimals: Option<usize>,
}

/// Its numbers.
pub(super) struct Numbers {
    /// With their places, the fastest dimension first.
    pub(super) values: Vec<(usize, f64)>,
    pub(super) sum: Option<f64>,
    pub(super) precision: f64,
}

pub(super) fn is_printed(line: &str) -> bool {
    PRINTERS.iter().any(|printer| line.contains(printer))
}

impl Printed {
    /// From the line with its name.
    pub(super) fn header(line: &str) -> Option<Self> {
        let rest = PRINTERS.iter().find_map(|printer| Some(line.split_once(printer)?.1))?;
        let (name, made) = rest.split_once(" = (")?;
        let (_, op) = made.split_once(')')?;
        let (op, sources) = op.split_once('(')?;
        let (source, _) = sources.split_once('{').unwrap_or_default();
        let (_, sizes) = made.rsplit_once(" = {")?;
        let sizes = sizes.trim().strip_suffix('}')?;
        let mut of = [1; 4];
        let mut count = 0;
        for (to, size) in of.iter_mut().zip(sizes.split(',')) {
            *to = size.trim().parse().ok()?;
            count += 1;
        }
        (count == 4).then(|| Self {
            name: name.trim().into(),
            op: op.trim().into(),
            source: source.trim().into(),
            sizes: of,
            ..Self::default()
        })
    }

    /// Takes a line behind it, if that has numbers of it.
    pub(super) fn take(&mut self, line: &str) {
        let line = line.trim();
        if let Some(sum) = line.strip_prefix("sum").and_then(|rest| rest.trim().strip_prefix('=')) {
            self.sums.extend(sum.trim().parse::<f64>());
            return;
        }
        if !line.starts_with('[') {
            return;
        }
        let row = line.trim_matches(|c: char| "[],".contains(c) || c.is_whitespace());
        if row.is_empty() {
            return;
        }
        let mut numbers = vec![];
        for word in row.split(',').map(str::trim) {
            match word.parse() {
                _ if word == "..." => self.shown = self.shown.or(Some(numbers.len())),
                Ok(number) => {
                    let decimals = word.split_once('.').map_or(0, |(_, digits)| digits.len());
                    if f64::is_finite(number) {
                        self.decimals = Some(self.decimals.map_or(decimals, |d| d.min(decimals)));
                    }
                    numbers.push(number);
                }
                Err(_) => return,
            }
        }
        if self.numbers.len() + numbers.len() <= MAX_VALUES {
            self.numbers.extend(numbers);
        }
    }

    /// Whether nothing more is to come.
    pub(super) fn is_over(&self) -> bool {
        self.sums.len() >= self.sizes[3]
    }

    /// Its numbers with their places; `None` if there are more or fewer than its sizes have.
    pub(super) fn numbers(&self) -> Option<Numbers> {
        let shown = self.shown.unwrap_or(SHOWN);
        let [a, b, c, d] = self.sizes;
        let all = [a, b, c, d].iter().try_fold(1usize, |all, size| all.checked_mul(*size))?;
        // The slowest dimension is shown whole.
        let indices = [ends(a, shown)?, ends(b, shown)?, ends(c, shown)?, ends(d, d)?];
        let count: usize = indices.iter().map(Vec::len).product();
        if count != self.numbers.len() || count == 0 {
            return None;
        }
        let mut numbers = self.numbers.iter();
        let mut values = Vec::with_capacity(count);
        for l in &indices[3] {
            for k in &indices[2] {
                for j in &indices[1] {
                    for i in &indices[0] {
                        values.push((i + a * (j + b * (k + c * l)), *numbers.next()?));
                    }
                }
            }
        }
        let precision = 0.5 / 10f64.powi(self.decimals.unwrap_or(4).min(17) as i32);
        let sum = (self.sums.len() == d).then(|| self.sums.iter().sum());
        // Older programs sum up what they show.
        let of_shown: f64 = self.numbers.iter().sum();
        let slack = precision * count as f64 + 1e-5 * of_shown.abs();
        let sum = sum.filter(|sum: &f64| count == all || (sum - of_shown).abs() > slack);
        Some(Numbers { values, sum, precision })
    }
}

/// The places that are shown of a dimension; `None` if they are too many.
fn ends(size: usize, shown: usize) -> Option<Vec<usize>> {
    match size > shown.checked_mul(2)? {
        true => Some((0..shown).chain(size - shown..size).collect()),
        false => (size <= MAX_VALUES).then(|| (0..size).collect()),
    }
}
