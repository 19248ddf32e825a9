//! Ranking by prefixes of identifiers: after few codes already, passages stand apart as far as a teacher says.
//!
//! A beam search gives an identifier up at the first prefix that scores too low, however well the whole would
//! have scored. So the margins between a relevant passage and others are learned for prefixes (RIPOR, Zeng et al.
//! 2024, section 3.1):
//!
//! ```text
//! S_i(q, d)  the sum of the scores of the first i codes of d's identifier, each after the query and the codes before it
//! L_i        the mean over (q, d+, d-) of (S_i(q, d+) - S_i(q, d-) - a_i (t(q, d+) - t(q, d-)))^2
//! a_i        (1 - b / i) / (1 - b / m), rising to 1 for m, the longest prefix of the stage
//! ```
//!
//! The loss is the sum of L_i over the lengths of the present stage: the shortest length alone in the first stage, one
//! more in each, all in the last. Stages are equally many updates. An identifier that is shorter than a prefix counts whole.
//! The teacher's score is t; where negatives come from is up to the source. RIPOR draws those of a stage from searches that end at
//! its length; here all stages share one source.
//!
//! A code's score is its logit ([`CodeScore::Logits`]), the inner product of state and output embedding, as RIPOR has it: nothing is
//! normalised in training nor in its beam search, so decode such models with [`Normalise::None`](crate::decode::Normalise). Or it
//! is its log-probability ([`CodeScore::LogProbs`]): what every other search and the contrastive generation loss sum up, at the price of
//! the whole output head per code. Cost: a pass over prompt and identifier for each passage of a group.

use burn::module::Module;
use burn::tensor::{FloatDType, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::objective::{Found, ItemSize, Objective, Step};
use super::{GroupSource, TrainError, TrainOptions};
use crate::data::example::{ExampleError, Group};
use crate::model::{Model, ModelError, PromptTarget};
use crate::types::TokenId;

/// Which prefixes are ranked, and how they are scored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PrefixOptions {
    /// Codes of the prefixes, increasing; those below the longest identifier are used, and whole identifiers always.
    pub lengths: Vec<usize>,
    /// The b of the teacher's share 1 - b / i of prefixes of i codes; below the shortest length, 0 for equal shares.
    pub decay: f64,
    /// What is summed over codes.
    pub score: CodeScore,
}

/// What the score of a prefix sums up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CodeScore {
    /// Logits.
    #[default]
    Logits,
    /// Log-probabilities over the whole vocabulary.
    LogProbs,
}

impl Default for PrefixOptions {
    fn default() -> Self {
        Self {
            lengths: vec![4, 8, 16, 32],
            decay: 2.0,
            score: CodeScore::Logits,
        }
    }
}

impl PrefixOptions {
    /// Whether nothing was changed.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Says what is wrong with the options, if anything.
    pub fn check(&self) -> Result<(), String> {
        let increasing = self.lengths.is_sorted_by(|a, b| a < b);
        if !increasing || self.lengths.first() == Some(&0) {
            return Err(format!(
                "lengths = {:?} must increase, from 1 or more",
                self.lengths
            ));
        }
        if !(self.decay >= 0.0 && self.decay.is_finite()) {
            return Err(format!("decay = {} must be 0 or more", self.decay));
        }
        Ok(())
    }

    /// The prefixes of identifiers of at most `longest` codes, shortest first; the last is `longest`.
    ///
    /// # Errors
    /// A decay that leaves the shortest nothing of the teacher's margin.
    pub fn lengths_of(&self, longest: usize) -> Result<Vec<usize>, String> {
        let shorter = self.lengths.iter().copied().filter(|&i| i < longest);
        let lengths: Vec<usize> = shorter.chain([longest]).collect();
        if self.decay >= lengths[0] as f64 {
            return Err(format!(
                "decay = {} leaves nothing of the teacher's margin for prefixes of {}: lower it below that, or set longer lengths",
                self.decay, lengths[0]
            ));
        }
        Ok(lengths)
    }

    /// The teacher's share in the margin of a prefix of `length` codes, where the longest has `longest`.
    fn share(&self, length: usize, longest: usize) -> f64 {
        let of = |i: usize| 1.0 - self.decay / i as f64;
        of(length) / of(longest)
    }
}

/// Learning to rank passages by the prefixes of their identifiers.
pub struct Prefixes<'a> {
    /// Training groups: the query is the prompt, a passage's tokens are its identifier.
    pub source: &'a dyn GroupSource,
    /// Groups whose loss is measured, over all prefixes.
    pub validation: &'a [Group],
    /// How prefixes are scored.
    pub options: &'a PrefixOptions,
    /// Which, from [`PrefixOptions::lengths_of`].
    pub lengths: &'a [usize],
    /// Factor of the teacher's scores.
    pub teacher_scale: f64,
    /// FLOPs of training on one (prompt, identifier).
    pub flops: &'a (dyn Fn(usize, usize) -> f64 + Sync),
}

