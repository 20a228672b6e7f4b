//! Loads, stores and atomics of a thread, with the checks and counts of each state space.

use super::super::address::{LOCAL_WINDOW, SHARED_WINDOW, in_window};
use super::super::code::{Access, AtomicOp, Inst, Place, Space};
use super::super::globals::{Spot, Touch};
use super::super::launch::Counts;
use super::super::num::float::{Mods, float2};
use super::super::num::int::{int2, sign_extend};
use super::asked::Asked;
use super::cells::{GlobalCells, Rival, Who};
use super::fault::FaultKind;
use super::frame::Frames;
use super::shared::Shared;
use super::{Machine, WARP};

/// The memory that the threads of a block reach.
pub(super) struct BlockMemory<'m> {
    pub(super) machine: &'m Machine<'m>,
    pub(super) shared: Shared,
    /// Who of the block touched which global memory.
    pub(super) global_cells: GlobalCells,
    /// Where shared variables lie, the launch's dynamic memory among them.
    pub(super) shared_places: Vec<Place>,
    pub(super) frames: Frames,
    pub(super) counts: Counts,
    /// The first load of unwritten shared memory, where the machine looks closely: thread, place, trouble.
    pub(super) pending: Option<(usize, u32, Box<Trouble>)>,
    /// The number of the block.
    pub(super) block: u64,
    pub(super) epoch: u32,
    /// What the block loads, if that is to be counted.
    pub(super) asked: Option<Asked>,
    /// What each thread knows of the clocks of its warp.
    pub(super) clocks: Vec<[u32; WARP]>,
}

/// A resolved place: space and position in it.
#[derive(Clone, Copy)]
enum Target {
    Global(Spot),
    Shared(usize),
    Private(usize),
    Param(usize),
}

/// What went wrong, before line and thread are known.
pub(super) struct Trouble {
    pub(super) kind: FaultKind,
    pub(super) message: String,
}

impl Trouble {
    pub(super) fn other(message: impl Into<String>) -> Box<Trouble> {
        Box::new(Trouble { kind: FaultKind::Other, message: message.into() })
    }

    fn race(message: String) -> Box<Trouble> {
        Box::new(Trouble { kind: FaultKind::Race, message })
    }

    pub(super) fn undefined(message: impl Into<String>) -> Box<Trouble> {
        Box::new(Trouble { kind: FaultKind::Undefined, message: message.into() })
    }
}

/// Boxed, so that the result of an access that succeeds is small.
type Done<T> = Result<T, Box<Trouble>>;

