//! Single kernels as PTX on the simulated device, against the kernel evaluator, bit for bit: every operation on every dtype, and
//! the hand-written kernels of `ir` and `codegen`.
#![cfg(feature = "ptx")]

use birkhoff::Buffer;
use birkhoff::elements::{fill, scalars};
use birkhoff_codegen::ptx::{Image, Options, compile};
use birkhoff_ir::diag::ErrorKind;
use birkhoff_ir::dim::{Dim, SizeEnv};
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::build::Builder;
use birkhoff_ir::kernel::{Access, ForKind, Func, Index, Inst, Var, eval, text, verify};
use birkhoff_ir::scalar::{Scalar, ScalarOp};
use birkhoff_runtime::ptx_sim::{Arg, Launch, Memory, Module};
use birkhoff_tests::golden::{files, folder};

const COMPUTE: [DType; 5] = [DType::F64, DType::F32, DType::I64, DType::I32, DType::Bool];
const MEMORY: [DType; 7] =
    [DType::F64, DType::F32, DType::Bf16, DType::F16, DType::I64, DType::I32, DType::Bool];

/// Values that show a dtype's corners, then others, all different for each seed.
fn samples(dtype: DType, len: usize, seed: u64, wild: bool) -> Vec<Scalar> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bits = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    };
    let floats =
        [0.0, -0.0, 1.0, -1.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e-40, -1e-320, 1e300, 0.5, 2.5];
    let ints = [0, 1, -1, 31, 32, 63, 64, i64::from(i32::MIN), i64::from(i32::MAX), i64::MIN, i64::MAX];
    (0..len)
        .map(|_| {
            let pick = bits() % 3 == 0 && wild;
            let unit = (bits() >> 11) as f64 / (1u64 << 52) as f64 - 1.0;
            match dtype {
                DType::Bool => Scalar::Bool(bits() % 2 == 0),
                DType::I32 | DType::I64 if pick => Scalar::Int(ints[(bits() % 11) as usize]).convert(dtype),
                DType::I32 | DType::I64 => Scalar::Int((bits() >> (bits() % 64)) as i64).convert(dtype),
                _ if pick => Scalar::Float(dtype.round(floats[(bits() % 12) as usize])),
                _ if wild => {
                    Scalar::Float(dtype.round(unit * [1.0, 10.0, 100.0, 1e-3, 1e6][(bits() % 5) as usize]))
                }
                _ => Scalar::Float(dtype.round(2.0 * unit)),
            }
        })
        .collect()
}

fn same(a: Scalar, b: Scalar) -> bool {
    match (a, b) {
        (Scalar::Float(a), Scalar::Float(b)) => a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()),
        _ => a == b,
    }
}

fn emit(funcs: &[Func]) -> (Image, Module) {
    for func in funcs {
        verify::verify(func).unwrap_or_else(|errors| panic!("{errors}"));
    }
    let image = compile(funcs, &Options::default()).unwrap_or_else(|errors| panic!("{errors}"));
    let module = Module::parse(&image.ptx).unwrap_or_else(|errors| panic!("{errors}\n{}", image.ptx));
    (image, module)
}

