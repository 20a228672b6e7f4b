//! Running compiled kernels on plain vectors, and the data and comparisons of the tests.

#![allow(dead_code, reason = "each test file uses its own part")]

use birkhoff_codegen::cpu;
#[cfg(feature = "ptx")]
use birkhoff_codegen::llvm;
use birkhoff_ir::diag::Diagnostics;
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::abi::KernelFn;
use birkhoff_ir::kernel::{Func, abi};
use birkhoff_ir::scalar::Scalar;

/// An array in memory.
#[derive(Clone, PartialEq, Debug)]
pub struct Array {
    pub dtype: DType,
    pub bytes: Vec<u8>,
}

impl Array {
    /// Elements of `dtype`, rounded.
    pub fn new(dtype: DType, values: &[Scalar]) -> Array {
        let mut bytes = vec![];
        for value in values {
            match dtype {
                DType::F64 => bytes.extend(value.as_f64().to_le_bytes()),
                DType::F32 => bytes.extend((value.as_f64() as f32).to_le_bytes()),
                DType::Bf16 => {
                    bytes.extend(half::bf16::from_f32(dtype.round(value.as_f64()) as f32).to_le_bytes())
                }
                DType::F16 => {
                    bytes.extend(half::f16::from_f32(dtype.round(value.as_f64()) as f32).to_le_bytes())
                }
                DType::I64 => bytes.extend(value.as_i64().to_le_bytes()),
                DType::I32 => bytes.extend((value.as_i64() as i32).to_le_bytes()),
                DType::Bool => bytes.push(u8::from(value.as_bool())),
            }
        }
        Array { dtype, bytes }
    }

    /// Floats.
    pub fn floats(dtype: DType, values: impl IntoIterator<Item = f64>) -> Array {
        let values: Vec<Scalar> = values.into_iter().map(Scalar::Float).collect();
        Array::new(dtype, &values)
    }

    /// Bytes that no test expects, to show what was not written.
    pub fn garbage(dtype: DType, len: usize) -> Array {
        Array { dtype, bytes: vec![0xa5; len * dtype.size_bytes() as usize] }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size_bytes() as usize
    }

    /// One element.
    pub fn get(&self, idx: usize) -> Scalar {
        let size = self.dtype.size_bytes() as usize;
        let elem = &self.bytes[idx * size..(idx + 1) * size];
        match self.dtype {
            DType::F64 => Scalar::Float(f64::from_le_bytes(elem.try_into().unwrap())),
            DType::F32 => Scalar::Float(f64::from(f32::from_le_bytes(elem.try_into().unwrap()))),
            DType::Bf16 => Scalar::Float(half::bf16::from_le_bytes(elem.try_into().unwrap()).to_f64()),
            DType::F16 => Scalar::Float(half::f16::from_le_bytes(elem.try_into().unwrap()).to_f64()),
            DType::I64 => Scalar::Int(i64::from_le_bytes(elem.try_into().unwrap())),
            DType::I32 => Scalar::Int(i64::from(i32::from_le_bytes(elem.try_into().unwrap()))),
            DType::Bool => Scalar::Bool(elem[0] != 0),
        }
    }

    /// All elements.
    pub fn values(&self) -> Vec<Scalar> {
        (0..self.len()).map(|idx| self.get(idx)).collect()
    }
}

/// Equal bit for bit, except that all NaNs are equal.
pub fn same(a: Scalar, b: Scalar) -> bool {
    match (a, b) {
        (Scalar::Float(a), Scalar::Float(b)) => a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()),
        _ => a == b,
    }
}

/// Asserts that all elements are the same.
pub fn assert_same(found: &[Scalar], expected: &[Scalar], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (idx, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(same(*found, *expected), "{what}: element {idx} is {found:?}, expected {expected:?}");
    }
}

/// A kernel compiled by one of the back ends for this processor.
pub enum Image {
    Cranelift(Box<cpu::Image>),
    #[cfg(feature = "ptx")]
    Llvm(llvm::Image),
    /// With half of the widest registers.
    #[cfg(feature = "ptx")]
    NarrowLlvm(llvm::Image),
}

impl Image {
    /// Which back end made it.
    pub fn maker(&self) -> &'static str {
        match self {
            Image::Cranelift(_) => "Cranelift",
            #[cfg(feature = "ptx")]
            Image::Llvm(_) => "LLVM",
            #[cfg(feature = "ptx")]
            Image::NarrowLlvm(_) => "LLVM without the widest registers",
        }
    }

    fn entry(&self) -> KernelFn {
        let entry = match self {
            Image::Cranelift(image) => image.entry(0),
            #[cfg(feature = "ptx")]
            Image::Llvm(image) | Image::NarrowLlvm(image) => image.entry(0),
        };
        entry.expect("the kernel has code")
    }
}

