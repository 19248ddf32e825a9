//! Approximate search: clusters of the heaviest postings of each term, with summaries (Seismic: Bruch, Nardini,
//! Rulli, Venturini, *Efficient Inverted Indexes for Approximate Retrieval over Learned Sparse Representations*,
//! SIGIR 2024).
//!
//! Of each term only the passages with the largest weights are kept. They are divided into clusters of
//! passages like each other: some are representatives, and each passage joins the one it has the largest
//! inner product with, over its own heaviest terms. A summary says for each term how much a passage of the
//! cluster has of it at most; only the largest entries are kept, in eight bits. A query goes through the
//! lists of its heaviest terms and scores, from a copy of all vectors by passage, the passages of those
//! clusters whose summary promises enough.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::file::{Clusters, Weights};
use super::{SparseIndex, VectorError, Weight, check};
use crate::retrieve::TopK;
use crate::retrieve::visited::Visited;
use crate::section_file::View;
use crate::types::{Hit, PassageIdx, SparseVector};

/// Terms of a passage that decide which cluster it joins.
const DECIDING_TERMS: usize = 15;
/// Terms whose lists are divided between two collections of the results.
const TERMS_AT_ONCE: usize = 4096;

/// How lists are cut and divided.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterOptions {
    /// Postings of a term that are kept, those with the largest weights; at least 1.
    pub postings: usize,
    /// Passages of a cluster on average, at least 1.
    pub passages: usize,
    /// Share of a summary's sum that is kept, from 0 to 1, the largest entries first.
    pub summary_share: f64,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            postings: 2000,
            passages: 16,
            summary_share: 0.5,
        }
    }
}

impl ClusterOptions {
    pub(super) fn check(&self) -> Result<(), VectorError> {
        let wrong = |name, range, found: String| Err(VectorError::Option { name, range, found });
        if self.postings == 0 {
            return wrong("postings", "at least 1", "0".into());
        }
        if self.passages == 0 {
            return wrong("passages", "at least 1", "0".into());
        }
        if !(0.0..=1.0).contains(&self.summary_share) {
            let found = self.summary_share.to_string();
            return wrong("summary_share", "from 0 to 1", found);
        }
        Ok(())
    }
}

/// How much of the clusters a query looks at.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Approximation {
    /// Terms of the query whose lists are gone through, the heaviest.
    pub query_terms: usize,
    /// A cluster is scored if its summary promises at least this share of the k-th best score so far:
    /// less finds more and takes longer.
    pub promise: f32,
}

impl Default for Approximation {
    fn default() -> Self {
        Self {
            query_terms: 10,
            promise: 1.0,
        }
    }
}

/// The clusters of all terms, as they lie in the file.
#[derive(Default)]
pub(super) struct Divided {
    /// First cluster of each term.
    pub(super) first_cluster: Vec<u64>,
    /// First passage of each cluster.
    pub(super) first_member: Vec<u64>,
    pub(super) members: Vec<u32>,
    /// First summary entry of each cluster.
    pub(super) first_entry: Vec<u64>,
    pub(super) entry_terms: Vec<u32>,
    pub(super) entry_codes: Vec<u8>,
    /// What a code of 1 is worth, of each cluster.
    pub(super) scales: Vec<f32>,
}

/// The passages' vectors, one after the other, and the postings by term.
pub(super) struct Source<'s> {
    pub(super) ends: &'s [usize],
    pub(super) terms: &'s [u32],
    pub(super) weights: &'s [f32],
    pub(super) first_posting: &'s [u64],
    pub(super) passages: &'s [u32],
}

