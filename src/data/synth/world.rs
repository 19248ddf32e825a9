//! The invented world: who was born where, who made what, which river runs where.
//!
//! Everything two passages can both mention is decided here once, so passages never contradict each
//! other. Popularity follows power laws: few regions hold most towns, few towns most people. A
//! region has its own names, products and tastes, which is what a model can learn beyond copying.

use hashbrown::HashSet;
use rand::{Rng, RngExt};
use xxhash_rust::xxh3::xxh3_64;

use super::lexicon::{WorkClass, list, occupations, pick, pick_zipf, themes, zipf};
use super::names::{Culture, NameKind, cultures};
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
    /// Time and memory are linear: about 6 seconds and 400 bytes per passage for a million.
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
        let [towns, rivers, mountains, works, conflicts, disasters, organisations, buildings, species] = counts;
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
        rng::stream(self.seed, "synth-world", &[xxh3_64(kind.as_bytes()), i as u64])
    }

    /// Takes `name` if no title is equal to it but for case.
    fn claim(&mut self, name: &str) -> bool {
        self.names.insert(xxh3_64(name.to_lowercase().as_bytes()))
    }

    /// The first of `make`'s names that is free; after 30 tries, with a numeral.
    fn unique(&mut self, rng: &mut Stream, mut make: impl FnMut(&Self, &mut Stream) -> String) -> String {
        for _ in 0..30 {
            let name = make(self, rng);
            if self.claim(&name) {
                return name;
            }
        }
        let name = make(self, rng);
        let numeral = |i: usize| ["II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X"].get(i).copied();
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
            "New", "Old", "Upper", "Lower", "Great", "Little", "East", "West", "North", "South", "High", "Far", "Long",
            "Broad", "Stony", "White",
        ];
        let mut tries = 0;
        self.unique(rng, |m, rng| {
            tries += 1;
            let name = m.cultures[culture].name(kind, rng);
            if tries <= 6 { name } else { format!("{} {name}", pick_zipf(&BEFORE, rng)) }
        })
    }

    fn region(&self, rng: &mut Stream) -> Idx {
        let total = self.region_weights[self.region_weights.len() - 1];
        let target = rng.random::<f64>() * total;
        self.region_weights.partition_point(|&sum| sum <= target).min(self.region_weights.len() - 1)
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
        drawn.into_iter().min_by_key(|&person| (!home(person), person))
    }

    fn given_name(&self, culture: usize, female: bool, rng: &mut Stream) -> &str {
        let names = &self.given[culture][usize::from(female)];
        &names[zipf(names.len(), rng)]
    }

    fn family(&self, region: Idx, rng: &mut Stream) -> &str {
        let families = &self.world.regions[region].families;
        &families[zipf(families.len(), rng)]
    }

    fn make_given_names(&mut self, people: usize) {
        let size = (((people as f64).sqrt() * 1.2) as usize).clamp(30, 500);
        for (i, culture) in self.cultures.iter().enumerate() {
            let mut rng = self.stream("given", i);
            let mut pool = |kind| {
                let mut names: Vec<String> = Vec::with_capacity(size);
                for _ in 0..size * 4 {
                    let name = culture.name(kind, &mut rng);
                    if names.len() < size && !names.contains(&name) {
                        names.push(name);
                    }
                }
                names
            };
            self.given.push([pool(NameKind::Male), pool(NameKind::Female)]);
        }
    }

    fn make_regions(&mut self, count: usize, people: usize) {
        let mut sum = 0.0;
        for i in 0..count {
            sum += 1.0 / (i as f64 + 2.0).powf(0.9);
            self.region_weights.push(sum);
        }
        for i in 0..count {
            let mut rng = self.stream("region", i);
            // The seed turns the order, so that another world has another greatest culture.
            let turn = self.seed as usize % self.cultures.len();
            let culture = if i < self.cultures.len() {
                (i * 5 + turn) % self.cultures.len()
            } else {
                rng.random_range(0..self.cultures.len())
            };
            let name = self.place_name(culture, NameKind::Region, &mut rng);
            let share = self.region_weights[i] - if i == 0 { 0.0 } else { self.region_weights[i - 1] };
            let expected = people as f64 * share / sum;
            let families = ((expected / 5.0) as usize).clamp(8, 4000);
            let families: Vec<String> =
                (0..families).map(|_| self.cultures[culture].name(NameKind::Surname, &mut rng)).collect();
            let mut some = |name: &str, count: usize| distinct(list(name), count, &mut rng);
            let (products, birds, fish) = (some("product", 4), some("bird", 3), some("fish", 3));
            let (festivals, town_kinds) = (some("festival", 3), some("town_kind", 4));
            self.world.regions.push(Region {
                adjective: self.cultures[culture].adjective(&name),
                name,
                house: families[zipf(families.len(), &mut rng)].clone(),
                culture,
                ruler: pick_zipf(list("ruler"), &mut rng),
                mayor: pick_zipf(list("mayor"), &mut rng),
                landscape: pick(list("landscape"), &mut rng),
                products,
                stone: pick(list("stone"), &mut rng),
                tree: pick(list("tree"), &mut rng),
                birds,
                fish,
                dish: pick(list("dish"), &mut rng),
                festivals,
                town_kinds,
                occupations: (0..4).map(|_| rng.random_range(0..occupations().len())).collect(),
                themes: (0..3).map(|_| rng.random_range(0..themes().len())).collect(),
                families,
                towns: Vec::new(),
                rivers: Vec::new(),
                mountains: Vec::new(),
                neighbour: if i == 0 { 1 } else { zipf(i, &mut rng) },
            });
        }
    }

    fn make_mountains(&mut self, count: usize) {
        for i in 0..count {
            let mut rng = self.stream("mountain", i);
            let region = if i < self.world.regions.len() { i } else { self.region(&mut rng) };
            let culture = self.world.regions[region].culture;
            let name = self.place_name(culture, NameKind::Mountain, &mut rng);
            self.world.mountains.push(Mountain { name, region, river: None, town: None, climber: None });
            self.world.regions[region].mountains.push(i);
        }
    }

    fn make_rivers(&mut self, count: usize) {
        for i in 0..count {
            let mut rng = self.stream("river", i);
            let region = if i < self.world.regions.len() { i } else { self.region(&mut rng) };
            let culture = self.world.regions[region].culture;
            let name = self.place_name(culture, NameKind::River, &mut rng);
            let here = &self.world.regions[region];
            let source = (!here.mountains.is_empty()).then(|| pick(&here.mountains, &mut rng));
            let mouth = (!here.rivers.is_empty() && rng.random_bool(0.8)).then(|| pick_zipf(&here.rivers, &mut rng));
            if let Some(mountain) = source {
                self.world.mountains[mountain].river.get_or_insert(i);
            }
            self.world.rivers.push(River { name, region, source, mouth, towns: Vec::new(), bridge: None });
            self.world.regions[region].rivers.push(i);
        }
    }

    fn make_towns(&mut self, count: usize) {
        for i in 0..count {
            let mut rng = self.stream("town", i);
            let region = if i < self.world.regions.len() { i } else { self.region(&mut rng) };
            let culture = self.world.regions[region].culture;
            let name = self.place_name(culture, NameKind::Town, &mut rng);
            let here = &self.world.regions[region];
            let kind = prefer(&here.town_kinds, list("town_kind"), &mut rng);
            let product = prefer(&here.products, list("product"), &mut rng);
            let river = (!here.rivers.is_empty() && rng.random_bool(0.75)).then(|| pick_zipf(&here.rivers, &mut rng));
            let mountain =
                (!here.mountains.is_empty() && rng.random_bool(0.3)).then(|| pick(&here.mountains, &mut rng));
            if let Some(river) = river {
                self.world.rivers[river].towns.push(i);
            }
            if let Some(mountain) = mountain {
                self.world.mountains[mountain].town.get_or_insert(i);
            }
            self.world.regions[region].towns.push(i);
            self.world.towns.push(Town {
                name,
                region,
                river,
                mountain,
                kind,
                product,
                founded: rng.random_range(560..1000),
                native: None,
                building: None,
                organisation: None,
                conflict: None,
                disaster: None,
            });
        }
    }

    fn make_people(&mut self, count: usize) {
        for i in 0..count {
            let mut rng = self.stream("person", i);
            let town = self.town(&mut rng);
            let region = self.world.towns[town].region;
            let culture = self.world.regions[region].culture;
            let female = rng.random_bool(0.42);
            let occupation = if rng.random_bool(0.45) {
                pick_zipf(&self.world.regions[region].occupations, &mut rng)
            } else {
                zipf(occupations().len(), &mut rng)
            };
            let span = f64::from(YEARS.end - 90 - YEARS.start);
            let birth = YEARS.start + (span * rng.random::<f64>().powf(0.7)) as u32;
            let (name, surname_at, label) = self.person_name(region, culture, female, occupation, town, &mut rng);
            self.world.people.push(Person {
                name,
                surname_at,
                label,
                female,
                birth,
                death: birth + rng.random_range(38..88),
                town,
                occupation,
                speciality: pick_zipf(&occupations()[occupation].specialities, &mut rng),
                teacher: None,
                student: None,
                school: None,
                works: Vec::new(),
                building: None,
                conflict: None,
            });
            self.world.towns[town].native.get_or_insert(i);
        }
        for (i, person) in self.world.people.iter().enumerate() {
            let field = occupations()[person.occupation].field;
            let at = match self.active.iter().position(|(name, _)| *name == field) {
                Some(at) => at,
                None => {
                    self.active.push((field, Vec::new()));
                    self.active.len() - 1
                }
            };
            self.active[at].1.push((person.birth, i));
        }
        self.active.iter_mut().for_each(|(_, people)| people.sort_unstable());
    }

    /// Name, where its surname begins, and the unique title.
    fn person_name(
        &mut self,
        region: Idx,
        culture: usize,
        female: bool,
        occupation: usize,
        town: Idx,
        rng: &mut Stream,
    ) -> (String, usize, String) {
        let mut name = String::new();
        let mut surname_at = 0;
        for _ in 0..4 {
            let given = self.given_name(culture, female, rng);
            surname_at = given.len() + 1;
            name = format!("{given} {}", self.family(region, rng));
            if self.claim(&name) {
                return (name.clone(), surname_at, name);
            }
        }
        let by_occupation = format!("{name} ({})", occupations()[occupation].name);
        if self.claim(&by_occupation) {
            return (name, surname_at, by_occupation);
        }
        let origin = format!("{name} of {}", self.world.towns[town].name);
        let label = self.unique(rng, |_, _| origin.clone());
        (label.clone(), surname_at, label)
    }

    fn make_organisations(&mut self, count: usize) {
        let kinds: [(&str, &str, bool); 12] = [
            ("craft guild", "trade", false),
            ("university", "University of {town}", true),
            ("trading company", "company", false),
            ("academy", "{family} Academy", true),
            ("religious order", "order", false),
            ("orchestra", "{town} Philharmonic", false),
            ("learned society", "society", true),
            ("conservatory", "Conservatory of {town}", true),
            ("printing house", "{family} Press", false),
            ("grammar school", "{town} Grammar School", true),
            ("theatre company", "players", false),
            ("shooting club", "riflemen", false),
        ];
        for i in 0..count {
            let mut rng = self.stream("organisation", i);
            let town = self.town(&mut rng);
            let region = self.world.towns[town].region;
            let (kind, pattern, school) = pick_zipf(&kinds, &mut rng);
            let founded = rng.random_range(YEARS.start + 80..YEARS.end - 60);
            let field = self.active[rng.random_range(0..self.active.len())].0;
            let founder = self.active_person(field, founded, region, &mut rng);
            let product = prefer(&self.world.regions[region].products, list("product"), &mut rng);
            let trades = [
                "Weavers", "Salters", "Masons", "Glaziers", "Tanners", "Brewers", "Goldsmiths", "Dyers", "Coopers",
                "Bakers", "Bell Founders", "Chandlers", "Rope Makers", "Bookbinders", "Shipwrights", "Apothecaries",
                "Locksmiths", "Potters",
            ];
            let trade = pick_zipf(&trades, &mut rng);
            let name = self.unique(&mut rng, |m, rng| {
                let town = &m.world.towns[town].name;
                let here = &m.world.regions[region];
                let family = m.family(region, rng);
                match pattern {
                    "trade" => format!("Guild of {} of {town}", pick_zipf(&trades, rng)),
                    "company" => match rng.random_range(0..3) {
                        0 => format!("{} {} Company", here.adjective, super::names::capital(product)),
                        1 => format!("{family} Trading House"),
                        _ => format!("{town} {} Company", super::names::capital(product)),
                    },
                    "order" => {
                        let colour = super::names::capital(pick(list("colour"), rng));
                        let sign = if rng.random_bool(0.5) { list("beast") } else { list("charge") };
                        format!("Order of the {colour} {}", super::names::capital(pick(sign, rng)))
                    }
                    "society" => format!("Society of the {} of {town}", super::names::capital(pick(list("charge"), rng))),
                    "players" => format!("{family} Players"),
                    "riflemen" => format!("{} Riflemen of {town}", super::names::capital(pick(list("colour"), rng))),
                    other => other.replace("{town}", town).replace("{family}", family),
                }
            });
            let trade = if pattern == "trade" {
                let of = name.trim_start_matches("Guild of ");
                trades.iter().find(|t| of.starts_with(**t)).copied().unwrap_or(trade)
            } else {
                product
            };
            self.world.towns[town].organisation.get_or_insert(i);
            self.world.organisations.push(Organisation { name, kind, school, town, founded, founder, member: None, trade });
        }
    }

    /// Teachers and schools, which need everybody to exist.
    fn link_people(&mut self) {
        let mut schools: Vec<Vec<Idx>> = vec![Vec::new(); self.world.regions.len()];
        for (i, organisation) in self.world.organisations.iter().enumerate() {
            if organisation.school {
                schools[self.world.towns[organisation.town].region].push(i);
            }
        }
        for i in 0..self.world.people.len() {
            let mut rng = self.stream("link", i);
            let (birth, town, occupation) = {
                let person = &self.world.people[i];
                (person.birth, person.town, person.occupation)
            };
            let region = self.world.towns[town].region;
            if rng.random_bool(0.65) {
                let field = occupations()[occupation].field;
                let teacher = self.active_person(field, birth + 20, region, &mut rng).filter(|&teacher| teacher != i);
                self.world.people[i].teacher = teacher;
                if let Some(teacher) = teacher {
                    self.world.people[teacher].student.get_or_insert(i);
                }
            }
            if !schools[region].is_empty() && rng.random_bool(0.7) {
                let school = pick_zipf(&schools[region], &mut rng);
                if self.world.organisations[school].founded < birth + 15 {
                    self.world.people[i].school = Some(school);
                    self.world.organisations[school].member.get_or_insert(i);
                }
            }
        }
    }

    fn make_buildings(&mut self, count: usize) {
        let kinds: [(&str, &[&str]); 12] = [
            ("bridge", &["{sign} Bridge", "{town} Bridge", "{colour} Bridge of {town}", "{sign} Bridge of {town}"]),
            ("cathedral", &["Cathedral of {town}", "Saint {given} Cathedral", "Cathedral of Saint {given} of {town}"]),
            ("theatre", &["{town} Theatre", "{sign} Theatre", "{family} Playhouse", "{sign} Theatre of {town}"]),
            ("palace", &["{family} Palace", "{sign} Palace", "{town} Palace", "{family} Palace of {town}"]),
            ("tower", &["{sign} Tower", "{colour} Tower of {town}", "{family} Tower", "{sign} Tower of {town}"]),
            ("library", &["{family} Library", "Library of {town}", "{family} Library of {town}"]),
            ("town hall", &["{town} Town Hall", "Old Town Hall of {town}", "New Town Hall of {town}", "{sign} House of {town}"]),
            ("abbey", &["{town} Abbey", "Saint {given} Abbey", "Abbey of Saint {given} of {town}"]),
            ("market hall", &["{product} Hall of {town}", "{sign} Market of {town}"]),
            ("hospital", &["Saint {given} Hospital", "{family} Hospital", "Saint {given} Hospital of {town}"]),
            ("lighthouse", &["{town} Lighthouse", "{sign} Lighthouse", "{sign} Lighthouse of {town}"]),
            ("observatory", &["{family} Observatory", "{town} Observatory", "{family} Observatory of {town}"]),
        ];
        for i in 0..count {
            let mut rng = self.stream("building", i);
            let town = self.town(&mut rng);
            let region = self.world.towns[town].region;
            let (kind, patterns) = pick_zipf(&kinds, &mut rng);
            let year = rng.random_range(YEARS.start + 80..YEARS.end);
            let architect = self.active_person("building", year, region, &mut rng);
            let name = self.unique(&mut rng, |m, rng| {
                let sign = if rng.random_bool(0.5) { list("beast") } else { list("charge") };
                let capital = super::names::capital;
                let female = rng.random_bool(0.5);
                let here = &m.world.regions[region];
                pick(patterns, rng)
                    .replace("{sign}", &capital(pick(sign, rng)))
                    .replace("{town}", &m.world.towns[town].name)
                    .replace("{colour}", &capital(pick(list("colour"), rng)))
                    .replace("{given}", m.given_name(here.culture, female, rng))
                    .replace("{family}", m.family(region, rng))
                    .replace("{product}", &capital(pick(&here.products, rng)))
            });
            if let Some(architect) = architect {
                self.world.people[architect].building.get_or_insert(i);
            }
            if kind == "bridge"
                && let Some(river) = self.world.towns[town].river
            {
                self.world.rivers[river].bridge.get_or_insert(i);
            }
            self.world.towns[town].building.get_or_insert(i);
            self.world.buildings.push(Building { name, kind, town, architect, year });
        }
        // Summits are reached by travellers; they exist by now.
        for i in 0..self.world.mountains.len() {
            let mut rng = self.stream("climb", i);
            let year = rng.random_range(1650..YEARS.end - 20);
            let region = self.world.mountains[i].region;
            self.world.mountains[i].climber = self.active_person("travel", year, region, &mut rng);
        }
    }

    fn make_conflicts(&mut self, count: usize) {
        for i in 0..count {
            let mut rng = self.stream("conflict", i);
            let town = self.town(&mut rng);
            let region = self.world.towns[town].region;
            let siege = rng.random_bool(0.3);
            let year = rng.random_range(YEARS.start + 70..YEARS.end);
            let base = format!("{} of {}", if siege { "Siege" } else { "Battle" }, self.world.towns[town].name);
            let name = self.dated(base, year, &mut rng);
            let commander = self.active_person("war", year, region, &mut rng);
            let enemy = match self.region(&mut rng) {
                other if other == region => self.world.regions[region].neighbour,
                other => other,
            };
            let cause = pick_zipf(list("cause"), &mut rng);
            if let Some(commander) = commander {
                self.world.people[commander].conflict.get_or_insert(i);
            }
            self.world.towns[town].conflict.get_or_insert(i);
            let won = rng.random_bool(0.55);
            self.world.conflicts.push(Conflict { name, siege, town, year, commander, enemy, won, cause });
        }
    }

    /// `base` if it is free, else with its year.
    fn dated(&mut self, base: String, year: u32, rng: &mut Stream) -> String {
        if self.claim(&base) {
            return base;
        }
        self.unique(rng, |_, _| format!("{base} of {year}"))
    }

    fn make_disasters(&mut self, count: usize) {
        let kinds = ["fire", "flood", "plague", "earthquake", "storm", "famine"];
        for i in 0..count {
            let mut rng = self.stream("disaster", i);
            let town = self.town(&mut rng);
            let kind = pick_zipf(&kinds, &mut rng);
            let year = rng.random_range(YEARS.start..YEARS.end);
            let place = &self.world.towns[town].name;
            let base = match kind {
                "fire" => format!("Great Fire of {place}"),
                "plague" => format!("Plague of {place}"),
                "storm" => format!("Great Storm of {place}"),
                other => format!("{place} {}", super::names::capital(other)),
            };
            let name = self.dated(base, year, &mut rng);
            self.world.towns[town].disaster.get_or_insert(i);
            self.world.disasters.push(Disaster { name, kind, town, year });
        }
    }

    fn make_works(&mut self, count: usize) {
        let authors: Vec<Idx> = (0..self.world.people.len())
            .filter(|&i| occupations()[self.world.people[i].occupation].works.is_some())
            .collect();
        for i in 0..count {
            let mut rng = self.stream("work", i);
            // A world too small to have a maker of works lets anybody write.
            // A tamer power law than Zipf's: the most prolific of n makes n^(1/3) times the average.
            let author = ((authors.len() as f64) * rng.random::<f64>().powf(1.5)) as usize;
            let author = authors.get(author).copied().unwrap_or(0);
            let person = &self.world.people[author];
            let occupation = &occupations()[person.occupation];
            let class = occupation.works.unwrap_or(WorkClass::Literature);
            let region = self.world.towns[person.town].region;
            let age = rng.random_range(22..=(person.death - person.birth - 1).clamp(23, 75));
            let year = person.birth + age;
            let theme = if rng.random_bool(0.6) {
                pick_zipf(&self.world.regions[region].themes, &mut rng)
            } else {
                zipf(themes().len(), &mut rng)
            };
            let kind = pick_zipf(work_kinds(occupation.name, class), &mut rng);
            let home = if rng.random_bool(0.6) { self.town_in(region, &mut rng) } else { None };
            let town = home.unwrap_or_else(|| self.town(&mut rng));
            let title = self.work_title(class, theme, town, region, occupation.name, &mut rng);
            let subject = pick_zipf(&themes()[theme].subjects, &mut rng);
            self.world.people[author].works.push(i);
            self.world.works.push(Work { title, class, kind, author, year, theme, subject, town });
        }
    }

    fn work_title(
        &mut self,
        class: WorkClass,
        theme: usize,
        town: Idx,
        region: Idx,
        occupation: &str,
        rng: &mut Stream,
    ) -> String {
        let theme = &themes()[theme];
        self.unique(rng, |m, rng| {
            let noun = pick_zipf(&theme.nouns, rng);
            let other = pick(&theme.nouns, rng);
            let adjective = pick_zipf(&theme.adjectives, rng);
            let place = &m.world.towns[town].name;
            let here = &m.world.regions[region];
            let female = rng.random_bool(0.5);
            let given = m.given_name(here.culture, female, rng);
            let family = m.family(region, rng);
            if class == WorkClass::Scholarship {
                let topic = pick(scholarly_topics(occupation), rng);
                let forms = ["On", "A Treatise on", "Principles of", "An Inquiry into",  "Elements of"];
                let form = pick_zipf(&forms, rng);
                let count = super::names::capital(pick(list("number"), rng));
                return match rng.random_range(0..6) {
                    0 => format!("{form} {topic}"),
                    1 => format!("{form} {topic} in {}", here.name),
                    2 => format!("The {place} Lectures on {topic}"),
                    3 => format!("{form} {topic}, in {count} Books"),
                    4 => format!("{form} {topic}, with Observations Made at {place}"),
                    _ => format!("{count} Letters from {place} on {topic}"),
                };
            }
            match rng.random_range(0..12) {
                0..=2 => format!("The {adjective} {noun}"),
                3 => format!("The {noun} of {place}"),
                4 if noun != other => format!("The {noun} and the {other}"),
                5 => format!("A {noun} for {given}"),
                6 => format!("{given} and the {adjective} {noun}"),
                7 => format!("The {adjective} {noun} of {place}"),
                8 => format!("{adjective} {noun}, {adjective2} {other}", adjective2 = pick(&theme.adjectives, rng)),
                9 => format!("The {noun} at {place}"),
                10 => format!("The {family} {noun}"),
                _ => format!("{given}'s {noun}"),
            }
        })
    }

    fn make_species(&mut self, count: usize) {
        let qualities = [
            "dwarf", "ringed", "golden", "pale", "marsh", "crested", "mountain", "spotted", "silver", "lesser", "great",
            "black-tipped", "creeping", "blue", "striped", "night", "stone", "velvet", "horned", "scarlet",
        ];
        let plants = ["gentian", "saxifrage", "orchid", "bellflower", "campion", "lily", "thistle", "violet", "clover", "iris"];
        for i in 0..count {
            let mut rng = self.stream("species", i);
            let region = self.region(&mut rng);
            let kind = pick_zipf(&["flower", "bird", "moth", "tree", "fish"], &mut rng);
            let name = self.unique(&mut rng, |m, rng| {
                let here = &m.world.regions[region];
                let noun = match kind {
                    "flower" => pick_zipf(&plants, rng),
                    "bird" => pick_zipf(list("bird"), rng),
                    "moth" => pick(&["hawk moth", "emperor moth", "tiger moth", "lappet", "footman moth"], rng),
                    "tree" => pick_zipf(list("tree"), rng),
                    _ => pick_zipf(list("fish"), rng),
                };
                format!("{} {} {noun}", here.adjective, pick(&qualities, rng))
            });
            let year = rng.random_range(1500..YEARS.end - 20);
            let discoverer = self.active_person("science", year, region, &mut rng);
            self.world.species.push(Species { name, kind, region, discoverer, year });
        }
    }
}

