//! Lists of strings in two sections: where each ends, and their bytes one after the other.

use super::View;

/// Strings to be written.
#[derive(Clone, Default)]
pub(crate) struct IdList {
    pub(crate) ends: Vec<u64>,
    pub(crate) bytes: Vec<u8>,
}

impl IdList {
    pub(crate) fn push(&mut self, id: &str) {
        self.bytes.extend(id.as_bytes());
        self.ends.push(self.bytes.len() as u64);
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }
}

/// Strings of a file. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Ids {
    ends: View<u64>,
    bytes: View<u8>,
}

impl Ids {
    pub(crate) fn new(ends: View<u64>, bytes: View<u8>) -> Self {
        Self { ends, bytes }
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The string at `index`; empty if there is none or its bytes are damaged.
    pub(crate) fn get(&self, index: usize) -> &str {
        let start = if index == 0 {
            Some(0)
        } else {
            self.ends.get(index - 1).copied()
        };
        let range = || Some(start? as usize..*self.ends.get(index)? as usize);
        let bytes = range()
            .and_then(|range| self.bytes.get(range))
            .unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}
