//! Who touched which memory since the last barrier, and what races.
//!
//! Two accesses to one granule by different threads of a block, one of them a store, are a race unless something orders them: a
//! barrier of the block, or `bar.warp.sync` (possibly several) from the one lane to the other. Shuffles and votes order registers
//! and not memory, as the ISA manual says. The order is kept as vector clocks among the lanes of a warp. Atomics do not race
//! with each other. Barriers are counted over all blocks that use the cells, so nothing is cleared between two.

use super::WARP;

const NOBODY: u32 = u32::MAX;

/// Who accesses, and what happened before for it.
#[derive(Clone, Copy)]
pub(super) struct Who<'c> {
    pub(super) thread: u32,
    /// Index into the program's places.
    pub(super) place: u32,
    /// How many barriers have passed, from one.
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
pub(super) struct Cell {
    write: Write,
    reads: Reads,
}

/// A granule that nobody has touched.
pub(super) const FRESH: Cell = Cell {
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

impl Cell {
    /// Notes a load. Errors: a store that it races with.
    pub(super) fn note_read(&mut self, who: &Who<'_>) -> Result<(), Rival> {
        check_write(&self.write, who, false)?;
        let reads = &mut self.reads;
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
        Ok(())
    }

    /// Notes a store or an atomic. Errors: an access that it races with.
    pub(super) fn note_write(&mut self, who: &Who<'_>, is_atomic: bool) -> Result<(), Rival> {
        check_write(&self.write, who, is_atomic)?;
        check_reads(&self.reads, who)?;
        let shared_atomic = is_atomic
            && self.write.is_atomic
            && self.write.epoch == who.epoch
            && self.write.thread != who.thread;
        self.write = Write {
            epoch: who.epoch,
            thread: if shared_atomic { NOBODY } else { who.thread },
            clock: who.clock[who.lane()],
            place: who.place,
            is_atomic,
        };
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

/// Granules of a page.
const PAGE: usize = 256;
/// No page.
const ABSENT: u32 = u32::MAX;

/// Cells for the global memory that one block touches. Pages are used again by the next block.
#[derive(Default)]
pub(super) struct GlobalCells {
    pages: Vec<[Cell; PAGE]>,
    n_used: usize,
    /// For each region, which page its granules have.
    directory: Vec<Vec<u32>>,
    /// What the directory says of the block.
    entries: Vec<(u32, u32)>,
}

impl GlobalCells {
    /// Gives all pages back, for the next block.
    pub(super) fn clear(&mut self) {
        for (region, page) in self.entries.drain(..) {
            self.directory[region as usize][page as usize] = ABSENT;
        }
        self.n_used = 0;
    }

    /// The cell of a granule of a region.
    #[inline]
    pub(super) fn cell(&mut self, region: usize, granule: usize) -> &mut Cell {
        let page = granule / PAGE;
        let known = self.directory.get(region).and_then(|pages| pages.get(page)).copied().unwrap_or(ABSENT);
        let page = if known == ABSENT { self.add(region, page) } else { known };
        &mut self.pages[page as usize][granule % PAGE]
    }

    #[cold]
    fn add(&mut self, region: usize, page: usize) -> u32 {
        if self.directory.len() <= region {
            self.directory.resize(region + 1, vec![]);
        }
        let pages = &mut self.directory[region];
        if pages.len() <= page {
            pages.resize(page + 1, ABSENT);
        }
        if self.n_used == self.pages.len() {
            self.pages.push([FRESH; PAGE]);
        }
        let used = self.n_used as u32;
        self.n_used += 1;
        pages[page] = used;
        self.entries.push((region as u32, page as u32));
        used
    }
}
