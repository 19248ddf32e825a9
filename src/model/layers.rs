//! What both families are made of: matrices, gains, embeddings, their initial values, batches.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use genret_kernels as kernels;
use rand::RngExt;
use rayon::prelude::*;

use super::lora::Adapter;
use crate::rng;
use crate::types::TokenId;

/// A matrix `[out, in]` and an optional bias.
#[derive(Module, Debug)]
pub(super) struct Linear {
    pub(super) weight: Param<Tensor<2>>,
    pub(super) bias: Option<Param<Tensor<1>>>,
    pub(super) adapter: Option<Adapter>,
}

/// A vector of gains for RMSNorm.
#[derive(Module, Debug)]
pub(super) struct Norm {
    pub(super) weight: Param<Tensor<1>>,
}

/// One row per token.
#[derive(Module, Debug)]
pub(super) struct Embedding {
    pub(super) weight: Param<Tensor<2>>,
}

impl Linear {
    /// `[n, in]` to `[n, out]`.
    pub(super) fn forward(&self, x_nd: Tensor<2>) -> Tensor<2> {
        let adapted = self.adapter.as_ref().map(|a| a.forward(x_nd.clone()));
        let mut y = kernels::linear(x_nd, self.weight.val());
        if let Some(bias) = &self.bias {
            y = y + bias.val().unsqueeze();
        }
        match adapted {
            Some(adapted) => y + adapted,
            None => y,
        }
    }
}

impl Norm {
    pub(super) fn forward(&self, x_nd: Tensor<2>, epsilon: f64) -> Tensor<2> {
        kernels::rms_norm(x_nd, self.weight.val(), epsilon)
    }
}

/// A batch of token sequences, padded on the right to the longest.
#[derive(Clone, Debug)]
pub struct Sequences {
    /// Row-major `[batch, seq]`, padded with token 0.
    pub tokens: Vec<TokenId>,
    /// Real length of each sequence.
    pub lengths: Vec<usize>,
    /// Length of the longest.
    pub seq: usize,
}

impl Sequences {
    /// Pads `rows` to a common length.
    pub fn pad<R: AsRef<[TokenId]>>(rows: &[R]) -> Self {
        let lengths: Vec<usize> = rows.iter().map(|r| r.as_ref().len()).collect();
        let seq = lengths.iter().copied().max().unwrap_or(0);
        let mut tokens = vec![TokenId(0); rows.len() * seq];
        for (padded, row) in tokens.chunks_mut(seq.max(1)).zip(rows) {
            padded[..row.as_ref().len()].copy_from_slice(row.as_ref());
        }
        Self {
            tokens,
            lengths,
            seq,
        }
    }
}

/// Token ids as an integer tensor `[n]`.
pub(super) fn id_tensor(tokens: &[TokenId], device: &Device) -> Tensor<1, Int> {
    let ids: Vec<i32> = tokens.iter().map(|t| t.0 as i32).collect();
    let len = ids.len();
    Tensor::from_data(TensorData::new(ids, [len]), device)
}

/// Draws initial values: one independent stream per parameter name.
pub(super) struct Initializer<'a> {
    /// Without a seed matrices are 0, for weights that are about to be loaded.
    pub(super) seed: Option<u64>,
    pub(super) device: &'a Device,
}

