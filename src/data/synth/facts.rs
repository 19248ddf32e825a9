//! What is known about an entity: the values of its template slots.
//!
//! Facts that other passages mention come from the [`World`]; the rest is drawn from the entity's
//! own random stream, the same at every call.

use rand::RngExt;

use super::grammar::Slots;
use super::lexicon::{WorkClass, list, pick, pick_zipf, themes, zipf};
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
            Kind::Region => include_str!("templates/region.txt"),
            Kind::Town => include_str!("templates/town.txt"),
            Kind::River => include_str!("templates/river.txt"),
            Kind::Mountain => include_str!("templates/mountain.txt"),
            Kind::Person => include_str!("templates/person.txt"),
            Kind::Music => include_str!("templates/music.txt"),
            Kind::Literature => include_str!("templates/literature.txt"),
            Kind::Art => include_str!("templates/art.txt"),
            Kind::Scholarship => include_str!("templates/scholarship.txt"),
            Kind::Conflict => include_str!("templates/conflict.txt"),
            Kind::Disaster => include_str!("templates/disaster.txt"),
            Kind::Organisation => include_str!("templates/organisation.txt"),
            Kind::Building => include_str!("templates/building.txt"),
            Kind::Species => include_str!("templates/species.txt"),
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
    let mut writer = Writer { world, slots: Slots::default(), rng };
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
    Described { kind, title, slots: writer.slots, rng: writer.rng }
}

