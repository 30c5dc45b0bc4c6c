//! An SVG picture as PNG, light, with fonts of our own: the same pixels on every machine.

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};
use std::sync::Arc;

/// What keeps a picture from being drawn.
#[derive(Debug, thiserror::Error)]
pub enum PngError {
    /// Not an SVG picture.
    #[error("not an SVG picture: {0}")]
    Svg(#[from] resvg::usvg::Error),
    /// Too large for memory, or without an area.
    #[error("a picture of {0} x {1} pixels cannot be drawn")]
    Size(u32, u32),
    /// The pixels cannot be packed.
    #[error("the pixels cannot be packed: {0}")]
    Encoding(String),
}

/// Pixels per unit of the picture: sharp on a dense screen.
const SCALE: f32 = 2.0;

/// Draws one of our pictures.
///
/// # Errors
/// A text that is no SVG, a picture too large to be held.
pub fn png(svg: &str) -> Result<Vec<u8>, PngError> {
    let mut fonts = fontdb::Database::new();
    fonts.load_font_data(include_bytes!("../fonts/Inter-Regular.otf").to_vec());
    fonts.load_font_data(include_bytes!("../fonts/Inter-SemiBold.otf").to_vec());
    let options =
        Options { fontdb: Arc::new(fonts), font_family: "Inter".into(), ..Options::default() };
    let tree = Tree::from_str(svg, &options)?;
    let size = tree.size().to_int_size().scale_by(SCALE);
    let (width, height) = size.map_or((0, 0), |size| (size.width(), size.height()));
    let mut pixels = Pixmap::new(width, height).ok_or(PngError::Size(width, height))?;
    resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
    pixels.encode_png().map_err(|e| PngError::Encoding(e.to_string()))
}