/// Runs a kernel both ways on the same data and compares every array.
fn check(func: &Func, (image, module): &(Image, Module), sizes: &[(&str, i64)], wild: bool) {
    let env: SizeEnv = sizes.iter().map(|(name, value)| ((*name).into(), *value)).collect();
    let mut memory = Memory::new();
    let (mut reference, mut buffers) = (vec![], vec![]);
    for (idx, param) in func.params.iter().enumerate() {
        let shape: Vec<i64> = param.shape.iter().map(|dim| dim.eval(&env).expect("a size")).collect();
        let len = shape.iter().product::<i64>() as usize;
        if param.access == Access::Write {
            reference.push(eval::Array::uninit(param.dtype, &shape).expect("an array"));
            let bytes = len * param.dtype.size_bytes() as usize;
            buffers.push(memory.add_uninitialized(&param.name, bytes).expect("a buffer"));
            continue;
        }
        let values: Vec<Scalar> = match param.name.as_str() {
            // Indices below the size C.
            "pick" => (0..len).map(|idx| Scalar::Int((idx as i64 * 7 + 3) % env["C"])).collect(),
            _ => samples(param.dtype, len, idx as u64 + 1, wild),
        };
        reference.push(eval::Array::from_scalars(param.dtype, &shape, &values).expect("an array"));
        let mut buffer = Buffer::zeros(param.dtype, &shape).expect("a buffer");
        fill(&mut buffer.view_mut(), values.into_iter()).expect("as many values");
        buffers.push(memory.add(&param.name, buffer.view().bytes()).expect("a buffer"));
    }
    let mut expected = eval::Memory::new(reference);
    eval::run(func, &env, &mut expected).unwrap_or_else(|error| panic!("{}", error.message));
    let info = image.kernels.iter().find(|info| info.entry == func.name.as_str()).expect("its entry");
    let size = info.launch_size(func, &env).expect("a launch");
    let what = format!("kernel {} {sizes:?}", func.name);
    // Fewer blocks than tiles give the same.
    for blocks in [size.blocks, size.blocks.div_ceil(3)] {
        if blocks == 0 {
            continue;
        }
        let mut args: Vec<Arg> = buffers.iter().map(|buffer| Arg::Buffer(*buffer)).collect();
        args.extend(func.sizes.iter().map(|name| Arg::U64(env[name] as u64)));
        if size.workspace_bytes > 0 {
            let workspace = memory.add_uninitialized("workspace", size.workspace_bytes as usize);
            args.push(Arg::Buffer(workspace.expect("a workspace")));
        }
        let updates = func.params.iter().any(|param| param.access == Access::ReadWrite);
        let launch = Launch { grid: [blocks, 1, 1], block: [info.threads, 1, 1], dynamic_shared_bytes: 0 };
        let entry = module.entry(&info.entry).expect("the entry");
        entry.run(&launch, &args, &mut memory).unwrap_or_else(|error| panic!("{what}: {error:?}"));
        if updates {
            break;
        }
    }
    for (idx, param) in func.params.iter().enumerate() {
        let bytes = memory.read(buffers[idx]).expect("its bytes");
        let shape = expected.arrays[idx].shape().to_vec();
        let found = Buffer::from_bytes(&bytes, param.dtype, &shape).expect("its shape");
        let view = found.view();
        for (elem, (found, expected)) in scalars(&view).zip(expected.arrays[idx].scalars()).enumerate() {
            let Some(expected) = expected else { continue };
            assert!(
                same(found, expected),
                "{what}, `{}`[{elem}]: {found:?}, expected {expected:?}",
                param.name
            );
        }
    }
}

/// `out[i] = f(in_0[i], in_1[i], ..)` for `i` in `0..N`, `N` a run-time size.
fn map_kernel(
    name: String,
    inputs: &[DType],
    output: DType,
    kind: ForKind,
    f: impl Fn(&mut Builder, &[Var]) -> Var,
) -> Func {
    let mut b = Builder::new(name, vec!["N".into()]);
    let n = Dim::sym("N");
    let mems: Vec<_> = inputs
        .iter()
        .enumerate()
        .map(|(idx, dtype)| b.param(format!("in{idx}"), *dtype, vec![n.clone()], Access::Read))
        .collect();
    let out = b.param("out", output, vec![n.clone()], Access::Write);
    b.for_range("i", 0, n, kind, |b, i| {
        let args: Vec<Var> = mems.iter().map(|mem| b.load(*mem, vec![Index::var(i)])).collect();
        let value = f(b, &args);
        b.store(out, vec![Index::var(i)], value);
    });
    b.finish()
}

const KINDS: [(&str, ForKind); 3] =
    [("seq", ForKind::Seq), ("narrow", ForKind::Lanes { width: 8 }), ("wide", ForKind::Lanes { width: 64 })];

fn check_all(funcs: &[Func], n: i64) {
    let compiled = emit(funcs);
    for func in funcs {
        check(func, &compiled, &[("N", n)], true);
    }
}

#[test]
fn every_op_on_every_dtype_is_its_definition() {
    let mut funcs = vec![];
    for op in ScalarOp::ALL {
        for dtype in COMPUTE {
            let mut inputs = vec![dtype; op.arity()];
            if *op == ScalarOp::Select {
                inputs[0] = DType::Bool;
            }
            let Ok(output) = op.infer(&inputs) else { continue };
            let name = format!("k_{op}_{dtype}");
            funcs.push(map_kernel(name, &inputs, output, ForKind::Lanes { width: 64 }, |b, args| {
                b.scalar(*op, args)
            }));
        }
    }
    check_all(&funcs, 700);
}

