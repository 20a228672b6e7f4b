//! Optimised programs have the values of the originals: every spec, and random graphs.
//!
//! Random graphs are evaluated in f64 where rounding may change, so that a badly conditioned graph does not look like a wrong
//! rule; and in f32 with infinities, NaN and zeros of both signs where it must not, bit by bit.

mod common;

use birkhoff_compiler::cost::Edges;
use birkhoff_compiler::eqsat::{Math, Options, optimize};
use birkhoff_compiler::spec;
use birkhoff_ir::dim::{Dim, SizeEnv};
use birkhoff_ir::dtype::DType;
use birkhoff_ir::scalar::{Scalar, ScalarOp};
use birkhoff_ir::tensor::bind::{Bindings, bind};
use birkhoff_ir::tensor::build::{Builder, Built};
use birkhoff_ir::tensor::eval::eval;
use birkhoff_ir::tensor::verify::verify;
use birkhoff_ir::tensor::{Attr, DimDecl, DimKind, Domain, FuncId, Module, OpKind, TensorType, ValueId};
use common::{Contents, compare, inputs_of};

fn run(module: &Module, func: FuncId, math: Math, sample: Option<u64>) -> (Module, FuncId) {
    let options = Options { math, sample, ..Options::default() };
    let out =
        optimize(module, func, &options, &Edges::default()).unwrap_or_else(|why| panic!("{}", why.message));
    verify(&out.module).unwrap_or_else(|why| panic!("{why}"));
    (out.module, out.func)
}

#[test]
fn specs_keep_their_values() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let mut paths = vec![];
    for folder in ["examples", "tests/specs"] {
        for entry in std::fs::read_dir(format!("{root}/{folder}")).expect("the folder is there") {
            let path = entry.expect("readable").path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    assert!(paths.len() > 20);
    for path in paths {
        let source = std::fs::read_to_string(&path).expect("readable");
        let name = path.display().to_string();
        let module = spec::parse(&source).unwrap_or_else(|why| panic!("{}", why.render(&name, &source)));
        let size = |name: &str| if name == "n" { 4 } else { 5 };
        let dims: SizeEnv = module
            .dims
            .iter()
            .filter(|decl| matches!(decl.kind, DimKind::Static(None)) || decl.name.as_str() == "C")
            .filter(|decl| matches!(decl.kind, DimKind::Static(_)))
            .map(|decl| (decl.name.clone(), size(&decl.name)))
            .collect();
        let bound = bind(&module, &Bindings { dims, ..Bindings::default() })
            .unwrap_or_else(|why| panic!("{name}: {}", why.message));
        // bf16 and f16 round intermediate values coarsely; approximate rules then differ by that.
        let coarse = bound
            .funcs
            .iter()
            .flat_map(|func| &func.values)
            .any(|value| matches!(value.ty.dtype, DType::Bf16 | DType::F16));
        let modes = [(Math::Default, 5e-4), (Math::Fast, 5e-3), (Math::Strict, 0.0)];
        for (id, func) in bound.exported() {
            for (math, bound_of) in modes {
                for sample in [None, Some(1)] {
                    let tolerance = if coarse && math != Math::Strict { 2e-2 } else { bound_of };
                    let (after, after_id) = run(&bound, id, math, sample);
                    let inputs = inputs_of(&bound, id, 7, Contents::Domain, 5)
                        .unwrap_or_else(|why| panic!("{name}: {why}"));
                    compare((&bound, id), (&after, after_id), 7, &inputs, tolerance)
                        .unwrap_or_else(|why| panic!("{name} @{} {math:?} {sample:?}: {why}", func.name));
                }
            }
        }
    }
}

/// Numbers for drawing (Steele, Lea and Flood 2014).
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn of<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }
}

fn random_module(seed: u64, dtype: DType) -> Option<(Module, FuncId)> {
    let mut draw = Draw(seed);
    let tokens = Dim::sym("T");
    let kind = DimKind::RunTime { lo: 1, hi: 4096, default: Some(64) };
    let mut module = Module {
        dims: vec![DimDecl { name: "T".into(), kind, span: Default::default() }],
        ..Module::default()
    };
    let mut b = Builder::new(&mut module, "main");
    let (n, c) = (Dim::constant(3), Dim::constant(5));
    let shapes = [
        vec![tokens.clone(), n.clone(), c.clone()],
        vec![tokens.clone(), n.clone()],
        vec![n, c.clone()],
        vec![c],
        vec![tokens],
        vec![],
    ];
    let mut values = vec![];
    for (idx, shape) in shapes.iter().enumerate() {
        values
            .push(b.input(format!("x{idx}"), TensorType::new(dtype, shape.clone()), Domain::default()).ok()?);
    }
    let n_inputs = values.len();
    for _ in 0..14 {
        // Later values more often, so that graphs grow deep.
        let pick = |draw: &mut Draw| {
            values[values.len() - 1 - draw.below(values.len()).min(draw.below(values.len()))]
        };
        let (x, y) = (pick(&mut draw), pick(&mut draw));
        if let Ok(value) = random_node(&mut b, &mut draw, x, y) {
            values.push(value);
        }
    }
    if values.len() < n_inputs + 4 {
        return None;
    }
    let last = values.len() - 1;
    b.output("o", values[last]).ok()?;
    b.output("p", values[last - 2]).ok()?;
    b.export();
    let id = b.finish();
    Some((module, id))
}

