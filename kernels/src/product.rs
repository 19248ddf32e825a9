//! Matrix products on slices: a safe face of the `gemm` crate.
//!
//! Each element of a product is one sum over the inner dimension, in an order fixed by the sizes,
//! so results do not depend on the number of threads.

use std::mem::MaybeUninit;

use gemm::Parallelism;
use rayon::prelude::*;

use crate::simd::{LANES, dot, vectorised};

/// Multiply-adds below which a product stays on the calling thread.
const PARALLEL_FROM: usize = 1 << 20;

/// A matrix inside a slice, with a stride per dimension.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// `rows x cols`, each row contiguous, rows `row_stride` apart.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        let last = if rows == 0 || cols == 0 {
            0
        } else {
            (rows - 1) * row_stride + cols
        };
        assert!(
            last <= data.len(),
            "matrix {rows}x{cols} (row stride {row_stride}) in {} values",
            data.len()
        );
        Self {
            data,
            rows,
            cols,
            row_stride,
            col_stride: 1,
        }
    }

    /// The same values with rows and columns exchanged; nothing moves.
    pub(crate) fn transposed(self) -> Self {
        Self {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }
}

/// What a product does with the values that are already in its output.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Update {
    /// Overwrites them.
    Replace,
    /// Adds to them.
    Add,
}

/// Threads a product may use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// The calling thread, for products inside a parallel loop.
    One,
    /// All threads of the current rayon pool where the product is large enough.
    All,
}

/// `out = factor * a b`, or `out += factor * a b`, with the rows of `out` `out_stride` apart.
///
/// # Panics
/// Where the shapes do not fit each other or `out`.
pub(crate) fn multiply(
    out: &mut [f32],
    out_stride: usize,
    update: Update,
    factor: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
    threads: Threads,
) {
    check(out.len(), out_stride, a, b);
    // SAFETY: `check` found every row of the product inside `out`, whose values are initialised.
    unsafe { raw(out.as_mut_ptr(), out_stride, update, factor, a, b, threads) }
}

/// `a b` as a new vector, `[a.rows, b.cols]`, rows contiguous.
///
/// # Panics
/// Where the shapes do not fit each other.
pub(crate) fn product(a: Matrix<'_>, b: Matrix<'_>) -> Vec<f32> {
    let fill = |out: &mut [MaybeUninit<f32>]| {
        check(out.len(), b.cols, a, b);
        // SAFETY: `check` found the product inside `out`; `Replace` reads nothing from it.
        unsafe {
            raw(
                out.as_mut_ptr().cast(),
                b.cols,
                Update::Replace,
                1.0,
                a,
                b,
                Threads::All,
            )
        }
    };
    // SAFETY: a product that replaces writes each of its `rows * cols` elements.
    unsafe { crate::flex::filled(a.rows * b.cols, fill) }
}

fn check(len: usize, out_stride: usize, a: Matrix<'_>, b: Matrix<'_>) {
    assert_eq!(a.cols, b.rows, "inner dimensions of a product");
    assert!(out_stride >= b.cols, "rows of the output overlap");
    let last = if a.rows == 0 || b.cols == 0 {
        0
    } else {
        (a.rows - 1) * out_stride + b.cols
    };
    assert!(last <= len, "product {}x{} in {len} values", a.rows, b.cols);
}

