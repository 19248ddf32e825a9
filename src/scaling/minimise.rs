//! The inner loop: minimise the sum of Huber losses of `ln L^ - ln L` from one start.
//!
//! A damped Newton method. Value, gradient and the pieces of the exact Hessian come from one pass over
//! the points. With delta far below the residuals the objective is almost a sum of absolute values:
//! the Hessian sees the curvature of the few points inside delta only and may be indefinite. The
//! damping therefore uses the matrix `M` of iteratively reweighted least squares, which majorises the
//! Huber loss: a step solves `(H + lambda (M + ridge)) d = -g`, so that a large lambda gives a short
//! reweighted least-squares step and a small one Newton's. Where `H` makes the matrix indefinite its
//! second-order part is left out, which always leaves a descent direction. The step is capped, since
//! a term that has died out would otherwise be moved without bound.
//!
//! Inputs are centred (their geometric mean is 1), which uncouples a coefficient from its exponent.
//! No step that raises the objective is ever taken. A search takes about 30 passes, a pass about 12 ns a point (K = 5):
//! points go through it side by side, in plain loops over columns that the compiler turns into vector loops of
//! the widest registers the processor has (hence no closures and no triangular loops there). Sums go through
//! a fixed number of partial sums and nothing is fused, so every processor computes the same bits.

// Small matrices read best by their indices.
#![allow(clippy::needless_range_loop)]

use super::laws::{Form, MAX_INPUTS, lower};

/// Width of the quadratic zone of the Huber loss, in ln L (Hoffmann et al. 2022).
pub const HUBER_DELTA: f64 = 1e-3;

/// A predicted decrease below this share of the objective ends the search.
const RELATIVE_DECREASE: f64 = 1e-13;
/// Residuals at the level of rounding: the objective cannot get smaller in f64.
const EXACT: f64 = 1e-29;
const MIN_DAMPING: f64 = 1e-7;
const MAX_DAMPING: f64 = 1e12;
/// Ridge of the damping, as a share of the mean diagonal of M.
const RIDGE: f64 = 1e-4;
/// Longest move of one parameter in one step: a factor e^2 in a coefficient, 2 in an exponent.
const LONGEST_MOVE: f64 = 2.0;

/// Points whose terms are computed side by side.
const BLOCK: usize = 16;
/// Partial sums of every sum, whatever the width of a register.
const LANES: usize = 8;

/// A value for every point of a block.
type Column = [f64; BLOCK];

/// Points ready for fitting. The last is repeated with weight zero to fill its block.
pub(super) struct LogPoints {
    blocks: Vec<Points>,
}

struct Points {
    /// Centred logarithms of the inputs.
    ln_x: [Column; MAX_INPUTS],
    /// Logarithms of the value.
    ln_y: Column,
    weights: Column,
}

impl LogPoints {
    /// The points of positive weight, in order.
    pub fn new(ln_x: &[[f64; MAX_INPUTS]], ln_y: &[f64], weights: &[f64]) -> LogPoints {
        let chosen: Vec<usize> = (0..weights.len()).filter(|&i| weights[i] > 0.0).collect();
        let block = |chosen: &[usize]| {
            let at = |i: usize| chosen[i.min(chosen.len() - 1)];
            Points {
                ln_x: std::array::from_fn(|input| std::array::from_fn(|i| ln_x[at(i)][input])),
                ln_y: std::array::from_fn(|i| ln_y[at(i)]),
                weights: std::array::from_fn(|i| chosen.get(i).map_or(0.0, |&i| weights[i])),
            }
        };
        LogPoints {
            blocks: chosen.chunks(BLOCK).map(block).collect(),
        }
    }
}

/// Where a search ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Minimum<const K: usize> {
    pub theta: [f64; K],
    pub value: f64,
    /// Euclidean norm of the gradient in the centred theta.
    pub gradient_norm: f64,
    /// False if the search ran out of steps.
    pub converged: bool,
}

/// Huber loss of residual `r`.
#[inline(always)]
pub(super) fn huber(r: f64) -> f64 {
    let size = r.abs();
    if size <= HUBER_DELTA {
        0.5 * r * r
    } else {
        HUBER_DELTA * (size - 0.5 * HUBER_DELTA)
    }
}

