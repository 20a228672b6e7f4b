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

/// `value` in f32, where one that is not exact gets an odd last bit: rounding that again, to fewer bits, is then the same as
/// rounding `value` at once (Boldo and Melquiond 2008). `half`'s own `from_f64` drops the low half of the f64 instead, or
/// rounds twice, as the machine has it.
fn round_to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    if f64::from(nearest) == value || !nearest.is_finite() {
        return nearest;
    }
    let away = f64::from(nearest).abs() > value.abs();
    let truncated = nearest.to_bits() - u32::from(away);
    f32::from_bits(truncated | 1)
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of `dtype` nearest to `value`, the even one of two, found among all 2^16.
    fn nearest_of_all(dtype: DType, value: f64) -> f64 {
        let decode = |bits: u16| match dtype {
            DType::Bf16 => half::bf16::from_bits(bits).to_f64(),
            _ => half::f16::from_bits(bits).to_f64(),
        };
        let finite = (0..=u16::MAX).filter(|bits| decode(*bits).is_finite());
        let score = |bits: &u16| ((decode(*bits) - value).abs(), bits & 1);
        finite.min_by(|a, b| score(a).partial_cmp(&score(b)).unwrap()).map(decode).unwrap()
    }

    #[test]
    fn storage_types_round_once_to_nearest_even() {
        // Just beside a tie of either type, at a distance that f32 does not see, or that half of an f64 does not show.
        for tie in
            [1.0 + 2f64.powi(-8), 1.0 + 3.0 * 2f64.powi(-8), 1.0 + 2f64.powi(-11), 3.0 * 2f64.powi(-25)]
        {
            for off in [0.0, 2f64.powi(-22), -2f64.powi(-22), 2f64.powi(-40), -2f64.powi(-40)] {
                for value in [tie * (1.0 + off), -tie * (1.0 + off)] {
                    for dtype in [DType::Bf16, DType::F16] {
                        assert_eq!(dtype.round(value), nearest_of_all(dtype, value), "{dtype} {value:e}");
                    }
                }
            }
        }
        assert_eq!(DType::Bf16.round(1e300), f64::INFINITY);
        assert_eq!(DType::F16.round(65520.0), f64::INFINITY);
        assert_eq!(DType::F16.round(65519.999), 65504.0);
        assert!(DType::Bf16.round(f64::NAN).is_nan());
        assert!(DType::Bf16.round(-1e-300).is_sign_negative());
    }
}
