use birkhoff_codegen::cpu::{Options, jit};
use birkhoff_ir::kernel::text;
fn cpu() -> f64 {
    let s = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    s.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e6
}
fn main() {
    let name = std::env::args().nth(1).unwrap();
    let n: usize = std::env::args().nth(2).map_or(5, |s| s.parse().unwrap());
    let source = std::fs::read_to_string(format!("ir/tests/kernels/{name}.kir")).unwrap();
    let func = text::parse(&source).map_err(|e| e.message).unwrap().func;
    for _ in 0..n {
        let t = cpu();
        let image =
            jit(std::slice::from_ref(&func), Options { listings: false }).map_err(|e| e.to_string()).unwrap();
        let t2 = cpu();
        println!("{:.2} ms cpu, {} bytes", t2 - t, image.code_bytes());
    }
    println!("{}", cranelift_codegen::timing::take_current());
}
