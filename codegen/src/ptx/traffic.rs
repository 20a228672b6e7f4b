//! Bytes of global memory that a compiled kernel moves, as a GPU counts them.
//!
//! In: a kernel and how its lane loops are mapped. Out: the traffic of a launch. The unit of *issued* bytes is the block: what
//! its threads load from one place by one instruction that they run together counts once, as the caches next to the threads
//! serve all but the first. So what is the same for all lanes counts as it does in kernel IR, and threads that go along with the
//! lanes of others cost nothing. Stores count where they happen: no two threads store one element.
//!
//! Tile memory counts where it lies in the workspace, apart from the parameters.

use super::layout::{Home, layout};
use super::{KernelInfo, LaneMode};
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::kernel::traffic::{Mapping, Scale, Traffic, predict_on};
use birkhoff_ir::kernel::{Func, Var};

/// What one launch moves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Moved {
    /// Of the parameters.
    pub params: Traffic,
    /// Bytes loaded from the workspace.
    pub workspace_read: u64,
    /// Bytes stored there.
    pub workspace_written: u64,
}

/// What one launch of `func` at `sizes` moves.
///
/// Errors: a size without a value, a loop bound that depends on a loaded value, a loop that is mapped in several ways.
pub fn predict(func: &Func, info: &KernelInfo, sizes: &SizeEnv) -> Result<Moved, Diagnostic> {
    let (params, locals) = predict_on(func, sizes, &Blocks { func, info })?;
    let mut moved = Moved { params, workspace_read: 0, workspace_written: 0 };
    for (home, (read, written)) in layout(func).homes.iter().zip(locals) {
        if matches!(home, Home::Workspace(_)) {
            moved.workspace_read = moved.workspace_read.saturating_add(read);
            moved.workspace_written = moved.workspace_written.saturating_add(written);
        }
    }
    Ok(moved)
}

/// Blocks of threads.
struct Blocks<'k> {
    func: &'k Func,
    info: &'k KernelInfo,
}

impl Mapping for Blocks<'_> {
    fn outside(&self) -> Scale {
        Scale { uniform_loads: 1, lane_loads: 1, lane_stores: 1 }
    }

    fn lanes(&self, var: Var, width: u32, trips: u64) -> Result<Vec<(u64, Scale)>, Diagnostic> {
        let width = u64::from(width.max(1));
        let lanes = |lanes: u64| Scale { uniform_loads: 1, lane_loads: lanes, lane_stores: lanes };
        let (chunks, rest) = (trips / width, trips % width);
        match self.info.lane_loops.get(&var) {
            // One iteration after the other, in all threads.
            Some(LaneMode::Together) => Ok(vec![(chunks, lanes(width)), (rest, self.outside())]),
            Some(LaneMode::Apart) => Ok(vec![(chunks, lanes(width)), (u64::from(rest > 0), lanes(rest))]),
            Some(LaneMode::Mixed) | None => {
                let message = "a lane loop is mapped in several ways, so its traffic has no prediction";
                Err(Diagnostic::input(Default::default(), format!("kernel @{}: {message}", self.func.name)))
            }
        }
    }
}
