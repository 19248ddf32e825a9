//! Lists of continuations, made in advance, for the n-grams that occur often.
//!
//! A frequent n-gram has up to the whole vocabulary behind it, and finding that in the sorted
//! positions costs a random read per continuation. Its list is therefore stored (a *node*): tokens,
//! and the ends of their ranges of rows. Nodes are numbered level by level, in row order inside a
//! level, so that the node of a continuation is one more than the number of continuations before it
//! that have a node: a bit per continuation and a running count find it.

use rayon::prelude::*;

use super::suffix::Symbol;
use crate::section_file::prefetch;
use crate::types::TokenId;

/// The nodes of one field. Node 0 is the empty n-gram.
#[derive(Default)]
pub(super) struct NodeTables {
    /// Per node its first row and its first slot; one more at the end.
    pub(super) nodes: Vec<[u32; 2]>,
    /// Per slot (a continuation of a node) the token; increasing inside a node.
    pub(super) tokens: Vec<TokenId>,
    /// Per slot the end of its rows; they start where the slot before ends.
    pub(super) ends: Vec<u32>,
    /// Per slot one bit: whether it has a node itself.
    pub(super) is_node: Vec<u64>,
    /// Per word of `is_node` the number of bits before it.
    pub(super) nodes_before: Vec<u32>,
}

impl NodeTables {
    /// Begins the next node, in level order, at its first row.
    pub(super) fn start_node(&mut self, first_row: u32) {
        self.nodes.push([first_row, self.tokens.len() as u32]);
    }

    /// Adds a continuation to the node begun last: token, end of its rows, whether it has a node.
    pub(super) fn push(&mut self, token: TokenId, end: u32, has_node: bool) {
        let slot = self.tokens.len();
        if slot.is_multiple_of(64) {
            let before = match (self.nodes_before.last(), self.is_node.last()) {
                (Some(before), Some(bits)) => before + bits.count_ones(),
                _ => 0,
            };
            self.nodes_before.push(before);
            self.is_node.push(0);
        }
        self.is_node[slot / 64] |= u64::from(has_node) << (slot % 64);
        self.tokens.push(token);
        self.ends.push(end);
    }

    /// Ends the last node of a field with `num_rows` rows.
    pub(super) fn finish(&mut self, num_rows: u32) {
        self.start_node(num_rows);
    }
}

/// The ends of the slots in half of their bytes, as the file of an index has them.
#[derive(Default)]
pub(super) struct ShortEnds {
    /// Per node its first row, its first slot and its first end: a place in `near`, or behind all of them
    /// in `far`; one more at the end.
    pub(super) nodes: Vec<[u32; 3]>,
    /// Ends of the slots of nodes with fewer than 65,536 rows, less the first row of the node.
    pub(super) near: Vec<u16>,
    /// Ends of the slots of the others.
    pub(super) far: Vec<u32>,
}

impl ShortEnds {
    pub(super) fn new(tables: &NodeTables) -> Self {
        let mut short = Self::default();
        let mut far_nodes = vec![];
        for (number, node) in tables.nodes.windows(2).enumerate() {
            let [[first_row, first_slot], [_, end_slot]] = [node[0], node[1]];
            let ends = &tables.ends[first_slot as usize..end_slot as usize];
            let rows = ends.last().map_or(0, |end| end - first_row);
            let first_end = if rows <= u16::MAX.into() {
                let near = ends.iter().map(|end| (end - first_row) as u16);
                short.near.extend(near);
                short.near.len() - ends.len()
            } else {
                far_nodes.push(number);
                short.far.extend(ends);
                short.far.len() - ends.len()
            };
            short.nodes.push([first_row, first_slot, first_end as u32]);
        }
        for node in far_nodes {
            short.nodes[node][2] += short.near.len() as u32;
        }
        let end = tables.nodes.last().copied().unwrap_or_default();
        short.nodes.push([end[0], end[1], 0]);
        short
    }
}

/// The node of a slot, if it has one.
#[inline(always)]
pub(super) fn child_node(is_node: &[u64], nodes_before: &[u32], slot: u32) -> Option<u32> {
    let (word, bit) = (slot as usize / 64, slot % 64);
    let (&bits, &before) = (is_node.get(word)?, nodes_before.get(word)?);
    let inside = bits & ((1 << bit) - 1);
    (bits >> bit & 1 == 1).then(|| before.wrapping_add(inside.count_ones()).wrapping_add(1))
}

