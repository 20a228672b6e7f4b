//! The simulated device as its users meet it: counts, launches, options, errors, and PTX that a compiler wrote.

use birkhoff_runtime::ptx_sim::{Arg, BufferId, Counts, Launch, Memory, Module, Options, Orders};

const TWICE: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry twice(.param .u64 in, .param .u64 out, .param .u32 n)
.maxntid 128, 1, 1
{
    .reg .b32 %t, %b, %w, %n; .reg .b16 %h; .reg .f32 %x<4>; .reg .b64 %p, %q, %o; .reg .pred %c;
    ld.param.u64 %p, [in];
    ld.param.u64 %q, [out];
    ld.param.u32 %n, [n];
    mov.u32 %t, %tid.x;
    mov.u32 %b, %ctaid.x;
    mov.u32 %w, %ntid.x;
    mad.lo.s32 %t, %b, %w, %t;
    setp.ge.u32 %c, %t, %n;
    @%c bra $end;
    mul.wide.u32 %o, %t, 16;
    add.s64 %p, %p, %o;
    ld.global.v4.f32 {%x0, %x1, %x2, %x3}, [%p];
    add.rn.f32 %x0, %x0, %x3;
    cvt.rn.bf16.f32 %h, %x0;
    mul.wide.u32 %o, %t, 2;
    add.s64 %q, %q, %o;
    st.global.b16 [%q], %h;
    ld.global.f32 %x1, [%p];
$end:
    ret;
}
.visible .entry spin(.param .u64 out)
{
$loop:
    bra.uni $loop;
}
.visible .entry exact()
.reqntid 64
{
    ret;
}
";

fn floats(n: usize) -> Vec<u8> {
    (0..n).flat_map(|idx| (idx as f32 * 0.37 - 11.0).to_le_bytes()).collect()
}

fn twice(n: u32, grid: u32, n_host_threads: usize) -> (Counts, Vec<u8>) {
    let module = Module::parse(TWICE).expect("legal");
    let mut memory = Memory::new();
    let input = memory.add("in", &floats(4 * n as usize)).expect("fits");
    let output = memory.add_uninitialized("out", 2 * n as usize).expect("fits");
    let launch = Launch { grid: [grid, 1, 1], block: [96, 1, 1], dynamic_shared_bytes: 0 };
    let args = [Arg::Buffer(input), Arg::Buffer(output), Arg::U32(n)];
    let pool = rayon::ThreadPoolBuilder::new().num_threads(n_host_threads).build().expect("threads start");
    let counts = pool.install(|| module.entry("twice").expect("there").run(&launch, &args, &mut memory));
    assert_eq!(memory.first_unwritten(output).expect("ours"), None);
    (counts.expect("runs"), memory.read(output).expect("ours"))
}

#[test]
fn bytes_are_counted_as_issued_and_as_distinct() {
    let (counts, bytes) = twice(1000, 11, 1);
    assert_eq!(counts.loaded_bytes, 1000 * 20);
    assert_eq!(counts.stored_bytes, 1000 * 2);
    assert_eq!(counts.distinct_loaded_bytes, 1000 * 16);
    assert_eq!(counts.distinct_stored_bytes, 1000 * 2);
    assert_eq!((counts.global_loads, counts.global_stores), (2000, 1000));
    assert_eq!((counts.threads, counts.blocks, counts.barriers), (11 * 96, 11, 0));
    // Nine instructions up to the branch and one return for all threads, nine more for those inside.
    assert_eq!(counts.instructions, 11 * 96 * 10 + 1000 * 9);
    for (idx, half) in bytes.chunks(2).enumerate() {
        let at = |idx: usize| idx as f32 * 0.37 - 11.0;
        let expected = half::bf16::from_f32(at(4 * idx) + at(4 * idx + 3));
        assert_eq!(half, expected.to_le_bytes(), "element {idx}");
    }
}

/// Every thread loads one place, and one of its own.
const SHARED_PLACE: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry load(.param .u64 data)
{
    .reg .b32 %t; .reg .f32 %x, %y; .reg .b64 %p, %o;
    ld.param.u64 %p, [data];
    ld.global.f32 %x, [%p];
    mov.u32 %t, %tid.x;
    mul.wide.u32 %o, %t, 4;
    add.s64 %p, %p, %o;
    ld.global.f32 %y, [%p];
    add.rn.f32 %x, %x, %y;
    ret;
}
";

