//! Hits and what led to them, as JSON.

use serde_json::{Value, json};

use crate::index::LiveIndex;
use crate::retrieve::generative::Answer;
use crate::retrieve::ranking::NgramEvidence;
use crate::tokenizer::Tokenizer;

/// The hits of an answer, best first; of each, `with_ngrams`, the n-grams with text, positions and credit.
pub(super) fn hits(
    answer: &Answer,
    index: &LiveIndex,
    tokenizer: &Tokenizer,
    with_ngrams: bool,
) -> Vec<Value> {
    let ngram = |ngram: &NgramEvidence| {
        json!({
            "view": ngram.view,
            "text": tokenizer.decode(&ngram.tokens),
            "tokens": ngram.tokens,
            "positions": ngram.positions,
            "log_prob": ngram.log_prob,
            "count": ngram.count,
            "weight": ngram.weight,
            "credit": ngram.credit,
        })
    };
    let hits = answer.hits.iter().zip(&answer.evidence);
    hits.map(|(hit, evidence)| {
        let passage = index.doc_id(hit.passage);
        if with_ngrams {
            let ngrams: Vec<Value> = evidence.ngrams.iter().map(ngram).collect();
            json!({ "passage": passage, "score": hit.score, "ngrams": ngrams })
        } else {
            json!({ "passage": passage, "score": hit.score })
        }
    })
    .collect()
}