#[test]
fn conversions_casts_and_rounding_are_their_definition() {
    let mut funcs = vec![];
    for (kind_name, kind) in KINDS {
        for from in COMPUTE {
            for to in COMPUTE {
                let name = format!("convert_{from}_{to}_{kind_name}");
                funcs.push(map_kernel(name, &[from], to, kind, |b, args| b.inst(to, Inst::Convert(args[0]))));
            }
        }
        for (from, to) in [
            (DType::F32, DType::I32),
            (DType::I32, DType::F32),
            (DType::F64, DType::I64),
            (DType::I64, DType::F64),
        ] {
            let name = format!("cast_{from}_{to}_{kind_name}");
            funcs.push(map_kernel(name, &[from], to, kind, |b, args| b.inst(to, Inst::Bitcast(args[0]))));
        }
        for to in [DType::Bf16, DType::F16] {
            let name = format!("round_{to}_{kind_name}");
            let round = |b: &mut Builder, args: &[Var]| b.inst(DType::F32, Inst::Round(to, args[0]));
            funcs.push(map_kernel(name, &[DType::F32], DType::F32, kind, round));
        }
        for dtype in MEMORY {
            let name = format!("copy_{dtype}_{kind_name}");
            funcs.push(map_kernel(name, &[dtype], dtype, kind, |_, args| args[0]));
        }
    }
    check_all(&funcs, 150);
}

/// The sizes of a first line such as `// sizes: A=1,B=2 | A=3,B=4`, or some for all of the kernel's.
fn size_lists<'s>(source: &'s str, func: &'s Func) -> Vec<Vec<(&'s str, i64)>> {
    let Some(line) = source.lines().next().and_then(|line| line.strip_prefix("// sizes:")) else {
        let pair = |extents: [i64; 2]| func.sizes.iter().map(|name| name.as_str()).zip(extents).collect();
        return [[1, 1], [3, 8], [16, 20], [37, 33]].map(pair).to_vec();
    };
    line.split('|')
        .map(|list| {
            let pairs = list.trim().split(',').filter(|pair| !pair.is_empty());
            pairs
                .map(|pair| {
                    pair.split_once('=')
                        .map(|(name, value)| (name, value.parse().expect("a size")))
                        .expect("a pair")
                })
                .collect()
        })
        .collect()
}

#[test]
fn hand_written_kernels_are_what_the_evaluator_says() {
    let mut paths = files(&folder("../ir/tests/kernels"), "kir").expect("kernels of ir");
    paths.extend(files(&folder("../codegen/tests/kernels"), "kir").expect("kernels of codegen"));
    assert!(paths.len() >= 10);
    let mut refused = vec![];
    for path in paths {
        let source = std::fs::read_to_string(&path).expect("a kernel");
        let func =
            text::parse(&source).unwrap_or_else(|error| panic!("{}: {}", path.display(), error.message)).func;
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        if let Err(errors) = compile(std::slice::from_ref(&func), &Options::default()) {
            refused.push(format!("{stem}: {errors}"));
            continue;
        }
        let compiled = emit(std::slice::from_ref(&func));
        for sizes in size_lists(&source, &func) {
            check(&func, &compiled, &sizes, false);
        }
    }
    assert_eq!(refused, Vec::<String>::new());
}

/// What threads cannot do is refused before anything is emitted, with what it is.
#[test]
fn what_the_mapping_lacks_is_refused() {
    let cases = [
        (
            "kernel @run_time(x: read f32[T], y: write f32[T]) sizes T {\n\
             grid t over T tile 16 as t0, t_count\n\
             reg a: f32[16] lanes 0 width 8\nreg s: f32[1]\n\
             decl a\ndecl s\n%zero = const f32 0.0\nstore s[0] = %zero\n\
             lanes t in 0..t_count width 8 {\n%x = load x[t0+t]\nstore a[t] = %x\n}\n\
             lanes t in 0..t_count width 8 {\n%v = load a[t]\naccum add s[0], %v\n}\n\
             lanes t in 0..t_count width 8 {\n%v = load s[0]\nstore y[t0+t] = %v\n}\n}",
            "cannot compile kernel `run_time`: a reduction over lanes whose number is known only at run time",
        ),
        (
            "kernel @single(x: read f32[64], y: write f32[64]) {\n\
             reg a: f32[64] lanes 0 width 64\n\
             decl a\nlanes i in 0..64 width 64 {\n%x = load x[i]\nstore a[i] = %x\n}\n\
             %v = load a[3]\nlanes i in 0..64 width 64 {\nstore y[i] = %v\n}\n}",
            "cannot compile kernel `single`: single lanes of the register array `a`",
        ),
        (
            "kernel @many(x: read f32[64], y: write f32[64]) {\n\
             reg a: f32[4100]\n\
             decl a\nlanes i in 0..64 width 64 {\n%x = load x[i]\nstore y[i] = %x\n}\n}",
            "cannot compile kernel `many`: the register array `a` has more than 4096 registers",
        ),
    ];
    for (source, expected) in cases {
        let func = text::parse(source).unwrap_or_else(|error| panic!("{}\n{source}", error.message)).func;
        verify::verify(&func).unwrap_or_else(|errors| panic!("{errors}"));
        let error = compile(&[func], &Options::default()).expect_err(expected).0.remove(0);
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert!(error.message.contains(expected), "found {:?}", error.message);
    }
}
