//! Attention of one new token per beam over its prompt and its history, read where they lie.
//!
//! One cube per beam and head. Beams of a query read the same prompt keys, and a beam's history is looked up by
//! the place of each ancestor, so neither is copied per beam: plain tensors gather both for every beam, layer and
//! step. Scores stay in shared memory between the softmax and the weighted sum.

use cubecl::prelude::*;

use super::{Units, reduce_max, reduce_sum};

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn attend_kernel<F: Float>(
    q: &[F],
    prompt_k: &[F],
    prompt_v: &[F],
    step_k: &[F],
    step_v: &[F],
    bias: &[f32],
    queries: &[i32],
    lengths: &[i32],
    history: &[i32],
    out: &mut [F],
    padded: u32,
    steps: u32,
    heads: u32,
    #[comptime] group: u32,
    #[comptime] with_bias: bool,
    #[comptime] dim: usize,
    #[comptime] capacity: usize,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let beam = CUBE_POS_X as usize;
    let head = CUBE_POS_Y as usize;
    let unit = UNIT_POS_X as usize;
    let heads = heads as usize;
    let kv_heads = heads / group as usize;
    let kv_head = head / group as usize;
    let steps = steps as usize;
    let padded = padded as usize;
    let query = queries[beam] as usize;
    let mut length = 0usize;
    if padded > 0 {
        length = lengths[query] as usize;
    }
    let keys = length + steps;
    let of_prompt = query * padded;

    let mut row = Shared::new_slice(dim);
    let mut shares = Shared::new_slice(capacity);
    let mut reduced = Shared::new_slice(units);
    let mut i = unit;
    while i < dim {
        row[i] = f32::cast_from(q[(beam * heads + head) * dim + i]);
        i += units;
    }
    sync_cube();

    let mut max = f32::new(f32::MIN);
    let mut at = unit;
    while at < keys {
        let mut score = 0.0f32;
        if at < length {
            let from = ((of_prompt + at) * kv_heads + kv_head) * dim;
            for i in 0..dim {
                score += row[i] * f32::cast_from(prompt_k[from + i]);
            }
        } else {
            let step = at - length;
            let slot = history[beam * steps + step] as usize;
            let from = (slot * kv_heads + kv_head) * dim;
            for i in 0..dim {
                score += row[i] * f32::cast_from(step_k[from + i]);
            }
            if with_bias {
                score += bias[(steps - 1 - step) * heads + head];
            }
        }
        shares[at] = score;
        max = f32::max(max, score);
        at += units;
    }
    reduced[unit] = max;
    reduce_max(&mut reduced, units);
    let max = reduced[0];
    // Nobody overwrites the maximum before all have read it.
    sync_cube();
    let mut sum = 0.0f32;
    let mut at = unit;
    while at < keys {
        let share = f32::exp(shares[at] - max);
        shares[at] = share;
        sum += share;
        at += units;
    }
    reduced[unit] = sum;
    reduce_sum(&mut reduced, units);
    let mut scale = 0.0f32;
    if keys > 0 {
        scale = 1.0 / reduced[0];
    }

    // Units stand side by side along the head; what is left of them splits the keys.
    let parts = comptime!(if units > dim { units / dim } else { 1 });
    let lanes = comptime!(units / parts);
    let mut partial = Shared::new_slice(parts * dim);
    let part = unit / lanes;
    let mut i = unit % lanes;
    while i < dim {
        let mut value = 0.0f32;
        if part < parts {
            let mut at = part;
            while at < length {
                let from = ((of_prompt + at) * kv_heads + kv_head) * dim;
                value += shares[at] * f32::cast_from(prompt_v[from + i]);
                at += parts;
            }
            while at < keys {
                let slot = history[beam * steps + at - length] as usize;
                value += shares[at] * f32::cast_from(step_v[(slot * kv_heads + kv_head) * dim + i]);
                at += parts;
            }
            partial[part * dim + i] = value;
        }
        i += lanes;
    }
    sync_cube();
    let mut i = unit;
    while i < dim {
        let mut value = 0.0f32;
        for part in 0..parts {
            value += partial[part * dim + i];
        }
        out[(beam * heads + head) * dim + i] = F::cast_from(value * scale);
        i += units;
    }
}

