//! Matrix products on slices: a safe face of the `gemm` crate.
//!
//! Each element of a product is one sum over the inner dimension, in an order fixed by the sizes,
//! so results do not depend on the number of threads.

use std::mem::MaybeUninit;

use gemm::Parallelism;
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use crate::simd::LANES;
use crate::simd::{dot, vectorised};

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
const FEW_ROWS: usize = 40;

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
    let part = |weight: &[f32]| {
        let mut out = vec![0.0; weight.len() / inner * rows];
        dots(x, weight, inner, &mut out);
        out
    };
    if rows * weight.len() < PARALLEL_FROM {
        return part(weight);
    }
    let parts: Vec<Vec<f32>> = weight.par_chunks(WEIGHT_ROWS * inner).map(part).collect();
    let mut out = Vec::with_capacity(rows * outer);
    for row in 0..rows {
        for part in &parts {
            let width = part.len() / rows;
            out.extend_from_slice(&part[row * width..][..width]);
        }
    }
    out
}

/// Dot products of every row of `x` with every row of `weight`, `[x rows, weight rows]`.
fn dots(x: &[f32], weight: &[f32], inner: usize, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if crate::simd::width() == crate::simd::Width::Avx512 {
        // SAFETY: `width` answers this only where AVX-512F, AVX2 and FMA were detected.
        return unsafe { dots_avx512(x, weight, inner, out) };
    }
    dots_one_by_one(x, weight, inner, out);
}

vectorised! {
    fn dots_one_by_one(x: &[f32], weight: &[f32], inner: usize, out: &mut [f32]) {
        let outer = weight.len() / inner;
        // The weight is the larger operand: each of its rows is read once.
        for (o, w) in weight.chunks_exact(inner).enumerate() {
            for (row, x) in x.chunks_exact(inner).enumerate() {
                out[row * outer + o] = dot(x, w);
            }
        }
    }
}

/// [`dots`] in tiles of four by four rows, with the same bits: each dot product adds in the order
/// of [`dot`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
fn dots_avx512(x: &[f32], weight: &[f32], inner: usize, out: &mut [f32]) {
    let outer = weight.len() / inner;
    for (i, weights) in weight.chunks(4 * inner).enumerate() {
        for (j, inputs) in x.chunks(4 * inner).enumerate() {
            let sums = tile(weights, inputs, inner);
            let count = weights.len() / inner;
            for (row, sums) in sums.chunks_exact(4).take(inputs.len() / inner).enumerate() {
                out[(4 * j + row) * outer + 4 * i..][..count].copy_from_slice(&sums[..count]);
            }
        }
    }
}

/// The dot products of up to four rows of the input with up to four rows of a weight, one input
/// after the other; the last row stands in for missing ones.
///
/// Intrinsics, because the compiler vectorises across the sums when it is left to choose.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
fn tile(weights: &[f32], inputs: &[f32], inner: usize) -> [f32; 16] {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_loadu_ps, _mm512_setzero_ps};
    let whole = inner / LANES * LANES;
    let (last_weight, last_input) = (weights.len() / inner - 1, inputs.len() / inner - 1);
    let (mut weight_rows, mut input_rows) = ([0; 4], [0; 4]);
    for i in 0..4 {
        weight_rows[i] = i.min(last_weight) * inner;
        input_rows[i] = i.min(last_input) * inner;
    }
    let mut sums = [[_mm512_setzero_ps(); 4]; 4];
    let mut x = [_mm512_setzero_ps(); 4];
    for at in (0..whole).step_by(LANES) {
        for j in 0..4 {
            // SAFETY: the row is one of the slice, `inner` long, and `at + LANES <= inner`.
            x[j] = unsafe { _mm512_loadu_ps(inputs.as_ptr().add(input_rows[j] + at)) };
        }
        for i in 0..4 {
            // SAFETY: as above.
            let w = unsafe { _mm512_loadu_ps(weights.as_ptr().add(weight_rows[i] + at)) };
            for j in 0..4 {
                sums[i][j] = _mm512_fmadd_ps(x[j], w, sums[i][j]);
            }
        }
    }
    let mut out = add_tile(sums);
    for at in whole..inner {
        for j in 0..4 {
            for i in 0..4 {
                let sum = &mut out[4 * j + i];
                *sum = inputs[input_rows[j] + at].mul_add(weights[weight_rows[i] + at], *sum);
            }
        }
    }
    out
}

/// [`crate::simd::add_lanes`] of sixteen registers at once, in the same order of additions; sum
/// `(i, j)` stands at `4 j + i`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn add_tile(sums: [[std::arch::x86_64::__m512; 4]; 4]) -> [f32; 16] {
    use std::arch::x86_64::{
        _mm512_add_ps, _mm512_shuffle_f32x4, _mm512_shuffle_ps, _mm512_storeu_ps,
    };
    /// Two registers become one: the parts that the first pattern picks plus those of the second.
    macro_rules! fold {
        ($shuffle:ident, $first:literal, $second:literal, $a:expr, $b:expr) => {
            _mm512_add_ps($shuffle::<$first>($a, $b), $shuffle::<$second>($a, $b))
        };
    }
    let mut rows = [sums[0][0]; 4];
    for (row, [a, b, c, d]) in rows.iter_mut().zip(sums) {
        // Lanes 0..8 plus lanes 8..16, then within each eight the first four plus the last four.
        let ab = fold!(_mm512_shuffle_f32x4, 0b01_00_01_00, 0b11_10_11_10, a, b);
        let cd = fold!(_mm512_shuffle_f32x4, 0b01_00_01_00, 0b11_10_11_10, c, d);
        *row = fold!(_mm512_shuffle_f32x4, 0b10_00_10_00, 0b11_01_11_01, ab, cd);
    }
    // Block `j` of four lanes now belongs to column `j`: the first two lanes plus the last two,
    // then the first plus the second.
    let [a, b, c, d] = rows;
    let ab = fold!(_mm512_shuffle_ps, 0b01_00_01_00, 0b11_10_11_10, a, b);
    let cd = fold!(_mm512_shuffle_ps, 0b01_00_01_00, 0b11_10_11_10, c, d);
    let all = fold!(_mm512_shuffle_ps, 0b10_00_10_00, 0b11_01_11_01, ab, cd);
    let mut out = [0.0; 16];
    // SAFETY: `out` holds the 16 values of the register.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), all) };
    out
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
    fn few_rows_equal_the_product_and_do_not_depend_on_each_other() {
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
    fn tiles_have_the_bits_of_single_dot_products() {
        for (rows, outer, inner) in [(1, 1, 5), (3, 6, 16), (5, 9, 100), (8, 4, 256)] {
            let x: Vec<f32> = (0..rows * inner)
                .map(|i| (i * 37 % 101) as f32 / 17.0)
                .collect();
            let w: Vec<f32> = (0..outer * inner)
                .map(|i| (i * 53 % 97) as f32 / 13.0)
                .collect();
            let (mut tiled, mut single) = (vec![0.0; rows * outer], vec![0.0; rows * outer]);
            dots(&x, &w, inner, &mut tiled);
            dots_one_by_one(&x, &w, inner, &mut single);
            assert_eq!(tiled, single);
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
