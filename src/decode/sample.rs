//! Sequences drawn at random from the model, under a constraint.

use rand::RngExt;

use super::constraint::{Constraint, End};
use super::head::{AllowedLogits, for_each_row};
use super::search::Hypothesis;
use super::{DecodeOptions, SampleOptions};
use crate::index::Continuations;
use crate::model::{ModelError, NextTokenModel};
use crate::rng;
use crate::types::TokenId;

/// Draws `per_prompt` sequences for every prompt, token by token.
///
/// A token is drawn from softmax(logits / temperature) over the allowed tokens, of which the `top_k` likeliest
/// and of these the likeliest that together reach `top_p` are left. A sequence ends where the constraint
/// says so, where nothing follows, or after `max_new_tokens`; before `min_new_tokens` the constraint's ends are not
/// drawn. `log_prob` is the model's own log-probability, as in beam search. The draws of sequence
/// j of a prompt depend on (`seed`, `keys[prompt]`, j) and the logits alone, not on the other prompts.
///
/// # Errors
/// What the model returns; [`ModelError::NotFinite`] if it gives logits that are not numbers.
pub fn sample<M: NextTokenModel, C: Constraint>(
    model: &M,
    constraint: &C,
    prompts: &[&[TokenId]],
    keys: &[u64],
    per_prompt: usize,
    options: &DecodeOptions,
    sampling: &SampleOptions,
) -> Result<Vec<Vec<Hypothesis<C::State>>>, ModelError> {
    let root = Hypothesis {
        tokens: vec![],
        log_prob: 0.0,
        count: 0,
        state: constraint.root(),
    };
    let mut drawn: Vec<Hypothesis<C::State>> = vec![root; prompts.len() * per_prompt];
    let mut streams: Vec<rng::Stream> = (0..drawn.len())
        .map(|i| {
            let place = [keys[i / per_prompt], (i % per_prompt) as u64];
            rng::stream(sampling.seed, "sample", &place)
        })
        .collect();
    let (mut state, mut hidden) = model.start(prompts, options.max_new_tokens)?;
    // Sequences that go on, and the row of each: at first the one of its prompt.
    let mut live: Vec<usize> = (0..drawn.len()).collect();
    let mut rows: Vec<usize> = live.iter().map(|i| i / per_prompt).collect();
    let mut continuations = Continuations::default();
    for length in 1..=options.max_new_tokens {
        let num_rows = rows.iter().max().map_or(0, |row| row + 1);
        let mut states = vec![constraint.root(); num_rows];
        for (&i, &row) in live.iter().zip(&rows) {
            states[row] = drawn[i].state;
        }
        constraint.continuations(&states, &mut continuations);
        let early = length < options.min_new_tokens;
        let normalise = options.normalise;
        let left = for_each_row(model, &hidden, &continuations, normalise, |_, logits| {
            let takes = |nth| !early || constraint.end(logits.allowed.state(nth)) != End::Yes;
            distribution(logits, sampling, takes)
        })?;
        let mut next = vec![];
        for (&i, &row) in live.iter().zip(&rows) {
            let Some(left) = left[row].as_ref().filter(|left| !left.is_empty()) else {
                continue;
            };
            let (nth, log_prob) = draw(left, streams[i].random());
            let allowed = continuations.row(row);
            let sequence = &mut drawn[i];
            sequence.tokens.push(allowed.tokens[nth]);
            sequence.log_prob += log_prob;
            sequence.count = allowed.count(nth);
            sequence.state = allowed.state(nth);
            if constraint.end(sequence.state) == End::No {
                next.push((i, row));
            }
        }
        if next.is_empty() || length == options.max_new_tokens {
            break;
        }
        live = next.iter().map(|&(i, _)| i).collect();
        let parents: Vec<usize> = next.iter().map(|&(_, row)| row).collect();
        let last = live.iter().map(|&i| drawn[i].tokens[length - 1]);
        hidden = model.step(&mut state, &parents, &last.collect::<Vec<_>>())?;
        rows = (0..live.len()).collect();
    }
    let mut drawn = drawn.into_iter();
    Ok(prompts
        .iter()
        .map(|_| drawn.by_ref().take(per_prompt).collect())
        .collect())
}

/// A continuation that can be drawn.
#[derive(Clone, Copy)]
struct Candidate {
    nth: usize,
    /// The model's log-probability of the token.
    log_prob: f64,
    /// Sum of the probabilities up to and with this one.
    cumulative: f64,
}

/// The continuations that are left to draw from, likeliest first.
fn distribution<S: Copy>(
    logits: &AllowedLogits<'_, S>,
    sampling: &SampleOptions,
    takes: impl Fn(usize) -> bool,
) -> Vec<Candidate> {
    let all = logits.allowed.tokens.len();
    let limit = if sampling.top_k == 0 {
        all
    } else {
        sampling.top_k
    };
    let mut best = logits.best(limit, takes);
    best.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let Some(&(_, largest)) = best.first() else {
        return vec![];
    };
    let weight = |logit: f32| (f64::from(logit - largest) / sampling.temperature).exp();
    let total: f64 = best.iter().map(|&(_, logit)| weight(logit)).sum();
    let mut cumulative = 0.0;
    let mut left = vec![];
    for (nth, logit) in best {
        cumulative += weight(logit) / total;
        left.push(Candidate {
            nth: nth as usize,
            log_prob: f64::from(logit) - logits.norm,
            cumulative,
        });
        if cumulative >= sampling.top_p {
            break;
        }
    }
    left
}

/// The number and log-probability of the continuation at `uniform`, in [0, 1), of a distribution.
fn draw(left: &[Candidate], uniform: f64) -> (usize, f64) {
    let target = uniform * left[left.len() - 1].cumulative;
    let at = left.partition_point(|candidate| candidate.cumulative <= target);
    let candidate = left[at.min(left.len() - 1)];
    (candidate.nth, candidate.log_prob)
}
