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
//! One pass costs about 50 ns a point (K = 5), a search about 30 passes. No step that raises the objective is ever taken.

// Small matrices read best by their indices.
#![allow(clippy::needless_range_loop)]

use super::laws::{Form, Local, MAX_INPUTS};

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

/// Points ready for fitting: one entry per row in every slice. Points of weight zero do not count.
#[derive(Clone, Copy)]
pub(super) struct LogPoints<'a> {
    /// Centred logarithms of the inputs.
    pub ln_x: &'a [[f64; MAX_INPUTS]],
    /// Logarithms of the value.
    pub ln_y: &'a [f64],
    pub weights: &'a [f64],
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

#[inline(always)]
fn expand<const K: usize, F: Form<K>>(points: LogPoints<'_>, theta: &[f64; K]) -> Expansion<K> {
    let zero = [[0.0; K]; K];
    let mut sum = Expansion {
        value: 0.0,
        gradient: [0.0; K],
        inner: zero,
        outer: zero,
        bend: zero,
    };
    for ((x, y), &weight) in points.ln_x.iter().zip(points.ln_y).zip(points.weights) {
        if weight == 0.0 {
            continue;
        }
        let Local {
            value,
            gradient,
            hessian,
        } = F::at(theta, x);
        let r = value - y;
        sum.value += weight * huber(r);
        let slope = weight * r.clamp(-HUBER_DELTA, HUBER_DELTA);
        let (matrix, scale) = if r.abs() <= HUBER_DELTA {
            (&mut sum.inner, weight)
        } else {
            (&mut sum.outer, weight * HUBER_DELTA / r.abs())
        };
        for r in 0..K {
            sum.gradient[r] += slope * gradient[r];
            let scaled = scale * gradient[r];
            for c in 0..=r {
                matrix[r][c] += scaled * gradient[c];
                sum.bend[r][c] += slope * hessian[r][c];
            }
        }
    }
    sum
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
    points: LogPoints<'_>,
    mut theta: [f64; K],
    start: Start,
) -> Minimum<K> {
    let mut here = expand::<K, F>(points, &theta);
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
        let there = expand::<K, F>(points, &candidate);
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
        for c in 0..=r {
            a[r][c] = at.inner[r][c] + damping * (at.inner[r][c] + at.outer[r][c]);
            if with_bend {
                a[r][c] += at.bend[r][c];
            }
        }
        a[r][r] += damping * ridge;
    }
    for r in 0..K {
        for c in 0..=r {
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
