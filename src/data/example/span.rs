//! Spans of a passage by their similarity to a query.

use std::ops::Range;

use hashbrown::{HashMap, HashSet};
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use super::ExampleError;

/// How spans are sampled from a passage (section "n-gram span" of the study).
///
/// With words q of the query and p of the passage, both in lower case and joined by spaces in
/// windows of `w = min(window, |q|, |p|)` words:
/// `m[i] = sum over j of ratio(q[j..j+w], p[i..i+w])` for every start i whose word is not a
/// stop word, and `P(i) = softmax(m / temperature)`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpanOptions {
    /// Words compared at a time.
    pub window: usize,
    /// Words of a span; fewer where the passage ends.
    pub words: usize,
    /// Spans drawn per (query, passage) pair, with replacement.
    pub draws: usize,
    /// Temperature of the softmax, above 0; higher is flatter.
    pub temperature: f64,
}

impl Default for SpanOptions {
    fn default() -> Self {
        Self {
            window: 3,
            words: 10,
            draws: 10,
            temperature: 1.0,
        }
    }
}

impl SpanOptions {
    /// Checks every number.
    ///
    /// # Errors
    /// [`ExampleError::OutOfRange`].
    pub fn validate(&self) -> Result<(), ExampleError> {
        let positive = |name, value: usize| match value {
            0 => Err(ExampleError::OutOfRange {
                name,
                value: "0".to_owned(),
                expected: "1 or more",
            }),
            _ => Ok(()),
        };
        positive("window", self.window)?;
        positive("words", self.words)?;
        positive("draws", self.draws)?;
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return Err(ExampleError::OutOfRange {
                name: "temperature",
                value: self.temperature.to_string(),
                expected: "a finite number above 0",
            });
        }
        Ok(())
    }
}

/// Where spans of one passage may start for one query, and how likely each start is.
#[derive(Clone, PartialEq, Debug)]
pub struct SpanWeights {
    /// Byte range of the span at every candidate start, in passage order; never empty.
    spans: Vec<Range<usize>>,
    /// Probability of every candidate; sums to 1.
    probabilities: Vec<f64>,
}

impl SpanWeights {
    /// Byte range of the span at every candidate start, in passage order.
    pub fn spans(&self) -> &[Range<usize>] {
        &self.spans
    }

    /// Probability of every candidate.
    pub fn probabilities(&self) -> &[f64] {
        &self.probabilities
    }
}

/// Samples spans of passages by their similarity to a query.
#[derive(Clone, Debug)]
pub struct SpanSampler {
    options: SpanOptions,
    stop_words: HashSet<&'static str>,
}

impl SpanSampler {
    /// A sampler with `options`.
    ///
    /// # Errors
    /// [`ExampleError::OutOfRange`].
    pub fn new(options: SpanOptions) -> Result<Self, ExampleError> {
        options.validate()?;
        Ok(Self {
            options,
            stop_words: STOP_WORDS.split_whitespace().collect(),
        })
    }

    /// The options.
    pub fn options(&self) -> &SpanOptions {
        &self.options
    }

    /// The candidate spans of `passage` for `query` with their probabilities.
    ///
    /// A passage of stop words only has one candidate, its start. A query without words weighs all
    /// candidates equally.
    pub fn weights(&self, query: &str, passage: &str) -> SpanWeights {
        let words = word_ranges(passage);
        let window = self
            .options
            .window
            .min(words.len())
            .min(query.split_whitespace().count());
        let span_at = |i: usize| {
            let last = (i + self.options.words).min(words.len()) - 1;
            words[i].start..words[last].end
        };
        let lower: Vec<String> = words
            .iter()
            .map(|range| passage[range.clone()].to_lowercase())
            .collect();
        let starts: Vec<usize> = (0..(words.len() + 1).saturating_sub(window.max(1)))
            .filter(|&i| !self.stop_words.contains(lower[i].as_str()))
            .collect();
        if starts.is_empty() {
            let span = if words.is_empty() {
                0..passage.len()
            } else {
                span_at(0)
            };
            return SpanWeights {
                spans: vec![span],
                probabilities: vec![1.0],
            };
        }
        let scores = if window == 0 {
            vec![0.0; starts.len()]
        } else {
            window_scores(query, &lower, &starts, window)
        };
        let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut probabilities: Vec<f64> = scores
            .iter()
            .map(|score| ((score - highest) / self.options.temperature).exp())
            .collect();
        let total: f64 = probabilities.iter().sum();
        probabilities.iter_mut().for_each(|p| *p /= total);
        SpanWeights {
            spans: starts.into_iter().map(span_at).collect(),
            probabilities,
        }
    }

