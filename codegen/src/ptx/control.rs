//! Structured control flow: loops, branches, and guarded code.
//!
//! In: what fills a region. Out: operations of the dialect scf around it. Registers are at their places where a region begins or
//! ends; what was computed in it is out of sight behind it.

use super::build::{Builder, Ssa};
use melior::ir::operation::{Operation, OperationBuilder};
use melior::ir::{Block, BlockLike, BlockRef, OperationRef, Region, RegionLike, ValueLike};

/// Code that runs where a flag holds, as long as nothing comes that could meet what it does: more may go in.
pub(super) struct Guarded<'c, 'm> {
    flag: Ssa<'c, 'm>,
    op: Operation<'c>,
    block: BlockRef<'c, 'm>,
}

impl<'c, 'm> Builder<'c, 'm> {
    /// Runs `fill` for `start`, `start + step`, .. while that is below `end`; `step` is positive.
    pub(super) fn counted_loop<E, T>(
        state: &mut E,
        builder: impl Fn(&mut E) -> &mut Builder<'c, 'm>,
        range: (Ssa<'c, 'm>, Ssa<'c, 'm>, Ssa<'c, 'm>),
        fill: impl FnOnce(&mut E, Ssa<'c, 'm>) -> T,
    ) -> T {
        let this = builder(state);
        let (start, end, step) = range;
        let region = Region::new();
        region.append_block(Block::new(&[(start.r#type(), this.location)]));
        let op = OperationBuilder::new("scf.for", this.location)
            .add_operands(&[start, end, step])
            .add_regions([region]);
        this.store_registers();
        let op = this.append(op);
        let outer = this.enter(op, true);
        let var = match this.block.argument(0) {
            Ok(argument) => argument.into(),
            Err(_) => unreachable!("the block was made with an argument"),
        };
        let result = fill(state, var);
        builder(state).leave(outer);
        result
    }

    /// Runs `fill` where `flag` holds.
    pub(super) fn conditional<E, T>(
        state: &mut E,
        builder: impl Fn(&mut E) -> &mut Builder<'c, 'm>,
        flag: Ssa<'c, 'm>,
        fill: impl FnOnce(&mut E) -> T,
    ) -> T {
        let this = builder(state);
        let region = Region::new();
        region.append_block(Block::new(&[]));
        let op = OperationBuilder::new("scf.if", this.location)
            .add_operands(&[flag])
            .add_regions([region, Region::new()]);
        this.store_registers();
        let op = this.append(op);
        let outer = this.enter(op, false);
        let result = fill(state);
        builder(state).leave(outer);
        result
    }

    /// Runs `fill`, which only touches memory and sets no register, where `flag` holds. What comes with the same flag, and nothing
    /// that touches memory between, goes to the same place.
    pub(super) fn guarded<E, T>(
        state: &mut E,
        builder: impl Fn(&mut E) -> &mut Builder<'c, 'm>,
        flag: Ssa<'c, 'm>,
        fill: impl FnOnce(&mut E) -> T,
    ) -> T {
        let this = builder(state);
        let guarded = match this.open.take() {
            Some(open) if open.flag == flag => open,
            other => {
                this.open = other;
                let region = Region::new();
                let block = region.append_block(Block::new(&[]));
                // SAFETY: the operation gets the region with its block, and goes to a block of the module.
                let block = unsafe { BlockRef::from_raw(block.to_raw()) };
                let op = OperationBuilder::new("scf.if", this.location)
                    .add_operands(&[flag])
                    .add_regions([region, Region::new()]);
                Guarded { flag, op: Self::built(op), block }
            }
        };
        this.close_guarded();
        this.known.enter(false);
        let outer = std::mem::replace(&mut this.block, guarded.block);
        let result = fill(state);
        let this = builder(state);
        this.close_guarded();
        this.known.leave();
        this.block = outer;
        this.open = Some(guarded);
        result
    }

    /// Puts guarded code in its place.
    pub(super) fn close_guarded(&mut self) {
        if let Some(Guarded { op, block, .. }) = self.open.take() {
            block.append_operation(Self::built(OperationBuilder::new("scf.yield", self.location)));
            self.block.append_operation(op);
        }
    }

    /// Goes into the first block of an operation's region; returns the block at hand.
    fn enter(&mut self, op: OperationRef<'c, 'm>, is_repeated: bool) -> BlockRef<'c, 'm> {
        // SAFETY: the operation was appended to a block of the module, which outlives this builder.
        let op = unsafe { op.to_ref() };
        let inner = op.region(0).ok().and_then(|region| region.first_block());
        let inner = inner.unwrap_or_else(|| unreachable!("the region was made with a block"));
        self.known.enter(is_repeated);
        std::mem::replace(&mut self.block, inner)
    }

    fn leave(&mut self, outer: BlockRef<'c, 'm>) {
        self.store_registers();
        self.known.leave();
        self.effect("scf.yield", &[]);
        self.block = outer;
    }

    /// Ends the function.
    pub(super) fn end(&mut self) {
        self.effect("llvm.return", &[]);
    }
}
