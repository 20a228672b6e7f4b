//! MLIR operations, one method each.
//!
//! In: values and compile-time numbers. Out: operations appended to the block at hand, with their results. Types and operations
//! go through melior's builder; the module is verified before any pass.

use super::control::Guarded;
use super::known::{Key, Known, Register, identity};
use birkhoff_ir::dtype::DType;
use birkhoff_ir::scalar::Scalar;
use melior::Context;
use melior::ir::attribute::{
    DenseI32ArrayAttribute, FloatAttribute, IntegerAttribute, StringAttribute, TypeAttribute,
};
use melior::ir::operation::{Operation, OperationBuilder};
use melior::ir::r#type::IntegerType;
use melior::ir::{
    Attribute, AttributeLike, BlockLike, BlockRef, Identifier, Location, OperationRef, Type, TypeLike, Value,
    ValueLike,
};

/// An SSA value.
pub(super) type Ssa<'c, 'm> = Value<'c, 'm>;

/// The address space of global memory.
pub(super) const GLOBAL: u32 = 1;
/// The address space of memory that the threads of a block share.
pub(super) const SHARED: u32 = 3;

/// Appends operations to a block.
pub(super) struct Builder<'c, 'm> {
    pub(super) context: &'c Context,
    pub(super) location: Location<'c>,
    /// Where operations go.
    pub(super) block: BlockRef<'c, 'm>,
    /// The first block of the function, in which registers are allocated.
    entry: BlockRef<'c, 'm>,
    /// The number 1, first in the entry.
    one: Option<OperationRef<'c, 'm>>,
    pub(super) known: Known<'c, 'm>,
    /// Guarded code that is not in its place yet.
    pub(super) open: Option<Guarded<'c, 'm>>,
}

impl<'c, 'm> Builder<'c, 'm> {
    /// Appends to `entry`, the first block of a function.
    pub(super) fn new(context: &'c Context, entry: BlockRef<'c, 'm>) -> Self {
        let location = Location::unknown(context);
        Builder { context, location, block: entry, entry, one: None, known: Known::default(), open: None }
    }

    // ---- types ------------------------------------------------------------------------------------------------------