impl Source<'_> {
    fn vector(&self, passage: u32) -> impl Iterator<Item = (u32, f32)> {
        let passage = passage as usize;
        let start = if passage == 0 {
            0
        } else {
            self.ends[passage - 1]
        };
        let range = start..self.ends[passage];
        let terms = self.terms[range.clone()].iter().copied();
        terms.zip(self.weights[range].iter().copied())
    }

    fn weight(&self, passage: u32, term: u32) -> f32 {
        let passage = passage as usize;
        let start = if passage == 0 {
            0
        } else {
            self.ends[passage - 1]
        };
        let terms = &self.terms[start..self.ends[passage]];
        terms
            .binary_search(&term)
            .map_or(0.0, |at| self.weights[start + at])
    }
}

/// Numbers by term, most of them zero.
struct Sums {
    values: Vec<f32>,
    touched: Vec<u32>,
}

/// Memory of a thread that divides lists.
struct Work {
    summary: Sums,
    /// Where the entries of a term begin among those of the representatives, and how many there are.
    heads: Vec<(u32, u32)>,
    scores: Vec<f32>,
}

/// Divides the list of every term.
pub(super) fn divide(source: &Source, num_terms: usize, options: &ClusterOptions) -> Divided {
    let deciding: Vec<Vec<(u32, f32)>> = (0..source.ends.len() as u32)
        .into_par_iter()
        .map(|passage| {
            let mut all: Vec<(u32, f32)> = source.vector(passage).collect();
            all.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            all.truncate(DECIDING_TERMS);
            all.shrink_to_fit();
            all
        })
        .collect();
    let work = || Work {
        summary: Sums {
            values: vec![0.0; num_terms],
            touched: vec![],
        },
        heads: vec![(0, 0); num_terms],
        scores: vec![],
    };
    let mut all = Divided {
        first_cluster: vec![0],
        first_member: vec![0],
        first_entry: vec![0],
        ..Divided::default()
    };
    for first in (0..num_terms).step_by(TERMS_AT_ONCE) {
        let parts: Vec<Divided> = (first..(first + TERMS_AT_ONCE).min(num_terms))
            .into_par_iter()
            .map_init(work, |work, term| {
                divide_list(source, &deciding, term as u32, options, work)
            })
            .collect();
        for part in parts {
            all.append(part);
        }
    }
    all
}

impl Divided {
    /// Appends the clusters of the next term.
    fn append(&mut self, part: Divided) {
        let (members, entries) = (self.members.len() as u64, self.entry_terms.len() as u64);
        self.first_member
            .extend(part.first_member.iter().map(|at| members + at));
        self.first_entry
            .extend(part.first_entry.iter().map(|at| entries + at));
        self.members.extend(part.members);
        self.entry_terms.extend(part.entry_terms);
        self.entry_codes.extend(part.entry_codes);
        self.scales.extend(part.scales);
        self.first_cluster.push(self.scales.len() as u64);
    }
}

/// The clusters of one term; `first_member` and `first_entry` hold ends.
fn divide_list(
    source: &Source,
    deciding: &[Vec<(u32, f32)>],
    term: u32,
    options: &ClusterOptions,
    work: &mut Work,
) -> Divided {
    let range = &source.first_posting[term as usize..][..2];
    let mut list: Vec<(f32, u32)> = source.passages[range[0] as usize..range[1] as usize]
        .iter()
        .map(|&passage| (source.weight(passage, term), passage))
        .collect();
    if list.len() > options.postings {
        let heaviest = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        list.select_nth_unstable_by(options.postings, heaviest);
        list.truncate(options.postings);
        list.sort_unstable_by_key(|&(_, passage)| passage);
    }
    let passages: Vec<u32> = list.into_iter().map(|(_, passage)| passage).collect();
    let mut clusters = join(source, deciding, &passages, options, work);
    clusters.retain(|cluster| !cluster.is_empty());
    let mut divided = Divided::default();
    for cluster in clusters {
        summarise(source, &cluster, options, work, &mut divided);
        divided.members.extend(cluster);
        divided.first_member.push(divided.members.len() as u64);
        divided.first_entry.push(divided.entry_terms.len() as u64);
    }
    divided
}

