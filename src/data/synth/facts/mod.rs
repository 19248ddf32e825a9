//! What is known about an entity: the values of its template slots.
//!
//! Facts that other passages mention come from the [`World`]; the rest is drawn from the entity's
//! own random stream, the same at every call.

mod people;
mod places;
mod things;

use rand::RngExt;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::grammar::Slots;
use super::lexicon::{list, pick_zipf, zipf};
use super::names::{NameKind, cultures};
use super::world::{Entity, Idx, World};
use crate::rng::{self, Stream};

/// The template file an entity is described by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Region,
    Town,
    River,
    Mountain,
    Person,
    Music,
    Literature,
    Art,
    Scholarship,
    Conflict,
    Disaster,
    Organisation,
    Building,
    Species,
}

impl Kind {
    /// All kinds, in the order of their discriminants.
    pub(super) const ALL: [Kind; 14] = [
        Kind::Region,
        Kind::Town,
        Kind::River,
        Kind::Mountain,
        Kind::Person,
        Kind::Music,
        Kind::Literature,
        Kind::Art,
        Kind::Scholarship,
        Kind::Conflict,
        Kind::Disaster,
        Kind::Organisation,
        Kind::Building,
        Kind::Species,
    ];

    /// The kind as the corpus writes it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Region => "region",
            Kind::Town => "town",
            Kind::River => "river",
            Kind::Mountain => "mountain",
            Kind::Person => "person",
            Kind::Music => "music",
            Kind::Literature => "literature",
            Kind::Art => "art",
            Kind::Scholarship => "scholarship",
            Kind::Conflict => "conflict",
            Kind::Disaster => "disaster",
            Kind::Organisation => "organisation",
            Kind::Building => "building",
            Kind::Species => "species",
        }
    }

    /// The template file.
    pub(super) fn templates(self) -> &'static str {
        match self {
            Kind::Region => include_str!("../templates/region.txt"),
            Kind::Town => include_str!("../templates/town.txt"),
            Kind::River => include_str!("../templates/river.txt"),
            Kind::Mountain => include_str!("../templates/mountain.txt"),
            Kind::Person => include_str!("../templates/person.txt"),
            Kind::Music => include_str!("../templates/music.txt"),
            Kind::Literature => include_str!("../templates/literature.txt"),
            Kind::Art => include_str!("../templates/art.txt"),
            Kind::Scholarship => include_str!("../templates/scholarship.txt"),
            Kind::Conflict => include_str!("../templates/conflict.txt"),
            Kind::Disaster => include_str!("../templates/disaster.txt"),
            Kind::Organisation => include_str!("../templates/organisation.txt"),
            Kind::Building => include_str!("../templates/building.txt"),
            Kind::Species => include_str!("../templates/species.txt"),
        }
    }
}

/// An entity ready to be written about.
pub(super) struct Described<'w> {
    pub(super) kind: Kind,
    pub(super) title: &'w str,
    pub(super) slots: Slots<'w>,
    pub(super) rng: Stream,
}

/// Describes `entity`; equal arguments give equal descriptions.
pub(super) fn describe(world: &World, seed: u64, entity: Entity) -> Described<'_> {
    let (tag, i) = match entity {
        Entity::Region(i) => (0, i),
        Entity::Town(i) => (1, i),
        Entity::River(i) => (2, i),
        Entity::Mountain(i) => (3, i),
        Entity::Person(i) => (4, i),
        Entity::Work(i) => (5, i),
        Entity::Conflict(i) => (6, i),
        Entity::Disaster(i) => (7, i),
        Entity::Organisation(i) => (8, i),
        Entity::Building(i) => (9, i),
        Entity::Species(i) => (10, i),
    };
    let rng = rng::stream(seed, "synth-facts", &[tag, i as u64]);
    let mut writer = Writer {
        world,
        slots: Slots::default(),
        rng,
        taste: seed,
    };
    let (kind, title) = match entity {
        Entity::Region(i) => writer.region(i),
        Entity::Town(i) => writer.town(i),
        Entity::River(i) => writer.river(i),
        Entity::Mountain(i) => writer.mountain(i),
        Entity::Person(i) => writer.person(i),
        Entity::Work(i) => writer.work(i),
        Entity::Conflict(i) => writer.conflict(i),
        Entity::Disaster(i) => writer.disaster(i),
        Entity::Organisation(i) => writer.organisation(i),
        Entity::Building(i) => writer.building(i),
        Entity::Species(i) => writer.species(i),
    };
    Described {
        kind,
        title,
        slots: writer.slots,
        rng: writer.rng,
    }
}

struct Writer<'w> {
    world: &'w World,
    slots: Slots<'w>,
    rng: Stream,
    /// Seed of the favourites of the entity's region.
    taste: u64,
}

impl<'w> Writer<'w> {
    fn set(&mut self, slot: &'static str, value: &'w str) {
        self.slots.set(slot, value);
    }

    fn number(&mut self, slot: &'static str, value: impl Into<u64>) {
        self.slots.set(slot, grouped(value.into()));
    }

    /// `5` of `feet` gives `5 feet`.
    fn amount(&mut self, slot: &'static str, value: impl Into<u64>, unit: &str) {
        self.slots
            .set(slot, format!("{} {unit}", grouped(value.into())));
    }

    /// A year is written without a comma.
    fn year(&mut self, slot: &'static str, value: u32) {
        self.slots.set(slot, value.to_string());
    }

    fn range(&mut self, range: std::ops::Range<u32>) -> u32 {
        if range.is_empty() {
            range.start
        } else {
            self.rng.random_range(range)
        }
    }

