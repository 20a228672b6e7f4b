//! Measuring a function on a GPU.
//!
//! In: a function that is loaded on one, and inputs. Out: the report. Whole calls are timed by the host, with the copies of inputs
//! and outputs; launches by the GPU's own events. What a GPU could do at best is not measured, so there are no shares of it.

use super::{Bench, BenchReport, Measured, Times, kernel_reports};
use crate::device::DeviceEngine;
use crate::error::Error;
use crate::function::Function;
use birkhoff_ir::diag::Diagnostics;
use birkhoff_runtime::device::DeviceReport;
use birkhoff_runtime::{Buffer, View, ViewMut};
use std::time::{Duration, Instant};

/// Measures `function`, which `engine` runs.
///
/// Errors: inputs that do not fit, whatever the GPU refuses.
pub(super) fn measured(
    engine: &DeviceEngine,
    function: &Function,
    inputs: &[View<'_>],
    bench: &Bench,
) -> Result<BenchReport, Error> {
    let program = engine.program();
    let shapes: Vec<Vec<i64>> = inputs.iter().map(|view| view.shape().to_vec()).collect();
    let sizes = function.signature.sizes_of(&shapes, &function.given)?;
    let mut outputs = vec![];
    let shapes = function.engine.output_shapes(&function.signature, inputs, &function.given)?;
    for ((_, ty), shape) in function.signature.outputs.iter().zip(shapes) {
        outputs.push(Buffer::zeros(ty.dtype, &shape)?);
    }
    let mut call = |is_timed: bool| -> Result<(f64, DeviceReport), Diagnostics> {
        let mut views: Vec<ViewMut<'_>> = outputs.iter_mut().map(Buffer::view_mut).collect();
        let start = Instant::now();
        let report = engine.call_into(inputs, &mut views, &sizes, is_timed)?;
        Ok((start.elapsed().as_secs_f64(), report))
    };
    for _ in 0..bench.warmup {
        call(false)?;
    }
    let (mut times, mut n_launches) = (vec![], 0);
    for _ in 0..bench.runs {
        let (took, report) = call(false)?;
        times.push(took);
        n_launches = report.n_launches;
    }
    // Once more with events around every launch, which the total shall not pay for.
    let mut per_kernel: Vec<Vec<f64>> = vec![vec![]; program.kernels.len()];
    let mut trace: Vec<(usize, Duration, Duration)> = vec![];
    for _ in 0..bench.runs {
        let (_, report) = call(true)?;
        let mut sums = vec![0.0; program.kernels.len()];
        for launched in &report.times {
            sums[launched.kernel] += (launched.time.end.saturating_sub(launched.time.start)).as_secs_f64();
        }
        per_kernel.iter_mut().zip(sums).for_each(|(all, sum)| all.push(sum));
        trace = report.times.iter().map(|it| (it.kernel, it.time.start, it.time.end)).collect();
    }
    let kernels = kernel_reports(program, &sizes, per_kernel)?;
    let sum = |of: fn(&Measured) -> f64| kernels.iter().map(of).sum::<f64>();
    let total = Measured {
        name: program.name.to_string(),
        launches: n_launches,
        times: Times::new(times),
        edge_bytes: sum(|kernel| kernel.edge_bytes),
        flops: sum(|kernel| kernel.flops),
    };
    let sizes = sizes.iter().map(|(name, value)| (name.to_string(), *value)).collect();
    Ok(BenchReport::new(function, total, kernels, None, sizes, trace))
}
