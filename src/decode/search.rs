//! Beam search over many queries at once.

use std::cmp::Ordering;
use std::ops::Range;

use hashbrown::{HashMap, HashSet};
use rayon::prelude::*;

use super::constraint::{Constraint, End};
use super::head::{best_of_queries, for_each_row};
use super::{DecodeOptions, Normalise, Stop};
use crate::index::{ContinuationRow, Continuations};
use crate::model::{ModelError, NextTokenModel};
use crate::types::TokenId;

/// A token sequence that the constraint allows, and how likely the model finds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Hypothesis<S> {
    /// The tokens, without the prompt.
    pub tokens: Vec<TokenId>,
    /// Log-probability of the tokens given the prompt.
    pub log_prob: f64,
    /// Occurrences in the corpus.
    pub count: usize,
    /// Where the sequence stands in the constraint.
    pub state: S,
}

/// What decoding one query gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded<S> {
    /// Candidates of every step: for each length from `min_new_tokens` the best 2 x `beam_width` sequences,
    /// each once.
    pub harvest: Vec<Hypothesis<S>>,
    /// Complete sequences, at most `beam_width`, by decreasing [`DecodeOptions::score`]; none where
    /// sequences have no end.
    pub finished: Vec<Hypothesis<S>>,
    /// The hypotheses of the last step that could still go on, best first.
    pub last: Vec<Hypothesis<S>>,
}

/// A query that is being decoded.
struct Search<S> {
    found: Decoded<S>,
    /// The rows of each group among `found.last`; at first all groups start from the one root.
    groups: Vec<Range<usize>>,
}

/// A hypothesis extended by one allowed token.
#[derive(Clone, Copy)]
struct Extension {
    /// Which hypothesis of the query it extends.
    parent: usize,
    /// Which of its continuations.
    nth: usize,
    token: TokenId,
    log_prob: f64,
    /// The log-probability less the penalty of its group.
    rank: f64,
}

/// The best continuations of one hypothesis, with logits.
struct Shortlist {
    norm: f64,
    best: Vec<(u32, f32)>,
}

/// Decodes `prompts` together under `constraint`.
///
/// Per query and step: the 2 x `beam_width` best allowed extensions of its hypotheses are harvested. Those
/// among the best `beam_width` that are complete are finished; the best `beam_width` that can go on do so. A
/// query leaves the batch when nothing can go on, or when `stop` holds. Results do not depend on which queries are decoded together,
/// beyond rounding.
///
/// With `groups` above 1 each group does this for its share of the width, one group after the other:
/// extensions by a token that k kept hypotheses of earlier groups took at this step are ranked as if
/// their log-probability were k x `diversity_penalty` lower (Vijayakumar et al. 2018, Hamming diversity).
/// Log-probabilities that are returned are the model's own.
///
/// # Errors
/// What the model returns; [`ModelError::NotFinite`] if it gives logits that are not numbers.
pub fn beam_search<M: NextTokenModel, C: Constraint>(
    model: &M,
    constraint: &C,
    prompts: &[&[TokenId]],
    options: &DecodeOptions,
) -> Result<Vec<Decoded<C::State>>, ModelError> {
    let root = Hypothesis {
        tokens: vec![],
        log_prob: 0.0,
        count: 0,
        state: constraint.root(),
    };
    let start = |_| Search {
        found: Decoded {
            harvest: vec![],
            finished: vec![],
            last: vec![root.clone()],
        },
        groups: vec![0..1; options.groups],
    };
    let mut searches: Vec<Search<C::State>> = (0..prompts.len()).map(start).collect();
    let (mut state, mut hidden) = model.start(prompts, options.max_new_tokens)?;
    let mut continuations = Continuations::default();
    for length in 1..=options.max_new_tokens {
        let states: Vec<C::State> = searches
            .iter()
            .flat_map(|s| s.found.last.iter().map(|h| h.state))
            .collect();
        constraint.continuations(&states, &mut continuations);
        let firsts = first_rows(&searches);
        let on_device = options.groups == 1
            && options.normalise == Normalise::Full
            && genret_kernels::has_kernels(&hidden.device());
        let ready = Ready {
            model,
            constraint,
            hidden: &hidden,
            continuations: &continuations,
            options,
            length,
        };
        let shortlists = if on_device {
            ready.shortlists_on_device(&searches, &firsts)?
        } else {
            ready.shortlists()?
        };
        let moves: Vec<Vec<(usize, TokenId)>> = searches
            .par_iter_mut()
            .zip(&firsts)
            .map(|(search, &first)| {
                let step = Step {
                    constraint,
                    continuations: &continuations,
                    shortlists: &shortlists,
                    options,
                    first,
                    length,
                };
                search.advance(&step)
            })
            .collect();
        let parents: Vec<usize> = moves.iter().flatten().map(|m| m.0).collect();
        let last: Vec<TokenId> = moves.iter().flatten().map(|m| m.1).collect();
        if last.is_empty() || length == options.max_new_tokens {
            break;
        }
        hidden = model.step(&mut state, &parents, &last)?;
    }
    Ok(searches.into_iter().map(Search::into_found).collect())
}

