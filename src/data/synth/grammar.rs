//! Sentence and question templates, and their rendering.
//!
//! A template file lists the facts of one kind of entity. `fact NAME [WEIGHT]` opens a fact; `+` is a
//! way to state it, `?` a question for training and `!` a held-out phrasing, both with the slot that
//! answers them after `|`. In a template `{slot}` is a value, `{a:slot}` the value with its article,
//! `{S}` the subject and `{P}` its possessive, and `[x|y|z]` a choice, earlier ones more likely.
//! The first fact of a file opens every passage; a template whose slots an entity lacks is not used.

use std::borrow::Cow;

use hashbrown::HashMap;
use rand::{Rng, RngExt};

use super::lexicon::{pick_zipf, zipf};
use super::names::capital;

/// Most words while subjects are marks, counted as two words each; names make up the rest to 100.
const MOST_BEFORE_NAMES: usize = 85;

/// Marks in a sentence whose subject is not chosen yet; no template or name holds them.
const SUBJECT: char = '\u{1}';
const POSSESSIVE: char = '\u{2}';

/// Values of an entity by slot name.
#[derive(Default)]
pub(super) struct Slots<'a>(HashMap<&'static str, Cow<'a, str>>);

impl<'a> Slots<'a> {
    /// Gives `slot` its value; a second value replaces the first.
    pub(super) fn set(&mut self, slot: &'static str, value: impl Into<Cow<'a, str>>) {
        self.0.insert(slot, value.into());
    }

    /// The value of `slot`.
    pub(super) fn get(&self, slot: &str) -> Option<&str> {
        self.0.get(slot).map(AsRef::as_ref)
    }
}

/// The facts of one kind of entity.
pub(super) struct Grammar {
    facts: Vec<Fact>,
}

struct Fact {
    name: &'static str,
    weight: f64,
    statements: Vec<Template>,
    training: Vec<Question>,
    held_out: Vec<Question>,
}

struct Question {
    template: Template,
    answer: &'static str,
}

struct Template {
    parts: Vec<Part>,
    needs: Vec<&'static str>,
}

