//! The largest logit of every term over the rows of a text, and the gradient that goes back through it.
//!
//! Forward: one unit per text and term walks down the text's rows, neighbours in neighbouring columns, so
//! each logit is read once and coalesced; the first of equal ones counts. Backward visits active values
//! alone: a row of the weight's gradient sums over texts, a text's rows of the hidden states' gradient over terms,
//! each element by one unit and in order, without atomics.

use cubecl::prelude::*;

use super::Units;

#[cube(launch_unchecked)]
fn pool_kernel<F: Float>(
    logits: &[F],
    texts: &[u32],
    values: &mut [f32],
    places: &mut [u32],
    terms: u32,
    scale: f32,
    #[define(F)] _dtype: ElemType,
) {
    let term = ABSOLUTE_POS_X;
    let text = CUBE_POS_Y as usize;
    if term >= terms {
        terminate!();
    }
    let begin = texts[2 * text] as usize;
    let end = texts[2 * text + 1] as usize;
    let mut max = f32::new(f32::NEG_INFINITY);
    let mut place = 0u32;
    let mut row = begin;
    while row < end {
        let x = f32::cast_from(logits[row * terms as usize + term as usize]);
        // The first NaN is taken, and nothing is larger than it.
        if x > max || x.is_nan() {
            max = x;
            place = (row - begin) as u32;
        }
        row += 1;
    }
    let at = text * terms as usize + term as usize;
    let mut value = f32::log1p(scale * max);
    if max <= 0.0 {
        value = 0.0;
    }
    values[at] = value;
    places[at] = place;
}

/// Gradient of the weight: `[terms, width]`, one cube per term, units over columns.
#[cube(launch_unchecked)]
fn weight_gradient_kernel<F: Float>(
    factors: &[f32],
    places: &[u32],
    texts: &[u32],
    hidden: &[F],
    gradient: &mut [f32],
    terms: u32,
    width: u32,
    num_texts: u32,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let term = CUBE_POS_X as usize;
    let terms = terms as usize;
    let width = width as usize;
    let mut column = UNIT_POS_X as usize;
    while column < width {
        let mut sum = 0.0f32;
        let mut text = 0usize;
        while text < num_texts as usize {
            let factor = factors[text * terms + term];
            if factor != 0.0 {
                let row = (texts[2 * text] + places[text * terms + term]) as usize;
                sum += factor * f32::cast_from(hidden[row * width + column]);
            }
            text += 1;
        }
        gradient[term * width + column] = sum;
        column += units;
    }
}

/// Gradient of the hidden states: one unit per text and column walks over the terms.
#[cube(launch_unchecked)]
fn hidden_gradient_kernel<F: Float>(
    factors: &[f32],
    places: &[u32],
    texts: &[u32],
    weight: &[F],
    gradient: &mut [f32],
    terms: u32,
    width: u32,
    #[define(F)] _dtype: ElemType,
) {
    let column = ABSOLUTE_POS_X as usize;
    let text = CUBE_POS_Y as usize;
    let terms = terms as usize;
    let width = width as usize;
    if column >= width {
        terminate!();
    }
    let begin = texts[2 * text];
    let mut term = 0usize;
    while term < terms {
        let factor = factors[text * terms + term];
        if factor != 0.0 {
            let row = (begin + places[text * terms + term]) as usize;
            gradient[row * width + column] +=
                factor * f32::cast_from(weight[term * width + column]);
        }
        term += 1;
    }
}

/// Sizes of a pool.
#[derive(Clone, Copy, Debug)]
pub struct PoolSize {
    /// Number of texts.
    pub texts: usize,
    /// Columns of the logits, rows of the weight.
    pub terms: usize,
    /// Width of hidden states and weight.
    pub width: usize,
}

/// `ln(1 + scale * relu(max over a text's rows))` of each term into `values`, and the row of the largest logit,
/// counted from the beginning of its text, into `places`; both `[texts, terms]`.
///
/// `texts` holds begin and end row of each text. A text without rows has the value zero.
pub fn pool(
    client: &Client,
    [logits, texts, values, places]: [BufferArg; 4],
    dtype: ElemType,
    size: PoolSize,
    scale: f32,
) {
    if size.texts * size.terms == 0 {
        return;
    }
    let units = Units::of(client, 256);
    let cubes = size.terms.div_ceil(units.get()) as u32;
    // SAFETY: a unit beyond the terms ends at once; the caller's rows lie in the logits.
    unsafe {
        pool_kernel::launch_unchecked(
            client,
            CubeCount::new_2d(cubes, size.texts as u32),
            units.cube_dim(),
            logits,
            texts,
            values,
            places,
            size.terms as u32,
            scale,
            dtype,
        );
    }
}

/// Gradient of the weight, `[terms, width]`, from gradients of the largest logits (`factors`) and their places.
pub fn weight_gradient(
    client: &Client,
    [factors, places, texts, hidden, gradient]: [BufferArg; 5],
    dtype: ElemType,
    size: PoolSize,
) {
    if size.terms * size.width == 0 {
        return;
    }
    let units = Units::of(client, 256);
    // SAFETY: places lie in their texts, and texts in the hidden states.
    unsafe {
        weight_gradient_kernel::launch_unchecked(
            client,
            CubeCount::new_1d(size.terms as u32),
            units.cube_dim(),
            factors,
            places,
            texts,
            hidden,
            gradient,
            size.terms as u32,
            size.width as u32,
            size.texts as u32,
            units.get(),
            dtype,
        );
    }
}

