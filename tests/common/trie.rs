//! A prefix tree over identifiers, as a decoding constraint.

use genret::decode::{Constraint, End};
use genret::index::Continuations;
use genret::types::TokenId;

/// Identifiers as a tree; node 0 is the root.
pub struct Trie {
    nodes: Vec<Node>,
}

#[derive(Default)]
struct Node {
    /// Children by token.
    children: Vec<(TokenId, u32)>,
    /// Identifiers at and below the node.
    count: u32,
    /// Whether an identifier ends here.
    complete: bool,
}

impl Trie {
    pub fn new<I: AsRef<[TokenId]>>(identifiers: &[I]) -> Self {
        let mut nodes = vec![Node::default()];
        for identifier in identifiers {
            let mut at = 0;
            for &token in identifier.as_ref() {
                let child = match nodes[at].children.binary_search_by_key(&token, |c| c.0) {
                    Ok(nth) => nodes[at].children[nth].1,
                    Err(nth) => {
                        let child = nodes.len() as u32;
                        nodes.push(Node::default());
                        nodes[at].children.insert(nth, (token, child));
                        child
                    }
                };
                at = child as usize;
                nodes[at].count += 1;
            }
            nodes[at].complete = true;
        }
        Self { nodes }
    }
}

impl Constraint for Trie {
    type State = u32;

    fn root(&self) -> u32 {
        0
    }

    fn continuations<'i>(&'i self, states: &[u32], out: &mut Continuations<'i, u32>) {
        out.clear();
        for &state in states {
            for &(token, child) in &self.nodes[state as usize].children {
                out.push(token, self.nodes[child as usize].count, child);
            }
            out.end_row();
        }
    }

    fn end(&self, state: u32) -> End {
        let node = &self.nodes[state as usize];
        match (node.complete, node.children.is_empty()) {
            (false, _) => End::No,
            (true, true) => End::Yes,
            (true, false) => End::Maybe,
        }
    }
}
