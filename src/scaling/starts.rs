//! Where searches begin.
//!
//! Starts are laid out so that every term of the law is alive at the centre of the data: exponents on a
//! geometric grid from 0.05 to 2, coefficients from a table of shares of the mean value. On the 240
//! points of Besiroglu et al. 2024 all of such starts reach the global minimum, against two thirds of
//! the starts of Hoffmann et al. (coefficients from e^0 to e^25, where one term often drowns the others).

use super::laws::Law;

/// `count` values from `low` to `high`, evenly spaced in the logarithm.
pub(super) fn geometric(low: f64, high: f64, count: usize) -> Vec<f64> {
    let step = (high / low).ln() / (count.max(2) - 1) as f64;
    (0..count).map(|i| low * (step * i as f64).exp()).collect()
}

/// Shares of the mean value that the terms of a sum start with; the floor's share comes last.
fn shares(terms: usize) -> Vec<Vec<f64>> {
    if terms == 1 {
        return [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98]
            .map(|floor| vec![1.0 - floor, floor])
            .into();
    }
    let parts = terms + 1;
    let mut all = vec![vec![1.0 / parts as f64; parts]];
    let spread = |large: &[usize]| {
        let small = 0.1;
        let rest = (1.0 - small * (parts - large.len()) as f64) / large.len() as f64;
        (0..parts)
            .map(|i| if large.contains(&i) { rest } else { small })
            .collect()
    };
    for first in 0..parts {
        all.push(spread(&[first]));
        for second in first + 1..parts {
            all.push(spread(&[first, second]));
        }
    }
    all
}

/// Starts in centred coordinates, every term alive.
pub(super) fn start_grid(law: Law, wanted: usize, mean: f64, max: f64) -> Vec<Vec<f64>> {
    let mut starts = Vec::new();
    let per_axis = |fixed: usize, axes: usize| {
        let count = (wanted as f64 / fixed as f64)
            .powf(1.0 / axes as f64)
            .ceil() as usize;
        count.max(3)
    };
    match law {
        // Convex: Huber of a linear function.
        Law::PowerFree => starts.push(vec![mean, 0.5]),
        Law::Power | Law::Chinchilla | Law::ChinchillaBeam => {
            let terms = law.num_inputs();
            let shares = shares(terms);
            let axis = geometric(0.05, 2.0, per_axis(shares.len(), terms));
            for cell in 0..axis.len().pow(terms as u32) {
                for share in &shares {
                    let mut theta = Vec::with_capacity(2 * terms + 1);
                    let mut rest = cell;
                    for term in &share[..terms] {
                        theta.push(mean + term.ln());
                        theta.push(axis[rest % axis.len()]);
                        rest /= axis.len();
                    }
                    theta.push(mean + share[terms].ln());
                    starts.push(theta);
                }
            }
        }
        Law::Reuse => {
            // Those of the law without epochs, each with repeated data of little and of much worth.
            for start in start_grid(Law::Chinchilla, wanted.div_ceil(2), mean, max) {
                for worth in [3.0_f64, 30.0] {
                    let mut theta = start.clone();
                    theta.insert(4, worth.ln());
                    starts.push(theta);
                }
            }
        }
        Law::Joint => {
            let parts: [f64; 3] = [0.1, 0.5, 0.9];
            let count = per_axis(9, 2);
            for &ratio in &geometric(0.1, 4.0, count) {
                for &outer in &geometric(0.1, 3.0, count) {
                    for size_share in parts {
                        for floor in parts {
                            let inner = (mean + (1.0 - floor).ln()) / outer;
                            starts.push(vec![
                                inner + size_share.ln(),
                                ratio,
                                inner + (1.0 - size_share).ln(),
                                outer.ln(),
                                mean + floor.ln(),
                            ]);
                        }
                    }
                }
            }
        }
        Law::SaturatingJoint | Law::SaturatingBeam => {
            let inputs = law.num_inputs();
            let slopes = geometric(0.05, 2.0, per_axis(6, inputs).min(8));
            for ceiling in geometric(1.02, 5.0, 6) {
                let h = max + ceiling.ln();
                let share = (mean - h).exp();
                for cell in 0..slopes.len().pow(inputs as u32) {
                    let mut theta = vec![h];
                    let mut rest = cell;
                    for _ in 0..inputs {
                        theta.push(slopes[rest % slopes.len()]);
                        rest /= slopes.len();
                    }
                    theta.push((share / (1.0 - share)).ln());
                    starts.push(theta);
                }
            }
        }
        Law::Broken => {
            let parts: [f64; 3] = [0.02, 0.3, 0.8];
            let count = per_axis(27, 2);
            for &first in &geometric(0.05, 2.0, count) {
                for &second in &geometric(0.05, 2.0, count) {
                    for floor in parts {
                        // The break at the centre of the data, and towards either end.
                        for break_at in [-3.0, 0.0, 3.0] {
                            for steeper in [second, -0.8 * first] {
                                let fall = steeper * softened(-break_at);
                                starts.push(vec![
                                    mean + (1.0 - floor).ln() + fall,
                                    first,
                                    steeper,
                                    break_at,
                                    0.0,
                                    mean + floor.ln(),
                                ]);
                            }
                        }
                    }
                }
            }
        }
        Law::Saturating => {
            for ceiling in geometric(1.02, 5.0, 8) {
                let h = max + ceiling.ln();
                let share = (mean - h).exp();
                for slope in geometric(0.1, 4.0, per_axis(16, 1).min(16)) {
                    for sign in [1.0, -1.0] {
                        starts.push(vec![h, sign * slope, (share / (1.0 - share)).ln()]);
                    }
                }
            }
        }
    }
    starts
}

/// ln(1 + e^z).
fn softened(z: f64) -> f64 {
    z.max(0.0) + (-z.abs()).exp().ln_1p()
}
