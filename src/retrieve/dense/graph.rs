//! A hierarchical graph of near vectors (HNSW: Malkov and Yashunin, *Efficient and Robust Approximate Nearest
//! Neighbor Search Using Hierarchical Navigable Small World Graphs*, TPAMI 2018), for inner products.
//!
//! Every passage is a node on the ground with up to `2 * links` neighbours; a fraction 1 / links of each
//! layer stands on the next one too, with up to `links` neighbours. A search descends from the top by
//! steps to the better neighbour and on the ground keeps the best `effort` nodes in hand.
//!
//! Inner products are no distance: a long vector is near to everything. For the graph alone every vector
//! gets one more number, sqrt(L^2 - |v|^2) with L the greatest length, so that all are equally long and the
//! nearest by angle is the best by inner product (Bachrach et al., RecSys 2014); a query gets 0 there.
//!
//! The passages are inserted in batches in their order: all of a batch look for neighbours in the graph
//! before it, on all threads, then they are linked one after the other. So the graph does not depend on
//! the number of threads.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::RngExt;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::product::float_product;
use super::{DenseIndex, VectorError};
use crate::retrieve::TopK;
use crate::retrieve::visited::Visited;
use crate::rng::stream;
use crate::section_file::prefetch;
use crate::types::{Hit, PassageIdx};

/// The most layers above the ground: more nodes than a `u32` counts would be needed for the next.
const MOST_LAYERS: usize = 16;
/// Nodes that look for neighbours at the same time, as a share of those that are linked.
const BATCH_SHARE: usize = 16;
/// The most of them.
const MOST_BATCH: usize = 1024;

/// Rows that are fetched before the one that is read.
const AHEAD: usize = 2;
/// Cache lines of a row that are fetched.
const FETCHED: usize = 8;

/// How a graph is built.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GraphOptions {
    /// Links of a node above the ground; twice as many on it. From 2 to 256.
    pub links: usize,
    /// Nodes in hand while neighbours are looked for, at least 1.
    pub effort: usize,
}

impl Default for GraphOptions {
    fn default() -> Self {
        Self {
            links: 16,
            effort: 200,
        }
    }
}

impl GraphOptions {
    pub(super) fn check(&self) -> Result<(), VectorError> {
        let wrong = |name, range, found: usize| {
            Err(VectorError::Option {
                name,
                range,
                found: found.to_string(),
            })
        };
        if !(2..=256).contains(&self.links) {
            return wrong("links", "from 2 to 256", self.links);
        }
        if self.effort == 0 {
            return wrong("effort", "at least 1", 0);
        }
        Ok(())
    }
}

/// The links, as they lie in the file.
#[derive(Default)]
pub(super) struct Graph {
    /// The node to begin at.
    pub(super) entry: u32,
    pub(super) ground: Vec<u32>,
    pub(super) upper: Vec<u32>,
    pub(super) starts: Vec<u64>,
}

/// A node and how near it is: greater is nearer, equals by lower node.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Near(f32, u32);

impl Eq for Near {}

impl Ord for Near {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0).then(other.1.cmp(&self.1))
    }
}

impl PartialOrd for Near {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// The nodes nearest to something, `effort` at most, best first: from `entries`, along `neighbours`. Rows are
/// fetched by `ahead` before they meet `score`.
fn near<'g>(
    score: &impl Fn(u32) -> f32,
    ahead: &impl Fn(u32),
    entries: &[Near],
    effort: usize,
    visited: &mut Visited,
    neighbours: impl Fn(u32) -> &'g [u32],
) -> Vec<Near> {
    let mut open: BinaryHeap<Near> = BinaryHeap::new();
    let mut best: BinaryHeap<Reverse<Near>> = BinaryHeap::new();
    let mut new = vec![];
    for &entry in entries {
        if visited.visit(entry.1) {
            open.push(entry);
            best.push(Reverse(entry));
        }
    }
    while let Some(node) = open.pop() {
        let worst = |best: &BinaryHeap<Reverse<Near>>| best.peek().map(|near| near.0);
        if best.len() >= effort && worst(&best).is_some_and(|worst| node < worst) {
            break;
        }
        new.clear();
        new.extend(neighbours(node.1).iter().filter(|&&n| visited.visit(n)));
        new.iter().take(AHEAD).for_each(|&n| ahead(n));
        for (at, &neighbour) in new.iter().enumerate() {
            new.get(at + AHEAD).into_iter().for_each(|&n| ahead(n));
            let found = Near(score(neighbour), neighbour);
            if best.len() < effort || worst(&best).is_some_and(|worst| found > worst) {
                open.push(found);
                best.push(Reverse(found));
                if best.len() > effort {
                    best.pop();
                }
            }
        }
    }
    let mut best: Vec<Near> = best.into_iter().map(|near| near.0).collect();
    best.sort_unstable_by(|a, b| b.cmp(a));
    best
}

