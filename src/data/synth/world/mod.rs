//! The invented world: who was born where, who made what, which river runs where.
//!
//! Everything two passages can both mention is decided here once, so passages never contradict each
//! other. Popularity follows power laws: few regions hold most towns, few towns most people. A
//! region has its own names, products and tastes, which is what a model can learn beyond copying.

mod people;
mod places;
mod works;

use hashbrown::HashSet;
use rand::{Rng, RngExt};
use xxhash_rust::xxh3::xxh3_64;

use super::lexicon::{WorkClass, list, occupations, pick, pick_zipf, zipf};
use super::names::{Culture, NameKind, capital, cultures};
use crate::rng::{self, Stream};

/// Index of an entity among those of its kind.
pub(super) type Idx = usize;

/// What a passage is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Entity {
    Region(Idx),
    Town(Idx),
    River(Idx),
    Mountain(Idx),
    Person(Idx),
    Work(Idx),
    Conflict(Idx),
    Disaster(Idx),
    Organisation(Idx),
    Building(Idx),
    Species(Idx),
}

pub(super) struct Region {
    pub(super) name: String,
    pub(super) adjective: String,
    pub(super) house: String,
    pub(super) culture: usize,
    pub(super) ruler: &'static str,
    pub(super) mayor: &'static str,
    pub(super) landscape: &'static str,
    pub(super) products: Vec<&'static str>,
    pub(super) stone: &'static str,
    pub(super) tree: &'static str,
    pub(super) birds: Vec<&'static str>,
    pub(super) fish: Vec<&'static str>,
    pub(super) dish: &'static str,
    pub(super) festivals: Vec<&'static str>,
    town_kinds: Vec<&'static str>,
    occupations: Vec<usize>,
    themes: Vec<usize>,
    families: Vec<String>,
    pub(super) towns: Vec<Idx>,
    pub(super) rivers: Vec<Idx>,
    pub(super) mountains: Vec<Idx>,
    pub(super) neighbour: Idx,
}

pub(super) struct Town {
    pub(super) name: String,
    pub(super) region: Idx,
    pub(super) river: Option<Idx>,
    pub(super) mountain: Option<Idx>,
    pub(super) kind: &'static str,
    pub(super) product: &'static str,
    pub(super) founded: u32,
    pub(super) native: Option<Idx>,
    pub(super) building: Option<Idx>,
    pub(super) organisation: Option<Idx>,
    pub(super) conflict: Option<Idx>,
    pub(super) disaster: Option<Idx>,
}

pub(super) struct River {
    pub(super) name: String,
    pub(super) region: Idx,
    pub(super) source: Option<Idx>,
    pub(super) mouth: Option<Idx>,
    pub(super) towns: Vec<Idx>,
    pub(super) bridge: Option<Idx>,
}

pub(super) struct Mountain {
    pub(super) name: String,
    pub(super) region: Idx,
    pub(super) river: Option<Idx>,
    pub(super) town: Option<Idx>,
    pub(super) climber: Option<Idx>,
}

pub(super) struct Person {
    pub(super) name: String,
    pub(super) surname_at: usize,
    pub(super) label: String,
    pub(super) female: bool,
    pub(super) birth: u32,
    pub(super) death: u32,
    pub(super) town: Idx,
    pub(super) occupation: usize,
    pub(super) speciality: &'static str,
    pub(super) teacher: Option<Idx>,
    pub(super) student: Option<Idx>,
    pub(super) school: Option<Idx>,
    pub(super) works: Vec<Idx>,
    pub(super) building: Option<Idx>,
    pub(super) conflict: Option<Idx>,
}

pub(super) struct Work {
    pub(super) title: String,
    pub(super) class: WorkClass,
    pub(super) kind: &'static str,
    pub(super) author: Idx,
    pub(super) year: u32,
    pub(super) theme: usize,
    pub(super) subject: &'static str,
    pub(super) town: Idx,
}

pub(super) struct Conflict {
    pub(super) name: String,
    pub(super) siege: bool,
    pub(super) town: Idx,
    pub(super) year: u32,
    pub(super) commander: Option<Idx>,
    pub(super) enemy: Idx,
    pub(super) won: bool,
    pub(super) cause: &'static str,
}

pub(super) struct Disaster {
    pub(super) name: String,
    pub(super) kind: &'static str,
    pub(super) town: Idx,
    pub(super) year: u32,
}

impl Disaster {
    /// Whether it ruins houses and not only people.
    pub(super) fn is_material(&self) -> bool {
        !matches!(self.kind, "plague" | "famine")
    }
}

pub(super) struct Organisation {
    pub(super) name: String,
    pub(super) kind: &'static str,
    pub(super) school: bool,
    pub(super) town: Idx,
    pub(super) founded: u32,
    pub(super) founder: Option<Idx>,
    pub(super) member: Option<Idx>,
    pub(super) trade: &'static str,
}

pub(super) struct Building {
    pub(super) name: String,
    pub(super) kind: &'static str,
    pub(super) town: Idx,
    pub(super) architect: Option<Idx>,
    pub(super) year: u32,
}

