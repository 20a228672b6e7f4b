//! Operands: names and numbers to slots, checked against the type of the instruction.

use super::super::ast::{Literal, Operand};
use super::super::code::{SINK, Slot, SlotInit, Special};
use super::super::lex::At;
use super::super::num::float::FloatTy;
use super::super::num::int::IntTy;
use super::super::types::{Kind, Ty};
use super::Decoded;
use super::form::Form;
use super::scope::{Builder, Name};

/// Special registers without components.
const SPECIALS: [(&str, Special); 9] = [
    ("%laneid", Special::LaneId),
    ("%warpid", Special::WarpId),
    ("%nwarpid", Special::NWarpId),
    ("%lanemask_eq", Special::LaneMaskEq),
    ("%lanemask_lt", Special::LaneMaskLt),
    ("%lanemask_le", Special::LaneMaskLe),
    ("%lanemask_gt", Special::LaneMaskGt),
    ("%lanemask_ge", Special::LaneMaskGe),
    ("%dynamic_smem_size", Special::DynamicSharedBytes),
];

fn special_of(name: &str, component: &str) -> Option<Special> {
    let axis = match component {
        "x" => 0,
        "y" => 1,
        "z" => 2,
        _ => return None,
    };
    match name {
        "%tid" => Some(Special::Tid(axis)),
        "%ntid" => Some(Special::NTid(axis)),
        "%ctaid" => Some(Special::CtaId(axis)),
        "%nctaid" => Some(Special::NCtaId(axis)),
        _ => None,
    }
}

/// Types of values that instructions move and choose between, predicates aside.
pub(super) const MOVED: [Ty; 11] =
    [Ty::B16, Ty::B32, Ty::B64, Ty::U16, Ty::U32, Ty::U64, Ty::S16, Ty::S32, Ty::S64, Ty::F32, Ty::F64];

/// The integer type of an instruction; untyped bits are unsigned.
pub(super) fn int_ty(ty: Ty) -> IntTy {
    IntTy { bits: ty.bits(), is_signed: ty.is_signed() }
}

/// The floating-point type of an instruction.
pub(super) fn float_ty(ty: Ty) -> Option<FloatTy> {
    Some(match ty {
        Ty::F16 => FloatTy::F16,
        Ty::F16x2 => FloatTy::F16x2,
        Ty::Bf16 => FloatTy::Bf16,
        Ty::Bf16x2 => FloatTy::Bf16x2,
        Ty::F32 => FloatTy::F32,
        Ty::F64 => FloatTy::F64,
        _ => return None,
    })
}

impl<'a, 's> Builder<'a, 's> {
    pub(super) fn constant(&mut self, bits: u64) -> Slot {
        self.known(SlotInit::Constant(bits))
    }

    /// A source operand of type `ty`: a register, a number, a special register or the address of a variable.
    pub(super) fn src(&mut self, form: &Form<'a, 's>, operand: &Operand<'a>, ty: Ty) -> Decoded<Slot> {
        self.source_operand(form.inst.at, operand, ty, Ty::accepts)
    }

    /// As [`Builder::src`], where the register may be wider than the type.
    pub(super) fn src_wider(&mut self, form: &Form<'a, 's>, operand: &Operand<'a>, ty: Ty) -> Decoded<Slot> {
        self.source_operand(form.inst.at, operand, ty, Ty::accepts_wider)
    }

    fn source_operand(
        &mut self,
        at: At,
        operand: &Operand<'a>,
        ty: Ty,
        accepts: fn(Ty, Ty) -> bool,
    ) -> Decoded<Slot> {
        match operand {
            Operand::Literal(literal) => {
                let bits = literal_bits(at, *literal, ty)?;
                Ok(self.constant(bits))
            }
            Operand::Component(name, component) => {
                let special = special_of(name, component)
                    .ok_or_else(|| at.error(format!("there is no special register `{name}.{component}`")))?;
                self.special(at, special, ty)
            }
            Operand::Name("WARP_SZ") => Ok(self.constant(32)),
            Operand::Name(name) => {
                if let Some((_, special)) = SPECIALS.iter().find(|(known, _)| known == name) {
                    return self.special(at, *special, ty);
                }
                match self.find(at, name)? {
                    Name::Reg { slot, ty: found } if accepts(ty, found) => Ok(slot),
                    Name::Reg { ty: found, .. } => Err(mismatch(at, name, ty, found)),
                    Name::Var(var) => self.address_value(at, name, var.slot, ty),
                }
            }
            Operand::Offset(name, offset) => match self.find(at, name)? {
                Name::Var(var) if var.size_bytes.is_some() => {
                    let slot = self.constant(var.address.wrapping_add_signed(*offset));
                    self.address_value(at, name, slot, ty)
                }
                _ => {
                    Err(at.error(format!("`{name}` is no variable of known size, so it has no `+{offset}`")))
                }
            },
            _ => Err(at.error(format!("expected a register or a number of type .{}", ty.name()))),
        }
    }

    fn address_value(&mut self, at: At, name: &str, slot: Slot, ty: Ty) -> Decoded<Slot> {
        if ty.bits() == 64 && !ty.is_float() || ty.bits() == 32 && !ty.is_float() {
            return Ok(slot);
        }
        Err(at.error(format!("the address of `{name}` is an integer of 32 or 64 bits, not .{}", ty.name())))
    }

    fn special(&mut self, at: At, special: Special, ty: Ty) -> Decoded<Slot> {
        if ty.bits() != 32 || ty.is_float() {
            return Err(at.error(format!("special registers are .u32 here, not .{}", ty.name())));
        }
        Ok(self.known(SlotInit::Special(special)))
    }

