//! Global memory as one launch sees it: bounds, and what blocks may not do to each other.
//!
//! Every granule (the smallest access of the kernel) has a shadow that says which block touched it and how. No order among
//! the blocks of a launch is promised, so a granule that one block writes and another touches is an error, whichever comes
//! first; atomics on the same granule are not. From the shadows come the numbers of distinct bytes. Threads of one block that
//! meet in global memory are not told apart here: the two orders find what depends on them.

use super::address::{MAX_BUFFERS, region_of};
use super::code::StaticArray;
use super::memory::{Buffer, Memory};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

const READ: u32 = 1 << 31;
const WRITTEN: u32 = 1 << 30;
/// Read by a load that promises that the kernel does not write.
const READ_ONLY: u32 = 1 << 29;
const ID: u32 = READ_ONLY - 1;
/// Read by several blocks.
const MANY: u32 = ID;
/// Touched by atomics.
const ATOMIC: u32 = ID - 1;
/// The most blocks of a launch.
pub(super) const MAX_BLOCKS: u64 = ATOMIC as u64 - 1;

pub(super) struct Globals<'m> {
    buffers: &'m [Buffer],
    statics: Vec<Buffer>,
    is_const: Vec<bool>,
    shadows: Vec<Vec<AtomicU32>>,
    granule: usize,
}

/// What an access does to memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Touch {
    Read,
    /// A load with `.nc`.
    ReadOnly,
    Write,
    Atomic,
}

/// A place in global memory that an access may use.
#[derive(Clone, Copy)]
pub(super) struct Spot {
    region: usize,
    offset: usize,
}

impl Spot {
    /// The spot `bytes` bytes on, within the same access.
    pub(super) fn plus(self, bytes: usize) -> Spot {
        Spot { offset: self.offset + bytes, ..self }
    }
}

