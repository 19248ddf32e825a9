//! The normal distribution and Student's t: all that bias-corrected intervals need.

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

/// The t below which Student's variable of `freedom` degrees of freedom (at least 1) falls with probability
/// `p`; within [-1e6, 1e6].
pub(super) fn student_quantile(p: f64, freedom: f64) -> f64 {
    if p == 0.5 {
        return 0.0;
    }
    let (mut low, mut high) = (-1e6_f64, 1e6_f64);
    while high - low > 1e-10 * (1.0 + high.abs().min(low.abs())) {
        let middle = 0.5 * (low + high);
        if student_cdf(middle, freedom) < p {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

/// Probability that Student's variable is below `t`: by the regularised incomplete beta function
/// `I_x(freedom/2, 1/2)` at `x = freedom / (freedom + t^2)`.
fn student_cdf(t: f64, freedom: f64) -> f64 {
    let x = freedom / (freedom + t * t);
    let tail = 0.5 * incomplete_beta(0.5 * freedom, 0.5, x);
    if t > 0.0 { 1.0 - tail } else { tail }
}

/// `I_x(a, b)` by its continued fraction (Lentz's method), on the side where it converges fast.
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(b, a, 1.0 - x);
    }
    let front =
        (a * x.ln() + b * (1.0 - x).ln() + ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b)).exp() / a;
    let tiny = 1e-300_f64;
    let (mut c, mut d) = (1.0_f64, 1.0 - (a + b) * x / (a + 1.0));
    d = 1.0 / if d.abs() < tiny { tiny } else { d };
    let mut value = d;
    for m in 1..500 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let before = value;
        for term in [even, odd] {
            d = 1.0 + term * d;
            d = 1.0 / if d.abs() < tiny { tiny } else { d };
            c = 1.0 + term / c;
            if c.abs() < tiny {
                c = tiny;
            }
            value *= c * d;
        }
        if (value / before - 1.0).abs() < 1e-15 {
            break;
        }
    }
    front * value
}

/// Logarithm of the gamma function for x > 0, by Stirling's series above 10.
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut shift) = (x, 0.0);
    while x < 10.0 {
        shift -= x.ln();
        x += 1.0;
    }
    let (r, r2) = (1.0 / x, 1.0 / (x * x));
    let series = r * (1.0 / 12.0 - r2 * (1.0 / 360.0 - r2 * (1.0 / 1260.0 - r2 / 1680.0)));
    shift + (x - 0.5) * x.ln() - x + 0.5 * std::f64::consts::TAU.ln() + series
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

    #[test]
    fn student_at_known_points() {
        // Tables of the t distribution.
        for (p, freedom, t) in [
            (0.975, 1.0, 12.706_205),
            (0.975, 7.0, 2.364_624),
            (0.95, 30.0, 1.697_261),
            (0.025, 7.0, -2.364_624),
        ] {
            assert!(
                (student_quantile(p, freedom) - t).abs() < 1e-5,
                "{p} {freedom}"
            );
        }
        assert!((student_quantile(0.975, 1e7) - quantile(0.975)).abs() < 1e-5);
        assert!((ln_gamma(0.5) - std::f64::consts::PI.sqrt().ln()).abs() < 1e-11);
        assert!((ln_gamma(5.0) - 24f64.ln()).abs() < 1e-11);
    }
}
