//! From a function of primitives to kernels: what is computed together, in which loops, and what stays on chip.

pub mod anchors;
pub mod assembled;
pub mod axes;
pub mod chunks;
pub mod cluster;
pub mod coords;
pub mod copies;
pub mod graph;
mod nests;
mod order;
pub mod padding;
pub mod phases;
pub mod products;
pub mod stages;
pub mod walk;

/// What the lanes of a loop are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LaneKind {
    /// Elements of a vector register.
    Vector,
    /// Threads of a block, each with registers of its own.
    Threads,
}

/// What the scheduler knows of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// What a lane is.
    pub lanes: LaneKind,
    /// Elements of 4 bytes in a native vector; threads of a block.
    pub native_lanes: u32,
    /// What the tile of one kernel may read and keep, in bytes: it should stay in a core's cache.
    pub tile_bytes: i64,
    /// What a tile may keep in tile memory, in bytes.
    pub kept_bytes: i64,
    /// Accumulators that a nest keeps in (vector) registers.
    pub n_accumulators: i64,
    /// Whether vectors may have any length, which code is generated for in as many registers as it takes.
    pub any_length: bool,
    /// Whether who runs the plan has a library for large matrix products; without one, kernels do them.
    pub library_contractions: bool,
}

impl Default for Target {
    /// A CPU core with sixteen registers of 128 bits and half a mebibyte of cache to itself, and a library. Twelve
    /// accumulators leave room for operands and for a copy of one, which two-address instructions take.
    fn default() -> Self {
        Target {
            lanes: LaneKind::Vector,
            native_lanes: 4,
            tile_bytes: 512 * 1024,
            kept_bytes: i64::MAX,
            n_accumulators: 12,
            any_length: false,
            library_contractions: true,
        }
    }
}

impl Target {
    /// A CPU core with so many vector registers of so many bits, for a compiler of vectors of any length; otherwise as the
    /// default.
    pub fn vectors(bits: u32, n_registers: u32) -> Self {
        let n_accumulators = i64::from(n_registers) * 3 / 4;
        Target { native_lanes: (bits / 32).max(4), n_accumulators, any_length: true, ..Target::default() }
    }

    /// A GPU: blocks of 128 threads with 48 KiB of shared memory, some of which lane reductions need.
    pub fn gpu() -> Self {
        Target {
            lanes: LaneKind::Threads,
            native_lanes: 128,
            tile_bytes: 48 * 1024,
            kept_bytes: 38 * 1024,
            n_accumulators: 64,
            any_length: false,
            library_contractions: false,
        }
    }

    /// Native lanes for elements of `size_bytes`: a vector register holds fewer wide ones, a block has as many threads.
    pub fn lanes_of(&self, size_bytes: u64) -> u32 {
        match self.lanes {
            LaneKind::Vector => (self.native_lanes * 4 / size_bytes.clamp(4, 8) as u32).max(2),
            LaneKind::Threads => self.native_lanes,
        }
    }
}
