//! Training examples of what writes: spans, titles, pseudo-queries and identifiers for queries, queries for passages.

use rayon::prelude::*;

use super::docids::{DocidSource, draw, drawn};
use super::{Experiment, ExperimentError};
use crate::config::{DocidMixture, Task};
use crate::data::Pair;
use crate::data::example::{Example, ExampleError, ExampleMaker, View, ViewWeights, nested_subset};
use crate::docid::Method;
use crate::train::ExampleSource;

impl Experiment {
    /// That share of the training pairs, with their place among all pairs, by which their spans are drawn: a pair has the
    /// same spans in every fraction.
    pub(super) fn pairs(&self, fraction: f64) -> Result<Vec<(u64, Pair)>, ExperimentError> {
        let split = &self.config.data.train;
        let pairs = self.dataset.pairs(split)?;
        if pairs.is_empty() {
            return Err(ExperimentError::EmptySplit {
                split: split.clone(),
            });
        }
        // The subset depends on the configuration's seed alone, so that all models of a fraction
        // see the same pairs.
        let chosen = nested_subset(self.config.seed, pairs.len(), fraction);
        Ok(chosen.into_iter().map(|i| (i as u64, pairs[i])).collect())
    }

    /// What a model of `task` learns to write, of identifiers those of `method`.
    pub(super) fn source<'a>(
        &'a self,
        pairs: &[(u64, Pair)],
        task: Task,
        method: Method,
        seed: u64,
    ) -> Result<Box<dyn ExampleSource + 'a>, ExperimentError> {
        let (learned, objective) = (self.config.learned_by(task), &self.config.objective);
        if task == Task::Queries {
            return Ok(Box::new(self.query_source(pairs)?));
        }
        let (pseudo, mixture) = (objective.pseudo, objective.docids);
        Ok(Box::new(self.view_source(
            pairs,
            learned,
            pseudo,
            (method, mixture),
            seed,
        )?))
    }

    /// What the loss is measured on during training: targets of queries alone.
    pub(super) fn validation_source<'a>(
        &'a self,
        pairs: &[(u64, Pair)],
        task: Task,
        method: Method,
    ) -> Result<Box<dyn ExampleSource + 'a>, ExperimentError> {
        if task == Task::Queries {
            return Ok(Box::new(self.query_source(pairs)?));
        }
        let queries = DocidMixture {
            queries: 1.0,
            passages: 0.0,
            pseudo: 0.0,
        };
        let (learned, seed) = (self.config.learned_by(task), self.config.seed);
        Ok(Box::new(self.view_source(
            pairs,
            learned,
            0.0,
            (method, queries),
            seed,
        )?))
    }

    /// Examples of the views that are `learned`, of pseudo-queries too, `pseudo` times each.
    fn view_source(
        &self,
        pairs: &[(u64, Pair)],
        learned: ViewWeights,
        pseudo: f64,
        (method, mixture): (Method, DocidMixture),
        seed: u64,
    ) -> Result<ViewSource<'_>, ExperimentError> {
        let docids = match learned.docid > 0.0 {
            true => Some(self.docid_source(pairs, method, mixture.times(learned.docid), seed)?),
            false => None,
        };
        let prompts = match learned.of_texts() > 0.0 {
            true => self.prompts(pairs, pseudo),
            false => vec![],
        };
        Ok(ViewSource {
            experiment: self,
            shares: self.shares(&prompts, learned, pseudo),
            prompts,
            docids,
            maker: self.maker()?,
            seed,
        })
    }

    fn query_source(&self, pairs: &[(u64, Pair)]) -> Result<QuerySource<'_>, ExperimentError> {
        Ok(QuerySource {
            experiment: self,
            pairs: pairs.iter().map(|(_, pair)| *pair).collect(),
            maker: self.maker()?,
        })
    }

    pub(super) fn maker(&self) -> Result<ExampleMaker<'_>, ExperimentError> {
        let objective = &self.config.objective;
        let (template, span) = (objective.template.clone(), objective.span.clone());
        Ok(ExampleMaker::new(&self.tokenizer, template, span)?)
    }

    /// The pairs whose loss is measured during training, by the same rule.
    pub(super) fn validation_pairs(&self) -> Result<Vec<(u64, Pair)>, ExperimentError> {
        let data = &self.config.data;
        if data.validation.is_empty() {
            return Ok(vec![]);
        }
        let pairs = self.dataset.pairs(&data.validation)?;
        let share = (data.validation_queries as f64 / pairs.len().max(1) as f64).min(1.0);
        let chosen = nested_subset(self.config.seed, pairs.len(), share);
        Ok(chosen.into_iter().map(|i| (i as u64, pairs[i])).collect())
    }
}

