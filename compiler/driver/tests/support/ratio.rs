//! A small spec.

/// A function of two inputs: `y = scale * x / sum_c(x w)`, with one open compile-time size.
pub const RATIO: &str = "\
dim n = 3
dim C
dim T in 1..=1000000 default 5
param scale = 2.0
export fn @ratio(%x: f32[T,n,C] ~ uniform(1, 2), %w: f32[C] ~ uniform(1, 2)) -> (y: f32[T,n,C]) {
  %s = contract(%x, %w) {spec=\"tnc,c->tn\", dtype=f32}
  %b = broadcast(%s) {shape=[T,n,C], axes=[0,1]}
  return y = $scale * %x / %b
}
export fn @twice(%x: f32[T,n,C]) -> (z: f32[T,n,C]) {
  return z = %x + %x
}
";