    /// `count` spans drawn with replacement: byte ranges of the passage's text.
    pub fn draw(
        &self,
        weights: &SpanWeights,
        rng: &mut impl Rng,
        count: usize,
    ) -> Vec<Range<usize>> {
        let cumulative: Vec<f64> = weights
            .probabilities
            .iter()
            .scan(0.0, |sum, p| {
                *sum += p;
                Some(*sum)
            })
            .collect();
        let total = cumulative[cumulative.len() - 1];
        (0..count)
            .map(|_| {
                let target = rng.random::<f64>() * total;
                let i = cumulative
                    .partition_point(|&sum| sum <= target)
                    .min(cumulative.len() - 1);
                weights.spans[i].clone()
            })
            .collect()
    }
}

/// Byte ranges of the white-space separated words of `text`.
pub(super) fn word_ranges(text: &str) -> Vec<Range<usize>> {
    let base = text.as_ptr() as usize;
    text.split_whitespace()
        .map(|word| {
            let start = word.as_ptr() as usize - base;
            start..start + word.len()
        })
        .collect()
}

/// `m[i]` of [`SpanOptions`] for every start: the sum over the query's windows of
/// `2 LCS / (length of both)`, in characters.
fn window_scores(query: &str, passage: &[String], starts: &[usize], window: usize) -> Vec<f64> {
    let query_words: Vec<String> = query.split_whitespace().map(str::to_lowercase).collect();
    // Characters become classes; class 0 is a character the query lacks, which never matches.
    let mut classes: HashMap<char, u16> = HashMap::new();
    classes.insert(' ', 1);
    for character in query_words.iter().flat_map(|word| word.chars()) {
        let next = classes.len() as u16 + 1;
        classes.entry(character).or_insert(next);
    }
    let classify = |words: &[String]| {
        let mut text: Vec<u16> = Vec::new();
        let mut ends = Vec::with_capacity(words.len());
        for word in words {
            text.extend(word.chars().map(|c| classes.get(&c).copied().unwrap_or(0)));
            ends.push(text.len());
            text.push(1);
        }
        (text, ends)
    };
    let window_at = |ends: &[usize], i: usize| {
        let start = if i == 0 { 0 } else { ends[i - 1] + 1 };
        start..ends[i + window - 1]
    };
    let (query_text, query_ends) = classify(&query_words);
    let (passage_text, passage_ends) = classify(passage);
    let mut scores = vec![0.0; starts.len()];
    let mut matcher = Matcher::new(classes.len() + 1);
    for j in 0..=query_words.len() - window {
        let pattern = &query_text[window_at(&query_ends, j)];
        matcher.set(pattern);
        for (score, &i) in scores.iter_mut().zip(starts) {
            let text = &passage_text[window_at(&passage_ends, i)];
            let common = matcher.common(text);
            *score += 2.0 * common as f64 / (pattern.len() + text.len()) as f64;
        }
    }
    scores
}

