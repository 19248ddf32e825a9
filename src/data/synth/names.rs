//! Invented names: twelve cultures, each with its own syllables and endings, so that a name tells
//! where its bearer comes from.

use rand::{Rng, RngExt};

use super::lexicon::{pick_zipf, zipf};

/// Sounds and endings of one culture.
pub(super) struct Culture {
    onsets: Vec<&'static str>,
    vowels: Vec<&'static str>,
    codas: Vec<&'static str>,
    links: Vec<&'static str>,
    stems: Vec<&'static str>,
    male: Vec<&'static str>,
    female: Vec<&'static str>,
    surname: Vec<&'static str>,
    town: Vec<&'static str>,
    river: Vec<&'static str>,
    mount: Vec<&'static str>,
    region: Vec<&'static str>,
    adjective: &'static str,
}

/// What a name is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NameKind {
    Male,
    Female,
    Surname,
    Town,
    River,
    Mountain,
    Region,
}

/// All cultures, in the order of their file.
pub(super) fn cultures() -> Vec<Culture> {
    include_str!("words/cultures.txt")
        .split("\n[")
        .skip(1)
        .map(Culture::parse)
        .collect()
}

impl Culture {
    fn parse(block: &'static str) -> Self {
        let list = |name: &str| -> Vec<&'static str> {
            let line = block
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .unwrap_or_default()
                .trim();
            let separator = if line.contains('*') { ';' } else { ' ' };
            line.split(separator)
                .map(str::trim)
                .filter(|part| !part.is_empty() && *part != "-")
                .collect()
        };
        Self {
            onsets: list("onset"),
            vowels: list("vowel"),
            codas: list("coda"),
            links: list("link"),
            stems: list("stems"),
            male: list("male"),
            female: list("female"),
            surname: list("surname"),
            town: list("town"),
            river: list("river"),
            mount: list("mount"),
            region: list("region"),
            adjective: list("adj").first().copied().unwrap_or("n"),
        }
    }

    /// A fresh name; the commoner sounds come first in each list.
    pub(super) fn name(&self, kind: NameKind, rng: &mut impl Rng) -> String {
        let suffixes = match kind {
            NameKind::Male => &self.male,
            NameKind::Female => &self.female,
            NameKind::Surname => &self.surname,
            NameKind::Town => &self.town,
            NameKind::River => &self.river,
            NameKind::Mountain => &self.mount,
            NameKind::Region => &self.region,
        };
        let suffix: &str = pick_zipf(suffixes, rng);
        let two = match kind {
            NameKind::Male | NameKind::Female => 0.25,
            _ => 0.55,
        };
        let two = rng.random_bool(two);
        let stem = self.stem(two, rng);
        match suffix.split_once('*') {
            Some((before, "")) if before.ends_with(' ') => format!("{before}{}", capital(&stem)),
            Some(("", after)) => capital(&join(&stem, after)),
            Some((before, after)) if before.ends_with(' ') => {
                format!("{before}{}", capital(&join(&stem, after)))
            }
            Some((before, after)) => format!("{before}{}", join(&stem, after)),
            None => capital(&join(&stem, suffix)),
        }
    }

    /// The adjective of a region's name: `Velaria` gives `Velarian`.
    pub(super) fn adjective(&self, region: &str) -> String {
        match self.adjective {
            "+" => region.to_owned(),
            ending => {
                let stem = if ending == "n" {
                    region
                } else {
                    region.trim_end_matches(is_vowel)
                };
                join(stem, ending)
            }
        }
    }

    fn stem(&self, two: bool, rng: &mut impl Rng) -> String {
        if !self.stems.is_empty() {
            return self.stems[zipf(self.stems.len(), rng)].to_owned();
        }
        let mut stem = String::from(pick_zipf(&self.onsets, rng));
        stem.push_str(pick_zipf(&self.vowels, rng));
        if two {
            stem.push_str(pick_zipf(&self.links, rng));
            stem.push_str(pick_zipf(&self.vowels, rng));
        }
        if self.codas.is_empty() {
            // Open syllables only: a second one keeps the stem from being too short.
            stem.push_str(pick_zipf(&self.links, rng));
            stem.push_str(pick_zipf(&self.vowels, rng));
        } else {
            stem.push_str(pick_zipf(&self.codas, rng));
        }
        stem
    }
}

fn is_vowel(c: char) -> bool {
    matches!(c, 'a' | 'e' | 'i' | 'o' | 'u' | 'y')
}

/// `stem` and `suffix` without two vowels or three consonants of a kind where they meet.
fn join(stem: &str, suffix: &str) -> String {
    let first = suffix.chars().next().unwrap_or(' ');
    let mut stem = stem;
    if is_vowel(first) {
        stem = stem.trim_end_matches(is_vowel);
    } else {
        let doubled = |s: &str| s.ends_with(first);
        if doubled(stem) {
            stem = &stem[..stem.len() - first.len_utf8()];
        }
    }
    format!("{stem}{suffix}")
}

/// `text` with its first letter in upper case.
pub(super) fn capital(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_uppercase().chain(characters).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_culture_makes_every_kind_of_name() {
        let all = cultures();
        assert_eq!(all.len(), 12);
        let mut rng = crate::rng::stream(1, "test", &[]);
        for culture in &all {
            for kind in [
                NameKind::Male,
                NameKind::Female,
                NameKind::Surname,
                NameKind::Town,
                NameKind::River,
                NameKind::Mountain,
                NameKind::Region,
            ] {
                for _ in 0..50 {
                    let name = culture.name(kind, &mut rng);
                    assert!(name.len() >= 3 && name.is_ascii(), "{name:?}");
                    assert!(
                        name.starts_with(|c: char| c.is_ascii_uppercase()),
                        "{name:?}"
                    );
                    assert!(!name.contains('*') && !name.contains('-'), "{name:?}");
                }
            }
        }
    }

    #[test]
    fn parts_join_without_clashes() {
        assert_eq!(join("vela", "aria"), "velaria");
        assert_eq!(join("holm", "mark"), "holmark");
        assert_eq!(capital("osk"), "Osk");
    }
}
