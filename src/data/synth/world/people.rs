//! People, their names, teachers and organisations.

use super::super::lexicon::{list, occupations, pick_zipf, zipf};
use super::super::names::{NameKind, capital};
use super::{Idx, Maker, Organisation, Person, YEARS, prefer};
use crate::rng::Stream;
use rand::RngExt;

impl Maker {
    pub(super) fn make_given_names(&mut self, people: usize) {
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
            self.given
                .push([pool(NameKind::Male), pool(NameKind::Female)]);
        }
    }

    pub(super) fn make_people(&mut self, count: usize) {
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
            let (name, surname_at, label) =
                self.person_name(region, culture, female, occupation, town, &mut rng);
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
        self.active
            .iter_mut()
            .for_each(|(_, people)| people.sort_unstable());
    }

    /// Name, where its surname begins, and the unique title.
    pub(super) fn person_name(
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

    pub(super) fn make_organisations(&mut self, count: usize) {
        let kinds: [(&str, &[&str], bool); 12] = [
            ("craft guild", &["Guild of {trade} of {town}"], false),
            (
                "university",
                &["University of {town}", "{family} University of {town}"],
                true,
            ),
            (
                "trading company",
                &[
                    "{adjective} {product} Company",
                    "{family} Trading House",
                    "{town} {product} Company",
                ],
                false,
            ),
            (
                "academy",
                &["{family} Academy", "{sign} Academy of {town}"],
                true,
            ),
            (
                "religious order",
                &["Order of the {colour} {sign}", "Order of Saint {given}"],
                false,
            ),
            (
                "orchestra",
                &["{town} Philharmonic", "{colour} {sign} Orchestra of {town}"],
                false,
            ),
            (
                "learned society",
                &["Society of the {sign} of {town}", "{family} Society"],
                true,
            ),
            (
                "conservatory",
                &["Conservatory of {town}", "{family} Conservatory"],
                true,
            ),
            (
                "printing house",
                &["{family} Press", "{sign} Press of {town}"],
                false,
            ),
            (
                "grammar school",
                &["{town} Grammar School", "Saint {given} School of {town}"],
                true,
            ),
            (
                "theatre company",
                &["{family} Players", "{sign} Players of {town}"],
                false,
            ),
            (
                "shooting club",
                &["{colour} Riflemen of {town}", "{sign} Riflemen of {town}"],
                false,
            ),
        ];
        for i in 0..count {
            let mut rng = self.stream("organisation", i);
            let town = self.town(&mut rng);
            let region = self.world.towns[town].region;
            let (kind, patterns, school) = pick_zipf(&kinds, &mut rng);
            let founded = rng.random_range(YEARS.start + 80..YEARS.end - 60);
            let field = self.active[rng.random_range(0..self.active.len())].0;
            let founder = self.active_person(field, founded, region, &mut rng);
            let product = prefer(
                &self.world.regions[region].products,
                list("product"),
                &mut rng,
            );
            let trades = [
                "Weavers",
                "Salters",
                "Masons",
                "Glaziers",
                "Tanners",
                "Brewers",
                "Goldsmiths",
                "Dyers",
                "Coopers",
                "Bakers",
                "Bell Founders",
                "Chandlers",
                "Rope Makers",
                "Bookbinders",
                "Shipwrights",
                "Apothecaries",
                "Locksmiths",
                "Potters",
            ];
            let name = self.unique(&mut rng, |m, rng| {
                let here = &m.world.regions[region];
                m.fill(pick_zipf(patterns, rng), town, rng)
                    .replace("{trade}", pick_zipf(&trades, rng))
                    .replace("{adjective}", &here.adjective)
                    .replace("{product}", &capital(product))
            });
            // A guild's trade is the one in its name.
            let trade = name
                .strip_prefix("Guild of ")
                .and_then(|rest| {
                    trades
                        .iter()
                        .find(|trade| rest.starts_with(**trade))
                        .copied()
                })
                .unwrap_or(product);
            self.world.towns[town].organisation.get_or_insert(i);
            self.world.organisations.push(Organisation {
                name,
                kind,
                school,
                town,
                founded,
                founder,
                member: None,
                trade,
            });
        }
    }

    /// Teachers and schools, which need everybody to exist.
    pub(super) fn link_people(&mut self) {
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
                let teacher = self
                    .active_person(field, birth + 20, region, &mut rng)
                    .filter(|&teacher| teacher != i);
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
}
