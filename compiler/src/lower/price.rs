//! What a plan costs: the scheduler's answer to "which of these equal programs is cheaper".
//!
//! In: a function of primitives. Out: a [`Cost`] of the kernels it really becomes: bytes across their edges, issued
//! instructions in native vectors, launches. Constants describe a current desktop or server core and only rank programs.

use crate::cost::{Cost, CostModel, default_sizes, scalar_weight};
use crate::rotate::rotate;
use crate::schedule::Target;
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dim::{Dim, SizeEnv};
use birkhoff_ir::kernel::{Block, ForKind, Func, Index, Inst, Stmt, Var};
use birkhoff_ir::plan::traffic::KernelTraffic;
use birkhoff_ir::plan::{Program, traffic};
use birkhoff_ir::scalar::ScalarOp;
use birkhoff_ir::tensor::{FuncId, Module};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Prices functions by lowering them.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct KernelCost {
    /// The machine.
    pub target: Target,
    /// Bytes per second from memory, of all cores together.
    pub bandwidth: f64,
    /// What a kernel that is launched again and again touches stays in a cache if it is no more than this.
    pub cache_bytes: f64,
    /// Bytes per second from there, of all cores together.
    pub cache_bandwidth: f64,
    /// Simple vector instructions per second, of all cores together.
    pub rate: f64,
    /// Multiplications and additions of a library per second, as pairs of f32, of all cores together.
    pub library_rate: f64,
    /// Seconds per launch.
    pub launch: f64,
}

impl Default for KernelCost {
    fn default() -> Self {
        KernelCost {
            target: Target::default(),
            bandwidth: 2e10,
            cache_bytes: 2e6,
            cache_bandwidth: 8e10,
            rate: 1e10,
            library_rate: 8e10,
            launch: 2e-6,
        }
    }
}

impl KernelCost {
    /// The model of a GPU of a data centre.
    pub fn gpu() -> Self {
        KernelCost {
            target: Target::gpu(),
            bandwidth: 2e12,
            cache_bytes: 2e7,
            cache_bandwidth: 5e12,
            rate: 4e11,
            launch: 4e-6,
            library_rate: 4e12,
        }
    }
}

impl CostModel for KernelCost {
    /// Infinite where the function cannot be lowered.
    fn price(&self, module: &Module, func: FuncId) -> Cost {
        let sizes = default_sizes(module);
        let priced =
            super::lower(module, func, &self.target).ok().and_then(|program| self.program(&program, &sizes));
        priced.unwrap_or(NEVER)
    }
}

/// [`KernelCost`] that keeps the plans it makes: the cheapest of them is the one that is wanted next. Loops are rotated where
/// that is cheaper.
#[derive(Default)]
pub struct Planner {
    /// The model.
    pub cost: KernelCost,
    plans: Mutex<Vec<(Module, FuncId, Planned)>>,
}

/// A plan, and what was decided on the way.
#[derive(Clone, PartialEq, Debug)]
pub struct Planned {
    /// The plan.
    pub program: Program,
    /// Both prices, if there was a loop to rotate.
    pub rotation: Option<Rotation>,
}

/// A decision between a program and the same with its loops rotated; see [`crate::rotate`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rotation {
    /// The price of the program as it was, of the order of seconds.
    pub as_written: f64,
    /// The price of the rotated one.
    pub rotated: f64,
}

impl Rotation {
    /// Whether the rotated one is taken.
    pub fn rotates(&self) -> bool {
        self.rotated < self.as_written
    }
}

impl Planner {
    /// Plans for the machine of `cost`.
    pub fn new(cost: KernelCost) -> Planner {
        Planner { cost, plans: Mutex::default() }
    }

    /// The plan of `func`, a function of primitives: one made for a price, else a new one.
    ///
    /// Errors: those of [`super::lower`].
    pub fn plan(&self, module: &Module, func: FuncId) -> Result<Planned, Diagnostic> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        match plans.iter().position(|known| known.1 == func && known.0 == *module) {
            Some(place) => Ok(plans.swap_remove(place).2),
            None => self.cheaper(module, func).map(|(planned, _)| planned),
        }
    }

    /// The cheaper of the function as it is and with its loops rotated, and its price.
    fn cheaper(&self, module: &Module, func: FuncId) -> Result<(Planned, Cost), Diagnostic> {
        let program = super::lower(module, func, &self.cost.target)?;
        let sizes = default_sizes(module);
        let price = |program: &Program| self.cost.program(program, &sizes).unwrap_or(NEVER);
        let cost = price(&program);
        let Some((module, func)) = rotate(module, func).map_err(Diagnostic::verify)? else {
            return Ok((Planned { program, rotation: None }, cost));
        };
        let other = super::lower(&module, func, &self.cost.target)?;
        let rotated = price(&other);
        let rotation = Rotation { as_written: cost.total, rotated: rotated.total };
        let (program, cost) = if rotation.rotates() { (other, rotated) } else { (program, cost) };
        Ok((Planned { program, rotation: Some(rotation) }, cost))
    }
}