/// The passages by the representative they join.
fn join(
    source: &Source,
    deciding: &[Vec<(u32, f32)>],
    passages: &[u32],
    options: &ClusterOptions,
    work: &mut Work,
) -> Vec<Vec<u32>> {
    let count = passages.len().div_ceil(options.passages);
    if count <= 1 {
        return vec![passages.to_vec()];
    }
    let chosen = (0..count).map(|n| passages[n * passages.len() / count]);
    let mut entries: Vec<(u32, u32, f32)> = vec![];
    for (number, passage) in chosen.enumerate() {
        entries.extend(
            source
                .vector(passage)
                .map(|(term, w)| (term, number as u32, w)),
        );
    }
    entries.sort_unstable_by_key(|&(term, number, _)| (term, number));
    let mut start = 0;
    for run in entries.chunk_by(|a, b| a.0 == b.0) {
        work.heads[run[0].0 as usize] = (start, run.len() as u32);
        start += run.len() as u32;
    }
    let mut clusters = vec![vec![]; count];
    for &passage in passages {
        work.scores.clear();
        work.scores.resize(count, 0.0);
        for &(term, weight) in &deciding[passage as usize] {
            let (start, len) = work.heads[term as usize];
            for &(_, number, other) in &entries[start as usize..][..len as usize] {
                work.scores[number as usize] += weight * other;
            }
        }
        let mut best = 0;
        for (number, &score) in work.scores.iter().enumerate() {
            if score > work.scores[best] {
                best = number;
            }
        }
        clusters[best].push(passage);
    }
    for run in entries.chunk_by(|a, b| a.0 == b.0) {
        work.heads[run[0].0 as usize] = (0, 0);
    }
    clusters
}

/// Appends the largest weights of the terms of a cluster.
fn summarise(
    source: &Source,
    cluster: &[u32],
    options: &ClusterOptions,
    work: &mut Work,
    out: &mut Divided,
) {
    let Sums { values, touched } = &mut work.summary;
    for &passage in cluster {
        for (term, weight) in source.vector(passage) {
            let value = &mut values[term as usize];
            if *value == 0.0 {
                touched.push(term);
            }
            *value = value.max(weight);
        }
    }
    let largest = touched
        .iter()
        .fold(0.0f32, |a, &term| a.max(values[term as usize]));
    let scale = largest / 255.0;
    let code = |term: u32| (values[term as usize] / scale).round().clamp(1.0, 255.0) as u8;
    // From the largest codes down, until the share is reached.
    let mut sums = [0.0f64; 256];
    for &term in &*touched {
        sums[usize::from(code(term))] += f64::from(values[term as usize]);
    }
    let enough = options.summary_share * sums.iter().sum::<f64>();
    let (mut least, mut sum) = (256, 0.0);
    while least > 1 && sum < enough {
        least -= 1;
        sum += sums[least];
    }
    let first = out.entry_terms.len();
    let kept = touched
        .iter()
        .copied()
        .filter(|&term| usize::from(code(term)) >= least);
    out.entry_terms.extend(kept);
    out.entry_terms[first..].sort_unstable();
    let codes = out.entry_terms[first..].iter().map(|&term| code(term));
    out.entry_codes.extend(codes);
    out.scales.push(scale);
    for term in touched.drain(..) {
        values[term as usize] = 0.0;
    }
}

/// Memory that searches use again.
#[derive(Default)]
struct Scratch {
    query: Vec<f32>,
    steps: Vec<f32>,
    visited: Visited,
    promises: Vec<(f32, u32)>,
}

impl SparseIndex {
    /// Whether the index was built with clusters, for [`search_approximately`](Self::search_approximately).
    pub fn has_clusters(&self) -> bool {
        self.clusters.is_some()
    }