struct Writer<'w> {
    world: &'w World,
    slots: Slots<'w>,
    rng: Stream,
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
        self.slots.set(slot, format!("{} {unit}", grouped(value.into())));
    }

    /// A year is written without a comma.
    fn year(&mut self, slot: &'static str, value: u32) {
        self.slots.set(slot, value.to_string());
    }

    fn range(&mut self, range: std::ops::Range<u32>) -> u32 {
        if range.is_empty() { range.start } else { self.rng.random_range(range) }
    }

    /// Sets `slot` to an item of the word list `name`.
    fn word(&mut self, slot: &'static str, name: &str) {
        let word: &'static str = pick_zipf(list(name), &mut self.rng);
        self.slots.set(slot, word);
    }

    fn subject(&mut self, name: &'w str, again: impl Into<std::borrow::Cow<'w, str>>, short: impl Into<std::borrow::Cow<'w, str>>) {
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
        let product: &'static str =
            if self.rng.random_bool(0.75) { pick_zipf(own, &mut self.rng) } else { pick_zipf(list("product"), &mut self.rng) };
        self.set(slot, product);
    }

    /// A town that is not `besides`: in four of five cases of the region, else of the neighbouring one.
    fn other_town(&mut self, slot: &'static str, region: Idx, besides: Idx) {
        let here = &self.world.regions[region];
        let there = &self.world.regions[here.neighbour];
        let region = if self.rng.random_bool(0.8) && here.towns.len() > 1 { here } else { there };
        if let Some(town) = self.town_of(&region.towns, besides) {
            self.set(slot, &self.world.towns[town].name);
        }
    }

    fn town_of(&mut self, towns: &[Idx], besides: Idx) -> Option<Idx> {
        if towns.is_empty() {
            return None;
        }
        let town = pick_zipf(towns, &mut self.rng);
        if town != besides { Some(town) } else { towns.iter().copied().find(|&other| other != besides) }
    }

    /// An invented full name that has no passage.
    fn stranger(&mut self, slot: &'static str, region: Idx, female: bool) {
        let culture = &CULTURES[self.world.regions[region].culture];
        let kind = if female { NameKind::Female } else { NameKind::Male };
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
            2 => self.slots.set(slot, format!("the {} of {}", here.mayor, self.world.towns[town].name)),
            _ => {
                let female = self.rng.random_bool(0.5);
                self.stranger(slot, region, female);
            }
        }
    }

    fn region(&mut self, i: Idx) -> (Kind, &'w str) {
        let world = self.world;
        let here = &world.regions[i];
        self.subject(&here.name, here.name.as_str(), "the region");
        self.place(i);
        self.set("neighbour", &world.regions[here.neighbour].name);
        for (slot, town) in ["capital", "town2", "town3"].into_iter().zip(&here.towns) {
            self.set(slot, &world.towns[*town].name);
        }
        for (slot, product) in ["product", "product2", "product3"].into_iter().zip(&here.products) {
            self.set(slot, product);
        }
        if let (Some(&river), Some(&mountain)) = (here.rivers.first(), here.mountains.first()) {
            self.set("river", &world.rivers[river].name);
            self.set("mountain", &world.mountains[mountain].name);
        }
        if let Some(conflict) = here.towns.iter().find_map(|&town| world.towns[town].conflict) {
            self.set("battle", &world.conflicts[conflict].name);
            self.year("battle_year", world.conflicts[conflict].year);
        }
        let united = self.range(1000..1400);
        self.year("year2", united);
        let until = self.range(1500..1890);
        self.year("year", until);
        (Kind::Region, &here.name)
    }

    fn town(&mut self, i: Idx) -> (Kind, &'w str) {
        let world = self.world;
        let town = &world.towns[i];
        self.subject(&town.name, town.name.as_str(), "the town");
        self.place(town.region);
        self.set("kind", town.kind);
        self.set("product", town.product);
        self.product("product2", town.region);
        if self.slots.get("product2") == Some(town.product) {
            self.set("product2", "cattle");
        }
        let population = u64::from(self.range(6..400)) * 100;
        self.number("population", population);
        self.year("founded", town.founded);
        let charter = self.range(town.founded + 80..1350);
        self.year("charter", charter);
        let rule = self.range(1400..1850);
        self.year("rule_year", rule);
        if let Some(river) = town.river {
            self.set("river", &world.rivers[river].name);
        }
        if let Some(mountain) = town.mountain {
            self.set("mountain", &world.mountains[mountain].name);
        }
        self.other_town("neighbour", town.region, i);
        self.other_town("far_town", world.regions[town.region].neighbour, i);
        if let Some(native) = town.native {
            let person = &world.people[native];
            self.somebody(native, "native", "native_occ");
            self.set("native_speciality", person.speciality);
            self.year("native_birth", person.birth);
        }
        if let Some(building) = town.building {
            let building = &world.buildings[building];
            self.set("building", &building.name);
            self.set("building_kind", building.kind);
            self.year("building_year", building.year);
        }
        if let Some(organisation) = town.organisation {
            let organisation = &world.organisations[organisation];
            self.set("org", &organisation.name);
            self.set("org_kind", organisation.kind);
            self.year("org_year", organisation.founded);
        }
        if let Some(conflict) = town.conflict {
            self.set("battle", &world.conflicts[conflict].name);
            self.year("battle_year", world.conflicts[conflict].year);
        }
        if let Some(disaster) = town.disaster {
            self.set("disaster", &world.disasters[disaster].name);
            self.year("disaster_year", world.disasters[disaster].year);
            // The disaster's own passage gives the same figure.
            let houses = disaster_toll(disaster).0;
            self.number("households", houses);
            if world.disasters[disaster].is_material() {
                self.number("houses", houses);
            }
        }
        self.word("beast", "beast");
        self.word("aldermen", "number");
        self.word("term_years", "number");
        let distance = self.range(4..60);
        self.amount("distance", distance, "miles");
        let direction = pick(&["north", "south", "east", "west", "north-east", "south-west"], &mut self.rng);
        self.set("direction", direction);
        (Kind::Town, &town.name)
    }

    fn river(&mut self, i: Idx) -> (Kind, &'w str) {
        let world = self.world;
        let river = &world.rivers[i];
        self.subject(&river.name, format!("the {}", river.name), "the river");
        self.place(river.region);
        self.product("product", river.region);
        if let Some(source) = river.source {
            self.set("source", &world.mountains[source].name);
        }
        if let Some(mouth) = river.mouth {
            self.set("mouth", &world.rivers[mouth].name);
        }
        for (slot, town) in ["town1", "town2"].into_iter().zip(&river.towns) {
            self.set(slot, &world.towns[*town].name);
        }
        if let Some(bridge) = river.bridge {
            let bridge = &world.buildings[bridge];
            self.set("bridge", &bridge.name);
            self.set("bridge_town", &world.towns[bridge.town].name);
            self.year("bridge_year", bridge.year);
        }
        let fish: &'static str = pick_zipf(&world.regions[river.region].fish, &mut self.rng);
        self.set("fish", fish);
        let (length, feet, mills, houses) = (self.range(20..900), self.range(6..30), self.range(3..90), self.range(10..400));
        self.amount("length", length, "miles");
        self.amount("feet", feet, "feet");
        self.number("mills", mills);
        self.number("houses", houses);
        let (flood, used) = (self.range(1300..1890), self.range(1200..1800));
        self.year("flood_year", flood);
        self.year("use_year", used);
        self.word("water", "water");
        self.word("use", "use_river");
        self.word("tongue", "tongue_word");
        (Kind::River, &river.name)
    }

    fn mountain(&mut self, i: Idx) -> (Kind, &'w str) {
        let world = self.world;
        let mountain = &world.mountains[i];
        self.subject(&mountain.name, mountain.name.as_str(), "the mountain");
        self.place(mountain.region);
        self.product("product", mountain.region);
        let height = u64::from(self.range(210..1500)) * 10;
        self.amount("height", height, "feet");
        if let Some(town) = mountain.town {
            self.set("town", &world.towns[town].name);
        }
        self.other_town("far_town", mountain.region, mountain.town.unwrap_or(usize::MAX));
        if let Some(river) = mountain.river {
            self.set("river", &world.rivers[river].name);
        }
        if let Some(climber) = mountain.climber {
            let person = &world.people[climber];
            self.somebody(climber, "climber", "climber_occ");
            let year = self.range(person.birth + 26..person.death.min(person.birth + 55));
            self.year("ascent", year);
        }
        self.word("shape", "shape");
        self.word("mineral", "mineral");
        let from = self.range(1050..1500);
        self.year("mine_from", from);
        let to = self.range(from + 100..1890);
        self.year("mine_to", to);
        let culture = &CULTURES[world.regions[mountain.region].culture];
        let saint = culture.name(NameKind::Female, &mut self.rng);
        self.slots.set("saint", saint);
        let shrine = self.range(1100..1800);
        self.year("shrine_year", shrine);
        let shrine_feet = height * u64::from(self.range(30..80)) / 1000 * 10;
        self.amount("shrine_feet", shrine_feet, "feet");
        let pass = self.range(1600..1890);
        self.year("pass_year", pass);
        let hut = self.range(1820..1899);
        self.year("hut_year", hut);
        self.word("beds", "number");
        (Kind::Mountain, &mountain.name)
    }

    fn person(&mut self, i: Idx) -> (Kind, &'w str) {
        let world = self.world;
        let person = &world.people[i];
        let town = &world.towns[person.town];
        let region = town.region;
        self.place(region);
        self.set("name", &person.name);
        let surname = &person.name[person.surname_at..];
        self.set("short", surname);
        self.set("again", surname);
        if person.label == person.name {
            self.set("q", &person.name);
        } else if person.label.contains('(') {
            self.slots.set("q", format!("the {} {}", world.occupation(i), person.name));
        } else {
            self.set("q", &person.label);
        }
        let female = person.female;
        for (slot, woman, man) in [
            ("he", "she", "he"),
            ("his", "her", "his"),
            ("him", "her", "him"),
            ("child", "daughter", "son"),
            ("partner", "husband", "wife"),
        ] {
            self.set(slot, if female { woman } else { man });
        }
        self.set("parent", "father");
        self.set("occupation", world.occupation(i));
        self.set("speciality", person.speciality);
        self.set("town", &town.name);
        self.set("town_kind", town.kind);
        self.set("town_product", town.product);
        self.year("birth", person.birth);
        self.year("death", person.death);
        self.number("died_aged", person.death - person.birth);
        for (slot, name) in
            [("parent_trade", "parent_trade"), ("nth", "nth"), ("habit", "habit"), ("ailment", "ailment"), ("children", "number")]
        {
            self.word(slot, name);
        }
        let age = self.range(12..20);
        self.number("age", age);
        if let Some(teacher) = person.teacher {
            self.somebody(teacher, "teacher", "teacher_occ");
            self.set("teacher_town", &world.towns[world.people[teacher].town].name);
        }
        if let Some(student) = person.student {
            self.somebody(student, "student", "student_occ");
        }
        if let Some(school) = person.school {
            self.set("school", &world.organisations[school].name);
            let year = person.birth + self.range(15..22);
            self.year("school_year", year);
        }
        let slots: [(&'static str, &'static str, &'static str, &'static str); 2] =
            [("work", "work_kind", "work_year", "work_subject"), ("work2", "work2_kind", "work2_year", "work2_subject")];
        for ((title, kind, year, subject), &work) in slots.into_iter().zip(&person.works) {
            let work = &world.works[work];
            self.set(title, &work.title);
            self.set(kind, work.kind);
            self.year(year, work.year);
            self.set(subject, work.subject);
        }
        if let Some(building) = person.building {
            let building = &world.buildings[building];
            self.set("building", &building.name);
            self.set("building_town", &world.towns[building.town].name);
            self.year("building_year", building.year);
        }
        if let Some(conflict) = person.conflict {
            let conflict = &world.conflicts[conflict];
            self.set("battle", &conflict.name);
            self.year("battle_year", conflict.year);
            self.set("battle_end", if conflict.won { "victory" } else { "defeat" });
            self.set("region", &world.region_of_town(conflict.town).name);
        }
        self.other_town("move_town", region, person.town);
        let moved = person.birth + self.range(18..36);
        self.year("move_year", moved);
        let office = person.birth + self.range(24..38);
        self.year("office_year", office);
        self.slots.set("office", format!("court {}", world.occupation(i)));
        self.stranger("spouse", region, !female);
        let married = person.birth + self.range(20..36);
        self.year("marriage_year", married);
        if self.rng.random_bool(0.45) {
            self.set("death_town", &town.name);
        } else {
            self.other_town("death_town", region, person.town);
        }
        (Kind::Person, &person.label)
    }

    fn work(&mut self, i: Idx) -> (Kind, &'w str) {
        let world = self.world;
        let work = &world.works[i];
        let author = &world.people[work.author];
        let region = world.towns[author.town].region;
        // A "novel in letters" is "the novel" after its first mention.
        let noun = work.kind.split(" in ").next().and_then(|kind| kind.split(" of ").next());
        self.subject(&work.title, work.title.as_str(), format!("the {}", noun.unwrap_or(work.kind)));
        self.place(region);
        self.set("kind", work.kind);
        self.somebody(work.author, "author", "author_occ");
        self.set("speciality", author.speciality);
        self.year("year", work.year);
        self.set("theme", themes()[work.theme].name);
        self.set("subject", work.subject);
        self.set("town", &world.towns[work.town].name);
        self.other_town("far_town", region, work.town);
        self.other_town("found_town", region, work.town);
        self.other_town("print_town", region, usize::MAX);
        let town = author.town;
        self.patron("dedicatee", region, town);
        self.patron("patron", region, town);
        let culture = &CULTURES[world.regions[region].culture];
        let female = self.rng.random_bool(0.5);
        let hero = culture.name(if female { NameKind::Female } else { NameKind::Male }, &mut self.rng);
        let surname = culture.name(NameKind::Surname, &mut self.rng);
        self.slots.set("hero", format!("{hero} {surname}"));
        self.stranger("model", region, female);
        if let Some(reader) = self.reader(region, work.year.saturating_sub(20)) {
            self.somebody(reader, "reader", "reader_occ");
        }
        let same_age = world.people.get(author.student.unwrap_or(usize::MAX));
        if let (Some(_), Some(student)) = (same_age, author.student) {
            self.somebody(student, "performer", "performer_occ");
        }
        if let Some(school) = author.school {
            self.set("school", &world.organisations[school].name);
        }
        let ban = match zipf(world.regions.len(), &mut self.rng) {
            same if same == region => world.regions[region].neighbour,
            other => other,
        };
        self.set("ban_region", &world.regions[ban].name);
        let later = [
            ("found", 20..150),
            ("theft", 30..200),
            ("restored", 60..250),
            ("ban_year", 1..20),
            ("until", 10..120),
            ("opera_year", 10..120),
        ];
        for (slot, after) in later {
            let year = work.year + self.range(after);
            self.year(slot, year.min(1900));
        }
        let parts = match (work.class, work.kind) {
            (WorkClass::Music, "opera" | "ballet") => "acts",
            (WorkClass::Music, "song cycle") => "songs",
            (WorkClass::Music, _) => "movements",
            (_, "tragedy" | "comedy" | "historical drama" | "farce" | "puppet play") => "acts",
            (_, "sonnet cycle" | "story collection" | "fable") => "parts",
            (_, "narrative poem" | "ballad" | "verse satire" | "elegy") => "cantos",
            _ => "chapters",
        };
        self.set("part_name", parts);
        let several = match parts {
            "acts" => self.range(2..6),
            "movements" => self.range(3..7),
            "chapters" => self.range(12..60),
            _ => self.range(4..30),
        };
        self.number("parts", several);
        for (slot, range, unit) in
            [("minutes", 10..190, "minutes"), ("coins", 30..900, "gold pieces"), ("feet", 3..28, "feet")]
        {
            let value = self.range(range);
            self.amount(slot, value, unit);
        }
        for (slot, range) in [("volumes", 2..12), ("plates", 12..300), ("years", 2..90)] {
            let value = self.range(range);
            self.number(slot, value);
        }
        let copies = u64::from(self.range(2..40)) * 50;
        self.number("copies", copies);
        self.word("scoring", "instrument");
        self.word("key", "key");
        self.word("claim", "claim");
        self.word("verdict", "verdict");
        self.word("reception", if work.class == WorkClass::Art { "reception_art" } else { "reception" });
        self.word("reception2", "reception_before");
        self.word("medium", if author_sculpts(world, work.author) { "medium_sculpture" } else { "medium_painting" });
        if work.kind == "fresco" {
            self.set("medium", "fresco on lime plaster");
        }
        if ["engraving", "etching", "woodcut series"].contains(&work.kind) {
            self.set("medium", "black ink on paper");
        }
        let kind = match work.class {
            WorkClass::Music => Kind::Music,
            WorkClass::Literature => Kind::Literature,
            WorkClass::Art => Kind::Art,
            WorkClass::Scholarship => Kind::Scholarship,
        };
        (kind, &work.title)
    }

    fn conflict(&mut self, i: Idx) -> (Kind, &'w str) {
        let world = self.world;
        let conflict = &world.conflicts[i];
        let region = world.towns[conflict.town].region;
        let noun = if conflict.siege { "the siege" } else { "the battle" };
        self.subject(&conflict.name, format!("the {}", conflict.name), noun);
        self.place(region);
        self.set("fought", if conflict.siege { "began" } else { "was fought" });
        self.set("town", &world.towns[conflict.town].name);
        self.set("enemy", &world.regions[conflict.enemy].name);
        self.year("year", conflict.year);
        self.set("cause", conflict.cause);
        if let Some(commander) = conflict.commander {
            self.somebody(commander, "commander", "commander_occ");
            self.set("commander_speciality", world.people[commander].speciality);
        }
        self.stranger("foe", conflict.enemy, false);
        self.word("outcome", if conflict.won { "won" } else { "lost" });
        self.set("winner", &world.regions[if conflict.won { region } else { conflict.enemy }].name);
        self.word("spoils", "spoils");
        self.word("weather", "weather");
        let (hours, dead, prisoners) = (self.range(2..19), self.range(3..160), self.range(2..90));
        self.amount("hours", hours, "hours");
        self.number("dead", dead * 50);
        self.number("prisoners", prisoners * 20);
        self.other_town("peace_town", region, conflict.town);
        self.year("peace_year", conflict.year + 1);
        let monument = self.range(conflict.year + 5..1901.max(conflict.year + 6));
        self.year("monument_year", monument.min(1900));
        (Kind::Conflict, &conflict.name)
    }

    fn disaster(&mut self, i: Idx) -> (Kind, &'w str) {
        let world = self.world;
        let disaster = &world.disasters[i];
        let town = &world.towns[disaster.town];
        self.subject(&disaster.name, format!("the {}", disaster.name), format!("the {}", disaster.kind));
        self.place(town.region);
        self.set("kind", disaster.kind);
        self.set("town", &town.name);
        self.set("town_kind", town.kind);
        self.year("year", disaster.year);
        self.word(
            "cause",
            match disaster.kind {
                "fire" => "fire_cause",
                "flood" => "flood_cause",
                "plague" => "plague_cause",
                "earthquake" => "earthquake_cause",
                "storm" => "storm_cause",
                _ => "famine_cause",
            },
        );
        let (houses, dead) = disaster_toll(i);
        self.number("households", houses);
        self.number("dead", dead);
        if disaster.is_material() {
            self.number("houses", houses);
            self.set("new_stone", world.regions[town.region].stone);
            self.set("ruin", disaster.kind);
        }
        if let Some(helper) = self.reader(town.region, disaster.year.saturating_sub(60))
            && world.people[helper].birth + 20 < disaster.year
            && world.people[helper].death > disaster.year
        {
            self.somebody(helper, "helper", "helper_occ");
        }
        if let Some(author) = self.reader(town.region, disaster.year.saturating_sub(7)) {
            self.somebody(author, "author", "author_occ");
            self.year("author_birth", world.people[author].birth);
        }
        self.other_town("far_town", town.region, disaster.town);
        self.word("aid", "aid");
        let carts = self.range(8..120);
        self.number("carts", carts);
        if let Some(organisation) = town.organisation.map(|i| &world.organisations[i])
            && organisation.founded < disaster.year
        {
            self.set("org", &organisation.name);
            self.set("org_kind", organisation.kind);
        }
        self.word(
            "measure",
            match disaster.kind {
                "flood" => "measure_flood",
                "plague" => "measure_plague",
                "famine" => "measure_famine",
                _ => "measure_fire",
            },
        );
        let after = disaster.year + self.range(1..9);
        self.year("measure_year", after);
        (Kind::Disaster, &disaster.name)
    }

    fn organisation(&mut self, i: Idx) -> (Kind, &'w str) {
        let world = self.world;
        let organisation = &world.organisations[i];
        let town = &world.towns[organisation.town];
        let noun = organisation.kind.rsplit(' ').next().unwrap_or(organisation.kind);
        self.subject(&organisation.name, format!("the {}", organisation.name), format!("the {noun}"));
        self.place(town.region);
        self.set("kind", organisation.kind);
        self.set("town", &town.name);
        self.set("town_kind", town.kind);
        self.year("founded", organisation.founded);
        if let Some(founder) = organisation.founder {
            self.somebody(founder, "founder", "founder_occ");
            self.set("founder_speciality", world.people[founder].speciality);
        }
        if let Some(member) = organisation.member {
            self.somebody(member, "member", "member_occ");
            self.set("member_speciality", world.people[member].speciality);
        }
        self.slots.set("product", organisation.trade.to_lowercase());
        if organisation.kind == "craft guild" {
            self.product("product", town.region);
        }
        self.other_town("far_town", town.region, organisation.town);
        for (slot, name) in
            [("motto", "motto"), ("privilege", "privilege"), ("head", "head"), ("charity", "charity"), ("quarrel", "quarrel")]
        {
            self.word(slot, name);
        }
        self.word("emblem", if self.world.people.len() % 2 == i % 2 { "beast" } else { "charge" });
        let (coins, members) = (self.range(40..4000), self.range(12..300));
        self.amount("coins", coins, "gold pieces");
        self.number("members", members);
        let privilege = self.range(organisation.founded + 5..organisation.founded + 60);
        self.year("privilege_year", privilege);
        let hall = self.range(organisation.founded + 8..organisation.founded + 60);
        self.year("hall_year", hall);
        (Kind::Organisation, &organisation.name)
    }

    fn building(&mut self, i: Idx) -> (Kind, &'w str) {
        let world = self.world;
        let building = &world.buildings[i];
        let town = &world.towns[building.town];
        self.subject(&building.name, format!("the {}", building.name), format!("the {}", building.kind));
        self.place(town.region);
        self.set("kind", building.kind);
        self.set("town", &town.name);
        self.set("town_kind", town.kind);
        self.year("year", building.year);
        if let Some(architect) = building.architect {
            self.somebody(architect, "architect", "architect_occ");
            self.set("architect_speciality", world.people[architect].speciality);
        }
        self.patron("patron", town.region, building.town);
        let river = town.river.map(|river| world.rivers[river].name.as_str());
        if building.kind == "bridge" {
            self.word("arches", "number");
            if let Some(river) = river {
                self.set("crossed", river);
            }
        } else {
            self.word("feature", "feature");
            self.word("use", "building_use");
            if let Some(river) = river {
                self.set("river", river);
            }
        }
        self.word("damage", "damage");
        self.other_town("far_town", town.region, building.town);
        let (coins, feet) = (self.range(900..60_000), self.range(60..900));
        self.amount("coins", coins, "gold pieces");
        self.amount("feet", feet, "feet");
        for (slot, range) in [("piles", 60..900), ("workers", 40..1500)] {
            let value = self.range(range);
            self.number(slot, value);
        }
        for slot in ["used_year", "damage_year", "restored"] {
            let year = building.year + self.range(10..200);
            self.year(slot, year.min(1905));
        }
        (Kind::Building, &building.name)
    }

    fn species(&mut self, i: Idx) -> (Kind, &'w str) {
        let world = self.world;
        let species = &world.species[i];
        let here = &world.regions[species.region];
        self.subject(&species.name, format!("the {}", species.name), format!("the {}", species.kind));
        self.place(species.region);
        self.set("kind", species.kind);
        self.set("neighbour", &world.regions[here.neighbour].name);
        self.year("year", species.year);
        if let Some(discoverer) = species.discoverer {
            self.somebody(discoverer, "discoverer", "discoverer_occ");
        }
        self.other_town("town", species.region, usize::MAX);
        let (uses, mark, habitat) = match species.kind {
            "bird" => ("use_bird", "bird_mark", "bird_habitat"),
            "moth" => ("use_moth", "moth_mark", "moth_habitat"),
            "tree" => ("use_tree", "tree_mark", "tree_habitat"),
            "fish" => ("use_fish", "fish_mark", "fish_habitat"),
            _ => ("use_plant", "flower_mark", "flower_habitat"),
        };
        self.word("use", uses);
        self.word("mark", mark);
        self.word("habitat", habitat);
        self.word("rarity", "rarity");
        self.word("nickname", "nickname");
        let (height, inches, years) = (self.range(10..90) * 100, self.range(2..40), self.range(2..14));
        self.amount("height", height, "feet");
        if species.kind != "tree" {
            self.amount("inches", inches, "inches");
            self.amount("years", years, "years");
        }
        let count = self.range(species.year + 5..1901);
        self.year("count_year", count.min(1900));
        let author = here.towns.iter().find_map(|&town| {
            let person = world.towns[town].native?;
            world.people[person].works.first().copied()
        });
        if let Some(work) = author.map(|work| &world.works[work])
            && work.year > species.year
        {
            self.set("work", &work.title);
            self.set("work_kind", work.kind);
            self.set("work_author", &world.people[work.author].name);
        }
        (Kind::Species, &species.name)
    }
}

static CULTURES: std::sync::LazyLock<Vec<super::names::Culture>> = std::sync::LazyLock::new(cultures);

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
        assert_eq!([7, 999, 1000, 1_234_567].map(grouped), ["7", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn kinds_stand_in_order() {
        assert!(Kind::ALL.iter().enumerate().all(|(i, kind)| *kind as usize == i));
    }
}
