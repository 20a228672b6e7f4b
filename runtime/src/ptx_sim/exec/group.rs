//! Threads that stand at the same instruction execute it together.
//!
//! In: threads that are ready. Out: the same threads, each where it must wait for others, or gone. Which threads go together is
//! a matter of speed alone: memory finds out every pair of accesses whose order nothing fixes, whichever comes first. Of several
//! groups the one that stands first in the program runs, so that threads that took different branches meet behind them. A
//! kernel with atomics has its threads run one after the other, because there the order may show in results that are no fault.

use super::super::code::{Inst, NONE, Op};
use super::block::Block;
use super::fault::Fault;
use super::file::span;
use super::thread::{State, step, undefined};
use super::traffic::Trouble;
use super::wide::wide;
use std::cell::Cell;

/// Threads that stand at the same instruction, ascending.
pub(super) struct Group {
    pc: u32,
    lanes: Vec<u32>,
    /// Instructions that they have executed since they are a group.
    steps: u64,
    /// The most that one of them had executed before.
    before: u64,
}

/// What a group does next.
enum Next {
    /// All go on at that instruction.
    At(u32),
    /// They have gone apart.
    Apart,
}

/// A fault of a thread of the group.
type Failed = (u32, Box<Trouble>);

impl Block<'_> {
    /// Runs ready threads until each waits or has exited; `lanes` is ascending.
    pub(super) fn run_lanes(&mut self, lanes: Vec<u32>) -> Result<(), Box<Fault>> {
        let mut groups = vec![];
        self.regroup(lanes, &mut groups);
        while let Some(first) = (0..groups.len()).min_by_key(|idx| groups[*idx].pc) {
            let group = groups.swap_remove(first);
            self.run_group(group, &mut groups)?;
        }
        Ok(())
    }

    /// Puts threads that are ready into groups, by where they stand.
    fn regroup(&mut self, lanes: Vec<u32>, groups: &mut Vec<Group>) {
        let Some(first) = lanes.first().map(|lane| &self.threads[*lane as usize]) else { return };
        let pc = first.pc;
        let threads = lanes.iter().map(|lane| &self.threads[*lane as usize]);
        if threads.clone().all(|thread| thread.state == State::Ready && thread.pc == pc) {
            let before = threads.map(|thread| thread.executed).max().unwrap_or(0);
            groups.push(Group { pc, lanes, steps: 0, before });
            return;
        }
        for lane in lanes {
            let thread = &self.threads[lane as usize];
            if thread.state != State::Ready {
                continue;
            }
            let group = match groups.iter_mut().find(|group| group.pc == thread.pc && group.steps == 0) {
                Some(group) => group,
                None => {
                    groups.push(Group { pc: thread.pc, lanes: vec![], steps: 0, before: 0 });
                    let last = groups.len() - 1;
                    &mut groups[last]
                }
            };
            match group.lanes.last() {
                Some(last) if *last > lane => {
                    let at = group.lanes.partition_point(|other| *other < lane);
                    group.lanes.insert(at, lane);
                }
                _ => group.lanes.push(lane),
            }
            group.before = group.before.max(thread.executed);
        }
    }

    /// Tells the threads of a group where they stand.
    fn settle(&mut self, group: &mut Group) {
        for lane in &group.lanes {
            let thread = &mut self.threads[*lane as usize];
            thread.pc = group.pc;
            thread.executed += group.steps;
        }
        self.memory.counts.instructions += group.steps * group.lanes.len() as u64;
        group.before += group.steps;
        group.steps = 0;
    }

    fn run_group(&mut self, mut group: Group, groups: &mut Vec<Group>) -> Result<(), Box<Fault>> {
        let program = self.memory.machine.program;
        let limit = self.memory.machine.options.max_instructions;
        // Where another group waits for this one to come by.
        let next = groups.iter().map(|group| group.pc).min().unwrap_or(NONE);
        loop {
            if group.pc >= next {
                self.settle(&mut group);
                match groups.iter().position(|other| other.pc == group.pc) {
                    Some(other) => {
                        let other = groups.swap_remove(other);
                        let mut lanes = [group.lanes, other.lanes].concat();
                        lanes.sort_unstable();
                        let before = group.before.max(other.before);
                        groups.push(Group { pc: group.pc, lanes, steps: 0, before });
                    }
                    None => groups.push(group),
                }
                return Ok(());
            }
            let inst = &program.code[group.pc as usize];
            group.steps += 1;
            match self.execute_group(inst, &mut group, limit) {
                Ok(Next::At(pc)) => group.pc = pc,
                Ok(Next::Apart) => {
                    self.regroup(group.lanes, groups);
                    return Ok(());
                }
                Err((lane, trouble)) => {
                    self.settle(&mut group);
                    return Err(self.fault(lane as usize, &trouble));
                }
            }
        }
    }

    fn execute_group(&mut self, inst: &Inst, group: &mut Group, limit: u64) -> Result<Next, Failed> {
        let passing = self.passing(inst, &group.lanes)?;
        let onward = group.pc + 1;
        let lanes = passing.as_deref().unwrap_or(&group.lanes);
        if lanes.is_empty() {
            return Ok(Next::At(onward));
        }
        for slot in &inst.src[..usize::from(inst.n_sources)] {
            if !self.files.is_defined(*slot, lanes) {
                let is_undefined = |lane: &&u32| !self.files.is_defined(*slot, &[**lane]);
                let lane = lanes.iter().find(is_undefined).copied().unwrap_or(lanes[0]);
                return Err((lane, undefined(self.memory.machine.program, *slot)));
            }
        }
        if group.before + group.steps > limit {
            let message = format!("has executed more than {limit} instructions; does its loop end?");
            return Err((lanes[0], Trouble::other(message)));
        }
        match inst.op {
            Op::Branch(target) if passing.is_none() => return Ok(Next::At(target)),
            Op::Load(access) if self.memory.takes_lanes(&access) => {
                self.memory.load_lanes(inst, &access, lanes, &self.files)?;
            }
            Op::Store(access) if self.memory.takes_lanes(&access) => {
                self.memory.store_lanes(inst, &access, lanes, &self.files)?;
            }
            _ if wide(inst, &self.files, lanes, self.memory.machine.has_vectors) => {}
            _ => {
                let lanes = lanes.to_vec();
                return self.execute_alone(inst, group, &lanes);
            }
        }
        Ok(Next::At(onward))
    }

    /// Those lanes whose guard holds; `None` if all do. Errors: a guard that nothing has written.
    fn passing(&self, inst: &Inst, lanes: &[u32]) -> Result<Option<Vec<u32>>, Failed> {
        if inst.guard == NONE {
            return Ok(None);
        }
        if !self.files.is_defined(inst.guard, lanes) {
            let is_undefined = |lane: &&u32| !self.files.is_defined(inst.guard, &[**lane]);
            let lane = lanes.iter().find(is_undefined).copied().unwrap_or(lanes[0]);
            return Err((lane, undefined(self.memory.machine.program, inst.guard)));
        }
        let row = self.files.row(inst.guard);
        let passes = |cell: &Cell<u64>| (cell.get() != 0) != inst.guard_negated;
        let n_passing = match span(lanes) {
            Some(range) => row[range].iter().filter(|cell| passes(cell)).count(),
            None => lanes.iter().filter(|lane| passes(&row[**lane as usize])).count(),
        };
        if n_passing == lanes.len() {
            return Ok(None);
        }
        if n_passing == 0 {
            return Ok(Some(vec![]));
        }
        Ok(Some(lanes.iter().copied().filter(|lane| passes(&row[*lane as usize])).collect()))
    }

    /// Executes an instruction for one thread after the other; those of the group that are not in `lanes` pass it by.
    fn execute_alone(&mut self, inst: &Inst, group: &mut Group, lanes: &[u32]) -> Result<Next, Failed> {
        let pc = group.pc;
        let (steps, before) = (group.steps, group.before);
        for lane in &group.lanes {
            let thread = &mut self.threads[*lane as usize];
            thread.pc = pc + 1;
        }
        for lane in lanes {
            let thread = &mut self.threads[*lane as usize];
            thread.pc = pc;
            let regs = self.files.of(*lane as usize);
            step(inst, thread, regs, &mut self.memory).map_err(|trouble| (*lane, trouble))?;
        }
        let first = &self.threads[group.lanes[0] as usize];
        let (state, target) = (first.state, first.pc);
        let together = |lane: &u32| {
            let thread = &self.threads[*lane as usize];
            thread.state == state && thread.pc == target
        };
        if state == State::Ready && group.lanes.iter().all(together) {
            return Ok(Next::At(target));
        }
        for lane in &group.lanes {
            self.threads[*lane as usize].executed += steps;
        }
        self.memory.counts.instructions += steps * group.lanes.len() as u64;
        (group.steps, group.before) = (0, before + steps);
        Ok(Next::Apart)
    }
}
