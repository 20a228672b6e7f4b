//! The reference page of the ops, from the op table.
//!
//! In: the tables of ops, scalar ops and surface calls. Out: markdown. `docs/OPS.md` holds it, and a test compares the two.

use super::attr::AttrKind;
use super::autodiff::Derivative;
use super::build::Builder;
use super::ops::{OpRow, Operands, ROWS};
use super::text::{kind_text, print_func, surface};
use super::{Module, OpKind, samples};
use crate::diag::{Diagnostic, Diagnostics, Span};
use crate::scalar::{ScalarClass, ScalarOp};
use std::fmt::Write;

const INTRODUCTION: &str = "\
# Ops of the tensor IR

Generated from the op table (`ir/src/tensor/ops.rs`, `ir/src/scalar.rs`): `BLESS=1 cargo test -p birkhoff-ir --test ops_page`
writes it again. The text of the IR is described in `ir/src/tensor/text/mod.rs`.

A type is `dtype[extents]`; an extent is a polynomial of dims, such as `n*C`. `x: [.., d]` means any leading axes. Attributes
stand in braces behind the operands, `softmax(%x) {axis=1}`; one with a default may be left out. The elements of a bf16 or f16
tensor are rounded after every op; sums and contractions are computed in f32 then.
";

/// The page.
///
/// Errors: an op whose sample does not build; there is none in a tree that passes its tests.
pub fn reference_page() -> Result<String, Diagnostics> {
    let mut page = INTRODUCTION.to_string();
    scalar_table(&mut page);
    let (composites, primitives): (Vec<&OpRow>, Vec<&OpRow>) =
        ROWS.iter().partition(|row| row.kind.is_composite());
    page.push_str("\n## Primitives\n\nThe evaluator (`ir/src/tensor/eval`) defines them.\n");
    for row in primitives {
        op_section(&mut page, row)?;
    }
    page.push_str("\n## Composites\n\nTheir expansions define them. Shown is one level, for the types in its signature.\n");
    for row in composites {
        op_section(&mut page, row)?;
    }
    without_derivative(&mut page);
    surface_table(&mut page);
    Ok(page)
}

/// The ops whose derivative is zero, and why; all others have one.
fn without_derivative(page: &mut String) {
    page.push_str(
        "\n## Ops without a derivative\n\nNo tangent passes them. All other ops are differentiable, in any order.\n\n\
        | op | because |\n|---|---|\n",
    );
    for kind in OpKind::all() {
        if let Derivative::Zero(reason) = kind.derivative() {
            line(page, format_args!("| `{}` | {reason} |", kind.name()));
        }
    }
}

fn scalar_table(page: &mut String) {
    page.push_str("\n## Elementwise ops\n\nOperands have one shape, which the result has too.\n\n");
    page.push_str("| op | operands | types | meaning |\n|---|---|---|---|\n");
    for op in ScalarOp::ALL {
        let types = match op.class() {
            ScalarClass::Numeric => "numbers",
            ScalarClass::Float => "floats",
            ScalarClass::Int => "integers",
            ScalarClass::Compare => "numbers to bool",
            ScalarClass::Logic => "bool",
            ScalarClass::Select => "bool and two of any type",
        };
        let operands = operand_text(OpKind::Scalar(*op).operands());
        line(page, format_args!("| `{op}` | {operands} | {types} | {} |", table_cell(op.doc())));
    }
}

fn surface_table(page: &mut String) {
    page.push_str(
        "\n## Calls of the surface\n\nThe parser reads them; the printer prints what they write.\n\n",
    );
    page.push_str("| call | writes |\n|---|---|\n");
    for row in surface::ROWS {
        line(page, format_args!("| `{}` | {} |", row.usage, table_cell(row.doc)));
    }
}

fn op_section(page: &mut String, row: &OpRow) -> Result<(), Diagnostics> {
    line(page, format_args!("\n### `{}`\n", row.name));
    line(page, format_args!("{}", paragraph(row.doc)));
    line(page, format_args!("\nOperands: {}.", operand_text(row.operands)));
    if !row.attrs.is_empty() {
        page.push_str("\n| attribute | value | default |\n|---|---|---|\n");
    }
    for attr in row.attrs {
        let default = attr.default.map_or("must be given".to_string(), |default| format!("`{default}`"));
        let kind = match attr.kind {
            AttrKind::Word(words) => {
                words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
            }
            other => kind_text(other),
        };
        line(page, format_args!("| `{}` | {} | {default} |", attr.name, table_cell(&kind)));
    }
    let text = if row.kind.is_composite() { expansion(row.kind)? } else { sample_text(row.kind)? };
    line(page, format_args!("\n```text\n{text}```"));
    Ok(())
}

fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(page, "{text}");
}

fn operand_text(operands: Operands) -> String {
    let list = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match operands {
        Operands::Fixed([]) => "none".into(),
        Operands::Fixed(names) => list(names),
        Operands::Variadic(name) => format!("one or more of `{name}`"),
        Operands::Optional(must, may) => format!("{}, and optionally {}", list(must), list(may)),
    }
}

/// The doc of a row as one paragraph: its lines are those of the source.
fn paragraph(doc: &str) -> String {
    let lines: Vec<&str> = doc.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("\n")
}

fn table_cell(text: &str) -> String {
    paragraph(text).replace('\n', " ").replace('|', "\\|")
}

/// The sample of a primitive: its one node.
fn sample_text(kind: OpKind) -> Result<String, Diagnostics> {
    let (module, id) = samples::sample(kind)?;
    let text = print_func(&module, module.func(id));
    let node: Vec<&str> = text.lines().map(str::trim).filter(|line| line.starts_with("%out0")).collect();
    Ok(format!("{}\n", node.join("\n")))
}

/// The expansion of a composite on the operands of its sample, loop bodies first.
fn expansion(kind: OpKind) -> Result<String, Diagnostics> {
    let (sampled, id) = samples::sample(kind)?;
    let func = sampled.func(id).clone();
    let failed = |why: String| Diagnostics::from(Diagnostic::input(Span::NONE, why));
    let Some(node) = func.nodes.last().cloned() else { return Err(failed("the sample is empty".into())) };
    let mut module = Module { funcs: sampled.funcs[..id.0 as usize].to_vec(), ..sampled };
    let mut shell = func.clone();
    shell.nodes.clear();
    shell.outputs.clear();
    shell.values.truncate(shell.inputs.len());
    shell.name = kind.name().to_string();
    shell.exported = false;
    let mut builder = Builder::resume(&mut module, shell);
    let results = builder.expand(&node.op, &node.args).map_err(failed)?;
    for (out, result) in func.outputs.iter().zip(results) {
        builder.output(out.name.clone(), result).map_err(failed)?;
    }
    builder.finish();
    let texts: Vec<String> = module.funcs.iter().map(|func| print_func(&module, func)).collect();
    Ok(texts.join("\n"))
}
