//! Shared memory of a block: bounds, bytes that hold nothing, and races.
//!
//! Two accesses to one granule by different threads, one of them a store, are a race unless something orders them: a barrier
//! of the block, or `bar.warp.sync` (possibly several) from the one lane to the other. Shuffles and votes order registers
//! and not memory, as the ISA manual says. The order is kept as vector clocks among the lanes of a warp. Atomics do not race
//! with each other.

use super::super::address::FIRST_BYTE;
use super::super::code::Place;
use super::WARP;

const NOBODY: u32 = u32::MAX;

/// Who accesses, and what happened before for it.
#[derive(Clone, Copy)]
pub(super) struct Who<'c> {
    pub(super) thread: u32,
    /// Index into the program's places.
    pub(super) place: u32,
    /// How many barriers of the block have passed, from one.
    pub(super) epoch: u32,
    /// What this thread knows of the clocks of its warp's lanes.
    pub(super) clock: &'c [u32; WARP],
}

impl Who<'_> {
    fn lane(&self) -> usize {
        self.thread as usize % WARP
    }

    fn warp(&self) -> u32 {
        self.thread / WARP as u32
    }
}

/// The last store to a granule.
#[derive(Clone, Copy)]
struct Write {
    epoch: u32,
    /// [`NOBODY`] after atomics of several threads.
    thread: u32,
    clock: u32,
    place: u32,
    is_atomic: bool,
}

/// The loads of a granule since the last barrier.
#[derive(Clone, Copy)]
struct Reads {
    epoch: u32,
    /// [`NOBODY`] if they are of several warps.
    warp: u32,
    lanes: u32,
    /// The latest clock among them.
    clock: u32,
    thread: u32,
    place: u32,
}

#[derive(Clone, Copy)]
struct Cell {
    write: Write,
    reads: Reads,
}

const FRESH: Cell = Cell {
    write: Write { epoch: 0, thread: 0, clock: 0, place: 0, is_atomic: false },
    reads: Reads { epoch: 0, warp: 0, lanes: 0, clock: 0, thread: 0, place: 0 },
};

/// Another access that this one races with.
pub(super) struct Rival {
    /// [`u32::MAX`] if it is not one thread alone.
    pub(super) thread: u32,
    pub(super) place: u32,
    pub(super) verb: &'static str,
}

pub(super) struct Shared {
    pub(super) bytes: Vec<u8>,
    defined: Vec<bool>,
    cells: Vec<Cell>,
    granule: usize,
}

impl Shared {
    pub(super) fn new(end: u64, granule: u32) -> Shared {
        let size = (end - FIRST_BYTE) as usize;
        let granule = granule.max(1) as usize;
        Shared {
            bytes: vec![0; size],
            defined: vec![false; size],
            cells: vec![FRESH; size.div_ceil(granule)],
            granule,
        }
    }

    /// Forgets everything, for the next block.
    pub(super) fn clear(&mut self) {
        self.defined.fill(false);
        self.cells.fill(FRESH);
    }

    /// The offset of `total` bytes at `address`, which must lie in one of `places`. Errors: for the end of a sentence.
    pub(super) fn locate(places: &[Place], address: u64, total: u64) -> Result<usize, String> {
        let end = address.saturating_add(total);
        let inside = |place: &&Place| address >= place.address && end <= place.address + place.size_bytes;
        let Some(place) = places.iter().find(inside) else {
            return Err(outside(places, address, total));
        };
        if !address.is_multiple_of(total) {
            let offset = address - place.address;
            return Err(format!(
                "{total} bytes at byte {offset} of `{}`, which is not aligned to {total} bytes",
                place.name
            ));
        }
        Ok((address - FIRST_BYTE) as usize)
    }

    pub(super) fn is_defined(&self, offset: usize, bytes: usize) -> bool {
        self.defined[offset..offset + bytes].iter().all(|defined| *defined)
    }

