//! Inner products of rows with queries.

use crate::retrieve::simd::wide;

/// Queries that meet a row together.
pub(super) const TOGETHER: usize = 4;

/// The sum of the lanes, by halves. Compilers that see through it arrange the loops before it for it, in vectors of four.
#[inline(always)]
fn sum(lanes: [f32; 16]) -> f32 {
    let mut lanes = std::hint::black_box(lanes);
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

wide! {
    /// `scores[r * TOGETHER + q]` = inner product of row r and query q; rows and queries have the same width.
    pub(super) fn float_products(rows: &[f32], queries: [&[f32]; TOGETHER], scores: &mut [f32]) {
        let width = queries[0].len();
        let queries = queries.map(|query| &query[..width]);
        for (row, scores) in rows.chunks_exact(width).zip(scores.chunks_exact_mut(TOGETHER)) {
            let mut lanes = [[0.0f32; 16]; TOGETHER];
            let whole = width / 16 * 16;
            for at in (0..whole).step_by(16) {
                let row = &row[at..at + 16];
                for (lanes, query) in lanes.iter_mut().zip(&queries) {
                    let query = &query[at..at + 16];
                    for lane in 0..16 {
                        lanes[lane] += row[lane] * query[lane];
                    }
                }
            }
            for ((score, lanes), query) in scores.iter_mut().zip(lanes).zip(&queries) {
                let rest = row[whole..].iter().zip(&query[whole..]);
                *score = rest.fold(sum(lanes), |sum, (a, b)| sum + a * b);
            }
        }
    }
}

wide! {
    /// The inner product of a row and a query.
    pub(super) fn float_product(row: &[f32], query: &[f32]) -> f32 {
        let mut lanes = [0.0f32; 16];
        let (rows, rest) = row.as_chunks::<16>();
        let (queries, query_rest) = query.as_chunks::<16>();
        for (row, query) in rows.iter().zip(queries) {
            for lane in 0..16 {
                lanes[lane] += row[lane] * query[lane];
            }
        }
        rest.iter().zip(query_rest).fold(sum(lanes), |sum, (a, b)| sum + a * b)
    }
}

wide! {
    /// `sums[r]` = inner product of row r and the query.
    pub(super) fn byte_products(rows: &[i8], query: &[i8], sums: &mut [i32]) {
        for (row, sum) in rows.chunks_exact(query.len()).zip(sums) {
            let products = row.iter().zip(query).map(|(&a, &b)| i32::from(a) * i32::from(b));
            *sum = products.sum();
        }
    }
}