/// Kinds of works by occupation, most frequent first.
fn work_kinds(occupation: &str, class: WorkClass) -> &'static [&'static str] {
    match (class, occupation) {
        (WorkClass::Music, _) => {
            &["opera", "symphony", "song cycle", "oratorio", "string quartet", "mass", "overture", "concerto", "ballet"]
        }
        (_, "poet") => &["narrative poem", "sonnet cycle", "ballad", "verse satire", "elegy"],
        (_, "playwright") => &["tragedy", "comedy", "puppet play", "historical drama", "farce"],
        (WorkClass::Literature, _) => &["novel", "novella", "story collection", "novel in letters", "fable"],
        (_, "sculptor") => &["statue", "relief", "fountain group", "tomb", "bust"],
        (_, "engraver") => &["engraving", "etching", "woodcut series"],
        (WorkClass::Art, _) => &["painting", "altarpiece", "fresco", "group portrait", "miniature"],
        (_, "cartographer") => &["atlas", "wall map", "pilot book"],
        (_, "historian") => &["chronicle", "history", "biography"],
        (_, "botanist") => &["herbal", "flora", "treatise"],
        (_, "philosopher") => &["dialogue", "treatise", "essay collection"],
        (WorkClass::Scholarship, _) => &["treatise", "handbook", "dissertation", "course of lectures"],
    }
}

