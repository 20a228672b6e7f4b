//! The verifier: from parsed functions to [`Program`]s.
//!
//! In: a [`Source`]. Out: one program per entry, with registers, variables, labels and calls resolved, or every error that
//! can be found: an opcode, modifier, type or operand that the simulator does not know is one. What an architecture or PTX
//! version lacks is not checked here; `ptxas` knows that better.

mod call;
mod control;
mod convert;
mod float;
mod form;
mod int;
mod memory;
mod operands;
mod scope;

use super::ast::{Function, Inst as Parsed, Source, Stmt, VarSpace};
use super::code::{Inst, MAX_SOURCES, NONE, Op, Program, SINK, Slot, Space, StaticArray};
use super::lex::At;
use birkhoff_ir::diag::{Diagnostic, Diagnostics};
use form::Form;
use scope::{Builder, Label};

type Decoded<T> = Result<T, Diagnostic>;

/// A verified module.
pub(super) struct Verified {
    pub(super) programs: Vec<Program>,
    pub(super) statics: Vec<StaticArray>,
}

/// Verifies all functions and builds the programs of the entries.
pub(super) fn decode(source: &Source<'_>) -> Result<Verified, Diagnostics> {
    let mut errors = Vec::new();
    let statics = memory::statics(source, &mut errors);
    let mut programs = Vec::new();
    let mut called = std::collections::BTreeSet::new();
    for function in source.functions.iter().filter(|function| function.is_entry) {
        match program(source, function) {
            Ok((program, reached)) => {
                programs.push(program);
                called.extend(reached);
            }
            Err(Diagnostics(found)) => errors.extend(found),
        }
    }
    // Functions that no entry calls are verified too.
    let uncalled = |function: &&Function<'_>| {
        !function.is_entry && function.body.is_some() && !called.contains(function.name)
    };
    for function in source.functions.iter().filter(uncalled) {
        if let Err(Diagnostics(found)) = program(source, function) {
            errors.extend(found);
        }
    }
    let mut names = std::collections::BTreeSet::new();
    for function in source.functions.iter().filter(|function| function.body.is_some()) {
        if !names.insert(function.name) {
            errors.push(function.at.error(format!("a second function is called `{}`", function.name)));
        }
    }
    errors.dedup();
    Diagnostics(errors).into_result(Verified { programs, statics })
}

fn program<'a, 's>(
    source: &'s Source<'a>,
    root: &'s Function<'a>,
) -> Result<(Program, std::collections::BTreeSet<&'a str>), Diagnostics> {
    let mut builder = Builder::new(source, root);
    let mut next = 0;
    while let Some(function) = builder.queued(next) {
        builder.function(function, next == 0);
        next += 1;
    }
    builder.finish()
}

impl<'a, 's> Builder<'a, 's> {
    fn function(&mut self, function: &'s Function<'a>, is_root: bool) {
        let first_slot = self.n_slots();
        self.open_scope();
        if let Err(error) = self.begin(function, is_root) {
            self.errors.push(error);
        }
        for stmt in function.body.iter().flatten() {
            if let Err(error) = self.stmt(stmt) {
                self.errors.push(error);
            }
        }
        let end = if is_root { Op::Exit } else { Op::Return };
        self.emit(function.at, None, end, &[], &[]);
        self.close_function(function, first_slot);
    }

    fn stmt(&mut self, stmt: &'s Stmt<'a>) -> Decoded<()> {
        match stmt {
            Stmt::Open => self.open_scope(),
            Stmt::Close => self.close_scope(),
            Stmt::Label(at, name) => {
                let pc = self.pc();
                self.define_label(*at, name, Label::Code(pc))?;
            }
            Stmt::Targets(at, name, targets) => self.branch_targets(*at, name, targets)?,
            Stmt::Regs { at, ty, name, count } => self.declare_regs(*at, *ty, name, *count)?,
            Stmt::Var(variable) => match variable.space {
                VarSpace::Shared => self.declare_shared(variable)?,
                _ => self.declare_private(variable)?,
            },
            Stmt::Inst(inst) => self.inst(inst)?,
        }
        Ok(())
    }

    fn inst(&mut self, inst: &'s Parsed<'a>) -> Decoded<()> {
        let guard = match inst.guard {
            Some((name, negated)) => Some((self.predicate(inst.at, name)?, negated)),
            None => None,
        };
        self.guard = guard;
        let mut form = Form::new(inst);
        self.dispatch(&mut form)
    }

    fn dispatch(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        match form.inst.opcode {
            "add" | "sub" | "min" | "max" | "abs" | "neg" | "div" | "mul" if form.has_float_type() => {
                self.float_arithmetic(form)
            }
            "add" | "sub" | "min" | "max" | "mul" => self.int_binary(form),
            "div" | "rem" => self.int_divide(form),
            "abs" | "neg" | "popc" | "clz" | "bfind" | "brev" => self.int_unary(form),
            "mad" if form.has_float_type() => self.fma(form),
            "mad" | "sad" => self.int_mad(form),
            "and" | "or" | "xor" | "not" | "cnot" => self.logic(form),
            "shl" | "shr" => self.shift(form),
            "bfe" | "bfi" | "prmt" | "lop3" | "shf" => self.bit_field(form),
            "fma" => self.fma(form),
            "rcp" | "sqrt" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" => self.float_function(form),
            "copysign" | "testp" => self.float_bits(form),
            "setp" | "set" => self.compare(form),
            "selp" => self.select(form),
            "cvt" => self.cvt(form),
            "mov" => self.mov(form),
            "ld" | "ldu" | "st" => self.load_or_store(form),
            "atom" | "red" => self.atomic(form),
            "cvta" => self.cvta(form),
            "bra" | "brx" => self.branch(form),
            "call" => self.call(form),
            "ret" | "exit" | "trap" => self.leave(form),
            "bar" | "barrier" => self.barrier(form),
            "membar" | "fence" => self.fence(form),
            "shfl" | "vote" | "activemask" | "redux" => self.warp(form),
            other => Err(form
                .error(format!("`{other}` is no opcode that the simulator knows"))
                .help("the simulator refuses what it cannot execute as the ISA manual says")),
        }
    }

    /// Appends an instruction under the guard of the one that is being decoded.
    pub(super) fn push(&mut self, form: &Form<'a, 's>, op: Op, dst: &[Slot], src: &[Slot]) -> Decoded<()> {
        form.end()?;
        self.emit(form.inst.at, self.guard, op, dst, src);
        Ok(())
    }

    pub(super) fn emit(&mut self, at: At, guard: Option<(Slot, bool)>, op: Op, dst: &[Slot], src: &[Slot]) {
        // These carry what is undefined along, so reading it is no error yet.
        let n_sources = match op {
            Op::Copy | Op::Pack { .. } | Op::Unpack { .. } => 0,
            Op::Select => 1,
            Op::Store(access) if access.space == Space::Frame => 1,
            _ => src.len().min(MAX_SOURCES),
        };
        let fill = |slots: &[Slot], idx: usize| slots.get(idx).copied().unwrap_or(SINK);
        let (guard, guard_negated) = guard.unwrap_or((NONE, false));
        let place = u32::try_from(self.program.places.len()).unwrap_or(NONE);
        self.program.places.push(at);
        self.program.code.push(Inst {
            op,
            guard,
            guard_negated,
            n_sources: n_sources as u8,
            dst: std::array::from_fn(|idx| fill(dst, idx)),
            src: std::array::from_fn(|idx| fill(src, idx)),
            place,
        });
    }
}