/// Sizes of an attention step.
#[derive(Clone, Copy, Debug)]
pub struct AttendSize {
    /// Current beams.
    pub beams: usize,
    /// Heads of the queries, and of keys and values.
    pub heads: usize,
    /// A divisor of `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub dim: usize,
    /// Positions kept per prompt; none where prompts are not attended to.
    pub padded: usize,
    /// Generated tokens attended to, the current one among them.
    pub steps: usize,
}

impl AttendSize {
    /// Floats of shared memory: scores in steps of doubling sizes, so that few kernels are compiled.
    fn capacity(&self) -> usize {
        (self.padded + self.steps).next_power_of_two().max(64)
    }
}

/// What an attention step reads, in the order of its fields.
pub struct AttendInputs {
    /// Queries of the current tokens, scaled and turned, `[beams, heads, dim]`.
    pub q: BufferArg,
    /// Keys of the prompts, turned, `[queries, padded, kv_heads, dim]`.
    pub prompt_k: BufferArg,
    /// Values of the prompts, as the keys.
    pub prompt_v: BufferArg,
    /// Keys of generated tokens, turned, `[slots, kv_heads, dim]`.
    pub step_k: BufferArg,
    /// Values of generated tokens, as the keys.
    pub step_v: BufferArg,
    /// Added to the score of a key so many tokens back, `[distance, heads]`; unread without a bias.
    pub bias: BufferArg,
    /// The query of each beam, `[beams]`.
    pub queries: BufferArg,
    /// Tokens of each prompt, `[queries]`.
    pub lengths: BufferArg,
    /// Slots of each beam's generated tokens, oldest first, `[beams, steps]`.
    pub history: BufferArg,
}

