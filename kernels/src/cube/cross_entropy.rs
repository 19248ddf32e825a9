//! Softmax cross-entropy of rows of logits, and its gradient in their place.
//!
//! One cube per row: a pass for maximum and sum, and where the gradient is wanted a second one that turns the
//! logits, by then in the cache, into `weight * (softmax - onehot(target))`. The matrix products on either side
//! are the caller's, who takes rows in chunks so that the logits of a whole batch never exist.

use cubecl::prelude::*;

use super::{Units, reduce_max_sum};

#[cube(launch_unchecked)]
fn cross_entropy_kernel<F: Float>(
    logits: &mut [F],
    targets: &[i32],
    weights: &[f32],
    losses: &mut [f32],
    vocab: u32,
    #[comptime] gradient: bool,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let row = CUBE_POS_X as usize;
    let unit = UNIT_POS_X as usize;
    let vocab = vocab as usize;
    let first = row * vocab;
    let weight = weights[row];
    let target = targets[row] as usize;
    let mut max = f32::new(f32::MIN);
    let mut sum = 0.0f32;
    let mut i = unit;
    while i < vocab {
        let x = f32::cast_from(logits[first + i]);
        let apart = f32::exp(-f32::abs(x - max));
        if x > max {
            sum = sum * apart + 1.0;
            max = x;
        } else {
            sum += apart;
        }
        i += units;
    }
    let mut maxima = Shared::new_slice(units);
    let mut sums = Shared::new_slice(units);
    maxima[unit] = max;
    sums[unit] = sum;
    reduce_max_sum(&mut maxima, &mut sums, units);
    let max = maxima[0];
    let sum = sums[0];
    if unit == 0 {
        losses[row] = (max - f32::cast_from(logits[first + target])) + f32::ln(sum);
    }
    if gradient {
        // The target's logit is read before anyone overwrites it.
        sync_cube();
        let scale = weight / sum;
        let mut i = unit;
        while i < vocab {
            let mut value = scale * f32::exp(f32::cast_from(logits[first + i]) - max);
            if i == target {
                value -= weight;
            }
            // A row of weight zero adds nothing, whatever its logits are.
            if weight == 0.0 {
                value = 0.0;
            }
            logits[first + i] = F::cast_from(value);
            i += units;
        }
    }
}

/// `-log softmax(logits)[target]` of each row into `losses`, unweighted; with `gradient` the logits become
/// `weight * (softmax - onehot(target))`.
///
/// `logits` are `[rows, vocab]` of type `dtype` and contiguous, targets `[rows]` below `vocab`, weights and losses
/// `[rows]`. A target outside of the vocabulary reads outside of the row: the caller checks.
#[allow(clippy::too_many_arguments)]
pub fn cross_entropy(
    client: &Client,
    [logits, targets, weights, losses]: [BufferArg; 4],
    dtype: ElemType,
    [rows, vocab]: [usize; 2],
    gradient: bool,
    units: Units,
) {
    if rows == 0 {
        return;
    }
    // SAFETY: one cube per row, and the caller's buffers hold a value per row and column.
    unsafe {
        cross_entropy_kernel::launch_unchecked(
            client,
            CubeCount::new_1d(rows as u32),
            units.cube_dim(),
            logits,
            targets,
            weights,
            losses,
            vocab as u32,
            gradient,
            units.get(),
            dtype,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cube::testing::{client, random, upload, values};

    #[test]
    fn losses_and_gradients_equal_the_formula() {
        let client = client();
        for (rows, vocab, units) in [(1, 1, 1), (3, 63, 1), (5, 65, 2), (2, 513, 4)] {
            let logits: Vec<f32> = random(rows * vocab, 3).iter().map(|x| 9.0 * x).collect();
            let targets: Vec<i32> = (0..rows).map(|r| (r * 31 % vocab) as i32).collect();
            let weights: Vec<f32> = (0..rows)
                .map(|r| if r == 1 { 0.0 } else { 0.5 + r as f32 })
                .collect();
            let on_device = upload(&client, &logits);
            let losses = client.empty(rows * size_of::<f32>());
            let targets_on_device = client.create_from_slice(i32::as_bytes(&targets));
            // SAFETY: the buffers hold as many values.
            let args = unsafe {
                [
                    BufferArg::from_raw_parts(on_device.clone(), logits.len()),
                    BufferArg::from_raw_parts(targets_on_device, rows),
                    BufferArg::from_raw_parts(upload(&client, &weights), rows),
                    BufferArg::from_raw_parts(losses.clone(), rows),
                ]
            };
            cross_entropy(
                &client,
                args,
                f32::elem_type_native(),
                [rows, vocab],
                true,
                Units::new(units),
            );
            let (losses, gradients) = (values(&client, losses), values(&client, on_device));
            for row in 0..rows {
                let own = &logits[row * vocab..][..vocab];
                let sum: f64 = own.iter().map(|&x| f64::from(x).exp()).sum();
                let target = targets[row] as usize;
                let loss = sum.ln() - f64::from(own[target]);
                assert!(
                    (f64::from(losses[row]) - loss).abs() < 2e-5,
                    "{} is not {loss}",
                    losses[row]
                );
                for (i, &x) in own.iter().enumerate() {
                    let share = f64::from(x).exp() / sum - f64::from(u8::from(i == target));
                    let expected = f64::from(weights[row]) * share;
                    let got = f64::from(gradients[row * vocab + i]);
                    assert!((got - expected).abs() < 2e-6, "{got} is not {expected}");
                }
            }
        }
    }
}
