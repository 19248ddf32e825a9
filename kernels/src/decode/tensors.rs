//! The beam cache in plain tensors: any device, and what tests compare the fused path with.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData, activation};

use super::{Beams, CacheShape, Positions};
use crate::reference::repeat_heads;

/// Keys and values of one layer, keys as the scores see them.
#[derive(Clone, Default)]
pub(super) struct TensorLayer {
    /// `[queries, kv_heads, padded, dim]`, keys and values.
    prompt: Option<(Tensor<4>, Tensor<4>)>,
    /// For each step `[beams, kv_heads, 1, dim]`.
    step_k: Vec<Tensor<4>>,
    step_v: Vec<Tensor<4>>,
}

impl TensorLayer {
    pub(super) fn set_prompt(
        &mut self,
        shape: &CacheShape,
        positions: &Positions,
        padded: usize,
        k_nd: Tensor<2>,
        v_nd: Tensor<2>,
    ) {
        let queries = k_nd.dims()[0] / padded.max(1);
        let split = |x: Tensor<2>| {
            x.reshape([queries, padded, shape.kv_heads, shape.head_dim])
                .swap_dims(1, 2)
        };
        let mut k = split(k_nd);
        if let Positions::Rotary(rotary) = positions {
            let cos = rotary.cos.clone().narrow(0, 0, padded).unsqueeze();
            let sin = rotary.sin.clone().narrow(0, 0, padded).unsqueeze();
            k = turn(k, cos, sin);
        }
        self.prompt = Some((k, split(v_nd)));
    }

    /// Attention of the current tokens to history and, with rotary positions, to their prompts; keys
    /// and values of the tokens are kept.
    pub(super) fn attend(
        &mut self,
        beams: &Beams<'_>,
        positions: &Positions,
        [q_bd, k_bd, v_bd]: [Tensor<2>; 3],
    ) -> Tensor<2> {
        assert_eq!(
            self.step_k.len() + 1,
            beams.steps,
            "decode_attention: once per layer and step"
        );
        let device = q_bd.device();
        let (count, steps) = (beams.positions.len(), beams.steps);
        let CacheShape {
            heads,
            kv_heads,
            head_dim,
            ..
        } = *beams.shape;
        let mut q = q_bd.reshape([count, heads, 1, head_dim]);
        let mut k = k_bd.reshape([count, kv_heads, 1, head_dim]);
        if let Positions::Rotary(rotary) = positions {
            let at = indices(beams.positions.iter().map(|&p| p as i64), &device);
            let table = |of: &Tensor<2>| {
                of.clone()
                    .select(0, at.clone())
                    .reshape([count, 1, 1, head_dim])
            };
            let (cos, sin) = (table(&rotary.cos), table(&rotary.sin));
            q = turn(q, cos.clone(), sin.clone()) / (head_dim as f64).sqrt();
            k = turn(k, cos, sin);
        }
        self.step_k.push(k);
        self.step_v
            .push(v_bd.reshape([count, kv_heads, 1, head_dim]));
        let of_beams = |steps: &[Tensor<4>]| -> Vec<Tensor<4>> {
            let rows = |step: usize| {
                let rows = beams.ancestors.iter().skip(step).step_by(beams.steps);
                indices(rows.map(|&row| i64::from(row)), &device)
            };
            let steps = steps.iter().enumerate();
            steps
                .map(|(step, made)| made.clone().select(0, rows(step)))
                .collect()
        };
        let (keys, values) = (of_beams(&self.step_k), of_beams(&self.step_v));
        match positions {
            Positions::Rotary(_) => {
                let (prompt_k, prompt_v, hidden) = self.prompts(beams, &device);
                let all = |prompt, steps: Vec<Tensor<4>>| {
                    Tensor::cat(std::iter::once(prompt).chain(steps).collect(), 2)
                };
                let seen = Tensor::<4>::zeros([count, 1, 1, steps], &device).bool();
                let hidden = Tensor::cat(vec![hidden, seen], 3);
                let k = repeat_heads(all(prompt_k, keys), heads);
                let v = repeat_heads(all(prompt_v, values), heads);
                weighted(q.matmul(k.swap_dims(2, 3)), v, Some(hidden))
            }
            Positions::Relative(bias_th) => {
                let k = repeat_heads(Tensor::cat(keys, 2), heads);
                let v = repeat_heads(Tensor::cat(values, 2), heads);
                let bias = (**bias_th)
                    .clone()
                    .narrow(0, 0, steps)
                    .flip([0])
                    .transpose();
                let bias = bias.reshape([1, heads, 1, steps]);
                weighted(q.matmul(k.swap_dims(2, 3)) + bias, v, None)
            }
        }
    }

