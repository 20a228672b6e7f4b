//! Measuring a function on a GPU.
//!
//! In: a function that is loaded on one, and inputs. Out: the report. Whole calls are timed by the host, with the copies of inputs
//! and outputs; launches by the GPU's own events. What a GPU could do at best is not measured, so there are no shares of it.

use super::launches::{Event, reports};
use super::{Bench, BenchReport, Measured};
use crate::device::DeviceEngine;
use crate::error::Error;
use crate::function::Function;
use birkhoff_ir::diag::Diagnostics;
use birkhoff_runtime::device::{DeviceReport, KernelTime};
use birkhoff_runtime::{Buffer, Ran, View, ViewMut};
use std::time::Instant;

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
    let mut runs: Vec<Vec<Event>> = vec![];
    for _ in 0..bench.runs {
        let (_, report) = call(true)?;
        let event = |it: &KernelTime| (Ran::Kernel(it.kernel), it.time.start, it.time.end);
        runs.push(report.times.iter().map(event).collect());
    }
    let (kernels, trace) = reports(program, &sizes, &runs)?;
    let total = Measured::call(function, n_launches, times, &kernels);
    let sizes = sizes.iter().map(|(name, value)| (name.to_string(), *value)).collect();
    Ok(BenchReport::new(function, total, kernels, None, sizes, trace))
}