/// Longest common subsequence with a fixed pattern, 64 of its characters per step (Hyyro 2004).
struct Matcher {
    /// Blocks of 64 pattern characters.
    blocks: usize,
    classes: usize,
    /// Bit b of `masks[class * blocks + k]`: pattern character 64 k + b is of the class.
    masks: Vec<u64>,
    /// Ones where a pattern character is not yet matched.
    open: Vec<u64>,
}

impl Matcher {
    fn new(classes: usize) -> Self {
        Self {
            blocks: 0,
            classes,
            masks: Vec::new(),
            open: Vec::new(),
        }
    }

    /// Takes `pattern`; class 0 matches nothing.
    fn set(&mut self, pattern: &[u16]) {
        self.blocks = pattern.len().div_ceil(64).max(1);
        self.masks.clear();
        self.masks.resize(self.classes * self.blocks, 0);
        for (i, &class) in pattern.iter().enumerate().filter(|(_, class)| **class != 0) {
            self.masks[class as usize * self.blocks + i / 64] |= 1 << (i % 64);
        }
    }

    /// Length of the longest common subsequence of the pattern and `text`.
    fn common(&mut self, text: &[u16]) -> u32 {
        if self.blocks == 1 {
            let mut open = u64::MAX;
            for &class in text {
                let matched = open & self.masks[class as usize];
                open = open.wrapping_add(matched) | (open - matched);
            }
            return open.count_zeros();
        }
        self.open.clear();
        self.open.resize(self.blocks, u64::MAX);
        for &class in text {
            let mut carry = false;
            let masks = &self.masks[class as usize * self.blocks..][..self.blocks];
            for (open, mask) in self.open.iter_mut().zip(masks) {
                let matched = *open & mask;
                let (sum, first) = open.overflowing_add(matched);
                let (sum, second) = sum.overflowing_add(u64::from(carry));
                carry = first || second;
                *open = sum | (*open - matched);
            }
        }
        self.open.iter().map(|open| open.count_zeros()).sum()
    }
}

