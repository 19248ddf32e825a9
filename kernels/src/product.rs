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
const FEW_ROWS: usize = 400;

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

/// Dot products of every row of `weight` with every row of `x`, `[weight rows, x rows]`.
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
        let rows = x.len() / inner;
        for (w, out) in weight.chunks_exact(inner).zip(out.chunks_exact_mut(rows)) {
            for (x, out) in x.chunks_exact(inner).zip(out) {
                *out = dot(x, w);
            }
        }
    }
}

/// [`dots`] in tiles of four by four rows, with the same bits: each dot product adds in the order of
/// [`dot`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
fn dots_avx512(x: &[f32], weight: &[f32], inner: usize, out: &mut [f32]) {
    let rows = x.len() / inner;
    for (weights, out) in weight.chunks(4 * inner).zip(out.chunks_mut(4 * rows)) {
        for (nth, inputs) in x.chunks(4 * inner).enumerate() {
            let sums = tile(weights, inputs, inner);
            for (out, sums) in out.chunks_exact_mut(rows).zip(sums) {
                let out = &mut out[4 * nth..rows.min(4 * nth + 4)];
                out.copy_from_slice(&sums[..out.len()]);
            }
        }
    }
}

/// The dot products of up to four rows of a weight with up to four rows of the input; the last row
/// stands in for missing ones.
///
/// Intrinsics, because the compiler vectorises across the sums when it is left to choose.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
fn tile(weights: &[f32], inputs: &[f32], inner: usize) -> [[f32; 4]; 4] {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_loadu_ps, _mm512_setzero_ps};
    let whole = inner / LANES * LANES;
    let rows = |from: &[f32]| [0, 1, 2, 3].map(|i: usize| i.min(from.len() / inner - 1) * inner);
    let (weight_rows, input_rows) = (rows(weights), rows(inputs));
    let mut sums = [[_mm512_setzero_ps(); 4]; 4];
    for at in (0..whole).step_by(LANES) {
        // SAFETY: every row starts at a whole multiple of `inner` below the slice's number of whole
        // rows, and `at + LANES <= inner`.
        let load =
            |from: &[f32], row: usize| unsafe { _mm512_loadu_ps(from.as_ptr().add(row + at)) };
        let x = input_rows.map(|row| load(inputs, row));
        for (sums, row) in sums.iter_mut().zip(weight_rows) {
            let w = load(weights, row);
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = _mm512_fmadd_ps(x, w, *sum);
            }
        }
    }
    let mut out = add_tile(sums);
    for at in whole..inner {
        for (out, w) in out.iter_mut().zip(weight_rows) {
            for (out, x) in out.iter_mut().zip(input_rows) {
                *out = inputs[x + at].mul_add(weights[w + at], *out);
            }
        }
    }
    out
}

/// [`crate::simd::add_lanes`] of sixteen registers at once, in the same order of additions.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn add_tile(sums: [[std::arch::x86_64::__m512; 4]; 4]) -> [[f32; 4]; 4] {
    use std::arch::x86_64::{
        __m512, _mm512_add_ps, _mm512_shuffle_f32x4, _mm512_shuffle_ps, _mm512_storeu_ps,
    };
    // Two registers become one that holds the lower half of each plus its upper half.
    let halves = |a: __m512, b: __m512| {
        let low = _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b);
        _mm512_add_ps(low, _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b))
    };
    let quarters = |a: __m512, b: __m512| {
        let even = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b);
        _mm512_add_ps(even, _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b))
    };
    // From here on within blocks of four lanes; block `j` belongs to column `j` of the tile.
    let pairs = |a: __m512, b: __m512| {
        let low = _mm512_shuffle_ps::<0b01_00_01_00>(a, b);
        _mm512_add_ps(low, _mm512_shuffle_ps::<0b11_10_11_10>(a, b))
    };
    let singles = |a: __m512, b: __m512| {
        let even = _mm512_shuffle_ps::<0b10_00_10_00>(a, b);
        _mm512_add_ps(even, _mm512_shuffle_ps::<0b11_01_11_01>(a, b))
    };
    let row = |[a, b, c, d]: [__m512; 4]| quarters(halves(a, b), halves(c, d));
    let [a, b, c, d] = sums;
    let all = singles(pairs(row(a), row(b)), pairs(row(c), row(d)));
    let mut columns = [0.0; LANES];
    // SAFETY: `columns` holds the 16 values of the register.
    unsafe { _mm512_storeu_ps(columns.as_mut_ptr(), all) };
    [0, 1, 2, 3].map(|i| [0, 1, 2, 3].map(|j: usize| columns[4 * j + i]))
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