impl BlockMemory<'_> {
    fn target(&self, access: &Access, address: u64, verb: &str) -> Done<Target> {
        let total = access.total_bytes();
        let address = address.wrapping_add_signed(access.offset);
        let because = |what: String| Trouble::other(format!("{verb} {what}"));
        let program = self.machine.program;
        let shared = |address: u64| {
            Shared::locate(&self.shared_places, address, total).map(Target::Shared).map_err(because)
        };
        let private = |address: u64| {
            Shared::locate(&program.private, address, total).map(Target::Private).map_err(because)
        };
        let global = |wants_const: Option<bool>| {
            self.machine.globals.locate(address, total, wants_const).map(Target::Global).map_err(because)
        };
        match access.space {
            Space::Global => global(Some(false)),
            Space::Const => global(Some(true)),
            Space::Shared => shared(address),
            Space::Local | Space::Frame => private(address),
            Space::Param => Ok(Target::Param(address as usize)),
            Space::Generic => {
                if let Some(address) = in_window(SHARED_WINDOW, address) {
                    shared(address)
                } else if let Some(address) = in_window(LOCAL_WINDOW, address) {
                    private(address)
                } else {
                    global(None)
                }
            }
        }
    }

    /// Notes an access to global memory, and finds those of other blocks and threads that it races with.
    #[inline]
    pub(super) fn touch(
        &mut self,
        inst: &Inst,
        thread: usize,
        spot: Spot,
        bytes: usize,
        touch: Touch,
        verb: &str,
    ) -> Done<()> {
        let globals = &self.machine.globals;
        let done = globals.touch(spot, bytes, self.block as u32, touch);
        done.map_err(|what| Trouble::race(format!("{verb} {what}")))?;
        if matches!(touch, Touch::ReadOnly | Touch::Atomic) {
            // What others may not write, or may touch at the same time.
            return Ok(());
        }
        let who = who(inst, thread, self.epoch, &self.clocks);
        let (region, granules) = globals.granules(spot, bytes);
        for granule in granules {
            let cell = self.global_cells.cell(region, granule);
            let noted =
                if touch == Touch::Read { cell.note_read(&who) } else { cell.note_write(&who, false) };
            noted.map_err(|rival| {
                let (name, byte) = self.machine.globals.name(spot);
                let verb = if touch == Touch::Write { "stores to" } else { verb };
                self.raced(verb, name, byte as u64, &rival)
            })?;
        }
        Ok(())
    }

    fn race(&self, verb: &str, offset: usize, rival: &Rival) -> Box<Trouble> {
        let address = super::super::address::FIRST_BYTE + offset as u64;
        let name = self
            .shared_places
            .iter()
            .find(|place| address >= place.address && address < place.address + place.size_bytes);
        let (name, byte) = name.map_or(("?", 0), |place| (place.name.as_str(), address - place.address));
        self.raced(verb, name, byte, rival)
    }

    fn raced(&self, verb: &str, name: &str, byte: u64, rival: &Rival) -> Box<Trouble> {
        let line = self.machine.program.places.get(rival.place as usize).map_or(0, |at| at.line);
        let other = match rival.thread {
            u32::MAX => "several threads use".to_string(),
            thread => {
                let position = Machine::unravel(u64::from(thread), self.machine.launch.block);
                format!("thread {} {}", super::fault::triple(position), rival.verb)
            }
        };
        Trouble::race(format!(
            "{verb} byte {byte} of `{name}`, which {other} at line {line} with no barrier between: a race"
        ))
    }

    /// Loads all elements; `out` takes as many as the access has.
    pub(super) fn load(
        &mut self,
        inst: &Inst,
        access: &Access,
        thread: usize,
        address: u64,
        out: &mut [u64; 4],
    ) -> Done<()> {
        let bytes = usize::from(access.bytes);
        let total = access.total_bytes() as usize;
        let n_elements = usize::from(access.n_elements);
        match self.target(access, address, "loads")? {
            Target::Global(spot) => {
                if access.space != Space::Const {
                    self.counts.loaded_bytes += total as u64;
                    self.counts.global_loads += 1;
                }
                let touch = if access.read_only { Touch::ReadOnly } else { Touch::Read };
                self.touch(inst, thread, spot, total, touch, "loads")?;
                for (idx, value) in out.iter_mut().take(n_elements).enumerate() {
                    let spot = spot.plus(idx * bytes);
                    self.machine
                        .globals
                        .check_written(spot, bytes)
                        .map_err(|what| Trouble::undefined(format!("loads {what}")))?;
                    *value = self.machine.globals.load(spot, bytes);
                }
            }
            Target::Shared(offset) => {
                self.counts.shared_loaded_bytes += total as u64;
                if !self.shared.is_defined(offset, total) {
                    let trouble = self.unwritten_shared(offset);
                    if !self.machine.looks_closely {
                        return Err(trouble);
                    }
                    self.pending.get_or_insert((thread, inst.place, trouble));
                }
                let who = who(inst, thread, self.epoch, &self.clocks);
                let noted = self.shared.note_read(offset, total, &who);
                noted.map_err(|rival| self.race("loads", offset, &rival))?;
                for (idx, value) in out.iter_mut().take(n_elements).enumerate() {
                    *value = self.shared.load(offset + idx * bytes, bytes);
                }
            }
            Target::Private(offset) => {
                self.counts.local_bytes += total as u64;
                for (idx, value) in out.iter_mut().take(n_elements).enumerate() {
                    let (found, defined) = self.frames.load(thread, offset + idx * bytes, bytes);
                    if defined.count_ones() as usize != bytes {
                        let message = "loads memory of the thread that nothing has written";
                        return Err(Trouble::undefined(message));
                    }
                    *value = found;
                }
            }
            Target::Param(offset) => {
                for (idx, value) in out.iter_mut().take(n_elements).enumerate() {
                    let start = offset + idx * bytes;
                    let mut word = [0; 8];
                    word[..bytes].copy_from_slice(&self.machine.params[start..start + bytes]);
                    *value = u64::from_le_bytes(word);
                }
            }
        }
        if let Some(register_bits) = access.signed_to {
            let mask = u64::MAX >> (64 - u32::from(register_bits));
            out.iter_mut().for_each(|value| *value = sign_extend(*value, 8 * bytes as u32) & mask);
        }
        Ok(())
    }

    fn unwritten_shared(&self, offset: usize) -> Box<Trouble> {
        let address = super::super::address::FIRST_BYTE + offset as u64;
        let inside = |place: &&Place| address >= place.address && address < place.address + place.size_bytes;
        let found = self.shared_places.iter().find(inside);
        let (name, byte) = found.map_or(("?", 0), |place| (place.name.as_str(), address - place.address));
        Trouble::undefined(format!("loads byte {byte} of `{name}`, which nothing has written"))
    }

    /// Stores the elements `values`.
    pub(super) fn store(
        &mut self,
        inst: &Inst,
        access: &Access,
        thread: usize,
        address: u64,
        values: &[u64],
    ) -> Done<()> {
        let bytes = usize::from(access.bytes);
        let total = access.total_bytes() as usize;
        match self.target(access, address, "stores")? {
            Target::Global(spot) => {
                self.counts.stored_bytes += total as u64;
                self.counts.global_stores += 1;
                self.touch(inst, thread, spot, total, Touch::Write, "stores")?;
                for (idx, value) in values.iter().enumerate() {
                    let spot = spot.plus(idx * bytes);
                    self.machine.globals.store(spot, bytes, *value);
                }
            }
            Target::Shared(offset) => {
                self.counts.shared_stored_bytes += total as u64;
                let who = who(inst, thread, self.epoch, &self.clocks);
                let noted = self.shared.note_write(offset, total, &who, false);
                noted.map_err(|rival| self.race("stores to", offset, &rival))?;
                for (idx, value) in values.iter().enumerate() {
                    self.shared.store(offset + idx * bytes, bytes, *value);
                }
            }
            Target::Private(offset) => {
                self.counts.local_bytes += total as u64;
                for (idx, value) in values.iter().enumerate() {
                    self.frames.store(thread, offset + idx * bytes, bytes, *value, u8::MAX);
                }
            }
            Target::Param(_) => return Err(Trouble::other("stores to a parameter of the entry")),
        }
        Ok(())
    }

    /// Does an atomic on memory; gives what was there.
    pub(super) fn atomic(
        &mut self,
        inst: &Inst,
        access: &Access,
        op: AtomicOp,
        thread: usize,
        operands: [u64; 3],
    ) -> Done<u64> {
        let [address, b, c] = operands;
        let bytes = usize::from(access.bytes);
        self.counts.atomics += 1;
        match self.target(access, address, "has an atomic on")? {
            Target::Global(spot) => {
                self.touch(inst, thread, spot, bytes, Touch::Atomic, "has an atomic on")?;
                let written = self.machine.globals.check_written(spot, bytes);
                written.map_err(|what| Trouble::undefined(format!("has an atomic on {what}")))?;
                let old = self.machine.globals.load(spot, bytes);
                self.machine.globals.store(spot, bytes, updated(op, old, b, c));
                Ok(old)
            }
            Target::Shared(offset) => {
                if !self.shared.is_defined(offset, bytes) {
                    return Err(self.unwritten_shared(offset));
                }
                let who = who(inst, thread, self.epoch, &self.clocks);
                let noted = self.shared.note_write(offset, bytes, &who, true);
                noted.map_err(|rival| self.race("has an atomic on", offset, &rival))?;
                let old = self.shared.load(offset, bytes);
                self.shared.store(offset, bytes, updated(op, old, b, c));
                Ok(old)
            }
            _ => Err(Trouble::other("has an atomic on memory of its own")),
        }
    }
}

fn who<'c>(inst: &Inst, thread: usize, epoch: u32, clocks: &'c [[u32; WARP]]) -> Who<'c> {
    Who { thread: thread as u32, place: inst.place, epoch, clock: &clocks[thread] }
}

fn updated(op: AtomicOp, old: u64, b: u64, c: u64) -> u64 {
    match op {
        AtomicOp::Int(op, ty) => int2(op, ty, old, b),
        AtomicOp::Float(op, ty) => float2(op, ty, Mods::default(), old, b),
        AtomicOp::Exchange => b,
        AtomicOp::CompareAndSwap => {
            if old == b {
                c
            } else {
                old
            }
        }
        AtomicOp::Increment => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        AtomicOp::Decrement => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
    }
}
