//! bf16 and f16 by integer operations on scalars and vectors alike.
//!
//! In and out: f32 values, and 16-bit patterns in 32-bit integers. Rounds to nearest even; overflow gives infinity, and
//! NaN stays NaN.

use super::emit::Emitter;
use super::value::cast_flags;
use birkhoff_ir::dtype::DType;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Type, Value, types};

/// The i32 type with as many lanes as `value` has, and its f32 partner.
fn word_types(ty: Type) -> (Type, Type) {
    if ty.is_vector() { (types::I32X4, types::F32X4) } else { (types::I32, types::F32) }
}

impl Emitter<'_, '_> {
    fn word_types_of(&self, value: Value) -> (Type, Type) {
        word_types(self.b.func.dfg.value_type(value))
    }

    fn shift_left(&mut self, value: Value, bits: u64) -> Value {
        let amount = self.bits_const(types::I32, bits);
        self.b.ins().ishl(value, amount)
    }

    fn shift_right(&mut self, value: Value, bits: u64) -> Value {
        let amount = self.bits_const(types::I32, bits);
        self.b.ins().ushr(value, amount)
    }

    /// `a` where `flag` holds, else `b`.
    pub(super) fn choose(&mut self, flag: Value, a: Value, b: Value) -> Value {
        let ty = self.b.func.dfg.value_type(a);
        if ty.is_vector() {
            let mask = if self.b.func.dfg.value_type(flag) == ty {
                flag
            } else {
                self.b.ins().bitcast(ty, cast_flags(), flag)
            };
            self.b.ins().bitselect(mask, a, b)
        } else {
            self.b.ins().select(flag, a, b)
        }
    }

    /// The f32 of 16 bits in a 32-bit integer.
    pub(super) fn widen_half(&mut self, dtype: DType, bits: Value) -> Value {
        let (int, float) = self.word_types_of(bits);
        if dtype == DType::Bf16 {
            let word = self.shift_left(bits, 16);
            return self.bitcast(float, word);
        }
        // The exponent is rebased by a multiplication, which takes denormals along.
        let low = self.bits_const(int, 0x7fff);
        let magnitude = self.b.ins().band(bits, low);
        let shifted = self.shift_left(magnitude, 13);
        let shifted = self.bitcast(float, shifted);
        let scale = self.bits_const(float, u64::from(0x7780_0000u32));
        let scaled = self.b.ins().fmul(shifted, scale);
        let scaled = self.bitcast(int, scaled);
        let last_finite = self.bits_const(int, 0x7bff);
        let special = self.b.ins().icmp(IntCC::SignedGreaterThan, magnitude, last_finite);
        let exponent = self.bits_const(int, 0x7f80_0000);
        let with_exponent = self.b.ins().bor(scaled, exponent);
        let value = self.choose(special, with_exponent, scaled);
        let sign = self.b.ins().bxor(bits, magnitude);
        let sign = self.shift_left(sign, 16);
        let word = self.b.ins().bor(value, sign);
        self.bitcast(float, word)
    }

    /// The 16 bits nearest to an f32, in a 32-bit integer.
    pub(super) fn narrow_half(&mut self, dtype: DType, value: Value) -> Value {
        let (int, _) = self.word_types_of(value);
        let word = self.bitcast(int, value);
        if dtype == DType::Bf16 { self.narrow_bf16(int, word) } else { self.narrow_f16(int, word) }
    }

    fn narrow_bf16(&mut self, int: Type, word: Value) -> Value {
        let high = self.shift_right(word, 16);
        let one = self.bits_const(int, 1);
        let odd = self.b.ins().band(high, one);
        let bias = self.bits_const(int, 0x7fff);
        let rounded = self.b.ins().iadd(word, bias);
        let rounded = self.b.ins().iadd(rounded, odd);
        let rounded = self.shift_right(rounded, 16);
        let magnitude = self.bits_const(int, 0x7fff_ffff);
        let magnitude = self.b.ins().band(word, magnitude);
        let infinity = self.bits_const(int, 0x7f80_0000);
        let is_nan = self.b.ins().icmp(IntCC::SignedGreaterThan, magnitude, infinity);
        let quiet = self.bits_const(int, 0x40);
        let nan = self.b.ins().bor(high, quiet);
        self.choose(is_nan, nan, rounded)
    }

    fn narrow_f16(&mut self, int: Type, word: Value) -> Value {
        let (_, float) = word_types(int);
        let magnitude_mask = self.bits_const(int, 0x7fff_ffff);
        let magnitude = self.b.ins().band(word, magnitude_mask);
        // Normal range: rebase the exponent and round the 13 bits that go.
        let shifted = self.shift_right(magnitude, 13);
        let one = self.bits_const(int, 1);
        let odd = self.b.ins().band(shifted, one);
        let rebase = self.bits_const(int, u64::from((112u32 << 23).wrapping_neg().wrapping_add(0xfff)));
        let normal = self.b.ins().iadd(magnitude, rebase);
        let normal = self.b.ins().iadd(normal, odd);
        let normal = self.shift_right(normal, 13);
        // Denormal range: adding 0.5 lets the adder round to the denormal's last place.
        let half_bits = 126u64 << 23;
        let half = self.bits_const(float, half_bits);
        let as_float = self.bitcast(float, magnitude);
        let denormal = self.b.ins().fadd(as_float, half);
        let denormal = self.bitcast(int, denormal);
        let half_word = self.bits_const(int, half_bits);
        let denormal = self.b.ins().isub(denormal, half_word);
        let least_normal = self.bits_const(int, 113 << 23);
        let is_denormal = self.b.ins().icmp(IntCC::SignedLessThan, magnitude, least_normal);
        let finite = self.choose(is_denormal, denormal, normal);
        let infinity = self.bits_const(int, 0x7f80_0000);
        let is_nan = self.b.ins().icmp(IntCC::SignedGreaterThan, magnitude, infinity);
        let (nan_bits, infinity_bits) = (self.bits_const(int, 0x7e00), self.bits_const(int, 0x7c00));
        let special = self.choose(is_nan, nan_bits, infinity_bits);
        let too_large = self.bits_const(int, (143 << 23) - 1);
        let is_special = self.b.ins().icmp(IntCC::SignedGreaterThan, magnitude, too_large);
        let value = self.choose(is_special, special, finite);
        let sign = self.b.ins().bxor(word, magnitude);
        let sign = self.shift_right(sign, 16);
        self.b.ins().bor(value, sign)
    }
}
