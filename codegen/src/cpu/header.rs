//! The C header of a compiled program, in the common part of C99 and C++.

use super::entry::{STATUS, Symbols, caller_buffers};
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::{Access, Func};
use birkhoff_ir::plan::{Buffer, BufferKind, Program};
use std::fmt::Write;

/// Names that C or C++ keeps for itself, and those of this header.
const TAKEN: &[&str] = &[
    "alignas",
    "alignof",
    "and",
    "asm",
    "auto",
    "bool",
    "break",
    "case",
    "catch",
    "char",
    "class",
    "const",
    "constexpr",
    "continue",
    "default",
    "delete",
    "do",
    "double",
    "else",
    "enum",
    "explicit",
    "export",
    "extern",
    "false",
    "float",
    "for",
    "friend",
    "goto",
    "if",
    "inline",
    "int",
    "long",
    "mutable",
    "namespace",
    "new",
    "not",
    "operator",
    "or",
    "private",
    "protected",
    "public",
    "register",
    "restrict",
    "return",
    "short",
    "signed",
    "sizeof",
    "static",
    "struct",
    "switch",
    "template",
    "this",
    "throw",
    "true",
    "try",
    "typedef",
    "typename",
    "union",
    "unsigned",
    "using",
    "virtual",
    "void",
    "volatile",
    "while",
    "xor",
];

/// The parameters of the entry in order: buffers, sizes, workspace. Each is a C identifier of its own.
pub(super) fn param_names(program: &Program) -> Vec<String> {
    let buffers = caller_buffers(program);
    let buffers = buffers.iter().filter_map(|id| program.buffer(*id)).map(|buffer| buffer.name.to_string());
    let sizes = program.sizes.iter().map(|size| size.name.to_string());
    let mut names: Vec<String> = vec![];
    for name in buffers.chain(sizes).chain(["workspace".to_string()]) {
        let mut name: String =
            name.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect();
        if name.starts_with(|first: char| first.is_ascii_digit()) {
            name.insert(0, '_');
        }
        while TAKEN.contains(&name.as_str()) || names.contains(&name) {
            name.push('_');
        }
        names.push(name);
    }
    names
}

fn c_type(dtype: DType) -> &'static str {
    match dtype {
        DType::F64 => "double",
        DType::F32 => "float",
        DType::Bf16 | DType::F16 => "uint16_t",
        DType::I64 => "int64_t",
        DType::I32 => "int32_t",
        DType::Bool => "uint8_t",
    }
}

fn array_text(dtype: DType, shape: &[birkhoff_ir::dim::Dim]) -> String {
    let dims: Vec<String> = shape.iter().map(|dim| dim.to_string()).collect();
    format!("{dtype}[{}]", dims.join(", "))
}

/// The header of `program`.
pub(super) fn header(program: &Program, symbols: &Symbols) -> String {
    let guard = format!("BIRKHOFF_{}_H", program.name.to_uppercase());
    let mut text = format!(
        "/* {} -- compiled by Birkhoff {}. Generated; do not edit. */\n#ifndef {guard}\n#define {guard}\n\n\
         #include <stddef.h>\n#include <stdint.h>\n\n#ifdef __cplusplus\nextern \"C\" {{\n#endif\n\n",
        program.name,
        env!("CARGO_PKG_VERSION"),
    );
    text.push_str(CONVENTIONS);
    entries(&mut text, program, symbols);
    kernels(&mut text, program, symbols);
    let _ = write!(text, "#ifdef __cplusplus\n}}\n#endif\n\n#endif /* {guard} */\n");
    text
}

const CONVENTIONS: &str = "\
/*
 * Arrays are dense and row-major, owned by the caller, and aligned to their element type. Inputs are not changed.
 * No two arrays of one call may overlap, unless both are inputs. bf16 and f16 are bit patterns in uint16_t; bool is one
 * byte, 0 or 1. Functions keep no state: they may run on several threads at once, each with a workspace of its own.
 */

