//! Time, bytes and arithmetic of a compiled function, held against what the machine can do in the same
//! run.
//!
//! In: a function and inputs. Out: a report, in total and for what was launched. Bytes are the *edge* bytes of the schedule (each element
//! that crosses a kernel's edge once), arithmetic is counted in the kernels as they are; neither is measured. Times are.
//! Deliberately absent: files, and comparisons with other programs.

#[cfg(feature = "ptx")]
mod device;
mod launches;
mod report;

use crate::engine::Engine;
use crate::error::Error;
use crate::function::Function;
use crate::target::Target;
use birkhoff_ir::diag::{Diagnostic, Diagnostics, Span};
use birkhoff_runtime::limits::{Limits, measure};
use birkhoff_runtime::{Buffer, Executable, Launched, View, ViewMut};
use std::time::{Duration, Instant};

/// How a function is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bench {
    /// Calls before the first that counts.
    pub warmup: usize,
    /// Calls that count.
    pub runs: usize,
}

impl Default for Bench {
    fn default() -> Bench {
        Bench { warmup: 3, runs: 20 }
    }
}

/// Times of several runs.
#[derive(Clone, PartialEq, Debug)]
pub struct Times {
    /// All of them, in seconds, increasing.
    pub sorted_s: Vec<f64>,
}

impl Times {
    fn new(mut seconds: Vec<f64>) -> Times {
        seconds.sort_by(f64::total_cmp);
        Times { sorted_s: seconds }
    }

    /// The time that a share `at` of the runs does not exceed; 0 without runs.
    pub fn quantile(&self, at: f64) -> f64 {
        let last = self.sorted_s.len().saturating_sub(1) as f64;
        self.sorted_s.get((at * last).round() as usize).copied().unwrap_or(0.0)
    }

    /// The median.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }
}

/// A kernel, a contraction or a group of steps, or the whole call.
#[derive(Clone, PartialEq, Debug)]
pub struct Measured {
    /// The kernel's name, or the function's; contractions and groups are numbered as in the plan.
    pub name: String,
    /// The steps of a group, in order; empty for anything else.
    pub steps: Vec<String>,
    /// Launches per call.
    pub launches: u64,
    /// Time per call of all its launches together.
    pub times: Times,
    /// Bytes across the edges of kernels, per call.
    pub edge_bytes: f64,
    /// Operations on single floats, per call.
    pub flops: f64,
}

impl Measured {
    /// A whole call, which did what `kernels` say.
    fn call(function: &Function, launches: u64, times: Vec<f64>, kernels: &[Measured]) -> Measured {
        let sum = |of: fn(&Measured) -> f64| kernels.iter().map(of).sum::<f64>();
        Measured {
            name: function.signature.name.to_string(),
            steps: vec![],
            launches,
            times: Times::new(times),
            edge_bytes: sum(|kernel| kernel.edge_bytes),
            flops: sum(|kernel| kernel.flops),
        }
    }

    /// Edge bytes per second.
    pub fn bytes_per_s(&self) -> f64 {
        self.edge_bytes / self.times.median().max(f64::MIN_POSITIVE)
    }

    /// Operations per second.
    pub fn flops_per_s(&self) -> f64 {
        self.flops / self.times.median().max(f64::MIN_POSITIVE)
    }
}

/// A launch of one call: the position of its row in the report, its begin and its end since the call's begin.
pub type TraceEvent = (usize, Duration, Duration);

/// The processor that ran a function.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Host {
    /// Threads.
    pub n_threads: usize,
    /// What the machine can do with as many threads.
    pub limits: Limits,
}

/// What was measured.
#[derive(Clone, PartialEq, Debug)]
pub struct BenchReport {
    /// The whole call, without the allocation of outputs; on a GPU with the copies of inputs and outputs.
    pub total: Measured,
    /// What was launched, in the order in which it first was.
    pub kernels: Vec<Measured>,
    /// The machine it ran on; `None` for a GPU, of which neither is known.
    pub host: Option<Host>,
    /// Who ran it.
    pub target: Target,
    /// Seconds that its compilation took, from the spec to code.
    pub compile_s: f64,
    /// Of these, seconds from kernels to code.
    pub emit_s: f64,
    /// Run-time sizes by name.
    pub sizes: Vec<(String, i64)>,
    /// Launches of one call, by position in [`BenchReport::kernels`].
    pub trace: Vec<TraceEvent>,
}

