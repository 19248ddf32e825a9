//! What may be written next: one interface for n-gram indexes, identifier trees and free text.

use crate::index::{Continuations, Ends, SharedRow, SubstringIndex, Trie, TrieState};
use crate::types::TokenId;

/// A set of token sequences, walked token by token.
///
/// Every [`SubstringIndex`] is one whose sequences never end: whatever occurs may go on as long as
/// it occurs. A tree of identifiers says where one is complete.
pub trait Constraint: Sync {
    /// Where a sequence stands.
    type State: Copy + Send + Sync;

    /// The state of the empty sequence.
    fn root(&self) -> Self::State;

    /// For each state the tokens that may follow, increasing, with counts and states; `out` is replaced.
    fn continuations<'i>(
        &'i self,
        states: &[Self::State],
        out: &mut Continuations<'i, Self::State>,
    );

    /// Whether the sequence of `state` is complete.
    fn end(&self, _state: Self::State) -> End {
        End::No
    }
}

/// Whether a sequence is complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It is not.
    No,
    /// It is, and longer ones begin with it.
    Maybe,
    /// It is, and nothing follows.
    Yes,
}

impl<I: SubstringIndex> Constraint for I {
    type State = I::State;

    fn root(&self) -> I::State {
        SubstringIndex::root(self)
    }

    fn continuations<'i>(&'i self, states: &[I::State], out: &mut Continuations<'i, I::State>) {
        SubstringIndex::continuations(self, states, out);
    }
}

/// A tree of identifiers: whatever begins one may go on, and what is one is complete.
impl Constraint for Trie {
    type State = TrieState;

    fn root(&self) -> TrieState {
        Trie::root(self)
    }

    fn continuations<'i>(&'i self, states: &[TrieState], out: &mut Continuations<'i, TrieState>) {
        Trie::continuations(self, states, out);
    }

    fn end(&self, state: TrieState) -> End {
        match self.is_complete(state) {
            (false, _) => End::No,
            (true, true) => End::Maybe,
            (true, false) => End::Yes,
        }
    }
}

/// The sequences of a constraint that begin with one of some given prefixes.
///
/// Costs a copy of the continuations of every state. A prefix of which another is a prefix adds nothing.
pub struct Forced<'a, C> {
    inner: &'a C,
    /// Per node its children, by token. Node 0 is the root; a prefix that ends leads to [`FREE`].
    nodes: Vec<Vec<(TokenId, u32)>>,
}

/// Beyond the prefixes: everything that the inner constraint allows.
const FREE: u32 = u32::MAX;

/// Where a sequence of [`Forced`] stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ForcedState<S> {
    inner: S,
    node: u32,
}

impl<S: Copy> ForcedState<S> {
    /// Where the sequence stands in the inner constraint.
    pub fn inner(&self) -> S {
        self.inner
    }
}

impl<'a, C> Forced<'a, C> {
    /// The sequences of `inner` that begin with one of `prefixes`; all of them if there is none.
    pub fn new<P: AsRef<[TokenId]>>(inner: &'a C, prefixes: &[P]) -> Self {
        let mut forced = Self {
            inner,
            nodes: vec![vec![]],
        };
        // The shorter first, so that a longer one that begins with it finds the way free.
        let mut sorted: Vec<&[TokenId]> = prefixes.iter().map(AsRef::as_ref).collect();
        sorted.sort_by_key(|prefix| prefix.len());
        if sorted.first().is_none_or(|prefix| prefix.is_empty()) {
            forced.nodes.clear();
            return forced;
        }
        for prefix in sorted {
            forced.insert(prefix);
        }
        forced
    }

    fn insert(&mut self, prefix: &[TokenId]) {
        let mut node = 0;
        for (i, &token) in prefix.iter().enumerate() {
            let children = &self.nodes[node as usize];
            let child = match children.binary_search_by_key(&token, |c| c.0) {
                Ok(at) => children[at].1,
                Err(at) => {
                    let last = i + 1 == prefix.len();
                    let child = if last { FREE } else { self.nodes.len() as u32 };
                    self.nodes[node as usize].insert(at, (token, child));
                    if !last {
                        self.nodes.push(vec![]);
                    }
                    child
                }
            };
            if child == FREE {
                return;
            }
            node = child;
        }
    }
}

impl<C: Constraint> Constraint for Forced<'_, C> {
    type State = ForcedState<C::State>;

    fn root(&self) -> Self::State {
        ForcedState {
            inner: self.inner.root(),
            node: if self.nodes.is_empty() { FREE } else { 0 },
        }
    }

    fn continuations<'i>(
        &'i self,
        states: &[Self::State],
        out: &mut Continuations<'i, Self::State>,
    ) {
        out.clear();
        let inner: Vec<C::State> = states.iter().map(|s| s.inner).collect();
        let mut allowed = Continuations::new();
        self.inner.continuations(&inner, &mut allowed);
        for (state, row) in states.iter().zip(allowed.iter()) {
            let mut push = |nth: usize, node| {
                let state = ForcedState {
                    inner: row.state(nth),
                    node,
                };
                out.push(row.tokens[nth], row.count(nth) as u32, state);
            };
            if state.node == FREE {
                (0..row.tokens.len()).for_each(|nth| push(nth, FREE));
            } else {
                for &(token, child) in &self.nodes[state.node as usize] {
                    if let Some(nth) = row.find(token) {
                        push(nth, child);
                    }
                }
            }
            out.end_row();
        }
    }

    fn end(&self, state: Self::State) -> End {
        if state.node == FREE {
            self.inner.end(state.inner)
        } else {
            End::No
        }
    }
}

