use super::grammar::contains_answer;
use super::*;

fn pages(options: SynthOptions) -> Vec<Finished> {
    let mut all = Vec::new();
    each_page(options, &mut |page| {
        all.push(page);
        Ok(())
    })
    .unwrap();
    all
}

fn small() -> SynthOptions {
    SynthOptions {
        passages: 3000,
        queries_per_passage: 4,
        seed: 7,
    }
}

#[test]
fn equal_options_give_equal_files() {
    let folder = std::env::temp_dir().join(format!("genret-synth-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let options = SynthOptions {
        passages: 500,
        ..small()
    };
    let write = |name: &str| {
        let out = folder.join(name);
        let counts = generate(options, &out, &mut |_| {}).unwrap();
        assert_eq!(counts.passages, 500);
        let names = [
            "corpus.jsonl",
            "queries.jsonl",
            "qrels/train.tsv",
            "qrels/unseen.tsv",
        ];
        names.map(|name| fs::read(out.join(name)).unwrap())
    };
    let first = write("first");
    let one_thread = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap();
    assert_eq!(first, one_thread.install(|| write("second")));
    let loaded = crate::data::Dataset::open(&folder.join("first")).unwrap();
    let pairs = |split: &str| loaded.pairs(split).unwrap().len();
    assert!(pairs("train") > 1400 && pairs("dev") > 50 && pairs("test") > 100);
    assert!(pairs("unseen") > 150);
    let error = generate(options, &folder.join("first"), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("not empty"), "{error}");
    assert_eq!(
        fs::read_dir(&folder).unwrap().count(),
        2,
        "no temporary folder is left"
    );
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn another_seed_is_another_world() {
    let titles = |seed| -> Vec<String> {
        pages(SynthOptions {
            passages: 300,
            seed,
            ..small()
        })
        .into_iter()
        .map(|page| page.title)
        .collect()
    };
    let (one, two) = (titles(1), titles(2));
    let common = one.iter().filter(|title| two.contains(title)).count();
    assert!(common < 15, "{common} titles in common");
}

#[test]
fn passages_have_their_length_and_nothing_repeats() {
    let all = pages(small());
    assert_eq!(all.len(), 3000);
    let mut texts = HashSet::new();
    let mut titles = HashSet::new();
    let mut questions = HashSet::new();
    for page in &all {
        let words = page.text.split_whitespace().count();
        assert!(
            (60..=100).contains(&words),
            "{words} words: {}: {}",
            page.title,
            page.text
        );
        assert!(
            texts.insert(page.text.as_str()) && titles.insert(page.title.to_lowercase()),
            "{}",
            page.title
        );
        for (_, asked) in &page.questions {
            assert!(
                questions.insert(asked.text.to_lowercase()),
                "{}",
                asked.text
            );
        }
    }
}

#[test]
fn every_answer_stands_in_its_passage() {
    for page in pages(small()) {
        for bad in [
            "{",
            "}",
            "[",
            "]",
            "|",
            "  ",
            " ,",
            " .",
            "''",
            " the the ",
            " a a ",
            "..",
        ] {
            assert!(!page.text.contains(bad), "{bad:?} in {}", page.text);
        }
        assert!(page.text.ends_with('.'));
        for (_, asked) in &page.questions {
            assert!(
                contains_answer(&page.text, &asked.answer),
                "{asked:?} in {}",
                page.text
            );
            assert!(
                asked.text.ends_with(['?', '.']) && !asked.text.contains(['{', '[']),
                "{}",
                asked.text
            );
        }
    }
}

#[test]
fn splits_have_their_shares_and_stay_apart() {
    let all = pages(small());
    let mut counts = [0usize; 4];
    for page in &all {
        let unseen = page
            .questions
            .iter()
            .filter(|(split, _)| *split == Split::Unseen)
            .count();
        assert!(
            unseen == 0 || unseen == page.questions.len(),
            "{}",
            page.title
        );
        page.questions
            .iter()
            .for_each(|(split, _)| counts[*split as usize] += 1);
    }
    let total: usize = counts.iter().sum();
    assert!(total > 11_700, "{total} of 12000 questions");
    for (count, share) in counts.iter().zip([0.782, 0.046, 0.092, 0.08]) {
        let got = *count as f64 / total as f64;
        assert!((got - share).abs() < 0.015, "{got} for {share}");
    }
}

#[test]
fn held_out_phrasings_are_new() {
    for kind in Kind::ALL {
        let grammar = Grammar::parse(kind.templates());
        let training: HashSet<String> = grammar.phrasings(false).into_iter().collect();
        let held_out = grammar.phrasings(true);
        assert!(training.len() >= 12 && held_out.len() >= 8, "{kind:?}");
        assert!(
            held_out.iter().all(|text| !training.contains(text)),
            "{kind:?}"
        );
        for (fact, balanced) in grammar.balance() {
            assert!(balanced, "{kind:?}.{fact} has one kind of question only");
        }
    }
}

#[test]
fn every_slot_of_every_template_is_known() {
    // A slot that no entity of the kind ever has would silently switch its templates off.
    let all = pages(SynthOptions {
        passages: 6000,
        queries_per_passage: 16,
        seed: 1,
    });
    for kind in Kind::ALL {
        let asked: HashSet<&str> = all
            .iter()
            .filter(|page| page.kind == kind)
            .flat_map(|page| page.questions.iter().map(|(_, asked)| asked.fact))
            .collect();
        let grammar = Grammar::parse(kind.templates());
        for fact in grammar.asked_facts() {
            assert!(asked.contains(fact), "nobody asks {kind:?}.{fact}");
        }
    }
}

#[test]
fn passages_agree_with_each_other() {
    let world = World::new(3, 4000);
    for (i, person) in world.people.iter().enumerate() {
        assert!(person.death > person.birth + 30);
        let described = describe(&world, 3, Entity::Person(i));
        assert_eq!(
            described.slots.get("region"),
            Some(world.region_of_town(person.town).name.as_str())
        );
        if let Some(teacher) = person.teacher {
            let teacher = &world.people[teacher];
            assert!(teacher.birth < person.birth && teacher.death > person.birth + 10);
        }
        for &work in &person.works {
            assert_eq!(world.works[work].author, i);
            assert!((person.birth + 20..=person.death).contains(&world.works[work].year));
        }
    }
    for conflict in &world.conflicts {
        assert_ne!(conflict.enemy, world.towns[conflict.town].region);
        if let Some(commander) = conflict.commander {
            let commander = &world.people[commander];
            assert!(commander.birth + 24 < conflict.year && conflict.year < commander.death);
        }
    }
    for building in &world.buildings {
        if let Some(architect) = building.architect {
            assert!(world.people[architect].birth + 24 < building.year);
        }
    }
    // What a person's page says of a work, the work's page says too.
    let described = |entity| describe(&world, 3, entity);
    let mut checked = 0;
    for (i, person) in world.people.iter().enumerate() {
        let Some(&work) = person.works.first() else {
            continue;
        };
        let (mine, its) = (described(Entity::Person(i)), described(Entity::Work(work)));
        assert_eq!(mine.slots.get("work"), its.slots.get("name"));
        assert_eq!(mine.slots.get("work_year"), its.slots.get("year"));
        assert_eq!(its.slots.get("author"), mine.slots.get("name"));
        checked += 1;
    }
    assert!(checked > 50);
}

#[test]
fn popularity_follows_a_power_law() {
    let world = World::new(5, 5000);
    let mut towns: Vec<usize> = vec![0; world.towns.len()];
    world
        .people
        .iter()
        .for_each(|person| towns[person.town] += 1);
    towns.sort_unstable_by(|a, b| b.cmp(a));
    let top: usize = towns[..towns.len() / 10].iter().sum();
    assert!(
        top * 3 > world.people.len(),
        "a tenth of the towns bears {top} of {}",
        world.people.len()
    );
    assert!(towns[0] > 8 * towns[towns.len() / 2].max(1));
}

#[test]
fn options_are_checked() {
    let out = Path::new("/nonexistent/out");
    for options in [
        SynthOptions {
            passages: 10,
            ..small()
        },
        SynthOptions {
            queries_per_passage: 0,
            ..small()
        },
    ] {
        assert!(matches!(
            generate(options, out, &mut |_| {}),
            Err(SynthError::OutOfRange { .. })
        ));
    }
}
