//! Within one passage: which occurrences are taken, and what they credit.

use std::ops::Range;

use hashbrown::HashMap;

use crate::types::TokenId;

/// An occurrence in a passage: number of the n-gram (by decreasing weight) and offset.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Place {
    pub(super) ngram: u32,
    pub(super) position: u32,
}

/// What an n-gram gave.
#[derive(Clone, Debug)]
pub(super) struct Credit {
    pub(super) ngram: u32,
    pub(super) credit: f64,
    /// Where it was taken: a range of [`Credits::positions`].
    positions: Range<usize>,
}

/// What a passage is credited with, in order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Credits<'a> {
    pub(super) list: &'a [Credit],
    positions: &'a [u32],
}

impl Credits<'_> {
    /// Where the n-gram of `credit` was taken, increasing.
    pub(super) fn positions(&self, credit: &Credit) -> &[u32] {
        &self.positions[credit.positions.clone()]
    }
}

/// Credits passages one after the other, with buffers that are reused.
#[derive(Clone)]
pub(super) struct Greedy<'a> {
    ngrams: &'a NgramTable,
    repetition_discount: f64,
    taken: Vec<u64>,
    /// Per token of the table the passage that credited it last, counted from 1.
    credited: Vec<u32>,
    passage: u32,
    credits: Vec<Credit>,
    positions: Vec<u32>,
}

/// Lengths, weights and tokens of the n-grams of a query, by decreasing weight.
pub(super) struct NgramTable {
    rows: Vec<NgramRow>,
    /// Distinct tokens of each n-gram, numbered from 0.
    distinct: Vec<u32>,
    num_tokens: usize,
}

struct NgramRow {
    len: usize,
    weight: f64,
    distinct: Range<usize>,
}

impl NgramTable {
    /// Of n-grams given by decreasing weight.
    pub(super) fn new<'n>(ngrams: impl Iterator<Item = (&'n [TokenId], f64)>) -> Self {
        let mut numbers: HashMap<TokenId, u32> = HashMap::new();
        let mut distinct = vec![];
        let rows = ngrams.map(|(tokens, weight)| {
            let start = distinct.len();
            for &token in tokens {
                let next = numbers.len() as u32;
                let number = *numbers.entry(token).or_insert(next);
                if !distinct[start..].contains(&number) {
                    distinct.push(number);
                }
            }
            NgramRow {
                len: tokens.len(),
                weight,
                distinct: start..distinct.len(),
            }
        });
        let rows = rows.collect();
        Self {
            rows,
            distinct,
            num_tokens: numbers.len(),
        }
    }
}

impl<'a> Greedy<'a> {
    /// For the n-grams of a query.
    pub(super) fn new(ngrams: &'a NgramTable, repetition_discount: f64) -> Self {
        Self {
            ngrams,
            repetition_discount,
            taken: vec![],
            credited: vec![0; ngrams.num_tokens],
            passage: 0,
            credits: vec![],
            positions: vec![],
        }
    }

    /// What each n-gram credits, in order; `places` by n-gram, then position.
    pub(super) fn credit(&mut self, places: &[Place]) -> Credits<'_> {
        self.taken.clear();
        self.credits.clear();
        self.positions.clear();
        self.passage += 1;
        for place in places {
            let ngram = &self.ngrams.rows[place.ngram as usize];
            let start = place.position as usize;
            if !take(&mut self.taken, start, start + ngram.len) {
                continue;
            }
            self.positions.push(place.position);
            let end = self.positions.len();
            match self
                .credits
                .last_mut()
                .filter(|last| last.ngram == place.ngram)
            {
                Some(last) => last.positions.end = end,
                None => {
                    let credit = ngram.weight * self.novelty(ngram.distinct.clone());
                    self.credits.push(Credit {
                        ngram: place.ngram,
                        credit,
                        positions: end - 1..end,
                    });
                }
            }
        }
        Credits {
            list: &self.credits,
            positions: &self.positions,
        }
    }

    /// The factor of the repetition discount; the tokens count as credited from now on.
    fn novelty(&mut self, distinct: Range<usize>) -> f64 {
        let mut new = 0;
        let all = distinct.len();
        for &token in &self.ngrams.distinct[distinct] {
            let credited = &mut self.credited[token as usize];
            new += usize::from(*credited != self.passage);
            *credited = self.passage;
        }
        if self.credits.is_empty() {
            return 1.0;
        }
        let discount = self.repetition_discount;
        1.0 - discount + discount * new as f64 / all as f64
    }
}