    /// Sets `slot` to an item of the word list `name`. Every region has favourites of its own,
    /// Zipf-distributed, so that a region foretells much of what is said of its entities.
    fn word(&mut self, slot: &'static str, name: &str) {
        let items = list(name);
        let favourite = xxh3_64_with_seed(name.as_bytes(), self.taste) as usize % items.len();
        let word: &'static str =
            items[(favourite + zipf(items.len(), &mut self.rng)) % items.len()];
        self.slots.set(slot, word);
    }

    fn subject(
        &mut self,
        name: &'w str,
        again: impl Into<std::borrow::Cow<'w, str>>,
        short: impl Into<std::borrow::Cow<'w, str>>,
    ) {
        self.set("name", name);
        self.set("q", name);
        self.slots.set("again", again);
        self.slots.set("short", short);
        self.set("he", "it");
        self.set("his", "its");
    }

    /// Region, its adjective and what it is made of.
    fn place(&mut self, region: Idx) {
        let here = &self.world.regions[region];
        self.taste = xxh3_64(here.name.as_bytes());
        self.set("region", &here.name);
        self.set("region_adj", &here.adjective);
        self.set("stone", here.stone);
        self.set("tree", here.tree);
        self.set("dish", here.dish);
        self.set("house", &here.house);
        self.set("ruler", here.ruler);
        self.set("mayor", here.mayor);
        self.set("landscape", here.landscape);
        let bird: &'static str = pick_zipf(&here.birds, &mut self.rng);
        self.set("bird", bird);
        let festival: &'static str = pick_zipf(&here.festivals, &mut self.rng);
        self.set("festival", festival);
        for (slot, name) in [
            ("season", "season"),
            ("month", "month"),
            ("weekday", "weekday"),
            ("colour", "colour"),
            ("charge", "charge"),
            ("legend", "legend"),
            ("period", "period"),
        ] {
            self.word(slot, name);
        }
    }

    /// A product, most often one of the region's.
    fn product(&mut self, slot: &'static str, region: Idx) {
        let own = &self.world.regions[region].products;
        let product: &'static str = if self.rng.random_bool(0.75) {
            pick_zipf(own, &mut self.rng)
        } else {
            pick_zipf(list("product"), &mut self.rng)
        };
        self.set(slot, product);
    }

    /// A town that is not `besides`: in four of five cases of the region, else of the neighbouring one.
    fn other_town(&mut self, slot: &'static str, region: Idx, besides: Idx) {
        let here = &self.world.regions[region];
        let there = &self.world.regions[here.neighbour];
        let region = if self.rng.random_bool(0.8) && here.towns.len() > 1 {
            here
        } else {
            there
        };
        if let Some(town) = self.town_of(&region.towns, besides) {
            self.set(slot, &self.world.towns[town].name);
        }
    }

    fn town_of(&mut self, towns: &[Idx], besides: Idx) -> Option<Idx> {
        if towns.is_empty() {
            return None;
        }
        let town = pick_zipf(towns, &mut self.rng);
        if town != besides {
            Some(town)
        } else {
            towns.iter().copied().find(|&other| other != besides)
        }
    }

    /// An invented full name that has no passage.
    fn stranger(&mut self, slot: &'static str, region: Idx, female: bool) {
        let culture = &CULTURES[self.world.regions[region].culture];
        let kind = if female {
            NameKind::Female
        } else {
            NameKind::Male
        };
        let given = culture.name(kind, &mut self.rng);
        let surname = culture.name(NameKind::Surname, &mut self.rng);
        self.slots.set(slot, format!("{given} {surname}"));
    }

    /// Sets a person's name and occupation.
    fn somebody(&mut self, person: Idx, name: &'static str, occupation: &'static str) {
        self.set(name, &self.world.people[person].name);
        self.set(occupation, self.world.occupation(person));
    }

    /// A well-known person of the region who died before `year`.
    fn reader(&mut self, region: Idx, from: u32) -> Option<Idx> {
        let towns = &self.world.regions[region].towns;
        for _ in 0..6 {
            let town = pick_zipf(towns, &mut self.rng);
            if let Some(person) = self.world.towns[town].native
                && (from..from + 160).contains(&self.world.people[person].birth)
            {
                return Some(person);
            }
        }
        None
    }

    /// A noble house, a town council or an invented person.
    fn patron(&mut self, slot: &'static str, region: Idx, town: Idx) {
        let here = &self.world.regions[region];
        match self.rng.random_range(0..4) {
            0 | 1 => self.slots.set(slot, format!("the House of {}", here.house)),
            2 => self.slots.set(
                slot,
                format!("the {} of {}", here.mayor, self.world.towns[town].name),
            ),
            _ => {
                let female = self.rng.random_bool(0.5);
                self.stranger(slot, region, female);
            }
        }
    }
}

static CULTURES: std::sync::LazyLock<Vec<super::names::Culture>> =
    std::sync::LazyLock::new(cultures);

fn author_sculpts(world: &World, person: Idx) -> bool {
    world.occupation(person) == "sculptor"
}

/// Houses and lives lost, the same in every passage that tells of the disaster.
fn disaster_toll(disaster: Idx) -> (u32, u32) {
    let mut rng = rng::stream(0, "synth-toll", &[disaster as u64]);
    (rng.random_range(20..900), rng.random_range(11..2400))
}

/// `12345` as `12,345`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(
            [7, 999, 1000, 1_234_567].map(grouped),
            ["7", "999", "1,000", "1,234,567"]
        );
    }

    #[test]
    fn kinds_stand_in_order() {
        assert!(
            Kind::ALL
                .iter()
                .enumerate()
                .all(|(i, kind)| *kind as usize == i)
        );
    }
}