/// Fetches the head of a row; what follows is read in order, which processors foresee.
fn fetch(values: &[f32], width: usize, node: u32) {
    let start = node as usize * width;
    for line in (0..width.min(16 * FETCHED)).step_by(16) {
        prefetch(values, start + line);
    }
}

/// A graph that grows: lists of neighbours per layer of each node.
struct Growing<'v> {
    values: &'v [f32],
    width: usize,
    /// The number that makes all vectors equally long.
    fill: Vec<f32>,
    links: usize,
    /// Layers of each node, the ground first.
    layers: Vec<Vec<Vec<u32>>>,
    entry: Option<u32>,
}

impl Growing<'_> {
    fn row(&self, node: u32) -> &[f32] {
        &self.values[node as usize * self.width..][..self.width]
    }

    fn score(&self, a: u32, b: u32) -> f32 {
        float_product(self.row(a), self.row(b)) + self.fill[a as usize] * self.fill[b as usize]
    }

    fn room(&self, layer: usize) -> usize {
        if layer == 0 {
            2 * self.links
        } else {
            self.links
        }
    }

    fn neighbours(&self, node: u32, layer: usize) -> &[u32] {
        self.layers[node as usize].get(layer).map_or(&[], |l| l)
    }

    /// The nodes near `node` in each of its layers, the ground first.
    fn look(&self, node: u32, effort: usize, visited: &mut Visited) -> Vec<Vec<Near>> {
        let own = self.layers[node as usize].len();
        let Some(entry) = self.entry else {
            return vec![vec![]; own];
        };
        let score = |other: u32| self.score(node, other);
        let ahead = |other: u32| fetch(self.values, self.width, other);
        let mut entries = vec![Near(score(entry), entry)];
        let mut found = vec![];
        for layer in (0..self.layers[entry as usize].len()).rev() {
            let effort = if layer < own { effort } else { 1 };
            visited.forget(self.layers.len());
            entries = near(&score, &ahead, &entries, effort, visited, |n| {
                self.neighbours(n, layer)
            });
            if layer < own {
                found.push(entries.clone());
            }
        }
        found.reverse();
        found.resize(own, vec![]);
        found
    }

    /// Of `candidates`, best first, those that are nearer to the node than to any that was chosen before, `room` at
    /// most (the paper's algorithm 4).
    fn choose(&self, candidates: &[Near], room: usize) -> Vec<u32> {
        let mut chosen: Vec<u32> = vec![];
        for &Near(score, node) in candidates {
            if chosen.len() == room {
                break;
            }
            if chosen.iter().all(|&other| self.score(node, other) <= score) {
                chosen.push(node);
            }
        }
        chosen
    }

    fn link(&mut self, node: u32, found: &[Vec<Near>]) {
        for (layer, candidates) in found.iter().enumerate() {
            let chosen = self.choose(candidates, self.links);
            for &other in &chosen {
                let room = self.room(layer);
                let Some(list) = self.layers[other as usize].get_mut(layer) else {
                    continue;
                };
                list.push(node);
                if list.len() > room {
                    let list = list.clone();
                    let mut candidates: Vec<Near> = list
                        .iter()
                        .map(|&n| Near(self.score(other, n), n))
                        .collect();
                    candidates.sort_unstable_by(|a, b| b.cmp(a));
                    self.layers[other as usize][layer] = self.choose(&candidates, room);
                }
            }
            self.layers[node as usize][layer] = chosen;
        }
        let height = |n: u32| self.layers[n as usize].len();
        if self.entry.is_none_or(|entry| height(node) > height(entry)) {
            self.entry = Some(node);
        }
    }
}

