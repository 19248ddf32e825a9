//! Output projection and the largest logit of each term over a text, in chunks: the `[n, v]` logits are
//! never held whole.
//!
//! Forward takes some texts and some terms at a time: a product, then one pass over it that keeps the
//! maximum and where it stood. What `ln(1 + relu(.))` cuts off has no gradient, so backward visits only the
//! terms that are left: `g w` is added to one hidden state and `g h` to one row of the weight. A
//! representation of 200 terms costs 200 such additions where the product's own backward would cost
//! `length * v`.

use std::ops::Range;
use std::sync::Arc;

use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::flex::{dims, is_fused, tensor, values};
use crate::product::{Matrix, Threads, Update, multiply};
use crate::simd::{BLOCK, exp, vectorised};

/// Rows of hidden states in one product, where no text is longer.
const CHUNK_ROWS: usize = 256;

/// Logits that a thread holds at a time (1 MiB, within its second-level cache), as far as that leaves at least
/// [`MIN_TERMS`] terms.
const CHUNK_LOGITS: usize = 1 << 18;
const MIN_TERMS: usize = 64;

/// Terms whose maxima are kept in the first-level cache while a text's rows pass by.
const TILE: usize = 1024;

/// Rows of the weight whose gradient one thread writes at a time.
const WEIGHT_ROWS: usize = 64;

/// Rows of the weight that all texts visit before any goes on, so that they are read from memory once.
const SHARED_ROWS: usize = 1024;

/// `ln(1 + relu(scale * max logit))` of every term over each text, `[texts, v]` (SPLADE, Formal et al.
/// 2021).
///
/// Logits are `hidden W^T` for `hidden` of `[n, d]` and a weight of `[v, d]`; text `i` is the rows
/// `texts[i]` of `hidden`, and its value is zero where it has none. Rows outside of all texts are not
/// computed. Of equal logits the first has the gradient; a term whose largest logit is not positive has
/// none. A NaN among a term's logits makes its value NaN.
///
/// Memory on the fused path beside values and gradients: 1 MiB of logits and a copy of 256 rows of `hidden` a thread, and with
/// autodiff 4 bytes per value from forward to backward. Elsewhere the logits are held.
///
/// # Panics
/// Where widths disagree, `scale` is not positive, or texts overlap, are not in order or leave `hidden`.
pub fn sparse_pool(
    hidden_nd: Tensor<2>,
    weight_vd: Tensor<2>,
    texts: &[Range<usize>],
    scale: f32,
) -> Tensor<2> {
    assert_eq!(
        hidden_nd.dims()[1],
        weight_vd.dims()[1],
        "sparse_pool: width of hidden and of the weight"
    );
    assert!(scale > 0.0, "sparse_pool: scale {scale}");
    let mut end = 0;
    for text in texts {
        assert!(
            end <= text.start && text.start <= text.end,
            "sparse_pool: texts in order, {text:?} after row {end}"
        );
        end = text.end;
    }
    assert!(
        end <= hidden_nd.dims()[0],
        "sparse_pool: texts end at row {end}"
    );
    #[cfg(feature = "cube")]
    if crate::cube::is_cube(&hidden_nd.device()) {
        let bounds = texts
            .iter()
            .flat_map(|text| [text.start as u32, text.end as u32]);
        let texts = crate::cube::pooling::Texts {
            bounds: Arc::new(bounds.collect()),
            scale,
        };
        return crate::cube::pooling::sparse_pool(hidden_nd, weight_vd, texts);
    }
    if !(is_fused(&hidden_nd) && is_fused(&weight_vd)) {
        return crate::reference::sparse_pool(hidden_nd, weight_vd, texts, scale);
    }
    Tensor::from_dispatch(Dispatch::pooled_logits(
        hidden_nd.into_dispatch(),
        weight_vd.into_dispatch(),
        Pool {
            texts: texts.into(),
            scale,
        },
    ))
}

/// What is pooled, and how.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    texts: Arc<[Range<usize>]>,
    scale: f32,
}

#[backend_extension(Autodiff, Flex)]
pub(crate) trait PooledLogits: Backend {
    fn pooled_logits(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        pool: Pool,
    ) -> FloatTensor<Self>;
}

impl PooledLogits for Flex {
    fn pooled_logits(hidden: FlexTensor, weight: FlexTensor, pool: Pool) -> FlexTensor {
        forward(&hidden, &weight, &pool, None)
    }
}

