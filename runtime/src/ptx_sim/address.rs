//! Where things have their addresses.
//!
//! Every buffer lies in the middle of a region of its own, so an address that leaves its buffer by less than 8 GiB, to either
//! side, still names the buffer that was meant. Shared and local memory have windows in the generic address space, as on a
//! device; addresses of a state space count from the start of its window, and none of them is small, so a null pointer plus
//! an offset hits nothing.

const REGION_BITS: u32 = 34;
const GLOBAL_START: u64 = 1 << 46;
const REGION_MIDDLE: u64 = 1 << (REGION_BITS - 1);
const WINDOW_BYTES: u64 = 1 << 32;

/// The generic address of byte zero of shared memory.
pub(super) const SHARED_WINDOW: u64 = 1 << 40;
/// The generic address of byte zero of local memory.
pub(super) const LOCAL_WINDOW: u64 = 1 << 41;
/// The first shared and the first local variable lie here.
pub(super) const FIRST_BYTE: u64 = 1024;
/// Bytes between two variables that belong to none, so that a step past one does not hit the next.
pub(super) const GAP_BYTES: u64 = 64;
/// The most buffers; the regions behind them are those of the module's own arrays.
pub(super) const MAX_BUFFERS: usize = 4096;
/// The most bytes of a buffer.
pub(super) const MAX_BUFFER_BYTES: usize = 1 << 32;

/// The address of the first byte of region `region_idx`.
pub(super) fn region_address(region_idx: usize) -> u64 {
    GLOBAL_START + ((region_idx as u64) << REGION_BITS) + REGION_MIDDLE
}

/// The region around a global address and the distance from its first byte.
pub(super) fn region_of(address: u64) -> Option<(usize, i64)> {
    let offset = address.checked_sub(GLOBAL_START)?;
    let region_idx = offset >> REGION_BITS;
    let within = (offset & ((1 << REGION_BITS) - 1)) as i64 - REGION_MIDDLE as i64;
    (region_idx < 4 * MAX_BUFFERS as u64).then_some((region_idx as usize, within))
}

/// The address within the window that starts at `window`, if `generic` is in it.
pub(super) fn in_window(window: u64, generic: u64) -> Option<u64> {
    generic.checked_sub(window).filter(|offset| *offset < WINDOW_BYTES)
}
