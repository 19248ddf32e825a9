//! Works, buildings, events and species: what refers to people and places.

use super::super::lexicon::{WorkClass, list, occupations, pick, pick_zipf, themes, zipf};
use super::super::names::capital;
use super::{Building, Conflict, Disaster, Idx, Maker, Species, Work, YEARS};
use crate::rng::Stream;
use rand::RngExt;

impl Maker {
    pub(super) fn make_buildings(&mut self, count: usize) {
        let kinds: [(&str, &[&str]); 12] = [
            (
                "bridge",
                &[
                    "{sign} Bridge",
                    "{town} Bridge",
                    "{colour} Bridge of {town}",
                    "{sign} Bridge of {town}",
                ],
            ),
            (
                "cathedral",
                &[
                    "Cathedral of {town}",
                    "Saint {given} Cathedral",
                    "Cathedral of Saint {given} of {town}",
                ],
            ),
            (
                "theatre",
                &[
                    "{town} Theatre",
                    "{sign} Theatre",
                    "{family} Playhouse",
                    "{sign} Theatre of {town}",
                ],
            ),
            (
                "palace",
                &[
                    "{family} Palace",
                    "{sign} Palace",
                    "{town} Palace",
                    "{family} Palace of {town}",
                ],
            ),
            (
                "tower",
                &[
                    "{sign} Tower",
                    "{colour} Tower of {town}",
                    "{family} Tower",
                    "{sign} Tower of {town}",
                ],
            ),
            (
                "library",
                &[
                    "{family} Library",
                    "Library of {town}",
                    "{family} Library of {town}",
                ],
            ),
            (
                "town hall",
                &[
                    "{town} Town Hall",
                    "Old Town Hall of {town}",
                    "New Town Hall of {town}",
                    "{sign} House of {town}",
                ],
            ),
            (
                "abbey",
                &[
                    "{town} Abbey",
                    "Saint {given} Abbey",
                    "Abbey of Saint {given} of {town}",
                ],
            ),
            (
                "market hall",
                &["{product} Hall of {town}", "{sign} Market of {town}"],
            ),
            (
                "hospital",
                &[
                    "Saint {given} Hospital",
                    "{family} Hospital",
                    "Saint {given} Hospital of {town}",
                ],
            ),
            (
                "lighthouse",
                &[
                    "{town} Lighthouse",
                    "{sign} Lighthouse",
                    "{sign} Lighthouse of {town}",
                ],
            ),
            (
                "observatory",
                &[
                    "{family} Observatory",
                    "{town} Observatory",
                    "{family} Observatory of {town}",
                ],
            ),
        ];
        for i in 0..count {
            let mut rng = self.stream("building", i);
            let town = self.town(&mut rng);
            let region = self.world.towns[town].region;
            let (kind, patterns) = pick_zipf(&kinds, &mut rng);
            let year = rng.random_range(YEARS.start + 80..YEARS.end);
            let architect = self.active_person("building", year, region, &mut rng);
            let name = self.unique(&mut rng, |m, rng| {
                let product = capital(pick(&m.world.regions[region].products, rng));
                m.fill(pick(patterns, rng), town, rng)
                    .replace("{product}", &product)
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
            self.world.buildings.push(Building {
                name,
                kind,
                town,
                architect,
                year,
            });
        }
        // Summits are reached by travellers; they exist by now.
        for i in 0..self.world.mountains.len() {
            let mut rng = self.stream("climb", i);
            let year = rng.random_range(1650..YEARS.end - 20);
            let region = self.world.mountains[i].region;
            self.world.mountains[i].climber = self.active_person("travel", year, region, &mut rng);
        }
    }

    pub(super) fn make_conflicts(&mut self, count: usize) {
        for i in 0..count {
            let mut rng = self.stream("conflict", i);
            let town = self.town(&mut rng);
            let region = self.world.towns[town].region;
            let siege = rng.random_bool(0.3);
            let year = rng.random_range(YEARS.start + 70..YEARS.end);
            let base = format!(
                "{} of {}",
                if siege { "Siege" } else { "Battle" },
                self.world.towns[town].name
            );
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
            self.world.conflicts.push(Conflict {
                name,
                siege,
                town,
                year,
                commander,
                enemy,
                won,
                cause,
            });
        }
    }

    /// `base` if it is free, else with its year.
    pub(super) fn dated(&mut self, base: String, year: u32, rng: &mut Stream) -> String {
        if self.claim(&base) {
            return base;
        }
        self.unique(rng, |_, _| format!("{base} of {year}"))
    }

    pub(super) fn make_disasters(&mut self, count: usize) {
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
                other => format!("{place} {}", capital(other)),
            };
            let name = self.dated(base, year, &mut rng);
            self.world.towns[town].disaster.get_or_insert(i);
            self.world.disasters.push(Disaster {
                name,
                kind,
                town,
                year,
            });
        }
    }

