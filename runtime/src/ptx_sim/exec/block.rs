//! A block: its threads in order, and its barriers.

use super::super::code::{Op, Place, SINK, SlotInit, Special};
use super::super::launch::Counts;
use super::asked::Asked;
use super::cells::GlobalCells;
use super::fault::{Fault, FaultKind, triple};
use super::file::Files;
use super::frame::Frames;
use super::shared::Shared;
use super::thread::{State, Thread};
use super::traffic::{BlockMemory, Trouble};
use super::{Machine, Order, WARP};

/// The state of one block; used again for the next.
pub(in crate::ptx_sim) struct Block<'m> {
    pub(super) memory: BlockMemory<'m>,
    pub(super) threads: Vec<Thread>,
    pub(super) files: Files,
}

impl<'m> Block<'m> {
    pub(in crate::ptx_sim) fn new(machine: &'m Machine<'m>) -> Block<'m> {
        let program = machine.program;
        let n_threads = machine.n_threads();
        let mut shared_places = program.shared.clone();
        let dynamic_bytes = u64::from(machine.launch.dynamic_shared_bytes);
        let address = program.dynamic_shared_base;
        shared_places.push(Place {
            name: "dynamic shared memory".to_string(),
            address,
            size_bytes: dynamic_bytes,
        });
        let memory = BlockMemory {
            machine,
            shared: Shared::new(address + dynamic_bytes, program.shared_granule),
            shared_places,
            global_cells: GlobalCells::default(),
            frames: Frames::new(n_threads, program.private_bytes),
            counts: Counts::default(),
            pending: None,
            block: 0,
            epoch: 0,
            asked: machine.options.block_loads.then(Asked::default),
            clocks: vec![[0; WARP]; n_threads],
        };
        let files = Files::new(program.slots.len(), n_threads);
        for (slot, info) in program.slots.iter().enumerate() {
            if let SlotInit::Constant(bits) = info.init {
                files.fill(slot as u32, Some(bits));
            }
        }
        Block { memory, threads: vec![Thread::new(); n_threads], files }
    }

    /// Runs the block with number `block` and gives its counts.
    pub(in crate::ptx_sim) fn run(&mut self, block: u64) -> Result<Counts, Box<Fault>> {
        self.start(block);
        loop {
            let interval = self.run_interval();
            if interval.as_ref().is_err_and(|fault| fault.kind == FaultKind::Race) {
                return interval.map(|()| Counts::default());
            }
            self.pending_fault()?;
            interval?;
            if self.threads.iter().all(|thread| thread.state == State::Exited) {
                break;
            }
            self.pass_barrier()?;
        }
        self.memory.counts.threads += self.threads.len() as u64;
        self.memory.counts.blocks += 1;
        Ok(std::mem::take(&mut self.memory.counts))
    }

    /// Runs all threads to the next barrier of the block.
    fn run_interval(&mut self) -> Result<(), Box<Fault>> {
        let n_warps = self.threads.len().div_ceil(WARP);
        self.memory.asked.iter_mut().for_each(Asked::meet);
        if self.memory.machine.runs_alone {
            for idx in 0..n_warps {
                let warp = self.ordered(idx, n_warps);
                self.run_warp_alone(warp)?;
            }
            return Ok(());
        }
        loop {
            self.run_lanes((0..self.threads.len() as u32).collect())?;
            let mut resolved = false;
            for idx in 0..n_warps {
                let warp = self.ordered(idx, n_warps);
                resolved |= self.resolve_warp(warp)?;
            }
            if !resolved {
                return Ok(());
            }
        }
    }

    /// The load that was put off, now that no race explains it.
    fn pending_fault(&mut self) -> Result<(), Box<Fault>> {
        match self.memory.pending.take() {
            None => Ok(()),
            Some((thread, place, trouble)) => {
                let fault = self.fault(thread, &trouble);
                Err(Box::new(Fault { place, ..*fault }))
            }
        }
    }

    fn ordered(&self, idx: usize, n: usize) -> usize {
        match self.memory.machine.order {
            Order::Forward => idx,
            Order::Reverse => n - 1 - idx,
        }
    }

    fn start(&mut self, block: u64) {
        let machine = self.memory.machine;
        self.memory.counts = Counts::default();
        self.memory.block = block;
        // Epochs go on counting, so what cells know of other blocks is old.
        self.memory.epoch += 1;
        self.memory.pending = None;
        self.memory.shared.clear();
        self.memory.global_cells.clear();
        self.memory.frames.clear();
        self.memory.clocks.fill([0; WARP]);
        self.threads.fill(Thread::new());
        let position = Machine::unravel(block, machine.launch.grid);
        for (slot, info) in machine.program.slots.iter().enumerate() {
            let slot = slot as u32;
            match info.init {
                SlotInit::Undefined => self.files.fill(slot, None),
                SlotInit::Constant(_) if slot != SINK => {}
                SlotInit::Constant(bits) => self.files.fill(slot, Some(bits)),
                SlotInit::Special(special) => self.fill_special(slot, special, position),
            }
        }
    }

    fn fill_special(&self, slot: u32, special: Special, position: [u32; 3]) {
        for thread in 0..self.threads.len() {
            let value = self.memory.machine.special(special, position, thread);
            self.files.of(thread).set(slot, value);
        }
        let all: Vec<u32> = (0..self.threads.len() as u32).collect();
        self.files.define(slot, &all);
    }

    /// Runs the lanes of a warp, one after the other, until each has exited, or waits for other warps, or for ever.
    fn run_warp_alone(&mut self, warp: usize) -> Result<(), Box<Fault>> {
        let n_lanes = (self.threads.len() - warp * WARP).min(WARP);
        loop {
            for idx in 0..n_lanes {
                let thread = warp * WARP + self.ordered(idx, n_lanes);
                if self.threads[thread].state == State::Ready {
                    self.run_lanes(vec![thread as u32])?;
                }
            }
            if !self.resolve_warp(warp)? {
                return Ok(());
            }
        }
    }

    pub(super) fn fault(&self, thread: usize, trouble: &Trouble) -> Box<Fault> {
        let pc = self.threads[thread].pc as usize;
        Box::new(Fault {
            kind: trouble.kind,
            place: self.memory.machine.program.code.get(pc).map_or(0, |inst| inst.place),
            block: self.memory.block,
            thread: thread as u32,
            message: trouble.message.clone(),
        })
    }

    /// The line of the instruction at `pc`.
    pub(super) fn line(&self, pc: u32) -> u32 {
        let program = self.memory.machine.program;
        let place = program.code.get(pc as usize).and_then(|inst| program.places.get(inst.place as usize));
        place.map_or(0, |at| at.line)
    }

    /// Nothing can go on but through a barrier: all threads must be at it.
    fn pass_barrier(&mut self) -> Result<(), Box<Fault>> {
        if let Some(thread) = self.threads.iter().position(|thread| thread.state == State::AtWarp) {
            let message = self.explain_warp_wait(thread);
            return Err(self.fault(thread, &Trouble::other(message)));
        }
        let Some(first) = self.threads.iter().position(|thread| thread.state == State::AtBarrier) else {
            return Ok(());
        };
        let id = self.barrier(first)?;
        for thread in 0..self.threads.len() {
            if self.threads[thread].state == State::Exited {
                continue;
            }
            let other = self.barrier(thread)?;
            if other != id {
                let line = self.line(self.threads[thread].pc);
                let message = format!(
                    "waits at barrier {id}, but thread {} at barrier {other} of line {line}",
                    self.name(thread)
                );
                return Err(self.fault(first, &Trouble::other(message)));
            }
        }
        let pc = self.threads[first].pc;
        let is_together = |thread: &Thread| thread.state == State::AtBarrier && thread.pc == pc;
        if !self.threads.iter().all(is_together) {
            for thread in 0..self.threads.len() {
                self.check_convergence(thread)?;
            }
        }
        for thread in &mut self.threads {
            if thread.state == State::AtBarrier {
                thread.pc += 1;
                thread.state = State::Ready;
            }
        }
        self.memory.epoch += 1;
        self.memory.counts.barriers += 1;
        Ok(())
    }

    fn name(&self, thread: usize) -> String {
        triple(Machine::unravel(thread as u64, self.memory.machine.launch.block))
    }

    /// The barrier at which a thread waits.
    fn barrier(&self, thread: usize) -> Result<u64, Box<Fault>> {
        let inst = &self.memory.machine.program.code[self.threads[thread].pc as usize];
        let value = |idx: usize| self.files.of(thread).get(inst.src[idx]);
        let n_threads = self.threads.len().next_multiple_of(WARP) as u64;
        let id = value(0);
        if id > 15 {
            return Err(self.fault(thread, &Trouble::other(format!("waits at barrier {id}; there are 16"))));
        }
        if matches!(inst.op, Op::Barrier { has_count: true, .. }) && value(1) != n_threads {
            let message = format!(
                "waits at a barrier of {} threads; only barriers of the whole block ({n_threads}) are simulated",
                value(1)
            );
            return Err(self.fault(thread, &Trouble::other(message)));
        }
        Ok(id)
    }

    /// Errors: the thread waits at an aligned barrier, and another of its block has exited, or one of its warp waits at
    /// another instruction.
    fn check_convergence(&self, thread: usize) -> Result<(), Box<Fault>> {
        let here = &self.threads[thread];
        let code = &self.memory.machine.program.code;
        let aligned = matches!(code[here.pc as usize].op, Op::Barrier { aligned: true, .. });
        if here.state != State::AtBarrier || !aligned {
            return Ok(());
        }
        let warp = thread / WARP;
        let elsewhere = self.threads.iter().enumerate().find_map(|(idx, other)| {
            if other.state == State::Exited {
                return Some(format!("thread {} has exited", self.name(idx)));
            }
            let apart = idx / WARP == warp && other.pc != here.pc;
            apart.then(|| {
                format!("thread {} of its warp waits at line {}", self.name(idx), self.line(other.pc))
            })
        });
        match elsewhere {
            Some(what) => {
                let message = format!("waits at a barrier in divergent code: {what}");
                Err(self.fault(thread, &Trouble::other(message)))
            }
            None => Ok(()),
        }
    }
}
