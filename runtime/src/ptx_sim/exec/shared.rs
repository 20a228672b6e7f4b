//! Shared memory of a block: bounds, bytes that hold nothing, and races ([`cells`](super::cells)).

use super::super::address::FIRST_BYTE;
use super::super::code::Place;
use super::cells::{Cell, FRESH, Rival, Who};

pub(super) struct Shared {
    pub(super) bytes: Vec<u8>,
    defined: Vec<bool>,
    cells: Vec<Cell>,
    /// The smallest access has two to the power of this many bytes.
    granule_bits: u32,
}

impl Shared {
    pub(super) fn new(end: u64, granule: u32) -> Shared {
        let size = (end - FIRST_BYTE) as usize;
        let granule_bits = granule.max(1).ilog2();
        Shared {
            bytes: vec![0; size],
            defined: vec![false; size],
            cells: vec![FRESH; size.div_ceil(1 << granule_bits)],
            granule_bits,
        }
    }

    /// Forgets what was written, for the next block.
    pub(super) fn clear(&mut self) {
        self.defined.fill(false);
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
        // A length that is known makes a load of it.
        fn word<const N: usize>(bytes: &[u8]) -> u64 {
            let mut word = [0; 8];
            word[..N].copy_from_slice(&bytes[..N]);
            u64::from_le_bytes(word)
        }
        let found = &self.bytes[offset..offset + bytes];
        match bytes {
            1 => word::<1>(found),
            2 => word::<2>(found),
            4 => word::<4>(found),
            _ => word::<8>(found),
        }
    }

    pub(super) fn store(&mut self, offset: usize, bytes: usize, value: u64) {
        fn put<const N: usize>(bytes: &mut [u8], defined: &mut [bool], value: u64) {
            bytes[..N].copy_from_slice(&value.to_le_bytes()[..N]);
            defined[..N].fill(true);
        }
        let (into, defined) =
            (&mut self.bytes[offset..offset + bytes], &mut self.defined[offset..offset + bytes]);
        match bytes {
            1 => put::<1>(into, defined, value),
            2 => put::<2>(into, defined, value),
            4 => put::<4>(into, defined, value),
            _ => put::<8>(into, defined, value),
        }
    }

    /// The cells of `bytes` bytes.
    fn granules(&mut self, offset: usize, bytes: usize) -> &mut [Cell] {
        let shift = self.granule_bits;
        &mut self.cells[offset >> shift..=(offset + bytes - 1) >> shift]
    }

    /// Notes a load. Errors: a store that it races with.
    pub(super) fn note_read(&mut self, offset: usize, bytes: usize, who: &Who<'_>) -> Result<(), Rival> {
        self.granules(offset, bytes).iter_mut().try_for_each(|cell| cell.note_read(who))
    }

    /// Notes a store or an atomic. Errors: an access that it races with.
    pub(super) fn note_write(
        &mut self,
        offset: usize,
        bytes: usize,
        who: &Who<'_>,
        is_atomic: bool,
    ) -> Result<(), Rival> {
        self.granules(offset, bytes).iter_mut().try_for_each(|cell| cell.note_write(who, is_atomic))
    }
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
