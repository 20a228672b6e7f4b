//! A GPU of NVIDIA, over the driver's library, which is looked for when the first device is opened.
//!
//! In: PTX and what [`Device`] asks for. Out: the same done by the GPU, in order on one stream of each call. Streams and memory are
//! kept for the next call, as long as the module lives. Nothing of CUDA is needed to build this, and nothing but the driver to run
//! it.
//!
//! Deliberately absent: everything that is not a call of the driver. What is launched with which parameters is decided in
//! [`DeviceProgram`](super::DeviceProgram), which is tested on devices that need no GPU.

use super::{Device, DeviceArg, DeviceBuffer, DeviceLaunch, DeviceLimits, LaunchTime};
use birkhoff_ir::diag::Diagnostic;
use cudarc::driver::sys::{CUdevice_attribute, CUevent_flags, is_culib_present};
use cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, DriverError,
    LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What to do where there is no GPU.
const HELP: &str = "install NVIDIA's driver for the GPU of this machine (Debian: apt-get install nvidia-driver; others: \
     https://www.nvidia.com/drivers; in a container, pass the GPU through); CUDA's toolkit is not needed. The target \
     `ptx-sim` runs the same PTX on this processor";

/// A GPU that can be used.
#[derive(Clone)]
pub struct Gpu {
    context: Arc<CudaContext>,
    limits: DeviceLimits,
    capability: (u32, u32),
}

impl Gpu {
    /// Opens the GPU with that number, from 0.
    ///
    /// Errors (device): no driver, no such GPU, or one that the driver cannot use.
    pub fn open(number: usize) -> Result<Gpu, Diagnostic> {
        // SAFETY: this loads NVIDIA's driver, if there is one under its name, and so trusts what is installed under that name.
        if !unsafe { is_culib_present() } {
            let message =
                "no CUDA driver is installed: its library (libcuda.so.1, or nvcuda.dll) was not found";
            return Err(Diagnostic::device(message).help(HELP));
        }
        let context = CudaContext::new(number).map_err(|error| failure("open the GPU", error).help(HELP))?;
        let attribute = |which| -> Result<u32, Diagnostic> {
            let value = context.attribute(which).map_err(|error| failure("tell its limits", error))?;
            Ok(u32::try_from(value).unwrap_or(0))
        };
        let limits = DeviceLimits {
            blocks: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X)?,
            threads: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
        };
        let (major, minor) =
            context.compute_capability().map_err(|error| failure("tell its compute capability", error))?;
        let capability = (u32::try_from(major).unwrap_or(0), u32::try_from(minor).unwrap_or(0));
        Ok(Gpu { context, limits, capability })
    }

    /// Its compute capability, such as (9, 0).
    pub fn capability(&self) -> (u32, u32) {
        self.capability
    }

    /// Compiles the text of a module for this GPU.
    ///
    /// Errors (device): PTX that the driver refuses, such as that of a newer version; a text that no C string can hold.
    pub fn load(&self, ptx: &str) -> Result<GpuModule, Diagnostic> {
        if ptx.contains('\0') {
            return Err(Diagnostic::verify("the text of a PTX module contains a zero byte"));
        }
        let module = self.context.load_module(Ptx::from_src(ptx)).map_err(|error| {
            failure("load the kernels", error)
                .help("a driver of CUDA 12.4 or later knows this PTX; `--arch` picks another architecture")
        })?;
        Ok(GpuModule { gpu: self.clone(), module, idle: Mutex::new(vec![]) })
    }
}

fn failure(what: &str, error: DriverError) -> Diagnostic {
    Diagnostic::device(format!("the CUDA driver cannot {what}: {error}"))
}

/// Kernels that are loaded on a GPU.
pub struct GpuModule {
    gpu: Gpu,
    module: Arc<CudaModule>,
    /// What earlier calls have left for later ones.
    idle: Mutex<Vec<Kept>>,
}

/// What is kept from call to call: a stream with memory that its work has used, in its order.
struct Kept {
    stream: Arc<CudaStream>,
    memory: Vec<CudaSlice<u8>>,
    functions: BTreeMap<String, CudaFunction>,
}

impl GpuModule {
    /// The GPU for one call, with a stream that no other call uses meanwhile.
    ///
    /// Errors (device): the driver makes no stream.
    pub fn session(&self) -> Result<GpuSession<'_>, Diagnostic> {
        // Nothing panics while the list is locked.
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Kept { stream, memory, functions } = match idle {
            Some(kept) => kept,
            None => {
                let stream = self.gpu.context.new_stream();
                let stream = stream.map_err(|error| failure("make a stream", error))?;
                Kept { stream, memory: vec![], functions: BTreeMap::new() }
            }
        };
        Ok(GpuSession { module: self, stream, unused: memory, buffers: vec![], functions, events: vec![] })
    }
}

/// A GPU during one call. When it goes, the memory it used is there for the next call; what it had no use for is given back.
pub struct GpuSession<'m> {
    module: &'m GpuModule,
    stream: Arc<CudaStream>,
    /// Memory of earlier calls.
    unused: Vec<CudaSlice<u8>>,
    buffers: Vec<CudaSlice<u8>>,
    functions: BTreeMap<String, CudaFunction>,
    /// Before and after each launch that is timed.
    events: Vec<(CudaEvent, CudaEvent)>,
}

impl Drop for GpuSession<'_> {
    fn drop(&mut self) {
        // Whoever takes the memory uses it on the same stream, behind all that was asked for here.
        let kept = Kept {
            stream: self.stream.clone(),
            memory: std::mem::take(&mut self.buffers),
            functions: std::mem::take(&mut self.functions),
        };
        self.module.idle.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
    }
}

