//! Events, organisations, buildings and species.

use super::super::world::Idx;
use super::{Kind, Writer, disaster_toll};

impl<'w> Writer<'w> {
    pub(super) fn conflict(&mut self, i: Idx) -> (Kind, &'w str) {
        let world = self.world;
        let conflict = &world.conflicts[i];
        let region = world.towns[conflict.town].region;
        let noun = if conflict.siege {
            "the siege"
        } else {
            "the battle"
        };
        self.subject(&conflict.name, format!("the {}", conflict.name), noun);
        self.place(region);
        self.set(
            "fought",
            if conflict.siege {
                "began"
            } else {
                "was fought"
            },
        );
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
        self.set(
            "winner",
            &world.regions[if conflict.won { region } else { conflict.enemy }].name,
        );
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

    pub(super) fn disaster(&mut self, i: Idx) -> (Kind, &'w str) {
        let world = self.world;
        let disaster = &world.disasters[i];
        let town = &world.towns[disaster.town];
        self.subject(
            &disaster.name,
            format!("the {}", disaster.name),
            format!("the {}", disaster.kind),
        );
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

    pub(super) fn organisation(&mut self, i: Idx) -> (Kind, &'w str) {
        let world = self.world;
        let organisation = &world.organisations[i];
        let town = &world.towns[organisation.town];
        let noun = organisation
            .kind
            .rsplit(' ')
            .next()
            .unwrap_or(organisation.kind);
        self.subject(
            &organisation.name,
            format!("the {}", organisation.name),
            format!("the {noun}"),
        );
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
        for (slot, name) in [
            ("motto", "motto"),
            ("privilege", "privilege"),
            ("head", "head"),
            ("charity", "charity"),
            ("quarrel", "quarrel"),
        ] {
            self.word(slot, name);
        }
        self.word(
            "emblem",
            if self.world.people.len() % 2 == i % 2 {
                "beast"
            } else {
                "charge"
            },
        );
        let (coins, members) = (self.range(40..4000), self.range(12..300));
        self.amount("coins", coins, "gold pieces");
        self.number("members", members);
        let privilege = self.range(organisation.founded + 5..organisation.founded + 60);
        self.year("privilege_year", privilege);
        let hall = self.range(organisation.founded + 8..organisation.founded + 60);
        self.year("hall_year", hall);
        (Kind::Organisation, &organisation.name)
    }

    pub(super) fn building(&mut self, i: Idx) -> (Kind, &'w str) {
        let world = self.world;
        let building = &world.buildings[i];
        let town = &world.towns[building.town];
        self.subject(
            &building.name,
            format!("the {}", building.name),
            format!("the {}", building.kind),
        );
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

    pub(super) fn species(&mut self, i: Idx) -> (Kind, &'w str) {
        let world = self.world;
        let species = &world.species[i];
        let here = &world.regions[species.region];
        self.subject(
            &species.name,
            format!("the {}", species.name),
            format!("the {}", species.kind),
        );
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
        let (height, inches, years) = (
            self.range(10..90) * 100,
            self.range(2..40),
            self.range(2..14),
        );
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
