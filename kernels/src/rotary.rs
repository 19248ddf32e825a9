//! Rotary position tables and their application to one head.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};

use crate::simd::vectorised;

/// Cosines and sines of every position, for rotary position embeddings in the "rotate half"
/// convention.
///
/// Position `p` turns the pair of components `(i, i + head_dim / 2)` of a query or key by the angle
/// `p * inverse_frequencies[i]` (Su et al. 2021, equation 34, with the pairing used by LLaMA
/// checkpoints of the Hugging Face format). Both tables are `[max_positions, head_dim]`; the second
/// half of a row repeats the first.
#[derive(Clone, Debug)]
pub struct Rotary {
    pub(crate) cos: Tensor<2>,
    pub(crate) sin: Tensor<2>,
}

impl Rotary {
    /// Tables for positions `0..max_positions` from one angle per pair, `head_dim / 2` of them, in
    /// radians per position. Angles are computed in 64-bit floats. Plain LLaMA uses `theta^(-2 i /
    /// head_dim)`; scaled variants change the list and nothing else.
    pub fn new(inverse_frequencies: &[f64], max_positions: usize, device: &Device) -> Self {
        let table = |of: fn(f64) -> f64| {
            let mut values = Vec::with_capacity(max_positions * 2 * inverse_frequencies.len());
            for position in 0..max_positions {
                for _half in 0..2 {
                    values.extend(
                        inverse_frequencies
                            .iter()
                            .map(|f| of(position as f64 * f) as f32),
                    );
                }
            }
            let shape = [max_positions, 2 * inverse_frequencies.len()];
            Tensor::from_data(TensorData::new(values, shape), device)
        };
        Self {
            cos: table(f64::cos),
            sin: table(f64::sin),
        }
    }

    /// Number of positions in the tables.
    pub fn max_positions(&self) -> usize {
        self.cos.dims()[0]
    }

    /// Components of one head.
    pub fn head_dim(&self) -> usize {
        self.cos.dims()[1]
    }
}

/// The tables as slices, `[positions, dim]` each.
#[derive(Clone, Copy)]
pub(crate) struct Angles<'a> {
    pub(crate) cos: &'a [f32],
    pub(crate) sin: &'a [f32],
    pub(crate) dim: usize,
}

/// Where the rows of one head stand in a larger slice: row `t` begins at `start + t * stride`.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) start: usize,
    pub(crate) stride: usize,
}

vectorised! {
    /// Turns the rows of `from` by the angles of `positions`, one each, times `factor`, into rows of
    /// `to`.
    pub(crate) fn rotate(
        from: &[f32],
        from_rows: Rows,
        to: &mut [f32],
        to_rows: Rows,
        angles: Angles<'_>,
        positions: Range<usize>,
        factor: f32,
    ) {
        turn(from, from_rows, to, to_rows, angles, positions, [factor, factor]);
    }
}

vectorised! {
    /// The inverse of [`rotate`]: turns back, which is also its derivative's transpose.
    pub(crate) fn rotate_back(
        from: &[f32],
        from_rows: Rows,
        to: &mut [f32],
        to_rows: Rows,
        angles: Angles<'_>,
        positions: Range<usize>,
        factor: f32,
    ) {
        turn(from, from_rows, to, to_rows, angles, positions, [factor, -factor]);
    }
}

vectorised! {
    /// Copies `count` rows of `dim` values times `factor`.
    pub(crate) fn copy_rows(
        from: &[f32],
        from_rows: Rows,
        to: &mut [f32],
        to_rows: Rows,
        count: usize,
        dim: usize,
        factor: f32,
    ) {
        for row in 0..count {
            let source = &from[from_rows.start + row * from_rows.stride..][..dim];
            let target = &mut to[to_rows.start + row * to_rows.stride..][..dim];
            for (x, y) in target.iter_mut().zip(source) {
                *x = y * factor;
            }
        }
    }
}

/// `factors` multiply cosines and sines.
#[inline(always)]
fn turn(
    from: &[f32],
    from_rows: Rows,
    to: &mut [f32],
    to_rows: Rows,
    angles: Angles<'_>,
    positions: Range<usize>,
    factors: [f32; 2],
) {
    let (dim, half) = (angles.dim, angles.dim / 2);
    for (row, position) in positions.enumerate() {
        let source = from_rows.start + row * from_rows.stride;
        let target = to_rows.start + row * to_rows.stride;
        let table = position * dim;
        let (a, b) = from[source..source + dim].split_at(half);
        let (out_a, out_b) = to[target..target + dim].split_at_mut(half);
        let cos = &angles.cos[table..table + half];
        let sin = &angles.sin[table..table + half];
        for i in 0..half {
            let (c, s) = (factors[0] * cos[i], factors[1] * sin[i]);
            out_a[i] = a[i] * c - b[i] * s;
            out_b[i] = b[i] * c + a[i] * s;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_by_the_angle_and_back() {
        let device = Device::flex();
        let quarter = std::f64::consts::FRAC_PI_2;
        let rotary = Rotary::new(&[quarter], 3, &device);
        assert_eq!((rotary.max_positions(), rotary.head_dim()), (3, 2));
        let (cos, sin) = (rotary.cos.into_data(), rotary.sin.into_data());
        let cos = cos.as_slice::<f32>().expect("f32");
        let sin = sin.as_slice::<f32>().expect("f32");
        let angles = Angles { cos, sin, dim: 2 };
        let rows = Rows {
            start: 0,
            stride: 2,
        };
        let from = [1.0, 0.0, 1.0, 0.0, 1.0, 0.0];
        let mut to = [0.0; 6];
        rotate(&from, rows, &mut to, rows, angles, 0..3, 1.0);
        let expected = [1.0, 0.0, 0.0, 1.0, -1.0, 0.0];
        for (x, y) in to.iter().zip(expected) {
            assert!((x - y).abs() < 1e-6, "{to:?}");
        }
        let mut back = [0.0; 6];
        rotate_back(&to, rows, &mut back, rows, angles, 0..3, 1.0);
        for (x, y) in back.iter().zip(from) {
            assert!((x - y).abs() < 1e-6, "{back:?}");
        }
    }
}
