//! Runs a prepared kernel, statement by statement, and counts what it touches at its edge.

use super::calc;
use super::memory::{Array, round_bits, to_bits};
use super::prepare::{Access, Affine, Arg, Calc, Op, Prepared};
use super::{Binding, Memory};
use crate::diag::Diagnostic;
use crate::dim::Sym;
use crate::kernel::lanes::AccumKind;
use crate::kernel::traffic::{ParamTraffic, Traffic};
use crate::kernel::{AccumOp, LocalId, Mem, Space};

/// Errors are rare and large; values are not.
type Fault = Box<Diagnostic>;

pub(super) fn execute(prepared: &Prepared<'_>, memory: &mut Memory) -> Result<Traffic, Diagnostic> {
    let mut locals = Vec::with_capacity(prepared.locals.len());
    for (local, shape) in prepared.func.locals.iter().zip(&prepared.locals) {
        locals.push(Array::uninit(local.dtype, shape)?);
    }
    let tallies = prepared.params.iter().map(|shape| Tally::new(shape)).collect();
    let mut machine = Machine {
        prepared,
        values: vec![0; prepared.n_slots],
        poison: vec![false; prepared.n_slots],
        locals,
        arrays: &mut memory.arrays,
        bindings: &memory.params,
        tallies,
        active: 1,
        reductions: vec![],
        stages: vec![],
    };
    machine.tiles(0).map_err(|fault| *fault)?;
    Ok(machine.traffic())
}

/// What happened to one parameter, in elements.
struct Tally {
    loaded: u64,
    stored: u64,
    read: Vec<u64>,
    written: Vec<u64>,
}

impl Tally {
    fn new(shape: &[i64]) -> Self {
        let len = shape.iter().fold(1i64, |len, extent| len.saturating_mul(*extent)) as usize;
        let words = vec![0; len.div_ceil(64)];
        Tally { loaded: 0, stored: 0, read: words.clone(), written: words }
    }
}

fn mark(words: &mut [u64], idx: usize) {
    words[idx / 64] |= 1 << (idx % 64);
}

fn distinct(words: &[u64]) -> u64 {
    words.iter().map(|word| u64::from(word.count_ones())).sum()
}

/// The partials of one lane reduction: `width` per element of the target that was touched.
struct Reduction {
    op: AccumOp,
    mem: Mem,
    elems: Vec<usize>,
    values: Vec<u64>,
    poison: Vec<bool>,
    /// Where the next element is expected: chunks touch the same elements in the same order.
    next: usize,
}

struct Machine<'p, 'm> {
    prepared: &'p Prepared<'p>,
    values: Vec<u64>,
    poison: Vec<bool>,
    locals: Vec<Array>,
    arrays: &'m mut Vec<Array>,
    bindings: &'m [Binding],
    tallies: Vec<Tally>,
    /// Lanes that run: the width of the lane loop around, or 1 outside and in its remaining iterations.
    active: usize,
    /// Of the lane loop whose chunks run; empty in its remaining iterations.
    reductions: Vec<Reduction>,
    stages: Vec<&'p Sym>,
}

