//! Names of a program: registers, variables, labels, and the slots they get.
//!
//! In: declarations and references in the order of the text. Out: slots and addresses. Names belong to the innermost `{}`
//! around their declaration; variables of the module come into a program when it first names them.

use super::super::ast::{Function, Source};
use super::super::code::{NONE, Op, Program, Slot, SlotInfo, SlotInit, Space};
use super::super::lex::At;
use super::super::types::Ty;
use super::Decoded;
use super::call::Callee;
use super::memory::SHARED_BASE;
use birkhoff_ir::diag::{Diagnostic, Diagnostics};
use std::collections::{BTreeMap, BTreeSet};

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Name {
    Reg { slot: Slot, ty: Ty },
    Var(Var),
}

/// A variable with an address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Var {
    pub(super) space: Space,
    /// The slot that holds its address.
    pub(super) slot: Slot,
    pub(super) address: u64,
    /// Unknown for open shared arrays.
    pub(super) size_bytes: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Label {
    Code(u32),
    Table(u32),
}

/// A branch, or the entry of a table, that waits for its label.
struct Pending<'a> {
    at: At,
    scopes: Vec<u32>,
    name: &'a str,
    fix: Fix,
}

#[derive(Clone, Copy)]
pub(super) enum Fix {
    /// The instruction with this number.
    Branch(usize),
    Entry {
        table: usize,
        idx: usize,
    },
}

/// A program under construction.
pub(super) struct Builder<'a, 's> {
    pub(super) source: &'s Source<'a>,
    pub(super) program: Program,
    pub(super) errors: Vec<Diagnostic>,
    /// The guard of the instruction that is being decoded.
    pub(super) guard: Option<(Slot, bool)>,
    inits: BTreeMap<SlotInit, Slot>,
    names: Vec<BTreeMap<String, Name>>,
    scopes: Vec<u32>,
    n_scopes: u32,
    labels: BTreeMap<(u32, &'a str), Label>,
    pending: Vec<Pending<'a>>,
    queue: Vec<&'s Function<'a>>,
    pub(super) callees: BTreeMap<&'a str, Callee<'a>>,
    pub(super) has_open_shared: bool,
}

impl<'a, 's> Builder<'a, 's> {
    pub(super) fn new(source: &'s Source<'a>, root: &'s Function<'a>) -> Self {
        let sink = SlotInfo { name: "_".to_string(), init: SlotInit::Undefined };
        let program = Program {
            name: root.name.to_string(),
            exact_threads: root.exact_threads,
            max_threads: root.max_threads,
            slots: vec![sink],
            global_granule: 8,
            shared_granule: 8,
            dynamic_shared_base: SHARED_BASE,
            ..Program::default()
        };
        Builder {
            source,
            program,
            errors: Vec::new(),
            guard: None,
            inits: BTreeMap::new(),
            names: vec![BTreeMap::new()],
            scopes: Vec::new(),
            n_scopes: 0,
            labels: BTreeMap::new(),
            pending: Vec::new(),
            queue: vec![root],
            callees: BTreeMap::new(),
            has_open_shared: false,
        }
    }

    pub(super) fn queued(&self, idx: usize) -> Option<&'s Function<'a>> {
        self.queue.get(idx).copied()
    }

    pub(super) fn enqueue(&mut self, function: &'s Function<'a>) {
        if !self.queue.iter().any(|queued| std::ptr::eq(*queued, function)) {
            self.queue.push(function);
        }
    }

    pub(super) fn pc(&self) -> u32 {
        self.program.code.len() as u32
    }

    pub(super) fn n_slots(&self) -> Slot {
        self.program.slots.len() as Slot
    }

    pub(super) fn new_slot(&mut self, name: String, init: SlotInit) -> Slot {
        let slot = self.n_slots();
        self.program.slots.push(SlotInfo { name, init });
        slot
    }

    /// The slot of something that is known before the thread starts.
    pub(super) fn known(&mut self, init: SlotInit) -> Slot {
        if let Some(slot) = self.inits.get(&init) {
            return *slot;
        }
        let slot = self.new_slot(String::new(), init);
        self.inits.insert(init, slot);
        slot
    }

    pub(super) fn open_scope(&mut self) {
        self.n_scopes += 1;
        self.scopes.push(self.n_scopes);
        self.names.push(BTreeMap::new());
    }

    pub(super) fn close_scope(&mut self) {
        self.scopes.pop();
        if self.names.len() > 1 {
            self.names.pop();
        }
    }

