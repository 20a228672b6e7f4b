//! Text of the tensor IR: round trips, the surface, spans, and sources that mean nothing.

use birkhoff_ir::dim::Dim;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::tensor::build::Builder;
use birkhoff_ir::tensor::text::{Scope, parse, parse_body, print, print_func};
use birkhoff_ir::tensor::{Domain, Module, TensorType};

const SINKHORN: &str = "\
dim n = 4
dim B in 1..=2147483648 default 1024

param iters = 20
param eps = 1e-6
param flag = true

fn @step(%a: f32[B,n,n] ~ uniform(0.1, 1)) -> (a: f32[B,n,n]) {
  %s = reduce_sum(%a) {axes=[2]} : f32[B,n]
  %t = broadcast(%s) {shape=[B,n,n], axes=[0,1]} : f32[B,n,n]
  %q = div(%a, %t) : f32[B,n,n]
  return a = %q
}

export fn @main(%m: f32[B,n,n]) -> (h: f32[B,n,n], z: f32[B,n,n]) {
  %0 = exp(%m) : f32[B,n,n]
  %1 = loop(%0) {body=@step, trip=$iters, carry=1} : f32[B,n,n]
  %2 = sinkhorn(%m) {form=log, iters=$iters, eps=1e-6, shift=rows} : f32[B,n,n]
  %3, %4 = qr(%m) : f32[B,n,n], f32[B,n,n]
  return h = %1, z = %4
}
";

/// The canonical text of `source`, which must be a fixed point of printing and parsing.
fn canonical(source: &str) -> String {
    let module = parse(source).unwrap_or_else(|errors| panic!("{}", errors.render("source", source)));
    let printed = print(&module);
    let again = parse(&printed).unwrap_or_else(|errors| panic!("{}", errors.render("printed", &printed)));
    assert_eq!(print(&again), printed);
    printed
}

#[test]
fn canonical_text_is_a_fixed_point() {
    assert_eq!(canonical(SINKHORN), SINKHORN);
}

/// The statements that `body` becomes in a function of `x: f32[T,n,C]`, `w: f32[n*C,o]` and `k: bf16[T]`.
fn statements(body: &str) -> String {
    let source = format!(
        "dim T in 1..=100\ndim n = 4\ndim C\ndim o\nparam a = 0.5\nparam iters = 3\n\
         fn @f(x: f32[T,n,C], w: f32[n*C,o], k: bf16[T]) -> () {{\n{body}\nreturn\n}}"
    );
    let printed = canonical(&source);
    let lines: Vec<&str> = printed.lines().skip_while(|line| !line.starts_with("fn")).skip(1).collect();
    let body: Vec<&str> =
        lines.iter().take_while(|line| **line != "  return").map(|line| line.trim()).collect();
    body.join("\n")
}

#[test]
fn numbers_take_the_type_of_the_other_operand() {
    let expected = "\
%0 = const() {value=$a, dtype=bf16} : bf16[]
%1 = broadcast(%0) {shape=[T], axes=[]} : bf16[T]
%2 = mul(%1, %k) : bf16[T]
%3 = const() {value=1.0, dtype=bf16} : bf16[]
%4 = broadcast(%3) {shape=[T], axes=[]} : bf16[T]
%5 = add(%2, %4) : bf16[T]
%y = sigmoid(%5) : bf16[T]";
    assert_eq!(statements("y = sigmoid($a * k + 1)"), expected);
}

#[test]
fn precedence_and_signs() {
    let expected = "\
%0 = mul(%k, %k) : bf16[T]
%1 = sub(%k, %0) : bf16[T]
%2 = neg(%k) : bf16[T]
%3 = div(%1, %2) : bf16[T]
%4 = const() {value=-2.0, dtype=bf16} : bf16[]
%5 = broadcast(%4) {shape=[T], axes=[]} : bf16[T]
%y = sub(%3, %5) : bf16[T]";
    assert_eq!(statements("y = (k - k * k) / -k - -2"), expected);
}

