//! The frequent instructions, for many threads at once.
//!
//! In: an instruction whose guard and sources have been looked at, and the threads. Out: its results, if it is one of those here.
//! What an instruction computes is said in `num`, once; here its operation is known before the loop over the threads, so that
//! the compiler makes vector instructions of the loop. On x86-64 the same loops exist a second time for AVX2 and FMA, which
//! round as the others do.

use super::super::code::{Inst, Op, Slot, Test};
use super::super::num::convert::{Cvt, cvt};
use super::super::num::float::{Float1, Float2, FloatTy, Mods, float1, float2, fma};
use super::super::num::int::{Int1, Int2, Int3, IntTy, int1, int2, int3, lop3, prmt, shf};
use super::file::{Files, span};
use super::thread::{both, combined};

/// Whether this processor has the vector instructions that [`wide`] can use.
pub(in crate::ptx_sim) fn has_vectors() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Executes the instruction for all of `lanes` and gives `true`; or does nothing.
pub(super) fn wide(inst: &Inst, files: &Files, lanes: &[u32], has_vectors: bool) -> bool {
    #[cfg(target_arch = "x86_64")]
    if has_vectors {
        // SAFETY: the processor has these instructions.
        return unsafe { wide_avx2(inst, files, lanes) };
    }
    let _ = has_vectors;
    any(&Wide { inst, files, lanes })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn wide_avx2(inst: &Inst, files: &Files, lanes: &[u32]) -> bool {
    any(&Wide { inst, files, lanes })
}

struct Wide<'a> {
    inst: &'a Inst,
    files: &'a Files,
    lanes: &'a [u32],
}

/// The expression with the operation as a constant where it is one of those listed, else as it is.
macro_rules! known {
    ($op:ident, [$($known:path),*], $then:expr) => {
        match $op {
            $($known => { let $op = $known; $then })*
            $op => $then,
        }
    };
}

/// Sets the first result of every lane to an expression of its first sources. A macro and no function of a closure: a closure is
/// not compiled for the vector instructions of the function that it is passed to.
macro_rules! each {
    ($it:expr, |$a:ident $(, $b:ident $(, $c:ident)?)?| $value:expr) => {{
        let it = $it;
        let [a_row, b_row, c_row, ..] = it.inst.src.map(|slot| it.files.row(slot));
        let results = it.files.row(it.inst.dst[0]);
        match span(it.lanes) {
            Some(range) => {
                let (a_row, b_row, c_row) = (&a_row[range.clone()], &b_row[range.clone()], &c_row[range.clone()]);
                let sources = a_row.iter().zip(b_row).zip(c_row);
                for (result, ((a, b), c)) in results[range].iter().zip(sources) {
                    let _ = (b, c);
                    let $a = a.get();
                    $(let $b = b.get(); $(let $c = c.get();)?)?
                    result.set($value);
                }
            }
            None => {
                for lane in it.lanes {
                    let at = *lane as usize;
                    let _ = (b_row, c_row);
                    let $a = a_row[at].get();
                    $(let $b = b_row[at].get(); $(let $c = c_row[at].get();)?)?
                    results[at].set($value);
                }
            }
        }
    }};
}

#[inline(always)]
fn any(it: &Wide<'_>) -> bool {
    let inst = it.inst;
    match inst.op {
        Op::Int2(op, ty) => it.int2(op, ty),
        Op::Float2(op, ty, mods) => it.float2(op, ty, mods),
        Op::Fma(ty, mods) => it.fma(ty, mods),
        Op::Int3(op, ty) => {
            known!(op, [Int3::MadLo, Int3::MadWide], each!(it, |a, b, c| int3(op, ty, a, b, c)))
        }
        Op::Int1(op, ty) => known!(op, [Int1::Not, Int1::Neg], each!(it, |a| int1(op, ty, a))),
        Op::Float1(op, ty, mods) => it.float1(op, ty, mods),
        Op::Cvt(op) => it.cvt(op),
        Op::Prmt(mode) => each!(it, |a, b, c| prmt(mode, a, b, c)),
        Op::Lop3(table) => each!(it, |a, b, c| lop3(table, a, b, c)),
        Op::Shf { left, wraps } => each!(it, |a, b, c| shf(left, wraps, a, b, c)),
        _ => return it.others(),
    }
    it.files.define(inst.dst[0], it.lanes);
    true
}

impl Wide<'_> {
    #[inline(always)]
    fn int2(&self, op: Int2, ty: IntTy) {
        known!(
            op,
            [
                Int2::Add,
                Int2::Sub,
                Int2::MulLo,
                Int2::MulWide,
                Int2::And,
                Int2::Or,
                Int2::Xor,
                Int2::Shl,
                Int2::Shr,
                Int2::Min,
                Int2::Max
            ],
            each!(self, |a, b| int2(op, ty, a, b))
        );
    }

    #[inline(always)]
    fn float2(&self, op: Float2, ty: FloatTy, mods: Mods) {
        if mods != Mods::default() {
            return each!(self, |a, b| float2(op, ty, mods, a, b));
        }
        let mods = Mods::default();
        known!(
            ty,
            [FloatTy::F32, FloatTy::F64],
            known!(
                op,
                [Float2::Add, Float2::Sub, Float2::Mul, Float2::Div, Float2::Min, Float2::Max],
                each!(self, |a, b| float2(op, ty, mods, a, b))
            )
        );
    }

    #[inline(always)]
    fn fma(&self, ty: FloatTy, mods: Mods) {
        if mods != Mods::default() {
            return each!(self, |a, b, c| fma(ty, mods, a, b, c));
        }
        let mods = Mods::default();
        known!(ty, [FloatTy::F32, FloatTy::F64], each!(self, |a, b, c| fma(ty, mods, a, b, c)));
    }

    #[inline(always)]
    fn float1(&self, op: Float1, ty: FloatTy, mods: Mods) {
        if mods != Mods::default() {
            return each!(self, |a| float1(op, ty, mods, a));
        }
        let mods = Mods::default();
        known!(
            ty,
            [FloatTy::F32, FloatTy::F64],
            known!(op, [Float1::Abs, Float1::Neg, Float1::Sqrt], each!(self, |a| float1(op, ty, mods, a)))
        );
    }

    #[inline(always)]
    fn cvt(&self, op: Cvt) {
        each!(self, |a| cvt(op, a));
    }

    #[inline(always)]
    fn others(&self) -> bool {
        let inst = self.inst;
        match inst.op {
            // What is not defined is passed on by single threads.
            Op::Copy if self.files.is_defined(inst.src[0], self.lanes) => each!(self, |a| a),
            Op::Select if self.are_defined(&inst.src[1..3]) => {
                each!(self, |a, b, c| if a != 0 { b } else { c })
            }
            Op::Setp(test) => {
                self.setp(test);
                self.files.define(inst.dst[1], self.lanes);
            }
            _ => return false,
        }
        self.files.define(inst.dst[0], self.lanes);
        true
    }

    fn are_defined(&self, slots: &[Slot]) -> bool {
        slots.iter().all(|slot| self.files.is_defined(*slot, self.lanes))
    }

    #[inline(always)]
    fn setp(&self, test: Test) {
        let [a, b, c, ..] = self.inst.src.map(|slot| self.files.row(slot));
        let [p, q] = [self.inst.dst[0], self.inst.dst[1]].map(|slot| self.files.row(slot));
        for lane in self.lanes {
            let at = *lane as usize;
            let ((first, second), c) = (both(test, a[at].get(), b[at].get()), c[at].get());
            p[at].set(u64::from(combined(test, first, c)));
            q[at].set(u64::from(combined(test, second, c)));
        }
    }
}
