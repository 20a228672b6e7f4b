//! Checks that a module means something: what the types in Rust do not say.
//!
//! In: any module, however broken. Out: nothing, or all errors found. An error of a node that was written in a text points
//! there; one of a node that a pass wrote shows the node and is ours. After this, no stage needs to doubt: operands are
//! defined before they are used, types are those of the type rules, attributes are of their kinds, names are unique and
//! declared, loop bodies are functions further up.
//! Does not check that run-time sizes fit each other where types say nothing (a slice of a run-time axis).

use super::text::print_node;
use super::{
    Attr, Def, DimDecl, DimKind, Domain, Func, Module, Node, Op, OpKind, TensorType, ValueId, infer,
};
use crate::diag::{Diagnostic, Diagnostics, ErrorKind, Span};
use crate::dim::{Dim, Sym};
use std::collections::BTreeSet;

/// Checks the whole module.
///
/// Errors: every broken rule, in the order of the module.
pub fn verify(module: &Module) -> Result<(), Diagnostics> {
    let mut errors = Vec::new();
    declarations(module, &mut errors);
    // A function that is broken cannot be looked at as a loop body.
    let mut broken = BTreeSet::new();
    for (idx, func) in module.funcs.iter().enumerate() {
        let before = errors.len();
        FuncCheck { module, func, idx, broken: &broken, errors: &mut errors }.run();
        if errors.len() > before {
            broken.insert(idx);
        }
    }
    Diagnostics(errors).into_result(())
}

/// An error of the text at `span`, or of a pass where there is no text.
fn error(span: Span, message: String) -> Diagnostic {
    let kind = if span == Span::NONE { ErrorKind::Verify } else { ErrorKind::Input };
    Diagnostic { kind, ..Diagnostic::input(span, message) }
}

fn declarations(module: &Module, errors: &mut Vec<Diagnostic>) {
    for (idx, decl) in module.dims.iter().enumerate() {
        if module.dims[..idx].iter().any(|other| other.name == decl.name) {
            errors.push(error(decl.span, format!("the dim `{}` is declared twice", decl.name)));
        }
        errors.extend(dim_decl(decl));
    }
    for (idx, decl) in module.params.iter().enumerate() {
        if module.params[..idx].iter().any(|other| other.name == decl.name) {
            errors.push(error(decl.span, format!("the parameter `{}` is declared twice", decl.name)));
        }
    }
    for (idx, func) in module.funcs.iter().enumerate() {
        if module.funcs[..idx].iter().any(|other| other.name == func.name) {
            errors.push(error(func.span, format!("the function `@{}` is declared twice", func.name)));
        }
    }
}

fn dim_decl(decl: &DimDecl) -> Option<Diagnostic> {
    let name = &decl.name;
    match decl.kind {
        DimKind::Static(Some(value)) if value < 1 => {
            Some(error(decl.span, format!("the dim `{name}` must be at least 1, found {value}")))
        }
        DimKind::RunTime { lo, hi, .. } if lo < 0 || lo > hi => Some(error(
            decl.span,
            format!("the bounds of the dim `{name}` must be 0 <= low <= high, found {lo}..={hi}"),
        )),
        DimKind::RunTime { lo, hi, default: Some(value) } if !(lo..=hi).contains(&value) => Some(error(
            decl.span,
            format!("the default of the dim `{name}` must be in {lo}..={hi}, found {value}"),
        )),
        _ => None,
    }
}

/// The check of one function.
struct FuncCheck<'c> {
    module: &'c Module,
    func: &'c Func,
    idx: usize,
    broken: &'c BTreeSet<usize>,
    errors: &'c mut Vec<Diagnostic>,
}