    /// Leaves a function: its scopes, and the slots that a call of it makes undefined.
    pub(super) fn close_function(&mut self, function: &Function<'a>, first_slot: Slot) {
        while !self.scopes.is_empty() {
            self.close_scope();
        }
        let end = self.n_slots();
        if let Some(callee) = self.callees.get_mut(function.name) {
            callee.slots = (first_slot, end);
        }
    }

    pub(super) fn declare(&mut self, at: At, name: &str, value: Name) -> Decoded<()> {
        match self.names.last_mut().and_then(|scope| scope.insert(name.to_string(), value)) {
            Some(_) => Err(at.error(format!("`{name}` is declared twice in one scope"))),
            None => Ok(()),
        }
    }

    pub(super) fn declare_regs(&mut self, at: At, ty: Ty, name: &str, count: Option<u32>) -> Decoded<()> {
        let names = match count {
            Some(count) => (0..count).map(|idx| format!("{name}{idx}")).collect(),
            None => vec![name.to_string()],
        };
        for name in names {
            let slot = self.new_slot(name.clone(), SlotInit::Undefined);
            self.declare(at, &name, Name::Reg { slot, ty })?;
        }
        Ok(())
    }

    /// What `name` stands for here.
    pub(super) fn find(&mut self, at: At, name: &str) -> Decoded<Name> {
        if let Some(found) = self.names.iter().rev().find_map(|scope| scope.get(name)) {
            return Ok(*found);
        }
        let source = self.source;
        let Some(idx) = source.variables.iter().position(|variable| variable.name == name) else {
            return Err(at.error(format!("`{name}` is not declared")));
        };
        let var = self.module_variable(idx)?;
        self.names[0].insert(name.to_string(), Name::Var(var));
        Ok(Name::Var(var))
    }

    pub(super) fn define_label(&mut self, at: At, name: &'a str, label: Label) -> Decoded<()> {
        let scope = self.scopes.last().copied().unwrap_or(0);
        match self.labels.insert((scope, name), label) {
            Some(_) => Err(at.error(format!("the label `{name}` stands twice in one scope"))),
            None => Ok(()),
        }
    }

    /// Notes that `fix` waits for the label `name`, seen from here.
    pub(super) fn refer(&mut self, at: At, name: &'a str, fix: Fix) {
        self.pending.push(Pending { at, scopes: self.scopes.clone(), name, fix });
    }

    fn resolve(&mut self) {
        for pending in std::mem::take(&mut self.pending) {
            let label =
                pending.scopes.iter().rev().find_map(|scope| self.labels.get(&(*scope, pending.name)));
            let fixed = match (pending.fix, label) {
                (Fix::Branch(pc), Some(Label::Code(target))) => {
                    self.program.code[pc].op = Op::Branch(*target);
                    matches!(self.program.code[pc].n_sources, 0)
                }
                (Fix::Branch(pc), Some(Label::Table(table))) => {
                    self.program.code[pc].op = Op::BranchTable(*table);
                    matches!(self.program.code[pc].n_sources, 1)
                }
                (Fix::Entry { table, idx }, Some(Label::Code(target))) => {
                    self.program.tables[table][idx] = *target;
                    true
                }
                _ => false,
            };
            if !fixed {
                let message = format!("`{}` is no label that can be branched to from here", pending.name);
                self.errors.push(pending.at.error(message));
            }
        }
    }

    /// Resolves branches and calls, and gives the program with the names of the functions in it.
    pub(super) fn finish(mut self) -> Result<(Program, BTreeSet<&'a str>), Diagnostics> {
        self.resolve();
        for site in &mut self.program.calls {
            let callee = self.callees.values().find(|callee| callee.number == site.target);
            site.target = callee.map_or(NONE, |callee| callee.pc);
            site.callee_slots = callee.map_or((0, 0), |callee| callee.slots);
        }
        let base = self.program.dynamic_shared_base;
        let align = self.open_shared_align();
        self.program.dynamic_shared_base = base.next_multiple_of(align);
        let reached = self.queue.iter().map(|function| function.name).collect();
        Diagnostics(self.errors).into_result((self.program, reached))
    }

    fn open_shared_align(&self) -> u64 {
        let open = |variable: &&super::super::ast::Variable<'_>| variable.external;
        self.source.variables.iter().filter(open).map(|variable| variable.align).max().unwrap_or(16).max(16)
    }
}
