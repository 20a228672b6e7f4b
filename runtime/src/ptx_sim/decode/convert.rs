//! `cvt` and `mov`.

use super::super::ast::Operand;
use super::super::code::{Op, Slot, SlotInit};
use super::super::num::convert::{Cvt, Side};
use super::super::num::round::Round;
use super::super::types::Ty;
use super::Decoded;
use super::form::Form;
use super::operands::{MOVED, float_ty, int_ty};
use super::scope::Builder;

const SCALARS: [Ty; 12] = [
    Ty::U8,
    Ty::U16,
    Ty::U32,
    Ty::U64,
    Ty::S8,
    Ty::S16,
    Ty::S32,
    Ty::S64,
    Ty::F16,
    Ty::Bf16,
    Ty::F32,
    Ty::F64,
];
const PACKED: [Ty; 2] = [Ty::F16x2, Ty::Bf16x2];

const ROUNDING: [(&str, (Round, bool)); 8] = [
    ("rn", (Round::Rn, false)),
    ("rz", (Round::Rz, false)),
    ("rm", (Round::Rm, false)),
    ("rp", (Round::Rp, false)),
    ("rni", (Round::Rn, true)),
    ("rzi", (Round::Rz, true)),
    ("rmi", (Round::Rm, true)),
    ("rpi", (Round::Rp, true)),
];

fn side(ty: Ty) -> Side {
    float_ty(ty).map_or(Side::Int(int_ty(ty)), Side::Float)
}

/// Whether `to` lacks some numbers of `from`; both are floating point and differ.
fn loses(to: Ty, from: Ty) -> bool {
    to.bits() <= from.bits()
}

impl<'a, 's> Builder<'a, 's> {
    pub(super) fn cvt(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        let rounding = form.one_of(&ROUNDING);
        let ftz = form.flag("ftz");
        let relu = form.flag("relu");
        let sat = form.flag("sat");
        let to = form.ty(&[&SCALARS[..], &PACKED[..]].concat())?;
        let is_packed = PACKED.contains(&to);
        let from = form.ty(if is_packed { &[Ty::F32] } else { &SCALARS })?;
        check_rounding(form, to, from, rounding.map(|(_, integral)| integral))?;
        if ftz && to != Ty::F32 && from != Ty::F32 {
            return Err(form.error(format!("`{}`: .ftz is for .f32", form.full_name())));
        }
        if relu && !matches!(to, Ty::F16 | Ty::Bf16 | Ty::F16x2 | Ty::Bf16x2) {
            return Err(form.error(format!("`{}`: .relu is for results of 16 bits", form.full_name())));
        }
        let (round, integral) = rounding.unwrap_or((Round::Rn, false));
        let op = Cvt {
            to: side(to),
            from: side(from),
            round,
            to_integral: integral && to.is_float(),
            ftz,
            sat,
            relu,
            register_bits: to.bits(),
        };
        if is_packed {
            return self.cvt_pair(form, op, to);
        }
        let [d, a] = form.operands()?;
        let (dst, register_bits) = self.dst_wider(form, d, to)?;
        let src = self.src_wider(form, a, from)?;
        self.push(form, Op::Cvt(Cvt { register_bits, ..op }), &[dst], &[src])
    }

    /// Two numbers of `.f32` to one register: the first goes to the high half.
    fn cvt_pair(&mut self, form: &mut Form<'a, 's>, op: Cvt, to: Ty) -> Decoded<()> {
        let [d, a, b] = form.operands()?;
        let dst = self.dst(form, d, to)?;
        let half = if to == Ty::F16x2 { Ty::F16 } else { Ty::Bf16 };
        let op = Op::Cvt(Cvt { to: side(half), register_bits: 16, ..op });
        let (high, low) = (self.src(form, a, Ty::F32)?, self.src(form, b, Ty::F32)?);
        form.end()?;
        let parts = [self.temporary(), self.temporary()];
        self.emit(form.inst.at, self.guard, op, &[parts[0]], &[low]);
        self.emit(form.inst.at, self.guard, op, &[parts[1]], &[high]);
        self.emit(form.inst.at, self.guard, Op::Pack { n: 2, bytes: 2 }, &[dst], &parts);
        Ok(())
    }

    fn temporary(&mut self) -> Slot {
        self.new_slot("a temporary".to_string(), SlotInit::Undefined)
    }

    pub(super) fn mov(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        let allowed = [&[Ty::Pred][..], &MOVED].concat();
        let ty = form.ty(&allowed)?;
        let [d, a] = form.operands()?;
        match (d, a) {
            (Operand::Vector(parts), _) => {
                let part = self.part_type(form, ty, parts)?;
                let src = self.src(form, a, ty)?;
                let dst: Decoded<Vec<Slot>> = parts.iter().map(|name| self.dst(form, name, part)).collect();
                let op = Op::Unpack { n: parts.len() as u8, bytes: part.bytes() as u8 };
                self.push(form, op, &dst?, &[src])
            }
            (_, Operand::Vector(parts)) => {
                let part = self.part_type(form, ty, parts)?;
                let dst = self.dst(form, d, ty)?;
                let src: Decoded<Vec<Slot>> = parts.iter().map(|name| self.src(form, name, part)).collect();
                let op = Op::Pack { n: parts.len() as u8, bytes: part.bytes() as u8 };
                self.push(form, op, &[dst], &src?)
            }
            _ => {
                let (dst, src) = self.unary(form, [ty; 2])?;
                self.push(form, Op::Copy, &dst, &src)
            }
        }
    }

    /// The type of one part of a value of type `ty` that is given as a vector.
    fn part_type(&self, form: &Form<'a, 's>, ty: Ty, parts: &[Operand<'a>]) -> Decoded<Ty> {
        match (ty, parts.len()) {
            (Ty::B32, 2) | (Ty::B64, 4) => Ok(Ty::B16),
            (Ty::B64, 2) => Ok(Ty::B32),
            (_, n) => Err(form
                .error(format!("a value of type .{} has no {n} parts here", ty.name()))
                .help("mov.b32 takes two of 16 bits, mov.b64 two of 32 or four of 16 bits")),
        }
    }
}

/// Rounding must stand where something is lost, and nowhere else.
fn check_rounding(form: &Form<'_, '_>, to: Ty, from: Ty, integral: Option<bool>) -> Decoded<()> {
    let wrong = match (to.is_float(), from.is_float(), integral) {
        (false, false, found) => found.is_some().then_some("no rounding between integers"),
        (false, true, found) => (found != Some(true)).then_some("one of .rni, .rzi, .rmi, .rpi to integers"),
        (true, false, found) => (found != Some(false)).then_some("one of .rn, .rz, .rm, .rp from integers"),
        (true, true, found) if to == from => {
            (found == Some(false)).then_some("an integer rounding or none between equal types")
        }
        (true, true, found) if loses(to, from) => {
            (found != Some(false)).then_some("one of .rn, .rz, .rm, .rp, as numbers are lost")
        }
        (true, true, found) => found.is_some().then_some("no rounding, as no number is lost"),
    };
    match wrong {
        Some(expected) => Err(form.error(format!("`{}`: expected {expected}", form.full_name()))),
        None => Ok(()),
    }
}
