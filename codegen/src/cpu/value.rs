//! Emitted values: constants, scalars, and one value per lane in native vectors.
//!
//! In: kernel dtypes and the width of the lane loop around. Out: Cranelift types and values in the shape an instruction
//! needs. A lane value of width `w` is cut into native vectors of 128 bits, or into `w` scalars if `w` elements do not
//! fill one. A lane bool is a mask as wide as 32-bit elements, or as 64-bit ones where a 64-bit comparison made it.

use super::emit::Emitter;
use crate::facts::scalar_bits;
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::scalar::Scalar;
use cranelift_codegen::cursor::{Cursor, FuncCursor};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Endianness, InstBuilder, MemFlagsData, Type, Value, ValueDef, types};

/// What a kernel variable is bound to while its scope is emitted.
#[derive(Clone, Debug)]
pub(super) enum Val {
    /// Known while emitting.
    Const(Scalar),
    /// One value for all lanes.
    Uniform(Value),
    /// One value per lane, in order, in native vectors (or scalars); a bool as a mask of 32-bit elements.
    Lanes(Vec<Value>),
    /// A per-lane bool as masks of 64-bit elements.
    Mask64(Vec<Value>),
}

impl Val {
    /// True if the value differs between lanes.
    pub(super) fn per_lane(&self) -> bool {
        matches!(self, Val::Lanes(_) | Val::Mask64(_))
    }
}

/// The Cranelift type of one element of a compute type.
pub(super) fn scalar_type(dtype: DType) -> Type {
    match dtype {
        DType::F64 => types::F64,
        DType::F32 | DType::Bf16 | DType::F16 => types::F32,
        DType::I64 => types::I64,
        DType::I32 => types::I32,
        DType::Bool => types::I8,
    }
}

/// The native vector of a compute type; a bool is a mask of 32-bit elements.
pub(super) fn vector_type(dtype: DType) -> Type {
    match dtype {
        DType::F64 => types::F64X2,
        DType::F32 | DType::Bf16 | DType::F16 => types::F32X4,
        DType::I64 => types::I64X2,
        DType::I32 | DType::Bool => types::I32X4,
    }
}

/// Lanes in one value of a lane loop of `width`: a native vector's, or 1 where that is not filled.
pub(super) fn chunk_lanes(dtype: DType, width: u32) -> u32 {
    let native = vector_type(dtype).lane_count();
    if width.is_multiple_of(native) { native } else { 1 }
}

/// Number of values that hold one value per lane.
pub(super) fn n_chunks(dtype: DType, width: u32) -> usize {
    (width / chunk_lanes(dtype, width)) as usize
}

/// The type of those values.
pub(super) fn chunk_type(dtype: DType, width: u32) -> Type {
    if chunk_lanes(dtype, width) == 1 { scalar_type(dtype) } else { vector_type(dtype) }
}

/// The flags of a cast between types of equal size.
pub(super) fn cast_flags() -> MemFlagsData {
    MemFlagsData::new().with_endianness(Endianness::Little)
}

/// Bits as the immediate of an integer constant, which Cranelift wants sign-extended.
fn narrow_bits(ty: Type, bits: u64) -> i64 {
    match ty {
        types::I8 => i64::from(bits as u8),
        types::I16 => i64::from(bits as u16),
        types::I32 => i64::from(bits as u32),
        _ => bits as i64,
    }
}

impl Emitter<'_, '_> {
    /// The width of the lane loop around, or 1.
    pub(super) fn width(&self) -> u32 {
        self.lanes.as_ref().map_or(1, |lanes| lanes.width)
    }

    /// A constant of scalar or vector type whose every element has these bits, for the instruction that comes next.
    ///
    /// Vectors are loaded from the kernel's table right where they are used: the load becomes an operand of the instruction,
    /// while constants kept in registers would crowd out the data.
    pub(super) fn bits_const(&mut self, ty: Type, bits: u64) -> Value {
        let lane = ty.lane_type();
        if !ty.is_vector() {
            return match lane {
                types::F32 => self.b.ins().f32const(f32::from_bits(bits as u32)),
                types::F64 => self.b.ins().f64const(f64::from_bits(bits)),
                _ => self.b.ins().iconst(lane, narrow_bits(lane, bits)),
            };
        }
        let elem = &bits.to_le_bytes()[..lane.bytes() as usize];
        let mut bytes = [0; 16];
        bytes.chunks_exact_mut(elem.len()).for_each(|chunk| chunk.copy_from_slice(elem));
        self.vector_const(ty, bytes)
    }

    /// A vector constant of 16 bytes.
    pub(super) fn vector_const(&mut self, ty: Type, bytes: [u8; 16]) -> Value {
        if bytes == [0; 16] || bytes == [0xff; 16] {
            let constant = self.b.func.dfg.constants.insert(bytes.to_vec().into());
            return self.b.ins().vconst(ty, constant);
        }
        let next = self.table.len();
        let row = *self.table_rows.entry(bytes).or_insert(next);
        if row == next {
            self.table.push(bytes);
        }
        let flags = MemFlagsData::trusted().with_readonly();
        self.b.ins().load(ty, flags, self.table_pointer, 16 * row as i32)
    }

