//! What other programs' names mean.
/// Which.
#[derive(Debug, Clone, Default)]
pub struct Names {}
