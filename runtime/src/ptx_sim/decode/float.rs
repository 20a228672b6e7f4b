//! Floating-point arithmetic, functions, comparisons and selection.
//!
//! Rounding of arithmetic is `.rn` alone, which is what compilers use; directed modes are refused.

use super::super::ast::Operand;
use super::super::code::{Combine, Op, Slot, Test, TestTy};
use super::super::num::float::{Compare, Float1, Float2, FloatTy, Mods, Property};
use super::super::types::Ty;
use super::Decoded;
use super::form::Form;
use super::operands::{MOVED, float_ty, int_ty};
use super::scope::Builder;

const FLOATS: [Ty; 6] = [Ty::F32, Ty::F64, Ty::F16, Ty::F16x2, Ty::Bf16, Ty::Bf16x2];
const RN: [(&str, ()); 1] = [("rn", ())];

fn is_bf16(ty: Ty) -> bool {
    matches!(ty, Ty::Bf16 | Ty::Bf16x2)
}

impl<'a, 's> Builder<'a, 's> {
    fn float_type(&mut self, form: &mut Form<'a, 's>, allowed: &[Ty]) -> Decoded<(Ty, FloatTy)> {
        let ty = form.ty(allowed)?;
        let float = float_ty(ty).ok_or_else(|| form.error("expected a floating-point type"))?;
        Ok((ty, float))
    }

    pub(super) fn float_arithmetic(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        match form.inst.opcode {
            "add" => self.float_sum(form, Float2::Add),
            "sub" => self.float_sum(form, Float2::Sub),
            "mul" => self.float_sum(form, Float2::Mul),
            "div" => self.float_div(form),
            "min" => self.extremum(form, Float2::Min),
            "max" => self.extremum(form, Float2::Max),
            "abs" => self.float_sign(form, Float1::Abs),
            _ => self.float_sign(form, Float1::Neg),
        }
    }

    fn float_binary(&mut self, form: &Form<'a, 's>, op: Op, ty: Ty) -> Decoded<()> {
        let (dst, src) = self.binary(form, [ty; 3])?;
        self.push(form, op, &dst, &src)
    }

    fn float_unary(&mut self, form: &Form<'a, 's>, op: Op, ty: Ty) -> Decoded<()> {
        let (dst, src) = self.unary(form, [ty; 2])?;
        self.push(form, op, &dst, &src)
    }

    fn float_sum(&mut self, form: &mut Form<'a, 's>, op: Float2) -> Decoded<()> {
        form.one_of(&RN);
        let ftz = form.flag("ftz");
        let sat = form.flag("sat");
        let (ty, float) = self.float_type(form, &FLOATS)?;
        if (ty == Ty::F64 || is_bf16(ty)) && (ftz || sat) {
            return Err(form.error(format!("`{}` has no .ftz and no .sat", form.full_name())));
        }
        let mods = Mods { ftz, sat, ..Mods::default() };
        self.float_binary(form, Op::Float2(op, float, mods), ty)
    }

    fn float_div(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        let kinds = [("rn", Float2::Div), ("full", Float2::Div), ("approx", Float2::DivApprox)];
        let is_rn = form.inst.mods.first() == Some(&"rn");
        let op = form.must(&kinds)?;
        let mods = Mods { ftz: form.flag("ftz"), ..Mods::default() };
        let doubles_too = is_rn && !mods.ftz;
        let (ty, float) =
            self.float_type(form, if doubles_too { &[Ty::F32, Ty::F64] } else { &[Ty::F32] })?;
        self.float_binary(form, Op::Float2(op, float, mods), ty)
    }

    fn extremum(&mut self, form: &mut Form<'a, 's>, op: Float2) -> Decoded<()> {
        let mods = Mods {
            ftz: form.flag("ftz"),
            nan: form.flag("NaN"),
            xorsign_abs: form.flag("xorsign") && form.flag("abs"),
            ..Mods::default()
        };
        let (ty, float) = self.float_type(form, &FLOATS)?;
        if ty == Ty::F64 && mods != Mods::default() || is_bf16(ty) && mods.ftz {
            return Err(form.error(format!("`{}`: .{} lacks these modifiers", form.full_name(), ty.name())));
        }
        self.float_binary(form, Op::Float2(op, float, mods), ty)
    }

