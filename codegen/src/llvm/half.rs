//! bf16 and f16: 16-bit patterns in memory, f32 in registers.
//!
//! In and out: f32 values, and 16-bit integers, alone or in vectors. Rounds to nearest even; overflow gives infinity, and NaN
//! stays NaN. bf16 goes by integer operations: the instructions that processors have for it flush denormals. f16 goes by the
//! processor's own conversions.

use super::build::{Cast, IntCompare, Ssa};
use super::emit::Emitter;
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dtype::DType;

impl<'c> Emitter<'_, 'c> {
    /// The f32 of 16 bits.
    ///
    /// Errors: a processor without f16.
    pub(super) fn widen_half(&self, dtype: DType, bits: Ssa<'c>, lanes: u32) -> Result<Ssa<'c>, Diagnostic> {
        let float = self.ty(DType::F32, lanes);
        if dtype == DType::Bf16 {
            let word = self.b.cast(Cast::LLVMZExt, bits, self.ty(DType::I32, lanes));
            let word = self.b.shl(word, self.int_like(32, lanes, 16));
            return Ok(self.bitcast(word, float));
        }
        self.check_f16()?;
        let half = self.bitcast(bits, self.b.vector(self.b.half(), lanes));
        Ok(self.b.cast(Cast::LLVMFPExt, half, float))
    }

    /// The 16 bits nearest to an f32.
    ///
    /// Errors: a processor without f16.
    pub(super) fn narrow_half(
        &self,
        dtype: DType,
        value: Ssa<'c>,
        lanes: u32,
    ) -> Result<Ssa<'c>, Diagnostic> {
        let short = self.b.vector(self.b.int(16), lanes);
        if dtype == DType::Bf16 {
            return Ok(self.b.cast(Cast::LLVMTrunc, self.round_bf16(value, lanes), short));
        }
        self.check_f16()?;
        let half = self.b.cast(Cast::LLVMFPTrunc, value, self.b.vector(self.b.half(), lanes));
        Ok(self.bitcast(half, short))
    }

    fn check_f16(&self) -> Result<(), Diagnostic> {
        if self.host.has_f16 {
            Ok(())
        } else {
            Err(self.unsupported("this processor has no f16 conversions"))
        }
    }

    /// The bf16 nearest to an f32, in 32 bits.
    fn round_bf16(&self, value: Ssa<'c>, lanes: u32) -> Ssa<'c> {
        let word = |bits: u64| self.int_like(32, lanes, bits);
        let bits = self.bitcast(value, self.ty(DType::I32, lanes));
        let high = self.b.lshr(bits, word(16));
        let odd = self.b.and(high, word(1));
        let rounded = self.b.add(self.b.add(bits, word(0x7fff)), odd);
        let rounded = self.b.lshr(rounded, word(16));
        let magnitude = self.b.and(bits, word(0x7fff_ffff));
        let is_nan = self.b.icmp(IntCompare::LLVMIntUGT, magnitude, word(0x7f80_0000));
        self.b.select(is_nan, self.b.or(high, word(0x40)), rounded)
    }
}