impl CostModel for Planner {
    /// Infinite where the function cannot be lowered.
    fn price(&self, module: &Module, func: FuncId) -> Cost {
        let Ok((planned, cost)) = self.cheaper(module, func) else { return NEVER };
        self.plans.lock().unwrap_or_else(PoisonError::into_inner).push((module.clone(), func, planned));
        cost
    }
}

/// The cost of what cannot be run.
const NEVER: Cost =
    Cost { bytes: f64::INFINITY, flops: f64::INFINITY, launches: f64::INFINITY, total: f64::INFINITY };

impl KernelCost {
    /// The cost of one call of `program` at `sizes`; `None` if a size has no value.
    pub fn program(&self, program: &Program, sizes: &SizeEnv) -> Option<Cost> {
        let per_kernel = traffic::predict(program, sizes).ok()?;
        let mut cost = Cost::default();
        let contracts = traffic::predict_contracts(program, sizes).ok()?;
        for (contract, moved) in program.contracts().into_iter().zip(&contracts) {
            let wide = program.buffer(contract.c.arg.buffer)?.dtype.size_bytes() as f64 / 4.0;
            let seconds = wide * contract.sizes(sizes).ok()?.products() / self.library_rate;
            self.add(&mut cost, moved, seconds * self.rate);
        }
        for (kernel, moved) in program.kernels.iter().zip(&per_kernel) {
            let work = instructions(kernel, sizes, self.target.native_lanes);
            self.add(&mut cost, moved, work);
        }
        Some(cost)
    }

    /// Adds launches that each move so much and take so many instructions.
    fn add(&self, cost: &mut Cost, moved: &KernelTraffic, work: f64) {
        let launches = moved.launches as f64;
        let bytes = moved.per_launch.edge_bytes() as f64;
        // Memory and arithmetic overlap, but never wholly.
        let is_kept = launches > 1.0 && bytes <= self.cache_bytes;
        let bandwidth = if is_kept { self.cache_bandwidth } else { self.bandwidth };
        let (memory, compute) = (bytes / bandwidth, work / self.rate);
        let time = memory.max(compute) + 0.25 * memory.min(compute) + self.launch;
        cost.bytes += launches * bytes;
        cost.flops += launches * work;
        cost.launches += launches;
        cost.total += launches * time;
    }
}

/// Native instructions of all tiles, each weighed by what it takes.
fn instructions(kernel: &Func, sizes: &SizeEnv, native_lanes: u32) -> f64 {
    weigh(kernel, sizes, f64::from(native_lanes), Weights::Instructions)
}

/// Operations on single floats in one launch of `kernel`: a fused multiply-add is two, a transcendental function as many as its
/// weight in the cost model. Moving data is none.
pub fn flops(kernel: &Func, sizes: &SizeEnv) -> f64 {
    weigh(kernel, sizes, 1.0, Weights::Flops)
}

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weights {
    /// Native instructions.
    Instructions,
    /// Arithmetic on floats.
    Flops,
}

fn weigh(kernel: &Func, sizes: &SizeEnv, native: f64, weights: Weights) -> f64 {
    let mut vars: BTreeMap<Var, f64> = BTreeMap::new();
    let mut ends: BTreeMap<Var, [f64; 2]> = BTreeMap::new();
    let mut tiles = 1.0;
    for axis in &kernel.grid {
        let extent = axis.extent.eval(sizes).unwrap_or(1).max(1) as f64;
        let count = f64::from(axis.tile).min(extent);
        tiles *= extent / count;
        vars.insert(axis.base, (extent - count) / 2.0);
        ends.insert(axis.base, [0.0, extent - count]);
        vars.insert(axis.count, count);
    }
    let mut walk = InstructionWalk { kernel, sizes, native, weights, vars, ends, busy: 1.0 };
    let work = walk.block(&kernel.body, None);
    tiles * walk.busy * work
}