enum Part {
    Text(&'static str),
    Slot(&'static str),
    Article(&'static str),
    Subject,
    Possessive,
    Choice(Vec<Vec<Part>>),
}

/// A rendered passage: its text and the facts it states.
pub(super) struct Body {
    pub(super) text: String,
    facts: Vec<usize>,
}

/// A rendered question with its answer and the fact it asks for.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) text: String,
    pub(super) answer: String,
    pub(super) fact: &'static str,
}

impl Grammar {
    /// Parses a template file, which is part of the program: a fault in it is a panic in the tests.
    pub(super) fn parse(source: &'static str) -> Self {
        let mut facts: Vec<Fact> = Vec::new();
        for line in source
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
        {
            let (mark, rest) = line.split_at(1);
            let rest = rest.trim();
            let question = || {
                let (text, answer) = rest.rsplit_once('|').expect("a question names its answer");
                Question {
                    template: Template::parse(text.trim()),
                    answer: answer.trim(),
                }
            };
            match (mark, facts.last_mut()) {
                ("#", _) => {}
                ("+", Some(fact)) => fact.statements.push(Template::parse(rest)),
                ("?", Some(fact)) => fact.training.push(question()),
                ("!", Some(fact)) => fact.held_out.push(question()),
                _ => {
                    let mut words = line
                        .strip_prefix("fact ")
                        .expect("a line of a template file")
                        .split(' ');
                    let name = words.next().expect("a fact has a name");
                    let weight = words.next().map_or(1.0, |w| w.parse().expect("a weight"));
                    let (statements, training, held_out) = (Vec::new(), Vec::new(), Vec::new());
                    facts.push(Fact {
                        name,
                        weight,
                        statements,
                        training,
                        held_out,
                    });
                }
            }
        }
        Self { facts }
    }

    /// A passage of 60 to 100 words about the entity of `slots`.
    ///
    /// Slots `name` (first mention), `again` and `short` (later ones), `he` and `his` make the subject.
    pub(super) fn passage(&self, slots: &Slots, rng: &mut impl Rng) -> Body {
        let target = rng.random_range(68..=85);
        let mut order: Vec<(f64, usize)> = self
            .facts
            .iter()
            .enumerate()
            .skip(1)
            .map(|(i, fact)| (-(1.0 - rng.random::<f64>()).ln() / fact.weight, i))
            .collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut chosen: Vec<(usize, String)> = Vec::with_capacity(8);
        let mut words = 0;
        let first = std::iter::once(0).chain(order.into_iter().map(|(_, i)| i));
        for i in first {
            if words >= target {
                break;
            }
            if let Some(sentence) = self.facts[i].statement(slots, rng) {
                let marks = sentence.matches([SUBJECT, POSSESSIVE]).count();
                let length = sentence.split_whitespace().count() + marks;
                if words + length <= MOST_BEFORE_NAMES {
                    words += length;
                    chosen.push((i, sentence));
                }
            }
        }
        chosen.sort_unstable_by_key(|(i, _)| *i);
        let mut subjects = Subjects::new(slots);
        let mut text = String::with_capacity(700);
        for (_, sentence) in &chosen {
            if !text.is_empty() {
                text.push(' ');
            }
            subjects.fill(sentence, rng, &mut text);
        }
        Body {
            text,
            facts: chosen.iter().map(|(i, _)| *i).collect(),
        }
    }

    /// Up to `count` different questions that `body` answers, in the training phrasings or the
    /// held-out ones: every stated fact once before any fact twice.
    pub(super) fn questions(
        &self,
        body: &Body,
        slots: &Slots,
        held_out: bool,
        count: usize,
        rng: &mut impl Rng,
    ) -> Vec<Asked> {
        let mut by_fact: Vec<(f64, Vec<(&Question, &'static str)>)> = Vec::new();
        for &i in &body.facts {
            let fact = &self.facts[i];
            let pool = if held_out {
                &fact.held_out
            } else {
                &fact.training
            };
            let mut open: Vec<(&Question, &'static str)> = pool
                .iter()
                .filter(|question| {
                    question.template.fits(slots)
                        && slots
                            .get(question.answer)
                            .is_some_and(|answer| contains_answer(&body.text, answer))
                })
                .map(|question| (question, fact.name))
                .collect();
            // Earlier phrasings are commoner, but each can come first.
            for j in 0..open.len() {
                let k = j + zipf(open.len() - j, rng);
                open.swap(j, k);
            }
            open.reverse();
            let priority = -(1.0 - rng.random::<f64>()).ln() / fact.weight;
            by_fact.push((priority, open));
        }
        by_fact.sort_by(|a, b| a.0.total_cmp(&b.0));

        let mut asked: Vec<Asked> = Vec::with_capacity(count);
        while asked.len() < count && by_fact.iter().any(|(_, open)| !open.is_empty()) {
            for (_, open) in &mut by_fact {
                let Some((question, fact)) = open.pop() else {
                    continue;
                };
                let text = capital(&question.template.render(slots, rng));
                let answer = slots.get(question.answer).unwrap_or_default().to_owned();
                if asked.iter().all(|other| other.text != text) && asked.len() < count {
                    asked.push(Asked { text, answer, fact });
                }
            }
        }
        asked
    }
}

/// Whether `answer` stands in `text`, its first letter in either case (it may open a sentence).
pub(super) fn contains_answer(text: &str, answer: &str) -> bool {
    text.contains(answer) || text.contains(&capital(answer))
}

impl Fact {
    fn statement(&self, slots: &Slots, rng: &mut impl Rng) -> Option<String> {
        let open: Vec<&Template> = self.statements.iter().filter(|t| t.fits(slots)).collect();
        if open.is_empty() {
            return None;
        }
        Some(capital(&pick_zipf(&open, rng).render(slots, rng)))
    }
}

/// How the sentences of one passage call the entity, decided in the order they are read.
struct Subjects<'s> {
    slots: &'s Slots<'s>,
    /// How often the name may still be repeated: long ones once, and never as a possessive.
    names_left: usize,
    long: bool,
    /// The sentence before named the entity in full.
    just_named: bool,
}

impl<'s> Subjects<'s> {
    fn new(slots: &'s Slots<'s>) -> Self {
        let long = slots.get("again").unwrap_or_default().split(' ').count() > 3;
        Self {
            slots,
            names_left: if long { 1 } else { 3 },
            long,
            just_named: true,
        }
    }

    /// Appends `sentence` with its subject marks replaced.
    fn fill(&mut self, sentence: &str, rng: &mut impl Rng, out: &mut String) {
        let slot = |name: &str| self.slots.get(name).unwrap_or_default();
        let Some(at) = sentence.find([SUBJECT, POSSESSIVE]) else {
            self.just_named = sentence.contains(slot("name"));
            out.push_str(sentence);
            return;
        };
        let clumsy = self.long && sentence.contains(POSSESSIVE);
        let can_name = !self.just_named && self.names_left > 0 && !clumsy;
        let roll = rng.random_range(0..10);
        let name = match roll {
            0..4 => slot("he"),
            4..7 if can_name => slot("again"),
            _ => slot("short"),
        };
        let possessive = if roll < 4 {
            slot("his").to_owned()
        } else {
            format!("{name}'s")
        };
        let text = sentence
            .replace(SUBJECT, name)
            .replace(POSSESSIVE, &possessive);
        self.just_named = name == slot("again");
        self.names_left -= usize::from(self.just_named && self.names_left > 0);
        out.push_str(&if at == 0 { capital(&text) } else { text });
    }
}

impl Template {
    fn parse(text: &'static str) -> Self {
        let parts = parse_parts(text);
        let mut needs = Vec::new();
        collect_slots(&parts, &mut needs);
        Self { parts, needs }
    }

    fn fits(&self, slots: &Slots) -> bool {
        self.needs.iter().all(|slot| slots.get(slot).is_some())
    }

    fn render(&self, slots: &Slots, rng: &mut impl Rng) -> String {
        let mut out = String::with_capacity(120);
        render_parts(&self.parts, slots, rng, &mut out);
        out
    }
}

fn parse_parts(text: &'static str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '[']) {
        if at > 0 {
            parts.push(Part::Text(&rest[..at]));
        }
        let closing = if rest[at..].starts_with('{') {
            '}'
        } else {
            ']'
        };
        let end = at + rest[at..].find(closing).expect("every bracket closes");
        let inside = &rest[at + 1..end];
        parts.push(match (closing, inside) {
            (']', choices) => Part::Choice(choices.split('|').map(parse_parts).collect()),
            (_, "S") => Part::Subject,
            (_, "P") => Part::Possessive,
            (_, slot) => match slot.strip_prefix("a:") {
                Some(slot) => Part::Article(slot),
                None => Part::Slot(slot),
            },
        });
        rest = &rest[end + 1..];
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest));
    }
    parts
}

fn collect_slots(parts: &[Part], slots: &mut Vec<&'static str>) {
    for part in parts {
        match part {
            Part::Slot(slot) | Part::Article(slot) => slots.push(slot),
            Part::Choice(choices) => choices
                .iter()
                .for_each(|choice| collect_slots(choice, slots)),
            Part::Text(_) | Part::Subject | Part::Possessive => {}
        }
    }
}

fn render_parts(parts: &[Part], slots: &Slots, rng: &mut impl Rng, out: &mut String) {
    for part in parts {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Slot(slot) => out.push_str(slots.get(slot).unwrap_or_default()),
            Part::Article(slot) => {
                let value = slots.get(slot).unwrap_or_default();
                out.push_str(article(value));
                out.push_str(value);
            }
            Part::Subject => out.push(SUBJECT),
            Part::Possessive => out.push(POSSESSIVE),
            Part::Choice(choices) => {
                render_parts(&choices[zipf(choices.len(), rng)], slots, rng, out)
            }
        }
    }
}

/// "a " or "an ", by the sound the word begins with.
fn article(word: &str) -> &'static str {
    let lower = word.to_ascii_lowercase();
    let spoken_consonant = ["uni", "eu", "one ", "use", "ur"]
        .iter()
        .any(|start| lower.starts_with(start));
    if !spoken_consonant && lower.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an "
    } else {
        "a "
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    impl Grammar {
        /// Every question's text with its choices spread out and slots left as they are.
        pub(in super::super) fn phrasings(&self, held_out: bool) -> Vec<String> {
            let spread = |question: &Question| {
                let mut texts = vec![String::new()];
                for part in &question.template.parts {
                    let endings: Vec<String> = match part {
                        Part::Choice(choices) => choices.iter().map(|c| plain(c)).collect(),
                        other => vec![plain(std::slice::from_ref(other))],
                    };
                    texts = texts
                        .iter()
                        .flat_map(|text| {
                            endings.iter().map(move |ending| format!("{text}{ending}"))
                        })
                        .collect();
                }
                texts
            };
            let pool = |fact: &'_ Fact| -> Vec<String> {
                let questions = if held_out {
                    &fact.held_out
                } else {
                    &fact.training
                };
                questions.iter().flat_map(spread).collect()
            };
            self.facts.iter().flat_map(pool).collect()
        }

        /// Facts that have questions.
        pub(in super::super) fn asked_facts(&self) -> Vec<&'static str> {
            self.facts
                .iter()
                .filter(|fact| !fact.training.is_empty())
                .map(|fact| fact.name)
                .collect()
        }

        /// (fact, has both kinds of question or neither).
        pub(in super::super) fn balance(&self) -> Vec<(&'static str, bool)> {
            let balanced = |fact: &Fact| fact.training.is_empty() == fact.held_out.is_empty();
            self.facts
                .iter()
                .map(|fact| (fact.name, balanced(fact) && !fact.statements.is_empty()))
                .collect()
        }
    }

    fn plain(parts: &[Part]) -> String {
        parts
            .iter()
            .map(|part| match part {
                Part::Text(text) => (*text).to_owned(),
                Part::Slot(slot) | Part::Article(slot) => format!("{{{slot}}}"),
                Part::Subject => "{S}".to_owned(),
                Part::Possessive => "{P}".to_owned(),
                Part::Choice(choices) => plain(&choices[0]),
            })
            .collect()
    }

    const SAMPLE: &str = "
