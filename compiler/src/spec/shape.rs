//! Sizes and tensor types as a spec writes them: `n*n+2*n`, `f32[T,n,C]`.
//!
//! In: text. Out: polynomials and types, or what was expected and found. Names are not looked up here.

use birkhoff_ir::dim::Dim;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::tensor::TensorType;

/// A longer text is not a size; the bound keeps products of names small.
const MAX_BYTES: usize = 240;

/// A sum of products of names and integers.
///
/// Errors: what was expected and found.
pub fn parse_dim(text: &str) -> Result<Dim, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("a size has at most {MAX_BYTES} characters, found {}", text.len()));
    }
    let mut sum = Dim::default();
    let mut rest = text;
    let mut sign = 1;
    loop {
        let end = rest.find(['+', '-']).unwrap_or(rest.len());
        let mut product = Dim::constant(sign);
        for factor in rest[..end].split('*') {
            product = product.mul(&parse_factor(factor.trim(), text)?);
        }
        sum = sum.add(&product);
        match rest[end..].chars().next() {
            None => return Ok(sum),
            Some(operator) => {
                sign = if operator == '-' { -1 } else { 1 };
                rest = &rest[end + 1..];
            }
        }
    }
}

fn parse_factor(factor: &str, text: &str) -> Result<Dim, String> {
    if is_name(factor) {
        return Ok(Dim::sym(factor));
    }
    let digits = !factor.is_empty() && factor.bytes().all(|byte| byte.is_ascii_digit());
    match factor.parse::<i64>() {
        Ok(value) if digits => Ok(Dim::constant(value)),
        _ if digits => Err(format!("the number {factor} does not fit a signed 64-bit integer")),
        _ => Err(format!("expected a size such as `n*C` or `n*n+2*n`, found `{text}`")),
    }
}

/// `dtype[sizes]`, or `dtype` for a scalar.
///
/// Errors: what was expected and found.
pub fn parse_type(text: &str) -> Result<TensorType, String> {
    let expected = || format!("expected a type such as `f32[T,n,C]`, found `{text}`");
    let (name, sizes) = match text.split_once('[') {
        Some((name, rest)) => (name, rest.trim_end().strip_suffix(']').ok_or_else(expected)?),
        None => (text, ""),
    };
    let dtype = DType::from_name(name.trim()).ok_or_else(|| {
        let names: Vec<&str> = DType::ALL.iter().map(|dtype| dtype.name()).collect();
        format!("`{}` is not an element type; those are {}", name.trim(), names.join(", "))
    })?;
    if sizes.trim().is_empty() {
        return Ok(TensorType::new(dtype, vec![]));
    }
    let shape = sizes.split(',').map(parse_dim).collect::<Result<Vec<Dim>, String>>()?;
    Ok(TensorType::new(dtype, shape))
}

/// A letter or `_`, then letters, digits and `_`.
pub fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_polynomials() {
        for (text, expected) in
            [("n*n+2*n", "n*n+2*n"), (" 3 ", "3"), ("C - 1", "C-1"), ("n+n", "2*n"), ("n-n", "0")]
        {
            assert_eq!(parse_dim(text).map(|dim| dim.to_string()), Ok(expected.to_string()));
        }
        for text in ["", "+", "n*", "2n", "(n)", "n**n", "n+", "\u{e9}", "99999999999999999999"] {
            assert!(parse_dim(text).is_err(), "{text}");
        }
    }

    #[test]
    fn types_have_a_dtype_and_sizes() {
        assert_eq!(parse_type("bf16[T, n*C]").map(|ty| ty.to_string()), Ok("bf16[T,C*n]".into()));
        assert_eq!(parse_type("f32[]").map(|ty| ty.rank()), Ok(0));
        for text in ["f31[T]", "f32[T", "f32[T]]", "[T]", "f32[,]"] {
            assert!(parse_type(text).is_err(), "{text}");
        }
    }
}