struct InstructionWalk<'a> {
    kernel: &'a Func,
    sizes: &'a SizeEnv,
    native: f64,
    weights: Weights,
    /// Values of integer variables, as far as they bound loops; of those that differ between tiles the mean.
    vars: BTreeMap<Var, f64>,
    /// Variables that differ between tiles: their values in the first tile and in the last.
    ends: BTreeMap<Var, [f64; 2]>,
    /// The part of the tiles that have places.
    busy: f64,
}

impl InstructionWalk<'_> {
    fn size(&self, dim: &Dim) -> f64 {
        dim.eval(self.sizes).unwrap_or(1) as f64
    }

    fn index(&self, index: &Index) -> f64 {
        let term = |(var, coeff): &(Var, Dim)| self.vars.get(var).copied().unwrap_or(0.0) * self.size(coeff);
        index.terms.iter().map(term).sum::<f64>() + self.size(&index.offset)
    }

    /// Instructions of one run of `block`; `lanes` is the width of the lane loop around and its variable.
    fn block(&mut self, block: &Block, lanes: Option<(f64, Var)>) -> f64 {
        let vectors = lanes.map_or(1.0, |(width, _)| (width / self.native).max(1.0));
        let is_flops = self.weights == Weights::Flops;
        let step = if is_flops { 0.0 } else { 1.0 };
        let mut sum = 0.0;
        for stmt in block {
            sum += match stmt {
                Stmt::Let(var, inst) => {
                    self.note(*var, inst);
                    vectors * self.inst_weight(*var, inst, lanes)
                }
                Stmt::Store { .. } if is_flops => 0.0,
                Stmt::Store { index, .. } => vectors * access_weight(index, lanes, self.native),
                Stmt::Accum { args, .. } if is_flops => vectors * args.len() as f64,
                Stmt::Accum { .. } => vectors,
                Stmt::Stage(_, body) => self.block(body, lanes),
                Stmt::Decl(_) => 0.0,
                Stmt::For(inner) => {
                    let trip = (self.index(&inner.end) - self.index(&inner.start)).max(0.0);
                    match inner.kind {
                        ForKind::Seq | ForKind::Unroll => trip * (self.block(&inner.body, lanes) + step),
                        ForKind::Lanes { width } => {
                            let width = f64::from(width);
                            let chunks = (trip / width).floor();
                            let rest = trip - chunks * width;
                            let whole = self.block(&inner.body, Some((width, inner.var))) + step;
                            // One by one, a vector instruction does for a single element.
                            chunks * whole + rest * (whole / (width / self.native).max(1.0))
                        }
                    }
                }
            };
        }
        sum
    }

    /// Remembers integers that may bound loops.
    fn note(&mut self, var: Var, inst: &Inst) {
        let value = |arg: &Var| self.vars.get(arg).copied();
        let (found, ends) = match inst {
            Inst::Index(index) => (self.index(index), self.index_ends(index)),
            Inst::Scalar(ScalarOp::Mul, args) => {
                let product = args.iter().map(|arg| value(arg).unwrap_or(0.0)).product();
                let end = |which: usize| -> f64 {
                    let own = |arg| match self.ends.get(arg) {
                        Some(ends) => ends[which],
                        None => value(arg).unwrap_or(0.0),
                    };
                    args.iter().map(own).product()
                };
                let is_spread = args.iter().any(|arg| self.ends.contains_key(arg));
                (product, is_spread.then(|| [end(0), end(1)]))
            }
            Inst::Scalar(ScalarOp::Div, args) => {
                let quotient = value(&args[0]).unwrap_or(1.0) / value(&args[1]).unwrap_or(1.0).max(1.0);
                (quotient.floor(), None)
            }
            Inst::Scalar(ScalarOp::Max, args) => {
                (args.iter().filter_map(value).fold(f64::MIN, f64::max), None)
            }
            // Of the places that are left and a whole tile: a whole tile, as long as any are left.
            Inst::Scalar(ScalarOp::Min, args) => {
                let known = args.iter().filter(|arg| !self.ends.contains_key(arg)).filter_map(value);
                let Some(least) = known.reduce(f64::min) else { return };
                match args.iter().find_map(|arg| self.ends.get(arg)) {
                    Some(left) => {
                        let (busy, places) = busy_tiles(*left, least);
                        self.busy = busy;
                        (places, None)
                    }
                    None => (least, None),
                }
            }
            _ => return,
        };
        self.vars.insert(var, found);
        self.ends.extend(ends.map(|ends| (var, ends)));
    }

    /// What `index` is in the first tile and in the last, if that differs.
    fn index_ends(&self, index: &Index) -> Option<[f64; 2]> {
        let mut ends = [self.index(index); 2];
        let mut is_spread = false;
        for (var, coeff) in &index.terms {
            let Some(own) = self.ends.get(var) else { continue };
            is_spread = true;
            let mean = self.vars.get(var).copied().unwrap_or(0.0);
            for (end, own) in ends.iter_mut().zip(own) {
                *end += (own - mean) * self.size(coeff);
            }
        }
        is_spread.then_some(ends)
    }

    fn inst_weight(&self, var: Var, inst: &Inst, lanes: Option<(f64, Var)>) -> f64 {
        if self.weights == Weights::Flops {
            return match inst {
                Inst::Scalar(op, _) if self.kernel.dtype(var).is_float() => scalar_weight(*op),
                Inst::Fma(..) => 2.0,
                _ => 0.0,
            };
        }
        let wide = if self.kernel.dtype(var).size_bytes() == 8 { 2.0 } else { 1.0 };
        match inst {
            Inst::Const(_) | Inst::Index(_) => 0.0,
            Inst::Scalar(op, _) => wide * scalar_weight(*op),
            Inst::Fma(..) | Inst::Convert(_) | Inst::Bitcast(_) => wide,
            Inst::Round(..) => 6.0,
            Inst::Load(_, index) => wide * access_weight(index, lanes, self.native),
        }
    }
}