fact intro
+ {name} is {a:kind} in {region}.
? Where is {name}? | region
! In what land does {name} lie? | region
fact river 2
+ {P} river [is|has long been] the {river}.
? Which river runs through {name}? | river
! What is the river of {name}? | river
";

    fn slots() -> Slots<'static> {
        let mut slots = Slots::default();
        for (slot, value) in [
            ("name", "Velmora"),
            ("again", "Velmora"),
            ("short", "the town"),
            ("he", "it"),
            ("his", "its"),
            ("kind", "old town"),
            ("region", "Teshara"),
        ] {
            slots.set(slot, value);
        }
        slots
    }

    #[test]
    fn templates_render_and_skip_what_is_unknown() {
        let grammar = Grammar::parse(SAMPLE);
        let mut rng = crate::rng::stream(1, "test", &[]);
        let mut slots = slots();
        let body = grammar.passage(&slots, &mut rng);
        assert_eq!(body.text, "Velmora is an old town in Teshara.");
        slots.set("river", "Osk");
        let texts: Vec<String> = (0..50)
            .map(|_| grammar.passage(&slots, &mut rng).text)
            .collect();
        assert!(
            texts
                .iter()
                .any(|text| text.ends_with("Its river is the Osk."))
        );
        assert!(
            texts
                .iter()
                .any(|text| text.ends_with("The town's river has long been the Osk."))
        );
    }

    #[test]
    fn questions_are_answered_by_the_passage() {
        let grammar = Grammar::parse(SAMPLE);
        let mut rng = crate::rng::stream(1, "test", &[]);
        let mut slots = slots();
        slots.set("river", "Osk");
        let body = grammar.passage(&slots, &mut rng);
        let asked = grammar.questions(&body, &slots, false, 9, &mut rng);
        let mut texts: Vec<&str> = asked
            .iter()
            .map(|question| question.text.as_str())
            .collect();
        texts.sort_unstable();
        assert_eq!(
            texts,
            ["Where is Velmora?", "Which river runs through Velmora?"]
        );
        assert_eq!(grammar.questions(&body, &slots, true, 1, &mut rng).len(), 1);
    }

    #[test]
    fn articles_follow_the_sound() {
        assert_eq!(
            [article("opera"), article("town"), article("university")],
            ["an ", "a ", "a "]
        );
    }
}
