//! Which steps can be cut into blocks of rows, and which cannot.

use birkhoff_ir::dim::{SizeEnv, Sym};
use birkhoff_ir::plan::rows::{Cut, Rows, Side, Touched, cut};
use birkhoff_ir::plan::{Program, Step, text};

/// The plan of `steps` over 64-wide rows `x`, `h`, `y` and weights, with a kernel of this head and body.
fn plan(steps: &str, kernel: &str) -> Program {
    let source = format!(
        "plan @f {{\n  size T in 1..=1048576 default 64\n  size K in 1..=64 default 2\n  input x: f32[T,64]\n  input w: f32[64,64]\n  \
         output y: f32[T,64]\n  output parts: f32[64]\n  temp h: f32[T,64] in slot 0\n  temp g: f32[K,T,64] in slot 1\n  \
         slot 0: 256*T, 256*T*K\n  slot 1: 256*T*K\n  {steps}\n}}\n{kernel}"
    );
    text::parse(&source).unwrap_or_else(|error| panic!("{error:?}\n{source}")).program
}

/// How the only group of `program` is cut into so many rows.
fn cut_of(program: &Program, rows: i64, sizes: [i64; 2]) -> Option<Rows> {
    let sizes: SizeEnv = ["T", "K"].into_iter().map(Sym::from).zip(sizes).collect();
    let Some(Step::Rows { body, .. }) = program.steps.first() else { panic!("no group") };
    let touched: Option<Vec<Touched>> = body.iter().map(|step| Touched::new(program, step, &sizes)).collect();
    cut(&touched.expect("single steps").iter().collect::<Vec<_>>(), rows)
}

const PRODUCT: &str = "contract(1, T, 64, 64): h(0, 64, 1) = x(0, 64, 1) * w(0, 64, 1)";

/// An elementwise kernel in tiles of 16 rows that reads at `read` and writes at `write`.
fn act(read: &str, write: &str) -> String {
    format!(
        "kernel @act(v: read f32[T,64], o: write f32[T,64]) sizes T {{\n  grid b over T tile 16 as b0, b_count\n  stage s {{\n    \
         for t in 0..b_count {{\n      lanes i in 0..64 width 4 {{\n        %0 = load v[{read}]\n        store o[{write}] = %0\n      \
         }}\n    }}\n  }}\n}}\n"
    )
}

#[test]
fn a_product_and_what_reads_its_rows() {
    let program = plan(&format!("rows T {{\n {PRODUCT}\n launch @act(h, y)\n }}"), &act("b0+t,i", "b0+t,i"));
    let rows = cut_of(&program, 256, [256, 1]).expect("a cut");
    assert_eq!(rows.align, 16);
    assert_eq!(rows.cuts, [Cut::Product(Side::Rows), Cut::Tiles { rows: 16, tiles: 1 }]);
    assert_eq!(rows.row_bytes, 256);
    assert_eq!(rows.block(256), Some(64));
    assert_eq!(rows.block(100), None, "four blocks would be too small for a product");
    // A mebibyte of rows of 256 bytes.
    assert_eq!(rows.block(1 << 20), Some(4096));
}

#[test]
fn what_reads_other_rows_is_refused() {
    for (read, write) in [
        // A neighbour's row, all rows of the tile but from the wrong end of it, columns for rows.
        ("b0+t+1,i", "b0+t,i"),
        ("t,i", "b0+t,i"),
        ("i,b0+t", "b0+t,i"),
        ("b0+2*t,i", "b0+t,i"),
    ] {
        let program = plan(&format!("rows T {{\n {PRODUCT}\n launch @act(h, y)\n }}"), &act(read, write));
        assert_eq!(cut_of(&program, 256, [256, 1]), None, "{read}");
    }
    // What is written there does not matter to anybody else.
    let program =
        plan(&format!("rows T {{\n {PRODUCT}\n launch @act(h, y)\n }}"), &act("b0+t,i", "b0+t,63-i"));
    assert!(cut_of(&program, 256, [256, 1]).is_some());
}

#[test]
fn a_product_that_sums_over_rows_is_refused() {
    let sum = "contract(1, 64, 64, T): y(0, 64, 1) = h(0, 1, 64) * x(0, 64, 1)";
    let program = plan(&format!("rows T {{\n {PRODUCT}\n {sum}\n }}"), "");
    assert_eq!(cut_of(&program, 256, [256, 1]), None);
    assert_eq!(cut_of(&program, 64, [64, 1]), None, "as many rows as columns");
}