    /// A destination of type `ty`; `_` is allowed.
    pub(super) fn dst(&mut self, form: &Form<'a, 's>, operand: &Operand<'a>, ty: Ty) -> Decoded<Slot> {
        Ok(self.destination(form.inst.at, operand, ty, Ty::accepts)?.0)
    }

    /// A destination that may be wider, with the bits of its register.
    pub(super) fn dst_wider(
        &mut self,
        form: &Form<'a, 's>,
        operand: &Operand<'a>,
        ty: Ty,
    ) -> Decoded<(Slot, u32)> {
        self.destination(form.inst.at, operand, ty, Ty::accepts_wider)
    }

    fn destination(
        &mut self,
        at: At,
        operand: &Operand<'a>,
        ty: Ty,
        accepts: fn(Ty, Ty) -> bool,
    ) -> Decoded<(Slot, u32)> {
        match operand {
            Operand::Name("_") => Ok((SINK, ty.bits())),
            Operand::Name(name) => match self.find(at, name)? {
                Name::Reg { slot, ty: found } if accepts(ty, found) => Ok((slot, found.bits())),
                Name::Reg { ty: found, .. } => Err(mismatch(at, name, ty, found)),
                Name::Var(_) => Err(at.error(format!("`{name}` is a variable, no register"))),
            },
            _ => Err(at.error(format!("expected a register of type .{} as the result", ty.name()))),
        }
    }

    /// A result and a source, of these types.
    pub(super) fn unary(&mut self, form: &Form<'a, 's>, types: [Ty; 2]) -> Decoded<([Slot; 1], [Slot; 1])> {
        let [d, a] = form.operands()?;
        Ok(([self.dst(form, d, types[0])?], [self.src(form, a, types[1])?]))
    }

    /// A result and two sources, of these types.
    pub(super) fn binary(&mut self, form: &Form<'a, 's>, types: [Ty; 3]) -> Decoded<([Slot; 1], [Slot; 2])> {
        let [d, a, b] = form.operands()?;
        Ok(([self.dst(form, d, types[0])?], [self.src(form, a, types[1])?, self.src(form, b, types[2])?]))
    }

    pub(super) fn predicate(&mut self, at: At, name: &str) -> Decoded<Slot> {
        match self.find(at, name)? {
            Name::Reg { slot, ty: Ty::Pred } => Ok(slot),
            _ => Err(at.error(format!("`{name}` is no predicate"))),
        }
    }

    /// A predicate operand, `p` or `!p`.
    pub(super) fn predicate_source(
        &mut self,
        form: &Form<'a, 's>,
        operand: &Operand<'a>,
    ) -> Decoded<(Slot, bool)> {
        match operand {
            Operand::Name(name) => Ok((self.predicate(form.inst.at, name)?, false)),
            Operand::Not(name) => Ok((self.predicate(form.inst.at, name)?, true)),
            Operand::Literal(Literal::Int { bits, .. }) => Ok((self.constant(u64::from(*bits != 0)), false)),
            _ => Err(form.error("expected a predicate")),
        }
    }

    /// `p` or `p|q` as destinations; no second one is the sink.
    pub(super) fn predicate_pair(
        &mut self,
        form: &Form<'a, 's>,
        operand: &Operand<'a>,
    ) -> Decoded<[Slot; 2]> {
        let at = form.inst.at;
        let mut one = |name: &str| if name == "_" { Ok(SINK) } else { self.predicate(at, name) };
        match operand {
            Operand::Name(name) => Ok([one(name)?, SINK]),
            Operand::Pair(first, second) => Ok([one(first)?, one(second)?]),
            _ => Err(form.error("expected a predicate, or two as in `p|q`")),
        }
    }
}

fn mismatch(at: At, name: &str, ty: Ty, found: Ty) -> birkhoff_ir::diag::Diagnostic {
    at.error(format!(
        "`{name}` is a register of type .{}; the instruction takes .{} here",
        found.name(),
        ty.name()
    ))
}

/// The bits of a number as an operand of type `ty`.
pub(super) fn literal_bits(at: At, literal: Literal, ty: Ty) -> Decoded<u64> {
    let mask = u64::MAX >> (64 - ty.bits());
    match (literal, ty) {
        (Literal::F32(bits), Ty::F32) => Ok(u64::from(bits)),
        (Literal::F64(bits), Ty::F32) => Ok(u64::from((f64::from_bits(bits) as f32).to_bits())),
        (Literal::F32(bits), Ty::F64) => Ok(f64::from(f32::from_bits(bits)).to_bits()),
        (Literal::F64(bits), Ty::F64) => Ok(bits),
        (Literal::F32(bits), Ty::B32) => Ok(u64::from(bits)),
        (Literal::F64(bits), Ty::B64) => Ok(bits),
        (Literal::Int { bits, negative }, _) if !ty.is_float() => {
            // Either all dropped bits are zero, or the number is negative and they are copies of its sign.
            let fits = bits & !mask == 0 || (negative && (bits | (mask >> 1)) == u64::MAX);
            if ty.kind() == Kind::Pred || fits {
                Ok(if ty.kind() == Kind::Pred { u64::from(bits != 0) } else { bits & mask })
            } else {
                Err(at.error(format!("the number does not fit into .{}", ty.name())))
            }
        }
        _ => Err(at
            .error(format!("this number cannot be an operand of type .{}", ty.name()))
            .help("floats are written 0f3F800000 or 0d3FF0000000000000; 16-bit floats as bits, by mov.b16")),
    }
}
