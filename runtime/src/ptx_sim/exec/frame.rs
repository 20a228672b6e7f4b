//! Memory of single threads: `.local` arrays and the parameters of functions.

use super::super::address::FIRST_BYTE;

/// The private bytes of all threads of a block.
pub(super) struct Frames {
    bytes: Vec<u8>,
    defined: Vec<bool>,
    frame_bytes: usize,
}

impl Frames {
    /// Memory for `n_threads` threads whose variables end at address `end`.
    pub(super) fn new(n_threads: usize, end: u64) -> Frames {
        let frame_bytes = end.saturating_sub(FIRST_BYTE) as usize;
        let size = n_threads * frame_bytes;
        Frames { bytes: vec![0; size], defined: vec![false; size], frame_bytes }
    }

    pub(super) fn clear(&mut self) {
        self.defined.fill(false);
    }

    fn start(&self, thread: usize, address: usize) -> usize {
        thread * self.frame_bytes + address
    }

    /// The value at `offset`, a checked one, and a bit for each of its bytes that holds something.
    pub(super) fn load(&self, thread: usize, offset: usize, bytes: usize) -> (u64, u8) {
        let start = self.start(thread, offset);
        let mut word = [0; 8];
        word[..bytes].copy_from_slice(&self.bytes[start..start + bytes]);
        let flags = &self.defined[start..start + bytes];
        let defined = flags.iter().enumerate().fold(0, |mask, (idx, flag)| mask | (u8::from(*flag) << idx));
        (u64::from_le_bytes(word), defined)
    }

    /// Stores `bytes` bytes, of which those with a bit in `defined` hold something.
    pub(super) fn store(&mut self, thread: usize, offset: usize, bytes: usize, value: u64, defined: u8) {
        let start = self.start(thread, offset);
        self.bytes[start..start + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
        for (idx, flag) in self.defined[start..start + bytes].iter_mut().enumerate() {
            *flag = defined >> idx & 1 == 1;
        }
    }

    /// Copies an argument or a result, with what is not defined in it.
    pub(super) fn copy(&mut self, thread: usize, from: u32, to: u32, bytes: u32) {
        let place = |address: u32| self.start(thread, address as usize - FIRST_BYTE as usize);
        let (from, to, bytes) = (place(from), place(to), bytes as usize);
        self.bytes.copy_within(from..from + bytes, to);
        self.defined.copy_within(from..from + bytes, to);
    }
}
