//! Calls of functions of the same module, and what a function finds when it begins.
//!
//! Formals and registers of a function have fixed places in the thread, so there is no recursion; the simulator refuses it
//! when it runs.

use super::super::ast::{Function, Operand, VarSpace, Variable};
use super::super::code::{CallSite, NONE, Op, Param, Slot, SlotInit, Space, Transfer};
use super::super::types::Ty;
use super::Decoded;
use super::form::Form;
use super::memory::size_bytes;
use super::scope::{Builder, Name, Var};

/// A function that is called, as its callers see it.
#[derive(Clone, Debug)]
pub(super) struct Callee<'a> {
    /// Identifies it until its code has a place.
    pub(super) number: u32,
    pub(super) pc: u32,
    pub(super) slots: (Slot, Slot),
    params: Vec<(&'a str, Name)>,
    returns: Vec<(&'a str, Name)>,
}

impl<'a, 's> Builder<'a, 's> {
    /// Declares the parameters of `function`, whose code comes next.
    pub(super) fn begin(&mut self, function: &'s Function<'a>, is_root: bool) -> Decoded<()> {
        if is_root && function.is_entry {
            return function.params.iter().try_for_each(|param| self.entry_param(param));
        }
        let pc = self.pc();
        let callee = self.callee(function)?;
        for (name, value) in callee.params.iter().chain(&callee.returns) {
            self.declare(function.at, name, *value)?;
        }
        if let Some(callee) = self.callees.get_mut(function.name) {
            callee.pc = pc;
        }
        Ok(())
    }

    fn entry_param(&mut self, param: &Variable<'a>) -> Decoded<()> {
        let Some(size) = size_bytes(param).filter(|_| param.space == VarSpace::Param) else {
            return Err(param.at.error("parameters of an entry are .param variables of known size"));
        };
        let offset = u64::from(self.program.param_bytes).next_multiple_of(param.align);
        let (Ok(offset32), Ok(size32), Ok(end)) =
            (u32::try_from(offset), u32::try_from(size), u32::try_from(offset + size))
        else {
            return Err(param.at.error("the parameters have too many bytes"));
        };
        self.program.param_bytes = end;
        self.program.params.push(Param {
            name: param.name.to_string(),
            offset: offset32,
            size_bytes: size32,
        });
        let slot = self.constant(offset);
        let var = Var { space: Space::Param, slot, address: offset, size_bytes: Some(size) };
        self.declare(param.at, param.name, Name::Var(var))
    }

    fn formal(&mut self, variable: &Variable<'a>) -> Decoded<(&'a str, Name)> {
        if variable.space == VarSpace::Param {
            return Ok((variable.name, Name::Var(self.private_variable(variable)?)));
        }
        let slot = self.new_slot(variable.name.to_string(), SlotInit::Undefined);
        Ok((variable.name, Name::Reg { slot, ty: variable.ty }))
    }

    fn callee(&mut self, function: &'s Function<'a>) -> Decoded<Callee<'a>> {
        if let Some(callee) = self.callees.get(function.name) {
            return Ok(callee.clone());
        }
        let mut params = Vec::new();
        for variable in &function.params {
            params.push(self.formal(variable)?);
        }
        let mut returns = Vec::new();
        for variable in &function.returns {
            returns.push(self.formal(variable)?);
        }
        let number = self.callees.len() as u32;
        let callee = Callee { number, pc: NONE, slots: (0, 0), params, returns };
        self.callees.insert(function.name, callee.clone());
        self.enqueue(function);
        Ok(callee)
    }

    /// `call (results), name, (arguments);`
    pub(super) fn call(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        form.flag("uni");
        let none: &[&'a str] = &[];
        let (results, name, arguments) = match form.inst.operands.as_slice() {
            [Operand::Name(name)] => (none, *name, none),
            [Operand::Name(name), Operand::List(arguments)] => (none, *name, arguments.as_slice()),
            [Operand::List(results), Operand::Name(name)] => (results.as_slice(), *name, none),
            [Operand::List(results), Operand::Name(name), Operand::List(arguments)] => {
                (results.as_slice(), *name, arguments.as_slice())
            }
            _ => return Err(form.error("expected `call (results), name, (arguments)`")),
        };
        let source = self.source;
        let defined =
            |function: &&Function<'a>| function.name == name && function.body.is_some() && !function.is_entry;
        let Some(function) = source.functions.iter().find(defined) else {
            return Err(form
                .error(format!("no function `{name}` is defined in this module"))
                .help("calls through registers and of external functions are not simulated"));
        };
        let callee = self.callee(function)?;
        let mut site = CallSite { target: callee.number, ..CallSite::default() };
        site.copy_in = self.transfers(form, arguments, &callee.params, true)?;
        site.copy_back = self.transfers(form, results, &callee.returns, false)?;
        let number = self.program.calls.len() as u32;
        self.program.calls.push(site);
        self.push(form, Op::Call(number), &[], &[])
    }

    fn transfers(
        &mut self,
        form: &Form<'a, 's>,
        actuals: &[&'a str],
        formals: &[(&'a str, Name)],
        inwards: bool,
    ) -> Decoded<Vec<Transfer>> {
        if actuals.len() != formals.len() {
            let (expected, found) = (formals.len(), actuals.len());
            return Err(
                form.error(format!("the function takes or gives {expected} values here, found {found}"))
            );
        }
        let mut transfers = Vec::new();
        for (actual, (formal_name, formal)) in actuals.iter().zip(formals) {
            let actual_name = self.find(form.inst.at, actual)?;
            let transfer = match (actual_name, formal) {
                (Name::Reg { slot, ty }, Name::Reg { slot: other, ty: formal_ty })
                    if Ty::accepts(*formal_ty, ty) =>
                {
                    let (from, to) = if inwards { (slot, *other) } else { (*other, slot) };
                    Transfer::Slot { from, to }
                }
                (Name::Var(var), Name::Var(other))
                    if var.space == Space::Frame && var.size_bytes == other.size_bytes =>
                {
                    let (from, to) =
                        if inwards { (var.address, other.address) } else { (other.address, var.address) };
                    let size_bytes = var.size_bytes.unwrap_or(0) as u32;
                    Transfer::Frame { from: from as u32, to: to as u32, size_bytes }
                }
                _ => {
                    let message = format!("`{actual}` does not agree with `{formal_name}` of the function");
                    return Err(form.error(message));
                }
            };
            transfers.push(transfer);
        }
        Ok(transfers)
    }
}
