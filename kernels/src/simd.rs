//! Loops compiled once per vector width, the width chosen at run time.
//!
//! The bodies are plain Rust over slices; the compiler vectorises them for the instruction set of
//! the copy that is called. Sums go through [`LANES`] partial sums whose number does not depend on
//! the width, so every processor with fused multiply-add computes the same bits.

/// Partial sums kept by every reduction: one 512-bit register of f32.
pub(crate) const LANES: usize = 16;

/// Elements handled by one thread at a time in element-wise loops (64 KiB per operand).
pub(crate) const BLOCK: usize = 16 * 1024;

/// Widest instruction set found on this processor.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    /// AVX-512F, with AVX2 and fused multiply-add.
    Avx512,
    /// AVX2 with fused multiply-add.
    Avx2,
    /// Whatever the compilation target guarantees.
    Baseline,
}

/// The width used by every vectorised function; detection is cached by the standard library.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn width() -> Width {
    let fma = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    if fma && is_x86_feature_detected!("avx512f") {
        Width::Avx512
    } else if fma {
        Width::Avx2
    } else {
        Width::Baseline
    }
}

/// Defines a function whose body is compiled for each [`Width`] and called through the widest.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx2,fma")]
                    fn avx512($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                    fn avx2($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                match $crate::simd::width() {
                    // SAFETY: `width` answers this only where AVX-512F, AVX2 and FMA were detected.
                    $crate::simd::Width::Avx512 => unsafe { avx512($($arg),*) },
                    // SAFETY: `width` answers this only where AVX2 and FMA were detected.
                    $crate::simd::Width::Avx2 => unsafe { avx2($($arg),*) },
                    $crate::simd::Width::Baseline => body($($arg),*),
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            body($($arg),*)
        }
    };
}
pub(crate) use vectorised;

/// `e^x` within 2 units in the last place for `x` in [-87, 88], saturated outside; NaN stays NaN.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`, then a polynomial of degree 6 in `r` (coefficients of
/// Cephes `expf`) and `n` added to the exponent bits.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // 1.5 * 2^23: adding it rounds to an integer that stands in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN_2_HIGH, x);
    let r = n.mul_add(-LN_2_LOW, r);
    let p = 1.987_569_1e-4_f32;
    let p = p.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 0.5);
    let p = p.mul_add(r * r, r + 1.0);
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    p * power
}

/// The sum of all lanes, by halves: lane `i` plus lane `i + 8`, then `i + 4`, and so on.
#[inline(always)]
pub(crate) fn add_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Sum of `term(i)` over `0..len`, in [`LANES`] interleaved partial sums, see [`add_lanes`].
#[inline(always)]
pub(crate) fn lane_sum(len: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let whole = len / LANES * LANES;
    let mut start = 0;
    while start < whole {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(start + lane);
        }
        start += LANES;
    }
    let mut total = add_lanes(lanes);
    for index in whole..len {
        total += term(index);
    }
    total
}

/// Dot product of two slices of equal length.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let a = &a[..b.len()];
    let mut lanes = [0.0_f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (x, y) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] = x[lane].mul_add(y[lane], lanes[lane]);
        }
    }
    let mut total = add_lanes(lanes);
    for (x, y) in a_rest.iter().zip(b_rest) {
        total = x.mul_add(*y, total);
    }
    total
}

/// Distance below the maximum from which [`exp_row`] gives zero: `e^-46` is 1e-20, far below the
/// precision of a sum that holds `e^0`.
const NEGLIGIBLE: f32 = -46.0;

/// Replaces a row by `exp(row - max)` and gives the maximum and the sum of the new values.
///
/// Values below 1e-20 become zero. Left alone, they would turn into subnormal numbers in the
/// products that follow, which processors handle a hundred times slower. A NaN anywhere makes the
/// sum NaN.
#[inline(always)]
pub(crate) fn exp_row(row: &mut [f32]) -> (f32, f32) {
    let mut lanes = [f32::MIN; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] = if chunk[lane] > lanes[lane] {
                chunk[lane]
            } else {
                lanes[lane]
            };
        }
    }
    let max = lanes
        .iter()
        .chain(rest)
        .fold(f32::MIN, |max, &x| if x > max { x } else { max });
    let mut sums = [0.0_f32; LANES];
    let (chunks, rest) = row.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            let e = share(chunk[lane] - max);
            chunk[lane] = e;
            sums[lane] += e;
        }
    }
    let mut sum = add_lanes(sums);
    for x in rest {
        *x = share(*x - max);
        sum += *x;
    }
    (max, sum)
}

#[inline(always)]
pub(crate) fn share(below_max: f32) -> f32 {
    if below_max < NEGLIGIBLE {
        0.0
    } else {
        exp(below_max)
    }
}

/// Multiplies every element by `factor`.
#[inline(always)]
pub(crate) fn scale(row: &mut [f32], factor: f32) {
    for x in row {
        *x *= factor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    vectorised! {
        fn exp_all(x: &mut [f32]) {
            for x in x {
                *x = exp(*x);
            }
        }
    }

    #[test]
    fn exp_is_close_everywhere_and_exact_at_zero() {
        assert_eq!(exp(0.0), 1.0);
        let inputs: Vec<f32> = (-86_000..87_000).map(|i| i as f32 / 1000.0).collect();
        let mut outputs = inputs.clone();
        exp_all(&mut outputs);
        for (x, y) in inputs.iter().zip(&outputs) {
            let exact = f64::from(*x).exp();
            let error = (f64::from(*y) - exact).abs() / exact;
            assert!(error < 3e-7, "exp({x}) = {y}, expected {exact}");
        }
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(-1e30) < 1e-37);
        assert!(exp(1e30).is_finite());
    }

    #[test]
    fn exp_row_sums_and_keeps_nan() {
        let mut row = vec![0.0, 2.0_f32.ln(), 3.0_f32.ln()];
        let (max, sum) = exp_row(&mut row);
        assert!((max - 3.0_f32.ln()).abs() < 1e-7);
        assert!((sum - 2.0).abs() < 1e-6);
        let mut row = vec![-45.0; 40];
        row[7] = 0.0;
        row[8] = -47.0;
        exp_row(&mut row);
        assert!(row[6] > 1e-20 && row[8] == 0.0);
        let mut row = vec![f32::NAN; 40];
        assert!(exp_row(&mut row).1.is_nan());
    }

    #[test]
    fn sums_cover_every_length() {
        for len in [0, 1, 15, 16, 17, 33] {
            let a: Vec<f32> = (0..len).map(|i| i as f32).collect();
            let expected = (0..len).map(|i| (i * i) as f32).sum::<f32>();
            assert_eq!(dot(&a, &a), expected);
            assert_eq!(lane_sum(len, |i| a[i] * a[i]), expected);
        }
    }
}
