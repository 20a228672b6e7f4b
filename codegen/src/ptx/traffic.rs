//! Bytes of global memory that a compiled kernel moves, as a GPU counts them.
//!
//! In: a kernel and how its lane loops are mapped. Out: the traffic of a launch, with *issued* bytes in the unit of the
//! hardware. A warp loads with one instruction: what several of its threads load from one place moves once. What another warp
//! loads again counts again, and so does what threads load that go along with the lanes of others. Stores count where they
//! happen: no two threads store one element.
//!
//! Tile memory counts where it lies in the workspace, apart from the parameters.

use super::lanes::WARP;
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
    let (params, locals) = predict_on(func, sizes, &Warps { func, info })?;
    let mut moved = Moved { params, workspace_read: 0, workspace_written: 0 };
    for (home, (read, written)) in layout(func).homes.iter().zip(locals) {
        if matches!(home, Home::Workspace(_)) {
            moved.workspace_read = moved.workspace_read.saturating_add(read);
            moved.workspace_written = moved.workspace_written.saturating_add(written);
        }
    }
    Ok(moved)
}

/// Threads of a block, warp by warp.
struct Warps<'k> {
    func: &'k Func,
    info: &'k KernelInfo,
}

impl Mapping for Warps<'_> {
    fn outside(&self) -> Scale {
        let n_warps = u64::from(self.info.threads / WARP);
        // Every warp runs what is outside lane loops; the first thread stores.
        Scale { uniform_loads: n_warps, lane_loads: n_warps, lane_stores: 1 }
    }

    fn lanes(&self, var: Var, width: u32, trips: u64) -> Result<Vec<(u64, Scale)>, Diagnostic> {
        let (width, warp) = (u64::from(width.max(1)), u64::from(WARP));
        let n_warps = u64::from(self.info.threads) / warp;
        // Threads that go along: how many have the same lane, warps with the same lanes counting once.
        let copies = n_warps / width.div_ceil(warp).max(1);
        // So many lanes run the body: their warps load what all of them need, and what each of them does.
        let some = |lanes: u64, copies: u64| Scale {
            uniform_loads: copies * lanes.div_ceil(warp),
            lane_loads: copies * lanes,
            lane_stores: lanes,
        };
        let (chunks, rest) = (trips / width, trips % width);
        match self.info.lane_loops.get(&var) {
            Some(LaneMode::Together) => Ok(vec![(chunks, some(width, copies)), (rest, self.outside())]),
            Some(LaneMode::Apart) => {
                Ok(vec![(chunks, some(width, copies)), (u64::from(rest > 0), some(rest, copies))])
            }
            Some(LaneMode::Own) => Ok(vec![(chunks, some(width, 1)), (u64::from(rest > 0), some(rest, 1))]),
            Some(LaneMode::Mixed) | None => {
                let message = "a lane loop is mapped in several ways, so its traffic has no prediction";
                Err(Diagnostic::input(Default::default(), format!("kernel @{}: {message}", self.func.name)))
            }
        }
    }
}
