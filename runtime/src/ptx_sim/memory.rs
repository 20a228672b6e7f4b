//! Global memory of the simulated device: the buffers of the caller.
//!
//! In: bytes. Out: buffers with addresses that kernels can be given. Words are atomic, so that blocks of a grid may run on
//! several host threads without `unsafe`; a kernel whose result could depend on that is refused
//! ([`globals`](super::globals)).

use super::address::{MAX_BUFFER_BYTES, MAX_BUFFERS, region_address};
use birkhoff_ir::diag::Diagnostic;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A buffer of a [`Memory`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BufferId(usize);

/// Buffers in the global memory of a simulated device.
///
/// Around each are gigabytes that belong to no buffer, so an access out of bounds is always found.
#[derive(Debug, Default)]
pub struct Memory {
    pub(super) buffers: Vec<Buffer>,
}

#[derive(Debug)]
pub(super) struct Buffer {
    pub(super) name: String,
    pub(super) size_bytes: usize,
    words: Vec<AtomicU32>,
    /// A bit per byte that has been written; absent where all were from the start.
    written: Option<Vec<AtomicU32>>,
}

/// The contents of all buffers at one time.
pub(super) type Snapshot = Vec<(Vec<u32>, Vec<u32>)>;

impl Memory {
    /// Memory without buffers.
    pub fn new() -> Memory {
        Memory::default()
    }

    /// Adds a buffer that holds `bytes`; `name` is for messages.
    ///
    /// Errors: more than 4096 buffers, or more than 4 GiB.
    pub fn add(&mut self, name: &str, bytes: &[u8]) -> Result<BufferId, Diagnostic> {
        let buffer = Buffer::with_bytes(name, bytes);
        self.push(buffer)
    }

    /// Adds a buffer of `size_bytes` bytes that hold nothing: a kernel that reads one before it was written is stopped.
    ///
    /// Errors: as those of [`Memory::add`].
    pub fn add_uninitialized(&mut self, name: &str, size_bytes: usize) -> Result<BufferId, Diagnostic> {
        if size_bytes > MAX_BUFFER_BYTES {
            return Err(too_large(name));
        }
        let n_words = size_bytes.div_ceil(4);
        let written = Some(zeros(size_bytes.div_ceil(32)));
        self.push(Buffer { name: name.to_string(), size_bytes, words: zeros(n_words), written })
    }

    fn push(&mut self, buffer: Buffer) -> Result<BufferId, Diagnostic> {
        if buffer.size_bytes > MAX_BUFFER_BYTES {
            return Err(too_large(&buffer.name));
        }
        if self.buffers.len() >= MAX_BUFFERS {
            return Err(Diagnostic::device(format!(
                "the simulated device has at most {MAX_BUFFERS} buffers"
            )));
        }
        self.buffers.push(buffer);
        Ok(BufferId(self.buffers.len() - 1))
    }

    fn buffer(&self, id: BufferId) -> Result<&Buffer, Diagnostic> {
        let found = self.buffers.get(id.0);
        found.ok_or_else(|| Diagnostic::device("this buffer belongs to another memory"))
    }

    /// The device address of the first byte, a multiple of 256.
    pub fn address(&self, id: BufferId) -> u64 {
        region_address(id.0)
    }

    /// All bytes of a buffer; those never written are zero. Errors: the buffer belongs to another memory.
    pub fn read(&self, id: BufferId) -> Result<Vec<u8>, Diagnostic> {
        let buffer = self.buffer(id)?;
        let mut bytes: Vec<u8> =
            buffer.words.iter().flat_map(|word| word.load(Relaxed).to_le_bytes()).collect();
        bytes.truncate(buffer.size_bytes);
        Ok(bytes)
    }

    /// Writes `bytes` from byte `offset_bytes` on. Errors: they do not fit, or the buffer belongs to another memory.
    pub fn write(&mut self, id: BufferId, offset_bytes: usize, bytes: &[u8]) -> Result<(), Diagnostic> {
        let buffer = self.buffer(id)?;
        if offset_bytes.checked_add(bytes.len()).is_none_or(|end| end > buffer.size_bytes) {
            return Err(Diagnostic::device(format!(
                "{} bytes at byte {offset_bytes} do not fit into `{}`, which has {}",
                bytes.len(),
                buffer.name,
                buffer.size_bytes
            )));
        }
        for (idx, byte) in bytes.iter().enumerate() {
            buffer.store(offset_bytes + idx, 1, u64::from(*byte), true);
        }
        Ok(())
    }

    /// Forgets what a buffer holds: reading a byte before it is written again stops a kernel. A buffer that was added with bytes
    /// keeps them.
    ///
    /// Errors: the buffer belongs to another memory.
    pub fn forget(&mut self, id: BufferId) -> Result<(), Diagnostic> {
        let written = self.buffer(id)?.written.iter().flatten();
        written.for_each(|word| word.store(0, Relaxed));
        Ok(())
    }

    /// The first byte that was never written, if there is one. Errors: the buffer belongs to another memory.
    pub fn first_unwritten(&self, id: BufferId) -> Result<Option<usize>, Diagnostic> {
        let buffer = self.buffer(id)?;
        Ok((0..buffer.size_bytes).find(|byte| !buffer.is_written(*byte, 1)))
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let copy = |words: &[AtomicU32]| words.iter().map(|word| word.load(Relaxed)).collect();
        let copies = self.buffers.iter();
        copies
            .map(|buffer| (copy(&buffer.words), buffer.written.as_deref().map_or(Vec::new(), copy)))
            .collect()
    }

    pub(super) fn restore(&self, snapshot: &Snapshot) {
        let put = |words: &[AtomicU32], from: &[u32]| {
            words.iter().zip(from).for_each(|(word, value)| word.store(*value, Relaxed));
        };
        for (buffer, (words, written)) in self.buffers.iter().zip(snapshot) {
            put(&buffer.words, words);
            put(buffer.written.as_deref().unwrap_or(&[]), written);
        }
    }

    /// The first byte in which this memory differs from `snapshot`: the buffer's name and the byte.
    pub(super) fn difference(&self, snapshot: &Snapshot) -> Option<(&str, usize)> {
        self.buffers.iter().zip(snapshot).find_map(|(buffer, (words, _))| {
            let differs = |(word, other): (&AtomicU32, &u32)| word.load(Relaxed) != *other;
            let word_idx = buffer.words.iter().zip(words).position(differs)?;
            let bits = buffer.words[word_idx].load(Relaxed) ^ words[word_idx];
            Some((buffer.name.as_str(), 4 * word_idx + bits.trailing_zeros() as usize / 8))
        })
    }
}

fn too_large(name: &str) -> Diagnostic {
    Diagnostic::device(format!("`{name}` has more than the 4 GiB of a simulated buffer"))
}

fn zeros(n_words: usize) -> Vec<AtomicU32> {
    std::iter::repeat_with(AtomicU32::default).take(n_words).collect()
}

impl Buffer {
    pub(super) fn with_bytes(name: &str, bytes: &[u8]) -> Buffer {
        let word = |chunk: &[u8]| {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            AtomicU32::new(u32::from_le_bytes(word))
        };
        let words = bytes.chunks(4).map(word).collect();
        Buffer { name: name.to_string(), size_bytes: bytes.len(), words, written: None }
    }

    /// The `n` bytes at `offset`, a multiple of `n`; `n` is 1, 2, 4 or 8.
    #[inline]
    pub(super) fn load(&self, offset: usize, n: usize) -> u64 {
        let word = u64::from(self.words[offset / 4].load(Relaxed));
        match n {
            1 => (word >> (8 * (offset % 4))) & 0xff,
            2 => (word >> (8 * (offset % 4))) & 0xffff,
            4 => word,
            _ => word | (u64::from(self.words[offset / 4 + 1].load(Relaxed)) << 32),
        }
    }

    /// Stores the low `n` bytes of `value` at `offset`, a multiple of `n`; `is_serial` says that no other host thread uses the
    /// memory.
    #[inline]
    pub(super) fn store(&self, offset: usize, n: usize, value: u64, is_serial: bool) {
        match n {
            1 | 2 => {
                let shift = 8 * (offset % 4);
                let mask = (u32::MAX >> (32 - 8 * n)) << shift;
                let bits = ((value << shift) as u32) & mask;
                let word = &self.words[offset / 4];
                if is_serial {
                    word.store((word.load(Relaxed) & !mask) | bits, Relaxed);
                    return self.note_written(offset, n, is_serial);
                }
                // Other blocks may store to the other bytes of the word at the same time.
                let _ = word.fetch_update(Relaxed, Relaxed, |old| Some((old & !mask) | bits));
            }
            4 => self.words[offset / 4].store(value as u32, Relaxed),
            _ => {
                self.words[offset / 4].store(value as u32, Relaxed);
                self.words[offset / 4 + 1].store((value >> 32) as u32, Relaxed);
            }
        }
        self.note_written(offset, n, is_serial);
    }

    #[inline]
    fn note_written(&self, offset: usize, n: usize, is_serial: bool) {
        let Some(written) = &self.written else { return };
        let mask = (((1_u64 << n) - 1) as u32) << (offset % 32);
        let word = &written[offset / 32];
        let old = word.load(Relaxed);
        if old & mask == mask {
            return;
        }
        if is_serial {
            word.store(old | mask, Relaxed);
        } else {
            word.fetch_or(mask, Relaxed);
        }
    }

    /// Whether all `n` bytes at `offset` hold something.
    #[inline]
    pub(super) fn is_written(&self, offset: usize, n: usize) -> bool {
        let Some(written) = &self.written else {
            return true;
        };
        let mask = (((1_u64 << n) - 1) as u32) << (offset % 32);
        written[offset / 32].load(Relaxed) & mask == mask
    }
}