    fn float_sign(&mut self, form: &mut Form<'a, 's>, op: Float1) -> Decoded<()> {
        let mods = Mods { ftz: form.flag("ftz"), ..Mods::default() };
        let allowed = if mods.ftz { &[Ty::F32, Ty::F16, Ty::F16x2][..] } else { &FLOATS[..] };
        let (ty, float) = self.float_type(form, allowed)?;
        self.float_unary(form, Op::Float1(op, float, mods), ty)
    }

    pub(super) fn fma(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        form.must(&RN)?;
        let mods =
            Mods { ftz: form.flag("ftz"), sat: form.flag("sat"), relu: form.flag("relu"), ..Mods::default() };
        let (ty, float) = self.float_type(form, &FLOATS)?;
        let wrong = match ty {
            Ty::F64 => mods != Mods::default(),
            Ty::F32 => mods.relu,
            Ty::Bf16 | Ty::Bf16x2 => mods.ftz || mods.sat,
            _ => mods.sat && mods.relu,
        };
        if wrong || form.inst.opcode == "mad" && !matches!(ty, Ty::F32 | Ty::F64) {
            return Err(form.error(format!("`{}`: .{} lacks these modifiers", form.full_name(), ty.name())));
        }
        let [d, a, b, c] = form.operands()?;
        let dst = self.dst(form, d, ty)?;
        let src = [self.src(form, a, ty)?, self.src(form, b, ty)?, self.src(form, c, ty)?];
        self.push(form, Op::Fma(float, mods), &[dst], &src)
    }

    pub(super) fn float_function(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        let opcode = form.inst.opcode;
        let op = match opcode {
            "rcp" => Float1::Rcp,
            "sqrt" => Float1::Sqrt,
            "rsqrt" => Float1::Rsqrt,
            "ex2" => Float1::Ex2,
            "lg2" => Float1::Lg2,
            "sin" => Float1::Sin,
            "cos" => Float1::Cos,
            _ => Float1::Tanh,
        };
        let has_rn = matches!(opcode, "rcp" | "sqrt");
        let approx = if has_rn {
            form.must(&[("rn", false), ("approx", true)])?
        } else {
            form.must(&[("approx", true)])?
        };
        let ftz = opcode != "tanh" && form.flag("ftz");
        let allowed: &[Ty] = match (opcode, ftz) {
            ("rcp" | "sqrt", false) if !approx => &[Ty::F32, Ty::F64],
            ("rsqrt", false) => &[Ty::F32, Ty::F64],
            ("ex2", false) => &[Ty::F32, Ty::F16, Ty::F16x2],
            ("ex2", true) => &[Ty::F32, Ty::Bf16, Ty::Bf16x2],
            ("tanh", _) => &[Ty::F32, Ty::F16, Ty::F16x2, Ty::Bf16, Ty::Bf16x2],
            _ => &[Ty::F32],
        };
        let (ty, float) = self.float_type(form, allowed)?;
        self.float_unary(form, Op::Float1(op, float, Mods { ftz, ..Mods::default() }), ty)
    }

    pub(super) fn float_bits(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        if form.inst.opcode == "copysign" {
            let (ty, float) = self.float_type(form, &[Ty::F32, Ty::F64])?;
            return self.float_binary(form, Op::Float2(Float2::Copysign, float, Mods::default()), ty);
        }
        let properties = [
            ("finite", Property::Finite),
            ("infinite", Property::Infinite),
            ("number", Property::Number),
            ("notanumber", Property::NotANumber),
            ("normal", Property::Normal),
            ("subnormal", Property::Subnormal),
        ];
        let property = form.must(&properties)?;
        let (ty, float) = self.float_type(form, &[Ty::F32, Ty::F64])?;
        let (dst, src) = self.unary(form, [Ty::Pred, ty])?;
        self.push(form, Op::Testp(property, float), &dst, &src)
    }

