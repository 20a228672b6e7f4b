//! Instructions for which lanes of a warp wait for each other.
//!
//! A lane waits until every lane of its mask that has not exited stands at the same instruction with the same mask. What a
//! shuffle takes from a lane that is not there is undefined, as the ISA manual says: it becomes an error where it is used.

use super::super::code::{Op, Shuffle, Vote, WarpOp};
use super::super::num::int::int2;
use super::WARP;
use super::block::Block;
use super::fault::Fault;
use super::file::DEFINED;
use super::thread::State;
use super::traffic::Trouble;

impl Block<'_> {
    /// Lets those lanes of a warp go on whose partners have all arrived. Gives whether there were any.
    pub(super) fn resolve_warp(&mut self, warp: usize) -> Result<bool, Box<Fault>> {
        let mut resolved = false;
        for lane in 0..WARP {
            let thread = warp * WARP + lane;
            if self.threads.get(thread).is_some_and(|thread| thread.state == State::AtWarp) {
                resolved |= self.resolve_lane(warp, lane)?;
            }
        }
        Ok(resolved)
    }

    fn warp_op(&self, thread: usize) -> Option<WarpOp> {
        let thread = self.threads.get(thread)?;
        match self.memory.machine.program.code.get(thread.pc as usize)?.op {
            Op::Warp(op) if thread.state == State::AtWarp => Some(op),
            _ => None,
        }
    }

    /// The value of a source of the instruction at which a thread stands.
    fn source(&self, thread: usize, idx: usize) -> u64 {
        let inst = &self.memory.machine.program.code[self.threads[thread].pc as usize];
        self.files.of(thread).get(inst.src[idx])
    }

    fn resolve_lane(&mut self, warp: usize, lane: usize) -> Result<bool, Box<Fault>> {
        let first = warp * WARP;
        let thread = first + lane;
        let Some(op) = self.warp_op(thread) else {
            return Ok(false);
        };
        let pc = self.threads[thread].pc;
        let stands_here = |other: usize| {
            self.threads.get(other).is_some_and(|other| other.pc == pc && other.state == State::AtWarp)
        };
        if op == WarpOp::ActiveMask {
            let group =
                (0..WARP).filter(|other| stands_here(first + other)).fold(0, |mask, at| mask | 1 << at);
            self.finish_lanes(first, group, |_, _| Ok((u64::from(group), None)))?;
            return Ok(true);
        }
        let mask = self.source(thread, 0) as u32;
        if mask >> lane & 1 == 0 {
            let message = format!("is lane {lane} and not in its own member mask {mask:#010x}");
            return Err(self.fault(thread, &Trouble::other(message)));
        }
        let mut group = 0_u32;
        let masks = self.files.row(self.memory.machine.program.code[pc as usize].src[0]);
        for other in (0..WARP).filter(|other| mask >> other & 1 == 1) {
            let thread = first + other;
            if stands_here(thread) && masks[thread].get() as u32 == mask {
                group |= 1 << other;
            } else if self.threads.get(thread).is_some_and(|thread| thread.state != State::Exited) {
                return Ok(false);
            }
        }
        self.execute(op, first, group)?;
        Ok(true)
    }

    fn execute(&mut self, op: WarpOp, first: usize, group: u32) -> Result<(), Box<Fault>> {
        let members: Vec<usize> = (0..WARP).filter(|lane| group >> lane & 1 == 1).collect();
        let value = |block: &Self, lane: usize| block.source(first + lane, 1);
        match op {
            WarpOp::Sync => {
                self.join_clocks(first, &members);
                self.finish_lanes(first, group, |_, _| Ok((0, None)))
            }
            WarpOp::Vote(vote) => {
                let ballot =
                    members.iter().filter(|lane| value(self, **lane) != 0).fold(0, |mask, at| mask | 1 << at);
                let result = match vote {
                    Vote::All => u64::from(ballot == group),
                    Vote::Any => u64::from(ballot != 0),
                    Vote::Uniform => u64::from(ballot == 0 || ballot == group),
                    Vote::Ballot => u64::from(ballot),
                };
                self.finish_lanes(first, group, |_, _| Ok((result, None)))
            }
            WarpOp::Reduce(op, ty) => {
                let values: Vec<u64> = members.iter().map(|lane| value(self, *lane)).collect();
                let result = values.into_iter().reduce(|a, b| int2(op, ty, a, b)).unwrap_or(0);
                self.finish_lanes(first, group, |_, _| Ok((result, None)))
            }
            WarpOp::Shuffle(mode) => {
                let sources: Vec<Option<u64>> =
                    (0..WARP).map(|lane| (group >> lane & 1 == 1).then(|| value(self, lane))).collect();
                self.finish_lanes(first, group, |block, lane| {
                    let (b, c) = (block.source(first + lane, 2), block.source(first + lane, 3));
                    let (from, in_range) = shuffle_source(mode, lane as u32, b as u32, c as u32);
                    let found = sources.get(from as usize).copied().flatten();
                    Ok((found.unwrap_or(0), Some((in_range, found.is_some()))))
                })
            }
            WarpOp::ActiveMask => Ok(()),
        }
    }

    /// Writes each lane's result and lets the lanes go on. Of a shuffle: whether the lane was in range, and was there.
    fn finish_lanes(
        &mut self,
        first: usize,
        group: u32,
        result: impl Fn(&Self, usize) -> Result<(u64, Option<(bool, bool)>), Box<Fault>>,
    ) -> Result<(), Box<Fault>> {
        let program = self.memory.machine.program;
        for lane in (0..WARP).filter(|lane| group >> lane & 1 == 1) {
            let thread = first + lane;
            let (value, shuffled) = result(self, lane)?;
            let dst = program.code[self.threads[thread].pc as usize].dst;
            let (in_range, defined) = shuffled.unwrap_or((false, true));
            self.files.of(thread).put(dst[1], u64::from(in_range), DEFINED);
            self.files.of(thread).put(dst[0], value, if defined { DEFINED } else { 0 });
        }
        for lane in (0..WARP).filter(|lane| group >> lane & 1 == 1) {
            self.threads[first + lane].pc += 1;
            self.threads[first + lane].state = State::Ready;
        }
        Ok(())
    }

    /// What each member did before the synchronisation, all know after it.
    fn join_clocks(&mut self, first: usize, members: &[usize]) {
        let clocks = &mut self.memory.clocks;
        let mut joined = [0; WARP];
        for member in members {
            for (known, own) in joined.iter_mut().zip(&clocks[first + member]) {
                *known = (*known).max(*own);
            }
        }
        for member in members {
            joined[*member] += 1;
        }
        for member in members {
            clocks[first + member] = joined;
        }
    }

    /// Why a lane still waits at an instruction of the warp, when nothing can go on.
    pub(super) fn explain_warp_wait(&self, thread: usize) -> String {
        let first = thread / WARP * WARP;
        let mask = self.source(thread, 0) as u32;
        let pc = self.threads[thread].pc;
        let missing = (0..WARP).filter(|lane| mask >> lane & 1 == 1).find_map(|lane| {
            let other = self.threads.get(first + lane)?;
            let here = other.pc == pc && other.state == State::AtWarp;
            let same = here && self.source(first + lane, 0) as u32 == mask;
            (!same && other.state != State::Exited).then_some((lane, other.pc, here))
        });
        let Some((lane, other_pc, here)) = missing else {
            return "waits for its warp".to_string();
        };
        if here {
            return format!("waits with member mask {mask:#010x} for lane {lane}, which has another mask");
        }
        let line = self.line(other_pc);
        format!("waits for lane {lane} of its member mask {mask:#010x}, which waits at line {line} instead")
    }
}

/// The lane that a shuffle reads, and whether it is in range (ISA manual, shfl.sync).
fn shuffle_source(mode: Shuffle, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (step, clamp, segment) = (b & 31, c & 31, (c >> 8) & 31);
    let max_lane = (lane & segment) | (clamp & !segment);
    let min_lane = lane & segment;
    let (from, in_range) = match mode {
        Shuffle::Up => {
            let from = lane as i32 - step as i32;
            (from as u32, from >= max_lane as i32)
        }
        Shuffle::Down => (lane + step, lane + step <= max_lane),
        Shuffle::Butterfly => (lane ^ step, (lane ^ step) <= max_lane),
        Shuffle::Index => {
            let from = min_lane | (step & !segment);
            (from, from <= max_lane)
        }
    };
    (if in_range { from } else { lane }, in_range)
}
