//! Regions, towns, rivers and mountains.

use super::super::lexicon::{pick, pick_zipf};
use super::super::names::NameKind;
use super::super::world::Idx;
use super::{CULTURES, Kind, Writer, disaster_toll};

impl<'w> Writer<'w> {
    pub(super) fn region(&mut self, i: Idx) -> (Kind, &'w str) {
        let world = self.world;
        let here = &world.regions[i];
        self.subject(&here.name, here.name.as_str(), "the region");
        self.place(i);
        self.set("neighbour", &world.regions[here.neighbour].name);
        for (slot, town) in ["capital", "town2", "town3"].into_iter().zip(&here.towns) {
            self.set(slot, &world.towns[*town].name);
        }
        for (slot, product) in ["product", "product2", "product3"]
            .into_iter()
            .zip(&here.products)
        {
            self.set(slot, product);
        }
        if let (Some(&river), Some(&mountain)) = (here.rivers.first(), here.mountains.first()) {
            self.set("river", &world.rivers[river].name);
            self.set("mountain", &world.mountains[mountain].name);
        }
        if let Some(conflict) = here
            .towns
            .iter()
            .find_map(|&town| world.towns[town].conflict)
        {
            self.set("battle", &world.conflicts[conflict].name);
            self.year("battle_year", world.conflicts[conflict].year);
        }
        let united = self.range(1000..1400);
        self.year("year2", united);
        let until = self.range(1500..1890);
        self.year("year", until);
        (Kind::Region, &here.name)
    }

    pub(super) fn town(&mut self, i: Idx) -> (Kind, &'w str) {
        let world = self.world;
        let town = &world.towns[i];
        self.subject(&town.name, town.name.as_str(), "the town");
        self.place(town.region);
        self.set("kind", town.kind);
        self.set("product", town.product);
        self.product("product2", town.region);
        if self.slots.get("product2") == Some(town.product) {
            self.set("product2", "horses");
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
        let direction = pick(
            &["north", "south", "east", "west", "north-east", "south-west"],
            &mut self.rng,
        );
        self.set("direction", direction);
        (Kind::Town, &town.name)
    }

    pub(super) fn river(&mut self, i: Idx) -> (Kind, &'w str) {
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
        let (length, feet, mills, houses) = (
            self.range(20..900),
            self.range(6..30),
            self.range(3..90),
            self.range(10..400),
        );
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

    pub(super) fn mountain(&mut self, i: Idx) -> (Kind, &'w str) {
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
        self.other_town(
            "far_town",
            mountain.region,
            mountain.town.unwrap_or(usize::MAX),
        );
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
}
