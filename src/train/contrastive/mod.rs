//! Representations by contrast and by distillation: queries near their passages, as a teacher has it.
//!
//! The loss of a batch needs all its representations at once: every passage of the batch is a negative of
//! every query it is not relevant to, and the regulariser takes means over the batch. Where a batch does
//! not fit one forward pass, gradients are cached (GradCache, Gao et al. 2021): encode everything without a
//! graph, take the gradient of the loss with respect to the representations, then encode again part by part
//! and pull that gradient back. The result is that of the whole batch, whatever the parts and devices.
//!
//! A passage that is there twice is encoded once and stands in the pool once, and passages relevant to a query
//! are never its negatives.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use hashbrown::HashMap;
use rand::RngExt;

use super::objective::{Found, ItemSize, Objective, Step};
use super::optimizer::Gradients;
use super::{TrainError, TrainOptions};
use crate::data::example::{ExampleError, Group};
use crate::model::{EncoderOptions, Model, ModelError, Pooling, Sequences};
use crate::record::Representations;
use crate::rng;
use crate::types::{PassageIdx, TokenId};

mod losses;
mod options;

pub use options::{ContrastOptions, Distillation, Loss, Regulariser};

use losses::Pool;

/// Where groups and the tokens of their passages come from.
pub trait GroupSource: Sync {
    /// Groups in one pass.
    fn len(&self) -> usize;
    /// Whether a pass holds no groups.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The groups of pass `epoch`, as many as [`Self::len`].
    fn epoch(&self, epoch: u64) -> Result<Vec<Group>, ExampleError>;
    /// The tokens of a passage as the encoder reads them.
    fn passage(&self, passage: PassageIdx) -> &[TokenId];
}

/// Learning representations from groups of a query and passages.
pub struct Contrastive<'a> {
    /// Training groups.
    pub source: &'a dyn GroupSource,
    /// Groups whose loss is measured.
    pub validation: &'a [Group],
    /// How texts become representations.
    pub encoder: &'a EncoderOptions,
    /// How representations are compared.
    pub options: &'a ContrastOptions,
    /// Which loss.
    pub loss: Loss,
    /// Decides what dropout drops.
    pub seed: u64,
    /// FLOPs of training on one text of so many tokens.
    pub flops: &'a (dyn Fn(usize) -> f64 + Sync),
}

/// A batch: its texts, and which belong together.
struct Batch<'a> {
    queries: Vec<&'a [TokenId]>,
    passages: Vec<&'a [TokenId]>,
    pool: Pool,
    teacher: Vec<f32>,
}

/// The loss of a batch and its parts.
struct Parts {
    total: Tensor<1>,
    contrastive: Option<Tensor<1>>,
    distillation: Option<Tensor<1>>,
    regulariser: Option<Tensor<1>>,
}

