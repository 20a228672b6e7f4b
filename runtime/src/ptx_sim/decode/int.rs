//! Integer and bit instructions.

use super::super::ast::{Literal, Operand};
use super::super::code::{Op, Slot};
use super::super::num::int::{Int1, Int2, Int3, Permute};
use super::super::types::Ty;
use super::Decoded;
use super::form::Form;
use super::operands::int_ty;
use super::scope::Builder;

const INTS: [Ty; 6] = [Ty::U16, Ty::U32, Ty::U64, Ty::S16, Ty::S32, Ty::S64];
const NARROW: [Ty; 4] = [Ty::U16, Ty::U32, Ty::S16, Ty::S32];
const WORDS: [Ty; 4] = [Ty::U32, Ty::U64, Ty::S32, Ty::S64];
const SIGNED: [Ty; 3] = [Ty::S16, Ty::S32, Ty::S64];
const BITS: [Ty; 3] = [Ty::B16, Ty::B32, Ty::B64];
const LOGIC: [Ty; 4] = [Ty::Pred, Ty::B16, Ty::B32, Ty::B64];

#[derive(Clone, Copy, PartialEq)]
enum Half {
    Lo,
    Hi,
    Wide,
}

const HALVES: [(&str, Half); 3] = [("lo", Half::Lo), ("hi", Half::Hi), ("wide", Half::Wide)];

/// The type of twice the width and the same sign.
fn doubled(ty: Ty) -> Ty {
    match ty {
        Ty::U16 => Ty::U32,
        Ty::S16 => Ty::S32,
        Ty::U32 => Ty::U64,
        _ => Ty::S64,
    }
}

impl<'a, 's> Builder<'a, 's> {
    /// Operands `d, a, b, c` with a type each.
    fn ternary(&mut self, form: &Form<'a, 's>, types: [Ty; 4]) -> Decoded<([Slot; 1], [Slot; 3])> {
        let [d, a, b, c] = form.operands()?;
        let sources =
            [self.src(form, a, types[1])?, self.src(form, b, types[2])?, self.src(form, c, types[3])?];
        Ok(([self.dst(form, d, types[0])?], sources))
    }

    pub(super) fn int_binary(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        let opcode = form.inst.opcode;
        if opcode == "mul" {
            return self.int_mul(form);
        }
        let saturates = matches!(opcode, "add" | "sub") && form.flag("sat");
        let ty = if saturates { form.ty(&[Ty::S32])? } else { form.ty(&INTS)? };
        let op = match (opcode, saturates) {
            ("add", false) => Int2::Add,
            ("add", true) => Int2::AddSat,
            ("sub", false) => Int2::Sub,
            ("sub", true) => Int2::SubSat,
            ("min", _) => Int2::Min,
            _ => Int2::Max,
        };
        let (dst, src) = self.binary(form, [ty; 3])?;
        self.push(form, Op::Int2(op, int_ty(ty)), &dst, &src)
    }

    fn int_mul(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        let half = form.must(&HALVES)?;
        let ty = form.ty(if half == Half::Wide { &NARROW } else { &INTS })?;
        let (op, result) = match half {
            Half::Lo => (Int2::MulLo, ty),
            Half::Hi => (Int2::MulHi, ty),
            Half::Wide => (Int2::MulWide, doubled(ty)),
        };
        let (dst, src) = self.binary(form, [result, ty, ty])?;
        self.push(form, Op::Int2(op, int_ty(ty)), &dst, &src)
    }

    pub(super) fn int_mad(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        if form.inst.opcode == "sad" {
            let ty = form.ty(&INTS)?;
            let (dst, src) = self.ternary(form, [ty; 4])?;
            return self.push(form, Op::Int3(Int3::Sad, int_ty(ty)), &dst, &src);
        }
        let half = form.must(&HALVES)?;
        let ty = form.ty(if half == Half::Wide { &NARROW } else { &INTS })?;
        let (op, result) = match half {
            Half::Lo => (Int3::MadLo, ty),
            Half::Hi => (Int3::MadHi, ty),
            Half::Wide => (Int3::MadWide, doubled(ty)),
        };
        let (dst, src) = self.ternary(form, [result, ty, ty, result])?;
        self.push(form, Op::Int3(op, int_ty(ty)), &dst, &src)
    }

    pub(super) fn int_divide(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        let ty = form.ty(&INTS)?;
        let (dst, src) = self.binary(form, [ty; 3])?;
        let op = Op::Divide { ty: int_ty(ty), remainder: form.inst.opcode == "rem" };
        self.push(form, op, &dst, &src)
    }

