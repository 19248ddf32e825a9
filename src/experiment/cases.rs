//! The cases of the contrastive generation loss: queries, their passages, negatives and spans.

use rayon::prelude::*;

use super::ExperimentError;
use crate::data::Corpus;
use crate::data::example::{ExampleMaker, PassageTokens, SpanOptions, Template, View};
use crate::data::trec::Qrels;
use crate::decode::cgl::ContrastiveCase;
use crate::eval::cgl;
use crate::tokenizer::Tokenizer;
use crate::types::{PassageIdx, Query};

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
    let cases_of = |query: &Query| -> Result<Vec<ContrastiveCase>, ExperimentError> {
        let relevant: Vec<PassageIdx> = qrels
            .relevant(query.id.as_str())
            .filter_map(|doc| corpus.find(doc.as_str()))
            .collect();
        let negatives = cgl::negatives(
            options.seed,
            &query.id,
            corpus.len(),
            &relevant,
            options.negatives,
        );
        let prompt = options
            .template
            .prompt(tokenizer, View::Ngram, &query.text)?;
        let key = xxhash_rust::xxh3::xxh3_64(query.id.as_str().as_bytes());
        let case = |positive: &PassageIdx| {
            let chosen: Vec<PassageIdx> = std::iter::once(*positive)
                .chain(negatives.iter().copied())
                .collect();
            let mut spans = vec![];
            let mut span_ranges = vec![];
            for &passage in &chosen {
                let tokens = &passages[passage.index()];
                let text = corpus.passage(passage);
                let place = u64::from(passage.0);
                let slices = maker.spans(&query.text, text, tokens, options.seed, key, place);
                let start = spans.len();
                spans.extend(slices.into_iter().map(|slice| tokens.body[slice].to_vec()));
                span_ranges.push(start..spans.len());
            }
            let (query, prompt) = (query.id.clone(), prompt.clone());
            ContrastiveCase {
                query,
                prompt,
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
