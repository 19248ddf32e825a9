//! What a search has met.

/// A set of numbers below some bound, emptied in O(1).
#[derive(Default)]
pub(super) struct Visited {
    marks: Vec<u32>,
    now: u32,
}

impl Visited {
    /// Empties the set; it then takes numbers below `bound`.
    pub(super) fn forget(&mut self, bound: usize) {
        self.now = self.now.wrapping_add(1);
        if self.marks.len() != bound || self.now == 0 {
            self.marks.clear();
            self.marks.resize(bound, 0);
            self.now = 1;
        }
    }

    /// Whether this is the first visit of a number below the bound.
    #[inline]
    pub(super) fn visit(&mut self, number: u32) -> bool {
        match self.marks.get_mut(number as usize) {
            Some(mark) if *mark != self.now => {
                *mark = self.now;
                true
            }
            _ => false,
        }
    }
}
