//! Stores around the caches: large results are written without being fetched first, and push out nothing that is read again.
//!
//! In: a lane loop. Out: which parameters it writes in whole lines of a cache, and when those are large enough. The loop is
//! then emitted twice, and a run takes one or the other. Assumes that a kernel does not read what it writes, which it
//! promises. Deliberately absent: smaller results, which the next kernel still finds in a cache.

use super::build::{Cast, IntCompare, Ssa};
use super::emit::Emitter;
use super::value::Val;
use crate::size::{Size, flatten};
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::{Access, For, Index, Mem, ParamId, Stmt};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;

/// What a loop writes is a stream from so many bytes on: more than what usual cores have for themselves.
const LEAST_BYTES: i64 = 16 << 20;
/// Bytes of a line, and alignment of the stores: the widest vectors there are.
pub(super) const LINE_BYTES: i64 = 64;

impl<'a, 'c> Emitter<'a, 'c> {
    /// Emits the full chunks of a lane loop, `chunk` for each: around the caches if it writes streams, and these are large.
    pub(super) fn chunks(
        &mut self,
        body: &'a For,
        (start, middle, width): (Val<'c>, Val<'c>, u32),
        chunk: &dyn Fn(&mut Self, Val<'c>) -> Result<(), Diagnostic>,
    ) -> Result<(), Diagnostic> {
        let step = i64::from(width);
        let streams = self.streams_of(body, width);
        let Some(is_large) = self.are_large(&streams) else {
            return self.counted_loop(start, middle, step, chunk);
        };
        self.has_streamed = true;
        let [around, through, done] = [(); 3].map(|()| self.b.label(self.function));
        self.b.branch(is_large, around, through);
        for (label, streams) in [(around, streams), (through, vec![])] {
            self.b.go_to(label);
            self.addresses.push(FxHashMap::default());
            self.streams = streams;
            self.counted_loop(start, middle, step, chunk)?;
            self.streams = vec![];
            self.addresses.pop();
            self.b.jump(done);
        }
        self.b.go_to(done);
        Ok(())
    }

    /// The parameters that `body` writes in whole lines, whatever the values of its variables.
    fn streams_of(&self, body: &For, width: u32) -> Vec<ParamId> {
        let mut in_lines: BTreeMap<ParamId, bool> = BTreeMap::new();
        let mut open: Vec<&Stmt> = body.body.iter().collect();
        while let Some(stmt) = open.pop() {
            match stmt {
                Stmt::Stage(_, inner) => open.extend(inner),
                Stmt::For(inner) => open.extend(&inner.body),
                Stmt::Store { mem: Mem::Param(id), index, .. } => {
                    *in_lines.entry(*id).or_insert(true) &= self.is_lines(*id, index, body, width);
                }
                _ => {}
            }
        }
        in_lines.into_iter().filter_map(|(id, in_lines)| in_lines.then_some(id)).collect()
    }

    fn is_lines(&self, id: ParamId, index: &[Index], body: &For, width: u32) -> bool {
        let param = &self.func.params[id.0 as usize];
        let size = param.dtype.size_bytes() as i64;
        let whole = |step: &Size| matches!(step, Size::Known(bytes) if bytes % LINE_BYTES == 0);
        let linear = flatten(self.func, Mem::Param(id), index);
        let along = |step: &Size| *step == Size::Known(size) && i64::from(width) * size % LINE_BYTES == 0;
        let mut has_lane = false;
        let terms = linear.terms.iter().all(|(var, step)| {
            has_lane |= *var == body.var;
            if *var == body.var { along(step) } else { whole(step) }
        });
        let start = &body.start;
        let start_at = start.terms.iter().map(|(_, coeff)| coeff).chain([&start.offset]);
        param.access == Access::Write
            && param.dtype != DType::Bool
            && has_lane
            && terms
            && whole(&linear.constant)
            && start_at.into_iter().all(|dim| whole(&Size::of(dim).mul(&Size::Known(size))))
    }

    /// Whether the arrays together are large and start at a line, if that can be.
    fn are_large(&mut self, streams: &[ParamId]) -> Option<Ssa<'c>> {
        if streams.is_empty() || !self.host.has_streams {
            return None;
        }
        let mut bytes = Size::Known(0);
        for id in streams {
            let param = &self.func.params[id.0 as usize];
            let size = Size::Known(param.dtype.size_bytes() as i64);
            bytes = bytes.add(&param.shape.iter().fold(size, |size, dim| size.mul(&Size::of(dim))));
        }
        let enough = match bytes {
            Size::Known(bytes) if bytes < LEAST_BYTES => return None,
            Size::Known(_) => None,
            Size::Symbolic(dim) => {
                let bytes = self.dim(&dim);
                Some(self.b.icmp(IntCompare::LLVMIntSGE, bytes, self.i64_const(LEAST_BYTES)))
            }
        };
        let mut low = self.i64_const(0);
        for id in streams {
            let address = self.b.cast(Cast::LLVMPtrToInt, self.params[id.0 as usize], self.b.int(64));
            low = self.b.or(low, address);
        }
        let low = self.b.and(low, self.i64_const(LINE_BYTES - 1));
        let aligned = self.b.icmp(IntCompare::LLVMIntEQ, low, self.i64_const(0));
        Some(enough.map_or(aligned, |enough| self.b.and(enough, aligned)))
    }

    /// Makes stores around the caches visible to other threads before the kernel is done.
    pub(super) fn close_streams(&self) {
        if self.has_streamed {
            self.b.intrinsic(c"llvm.x86.sse.sfence", &[], &[]);
        }
    }
}