impl<'p> Machine<'p, '_> {
    fn traffic(&self) -> Traffic {
        let per_param = self.prepared.func.params.iter().zip(&self.tallies).map(|(param, tally)| {
            let size_bytes = param.dtype.size_bytes();
            ParamTraffic {
                name: param.name.clone(),
                access: param.access,
                edge_read: distinct(&tally.read) * size_bytes,
                edge_written: distinct(&tally.written) * size_bytes,
                issued_read: tally.loaded * size_bytes,
                issued_written: tally.stored * size_bytes,
            }
        });
        Traffic { per_param: per_param.collect() }
    }

    fn fault(&self, what: &str) -> Fault {
        let stage = self.stages.last().map_or(String::new(), |name| format!(", stage {name}"));
        Box::new(Diagnostic::verify(format!("kernel @{}{stage}: {what}", self.prepared.func.name)))
    }

    /// All tiles of the axes from `axis_idx` on; row-major, the last axis fastest.
    fn tiles(&mut self, axis_idx: usize) -> Result<(), Fault> {
        let prepared = self.prepared;
        let Some(axis) = prepared.grid.get(axis_idx) else {
            self.locals.iter_mut().for_each(Array::forget);
            return self.block(&prepared.body);
        };
        let mut base = 0;
        while base < axis.extent {
            self.values[axis.base] = base as u64;
            self.values[axis.count] = axis.tile.min(axis.extent - base) as u64;
            self.tiles(axis_idx + 1)?;
            base += axis.tile;
        }
        Ok(())
    }

    fn block(&mut self, block: &'p [Op]) -> Result<(), Fault> {
        block.iter().try_for_each(|op| self.op(op))
    }

    fn op(&mut self, op: &'p Op) -> Result<(), Fault> {
        match op {
            Op::Let { slot, per_lane, calc } => self.define(*slot, *per_lane, calc),
            Op::Store { access, value } => self.store(access, *value),
            Op::Accum { op, access, args, kind, reduction } => {
                if *kind == AccumKind::Reduce && !self.reductions.is_empty() {
                    self.reduce(*op, access, *args, *reduction)
                } else {
                    self.accum(*op, access, *args)
                }
            }
            Op::Loop { slot, start, end, body } => {
                let (start, end) = (self.bound(start)?, self.bound(end)?);
                for value in start..end {
                    self.values[*slot] = value as u64;
                    self.block(body)?;
                }
                Ok(())
            }
            Op::Lanes { slot, start, end, width, body, reductions } => {
                let range = self.bound(start)?..self.bound(end)?;
                self.lanes(*slot, range, *width, body, reductions)
            }
            Op::Stage(name, body) => {
                self.stages.push(name);
                self.block(body)?;
                self.stages.pop();
                Ok(())
            }
            Op::Decl(id) => {
                self.locals[id.0 as usize].forget();
                Ok(())
            }
        }
    }

    fn lanes(
        &mut self,
        slot: usize,
        range: std::ops::Range<i64>,
        width: usize,
        body: &'p [Op],
        reductions: &[(Mem, AccumOp)],
    ) -> Result<(), Fault> {
        let len = range.end.saturating_sub(range.start).max(0);
        let tail = range.end.max(range.start) - len % width as i64;
        let fresh = |(mem, op): &(Mem, AccumOp)| Reduction {
            op: *op,
            mem: *mem,
            elems: vec![],
            values: vec![],
            poison: vec![],
            next: 0,
        };
        self.reductions = reductions.iter().map(fresh).collect();
        self.active = width;
        let mut first = range.start;
        while first < tail {
            for lane in 0..width {
                self.values[slot + lane] = (first + lane as i64) as u64;
            }
            self.block(body)?;
            first += width as i64;
        }
        self.active = 1;
        for reduction in std::mem::take(&mut self.reductions) {
            self.combine(reduction, width);
        }
        for value in tail..range.end {
            self.values[slot] = value as u64;
            self.block(body)?;
        }
        Ok(())
    }

    /// Adds the partials by halves and the result to the target.
    fn combine(&mut self, mut reduction: Reduction, width: usize) {
        let dtype = self.prepared.func.mem_dtype(reduction.mem);
        let (compute, op) = (dtype.compute(), reduction.op.combine());
        for (pos, elem) in reduction.elems.iter().enumerate() {
            let partials = &mut reduction.values[pos * width..(pos + 1) * width];
            let mut half = width / 2;
            while half > 0 {
                for lane in 0..half {
                    partials[lane] = calc::scalar(op, compute, &[partials[lane], partials[lane + half]]);
                }
                half /= 2;
            }
            let poison = reduction.poison[pos * width..(pos + 1) * width].contains(&true);
            // A lane reduction never has a parameter for target: the verifier sees to it.
            if let Mem::Local(id) = reduction.mem {
                let array = &mut self.locals[id.0 as usize];
                let sum = calc::scalar(op, compute, &[array.bits[*elem], partials[0]]);
                array.bits[*elem] = round_bits(dtype, sum);
                array.poison[*elem] |= poison;
            }
        }
    }

    fn reduce(
        &mut self,
        op: AccumOp,
        access: &Access,
        args: [Arg; 2],
        reduction: usize,
    ) -> Result<(), Fault> {
        let elem = self.place(access, self.address(access, 0)?, 0);
        let (width, compute) = (self.active, access.dtype.compute());
        let state = &mut self.reductions[reduction];
        if state.elems.get(state.next) != Some(&elem) {
            state.next = state.elems.iter().position(|other| *other == elem).unwrap_or(state.elems.len());
            if state.next == state.elems.len() {
                state.elems.push(elem);
                let identity = to_bits(compute, op.identity(compute));
                state.values.resize(state.values.len() + width, identity);
                state.poison.resize(state.poison.len() + width, false);
            }
        }
        let first = state.next * width;
        state.next += 1;
        if state.next == state.elems.len() {
            state.next = 0;
        }
        for lane in 0..width {
            let (a, b) = (args[0].slot + lane * args[0].stride, args[1].slot + lane * args[1].stride);
            let partial = &mut state.values[first + lane];
            *partial = calc::accum(op, compute, *partial, self.values[a], self.values[b]);
            state.poison[first + lane] |= self.poison[a] | self.poison[b];
        }
        Ok(())
    }

    fn accum(&mut self, op: AccumOp, access: &Access, args: [Arg; 2]) -> Result<(), Fault> {
        let lanes = if access.per_lane { self.active } else { 1 };
        for lane in 0..lanes {
            let elem = self.address(access, lane)?;
            let (a, b) = (args[0].slot + lane * args[0].stride, args[1].slot + lane * args[1].stride);
            let (acc, poison) = self.load(access, elem, lane);
            let value = calc::accum(op, access.dtype.compute(), acc, self.values[a], self.values[b]);
            self.write(access, elem, lane, value, poison | self.poison[a] | self.poison[b])?;
        }
        Ok(())
    }

    fn store(&mut self, access: &Access, value: Arg) -> Result<(), Fault> {
        let lanes = if access.per_lane { self.active } else { 1 };
        for lane in 0..lanes {
            let elem = self.address(access, lane)?;
            let from = value.slot + lane * value.stride;
            self.write(access, elem, lane, self.values[from], self.poison[from])?;
        }
        Ok(())
    }

    /// The element of the array that a lane's copy of a parameter's or local's element is.
    fn place(&self, access: &Access, elem: usize, lane: usize) -> usize {
        match access.mem {
            Mem::Param(id) => self.bindings[id.0 as usize].offset + elem,
            Mem::Local(id) if self.is_reg(id) => {
                elem * self.prepared.width + if access.private { lane } else { 0 }
            }
            Mem::Local(_) => elem,
        }
    }

    fn is_reg(&self, id: LocalId) -> bool {
        self.prepared.func.locals[id.0 as usize].space == Space::Reg
    }

    fn load(&mut self, access: &Access, elem: usize, lane: usize) -> (u64, bool) {
        let place = self.place(access, elem, lane);
        let array = match access.mem {
            Mem::Param(id) => {
                let tally = &mut self.tallies[id.0 as usize];
                tally.loaded += 1;
                mark(&mut tally.read, elem);
                &self.arrays[self.bindings[id.0 as usize].array]
            }
            Mem::Local(id) => &self.locals[id.0 as usize],
        };
        (array.bits[place], array.poison[place])
    }

    fn write(
        &mut self,
        access: &Access,
        elem: usize,
        lane: usize,
        bits: u64,
        poison: bool,
    ) -> Result<(), Fault> {
        let place = self.place(access, elem, lane);
        let array = match access.mem {
            Mem::Param(id) => {
                if poison {
                    let name = self.prepared.func.mem_name(access.mem);
                    return Err(self.fault(&format!(
                        "a value that was never initialised goes to `{name}`, element {elem}"
                    )));
                }
                let tally = &mut self.tallies[id.0 as usize];
                tally.stored += 1;
                mark(&mut tally.written, elem);
                &mut self.arrays[self.bindings[id.0 as usize].array]
            }
            Mem::Local(id) => &mut self.locals[id.0 as usize],
        };
        array.bits[place] = round_bits(access.dtype, bits);
        array.poison[place] = poison;
        Ok(())
    }

    fn bound(&self, affine: &Affine) -> Result<i64, Fault> {
        self.affine(affine, 0).ok_or_else(|| self.fault("a loop bound was never initialised or overflows"))
    }

    /// The value of `affine` in a lane; `None` if it depends on poison or overflows.
    fn affine(&self, affine: &Affine, lane: usize) -> Option<i64> {
        let mut sum = affine.offset;
        for (arg, coeff) in &affine.terms {
            let from = arg.slot + lane * arg.stride;
            if self.poison[from] {
                return None;
            }
            sum = sum.checked_add((self.values[from] as i64).checked_mul(*coeff)?)?;
        }
        Some(sum)
    }

    /// The element that a lane addresses, in row-major order.
    fn address(&self, access: &Access, lane: usize) -> Result<usize, Fault> {
        let mut elem = 0;
        for (axis_idx, axis) in access.axes.iter().enumerate() {
            let at = self.affine(&axis.index, lane);
            match at {
                Some(at) if at >= 0 && at < axis.extent => elem += at * axis.stride,
                _ => {
                    let name = self.prepared.func.mem_name(access.mem);
                    let found =
                        at.map_or("an uninitialised or overflowing value".to_string(), |at| at.to_string());
                    return Err(self.fault(&format!(
                        "the index of axis {axis_idx} of `{name}` is {found}, expected 0..{}",
                        axis.extent
                    )));
                }
            }
        }
        Ok(elem as usize)
    }

    fn define(&mut self, slot: usize, per_lane: bool, calc: &'p Calc) -> Result<(), Fault> {
        let lanes = if per_lane { self.active } else { 1 };
        for lane in 0..lanes {
            let (bits, poison) = self.calc(calc, lane)?;
            self.values[slot + lane] = bits;
            self.poison[slot + lane] = poison;
        }
        Ok(())
    }

    fn at(&self, arg: &Arg, lane: usize) -> (u64, bool) {
        let from = arg.slot + lane * arg.stride;
        (self.values[from], self.poison[from])
    }

    fn operands(&self, args: &[Arg], lane: usize) -> ([u64; 3], bool) {
        let mut bits = [0; 3];
        let mut poison = false;
        for (slot, arg) in bits.iter_mut().zip(args) {
            let (value, bad) = self.at(arg, lane);
            *slot = value;
            poison |= bad;
        }
        (bits, poison)
    }

    fn calc(&mut self, calc: &'p Calc, lane: usize) -> Result<(u64, bool), Fault> {
        Ok(match calc {
            Calc::Const(bits) => (*bits, false),
            Calc::Index(affine) => self.affine(affine, lane).map_or((0, true), |value| (value as u64, false)),
            Calc::Scalar(op, dtype, args) => {
                let (bits, poison) = self.operands(args, lane);
                (calc::scalar(*op, *dtype, &bits[..args.len()]), poison)
            }
            Calc::Expanded(expansion, args) => {
                let (bits, poison) = self.operands(args, lane);
                (calc::expanded(expansion, &bits[..args.len()]), poison)
            }
            Calc::Fma(dtype, args) => {
                let (bits, poison) = self.operands(args, lane);
                (calc::fma(*dtype, bits[0], bits[1], bits[2]), poison)
            }
            Calc::Convert(from, to, arg) => {
                let (bits, poison) = self.at(arg, lane);
                (calc::convert(*from, *to, bits), poison)
            }
            Calc::Bitcast(to, arg) => {
                let (bits, poison) = self.at(arg, lane);
                (calc::bitcast(*to, bits), poison)
            }
            Calc::Round(to, arg) => {
                let (bits, poison) = self.at(arg, lane);
                (calc::round(*to, bits), poison)
            }
            Calc::Load(access) => {
                let elem = self.address(access, lane)?;
                self.load(access, elem, lane)
            }
        })
    }
}
