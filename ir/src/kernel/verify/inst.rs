//! Dtypes of instructions.

use super::body::Checker;
use crate::dtype::DType;
use crate::kernel::text::constant_text;
use crate::kernel::{Access, Inst, Var};
use crate::scalar::Scalar;

/// Checks `inst`, whose value is `var`, up to the definition of `var`.
pub(super) fn check<'f>(checker: &mut Checker<'_, 'f>, var: Var, inst: &'f Inst) {
    let dtype = checker.dtype(var);
    match inst {
        Inst::Const(value) => constant(checker, dtype, *value),
        Inst::Index(index) => {
            checker.index(index);
            result(checker, dtype, DType::I64);
        }
        Inst::Scalar(op, args) => {
            let dtypes: Vec<DType> = args.iter().map(|arg| checker.use_var(*arg)).collect();
            match op.infer(&dtypes) {
                Ok(expected) => result(checker, dtype, expected),
                Err(message) => checker.fail(message),
            }
        }
        Inst::Fma(a, b, c) => {
            checker.require(dtype.is_float(), || format!("`fma` expects floats, found {dtype}"));
            for arg in [a, b, c] {
                let found = checker.use_var(*arg);
                checker
                    .require(found == dtype, || format!("the operands of `fma` are {dtype}, found {found}"));
            }
        }
        Inst::Convert(arg) => {
            checker.use_var(*arg);
        }
        Inst::Bitcast(arg) => {
            let from = checker.use_var(*arg);
            let pair = from.size_bytes() == dtype.size_bytes() && from.is_float() != dtype.is_float();
            let fits = pair && from != DType::Bool && dtype != DType::Bool;
            checker.require(fits, || {
                format!("`bitcast` from {from} to {dtype}, expected a float and an integer of one width")
            });
        }
        Inst::Round(to, arg) => {
            let from = checker.use_var(*arg);
            checker.require(from == DType::F32, || format!("`round` expects f32, found {from}"));
            let narrow = matches!(to, DType::Bf16 | DType::F16);
            checker.require(narrow, || format!("`round` goes to bf16 or f16, found {to}"));
            result(checker, dtype, DType::F32);
        }
        Inst::Load(mem, index) => {
            if checker.element(*mem, index) {
                result(checker, dtype, checker.report.func.mem_dtype(*mem).compute());
                checker.access(*mem, &[Access::Read, Access::ReadWrite], "loaded");
                checker.lane_load(*mem);
            }
        }
    }
}

fn result(checker: &mut Checker<'_, '_>, found: DType, expected: DType) {
    checker.require(found == expected, || format!("the value is {expected}, its variable {found}"));
}

fn constant(checker: &mut Checker<'_, '_>, dtype: DType, value: Scalar) {
    let fits = match value {
        Scalar::Float(value) => dtype.is_float() && (value.is_nan() || dtype.round(value) == value),
        Scalar::Int(value) => dtype == DType::I64 || (dtype == DType::I32 && i32::try_from(value).is_ok()),
        Scalar::Bool(_) => dtype == DType::Bool,
    };
    checker
        .require(fits, || format!("the constant {} is not a value of {dtype}", constant_text(dtype, value)));
}
