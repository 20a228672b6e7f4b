//! PTX of small kernels.
#![cfg(feature = "ptx")]

use birkhoff_codegen::ptx::{Options, compile};
use birkhoff_ir::kernel::text::parse;

#[test]
fn dump() {
    let text = std::fs::read_to_string(std::env::var("K").unwrap()).unwrap();
    let mut funcs = vec![];
    let mut cur = String::new();
    for line in text.lines() {
        if line.starts_with("kernel @") && !cur.trim().is_empty() {
            funcs.push(std::mem::take(&mut cur));
        }
        cur += line;
        cur += "\n";
    }
    funcs.push(cur);
    let funcs: Vec<_> = funcs
        .iter()
        .map(|t| match parse(t) {
            Ok(p) => p.func,
            Err(e) => panic!("{e:?}"),
        })
        .collect();
    let opts = Options { listings: true, ..Default::default() };
    for _ in 0..3 {
        let t = std::time::Instant::now();
        match compile(&funcs, &opts) {
            Ok(image) => {
                eprintln!("ok {:?} {:?}", t.elapsed(), image.kernels);
                std::fs::write("/tmp/p4/k.mlir", image.mlir).unwrap();
                std::fs::write("/tmp/p4/k.ll", image.llvm).unwrap();
                std::fs::write("/tmp/p4/k.ptx", image.ptx).unwrap();
            }
            Err(e) => panic!("{e}"),
        }
    }
}