    pub(super) fn load(&self, offset: usize, bytes: usize) -> u64 {
        let mut word = [0; 8];
        word[..bytes].copy_from_slice(&self.bytes[offset..offset + bytes]);
        u64::from_le_bytes(word)
    }

    pub(super) fn store(&mut self, offset: usize, bytes: usize, value: u64) {
        self.bytes[offset..offset + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
        self.defined[offset..offset + bytes].fill(true);
    }

    /// Notes a load. Errors: a store that it races with.
    pub(super) fn note_read(&mut self, offset: usize, bytes: usize, who: &Who<'_>) -> Result<(), Rival> {
        for cell in &mut self.cells[offset / self.granule..=(offset + bytes - 1) / self.granule] {
            check_write(&cell.write, who, false)?;
            let reads = &mut cell.reads;
            let own = who.clock[who.lane()];
            if reads.epoch == who.epoch {
                reads.warp = if reads.warp == who.warp() { reads.warp } else { NOBODY };
                reads.lanes |= 1 << who.lane();
                reads.clock = reads.clock.max(own);
            } else {
                let lanes = 1 << who.lane();
                *reads = Reads { epoch: who.epoch, warp: who.warp(), lanes, clock: own, thread: 0, place: 0 };
            }
            reads.thread = who.thread;
            reads.place = who.place;
        }
        Ok(())
    }

    /// Notes a store or an atomic. Errors: an access that it races with.
    pub(super) fn note_write(
        &mut self,
        offset: usize,
        bytes: usize,
        who: &Who<'_>,
        is_atomic: bool,
    ) -> Result<(), Rival> {
        for cell in &mut self.cells[offset / self.granule..=(offset + bytes - 1) / self.granule] {
            check_write(&cell.write, who, is_atomic)?;
            check_reads(&cell.reads, who)?;
            let shared_atomic = is_atomic
                && cell.write.is_atomic
                && cell.write.epoch == who.epoch
                && cell.write.thread != who.thread;
            cell.write = Write {
                epoch: who.epoch,
                thread: if shared_atomic { NOBODY } else { who.thread },
                clock: who.clock[who.lane()],
                place: who.place,
                is_atomic,
            };
        }
        Ok(())
    }
}

fn check_write(write: &Write, who: &Who<'_>, is_atomic: bool) -> Result<(), Rival> {
    if write.epoch != who.epoch || write.thread == who.thread || (write.is_atomic && is_atomic) {
        return Ok(());
    }
    let same_warp = write.thread != NOBODY && write.thread / WARP as u32 == who.warp();
    if same_warp && who.clock[write.thread as usize % WARP] > write.clock {
        return Ok(());
    }
    Err(Rival { thread: write.thread, place: write.place, verb: "stores to" })
}

fn check_reads(reads: &Reads, who: &Who<'_>) -> Result<(), Rival> {
    if reads.epoch != who.epoch {
        return Ok(());
    }
    let rival = Rival { thread: reads.thread, place: reads.place, verb: "loads" };
    if reads.warp != who.warp() {
        return Err(rival);
    }
    let others = reads.lanes & !(1 << who.lane());
    let ordered = |lane: usize| who.clock[lane] > reads.clock;
    if (0..WARP).filter(|lane| others >> lane & 1 == 1).all(ordered) {
        return Ok(());
    }
    // The last reader may be this thread itself; then another lane is the rival.
    let lane = (0..WARP).find(|lane| others >> lane & 1 == 1).unwrap_or(0) as u32;
    let thread = if reads.thread == who.thread { who.warp() * WARP as u32 + lane } else { reads.thread };
    Err(Rival { thread, ..rival })
}

/// Names the variable that an address out of bounds is nearest behind.
fn outside(places: &[Place], address: u64, total: u64) -> String {
    let below = places.iter().filter(|place| place.address <= address).max_by_key(|place| place.address);
    match below {
        Some(place) => format!(
            "{total} bytes at byte {} of `{}`, which has {} bytes",
            address - place.address,
            place.name,
            place.size_bytes
        ),
        None => format!("{total} bytes at address {address:#x}, where no variable is"),
    }
}