/// English words that carry no topic; a span does not start at one.
const STOP_WORDS: &str = "
a about after again all also although always am among an and another any are around as at away back be because
been before being between both but by can could did do does doing done down during each either else ever every
few for from further get gets got had has have having he her here hers herself him himself his how however i if
in into is it its itself just least less like made make many may me might mine more most much must my myself
near neither never no none nor not now of off often on once one only onto or other our ours out over own per
quite rather same shall she should since so some such than that the their theirs them then there these they
this those though through thus to together too toward under until up upon us very was we were what when where
whether which while who whom whose why will with within without would yet you your yours
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    /// Textbook dynamic program.
    fn naive_common(a: &[char], b: &[char]) -> usize {
        let mut table = vec![vec![0; b.len() + 1]; a.len() + 1];
        for i in 0..a.len() {
            for j in 0..b.len() {
                table[i + 1][j + 1] = if a[i] == b[j] {
                    table[i][j] + 1
                } else {
                    table[i][j + 1].max(table[i + 1][j])
                };
            }
        }
        table[a.len()][b.len()]
    }

    fn naive_ratio(a: &str, b: &str) -> f64 {
        let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
        2.0 * naive_common(&a, &b) as f64 / (a.len() + b.len()) as f64
    }

    fn sampler() -> SpanSampler {
        SpanSampler::new(SpanOptions::default()).unwrap()
    }

    #[test]
    fn common_subsequence_equals_the_dynamic_program() {
        let mut rng = rng::stream(3, "test", &[]);
        for length in [0usize, 1, 5, 63, 64, 65, 127, 128, 129, 300] {
            for classes in [2u16, 4, 30] {
                let mut text = |n: usize| -> Vec<u16> {
                    (0..n).map(|_| rng.random_range(1..=classes)).collect()
                };
                let (a, b) = (text(length), text(length.div_ceil(2) + 7));
                let chars = |s: &[u16]| -> Vec<char> {
                    s.iter()
                        .map(|&c| char::from_u32(u32::from(c) + 64).unwrap())
                        .collect()
                };
                let mut matcher = Matcher::new(classes as usize + 1);
                matcher.set(&a);
                assert_eq!(
                    matcher.common(&b) as usize,
                    naive_common(&chars(&a), &chars(&b))
                );
            }
        }
    }

    #[test]
    fn weights_equal_the_formula() {
        let query = "Who composed the \u{c9}toile of Velmora?";
        let text = "The  composer of Velmora wrote the \u{e9}toile in 1412 , and\nnobody composed the rest";
        let weights = sampler().weights(query, text);
        let q: Vec<String> = query.split_whitespace().map(str::to_lowercase).collect();
        let p: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
        let stop: Vec<&str> = STOP_WORDS.split_whitespace().collect();
        let starts: Vec<usize> = (0..=p.len() - 3)
            .filter(|&i| !stop.contains(&p[i].as_str()))
            .collect();
        let scores: Vec<f64> = starts
            .iter()
            .map(|&i| {
                (0..=q.len() - 3)
                    .map(|j| naive_ratio(&q[j..j + 3].join(" "), &p[i..i + 3].join(" ")))
                    .sum()
            })
            .collect();
        let total: f64 = scores.iter().map(|s: &f64| s.exp()).sum();
        assert_eq!(weights.spans.len(), starts.len());
        for (got, score) in weights.probabilities.iter().zip(&scores) {
            assert!((got - score.exp() / total).abs() < 1e-12);
        }
        assert!(text[weights.spans[0].clone()].starts_with("composer of Velmora"));
        assert!(
            text[weights.spans[0].clone()].ends_with(", and\nnobody")
                || weights.spans[0].len() > 20
        );
    }

    #[test]
    fn a_ratio_by_hand() {
        // "a b" against "a c": common "a ", so 2 * 2 / 6.
        assert!((naive_ratio("a b", "a c") - 4.0 / 6.0).abs() < 1e-12);
        let lower = ["x".to_owned(), "c".to_owned()];
        // Window "x b" against "x c" likewise.
        assert!((window_scores("x b", &lower, &[0], 2)[0] - 4.0 / 6.0).abs() < 1e-12);
    }

    #[test]
    fn a_matching_place_is_likelier() {
        let text = "Salt barges leave every spring. The Osk runs through Velmora and then turns to the sea near Tarn.";
        let weights = sampler().weights("Which river runs through Velmora?", text);
        let best = (0..weights.spans.len())
            .max_by(|&a, &b| weights.probabilities[a].total_cmp(&weights.probabilities[b]))
            .unwrap();
        assert!(text[weights.spans[best].clone()].starts_with("runs through Velmora"));
    }

    #[test]
    fn short_queries_and_passages_work() {
        let s = sampler();
        for (query, text) in [
            ("Velmora", "A town on the Osk"),
            ("", "A town on the Osk"),
            ("which town lies here", "Velmora"),
            ("which", ""),
            ("of the", "of the and to"),
            ("  ", "   "),
        ] {
            let weights = s.weights(query, text);
            let total: f64 = weights.probabilities.iter().sum();
            assert!((total - 1.0).abs() < 1e-12);
            for span in s.draw(&weights, &mut rng::stream(1, "t", &[]), 5) {
                assert!(text.get(span).is_some());
            }
        }
        assert_eq!(s.weights("of the", "of the and to").spans, vec![0..13]);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let s = sampler();
        let weights = SpanWeights {
            spans: vec![0..1, 2..3, 4..5],
            probabilities: vec![0.5, 0.2, 0.3],
        };
        let drawn = s.draw(&weights, &mut rng::stream(5, "t", &[]), 30_000);
        for (span, p) in weights.spans.iter().zip([0.5, 0.2, 0.3]) {
            let share = drawn.iter().filter(|d| *d == span).count() as f64 / 30_000.0;
            assert!((share - p).abs() < 0.01, "{share} against {p}");
        }
    }
}