    /// An i64 constant.
    pub(super) fn i64_const(&mut self, value: i64) -> Value {
        self.bits_const(types::I64, value as u64)
    }

    /// The one value of a variable that is the same in all lanes.
    ///
    /// Errors: the value is per lane where the kernel IR demands a uniform one.
    pub(super) fn as_scalar(&mut self, val: &Val, dtype: DType) -> Result<Value, Diagnostic> {
        match val {
            Val::Const(value) => Ok(self.bits_const(scalar_type(dtype), scalar_bits(dtype, *value))),
            Val::Uniform(value) => Ok(*value),
            _ => Err(self.broken("a per-lane value is used where all lanes must agree")),
        }
    }

    /// The values of all lanes; `val` is widened if it is uniform.
    pub(super) fn as_lanes(&mut self, val: &Val, dtype: DType) -> Result<Vec<Value>, Diagnostic> {
        let width = self.width();
        let (ty, count) = (chunk_type(dtype, width), n_chunks(dtype, width));
        match val {
            Val::Const(_) => Ok(vec![self.chunk_const(val, dtype)?; count]),
            Val::Uniform(value) if !ty.is_vector() => Ok(vec![*value; count]),
            Val::Uniform(value) if dtype == DType::Bool => {
                Ok(vec![self.splat_mask(types::I32X4, *value); count])
            }
            Val::Uniform(value) => Ok(vec![self.splat(ty, *value); count]),
            Val::Lanes(chunks) => Ok(chunks.clone()),
            Val::Mask64(masks) => Ok(self.narrow_masks(masks)),
        }
    }

    /// One chunk of a constant.
    pub(super) fn chunk_const(&mut self, val: &Val, dtype: DType) -> Result<Value, Diagnostic> {
        let Val::Const(value) = val else { return Err(self.broken("a constant is expected")) };
        let ty = chunk_type(dtype, self.width());
        let mut bits = scalar_bits(dtype, *value);
        if dtype == DType::Bool && ty.is_vector() && bits != 0 {
            bits = u64::from(u32::MAX);
        }
        Ok(self.bits_const(ty, bits))
    }

    /// A per-lane bool as masks of 64-bit elements.
    pub(super) fn as_mask64(&mut self, val: &Val) -> Result<Vec<Value>, Diagnostic> {
        match val {
            Val::Mask64(masks) => Ok(masks.clone()),
            Val::Uniform(value) => {
                let mask = self.splat_mask(types::I64X2, *value);
                Ok(vec![mask; self.width() as usize / 2])
            }
            Val::Const(value) => {
                let bits = if value.as_bool() { u64::MAX } else { 0 };
                Ok(vec![self.bits_const(types::I64X2, bits); self.width() as usize / 2])
            }
            Val::Lanes(chunks) => Ok(self.widen_masks(&chunks.clone())),
        }
    }

    /// A scalar in every lane of a native vector.
    pub(super) fn splat(&mut self, ty: Type, value: Value) -> Value {
        let key = super::cache::Key::Splat(value, ty);
        if let Some(found) = self.cache.get(&key) {
            return found[0];
        }
        let depth = self.value_depth(value);
        let splat = self.cursor_at(depth).ins().splat(ty, value);
        self.cache.insert_at(depth as usize + 1, key, vec![splat]);
        splat
    }

    /// Number of loops around the definition of a value.
    fn value_depth(&self, value: Value) -> u32 {
        let dfg = &self.b.func.dfg;
        let block = match dfg.value_def(dfg.resolve_aliases(value)) {
            ValueDef::Result(inst, _) => self.b.func.layout.inst_block(inst),
            ValueDef::Param(block, _) => Some(block),
            ValueDef::Union(..) => None,
        };
        block.and_then(|block| self.block_depths.get(&block).copied()).unwrap_or(self.depth())
    }