pub(super) struct Species {
    pub(super) name: String,
    pub(super) kind: &'static str,
    pub(super) region: Idx,
    pub(super) discoverer: Option<Idx>,
    pub(super) year: u32,
}

/// All entities. One passage each, in the order of [`World::entities`].
pub(super) struct World {
    pub(super) regions: Vec<Region>,
    pub(super) towns: Vec<Town>,
    pub(super) rivers: Vec<River>,
    pub(super) mountains: Vec<Mountain>,
    pub(super) people: Vec<Person>,
    pub(super) works: Vec<Work>,
    pub(super) conflicts: Vec<Conflict>,
    pub(super) disasters: Vec<Disaster>,
    pub(super) organisations: Vec<Organisation>,
    pub(super) buildings: Vec<Building>,
    pub(super) species: Vec<Species>,
}

/// Entities of a kind per 1000 passages; people are the rest.
struct Shares;

impl Shares {
    const TOWNS: usize = 120;
    const RIVERS: usize = 25;
    const MOUNTAINS: usize = 25;
    const WORKS: usize = 240;
    const CONFLICTS: usize = 50;
    const DISASTERS: usize = 40;
    const ORGANISATIONS: usize = 65;
    const BUILDINGS: usize = 70;
    const SPECIES: usize = 35;
}

/// First and last year anything can happen.
const YEARS: std::ops::Range<u32> = 1020..1900;

impl World {
    /// The world of `passages` passages; equal arguments give equal worlds.
    ///
    /// Time and memory are linear in the number of passages, about 300 bytes each.
    pub(super) fn new(seed: u64, passages: usize) -> Self {
        let mut maker = Maker {
            seed,
            cultures: cultures(),
            names: HashSet::with_capacity(passages),
            given: Vec::new(),
            region_weights: Vec::new(),
            active: Vec::new(),
            world: World {
                regions: Vec::new(),
                towns: Vec::new(),
                rivers: Vec::new(),
                mountains: Vec::new(),
                people: Vec::new(),
                works: Vec::new(),
                conflicts: Vec::new(),
                disasters: Vec::new(),
                organisations: Vec::new(),
                buildings: Vec::new(),
                species: Vec::new(),
            },
        };
        maker.make(passages);
        maker.world
    }

    /// Every entity, by kind and index.
    pub(super) fn entities(&self) -> Vec<Entity> {
        let mut all = Vec::new();
        all.extend((0..self.regions.len()).map(Entity::Region));
        all.extend((0..self.towns.len()).map(Entity::Town));
        all.extend((0..self.rivers.len()).map(Entity::River));
        all.extend((0..self.mountains.len()).map(Entity::Mountain));
        all.extend((0..self.people.len()).map(Entity::Person));
        all.extend((0..self.works.len()).map(Entity::Work));
        all.extend((0..self.conflicts.len()).map(Entity::Conflict));
        all.extend((0..self.disasters.len()).map(Entity::Disaster));
        all.extend((0..self.organisations.len()).map(Entity::Organisation));
        all.extend((0..self.buildings.len()).map(Entity::Building));
        all.extend((0..self.species.len()).map(Entity::Species));
        all
    }

    pub(super) fn region_of_town(&self, town: Idx) -> &Region {
        &self.regions[self.towns[town].region]
    }

    pub(super) fn occupation(&self, person: Idx) -> &'static str {
        occupations()[self.people[person].occupation].name
    }
}

struct Maker {
    seed: u64,
    cultures: Vec<Culture>,
    /// Hashes of all titles in lower case.
    names: HashSet<u64>,
    /// Given names by culture, men's and women's.
    given: Vec<[Vec<String>; 2]>,
    /// Running sums of the regions' shares.
    region_weights: Vec<f64>,
    /// People by field, each sorted by year of birth.
    active: Vec<(&'static str, Vec<(u32, Idx)>)>,
    world: World,
}

impl Maker {
    fn make(&mut self, passages: usize) {
        let regions = (((passages as f64).sqrt() * 0.55) as usize).clamp(4, 600);
        let of = |share: usize| (passages * share / 1000).max(1);
        let counts = [
            of(Shares::TOWNS),
            of(Shares::RIVERS),
            of(Shares::MOUNTAINS),
            of(Shares::WORKS),
            of(Shares::CONFLICTS),
            of(Shares::DISASTERS),
            of(Shares::ORGANISATIONS),
            of(Shares::BUILDINGS),
            of(Shares::SPECIES),
        ];
        let people = passages - regions - counts.iter().sum::<usize>();
        let [
            towns,
            rivers,
            mountains,
            works,
            conflicts,
            disasters,
            organisations,
            buildings,
            species,
        ] = counts;
        self.make_given_names(people);
        self.make_regions(regions, people);
        self.make_mountains(mountains);
        self.make_rivers(rivers);
        self.make_towns(towns);
        self.make_people(people);
        self.make_organisations(organisations);
        self.link_people();
        self.make_buildings(buildings);
        self.make_conflicts(conflicts);
        self.make_disasters(disasters);
        self.make_works(works);
        self.make_species(species);
    }