impl FuncCheck<'_> {
    fn run(&mut self) {
        let mut defined = vec![false; self.func.values.len()];
        self.inputs(&mut defined);
        for (idx, node) in self.func.nodes.iter().enumerate() {
            if let Err(why) = self.node(idx, node, &mut defined) {
                self.node_error(node, &why);
            }
        }
        if let Some(idx) = defined.iter().position(|defined| !defined) {
            self.func_error(format!("value number {idx} has no definition"));
        }
        self.outputs(&defined);
    }

    fn node_error(&mut self, node: &Node, why: &str) {
        let message = match node.span {
            Span::NONE => {
                let line = print_node(self.module, self.func, node);
                format!("in @{}: `{line}`: {why}", self.func.name)
            }
            _ => format!("in @{}: {why}", self.func.name),
        };
        self.errors.push(error(node.span, message));
    }

    fn func_error(&mut self, why: String) {
        self.errors.push(error(self.func.span, format!("in @{}: {why}", self.func.name)));
    }

    fn inputs(&mut self, defined: &mut [bool]) {
        for (idx, input) in self.func.inputs.iter().enumerate() {
            let name = &input.name;
            let place = |why: String| {
                error(input.span, format!("the argument `{name}` of @{} {why}", self.func.name))
            };
            if self.func.inputs[..idx].iter().any(|other| other.name == *name) {
                self.errors.push(place("is declared twice".into()));
            }
            if let Some(why) = domain_error(&input.domain) {
                self.errors.push(place(why));
            }
            match self.func.values.get(idx) {
                Some(value) if value.def == Def::Input(idx as u32) => {
                    defined[idx] = true;
                    if let Err(why) = self.declared_type(&value.ty) {
                        self.errors.push(place(format!("has the type {}: {why}", value.ty)));
                    }
                }
                _ => self.errors.push(place(format!("must be value number {idx}"))),
            }
        }
    }

    /// Marks the results of a node as defined. Errors: what is wrong with the node.
    fn node(&self, idx: usize, node: &Node, defined: &mut [bool]) -> Result<(), String> {
        let mut found = Vec::with_capacity(node.results.len());
        for (place, result) in node.results.iter().enumerate() {
            let def = Def::Node { node: idx as u32, result: place as u32 };
            match self.func.values.get(result.0 as usize) {
                Some(value) if value.def == def && !defined[result.0 as usize] => {
                    found.push(value.ty.clone())
                }
                _ => return Err(format!("result {place} is not a value of this node alone")),
            }
        }
        // Only now: a node must not use its own results.
        let args = self.operands(node, defined);
        node.results.iter().for_each(|result| defined[result.0 as usize] = true);
        let args = args?;
        self.attributes(&node.op)?;
        let expected = infer::result_types(self.module, &node.op, &args)?;
        if expected != found {
            return Err(format!("the result must be {}, found {}", types(&expected), types(&found)));
        }
        found.iter().try_for_each(|ty| self.declared_type(ty))
    }

    fn operands(&self, node: &Node, defined: &[bool]) -> Result<Vec<TensorType>, String> {
        let operand = |(idx, arg): (usize, &ValueId)| match defined.get(arg.0 as usize) {
            Some(true) => Ok(self.func.ty(*arg).clone()),
            _ => Err(format!("operand {idx} is used before it is defined")),
        };
        node.args.iter().enumerate().map(operand).collect()
    }

    fn attributes(&self, op: &Op) -> Result<(), String> {
        let specs = op.kind.attrs();
        if op.attrs.len() != specs.len() {
            return Err(format!(
                "`{}` has {} attributes, found {}",
                op.kind.name(),
                specs.len(),
                op.attrs.len()
            ));
        }
        for (pos, attr) in op.attrs.iter().enumerate() {
            infer::check_attr(self.module, op, pos)?;
            match attr {
                Attr::Dim(dim) => self.declared_dim(dim)?,
                Attr::Dims(dims) => dims.iter().try_for_each(|dim| self.declared_dim(dim))?,
                _ => {}
            }
        }
        if let Some(body) = op.body() {
            let body = body.0 as usize;
            if body >= self.idx {
                let name = op.kind.name();
                return Err(format!(
                    "the body of `{name}` must be declared before the function that uses it"
                ));
            }
            if self.broken.contains(&body) {
                return Err(format!("the body @{} has errors", self.module.funcs[body].name));
            }
            if op.kind == OpKind::Loop && self.module.funcs[body].exported {
                return Err(format!("the body @{} must not be exported", self.module.funcs[body].name));
            }
        }
        Ok(())
    }

    fn declared_type(&self, ty: &TensorType) -> Result<(), String> {
        match ty.shape.iter().find(|dim| dim.as_const().is_some_and(|value| value < 0)) {
            Some(dim) => Err(format!("an extent must not be negative, found {dim}")),
            None => ty.shape.iter().try_for_each(|dim| self.declared_dim(dim)),
        }
    }

    fn declared_dim(&self, dim: &Dim) -> Result<(), String> {
        let undeclared = |name: &Sym| self.module.dim(name).is_none();
        match dim.syms().into_iter().find(undeclared) {
            Some(name) => Err(format!("no dim `{name}` is declared")),
            None => Ok(()),
        }
    }

    fn outputs(&mut self, defined: &[bool]) {
        if self.func.exported && self.func.outputs.is_empty() {
            self.func_error("an exported function must return something".into());
        }
        for (idx, out) in self.func.outputs.iter().enumerate() {
            if self.func.outputs[..idx].iter().any(|other| other.name == out.name) {
                self.func_error(format!("the output `{}` is returned twice", out.name));
            }
            if defined.get(out.value.0 as usize) != Some(&true) {
                self.func_error(format!("the output `{}` has no definition", out.name));
            }
        }
    }
}

/// What is wrong with a distribution, if anything is.
fn domain_error(domain: &Domain) -> Option<String> {
    match domain {
        Domain::Normal { mean, std } if !mean.is_finite() || !std.is_finite() || *std < 0.0 => {
            Some(format!("must have a standard deviation that is not negative, found normal({mean}, {std})"))
        }
        Domain::Uniform { lo, hi } if !lo.is_finite() || !hi.is_finite() || lo > hi => {
            Some(format!("must have finite bounds in order, found uniform({lo}, {hi})"))
        }
        Domain::Ball { lo, hi } if !lo.is_finite() || !hi.is_finite() || *lo < 0.0 || lo > hi => {
            Some(format!("must have radii in order that are not negative, found ball({lo}, {hi})"))
        }
        _ => None,
    }
}

fn types(types: &[TensorType]) -> String {
    let texts: Vec<String> = types.iter().map(TensorType::to_string).collect();
    texts.join(", ")
}