fn random_node(b: &mut Builder<'_>, draw: &mut Draw, x: ValueId, y: ValueId) -> Built {
    let rank = b.ty(x).rank();
    let unary =
        [ScalarOp::Neg, ScalarOp::Abs, ScalarOp::Exp, ScalarOp::Tanh, ScalarOp::Sqrt, ScalarOp::Recip];
    let binary = [ScalarOp::Add, ScalarOp::Sub, ScalarOp::Mul, ScalarOp::Mul, ScalarOp::Div, ScalarOp::Max];
    match draw.below(12) {
        0 | 1 => b.unary(draw.of(&unary), x),
        2..=4 => b.elementwise(draw.of(&binary), &[x, y]),
        5 => {
            let constant = b.scalar(b.ty(x).dtype, Scalar::Float(draw.of(&[0.0, 1.0, -1.0, 2.0, 0.3])))?;
            b.elementwise(draw.of(&binary), &[x, constant])
        }
        6 if rank > 0 => {
            let mut axes: Vec<usize> = (0..rank).collect();
            axes.rotate_left(draw.below(rank));
            b.transpose(x, &axes)
        }
        7 if rank > 0 => {
            let kind = draw.of(&[OpKind::ReduceSum, OpKind::ReduceSum, OpKind::ReduceMax, OpKind::ReduceMin]);
            let axis = draw.below(rank);
            if draw.below(2) == 0 { b.reduce(kind, x, &[axis]) } else { b.reduce_keep(kind, x, axis) }
        }
        8 if rank > 1 => {
            let mut shape = b.ty(x).shape.clone();
            let axis = draw.below(rank - 1);
            let merged = shape[axis].mul(&shape[axis + 1]);
            shape.splice(axis..axis + 2, [merged]);
            b.reshape(x, shape)
        }
        9 if rank > 0 => {
            let axis = draw.below(rank);
            let extent = b.dim(x, axis).as_const().ok_or("the slice would need a known extent")?;
            b.slice(x, axis, Dim::constant(draw.below(extent as usize) as i64), Dim::constant(extent))
        }
        10 => {
            let (left, right): (Vec<Dim>, Vec<Dim>) = (b.ty(x).shape.clone(), b.ty(y).shape.clone());
            let letters: Vec<char> = ('a'..='z').collect();
            let own: String = letters[..left.len()].iter().collect();
            // Axes of equal extent get the same label, each once.
            let mut free: Vec<usize> = (0..left.len()).collect();
            let mut other = String::new();
            for (axis, dim) in right.iter().enumerate() {
                match free.iter().position(|place| left[*place] == *dim) {
                    Some(found) => other.push(letters[free.remove(found)]),
                    None => other.push(letters[left.len() + axis]),
                }
            }
            let mut output: Vec<char> =
                own.chars().chain(other.chars()).filter(|_| draw.below(2) == 0).collect();
            output.sort_unstable();
            output.dedup();
            let output: String = output.into_iter().collect();
            b.contract(&format!("{own},{other}->{output}"), &[x, y])
        }
        11 if rank > 0 => {
            let axis = draw.below(rank);
            b.apply(OpKind::Softmax, vec![Attr::Int(axis as i64)], &[x])
        }
        _ => Err("this op does not fit here".into()),
    }
}

#[test]
fn random_graphs_keep_their_values() {
    let mut n_compared = 0;
    for seed in 0..150 {
        let Some((module, func)) = random_module(seed, DType::F64) else { continue };
        let inputs = inputs_of(&module, func, 4, Contents::Domain, seed).expect("fits");
        let sizes = SizeEnv::from([("T".into(), 4)]);
        let plain = eval(&module, func, &sizes, &inputs).unwrap_or_else(|why| panic!("{}", why.message));
        let values: Vec<f64> = plain.iter().flat_map(|tensor| tensor.to_f64s()).collect();
        // Rules that round differently promise nothing beyond the finite, nor where all digits cancel.
        if values.iter().any(|value| !value.is_finite() || value.abs() > 1e12) {
            continue;
        }
        n_compared += 1;
        for sample in [None, Some(seed), Some(seed + 1)] {
            let after = run(&module, func, Math::Default, sample);
            compare((&module, func), (&after.0, after.1), 4, &inputs, 1e-7).unwrap_or_else(|why| {
                panic!("seed {seed} {sample:?}: {why}\n{}", birkhoff_ir::tensor::text::print(&module))
            });
        }
    }
    assert!(n_compared > 50, "{n_compared}");
}

#[test]
fn random_graphs_keep_their_bits_in_strict_mode() {
    for seed in 0..150 {
        let Some((module, func)) = random_module(seed, DType::F32) else { continue };
        let inputs = inputs_of(&module, func, 4, Contents::Special, seed).expect("fits");
        for sample in [None, Some(seed), Some(seed + 1)] {
            let after = run(&module, func, Math::Strict, sample);
            compare((&module, func), (&after.0, after.1), 4, &inputs, 0.0).unwrap_or_else(|why| {
                panic!("seed {seed} {sample:?}: {why}\n{}", birkhoff_ir::tensor::text::print(&module))
            });
        }
    }
}