/// The graph of the rows of `values`.
pub(super) fn build(values: &[f32], width: usize, options: &GraphOptions) -> Graph {
    let nodes = values.len() / width;
    let lengths: Vec<f32> = values
        .chunks_exact(width)
        .map(|row| float_product(row, row))
        .collect();
    let longest = lengths.iter().copied().fold(0.0, f32::max);
    let mut random = stream(0, "graph", &[]);
    let mut layers_of = || {
        let up = -(1.0 - random.random::<f64>()).ln() / (options.links as f64).ln();
        1 + (up as usize).min(MOST_LAYERS)
    };
    let mut graph = Growing {
        values,
        width,
        fill: lengths
            .iter()
            .map(|length| (longest - length).max(0.0).sqrt())
            .collect(),
        links: options.links,
        layers: (0..nodes).map(|_| vec![vec![]; layers_of()]).collect(),
        entry: None,
    };
    let mut next = 0;
    while next < nodes {
        let end = (next + (next / BATCH_SHARE).clamp(1, MOST_BATCH)).min(nodes);
        let found: Vec<Vec<Vec<Near>>> = (next as u32..end as u32)
            .into_par_iter()
            .map_init(Visited::default, |visited, node| {
                graph.look(node, options.effort, visited)
            })
            .collect();
        for (node, found) in (next as u32..).zip(&found) {
            graph.link(node, found);
        }
        next = end;
    }
    flatten(&graph)
}

/// The lists in two arrays; a list that is not full is filled up with the node itself.
fn flatten(graph: &Growing) -> Graph {
    let mut flat = Graph {
        entry: graph.entry.unwrap_or(0),
        starts: vec![0],
        ..Graph::default()
    };
    for (node, layers) in graph.layers.iter().enumerate() {
        for (layer, list) in layers.iter().enumerate() {
            let all = if layer == 0 {
                &mut flat.ground
            } else {
                &mut flat.upper
            };
            let end = all.len() + graph.room(layer);
            all.extend(list);
            all.resize(end, node as u32);
        }
        flat.starts.push(flat.upper.len() as u64);
    }
    flat
}

impl DenseIndex {
    fn neighbours(&self, node: u32, layer: usize) -> &[u32] {
        let (node, links) = (node as usize, self.header.links as usize);
        if layer == 0 {
            return self
                .ground
                .get(node * 2 * links..(node + 1) * 2 * links)
                .unwrap_or(&[]);
        }
        let (Some(&start), Some(&end)) = (self.starts.get(node), self.starts.get(node + 1)) else {
            return &[];
        };
        let own = &self.upper[start as usize..end as usize];
        own.get((layer - 1) * links..layer * links).unwrap_or(&[])
    }

    /// The best `k` that a walk with `effort` nodes in hand meets.
    pub(super) fn walk(
        &self,
        query: &[f32],
        k: usize,
        effort: usize,
        visited: &mut Visited,
    ) -> Vec<Hit> {
        if self.num_passages() == 0 || k == 0 {
            return vec![];
        }
        let score = |node: u32| match (node as usize) < self.num_passages() {
            true => float_product(self.row(node), query),
            false => f32::NEG_INFINITY,
        };
        let ahead = |node: u32| fetch(&self.values, self.width(), node);
        let entry = self.header.entry;
        let mut entries = vec![Near(score(entry), entry)];
        let top = self.starts[entry as usize + 1] - self.starts[entry as usize];
        let layers = top as usize / self.header.links as usize;
        for layer in (0..=layers).rev() {
            let effort = if layer == 0 { effort.max(k) } else { 1 };
            visited.forget(self.num_passages());
            entries = near(&score, &ahead, &entries, effort, visited, |node| {
                self.neighbours(node, layer)
            });
        }
        let mut best = TopK::new(k);
        for &Near(score, node) in &entries {
            if score >= best.threshold() {
                best.push(PassageIdx(node), score);
            }
        }
        best.into_hits()
    }
}
