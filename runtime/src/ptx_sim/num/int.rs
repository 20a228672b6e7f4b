//! Integer instructions.
//!
//! In: operands as zero-extended bit patterns of 1 (predicates), 16, 32 or 64 bits. Out: the same. Shifts past the width are
//! clamped, as the manual says, and arithmetic wraps.

/// Width and sign of an integer instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::ptx_sim) struct IntTy {
    pub(in crate::ptx_sim) bits: u32,
    pub(in crate::ptx_sim) is_signed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::ptx_sim) enum Int1 {
    Abs,
    Neg,
    Not,
    /// One if the operand is zero, else zero.
    Cnot,
    Popc,
    Clz,
    Bfind,
    BfindShift,
    Brev,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::ptx_sim) enum Int2 {
    Add,
    AddSat,
    Sub,
    SubSat,
    MulLo,
    MulHi,
    /// Twice as wide as its operands.
    MulWide,
    Min,
    Max,
    And,
    Or,
    Xor,
    Shl,
    Shr,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::ptx_sim) enum Int3 {
    MadLo,
    MadHi,
    /// Product and addend are twice as wide as the factors.
    MadWide,
    /// `c + |a - b|`.
    Sad,
    /// Bits `b..b + c` of `a`.
    Bfe,
}

impl IntTy {
    /// Ones where the type has bits.
    #[inline(always)]
    pub(in crate::ptx_sim) fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits)
    }

    /// The value in 64 bits, extended by its sign if the type has one.
    #[inline(always)]
    pub(in crate::ptx_sim) fn extend(self, value: u64) -> u64 {
        if self.is_signed { sign_extend(value, self.bits) } else { value }
    }

    fn wide(self, value: u64) -> i128 {
        if self.is_signed { i128::from(sign_extend(value, self.bits) as i64) } else { i128::from(value) }
    }

    #[inline(always)]
    fn less(self, a: u64, b: u64) -> bool {
        if self.is_signed { (self.extend(a) as i64) < self.extend(b) as i64 } else { a < b }
    }

    fn clamp(self, value: i128) -> u64 {
        let top = (1_i128 << (self.bits - 1)) - 1;
        (value.clamp(-top - 1, top) as u64) & self.mask()
    }
}

/// The low `bits` of `value` as a signed number in 64 bits.
#[inline(always)]
pub(in crate::ptx_sim) fn sign_extend(value: u64, bits: u32) -> u64 {
    let unused = 64 - bits;
    (((value << unused) as i64) >> unused) as u64
}

#[inline(always)]
pub(in crate::ptx_sim) fn int1(op: Int1, ty: IntTy, a: u64) -> u64 {
    let unused = 64 - ty.bits;
    let value = match op {
        Int1::Abs => (ty.extend(a) as i64).unsigned_abs(),
        Int1::Neg => a.wrapping_neg(),
        Int1::Not => !a,
        Int1::Cnot => u64::from(a == 0),
        Int1::Popc => u64::from(a.count_ones()),
        Int1::Clz => u64::from(a.leading_zeros() - unused),
        Int1::Bfind | Int1::BfindShift => return bfind(ty, a, op == Int1::BfindShift),
        Int1::Brev => a.reverse_bits() >> unused,
    };
    value & ty.mask()
}

/// The position of the highest one, or for negative numbers of the highest zero; all ones if there is none.
fn bfind(ty: IntTy, a: u64, as_shift: bool) -> u64 {
    let negative = ty.is_signed && (ty.extend(a) as i64) < 0;
    let searched = if negative { !a & ty.mask() } else { a };
    if searched == 0 {
        return 0xffff_ffff;
    }
    let position = 63 - searched.leading_zeros();
    u64::from(if as_shift { ty.bits - 1 - position } else { position })
}

#[inline(always)]
pub(in crate::ptx_sim) fn int2(op: Int2, ty: IntTy, a: u64, b: u64) -> u64 {
    let value = match op {
        Int2::Add => a.wrapping_add(b),
        Int2::Sub => a.wrapping_sub(b),
        Int2::MulLo => a.wrapping_mul(b),
        Int2::And => a & b,
        Int2::Or => a | b,
        Int2::Xor => a ^ b,
        Int2::Min => return if ty.less(b, a) { b } else { a },
        Int2::Max => return if ty.less(a, b) { b } else { a },
        Int2::AddSat => return ty.clamp(ty.wide(a) + ty.wide(b)),
        Int2::SubSat => return ty.clamp(ty.wide(a) - ty.wide(b)),
        Int2::MulHi => mul_hi(ty, a, b),
        Int2::MulWide => return mul_wide(ty, a, b),
        Int2::Shl => a.checked_shl(shift_amount(b)).unwrap_or(0),
        Int2::Shr => shr(ty, a, b),
    };
    value & ty.mask()
}

/// Shift amounts are unsigned 32-bit numbers; every amount from the width on is as good as 64.
#[inline(always)]
fn shift_amount(b: u64) -> u32 {
    b.min(64) as u32
}

#[inline(always)]
fn shr(ty: IntTy, a: u64, b: u64) -> u64 {
    if ty.is_signed {
        ((ty.extend(a) as i64) >> b.min(63)) as u64
    } else {
        a.checked_shr(shift_amount(b)).unwrap_or(0)
    }
}

