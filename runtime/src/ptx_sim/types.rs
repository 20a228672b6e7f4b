//! The fundamental types of PTX and which registers an instruction of a type takes.
//!
//! In: names after a dot, as in `.f32`. Out: [`Ty`], its size and kind. Types that only tensor instructions have (`tf32`,
//! eight-bit floats, `b128`) are deliberately absent, so a text that uses them is refused.

/// A type of a register, a variable or an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ty {
    Pred,
    B8,
    B16,
    B32,
    B64,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    F32,
    F64,
}

/// What the bits of a type mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Pred,
    Bits,
    Unsigned,
    Signed,
    Float,
}

const NAMES: [(&str, Ty); 19] = [
    ("pred", Ty::Pred),
    ("b8", Ty::B8),
    ("b16", Ty::B16),
    ("b32", Ty::B32),
    ("b64", Ty::B64),
    ("u8", Ty::U8),
    ("u16", Ty::U16),
    ("u32", Ty::U32),
    ("u64", Ty::U64),
    ("s8", Ty::S8),
    ("s16", Ty::S16),
    ("s32", Ty::S32),
    ("s64", Ty::S64),
    ("f16", Ty::F16),
    ("f16x2", Ty::F16x2),
    ("bf16", Ty::Bf16),
    ("bf16x2", Ty::Bf16x2),
    ("f32", Ty::F32),
    ("f64", Ty::F64),
];

impl Ty {
    /// The type written `.name`.
    pub(super) fn from_name(name: &str) -> Option<Ty> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, ty)| *ty)
    }

    /// The name without its dot.
    pub(super) fn name(self) -> &'static str {
        NAMES.iter().find(|(_, ty)| *ty == self).map_or("?", |(name, _)| name)
    }

    pub(super) fn kind(self) -> Kind {
        match self {
            Ty::Pred => Kind::Pred,
            Ty::B8 | Ty::B16 | Ty::B32 | Ty::B64 => Kind::Bits,
            Ty::U8 | Ty::U16 | Ty::U32 | Ty::U64 => Kind::Unsigned,
            Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64 => Kind::Signed,
            Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2 | Ty::F32 | Ty::F64 => Kind::Float,
        }
    }

    /// Bits of a value; a predicate counts as one.
    pub(super) fn bits(self) -> u32 {
        match self {
            Ty::Pred => 1,
            Ty::B8 | Ty::U8 | Ty::S8 => 8,
            Ty::B16 | Ty::U16 | Ty::S16 | Ty::F16 | Ty::Bf16 => 16,
            Ty::B32 | Ty::U32 | Ty::S32 | Ty::F32 | Ty::F16x2 | Ty::Bf16x2 => 32,
            Ty::B64 | Ty::U64 | Ty::S64 | Ty::F64 => 64,
        }
    }

    /// Bytes in memory; a predicate has none.
    pub(super) fn bytes(self) -> u32 {
        self.bits() / 8
    }

    /// Whether an instruction of this type takes a register of type `reg` (ISA manual, "Operand Type Checking"): sizes are
    /// equal, and the kinds agree unless one of them is untyped bits; signs do not matter.
    pub(super) fn accepts(self, reg: Ty) -> bool {
        if self.bits() != reg.bits() {
            return false;
        }
        match (self.kind(), reg.kind()) {
            (Kind::Pred, other) | (other, Kind::Pred) => other == Kind::Pred,
            (Kind::Bits, _) | (_, Kind::Bits) => true,
            (Kind::Float, _) | (_, Kind::Float) => self == reg,
            _ => true,
        }
    }

    /// As [`Ty::accepts`], for loads, stores and conversions, whose register may be wider than the instruction's type
    /// where both are bits or integers.
    pub(super) fn accepts_wider(self, reg: Ty) -> bool {
        let plain = |ty: Ty| matches!(ty.kind(), Kind::Bits | Kind::Unsigned | Kind::Signed);
        self.accepts(reg) || (plain(self) && plain(reg) && reg.bits() > self.bits())
    }

    pub(super) fn is_signed(self) -> bool {
        self.kind() == Kind::Signed
    }

    pub(super) fn is_int(self) -> bool {
        matches!(self.kind(), Kind::Signed | Kind::Unsigned)
    }

    pub(super) fn is_float(self) -> bool {
        self.kind() == Kind::Float
    }
}