    pub(super) fn int(&self, bits: u32) -> Type<'c> {
        IntegerType::new(self.context, bits).into()
    }

    /// The type of a value of a compute type.
    pub(super) fn compute_type(&self, dtype: DType) -> Type<'c> {
        match dtype {
            DType::F64 => Type::float64(self.context),
            DType::F32 | DType::Bf16 | DType::F16 => Type::float32(self.context),
            DType::I64 => self.int(64),
            DType::I32 => self.int(32),
            DType::Bool => self.int(1),
        }
    }

    /// The type of an element in memory; bf16 and f16 as such.
    pub(super) fn storage_type(&self, dtype: DType) -> Type<'c> {
        match dtype {
            DType::Bf16 => Type::bfloat16(self.context),
            DType::F16 => Type::float16(self.context),
            DType::Bool => self.int(8),
            _ => self.compute_type(dtype),
        }
    }

    /// The type of neighbouring elements in memory.
    pub(super) fn vector_type(&self, dtype: DType, n_elems: usize) -> Type<'c> {
        Type::vector(&[n_elems as u64], self.storage_type(dtype))
    }

    pub(super) fn pointer(&self, space: u32) -> Type<'c> {
        melior::dialect::llvm::r#type::pointer(self.context, space)
    }

    // ---- operations -------------------------------------------------------------------------------------------------

    fn named(&self, name: &str, attribute: Attribute<'c>) -> (Identifier<'c>, Attribute<'c>) {
        (Identifier::new(self.context, name), attribute)
    }

    fn align(&self, bytes: u64) -> (Identifier<'c>, Attribute<'c>) {
        self.named("alignment", IntegerAttribute::new(self.int(64), bytes as i64).into())
    }

    pub(super) fn built(builder: OperationBuilder<'c>) -> Operation<'c> {
        // Building fails only where result types are inferred, which is left to nobody here.
        builder.build().unwrap_or_else(|_| unreachable!("no result type is inferred"))
    }

    /// Appends what touches no memory but that of registers or constants.
    fn append_free(&mut self, builder: OperationBuilder<'c>) -> OperationRef<'c, 'm> {
        self.block.append_operation(Self::built(builder))
    }

    /// Appends what has to come after all that came before.
    pub(super) fn append(&mut self, builder: OperationBuilder<'c>) -> OperationRef<'c, 'm> {
        self.close_guarded();
        self.append_free(builder)
    }

    fn one_result(op: OperationRef<'c, 'm>) -> Ssa<'c, 'm> {
        match op.result(0) {
            Ok(result) => result.into(),
            Err(_) => unreachable!("the operation was built with a result"),
        }
    }

    /// An operation without effects, with one result and no attributes.
    pub(super) fn op(&mut self, name: &'static str, args: &[Ssa<'c, 'm>], result: Type<'c>) -> Ssa<'c, 'm> {
        self.op_with(name, args, result, &[])
    }

    /// An operation without effects: where an equal one is in sight, that one.
    fn op_with(
        &mut self,
        name: &'static str,
        args: &[Ssa<'c, 'm>],
        result: Type<'c>,
        attributes: &[(Identifier<'c>, Attribute<'c>)],
    ) -> Ssa<'c, 'm> {
        let key = Self::key(name, args, result, attributes);
        if let Some(value) = self.known.value(&key) {
            return value;
        }
        let builder = self.with_result(name, args, result, attributes);
        let value = Self::one_result(self.append_free(builder));
        self.known.add_value(key, value);
        value
    }

    fn key(
        name: &'static str,
        args: &[Ssa<'c, 'm>],
        result: Type<'c>,
        attributes: &[(Identifier<'c>, Attribute<'c>)],
    ) -> Key {
        let attributes = attributes.iter().map(|(_, value)| value.to_raw().ptr as usize);
        let parts = std::iter::once(result.to_raw().ptr as usize).chain(attributes);
        (name, parts.chain(args.iter().map(|arg| identity(*arg))).collect())
    }

    fn with_result(
        &self,
        name: &str,
        args: &[Ssa<'c, 'm>],
        result: Type<'c>,
        attributes: &[(Identifier<'c>, Attribute<'c>)],
    ) -> OperationBuilder<'c> {
        OperationBuilder::new(name, self.location)
            .add_operands(args)
            .add_results(&[result])
            .add_attributes(attributes)
    }

    /// An operation without results and attributes.
    pub(super) fn effect(&mut self, name: &str, args: &[Ssa<'c, 'm>]) {
        let builder = OperationBuilder::new(name, self.location).add_operands(args);
        self.append(builder);
    }

    /// An operation whose result has the type of its first operand.
    pub(super) fn same(&mut self, name: &'static str, args: &[Ssa<'c, 'm>]) -> Ssa<'c, 'm> {
        let result = args[0].r#type();
        self.op(name, args, result)
    }

    /// A call of an LLVM intrinsic whose result has the type of its first operand.
    pub(super) fn intrinsic(&mut self, name: &str, args: &[Ssa<'c, 'm>]) -> Ssa<'c, 'm> {
        let attributes = [self.named("intrin", string(self.context, name))];
        let result = args[0].r#type();
        self.op_with("llvm.call_intrinsic", args, result, &attributes)
    }

    // ---- constants and integers -------------------------------------------------------------------------------------

    fn constant(&mut self, ty: Type<'c>, value: Attribute<'c>) -> Ssa<'c, 'm> {
        let attributes = [self.named("value", value)];
        let key = Self::key("arith.constant", &[], ty, &attributes);
        if let Some(value) = self.known.value(&key) {
            return value;
        }
        let builder = self.with_result("arith.constant", &[], ty, &attributes);
        // First in the function, where all of it sees them.
        let value = Self::one_result(self.entry.insert_operation(0, Self::built(builder)));
        self.known.add_global(key, value);
        value
    }

    pub(super) fn int_const(&mut self, bits: u32, value: i64) -> Ssa<'c, 'm> {
        let ty = self.int(bits);
        self.constant(ty, IntegerAttribute::new(ty, value).into())
    }

    pub(super) fn i64(&mut self, value: i64) -> Ssa<'c, 'm> {
        self.int_const(64, value)
    }

    /// A constant of a compute type.
    pub(super) fn scalar(&mut self, dtype: DType, value: Scalar) -> Ssa<'c, 'm> {
        match dtype {
            DType::F64 | DType::F32 | DType::Bf16 | DType::F16 => self.float_const(dtype, value.as_f64()),
            DType::I64 => self.int_const(64, value.as_i64()),
            DType::I32 => self.int_const(32, i64::from(value.as_i64() as i32)),
            DType::Bool => self.int_const(1, i64::from(value.as_bool())),
        }
    }

    fn float_const(&mut self, dtype: DType, value: f64) -> Ssa<'c, 'm> {
        let ty = self.compute_type(dtype);
        if value.is_finite() {
            return self.constant(ty, FloatAttribute::new(self.context, ty, value).into());
        }
        // The attribute's constructor is documented for numbers only.
        let bits = if dtype == DType::F64 {
            self.int_const(64, value.to_bits() as i64)
        } else {
            self.int_const(32, i64::from((value as f32).to_bits() as i32))
        };
        self.op("arith.bitcast", &[bits], ty)
    }

    pub(super) fn add(&mut self, a: Ssa<'c, 'm>, b: Ssa<'c, 'm>) -> Ssa<'c, 'm> {
        self.same("arith.addi", &[a, b])
    }

    pub(super) fn sub(&mut self, a: Ssa<'c, 'm>, b: Ssa<'c, 'm>) -> Ssa<'c, 'm> {
        self.same("arith.subi", &[a, b])
    }

    pub(super) fn mul(&mut self, a: Ssa<'c, 'm>, b: Ssa<'c, 'm>) -> Ssa<'c, 'm> {
        self.same("arith.muli", &[a, b])
    }

    pub(super) fn and(&mut self, a: Ssa<'c, 'm>, b: Ssa<'c, 'm>) -> Ssa<'c, 'm> {
        self.same("arith.andi", &[a, b])
    }

    pub(super) fn select(&mut self, flag: Ssa<'c, 'm>, a: Ssa<'c, 'm>, b: Ssa<'c, 'm>) -> Ssa<'c, 'm> {
        let ty = a.r#type();
        self.op("arith.select", &[flag, a, b], ty)
    }

    /// Compares integers. The predicates are those of `arith.cmpi`: see [`IntCompare`].
    pub(super) fn cmpi(&mut self, predicate: IntCompare, a: Ssa<'c, 'm>, b: Ssa<'c, 'm>) -> Ssa<'c, 'm> {
        let attributes =
            [self.named("predicate", IntegerAttribute::new(self.int(64), predicate as i64).into())];
        let ty = self.int(1);
        self.op_with("arith.cmpi", &[a, b], ty, &attributes)
    }

    /// Compares floats.
    pub(super) fn cmpf(&mut self, predicate: FloatCompare, a: Ssa<'c, 'm>, b: Ssa<'c, 'm>) -> Ssa<'c, 'm> {
        let attributes =
            [self.named("predicate", IntegerAttribute::new(self.int(64), predicate as i64).into())];
        let ty = self.int(1);
        self.op_with("arith.cmpf", &[a, b], ty, &attributes)
    }

    // ---- memory -----------------------------------------------------------------------------------------------------

    /// The address `index` elements of `ty` behind `base`.
    pub(super) fn offset(&mut self, base: Ssa<'c, 'm>, ty: Type<'c>, index: Ssa<'c, 'm>) -> Ssa<'c, 'm> {
        let attributes = [
            self.named("rawConstantIndices", DenseI32ArrayAttribute::new(self.context, &[i32::MIN]).into()),
            self.named("elem_type", TypeAttribute::new(ty).into()),
        ];
        let pointer = base.r#type();
        self.op_with("llvm.getelementptr", &[base, index], pointer, &attributes)
    }

    /// The address `elems` elements of `ty` behind `base`.
    pub(super) fn offset_by(&mut self, base: Ssa<'c, 'm>, ty: Type<'c>, elems: i64) -> Ssa<'c, 'm> {
        let pointer = base.r#type();
        match i32::try_from(elems) {
            Ok(0) => base,
            // The least number stands for an operand.
            Ok(elems) if elems != i32::MIN => {
                let indices = DenseI32ArrayAttribute::new(self.context, &[elems]).into();
                let attributes = [
                    self.named("rawConstantIndices", indices),
                    self.named("elem_type", TypeAttribute::new(ty).into()),
                ];
                // At every use: it is part of the instruction there, if it is not taken from elsewhere.
                let builder = self.with_result("llvm.getelementptr", &[base], pointer, &attributes);
                Self::one_result(self.append_free(builder))
            }
            _ => {
                let elems = self.i64(elems);
                self.offset(base, ty, elems)
            }
        }
    }

    pub(super) fn load(&mut self, ty: Type<'c>, pointer: Ssa<'c, 'm>, align_bytes: u64) -> Ssa<'c, 'm> {
        let builder = self.with_result("llvm.load", &[pointer], ty, &[self.align(align_bytes)]);
        Self::one_result(self.append(builder))
    }

    /// A load of what nothing in the kernel writes.
    pub(super) fn load_constant(
        &mut self,
        ty: Type<'c>,
        pointer: Ssa<'c, 'm>,
        align_bytes: u64,
    ) -> Ssa<'c, 'm> {
        let builder = self.with_result("llvm.load", &[pointer], ty, &[self.align(align_bytes)]);
        Self::one_result(self.append_free(builder))
    }

    pub(super) fn store(&mut self, value: Ssa<'c, 'm>, pointer: Ssa<'c, 'm>, align_bytes: u64) {
        let attributes = [self.align(align_bytes)];
        let builder = OperationBuilder::new("llvm.store", self.location)
            .add_operands(&[value, pointer])
            .add_attributes(&attributes);
        self.append(builder);
    }

    /// One element of a vector.
    pub(super) fn extract(&mut self, vector: Ssa<'c, 'm>, ty: Type<'c>, number: i64) -> Ssa<'c, 'm> {
        let number = self.int_const(32, number);
        self.op("llvm.extractelement", &[vector, number], ty)
    }

    /// A vector with one element replaced.
    pub(super) fn insert(&mut self, vector: Ssa<'c, 'm>, elem: Ssa<'c, 'm>, number: i64) -> Ssa<'c, 'm> {
        let number = self.int_const(32, number);
        self.same("llvm.insertelement", &[vector, elem, number])
    }

    /// A register of a thread: one element, which LLVM makes an SSA value.
    pub(super) fn register(&mut self, ty: Type<'c>) -> Register {
        let one = match self.one {
            Some(one) => one,
            None => {
                let i32_type = self.int(32);
                let value = self.named("value", IntegerAttribute::new(i32_type, 1).into());
                let builder = self.with_result("arith.constant", &[], i32_type, &[value]);
                let one = self.entry.insert_operation(0, Self::built(builder));
                self.one = Some(one);
                one
            }
        };
        let elem_type = self.named("elem_type", TypeAttribute::new(ty).into());
        let one_value = Self::one_result(one);
        let builder = self.with_result("llvm.alloca", &[one_value], self.pointer(0), &[elem_type]);
        let place = self.entry.insert_operation_after(one, Self::built(builder));
        self.known.add_register(Self::one_result(place))
    }

    /// What a register holds.
    pub(super) fn register_value(&mut self, register: Register, dtype: DType) -> Ssa<'c, 'm> {
        if let Some(value) = self.known.held(register) {
            return value;
        }
        let (ty, place) = (self.compute_type(dtype), self.known.place(register));
        let value = self.load_constant(ty, place, dtype.size_bytes());
        self.known.loaded(register, value);
        value
    }

    /// Sets a register.
    pub(super) fn set_register(&mut self, register: Register, value: Ssa<'c, 'm>) {
        self.known.set(register, value);
    }

    /// What registers hold goes where regions find it.
    pub(super) fn store_registers(&mut self) {
        for (value, place) in self.known.take_pending() {
            let builder = OperationBuilder::new("llvm.store", self.location).add_operands(&[value, place]);
            self.append_free(builder);
        }
    }

    /// A value that nobody may use.
    pub(super) fn undefined(&mut self, ty: Type<'c>) -> Ssa<'c, 'm> {
        self.op("llvm.mlir.undef", &[], ty)
    }

    /// The address of a global array in shared memory.
    pub(super) fn address_of(&mut self, symbol: &str) -> Ssa<'c, 'm> {
        let name = melior::ir::attribute::FlatSymbolRefAttribute::new(self.context, symbol);
        let attributes = [self.named("global_name", name.into())];
        let ty = self.pointer(SHARED);
        self.op_with("llvm.mlir.addressof", &[], ty, &attributes)
    }

    // ---- the machine ------------------------------------------------------------------------------------------------

    /// A number below 2^31 that the machine keeps.
    fn special(&mut self, name: &'static str) -> Ssa<'c, 'm> {
        let (narrow, wide) = (self.int(32), self.int(64));
        let number = self.op(name, &[], narrow);
        self.op("arith.extui", &[number], wide)
    }

    /// The thread's number in its block.
    pub(super) fn thread_id(&mut self) -> Ssa<'c, 'm> {
        self.special("nvvm.read.ptx.sreg.tid.x")
    }

    /// The block's number in the grid.
    pub(super) fn block_id(&mut self) -> Ssa<'c, 'm> {
        self.special("nvvm.read.ptx.sreg.ctaid.x")
    }

    /// The number of blocks.
    pub(super) fn grid_size(&mut self) -> Ssa<'c, 'm> {
        self.special("nvvm.read.ptx.sreg.nctaid.x")
    }

    /// All threads of the block meet, and see what the others have written.
    pub(super) fn barrier(&mut self) {
        self.effect("nvvm.barrier0", &[]);
    }

    /// The 32-bit `value` of the thread in the warp whose number differs in the bits of `mask`.
    pub(super) fn shuffle_xor(&mut self, value: Ssa<'c, 'm>, mask: i64) -> Ssa<'c, 'm> {
        let mask = self.int_const(32, mask);
        self.shuffle("#nvvm<shfl_kind bfly>", value, mask)
    }

    /// The 32-bit `value` of the thread `from` of the warp.
    pub(super) fn shuffle_from(&mut self, value: Ssa<'c, 'm>, from: i64) -> Ssa<'c, 'm> {
        let from = self.int_const(32, from);
        self.shuffle("#nvvm<shfl_kind idx>", value, from)
    }

    /// All 32 threads of a warp take part, and none is out of range.
    fn shuffle(&mut self, kind: &str, value: Ssa<'c, 'm>, offset: Ssa<'c, 'm>) -> Ssa<'c, 'm> {
        let kind = Attribute::parse(self.context, kind);
        let kind = kind.unwrap_or_else(|| unreachable!("the NVVM dialect has this attribute"));
        let (everyone, last) = (self.int_const(32, -1), self.int_const(32, 31));
        let kind = self.named("kind", kind);
        let builder =
            self.with_result("nvvm.shfl.sync", &[everyone, value, offset, last], value.r#type(), &[kind]);
        Self::one_result(self.append_free(builder))
    }
}

/// Predicates of `arith.cmpi`, by their numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum IntCompare {
    Eq = 0,
    Ne = 1,
    Slt = 2,
    Sle = 3,
    Ult = 6,
    Ule = 7,
}

/// Predicates of `arith.cmpf`, by their numbers: all but the last are false for NaN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FloatCompare {
    Eq = 1,
    Ge = 3,
    Lt = 4,
    Le = 5,
    /// Unordered or not equal.
    Ne = 13,
    /// One of them is NaN.
    Unordered = 14,
}

/// A string attribute.
pub(super) fn string<'c>(context: &'c Context, text: &str) -> Attribute<'c> {
    StringAttribute::new(context, text).into()
}