#[test]
fn what_a_block_loads_from_one_place_counts_once() {
    let module = Module::parse(SHARED_PLACE).expect("legal");
    let mut memory = Memory::new();
    let data = memory.add("data", &floats(96)).expect("fits");
    let launch = Launch { grid: [2, 1, 1], block: [96, 1, 1], dynamic_shared_bytes: 0 };
    let mut run = |block_loads: bool| {
        let options = Options { block_loads, ..Options::default() };
        let entry = module.entry("load").expect("there");
        entry.run_with(&options, &launch, &[Arg::Buffer(data)], &mut memory).expect("runs")
    };
    // Two blocks: four bytes a block, and four a thread.
    let counts = run(true);
    assert_eq!((counts.loaded_bytes, counts.block_loaded_bytes), (2 * 96 * 8, 2 * (4 + 96 * 4)));
    assert_eq!(run(false).block_loaded_bytes, 0);
}

#[test]
fn results_do_not_depend_on_host_threads() {
    assert_eq!(twice(1003, 11, 1), twice(1003, 11, 4));
}

fn message_of(entry: &str, launch: Launch, args: &[Arg], memory: &mut Memory) -> String {
    let module = Module::parse(TWICE).expect("legal");
    let options = Options { max_instructions: 10_000, ..Options::default() };
    let entry = module.entry(entry).expect("there");
    entry.run_with(&options, &launch, args, memory).expect_err("must not run").message
}

#[test]
fn launches_that_no_device_takes_are_refused() {
    let mut memory = Memory::new();
    let data = memory.add("data", &floats(64)).expect("fits");
    let launch =
        |grid: u32, block: u32| Launch { grid: [grid, 1, 1], block: [block, 1, 1], dynamic_shared_bytes: 0 };
    let args = [Arg::Buffer(data), Arg::Buffer(data), Arg::U32(1)];
    let cases = [
        (
            message_of("twice", launch(1, 2048), &args, &mut memory),
            "a block of [2048, 1, 1] threads cannot be launched (`twice`)",
        ),
        (
            message_of("twice", launch(0, 32), &args, &mut memory),
            "a grid of [0, 1, 1] blocks cannot be launched (`twice`)",
        ),
        (
            message_of("twice", launch(1, 256), &args, &mut memory),
            "`twice` says .maxntid 128, and the block has 256",
        ),
        (
            message_of("exact", launch(1, 32), &[], &mut memory),
            "`exact` says .reqntid [64, 1, 1], and the block is [32, 1, 1]",
        ),
        (
            message_of("twice", launch(1, 32), &args[..2], &mut memory),
            "`twice` has 3 parameters, found 2 arguments",
        ),
        (
            message_of("twice", launch(1, 32), &[args[0].clone(), args[1].clone(), Arg::U64(1)], &mut memory),
            "parameter `n` of `twice` has 4 bytes, and its argument 8",
        ),
        (
            message_of("spin", launch(1, 32), &args[..1], &mut memory),
            "line 33: in `spin`, thread (0,0,0) of block (0,0,0) has executed more than 10000 instructions; does its loop end?",
        ),
    ];
    for (found, expected) in cases {
        assert_eq!(found, expected);
    }
    let module = Module::parse(TWICE).expect("legal");
    let error = module.entry("thrice").err().expect("there is none");
    assert_eq!(
        (error.message.as_str(), error.help.as_str()),
        ("the module has no entry `thrice`", "it has: twice, spin, exact")
    );
}

#[test]
fn a_fault_leaves_memory_as_it_was() {
    let module = Module::parse(TWICE).expect("legal");
    let mut memory = Memory::new();
    let input = memory.add("in", &floats(4 * 90)).expect("fits");
    let output = memory.add("out", &[7; 200]).expect("fits");
    let launch = Launch { grid: [1, 1, 1], block: [96, 1, 1], dynamic_shared_bytes: 0 };
    let args = [Arg::Buffer(input), Arg::Buffer(output), Arg::U32(91)];
    let error =
        module.entry("twice").expect("there").run(&launch, &args, &mut memory).expect_err("out of bounds");
    assert_eq!(
        error.message,
        "line 20: in `twice`, thread (90,0,0) of block (0,0,0) loads 16 bytes at byte 1440 of `in`, which has 1440 bytes"
    );
    assert_eq!(memory.read(output).expect("ours"), [7; 200]);
}

#[test]
fn errors_are_collected_and_point_into_the_text() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n.entry k()\n{\n    .reg .b32 %a;\n    frob.s32 %a;\n    mov.u32 %a, %b;\n    ret;\n}\n";
    let errors = Module::parse(text).err().expect("two errors");
    assert_eq!(errors.0.len(), 2);
    let rendered = errors.render("k.ptx", text);
    assert!(rendered.contains("k.ptx:7:5") && rendered.contains("k.ptx:8:5"), "{rendered}");
}

