//! What the texts of all IR levels share: tokens, a cursor with errors that name their place, and size polynomials.
//!
//! In: a source text. Out: tokens, and diagnostics that carry the span of what was found instead.
//! Assumes nothing about the text, however deep it nests. Knows no statement of any level.

mod cursor;
mod poly;
mod token;

pub use cursor::{Cursor, MAX_DEPTH};
pub use poly::parse_dim;
pub use token::{Token, is_ident};

use crate::dim::Dim;
use crate::dtype::DType;

/// The text of a dense array's type: `f32[T,n*C]`.
pub fn array_type(dtype: DType, shape: &[Dim]) -> String {
    let dims: Vec<String> = shape.iter().map(Dim::to_string).collect();
    format!("{dtype}[{}]", dims.join(","))
}

/// The shortest text that reads back as exactly `value` rounded to `dtype` (`inf`, `-inf` and `nan` included).
pub fn float_text(dtype: DType, value: f64) -> String {
    let narrow = value as f32;
    if value.is_nan() {
        "nan".to_string()
    } else if value.is_infinite() {
        if value > 0.0 { "inf".to_string() } else { "-inf".to_string() }
    } else if dtype == DType::F32 && f64::from(narrow) == value {
        format!("{narrow:?}")
    } else {
        format!("{value:?}")
    }
}