impl GpuSession<'_> {
    fn buffer(&mut self, buffer: DeviceBuffer) -> Result<&mut CudaSlice<u8>, Diagnostic> {
        let found = self.buffers.get_mut(buffer.0);
        found.ok_or_else(|| Diagnostic::verify("the GPU is given a buffer that it does not have"))
    }

    fn function(&mut self, entry: &str) -> Result<CudaFunction, Diagnostic> {
        if let Some(function) = self.functions.get(entry) {
            return Ok(function.clone());
        }
        let found = self.module.module.load_function(entry);
        let function = found.map_err(|error| failure(&format!("find the entry `{entry}`"), error))?;
        self.functions.insert(entry.to_string(), function.clone());
        Ok(function)
    }

    /// The 64 bits of each parameter.
    fn words(&mut self, args: &[DeviceArg]) -> Result<Vec<u64>, Diagnostic> {
        let stream = self.stream.clone();
        let word = |arg: &DeviceArg| match arg {
            DeviceArg::Size(size) => Ok(*size as u64),
            DeviceArg::Pointer { buffer, offset_bytes } => {
                let memory = self.buffer(*buffer)?;
                if *offset_bytes > memory.len() as u64 {
                    let message = format!("byte {offset_bytes} of {} is passed to a kernel", memory.len());
                    return Err(Diagnostic::verify(message));
                }
                Ok(memory.device_ptr(&stream).0 + offset_bytes)
            }
        };
        args.iter().map(word).collect()
    }
}

impl Device for GpuSession<'_> {
    fn limits(&self) -> DeviceLimits {
        self.module.gpu.limits
    }

    fn alloc(&mut self, name: &str, size_bytes: u64) -> Result<DeviceBuffer, Diagnostic> {
        // The driver gives no memory without bytes.
        let len = usize::try_from(size_bytes.max(1)).unwrap_or(usize::MAX);
        // Of what earlier calls have left, the least that is enough, unless half of it would stay empty.
        let fits = |memory: &CudaSlice<u8>| (len..=len.saturating_mul(2)).contains(&memory.len());
        let candidates = self.unused.iter().enumerate().filter(|(_, memory)| fits(memory));
        if let Some(idx) = candidates.min_by_key(|(_, memory)| memory.len()).map(|(idx, _)| idx) {
            self.buffers.push(self.unused.swap_remove(idx));
            return Ok(DeviceBuffer(self.buffers.len() - 1));
        }
        // SAFETY: the memory is not initialised, and every pattern of bytes is a `u8`; kernels write what they read, as the
        // plan promises, and outputs as a whole.
        let memory = unsafe { self.stream.alloc::<u8>(len) };
        self.buffers.push(memory.map_err(|error| {
            failure(&format!("give {size_bytes} bytes for `{name}`"), error).help("use smaller sizes")
        })?);
        Ok(DeviceBuffer(self.buffers.len() - 1))
    }

    fn upload(&mut self, to: DeviceBuffer, bytes: &[u8]) -> Result<(), Diagnostic> {
        let stream = self.stream.clone();
        let memory = self.buffer(to)?;
        if bytes.len() > memory.len() {
            return Err(Diagnostic::verify("more bytes are copied to the GPU than the buffer has"));
        }
        stream.memcpy_htod(bytes, memory).map_err(|error| failure("copy to the GPU", error))
    }

    fn download(&mut self, from: DeviceBuffer, bytes: &mut [u8]) -> Result<(), Diagnostic> {
        let stream = self.stream.clone();
        let memory = self.buffer(from)?;
        let part = memory.try_slice(..bytes.len());
        let part = part.ok_or_else(|| Diagnostic::verify("more bytes are read than the buffer has"))?;
        stream
            .memcpy_dtoh(&part, bytes)
            .and_then(|()| stream.synchronize())
            .map_err(|error| failure("copy from the GPU", error))
    }

    /// A GPU does not know which of its bytes were written.
    fn discard(&mut self, buffer: DeviceBuffer) -> Result<(), Diagnostic> {
        self.buffer(buffer).map(|_| ())
    }

    fn launch(&mut self, launch: &DeviceLaunch<'_>) -> Result<(), Diagnostic> {
        let function = self.function(launch.entry)?;
        let words = self.words(launch.args)?;
        let stream = self.stream.clone();
        let mut builder = stream.launch_builder(&function);
        for word in &words {
            builder.arg(word);
        }
        if launch.is_timed {
            builder.record_kernel_launch(CUevent_flags::CU_EVENT_DEFAULT);
        }
        let extents = LaunchConfig {
            grid_dim: (launch.blocks, 1, 1),
            block_dim: (launch.threads, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the parameters of an entry are as many words of 64 bits as the manifest says, and `DeviceProgram` passes those
        // of the kernel that the entry was emitted from: pointers to parts of buffers that it has checked to be as large as the
        // kernel's parameters, then sizes, then the workspace. Kernels that verify stay within their parameters. The buffers live
        // as long as the session, and are given back on the same stream, behind the kernel.
        let events = unsafe { builder.launch(extents) };
        let events = events.map_err(|error| failure(&format!("launch `{}`", launch.entry), error))?;
        self.events.extend(events);
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<LaunchTime>, Diagnostic> {
        self.stream.synchronize().map_err(|error| failure("finish the kernels", error))?;
        let Some((first, _)) = self.events.first() else { return Ok(vec![]) };
        let since = |event: &CudaEvent| -> Result<Duration, Diagnostic> {
            let ms = first.elapsed_ms(event).map_err(|error| failure("tell the time of a kernel", error))?;
            Ok(Duration::from_secs_f64(f64::from(ms.max(0.0)) / 1e3))
        };
        let time =
            |(start, end): &(CudaEvent, CudaEvent)| Ok(LaunchTime { start: since(start)?, end: since(end)? });
        self.events.iter().map(time).collect()
    }
}
