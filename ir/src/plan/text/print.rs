//! Plan to text.

use crate::dim::Dim;
use crate::kernel;
use crate::plan::{Arg, BufferKind, Contract, Matrix, Program, Step};
use crate::text::array_type;
use std::fmt::Write;

/// The canonical text of `program`, ending in a newline.
pub fn print(program: &Program) -> String {
    let mut out = format!("plan @{} {{\n", program.name);
    for size in &program.sizes {
        let default = size.default.map_or(String::new(), |value| format!(" default {value}"));
        line(&mut out, 1, &format!("size {} in {}..={}{default}", size.name, size.bounds.0, size.bounds.1));
    }
    for buffer in &program.buffers {
        let (word, place) = match buffer.kind {
            BufferKind::Input => ("input", String::new()),
            BufferKind::Output => ("output", String::new()),
            BufferKind::Temp(slot) => ("temp", format!(" in slot {slot}")),
        };
        line(
            &mut out,
            1,
            &format!("{word} {}: {}{place}", buffer.name, array_type(buffer.dtype, &buffer.shape)),
        );
    }
    for (idx, sizes) in program.slots.iter().enumerate() {
        let sizes: Vec<String> = sizes.iter().map(Dim::to_string).collect();
        line(&mut out, 1, &format!("slot {idx}: {}", sizes.join(", ")));
    }
    steps(&mut out, 1, program, &program.steps);
    out.push_str("}\n");
    for kernel in &program.kernels {
        out.push_str(&kernel::text::print(kernel));
    }
    out
}

fn line(out: &mut String, indent: usize, text: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{:1$}{text}", "", indent * 2);
}

fn steps(out: &mut String, indent: usize, program: &Program, block: &[Step]) {
    for step in block {
        match step {
            Step::Launch { kernel, args } => {
                let name = program.kernels.get(*kernel as usize).map(|kernel| kernel.name.to_string());
                let name = name.unwrap_or_else(|| format!("unknown_{kernel}"));
                let args: Vec<String> = args.iter().map(|arg| arg_text(program, arg)).collect();
                line(out, indent, &format!("launch @{name}({})", args.join(", ")));
            }
            Step::Contract(contract) => line(out, indent, &contract_text(program, contract)),
            Step::Loop { var, trip, body, swaps } => {
                let pairs: Vec<String> = swaps
                    .iter()
                    .map(|(a, b)| format!("({}, {})", buffer_name(program, *a), buffer_name(program, *b)))
                    .collect();
                let swaps =
                    if pairs.is_empty() { String::new() } else { format!(" swap {}", pairs.join(", ")) };
                line(out, indent, &format!("loop {var} in 0..{trip}{swaps} {{"));
                steps(out, indent + 1, program, body);
                line(out, indent, "}");
            }
            Step::Rows { rows, body } => {
                line(out, indent, &format!("rows {rows} {{"));
                steps(out, indent + 1, program, body);
                line(out, indent, "}");
            }
            Step::Unless { flag, body } => {
                line(out, indent, &format!("unless {} {{", buffer_name(program, *flag)));
                steps(out, indent + 1, program, body);
                line(out, indent, "}");
            }
        }
    }
}

fn buffer_name(program: &Program, id: crate::plan::BufferId) -> String {
    program.buffer(id).map_or_else(|| format!("unknown_{}", id.0), |buffer| buffer.name.to_string())
}

fn contract_text(program: &Program, contract: &Contract) -> String {
    let Contract { batch, m, n, k, a, b, c } = contract;
    let text = |matrix: &Matrix| {
        let Matrix { arg, batch, row, col } = matrix;
        format!("{}({batch}, {row}, {col})", arg_text(program, arg))
    };
    format!("contract({batch}, {m}, {n}, {k}): {} = {} * {}", text(c), text(a), text(b))
}

fn arg_text(program: &Program, arg: &Arg) -> String {
    let name = buffer_name(program, arg.buffer);
    if arg.offset.is_const(0) { name } else { format!("{name}[{}..]", arg.offset) }
}