/// The first row of each query in the batch.
fn first_rows<S>(searches: &[Search<S>]) -> Vec<usize> {
    let mut next = 0;
    let firsts = searches.iter().map(|search| {
        let first = next;
        next += search.found.last.len();
        first
    });
    firsts.collect()
}

/// A step before anything is chosen.
struct Ready<'a, 'i, M, C: Constraint> {
    model: &'a M,
    constraint: &'a C,
    hidden: &'a burn::tensor::Tensor<2>,
    continuations: &'a Continuations<'i, C::State>,
    options: &'a DecodeOptions,
    /// Tokens of the sequences that the step makes.
    length: usize,
}

impl<M: NextTokenModel, C: Constraint> Ready<'_, '_, M, C> {
    /// Whether a continuation may be taken: before the shortest length not if it ends the sequence.
    fn takes(
        &self,
    ) -> impl Fn(&ContinuationRow<'_, C::State>, usize) -> bool + Sync + use<'_, M, C> {
        let constraint = self.constraint;
        let all = self.length >= self.options.min_new_tokens;
        move |row, nth| all || constraint.end(row.state(nth)) != End::Yes
    }

    /// Of every hypothesis enough of its best continuations that the best of its group are among them.
    fn shortlists(&self) -> Result<Vec<Option<Shortlist>>, ModelError> {
        let options = self.options;
        let mut limit = 2 * options.beam_width / options.groups;
        if options.groups > 1 {
            // At most so many different tokens can have been taken by earlier groups.
            limit += options.beam_width;
        }
        let takes = self.takes();
        for_each_row(
            self.model,
            self.hidden,
            self.continuations,
            options.normalise,
            |_, logits| Shortlist {
                norm: logits.norm,
                best: logits.best(limit, |nth| takes(&logits.allowed, nth)),
            },
        )
    }

    /// Of every hypothesis those of its continuations that are among the best of its query, found on the device.
    fn shortlists_on_device(
        &self,
        searches: &[Search<C::State>],
        firsts: &[usize],
    ) -> Result<Vec<Option<Shortlist>>, ModelError> {
        let rows = self.continuations.len();
        let hypotheses = searches.iter().flat_map(|s| &s.found.last);
        let log_probs: Vec<f64> = hypotheses.map(|h| h.log_prob).collect();
        let bounds = firsts.iter().chain(std::iter::once(&rows));
        let queries: Vec<u32> = bounds.map(|&row| row as u32).collect();
        let best = best_of_queries(
            self.model,
            self.hidden,
            self.continuations,
            &queries,
            &log_probs,
            2 * self.options.beam_width,
            self.takes(),
        )?;
        let mut shortlists: Vec<Option<Shortlist>> = (0..rows).map(|_| None).collect();
        for best in best.into_iter().flatten() {
            let empty = || Shortlist {
                norm: 0.0,
                best: vec![],
            };
            let shortlist = shortlists[best.row].get_or_insert_with(empty);
            shortlist.best.push((best.nth as u32, best.log_prob));
        }
        Ok(shortlists)
    }
}

/// What all queries see of a step.
struct Step<'a, 'i, C: Constraint> {
    constraint: &'a C,
    continuations: &'a Continuations<'i, C::State>,
    shortlists: &'a [Option<Shortlist>],
    options: &'a DecodeOptions,
    /// The query's first row in the batch.
    first: usize,
    /// Tokens of the sequences that the step makes.
    length: usize,
}

impl<S: Copy> Search<S> {
    /// Does one step; returns the row in the batch and the token of every hypothesis that goes on.
    fn advance<C: Constraint<State = S>>(
        &mut self,
        step: &Step<'_, '_, C>,
    ) -> Vec<(usize, TokenId)> {
        let options = step.options;
        let width = options.beam_width / options.groups;
        let mut taken: HashMap<TokenId, usize> = HashMap::new();
        let mut seen: HashSet<Vec<TokenId>> = HashSet::new();
        let (mut moves, mut next, mut groups) = (vec![], vec![], vec![]);
        for group in std::mem::take(&mut self.groups) {
            let begin = next.len();
            let extensions = self.extensions(group, &taken, step);
            for (rank, extension) in extensions.iter().enumerate() {
                let row = step.continuations.row(step.first + extension.parent);
                let mut tokens = Vec::with_capacity(step.length);
                tokens.extend_from_slice(&self.found.last[extension.parent].tokens);
                tokens.push(extension.token);
                let child = Hypothesis {
                    tokens,
                    log_prob: extension.log_prob,
                    count: row.count(extension.nth),
                    state: row.state(extension.nth),
                };
                let end = step.constraint.end(child.state);
                let counts = step.length >= options.min_new_tokens;
                if end != End::No && counts && rank < width {
                    self.found.finished.push(child.clone());
                }
                if end != End::Yes && next.len() - begin < width {
                    moves.push((step.first + extension.parent, extension.token));
                    next.push(child.clone());
                }
                // Groups may meet in one sequence.
                if counts && (options.groups == 1 || seen.insert(child.tokens.clone())) {
                    self.found.harvest.push(child);
                }
            }
            for hypothesis in &next[begin..] {
                let token = hypothesis.tokens[step.length - 1];
                *taken.entry(token).or_default() += 1;
            }
            groups.push(begin..next.len());
        }
        self.found.last = next;
        self.groups = groups;
        self.keep_best_finished(options);
        if self.is_decided(options, step.length) {
            self.found.last.clear();
            self.groups.iter_mut().for_each(|group| *group = 0..0);
            moves.clear();
        }
        moves
    }