    /// Attention of the current tokens to their prompts alone.
    pub(super) fn attend_to_prompts(&self, beams: &Beams<'_>, q_bd: Tensor<2>) -> Tensor<2> {
        let device = q_bd.device();
        let (heads, head_dim) = (beams.shape.heads, beams.shape.head_dim);
        let q = q_bd.reshape([beams.queries.len(), heads, 1, head_dim]);
        let (k, v, hidden) = self.prompts(beams, &device);
        let (k, v) = (repeat_heads(k, heads), repeat_heads(v, heads));
        let out = weighted(q.matmul(k.swap_dims(2, 3)), v, Some(hidden));
        let empty = beams.queries.iter().map(|&query| beams.lengths[query] == 0);
        let empty = TensorData::new(empty.collect(), [beams.queries.len(), 1]);
        let empty = Tensor::<2, Bool>::from_data(empty, &device).expand(out.dims());
        out.mask_fill(empty, 0.0)
    }

    /// Keys and values of the prompt of each beam, and which of them are padding, `[beams, 1, 1,
    /// padded]`.
    fn prompts(
        &self,
        beams: &Beams<'_>,
        device: &Device,
    ) -> (Tensor<4>, Tensor<4>, Tensor<4, Bool>) {
        let (k, v) = self
            .prompt
            .clone()
            .expect("decode_attention: `set_prompt` comes first");
        let padded = k.dims()[2];
        let of_query = indices(beams.queries.iter().map(|&query| query as i64), device);
        let hidden = beams.queries.iter().flat_map(|&query| {
            let length = beams.lengths[query];
            (0..padded).map(move |key| key >= length)
        });
        let shape = [beams.queries.len(), 1, 1, padded];
        let hidden = Tensor::from_data(TensorData::new(hidden.collect(), shape), device);
        (k.select(0, of_query.clone()), v.select(0, of_query), hidden)
    }
}

/// Softmax of scores `[beams, heads, 1, keys]` and weighted sum of values, `[beams, heads * dim]`.
fn weighted(scores: Tensor<4>, v: Tensor<4>, hidden: Option<Tensor<4, Bool>>) -> Tensor<2> {
    let [beams, heads, _, keys] = scores.dims();
    let dim = v.dims()[3];
    let scores = match hidden {
        Some(hidden) => scores.mask_fill(hidden.expand([beams, heads, 1, keys]), -1.0e9),
        None => scores,
    };
    activation::softmax(scores, 3)
        .matmul(v)
        .reshape([beams, heads * dim])
}

fn indices(values: impl Iterator<Item = i64>, device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = values.collect();
    let len = values.len();
    Tensor::from_data(TensorData::new(values, [len]), device)
}

/// Turns the last dimension by tables that broadcast over the others.
fn turn(x: Tensor<4>, cos: Tensor<4>, sin: Tensor<4>) -> Tensor<4> {
    let dim = x.dims()[3];
    let first = x.clone().narrow(3, 0, dim / 2);
    let second = x.clone().narrow(3, dim / 2, dim / 2);
    x * cos + Tensor::cat(vec![second.neg(), first], 3) * sin
}
