//! Loops that are run as products with a kept kernel where that is accurate: on every target, within the range and out of it.

use birkhoff::elements::scalars;
use birkhoff::{Function, Inputs, Math, Options, Spec, Syntax, Target, compile};
use birkhoff_tests::golden::folder;

/// Clouds of points on a lattice of reals without a period; `far` moves the first point of the second one away.
fn clouds(far: f32) -> [(Vec<i64>, Vec<f32>); 2] {
    let points = |count: usize, seed: f32| -> Vec<f32> {
        (0..3 * count).map(|place| (1.7 * place as f32 + seed).sin()).collect()
    };
    let mut y = points(20, 0.9);
    y[..3].iter_mut().for_each(|coordinate| *coordinate += far);
    [(vec![17, 3], points(17, 0.3)), (vec![20, 3], y)]
}

/// Every output as f64, and how many kernels and products ran.
fn run(spec: &Spec, options: &Options, far: f32) -> (Vec<Vec<f64>>, u64) {
    let function = compile(spec, options).unwrap_or_else(|error| panic!("{error}"));
    let [x, y] = clouds(far);
    let inputs = Inputs::new().slice("x", &x.1, &x.0).slice("y", &y.1, &y.0);
    let outputs = function.call(&inputs).unwrap_or_else(|error| panic!("{error}"));
    let values =
        outputs.iter().map(|(_, found)| scalars(&found.view()).map(|value| value.as_f64()).collect());
    (values.collect(), outputs.report().n_launches)
}

#[test]
fn out_of_range_the_original_runs() {
    let spec =
        Spec::load(folder("bench").join("ot_sinkhorn_grad.toml")).unwrap_or_else(|error| panic!("{error}"));
    let spec = spec.function("ot_sinkhorn_grad").dim("d", 3);
    // A point so far away that no other one sends it mass which f32 can hold, before it is scaled up.
    for (far, in_range) in [(0.0, true), (6.0, false)] {
        let exact = Options { target: Target::Eval, math: Math::Strict, ..Options::default() };
        let (expected, _) = run(&spec, &exact, far);
        let mut n_launches = vec![];
        for target in Target::ALL.into_iter().filter(|target| target.check().is_ok()) {
            if !target.is_native() && !matches!(target, Target::KernelEval | Target::PtxSim) {
                continue;
            }
            let options = Options { target, ..Options::default() };
            let (found, n_run) = run(&spec, &options, far);
            n_launches.push((target, n_run));
            for (number, (expected, found)) in expected.iter().zip(&found).enumerate() {
                let largest = expected.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
                let apart = expected.iter().zip(found).map(|(one, other)| (one - other).abs());
                let most =
                    apart.fold(0.0, |most: f64, apart| if apart.is_nan() { apart } else { most.max(apart) });
                assert!(
                    most <= 3e-4 * largest,
                    "{target}, far {far}, output {number}: {most:e} of {largest:e}"
                );
            }
        }
        // Out of range, the plan that was right within it has run in vain.
        for (target, n_run) in n_launches {
            let (_, n_strict) =
                run(&spec, &Options { target, math: Math::Strict, ..Options::default() }, far);
            assert!(
                !target.is_native() || in_range || n_run > n_strict + 100,
                "{target}: {n_run}, {n_strict}"
            );
        }
    }
}

#[test]
fn the_choice_is_told() {
    let spec = Spec::load(folder("bench").join("ot_sinkhorn.toml")).unwrap_or_else(|error| panic!("{error}"));
    let spec = spec.function("ot_sinkhorn").dim("d", 64);
    let lines = |math: Math| {
        let options = Options { math, ..Options::default() };
        let text = birkhoff::stage_text(&spec, &options, birkhoff::Stage::Schedule, &mut |_| ());
        text.unwrap_or_else(|error| panic!("{error}"))
    };
    assert!(lines(Math::Default).contains("loops: scaled where that is in range"));
    assert!(!lines(Math::Strict).contains("in range"));
}

/// Projections of larger matrices.
const PROJECTIONS: &str = "
dim B in 1..=1000000 default 100000
export fn @main(%m: f32[B,16,16]) -> (h: f32[B,16,16]) {
  h = sinkhorn(m, form=exp, first=rows, shift=rows, iters=4, eps=1e-6, stop_shift=true)
  return h = h
}";

/// The projections as f64, and how many kernels ran.
fn projections(function: &Function, first: f32) -> (Vec<f64>, u64) {
    let mut m: Vec<f32> = (0..512).map(|i| (1.7 * i as f32).sin()).collect();
    m[5] = first;
    let outputs = function.call(&Inputs::new().slice("m", &m, &[2, 16, 16]));
    let outputs = outputs.unwrap_or_else(|error| panic!("{error}"));
    let values = outputs
        .iter()
        .flat_map(|(_, found)| scalars(&found.view()).map(|value| value.as_f64()).collect::<Vec<_>>());
    (values.collect(), outputs.report().n_launches)
}

#[test]
fn matrices_out_of_range_are_projected_as_written() {
    let spec =
        Spec::parse(Syntax::Ir, "projections.bir", PROJECTIONS).unwrap_or_else(|error| panic!("{error}"));
    let compiled = |target: Target, math: Math| {
        compile(&spec, &Options { target, math, ..Options::default() })
            .unwrap_or_else(|error| panic!("{error}"))
    };
    let exact = compiled(Target::Eval, Math::Strict);
    for target in Target::ALL.into_iter().filter(|target| target.check().is_ok()) {
        if !target.is_native() && !matches!(target, Target::KernelEval | Target::PtxSim) {
            continue;
        }
        let function = compiled(target, Math::Default);
        let report = &function.stages().loops;
        let is_taken = report.range.is_some_and(|choice| choice.is_taken());
        assert!(is_taken || !target.is_native(), "{target}: {report:?}");
        let (_, n_fast) = projections(&function, 0.5);
        // A small entry, none at all, others that are small beside one, and none that are numbers.
        for first in [0.5, -60.0, f32::NEG_INFINITY, 1e30, f32::NAN] {
            let ((expected, _), (found, n_run)) = (projections(&exact, first), projections(&function, first));
            assert_eq!(n_run > n_fast, is_taken && first != 0.5, "{target}, {first}");
            for (one, other) in expected.iter().zip(&found) {
                let is_same = (one - other).abs() <= 1e-6 || one.is_nan() && other.is_nan();
                assert!(is_same, "{target}, {first}: {one:e} and {other:e}");
            }
        }
    }
}
