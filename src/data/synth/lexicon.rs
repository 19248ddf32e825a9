//! The word lists, parsed once, and draws from them.

use std::sync::LazyLock;

use hashbrown::HashMap;
use rand::{Rng, RngExt};

/// An occupation with what its people are known for.
pub(super) struct Occupation {
    /// `composer`
    pub(super) name: &'static str,
    /// Group of occupations: people teach within it.
    pub(super) field: &'static str,
    /// Class of works its people make, if any.
    pub(super) works: Option<WorkClass>,
    /// What its people are known for, most frequent first.
    pub(super) specialities: Vec<&'static str>,
}

/// A class of works.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub(super) enum WorkClass {
    Music,
    Literature,
    Art,
    Scholarship,
}

/// What a work can be about, with the words of its titles.
pub(super) struct Theme {
    pub(super) name: &'static str,
    pub(super) nouns: Vec<&'static str>,
    pub(super) adjectives: Vec<&'static str>,
    pub(super) subjects: Vec<&'static str>,
}

static LISTS: LazyLock<HashMap<&'static str, Vec<&'static str>>> = LazyLock::new(|| {
    let mut lists: HashMap<&'static str, Vec<&'static str>> = HashMap::new();
    let mut name = "";
    for line in content(include_str!("words/lexicon.txt")) {
        match line.strip_prefix('@') {
            Some(list) => name = list,
            None => lists.entry(name).or_default().extend(items(line, ';')),
        }
    }
    lists
});

static OCCUPATIONS: LazyLock<Vec<Occupation>> = LazyLock::new(|| {
    content(include_str!("words/occupations.txt"))
        .map(|line| {
            let parts = items(line, '|');
            let works = match parts[2] {
                "music" => Some(WorkClass::Music),
                "literature" => Some(WorkClass::Literature),
                "art" => Some(WorkClass::Art),
                "scholarship" => Some(WorkClass::Scholarship),
                _ => None,
            };
            Occupation {
                name: parts[0],
                field: parts[1],
                works,
                specialities: items(parts[3], ';'),
            }
        })
        .collect()
});

static THEMES: LazyLock<Vec<Theme>> = LazyLock::new(|| {
    content(include_str!("words/themes.txt"))
        .map(|line| {
            let parts = items(line, '|');
            Theme {
                name: parts[0],
                nouns: items(parts[1], ';'),
                adjectives: items(parts[2], ';'),
                subjects: items(parts[3], ';'),
            }
        })
        .collect()
});

/// The list called `name`; the word files are part of the program, so every name used exists.
pub(super) fn list(name: &str) -> &'static [&'static str] {
    LISTS
        .get(name)
        .unwrap_or_else(|| panic!("the word list {name} is in lexicon.txt"))
}

/// All occupations, most frequent first.
pub(super) fn occupations() -> &'static [Occupation] {
    &OCCUPATIONS
}

/// All themes, most frequent first.
pub(super) fn themes() -> &'static [Theme] {
    &THEMES
}

fn content(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn items(line: &'static str, separator: char) -> Vec<&'static str> {
    line.split(separator)
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .collect()
}

/// An index below `n` with P(i) roughly proportional to 1 / (i + 1): the integer part of
/// (n + 1)^u - 1 for uniform u. `n` must not be 0.
pub(super) fn zipf(n: usize, rng: &mut impl Rng) -> usize {
    let u: f64 = rng.random();
    (((n + 1) as f64).powf(u) - 1.0).clamp(0.0, (n - 1) as f64) as usize
}

/// An item, the first ones most often ([`zipf`]).
pub(super) fn pick_zipf<T: Copy>(items: &[T], rng: &mut impl Rng) -> T {
    items[zipf(items.len(), rng)]
}

/// An item, all equally often.
pub(super) fn pick<T: Copy>(items: &[T], rng: &mut impl Rng) -> T {
    items[rng.random_range(0..items.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_full_and_without_repeats() {
        for (name, items) in LISTS.iter() {
            let mut sorted = items.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), items.len(), "{name} repeats an item");
            assert!(items.len() >= 5, "{name} is short");
        }
        assert!(occupations().iter().all(|o| o.specialities.len() >= 5));
        assert_eq!(themes().len(), 16);
        assert!(
            themes()
                .iter()
                .all(|t| t.nouns.len() == 16 && t.adjectives.len() == 10 && t.subjects.len() == 7)
        );
    }

    #[test]
    fn draws_follow_a_power_law() {
        let mut rng = crate::rng::stream(1, "test", &[]);
        let mut counts = [0usize; 100];
        for _ in 0..100_000 {
            counts[zipf(100, &mut rng)] += 1;
        }
        let ratio = counts[0] as f64 / counts[9] as f64;
        assert!((5.0..14.0).contains(&ratio), "{ratio}");
        assert!(counts.iter().all(|&count| count > 0));
        assert_eq!(zipf(1, &mut rng), 0);
    }
}
