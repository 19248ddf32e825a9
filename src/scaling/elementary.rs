//! Exponential and logarithm without branches or calls, so that loops over points become vector loops.
//!
//! Reduced arguments and Taylor series of exact coefficients; no fused multiply-add, so that every register
//! width computes the same bits. Both differ from the exact value by less than two units in the last place.

use std::f64::consts::{LN_2, LOG2_E, SQRT_2};

/// Adding and subtracting it rounds to an integer, which then stands in the lowest bits.
const ROUND: f64 = 1.5 * (1u64 << 52) as f64;
/// ln 2 with its last 21 bits cleared: the product with an exponent is exact.
const LN_2_HIGH: f64 = f64::from_bits(LN_2.to_bits() & !0x1f_ffff);
/// What [`LN_2_HIGH`] lacks, to the 106th bit of ln 2.
const LN_2_LOW: f64 = (LN_2 - LN_2_HIGH) + 2.319_046_813_846_299_6e-17;

/// 1/2!, 1/3!, .., 1/13!.
const EXP: [f64; 12] = {
    let mut coefficients = [0.5; 12];
    let mut i = 1;
    while i < 12 {
        coefficients[i] = coefficients[i - 1] / (i + 2) as f64;
        i += 1;
    }
    coefficients
};
/// 2/3, 2/5, .., 2/21, and zeros.
const ARTANH: [f64; 12] = {
    let mut coefficients = [0.0; 12];
    let mut i = 0;
    while i < 10 {
        coefficients[i] = 2.0 / (2 * i + 3) as f64;
        i += 1;
    }
    coefficients
};

/// The sum of `c[i] x^i`, by halves of halves, which can be computed side by side (Estrin).
#[inline(always)]
fn polynomial(x: f64, c: &[f64; 12]) -> f64 {
    let (x2, x4) = (x * x, (x * x) * (x * x));
    let low = (c[0] + c[1] * x) + (c[2] + c[3] * x) * x2;
    let middle = (c[4] + c[5] * x) + (c[6] + c[7] * x) * x2;
    let high = (c[8] + c[9] * x) + (c[10] + c[11] * x) * x2;
    low + (middle + high * x4) * x4
}

/// e^x; zero below -708, where the result would be subnormal, infinite above 709.
#[inline(always)]
pub(super) fn exp(x: f64) -> f64 {
    let rounded = x * LOG2_E + ROUND;
    let k = rounded - ROUND;
    let r = (x - k * LN_2_HIGH) - k * LN_2_LOW;
    // 1 + r + r^2 / 2! + .. + r^13 / 13!, |r| <= ln 2 / 2: the rest is below 2^-57.
    let power = 1.0 + (r + r * r * polynomial(r, &EXP));
    let scale = f64::from_bits((rounded.to_bits() << 52).wrapping_add(1.0_f64.to_bits()));
    let value = if x < -708.0 { 0.0 } else { power * scale };
    if x > 709.0 { f64::INFINITY } else { value }
}

/// ln x of a positive, normal, finite x.
#[inline(always)]
pub(super) fn ln(x: f64) -> f64 {
    const MANTISSA: u64 = (1 << 52) - 1;
    const LOW: u64 = (0.5 * SQRT_2).to_bits();
    // x = 2^k m with sqrt(1/2) <= m < sqrt(2).
    let shifted = x.to_bits().wrapping_add(1.0_f64.to_bits() - LOW);
    let m = f64::from_bits((shifted & MANTISSA) + LOW);
    let two_52 = (1u64 << 52) as f64;
    let k = f64::from_bits((shifted >> 52) | two_52.to_bits()) - (two_52 + 1023.0);
    // ln m = 2 artanh s = 2 s + s R with s = f / (2 + f), where 2 s = f - s f.
    let f = m - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let half = 0.5 * f * f;
    let bits = s * (half + z * polynomial(z, &ARTANH));
    k * LN_2_HIGH - ((half - (bits + k * LN_2_LOW)) - f)
}

/// ln(1 + x) of x >= 0, exact for small x too.
#[inline(always)]
pub(super) fn ln_1p(x: f64) -> f64 {
    let sum = 1.0 + x;
    ln(sum) + (x - (sum - 1.0)) / sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::stream;
    use rand::RngExt;

    /// |found - exact| in units of the last place of `exact`.
    fn ulps(found: f64, exact: f64) -> f64 {
        (found - exact).abs() / (exact.abs().next_up() - exact.abs())
    }

    #[test]
    fn both_agree_with_the_standard_library() {
        let mut rng = stream(1, "elementary", &[]);
        let (mut exp_off, mut ln_off, mut ln_1p_off) = (0.0_f64, 0.0_f64, 0.0_f64);
        for _ in 0..200_000 {
            let near = rng.random::<f64>() * 2.0 - 1.0;
            for x in [near, 40.0 * near, 707.0 * near, 1e-9 * near] {
                exp_off = exp_off.max(ulps(exp(x), x.exp()));
            }
            for x in [
                1.0 + 0.4 * near,
                2.0 + near,
                (300.0 * near).exp(),
                1.0 + 1e-6 * near,
            ] {
                ln_off = ln_off.max(ulps(ln(x), x.ln()));
            }
            for x in [near.abs(), 1e-3 * near.abs(), 1e-12 * near.abs()] {
                ln_1p_off = ln_1p_off.max(ulps(ln_1p(x), x.ln_1p()));
            }
        }
        println!("{exp_off} {ln_off} {ln_1p_off}");
        assert!(exp_off <= 2.0 && ln_off <= 2.0 && ln_1p_off <= 3.0);
    }

    #[test]
    fn the_ends_are_exact() {
        assert_eq!((exp(0.0), ln(1.0), ln_1p(0.0)), (1.0, 0.0, 0.0));
        assert_eq!((exp(-709.0), exp(f64::NEG_INFINITY)), (0.0, 0.0));
        assert_eq!(
            (exp(710.0), exp(f64::INFINITY)),
            (f64::INFINITY, f64::INFINITY)
        );
        assert!(exp(f64::NAN).is_nan());
        assert!((LN_2_HIGH + LN_2_LOW - LN_2).abs() < 1e-17);
    }
}