fn mul_hi(ty: IntTy, a: u64, b: u64) -> u64 {
    if ty.bits == 64 && !ty.is_signed {
        return ((u128::from(a) * u128::from(b)) >> 64) as u64;
    }
    ((ty.wide(a) * ty.wide(b)) >> ty.bits) as u64
}

#[inline(always)]
fn mul_wide(ty: IntTy, a: u64, b: u64) -> u64 {
    ty.extend(a).wrapping_mul(ty.extend(b)) & (u64::MAX >> (64 - 2 * ty.bits))
}

#[inline(always)]
pub(in crate::ptx_sim) fn int3(op: Int3, ty: IntTy, a: u64, b: u64, c: u64) -> u64 {
    match op {
        Int3::MadLo => a.wrapping_mul(b).wrapping_add(c) & ty.mask(),
        Int3::MadHi => mul_hi(ty, a, b).wrapping_add(c) & ty.mask(),
        Int3::MadWide => mul_wide(ty, a, b).wrapping_add(c) & (u64::MAX >> (64 - 2 * ty.bits)),
        Int3::Sad => {
            let distance = if ty.less(a, b) { b.wrapping_sub(a) } else { a.wrapping_sub(b) };
            c.wrapping_add(distance) & ty.mask()
        }
        Int3::Bfe => bfe(ty, a, b, c),
    }
}

/// Quotient or remainder; `None` for a zero divisor, whose result the manual leaves open.
pub(in crate::ptx_sim) fn divide(ty: IntTy, remainder: bool, a: u64, b: u64) -> Option<u64> {
    if b == 0 {
        return None;
    }
    let value = match (ty.is_signed, remainder) {
        (false, false) => a / b,
        (false, true) => a % b,
        (true, false) => (ty.extend(a) as i64).wrapping_div(ty.extend(b) as i64) as u64,
        (true, true) => (ty.extend(a) as i64).wrapping_rem(ty.extend(b) as i64) as u64,
    };
    Some(value & ty.mask())
}

fn bfe(ty: IntTy, a: u64, b: u64, c: u64) -> u64 {
    let (position, length) = ((b & 0xff) as u32, (c & 0xff) as u32);
    if length == 0 {
        return 0;
    }
    let from_position = ty.extend(a).checked_shr(position).unwrap_or(0);
    if !ty.is_signed {
        let kept = if length >= 64 { u64::MAX } else { (1 << length) - 1 };
        return from_position & kept & ty.mask();
    }
    // Bits past the top are copies of the field's sign, which is that of the number where the field reaches past it.
    let shifted = ((ty.extend(a) as i64) >> position.min(63)) as u64;
    let value = if position + length >= ty.bits { shifted } else { sign_extend(shifted, length) };
    value & ty.mask()
}

/// `b` with its bits `c..c + d` replaced by the low bits of `a`.
pub(in crate::ptx_sim) fn bfi(ty: IntTy, a: u64, b: u64, c: u64, d: u64) -> u64 {
    let (position, length) = ((c & 0xff) as u32, (d & 0xff) as u32);
    let field = if length >= 64 { u64::MAX } else { (1 << length) - 1 };
    let placed = field.checked_shl(position).unwrap_or(0) & ty.mask();
    let value = a.checked_shl(position).unwrap_or(0);
    (b & !placed) | (value & placed)
}

/// How `prmt` picks bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::ptx_sim) enum Permute {
    /// By a nibble each; its top bit replicates the sign.
    Index,
    F4e,
    B4e,
    Rc8,
    Ecl,
    Ecr,
    Rc16,
}

#[inline(always)]
pub(in crate::ptx_sim) fn prmt(mode: Permute, a: u64, b: u64, selector: u64) -> u64 {
    let bytes = a | (b << 32);
    let byte = |idx: u64| (bytes >> (8 * (idx & 7))) & 0xff;
    let low = selector & 3;
    let pick = |place: u64| match mode {
        Permute::Index => {
            let nibble = selector >> (4 * place) & 0xf;
            let picked = byte(nibble);
            if nibble & 8 == 0 { picked } else { (picked >> 7) * 0xff }
        }
        Permute::F4e => byte(low + place),
        Permute::B4e => byte(low + 8 - place),
        Permute::Rc8 => byte(low),
        Permute::Ecl => byte(low.max(place)),
        Permute::Ecr => byte(low.min(place)),
        Permute::Rc16 => byte(2 * (low & 1) + (place & 1)),
    };
    (0..4).map(|place| pick(place) << (8 * place)).fold(0, |word, byte| word | byte)
}

/// Any function of three bits, bit by bit: bit `4a + 2b + c` of `table`.
#[inline(always)]
pub(in crate::ptx_sim) fn lop3(table: u8, a: u64, b: u64, c: u64) -> u64 {
    (0..8).filter(|row| table >> row & 1 == 1).fold(0, |word, row| {
        let literal = |value: u64, bit: u8| if row & bit == 0 { !value } else { value };
        word | (literal(a, 4) & literal(b, 2) & literal(c, 1))
    }) & 0xffff_ffff
}

/// Funnel shift of `b:a`: the high word of a left shift, the low word of a right shift.
#[inline(always)]
pub(in crate::ptx_sim) fn shf(left: bool, wraps: bool, a: u64, b: u64, c: u64) -> u64 {
    let amount = if wraps { c & 31 } else { c.min(32) };
    let both = (b << 32) | a;
    if left { (both << amount) >> 32 } else { (both >> amount) & 0xffff_ffff }
}