/// A query, given or written by a model, with a passage that answers it.
struct Prompt<'a> {
    query: &'a str,
    passage: usize,
    /// Decides what is drawn for it.
    place: u64,
    pseudo: bool,
}

/// Which prompts have a target in a view, and how often an epoch holds each of them.
struct Share {
    view: View,
    times: f64,
    prompts: Vec<usize>,
}

/// Where places of pseudo-queries begin: behind those of pairs.
const PSEUDO_PLACES: u64 = 1 << 40;
/// From one repetition of a pair in an epoch to the next.
const REPETITION: u64 = 1 << 48;

impl Experiment {
    /// The queries of `pairs`, and all pseudo-queries if they are learned from.
    fn prompts(&self, pairs: &[(u64, Pair)], pseudo: f64) -> Vec<Prompt<'_>> {
        let given = pairs.iter().map(|&(place, pair)| Prompt {
            query: &self.dataset.queries[pair.query].text,
            passage: pair.passage.index(),
            place,
            pseudo: false,
        });
        let written = self.pseudo_queries.iter().filter(|_| pseudo > 0.0);
        let written = written
            .flat_map(|queries| queries.iter())
            .zip(PSEUDO_PLACES..);
        let written = written.map(|((passage, query), place)| Prompt {
            query,
            passage: passage.index(),
            place,
            pseudo: true,
        });
        given.chain(written).collect()
    }

    fn shares(&self, prompts: &[Prompt<'_>], learned: ViewWeights, pseudo: f64) -> Vec<Share> {
        let mut shares = vec![];
        for (view, _, weight) in learned.fields() {
            for (is_pseudo, factor) in [(false, 1.0), (true, pseudo)] {
                let has_target = |prompt: &Prompt<'_>| {
                    let tokens = &self.passages[prompt.passage];
                    match view {
                        View::Title => !tokens.title.is_empty(),
                        // A pseudo-query would be learned from itself.
                        View::Queries => !is_pseudo && !tokens.queries.is_empty(),
                        _ => true,
                    }
                };
                let chosen = (0..prompts.len())
                    .filter(|&p| prompts[p].pseudo == is_pseudo && has_target(&prompts[p]));
                shares.push(Share {
                    view,
                    times: weight * factor,
                    prompts: chosen.collect(),
                });
            }
        }
        shares.retain(|share| share.times > 0.0);
        shares
    }
}

/// Training examples of queries with their passages, in any views.
struct ViewSource<'a> {
    experiment: &'a Experiment,
    prompts: Vec<Prompt<'a>>,
    shares: Vec<Share>,
    docids: Option<DocidSource<'a>>,
    maker: ExampleMaker<'a>,
    seed: u64,
}

