//! Lanes that take neighbouring elements: which loops are changed, how, and that they mean the same. The numbers are small
//! integers, so that sums are exact in any order.

use birkhoff_compiler::lower::widen::widen;
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::kernel::{Access, Func, eval, text, verify};

fn parse(source: &str) -> Func {
    let func = text::parse(source).unwrap_or_else(|error| panic!("{}", error.message)).func;
    verify::verify(&func).unwrap_or_else(|errors| panic!("{errors}"));
    func
}

/// The loops over lanes of the widened kernel, as text; what it computes must be what the kernel did.
fn widened(source: &str) -> Vec<String> {
    let before = parse(source);
    let mut after = before.clone();
    widen(&mut after);
    verify::verify(&after).unwrap_or_else(|errors| panic!("{errors}\n{}", text::print(&after)));
    assert_eq!(outputs(&before), outputs(&after), "{}", text::print(&after));
    let printed = text::print(&after);
    printed.lines().filter(|line| line.contains("lanes ")).map(|line| line.trim().to_string()).collect()
}

fn outputs(func: &Func) -> Vec<Vec<Option<f64>>> {
    let sizes = SizeEnv::from([("T".into(), 5)]);
    let arrays = func.params.iter().map(|param| {
        let shape: Vec<i64> = param.shape.iter().map(|dim| dim.eval(&sizes).expect("a size")).collect();
        let n_elems = shape.iter().product::<i64>();
        let values: Vec<f64> = (0..n_elems).map(|idx| (idx * 7 % 23 - 11) as f64).collect();
        match param.access {
            Access::Write => eval::Array::uninit(param.dtype, &shape).expect("an array"),
            _ => eval::Array::from_f64s(param.dtype, &shape, &values).expect("an array"),
        }
    });
    let mut memory = eval::Memory::new(arrays.collect());
    eval::run(func, &sizes, &mut memory).unwrap_or_else(|error| panic!("{}", error.message));
    let number = |value: Option<birkhoff_ir::scalar::Scalar>| value.map(|value| value.as_f64());
    memory.arrays.iter().map(|array| array.scalars().map(number).collect()).collect()
}

#[test]
fn a_map_takes_sixteen_bytes_at_a_time() {
    let lanes = widened(
        "kernel @map(x: read f32[T,256], y: write f32[T,256]) sizes T {
          grid t over T tile 1 as t0, t_count
          lanes c in 0..256 width 128 {
            %x = load x[t0,c]
            store y[t0,c] = %x
          }
        }",
    );
    assert_eq!(lanes, ["lanes c in 0..64 width 128 {"]);
}

#[test]
fn the_narrowest_type_decides() {
    let lanes = widened(
        "kernel @narrow(x: read bf16[T,512], y: write f32[T,512]) sizes T {
          grid t over T tile 1 as t0, t_count
          lanes c in 0..512 width 128 {
            %x = load x[t0,c]
            store y[t0,c] = %x
          }
        }",
    );
    assert_eq!(lanes, ["lanes c in 0..64 width 128 {"]);
}

#[test]
fn a_reduction_leaves_nothing_over() {
    let lanes = widened(
        "kernel @sum(x: read f32[T,384], w: read f32[384,3], y: write f32[T]) sizes T {
          grid t over T tile 1 as t0, t_count
          reg acc: f32[1]
          decl acc
          %zero = const f32 0.0
          store acc[0] = %zero
          lanes c in 0..384 width 128 {
            %x = load x[t0,c]
            %w = load w[c,1]
            accum mul_add acc[0], %x, %w
          }
          %sum = load acc[0]
          store y[t0] = %sum
        }",
    );
    // 96 lanes: three chunks of a warp.
    assert_eq!(lanes, ["lanes c in 0..96 width 32 {"]);
}

#[test]
fn rows_that_are_not_aligned_stay() {
    let lanes = widened(
        "kernel @odd(x: read f32[T,131], y: write f32[T,131]) sizes T {
          grid t over T tile 1 as t0, t_count
          lanes c in 0..128 width 128 {
            %x = load x[t0,c+1]
            store y[t0,c] = %x
          }
        }",
    );
    assert_eq!(lanes, ["lanes c in 0..128 width 128 {"]);
}

