//! The cases of the contrastive generation loss: queries, their passages, negatives and spans.

use rayon::prelude::*;

use super::ExperimentError;
use crate::data::Corpus;
use crate::data::example::{ExampleMaker, PassageTokens, SpanOptions, Template, View};
use crate::data::trec::Qrels;
use crate::decode::cgl::ContrastiveCase;
use crate::eval::cgl;
use crate::tokenizer::Tokenizer;
use crate::types::{PassageIdx, Query, TokenId};

/// How contrastive cases are drawn.
pub struct CaseOptions<'a> {
    /// Decides negatives and spans, together with query and passage.
    pub seed: u64,
    /// Random passages per query.
    pub negatives: usize,
    /// Spans that identify a passage.
    pub span: SpanOptions,
    /// The prompts.
    pub template: &'a Template,
}

/// One case per query and relevant passage: that passage, random others, and spans of each, drawn as
/// in training by their likeness to the query. The cases of a query share their negatives.
pub fn contrastive_cases(
    corpus: &Corpus,
    passages: &[PassageTokens],
    tokenizer: &Tokenizer,
    queries: &[Query],
    qrels: &Qrels,
    options: &CaseOptions<'_>,
) -> Result<Vec<ContrastiveCase>, ExperimentError> {
    let maker = ExampleMaker::new(tokenizer, options.template.clone(), options.span.clone())?;
    let spans = |query: &Query, passage: PassageIdx| {
        let tokens = &passages[passage.index()];
        let text = corpus.passage(passage);
        let key = xxhash_rust::xxh3::xxh3_64(query.id.as_str().as_bytes());
        let place = u64::from(passage.0);
        let slices = maker.spans(&query.text, text, tokens, options.seed, key, place);
        let spans = slices.into_iter().map(|slice| tokens.body[slice].to_vec());
        spans.collect()
    };
    let prompts = (tokenizer, View::Ngram);
    let find = |doc: &str| corpus.find(doc);
    cases(
        corpus.len(),
        &find,
        prompts,
        queries,
        qrels,
        options,
        &spans,
    )
}

/// As [`contrastive_cases`], of passages whose only span is their identifier among `ids`; with the same negatives.
/// `find` knows passages by their external ids.
pub fn docid_cases(
    ids: &[Vec<TokenId>],
    find: &(dyn Fn(&str) -> Option<PassageIdx> + Sync),
    tokenizer: &Tokenizer,
    queries: &[Query],
    qrels: &Qrels,
    options: &CaseOptions<'_>,
) -> Result<Vec<ContrastiveCase>, ExperimentError> {
    let id = |_: &Query, passage: PassageIdx| vec![ids[passage.index()].clone()];
    let prompts = (tokenizer, View::Docid);
    cases(ids.len(), find, prompts, queries, qrels, options, &id)
}

fn cases(
    corpus_len: usize,
    find: &(dyn Fn(&str) -> Option<PassageIdx> + Sync),
    (tokenizer, view): (&Tokenizer, View),
    queries: &[Query],
    qrels: &Qrels,
    options: &CaseOptions<'_>,
    spans_of: &(dyn Fn(&Query, PassageIdx) -> Vec<Vec<TokenId>> + Sync),
) -> Result<Vec<ContrastiveCase>, ExperimentError> {
    let cases_of = |query: &Query| -> Result<Vec<ContrastiveCase>, ExperimentError> {
        let relevant: Vec<PassageIdx> = qrels
            .relevant(query.id.as_str())
            .filter_map(|doc| find(doc.as_str()))
            .collect();
        let negatives = cgl::negatives(
            options.seed,
            &query.id,
            corpus_len,
            &relevant,
            options.negatives,
        );
        let prompt = options.template.prompt(tokenizer, view, &query.text)?;
        let case = |positive: &PassageIdx| {
            let chosen: Vec<PassageIdx> = std::iter::once(*positive)
                .chain(negatives.iter().copied())
                .collect();
            let mut spans = vec![];
            let mut span_ranges = vec![];
            for &passage in &chosen {
                let start = spans.len();
                spans.extend(spans_of(query, passage));
                span_ranges.push(start..spans.len());
            }
            ContrastiveCase {
                query: query.id.clone(),
                prompt: prompt.clone(),
                passages: chosen,
                span_ranges,
                spans,
            }
        };
        Ok(relevant.iter().map(case).collect())
    };
    let cases: Result<Vec<_>, _> = queries.par_iter().map(cases_of).collect();
    Ok(cases?.into_iter().flatten().collect())
}