impl ViewSource<'_> {
    /// What is written for a prompt in an epoch, `times[s]` times by share `s`.
    fn examples(
        &self,
        prompt: &Prompt<'_>,
        times: &[u32],
        epoch: u64,
    ) -> Result<Vec<Example>, ExampleError> {
        let experiment = self.experiment;
        let (query, tokens) = (prompt.query, &experiment.passages[prompt.passage]);
        let passage = &experiment.dataset.corpus.passages()[prompt.passage];
        let (maker, seed) = (&self.maker, self.seed);
        let mut examples = vec![];
        for (share, &times) in self.shares.iter().zip(times) {
            for repetition in 0..u64::from(times) {
                let place = prompt.place + repetition * REPETITION;
                match share.view {
                    View::Title => examples.extend(maker.title(query, tokens)?),
                    View::Queries => {
                        examples.extend(maker.pseudo_query(query, tokens, seed, epoch, place)?);
                    }
                    _ => examples.extend(maker.ngram(query, passage, tokens, seed, epoch, place)?),
                }
            }
        }
        Ok(examples)
    }
}

impl ExampleSource for ViewSource<'_> {
    fn len(&self) -> usize {
        let draws = self.maker.sampler().options().draws;
        let of_share = |share: &Share| {
            let each = if share.view == View::Ngram { draws } else { 1 };
            each * drawn(share.times, share.prompts.len())
        };
        let docids = self.docids.as_ref().map_or(0, DocidSource::len);
        self.shares.iter().map(of_share).sum::<usize>() + docids
    }

    fn epoch(&self, epoch: u64) -> Result<Vec<Example>, ExampleError> {
        let shares = self.shares.len();
        let mut times = vec![0u32; self.prompts.len() * shares];
        for (s, share) in self.shares.iter().enumerate() {
            // Far from the lists of identifiers.
            let list = (s as u64 + 1) << 32;
            for item in draw(self.seed, list, epoch, share.times, share.prompts.len()) {
                times[share.prompts[item] * shares + s] += 1;
            }
        }
        let of_prompt = |(p, prompt): (usize, &Prompt<'_>)| {
            self.examples(prompt, &times[p * shares..(p + 1) * shares], epoch)
        };
        let prompts = self.prompts.par_iter().enumerate();
        let examples: Result<Vec<Vec<Example>>, ExampleError> = prompts.map(of_prompt).collect();
        let mut examples: Vec<Example> = examples?.into_iter().flatten().collect();
        if let Some(docids) = &self.docids {
            examples.extend(docids.epoch(epoch)?);
        }
        Ok(examples)
    }
}

/// Training examples of passages for which queries are written.
struct QuerySource<'a> {
    experiment: &'a Experiment,
    pairs: Vec<Pair>,
    maker: ExampleMaker<'a>,
}