#[test]
fn a_warp_of_lanes_remains() {
    let lanes = widened(
        "kernel @small(x: read f32[T,64], y: write f32[T,64]) sizes T {
          grid t over T tile 1 as t0, t_count
          lanes c in 0..64 width 64 {
            %x = load x[t0,c]
            store y[t0,c] = %x
          }
        }",
    );
    assert_eq!(lanes, ["lanes c in 0..32 width 64 {"]);
}

#[test]
fn lanes_that_meet_stay() {
    let lanes = widened(
        "kernel @meet(x: read f32[T,256], y: write f32[T,256]) sizes T {
          grid t over T tile 1 as t0, t_count
          local row: f32[257]
          %one = const f32 1.0
          store row[256] = %one
          lanes c in 0..256 width 128 {
            %x = load x[t0,c]
            store row[c] = %x
            %z = load row[c]
            store y[t0,c] = %z
          }
          lanes c in 0..256 width 128 {
            %x = load x[t0,c]
            store row[c] = %x
            %e = const i64 255
            %i = index -c
            %at = add %i, %e
            %z = load row[%at]
            store y[t0,c] = %z
          }
        }",
    );
    assert_eq!(lanes, ["lanes c in 0..64 width 128 {", "lanes c in 0..256 width 128 {"]);
}

#[test]
fn registers_of_lanes_get_an_axis() {
    let lanes = widened(
        "kernel @block(x: read f32[T,3], w: read f32[3,512], y: write f32[T,512]) sizes T {
          grid t over T tile 1 as t0, t_count
          reg acc: f32[2,512] lanes 1 width 128
          decl acc
          %zero = const f32 0.0
          lanes o in 0..512 width 128 {
            store acc[0,o] = %zero
            store acc[1,o] = %zero
          }
          for k in 0..3 {
            %x = load x[t0,k]
            lanes o in 0..512 width 128 {
              %w = load w[k,o]
              accum mul_add acc[0,o], %x, %w
              accum add acc[1,o], %w
            }
          }
          lanes o in 0..512 width 128 {
            %a = load acc[0,o]
            %b = load acc[1,o]
            %c = add %a, %b
            store y[t0,o] = %c
          }
        }",
    );
    assert_eq!(lanes[0], "reg acc: f32[4,2,128] lanes 2 width 128");
    assert_eq!(lanes[1..], ["lanes o in 0..128 width 128 {"; 3]);
}

#[test]
fn single_lanes_keep_registers_as_they_are() {
    let lanes = widened(
        "kernel @single(x: read f32[T,256], y: write f32[T,256]) sizes T {
          grid t over T tile 1 as t0, t_count
          reg acc: f32[256] lanes 0 width 128
          decl acc
          lanes o in 0..256 width 128 {
            %x = load x[t0,o]
            store acc[o] = %x
          }
          %first = load acc[0]
          lanes o in 0..256 width 128 {
            %a = load acc[o]
            %c = add %a, %first
            store y[t0,o] = %c
          }
        }",
    );
    assert_eq!(lanes[1..], ["lanes o in 0..256 width 128 {"; 2]);
}

#[test]
fn private_registers_loops_and_lane_numbers_are_those_of_each_neighbour() {
    let lanes = widened(
        "kernel @private(x: read f32[T,256], w: read f32[2,256], y: write f32[T,256], i: write i64[T,256]) sizes T {
          grid t over T tile 1 as t0, t_count
          reg sum: f32[1]
          lanes c in 0..256 width 128 {
            decl sum
            %x = load x[t0,c]
            store sum[0] = %x
            %two = const i64 2
            for k in 0..2 {
              %w = load w[k,c]
              accum mul_add sum[0], %x, %w
            }
            unroll k in 0..2 {
              %v = load w[k,c]
              accum add sum[0], %v
            }
            %at = index c
            %number = mul %two, %at
            store i[t0,c] = %number
            %s = load sum[0]
            store y[t0,c] = %s
          }
        }",
    );
    assert_eq!(lanes, ["lanes c in 0..64 width 128 {"]);
}