/// Of tiles that have at most so many places, and fewer where fewer are left: the part that have any, and how many on average.
/// What is left goes from one end to the other in equal steps.
fn busy_tiles(left: [f64; 2], most: f64) -> (f64, f64) {
    const STEPS: u32 = 64;
    let at = |step: u32| left[0] + (left[1] - left[0]) * f64::from(step) / f64::from(STEPS - 1);
    let places = || (0..STEPS).map(|step| at(step).min(most)).filter(|places| *places > 0.0);
    let n_busy = places().count().max(1) as f64;
    (n_busy / f64::from(STEPS), places().sum::<f64>().max(1.0) / n_busy)
}

/// A vector access is one instruction if its elements are neighbours or one; else one per element.
fn access_weight(index: &[Index], lanes: Option<(f64, Var)>, native: f64) -> f64 {
    let Some((_, lane)) = lanes else { return 0.5 };
    let coeff = |index: &Index| index.coeff(lane);
    let is_outer = index.iter().rev().skip(1).any(|index| !coeff(index).is_const(0));
    let last = index.last().map(coeff).unwrap_or_default();
    if is_outer || !(last.is_const(0) || last.is_const(1)) { 1.5 * native } else { 0.5 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use birkhoff_ir::tensor::text::parse;

    #[test]
    fn what_is_left_for_the_mean_tile() {
        // 64 chunks of 16 places: of 1024 places all are full, of 24 the first and half of another.
        assert_eq!(busy_tiles([1024.0, 1024.0 - 63.0 * 16.0], 16.0), (1.0, 16.0));
        assert_eq!(busy_tiles([24.0, 24.0 - 63.0 * 16.0], 16.0), (1.0 / 32.0, 12.0));
    }

    #[test]
    fn a_plan_made_for_a_price_is_that_of_its_function() {
        let func = |op: &str| {
            format!("export fn @f(%x: f32[64]) -> (y: f32[64]) {{\n  %y = {op}(%x)\n  return y = %y\n}}\n")
        };
        let modules: Vec<Module> = ["exp", "neg"]
            .iter()
            .map(|op| parse(&func(op)).unwrap_or_else(|why| panic!("{why:?}")))
            .collect();
        let planner = Planner::default();
        assert!(planner.price(&modules[0], FuncId(0)).total < f64::INFINITY);
        for module in &modules {
            let known = super::super::lower(module, FuncId(0), &Target::default());
            assert_eq!(planner.plan(module, FuncId(0)).ok().map(|planned| planned.program), known.ok());
        }
        assert!(planner.plans.lock().is_ok_and(|plans| plans.is_empty()), "the plan was not taken");
    }
}