    /// Most of the best `k` passages of each query, best first, ties in passage order; on all threads, and the
    /// same on any number. Scores are those of [`search`](Self::search) up to the order in which they are
    /// added.
    ///
    /// # Errors
    /// [`VectorError::Absent`] if the index was built without clusters; [`VectorError::Vector`] for queries
    /// that are no vectors of it.
    pub fn search_approximately(
        &self,
        queries: &[SparseVector],
        k: usize,
        how: &Approximation,
    ) -> Result<Vec<Vec<Hit>>, VectorError> {
        let Some(clusters) = &self.clusters else {
            return Err(VectorError::Absent {
                path: self.path().into(),
                what: "clusters",
                remedy: "search exactly, or build it with clusters (`genret encode --clusters`)",
            });
        };
        for (ordinal, query) in queries.iter().enumerate() {
            check(query, self.num_terms(), &|| format!("of query {ordinal}"))?;
        }
        let search = |scratch: &mut Scratch, query: &SparseVector| match &self.weights {
            Weights::Bytes(of) => self.promised(clusters, &of.by_passage, query, k, how, scratch),
            Weights::Floats(of) => self.promised(clusters, &of.by_passage, query, k, how, scratch),
        };
        let queries = queries.par_iter();
        Ok(queries.map_init(Scratch::default, search).collect())
    }

    fn promised<W: Weight>(
        &self,
        clusters: &Clusters,
        weights: &View<W>,
        query: &SparseVector,
        k: usize,
        how: &Approximation,
        scratch: &mut Scratch,
    ) -> Vec<Hit> {
        let Scratch {
            query: by_term,
            steps,
            visited,
            promises,
        } = scratch;
        by_term.resize(self.num_terms(), 0.0);
        steps.resize(self.num_terms(), 0.0);
        for (term, weight) in query.iter() {
            by_term[term as usize] = weight;
            steps[term as usize] = weight * self.scales[term as usize];
        }
        visited.forget(self.num_passages());
        let mut heaviest: Vec<(u32, f32)> = query.iter().collect();
        heaviest.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        heaviest.truncate(how.query_terms);
        let mut top = TopK::new(k);
        let slice = |starts: &[u64], at: usize| match starts.get(at..at + 2) {
            Some(&[start, end]) => start as usize..end as usize,
            _ => 0..0,
        };
        promises.clear();
        for (term, _) in heaviest {
            for cluster in slice(&clusters.first_cluster, term as usize) {
                let entries = slice(&clusters.first_entry, cluster);
                let (Some(terms), Some(codes), Some(&scale)) = (
                    clusters.entry_terms.get(entries.clone()),
                    clusters.entry_codes.get(entries),
                    clusters.scales.get(cluster),
                ) else {
                    continue;
                };
                let mut promise = 0.0f32;
                for (&term, &code) in terms.iter().zip(codes) {
                    let weight = by_term.get(term as usize).copied().unwrap_or(0.0);
                    promise += weight * f32::from(code);
                }
                promises.push((promise * scale, cluster as u32));
            }
        }
        promises.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for &(promise, cluster) in &*promises {
            if promise < top.threshold() * how.promise {
                break;
            }
            let members = slice(&clusters.first_member, cluster as usize);
            for &passage in clusters.members.get(members).unwrap_or_default() {
                if !visited.visit(passage) {
                    continue;
                }
                let own = slice(&clusters.first_of_passage, passage as usize);
                let (Some(terms), Some(weights)) =
                    (clusters.passage_terms.get(own.clone()), weights.get(own))
                else {
                    continue;
                };
                let mut score = 0.0f32;
                for (&term, &weight) in terms.iter().zip(weights) {
                    score += steps.get(term as usize).copied().unwrap_or(0.0) * weight.into();
                }
                if score > 0.0 && score >= top.threshold() {
                    top.push(PassageIdx(passage), score);
                }
            }
            top.settle();
        }
        for &term in &query.terms {
            by_term[term as usize] = 0.0;
            steps[term as usize] = 0.0;
        }
        top.into_hits()
    }
}