impl Contrastive<'_> {
    fn batch<'b>(&'b self, groups: &[&'b Group]) -> Batch<'b> {
        let mut places: HashMap<PassageIdx, usize> = HashMap::new();
        let mut passages = vec![];
        let mut found = vec![];
        for group in groups {
            let place = |&passage: &PassageIdx| {
                *places.entry(passage).or_insert_with(|| {
                    passages.push(self.source.passage(passage));
                    passages.len() - 1
                })
            };
            found.push(group.passages.iter().map(place).collect::<Vec<usize>>());
        }
        let mut masked = vec![];
        for (query, group) in groups.iter().enumerate() {
            let relevant = group.relevant.iter().filter_map(|p| places.get(p));
            let others = relevant.filter(|&&place| place != found[query][0]);
            masked.extend(others.map(|&place| (query, place)));
        }
        Batch {
            queries: groups.iter().map(|g| &g.query[..]).collect(),
            pool: Pool {
                groups: found,
                masked,
                len: passages.len(),
            },
            passages,
            teacher: groups.iter().flat_map(|g| &g.teacher).copied().collect(),
        }
    }

    /// The loss of a batch's representations; `weight` is the share of the regulariser's weight.
    fn loss(
        &self,
        batch: &Batch<'_>,
        queries: Tensor<2>,
        passages: Tensor<2>,
        weight: f64,
    ) -> Parts {
        let (options, pool) = (self.options, &batch.pool);
        let temperature = options.temperature(self.encoder.pooling);
        let scores = pool.scores(queries.clone(), passages.clone(), temperature);
        let contrastive =
            (self.loss != Loss::Distillation).then(|| pool.contrastive(scores.clone()));
        let distillation = (self.loss != Loss::Contrastive).then(|| {
            let own = pool.own(scores);
            let teacher = TensorData::new(batch.teacher.clone(), own.dims());
            let teacher = Tensor::from_data(teacher, &own.device());
            let teacher = teacher.mul_scalar(options.teacher_scale);
            match options.distillation {
                Distillation::Kl => losses::kl(own, teacher),
                Distillation::MarginMse => losses::margin_mse(own, teacher),
            }
        });
        let penalty: Option<fn(Tensor<2>) -> Tensor<1>> = match options.regulariser {
            Regulariser::Flops => Some(losses::flops),
            Regulariser::L1 => Some(losses::l1),
            Regulariser::None => None,
        };
        let sparse = self.encoder.pooling == Pooling::Sparse && weight > 0.0;
        let regulariser = penalty.filter(|_| sparse).map(|penalty| {
            let of_queries = penalty(queries).mul_scalar(weight * options.lambda_query);
            of_queries + penalty(passages).mul_scalar(weight * options.lambda_passage)
        });
        let both = if self.loss == Loss::Both { 0.5 } else { 1.0 };
        let learned = [&contrastive, &distillation].into_iter().flatten();
        let learned = learned.map(|part| part.clone().mul_scalar(both));
        let total = learned.chain(regulariser.clone()).reduce(|a, b| a + b);
        Parts {
            total: total.expect("every loss has a part"),
            contrastive,
            distillation,
            regulariser,
        }
    }

    fn encode(&self, model: &Model, texts: &[&[TokenId]]) -> Result<Tensor<2>, ModelError> {
        model.encode(&Sequences::pad(texts), self.encoder)
    }

    /// Representations on `model`'s device without a graph, part by part.
    fn encode_without_graph(
        &self,
        model: &Model,
        texts: &[&[TokenId]],
        rows: usize,
    ) -> Result<Tensor<2>, ModelError> {
        let order = by_length(texts);
        let parts = order.chunks(rows).map(|part| {
            let texts: Vec<&[TokenId]> = part.iter().map(|&i| texts[i]).collect();
            self.encode(model, &texts)
        });
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        Ok(in_order(parts, &order))
    }

    /// Loss and gradients of a batch that is encoded in one pass for queries and one for passages.
    fn directly(
        &self,
        step: &Step<'_>,
        batch: &Batch<'_>,
        weight: f64,
    ) -> Result<(Parts, Gradients, Tensor<2>, Tensor<2>), ModelError> {
        let model = step.model;
        let read = step.reading(model);
        let queries = whole(self.encode(&read, &batch.queries)?);
        let passages = whole(self.encode(&read, &batch.passages)?);
        let parts = self.loss(batch, queries.clone(), passages.clone(), weight);
        let mut gradients = Gradients::default();
        gradients.add(model, parts.total.backward());
        Ok((parts, gradients, queries.inner(), passages.inner()))
    }

    /// The same, part by part on all devices.
    fn cached(
        &self,
        step: &Step<'_>,
        batch: &Batch<'_>,
        weight: f64,
    ) -> Result<(Parts, Gradients, Tensor<2>, Tensor<2>), ModelError> {
        let texts = [&batch.queries[..], &batch.passages].concat();
        // Queries and passages apart: they differ in length.
        let num_queries = batch.queries.len();
        let mut orders = [by_length(&batch.queries), by_length(&batch.passages)];
        orders[1].iter_mut().for_each(|place| *place += num_queries);
        let rows = step.options.micro_batch_size;
        let parts: Vec<&[usize]> = orders.iter().flat_map(|order| order.chunks(rows)).collect();
        let home = step.model.device().inner();
        // The same values are dropped both times.
        let encode = |model: &Model, number: usize| {
            let drawn = rng::stream(self.seed, "part", &[step.done, number as u64]).random();
            model.device().seed(drawn);
            let texts: Vec<&[TokenId]> = parts[number].iter().map(|&i| texts[i]).collect();
            self.encode(&step.reading(model), &texts).map(whole)
        };
        let found = step.on_devices(|model, place, devices| {
            let own = (place..parts.len()).step_by(devices);
            own.map(|number| Ok(encode(model, number)?.inner().to_device(&home)))
                .collect::<Result<Vec<_>, ModelError>>()
        })?;
        let mut found: Vec<_> = found.into_iter().map(Vec::into_iter).collect();
        let devices = found.len();
        let encoded: Vec<Tensor<2>> = (0..parts.len())
            .filter_map(|number| found[number % devices].next())
            .collect();
        let order = orders.concat();
        let encoded = in_order(encoded, &order);
        let [all, width] = encoded.dims();
        let leaf = |from: usize, to: usize| {
            let rows = encoded.clone().slice([from..to, 0..width]);
            Tensor::from_inner(rows).require_grad()
        };
        let (queries, passages) = (leaf(0, num_queries), leaf(num_queries, all));
        let loss = self.loss(batch, queries.clone(), passages.clone(), weight);
        let graph = loss.total.backward();
        let gradient = |leaf: &Tensor<2>| {
            let found = leaf.grad(&graph);
            found.unwrap_or_else(|| leaf.clone().inner().zeros_like())
        };
        let upstream = Tensor::cat(vec![gradient(&queries), gradient(&passages)], 0);
        let shares = step.on_devices(|model, place, devices| {
            let mut gradients = Gradients::default();
            for number in (place..parts.len()).step_by(devices) {
                let output = encode(model, number)?;
                if !output.is_tracked() {
                    continue;
                }
                let rows: Vec<i32> = parts[number].iter().map(|&i| i as i32).collect();
                let rows = Tensor::from_ints(&rows[..], &home);
                let upstream = upstream
                    .clone()
                    .select(0, rows)
                    .to_device(&output.device().inner());
                let pulled = (output * Tensor::from_inner(upstream)).sum();
                gradients.add(model, pulled.backward());
            }
            Ok(gradients)
        })?;
        let mut gradients = Gradients::default();
        for share in shares {
            gradients.add_named(share.on(&home));
        }
        Ok((loss, gradients, queries.inner(), passages.inner()))
    }

    /// What the step row says of the representations; fails where they have collapsed.
    fn describe(
        &self,
        step: &Step<'_>,
        parts: &Parts,
        queries: Tensor<2>,
        passages: Tensor<2>,
    ) -> Result<Representations, TrainError> {
        let value = |part: &Option<Tensor<1>>| part.clone().map(super::scalar);
        let pool = passages.dims()[0] as u64;
        let mut row = Representations {
            contrastive: value(&parts.contrastive),
            distillation: value(&parts.distillation),
            regulariser: value(&parts.regulariser),
            pool,
            ..Representations::default()
        };
        if self.encoder.pooling != Pooling::Sparse {
            return Ok(row);
        }
        let (queries, passages) = (Activity::of(queries), Activity::of(passages));
        row.query_terms = Some(queries.mean_terms);
        row.passage_terms = Some(passages.mean_terms);
        row.dead =
            Some((queries.dead + passages.dead) as f64 / (queries.rows + passages.rows) as f64);
        row.always_on = Some(passages.always_on as u64);
        let risen = self.options.ramp * step.steps as f64 <= step.done as f64;
        let what = if queries.dead == queries.rows || passages.dead == passages.rows {
            "no term is active"
        } else if risen && passages.mean_terms > self.options.max_terms as f64 {
            "passages have more active terms than contrast.max_terms"
        } else {
            return Ok(row);
        };
        Err(TrainError::Collapsed {
            what,
            step: step.done + 1,
            query_terms: queries.mean_terms,
            passage_terms: passages.mean_terms,
        })
    }
}

