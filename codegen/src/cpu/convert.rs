//! Conversions between compute types, and casts of bits.
//!
//! In: a value and two dtypes. Out: the value that [`Scalar::convert`] defines: floats round to nearest even, floats to
//! integers truncate and saturate with NaN as 0, wide integers wrap. Pairs without a vector instruction go lane by lane.

use super::emit::Emitter;
use super::value::{Val, chunk_type, scalar_type, vector_type};
use crate::facts::{cast_const, scalar_bits};
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::scalar::{Scalar, ScalarOp};
use cranelift_codegen::ir::{InstBuilder, Value, types};

impl Emitter<'_, '_> {
    /// `val` of dtype `from` as `to`.
    pub(super) fn convert(&mut self, val: &Val, from: DType, to: DType) -> Result<Val, Diagnostic> {
        if from == to {
            return Ok(val.clone());
        }
        if let Val::Const(value) = val {
            return Ok(Val::Const(value.convert(to)));
        }
        if to == DType::Bool {
            let zero = if from.is_float() { Scalar::Float(0.0) } else { Scalar::Int(0) };
            let args = [(val.clone(), from), (Val::Const(zero), from)];
            return self.scalar_op(ScalarOp::Ne, DType::Bool, &args);
        }
        if !val.per_lane() {
            let value = self.as_scalar(val, from)?;
            return Ok(Val::Uniform(self.convert_scalar(value, from, to)));
        }
        if from == DType::Bool {
            return self.convert_bool(val, to);
        }
        if self.width() >= 4
            && let Some(chunks) = self.convert_vectors(val, from, to)?
        {
            return Ok(Val::Lanes(chunks));
        }
        let elems = self.split(val, from)?;
        let elems = elems.into_iter().map(|elem| self.convert_scalar(elem, from, to)).collect();
        Ok(self.join(elems, to))
    }

    fn convert_scalar(&mut self, value: Value, from: DType, to: DType) -> Value {
        let ty = scalar_type(to);
        match (from, to) {
            (DType::F32, DType::F64) => self.b.ins().fpromote(ty, value),
            (DType::F64, DType::F32) => self.b.ins().fdemote(ty, value),
            (DType::F32 | DType::F64, _) => self.b.ins().fcvt_to_sint_sat(ty, value),
            // Through f64, as the definition goes: large integers are rounded twice.
            (DType::I64, DType::F32) => {
                let wide = self.b.ins().fcvt_from_sint(types::F64, value);
                self.b.ins().fdemote(ty, wide)
            }
            (DType::I64, DType::I32) => self.b.ins().ireduce(ty, value),
            (DType::I32, DType::I64) => self.b.ins().sextend(ty, value),
            (DType::Bool, DType::I64 | DType::I32) => self.b.ins().uextend(ty, value),
            (DType::Bool, _) => {
                let word = self.b.ins().uextend(types::I32, value);
                self.b.ins().fcvt_from_sint(ty, word)
            }
            _ => self.b.ins().fcvt_from_sint(ty, value),
        }
    }

    /// A mask to 0 or 1 of a number type.
    fn convert_bool(&mut self, val: &Val, to: DType) -> Result<Val, Diagnostic> {
        let ty = chunk_type(to, self.width());
        if !ty.is_vector() {
            let elems = self.split(val, DType::Bool)?;
            return Ok(Val::Lanes(
                elems.into_iter().map(|elem| self.convert_scalar(elem, DType::Bool, to)).collect(),
            ));
        }
        let one = if to.is_float() { Scalar::Float(1.0) } else { Scalar::Int(1) };
        let (masks, int) = if ty.lane_bits() == 64 {
            (self.as_mask64(val)?, types::I64X2)
        } else {
            (self.as_lanes(val, DType::Bool)?, types::I32X4)
        };
        let one = self.bits_const(int, scalar_bits(to, one));
        let mut chunks = vec![];
        for mask in masks {
            let bits = self.b.ins().band(mask, one);
            chunks.push(self.bitcast(ty, bits));
        }
        Ok(Val::Lanes(chunks))
    }

    /// The conversions that have vector instructions, for lane loops that fill vectors of 32-bit elements.
    fn convert_vectors(
        &mut self,
        val: &Val,
        from: DType,
        to: DType,
    ) -> Result<Option<Vec<Value>>, Diagnostic> {
        let chunks = self.as_lanes(val, from)?;
        let ty = vector_type(to);
        Ok(Some(match (from, to) {
            (DType::F32, DType::I32) => {
                chunks.into_iter().map(|chunk| self.b.ins().fcvt_to_sint_sat(ty, chunk)).collect()
            }
            (DType::I32, DType::F32) | (DType::I64, DType::F64) => {
                chunks.into_iter().map(|chunk| self.b.ins().fcvt_from_sint(ty, chunk)).collect()
            }
            (DType::I32, DType::I64) => self.widen_words(&chunks),
            (DType::I32, DType::F64) => {
                let wide = self.widen_words(&chunks);
                wide.into_iter().map(|chunk| self.b.ins().fcvt_from_sint(ty, chunk)).collect()
            }
            (DType::I64, DType::I32) => {
                chunks.chunks(2).map(|pair| self.pack_low_words(pair[0], pair[1])).collect()
            }
            (DType::F32, DType::F64) => {
                let mut wide = vec![];
                for chunk in chunks {
                    let picks = [8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15];
                    let high = self.shuffle(types::F32X4, chunk, chunk, picks);
                    wide.push(self.b.ins().fvpromote_low(chunk));
                    wide.push(self.b.ins().fvpromote_low(high));
                }
                wide
            }
            (DType::F64, DType::F32) => {
                let mut narrow = vec![];
                for pair in chunks.chunks(2) {
                    let (low, high) = (self.b.ins().fvdemote(pair[0]), self.b.ins().fvdemote(pair[1]));
                    let picks = [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23];
                    narrow.push(self.shuffle(types::F32X4, low, high, picks));
                }
                narrow
            }
            _ => return Ok(None),
        }))
    }

    /// The same bits as another type of equal width.
    pub(super) fn cast_bits(&mut self, val: &Val, from: DType, to: DType) -> Result<Val, Diagnostic> {
        if from == to {
            return Ok(val.clone());
        }
        if scalar_type(from).bits() != scalar_type(to).bits() {
            return Err(self.broken("a bitcast changes the width"));
        }
        if let Val::Const(value) = val {
            return Ok(Val::Const(cast_const(*value, from, to)));
        }
        if !val.per_lane() {
            let value = self.as_scalar(val, from)?;
            return Ok(Val::Uniform(self.bitcast(scalar_type(to), value)));
        }
        let chunks = self.as_lanes(val, from)?;
        let ty = chunk_type(to, self.width());
        Ok(Val::Lanes(chunks.into_iter().map(|chunk| self.bitcast(ty, chunk)).collect()))
    }
}