impl<C: CheckpointStrategy> PooledLogits for Autodiff<Flex, C> {
    fn pooled_logits(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        pool: Pool,
    ) -> FloatTensor<Self> {
        match PoolBackward
            .prepare::<C>([hidden.node(), weight.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let nodes = (
                    weight.is_tracked().then(|| prep.checkpoint(&hidden)),
                    hidden.is_tracked().then(|| prep.checkpoint(&weight)),
                );
                let mut places = Vec::new();
                let rows = dims::<2>(hidden.primitive())[0];
                let output = forward(
                    hidden.primitive(),
                    weight.primitive(),
                    &pool,
                    Some(&mut places),
                );
                let state = Forward {
                    pool,
                    rows,
                    output: output.clone(),
                    places,
                    hidden: nodes.0,
                    weight: nodes.1,
                };
                prep.finish(state, output)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(forward(hidden.primitive(), weight.primitive(), &pool, None))
            }
        }
    }
}

#[derive(Debug)]
struct PoolBackward;

/// What the backward pass needs of the forward pass.
#[derive(Clone, Debug)]
struct Forward {
    pool: Pool,
    /// Rows of the hidden states.
    rows: usize,
    output: FlexTensor,
    /// The row of each value's largest logit, counted from the beginning of its text.
    places: Vec<u32>,
    /// Present where the weight needs a gradient.
    hidden: Option<NodeId>,
    /// Present where the hidden states need a gradient.
    weight: Option<NodeId>,
}

impl Backward<Flex, 2> for PoolBackward {
    type State = Forward;

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let [hidden_node, weight_node] = ops.parents;
        let state = ops.state;
        let upstream = grads.consume::<Flex>(&ops.node).to_contiguous();
        let [_, vocab] = dims(&upstream);
        let mut of_logits = values(&upstream).to_vec();
        drop(upstream);
        let output = state.output.to_contiguous();
        of_logits
            .par_chunks_mut(BLOCK)
            .zip(values(&output).par_chunks(BLOCK))
            .for_each(|(gradient, output)| through_log(gradient, output, state.pool.scale));
        let sparse = Sparse {
            texts: &state.pool.texts,
            vocab,
            of_logits: &of_logits,
            places: &state.places,
        };
        if let (Some(node), Some(weight)) = (hidden_node, state.weight) {
            let weight = checkpointer
                .retrieve_node_output::<FlexTensor>(weight)
                .to_contiguous();
            let [_, width] = dims(&weight);
            let gradient = sparse.of_hidden(values(&weight), state.rows, width);
            grads.register::<Flex>(node.id, tensor(gradient, [state.rows, width]));
        }
        if let (Some(node), Some(hidden)) = (weight_node, state.hidden) {
            let hidden = checkpointer
                .retrieve_node_output::<FlexTensor>(hidden)
                .to_contiguous();
            let [_, width] = dims(&hidden);
            let gradient = sparse.of_weight(values(&hidden), width);
            grads.register::<Flex>(node.id, tensor(gradient, [vocab, width]));
        }
    }
}

/// The values, and where `places` is given the row of each value's largest logit within its text.
fn forward(
    hidden: &FlexTensor,
    weight: &FlexTensor,
    pool: &Pool,
    mut places: Option<&mut Vec<u32>>,
) -> FlexTensor {
    let [vocab, width] = dims(weight);
    let (hidden, weight) = (hidden.to_contiguous(), weight.to_contiguous());
    let (hidden, weight) = (values(&hidden), values(&weight));
    let texts = &pool.texts;
    let mut output = vec![f32::NEG_INFINITY; texts.len() * vocab];
    if let Some(places) = &mut places {
        places.resize(output.len(), 0);
    }
    let groups = groups(texts);
    // A thread per group of texts; a lone group is shared out within its products.
    let threads = match groups.len() {
        1 => Threads::All,
        _ => Threads::One,
    };
    let (mut maxima, mut rest) = (&mut output[..], places.map(|places| &mut places[..]));
    let mut work = Vec::with_capacity(groups.len());
    for group in groups {
        let len = group.len() * vocab;
        let own = maxima
            .split_off_mut(..len)
            .expect("as many values as texts");
        let places = (rest.as_mut()).map(|rest| rest.split_off_mut(..len).expect("as many places"));
        work.push((group, own, places));
    }
    work.into_par_iter()
        .for_each_init(Vec::new, |logits, (group, maxima, places)| {
            let group = Group {
                texts: &texts[group],
                hidden,
                weight,
                width,
            };
            group.pool(logits, maxima, places, threads);
        });
    output
        .par_chunks_mut(BLOCK)
        .for_each(|block| through(block, pool.scale));
    tensor(output, [texts.len(), vocab])
}

