//! From a function of primitives to kernels: what is computed together, in which loops, and what stays on chip.

pub mod anchors;
pub mod axes;
pub mod chunks;
pub mod cluster;
pub mod coords;
pub mod graph;
pub mod phases;
pub mod products;
pub mod stages;
pub mod walk;

/// What the scheduler knows of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// Elements of 4 bytes in a native vector.
    pub native_lanes: u32,
    /// What the tile of one kernel may read and keep, in bytes: it should stay in a core's cache.
    pub tile_bytes: i64,
    /// Whether who runs the plan has a library for large matrix products; without one, kernels do them.
    pub library_contractions: bool,
}

impl Default for Target {
    /// A CPU core with 128-bit vectors and half a mebibyte of cache to itself, and a library.
    fn default() -> Self {
        Target { native_lanes: 4, tile_bytes: 512 * 1024, library_contractions: true }
    }
}