/// # Safety
/// `out` must be valid for writes of `a.rows` rows of `b.cols` values, `out_stride` apart, and
/// initialised where `update` is [`Update::Add`]; `a.cols == b.rows`.
unsafe fn raw(
    out: *mut f32,
    out_stride: usize,
    update: Update,
    factor: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
    threads: Threads,
) {
    let work = a.rows * b.cols * a.cols;
    let parallelism = match threads {
        Threads::All if work >= PARALLEL_FROM => Parallelism::Rayon(0),
        _ => Parallelism::None,
    };
    // SAFETY: `Matrix` keeps both operands inside their slices; the caller vouches for `out`.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            out,
            1,
            out_stride as isize,
            update == Update::Add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0_f32,
            factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Rows of `x` up to which [`against_rows`] beats a blocked product.
const FEW_ROWS: usize = 32;

/// Rows of the weight handled by one thread at a time in [`against_rows`].
const WEIGHT_ROWS: usize = 128;

/// `x W^T`, `[rows, outer]`, for `x` of `[rows, inner]` and a weight of `[outer, inner]`.
///
/// With few rows, as in decoding, a blocked product spends its time copying the weight into
/// its own layout; dot products of rows read it once, as it lies.
pub(crate) fn against_rows(x: &[f32], weight: &[f32], inner: usize) -> Vec<f32> {
    let (rows, outer) = (x.len() / inner, weight.len() / inner);
    if rows > FEW_ROWS {
        let x = Matrix::new(x, rows, inner, inner);
        return product(x, Matrix::new(weight, outer, inner, inner).transposed());
    }
    let mut transposed = vec![0.0; outer * rows];
    let part = |(out, weight): (&mut [f32], &[f32])| dots(x, weight, inner, out);
    if rows * weight.len() < PARALLEL_FROM {
        part((&mut transposed, weight));
    } else {
        transposed
            .par_chunks_mut(WEIGHT_ROWS * rows)
            .zip(weight.par_chunks(WEIGHT_ROWS * inner))
            .for_each(part);
    }
    if rows == 1 {
        return transposed;
    }
    let mut out = vec![0.0; rows * outer];
    for (o, values) in transposed.chunks_exact(rows).enumerate() {
        for (row, value) in values.iter().enumerate() {
            out[row * outer + o] = *value;
        }
    }
    out
}

vectorised! {
    /// Dot products of every row of `weight` with every row of `x`, `[weight rows, x rows]`.
    fn dots(x: &[f32], weight: &[f32], inner: usize, out: &mut [f32]) {
        let rows = x.len() / inner;
        let four = |from: &[f32], row: usize| {
            let at = |i: usize| &from[(row + i) * inner..][..inner];
            [at(0), at(1), at(2), at(3)]
        };
        let outer = weight.len() / inner;
        for o in (0..outer).step_by(4) {
            for row in (0..rows).step_by(4) {
                let (weights, inputs) = ((outer - o).min(4), (rows - row).min(4));
                if weights == 4 && inputs == 4 {
                    let tile = tile(four(weight, o), four(x, row));
                    for (i, sums) in tile.iter().enumerate() {
                        out[(o + i) * rows + row..][..4].copy_from_slice(sums);
                    }
                    continue;
                }
                for i in 0..weights {
                    for j in 0..inputs {
                        let (w, x) = (&weight[(o + i) * inner..][..inner], &x[(row + j) * inner..][..inner]);
                        out[(o + i) * rows + row + j] = dot(x, w);
                    }
                }
            }
        }
    }
}

/// The sixteen dot products of four weights with four inputs, each added in the order of [`dot`].
#[inline(always)]
fn tile(weights: [&[f32]; 4], inputs: [&[f32]; 4]) -> [[f32; 4]; 4] {
    let mut lanes = [[[0.0_f32; LANES]; 4]; 4];
    let (weights, weight_rests) = split(weights);
    let (inputs, input_rests) = split(inputs);
    let chunks = weights[0].len();
    let weights = weights.map(|x| &x[..chunks]);
    let inputs = inputs.map(|x| &x[..chunks]);
    for chunk in 0..chunks {
        for i in 0..4 {
            for j in 0..4 {
                for lane in 0..LANES {
                    let (w, x) = (weights[i][chunk][lane], inputs[j][chunk][lane]);
                    lanes[i][j][lane] = x.mul_add(w, lanes[i][j][lane]);
                }
            }
        }
    }
    let mut sums = [[0.0; 4]; 4];
    for i in 0..4 {
        for j in 0..4 {
            let mut sum: f32 = lanes[i][j].iter().sum();
            for (w, x) in weight_rests[i].iter().zip(input_rests[j]) {
                sum = x.mul_add(*w, sum);
            }
            sums[i][j] = sum;
        }
    }
    sums
}

/// Whole chunks of [`LANES`] and what is left, for four slices.
#[inline(always)]
fn split(rows: [&[f32]; 4]) -> ([&[[f32; LANES]]; 4], [&[f32]; 4]) {
    (
        rows.map(|x| x.as_chunks().0),
        rows.map(|x| x.as_chunks::<LANES>().1),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiplies_transposes_and_adds() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]; // 2x3
        let b = [1.0, 0.0, 2.0, 0.0, 1.0, 1.0]; // 2x3
        let a = Matrix::new(&a, 2, 3, 3);
        let b = Matrix::new(&b, 2, 3, 3);
        assert_eq!(product(a, b.transposed()), [7.0, 5.0, 16.0, 11.0]);
        assert_eq!(
            product(a.transposed(), b),
            [1.0, 4.0, 6.0, 2.0, 5.0, 9.0, 3.0, 6.0, 12.0][..].to_vec()
        );
        let mut out = vec![1.0; 6];
        multiply(
            &mut out,
            3,
            Update::Add,
            2.0,
            a,
            b.transposed(),
            Threads::One,
        );
        assert_eq!(out, [15.0, 11.0, 1.0, 33.0, 23.0, 1.0]);
    }

    #[test]
    fn few_rows_equal_the_product() {
        for (rows, outer, inner) in [
            (1, 1, 1),
            (1, 9, 40),
            (4, 8, 16),
            (7, 300, 33),
            (32, 257, 64),
            (33, 5, 3),
        ] {
            let x: Vec<f32> = (0..rows * inner)
                .map(|i| (i * 37 % 11) as f32 - 5.0)
                .collect();
            let w: Vec<f32> = (0..outer * inner)
                .map(|i| (i * 53 % 7) as f32 - 3.0)
                .collect();
            let expected = product(
                Matrix::new(&x, rows, inner, inner),
                Matrix::new(&w, outer, inner, inner).transposed(),
            );
            // Small integers: every order of addition gives the same sum.
            assert_eq!(
                against_rows(&x, &w, inner),
                expected,
                "{rows}x{outer}x{inner}"
            );
        }
    }

    #[test]
    fn threads_do_not_change_bits() {
        let (m, n, k) = (300, 257, 190);
        let a: Vec<f32> = (0..m * k)
            .map(|i| ((i * 37 % 101) as f32 - 50.0) / 17.0)
            .collect();
        let b: Vec<f32> = (0..n * k)
            .map(|i| ((i * 53 % 97) as f32 - 48.0) / 13.0)
            .collect();
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .expect("a small pool");
            pool.install(|| {
                product(
                    Matrix::new(&a, m, k, k),
                    Matrix::new(&b, n, k, k).transposed(),
                )
            })
        };
        let one = run(1);
        for threads in [2, 3, 4] {
            assert_eq!(one, run(threads));
        }
    }
}
