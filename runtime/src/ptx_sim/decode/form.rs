//! The form of an instruction: its modifiers, taken in the manual's order, and its operands.
//!
//! A modifier that is not taken is an error, so an instruction decodes only if every word of it was understood.

use super::super::ast::{Inst, Operand};
use super::super::types::Ty;
use super::Decoded;
use birkhoff_ir::diag::Diagnostic;

/// An instruction whose modifiers are being read.
pub(super) struct Form<'a, 's> {
    pub(super) inst: &'s Inst<'a>,
    next: usize,
}

impl<'a, 's> Form<'a, 's> {
    pub(super) fn new(inst: &'s Inst<'a>) -> Self {
        Form { inst, next: 0 }
    }

    pub(super) fn error(&self, message: impl AsRef<str>) -> Diagnostic {
        self.inst.at.error(message)
    }

    /// The opcode with its modifiers, as the text has it.
    pub(super) fn full_name(&self) -> String {
        let mut name = self.inst.opcode.to_string();
        for modifier in &self.inst.mods {
            name.push('.');
            name.push_str(modifier);
        }
        name
    }

    fn peek(&self) -> Option<&'a str> {
        self.inst.mods.get(self.next).copied()
    }

    /// Takes the modifier `name` if it comes next.
    pub(super) fn flag(&mut self, name: &str) -> bool {
        let found = self.peek() == Some(name);
        self.next += usize::from(found);
        found
    }

    /// Takes one of several modifiers if it comes next.
    pub(super) fn one_of<T: Copy>(&mut self, table: &[(&str, T)]) -> Option<T> {
        let name = self.peek()?;
        let (_, value) = table.iter().find(|(known, _)| *known == name)?;
        self.next += 1;
        Some(*value)
    }

    /// As [`Form::one_of`], for modifiers that must be there.
    pub(super) fn must<T: Copy>(&mut self, table: &[(&str, T)]) -> Decoded<T> {
        self.one_of(table).ok_or_else(|| {
            let names: Vec<String> = table.iter().map(|(name, _)| format!(".{name}")).collect();
            self.unexpected(&format!("one of {}", names.join(", ")))
        })
    }

    /// The type that comes next, which must be among `allowed`.
    pub(super) fn ty(&mut self, allowed: &[Ty]) -> Decoded<Ty> {
        match self.peek().and_then(Ty::from_name) {
            Some(ty) if allowed.contains(&ty) => {
                self.next += 1;
                Ok(ty)
            }
            _ => {
                let names: Vec<String> = allowed.iter().map(|ty| format!(".{}", ty.name())).collect();
                Err(self.unexpected(&format!("a type among {}", names.join(", "))))
            }
        }
    }

    /// Skips modifiers that only concern speed: cache operators, eviction priorities and prefetch sizes.
    pub(super) fn skip_hints(&mut self, operators: &[&str]) {
        while let Some(name) = self.peek() {
            let known = operators.contains(&name)
                || name.starts_with("L1::")
                || matches!(name, "L2::64B" | "L2::128B" | "L2::256B");
            if !known {
                return;
            }
            self.next += 1;
        }
    }

    fn unexpected(&self, what: &str) -> Diagnostic {
        match self.peek() {
            Some(found) => self.error(format!("`{}`: expected {what}, found `.{found}`", self.full_name())),
            None => self.error(format!("`{}`: expected {what} at the end", self.full_name())),
        }
    }

    /// Errors: a modifier is left over.
    pub(super) fn end(&self) -> Decoded<()> {
        match self.peek() {
            None => Ok(()),
            Some(found) => Err(self.error(format!(
                "`{}`: `.{found}` is no modifier that the simulator knows in this place",
                self.full_name()
            ))),
        }
    }

    /// Whether the last modifier is a floating-point type.
    pub(super) fn has_float_type(&self) -> bool {
        self.inst.mods.last().and_then(|name| Ty::from_name(name)).is_some_and(Ty::is_float)
    }

    /// The operands, which must be `n`.
    pub(super) fn operands<const N: usize>(&self) -> Decoded<[&'s Operand<'a>; N]> {
        let operands: Vec<&'s Operand<'a>> = self.inst.operands.iter().collect();
        let found = operands.len();
        <[&'s Operand<'a>; N]>::try_from(operands)
            .map_err(|_| self.error(format!("`{}` has {N} operands, found {found}", self.full_name())))
    }

    pub(super) fn n_operands(&self) -> usize {
        self.inst.operands.len()
    }
}
