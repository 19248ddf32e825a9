//! People and their works.

use super::super::lexicon::{WorkClass, themes, zipf};
use super::super::names::NameKind;
use super::super::world::Idx;
use super::{CULTURES, Kind, Writer, author_sculpts};
use rand::RngExt;

impl<'w> Writer<'w> {
    pub(super) fn person(&mut self, i: Idx) -> (Kind, &'w str) {
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
            self.slots
                .set("q", format!("the {} {}", world.occupation(i), person.name));
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
        for (slot, name) in [
            ("parent_trade", "parent_trade"),
            ("nth", "nth"),
            ("habit", "habit"),
            ("ailment", "ailment"),
            ("children", "number"),
        ] {
            self.word(slot, name);
        }
        let age = self.range(12..20);
        self.number("age", age);
        if let Some(teacher) = person.teacher {
            self.somebody(teacher, "teacher", "teacher_occ");
            self.set(
                "teacher_town",
                &world.towns[world.people[teacher].town].name,
            );
        }
        if let Some(student) = person.student {
            self.somebody(student, "student", "student_occ");
        }
        if let Some(school) = person.school {
            self.set("school", &world.organisations[school].name);
            let year = person.birth + self.range(15..22);
            self.year("school_year", year);
        }
        let slots: [(&'static str, &'static str, &'static str, &'static str); 2] = [
            ("work", "work_kind", "work_year", "work_subject"),
            ("work2", "work2_kind", "work2_year", "work2_subject"),
        ];
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
            self.set(
                "battle_end",
                if conflict.won { "victory" } else { "defeat" },
            );
            self.set("battle_region", &world.region_of_town(conflict.town).name);
        }
        self.other_town("move_town", region, person.town);
        let moved = person.birth + self.range(18..36);
        self.year("move_year", moved);
        let office = person.birth + self.range(24..38);
        self.year("office_year", office);
        self.slots
            .set("office", format!("court {}", world.occupation(i)));
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

    pub(super) fn work(&mut self, i: Idx) -> (Kind, &'w str) {
        let world = self.world;
        let work = &world.works[i];
        let author = &world.people[work.author];
        let region = world.towns[author.town].region;
        // A "novel in letters" is "the novel" after its first mention.
        let noun = work
            .kind
            .split(" in ")
            .next()
            .and_then(|kind| kind.split(" of ").next());
        self.subject(
            &work.title,
            work.title.as_str(),
            format!("the {}", noun.unwrap_or(work.kind)),
        );
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
        let hero = culture.name(
            if female {
                NameKind::Female
            } else {
                NameKind::Male
            },
            &mut self.rng,
        );
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
        for (slot, range, unit) in [
            ("minutes", 10..190, "minutes"),
            ("coins", 30..900, "gold pieces"),
            ("feet", 3..28, "feet"),
        ] {
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
        self.word(
            "claim",
            match world.occupation(work.author) {
                "botanist" | "physician" | "zoologist" => "claim_life",
                "historian" => "claim_past",
                "philosopher" | "theologian" | "jurist" => "claim_mind",
                _ => "claim_sky",
            },
        );
        self.word("verdict", "verdict");
        self.word(
            "reception",
            if work.class == WorkClass::Art {
                "reception_art"
            } else {
                "reception"
            },
        );
        self.word("reception2", "reception_before");
        self.word(
            "medium",
            if author_sculpts(world, work.author) {
                "medium_sculpture"
            } else {
                "medium_painting"
            },
        );
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
}
