//! The normal distribution: all that bias-corrected intervals need.

/// Probability that a standard normal variable is below `z`.
///
/// Taylor series around zero (Marsaglia 2004); exact to rounding for |z| < 6, 0 or 1 beyond 9.
pub(super) fn cdf(z: f64) -> f64 {
    if z.abs() > 9.0 {
        return if z > 0.0 { 1.0 } else { 0.0 };
    }
    let (mut term, mut sum, mut i) = (z, z, 1.0);
    while sum != sum + term {
        i += 2.0;
        term *= z * z / i;
        sum += term;
    }
    (0.5 + sum * (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt()).clamp(0.0, 1.0)
}

/// The z below which a standard normal variable falls with probability `p`; within [-9, 9].
pub(super) fn quantile(p: f64) -> f64 {
    let (mut low, mut high) = (-9.0, 9.0);
    while high - low > 1e-12 {
        let middle = 0.5 * (low + high);
        if cdf(middle) < p {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_points() {
        assert_eq!(cdf(0.0), 0.5);
        assert!((cdf(1.959963984540054) - 0.975).abs() < 1e-14);
        assert!((cdf(-3.0) - 0.0013498980316300945).abs() < 1e-14);
        assert!((quantile(0.975) - 1.959963984540054).abs() < 1e-10);
        assert!((quantile(0.5)).abs() < 1e-10);
        assert!((quantile(0.0) + 9.0).abs() < 1e-9);
    }
}