impl ExampleSource for QuerySource<'_> {
    fn len(&self) -> usize {
        self.pairs.len()
    }

    fn epoch(&self, _: u64) -> Result<Vec<Example>, ExampleError> {
        let of_pair = |pair: &Pair| {
            let query = &self.experiment.dataset.queries[pair.query].text;
            let tokens = &self.experiment.passages[pair.passage.index()];
            self.maker.query(query, tokens)
        };
        self.pairs.par_iter().map(of_pair).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::Config;
    use crate::index::{Field, SubstringIndex};

    const CONFIG: &str = "name = \"v\"\nout = \"OUT\"\n[data]\nsynth = { passages = 200, queries_per_passage = 2 }\n\
        [tokenizer]\nvocab = 600\n[objective.span]\ndraws = 3\nwords = 4\n";
    const VIEWS: &str = "[objective]\ntask = \"views\"\npseudo = 0.5\nviews = { body = 1.5, title = 2.0, queries = 0.5, docid = 2.0 }\n\
        docids = { queries = 1.0, passages = 0.5, pseudo = 1.0 }\n[docids]\nlevels = 2\ncodes = 8\ndims = 32\n";

    fn open(text: &str, folder: &std::path::Path) -> Experiment {
        let path = folder.join("v.toml");
        let out = folder.join("out").display().to_string();
        fs::write(&path, text.replace("OUT", &out)).unwrap();
        Experiment::open(Config::load(&path, &[]).unwrap(), &mut |_| ()).unwrap()
    }

    #[test]
    fn an_epoch_holds_the_examples_of_each_view_as_often_as_asked() {
        let folder = std::env::temp_dir().join(format!("genret-views-{}", std::process::id()));
        fs::create_dir_all(folder.join("more/qrels")).unwrap();
        let plain = open(CONFIG, &folder);
        let pairs = plain.pairs(1.0).unwrap();
        let source = |e: &'_ Experiment, task| e.source(&pairs, task, Method::Rq, 5).unwrap().len();
        assert_eq!(source(&plain, Task::Ngrams), 3 * pairs.len());
        // Two pseudo-queries for every third passage.
        let (mut queries, mut qrels) = (String::new(), String::new());
        for (p, passage) in plain
            .dataset
            .corpus
            .passages()
            .iter()
            .enumerate()
            .step_by(3)
        {
            for n in 0..2 {
                queries += &format!("w{p}-{n}\twhat is said number {n} of {}\n", passage.title);
                qrels += &format!("w{p}-{n}\t{}\t1\n", passage.id);
            }
        }
        fs::write(folder.join("more/queries.tsv"), queries).unwrap();
        fs::write(folder.join("more/qrels/train.tsv"), qrels).unwrap();
        let more = format!(
            "pseudo_queries = \"{}\"\n[tokenizer]",
            folder.join("more").display()
        );
        let experiment = open(
            &(CONFIG
                .replace("[tokenizer]", &more)
                .replace("[objective.span]", &format!("{VIEWS}[objective.span]"))),
            &folder,
        );

        let passages = experiment.passages.len();
        let written = 2 * passages.div_ceil(3);
        let half = |n: usize| (n as f64 / 2.0).round() as usize;
        let with_queries = pairs
            .iter()
            .filter(|(_, p)| p.passage.index().is_multiple_of(3))
            .count();
        let titled = |p: usize| !experiment.passages[p].title.is_empty();
        let (titles, written_titles) = (
            pairs
                .iter()
                .filter(|(_, p)| titled(p.passage.index()))
                .count(),
            (0..passages).step_by(3).filter(|&p| titled(p)).count() * 2,
        );
        let quarters = (written as f64 * 0.75).round() as usize;
        let expected = [
            ("span:", 3 * (pairs.len() + half(pairs.len()) + quarters)),
            ("title:", 2 * titles + written_titles),
            ("query:", half(with_queries)),
            ("docid:", 2 * pairs.len() + passages + 2 * written),
        ];
        let views = experiment
            .source(&pairs, Task::Views, Method::Rq, 5)
            .unwrap();
        let index = |field| experiment.index().with_field(field);
        let fields = Field::ALL.map(index);
        let trie = &experiment.docids(Method::Rq).ids;
        let mut epochs = vec![];
        for epoch in 0..2 {
            let examples = views.epoch(epoch).unwrap();
            assert_eq!(examples.len(), views.len());
            for (view, (end, count)) in expected.into_iter().enumerate() {
                let of_view: Vec<&Example> = examples
                    .iter()
                    .filter(|e| experiment.tokenizer.decode(&e.prompt).ends_with(end))
                    .collect();
                assert_eq!(of_view.len(), count, "{end}");
                // What is learned can be written.
                for example in of_view {
                    let exists = match fields.get(view) {
                        Some(index) => index.ngram_count(&example.target) > 0,
                        None => trie.contains(&example.target),
                    };
                    assert!(exists, "{end} {:?}", example.target);
                }
            }
            epochs.push(examples);
        }
        assert_ne!(epochs[0], epochs[1]);
        assert_eq!(epochs[1], views.epoch(1).unwrap());
        // The loss is measured on given queries alone.
        let measured = experiment
            .validation_source(&pairs, Task::Views, Method::Rq)
            .unwrap();
        let expected = 3 * (pairs.len() + half(pairs.len()))
            + 2 * titles
            + half(with_queries)
            + 2 * pairs.len();
        assert_eq!(measured.len(), expected);
        fs::remove_dir_all(folder).unwrap();
    }
}