/// Adds the gradient of the hidden states to `gradient`, `[rows, width]`, which the caller has cleared.
pub fn hidden_gradient(
    client: &Client,
    [factors, places, texts, weight, gradient]: [BufferArg; 5],
    dtype: ElemType,
    size: PoolSize,
) {
    if size.texts * size.width == 0 {
        return;
    }
    let units = Units::of(client, 64);
    let cubes = size.width.div_ceil(units.get()) as u32;
    // SAFETY: a unit beyond the width ends at once; no two units write one element.
    unsafe {
        hidden_gradient_kernel::launch_unchecked(
            client,
            CubeCount::new_2d(cubes, size.texts as u32),
            units.cube_dim(),
            factors,
            places,
            texts,
            weight,
            gradient,
            size.terms as u32,
            size.width as u32,
            dtype,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cube::testing::{client, random, upload, values};

    /// Of a text's rows the one with the largest logit, where there is none.
    const NOWHERE: u32 = 0;
    const TEXTS: [u32; 8] = [0, 3, 3, 3, 4, 9, 9, 10];
    const ROWS: usize = 11;

    fn size(terms: usize, width: usize) -> PoolSize {
        PoolSize {
            texts: 4,
            terms,
            width,
        }
    }

    #[test]
    fn values_and_places_are_those_of_the_first_largest_logit() {
        let client = client();
        for terms in [1, 63, 65, 513] {
            let logits: Vec<f32> = random(ROWS * terms, 5)
                .iter()
                .map(|x| (x * 6.0).round() / 2.0)
                .collect();
            let texts = client.create_from_slice(u32::as_bytes(&TEXTS));
            let got = client.empty(4 * terms * size_of::<f32>());
            let places = client.empty(4 * terms * size_of::<u32>());
            // SAFETY: the buffers hold as many values.
            let args = unsafe {
                [
                    BufferArg::from_raw_parts(upload(&client, &logits), logits.len()),
                    BufferArg::from_raw_parts(texts, TEXTS.len()),
                    BufferArg::from_raw_parts(got.clone(), 4 * terms),
                    BufferArg::from_raw_parts(places.clone(), 4 * terms),
                ]
            };
            pool(&client, args, f32::elem_type_native(), size(terms, 1), 1.5);
            let got = values(&client, got);
            let bytes = client.read_one_unchecked(places);
            let places = u32::from_bytes(&bytes);
            for (text, range) in TEXTS.chunks_exact(2).enumerate() {
                for term in 0..terms {
                    let column =
                        (range[0]..range[1]).map(|row| logits[row as usize * terms + term]);
                    let max = column.clone().fold(f32::NEG_INFINITY, f32::max);
                    let at = text * terms + term;
                    let expected = (1.5 * f64::from(max.max(0.0))).ln_1p();
                    assert!(
                        (f64::from(got[at]) - expected).abs() < 1e-6,
                        "{} is not {expected}",
                        got[at]
                    );
                    let first = column
                        .clone()
                        .position(|x| x == max)
                        .unwrap_or(NOWHERE as usize);
                    assert_eq!(places[at] as usize, first);
                }
            }
        }
    }

    #[test]
    fn gradients_are_sums_over_active_values() {
        let client = client();
        for (terms, width) in [(1, 1), (63, 5), (65, 33)] {
            let size = size(terms, width);
            let mut factors = random(4 * terms, 6);
            factors.iter_mut().step_by(3).for_each(|f| *f = 0.0);
            // The second text has no rows, and so no gradient.
            factors[terms..2 * terms].fill(0.0);
            let places: Vec<u32> = (0..4 * terms)
                .map(|at| {
                    let text = at / terms;
                    let len = TEXTS[2 * text + 1] - TEXTS[2 * text];
                    if len == 0 {
                        NOWHERE
                    } else {
                        at as u32 * 7 % len
                    }
                })
                .collect();
            let (hidden, weight) = (random(ROWS * width, 1), random(terms * width, 2));
            let places_on_device = client.create_from_slice(u32::as_bytes(&places));
            let texts = client.create_from_slice(u32::as_bytes(&TEXTS));
            let of_weight = client.empty(terms * width * size_of::<f32>());
            let of_hidden = upload(&client, &vec![0.0; ROWS * width]);
            let args = |last: &[f32], out: &cubecl::server::Handle, len: usize| {
                // SAFETY: the buffers hold as many values.
                unsafe {
                    [
                        BufferArg::from_raw_parts(upload(&client, &factors), factors.len()),
                        BufferArg::from_raw_parts(places_on_device.clone(), places.len()),
                        BufferArg::from_raw_parts(texts.clone(), TEXTS.len()),
                        BufferArg::from_raw_parts(upload(&client, last), last.len()),
                        BufferArg::from_raw_parts(out.clone(), len),
                    ]
                }
            };
            let dtype = f32::elem_type_native();
            weight_gradient(
                &client,
                args(&hidden, &of_weight, terms * width),
                dtype,
                size,
            );
            hidden_gradient(
                &client,
                args(&weight, &of_hidden, ROWS * width),
                dtype,
                size,
            );
            let (mut weights, mut hiddens) =
                (vec![0.0f64; terms * width], vec![0.0f64; ROWS * width]);
            for at in 0..4 * terms {
                let (text, term) = (at / terms, at % terms);
                let row = (TEXTS[2 * text] + places[at]) as usize;
                for column in 0..width {
                    let factor = f64::from(factors[at]);
                    weights[term * width + column] +=
                        factor * f64::from(hidden[row * width + column]);
                    hiddens[row * width + column] +=
                        factor * f64::from(weight[term * width + column]);
                }
            }
            for (got, expected) in [(of_weight, weights), (of_hidden, hiddens)] {
                for (got, expected) in values(&client, got).iter().zip(expected) {
                    assert!(
                        (f64::from(*got) - expected).abs() < 1e-5,
                        "{got} is not {expected}"
                    );
                }
            }
        }
    }
}