/// What a scholarly title names, by occupation.
fn scholarly_topics(occupation: &str) -> &'static [&'static str] {
    match occupation {
        "botanist" => &["Mosses", "Meadow Plants", "the Grafting of Trees", "Alpine Herbs", "Ferns", "Roots"],
        "philosopher" => &["Reason", "Friendship", "the Limits of Doubt", "Time", "Virtue", "Freedom", "the Soul"],
        "astronomer" => &["Comets", "the Fixed Stars", "Eclipses", "the Lunar Year", "Sunspots", "Double Stars"],
        "physician" => &["Fevers", "the Bones", "the Eye", "Poisons", "Hot Springs", "the Lungs of Miners"],
        "historian" => &["the Guilds", "the Old Kings", "the Great Plague", "the Peasant Wars", "the Sea Routes"],
        "mathematician" => &["Curves", "Chance", "Whole Numbers", "Infinite Series", "Solids", "Projection"],
        "jurist" => &["Inheritance", "the Law of the Sea", "Charters", "Tenancy", "Treaties", "Evidence"],
        "cartographer" => &["Coasts", "River Basins", "City Plans", "the Northern Isles", "Mountain Roads"],
        "geologist" => &["Fossil Shells", "Volcanoes", "Glaciers", "Strata", "Ore Veins", "Caves"],
        "theologian" => &["Grace", "the Psalms", "Prayer", "the Saints", "Reform", "Silence"],
        "chemist" => &["Dyes", "Airs and Vapours", "Coloured Glass", "Gunpowder", "Soap", "Salts"],
        "zoologist" => &["Beetles", "the Flight of Birds", "Freshwater Fish", "Bats", "Horses", "Moths"],
        _ => &["Nature", "Motion", "Memory", "Trade", "Language", "Weather"],
    }
}

/// `count` different items, those early in the list more often.
fn distinct(items: &'static [&'static str], count: usize, rng: &mut impl Rng) -> Vec<&'static str> {
    let mut chosen: Vec<&'static str> = Vec::with_capacity(count);
    while chosen.len() < count.min(items.len()) {
        // Half of the draws are even, so that regions differ.
        let item = if rng.random_bool(0.5) { pick(items, rng) } else { pick_zipf(items, rng) };
        if !chosen.contains(&item) {
            chosen.push(item);
        }
    }
    chosen
}

/// Three times in four one of the region's own, else any.
fn prefer(own: &[&'static str], all: &'static [&'static str], rng: &mut impl Rng) -> &'static str {
    if rng.random_bool(0.75) { pick_zipf(own, rng) } else { pick_zipf(all, rng) }
}
