//! Calls of plans whose kernels are written in Rust: memory, loops, swaps, threads, and refusals.

use birkhoff_ir::diag::Diagnostics;
use birkhoff_ir::dim::{Dim, SizeEnv, Sym};
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::abi::KernelFn;
use birkhoff_ir::plan::{BufferId, BufferKind, Program, Step};
use birkhoff_runtime::{Executable, KernelImage, Pool, View, ViewMut};
use std::sync::Arc;
use support::{STEPS, TILE, WIDTH, expected, launch, program, tokens};

mod support;

struct Image(Vec<KernelFn>);

// SAFETY: the kernels below follow the convention and stay within what `program` declares.
unsafe impl KernelImage for Image {
    fn entry(&self, kernel_idx: usize) -> Option<KernelFn> {
        self.0.get(kernel_idx).copied()
    }
}

/// `dst[t,c] = src[t,c] / sum_c src[t,c]`, the sum taken through scratch memory.
unsafe extern "C" fn normalise(
    params: *const *mut u8,
    sizes: *const i64,
    first: i64,
    last: i64,
    scratch: *mut u8,
) {
    assert_eq!(scratch as usize % 64, 0);
    // SAFETY: two parameters of `T x WIDTH` f32, one size, scratch for TILE f32.
    unsafe {
        let (src, dst) = (*params as *const f32, *params.add(1) as *mut f32);
        let sums = scratch.cast::<f32>();
        let n_tokens = *sizes;
        for tile in first..last {
            let base = tile * TILE;
            let count = TILE.min(n_tokens - base);
            for t in 0..count {
                let row = src.offset(((base + t) * WIDTH) as isize);
                *sums.offset(t as isize) = (0..WIDTH).map(|c| *row.offset(c as isize)).sum();
            }
            for t in 0..count {
                for c in 0..WIDTH {
                    let pos = ((base + t) * WIDTH + c) as isize;
                    *dst.offset(pos) = *src.offset(pos) / *sums.offset(t as isize);
                }
            }
        }
    }
}

/// `next[t,c] = state[t,c] * 2 + step[0]`.
unsafe extern "C" fn advance(
    params: *const *mut u8,
    sizes: *const i64,
    first: i64,
    last: i64,
    _scratch: *mut u8,
) {
    // SAFETY: two parameters of `T x WIDTH` f32 and one of 1, one size.
    unsafe {
        let (step, state, next) =
            (*params as *const f32, *params.add(1) as *const f32, *params.add(2) as *mut f32);
        for pos in first * TILE * WIDTH..(last * TILE).min(*sizes) * WIDTH {
            *next.offset(pos as isize) = *state.offset(pos as isize) * 2.0 + *step;
        }
    }
}

fn executable(n_threads: usize) -> Executable {
    let image = Arc::new(Image(vec![normalise, advance]));
    Executable::new(program(), image, Pool::new(n_threads).unwrap()).unwrap()
}

fn call(executable: &Executable, x: &[f32], n_tokens: i64) -> Result<Vec<f32>, Diagnostics> {
    let inputs = [View::of(x, &[n_tokens, WIDTH])?, View::of(&STEPS, &[5])?];
    let (outputs, report) = executable.call(&inputs, &SizeEnv::new())?;
    assert_eq!(report.n_launches, 7);
    Ok(outputs[0].as_slice::<f32>()?.to_vec())
}

#[test]
fn results_are_the_same_for_any_number_of_threads_and_sizes() {
    for n_threads in [1, 2, 3, 8] {
        let executable = executable(n_threads);
        for n_tokens in [1, 37, 1024, 16, 5] {
            let x = tokens(n_tokens);
            assert_eq!(call(&executable, &x, n_tokens).unwrap(), expected(&x), "{n_threads} {n_tokens}");
        }
    }
}

#[test]
fn calls_from_many_threads_do_not_meet() {
    let executable = executable(3);
    std::thread::scope(|scope| {
        for caller in 0..6i64 {
            let executable = &executable;
            scope.spawn(move || {
                for round in 0..20 {
                    let n_tokens = 1 + (caller * 97 + round * 31) % 300;
                    let x = tokens(n_tokens);
                    assert_eq!(call(executable, &x, n_tokens).unwrap(), expected(&x));
                }
            });
        }
    });
}

#[test]
fn outputs_go_into_the_callers_memory() {
    let executable = executable(2);
    let x = tokens(40);
    let mut y = vec![f32::NAN; 40 * WIDTH as usize];
    let inputs = [View::of(&x, &[40, WIDTH]).unwrap(), View::of(&STEPS, &[5]).unwrap()];
    let report = executable
        .call_into(&inputs, &mut [ViewMut::of(&mut y, &[40, WIDTH]).unwrap()], &SizeEnv::new())
        .unwrap();
    assert_eq!(y, expected(&x));
    assert_eq!(report.sizes[&Sym::from("T")], 40);
    assert_eq!(report.memory.temp_bytes, 2 * 40 * 64 * 4);
    assert_eq!(report.memory.output_bytes, 40 * 64 * 4);
    assert_eq!(report.memory.scratch_bytes, 2 * 64);
    assert_eq!(report.memory.input_bytes, 40 * 64 * 4 + 20);
}

fn refusal(inputs: &[View<'_>], outputs: &mut [ViewMut<'_>], given: &SizeEnv) -> String {
    executable(1).call_into(inputs, outputs, given).unwrap_err().to_string()
}