/// Texts that are pooled at once.
struct Group<'a> {
    texts: &'a [Range<usize>],
    hidden: &'a [f32],
    weight: &'a [f32],
    width: usize,
}

impl Group<'_> {
    /// Raises `maxima` (`[texts, v]`) to the largest logits, and notes their rows in `places`; `logits` is scratch.
    fn pool(
        &self,
        logits: &mut Vec<f32>,
        maxima: &mut [f32],
        mut places: Option<&mut [u32]>,
        threads: Threads,
    ) {
        let (width, vocab) = (self.width, maxima.len() / self.texts.len());
        let rows: Vec<f32> = (self.texts.iter())
            .flat_map(|text| &self.hidden[text.start * width..text.end * width])
            .copied()
            .collect();
        let count = rows.len() / width;
        let rows = Matrix::new(&rows, count, width, width);
        let chunk = (CHUNK_LOGITS / count.max(1)).max(MIN_TERMS).min(vocab);
        for first in (0..vocab).step_by(chunk) {
            let terms = first..(first + chunk).min(vocab);
            logits.resize(count * terms.len(), 0.0);
            let weight = Matrix::new(&self.weight[first * width..], terms.len(), width, width);
            multiply(
                logits,
                terms.len(),
                Update::Replace,
                1.0,
                rows,
                weight.transposed(),
                threads,
            );
            let mut begin = 0;
            for (number, text) in self.texts.iter().enumerate() {
                let end = begin + text.len() * terms.len();
                let own = number * vocab + terms.start..number * vocab + terms.end;
                let maxima = &mut maxima[own.clone()];
                match &mut places {
                    Some(places) => {
                        maxima_and_places(&logits[begin..end], maxima, &mut places[own]);
                    }
                    None => maxima_alone(&logits[begin..end], maxima),
                }
                begin = end;
            }
        }
    }
}

/// Runs of texts with at most [`CHUNK_ROWS`] rows, or of one text.
fn groups(texts: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut rows = 0;
    for (i, text) in texts.iter().enumerate() {
        rows += text.len();
        match groups.last_mut() {
            Some(group) if rows <= CHUNK_ROWS => group.end = i + 1,
            _ => {
                groups.push(i..i + 1);
                rows = text.len();
            }
        }
    }
    groups
}

/// Largest logits become values.
fn through(block: &mut [f32], scale: f32) {
    for x in block {
        // A NaN is not at most zero, and stays.
        *x = if *x <= 0.0 { 0.0 } else { (scale * *x).ln_1p() };
    }
}

vectorised! {
    /// Raises `maxima` to the largest of each column of `logits` (as wide as `maxima`), and notes the
    /// first row in which it stands.
    fn maxima_and_places(logits: &[f32], maxima: &mut [f32], places: &mut [u32]) {
        let terms = maxima.len();
        for first in (0..terms).step_by(TILE) {
            let tile = first..(first + TILE).min(terms);
            let (maxima, places) = (&mut maxima[tile.clone()], &mut places[tile.clone()]);
            for (row, logits) in logits.chunks_exact(terms).enumerate() {
                for ((x, max), place) in logits[tile.clone()].iter().zip(&mut *maxima).zip(&mut *places) {
                    // The first NaN is taken, and nothing is larger than it.
                    let taken = *x > *max || x.is_nan();
                    *place = if taken { row as u32 } else { *place };
                    *max = if taken { *x } else { *max };
                }
            }
        }
    }
}

vectorised! {
    /// [`maxima_and_places`] without the places.
    fn maxima_alone(logits: &[f32], maxima: &mut [f32]) {
        let terms = maxima.len();
        for first in (0..terms).step_by(TILE) {
            let tile = first..(first + TILE).min(terms);
            let maxima = &mut maxima[tile.clone()];
            for logits in logits.chunks_exact(terms) {
                for (x, max) in logits[tile.clone()].iter().zip(&mut *maxima) {
                    *max = if *x > *max || x.is_nan() { *x } else { *max };
                }
            }
        }
    }
}

vectorised! {
    /// Gradients of values become gradients of the largest logits: `1 / (1 + s x)` is `exp(-value)`.
    fn through_log(gradient: &mut [f32], output: &[f32], scale: f32) {
        for (g, y) in gradient.iter_mut().zip(output) {
            *g = if *y <= 0.0 { 0.0 } else { *g * scale * exp(-*y) };
        }
    }
}

