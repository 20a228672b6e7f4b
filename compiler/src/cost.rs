//! What a program costs to run, for passes that choose between equal programs.
//!
//! In: a bound module of primitives and one of its functions. Out: a [`Cost`]. The scheduler's kernel model implements
//! [`CostModel`] precisely; [`Edges`] here is a simple stand-in that needs no schedule. Neither runs or times anything.

use birkhoff_ir::dim::{Dim, SizeEnv};
use birkhoff_ir::scalar::ScalarOp;
use birkhoff_ir::tensor::{Def, DimKind, Func, FuncId, Module, Node, OpKind, TensorType, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// What one call of a function costs.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Cost {
    /// Bytes moved between kernels and memory.
    pub bytes: f64,
    /// Arithmetic, in units of one addition; divisions and transcendentals count several.
    pub flops: f64,
    /// Kernels launched.
    pub launches: f64,
    /// All of it in one number, of the order of seconds. Candidates are compared by this.
    pub total: f64,
}

/// Prices a function. Several threads may ask at once.
pub trait CostModel: Sync {
    /// The cost of calling `func` once, with run-time dims at their default sizes.
    fn price(&self, module: &Module, func: FuncId) -> Cost;
}

/// The cost of the tensors that cross kernel edges when elementwise and movement ops are fused into their consumers and
/// every reduction, contraction and loop is a kernel.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Edges {
    /// Bytes per second.
    pub bandwidth: f64,
    /// Additions per second.
    pub rate: f64,
    /// Seconds per kernel launch.
    pub launch: f64,
}

impl Default for Edges {
    fn default() -> Self {
        Edges { bandwidth: 1e10, rate: 2e10, launch: 2e-6 }
    }
}

impl CostModel for Edges {
    fn price(&self, module: &Module, func: FuncId) -> Cost {
        let sizes = default_sizes(module);
        let mut flops_of = BTreeMap::new();
        let flops = func_flops(module, func, &sizes, &mut flops_of);
        let (bytes, launches) = edges(module.func(func), &sizes);
        let total = bytes / self.bandwidth + flops / self.rate + launches * self.launch;
        Cost { bytes, flops, launches, total }
    }
}

/// Sizes for run-time dims where nothing says what they will be: the default, else 1024 within the bounds.
pub fn default_sizes(module: &Module) -> SizeEnv {
    let mut sizes = SizeEnv::new();
    for decl in &module.dims {
        let size = match decl.kind {
            DimKind::Static(size) => size.unwrap_or(1),
            DimKind::RunTime { default: Some(size), .. } => size,
            DimKind::RunTime { lo, hi, .. } => 1024.clamp(lo.min(hi), hi),
        };
        sizes.insert(decl.name.clone(), size);
    }
    sizes
}

/// The size as a float; 1 where a name has none.
pub fn size_of(dim: &Dim, sizes: &SizeEnv) -> f64 {
    dim.eval(sizes).map_or(1.0, |size| size as f64)
}

/// Number of elements.
pub fn elements(ty: &TensorType, sizes: &SizeEnv) -> f64 {
    ty.shape.iter().map(|dim| size_of(dim, sizes)).product()
}

/// Bytes in memory.
pub fn bytes_of(ty: &TensorType, sizes: &SizeEnv) -> f64 {
    elements(ty, sizes) * ty.dtype.size_bytes() as f64
}

/// What one element of the op costs, in additions.
pub fn scalar_weight(op: ScalarOp) -> f64 {
    use ScalarOp as S;
    match op {
        S::Div | S::Recip | S::Sqrt | S::Rem => 4.0,
        S::Rsqrt => 5.0,
        S::Exp | S::Log => 10.0,
        S::Expm1 | S::Log1p | S::Sin | S::Cos | S::Atan | S::Tanh | S::Erf => 16.0,
        S::Tan | S::Sinh | S::Cosh | S::Asinh | S::Atanh | S::Atan2 | S::Pow => 24.0,
        _ => 1.0,
    }
}

