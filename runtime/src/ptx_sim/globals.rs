//! Global memory as one launch sees it: bounds, and what blocks may not do to each other.
//!
//! Every granule (the smallest access of the kernel) has a shadow that says which block touched it and how. No order among
//! the blocks of a launch is promised, so a granule that one block writes and another touches is an error, whichever comes
//! first; atomics on the same granule are not. From the shadows come the numbers of distinct bytes. Threads of one block are told
//! apart elsewhere (`exec::cells`).

use super::address::{MAX_BUFFERS, region_of};
use super::code::StaticArray;
use super::memory::{Buffer, Memory};
use std::sync::OnceLock;
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
    shadows: Vec<Shadow>,
    /// The smallest access has two to the power of this many bytes.
    granule_bits: u32,
    /// No other host thread runs blocks of this launch.
    is_serial: bool,
}

/// Granules of a page.
const PAGE: usize = 1024;

/// The state of each granule of a buffer; pages come into being when they are touched.
struct Shadow {
    pages: Vec<OnceLock<Box<[AtomicU32; PAGE]>>>,
}

impl Shadow {
    fn new(n_granules: usize) -> Shadow {
        Shadow { pages: std::iter::repeat_with(OnceLock::new).take(n_granules.div_ceil(PAGE)).collect() }
    }

    #[inline]
    fn cell(&self, granule: usize) -> &AtomicU32 {
        let page = self.pages[granule / PAGE].get_or_init(|| Box::new([const { AtomicU32::new(0) }; PAGE]));
        &page[granule % PAGE]
    }
}

/// A buffer that the lanes of an access have in common.
#[derive(Clone, Copy)]
pub(super) struct Window {
    first: u64,
    size_bytes: u64,
    region: usize,
}

impl Window {
    /// The spot of `total` bytes, a power of two, at `address`, if they are in the buffer and aligned.
    #[inline]
    pub(super) fn spot(&self, address: u64, total: u64) -> Option<Spot> {
        let offset = address.wrapping_sub(self.first);
        let fits =
            offset < self.size_bytes && total <= self.size_bytes - offset && address & (total - 1) == 0;
        fits.then_some(Spot { region: self.region, offset: offset as usize })
    }
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
    pub(super) fn new(
        memory: &'m Memory,
        statics: &[StaticArray],
        granule: u32,
        is_serial: bool,
    ) -> Globals<'m> {
        let granule_bits = granule.max(1).ilog2();
        let arrays: Vec<Buffer> =
            statics.iter().map(|array| Buffer::with_bytes(&array.name, &array.bytes)).collect();
        let shadow = |buffer: &Buffer| Shadow::new(buffer.size_bytes.div_ceil(1 << granule_bits));
        let shadows = memory.buffers.iter().chain(&arrays).map(shadow).collect();
        let is_const = statics.iter().map(|array| array.is_const).collect();
        Globals { buffers: &memory.buffers, statics: arrays, is_const, shadows, granule_bits, is_serial }
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

    /// The buffer at `address`, for accesses to constant arrays or to others.
    pub(super) fn window(&self, address: u64, wants_const: bool) -> Option<Window> {
        let (region, offset) = region_of(address)?;
        let (buffer, _) = self.region(region)?;
        let first = address.wrapping_sub_signed(offset);
        let window = Window { first, size_bytes: buffer.size_bytes as u64, region };
        (self.is_const(region) == wants_const).then_some(window)
    }

    /// The name of the buffer that the spot is in, and its byte there.
    pub(super) fn name(&self, spot: Spot) -> (&str, usize) {
        (&self.buffer(spot).name, spot.offset)
    }

    /// The granules of `bytes` bytes: their region and numbers.
    #[inline]
    pub(super) fn granules(&self, spot: Spot, bytes: usize) -> (usize, std::ops::RangeInclusive<usize>) {
        let shift = self.granule_bits;
        (spot.region, spot.offset >> shift..=(spot.offset + bytes - 1) >> shift)
    }

    #[inline]
    fn buffer(&self, spot: Spot) -> &Buffer {
        match spot.region.checked_sub(MAX_BUFFERS) {
            None => &self.buffers[spot.region],
            Some(idx) => &self.statics[idx],
        }
    }

    #[inline]
    pub(super) fn load(&self, spot: Spot, bytes: usize) -> u64 {
        self.buffer(spot).load(spot.offset, bytes)
    }

    #[inline]
    pub(super) fn store(&self, spot: Spot, bytes: usize, value: u64) {
        self.buffer(spot).store(spot.offset, bytes, value, self.is_serial);
    }

    /// Whether all of at most 16 aligned bytes at the spot have been written.
    #[inline]
    pub(super) fn is_written(&self, spot: Spot, bytes: usize) -> bool {
        self.buffer(spot).is_written(spot.offset, bytes)
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
    #[inline]
    pub(super) fn touch(&self, spot: Spot, bytes: usize, block: u32, touch: Touch) -> Result<(), String> {
        let shadow = match spot.region.checked_sub(MAX_BUFFERS) {
            None => &self.shadows[spot.region],
            Some(idx) => &self.shadows[self.buffers.len() + idx],
        };
        for granule in self.granules(spot, bytes).1 {
            let cell = shadow.cell(granule);
            let mut old = cell.load(Relaxed);
            loop {
                let new = transition(old, block + 1, touch).map_err(|what| {
                    format!("byte {} of `{}`, {what}", spot.offset, self.buffer(spot).name)
                })?;
                if new == old {
                    break;
                }
                if self.is_serial {
                    cell.store(new, Relaxed);
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
        let pages = self.shadows.iter().take(self.buffers.len()).flat_map(|shadow| &shadow.pages);
        for cell in pages.filter_map(OnceLock::get).flat_map(|page| page.iter()) {
            let state = cell.load(Relaxed);
            read += u64::from(state & READ != 0);
            written += u64::from(state & WRITTEN != 0);
        }
        (read << self.granule_bits, written << self.granule_bits)
    }
}

/// The state of a granule after a touch by the block with number `me`, from one.
#[inline]
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
