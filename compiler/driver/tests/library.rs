//! The library as users meet it.

#[path = "support/ratio.rs"]
mod ratio;

use birkhoff::{Inputs, Options, OutputsMut, Pool, Spec, Syntax, Target, Template, compile};
use ratio::RATIO;

fn ratio() -> Spec {
    Spec::parse(Syntax::Ir, "ratio.bir", RATIO).unwrap()
}

/// What `ratio` computes, written down once more.
fn expected(x: &[f32], w: &[f32]) -> Vec<f32> {
    x.chunks(w.len())
        .flat_map(|row| {
            let sum: f32 = row.iter().zip(w).map(|(x, w)| x * w).sum();
            row.iter().map(move |x| 2.0 * x / sum)
        })
        .collect()
}

fn data(len: usize) -> Vec<f32> {
    (0..len).map(|idx| 1.0 + (idx * 37 % 101) as f32 / 101.0).collect()
}

fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= 2e-6 * expected.abs(), "{found} {expected}");
    }
}

#[test]
fn one_compilation_serves_every_run_time_size() {
    let template = Template::new(ratio(), Options::default());
    let mut kernels = Vec::new();
    for n_tokens in [1i64, 37, 1024] {
        let (x, w) = (data(n_tokens as usize * 3 * 8), data(8));
        let inputs = Inputs::new().slice("x", &x, &[n_tokens, 3, 8]).slice("w", &w, &[8]);
        let outputs = template.call(&inputs).unwrap();
        assert_close(outputs.slice("y").unwrap(), &expected(&x, &w));
        let function = template.for_shapes(&inputs.shapes().collect::<Vec<_>>()).unwrap();
        kernels.push((std::sync::Arc::as_ptr(&function), function.program().unwrap().kernels.len()));
    }
    assert_eq!(template.n_functions(), 1);
    assert!(kernels.iter().all(|kernel| *kernel == kernels[0]));

    // Another compile-time size is another function.
    let (x, w) = (data(2 * 3 * 5), data(5));
    let outputs = template.call(&Inputs::new().slice("x", &x, &[2, 3, 5]).slice("w", &w, &[5])).unwrap();
    assert_close(outputs.slice("y").unwrap(), &expected(&x, &w));
    assert_eq!(template.n_functions(), 2);
}

/// The targets of this build, but for the one that only compiles.
fn targets_that_run() -> impl Iterator<Item = Target> {
    Target::ALL.into_iter().filter(|target| target.check().is_ok() && *target != Target::Ptx)
}

#[test]
fn every_target_agrees() {
    let (x, w) = (data(37 * 3 * 33), data(33));
    for target in targets_that_run() {
        let function = compile(&ratio().dim("C", 33), &Options { target, ..Options::default() }).unwrap();
        let outputs =
            function.call(&Inputs::new().slice("x", &x, &[37, 3, 33]).slice("w", &w, &[33])).unwrap();
        assert_close(outputs.slice("y").unwrap(), &expected(&x, &w));
    }
}

#[test]
fn calls_write_into_the_callers_memory_from_any_thread() {
    let options = Options { pool: Some(Pool::new(3).unwrap()), ..Options::default() };
    let function = compile(&ratio().dim("C", 16), &options).unwrap();
    std::thread::scope(|scope| {
        for n_tokens in [1usize, 50, 400] {
            let function = &function;
            scope.spawn(move || {
                let shape = [n_tokens as i64, 3, 16];
                let (x, w) = (data(n_tokens * 48), data(16));
                let mut y = vec![0.0f32; n_tokens * 48];
                for _ in 0..10 {
                    y.fill(f32::NAN);
                    let inputs = Inputs::new().slice("x", &x, &shape).slice("w", &w, &[16]);
                    function.call_into(&inputs, OutputsMut::new().slice("y", &mut y, &shape)).unwrap();
                    assert_close(&y, &expected(&x, &w));
                }
            });
        }
    });
}

#[test]
fn wrong_calls_are_refused_all_at_once() {
    for target in [Target::Eval, Target::Cpu] {
        let function = compile(&ratio().dim("C", 4), &Options { target, ..Options::default() }).unwrap();
        let (x, ints) = (data(24), [1i32; 4]);
        let refusal = |inputs: Inputs<'_>| function.call(&inputs).unwrap_err().to_string();
        let good = || Inputs::new().slice("x", &x, &[2, 3, 4]);
        let text = [
            refusal(Inputs::new().slice("x", &x, &[5, 5]).slice("v", &ints, &[4])),
            refusal(good().slice("w", &ints, &[4])),
            refusal(good().slice("w", &x[..3], &[3])),
            refusal(good().slice("w", &x[..4], &[4]).slice("x", &x, &[2, 3, 4])),
        ];
        insta::assert_snapshot!("wrong_calls", text.join("\n\n"));
    }
}

#[test]
fn signatures_and_stages_can_be_read() {
    let function = compile(&ratio().dim("C", 4), &Options::default()).unwrap();
    assert_eq!(function.signature().to_string(), "ratio(x: f32[T,3,4], w: f32[4]) -> (y: f32[T,3,4])");
    let names: Vec<&str> = function.timings().iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["bind", "grad", "eqsat", "schedule", "emit"]);
    assert!(function.stages().optimized.is_some());
    let random = function.random_inputs(5).unwrap();
    assert_eq!(random[0].shape(), [5, 3, 4]);
    assert_eq!(random[0].view().bytes(), function.random_inputs(5).unwrap()[0].view().bytes());
    assert_ne!(random[0].view().bytes(), function.random_inputs(6).unwrap()[0].view().bytes());
}

#[test]
fn an_output_may_have_the_name_of_an_input() {
    let text = "dim T in 1..=100\nexport fn @f(%x: f32[T]) -> (x: f32[T]) {\n  return x = %x + %x\n}\n";
    let spec = Spec::parse(Syntax::Ir, "f.bir", text).unwrap();
    for target in targets_that_run() {
        let function = compile(&spec, &Options { target, ..Options::default() }).unwrap();
        let outputs = function.call(&Inputs::new().slice("x", &[1.0f32, 2.0], &[2])).unwrap();
        assert_eq!(outputs.slice::<f32>("x").unwrap(), [2.0, 4.0], "{target}");
    }
}