/// Gradients of the largest logits, most of them zero.
struct Sparse<'a> {
    texts: &'a [Range<usize>],
    vocab: usize,
    /// `[texts, vocab]`.
    of_logits: &'a [f32],
    /// `[texts, vocab]`.
    places: &'a [u32],
}

impl Sparse<'_> {
    /// Gradient of the hidden states; each text's rows are written by one thread, in order of the terms.
    fn of_hidden(&self, weight: &[f32], rows: usize, width: usize) -> Vec<f32> {
        let mut gradient = vec![0.0; rows * width];
        let mut parts = Vec::with_capacity(self.texts.len());
        let (mut rest, mut at) = (&mut gradient[..], 0);
        for text in self.texts {
            let (_, from) = rest.split_at_mut((text.start - at) * width);
            let (part, after) = from.split_at_mut(text.len() * width);
            parts.push(part);
            (rest, at) = (after, text.end);
        }
        for (block, weight) in weight.chunks(SHARED_ROWS * width).enumerate() {
            let terms = block * SHARED_ROWS..(block * SHARED_ROWS + weight.len() / width);
            parts.par_iter_mut().enumerate().for_each(|(text, part)| {
                let at = text * self.vocab + terms.start..text * self.vocab + terms.end;
                add_rows(part, &self.of_logits[at.clone()], &self.places[at], weight);
            });
        }
        gradient
    }

    /// Gradient of the weight; each row is written by one thread, in order of the texts.
    fn of_weight(&self, hidden: &[f32], width: usize) -> Vec<f32> {
        let mut gradient = vec![0.0; self.vocab * width];
        gradient
            .par_chunks_mut(WEIGHT_ROWS * width)
            .enumerate()
            .for_each(|(block, part)| {
                let terms = block * WEIGHT_ROWS..(block * WEIGHT_ROWS + part.len() / width);
                for (text, rows) in self.texts.iter().enumerate() {
                    let at = text * self.vocab + terms.start..text * self.vocab + terms.end;
                    let hidden = &hidden[rows.start * width..rows.end * width];
                    gather_rows(part, &self.of_logits[at.clone()], &self.places[at], hidden);
                }
            });
        gradient
    }
}

vectorised! {
    /// Row `places[i]` of `out` has row `i` of `weight` added, `factors[i]` times.
    fn add_rows(out: &mut [f32], factors: &[f32], places: &[u32], weight: &[f32]) {
        let width = weight.len() / factors.len();
        for ((&factor, &place), weight) in factors.iter().zip(places).zip(weight.chunks_exact(width)) {
            if factor != 0.0 {
                add_scaled(&mut out[place as usize * width..][..width], weight, factor);
            }
        }
    }
}

vectorised! {
    /// Row `i` of `out` has row `places[i]` of `hidden` added, `factors[i]` times.
    fn gather_rows(out: &mut [f32], factors: &[f32], places: &[u32], hidden: &[f32]) {
        let width = out.len() / factors.len();
        for ((&factor, &place), out) in factors.iter().zip(places).zip(out.chunks_exact_mut(width)) {
            if factor != 0.0 {
                add_scaled(out, &hidden[place as usize * width..][..width], factor);
            }
        }
    }
}

#[inline(always)]
fn add_scaled(out: &mut [f32], x: &[f32], factor: f32) {
    for (total, x) in out.iter_mut().zip(x) {
        *total = x.mul_add(factor, *total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_grouped_by_rows() {
        let texts = [
            0..CHUNK_ROWS / 2,
            CHUNK_ROWS / 2..CHUNK_ROWS - 6,
            CHUNK_ROWS - 6..CHUNK_ROWS + 24,
            CHUNK_ROWS + 24..4000,
            4000..4000,
            4000..4001,
        ];
        assert_eq!(groups(&texts), [0..2, 2..3, 3..4, 4..6]);
        assert_eq!(groups(&[]), Vec::<Range<usize>>::new());
    }

    #[test]
    fn of_equal_logits_the_first_is_taken() {
        let (mut maxima, mut places) = (vec![f32::NEG_INFINITY; 3], vec![0; 3]);
        let logits = [1.0, -1.0, 2.0, 3.0, -1.0, f32::NAN, 3.0, -2.0, 5.0];
        maxima_and_places(&logits, &mut maxima, &mut places);
        assert_eq!(
            (maxima[0], maxima[1], maxima[2].is_nan()),
            (3.0, -1.0, true)
        );
        assert_eq!(places, [1, 0, 1]);
    }
}