/// The objective around one theta. Matrices hold their lower triangle.
struct Expansion<const K: usize> {
    value: f64,
    gradient: [f64; K],
    /// Outer products of the gradients of points inside delta: exact curvature.
    inner: [[f64; K]; K],
    /// Outer products of the other points, reweighted by delta / |r|.
    outer: [[f64; K]; K],
    /// Huber slope times the second derivatives of the law.
    bend: [[f64; K]; K],
}

/// What every point of a block adds to the sums.
struct Terms<const K: usize> {
    loss: Column,
    slope: Column,
    /// Weights of the outer products of gradients inside and outside of delta.
    inner: Column,
    outer: Column,
    gradient: [Column; K],
    bend: [[Column; K]; K],
}

impl<const K: usize> Terms<K> {
    fn new() -> Self {
        let zero = [0.0; BLOCK];
        Terms {
            loss: zero,
            slope: zero,
            inner: zero,
            outer: zero,
            gradient: [zero; K],
            bend: [[zero; K]; K],
        }
    }
}

type Lanes = [f64; LANES];

#[inline(always)]
fn total(lanes: &Lanes) -> f64 {
    let [a, b, c, d, e, f, g, h] = *lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

#[inline(always)]
fn expand_body<const K: usize, F: Form<K>>(
    points: &LogPoints,
    theta: &[f64; K],
    terms: &mut Terms<K>,
) -> Expansion<K> {
    let lanes = [0.0; LANES];
    let mut value = lanes;
    let mut gradient = [lanes; K];
    let zero = [[lanes; K]; K];
    let (mut inner, mut outer, mut bend) = (zero, zero, zero);
    for points in &points.blocks {
        let [x0, x1, x2] = &points.ln_x;
        for i in 0..BLOCK {
            let local = F::at(theta, &[x0[i], x1[i], x2[i]]);
            let r = local.value - points.ln_y[i];
            let weight = points.weights[i];
            let slope = weight * r.clamp(-HUBER_DELTA, HUBER_DELTA);
            let size = r.abs();
            let inside = size <= HUBER_DELTA;
            terms.loss[i] = weight * huber(r);
            terms.slope[i] = slope;
            terms.inner[i] = if inside { weight } else { 0.0 };
            terms.outer[i] = if inside {
                0.0
            } else {
                weight * HUBER_DELTA / size
            };
            for r in 0..K {
                terms.gradient[r][i] = local.gradient[r];
            }
            lower!(K, r, c, terms.bend[r][c][i] = slope * local.hessian[r][c]);
        }
        let Terms {
            loss,
            slope,
            inner: near,
            outer: far,
            gradient: first,
            bend: second,
        } = &*terms;
        for at in (0..BLOCK).step_by(LANES) {
            for lane in 0..LANES {
                value[lane] += loss[at + lane];
            }
        }
        for r in 0..K {
            let mut lanes = gradient[r];
            for at in (0..BLOCK).step_by(LANES) {
                for lane in 0..LANES {
                    lanes[lane] += slope[at + lane] * first[r][at + lane];
                }
            }
            gradient[r] = lanes;
        }
        lower!(
            K,
            r,
            c,
            for at in (0..BLOCK).step_by(LANES) {
                for lane in 0..LANES {
                    let i = at + lane;
                    let product = first[r][i] * first[c][i];
                    inner[r][c][lane] += near[i] * product;
                    outer[r][c][lane] += far[i] * product;
                    bend[r][c][lane] += second[r][c][i];
                }
            }
        );
    }
    let mut sums = Expansion {
        value: total(&value),
        gradient: [0.0; K],
        inner: [[0.0; K]; K],
        outer: [[0.0; K]; K],
        bend: [[0.0; K]; K],
    };
    for r in 0..K {
        sums.gradient[r] = total(&gradient[r]);
    }
    lower!(K, r, c, {
        sums.inner[r][c] = total(&inner[r][c]);
        sums.outer[r][c] = total(&outer[r][c]);
        sums.bend[r][c] = total(&bend[r][c]);
    });
    sums
}

/// The objective and its derivatives at `theta`, compiled for the widest registers there are.
fn expand<const K: usize, F: Form<K>>(
    points: &LogPoints,
    theta: &[f64; K],
    terms: &mut Terms<K>,
) -> Expansion<K> {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2")]
        fn avx512<const K: usize, F: Form<K>>(
            points: &LogPoints,
            theta: &[f64; K],
            terms: &mut Terms<K>,
        ) -> Expansion<K> {
            expand_body::<K, F>(points, theta, terms)
        }
        #[target_feature(enable = "avx2")]
        fn avx2<const K: usize, F: Form<K>>(
            points: &LogPoints,
            theta: &[f64; K],
            terms: &mut Terms<K>,
        ) -> Expansion<K> {
            expand_body::<K, F>(points, theta, terms)
        }
        if is_x86_feature_detected!("avx512dq") && is_x86_feature_detected!("avx512vl") {
            // SAFETY: AVX-512DQ and VL were detected; they imply AVX-512F and AVX2.
            return unsafe { avx512::<K, F>(points, theta, terms) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: AVX2 was detected.
            return unsafe { avx2::<K, F>(points, theta, terms) };
        }
    }
    expand_body::<K, F>(points, theta, terms)
}

/// Where a search begins.
#[derive(Clone, Copy)]
pub(super) enum Start {
    /// Anywhere: the first steps are those of reweighted least squares.
    Cold,
    /// At the optimum for similar points: the first steps are almost Newton's.
    Warm,
}

/// Passes over the points after which a search gives up.
const MAX_PASSES: usize = 400;

/// The local minimum reached from `theta`.
pub(super) fn minimise<const K: usize, F: Form<K>>(
    points: &LogPoints,
    mut theta: [f64; K],
    start: Start,
) -> Minimum<K> {
    let mut terms = Terms::new();
    let mut here = expand::<K, F>(points, &theta, &mut terms);
    let mut damping = match start {
        Start::Cold => 1.0_f64,
        Start::Warm => 0.01,
    };
    let mut converged = false;
    let mut passes = 1;
    loop {
        let step = damped_step(&here, damping, true).or_else(|| damped_step(&here, damping, false));
        let predicted = step.map(|step| -0.5 * dot(&here.gradient, &step));
        if here.value <= EXACT || predicted.is_some_and(|p| p <= RELATIVE_DECREASE * here.value) {
            converged = true;
            break;
        }
        if passes >= MAX_PASSES || damping > MAX_DAMPING {
            break;
        }
        let (Some(step), Some(predicted)) = (step, predicted) else {
            damping *= 10.0;
            continue;
        };
        let candidate: [f64; K] = std::array::from_fn(|i| theta[i] + step[i]);
        let there = expand::<K, F>(points, &candidate, &mut terms);
        passes += 1;
        if there.value < here.value {
            let gained = (here.value - there.value) / predicted;
            if gained > 0.75 {
                damping = (damping * 0.5).max(MIN_DAMPING);
            } else if gained < 0.25 {
                damping *= 4.0;
            }
            theta = candidate;
            here = there;
        } else {
            damping = (damping * 8.0).max(0.1);
        }
    }
    let gradient_norm = dot(&here.gradient, &here.gradient).sqrt();
    Minimum {
        theta,
        value: here.value,
        gradient_norm,
        converged,
    }
}

fn dot<const K: usize>(a: &[f64; K], b: &[f64; K]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Solves for the step by Cholesky; `None` if the matrix is not positive definite.
#[inline(always)]
fn damped_step<const K: usize>(
    at: &Expansion<K>,
    damping: f64,
    with_bend: bool,
) -> Option<[f64; K]> {
    let trace: f64 = (0..K).map(|i| at.inner[i][i] + at.outer[i][i]).sum();
    let ridge = RIDGE * trace / K as f64;
    let mut a = [[0.0; K]; K];
    for r in 0..K {
        for c in 0..r + 1 {
            a[r][c] = at.inner[r][c] + damping * (at.inner[r][c] + at.outer[r][c]);
            if with_bend {
                a[r][c] += at.bend[r][c];
            }
        }
        a[r][r] += damping * ridge;
    }
    for r in 0..K {
        for c in 0..r + 1 {
            let mut sum = a[r][c];
            for i in 0..c {
                sum -= a[r][i] * a[c][i];
            }
            if r == c {
                if sum.is_nan() || sum <= 1e-14 * a[r][r].abs() {
                    return None;
                }
                a[r][r] = sum.sqrt();
            } else {
                a[r][c] = sum / a[c][c];
            }
        }
    }
    let mut d = [0.0; K];
    for r in 0..K {
        let mut sum = -at.gradient[r];
        for c in 0..r {
            sum -= a[r][c] * d[c];
        }
        d[r] = sum / a[r][r];
    }
    for r in (0..K).rev() {
        for c in r + 1..K {
            d[r] -= a[c][r] * d[c];
        }
        d[r] /= a[r][r];
    }
    let longest = d.iter().fold(0.0, |longest: f64, v| longest.max(v.abs()));
    if !longest.is_finite() {
        return None;
    }
    if longest > LONGEST_MOVE {
        d.iter_mut().for_each(|v| *v *= LONGEST_MOVE / longest);
    }
    Some(d)
}

#[cfg(test)]
mod tests {
    use super::super::fit::tests::example;
    use super::super::laws::{Law, fixed, with_form};
    use super::*;
    use crate::rng::stream;
    use rand::RngExt;

    /// The sums of one point after the other, as the formulas have them.
    fn naive<const K: usize, F: Form<K>>(
        rows: &[([f64; MAX_INPUTS], f64, f64)],
        theta: &[f64; K],
    ) -> Expansion<K> {
        let zero = [[0.0; K]; K];
        let mut sum = Expansion {
            value: 0.0,
            gradient: [0.0; K],
            inner: zero,
            outer: zero,
            bend: zero,
        };
        for (x, y, weight) in rows {
            let local = F::at(theta, x);
            let r = local.value - y;
            let slope = weight * r.signum() * r.abs().min(HUBER_DELTA);
            sum.value += weight * huber(r);
            for i in 0..K {
                sum.gradient[i] += slope * local.gradient[i];
                for j in 0..=i {
                    let product = weight * local.gradient[i] * local.gradient[j];
                    match r.abs() <= HUBER_DELTA {
                        true => sum.inner[i][j] += product,
                        false => sum.outer[i][j] += product * HUBER_DELTA / r.abs(),
                    }
                    sum.bend[i][j] += slope * local.hessian[i][j];
                }
            }
        }
        sum
    }

    #[test]
    fn points_side_by_side_sum_like_one_after_the_other() {
        let mut rng = stream(1, "expansion", &[]);
        for law in Law::ALL {
            let theta = law.theta(&example(law));
            for count in [1, 7, 8, 31, 32, 33, 100] {
                let rows: Vec<([f64; MAX_INPUTS], f64, f64)> = (0..count)
                    .map(|i| {
                        let mut along = |low: f64| low + 6.0 * rng.random::<f64>();
                        let x = [along(13.0), along(10.0), along(0.0)];
                        let values = x.map(f64::exp);
                        let y = law.ln_value(&theta, &values[..law.num_inputs()]);
                        // One in three inside delta.
                        let off = [5e-4, 0.02, -0.3][i % 3];
                        (x, y + off, f64::from(rng.random_range(0..3u8)))
                    })
                    .collect();
                let column = |i: usize| rows.iter().map(move |row| [row.1, row.2][i]).collect();
                let (y, weights): (Vec<f64>, Vec<f64>) = (column(0), column(1));
                let x: Vec<[f64; MAX_INPUTS]> = rows.iter().map(|row| row.0).collect();
                let points = LogPoints::new(&x, &y, &weights);
                with_form!(law, F, K, {
                    let theta = fixed::<K>(&theta);
                    let found = expand::<K, F>(&points, &theta, &mut Terms::new());
                    let exact = naive::<K, F>(&rows, &theta);
                    let same = |a: f64, b: f64| {
                        assert!(
                            (a - b).abs() <= 1e-12 * (1.0 + b.abs()),
                            "{law:?} {count}: {a} {b}"
                        );
                    };
                    // Every register width computes the same bits.
                    let narrow = expand_body::<K, F>(&points, &theta, &mut Terms::new());
                    assert_eq!(found.value, narrow.value);
                    same(found.value, exact.value);
                    for r in 0..K {
                        assert_eq!(found.gradient[r], narrow.gradient[r]);
                        same(found.gradient[r], exact.gradient[r]);
                        for c in 0..=r {
                            let of =
                                |e: &Expansion<K>| [e.inner[r][c], e.outer[r][c], e.bend[r][c]];
                            assert_eq!(of(&found), of(&narrow));
                            for (a, b) in of(&found).into_iter().zip(of(&exact)) {
                                same(a, b);
                            }
                        }
                    }
                });
            }
        }
    }
}
