//! Losses of representations: queries `[b, w]`, passages of the pool `[p, w]`, w terms or dimensions.

use burn::tensor::{Int, Tensor, TensorData, activation};
use genret_kernels as kernels;

/// Which passages of the pool belong to which query.
pub(super) struct Pool {
    /// Per query the places of its own passages, the positive first; equally many for all.
    pub(super) groups: Vec<Vec<usize>>,
    /// (query, passage) places that are no negatives: other passages relevant to the query.
    pub(super) masked: Vec<(usize, usize)>,
    /// Passages in all.
    pub(super) len: usize,
}

/// Added to the score of a masked passage; its probability is then 0.
const MASKED: f32 = -1e30;

impl Pool {
    /// Inner products of every query with every passage, divided by `temperature`: `[b, p]`.
    pub(super) fn scores(
        &self,
        queries: Tensor<2>,
        passages: Tensor<2>,
        temperature: f64,
    ) -> Tensor<2> {
        kernels::linear(queries, passages).div_scalar(temperature)
    }

    /// Cross-entropy of each query's positive over the pool without the masked, mean over queries.
    pub(super) fn contrastive(&self, scores: Tensor<2>) -> Tensor<1> {
        let queries = self.groups.len();
        let mut mask = vec![0f32; queries * self.len];
        for &(query, passage) in &self.masked {
            mask[query * self.len + passage] = MASKED;
        }
        let mask = TensorData::new(mask, [queries, self.len]);
        let scores = scores.clone() + Tensor::from_data(mask, &scores.device());
        let positives = self.places(1, &scores);
        let log_probs = activation::log_softmax(scores, 1);
        log_probs.gather(1, positives).mean().neg()
    }

    /// Scores of each query's own passages: `[b, group]`.
    pub(super) fn own(&self, scores: Tensor<2>) -> Tensor<2> {
        let places = self.places(self.groups[0].len(), &scores);
        scores.gather(1, places)
    }

    /// The first `count` places of every group, `[b, count]`.
    fn places(&self, count: usize, like: &Tensor<2>) -> Tensor<2, Int> {
        let places = self.groups.iter().flat_map(|g| &g[..count]);
        let places: Vec<i32> = places.map(|&place| place as i32).collect();
        Tensor::from_data(
            TensorData::new(places, [self.groups.len(), count]),
            &like.device(),
        )
    }
}

/// KL(softmax(teacher) || softmax(own)) over each query's own passages `[b, group]`, mean over queries.
pub(super) fn kl(own: Tensor<2>, teacher: Tensor<2>) -> Tensor<1> {
    let queries = own.dims()[0];
    let wanted = activation::log_softmax(teacher, 1);
    let difference = wanted.clone() - activation::log_softmax(own, 1);
    (wanted.exp() * difference).sum().div_scalar(queries as f64)
}

/// Mean of ((s+ - s-) - (t+ - t-))^2 over queries and their negatives (Hofstaetter et al. 2020).
pub(super) fn margin_mse(own: Tensor<2>, teacher: Tensor<2>) -> Tensor<1> {
    let margins = |scores: Tensor<2>| {
        let [queries, group] = scores.dims();
        let positive = scores.clone().slice([0..queries, 0..1]);
        positive - scores.slice([0..queries, 1..group])
    };
    (margins(own) - margins(teacher)).powi_scalar(2).mean()
}

/// Sum over terms of (mean over rows of |x|)^2 (FLOPS, Paria et al. 2020).
pub(super) fn flops(x: Tensor<2>) -> Tensor<1> {
    x.abs().mean_dim(0).powi_scalar(2).sum()
}

/// Mean over rows of the sum over terms of |x|.
pub(super) fn l1(x: Tensor<2>) -> Tensor<1> {
    let rows = x.dims()[0];
    x.abs().sum().div_scalar(rows as f64)
}