/// Softmax-weighted sum of values for the current token of each beam into `out`, `[beams, heads, dim]`.
///
/// A beam with nothing to attend to gives zeros. Time `beams * heads * dim * (prompt + steps)`; each key
/// and value is read once per beam, and from the second beam of a query on out of the cache.
///
/// # Panics
/// Where `kv_heads` does not divide `heads`.
pub fn attend(
    client: &Client,
    inputs: AttendInputs,
    out: BufferArg,
    dtype: ElemType,
    size: AttendSize,
    with_bias: bool,
    units: Units,
) {
    assert_eq!(
        size.heads % size.kv_heads,
        0,
        "attend: heads per key-value head"
    );
    if size.beams == 0 {
        return;
    }
    // SAFETY: one cube per beam and head; the caller's slots and queries exist.
    unsafe {
        attend_kernel::launch_unchecked(
            client,
            CubeCount::new_2d(size.beams as u32, size.heads as u32),
            units.cube_dim(),
            inputs.q,
            inputs.prompt_k,
            inputs.prompt_v,
            inputs.step_k,
            inputs.step_v,
            inputs.bias,
            inputs.queries,
            inputs.lengths,
            inputs.history,
            out,
            size.padded as u32,
            size.steps as u32,
            size.heads as u32,
            (size.heads / size.kv_heads) as u32,
            with_bias,
            size.dim,
            size.capacity(),
            units.get(),
            dtype,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cube::testing::{client, random, upload, values};

    /// One beam and head in 64-bit floats.
    fn naive(q: &[f32], keys: &[Vec<f32>], vals: &[Vec<f32>], bias: &[f32]) -> Vec<f64> {
        let dot = |k: &[f32]| {
            q.iter()
                .zip(k)
                .map(|(a, b)| f64::from(*a) * f64::from(*b))
                .sum::<f64>()
        };
        let shares: Vec<f64> = keys
            .iter()
            .zip(bias)
            .map(|(k, b)| (dot(k) + f64::from(*b)).exp())
            .collect();
        let sum: f64 = shares.iter().sum();
        (0..q.len())
            .map(|i| {
                shares
                    .iter()
                    .zip(vals)
                    .map(|(s, v)| s * f64::from(v[i]))
                    .sum::<f64>()
                    / sum.max(1e-300)
            })
            .collect()
    }

    #[test]
    fn weighted_sums_equal_the_formula() {
        let client = client();
        for (kv_heads, group, dim, padded, steps, with_bias, units) in [
            (1, 1, 1, 1, 1, false, 1),
            (2, 3, 5, 7, 3, false, 1),
            (1, 2, 4, 66, 2, false, 2),
            (2, 1, 3, 0, 9, true, 4),
            (2, 2, 2, 5, 0, false, 4),
        ] {
            let heads = kv_heads * group;
            let lengths: Vec<i32> = [padded as i32, (padded / 2) as i32, 0].to_vec();
            let queries: Vec<i32> = vec![0, 1, 1, 2, 0];
            let (beams, slots) = (queries.len(), 11);
            let history: Vec<i32> = (0..beams * steps).map(|i| (i * 7 % slots) as i32).collect();
            let size = AttendSize {
                beams,
                heads,
                kv_heads,
                dim,
                padded,
                steps,
            };
            let prompt = (3 * kv_heads * padded * dim).max(1);
            let data = [
                random(beams * heads * dim, 1),
                random(prompt, 2),
                random(prompt, 3),
                random(slots * kv_heads * dim, 4),
                random(slots * kv_heads * dim, 5),
                random(heads * steps.max(1), 6),
            ];
            let ints = |of: &[i32]| {
                let of = if of.is_empty() { &[0][..] } else { of };
                // SAFETY: the buffer holds as many values.
                unsafe {
                    BufferArg::from_raw_parts(client.create_from_slice(i32::as_bytes(of)), of.len())
                }
            };
            // SAFETY: the buffers hold as many values.
            let floats =
                |of: &Vec<f32>| unsafe { BufferArg::from_raw_parts(upload(&client, of), of.len()) };
            let inputs = AttendInputs {
                q: floats(&data[0]),
                prompt_k: floats(&data[1]),
                prompt_v: floats(&data[2]),
                step_k: floats(&data[3]),
                step_v: floats(&data[4]),
                bias: floats(&data[5]),
                queries: ints(&queries),
                lengths: ints(&lengths),
                history: ints(&history),
            };
            let out = client.empty(beams * heads * dim * size_of::<f32>());
            // SAFETY: the buffer holds as many values.
            let out_arg = unsafe { BufferArg::from_raw_parts(out.clone(), beams * heads * dim) };
            attend(
                &client,
                inputs,
                out_arg,
                f32::elem_type_native(),
                size,
                with_bias,
                Units::new(units),
            );
            let got = values(&client, out);
            for beam in 0..beams {
                for head in 0..heads {
                    let (query, kv) = (queries[beam] as usize, head / group);
                    let from = |data: &[f32], row: usize| data[row * dim..][..dim].to_vec();
                    let rows = |prompt: &[f32], step: &[f32]| -> Vec<Vec<f32>> {
                        let of_prompt = (0..lengths[query] as usize)
                            .map(|at| from(prompt, (query * padded + at) * kv_heads + kv));
                        let of_steps = (0..steps).map(|at| {
                            from(step, history[beam * steps + at] as usize * kv_heads + kv)
                        });
                        of_prompt.chain(of_steps).collect()
                    };
                    let (keys, vals) = (rows(&data[1], &data[3]), rows(&data[2], &data[4]));
                    let bias: Vec<f32> = (0..keys.len())
                        .map(|at| {
                            if with_bias {
                                data[5][(steps - 1 - at) * heads + head]
                            } else {
                                0.0
                            }
                        })
                        .collect();
                    let at = (beam * heads + head) * dim;
                    let expected = naive(&data[0][at..][..dim], &keys, &vals, &bias);
                    for (got, expected) in got[at..][..dim].iter().zip(expected) {
                        assert!(
                            (f64::from(*got) - expected).abs() < 1e-5,
                            "{got} is not {expected}: {size:?}"
                        );
                    }
                }
            }
        }
    }
}
