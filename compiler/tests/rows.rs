//! How rows lie: what nests compute along them stays there, short ones are padded to whole vectors, and the chunks of a sum over
//! a batch all have work. Each program runs against the tensor evaluator as well.

mod plans;

use birkhoff_compiler::expand::expand;
use birkhoff_compiler::lower::lower;
use birkhoff_compiler::schedule::Target;
use birkhoff_ir::kernel::Space;
use birkhoff_ir::plan::Program;
use birkhoff_ir::tensor::bind::{Bindings, bind};
use birkhoff_ir::tensor::text;
use birkhoff_ir::{kernel, plan};
use plans::{check_kernels, check_text};

const ROWS: &str = "
dim T in 1..=100000 default 37
export fn @main(%x: f32[T,32], %b: f32[32], %c: f32[32]) -> (y: f32[T,32], s: f32[T], g: f32[32]) {
  y = tanh(x + b)
  s = reduce_sum(y * c, axes=[1])
  g = reduce_sum(y * y, axes=[0])
  return y = y, s = s, g = g
}";

#[test]
fn what_a_nest_maps_along_rows_is_not_turned() {
    for extent in [1, 37, 64, 65, 700] {
        let program = check_text(ROWS, &[], &[("T", extent)]);
        let texts = program.kernels.iter().map(kernel::text::print).collect::<String>();
        assert!(!texts.contains("stage tokens"), "{texts}");
    }
}

#[test]
fn chunks_of_a_few_places_are_dealt_evenly() {
    let program = check_text(ROWS, &[], &[("T", 4096)]);
    let chunked =
        program.kernels.iter().find(|kernel| kernel.grid.iter().any(|axis| axis.name.starts_with("chunk")));
    let text = chunked.map(kernel::text::print).expect("a kernel with chunks");
    // 64 chunks of as many whole vectors as it takes: 4096 = 64 * 64.
    assert!(text.contains("index 4096\n") && text.contains("index T+4095\n"), "{text}");
}

#[test]
fn what_is_turned_is_walked_in_blocks() {
    for (rows, columns) in [(33, 70), (16, 16), (128, 512)] {
        let source = format!(
            "
dim B in 1..=1000 default 20
export fn @main(%x: f32[{columns},{rows}], %b: f32[{columns}], %z: f32[{columns},B]) -> (y: f32[{rows},{columns}], w: f32[B,{columns}]) {{
  t = transpose(x, axes=[1,0])
  y = t + broadcast(b, shape=[{rows},{columns}], axes=[1])
  w = exp(transpose(z, axes=[1,0]))
  return y = y, w = w
}}"
        );
        let program = check_text(&source, &[], &[("B", 19)]);
        let blocks =
            program.kernels.iter().filter(|kernel| kernel::text::print(kernel).contains("for row in"));
        assert_eq!(blocks.count(), program.kernels.len(), "{rows} {columns}");
    }
}

fn planned(source: &str, target: &Target) -> Program {
    let module = text::parse(source).unwrap_or_else(|why| panic!("{}", why.render("test.bir", source)));
    let bound = bind(&module, &Bindings::default()).expect("binds");
    let (func, _) = bound.exported().next().expect("one function is exported");
    let (flat, id) = expand(&bound, func).expect("expands");
    lower(&flat, id, target).unwrap_or_else(|why| panic!("{}", why.message))
}

#[test]
fn skinny_projections_of_odd_widths_read_padded_rows() {
    let source = |width: i64| {
        format!(
            "
dim T in 1..=1000 default 5
export fn @main(%x: f32[T,3000], %w: f32[3000,{width}]) -> (y: f32[T,{width}], z: f32[T,{width}]) {{
  y = contract(x, w, spec=\"tk,ko->to\", dtype=f32)
  z = tanh(y)
  return y = y, z = z
}}"
        )
    };
    let is_padded =
        |program: &Program, width: i64| plan::text::print(program).contains(&format!("f32[3000,{width}]"));
    for (width, padded) in [(7, 8), (15, 16), (18, 20)] {
        let program = check_kernels(&source(width), &[], &[("T", 9)]);
        assert!(is_padded(&program, padded), "{}", plan::text::print(&program));
        let any = Target { library_contractions: false, ..Target::vectors(512, 32) };
        assert!(!is_padded(&planned(&source(width), &any), padded), "vectors of any length need no padding");
    }
    // One more is done as quickly by itself; whole vectors are whole.
    for (width, padded) in [(9, 12), (16, 20)] {
        let program = check_kernels(&source(width), &[], &[("T", 9)]);
        assert!(!is_padded(&program, padded), "{}", plan::text::print(&program));
    }
}

#[test]
fn quick_operations_on_kept_rows_are_computed_again() {
    let source = "
dim K in 1..=1000 default 3
export fn @main(%x: f32[40,512], %w: f32[K,40,512]) -> (y: f32[K,40,512]) {
  t = tanh(x)
  u = 1.0 - t * t
  v = exp(u) * t
  return y = w * u + v
}";
    let program = check_text(source, &[], &[("K", 3)]);
    let locals = program.kernels.iter().flat_map(|kernel| &kernel.locals);
    let n_kept = locals.filter(|local| local.space == Space::Tile).count();
    // `tanh` and what is made of two values are kept, `1 - t t` is not.
    assert_eq!(n_kept, 2, "{}", plan::text::print(&program));
}