/// `llvm.ptx` computes, for each thread, a long chain of instructions and exchanges it with its neighbour.
fn llvm_expected(row: &[f32], neighbour: &[f32]) -> f32 {
    let ex = |row: &[f32]| f64::from(row[0].mul_add(row[3], 1.5).abs().sqrt()).exp2() as f32;
    let absolute = row[0].mul_add(row[3], 1.5).abs();
    let rotated = ex(neighbour).to_bits().rotate_left(7).max(17);
    let sum = (rotated.swap_bytes() as i32 / 7).wrapping_add(rotated.count_ones() as i32);
    let least = (sum as f32 / absolute).min(ex(row));
    let half = half::f16::from_f32(least);
    let plus_one = half::f16::from_f64(half.to_f64() + 1.0);
    least + plus_one.to_f32()
}

#[test]
fn text_that_llvm_emits_runs() {
    let module = Module::parse(include_str!("ptx_cases/emitted/llvm.ptx")).expect("legal");
    let rows: Vec<[f32; 4]> =
        (0..128).map(|idx| [idx as f32 * 0.11 - 7.0, 9.0, 9.0, (idx % 13) as f32 * 0.5 - 3.0]).collect();
    let bytes: Vec<u8> = rows.iter().flatten().flat_map(|value| value.to_le_bytes()).collect();
    let mut memory = Memory::new();
    let input = memory.add("in", &bytes).expect("fits");
    let output = memory.add_uninitialized("out", 4 * 128).expect("fits");
    let launch = Launch { grid: [2, 1, 1], block: [64, 1, 1], dynamic_shared_bytes: 0 };
    let args = [Arg::Buffer(input), Arg::Buffer(output), Arg::U32(128)];
    let counts = module.entry("k").expect("there").run(&launch, &args, &mut memory).expect("runs");
    assert_eq!(counts.barriers, 2);
    let found = memory.read(output).expect("ours");
    for (idx, found) in found.chunks(4).enumerate() {
        let expected = match idx % 64 {
            0 => 1.0,
            1 => 3.0,
            2 => 4.0,
            3 => 7.0,
            4 => 9.0,
            _ => llvm_expected(&rows[idx ^ 1], &rows[idx]),
        };
        assert_eq!(
            f32::from_le_bytes(found.try_into().expect("four")).to_bits(),
            expected.to_bits(),
            "element {idx}"
        );
    }
}

/// A loop of mostly arithmetic, as kernels have it.
const WORK: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry work(.param .u64 data, .param .u32 n)
{
    .reg .b32 %t, %i, %n; .reg .f32 %x, %y; .reg .b64 %p, %o; .reg .pred %c;
    ld.param.u64 %p, [data];
    ld.param.u32 %n, [n];
    mov.u32 %t, %tid.x;
    mul.wide.u32 %o, %t, 4;
    add.s64 %p, %p, %o;
    mov.u32 %i, 0;
    mov.f32 %x, 0f3F800000;
$loop:
    ld.global.f32 %y, [%p];
    fma.rn.f32 %x, %x, %y, %y;
    mul.rn.f32 %x, %x, 0f3F000000;
    add.rn.f32 %x, %x, %y;
    max.f32 %x, %x, %y;
    add.s32 %i, %i, 1;
    setp.lt.s32 %c, %i, %n;
    @%c bra $loop;
    st.global.f32 [%p], %x;
    ret;
}
";

/// Prints the speed, and checks only that the work was done.
#[test]
fn a_loop_runs_at_a_useful_speed() {
    let module = Module::parse(WORK).expect("legal");
    let mut memory = Memory::new();
    let data: BufferId = memory.add("data", &floats(256)).expect("fits");
    let launch = Launch { grid: [1, 1, 1], block: [256, 1, 1], dynamic_shared_bytes: 0 };
    let options = Options { orders: Orders::Forward, ..Options::default() };
    let start = std::time::Instant::now();
    let entry = module.entry("work").expect("there");
    let counts =
        entry.run_with(&options, &launch, &[Arg::Buffer(data), Arg::U32(2000)], &mut memory).expect("runs");
    let rate = counts.instructions as f64 / start.elapsed().as_secs_f64() / 1e6;
    println!("{rate:.0} million instructions a second");
    assert_eq!(counts.instructions, 256 * (9 + 8 * 2000));
}