/// Compiles one kernel by every back end of this build.
pub fn compile(func: &Func) -> Vec<Image> {
    let kernels = std::slice::from_ref(func);
    let fail = |errors: Diagnostics| -> ! { panic!("{errors}") };
    #[cfg(feature = "ptx")]
    let narrow = llvm::Options { max_vector_bits: Some(256), ..Default::default() };
    let cranelift = cpu::jit(kernels, cpu::Options::default()).unwrap_or_else(|errors| fail(errors));
    vec![
        Image::Cranelift(Box::new(cranelift)),
        #[cfg(feature = "ptx")]
        Image::Llvm(llvm::jit(kernels, llvm::Options::default()).unwrap_or_else(|errors| fail(errors))),
        #[cfg(feature = "ptx")]
        Image::NarrowLlvm(llvm::jit(kernels, narrow).unwrap_or_else(|errors| fail(errors))),
    ]
}

/// Runs some tiles (all by default) of a compiled kernel.
pub fn run_image(
    image: &Image,
    func: &Func,
    sizes: &[(&str, i64)],
    arrays: &mut [Array],
    tiles: Option<(i64, i64)>,
) {
    let env: SizeEnv = sizes.iter().map(|(name, value)| ((*name).into(), *value)).collect();
    let values: Vec<i64> = func.sizes.iter().map(|name| env[name]).collect();
    let (first, last) = tiles.unwrap_or((0, abi::n_tiles(func, &env).unwrap()));
    let scratch_bytes = abi::scratch_bytes(func, &env).unwrap() as usize;
    let mut scratch = vec![0xa5u8; scratch_bytes + 64];
    let aligned = scratch.as_mut_ptr().wrapping_add(scratch.as_ptr().align_offset(64));
    // Parameters are only element-aligned: shift every array off 16-byte alignment, and guard both ends.
    let mut buffers: Vec<Vec<u8>> = arrays
        .iter()
        .map(|array| {
            let mut padded = vec![0x5a; 64 + array.bytes.len() + 64];
            padded[64..64 + array.bytes.len()].copy_from_slice(&array.bytes);
            padded
        })
        .collect();
    let mut shifted: Vec<Vec<u8>> = vec![];
    let mut pointers: Vec<*mut u8> = vec![];
    for (buffer, array) in buffers.iter_mut().zip(arrays.iter()) {
        let size = array.dtype.size_bytes() as usize;
        let mut copy = vec![0u8; buffer.len() + 64];
        let offset = copy.as_ptr().align_offset(64) + size;
        copy[offset..offset + buffer.len()].copy_from_slice(buffer);
        pointers.push(copy[offset + 64..].as_mut_ptr());
        shifted.push(copy);
    }
    let entry = image.entry();
    // SAFETY: one pointer per parameter, to memory of its extent; sizes in order; enough aligned scratch memory.
    unsafe { entry(pointers.as_ptr(), values.as_ptr(), first, last, aligned) };
    for (idx, (array, pointer)) in arrays.iter_mut().zip(&pointers).enumerate() {
        let len = array.bytes.len();
        // SAFETY: the pointer was taken 64 bytes into a buffer of `len + 128` bytes.
        let all = unsafe { std::slice::from_raw_parts(pointer.wrapping_sub(64), len + 128) };
        assert!(all[..64].iter().all(|byte| *byte == 0x5a), "wrote before parameter {idx}");
        assert!(all[64 + len..].iter().all(|byte| *byte == 0x5a), "wrote behind parameter {idx}");
        array.bytes.copy_from_slice(&all[64..64 + len]);
    }
}

/// A small deterministic generator (xorshift64*).
pub struct Rng(pub u64);

impl Rng {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Uniform in -1 .. 1.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

/// Values of a dtype that show its corners, then random ones, `len` in all, starting anywhere.
pub fn samples(dtype: DType, len: usize, seed: u64) -> Vec<Scalar> {
    let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    (0..len)
        .map(|_| {
            let pick = rng.bits().is_multiple_of(4);
            match dtype {
                DType::Bool => Scalar::Bool(rng.bits().is_multiple_of(3)),
                DType::I32 if pick => Scalar::Int(
                    [0, 1, -1, i64::from(i32::MIN), i64::from(i32::MAX)][(rng.bits() % 5) as usize],
                ),
                DType::I64 if pick => Scalar::Int([0, 1, -1, i64::MIN, i64::MAX][(rng.bits() % 5) as usize]),
                DType::I32 => Scalar::Int(i64::from((rng.bits() >> (rng.bits() % 64)) as i32)),
                DType::I64 => Scalar::Int((rng.bits() >> (rng.bits() % 64)) as i64),
                _ if pick => {
                    let specials = [
                        0.0,
                        -0.0,
                        1.0,
                        -1.0,
                        f64::INFINITY,
                        f64::NEG_INFINITY,
                        f64::NAN,
                        1e-40,
                        -1e-320,
                        1e300,
                    ];
                    Scalar::Float(dtype.round(specials[(rng.bits() % 10) as usize]))
                }
                _ => {
                    let scale = [1.0, 1.0, 10.0, 100.0, 1e-3, 1e6][(rng.bits() % 6) as usize];
                    Scalar::Float(dtype.round(rng.unit() * scale))
                }
            }
        })
        .collect()
}
