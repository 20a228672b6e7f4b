//! GPUs: what the runtime asks of one, and the calls of a plan on it.
//!
//! In: a plan, how its kernels are launched ([`DeviceImage`]), a [`Device`], and the caller's arrays. Out: the outputs written.
//! [`DeviceProgram`] is the host's half of a call: it allocates, copies, runs the plan's loops, and launches with sizes that it
//! computed. It is the same for every device: a GPU ([`cuda`]), the simulated one ([`SimulatedDevice`]), and those of tests, which
//! only write down what they are asked for. So what runs on a GPU is checked without one, but for the calls of the driver.
//!
//! Deliberately absent: code generators (an image is a trait object), choices of grids and blocks (the image's), and several
//! devices at once. Whether memory is kept from call to call is the device's affair.
//!
//! [`SimulatedDevice`]: crate::ptx_sim::SimulatedDevice

mod call;
#[cfg(feature = "cuda")]
pub mod cuda;

pub use call::{DeviceProgram, DeviceReport, KernelTime};

use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::kernel::Func;
use std::time::Duration;

/// Memory of a device, by the order of its allocation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DeviceBuffer(pub usize);

/// A parameter of a launch, 64 bits each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceArg {
    /// The address of a byte of a buffer.
    Pointer {
        /// The buffer.
        buffer: DeviceBuffer,
        /// Bytes to skip.
        offset_bytes: u64,
    },
    /// A run-time size.
    Size(i64),
}

/// One launch, all of whose blocks and threads are along x.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceLaunch<'a> {
    /// The name of the entry in the module.
    pub entry: &'a str,
    /// Blocks; at least one.
    pub blocks: u32,
    /// Threads of a block.
    pub threads: u32,
    /// The parameters in order.
    pub args: &'a [DeviceArg],
    /// Whether [`Device::finish`] shall tell when it began and ended.
    pub is_timed: bool,
}

/// The most that a device launches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceLimits {
    /// Blocks along x.
    pub blocks: u32,
    /// Threads of a block.
    pub threads: u32,
}

/// When a launch ran, since the first of the call that was timed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaunchTime {
    /// When its first block began.
    pub start: Duration,
    /// When its last block had ended.
    pub end: Duration,
}

/// A device with a module of kernels, for the time of one call. What it allocated is nobody's after it.
///
/// Work happens in the order of the calls. It may be done later; [`Device::download`] and [`Device::finish`] wait.
pub trait Device {
    /// The most that it launches.
    fn limits(&self) -> DeviceLimits;

    /// Memory whose contents are not defined; `name` is for messages.
    ///
    /// Errors: memory that is not there (device).
    fn alloc(&mut self, name: &str, size_bytes: u64) -> Result<DeviceBuffer, Diagnostic>;

    /// Copies `bytes` to the start of a buffer.
    ///
    /// Errors: more bytes than it has, a copy that failed.
    fn upload(&mut self, to: DeviceBuffer, bytes: &[u8]) -> Result<(), Diagnostic>;

    /// Copies the start of a buffer to `bytes`.
    ///
    /// Errors: more bytes than it has, a copy or an earlier launch that failed; bytes that nothing has written, where that is
    /// known (verify).
    fn download(&mut self, from: DeviceBuffer, bytes: &mut [u8]) -> Result<(), Diagnostic>;

    /// What the buffer holds is not needed any more. A device that knows which bytes were written forgets that they were.
    ///
    /// Errors: a buffer that it does not have.
    fn discard(&mut self, buffer: DeviceBuffer) -> Result<(), Diagnostic>;

    /// Runs a kernel.
    ///
    /// Errors: an entry that the module lacks, a launch that the device refuses, and, here or later, a fault of the kernel.
    fn launch(&mut self, launch: &DeviceLaunch<'_>) -> Result<(), Diagnostic>;

    /// Waits until everything is done; gives the times of the launches that were to be timed, in order, or none at all if the
    /// device has no clock.
    ///
    /// Errors: a copy or a launch that failed.
    fn finish(&mut self) -> Result<Vec<LaunchTime>, Diagnostic>;
}

/// How a kernel is launched at some sizes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LaunchShape {
    /// The name of the entry in the module.
    pub entry: String,
    /// Blocks along x; zero if there is nothing to compute. Any number from one on computes everything.
    pub blocks: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of memory that all blocks together need; if there are any, its address is the last parameter.
    pub workspace_bytes: u64,
}

/// What the runtime needs of a code generator for GPUs.
pub trait DeviceImage: Send + Sync {
    /// How the kernel at that position of the plan is launched.
    ///
    /// Errors: a kernel that the module lacks (verify), sizes for which there is no launch (input).
    fn launch_shape(
        &self,
        kernel_idx: usize,
        kernel: &Func,
        sizes: &SizeEnv,
    ) -> Result<LaunchShape, Diagnostic>;
}
