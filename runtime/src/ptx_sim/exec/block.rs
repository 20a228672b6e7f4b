//! A block: its threads in order, and its barriers.

use super::super::code::{Op, Place};
use super::super::launch::Counts;
use super::asked::Asked;
use super::fault::{Fault, FaultKind, triple};
use super::frame::Frames;
use super::shared::Shared;
use super::thread::{DEFINED, Registers, State, Thread, run};
use super::traffic::{BlockMemory, Trouble};
use super::{Machine, Order, WARP};

/// The state of one block; used again for the next.
pub(in crate::ptx_sim) struct Block<'m> {
    pub(super) memory: BlockMemory<'m>,
    pub(super) threads: Vec<Thread>,
    /// Register files, one after the other.
    pub(super) values: Vec<u64>,
    pub(super) defined: Vec<u8>,
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
            frames: Frames::new(n_threads, program.private_bytes),
            counts: Counts::default(),
            pending: None,
            block: 0,
            epoch: 1,
            asked: machine.options.block_loads.then(Asked::default),
            clocks: vec![[0; WARP]; n_threads],
        };
        let n_values = n_threads * program.slots.len();
        let (values, defined) = (vec![0; n_values], vec![0; n_values]);
        Block { memory, threads: vec![Thread::new(); n_threads], values, defined }
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

    /// Runs all warps to the next barrier of the block.
    fn run_interval(&mut self) -> Result<(), Box<Fault>> {
        let n_warps = self.threads.len().div_ceil(WARP);
        self.memory.asked.iter_mut().for_each(Asked::meet);
        for idx in 0..n_warps {
            let warp = self.ordered(idx, n_warps);
            self.run_warp(warp)?;
        }
        Ok(())
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
        self.memory.epoch = 1;
        self.memory.pending = None;
        self.memory.shared.clear();
        self.memory.frames.clear();
        self.memory.clocks.fill([0; WARP]);
        self.threads.fill(Thread::new());
        let position = Machine::unravel(block, machine.launch.grid);
        let slots = &machine.program.slots;
        for thread in 0..self.threads.len() {
            let first = thread * slots.len();
            for (idx, slot) in slots.iter().enumerate() {
                let initial = machine.initial(slot.init, position, thread);
                self.values[first + idx] = initial.unwrap_or(0);
                self.defined[first + idx] = if initial.is_some() { DEFINED } else { 0 };
            }
        }
    }

    pub(super) fn n_slots(&self) -> usize {
        self.memory.machine.program.slots.len()
    }

    /// Runs the lanes of a warp until each has exited, or waits for other warps, or for ever.
    fn run_warp(&mut self, warp: usize) -> Result<(), Box<Fault>> {
        let n_lanes = (self.threads.len() - warp * WARP).min(WARP);
        loop {
            for idx in 0..n_lanes {
                let thread = warp * WARP + self.ordered(idx, n_lanes);
                if self.threads[thread].state == State::Ready {
                    self.run_thread(thread)?;
                }
            }
            if !self.resolve_warp(warp)? {
                return Ok(());
            }
        }
    }

    fn run_thread(&mut self, thread: usize) -> Result<(), Box<Fault>> {
        let n_slots = self.n_slots();
        let range = thread * n_slots..(thread + 1) * n_slots;
        let mut regs =
            Registers { values: &mut self.values[range.clone()], defined: &mut self.defined[range] };
        let result = run(&mut self.threads[thread], thread, &mut regs, &mut self.memory);
        result.map_err(|trouble| self.fault(thread, &trouble))
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
        for thread in 0..self.threads.len() {
            self.check_convergence(thread)?;
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
        let value = |idx: usize| self.values[thread * self.n_slots() + inst.src[idx] as usize];
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
