//! Whole kernels, compiled and in the kernel evaluator, bit for bit: the hand-written kernels of `ir` and those of this folder.
//!
//! A case is a file of `tests/kernels`; its first line lists sizes to run with. Arrays are filled at random; values of an i64
//! parameter named `pick` are indices below the size `C`.

mod support;

use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::{Access, Func, abi, eval, text, verify};
use birkhoff_ir::scalar::Scalar;
use std::path::Path;
use support::{Array, Image, assert_same, compile, run_image, samples};

fn load(path: &Path) -> (Func, String) {
    let source = std::fs::read_to_string(path).unwrap();
    let parsed = text::parse(&source).unwrap_or_else(|error| panic!("{}: {}", path.display(), error.message));
    if let Err(errors) = verify::verify_parsed(&parsed) {
        panic!("{}", errors.render(&path.display().to_string(), &source));
    }
    (parsed.func, source)
}

/// Values for a parameter: mostly tame numbers, and the corners of the dtype where `wild`.
fn fill(name: &str, dtype: DType, len: usize, seed: u64, wild: bool, sizes: &SizeEnv) -> Vec<Scalar> {
    let values = samples(dtype, len, seed);
    if name == "pick" {
        return (0..len).map(|idx| Scalar::Int((idx as i64 * 7 + 3) % sizes["C"])).collect();
    }
    if wild || !dtype.is_float() {
        return values;
    }
    let mut rng = support::Rng(seed + 99);
    (0..len).map(|_| Scalar::Float(dtype.round(rng.unit() * 2.0))).collect()
}

/// Runs a kernel both ways on the same data and compares every array.
fn check(func: &Func, sizes: &[(&str, i64)], wild: bool) {
    let env: SizeEnv = sizes.iter().map(|(name, value)| ((*name).into(), *value)).collect();
    let mut reference = vec![];
    let mut arrays = vec![];
    for (idx, param) in func.params.iter().enumerate() {
        let shape: Vec<i64> = param.shape.iter().map(|dim| dim.eval(&env).unwrap()).collect();
        let len = shape.iter().product::<i64>() as usize;
        if param.access == Access::Write {
            reference.push(eval::Array::uninit(param.dtype, &shape).unwrap());
            arrays.push(Array::garbage(param.dtype, len));
        } else {
            let values = fill(param.name.as_str(), param.dtype, len, idx as u64 + 1, wild, &env);
            reference.push(eval::Array::from_scalars(param.dtype, &shape, &values).unwrap());
            arrays.push(Array::new(param.dtype, &values));
        }
    }
    let mut memory = eval::Memory::new(reference);
    eval::run(func, &env, &mut memory).unwrap_or_else(|error| panic!("{}", error.message));
    for image in compile(func) {
        check_image(&image, func, sizes, &arrays, &memory);
    }
}

/// Compares what an image makes of `arrays` with the evaluator's `memory`.
fn check_image(image: &Image, func: &Func, sizes: &[(&str, i64)], given: &[Array], memory: &eval::Memory) {
    let env: SizeEnv = sizes.iter().map(|(name, value)| ((*name).into(), *value)).collect();
    let n_tiles = abi::n_tiles(func, &env).unwrap();
    let (mut arrays, mut parts) = (given.to_vec(), given.to_vec());
    run_image(image, func, sizes, &mut arrays, None);
    // The tiles in two calls, the later ones first: tiles do not depend on each other.
    run_image(image, func, sizes, &mut parts, Some((n_tiles / 2, n_tiles)));
    run_image(image, func, sizes, &mut parts, Some((0, n_tiles / 2)));
    for (idx, param) in func.params.iter().enumerate() {
        let what = format!("kernel {} by {} {sizes:?}, `{}`", func.name, image.maker(), param.name);
        let expected: Vec<Option<Scalar>> = memory.arrays[idx].scalars().collect();
        let found = arrays[idx].values();
        assert_eq!(found.len(), expected.len(), "{what}");
        for (elem, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let Some(expected) = expected else { continue };
            assert!(support::same(*found, *expected), "{what}[{elem}]: {found:?}, expected {expected:?}");
        }
        if param.access != Access::ReadWrite {
            assert_same(&parts[idx].values(), &found, &format!("{what}, tiles apart"));
        }
    }
}

/// The sizes of a first line such as `// sizes: A=1,B=2 | A=3,B=4`.
fn size_lists(source: &str) -> Vec<Vec<(&str, i64)>> {
    let line = source.lines().next().unwrap().strip_prefix("// sizes:").expect("the first line lists sizes");
    line.split('|')
        .map(|list| {
            let pairs = list.trim().split(',').filter(|pair| !pair.is_empty());
            pairs
                .map(|pair| pair.split_once('=').map(|(name, value)| (name, value.parse().unwrap())).unwrap())
                .collect()
        })
        .collect()
}

fn files(dir: &str) -> Vec<std::path::PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
    let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ext| ext == "kir"));
    paths.sort();
    paths
}

#[test]
fn the_kernels_of_this_folder_are_what_the_evaluator_says() {
    let paths = files("tests/kernels");
    assert!(paths.len() >= 6);
    for path in paths {
        let (func, source) = load(&path);
        for sizes in size_lists(&source) {
            check(&func, &sizes, false);
            check(&func, &sizes, true);
        }
    }
}

#[test]
fn the_kernels_of_ir_are_what_the_evaluator_says() {
    let paths = files("../ir/tests/kernels");
    assert!(paths.len() >= 4);
    for path in paths {
        let (func, _) = load(&path);
        for extents in [[1, 1], [3, 8], [16, 20], [37, 33]] {
            let sizes: Vec<(&str, i64)> =
                func.sizes.iter().zip(extents).map(|(name, extent)| (name.as_str(), extent)).collect();
            check(&func, &sizes, false);
        }
    }
}