/// Measures `function`, which was compiled for the CPU or a GPU, on `inputs` in signature order.
///
/// Errors: a function of another target, inputs that do not fit, whatever a GPU refuses.
pub fn bench(function: &Function, inputs: &[View<'_>], bench: &Bench) -> Result<BenchReport, Error> {
    match &function.engine {
        Engine::Cpu(executable) => Ok(measured(executable, function, inputs, bench)?),
        #[cfg(feature = "ptx")]
        Engine::Device(engine) if function.stages.target == Target::Cuda => {
            device::measured(engine, function, inputs, bench)
        }
        _ => {
            let target = function.stages.target;
            let message = format!("the times of the target `{target}` say nothing, so it is not measured");
            let help = format!("measure `{}`, `{}` or `{}`", Target::Cpu, Target::CpuLlvm, Target::Cuda);
            Err(Diagnostic::input(Span::NONE, message).help(help).into())
        }
    }
}

impl BenchReport {
    fn new(
        function: &Function,
        total: Measured,
        kernels: Vec<Measured>,
        host: Option<Host>,
        sizes: Vec<(String, i64)>,
        trace: Vec<TraceEvent>,
    ) -> BenchReport {
        let timings = || function.timings().iter();
        BenchReport {
            total,
            kernels,
            host,
            target: function.stages.target,
            compile_s: timings().map(|(_, took)| took.as_secs_f64()).sum(),
            emit_s: timings().filter(|(what, _)| *what == "emit").map(|(_, took)| took.as_secs_f64()).sum(),
            sizes,
            trace,
        }
    }
}

fn measured(
    executable: &Executable,
    function: &Function,
    inputs: &[View<'_>],
    bench: &Bench,
) -> Result<BenchReport, Diagnostics> {
    let (mut outputs, first) = executable.call(inputs, &function.given)?;
    let mut call = || time(executable, function, inputs, &mut outputs, None);
    for _ in 0..bench.warmup {
        call()?;
    }
    let times = (0..bench.runs).map(|_| call()).collect::<Result<Vec<f64>, Diagnostics>>()?;

    // Once more with a clock around every launch, which the total shall not pay for.
    let mut runs = vec![];
    for _ in 0..bench.runs {
        let mut events = vec![];
        let begin = Instant::now();
        let mut note = |it: Launched| {
            events.push((it.what, it.start.duration_since(begin), it.end.duration_since(begin)));
        };
        time(executable, function, inputs, &mut outputs, Some(&mut note))?;
        runs.push(events);
    }
    let limits = measure(executable.pool());
    let (kernels, trace) = launches::reports(executable.program(), &first.sizes, &runs)?;
    let total = Measured::call(function, first.n_launches, times, &kernels);
    let sizes = first.sizes.iter().map(|(name, value)| (name.to_string(), *value)).collect();
    let host = Host { n_threads: executable.pool().n_threads(), limits };
    Ok(BenchReport::new(function, total, kernels, Some(host), sizes, trace))
}

/// Seconds of one call into `outputs`.
fn time(
    executable: &Executable,
    function: &Function,
    inputs: &[View<'_>],
    outputs: &mut [Buffer],
    trace: Option<&mut dyn FnMut(Launched)>,
) -> Result<f64, Diagnostics> {
    let mut views: Vec<ViewMut<'_>> = outputs.iter_mut().map(Buffer::view_mut).collect();
    let start = Instant::now();
    match trace {
        None => executable.call_into(inputs, &mut views, &function.given)?,
        Some(trace) => executable.call_traced(inputs, &mut views, &function.given, trace)?,
    };
    Ok(start.elapsed().as_secs_f64())
}
