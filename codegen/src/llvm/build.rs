//! LLVM instructions, one method each, on scalars and vectors alike.
//!
//! In: values of one LLVM context. Out: instructions at the end of the block at hand. This is LLVM's C API as it is, because
//! inkwell's types tell scalars from vectors and nothing here does. Assumes operands of the types that the instruction takes;
//! the module is verified once it is whole. Knows nothing of kernels.

use inkwell::context::Context;
use inkwell::llvm_sys::core::{
    LLVMAddIncoming, LLVMAppendBasicBlockInContext, LLVMArrayType2, LLVMBuildAdd, LLVMBuildAlloca,
    LLVMBuildAnd, LLVMBuildBr, LLVMBuildCall2, LLVMBuildCast, LLVMBuildCondBr, LLVMBuildExtractElement,
    LLVMBuildFAdd, LLVMBuildFCmp, LLVMBuildFDiv, LLVMBuildFMul, LLVMBuildFNeg, LLVMBuildFSub,
    LLVMBuildFreeze, LLVMBuildGEP2, LLVMBuildICmp, LLVMBuildInsertElement, LLVMBuildLShr, LLVMBuildLoad2,
    LLVMBuildMul, LLVMBuildNSWAdd, LLVMBuildNeg, LLVMBuildNot, LLVMBuildOr, LLVMBuildPhi, LLVMBuildRetVoid,
    LLVMBuildSDiv, LLVMBuildSRem, LLVMBuildSelect, LLVMBuildShl, LLVMBuildShuffleVector, LLVMBuildStore,
    LLVMBuildSub, LLVMBuildUDiv, LLVMBuildXor, LLVMConstInt, LLVMConstReal, LLVMConstVector,
    LLVMCreateBuilderInContext, LLVMDisposeBuilder, LLVMDoubleTypeInContext, LLVMFloatTypeInContext,
    LLVMGetBasicBlockTerminator, LLVMGetInsertBlock, LLVMGetIntrinsicDeclaration, LLVMGetMDKindIDInContext,
    LLVMGetPoison, LLVMGetVectorSize, LLVMHalfTypeInContext, LLVMIntTypeInContext, LLVMIntrinsicGetType,
    LLVMLookupIntrinsicID, LLVMMDNodeInContext2, LLVMMetadataAsValue, LLVMPointerTypeInContext,
    LLVMPositionBuilderAtEnd, LLVMPositionBuilderBefore, LLVMSetAlignment, LLVMSetMetadata, LLVMTypeOf,
    LLVMValueAsMetadata, LLVMVectorType,
};
use inkwell::llvm_sys::prelude::{
    LLVMBasicBlockRef, LLVMBuilderRef, LLVMContextRef, LLVMModuleRef, LLVMTypeRef, LLVMValueRef,
};
pub(super) use inkwell::llvm_sys::{
    LLVMIntPredicate as IntCompare, LLVMOpcode as Cast, LLVMRealPredicate as FloatCompare,
};
use inkwell::module::Module;
use std::ffi::{CStr, c_char};
use std::marker::PhantomData;

const NO_NAME: *const c_char = c"".as_ptr();

/// A value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Ssa<'c>(pub(super) LLVMValueRef, PhantomData<&'c Context>);

/// The type of a value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Ty<'c>(pub(super) LLVMTypeRef, PhantomData<&'c Context>);

/// A basic block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Label<'c>(LLVMBasicBlockRef, PhantomData<&'c Context>);

/// Writes instructions into one function at a time.
///
/// All its `unsafe` calls lean on this: values, types and blocks come from the context of the builder, which the lifetime
/// keeps alive; the builder stands in a block; and operands have the types that the instruction takes, as its users see to.
pub(super) struct Builder<'c> {
    raw: LLVMBuilderRef,
    context: LLVMContextRef,
    module: LLVMModuleRef,
    lives: PhantomData<&'c Context>,
}

impl Drop for Builder<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `new`, dropped once.
        unsafe { LLVMDisposeBuilder(self.raw) };
    }
}

