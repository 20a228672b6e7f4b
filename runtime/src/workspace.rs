//! The memory of one call: slots for temporaries and scratch for each thread, kept from call to call.

use crate::memory::Block;
use crate::resolve::Resolved;
use birkhoff_ir::diag::Diagnostic;
use std::sync::{Mutex, PoisonError};

/// Memory of one call.
#[derive(Default)]
pub(crate) struct Workspace {
    /// One per slot of the plan.
    pub slots: Vec<Block>,
    /// One per thread of the pool.
    pub scratch: Vec<Block>,
}

impl Workspace {
    /// Makes every block at least as large as the plan says.
    fn grow(&mut self, resolved: &Resolved, n_threads: usize) -> Result<(), Diagnostic> {
        grow_blocks(&mut self.slots, resolved.slot_bytes.iter().copied())?;
        grow_blocks(&mut self.scratch, std::iter::repeat_n(resolved.scratch_bytes, n_threads))
    }
}

fn grow_blocks(blocks: &mut Vec<Block>, sizes: impl Iterator<Item = u64>) -> Result<(), Diagnostic> {
    for (idx, size_bytes) in sizes.enumerate() {
        match blocks.get_mut(idx) {
            Some(block) if block.size_bytes() as u64 >= size_bytes => {}
            Some(block) => {
                // The old block goes first, so that both are never there at once.
                *block = Block::zeroed(0)?;
                *block = Block::zeroed(size_bytes)?;
            }
            None => blocks.push(Block::zeroed(size_bytes)?),
        }
    }
    Ok(())
}

/// Workspaces that no call is using. At most as many exist as calls ever ran at once.
#[derive(Default)]
pub(crate) struct Workspaces(Mutex<Vec<Workspace>>);

impl Workspaces {
    /// Runs `body` with a workspace of its own.
    pub(crate) fn with<T>(
        &self,
        resolved: &Resolved,
        n_threads: usize,
        body: impl FnOnce(&mut Workspace) -> Result<T, Diagnostic>,
    ) -> Result<T, Diagnostic> {
        // A list of spare memory is valid whatever happened to the thread that last held it.
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut workspace = spare.unwrap_or_default();
        workspace.grow(resolved, n_threads)?;
        let result = body(&mut workspace);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(workspace);
        result
    }

    /// Gives all memory back that no call is using.
    pub(crate) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