    pub(super) fn make_works(&mut self, count: usize) {
        let authors: Vec<Idx> = (0..self.world.people.len())
            .filter(|&i| {
                occupations()[self.world.people[i].occupation]
                    .works
                    .is_some()
            })
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
            let home = if rng.random_bool(0.6) {
                self.town_in(region, &mut rng)
            } else {
                None
            };
            let town = home.unwrap_or_else(|| self.town(&mut rng));
            let title = self.work_title(class, theme, town, region, occupation.name, &mut rng);
            let subject = pick_zipf(&themes()[theme].subjects, &mut rng);
            self.world.people[author].works.push(i);
            self.world.works.push(Work {
                title,
                class,
                kind,
                author,
                year,
                theme,
                subject,
                town,
            });
        }
    }

    pub(super) fn work_title(
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
                let forms = [
                    "On",
                    "A Treatise on",
                    "Principles of",
                    "An Inquiry into",
                    "Elements of",
                ];
                let form = pick_zipf(&forms, rng);
                let count = capital(pick(list("number"), rng));
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
                8 => format!(
                    "{adjective} {noun}, {adjective2} {other}",
                    adjective2 = pick(&theme.adjectives, rng)
                ),
                9 => format!("The {noun} at {place}"),
                10 => format!("The {family} {noun}"),
                _ => format!("{given}'s {noun}"),
            }
        })
    }

    pub(super) fn make_species(&mut self, count: usize) {
        let qualities = [
            "dwarf",
            "ringed",
            "golden",
            "pale",
            "marsh",
            "crested",
            "mountain",
            "spotted",
            "silver",
            "lesser",
            "great",
            "black-tipped",
            "creeping",
            "blue",
            "striped",
            "night",
            "stone",
            "velvet",
            "horned",
            "scarlet",
        ];
        let plants = [
            "gentian",
            "saxifrage",
            "orchid",
            "bellflower",
            "campion",
            "lily",
            "thistle",
            "violet",
            "clover",
            "iris",
        ];
        for i in 0..count {
            let mut rng = self.stream("species", i);
            let region = self.region(&mut rng);
            let kind = pick_zipf(&["flower", "bird", "moth", "tree", "fish"], &mut rng);
            let name = self.unique(&mut rng, |m, rng| {
                let here = &m.world.regions[region];
                let noun = match kind {
                    "flower" => pick_zipf(&plants, rng),
                    "bird" => pick_zipf(list("bird"), rng),
                    "moth" => pick(
                        &[
                            "hawk moth",
                            "emperor moth",
                            "tiger moth",
                            "lappet",
                            "footman moth",
                        ],
                        rng,
                    ),
                    "tree" => pick_zipf(list("tree"), rng),
                    _ => pick_zipf(list("fish"), rng),
                };
                format!("{} {} {noun}", here.adjective, pick(&qualities, rng))
            });
            let year = rng.random_range(1500..YEARS.end - 20);
            let discoverer = self.active_person("science", year, region, &mut rng);
            self.world.species.push(Species {
                name,
                kind,
                region,
                discoverer,
                year,
            });
        }
    }
}

