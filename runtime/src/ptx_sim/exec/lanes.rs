//! Loads and stores of many threads at once.
//!
//! In: an access and the threads, whose registers have been looked at. Out: the same as one thread after the other would do, in
//! the order of the pass. Threads mostly use one buffer; it is looked up once, and what does not lie in it goes the long way,
//! which also says what is wrong.

use super::super::code::{Access, Inst, Space};
use super::super::globals::{Touch, Window};
use super::super::num::int::sign_extend;
use super::Order;
use super::file::Files;
use super::traffic::{BlockMemory, Trouble};

/// A fault of a thread.
type Failed = (u32, Box<Trouble>);

impl BlockMemory<'_> {
    /// Whether [`BlockMemory::load_lanes`] and [`BlockMemory::store_lanes`] do such accesses.
    pub(super) fn takes_lanes(&self, access: &Access) -> bool {
        !matches!(access.space, Space::Frame)
    }

    /// Loads for each of `lanes`. Errors: the first thread with a fault, and the fault.
    pub(super) fn load_lanes(
        &mut self,
        inst: &Inst,
        access: &Access,
        lanes: &[u32],
        files: &Files,
    ) -> Result<(), Failed> {
        let n_elements = usize::from(access.n_elements);
        let addresses = files.row(inst.src[0]);
        if let (Some(asked), Space::Global) = (&mut self.asked, access.space) {
            for lane in lanes {
                let (thread, address) = (*lane as usize, addresses[*lane as usize].get());
                let is_new = asked.is_new(thread, inst.place, address);
                self.counts.block_loaded_bytes += if is_new { access.total_bytes() } else { 0 };
            }
        }
        let mut window = None;
        for lane in self.in_order(lanes) {
            let thread = lane as usize;
            let address = addresses[thread].get();
            let mut out = [0; 4];
            let quick = access.space == Space::Global
                && self
                    .load_global(inst, access, thread, address, &mut window, &mut out)
                    .map_err(|it| (lane, it))?;
            if !quick {
                self.load(inst, access, thread, address, &mut out).map_err(|it| (lane, it))?;
            }
            for (slot, value) in inst.dst.iter().zip(out).take(n_elements) {
                files.row(*slot)[thread].set(value);
            }
        }
        inst.dst.iter().take(n_elements).for_each(|slot| files.define(*slot, lanes));
        Ok(())
    }

    /// Stores for each of `lanes`. Errors: the first thread with a fault, and the fault.
    pub(super) fn store_lanes(
        &mut self,
        inst: &Inst,
        access: &Access,
        lanes: &[u32],
        files: &Files,
    ) -> Result<(), Failed> {
        let n_elements = usize::from(access.n_elements);
        let addresses = files.row(inst.src[0]);
        let mut window = None;
        for lane in self.in_order(lanes) {
            let thread = lane as usize;
            let address = addresses[thread].get();
            let mut values = [0; 4];
            for (value, slot) in values.iter_mut().zip(&inst.src[1..=n_elements]) {
                *value = files.row(*slot)[thread].get();
            }
            let values = &values[..n_elements];
            let quick = access.space == Space::Global
                && self
                    .store_global(inst, access, thread, address, &mut window, values)
                    .map_err(|it| (lane, it))?;
            if !quick {
                self.store(inst, access, thread, address, values).map_err(|it| (lane, it))?;
            }
        }
        Ok(())
    }

    fn in_order<'l>(&self, lanes: &'l [u32]) -> impl Iterator<Item = u32> + use<'l> {
        let is_forward = self.machine.order == Order::Forward;
        let n = lanes.len();
        (0..n).map(move |idx| lanes[if is_forward { idx } else { n - 1 - idx }])
    }

    /// Loads from the buffer of the last access, or from another that holds the address. Gives whether there is one.
    #[inline]
    fn load_global(
        &mut self,
        inst: &Inst,
        access: &Access,
        thread: usize,
        address: u64,
        window: &mut Option<Window>,
        out: &mut [u64; 4],
    ) -> Result<bool, Box<Trouble>> {
        let globals = &self.machine.globals;
        let (bytes, total) = (usize::from(access.bytes), access.total_bytes());
        let address = address.wrapping_add_signed(access.offset);
        if window.is_none_or(|window| window.spot(address, total).is_none()) {
            *window = globals.window(address, false);
        }
        let Some(spot) = window.and_then(|window| window.spot(address, total)) else { return Ok(false) };
        if !globals.is_written(spot, total as usize) {
            return Ok(false);
        }
        self.counts.loaded_bytes += total;
        self.counts.global_loads += 1;
        let touch = if access.read_only { Touch::ReadOnly } else { Touch::Read };
        self.touch(inst, thread, spot, total as usize, touch, "loads")?;
        for (idx, value) in out.iter_mut().take(usize::from(access.n_elements)).enumerate() {
            *value = globals.load(spot.plus(idx * bytes), bytes);
        }
        if let Some(register_bits) = access.signed_to {
            let mask = u64::MAX >> (64 - u32::from(register_bits));
            out.iter_mut().for_each(|value| *value = sign_extend(*value, 8 * bytes as u32) & mask);
        }
        Ok(true)
    }

    #[inline]
    fn store_global(
        &mut self,
        inst: &Inst,
        access: &Access,
        thread: usize,
        address: u64,
        window: &mut Option<Window>,
        values: &[u64],
    ) -> Result<bool, Box<Trouble>> {
        let globals = &self.machine.globals;
        let (bytes, total) = (usize::from(access.bytes), access.total_bytes());
        let address = address.wrapping_add_signed(access.offset);
        if window.is_none_or(|window| window.spot(address, total).is_none()) {
            *window = globals.window(address, false);
        }
        let Some(spot) = window.and_then(|window| window.spot(address, total)) else { return Ok(false) };
        self.counts.stored_bytes += total;
        self.counts.global_stores += 1;
        self.touch(inst, thread, spot, total as usize, Touch::Write, "stores")?;
        for (idx, value) in values.iter().enumerate() {
            globals.store(spot.plus(idx * bytes), bytes, *value);
        }
        Ok(true)
    }
}