";

fn entries(text: &mut String, program: &Program, symbols: &Symbols) {
    let names = param_names(program);
    let callers = caller_buffers(program);
    let buffers: Vec<&Buffer> = callers.iter().filter_map(|id| program.buffer(*id)).collect();
    let (buffer_names, rest) = names.split_at(buffers.len());
    let (size_names, workspace) = rest.split_at(program.sizes.len());
    let mut params = vec![];
    text.push_str("/*\n * Runs the program on this thread.\n *\n");
    for (buffer, name) in buffers.iter().zip(buffer_names) {
        let input = buffer.kind == BufferKind::Input;
        let word = if input { "in " } else { "out" };
        let _ = writeln!(text, " *   {word} {name}: {}", array_text(buffer.dtype, &buffer.shape));
        params.push(format!("{}{} *{name}", if input { "const " } else { "" }, c_type(buffer.dtype)));
    }
    for (size, name) in program.sizes.iter().zip(size_names) {
        let _ = writeln!(text, " *   size {name}: {} to {}", size.bounds.0, size.bounds.1);
        params.push(format!("int64_t {name}"));
    }
    let _ = writeln!(
        text,
        " *   {}: {} bytes at 64-byte alignment, contents irrelevant; may be null if that is 0\n *\n * Returns:",
        workspace[0], symbols.workspace
    );
    params.push(format!("void *{}", workspace[0]));
    for (value, meaning) in STATUS {
        let _ = writeln!(text, " *   {value}: {meaning}");
    }
    let _ = write!(text, " */\nint32_t {}(\n    {});\n\n", symbols.run, params.join(",\n    "));
    let sizes: Vec<String> = size_names.iter().map(|name| format!("int64_t {name}")).collect();
    let sizes = if sizes.is_empty() { "void".to_string() } else { sizes.join(", ") };
    let _ = write!(
        text,
        "/* Bytes of the workspace that a run with these sizes needs; the sizes must be within their bounds. */\n\
         size_t {}({sizes});\n\n",
        symbols.workspace
    );
}

const KERNEL_TYPE: &str = "\
/*
 * The kernels by themselves, for callers that spread tiles over threads. A call runs the tiles first_tile .. last_tile - 1;
 * tiles are numbered row-major over the batch axes and do not depend on each other. params: one pointer per parameter;
 * sizes: one value per size; scratch: the bytes stated in the manifest at 64-byte alignment, for this call alone.
 */
#ifndef BIRKHOFF_KERNEL
#define BIRKHOFF_KERNEL
typedef void birkhoff_kernel(
    void *const *params, const int64_t *sizes, int64_t first_tile, int64_t last_tile, void *scratch);
#endif

";

fn kernels(text: &mut String, program: &Program, symbols: &Symbols) {
    text.push_str(KERNEL_TYPE);
    for (kernel, symbol) in program.kernels.iter().zip(&symbols.kernels) {
        let _ = write!(text, "/*\n{} */\nextern birkhoff_kernel {symbol};\n\n", kernel_text(kernel));
    }
}

fn kernel_text(kernel: &Func) -> String {
    let mut text = String::new();
    for (idx, param) in kernel.params.iter().enumerate() {
        let access = match param.access {
            Access::Read => "read",
            Access::Write => "write",
            Access::ReadWrite => "read_write",
        };
        let _ = writeln!(
            text,
            " * params[{idx}] {access} {}: {}",
            param.name,
            array_text(param.dtype, &param.shape)
        );
    }
    for (idx, name) in kernel.sizes.iter().enumerate() {
        let _ = writeln!(text, " * sizes[{idx}] {name}");
    }
    for axis in &kernel.grid {
        let _ =
            writeln!(text, " * batch axis {}: {} positions, {} in a tile", axis.name, axis.extent, axis.tile);
    }
    text
}
