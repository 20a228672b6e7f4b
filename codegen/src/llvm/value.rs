//! Emitted values: constants, scalars, and one value per lane in one vector.
//!
//! In: kernel dtypes and the width of the lane loop around. Out: LLVM values in the shape that an instruction needs. A lane
//! value of width `w` is one vector of `w` elements, however wide the registers of the machine are: LLVM cuts it. A bool is
//! one bit.

use super::build::{Cast, Ssa, Ty, type_of};
use super::emit::Emitter;
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::scalar::Scalar;

/// What a kernel variable is bound to while its scope is emitted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Val<'c> {
    /// Known while emitting.
    Const(Scalar),
    /// One value for all lanes.
    Uniform(Ssa<'c>),
    /// One value per lane, in order.
    Lanes(Ssa<'c>),
}

impl Val<'_> {
    /// True if the value differs between lanes.
    pub(super) fn per_lane(&self) -> bool {
        matches!(self, Val::Lanes(_))
    }
}

impl<'c> Emitter<'_, 'c> {
    /// The width of the lane loop around, or 1.
    pub(super) fn width(&self) -> u32 {
        self.lanes.as_ref().map_or(1, |lanes| lanes.width)
    }

    /// The type of so many values of a compute type.
    pub(super) fn ty(&self, dtype: DType, lanes: u32) -> Ty<'c> {
        let elem = match dtype {
            DType::F64 => self.b.double(),
            DType::F32 | DType::Bf16 | DType::F16 => self.b.float(),
            DType::I64 => self.b.int(64),
            DType::I32 => self.b.int(32),
            DType::Bool => self.b.int(1),
        };
        self.b.vector(elem, lanes)
    }

    /// A constant in every lane.
    pub(super) fn constant(&self, dtype: DType, value: Scalar, lanes: u32) -> Ssa<'c> {
        let ty = self.ty(dtype, 1);
        let elem = match dtype {
            DType::F64 | DType::F32 | DType::Bf16 | DType::F16 => self.b.const_float(ty, value.as_f64()),
            DType::I64 | DType::I32 => self.b.const_int(ty, value.as_i64() as u64),
            DType::Bool => self.b.const_int(ty, u64::from(value.as_bool())),
        };
        self.b.const_vector(&vec![elem; lanes as usize])
    }

    /// An integer in every element of a type like that of `like`.
    pub(super) fn int_like(&self, bits: u32, lanes: u32, value: u64) -> Ssa<'c> {
        let elem = self.b.const_int(self.b.int(bits), value);
        self.b.const_vector(&vec![elem; lanes as usize])
    }

    /// An i64 constant.
    pub(super) fn i64_const(&self, value: i64) -> Ssa<'c> {
        self.b.const_int(self.b.int(64), value as u64)
    }

    /// The one value of a variable that is the same in all lanes.
    ///
    /// Errors: the value is per lane where the kernel IR demands a uniform one.
    pub(super) fn as_scalar(&self, val: Val<'c>, dtype: DType) -> Result<Ssa<'c>, Diagnostic> {
        match val {
            Val::Const(value) => Ok(self.constant(dtype, value, 1)),
            Val::Uniform(value) => Ok(value),
            Val::Lanes(_) => Err(self.broken("a per-lane value is used where all lanes must agree")),
        }
    }

    /// The values of all lanes; `val` is widened if it is uniform.
    pub(super) fn as_lanes(&self, val: Val<'c>, dtype: DType) -> Ssa<'c> {
        match val {
            Val::Const(value) => self.constant(dtype, value, self.width()),
            Val::Uniform(value) => self.b.splat(value, self.width()),
            Val::Lanes(values) => values,
        }
    }

    /// The bits of `value` as `ty`.
    pub(super) fn bitcast(&self, value: Ssa<'c>, ty: Ty<'c>) -> Ssa<'c> {
        if type_of(value) == ty { value } else { self.b.cast(Cast::LLVMBitCast, value, ty) }
    }

    /// The larger (or smaller) of two integers.
    pub(super) fn int_bound(&self, larger: bool, a: Ssa<'c>, b: Ssa<'c>) -> Ssa<'c> {
        let name = if larger { c"llvm.smax" } else { c"llvm.smin" };
        self.b.intrinsic(name, &[type_of(a)], &[a, b])
    }
}
