//! scratch
use birkhoff_compiler::cost::Edges;
use birkhoff_compiler::eqsat::{Math, Options, optimize};
use birkhoff_ir::dim::{SizeEnv, Sym};
use birkhoff_ir::tensor::bind::{Bindings, bind};
use birkhoff_ir::tensor::text;

#[test]
fn dump() {
    let path = std::env::var("DUMP").unwrap();
    let source = std::fs::read_to_string(&path).unwrap();
    let module = if path.ends_with(".toml") {
        birkhoff_compiler::spec::parse(&source).unwrap_or_else(|why| panic!("{}", why.render(&path, &source)))
    } else {
        text::parse(&source).unwrap_or_else(|why| panic!("{}", why.render(&path, &source)))
    };
    let dims: SizeEnv = std::env::var("DIMS").unwrap_or_default().split(',').filter(|s| !s.is_empty())
        .map(|kv| { let (k, v) = kv.split_once('=').unwrap(); (Sym::from(k), v.parse().unwrap()) }).collect();
    let bound = bind(&module, &Bindings { dims, ..Bindings::default() }).unwrap();
    let math = match std::env::var("MATH").as_deref() { Ok("fast") => Math::Fast, Ok("strict") => Math::Strict, _ => Math::Default };
    let options = Options { math, explain: std::env::var("EXPLAIN").is_ok(), ..Options::default() };
    for (id, func) in bound.exported() {
        let n = std::env::var("REPS").map_or(1, |s| s.parse().unwrap());
        let mut times = vec![];
        let mut out = None;
        for _ in 0..n {
            let start = std::time::Instant::now();
            out = Some(optimize(&bound, id, &options, &Edges::default()).unwrap_or_else(|e| panic!("{}", e.message)));
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        let out = out.unwrap();
        if std::env::var("QUIET").is_err() { println!("{}", text::print(&out.module)); }
        println!("@{} {:#?}\nms {:?}", func.name, out.report, &times[..times.len().min(3)]);
    }
}