impl<'m> Globals<'m> {
    pub(super) fn new(memory: &'m Memory, statics: &[StaticArray], granule: u32) -> Globals<'m> {
        let granule = granule.max(1) as usize;
        let arrays: Vec<Buffer> =
            statics.iter().map(|array| Buffer::with_bytes(&array.name, &array.bytes)).collect();
        let shadow = |buffer: &Buffer| {
            let n_granules = buffer.size_bytes.div_ceil(granule);
            std::iter::repeat_with(AtomicU32::default).take(n_granules).collect()
        };
        let shadows = memory.buffers.iter().chain(&arrays).map(shadow).collect();
        let is_const = statics.iter().map(|array| array.is_const).collect();
        Globals { buffers: &memory.buffers, statics: arrays, is_const, shadows, granule }
    }

    /// The buffer and shadow of a region.
    fn region(&self, region: usize) -> Option<(&Buffer, usize)> {
        match region.checked_sub(MAX_BUFFERS) {
            None => self.buffers.get(region).map(|buffer| (buffer, region)),
            Some(idx) => self.statics.get(idx).map(|buffer| (buffer, self.buffers.len() + idx)),
        }
    }

    /// Whether `address` lies in a constant array of the module.
    fn is_const(&self, region: usize) -> bool {
        region.checked_sub(MAX_BUFFERS).and_then(|idx| self.is_const.get(idx)).copied().unwrap_or(false)
    }

    /// Checks bounds and alignment of `total` bytes at `address`. Errors: what is wrong, for the end of a sentence.
    pub(super) fn locate(&self, address: u64, total: u64, wants_const: Option<bool>) -> Result<Spot, String> {
        let found = region_of(address).and_then(|(idx, offset)| Some((idx, offset, self.region(idx)?.0)));
        let Some((region, offset, buffer)) = found else {
            return Err(format!("{total} bytes at {address:#x}, where no buffer is"));
        };
        let size = buffer.size_bytes as i64;
        if offset < 0 || offset + total as i64 > size {
            return Err(format!(
                "{total} bytes at byte {offset} of `{}`, which has {size} bytes",
                buffer.name
            ));
        }
        if !address.is_multiple_of(total) {
            return Err(format!(
                "{total} bytes at byte {offset} of `{}`, which is not aligned to {total} bytes",
                buffer.name
            ));
        }
        if wants_const.is_some_and(|wants| wants != self.is_const(region)) {
            return Err(format!("`{}`, which is not in the state space of this access", buffer.name));
        }
        Ok(Spot { region, offset: offset as usize })
    }

    fn buffer(&self, spot: Spot) -> &Buffer {
        match spot.region.checked_sub(MAX_BUFFERS) {
            None => &self.buffers[spot.region],
            Some(idx) => &self.statics[idx],
        }
    }

    pub(super) fn load(&self, spot: Spot, bytes: usize) -> u64 {
        self.buffer(spot).load(spot.offset, bytes)
    }

    pub(super) fn store(&self, spot: Spot, bytes: usize, value: u64) {
        self.buffer(spot).store(spot.offset, bytes, value);
    }

    /// Whether `bytes` bytes at the spot have ever been written; otherwise where that is.
    pub(super) fn check_written(&self, spot: Spot, bytes: usize) -> Result<(), String> {
        let buffer = self.buffer(spot);
        if buffer.is_written(spot.offset, bytes) {
            return Ok(());
        }
        Err(format!("byte {} of `{}`, which nothing has written", spot.offset, buffer.name))
    }

    /// Notes that block `block` touches `bytes` bytes. Errors: another block's access forbids it.
    pub(super) fn touch(&self, spot: Spot, bytes: usize, block: u32, touch: Touch) -> Result<(), String> {
        let shadow = match spot.region.checked_sub(MAX_BUFFERS) {
            None => &self.shadows[spot.region],
            Some(idx) => &self.shadows[self.buffers.len() + idx],
        };
        let first = spot.offset / self.granule;
        let last = (spot.offset + bytes - 1) / self.granule;
        for cell in &shadow[first..=last] {
            let mut old = cell.load(Relaxed);
            loop {
                let new = transition(old, block + 1, touch).map_err(|what| {
                    format!("byte {} of `{}`, {what}", spot.offset, self.buffer(spot).name)
                })?;
                if new == old {
                    break;
                }
                match cell.compare_exchange_weak(old, new, Relaxed, Relaxed) {
                    Ok(_) => break,
                    Err(found) => old = found,
                }
            }
        }
        Ok(())
    }

    /// Distinct bytes of the caller's buffers that were read, and that were written.
    pub(super) fn distinct_bytes(&self) -> (u64, u64) {
        let (mut read, mut written) = (0, 0);
        for cell in self.shadows.iter().take(self.buffers.len()).flatten() {
            let state = cell.load(Relaxed);
            read += u64::from(state & READ != 0);
            written += u64::from(state & WRITTEN != 0);
        }
        (read * self.granule as u64, written * self.granule as u64)
    }
}

/// The state of a granule after a touch by the block with number `me`, from one.
fn transition(old: u32, me: u32, touch: Touch) -> Result<u32, &'static str> {
    let id = old & ID;
    let flags = old & !ID;
    match touch {
        Touch::Read | Touch::ReadOnly => {
            if flags & WRITTEN != 0 && id != me {
                return Err("which another block of the launch writes");
            }
            if touch == Touch::ReadOnly && flags & WRITTEN != 0 {
                return Err("which this kernel also writes, so it cannot be loaded with .nc");
            }
            let reader = if id == 0 || id == me { me } else { MANY };
            Ok(flags | READ | if touch == Touch::ReadOnly { READ_ONLY } else { 0 } | reader)
        }
        Touch::Write if id != 0 && id != me => Err("which another block of the launch reads or writes"),
        Touch::Write if flags & READ_ONLY != 0 => {
            Err("which this kernel also loads with .nc, so it cannot be written")
        }
        Touch::Write => Ok(flags | WRITTEN | me),
        Touch::Atomic if id != 0 && id != ATOMIC => Err("which is also touched without an atomic"),
        Touch::Atomic => Ok(flags | READ | WRITTEN | ATOMIC),
    }
}
