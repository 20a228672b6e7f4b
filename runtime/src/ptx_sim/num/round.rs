//! Binary floating-point formats: taking numbers apart and rounding them, with integers only.
//!
//! In: a sign, a magnitude and a power of two. Out: the bits of the nearest number of a format in a rounding mode. All
//! conversions and all arithmetic of 16-bit formats end here, so no result depends on the host's conversions.

/// A format of sign, exponent and fraction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::ptx_sim) struct Format {
    /// Bits of the significand, the hidden one included.
    pub(in crate::ptx_sim) precision: u32,
    /// All bits.
    pub(in crate::ptx_sim) bits: u32,
}

pub(in crate::ptx_sim) const F16: Format = Format { precision: 11, bits: 16 };
pub(in crate::ptx_sim) const BF16: Format = Format { precision: 8, bits: 16 };
pub(in crate::ptx_sim) const F32: Format = Format { precision: 24, bits: 32 };
pub(in crate::ptx_sim) const F64: Format = Format { precision: 53, bits: 64 };

/// Rounding modes by their PTX names: to nearest even, towards zero, down, up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::ptx_sim) enum Round {
    Rn,
    Rz,
    Rm,
    Rp,
}

/// What a bit pattern stands for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(in crate::ptx_sim) enum Number {
    Nan,
    Infinite {
        negative: bool,
    },
    /// `magnitude * 2^exponent`.
    Finite {
        negative: bool,
        magnitude: u64,
        exponent: i32,
    },
}

impl Format {
    /// Bits of the fraction.
    #[inline(always)]
    fn fraction(self) -> u32 {
        self.precision - 1
    }

    #[inline(always)]
    fn exponent_field(self) -> u64 {
        (1 << (self.bits - self.precision)) - 1
    }

    #[inline(always)]
    fn bias(self) -> i32 {
        (self.exponent_field() >> 1) as i32
    }

    #[inline(always)]
    pub(in crate::ptx_sim) fn sign_bit(self) -> u64 {
        1 << (self.bits - 1)
    }

    #[inline(always)]
    pub(in crate::ptx_sim) fn infinity(self) -> u64 {
        self.exponent_field() << self.fraction()
    }

    /// The NaN that instructions of the format produce: all ones but the sign (manual: 0x7fffffff for `.f32`, 0x7fff for
    /// the 16-bit formats). For `.f64` the manual names none; the quiet NaN without a payload is taken.
    #[inline(always)]
    pub(in crate::ptx_sim) fn canonical_nan(self) -> u64 {
        if self.bits == 64 { 0x7ff8_0000_0000_0000 } else { self.sign_bit() - 1 }
    }

    #[inline(always)]
    pub(in crate::ptx_sim) fn is_nan(self, bits: u64) -> bool {
        bits & (self.sign_bit() - 1) > self.infinity()
    }

    /// Zero of the same sign in place of a subnormal number.
    #[inline(always)]
    pub(in crate::ptx_sim) fn flush(self, bits: u64) -> u64 {
        if bits & self.infinity() == 0 { bits & self.sign_bit() } else { bits }
    }

    /// What `bits` stands for.
    #[inline(always)]
    pub(in crate::ptx_sim) fn decode(self, bits: u64) -> Number {
        let negative = bits & self.sign_bit() != 0;
        let fraction = bits & ((1 << self.fraction()) - 1);
        let field = (bits >> self.fraction()) & self.exponent_field();
        if field == self.exponent_field() {
            return if fraction == 0 { Number::Infinite { negative } } else { Number::Nan };
        }
        let hidden = u64::from(field != 0) << self.fraction();
        let exponent = field.max(1) as i32 - self.bias() - self.fraction() as i32;
        Number::Finite { negative, magnitude: fraction | hidden, exponent }
    }

    /// The number `number`, rounded to this format.
    pub(in crate::ptx_sim) fn encode(self, number: Number, mode: Round) -> u64 {
        match number {
            Number::Nan => self.canonical_nan(),
            Number::Infinite { negative } => self.signed(negative, self.infinity()),
            Number::Finite { negative, magnitude, exponent } => {
                self.round(negative, magnitude, exponent, mode)
            }
        }
    }

    fn signed(self, negative: bool, bits: u64) -> u64 {
        bits | if negative { self.sign_bit() } else { 0 }
    }

    /// `magnitude * 2^exponent`, rounded once.
    fn round(self, negative: bool, magnitude: u64, exponent: i32, mode: Round) -> u64 {
        if magnitude == 0 {
            return self.signed(negative, 0);
        }
        let top = exponent + 63 - magnitude.leading_zeros() as i32;
        let fraction = self.fraction() as i32;
        let lowest = 1 - self.bias() - fraction;
        // The weight of the last bit that the result has.
        let mut quantum = (top - fraction).max(lowest);
        let mut kept = round_shift(negative, magnitude, quantum - exponent, mode);
        if kept == 1 << self.precision {
            kept >>= 1;
            quantum += 1;
        }
        if kept < 1 << fraction {
            return self.signed(negative, kept);
        }
        let field = i64::from(quantum) + i64::from(fraction + self.bias());
        if field >= self.exponent_field() as i64 {
            return self.signed(negative, self.overflow(negative, mode));
        }
        self.signed(negative, ((field as u64) << fraction) | (kept - (1 << fraction)))
    }

    fn overflow(self, negative: bool, mode: Round) -> u64 {
        let to_infinity = match mode {
            Round::Rn => true,
            Round::Rz => false,
            Round::Rm => negative,
            Round::Rp => !negative,
        };
        self.infinity() - u64::from(!to_infinity)
    }
}

/// `magnitude / 2^shift` as an integer, rounded in `mode`; a negative shift multiplies and must not overflow.
pub(in crate::ptx_sim) fn round_shift(negative: bool, magnitude: u64, shift: i32, mode: Round) -> u64 {
    if shift <= 0 {
        return magnitude << -shift;
    }
    let wide = u128::from(magnitude);
    // Behind 65 bits nothing is left but the knowledge that there was something.
    let shift = shift.min(66) as u32;
    let kept = (wide >> shift) as u64;
    let rest = wide & ((1 << shift) - 1);
    let half = 1_u128 << (shift - 1);
    let up = match mode {
        Round::Rn => rest > half || (rest == half && kept & 1 == 1),
        Round::Rz => false,
        Round::Rm => negative && rest != 0,
        Round::Rp => !negative && rest != 0,
    };
    kept + u64::from(up)
}

/// An integer as a number: `value` is read as signed or unsigned in all its 64 bits.
pub(in crate::ptx_sim) fn from_int(value: u64, is_signed: bool) -> Number {
    let negative = is_signed && (value as i64) < 0;
    let magnitude = if negative { value.wrapping_neg() } else { value };
    Number::Finite { negative, magnitude, exponent: 0 }
}

/// The number as a double; exact for all formats of at most 64 bits.
pub(in crate::ptx_sim) fn to_f64(format: Format, bits: u64) -> f64 {
    f64::from_bits(F64.encode(format.decode(bits), Round::Rn))
}

/// `value` rounded to `format`.
pub(in crate::ptx_sim) fn from_f64(format: Format, value: f64) -> u64 {
    format.encode(F64.decode(value.to_bits()), Round::Rn)
}
