//! Passages with the same identifier.

use hashbrown::HashMap;

use super::{Codes, Suffix};

/// How many passages share an identifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Collided {
    /// Different identifiers.
    pub(super) ids: usize,
    /// Identifiers of several passages.
    pub(super) shared: usize,
    /// Passages whose identifier is another's too.
    pub(super) passages: usize,
    /// Passages of the identifier with the most.
    pub(super) largest: usize,
}

impl Collided {
    pub(super) fn of(codes: &[Vec<u32>]) -> Self {
        let groups = groups(codes);
        let shared = || groups.values().filter(|group| group.len() > 1);
        Self {
            ids: groups.len(),
            shared: shared().count(),
            passages: shared().map(Vec::len).sum(),
            largest: groups.values().map(Vec::len).max().unwrap_or(0),
        }
    }
}

/// The passages of each identifier, increasing.
fn groups(codes: &[Vec<u32>]) -> HashMap<&[u32], Vec<u32>> {
    let mut groups: HashMap<&[u32], Vec<u32>> = HashMap::new();
    for (passage, id) in (0..).zip(codes) {
        groups.entry(id).or_default().push(passage);
    }
    groups
}

/// Numbers the passages of each identifier, in their order, by as few codes as the largest group needs; nothing is added
/// if there is none.
pub(super) fn resolve(codes: &mut Codes) {
    let groups: Vec<Vec<u32>> = groups(&codes.codes).into_values().collect();
    let largest = groups.iter().map(Vec::len).max().unwrap_or(0);
    if largest < 2 {
        return;
    }
    let mut numbers = vec![0usize; codes.codes.len()];
    let mut alone = vec![false; codes.codes.len()];
    for group in &groups {
        for (number, &passage) in group.iter().enumerate() {
            numbers[passage as usize] = number;
            alone[passage as usize] = group.len() == 1;
        }
    }
    let (first, base) = match codes.suffix {
        Suffix::Last => (0, codes.alphabet),
        Suffix::BeforeEnd { codes: base } => (codes.alphabet - base, base),
    };
    let mut digits = 1;
    let mut reach = base;
    while reach < largest {
        digits += 1;
        reach *= base;
    }
    for ((id, number), alone) in codes.codes.iter_mut().zip(numbers).zip(alone) {
        let suffix = (0..digits).rev().map(|digit| {
            let value = number / base.pow(digit) % base;
            (first + value) as u32
        });
        match codes.suffix {
            Suffix::Last => id.extend(suffix),
            Suffix::BeforeEnd { .. } if alone => {}
            Suffix::BeforeEnd { .. } => {
                let end = id.pop();
                id.extend(suffix);
                id.extend(end);
            }
        }
    }
}