/// Sets the bits `start..end`; changes nothing and is false if one of them is set.
#[inline]
fn take(bits: &mut Vec<u64>, start: usize, end: usize) -> bool {
    // One word more, so that 64 bits from anywhere lie in two words.
    if bits.len() < end / 64 + 2 {
        bits.resize(end / 64 + 2, 0);
    }
    // Up to 64 bits from `at`: their word, and what to set in it and in the next one.
    let piece = |at: usize| {
        let mask = u128::from(u64::MAX >> (64 - (end - at).min(64))) << (at % 64);
        (at / 64, mask as u64, (mask >> 64) as u64)
    };
    let mut at = start;
    while at < end {
        let (word, low, high) = piece(at);
        if bits[word] & low != 0 || bits[word + 1] & high != 0 {
            return false;
        }
        at += 64;
    }
    at = start;
    while at < end {
        let (word, low, high) = piece(at);
        bits[word] |= low;
        bits[word + 1] |= high;
        at += 64;
    }
    true
}

/// Finds several n-grams in a token list at once.
pub(super) struct PrefixTree {
    /// The numbers of the n-grams, increasing.
    numbers: Vec<u32>,
    /// Bit `token % 4096` of each token that an n-gram starts with: most tokens of a passage start none.
    first_bits: [u64; 64],
    /// Per token the node of the n-grams that start with it, or 0.
    first: Vec<u32>,
    children: HashMap<(u32, TokenId), u32>,
    nodes: Vec<TreeNode>,
}

#[derive(Clone, Copy, Default)]
struct TreeNode {
    /// Which of `numbers` ends here.
    ngram: Option<u32>,
    /// Bit `token % 64` of each token that goes on: most that follow do not.
    next_bits: u64,
}

