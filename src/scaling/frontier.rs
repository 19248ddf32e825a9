//! What to buy: the size and data that a training budget is best spent on.
//!
//! For `L(N,D) = E + A N^-a + B D^-b` and a cost `C = kappa N D` the optimum is closed (Hoffmann et al.
//! 2022, equation 4): `N_opt = G (C/kappa)^(b/(a+b))`, `D_opt = (C/kappa)^(a/(a+b)) / G` with
//! `G = (aA / (bB))^(1/(a+b))`. For `L = [(A/N)^p + B/D]^b + E` with p = a/b setting the derivative along the
//! budget to zero gives `N_opt = (p A^p C / (B kappa))^(1/(1+p))`, with the same exponents. kappa is 6 FLOPs per
//! parameter and token for full training.

use serde::Serialize;

use super::bootstrap::{Bootstrap, Interval};
use super::fit::Fit;
use super::laws::Law;

/// The best split of one budget.
#[derive(Clone, Debug, Serialize)]
pub struct Allocation {
    /// Training budget C in FLOPs.
    pub flops: f64,
    /// Best model size, in the unit of N.
    pub params: Interval,
    /// Best amount of data, in the unit of D.
    pub data: Interval,
    /// Value of the law there.
    pub loss: Interval,
    /// True if the budget lies within those measured; beyond them the law is extrapolated.
    pub measured: bool,
}

/// The compute-optimal frontier of a fit in size and data.
#[derive(Clone, Debug, Serialize)]
pub struct Frontier {
    /// FLOPs per unit of N and unit of D.
    pub kappa: f64,
    /// Exponent b/(a+b) of C in N_opt.
    pub size_exponent: Interval,
    /// Exponent a/(a+b) of C in D_opt.
    pub data_exponent: Interval,
    /// The best split at every budget asked for.
    pub allocations: Vec<Allocation>,
}

/// (N_opt, D_opt) of `law` (Chinchilla or joint) with natural parameters `[A, a, B, b, E]` at budget `flops`.
pub fn optimum(law: Law, params: &[f64], kappa: f64, flops: f64) -> (f64, f64) {
    let (big_a, a, big_b, b) = (params[0], params[1], params[2], params[3]);
    let budget = flops / kappa;
    if law == Law::Joint {
        let p = a / b;
        let size = (p * big_a.powf(p) * budget / big_b).powf(1.0 / (1.0 + p));
        return (size, budget / size);
    }
    let g = (a * big_a / (b * big_b)).powf(1.0 / (a + b));
    (g * budget.powf(b / (a + b)), budget.powf(a / (a + b)) / g)
}

/// The frontier of `fit` at the budgets, or `None` unless the law is Chinchilla's or the joint one with positive
/// exponents.
///
/// `measured` is the range of budgets (in FLOPs) the fit was made from.
pub fn frontier(
    fit: &Fit,
    replicates: &Bootstrap,
    kappa: f64,
    budgets: &[f64],
    measured: [f64; 2],
) -> Option<Frontier> {
    let law = fit.law;
    let has_one = matches!(law, Law::Chinchilla | Law::Joint);
    if !has_one || fit.params[1] <= 0.0 || fit.params[3] <= 0.0 {
        return None;
    }
    let of = |statistic: &dyn Fn(&[f64]) -> f64| {
        let natural = |theta: &[f64]| statistic(&law.natural(theta));
        replicates.interval(statistic(&fit.params), natural)
    };
    let loss = |params: &[f64], flops: f64| {
        let (size, data) = optimum(law, params, kappa, flops);
        law.value(&law.theta(params), &[size, data])
    };
    Some(Frontier {
        kappa,
        size_exponent: of(&|p| p[3] / (p[1] + p[3])),
        data_exponent: of(&|p| p[1] / (p[1] + p[3])),
        allocations: budgets
            .iter()
            .map(|&flops| Allocation {
                flops,
                params: of(&|p| optimum(law, p, kappa, flops).0),
                data: of(&|p| optimum(law, p, kappa, flops).1),
                loss: of(&|p| loss(p, flops)),
                measured: (measured[0]..=measured[1]).contains(&flops),
            })
            .collect(),
    })
}

/// Value of the law along `C = kappa N D = flops` at the sizes: an iso-FLOP slice.
pub fn iso_flop_slice(fit: &Fit, kappa: f64, flops: f64, sizes: &[f64]) -> Vec<(f64, f64)> {
    sizes
        .iter()
        .map(|&size| (size, fit.predict(&[size, flops / (kappa * size)])))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::bootstrap::{BootstrapOptions, bootstrap};
    use super::super::fit::tests::{example, noisy, planted};
    use super::super::fit::{FitOptions, fit};
    use super::super::starts::geometric;
    use super::*;

    #[test]
    fn the_closed_form_is_the_minimum_of_a_search() {
        for (law, flops) in [(Law::Chinchilla, 5.76e23), (Law::Joint, 1e16)] {
            let params = example(law);
            let theta = law.theta(&params);
            let (size, data) = optimum(law, &params, 6.0, flops);
            assert!((6.0 * size * data / flops - 1.0).abs() < 1e-12);
            let best = geometric(0.2 * size, 5.0 * size, 2001)
                .into_iter()
                .min_by(|&x, &y| {
                    let loss = |n: f64| law.value(&theta, &[n, flops / (6.0 * n)]);
                    loss(x).total_cmp(&loss(y))
                })
                .unwrap();
            assert!((best / size - 1.0).abs() < 2e-3, "{law:?} {best} {size}");
            if law == Law::Chinchilla {
                // Besiroglu et al. 2024: about 20 tokens a parameter at Chinchilla's budget.
                assert!((15.0..30.0).contains(&(data / size)), "{}", data / size);
            }
        }
    }

    #[test]
    fn the_frontier_has_intervals_around_the_truth() {
        let planted_params = example(Law::Chinchilla);
        let rows = noisy(&planted(Law::Chinchilla, &planted_params), 0.005, 8);
        let fit = fit(Law::Chinchilla, &rows, &FitOptions { starts: 60 }).unwrap();
        let options = BootstrapOptions {
            replicates: 200,
            ..Default::default()
        };
        let replicates = bootstrap(&fit, &rows, &options).unwrap();
        let result = frontier(&fit, &replicates, 6.0, &[1e15, 1e25], [1e10, 1e18]).unwrap();
        let exponent = result.size_exponent;
        assert!((exponent.estimate + result.data_exponent.estimate - 1.0).abs() < 1e-12);
        let truth = 0.36717 / (0.34731 + 0.36717);
        assert!(
            (exponent.estimate - truth).abs() < 4.0 * exponent.std_error,
            "{exponent:?}"
        );
        let best = &result.allocations[0];
        assert!(
            best.params.bca[0] < best.params.estimate && best.params.estimate < best.params.bca[1]
        );
        assert!(best.measured && !result.allocations[1].measured);
        let slice = iso_flop_slice(
            &fit,
            6.0,
            1e15,
            &[best.params.estimate * 0.5, best.params.estimate],
        );
        assert!(slice[1].1 < slice[0].1 && (slice[1].1 / best.loss.estimate - 1.0).abs() < 1e-9);
    }
}