/// Any text: every token may follow, and the end token ends it.
pub struct FreeText {
    tokens: Vec<TokenId>,
    ends: Vec<u32>,
    end_slot: u32,
}

/// Where a text stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TextState {
    end_slot: u32,
    ended: bool,
}

impl FreeText {
    /// Texts over the tokens below `vocab_size` without `never`, each ended by `end`.
    pub fn new(vocab_size: usize, end: TokenId, never: &[TokenId]) -> Self {
        let tokens: Vec<TokenId> = (0..vocab_size as u32)
            .map(TokenId)
            .filter(|token| *token == end || !never.contains(token))
            .collect();
        let end_slot = tokens.partition_point(|token| *token < end) as u32;
        Self {
            ends: (1..=tokens.len() as u32).collect(),
            tokens,
            end_slot,
        }
    }
}

impl Constraint for FreeText {
    type State = TextState;

    fn root(&self) -> TextState {
        TextState {
            end_slot: self.end_slot,
            ended: false,
        }
    }

    fn continuations<'i>(&'i self, states: &[TextState], out: &mut Continuations<'i, TextState>) {
        out.clear();
        for &parent in states {
            if parent.ended {
                out.end_row();
                continue;
            }
            out.push_shared_row(SharedRow {
                tokens: &self.tokens,
                ends: Ends::Far(&self.ends),
                start: 0,
                parent,
                first_slot: 0,
                child: |parent, _, slot, _| TextState {
                    ended: slot == parent.end_slot,
                    ..parent
                },
            });
        }
    }

    fn end(&self, state: TextState) -> End {
        if state.ended { End::Yes } else { End::No }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{IndexBuilder, IndexOptions};

    fn ids(tokens: &[u32]) -> Vec<TokenId> {
        tokens.iter().copied().map(TokenId).collect()
    }

    /// Every sequence of up to `longest` tokens that `constraint` allows.
    fn all<C: Constraint>(constraint: &C, longest: usize) -> Vec<Vec<TokenId>> {
        let mut found = vec![];
        let mut level = vec![(vec![], constraint.root())];
        for _ in 0..longest {
            let states: Vec<C::State> = level.iter().map(|(_, s)| *s).collect();
            let mut allowed = Continuations::new();
            constraint.continuations(&states, &mut allowed);
            let mut next = vec![];
            for ((tokens, _), row) in level.iter().zip(allowed.iter()) {
                for nth in 0..row.tokens.len() {
                    let mut longer: Vec<TokenId> = tokens.clone();
                    longer.push(row.tokens[nth]);
                    next.push((longer, row.state(nth)));
                }
            }
            found.extend(next.iter().map(|(tokens, _)| tokens.clone()));
            level = next;
        }
        found.sort();
        found
    }

    #[test]
    fn forced_sequences_are_those_that_begin_so() {
        let mut builder = IndexBuilder::new(10, 0, "", IndexOptions::default()).unwrap();
        for (id, passage) in [[1, 2, 3, 4, 5], [2, 3, 1, 2, 4], [6, 1, 3, 3, 2]]
            .iter()
            .enumerate()
        {
            builder.push(&id.to_string(), &[], &ids(passage)).unwrap();
        }
        let index = builder.into_index().unwrap();
        let everything = all(&index, 4);
        for prefixes in [
            vec![ids(&[1, 2])],
            vec![ids(&[2, 3, 1]), ids(&[2]), ids(&[6])],
            vec![ids(&[1, 2, 4]), ids(&[3])],
            vec![],
            vec![ids(&[])],
        ] {
            let expected: Vec<_> = everything
                .iter()
                .filter(|tokens| {
                    prefixes.is_empty()
                        || prefixes
                            .iter()
                            .any(|p| tokens.starts_with(p) || p.starts_with(tokens))
                })
                .cloned()
                .collect();
            assert_eq!(all(&Forced::new(&index, &prefixes), 4), expected);
        }
        assert!(all(&Forced::new(&index, &[ids(&[9])]), 2).is_empty());
    }

    #[test]
    fn text_ends_at_the_end_token() {
        let text = FreeText::new(4, TokenId(2), &[TokenId(0), TokenId(2)]);
        let expected: Vec<_> = [
            &[1][..],
            &[1, 1],
            &[1, 2],
            &[1, 3],
            &[2],
            &[3],
            &[3, 1],
            &[3, 2],
            &[3, 3],
        ]
        .map(ids)
        .to_vec();
        assert_eq!(all(&text, 2), expected);
        let mut allowed = Continuations::new();
        text.continuations(&[text.root()], &mut allowed);
        let ends: Vec<End> = (0..3).map(|n| text.end(allowed.row(0).state(n))).collect();
        assert_eq!(ends, [End::No, End::Yes, End::No]);
    }
}