#[test]
fn conveniences_write_ops() {
    let body = "\
y = einsum(\"tk,ko->to\", vec(x), w) // a comment
s = sum(x, [1])
p = y[1: 0..n]
m = broadcast_to(x[2: 0..1], [T,n,n])
h = sinkhorn(m, iters=$iters, eps=0.0)
i = t(eye(n=n))";
    let expected = "\
%0 = reshape(%x) {shape=[T,C*n]} : f32[T,C*n]
%y = contract(%0, %w) {spec=\"tk,ko->to\", dtype=f32} : f32[T,o]
%s = reduce_sum(%x) {axes=[1]} : f32[T,C]
%p = slice(%y) {axis=1, start=0, end=n} : f32[T,n]
%1 = slice(%x) {axis=2, start=0, end=1} : f32[T,n,1]
%2 = reshape(%1) {shape=[T,n]} : f32[T,n]
%m = broadcast(%2) {shape=[T,n,n], axes=[0,1]} : f32[T,n,n]
%h = sinkhorn(%m) {iters=$iters} : f32[T,n,n]
%3 = iota() {shape=[n,n], axis=0, dtype=i64} : i64[n,n]
%4 = iota() {shape=[n,n], axis=1, dtype=i64} : i64[n,n]
%5 = eq(%3, %4) : bool[n,n]
%6 = convert(%5) {dtype=f32} : f32[n,n]
%i = transpose(%6) {axes=[1,0]} : f32[n,n]";
    assert_eq!(statements(body), expected);
}

#[test]
fn names_are_made_unique_and_odd_ones_quoted() {
    let mut module = Module::default();
    let mut builder = Builder::new(&mut module, "odd name");
    let ty = TensorType::new(DType::F32, vec![Dim::constant(2)]);
    let x = builder.input("0", ty.clone(), Domain::default()).unwrap();
    let y = builder.input("a b\"", ty, Domain::Ball { lo: 0.5, hi: 1.0 }).unwrap();
    let sum = builder.add(x, y).unwrap();
    builder.name(sum, "s");
    let twice = builder.add(sum, sum).unwrap();
    builder.name(twice, "s");
    let last = builder.add(twice, sum).unwrap();
    builder.output("out put", last).unwrap();
    builder.finish();
    let printed = print(&module);
    let expected = "\
fn @\"odd name\"(%\"0\": f32[2], %\"a b\\\"\": f32[2] ~ ball(0.5, 1)) -> (\"out put\": f32[2]) {
  %s = add(%\"0\", %\"a b\\\"\") : f32[2]
  %s_1 = add(%s, %s) : f32[2]
  %1 = add(%s_1, %s) : f32[2]
  return \"out put\" = %1
}
";
    assert_eq!(printed, expected);
    assert_eq!(canonical(&printed), printed);
}

#[test]
fn long_signatures_have_one_argument_per_line() {
    let inputs: Vec<String> = (0..9).map(|idx| format!("argument_{idx}: f32[2,3]")).collect();
    let printed = canonical(&format!("fn @f({}) -> () {{ return }}", inputs.join(", ")));
    assert!(printed.starts_with("fn @f(\n    %argument_0: f32[2,3],\n"), "{printed}");
}

#[test]
fn statements_can_be_embedded() {
    let mut module = Module::default();
    let mut builder = Builder::new(&mut module, "f");
    let ty = TensorType::new(DType::F32, vec![Dim::constant(2)]);
    let x = builder.input("x", ty, Domain::default()).unwrap();
    let mut scope = Scope::default();
    scope.insert("h", x);
    parse_body(&mut builder, &mut scope, "y = h * 2\nz = exp(y)", 100).unwrap();
    let z = scope.get("z").unwrap();
    builder.output("z", z).unwrap();
    let errors = parse_body(&mut builder, &mut scope, "\n q = exp(nothing)", 100).unwrap_err();
    assert_eq!(errors.0[0].span.0, Some((110, 117)));
    let errors = parse_body(&mut builder, &mut scope, "q = exp(", 100).unwrap_err();
    assert_eq!(errors.0[0].span.0, Some((108, 108)));
    let func = builder.into_func();
    assert_eq!(func.nodes.last().unwrap().span.0, Some((114, 117)));
    assert!(print_func(&module, &func).contains("%z = exp(%y) : f32[2]"));
}

#[test]
fn several_errors_are_told_at_once() {
    let source = "fn @f(x: f32[2]) -> () {\na = exq(x)\nb = a + 1\nc = tanh(x, x)\nreturn\n}";
    let errors = parse(source).unwrap_err();
    let messages: Vec<&str> = errors.0.iter().map(|error| error.message.as_str()).collect();
    assert_eq!(messages, ["there is no op `exq`", "`tanh` takes 1 operand (a), found 2"]);
}

#[test]
fn nesting_is_bounded() {
    let deep = |open: &str, close: &str, count: usize| {
        format!("fn @f(x: f32[]) -> () {{\ny = {}x{}\nreturn\n}}", open.repeat(count), close.repeat(count))
    };
    for (open, close) in [("(", ")"), ("-", ""), ("exp(", ")"), ("x + (", ")"), ("", " + x"), ("", " * -x")] {
        assert!(parse(&deep(open, close, 50)).is_ok(), "{open}");
        let errors = parse(&deep(open, close, 50_000)).unwrap_err();
        assert!(errors.0[0].message.contains("deep"), "{open}: {errors}");
    }
    // Around the limit nothing overflows a stack either.
    for count in 90..210 {
        for (open, close) in [("(", ")"), ("-", ""), ("exp(-(", "))"), ("max(x, ", ")"), ("2 * (x / -", ")")]
        {
            let _ = parse(&deep(open, close, count));
        }
    }
    let dims = format!("dim a\ndim b\nfn @f(x: f32[{}a]) -> () {{ return }}", "(a+b)*".repeat(10_000));
    assert_eq!(parse(&dims).unwrap_err().0[0].message, "this size has more than 64 terms");
}

/// Cuts and mixes of a good source: errors or success, never a panic, and always a rendered text.
#[test]
fn no_source_panics() {
    let mut state = 1u64;
    let mut random = |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    let pieces: Vec<char> =
        SINKHORN.chars().chain("é\u{0}\"\\%@$[]{}()..=-1e9999 99999999999999999999".chars()).collect();
    for _ in 0..3000 {
        let mut text: Vec<char> = SINKHORN.chars().collect();
        for _ in 0..1 + random(4) {
            let start = random(text.len());
            let end = (start + random(30)).min(text.len());
            let from = random(pieces.len());
            let until = (from + random(20)).min(pieces.len());
            text.splice(start..end, pieces[from..until].iter().copied());
        }
        let source: String = text.into_iter().collect();
        match parse(&source) {
            Ok(module) => {
                let printed = print(&module);
                let again =
                    parse(&printed).unwrap_or_else(|errors| panic!("{}", errors.render("p", &printed)));
                assert_eq!(print(&again), printed);
            }
            Err(errors) => assert!(errors.render("source", &source).contains("error")),
        }
    }
}
