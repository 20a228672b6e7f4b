//! The two functions that a kernel becomes.
//!
//! In: a verified kernel. Out: a module with its entry, of the convention of [`birkhoff_ir::kernel::abi`], and its body. The
//! entry reads the tables of parameters and sizes and lays out tile memory; the body gets every memory as an argument of its
//! own, because arguments are what LLVM takes to be apart, as kernel IR says they are.

use super::build::{Builder, Ssa, Ty};
use super::emit::{Arguments, emit};
use super::host::Host;
use crate::size::local_bytes;
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dim::Dim;
use birkhoff_ir::kernel::abi::SCRATCH_ALIGN_BYTES;
use birkhoff_ir::kernel::{Access, Func, Space};
use inkwell::AddressSpace;
use inkwell::attributes::{Attribute, AttributeLoc};
use inkwell::context::Context;
use inkwell::module::{Linkage, Module};
use inkwell::types::BasicMetadataTypeEnum;
use inkwell::values::{AsValueRef, FunctionValue};

/// The name of a kernel's entry in its module.
pub(super) fn entry_name(kernel_idx: usize) -> String {
    format!("kernel_{kernel_idx}")
}

/// A module with `func` in it, as its emitter leaves it.
///
/// Errors: what this back end cannot do, or a kernel that does not verify.
pub(super) fn module<'c>(
    context: &'c Context,
    func: &Func,
    kernel_idx: usize,
    host: &Host,
) -> Result<Module<'c>, Diagnostic> {
    let module = context.create_module(func.name.as_str());
    let (pointer, integer) = (context.ptr_type(AddressSpace::default()), context.i64_type());
    let n_tile_locals = func.locals.iter().filter(|local| local.space == Space::Tile).count();
    let mut types: Vec<BasicMetadataTypeEnum<'c>> = vec![pointer.into(); func.params.len() + n_tile_locals];
    types.extend(vec![BasicMetadataTypeEnum::from(integer); func.sizes.len() + 2]);
    let body_ty = context.void_type().fn_type(&types, false);
    let body = module.add_function("body", body_ty, Some(Linkage::Internal));
    let entry_types = [pointer.into(), pointer.into(), integer.into(), integer.into(), pointer.into()];
    let entry_ty = context.void_type().fn_type(&entry_types, false);
    let entry = module.add_function(&entry_name(kernel_idx), entry_ty, None);
    for function in [body, entry] {
        attributes(context, function, host);
    }
    argument_attributes(context, body, func, n_tile_locals);

    let b = Builder::new(context, &module);
    write_entry(&b, func, entry, body);
    let mut args = body.get_param_iter().map(|arg| b.argument(arg.as_value_ref()));
    let arguments = Arguments {
        function: body.as_value_ref(),
        params: args.by_ref().take(func.params.len()).collect(),
        tile_memory: args.by_ref().take(n_tile_locals).collect(),
        sizes: args.by_ref().take(func.sizes.len()).collect(),
        tiles: match (args.next(), args.next()) {
            (Some(first), Some(last)) => (first, last),
            _ => return Err(Diagnostic::verify("a function lacks its last arguments")),
        },
    };
    emit(func, &b, host, arguments)?;
    drop(b);
    Ok(module)
}

fn attributes(context: &Context, function: FunctionValue<'_>, host: &Host) {
    let named = |name: &str| context.create_enum_attribute(Attribute::get_named_enum_kind_id(name), 0);
    function.add_attribute(AttributeLoc::Function, named("nounwind"));
    let vector_bits = host.vector_bits.to_string();
    // LLVM takes half of the registers of some processors unless it is told. Frames that exceed a page touch each of its pages
    // in order, so that an overflow meets the guard page.
    let texts = [
        ("prefer-vector-width", vector_bits.as_str()),
        ("min-legal-vector-width", vector_bits.as_str()),
        ("probe-stack", "inline-asm"),
    ];
    for (key, value) in texts {
        function.add_attribute(AttributeLoc::Function, context.create_string_attribute(key, value));
    }
}

/// What is known of the memories that the body gets: no two of them overlap.
fn argument_attributes(context: &Context, body: FunctionValue<'_>, func: &Func, n_tile_locals: usize) {
    let add = |idx: usize, name: &str, value: u64| {
        let kind = Attribute::get_named_enum_kind_id(name);
        body.add_attribute(AttributeLoc::Param(idx as u32), context.create_enum_attribute(kind, value));
    };
    for (idx, param) in func.params.iter().enumerate() {
        add(idx, "noalias", 0);
        add(idx, "nocapture", 0);
        add(idx, "align", param.dtype.size_bytes());
        if param.access == Access::Read {
            add(idx, "readonly", 0);
        }
    }
    for idx in func.params.len()..func.params.len() + n_tile_locals {
        add(idx, "noalias", 0);
        add(idx, "nocapture", 0);
        add(idx, "align", SCRATCH_ALIGN_BYTES);
    }
}

/// Reads the tables, lays out tile memory as [`birkhoff_ir::kernel::abi::scratch_layout`] does, and calls the body.
fn write_entry<'c>(b: &Builder<'c>, func: &Func, entry: FunctionValue<'c>, body: FunctionValue<'c>) {
    let given: Vec<Ssa<'c>> = entry.get_param_iter().map(|arg| b.argument(arg.as_value_ref())).collect();
    let (params, sizes, tiles, scratch) = (given[0], given[1], &given[2..4], given[4]);
    b.go_to(b.label(entry.as_value_ref()));
    let integer = b.int(64);
    let read = |table: Ssa<'c>, idx: usize, ty: Ty<'c>| {
        b.load(ty, b.advance(table, b.const_int(integer, 8 * idx as u64)), 8)
    };
    let mut args: Vec<Ssa<'c>> = (0..func.params.len()).map(|idx| read(params, idx, b.pointer())).collect();
    let sizes: Vec<Ssa<'c>> = (0..func.sizes.len()).map(|idx| read(sizes, idx, integer)).collect();
    let value_of = |dim: &Dim| {
        dim.terms().fold(b.const_int(integer, 0), |sum, (names, coeff)| {
            let named = |name| func.sizes.iter().position(|size| size == name).map(|idx| sizes[idx]);
            let factors = names.iter().filter_map(named);
            b.add(sum, factors.fold(b.const_int(integer, coeff as u64), |product, next| b.mul(product, next)))
        })
    };
    let align = SCRATCH_ALIGN_BYTES as i64;
    let mut offset = b.const_int(integer, 0);
    for local in func.locals.iter().filter(|local| local.space == Space::Tile) {
        args.push(b.advance(scratch, offset));
        let bytes = value_of(&local_bytes(local).dim());
        let bytes = b.intrinsic(c"llvm.smax", &[integer], &[bytes, b.const_int(integer, 0)]);
        let padded = b.add(bytes, b.const_int(integer, align as u64 - 1));
        offset = b.add(offset, b.and(padded, b.const_int(integer, -align as u64)));
    }
    args.extend(sizes.iter().copied());
    args.extend(tiles.iter().copied());
    let body_ty = body.get_type();
    b.call(inkwell::types::AsTypeRef::as_type_ref(&body_ty), body.as_value_ref(), &args);
    b.ret();
}
