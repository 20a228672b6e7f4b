//! The simulated device as the host's half of a call sees it.
//!
//! In: what [`Device`] asks for. Out: the same of memory and launches of the simulator, with its checks: outputs that kernels
//! left unwritten are refused, and what was discarded counts as unwritten.

use super::{Arg, BufferId, Counts, Launch, Memory, Module, Options};
use crate::device::{Device, DeviceArg, DeviceBuffer, DeviceLaunch, DeviceLimits, LaunchTime};
use birkhoff_ir::diag::Diagnostic;

/// A module on a simulated device with memory of its own.
pub struct SimulatedDevice<'m> {
    module: &'m Module,
    options: Options,
    memory: Memory,
    buffers: Vec<(BufferId, String)>,
    counts: Vec<(String, Counts)>,
}

impl<'m> SimulatedDevice<'m> {
    /// A device that runs `module`.
    pub fn new(module: &'m Module, options: Options) -> SimulatedDevice<'m> {
        SimulatedDevice { module, options, memory: Memory::new(), buffers: vec![], counts: vec![] }
    }

    /// What each launch did, under the name of its entry.
    pub fn counts(&self) -> &[(String, Counts)] {
        &self.counts
    }

    fn buffer(&self, buffer: DeviceBuffer) -> Result<&(BufferId, String), Diagnostic> {
        let found = self.buffers.get(buffer.0);
        found
            .ok_or_else(|| Diagnostic::verify("the simulated device is given a buffer that it does not have"))
    }
}

impl Device for SimulatedDevice<'_> {
    fn limits(&self) -> DeviceLimits {
        DeviceLimits { blocks: i32::MAX as u32, threads: 1024 }
    }

    fn alloc(&mut self, name: &str, size_bytes: u64) -> Result<DeviceBuffer, Diagnostic> {
        let size_bytes = usize::try_from(size_bytes).unwrap_or(usize::MAX);
        self.buffers.push((self.memory.add_uninitialized(name, size_bytes)?, name.to_string()));
        Ok(DeviceBuffer(self.buffers.len() - 1))
    }

    fn upload(&mut self, to: DeviceBuffer, bytes: &[u8]) -> Result<(), Diagnostic> {
        let id = self.buffer(to)?.0;
        self.memory.write(id, 0, bytes)
    }

    fn download(&mut self, from: DeviceBuffer, bytes: &mut [u8]) -> Result<(), Diagnostic> {
        let (id, name) = self.buffer(from)?;
        if let Some(byte) = self.memory.first_unwritten(*id)?.filter(|byte| *byte < bytes.len()) {
            let message = format!("no kernel has written byte {byte} of `{name}`");
            return Err(Diagnostic::verify(message));
        }
        let found = self.memory.read(*id)?;
        if found.len() < bytes.len() {
            let message = format!("{} bytes of `{name}` are read, which has {}", bytes.len(), found.len());
            return Err(Diagnostic::verify(message));
        }
        bytes.copy_from_slice(&found[..bytes.len()]);
        Ok(())
    }

    fn discard(&mut self, buffer: DeviceBuffer) -> Result<(), Diagnostic> {
        let id = self.buffer(buffer)?.0;
        self.memory.forget(id)
    }

    fn launch(&mut self, launch: &DeviceLaunch<'_>) -> Result<(), Diagnostic> {
        let mut args = Vec::with_capacity(launch.args.len());
        for arg in launch.args {
            args.push(match arg {
                DeviceArg::Pointer { buffer, offset_bytes } => {
                    Arg::BufferAt(self.buffer(*buffer)?.0, *offset_bytes as i64)
                }
                DeviceArg::Size(size) => Arg::U64(*size as u64),
            });
        }
        let extents =
            Launch { grid: [launch.blocks, 1, 1], block: [launch.threads, 1, 1], dynamic_shared_bytes: 0 };
        let entry = self.module.entry(launch.entry)?;
        let counts = entry.run_with(&self.options, &extents, &args, &mut self.memory)?;
        self.counts.push((launch.entry.to_string(), counts));
        Ok(())
    }

    /// A simulation takes no time that means anything.
    fn finish(&mut self) -> Result<Vec<LaunchTime>, Diagnostic> {
        Ok(vec![])
    }
}