    /// `setp` and `set`.
    pub(super) fn compare(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        let name = form.inst.mods.first().copied().unwrap_or("");
        let compare = form.must(&COMPARISONS)?;
        let combine = form.one_of(&[("and", Combine::And), ("or", Combine::Or), ("xor", Combine::Xor)]);
        let ftz = form.flag("ftz");
        let is_set = form.inst.opcode == "set";
        let result = if is_set { form.ty(&[Ty::U32, Ty::S32, Ty::F32])? } else { Ty::Pred };
        let ty = form.ty(&[&MOVED[..], &NARROW].concat())?;
        check_comparison(form, name, ftz, ty)?;
        let test_ty = float_ty(ty).map_or(TestTy::Int(int_ty(ty)), |float| TestTy::Float(float, ftz));
        let test = Test { compare, ty: test_ty, combine: combine.unwrap_or(Combine::Nothing) };
        let operands = form.inst.operands.as_slice();
        let (d, a, b) = match operands {
            [d, a, b, ..] if operands.len() == 3 + usize::from(combine.is_some()) => (d, a, b),
            _ => return Err(form.error(format!("`{}` has another number of operands", form.full_name()))),
        };
        let dst = if is_set { [self.dst(form, d, result)?, 0] } else { self.predicate_pair(form, d)? };
        let mut src = vec![self.src(form, a, ty)?, self.src(form, b, ty)?];
        if let Some(operand) = operands.get(3) {
            src.push(self.positive_predicate(form, operand)?);
        }
        let op = if is_set { Op::Set(test, result == Ty::F32) } else { Op::Setp(test) };
        self.push(form, op, &dst, &src)
    }

    /// A predicate operand; `!p` becomes an instruction of its own.
    pub(super) fn positive_predicate(&mut self, form: &Form<'a, 's>, operand: &Operand<'a>) -> Decoded<Slot> {
        let (slot, negated) = self.predicate_source(form, operand)?;
        if !negated {
            return Ok(slot);
        }
        let inverse = self.new_slot("!p".to_string(), super::super::code::SlotInit::Undefined);
        let ty = super::super::num::int::IntTy { bits: 1, is_signed: false };
        let not = Op::Int1(super::super::num::int::Int1::Not, ty);
        self.emit(form.inst.at, self.guard, not, &[inverse], &[slot]);
        Ok(inverse)
    }

    pub(super) fn select(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        let ty = form.ty(&MOVED)?;
        let [d, a, b, c] = form.operands()?;
        let dst = self.dst(form, d, ty)?;
        let (a, b) = (self.src(form, a, ty)?, self.src(form, b, ty)?);
        let c = self.src(form, c, Ty::Pred)?;
        // The predicate comes first: it alone is always read.
        form.end()?;
        self.emit(form.inst.at, self.guard, Op::Select, &[dst], &[c, a, b]);
        Ok(())
    }
}

const COMPARISONS: [(&str, Compare); 18] = [
    ("eq", Compare::Eq),
    ("ne", Compare::Ne),
    ("lt", Compare::Lt),
    ("le", Compare::Le),
    ("gt", Compare::Gt),
    ("ge", Compare::Ge),
    ("lo", Compare::Lt),
    ("ls", Compare::Le),
    ("hi", Compare::Gt),
    ("hs", Compare::Ge),
    ("equ", Compare::Equ),
    ("neu", Compare::Neu),
    ("ltu", Compare::Ltu),
    ("leu", Compare::Leu),
    ("gtu", Compare::Gtu),
    ("geu", Compare::Geu),
    ("num", Compare::Num),
    ("nan", Compare::Nan),
];

/// Types that are compared beside those of [`MOVED`].
const NARROW: [Ty; 4] = [Ty::F16, Ty::F16x2, Ty::Bf16, Ty::Bf16x2];

/// Which comparisons a type has: bits only equality, `lo` to `hs` only unsigned numbers, the unordered ones only floats.
fn check_comparison(form: &Form<'_, '_>, name: &str, ftz: bool, ty: Ty) -> Decoded<()> {
    let possible = match name {
        "eq" | "ne" => true,
        "lt" | "le" | "gt" | "ge" => ty.is_int() || ty.is_float(),
        "lo" | "ls" | "hi" | "hs" => ty.is_int() && !ty.is_signed(),
        _ => ty.is_float(),
    };
    let flushes = matches!(ty, Ty::F32 | Ty::F16 | Ty::F16x2);
    if !possible || (ftz && !flushes) {
        return Err(form.error(format!("`{}`: .{} has no such comparison", form.full_name(), ty.name())));
    }
    Ok(())
}
