//! Element types and the rounding that storing in them means.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The type of one element.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// bfloat16: the upper half of a binary32. A storage type: arithmetic is done in f32.
    Bf16,
    /// IEEE binary16. A storage type: arithmetic is done in f32.
    F16,
    /// Signed 64-bit integer.
    I64,
    /// Signed 32-bit integer; arithmetic wraps.
    I32,
    /// False or true, one byte in memory (0 or 1).
    Bool,
}

impl DType {
    /// All element types, widest float first.
    pub const ALL: [DType; 7] =
        [DType::F64, DType::F32, DType::Bf16, DType::F16, DType::I64, DType::I32, DType::Bool];

    /// The name in IR text.
    pub fn name(self) -> &'static str {
        match self {
            DType::F64 => "f64",
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
            DType::F16 => "f16",
            DType::I64 => "i64",
            DType::I32 => "i32",
            DType::Bool => "bool",
        }
    }

    /// The type of that name.
    pub fn from_name(name: &str) -> Option<DType> {
        DType::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// Size of one element in memory.
    pub fn size_bytes(self) -> u64 {
        match self {
            DType::F64 | DType::I64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::Bf16 | DType::F16 => 2,
            DType::Bool => 1,
        }
    }

    /// True for the four floating-point types.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F64 | DType::F32 | DType::Bf16 | DType::F16)
    }

    /// True for the two integer types.
    pub fn is_int(self) -> bool {
        matches!(self, DType::I64 | DType::I32)
    }

    /// The type in which arithmetic on this type is done: f32 for bf16 and f16, itself otherwise.
    pub fn compute(self) -> DType {
        match self {
            DType::Bf16 | DType::F16 => DType::F32,
            other => other,
        }
    }

    /// `value` rounded to this type, to nearest even, and widened again. Integers and bool: unchanged.
    pub fn round(self, value: f64) -> f64 {
        match self {
            DType::F32 => f64::from(value as f32),
            DType::Bf16 => half::bf16::from_f32(round_to_odd(value)).to_f64(),
            DType::F16 => half::f16::from_f32(round_to_odd(value)).to_f64(),
            _ => value,
        }
    }
}

/// `value` cut to an f32 whose last bit is set if anything was lost, so that rounding the f32 further is as one rounding.
///
/// The `half` crate's own conversions from f64 drop the low 32 bits and round such values the wrong way.
fn round_to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    if value.is_nan() || f64::from(nearest) == value {
        return nearest;
    }
    let cut = if f64::from(nearest).abs() > value.abs() { nearest.to_bits() - 1 } else { nearest.to_bits() };
    f32::from_bits(cut | 1)
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_types_round_once() {
        // Just above a tie: the lost bits decide, in the normal and in the denormal range.
        let tie = 1.0 + 2f64.powi(-9) * 3.0;
        assert_eq!(DType::Bf16.round(tie + 2f64.powi(-40)), 1.0 + 2f64.powi(-8) * 2.0);
        assert_eq!(DType::Bf16.round(1.0 + 2f64.powi(-8)), 1.0);
        assert_eq!(DType::Bf16.round(1.0 + 2f64.powi(-8) + 2f64.powi(-50)), 1.0 + 2f64.powi(-7));
        assert_eq!(DType::F16.round(1.0 + 2f64.powi(-11) + 2f64.powi(-50)), 1.0 + 2f64.powi(-10));
        let step = 2f64.powi(-133);
        assert_eq!(DType::Bf16.round(step * 32.5 * (1.0 + 2f64.powi(-20))), step * 33.0);
        assert_eq!(DType::Bf16.round(1e300), f64::INFINITY);
        assert_eq!(DType::F16.round(65519.99), 65504.0);
    }
}
