//! A line on standard error while work takes long.
//!
//! It appears after a second, only on a terminal, and is gone when the work is done. It never touches results.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long work may take before the line appears.
const PATIENCE: Duration = Duration::from_secs(1);

/// A line that says what is being done.
pub struct Progress {
    steps: Option<Sender<String>>,
    painter: Option<JoinHandle<()>>,
}

impl Progress {
    /// Starts the clock.
    pub fn start() -> Progress {
        if !std::io::stderr().is_terminal() {
            return Progress { steps: None, painter: None };
        }
        let (steps, received) = channel();
        let painter =
            std::thread::Builder::new().name("progress".to_string()).spawn(move || paint(&received));
        Progress { steps: Some(steps), painter: painter.ok() }
    }

    /// Says what is being done from now on.
    pub fn step(&self, what: &str) {
        if let Some(steps) = &self.steps {
            // The painter may be gone; then there is nobody to tell.
            let _ = steps.send(what.to_string());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // Hanging up ends the painter, which clears its line.
        self.steps = None;
        if let Some(painter) = self.painter.take() {
            let _ = painter.join();
        }
    }
}

fn paint(steps: &Receiver<String>) {
    let start = Instant::now();
    let mut current = String::new();
    loop {
        match steps.recv_timeout(PATIENCE.saturating_sub(start.elapsed())) {
            Ok(step) => current = step,
            Err(RecvTimeoutError::Timeout) => break,
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        bar.set_style(style);
    }
    bar.set_message(current);
    bar.enable_steady_tick(Duration::from_millis(100));
    while let Ok(step) = steps.recv() {
        bar.set_message(step);
    }
    bar.finish_and_clear();
}
