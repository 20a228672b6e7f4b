//! Random numbers by counting: Threefry, and random inputs drawn with it.
//!
//! In: a seed, a name, a [`Domain`]. Out: a tensor that depends on nothing else: not on the order of inputs, the machine or
//! the clock. Assumes nothing about dtype; does not look at values.

use super::Domain;
use super::eval::{Data, Tensor};
use crate::dtype::DType;

/// Threefry-2x32 with 20 rounds: two random words for each `key` and `counter` (Salmon et al. 2011, "Parallel random
/// numbers: as easy as 1, 2, 3", section 4.2).
pub fn threefry(key: [u32; 2], counter: [u32; 2]) -> [u32; 2] {
    const ROTATIONS: [[u32; 4]; 2] = [[13, 15, 26, 6], [17, 29, 16, 24]];
    const PARITY: u32 = 0x1bd1_1bda;
    let keys = [key[0], key[1], PARITY ^ key[0] ^ key[1]];
    let [mut a, mut b] = [counter[0].wrapping_add(keys[0]), counter[1].wrapping_add(keys[1])];
    for group in 0..5 {
        for rotation in ROTATIONS[group % 2] {
            a = a.wrapping_add(b);
            b = b.rotate_left(rotation) ^ a;
        }
        let next = group + 1;
        a = a.wrapping_add(keys[next % 3]);
        b = b.wrapping_add(keys[(next + 1) % 3]).wrapping_add(next as u32);
    }
    [a, b]
}

/// The counter of element `idx`: its low and its high word.
pub fn counter(idx: u64) -> [u32; 2] {
    [idx as u32, (idx >> 32) as u32]
}

/// A random tensor of `shape` for the input `name`: elements of `domain`, rounded to `dtype`.
///
/// Integers are rounded to nearest, and bool is true above the middle of the domain.
///
/// Errors: a shape that is too large.
pub fn random_input(
    seed: u64,
    name: &str,
    domain: Domain,
    dtype: DType,
    shape: &[usize],
) -> Result<Tensor, String> {
    let count = super::eval::n_elems(shape)?;
    // The name decides the stream, so that adding an input changes no other.
    let key = threefry(counter(seed), counter(fnv1a(name)));
    let values = match domain {
        Domain::Normal { mean, std } => (0..count).map(|idx| mean + std * normal(key, idx as u64)).collect(),
        Domain::Uniform { lo, hi } => {
            (0..count).map(|idx| lo + (hi - lo) * uniform(key, idx as u64)).collect()
        }
        Domain::Ball { lo, hi } => ball(key, lo, hi, count, shape.last().copied().unwrap_or(1)),
    };
    let middle = match domain {
        Domain::Normal { mean, .. } => mean,
        Domain::Uniform { lo, hi } | Domain::Ball { lo, hi } => (lo + hi) / 2.0,
    };
    let data = match dtype {
        DType::Bool => Data::Bool(values.iter().map(|value| *value > middle).collect()),
        DType::I64 => Data::Int(values.iter().map(|value| value.round() as i64).collect()),
        DType::I32 => Data::Int(values.iter().map(|value| i64::from(value.round() as i32)).collect()),
        float => Data::Float(values.iter().map(|value| float.round(*value)).collect()),
    };
    Tensor::new(dtype, shape.to_vec(), data)
}

/// A number of `[0, 1)` with 32 bits.
fn uniform(key: [u32; 2], idx: u64) -> f64 {
    f64::from(threefry(key, counter(idx))[0]) / 2f64.powi(32)
}

/// A standard normal number (Box and Muller 1958). The half keeps the logarithm finite.
fn normal(key: [u32; 2], idx: u64) -> f64 {
    let [a, b] = threefry(key, counter(idx));
    let radius = (-2.0 * libm::log((f64::from(a) + 0.5) / 2f64.powi(32))).sqrt();
    radius * libm::cos(2.0 * std::f64::consts::PI * f64::from(b) / 2f64.powi(32))
}

/// Rows of `width` numbers: a normal direction, and a norm of `lo .. hi`.
fn ball(key: [u32; 2], lo: f64, hi: f64, count: usize, width: usize) -> Vec<f64> {
    let mut values: Vec<f64> = (0..count).map(|idx| normal(key, idx as u64)).collect();
    // The norms come from a key of their own.
    let norm_key = threefry(key, [u32::MAX, u32::MAX]);
    for (row_idx, row) in values.chunks_mut(width.max(1)).enumerate() {
        let size = row.iter().map(|value| value * value).sum::<f64>().sqrt();
        let target = lo + (hi - lo) * uniform(norm_key, row_idx as u64);
        row.iter_mut().for_each(|value| *value *= target / size.max(f64::MIN_POSITIVE));
    }
    values
}

/// The FNV-1a hash of `text` (64 bits).
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known-answer vectors of Random123 (`kat_vectors`, threefry2x32, 20 rounds).
    #[test]
    fn threefry_gives_the_published_words() {
        assert_eq!(threefry([0, 0], [0, 0]), [0x6b20_0159, 0x99ba_4efe]);
        assert_eq!(threefry([u32::MAX; 2], [u32::MAX; 2]), [0x1cb9_96fc, 0xbb00_2be7]);
        let (key, counter) = ([0x1319_8a2e, 0x0370_7344], [0x243f_6a88, 0x85a3_08d3]);
        assert_eq!(threefry(key, counter), [0xc492_3a9c, 0x483d_f7a0]);
    }

    #[test]
    fn draws_have_the_moments_of_their_domain() {
        let draw = |domain| {
            let tensor = random_input(7, "x", domain, DType::F64, &[20_000]).unwrap();
            let values = tensor.to_f64s();
            let mean = values.iter().sum::<f64>() / 20_000.0;
            (mean, values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 20_000.0)
        };
        let (mean, var) = draw(Domain::Normal { mean: 1.0, std: 2.0 });
        assert!((mean - 1.0).abs() < 0.05 && (var - 4.0).abs() < 0.15, "{mean} {var}");
        let (mean, var) = draw(Domain::Uniform { lo: -1.0, hi: 3.0 });
        assert!((mean - 1.0).abs() < 0.05 && (var - 16.0 / 12.0).abs() < 0.05, "{mean} {var}");
    }

    #[test]
    fn points_lie_between_the_radii() {
        let tensor = random_input(1, "p", Domain::Ball { lo: 0.2, hi: 0.7 }, DType::F64, &[50, 3]).unwrap();
        for row in tensor.to_f64s().chunks(3) {
            let norm = row.iter().map(|value| value * value).sum::<f64>().sqrt();
            assert!((0.2 - 1e-12..0.7).contains(&norm), "{norm}");
        }
    }

    #[test]
    fn a_name_and_a_seed_choose_the_stream() {
        let draw = |seed, name| random_input(seed, name, Domain::default(), DType::F32, &[4]).unwrap();
        assert_eq!(draw(0, "x"), draw(0, "x"));
        assert_ne!(draw(0, "x"), draw(1, "x"));
        assert_ne!(draw(0, "x"), draw(0, "y"));
    }
}