    /// The best extensions of the hypotheses of one group, best first; equal ones by parent, then token.
    fn extensions<C: Constraint<State = S>>(
        &self,
        group: Range<usize>,
        taken: &HashMap<TokenId, usize>,
        step: &Step<'_, '_, C>,
    ) -> Vec<Extension> {
        let limit = 2 * step.options.beam_width / step.options.groups;
        let mut best: Vec<Extension> = vec![];
        for parent in group {
            let Some(shortlist) = &step.shortlists[step.first + parent] else {
                continue;
            };
            let row = step.continuations.row(step.first + parent);
            let before = self.found.last[parent].log_prob;
            for &(nth, logit) in &shortlist.best {
                let token = row.tokens[nth as usize];
                let log_prob = before + f64::from(logit) - shortlist.norm;
                let times = taken.get(&token).copied().unwrap_or(0);
                best.push(Extension {
                    parent,
                    nth: nth as usize,
                    token,
                    log_prob,
                    rank: log_prob - times as f64 * step.options.diversity_penalty,
                });
            }
            if best.len() >= 4 * limit {
                keep_best(&mut best, limit);
            }
        }
        keep_best(&mut best, limit);
        best.sort_unstable_by(by_rank);
        best
    }

    fn keep_best_finished(&mut self, options: &DecodeOptions) {
        let score = |h: &Hypothesis<S>| options.score(h.log_prob, h.tokens.len());
        // Stable: of equal ones the first that was found.
        self.found
            .finished
            .sort_by(|a, b| score(b).total_cmp(&score(a)));
        self.found.finished.truncate(options.beam_width);
    }

    /// Whether what goes on is given up for the best `beam_width` finished sequences.
    fn is_decided(&self, options: &DecodeOptions, length: usize) -> bool {
        let Decoded { finished, last, .. } = &self.found;
        // Sums of logits rise and fall.
        if finished.len() < options.beam_width || options.normalise == Normalise::None {
            return false;
        }
        // A sum of log-probabilities only falls; a positive penalty favours the longest, a negative
        // one the shortest that is still to come.
        let len = match options.stop {
            Stop::Early => length,
            Stop::Exact if options.length_penalty > 0.0 => options.max_new_tokens,
            Stop::Exact => length + 1,
        };
        let best = last.iter().map(|h| options.score(h.log_prob, len));
        let worst = &finished[finished.len() - 1];
        let worst = options.score(worst.log_prob, worst.tokens.len());
        best.max_by(f64::total_cmp).is_none_or(|best| best <= worst)
    }

    fn into_found(mut self) -> Decoded<S> {
        self.found.last.retain(|h| !h.tokens.is_empty());
        if self.groups.len() > 1 {
            self.found
                .last
                .sort_by(|a, b| b.log_prob.total_cmp(&a.log_prob));
        }
        self.found
    }
}

fn keep_best(extensions: &mut Vec<Extension>, limit: usize) {
    if extensions.len() > limit {
        extensions.select_nth_unstable_by(limit - 1, by_rank);
        extensions.truncate(limit);
    }
}

fn by_rank(a: &Extension, b: &Extension) -> Ordering {
    b.rank
        .total_cmp(&a.rank)
        .then(a.parent.cmp(&b.parent))
        .then(a.token.cmp(&b.token))
}
