//! Regions, mountains, rivers and towns.

use super::super::lexicon::{list, occupations, pick, pick_zipf, themes, zipf};
use super::super::names::NameKind;
use super::{Maker, Mountain, Region, River, Town, prefer};
use rand::Rng;
use rand::RngExt;

impl Maker {
    pub(super) fn make_regions(&mut self, count: usize, people: usize) {
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
            let share = self.region_weights[i]
                - if i == 0 {
                    0.0
                } else {
                    self.region_weights[i - 1]
                };
            let expected = people as f64 * share / sum;
            let families = ((expected / 5.0) as usize).clamp(8, 4000);
            let families: Vec<String> = (0..families)
                .map(|_| self.cultures[culture].name(NameKind::Surname, &mut rng))
                .collect();
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
                occupations: (0..4)
                    .map(|_| rng.random_range(0..occupations().len()))
                    .collect(),
                themes: (0..3)
                    .map(|_| rng.random_range(0..themes().len()))
                    .collect(),
                families,
                towns: Vec::new(),
                rivers: Vec::new(),
                mountains: Vec::new(),
                neighbour: if i == 0 { 1 } else { zipf(i, &mut rng) },
            });
        }
    }

    pub(super) fn make_mountains(&mut self, count: usize) {
        for i in 0..count {
            let mut rng = self.stream("mountain", i);
            let region = if i < self.world.regions.len() {
                i
            } else {
                self.region(&mut rng)
            };
            let culture = self.world.regions[region].culture;
            let name = self.place_name(culture, NameKind::Mountain, &mut rng);
            self.world.mountains.push(Mountain {
                name,
                region,
                river: None,
                town: None,
                climber: None,
            });
            self.world.regions[region].mountains.push(i);
        }
    }

    pub(super) fn make_rivers(&mut self, count: usize) {
        for i in 0..count {
            let mut rng = self.stream("river", i);
            let region = if i < self.world.regions.len() {
                i
            } else {
                self.region(&mut rng)
            };
            let culture = self.world.regions[region].culture;
            let name = self.place_name(culture, NameKind::River, &mut rng);
            let here = &self.world.regions[region];
            let source = (!here.mountains.is_empty()).then(|| pick(&here.mountains, &mut rng));
            let mouth = (!here.rivers.is_empty() && rng.random_bool(0.8))
                .then(|| pick_zipf(&here.rivers, &mut rng));
            if let Some(mountain) = source {
                self.world.mountains[mountain].river.get_or_insert(i);
            }
            self.world.rivers.push(River {
                name,
                region,
                source,
                mouth,
                towns: Vec::new(),
                bridge: None,
            });
            self.world.regions[region].rivers.push(i);
        }
    }

    pub(super) fn make_towns(&mut self, count: usize) {
        for i in 0..count {
            let mut rng = self.stream("town", i);
            let region = if i < self.world.regions.len() {
                i
            } else {
                self.region(&mut rng)
            };
            let culture = self.world.regions[region].culture;
            let name = self.place_name(culture, NameKind::Town, &mut rng);
            let here = &self.world.regions[region];
            let kind = prefer(&here.town_kinds, list("town_kind"), &mut rng);
            let product = prefer(&here.products, list("product"), &mut rng);
            let river = (!here.rivers.is_empty() && rng.random_bool(0.75))
                .then(|| pick_zipf(&here.rivers, &mut rng));
            let mountain = (!here.mountains.is_empty() && rng.random_bool(0.3))
                .then(|| pick(&here.mountains, &mut rng));
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
}

/// `count` different items, those early in the list more often.
fn distinct(items: &'static [&'static str], count: usize, rng: &mut impl Rng) -> Vec<&'static str> {
    let mut chosen: Vec<&'static str> = Vec::with_capacity(count);
    while chosen.len() < count.min(items.len()) {
        // Half of the draws are even, so that regions differ.
        let item = if rng.random_bool(0.5) {
            pick(items, rng)
        } else {
            pick_zipf(items, rng)
        };
        if !chosen.contains(&item) {
            chosen.push(item);
        }
    }
    chosen
}