#[test]
fn products_follow_each_other_along_rows_columns_and_stacks() {
    let both = |second: &str| plan(&format!("rows T {{\n {PRODUCT}\n {second}\n }}"), "");
    let program = both("contract(1, T, 64, 64): y(0, 64, 1) = h(0, 64, 1) * w(0, 1, 64)");
    assert_eq!(cut_of(&program, 256, [256, 1]).expect("rows").cuts, [Cut::Product(Side::Rows); 2]);
    let program = both("contract(1, 64, T, 64): y(0, 1, 64) = w(0, 64, 1) * h(0, 1, 64)");
    let cuts = [Cut::Product(Side::Rows), Cut::Product(Side::Cols)];
    assert_eq!(cut_of(&program, 256, [256, 1]).expect("columns").cuts, cuts);
    // A row of 64 numbers as a matrix of 8 x 8 times its transpose.
    let program = both("contract(T, 8, 8, 8): y(64, 8, 1) = h(64, 8, 1) * h(64, 1, 8)");
    let cuts = [Cut::Product(Side::Rows), Cut::Product(Side::Batch)];
    assert_eq!(cut_of(&program, 256, [256, 1]).expect("stack").cuts, cuts);
    // Half of every row.
    let program = both("contract(1, T, 64, 32): y(0, 64, 1) = h[32..](0, 64, 1) * w(0, 64, 1)");
    assert!(cut_of(&program, 256, [256, 1]).is_some());
    // Rows that begin in the middle of another.
    let program = both("contract(1, T, 64, 64): y(0, 64, 1) = h[32..](0, 64, 1) * w(0, 64, 1)");
    assert_eq!(cut_of(&program, 256, [256, 1]), None);
}

#[test]
fn rows_of_two_axes_and_tiles_of_parts_of_rows() {
    let kernel = "kernel @act(v: read f32[K,T,64], o: write f32[T,64]) sizes K, T {\n  grid k over K tile 1 as k0, k_count\n  \
         grid b over T tile 16 as b0, b_count\n  grid c over 64 tile 32 as c0, c_count\n  stage s {\n    for t in 0..b_count {\n      \
         lanes i in 0..c_count width 4 {\n        %0 = load v[k0,b0+t,c0+i]\n        store o[b0+t,c0+i] = %0\n      }\n    }\n  }\n}\n";
    // Columns in tiles of 48, of which the last has 16.
    let uneven = kernel.replace("tile 32", "tile 48");
    let product = "contract(1, K*T, 64, 64): g(0, 64, 1) = g(0, 64, 1) * w(0, 64, 1)";
    let program = plan(&format!("rows K*T {{\n {product}\n launch @act(g, y)\n }}"), kernel);
    let rows = cut_of(&program, 512, [256, 2]).expect("a cut");
    assert_eq!(rows.cuts[1], Cut::Tiles { rows: 16, tiles: 2 });
    let program_of =
        |kernel: &str| plan(&format!("rows K*T {{\n {product}\n launch @act(g, y)\n }}"), kernel);
    assert_eq!(cut_of(&program_of(&uneven), 512, [256, 2]).map(|rows| rows.cuts), Some(rows.cuts));
    // Tiles of 16 rows do not make up 250.
    let rows = cut_of(&program, 500, [250, 2]);
    assert_eq!(rows.map(|rows| rows.align), Some(250), "a whole axis at a time");
}

#[test]
fn chunked_sums_are_cut_between_chunks() {
    let kernel = "kernel @sums(v: read f32[T,64], o: write f32[64]) sizes T {\n  grid chunk over 64 tile 1 as c0, c_count\n  \
         %0 = const f32 0.0\n  %1 = index 4096\n  %2 = index T+4095\n  %3 = div %2, %1\n  %4 = mul c0, %3\n  %5 = index %3*64\n  \
         %6 = index -%4*64+T\n  %7 = index 0\n  %8 = min %6, %5\n  %9 = max %8, %7\n  %10 = index 64\n  %11 = index %9+63\n  \
         %12 = div %11, %10\n  for s in 0..%12 {\n    %13 = index %4*64+s*64\n    %14 = index %9-s*64\n    %15 = min %14, %10\n    \
         stage nest {\n      for t in 0..%15 {\n        lanes i in 0..64 width 4 {\n          %16 = load v[%13+t,i]\n        }\n      \
         }\n    }\n  }\n  stage end {\n    store o[c0] = %0\n  }\n}\n";
    let program = plan(&format!("rows T {{\n {PRODUCT}\n launch @sums(h, parts)\n }}"), kernel);
    let rows = cut_of(&program, 1000, [1000, 1]).expect("a cut");
    assert_eq!(rows.cuts[1], Cut::Tiles { rows: 64, tiles: 1 });
    assert_eq!(cut_of(&program, 5000, [5000, 1]).expect("a cut").align, 128);
    assert_eq!(rows.block(1000), Some(128));
}

