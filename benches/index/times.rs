//! What was measured, and its summary.

use std::collections::BTreeMap;

/// Whether 128 MB were touched just before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Heat {
    Cold,
    Warm,
}

/// Microseconds per block, by beam width, what was done, length of the n-grams and heat.
#[derive(Default)]
pub struct Times {
    values: BTreeMap<(usize, &'static str, usize, Heat), Vec<Vec<f64>>>,
    round: usize,
}

impl Times {
    /// Begins another round.
    pub fn next_round(&mut self) {
        self.round += 1;
    }

    /// Notes one block of the current round.
    pub fn add(&mut self, width: usize, what: &'static str, len: usize, heat: Heat, value: f64) {
        let rounds = self.values.entry((width, what, len, heat)).or_default();
        rounds.resize(self.round + 1, vec![]);
        rounds[self.round].push(value);
    }

    /// Mean over the blocks, median over the rounds; NaN if there is none.
    pub fn get(&self, width: usize, what: &'static str, len: usize, heat: Heat) -> f64 {
        let Some(rounds) = self.values.get(&(width, what, len, heat)) else {
            return f64::NAN;
        };
        let mut means: Vec<f64> = rounds
            .iter()
            .filter(|blocks| !blocks.is_empty())
            .map(|blocks| blocks.iter().sum::<f64>() / blocks.len() as f64)
            .collect();
        means.sort_by(f64::total_cmp);
        means[means.len() / 2]
    }

    /// Sum over lengths 1 to 9.
    pub fn sum(&self, width: usize, what: &'static str, heat: Heat) -> f64 {
        (1..=9).map(|len| self.get(width, what, len, heat)).sum()
    }
}