impl PrefixTree {
    /// Of n-grams with increasing numbers; none is empty.
    pub(super) fn new<'a>(ngrams: impl Iterator<Item = (u32, &'a [TokenId])>) -> Self {
        let root = TreeNode::default();
        let mut tree = Self {
            numbers: vec![],
            first_bits: [0; 64],
            first: vec![],
            children: HashMap::new(),
            nodes: vec![root],
        };
        for (number, tokens) in ngrams {
            let Some((first, rest)) = tokens.split_first() else {
                continue;
            };
            if tree.first.len() <= first.index() {
                tree.first.resize(first.index() + 1, 0);
            }
            tree.first_bits[first.index() / 64 % 64] |= 1 << (first.0 % 64);
            let mut node = tree.first[first.index()];
            if node == 0 {
                node = tree.nodes.len() as u32;
                tree.first[first.index()] = node;
                tree.nodes.push(TreeNode::default());
            }
            for &token in rest {
                let new = tree.nodes.len() as u32;
                tree.nodes[node as usize].next_bits |= 1 << (token.0 % 64);
                node = *tree.children.entry((node, token)).or_insert(new);
                if node == new {
                    tree.nodes.push(TreeNode::default());
                }
            }
            tree.nodes[node as usize].ngram = Some(tree.numbers.len() as u32);
            tree.numbers.push(number);
        }
        tree
    }

    /// Whether there is no n-gram.
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.len() == 1
    }

    /// Where the n-grams occur in `tokens`, together with `others`, all in the order of places.
    ///
    /// They are added to the end of `places`; `found` is a buffer.
    pub(super) fn find(
        &self,
        tokens: &[TokenId],
        others: &[Place],
        found: &mut Vec<Vec<u32>>,
        places: &mut Vec<Place>,
    ) {
        found.resize_with(self.numbers.len(), Vec::new);
        found.iter_mut().for_each(Vec::clear);
        for (position, first) in tokens.iter().enumerate() {
            if self.first_bits[first.index() / 64 % 64] >> (first.0 % 64) & 1 == 0 {
                continue;
            }
            let mut node = self.first.get(first.index()).copied().unwrap_or(0);
            let mut rest = tokens[position + 1..].iter();
            while node != 0 {
                let TreeNode { ngram, next_bits } = self.nodes[node as usize];
                if let Some(ngram) = ngram {
                    found[ngram as usize].push(position as u32);
                }
                let next = rest
                    .next()
                    .filter(|token| next_bits >> (token.0 % 64) & 1 == 1);
                node = next
                    .and_then(|&token| self.children.get(&(node, token)).copied())
                    .unwrap_or(0);
            }
        }
        let mut others = others.iter().copied().peekable();
        for (&ngram, positions) in self.numbers.iter().zip(found.iter()) {
            if !positions.is_empty() {
                while let Some(other) = others.next_if(|other| other.ngram < ngram) {
                    places.push(other);
                }
                places.extend(positions.iter().map(|&position| Place { ngram, position }));
            }
        }
        places.extend(others);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_taken_once() {
        let mut bits = vec![];
        assert!(take(&mut bits, 60, 70));
        assert!(!take(&mut bits, 69, 71) && !take(&mut bits, 0, 61) && !take(&mut bits, 0, 200));
        assert!(take(&mut bits, 70, 71) && take(&mut bits, 0, 60) && take(&mut bits, 71, 200));
        assert_eq!(bits[..3], [u64::MAX; 3]);
    }

    #[test]
    fn credits_of_a_small_passage() {
        // Passage a b c a b d; n-grams abc (weight 4), ab (2), d (1).
        let [a, b, c, d] = [0, 1, 2, 3].map(TokenId);
        let ngrams: [(&[TokenId], f64); 3] = [(&[a, b, c], 4.0), (&[a, b], 2.0), (&[d], 1.0)];
        let table = NgramTable::new(ngrams.into_iter());
        let mut greedy = Greedy::new(&table, 0.8);
        let place = |ngram, position| Place { ngram, position };
        let places = [place(0, 0), place(1, 0), place(1, 3), place(2, 5)];
        let credits = greedy.credit(&places);
        // ab at 3: both tokens were credited, so a fifth is left; d is new.
        let expected = [(0, 4.0, 0), (1, 2.0 * (1.0 - 0.8), 3), (2, 1.0, 5)];
        assert_eq!(credits.list.len(), 3);
        for (credit, (ngram, value, position)) in credits.list.iter().zip(expected) {
            assert_eq!(credit.ngram, ngram);
            assert!((credit.credit - value).abs() < 1e-15);
            assert_eq!(credits.positions(credit), [position]);
        }
    }

    #[test]
    fn the_tree_finds_every_occurrence() {
        let ids = |s: &str| -> Vec<TokenId> { s.bytes().map(|b| TokenId(b.into())).collect() };
        let ngrams = [ids("ab"), ids("aba"), ids("b")];
        let tree = PrefixTree::new([0, 2, 4].into_iter().zip(ngrams.iter().map(Vec::as_slice)));
        let list = |places: &[(u32, u32)]| -> Vec<Place> {
            places
                .iter()
                .map(|&(ngram, position)| Place { ngram, position })
                .collect()
        };
        let others = list(&[(1, 7), (3, 0), (9, 1)]);
        let (mut found, mut places) = (vec![], vec![]);
        for _ in 0..2 {
            places.clear();
            tree.find(&ids("xabab"), &others, &mut found, &mut places);
            let all = [
                (0, 1),
                (0, 3),
                (1, 7),
                (2, 1),
                (3, 0),
                (4, 2),
                (4, 4),
                (9, 1),
            ];
            assert_eq!(places, list(&all));
        }
    }
}