impl Initializer<'_> {
    /// Values by row and place from `draw`, which is given a row's stream and fills the row.
    fn matrix(
        &self,
        name: &str,
        shape: [usize; 2],
        draw: impl Fn(&mut rng::Stream, &mut [f32]) + Sync,
    ) -> Param<Tensor<2>> {
        let [rows, columns] = shape;
        let mut values = vec![0f32; rows * columns];
        if let Some(seed) = self.seed {
            values
                .par_chunks_mut(columns)
                .enumerate()
                .for_each(|(row, chunk)| {
                    draw(&mut rng::stream(seed, name, &[row as u64]), chunk);
                });
        }
        Param::from_data(TensorData::new(values, shape), self.device)
    }

    pub(super) fn normal(&self, name: &str, shape: [usize; 2], std: f64) -> Param<Tensor<2>> {
        self.matrix(name, shape, |stream, row| {
            for pair in row.chunks_mut(2) {
                // Box-Muller; 1 - u lies in (0, 1].
                let (u, w): (f64, f64) = (1.0 - stream.random::<f64>(), stream.random());
                let (radius, angle) =
                    ((-2.0 * u.ln()).sqrt() * std, 2.0 * std::f64::consts::PI * w);
                pair[0] = (radius * angle.cos()) as f32;
                if let Some(second) = pair.get_mut(1) {
                    *second = (radius * angle.sin()) as f32;
                }
            }
        })
    }

    /// Uniform in +-`bound`.
    pub(super) fn uniform(&self, name: &str, shape: [usize; 2], bound: f64) -> Param<Tensor<2>> {
        self.matrix(name, shape, |stream, row| {
            for value in row {
                *value = ((2.0 * stream.random::<f64>() - 1.0) * bound) as f32;
            }
        })
    }

    pub(super) fn linear(&self, name: &str, shape: [usize; 2], std: f64, bias: bool) -> Linear {
        let bias = bias.then(|| {
            Param::from_data(
                TensorData::new(vec![0f32; shape[0]], [shape[0]]),
                self.device,
            )
        });
        Linear {
            weight: self.normal(name, shape, std),
            bias,
            adapter: None,
        }
    }

    pub(super) fn norm(&self, width: usize) -> Norm {
        Norm {
            weight: Param::from_data(TensorData::new(vec![1f32; width], [width]), self.device),
        }
    }
}

/// `weight` with new rows up to `rows` in all: the mean of the old ones, with some noise.
pub(super) fn with_rows(
    weight: &Param<Tensor<2>>,
    rows: usize,
    name: &str,
    seed: u64,
) -> Param<Tensor<2>> {
    let old = weight.val();
    let (device, [count, width]) = (old.device(), old.dims());
    let old = old.inner();
    let mean = old.clone().mean_dim(0);
    let spread = old.clone().sub(mean.clone()).powi_scalar(2).mean();
    let spread = f64::from(spread.into_scalar::<f32>()).sqrt();
    let init = Initializer {
        seed: Some(seed),
        device: &device.clone().inner(),
    };
    let noise = init.normal(
        &format!("new rows of {name}"),
        [rows - count, width],
        0.01 * spread,
    );
    let all = Tensor::cat(vec![old, mean + noise.val()], 0);
    let all = if device.is_autodiff() {
        Tensor::from_inner(all)
    } else {
        all
    };
    Param::from_tensor(all)
}

/// `weight` with the rows from `first` on replaced by the directions of `vectors` (`[n, width]`), each as long as the
/// other rows are on average; a row of zeros stays what it was.
pub(super) fn with_directions(
    weight: &Param<Tensor<2>>,
    first: usize,
    vectors: &[f32],
) -> Param<Tensor<2>> {
    let device = weight.val().device();
    let [rows, width] = weight.val().dims();
    let mut values: Vec<f32> = weight.val().inner().into_data().iter::<f32>().collect();
    let length = |row: &[f32]| row.iter().map(|x| x * x).sum::<f32>().sqrt();
    let others = values.chunks_exact(width).take(first).map(length);
    let mean = others.sum::<f32>() / first.max(1) as f32;
    let new = values.chunks_exact_mut(width).skip(first);
    for (row, vector) in new.zip(vectors.chunks_exact(width)) {
        let own = length(vector);
        if own > 0.0 {
            for (x, v) in row.iter_mut().zip(vector) {
                *x = v / own * mean;
            }
        }
    }
    let trained = weight.is_require_grad();
    let all = Tensor::from_data(TensorData::new(values, [rows, width]), &device);
    Param::from_tensor(all).set_require_grad(trained)
}
