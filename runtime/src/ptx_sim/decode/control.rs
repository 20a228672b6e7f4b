//! Branches, barriers and the instructions of a warp.

use super::super::ast::Operand;
use super::super::code::{NONE, Op, Shuffle, Vote, WarpOp};
use super::super::lex::At;
use super::super::num::int::Int2;
use super::super::types::Ty;
use super::Decoded;
use super::form::Form;
use super::operands::int_ty;
use super::scope::{Builder, Fix, Label};

impl<'a, 's> Builder<'a, 's> {
    pub(super) fn branch(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        let is_table = form.inst.opcode == "brx";
        if is_table {
            form.must(&[("idx", ())])?;
        }
        form.flag("uni");
        let pc = self.pc() as usize;
        if is_table {
            let [index, Operand::Name(name)] = form.operands()? else {
                return Err(form.error("expected an index and the label of .branchtargets"));
            };
            let src = self.src(form, index, Ty::U32)?;
            self.push(form, Op::BranchTable(NONE), &[], &[src])?;
            self.refer(form.inst.at, name, Fix::Branch(pc));
            return Ok(());
        }
        let [Operand::Name(name)] = form.operands()? else {
            return Err(form.error("expected a label"));
        };
        self.push(form, Op::Branch(NONE), &[], &[])?;
        self.refer(form.inst.at, name, Fix::Branch(pc));
        Ok(())
    }

    pub(super) fn branch_targets(&mut self, at: At, name: &'a str, targets: &[&'a str]) -> Decoded<()> {
        let table = self.program.tables.len();
        self.program.tables.push(vec![NONE; targets.len()]);
        for (idx, target) in targets.iter().enumerate() {
            self.refer(at, target, Fix::Entry { table, idx });
        }
        self.define_label(at, name, Label::Table(table as u32))
    }

    /// `ret`, `exit` and `trap`; `ret` of an entry ends the thread.
    pub(super) fn leave(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        let op = match form.inst.opcode {
            "ret" => {
                form.flag("uni");
                Op::Return
            }
            "exit" => Op::Exit,
            _ => Op::Trap,
        };
        let [] = form.operands()?;
        self.push(form, op, &[], &[])
    }

    pub(super) fn barrier(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        let is_short = form.inst.opcode == "bar";
        if is_short && form.flag("warp") {
            form.must(&[("sync", ())])?;
            let [mask] = form.operands()?;
            let mask = self.src(form, mask, Ty::B32)?;
            return self.push(form, Op::Warp(WarpOp::Sync), &[], &[mask]);
        }
        form.flag("cta");
        form.must(&[("sync", ())])?;
        let aligned = is_short || form.flag("aligned");
        let mut src = Vec::new();
        for operand in &form.inst.operands {
            src.push(self.src(form, operand, Ty::U32)?);
        }
        if src.is_empty() || src.len() > 2 {
            return Err(form.error(format!("`{}` has one or two operands", form.full_name())));
        }
        self.push(form, Op::Barrier { aligned, has_count: src.len() == 2 }, &[], &src)
    }

    /// Fences order memory of one thread for others; the simulator's memory is ordered anyway.
    pub(super) fn fence(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        if form.inst.opcode == "membar" {
            form.must(&[("cta", ()), ("gl", ()), ("sys", ())])?;
        } else {
            form.one_of(&[("sc", ()), ("acq_rel", ())]);
            form.must(&[("cta", ()), ("cluster", ()), ("gpu", ()), ("sys", ())])?;
        }
        let [] = form.operands()?;
        self.push(form, Op::Nop, &[], &[])
    }

    pub(super) fn warp(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        match form.inst.opcode {
            "shfl" => self.shuffle(form),
            "vote" => self.vote(form),
            "redux" => self.reduce(form),
            _ => {
                form.ty(&[Ty::B32])?;
                let [d] = form.operands()?;
                let dst = self.dst(form, d, Ty::B32)?;
                self.push(form, Op::Warp(WarpOp::ActiveMask), &[dst], &[])
            }
        }
    }

    /// Sources of warp instructions begin with the mask.
    fn shuffle(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        form.must(&[("sync", ())])?;
        let modes = [
            ("up", Shuffle::Up),
            ("down", Shuffle::Down),
            ("bfly", Shuffle::Butterfly),
            ("idx", Shuffle::Index),
        ];
        let mode = form.must(&modes)?;
        form.ty(&[Ty::B32])?;
        let [d, a, b, c, mask] = form.operands()?;
        let at = form.inst.at;
        let dst = match d {
            Operand::Pair(value, predicate) => {
                let predicate = if *predicate == "_" { 0 } else { self.predicate(at, predicate)? };
                [self.dst(form, &Operand::Name(value), Ty::B32)?, predicate]
            }
            _ => [self.dst(form, d, Ty::B32)?, 0],
        };
        let src = [
            self.src(form, mask, Ty::B32)?,
            self.src(form, a, Ty::B32)?,
            self.src(form, b, Ty::B32)?,
            self.src(form, c, Ty::B32)?,
        ];
        self.push(form, Op::Warp(WarpOp::Shuffle(mode)), &dst, &src)
    }

    fn vote(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        form.must(&[("sync", ())])?;
        let modes =
            [("all", Vote::All), ("any", Vote::Any), ("uni", Vote::Uniform), ("ballot", Vote::Ballot)];
        let mode = form.must(&modes)?;
        let result = form.ty(if mode == Vote::Ballot { &[Ty::B32] } else { &[Ty::Pred] })?;
        let [d, a, mask] = form.operands()?;
        let dst = self.dst(form, d, result)?;
        let mask = self.src(form, mask, Ty::B32)?;
        let value = self.positive_predicate(form, a)?;
        self.push(form, Op::Warp(WarpOp::Vote(mode)), &[dst], &[mask, value])
    }

    fn reduce(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        form.must(&[("sync", ())])?;
        let ops = [
            ("add", Int2::Add),
            ("min", Int2::Min),
            ("max", Int2::Max),
            ("and", Int2::And),
            ("or", Int2::Or),
            ("xor", Int2::Xor),
        ];
        let op = form.must(&ops)?;
        let bitwise = matches!(op, Int2::And | Int2::Or | Int2::Xor);
        let ty = form.ty(if bitwise { &[Ty::B32] } else { &[Ty::U32, Ty::S32] })?;
        let [d, a, mask] = form.operands()?;
        let dst = self.dst(form, d, ty)?;
        let src = [self.src(form, mask, Ty::B32)?, self.src(form, a, ty)?];
        self.push(form, Op::Warp(WarpOp::Reduce(op, int_ty(ty))), &[dst], &src)
    }
}