    /// Where to write what depends on values bound inside `depth` loops only: before the loop one deeper, if that is around.
    pub(super) fn cursor_at(&mut self, depth: u32) -> FuncCursor<'_> {
        match self.loops.get(depth as usize) {
            Some(before) => FuncCursor::new(self.b.func).at_last_inst(*before),
            None => self.b.cursor(),
        }
    }

    fn splat_mask(&mut self, ty: Type, flag: Value) -> Value {
        let wide = self.b.ins().uextend(ty.lane_type(), flag);
        let bits = self.b.ins().ineg(wide);
        self.b.ins().splat(ty, bits)
    }

    fn narrow_masks(&mut self, masks: &[Value]) -> Vec<Value> {
        if self.width() >= 4 {
            return masks.chunks(2).map(|pair| self.pack_low_words(pair[0], pair[1])).collect();
        }
        let mut flags = vec![];
        for mask in masks {
            for lane in 0..2u8 {
                let bits = self.b.ins().extractlane(*mask, lane);
                let byte = self.b.ins().ireduce(types::I8, bits);
                let one = self.bits_const(types::I8, 1);
                flags.push(self.b.ins().band(byte, one));
            }
        }
        flags
    }

    fn widen_masks(&mut self, chunks: &[Value]) -> Vec<Value> {
        if self.width() >= 4 {
            return self.widen_words(chunks);
        }
        let wide: Vec<Value> = chunks
            .iter()
            .map(|flag| {
                let bits = self.b.ins().uextend(types::I64, *flag);
                self.b.ins().ineg(bits)
            })
            .collect();
        wide.chunks(2).map(|pair| self.gather_vector(types::I64X2, pair)).collect()
    }

    /// Sign-extends every I32X4 to two I64X2.
    pub(super) fn widen_words(&mut self, chunks: &[Value]) -> Vec<Value> {
        let mut wide = vec![];
        for chunk in chunks {
            wide.push(self.b.ins().swiden_low(*chunk));
            wide.push(self.b.ins().swiden_high(*chunk));
        }
        wide
    }

    /// The low 32 bits of the four elements of two I64X2, as I32X4.
    pub(super) fn pack_low_words(&mut self, low: Value, high: Value) -> Value {
        let picks = [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27];
        self.shuffle(types::I32X4, low, high, picks)
    }

    /// Bytes of the concatenation of `a` and `b`.
    pub(super) fn shuffle(&mut self, ty: Type, a: Value, b: Value, picks: [u8; 16]) -> Value {
        let (a, b) = (self.bitcast(types::I8X16, a), self.bitcast(types::I8X16, b));
        let mask = self.b.func.dfg.immediates.push(picks.to_vec().into());
        let bytes = self.b.ins().shuffle(a, b, mask);
        self.bitcast(ty, bytes)
    }

    /// The bits of `value` as `ty`.
    pub(super) fn bitcast(&mut self, ty: Type, value: Value) -> Value {
        if self.b.func.dfg.value_type(value) == ty {
            value
        } else {
            self.b.ins().bitcast(ty, cast_flags(), value)
        }
    }

    /// A vector of the given elements.
    pub(super) fn gather_vector(&mut self, ty: Type, elems: &[Value]) -> Value {
        let mut vector = self.b.ins().scalar_to_vector(ty, elems[0]);
        for (lane, elem) in elems.iter().enumerate().skip(1) {
            vector = self.b.ins().insertlane(vector, *elem, lane as u8);
        }
        vector
    }

    /// Every lane as a scalar of the dtype.
    pub(super) fn split(&mut self, val: &Val, dtype: DType) -> Result<Vec<Value>, Diagnostic> {
        let width = self.width();
        if !val.per_lane() {
            return Ok(vec![self.as_scalar(val, dtype)?; width as usize]);
        }
        let chunks = self.as_lanes(val, dtype)?;
        let per_chunk = chunk_lanes(dtype, width);
        if per_chunk == 1 {
            return Ok(chunks);
        }
        let mut elems = vec![];
        for chunk in chunks {
            for lane in 0..per_chunk {
                elems.push(self.extract(dtype, chunk, lane));
            }
        }
        Ok(elems)
    }

    /// One element of a native vector; a mask gives 0 or 1.
    pub(super) fn extract(&mut self, dtype: DType, chunk: Value, lane: u32) -> Value {
        let elem = self.b.ins().extractlane(chunk, lane as u8);
        if dtype != DType::Bool {
            return elem;
        }
        let byte = self.b.ins().ireduce(types::I8, elem);
        let one = self.bits_const(types::I8, 1);
        self.b.ins().band(byte, one)
    }

    /// Puts a scalar into one element of a native vector.
    pub(super) fn insert(&mut self, dtype: DType, chunk: Value, lane: u32, elem: Value) -> Value {
        let mut elem = elem;
        if dtype == DType::Bool {
            let wide = self.b.ins().uextend(types::I32, elem);
            elem = self.b.ins().ineg(wide);
        }
        self.b.ins().insertlane(chunk, elem, lane as u8)
    }

    /// The reverse of [`Emitter::split`].
    pub(super) fn join(&mut self, elems: Vec<Value>, dtype: DType) -> Val {
        let per_chunk = chunk_lanes(dtype, self.width()) as usize;
        if per_chunk == 1 {
            return Val::Lanes(elems);
        }
        let ty = vector_type(dtype);
        let chunks: Vec<Value> =
            elems.chunks(per_chunk).map(|part| self.join_chunk(ty, dtype, part)).collect();
        Val::Lanes(chunks)
    }

    fn join_chunk(&mut self, ty: Type, dtype: DType, elems: &[Value]) -> Value {
        if dtype != DType::Bool {
            return self.gather_vector(ty, elems);
        }
        let words: Vec<Value> = elems.iter().map(|elem| self.b.ins().uextend(types::I32, *elem)).collect();
        let ones = self.gather_vector(ty, &words);
        let zero = self.bits_const(ty, 0);
        self.b.ins().icmp(IntCC::NotEqual, ones, zero)
    }
}
