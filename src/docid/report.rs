//! What identifiers are like.

use serde::{Deserialize, Serialize};

use super::Codes;
use super::collisions::Collided;

/// What identifiers are like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Passages.
    pub passages: usize,
    /// Different identifiers, in the end.
    pub ids: usize,
    /// Different identifiers before passages with the same one were numbered.
    pub ids_unresolved: usize,
    /// Identifiers that several passages shared before they were numbered.
    pub shared_ids: usize,
    /// Passages that shared one before they were numbered.
    pub collided_passages: usize,
    /// The most passages that shared one.
    pub largest_collision: usize,
    /// Tokens of the shortest identifier.
    pub depth_min: usize,
    /// Tokens of an identifier, on average over passages.
    pub depth_mean: f64,
    /// Tokens of the longest identifier.
    pub depth_max: usize,
    /// Codes to choose from at each position.
    pub alphabet: usize,
    /// Position by position.
    pub levels: Vec<LevelReport>,
}

/// One position of the identifiers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LevelReport {
    /// Passages whose identifier has a code here.
    pub passages: usize,
    /// Different codes.
    pub used: usize,
    /// Entropy of the codes over passages, in bits; at most log2 of the alphabet.
    pub entropy_bits: f64,
    /// Share of the vectors' variance that is left after this code, for residual quantisation.
    pub error: Option<f64>,
}

impl Report {
    pub(super) fn new(codes: &Codes, before: Collided, ids: usize) -> Self {
        let lengths = || codes.codes.iter().map(Vec::len);
        let deepest = lengths().max().unwrap_or(0);
        let level = |level: usize| {
            let mut counts = vec![0u64; codes.alphabet];
            for id in &codes.codes {
                if let Some(&code) = id.get(level) {
                    counts[code as usize] += 1;
                }
            }
            let total: u64 = counts.iter().sum();
            let share = |count: &u64| *count as f64 / total as f64;
            let used = || counts.iter().filter(|count| **count > 0);
            LevelReport {
                passages: total as usize,
                used: used().count(),
                entropy_bits: used().map(share).map(|p| -p * p.log2()).sum::<f64>() + 0.0,
                error: codes.errors.get(level).copied(),
            }
        };
        Self {
            passages: codes.codes.len(),
            ids,
            ids_unresolved: before.ids,
            shared_ids: before.shared,
            collided_passages: before.passages,
            largest_collision: before.largest,
            depth_min: lengths().min().unwrap_or(0),
            depth_mean: lengths().sum::<usize>() as f64 / codes.codes.len() as f64,
            depth_max: deepest,
            alphabet: codes.alphabet,
            levels: (0..deepest).map(level).collect(),
        }
    }
}