impl Prefixes<'_> {
    /// The lengths of the stage in which update `done` (from 0) of `steps` lies.
    fn stage(&self, done: u64, steps: u64) -> &[usize] {
        let stages = self.lengths.len() as u64;
        let stage = (done * stages / steps.max(1)).min(stages - 1);
        &self.lengths[..=stage as usize]
    }

    fn identifiers<'b>(&'b self, group: &'b Group) -> impl Iterator<Item = &'b [TokenId]> {
        group.passages.iter().map(|&p| self.source.passage(p))
    }

    /// Summed squared errors over the pairs and `lengths` of some groups of equally many passages.
    fn loss_sum(
        &self,
        model: &Model,
        groups: &[&Group],
        lengths: &[usize],
    ) -> Result<Tensor<1>, ModelError> {
        let mut examples: Vec<PromptTarget<'_>> = vec![];
        for group in groups {
            let ids = self.identifiers(group);
            examples.extend(ids.map(|id| (&group.query[..], id)));
        }
        let targets: Vec<TokenId> = examples.iter().flat_map(|(_, t)| *t).copied().collect();
        let hidden = model.target_hidden(&examples)?;
        let scores = match self.options.score {
            CodeScore::Logits => model.target_logits(hidden, &targets),
            CodeScore::LogProbs => model.target_log_probs(hidden, &targets),
        };
        let counts: Vec<usize> = examples.iter().map(|(_, t)| t.len()).collect();
        let teacher: Vec<f32> = groups.iter().flat_map(|g| &g.teacher).copied().collect();
        let whole = scores.cast(FloatDType::F32);
        Ok(self.squared_errors(whole, &counts, teacher, groups[0].passages.len(), lengths))
    }

    /// The same from the `scores` of all codes, identifier after identifier, each of so many as `counts` says, in groups of
    /// `group`, the positive first.
    fn squared_errors(
        &self,
        scores: Tensor<1>,
        counts: &[usize],
        teacher: Vec<f32>,
        group: usize,
        lengths: &[usize],
    ) -> Tensor<1> {
        let device = scores.device();
        let longest = *lengths.last().expect("a stage has a length");
        // A row per identifier; behind its end stands the nothing behind all scores.
        let nothing = scores.dims()[0];
        let mut places = Vec::with_capacity(counts.len() * longest);
        let mut first = 0;
        for &count in counts {
            let place = |i| if i < count { first + i } else { nothing };
            places.extend((0..longest).map(|i| place(i) as i32));
            first += count;
        }
        let places = Tensor::from_ints(&places[..], &device);
        let padded = Tensor::cat(vec![scores, Tensor::zeros([1], &device)], 0);
        let by_row = padded.select(0, places).reshape([counts.len(), longest]);
        let groups = counts.len() / group;
        let margins = |values: Tensor<2>| {
            let positive = values.clone().slice([0..groups, 0..1]);
            positive - values.slice([0..groups, 1..group])
        };
        let teacher = TensorData::new(teacher, [groups, group]);
        let teacher = Tensor::<2>::from_data(teacher, &device).mul_scalar(self.teacher_scale);
        let wanted = margins(teacher);
        let of_length = |&length: &usize| {
            let prefix = by_row.clone().slice([0..counts.len(), 0..length]);
            let own = margins(prefix.sum_dim(1).reshape([groups, group]));
            let share = self.options.share(length, longest);
            (own - wanted.clone().mul_scalar(share))
                .powi_scalar(2)
                .sum()
        };
        let losses = lengths.iter().map(of_length);
        losses.reduce(|a, b| a + b).expect("a stage has a length")
    }

    /// Groups of a pass that holds about so many identifiers.
    fn groups_at_once(&self, groups: &[&Group], options: &TrainOptions) -> usize {
        let group = groups.first().map_or(1, |g| g.passages.len());
        (options.micro_batch_size / group).max(1)
    }
}

/// (query, positive, negative) of some groups.
fn pairs(groups: &[&Group]) -> usize {
    groups.iter().map(|g| g.passages.len() - 1).sum()
}

impl Objective for Prefixes<'_> {
    type Item = Group;

    fn len(&self) -> usize {
        self.source.len()
    }

    fn epoch(&self, epoch: u64) -> Result<Vec<Group>, ExampleError> {
        self.source.epoch(epoch)
    }

    fn size(&self, group: &Group) -> ItemSize {
        let prompt = group.query.len();
        let mut size = ItemSize::default();
        for id in self.identifiers(group) {
            size.tokens += prompt + id.len();
            size.targets += id.len();
            size.flops += (self.flops)(prompt, id.len());
        }
        size
    }

    fn check(&self, model: &Model, group: &Group) -> Result<(), ModelError> {
        let longest = self.identifiers(group).map(<[TokenId]>::len).max();
        model.check_lengths(group.query.len(), longest.unwrap_or(0))
    }

    fn gradients(&self, step: &Step<'_>, batch: &[&Group]) -> Result<Found, TrainError> {
        let scale = 1.0 / pairs(batch) as f64;
        let lengths = self.stage(step.done, step.steps);
        let at_once = self.groups_at_once(batch, step.options);
        Ok(step.summed(batch, at_once, |model, micro| {
            step.backward(model, scale, |model| self.loss_sum(model, micro, lengths))
        })?)
    }

    fn validation_loss(
        &self,
        model: &Model,
        options: &TrainOptions,
    ) -> Result<Option<f64>, TrainError> {
        let model = model.clone().valid();
        let groups: Vec<&Group> = self.validation.iter().collect();
        let mut sum = 0.0;
        for micro in groups.chunks(self.groups_at_once(&groups, options)) {
            sum += super::scalar(self.loss_sum(&model, micro, self.lengths)?);
        }
        let pairs = pairs(&groups);
        Ok((pairs > 0).then(|| sum / pairs as f64))
    }
}

#[cfg(test)]
mod tests;