/// Kinds of works by occupation, most frequent first.
fn work_kinds(occupation: &str, class: WorkClass) -> &'static [&'static str] {
    match (class, occupation) {
        (WorkClass::Music, _) => &[
            "opera",
            "symphony",
            "song cycle",
            "oratorio",
            "string quartet",
            "mass",
            "overture",
            "concerto",
            "ballet",
        ],
        (_, "poet") => &[
            "narrative poem",
            "sonnet cycle",
            "ballad",
            "verse satire",
            "elegy",
        ],
        (_, "playwright") => &[
            "tragedy",
            "comedy",
            "puppet play",
            "historical drama",
            "farce",
        ],
        (WorkClass::Literature, _) => &[
            "novel",
            "novella",
            "story collection",
            "novel in letters",
            "fable",
        ],
        (_, "sculptor") => &["statue", "relief", "fountain group", "tomb", "bust"],
        (_, "engraver") => &["engraving", "etching", "woodcut series"],
        (WorkClass::Art, _) => &[
            "painting",
            "altarpiece",
            "fresco",
            "group portrait",
            "miniature",
        ],
        (_, "cartographer") => &["atlas", "pilot book", "gazetteer"],
        (_, "historian") => &["chronicle", "history", "biography"],
        (_, "botanist") => &["herbal", "flora", "treatise"],
        (_, "philosopher") => &["dialogue", "treatise", "essay collection"],
        (WorkClass::Scholarship, _) => {
            &["treatise", "handbook", "dissertation", "course of lectures"]
        }
    }
}

/// What a scholarly title names, by occupation.
fn scholarly_topics(occupation: &str) -> &'static [&'static str] {
    match occupation {
        "botanist" => &[
            "Mosses",
            "Meadow Plants",
            "the Grafting of Trees",
            "Alpine Herbs",
            "Ferns",
            "Roots",
        ],
        "philosopher" => &[
            "Reason",
            "Friendship",
            "the Limits of Doubt",
            "Time",
            "Virtue",
            "Freedom",
            "the Soul",
        ],
        "astronomer" => &[
            "Comets",
            "the Fixed Stars",
            "Eclipses",
            "the Lunar Year",
            "Sunspots",
            "Double Stars",
        ],
        "physician" => &[
            "Fevers",
            "the Bones",
            "the Eye",
            "Poisons",
            "Hot Springs",
            "the Lungs of Miners",
        ],
        "historian" => &[
            "the Guilds",
            "the Old Kings",
            "the Great Plague",
            "the Peasant Wars",
            "the Sea Routes",
        ],
        "mathematician" => &[
            "Curves",
            "Chance",
            "Whole Numbers",
            "Infinite Series",
            "Solids",
            "Projection",
        ],
        "jurist" => &[
            "Inheritance",
            "the Law of the Sea",
            "Charters",
            "Tenancy",
            "Treaties",
            "Evidence",
        ],
        "cartographer" => &[
            "Coasts",
            "River Basins",
            "City Plans",
            "the Northern Isles",
            "Mountain Roads",
        ],
        "geologist" => &[
            "Fossil Shells",
            "Volcanoes",
            "Glaciers",
            "Strata",
            "Ore Veins",
            "Caves",
        ],
        "theologian" => &[
            "Grace",
            "the Psalms",
            "Prayer",
            "the Saints",
            "Reform",
            "Silence",
        ],
        "chemist" => &[
            "Dyes",
            "Airs and Vapours",
            "Coloured Glass",
            "Gunpowder",
            "Soap",
            "Salts",
        ],
        "zoologist" => &[
            "Beetles",
            "the Flight of Birds",
            "Freshwater Fish",
            "Bats",
            "Horses",
            "Moths",
        ],
        _ => &["Nature", "Motion", "Memory", "Trade", "Language", "Weather"],
    }
}
