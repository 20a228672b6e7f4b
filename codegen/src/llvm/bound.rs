//! Maximum and minimum of floats, where NaN wins and -0 is below 0.
//!
//! In: two values of one float type. Out: LLVM's intrinsics with that meaning, or on processors with an instruction that orders
//! zeros, that instruction: it leaves NaN alone to be minded, which is half of the work and a third of the latency.

use super::build::{FloatCompare, Ssa};
use super::emit::Emitter;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::scalar::{Scalar, ScalarOp};

/// What the instruction is to take: the larger (or smaller) operand, with the sign that it has.
const TAKE_MAX: u64 = 0b0101;
const TAKE_MIN: u64 = 0b0100;
/// Round as the processor is set to; the instruction never rounds.
const CURRENT_ROUNDING: u64 = 4;

impl<'c> Emitter<'_, 'c> {
    /// The larger (or smaller) of two floats.
    pub(super) fn bound(&self, op: ScalarOp, dtype: DType, lanes: u32, args: &[Ssa<'c>]) -> Ssa<'c> {
        let elem_bits = 8 * dtype.size_bytes() as u32;
        if !self.host.has_range || lanes * elem_bits < 128 {
            let name = if op == ScalarOp::Max { c"llvm.maximum" } else { c"llvm.minimum" };
            return self.b.intrinsic(name, &[self.ty(dtype, lanes)], args);
        }
        let (a, b) = (args[0], args[1]);
        let chunk = lanes.min(self.host.vector_bits / elem_bits);
        let mut chunks: Vec<Ssa<'c>> = (0..lanes / chunk)
            .map(|idx| {
                let part = |value: Ssa<'c>| match chunk == lanes {
                    true => value,
                    false => self.b.shuffle(value, value, idx * chunk..(idx + 1) * chunk),
                };
                self.range(op, dtype, chunk, part(a), part(b))
            })
            .collect();
        let mut width = chunk;
        while chunks.len() > 1 {
            width *= 2;
            chunks = chunks.chunks(2).map(|pair| self.b.shuffle(pair[0], pair[1], 0..width)).collect();
        }
        let nan = self.constant(dtype, Scalar::Float(f64::NAN), lanes);
        let is_nan = self.b.fcmp(FloatCompare::LLVMRealUNO, a, b);
        self.b.select(is_nan, nan, chunks[0])
    }

    /// One vector register by the instruction; what it gives for NaN does not count.
    fn range(&self, op: ScalarOp, dtype: DType, lanes: u32, a: Ssa<'c>, b: Ssa<'c>) -> Ssa<'c> {
        let is_double = dtype == DType::F64;
        let bits = lanes * 8 * dtype.size_bytes() as u32;
        let name = match (is_double, bits) {
            (false, 128) => c"llvm.x86.avx512.mask.range.ps.128",
            (false, 256) => c"llvm.x86.avx512.mask.range.ps.256",
            (false, _) => c"llvm.x86.avx512.mask.range.ps.512",
            (true, 128) => c"llvm.x86.avx512.mask.range.pd.128",
            (true, 256) => c"llvm.x86.avx512.mask.range.pd.256",
            (true, _) => c"llvm.x86.avx512.mask.range.pd.512",
        };
        let word = self.b.int(32);
        let take = if op == ScalarOp::Max { TAKE_MAX } else { TAKE_MIN };
        let all_lanes = self.b.const_int(self.b.int(lanes.max(8)), u64::MAX);
        let mut args = vec![a, b, self.b.const_int(word, take), a, all_lanes];
        if bits == 512 {
            args.push(self.b.const_int(word, CURRENT_ROUNDING));
        }
        self.b.intrinsic(name, &[], &args)
    }
}