    fn stream(&self, kind: &str, i: Idx) -> Stream {
        rng::stream(
            self.seed,
            "synth-world",
            &[xxh3_64(kind.as_bytes()), i as u64],
        )
    }

    /// Takes `name` if no title is equal to it but for case.
    fn claim(&mut self, name: &str) -> bool {
        self.names.insert(xxh3_64(name.to_lowercase().as_bytes()))
    }

    /// The first of `make`'s names that is free; after 30 tries, with a numeral.
    fn unique(
        &mut self,
        rng: &mut Stream,
        mut make: impl FnMut(&Self, &mut Stream) -> String,
    ) -> String {
        for _ in 0..30 {
            let name = make(self, rng);
            if self.claim(&name) {
                return name;
            }
        }
        let name = make(self, rng);
        let numeral = |i: usize| {
            ["II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X"]
                .get(i)
                .copied()
        };
        for i in 0.. {
            let candidate = match numeral(i) {
                Some(numeral) => format!("{name} {numeral}"),
                None => format!("{name} {}", i + 2),
            };
            if self.claim(&candidate) {
                return candidate;
            }
        }
        name
    }

    /// A free name of a place; a full map resorts to "Upper" and the like.
    fn place_name(&mut self, culture: usize, kind: NameKind, rng: &mut Stream) -> String {
        const BEFORE: [&str; 16] = [
            "New", "Old", "Upper", "Lower", "Great", "Little", "East", "West", "North", "South",
            "High", "Far", "Long", "Broad", "Stony", "White",
        ];
        let mut tries = 0;
        self.unique(rng, |m, rng| {
            tries += 1;
            let name = m.cultures[culture].name(kind, rng);
            if tries <= 6 {
                name
            } else {
                format!("{} {name}", pick_zipf(&BEFORE, rng))
            }
        })
    }

    fn region(&self, rng: &mut Stream) -> Idx {
        let total = self.region_weights[self.region_weights.len() - 1];
        let target = rng.random::<f64>() * total;
        self.region_weights
            .partition_point(|&sum| sum <= target)
            .min(self.region_weights.len() - 1)
    }

    /// A town, popular regions and towns more often.
    fn town(&self, rng: &mut Stream) -> Idx {
        loop {
            let region = self.region(rng);
            if let Some(town) = self.town_in(region, rng) {
                return town;
            }
        }
    }

    fn town_in(&self, region: Idx, rng: &mut Stream) -> Option<Idx> {
        let towns = &self.world.regions[region].towns;
        (!towns.is_empty()).then(|| pick_zipf(towns, rng))
    }

    /// Somebody of `field` who is 25 to 60 years old in `year`: out of a few, one of `region` if
    /// there is one, else the best known.
    fn active_person(&self, field: &str, year: u32, region: Idx, rng: &mut Stream) -> Option<Idx> {
        let (_, by_birth) = self.active.iter().find(|(name, _)| *name == field)?;
        let from = by_birth.partition_point(|&(birth, _)| birth + 60 < year);
        let to = by_birth.partition_point(|&(birth, _)| birth + 25 <= year);
        let candidates = &by_birth[from..to];
        if candidates.is_empty() {
            return None;
        }
        let drawn: Vec<Idx> = (0..6)
            .map(|_| pick(candidates, rng).1)
            .filter(|&person| self.world.people[person].death > year)
            .collect();
        let home = |person: Idx| self.world.towns[self.world.people[person].town].region == region;
        drawn
            .into_iter()
            .min_by_key(|&person| (!home(person), person))
    }

    fn given_name(&self, culture: usize, female: bool, rng: &mut Stream) -> &str {
        let names = &self.given[culture][usize::from(female)];
        &names[zipf(names.len(), rng)]
    }

    fn family(&self, region: Idx, rng: &mut Stream) -> &str {
        let families = &self.world.regions[region].families;
        &families[zipf(families.len(), rng)]
    }

    /// A name pattern with `{town}`, `{family}`, `{given}`, `{colour}` and `{sign}` replaced.
    fn fill(&self, pattern: &str, town: Idx, rng: &mut Stream) -> String {
        let region = self.world.towns[town].region;
        let female = rng.random_bool(0.5);
        let sign = if rng.random_bool(0.5) {
            list("beast")
        } else {
            list("charge")
        };
        pattern
            .replace("{sign}", &capital(pick(sign, rng)))
            .replace("{colour}", &capital(pick(list("colour"), rng)))
            .replace("{town}", &self.world.towns[town].name)
            .replace(
                "{given}",
                self.given_name(self.world.regions[region].culture, female, rng),
            )
            .replace("{family}", self.family(region, rng))
    }
}

/// Three times in four one of the region's own, else any.
fn prefer(own: &[&'static str], all: &'static [&'static str], rng: &mut impl Rng) -> &'static str {
    if rng.random_bool(0.75) {
        pick_zipf(own, rng)
    } else {
        pick_zipf(all, rng)
    }
}
