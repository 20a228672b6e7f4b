//! Kernel and plan texts that come from anywhere: exact constants, names that clash, depth, and damaged files.

use birkhoff_ir::dim::Dim;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::build::Builder;
use birkhoff_ir::kernel::{Access, AccumOp, ForKind, Index, text, verify};
use birkhoff_ir::plan;
use birkhoff_ir::scalar::{Scalar, ScalarOp};
use std::path::Path;

fn random_bits(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    seed.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

#[test]
fn constants_read_back_exactly() {
    let mut seed = 1;
    let mut values =
        vec![0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN_POSITIVE, 5e-324, 1e-6, 0.1];
    values.extend((0..500).map(|_| f64::from_bits(random_bits(&mut seed))).filter(|value| !value.is_nan()));
    let mut builder = Builder::new("k", vec![]);
    for value in values {
        builder.constant(DType::F64, Scalar::Float(value));
        builder.constant(DType::F32, Scalar::Float(DType::F32.round(value)));
        builder.constant(DType::I64, Scalar::Int(random_bits(&mut seed) as i64));
    }
    builder.constant(DType::I64, Scalar::Int(i64::MIN));
    builder.constant(DType::Bool, Scalar::Bool(true));
    let func = builder.finish();
    verify::verify(&func).unwrap();
    let parsed = text::parse(&text::print(&func)).unwrap().func;
    // Equal floats may still differ in the sign of zero; the debug text shows it.
    assert_eq!(format!("{:?}", parsed.body), format!("{:?}", text::canonical(&func).body));
    let nan = text::parse("kernel @k() {\n  %0 = const f32 nan\n}\n").unwrap().func;
    assert_eq!(text::print(&nan), "kernel @k(\n) {\n  %0 = const f32 nan\n}\n");
}

/// Names clash with sizes and each other; variables are numbered out of order; coefficients are polynomials.
#[test]
fn a_kernel_built_by_code_prints_in_canonical_form() {
    let (n, t) = (Dim::sym("n"), Dim::sym("T"));
    let mut builder = Builder::new("mix", vec!["T".into(), "n".into()]);
    let late = builder.fresh(DType::F32, Some("ignored"));
    let unused = builder.fresh(DType::I64, None);
    let x = builder.param("x", DType::Bf16, vec![t.clone(), n.mul(&n).add(&Dim::constant(2))], Access::Read);
    let y = builder.param("y", DType::F32, vec![], Access::ReadWrite);
    let (base, count) = builder.grid_axis("n", t, 8);
    let acc = builder.reg("acc", DType::F32, vec![Dim::constant(1)], None);
    builder.stage("only", |b| {
        b.for_range("n", 0, count, ForKind::Seq, |b, row| {
            b.for_range("n", Index::constant(1), n.clone(), ForKind::Seq, |b, col| {
                let at = Index::var(col)
                    .scale(&n.sub(&Dim::constant(1)))
                    .add(&Index::var(row).scale(&Dim::constant(-2)));
                let at = at.add(&Index::constant(n.mul(&Dim::constant(-3))));
                let value = b.load(x, vec![Index::var(base).add(&Index::var(row)), at]);
                b.push(birkhoff_ir::kernel::Stmt::Let(
                    late,
                    birkhoff_ir::kernel::Inst::Scalar(ScalarOp::Exp, vec![value]),
                ));
                b.accum(AccumOp::MulAdd, acc, vec![Index::constant(0)], &[late, value]);
                b.accum(AccumOp::Max, y, vec![], &[value]);
            });
        });
    });
    let func = builder.finish();
    assert!(func.vars.len() > unused.0 as usize);
    verify::verify(&func).unwrap();
    let expected = "kernel @mix(
  x: read bf16[T,n*n+2],
  y: read_write f32[],
) sizes T, n {
  grid n over T tile 8 as n0, n_count
  reg acc: f32[1]
  decl acc
  stage only {
    for n_1 in 0..n_count {
      for n_2 in 1..n {
        %0 = load x[n0+n_1,-n_1*2+n_2*(n-1)-3*n]
        %1 = exp %0
        accum mul_add acc[0], %1, %0
        accum max y[], %0
      }
    }
  }
}
";
    let printed = text::print(&func);
    assert_eq!(printed, expected);
    assert_eq!(text::parse(&printed).unwrap().func, text::canonical(&func));
    assert_eq!(text::canonical(&text::canonical(&func)), text::canonical(&func));
}

#[test]
fn a_kernel_built_wrongly_shows_the_statement() {
    let mut builder = Builder::new("k", vec![]);
    let x = builder.param("x", DType::F32, vec![Dim::constant(4)], Access::Read);
    let value = builder.load(x, vec![Index::constant(3)]);
    builder.store(x, vec![Index::constant(4)], value);
    let errors = verify::verify(&builder.finish()).unwrap_err().to_string();
    assert_eq!(
        errors,
        "kernel @k: the index of axis 0 of `x` takes 4 to 4, expected 0..4\n  in: store x[4] = %0\n\
         kernel @k: `x` is declared `read` but is written\n  in: store x[4] = %0"
    );
}

#[test]
fn deep_texts_are_rejected() {
    let loops: String = (0..10_000).map(|depth| format!("for i{depth} in 0..1 {{ ")).collect();
    let error = text::parse(&format!("kernel @k() {{ {loops}")).unwrap_err();
    assert_eq!(error.message, "nested deeper than 128 levels");
    let parens = "(".repeat(10_000);
    let error = text::parse(&format!("kernel @k(x: read f32[{parens}")).unwrap_err();
    assert_eq!(error.message, "nested deeper than 128 levels");
    let loops: String = (0..10_000).map(|depth| format!("loop i{depth} in 0..1 {{ ")).collect();
    let error = plan::text::parse(&format!("plan @p {{ {loops}")).unwrap_err();
    assert_eq!(error.message, "nested deeper than 128 levels");
    let sum = vec!["(a+1)"; 400].join("*");
    let error = text::parse(&format!("kernel @k(x: read f32[{sum}]) sizes a {{ }}")).unwrap_err();
    assert_eq!(error.message, "this product has too many factors");
}

/// Files with pieces cut out, doubled or exchanged: an error or a kernel, never a panic.
#[test]
fn damaged_files_never_panic() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels");
    let mut seed = 7;
    let mut survived = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let source = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let words: Vec<&str> = source.split_inclusive([' ', '\n', ',', '[', ']']).collect();
        for _ in 0..300 {
            let mut damaged = words.clone();
            for _ in 0..1 + random_bits(&mut seed) % 2 {
                let (a, b) = (
                    random_bits(&mut seed) as usize % damaged.len(),
                    random_bits(&mut seed) as usize % words.len(),
                );
                match random_bits(&mut seed) % 3 {
                    0 => damaged[a] = words[b],
                    1 => damaged.insert(a, words[b]),
                    _ => drop(damaged.remove(a)),
                }
            }
            let damaged = damaged.concat();
            if let Ok(parsed) = text::parse(&damaged) {
                survived += usize::from(verify::verify_parsed(&parsed).is_ok());
                let printed = text::print(&parsed.func);
                assert_eq!(text::print(&text::parse(&printed).unwrap().func), printed);
            }
            if let Ok(parsed) = plan::text::parse(&damaged) {
                survived += usize::from(plan::verify::verify_parsed(&parsed).is_ok());
            }
        }
    }
    // Comments, names and orders may change without harm, so some texts stay valid: the test reaches the verifier.
    assert!(survived > 10, "{survived}");
}