impl Objective for Contrastive<'_> {
    type Item = Group;

    fn len(&self) -> usize {
        self.source.len()
    }

    fn epoch(&self, epoch: u64) -> Result<Vec<Group>, ExampleError> {
        self.source.epoch(epoch)
    }

    fn size(&self, group: &Group) -> ItemSize {
        let passages = group.passages.iter().map(|&p| self.source.passage(p).len());
        let lengths: Vec<usize> = passages.chain([group.query.len()]).collect();
        ItemSize {
            tokens: lengths.iter().sum(),
            targets: 0,
            flops: lengths.iter().map(|&len| (self.flops)(len)).sum(),
        }
    }

    fn check(&self, model: &Model, group: &Group) -> Result<(), ModelError> {
        let passages = group.passages.iter().map(|&p| self.source.passage(p).len());
        let longest = passages.chain([group.query.len()]).max();
        model.check_lengths(longest.unwrap_or(0), 0)
    }

    fn gradients(&self, step: &Step<'_>, batch: &[&Group]) -> Result<Found, TrainError> {
        let batch = self.batch(batch);
        let weight = self.options.share_of_weight(step.done, step.steps);
        let rows = step.options.micro_batch_size;
        let small = batch.queries.len() <= rows && batch.passages.len() <= rows;
        let (parts, gradients, queries, passages) = if small && step.replicas.is_empty() {
            self.directly(step, &batch, weight)?
        } else {
            self.cached(step, &batch, weight)?
        };
        let representations = self.describe(step, &parts, queries, passages)?;
        Ok(Found {
            loss: super::scalar(parts.total.inner()),
            gradients,
            representations: Some(representations),
        })
    }

    /// The loss without the regulariser, over pools of `batch_size` groups.
    fn validation_loss(
        &self,
        model: &Model,
        options: &TrainOptions,
    ) -> Result<Option<f64>, TrainError> {
        let model = model.clone().valid();
        let mut sum = 0.0;
        for groups in self.validation.chunks(options.batch_size) {
            let groups: Vec<&Group> = groups.iter().collect();
            let batch = self.batch(&groups);
            let rows = options.micro_batch_size;
            let queries = self.encode_without_graph(&model, &batch.queries, rows)?;
            let passages = self.encode_without_graph(&model, &batch.passages, rows)?;
            let loss = self.loss(&batch, queries, passages, 0.0).total;
            sum += super::scalar(loss) * groups.len() as f64;
        }
        let count = self.validation.len();
        Ok((count > 0).then(|| sum / count as f64))
    }
}