/// Arithmetic of one op, in additions; loops are left to the caller.
pub fn op_flops(kind: OpKind, spec_size: f64, args: &[f64], result: f64) -> f64 {
    match kind {
        OpKind::Scalar(op) => result * scalar_weight(op),
        OpKind::Const | OpKind::Broadcast | OpKind::Reshape | OpKind::Slice | OpKind::StopGradient => 0.0,
        OpKind::Iota | OpKind::Transpose | OpKind::Pad | OpKind::Concat | OpKind::Convert => 0.25 * result,
        OpKind::RandomBits => 60.0 * result,
        OpKind::Gather => 2.0 * result,
        OpKind::ReduceSum | OpKind::ReduceProd | OpKind::ReduceMax | OpKind::ReduceMin => {
            args.first().copied().unwrap_or(0.0)
        }
        // As many as a product and a sum that are written out.
        OpKind::Contract => spec_size * args.len() as f64,
        OpKind::Solve | OpKind::Qr => args.iter().product::<f64>().sqrt() * 8.0,
        _ => result,
    }
}

/// The product of all extents that a node iterates over, for contractions; 0 for others.
fn spec_size(func: &Func, node: &Node, sizes: &SizeEnv) -> f64 {
    let Some(spec) = node.op.einsum() else { return 0.0 };
    let mut seen: BTreeMap<char, f64> = BTreeMap::new();
    for (labels, arg) in spec.inputs.iter().zip(&node.args) {
        for (label, dim) in labels.iter().zip(&func.ty(*arg).shape) {
            seen.insert(*label, size_of(dim, sizes));
        }
    }
    seen.values().product()
}

/// Arithmetic of one call, loops included.
pub fn func_flops(module: &Module, id: FuncId, sizes: &SizeEnv, known: &mut BTreeMap<FuncId, f64>) -> f64 {
    if let Some(flops) = known.get(&id) {
        return *flops;
    }
    let func = module.func(id);
    let mut sum = 0.0;
    for node in &func.nodes {
        let args: Vec<f64> = node.args.iter().map(|arg| elements(func.ty(*arg), sizes)).collect();
        let result: f64 = node.results.iter().map(|result| elements(func.ty(*result), sizes)).sum();
        sum += match (node.op.kind, node.op.body()) {
            (OpKind::Loop, Some(body)) => {
                let trip = node.op.dim(module, "trip").map_or(1.0, |dim| size_of(&dim, sizes));
                trip * func_flops(module, body, sizes, known)
            }
            (kind, _) => op_flops(kind, spec_size(func, node, sizes), &args, result),
        };
    }
    known.insert(id, sum);
    sum
}

/// True for ops that fuse into whatever reads them.
pub fn is_fused(kind: OpKind) -> bool {
    use OpKind as K;
    matches!(
        kind,
        K::Scalar(_)
            | K::Const
            | K::Iota
            | K::Convert
            | K::StopGradient
            | K::Broadcast
            | K::Reshape
            | K::Transpose
            | K::Slice
            | K::Pad
            | K::Concat
    )
}

/// Bytes across kernel edges, and the number of kernels.
fn edges(func: &Func, sizes: &SizeEnv) -> (f64, f64) {
    // What is in memory and read where a value is used: itself, or the sources of the fused ops behind it.
    let mut sources: Vec<BTreeSet<ValueId>> = vec![BTreeSet::new(); func.values.len()];
    let (mut bytes, mut launches) = (0.0, 0.0);
    for input in func.input_values() {
        sources[input.0 as usize].insert(input);
    }
    let read =
        |set: &BTreeSet<ValueId>| -> f64 { set.iter().map(|value| bytes_of(func.ty(*value), sizes)).sum() };
    for node in &func.nodes {
        let mut all = BTreeSet::new();
        for arg in &node.args {
            all.extend(sources[arg.0 as usize].iter().copied());
        }
        if is_fused(node.op.kind) {
            for result in &node.results {
                sources[result.0 as usize].clone_from(&all);
            }
            continue;
        }
        launches += 1.0;
        bytes += read(&all);
        for result in &node.results {
            bytes += bytes_of(func.ty(*result), sizes);
            sources[result.0 as usize].insert(*result);
        }
    }
    let mut written = BTreeSet::new();
    let mut read_at_end = BTreeSet::new();
    for out in &func.outputs {
        let fused = match func.values[out.value.0 as usize].def {
            Def::Input(_) => false,
            Def::Node { node, .. } => is_fused(func.nodes[node as usize].op.kind),
        };
        if fused && written.insert(out.value) {
            bytes += bytes_of(func.ty(out.value), sizes);
            read_at_end.extend(sources[out.value.0 as usize].iter().copied());
        }
    }
    if !written.is_empty() {
        launches += 1.0;
    }
    (bytes + read(&read_at_end), launches)
}