#[test]
fn a_group_prints_and_parses() {
    let program = plan(&format!("rows T {{\n {PRODUCT}\n launch @act(h, y)\n }}"), &act("b0+t,i", "b0+t,i"));
    let again = text::parse(&text::print(&program)).expect("its own text").program;
    assert_eq!(text::canonical(&program), text::canonical(&again));
}

#[test]
fn the_verifier_wants_single_steps_in_slots_of_their_own() {
    let messages = |steps: &str, kernel: &str, slot: &str| {
        let program = plan(steps, kernel);
        let source = text::print(&program)
            .replace("g: f32[K,T,64] in slot 1", &format!("g: f32[K,T,64] in slot {slot}"));
        let parsed = text::parse(&source).expect("parses");
        let errors = birkhoff_ir::plan::verify::verify_parsed(&parsed).err();
        errors.map_or(String::new(), |errors| errors.0.iter().map(|error| error.message.clone()).collect())
    };
    let both = |second: &str| format!("rows T {{\n {PRODUCT}\n {second}\n }}");
    let square = "contract(1, T, 64, 64): g(0, 64, 1) = h(0, 64, 1) * w(0, 64, 1)";
    let last = "contract(1, T, 64, 64): y(0, 64, 1) = g(0, 64, 1) * w(0, 64, 1)";
    let steps = both(&format!("{square}\n {last}"));
    assert!(!messages(&steps, "", "1").contains("share a slot"));
    assert!(messages(&steps, "", "0").contains("share a slot, and steps run at once use both"));
    assert!(messages("rows T {\n }", "", "1").contains("there are rows, but no steps"));
    let inner = format!("rows T {{\n rows T {{\n {PRODUCT}\n }}\n }}");
    assert!(messages(&inner, "", "1").contains("only launches and contractions"));
}

#[test]
fn sizes_without_rows_or_tiles_and_numbers_without_bounds_are_refused() {
    let program = plan(&format!("rows T {{\n {PRODUCT}\n launch @act(h, y)\n }}"), &act("b0+t,i", "b0+t,i"));
    for rows in [0, -3] {
        assert_eq!(cut_of(&program, rows, [256, 1]), None);
    }
    let rows = cut_of(&program, 256, [256, 1]).expect("a cut");
    assert_eq!([0, -5, 1, 3].map(|n_rows| rows.block(n_rows)), [None; 4]);
    assert!(rows.block(i64::MAX).is_some());
    let empty = plan("rows T {\n }", "");
    assert_eq!(cut_of(&empty, 0, [0, 1]), None);
    // Of the second axis, as many places as are missing: none.
    let kernel = act("b0+t,i", "b0+t,i")
        .replace("\n  stage s", "\n  grid k over K-3 tile 1 as k0, k_count\n  stage s");
    let kernel = kernel.replace("sizes T", "sizes T, K");
    let program = plan(&format!("rows T {{\n {PRODUCT}\n launch @act(h, y)\n }}"), &kernel);
    assert_eq!(cut_of(&program, 256, [256, 1]), None);
    assert!(cut_of(&program, 256, [256, 5]).is_some());
    // Numbers that differ by one, beyond what a sum of two may have.
    let offset = "%7 = const i64 4611686018427387904\n        %8 = const i64 4611686018427387903\n        %9 = sub %7, %8\n        %0 = load";
    let kernel = act("b0+t+%9,i", "b0+t,i").replace("%0 = load", offset);
    let program = plan(&format!("rows T {{\n {PRODUCT}\n launch @act(h, y)\n }}"), &kernel);
    assert_eq!(cut_of(&program, 256, [256, 1]), None);
}