/// Losses are computed in 32 bits.
fn whole(x: Tensor<2>) -> Tensor<2> {
    x.cast(burn::tensor::FloatDType::F32)
}

/// Places of `texts`, shortest first.
fn by_length(texts: &[&[TokenId]]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|&i| texts[i].len());
    order
}

/// Rows of `parts`, which stand in `order`, in their own order.
fn in_order(parts: Vec<Tensor<2>>, order: &[usize]) -> Tensor<2> {
    let rows = Tensor::cat(parts, 0);
    let mut back = vec![0i32; order.len()];
    for (row, &place) in order.iter().enumerate() {
        back[place] = row as i32;
    }
    let back = Tensor::from_ints(&back[..], &rows.device());
    rows.select(0, back)
}

/// How active sparse representations are.
struct Activity {
    rows: usize,
    mean_terms: f64,
    dead: usize,
    always_on: usize,
}

impl Activity {
    fn of(x: Tensor<2>) -> Self {
        let [rows, width] = x.dims();
        let values = crate::model::checkpoint::values(x);
        let mut of_term = vec![0usize; width];
        let (mut terms, mut dead) = (0, 0);
        for row in values.chunks(width) {
            let before = terms;
            for (count, &value) in of_term.iter_mut().zip(row) {
                *count += usize::from(value > 0.0);
                terms += usize::from(value > 0.0);
            }
            dead += usize::from(terms == before);
        }
        Self {
            rows,
            mean_terms: terms as f64 / rows as f64,
            dead,
            always_on: of_term.iter().filter(|&&count| count == rows).count(),
        }
    }
}

#[cfg(test)]
mod tests;
