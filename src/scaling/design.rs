//! Which runs to make: those that pin down the exponents of a law best for a budget.
//!
//! Around assumed parameters a run at inputs x adds `g g' / sigma^2` to the information about theta, where g is the
//! gradient of ln L and sigma the noise of ln L (locally optimal design, Chernoff 1953). The inverse of the
//! sum bounds the covariance; a design is as good as the relative variances of the exponents, summed
//! (c- and A-optimality), are small, or as the determinant of the information is large (D-optimality). Runs are added
//! greedily by gain per cost and by gain alone, then exchanged one for another while that helps (Fedorov
//! 1972); the better of the two ends wins. With n runs to choose from and k parameters a round costs n^2 k^3.

use serde::Serialize;

use super::buy::{cholesky, solve};
use super::laws::{Form, Law, MAX_INPUTS, fixed, with_form};

/// A run that can be made.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Inputs of the law.
    pub x: Vec<f64>,
    /// Cost in FLOPs.
    pub cost: f64,
}

/// What a design is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Criterion {
    /// The sum of the exponents' relative variances.
    Exponents,
    /// The determinant of the information: the volume of the confidence region of all parameters.
    Determinant,
}

/// Runs to make.
#[derive(Clone, Debug, Serialize)]
pub struct Design {
    /// The chosen candidates, in their order.
    pub chosen: Vec<usize>,
    /// What they cost together.
    pub cost: f64,
    /// Expected standard errors of the exponents, by name; infinite where the runs do not determine the law.
    pub std_errors: Vec<(&'static str, f64)>,
}

/// What is assumed before there is anything to fit.
#[derive(Clone, Debug)]
pub struct Assumed {
    /// The form.
    pub law: Law,
    /// Its search point.
    pub theta: Vec<f64>,
    /// Standard deviation of ln L between runs.
    pub noise: f64,
}

/// Gradients of the exponents in theta, with names and values.
fn exponents(law: Law, theta: &[f64]) -> Vec<(&'static str, f64, Vec<f64>)> {
    let unit = |i: usize| {
        let mut unit = vec![0.0; theta.len()];
        unit[i] = 1.0;
        unit
    };
    if law == Law::Joint {
        let b = theta[3].exp();
        let a = theta[1] * b;
        return vec![
            ("a", a, vec![0.0, b, 0.0, a, 0.0]),
            ("b", b, vec![0.0, 0.0, 0.0, b, 0.0]),
        ];
    }
    let names = law.param_names().iter().enumerate();
    names
        .filter(|(_, name)| ["a", "b", "g", "s", "t", "u"].contains(name))
        .map(|(i, name)| (*name, theta[i], unit(i)))
        .collect()
}

struct Problem<'a> {
    candidates: &'a [Candidate],
    gradients: Vec<Vec<f64>>,
    exponents: Vec<(&'static str, f64, Vec<f64>)>,
    noise: f64,
    criterion: Criterion,
}

impl Problem<'_> {
    fn new<'a>(
        assumed: &Assumed,
        candidates: &'a [Candidate],
        criterion: Criterion,
    ) -> Problem<'a> {
        let law = assumed.law;
        // Centred inputs keep the matrices well conditioned and change no exponent.
        let mut centre = [0.0; MAX_INPUTS];
        for candidate in candidates {
            for (c, x) in centre.iter_mut().zip(&candidate.x) {
                *c += x.ln() / candidates.len() as f64;
            }
        }
        let theta = law.recentred(&assumed.theta, &centre);
        let gradient = |candidate: &Candidate| -> Vec<f64> {
            let mut ln_x = [0.0; MAX_INPUTS];
            for ((slot, x), c) in ln_x.iter_mut().zip(&candidate.x).zip(&centre) {
                *slot = x.ln() - c;
            }
            with_form!(
                law,
                F,
                K,
                <F as Form<K>>::at(&fixed::<K>(&theta), &ln_x)
                    .gradient
                    .to_vec()
            )
        };
        Problem {
            candidates,
            gradients: candidates.iter().map(gradient).collect(),
            exponents: exponents(law, &theta),
            noise: assumed.noise,
            criterion,
        }
    }

    fn information(&self, chosen: &[usize], ridge: f64) -> Vec<Vec<f64>> {
        let k = self.gradients[0].len();
        let mut sum = vec![vec![0.0; k]; k];
        for (i, row) in sum.iter_mut().enumerate() {
            row[i] = ridge;
        }
        for &i in chosen {
            let g = &self.gradients[i];
            for r in 0..k {
                for c in 0..k {
                    sum[r][c] += g[r] * g[c];
                }
            }
        }
        sum
    }

    /// Smaller is better. A small ridge makes the first few runs comparable, which determine nothing yet.
    fn score(&self, chosen: &[usize]) -> f64 {
        let Some(lower) = cholesky(&self.information(chosen, 1e-9)) else {
            return f64::INFINITY;
        };
        match self.criterion {
            Criterion::Determinant => -(0..lower.len())
                .map(|i| 2.0 * lower[i][i].ln())
                .sum::<f64>(),
            // The logarithm makes gains comparable while the variances still fall by magnitudes.
            Criterion::Exponents => (self.exponents.iter())
                .map(|(_, value, c)| dot(c, &solve(&lower, c)) / (value * value))
                .sum::<f64>()
                .ln(),
        }
    }

    fn cost(&self, chosen: &[usize]) -> f64 {
        chosen.iter().map(|&i| self.candidates[i].cost).sum()
    }

    fn add(&self, chosen: &mut Vec<usize>, budget: f64, per_cost: bool) {
        loop {
            let (spent, here) = (self.cost(chosen), self.score(chosen));
            let gain = |i: usize| {
                let mut with = chosen.clone();
                with.push(i);
                let gain = here - self.score(&with);
                if per_cost {
                    gain / self.candidates[i].cost
                } else {
                    gain
                }
            };
            let affordable = (0..self.candidates.len())
                .filter(|i| !chosen.contains(i) && spent + self.candidates[*i].cost <= budget);
            let best = affordable
                .map(|i| (i, gain(i)))
                .filter(|(_, gain)| *gain > 0.0)
                .max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)));
            match best {
                Some((i, _)) => chosen.push(i),
                None => break,
            }
        }
    }

    fn exchange(&self, chosen: &mut Vec<usize>, budget: f64) {
        // Every exchange lowers the score, so that this ends.
        'again: loop {
            let here = self.score(chosen);
            let spent = self.cost(chosen);
            for place in 0..chosen.len() {
                let old = chosen[place];
                for new in 0..self.candidates.len() {
                    let change = self.candidates[new].cost - self.candidates[old].cost;
                    if chosen.contains(&new) || spent + change > budget {
                        continue;
                    }
                    chosen[place] = new;
                    if self.score(chosen) < here - 1e-9 {
                        self.add(chosen, budget, false);
                        continue 'again;
                    }
                    chosen[place] = old;
                }
            }
            break;
        }
    }

    fn describe(&self, mut chosen: Vec<usize>) -> Design {
        chosen.sort_unstable();
        let lower = cholesky(&self.information(&chosen, 0.0));
        let error = |c: &Vec<f64>| {
            lower.as_ref().map_or(f64::INFINITY, |lower| {
                self.noise * dot(c, &solve(lower, c)).sqrt()
            })
        };
        Design {
            cost: self.cost(&chosen),
            std_errors: (self.exponents.iter())
                .map(|(name, _, c)| (*name, error(c)))
                .collect(),
            chosen,
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The candidates that are best made for `budget`; every candidate is one run and made at most once.
pub fn design(
    assumed: &Assumed,
    candidates: &[Candidate],
    budget: f64,
    criterion: Criterion,
) -> Design {
    let problem = Problem::new(assumed, candidates, criterion);
    let ends = [true, false].map(|per_cost| {
        let mut chosen = vec![];
        problem.add(&mut chosen, budget, per_cost);
        problem.exchange(&mut chosen, budget);
        chosen
    });
    let [first, second] = ends;
    let better = if problem.score(&second) < problem.score(&first) {
        second
    } else {
        first
    };
    problem.describe(better)
}

/// What all of the candidates together would give.
pub fn whole(assumed: &Assumed, candidates: &[Candidate]) -> Design {
    let all = (0..candidates.len()).collect();
    Problem::new(assumed, candidates, Criterion::Exponents).describe(all)
}

/// Parameters to assume of `law` (Chinchilla or power) when nothing is known: exponents 0.35 (Besiroglu et al.
/// 2024), and at the centre of the candidates every term and the floor an equal part of 1.
pub fn guess(law: Law, candidates: &[Candidate]) -> Vec<f64> {
    let terms = law.num_inputs();
    let part = 1.0 / (terms as f64 + 1.0);
    let mut natural = vec![];
    for input in 0..terms {
        let logs = candidates.iter().map(|c| c.x[input].ln());
        let centre = logs.sum::<f64>() / candidates.len() as f64;
        let exponent = 0.35;
        natural.extend([(part.ln() + exponent * centre).exp(), exponent]);
    }
    natural.push(part);
    match law {
        // Its scale is in units of x.
        Law::Power => natural[0] = natural[0].powf(1.0 / natural[1]),
        Law::PowerFree => {
            natural = vec![natural[0].powf(1.0 / natural[1]), natural[1]];
        }
        _ => {}
    }
    law.theta(&natural)
}

#[cfg(test)]
mod tests {
    use super::super::starts::geometric;
    use super::*;

    fn line(copies: usize) -> Vec<Candidate> {
        let points = geometric(1.0, 1e4, 5);
        (0..copies)
            .flat_map(|_| points.iter())
            .map(|&x| Candidate {
                x: vec![x],
                cost: 1.0,
            })
            .collect()
    }

    fn assumed(law: Law, candidates: &[Candidate]) -> Assumed {
        Assumed {
            law,
            theta: guess(law, candidates),
            noise: 0.1,
        }
    }

    #[test]
    fn a_straight_line_is_measured_at_its_ends() {
        // ln L is linear in ln x: half of the runs at either end; slope variance sigma^2 / sum (x - mean)^2.
        let candidates = line(2);
        let assumed = assumed(Law::PowerFree, &candidates);
        for criterion in [Criterion::Exponents, Criterion::Determinant] {
            let found = design(&assumed, &candidates, 4.0, criterion);
            assert_eq!(found.chosen, [0, 4, 5, 9], "{criterion:?}");
            let spread = 4.0 * (0.5 * 1e4_f64.ln()).powi(2);
            let (name, error) = found.std_errors[0];
            assert!(
                name == "a" && (error - 0.1 / spread.sqrt()).abs() < 1e-9,
                "{error}"
            );
        }
        let few = design(&assumed, &candidates, 1.0, Criterion::Exponents);
        assert!(few.chosen.len() == 1 && few.std_errors[0].1.is_infinite());
    }

    #[test]
    fn no_other_choice_of_that_cost_is_better() {
        // Twelve cells of a joint law, dear ones a hundred times the cheap: all 4,096 choices are tried.
        let mut candidates = vec![];
        for n in geometric(1e4, 1e6, 4) {
            for d in geometric(1e3, 4e3, 3) {
                candidates.push(Candidate {
                    x: vec![n, d],
                    cost: n * d,
                });
            }
        }
        let assumed = assumed(Law::Chinchilla, &candidates);
        let all: f64 = candidates.iter().map(|c| c.cost).sum();
        for share in [0.1, 0.3, 0.6] {
            let budget = share * all;
            let problem = Problem::new(&assumed, &candidates, Criterion::Exponents);
            let best = (1..1usize << 12)
                .map(|set| (0..12).filter(|i| set >> i & 1 == 1).collect::<Vec<_>>())
                .filter(|set| set.len() >= 5 && problem.cost(set) <= budget)
                .map(|set| problem.score(&set))
                .fold(f64::INFINITY, f64::min);
            let found = design(&assumed, &candidates, budget, Criterion::Exponents);
            assert!(found.cost <= budget);
            // Greedy exchange is not the optimum by right: within five per cent of its variance.
            let score = problem.score(&found.chosen);
            assert!(score <= best + 0.05, "{share}: {score} {best}");
        }
        let everything = whole(&assumed, &candidates);
        assert_eq!(everything.chosen.len(), 12);
        assert!(everything.std_errors.iter().all(|(_, e)| e.is_finite()));
    }
}
