//! A bench report as text, as JSON, and as a trace.

use super::{BenchReport, Host, Measured, TraceEvent};
use serde_json::{Value, json};
use std::fmt::Write;

/// The longest kernel name that is shown whole.
const NAME_WIDTH: usize = 36;

impl BenchReport {
    /// A table: the call, its kernels, and the machine.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let sizes: Vec<String> = self.sizes.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        let at = if sizes.is_empty() { String::new() } else { format!(" at {}", sizes.join(", ")) };
        let place = match &self.host {
            Some(Host { n_threads: 1, .. }) => "1 thread".to_string(),
            Some(Host { n_threads, .. }) => format!("{n_threads} threads"),
            None => "a GPU".to_string(),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}{at}, {place}, {} runs", self.total.name, self.total.times.sorted_s.len());
        let _ = writeln!(
            text,
            "  {:<NAME_WIDTH$} {:>8} {:>11} {:>11} {:>11} {:>9} {:>5} {:>9} {:>5}",
            "", "launches", "median", "least", "9 of 10", "GB/s", "of", "GFLOP/s", "of"
        );
        for measured in std::iter::once(&self.total).chain(&self.kernels) {
            let _ = writeln!(text, "{}", self.line(measured));
        }
        for group in self.kernels.iter().filter(|measured| !measured.steps.is_empty()) {
            let _ = writeln!(
                text,
                "  {}, block of rows after block of rows: {}",
                group.name,
                group.steps.join(", ")
            );
        }
        let _ = match &self.host {
            Some(Host { limits, .. }) => writeln!(
                text,
                "  this machine now: {:.1} GB/s, {:.1} GFLOP/s; bytes are those across the edges of kernels",
                limits.bytes_per_s / 1e9,
                limits.flops_per_s / 1e9
            ),
            None => writeln!(
                text,
                "  the call with copies, by the host's clock; kernels by the GPU's; bytes are those across their edges"
            ),
        };
        let _ = writeln!(
            text,
            "  compiled for {} in {}, of which {} from kernels to code",
            self.target,
            duration(self.compile_s),
            duration(self.emit_s)
        );
        text
    }

    fn line(&self, measured: &Measured) -> String {
        let times = &measured.times;
        let name: String = measured.name.chars().take(NAME_WIDTH).collect();
        let share =
            |share: Option<f64>| share.map_or("-".to_string(), |share| format!("{:.0}%", 100.0 * share));
        format!(
            "  {name:<NAME_WIDTH$} {:>8} {:>11} {:>11} {:>11} {:>9.2} {:>5} {:>9.2} {:>5}",
            measured.launches,
            duration(times.median()),
            duration(times.quantile(0.0)),
            duration(times.quantile(0.9)),
            measured.bytes_per_s() / 1e9,
            share(self.of_bandwidth(measured)),
            measured.flops_per_s() / 1e9,
            share(self.of_arithmetic(measured)),
        )
    }

    /// The share of the machine's bandwidth, if that is known.
    fn of_bandwidth(&self, measured: &Measured) -> Option<f64> {
        self.host.map(|host| measured.bytes_per_s() / host.limits.bytes_per_s)
    }

    /// The share of the machine's arithmetic, if that is known.
    fn of_arithmetic(&self, measured: &Measured) -> Option<f64> {
        self.host.map(|host| measured.flops_per_s() / host.limits.flops_per_s)
    }

    /// The same numbers.
    pub fn json(&self) -> Value {
        let one = |measured: &Measured| {
            json!({
                "name": measured.name,
                "steps": measured.steps,
                "launches": measured.launches,
                "median_s": measured.times.median(),
                "least_s": measured.times.quantile(0.0),
                "p90_s": measured.times.quantile(0.9),
                "times_s": measured.times.sorted_s,
                "edge_bytes": measured.edge_bytes,
                "flops": measured.flops,
                "bytes_per_s": measured.bytes_per_s(),
                "flops_per_s": measured.flops_per_s(),
                "of_bandwidth": self.of_bandwidth(measured),
                "of_arithmetic": self.of_arithmetic(measured),
            })
        };
        let sizes: serde_json::Map<String, Value> =
            self.sizes.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        json!({
            "sizes": sizes,
            "threads": self.host.map(|host| host.n_threads),
            "target": self.target.name(),
            "compile_s": self.compile_s,
            "emit_s": self.emit_s,
            "total": one(&self.total),
            "kernels": self.kernels.iter().map(one).collect::<Vec<_>>(),
            "machine": self.host.map(|Host { limits, .. }| {
                json!({ "bytes_per_s": limits.bytes_per_s, "flops_per_s": limits.flops_per_s })
            }),
        })
    }

    /// The launches of one call in the trace event format that Chromium's viewers read: complete events, microseconds.
    pub fn chrome_trace(&self) -> Value {
        let event = |(kernel, start, end): &TraceEvent| {
            let name = self.kernels.get(*kernel).map_or("", |kernel| kernel.name.as_str());
            json!({
                "name": name,
                "cat": "kernel",
                "ph": "X",
                "pid": 1,
                "tid": 1,
                "ts": start.as_secs_f64() * 1e6,
                "dur": end.saturating_sub(*start).as_secs_f64() * 1e6,
            })
        };
        json!({ "displayTimeUnit": "ns", "traceEvents": self.trace.iter().map(event).collect::<Vec<_>>() })
    }
}

/// Seconds in a unit that keeps four digits before the point at most.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.2} us", s * 1e6),
        s if s < 1.0 => format!("{:.3} ms", s * 1e3),
        s => format!("{s:.3} s"),
    }
}
