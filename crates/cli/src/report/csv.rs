//! Tables as comma-separated values.

use anyhow::Result;

/// A table that grows by rows.
pub(super) struct Csv(csv::Writer<Vec<u8>>);

impl Csv {
    pub(super) fn new(header: &[&str]) -> Result<Self> {
        let mut writer = csv::Writer::from_writer(vec![]);
        writer.write_record(header)?;
        Ok(Self(writer))
    }

    pub(super) fn row(&mut self, cells: &[&str]) -> Result<()> {
        Ok(self.0.write_record(cells)?)
    }

    pub(super) fn text(self) -> Result<String> {
        Ok(String::from_utf8(self.0.into_inner()?)?)
    }

    /// A number with all its digits; nothing where it is NaN.
    pub(super) fn number(x: f64) -> String {
        match x {
            x if x.is_nan() => String::new(),
            x if x == 0.0 || (1e-4..1e15).contains(&x.abs()) => x.to_string(),
            x => format!("{x:e}"),
        }
    }
}