    pub(super) fn int_unary(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        let opcode = form.inst.opcode;
        let as_shift = opcode == "bfind" && form.flag("shiftamt");
        let ty = match opcode {
            "abs" | "neg" => form.ty(&SIGNED)?,
            "bfind" => form.ty(&WORDS)?,
            _ => form.ty(&[Ty::B32, Ty::B64])?,
        };
        let (op, result) = match opcode {
            "abs" => (Int1::Abs, ty),
            "neg" => (Int1::Neg, ty),
            "popc" => (Int1::Popc, Ty::U32),
            "clz" => (Int1::Clz, Ty::U32),
            "brev" => (Int1::Brev, ty),
            _ if as_shift => (Int1::BfindShift, Ty::U32),
            _ => (Int1::Bfind, Ty::U32),
        };
        let (dst, src) = self.unary(form, [result, ty])?;
        self.push(form, Op::Int1(op, int_ty(ty)), &dst, &src)
    }

    pub(super) fn logic(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        let opcode = form.inst.opcode;
        let ty = form.ty(if opcode == "cnot" { &BITS } else { &LOGIC })?;
        if matches!(opcode, "not" | "cnot") {
            let (dst, src) = self.unary(form, [ty; 2])?;
            let op = if opcode == "not" { Int1::Not } else { Int1::Cnot };
            return self.push(form, Op::Int1(op, int_ty(ty)), &dst, &src);
        }
        let op = match opcode {
            "and" => Int2::And,
            "or" => Int2::Or,
            _ => Int2::Xor,
        };
        let (dst, src) = self.binary(form, [ty; 3])?;
        self.push(form, Op::Int2(op, int_ty(ty)), &dst, &src)
    }

    pub(super) fn shift(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        let left = form.inst.opcode == "shl";
        let right_types = [Ty::B16, Ty::B32, Ty::B64, Ty::U16, Ty::U32, Ty::U64, Ty::S16, Ty::S32, Ty::S64];
        let ty = form.ty(if left { &BITS } else { &right_types })?;
        let (dst, src) = self.binary(form, [ty, ty, Ty::U32])?;
        let op = if left { Int2::Shl } else { Int2::Shr };
        self.push(form, Op::Int2(op, int_ty(ty)), &dst, &src)
    }

    pub(super) fn bit_field(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        match form.inst.opcode {
            "bfe" => {
                let ty = form.ty(&WORDS)?;
                let (dst, src) = self.ternary(form, [ty, ty, Ty::U32, Ty::U32])?;
                self.push(form, Op::Int3(Int3::Bfe, int_ty(ty)), &dst, &src)
            }
            "bfi" => {
                let ty = form.ty(&[Ty::B32, Ty::B64])?;
                let [d, a, b, c, length] = form.operands()?;
                let dst = self.dst(form, d, ty)?;
                let src = [
                    self.src(form, a, ty)?,
                    self.src(form, b, ty)?,
                    self.src(form, c, Ty::U32)?,
                    self.src(form, length, Ty::U32)?,
                ];
                self.push(form, Op::Bfi(int_ty(ty)), &[dst], &src)
            }
            "prmt" => self.prmt(form),
            "lop3" => self.lop3(form),
            _ => self.shf(form),
        }
    }

    fn prmt(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        form.ty(&[Ty::B32])?;
        let modes = [
            ("f4e", Permute::F4e),
            ("b4e", Permute::B4e),
            ("rc8", Permute::Rc8),
            ("ecl", Permute::Ecl),
            ("ecr", Permute::Ecr),
            ("rc16", Permute::Rc16),
        ];
        let mode = form.one_of(&modes).unwrap_or(Permute::Index);
        let (dst, src) = self.ternary(form, [Ty::B32; 4])?;
        self.push(form, Op::Prmt(mode), &dst, &src)
    }

    fn lop3(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        form.ty(&[Ty::B32])?;
        let [d, a, b, c, table] = form.operands()?;
        let dst = self.dst(form, d, Ty::B32)?;
        let src = [self.src(form, a, Ty::B32)?, self.src(form, b, Ty::B32)?, self.src(form, c, Ty::B32)?];
        let table = match table {
            Operand::Literal(Literal::Int { bits, .. }) => u8::try_from(*bits).ok(),
            _ => None,
        };
        let table = table.ok_or_else(|| form.error("the table of lop3 is a number from 0 to 255"))?;
        self.push(form, Op::Lop3(table), &[dst], &src)
    }

    fn shf(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        let left = form.must(&[("l", true), ("r", false)])?;
        let wraps = form.must(&[("wrap", true), ("clamp", false)])?;
        form.ty(&[Ty::B32])?;
        let (dst, src) = self.ternary(form, [Ty::B32, Ty::B32, Ty::B32, Ty::U32])?;
        self.push(form, Op::Shf { left, wraps }, &dst, &src)
    }
}