macro_rules! binary {
    ($($(#[$doc:meta])+ $name:ident $call:ident;)+) => {
        impl<'c> Builder<'c> {
            $(
                $(#[$doc])+
                pub(super) fn $name(&self, a: Ssa<'c>, b: Ssa<'c>) -> Ssa<'c> {
                    // SAFETY: as `Builder` says.
                    wrap(unsafe { $call(self.raw, a.0, b.0, NO_NAME) })
                }
            )+
        }
    };
}

macro_rules! unary {
    ($($(#[$doc:meta])+ $name:ident $call:ident;)+) => {
        impl<'c> Builder<'c> {
            $(
                $(#[$doc])+
                pub(super) fn $name(&self, a: Ssa<'c>) -> Ssa<'c> {
                    // SAFETY: as `Builder` says.
                    wrap(unsafe { $call(self.raw, a.0, NO_NAME) })
                }
            )+
        }
    };
}

binary! {
    /// `a + b`, wrapping.
    add LLVMBuildAdd;
    /// `a + b`, which does not overflow.
    add_no_overflow LLVMBuildNSWAdd;
    /// `a - b`, wrapping.
    sub LLVMBuildSub;
    /// `a * b`, wrapping.
    mul LLVMBuildMul;
    /// Signed quotient; undefined for a zero divisor and on overflow.
    sdiv LLVMBuildSDiv;
    /// Signed remainder; undefined where the quotient is.
    srem LLVMBuildSRem;
    /// Unsigned quotient; undefined for a zero divisor.
    udiv LLVMBuildUDiv;
    /// `a` shifted left; poison from the width on.
    shl LLVMBuildShl;
    /// `a` shifted right, zeros coming in; poison from the width on.
    lshr LLVMBuildLShr;
    /// Bits of both.
    and LLVMBuildAnd;
    /// Bits of any.
    or LLVMBuildOr;
    /// Bits of one.
    xor LLVMBuildXor;
    /// `a + b` of floats, rounded once, as all below.
    fadd LLVMBuildFAdd;
    /// `a - b` of floats.
    fsub LLVMBuildFSub;
    /// `a * b` of floats.
    fmul LLVMBuildFMul;
    /// `a / b` of floats.
    fdiv LLVMBuildFDiv;
}

unary! {
    /// `-a` of integers, wrapping.
    neg LLVMBuildNeg;
    /// All bits turned.
    not LLVMBuildNot;
    /// `a` with its sign bit turned.
    fneg LLVMBuildFNeg;
    /// `a`, or any one value if it is poison.
    freeze LLVMBuildFreeze;
}

fn wrap<'c>(raw: LLVMValueRef) -> Ssa<'c> {
    Ssa(raw, PhantomData)
}

fn wrap_type<'c>(raw: LLVMTypeRef) -> Ty<'c> {
    Ty(raw, PhantomData)
}

/// The type of a value.
pub(super) fn type_of<'c>(value: Ssa<'c>) -> Ty<'c> {
    // SAFETY: as `Builder` says.
    wrap_type(unsafe { LLVMTypeOf(value.0) })
}

// Types and constants.
impl<'c> Builder<'c> {
    /// A builder for the functions of `module`, which lives in `context`.
    pub(super) fn new(context: &'c Context, module: &Module<'c>) -> Builder<'c> {
        // SAFETY: the context lives as long as the builder.
        let raw = unsafe { LLVMCreateBuilderInContext(context.raw()) };
        Builder { raw, context: context.raw(), module: module.as_mut_ptr(), lives: PhantomData }
    }

    /// Integers of so many bits.
    pub(super) fn int(&self, bits: u32) -> Ty<'c> {
        // SAFETY: as `Builder` says.
        wrap_type(unsafe { LLVMIntTypeInContext(self.context, bits) })
    }

    /// Floats of 32 bits.
    pub(super) fn float(&self) -> Ty<'c> {
        // SAFETY: as `Builder` says.
        wrap_type(unsafe { LLVMFloatTypeInContext(self.context) })
    }

    /// Floats of 64 bits.
    pub(super) fn double(&self) -> Ty<'c> {
        // SAFETY: as `Builder` says.
        wrap_type(unsafe { LLVMDoubleTypeInContext(self.context) })
    }

    /// Floats of 16 bits.
    pub(super) fn half(&self) -> Ty<'c> {
        // SAFETY: as `Builder` says.
        wrap_type(unsafe { LLVMHalfTypeInContext(self.context) })
    }

    /// Addresses.
    pub(super) fn pointer(&self) -> Ty<'c> {
        // SAFETY: as `Builder` says.
        wrap_type(unsafe { LLVMPointerTypeInContext(self.context, 0) })
    }

    /// A vector of so many elements; the element itself for one.
    pub(super) fn vector(&self, elem: Ty<'c>, lanes: u32) -> Ty<'c> {
        if lanes == 1 {
            return elem;
        }
        // SAFETY: as `Builder` says.
        wrap_type(unsafe { LLVMVectorType(elem.0, lanes) })
    }

    /// So many bytes of memory.
    pub(super) fn bytes(&self, count: u64) -> Ty<'c> {
        // SAFETY: as `Builder` says.
        wrap_type(unsafe { LLVMArrayType2(self.int(8).0, count) })
    }

    /// An integer constant; the bits beyond the type's width do not count.
    pub(super) fn const_int(&self, ty: Ty<'c>, bits: u64) -> Ssa<'c> {
        // SAFETY: as `Builder` says.
        wrap(unsafe { LLVMConstInt(ty.0, bits, 0) })
    }

    /// A float constant; exact if the type holds the value.
    pub(super) fn const_float(&self, ty: Ty<'c>, value: f64) -> Ssa<'c> {
        // SAFETY: as `Builder` says.
        wrap(unsafe { LLVMConstReal(ty.0, value) })
    }

    /// A vector of constants; the constant itself for one.
    pub(super) fn const_vector(&self, elems: &[Ssa<'c>]) -> Ssa<'c> {
        if let [one] = elems {
            return *one;
        }
        let mut raw: Vec<LLVMValueRef> = elems.iter().map(|elem| elem.0).collect();
        // SAFETY: as `Builder` says; the list is read during the call only.
        wrap(unsafe { LLVMConstVector(raw.as_mut_ptr(), raw.len() as u32) })
    }

    /// An argument of a function of this module.
    pub(super) fn argument(&self, raw: LLVMValueRef) -> Ssa<'c> {
        wrap(raw)
    }

    /// A value that nobody may look at.
    pub(super) fn poison(&self, ty: Ty<'c>) -> Ssa<'c> {
        // SAFETY: as `Builder` says.
        wrap(unsafe { LLVMGetPoison(ty.0) })
    }
}

// Blocks and control flow.
impl<'c> Builder<'c> {
    /// A new block at the end of a function.
    pub(super) fn label(&self, function: LLVMValueRef) -> Label<'c> {
        // SAFETY: as `Builder` says.
        Label(unsafe { LLVMAppendBasicBlockInContext(self.context, function, NO_NAME) }, PhantomData)
    }

    /// Goes to the end of a block.
    pub(super) fn go_to(&self, label: Label<'c>) {
        // SAFETY: as `Builder` says.
        unsafe { LLVMPositionBuilderAtEnd(self.raw, label.0) };
    }

    /// The block at hand.
    pub(super) fn here(&self) -> Label<'c> {
        // SAFETY: as `Builder` says.
        Label(unsafe { LLVMGetInsertBlock(self.raw) }, PhantomData)
    }

    /// Writes something before the jump that ends `label`, then goes on where it was.
    pub(super) fn at_end_of<T>(&self, label: Label<'c>, write: impl FnOnce() -> T) -> T {
        let here = self.here();
        // SAFETY: as `Builder` says.
        unsafe { LLVMPositionBuilderBefore(self.raw, LLVMGetBasicBlockTerminator(label.0)) };
        let result = write();
        self.go_to(here);
        result
    }

    /// Ends the block with a jump.
    pub(super) fn jump(&self, to: Label<'c>) {
        // SAFETY: as `Builder` says.
        unsafe { LLVMBuildBr(self.raw, to.0) };
    }

    /// Ends the block with a jump to one of two.
    pub(super) fn branch(&self, flag: Ssa<'c>, on: Label<'c>, off: Label<'c>) {
        // SAFETY: as `Builder` says.
        unsafe { LLVMBuildCondBr(self.raw, flag.0, on.0, off.0) };
    }

    /// Ends the function.
    pub(super) fn ret(&self) {
        // SAFETY: as `Builder` says.
        unsafe { LLVMBuildRetVoid(self.raw) };
    }

    /// A value that depends on where the block was entered from; [`Builder::incoming`] says how.
    pub(super) fn phi(&self, ty: Ty<'c>) -> Ssa<'c> {
        // SAFETY: as `Builder` says.
        wrap(unsafe { LLVMBuildPhi(self.raw, ty.0, NO_NAME) })
    }

    /// What a phi is when its block is entered from `from`.
    pub(super) fn incoming(&self, phi: Ssa<'c>, value: Ssa<'c>, from: Label<'c>) {
        let (mut value, mut from) = (value.0, from.0);
        // SAFETY: as `Builder` says; lists of one.
        unsafe { LLVMAddIncoming(phi.0, &mut value, &mut from, 1) };
    }
}

// Values.
impl<'c> Builder<'c> {
    /// A comparison of integers.
    pub(super) fn icmp(&self, how: IntCompare, a: Ssa<'c>, b: Ssa<'c>) -> Ssa<'c> {
        // SAFETY: as `Builder` says.
        wrap(unsafe { LLVMBuildICmp(self.raw, how, a.0, b.0, NO_NAME) })
    }

    /// A comparison of floats.
    pub(super) fn fcmp(&self, how: FloatCompare, a: Ssa<'c>, b: Ssa<'c>) -> Ssa<'c> {
        // SAFETY: as `Builder` says.
        wrap(unsafe { LLVMBuildFCmp(self.raw, how, a.0, b.0, NO_NAME) })
    }

    /// `on` where the flag is set, else `off`.
    pub(super) fn select(&self, flag: Ssa<'c>, on: Ssa<'c>, off: Ssa<'c>) -> Ssa<'c> {
        // SAFETY: as `Builder` says.
        wrap(unsafe { LLVMBuildSelect(self.raw, flag.0, on.0, off.0, NO_NAME) })
    }

    /// A conversion.
    pub(super) fn cast(&self, how: Cast, value: Ssa<'c>, to: Ty<'c>) -> Ssa<'c> {
        // SAFETY: as `Builder` says.
        wrap(unsafe { LLVMBuildCast(self.raw, how, value.0, to.0, NO_NAME) })
    }

    /// One element of a vector.
    pub(super) fn extract(&self, vector: Ssa<'c>, lane: u32) -> Ssa<'c> {
        let lane = self.const_int(self.int(32), u64::from(lane));
        // SAFETY: as `Builder` says.
        wrap(unsafe { LLVMBuildExtractElement(self.raw, vector.0, lane.0, NO_NAME) })
    }

    /// A vector with one element replaced.
    pub(super) fn insert(&self, vector: Ssa<'c>, elem: Ssa<'c>, lane: u32) -> Ssa<'c> {
        let lane = self.const_int(self.int(32), u64::from(lane));
        // SAFETY: as `Builder` says.
        wrap(unsafe { LLVMBuildInsertElement(self.raw, vector.0, elem.0, lane.0, NO_NAME) })
    }

    /// Elements of the concatenation of `a` and `b`.
    pub(super) fn shuffle(&self, a: Ssa<'c>, b: Ssa<'c>, picks: impl IntoIterator<Item = u32>) -> Ssa<'c> {
        let index = self.int(32);
        let picks: Vec<Ssa<'c>> =
            picks.into_iter().map(|pick| self.const_int(index, u64::from(pick))).collect();
        let mut raw: Vec<LLVMValueRef> = picks.iter().map(|pick| pick.0).collect();
        // SAFETY: as `Builder` says; a mask is a vector even where it has one element.
        wrap(unsafe {
            let mask = LLVMConstVector(raw.as_mut_ptr(), raw.len() as u32);
            LLVMBuildShuffleVector(self.raw, a.0, b.0, mask, NO_NAME)
        })
    }

    /// A vector whose every element is `value`; the value itself for one.
    pub(super) fn splat(&self, value: Ssa<'c>, lanes: u32) -> Ssa<'c> {
        if lanes == 1 {
            return value;
        }
        let nothing = self.poison(self.vector(type_of(value), lanes));
        let first = self.insert(nothing, value, 0);
        self.shuffle(first, nothing, (0..lanes).map(|_| 0))
    }

    /// A vector of these; the value itself for one.
    pub(super) fn gather(&self, elems: &[Ssa<'c>]) -> Ssa<'c> {
        if let [one] = elems {
            return *one;
        }
        let mut vector = self.poison(self.vector(type_of(elems[0]), elems.len() as u32));
        for (lane, elem) in elems.iter().enumerate() {
            vector = self.insert(vector, *elem, lane as u32);
        }
        vector
    }

    /// A call of an intrinsic that is overloaded by `types`.
    pub(super) fn intrinsic(&self, name: &CStr, types: &[Ty<'c>], args: &[Ssa<'c>]) -> Ssa<'c> {
        let mut types: Vec<LLVMTypeRef> = types.iter().map(|ty| ty.0).collect();
        let mut args: Vec<LLVMValueRef> = args.iter().map(|arg| arg.0).collect();
        // SAFETY: as `Builder` says; the names are those of LLVM's manual, and the lists are read during the calls only.
        wrap(unsafe {
            let id = LLVMLookupIntrinsicID(name.as_ptr(), name.to_bytes().len());
            let callee = LLVMGetIntrinsicDeclaration(self.module, id, types.as_mut_ptr(), types.len());
            let ty = LLVMIntrinsicGetType(self.context, id, types.as_mut_ptr(), types.len());
            LLVMBuildCall2(self.raw, ty, callee, args.as_mut_ptr(), args.len() as u32, NO_NAME)
        })
    }

    /// A call of a function of type `ty` without a result.
    pub(super) fn call(&self, ty: LLVMTypeRef, callee: LLVMValueRef, args: &[Ssa<'c>]) {
        let mut args: Vec<LLVMValueRef> = args.iter().map(|arg| arg.0).collect();
        // SAFETY: as `Builder` says; the list is read during the call only.
        unsafe { LLVMBuildCall2(self.raw, ty, callee, args.as_mut_ptr(), args.len() as u32, NO_NAME) };
    }
}

// Memory.
impl<'c> Builder<'c> {
    /// Memory of the stack, for one value; to be written in the block where the function starts.
    pub(super) fn stack(&self, ty: Ty<'c>, align_bytes: u32) -> Ssa<'c> {
        // SAFETY: as `Builder` says.
        wrap(unsafe {
            let memory = LLVMBuildAlloca(self.raw, ty.0, NO_NAME);
            LLVMSetAlignment(memory, align_bytes);
            memory
        })
    }

    /// Reads a value.
    pub(super) fn load(&self, ty: Ty<'c>, from: Ssa<'c>, align_bytes: u32) -> Ssa<'c> {
        // SAFETY: as `Builder` says.
        wrap(unsafe {
            let value = LLVMBuildLoad2(self.raw, ty.0, from.0, NO_NAME);
            LLVMSetAlignment(value, align_bytes);
            value
        })
    }

    /// Writes a value.
    pub(super) fn store(&self, value: Ssa<'c>, to: Ssa<'c>, align_bytes: u32) {
        // SAFETY: as `Builder` says.
        unsafe { LLVMSetAlignment(LLVMBuildStore(self.raw, value.0, to.0), align_bytes) };
    }

    /// The same around the caches.
    pub(super) fn store_around(&self, value: Ssa<'c>, to: Ssa<'c>, align_bytes: u32) {
        const NAME: &CStr = c"nontemporal";
        let one = self.const_int(self.int(32), 1);
        // SAFETY: as `Builder` says; the name is read during the call only.
        unsafe {
            let store = LLVMBuildStore(self.raw, value.0, to.0);
            LLVMSetAlignment(store, align_bytes);
            let kind = LLVMGetMDKindIDInContext(self.context, NAME.as_ptr(), NAME.to_bytes().len() as u32);
            let mut items = [LLVMValueAsMetadata(one.0)];
            let node = LLVMMDNodeInContext2(self.context, items.as_mut_ptr(), items.len());
            LLVMSetMetadata(store, kind, LLVMMetadataAsValue(self.context, node));
        }
    }

    /// Reads the elements that a vector of addresses names.
    pub(super) fn gather_load(&self, ty: Ty<'c>, from: Ssa<'c>, align_bytes: u32) -> Ssa<'c> {
        let align = self.const_int(self.int(32), u64::from(align_bytes));
        let types = [ty, type_of(from)];
        self.intrinsic(c"llvm.masked.gather", &types, &[from, align, self.all_lanes(from), self.poison(ty)])
    }

    /// Writes elements where a vector of addresses says, the first lane first.
    pub(super) fn scatter_store(&self, value: Ssa<'c>, to: Ssa<'c>, align_bytes: u32) {
        let align = self.const_int(self.int(32), u64::from(align_bytes));
        let types = [type_of(value), type_of(to)];
        self.intrinsic(c"llvm.masked.scatter", &types, &[value, to, align, self.all_lanes(to)]);
    }

    /// A flag for each lane of a vector, all set.
    fn all_lanes(&self, vector: Ssa<'c>) -> Ssa<'c> {
        // SAFETY: as `Builder` says.
        let lanes = unsafe { LLVMGetVectorSize(type_of(vector).0) };
        self.const_vector(&vec![self.const_int(self.int(1), 1); lanes as usize])
    }

    /// The address so many bytes further; one per lane if those are per lane.
    pub(super) fn advance(&self, pointer: Ssa<'c>, bytes: Ssa<'c>) -> Ssa<'c> {
        let mut bytes = bytes.0;
        // SAFETY: as `Builder` says; a list of one.
        wrap(unsafe { LLVMBuildGEP2(self.raw, self.int(8).0, pointer.0, &mut bytes, 1, NO_NAME) })
    }
}
