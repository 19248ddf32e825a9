//! Identifiers for queries: the model writes them, the tree of all identifiers says which there are.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{RetrieveError, Retriever};
use crate::data::example::{Template, View};
use crate::decode::{DecodeOptions, batches, beam_search};
use crate::index::{Trie, TrieState};
use crate::model::NextTokenModel;
use crate::tokenizer::Tokenizer;
use crate::types::{Hit, PassageIdx, Query, Score, TokenId};

/// A model, identifiers and how to use them.
pub struct DocidRetriever<'a, M> {
    model: &'a M,
    trie: &'a Trie,
    tokenizer: &'a Tokenizer,
    template: &'a Template,
    decode: DecodeOptions,
}

/// The answer to one query.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DocidAnswer {
    /// The ranking, best first. Passages that share an identifier have its score; which of them comes first is drawn by a
    /// hash of query and passage, so that neither is favoured over all queries.
    pub hits: Vec<Hit>,
    /// Which of [`written`](Self::written) each hit comes from.
    pub sources: Vec<usize>,
    /// The identifiers that were written, best first.
    pub written: Vec<WrittenId>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
}

/// An identifier that was written.
#[derive(Clone, Debug, PartialEq)]
pub struct WrittenId {
    /// Its tokens.
    pub tokens: Vec<TokenId>,
    /// Its log-probability given the query.
    pub log_prob: f64,
    /// Passages that have it.
    pub passages: usize,
}

impl<'a, M: NextTokenModel> DocidRetriever<'a, M> {
    /// A retriever that writes identifiers to their ends, whatever length `decode` says.
    pub fn new(
        model: &'a M,
        trie: &'a Trie,
        tokenizer: &'a Tokenizer,
        template: &'a Template,
        decode: &DecodeOptions,
    ) -> Self {
        Self {
            model,
            trie,
            tokenizer,
            template,
            decode: DecodeOptions {
                max_new_tokens: trie.longest().max(1),
                min_new_tokens: 1,
                ..decode.clone()
            },
        }
    }

    /// What may be written.
    pub fn trie(&self) -> &Trie {
        self.trie
    }

    /// Queries that are given to [`answer`](Self::answer) at a time where results are to come now and then.
    pub fn window(&self) -> usize {
        4 * self.decode.queries_per_batch()
    }

    /// The best `k` passages of each query, at most those of `beam_width` identifiers, in the order of the queries.
    ///
    /// # Errors
    /// What tokenizer and model give.
    pub fn answer(&self, queries: &[Query], k: usize) -> Result<Vec<DocidAnswer>, RetrieveError> {
        let prompt = |query: &Query| {
            self.template
                .prompt(self.tokenizer, View::Docid, &query.text)
        };
        let prompts: Vec<Vec<TokenId>> = queries.iter().map(prompt).collect::<Result<_, _>>()?;
        let lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
        let mut answers = vec![DocidAnswer::default(); queries.len()];
        for batch in batches(&self.model.footprint(), &self.decode, &lengths) {
            let together: Vec<&[TokenId]> = batch.iter().map(|&i| &prompts[i][..]).collect();
            let decoded = beam_search(self.model, self.trie, &together, &self.decode)?;
            for (&i, decoded) in batch.iter().zip(decoded) {
                let finished = decoded.finished.into_iter().map(|h| {
                    let score = self.decode.score(h.log_prob, h.tokens.len());
                    (h.tokens, h.log_prob, score, h.state)
                });
                answers[i] = rank(self.trie, &queries[i], finished, k);
                answers[i].prompt_tokens = lengths[i];
            }
        }
        Ok(answers)
    }
}

/// The passages of identifiers, which come best first with log-probability, score and state.
fn rank(
    trie: &Trie,
    query: &Query,
    finished: impl Iterator<Item = (Vec<TokenId>, f64, f64, TrieState)>,
    k: usize,
) -> DocidAnswer {
    let mut answer = DocidAnswer::default();
    for (tokens, log_prob, score, state) in finished {
        let mut passages: Vec<PassageIdx> = trie.passages_at(state).collect();
        let place =
            |p: &PassageIdx| xxh3_64_with_seed(query.id.as_str().as_bytes(), u64::from(p.0));
        passages.sort_by_key(|passage| (place(passage), *passage));
        let score = Score::new(score as f32).expect("log-probabilities are numbers");
        let source = answer.written.len();
        answer.written.push(WrittenId {
            tokens,
            log_prob,
            passages: passages.len(),
        });
        let room = k.saturating_sub(answer.hits.len());
        for passage in passages.into_iter().take(room) {
            answer.hits.push(Hit { passage, score });
            answer.sources.push(source);
        }
    }
    answer
}

impl<M: NextTokenModel> Retriever for DocidRetriever<'_, M> {
    fn tag(&self) -> &str {
        "genret-docid"
    }

    fn search(&self, queries: &[Query], k: usize) -> Result<Vec<Vec<Hit>>, RetrieveError> {
        let answers = self.answer(queries, k)?;
        Ok(answers.into_iter().map(|answer| answer.hits).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{Continuations, TrieBuilder};

    /// Passages 0, 2 and 3 share [1, 1]; 1 has [0, 1].
    fn trie() -> Trie {
        let mut builder = TrieBuilder::new(2, 0).unwrap();
        for id in [[1, 1], [0, 1], [1, 1], [1, 1]] {
            builder.push(&id).unwrap();
        }
        builder.finish().unwrap()
    }

    fn state(trie: &Trie, tokens: &[TokenId]) -> TrieState {
        let mut out = Continuations::new();
        tokens.iter().fold(trie.root(), |state, token| {
            trie.continuations(&[state], &mut out);
            let row = out.row(0);
            row.state(row.tokens.binary_search(token).unwrap())
        })
    }

    fn ranking(query: &str, k: usize) -> DocidAnswer {
        let trie = trie();
        let query = Query {
            id: query.into(),
            text: "q".into(),
        };
        let finished = [([1, 1], -0.5), ([0, 1], -2.0)].map(|(tokens, log_prob)| {
            let tokens = tokens.map(TokenId).to_vec();
            let state = state(&trie, &tokens);
            (tokens, log_prob, log_prob, state)
        });
        rank(&trie, &query, finished.into_iter(), k)
    }

    #[test]
    fn passages_of_one_identifier_share_its_score_and_take_turns() {
        let mut firsts = [0; 4];
        for query in 0..300 {
            let answer = ranking(&query.to_string(), 9);
            let scores: Vec<f32> = answer.hits.iter().map(|h| h.score.get()).collect();
            assert_eq!(scores, [-0.5, -0.5, -0.5, -2.0]);
            assert_eq!(answer.sources, [0, 0, 0, 1]);
            let mut passages: Vec<u32> = answer.hits.iter().map(|h| h.passage.0).collect();
            firsts[passages[0] as usize] += 1;
            passages[..3].sort_unstable();
            assert_eq!(passages, [0, 2, 3, 1]);
            assert_eq!(answer, ranking(&query.to_string(), 9));
        }
        assert!(
            firsts[1] == 0 && [0, 2, 3].iter().all(|&p| firsts[p] > 70),
            "{firsts:?}"
        );
        let two = ranking("a", 2);
        assert_eq!((two.hits.len(), two.written.len()), (2, 2));
        assert_eq!(two.written[0].passages, 3);
    }
}