#[test]
fn wrong_arrays_are_refused_with_names() {
    let x = tokens(4);
    let (wide, ints) = (vec![0.0f64; 256], [0i32; 5]);
    let mut y = vec![7.0f32; 256];
    let good_x = View::of(&x, &[4, 64]).unwrap();
    let steps = View::of(&STEPS, &[5]).unwrap();
    let none = SizeEnv::new();
    let refusals = [
        refusal(std::slice::from_ref(&good_x), &mut [], &none),
        refusal(&[View::of(&wide, &[4, 64]).unwrap(), View::of(&ints, &[5]).unwrap()], &mut [], &none),
        refusal(&[View::of(&x, &[8, 32]).unwrap(), steps.clone()], &mut [], &none),
        refusal(&[View::of(&x, &[256]).unwrap(), steps.clone()], &mut [], &none),
        refusal(&[good_x.clone(), steps.clone()], &mut [], &none),
        refusal(&[good_x.clone(), steps.clone()], &mut [ViewMut::of(&mut y, &[256]).unwrap()], &none),
        refusal(
            &[View::of(&[0.0f32; 0], &[0, 64]).unwrap(), steps.clone()],
            &mut [ViewMut::of(&mut [0.0f32; 0], &[0, 64]).unwrap()],
            &none,
        ),
        refusal(&[good_x, steps], &mut [], &SizeEnv::from([(Sym::from("T"), 5)])),
    ];
    let expected = [
        "2 inputs are expected, found 1",
        "the input `x` must be f32[T,64], found f64\nthe input `steps` must be f32[5], found i32",
        "axis 1 of the input `x` must be 64, found 32",
        "the input `x` must be f32[T,64], found the shape [256]",
        "1 outputs are expected, found 0",
        "the output `y` is f32[4, 64], the memory given for it is f32[256]",
        "the size `T` must be in 1..=2147483648, found 0",
        "axis 0 of the input `x` must be T = 5 (T = 5 from the spec or an option), found 4",
    ];
    assert_eq!(refusals, expected);
    assert!(y.iter().all(|value| *value == 7.0));
}

#[test]
fn sizes_that_overflow_are_refused() {
    let mut program = program();
    program.sizes[0].bounds = (1, i64::MAX);
    let image = Arc::new(Image(vec![normalise, advance]));
    let executable = Executable::new(program, image, Pool::single()).unwrap();
    for n_tokens in [i64::MAX, i64::MAX / 64, i64::MAX / 256 + 1, i64::MAX / 512] {
        let memory = executable.memory(&[vec![n_tokens, 64], vec![5]], &SizeEnv::new());
        assert_eq!(memory.is_err(), n_tokens > i64::MAX / 256, "{n_tokens}");
    }
}

#[test]
fn plans_that_break_their_promises_are_refused() {
    let breaks: [fn(&mut Program); 8] = [
        |program| program.buffers[0].dtype = DType::F64,
        |program| program.steps.push(launch(2, &[])),
        |program| program.steps.push(launch(0, &[(0, Dim::default())])),
        |program| program.steps.push(launch(0, &[(3, Dim::default()), (0, Dim::default())])),
        |program| program.steps.push(launch(0, &[(9, Dim::default()), (2, Dim::default())])),
        |program| program.buffers[4].kind = BufferKind::Temp(2),
        |program| program.buffers.swap(0, 2),
        |program| {
            if let Step::Loop { swaps, .. } = &mut program.steps[1] {
                swaps[0].0 = BufferId(0);
            }
        },
    ];
    for (idx, break_it) in breaks.iter().enumerate() {
        let mut program = program();
        break_it(&mut program);
        let image = Arc::new(Image(vec![normalise, advance]));
        assert!(Executable::new(program, image, Pool::single()).is_err(), "{idx}");
    }
    assert!(Executable::new(program(), Arc::new(Image(vec![normalise])), Pool::single()).is_err());
}

#[test]
fn offsets_that_leave_their_buffer_are_refused() {
    let breaks: [fn(&mut Program); 4] = [
        |program| program.steps.push(launch(0, &[(3, Dim::constant(1)), (2, Dim::default())])),
        |program| program.steps.push(launch(0, &[(3, Dim::constant(-1)), (2, Dim::default())])),
        |program| program.slots[0] = vec![Dim::constant(64)],
        |program| {
            if let Step::Loop { trip, .. } = &mut program.steps[1] {
                *trip = Dim::constant(6);
            }
        },
    ];
    for (idx, break_it) in breaks.iter().enumerate() {
        let mut program = program();
        break_it(&mut program);
        let image = Arc::new(Image(vec![normalise, advance]));
        let executable = Executable::new(program, image, Pool::single()).unwrap();
        assert!(call(&executable, &tokens(3), 3).is_err(), "{idx}");
    }
}

#[test]
fn defaults_fill_in_and_are_held_against_shapes() {
    let mut program = program();
    let axis = program.kernels[0].params[0].shape[0].clone();
    program.kernels.clear();
    program.steps.clear();
    program.buffers[0].shape = vec![axis.mul(&axis)];
    program.sizes[0].default = Some(3);
    let executable = Executable::new(program, Arc::new(Image(vec![])), Pool::single()).unwrap();
    let none = SizeEnv::new();
    assert_eq!(executable.output_shapes(&[vec![9], vec![5]], &none).unwrap(), [vec![3, 64]]);
    let message = executable.output_shapes(&[vec![16], vec![5]], &none).unwrap_err().to_string();
    assert_eq!(message, "the input `x` is f32[T*T], of shape [9] here, found [16]");
    let four = SizeEnv::from([(Sym::from("T"), 4)]);
    assert_eq!(executable.output_shapes(&[vec![16], vec![5]], &four).unwrap(), [vec![4, 64]]);
}