/// Makes nodes for the n-grams shorter than `max_depth` with at least `min_count` occurrences.
///
/// One pass over the rows of every node: O(n) per level, in parallel over the nodes of a level.
pub(super) fn build_nodes<T: Symbol>(
    text: &[T],
    suffixes: &[u32],
    min_count: usize,
    max_depth: usize,
) -> NodeTables {
    let mut tables = NodeTables::default();
    let mut level = vec![(0u32, suffixes.len() as u32)];
    let mut depth = 0;
    while !level.is_empty() {
        let lists: Vec<Vec<(TokenId, u32)>> = level
            .par_iter()
            .map(|&(start, end)| split_rows(text, suffixes, start, end, depth))
            .collect();
        let mut next = vec![];
        // Each list is freed when it is in the tables.
        for (&(start, _), list) in level.iter().zip(lists) {
            tables.start_node(start);
            let mut before = start;
            for (token, end) in list {
                let wide = (end - before) as usize >= min_count && depth + 1 < max_depth;
                if wide {
                    next.push((before, end));
                }
                tables.push(token, end, wide);
                before = end;
            }
        }
        level = next;
        depth += 1;
    }
    tables.finish(suffixes.len() as u32);
    tables
}

/// The distinct symbols at `depth` behind the rows `start..end`, each with the end of its rows.
fn split_rows<T: Symbol>(
    text: &[T],
    suffixes: &[u32],
    start: u32,
    end: u32,
    depth: usize,
) -> Vec<(TokenId, u32)> {
    const AHEAD: usize = 16;
    let rows = &suffixes[start as usize..end as usize];
    let symbol = |row: usize| text[rows[row] as usize + depth];
    let mut list = vec![];
    let (mut row, mut requested) = (0, 0);
    while row < rows.len() {
        // Runs are short, so that nearly every row is read.
        requested = requested.max(row);
        let ahead = rows.len().min(row + AHEAD);
        for &later in rows.get(requested..ahead).unwrap_or_default() {
            prefetch(text, later as usize + depth);
        }
        requested = requested.max(ahead);
        let current = symbol(row);
        if current == T::SEPARATOR {
            break; // Separators sort last.
        }
        row = run_end(rows.len(), row, |row| symbol(row) == current);
        list.push((TokenId(current.value()), start + row as u32));
    }
    list
}

/// The end of the run of rows that starts at `row` and satisfies `same`: doubling, then halving.
pub(super) fn run_end(len: usize, row: usize, same: impl Fn(usize) -> bool) -> usize {
    let (mut inside, mut step) = (row, 1);
    while inside + step < len && same(inside + step) {
        inside += step;
        step *= 2;
    }
    let mut outside = len.min(inside + step);
    while outside - inside > 1 {
        let middle = inside + (outside - inside) / 2;
        if same(middle) {
            inside = middle;
        } else {
            outside = middle;
        }
    }
    outside
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_ends_where_the_first_row_differs() {
        let runs = [1, 2, 3, 64, 65, 100];
        for len in runs {
            for end in 1..=len {
                assert_eq!(run_end(len + 3, 3, |row| row < end + 3), end + 3);
            }
        }
    }

    #[test]
    fn nodes_of_a_small_text() {
        // abab|ab with | the separator: a occurs 3 times, always followed by b.
        let text: [u16; 7] = [0, 1, 0, 1, u16::MAX, 0, 1];
        let suffixes = [0, 2, 5, 1, 3, 6]; // abab, ab, ab, bab, b, b
        let mut padded = text.to_vec();
        padded.extend([u16::MAX; 4]);
        let tables = build_nodes(&padded, &suffixes, 3, 8);
        // Nodes: empty, a, b, ab.
        assert_eq!(tables.nodes, [[0, 0], [0, 2], [3, 3], [0, 4], [6, 5]]);
        assert_eq!(tables.tokens, [0, 1, 1, 0, 0].map(TokenId));
        assert_eq!(tables.ends, [3, 6, 3, 4, 1]);
        assert_eq!(tables.is_node, [0b111]);
        assert_eq!(tables.nodes_before, [0]);
        let short = ShortEnds::new(&tables);
        assert_eq!(
            short.nodes,
            [[0, 0, 0], [0, 2, 2], [3, 3, 3], [0, 4, 4], [6, 5, 0]]
        );
        assert_eq!((short.near, short.far), (vec![3, 6, 3, 1, 1], vec![]));
    }

    #[test]
    fn ends_that_need_four_bytes_lie_behind_those_that_need_two() {
        let mut tables = NodeTables::default();
        for (first_row, ends) in [(0, [65_535, 65_536]), (7, [9, 65_542]), (9, [10, 11])] {
            tables.start_node(first_row);
            for (token, end) in (0..).map(TokenId).zip(ends) {
                tables.push(token, end, false);
            }
        }
        tables.finish(70_000);
        let short = ShortEnds::new(&tables);
        assert_eq!(short.near, [2, 65_535, 1, 2]);
        assert_eq!(short.far, [65_535, 65_536]);
        assert_eq!(
            short.nodes,
            [[0, 0, 4], [7, 2, 0], [9, 4, 2], [70_000, 6, 0]]
        );
    }
}
