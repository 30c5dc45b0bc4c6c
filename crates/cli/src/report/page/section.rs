//! What a page is made of.

use super::plot::Plot;
use maud::Markup;

/// A part of a page.
pub(in crate::report::page) struct Section {
    pub(in crate::report::page) id: &'static str,
    /// In the list of contents.
    pub(in crate::report::page) name: &'static str,
    pub(in crate::report::page) heading: String,
    pub(in crate::report::page) how_to_read: String,
    pub(in crate::report::page) content: Content,
}

pub(in crate::report::page) enum Content {
    Plot(Box<Plot>),
    Html(Markup),
}
