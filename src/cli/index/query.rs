//! `genret index query`: what the index says about one text.

use anyhow::Result;
use serde::Serialize;

use super::{FieldArg, QueryArgs, print_json};
use crate::cli::table::say;
use crate::index::{Continuations, Field, LiveIndex, Occurrence, SEPARATOR, SubstringIndex};
use crate::tokenizer::Tokenizer;
use crate::types::TokenId;

/// Answer of `genret index query`.
#[derive(Serialize)]
struct Answer<'a> {
    text: &'a str,
    tokens: &'a [TokenId],
    count: usize,
    continuations: Vec<Continuation>,
    passages: Vec<Place<'a>>,
}

#[derive(Serialize)]
struct Continuation {
    token: TokenId,
    text: String,
    count: usize,
}

#[derive(Serialize)]
struct Place<'a> {
    passage: &'a str,
    position: u32,
    /// The n-gram with the tokens around it, of its own pseudo-query alone.
    context: String,
}

pub(super) fn run(args: &QueryArgs) -> Result<()> {
    let tokenizer = Tokenizer::load(&args.tokenizer)?;
    let index = LiveIndex::open(&args.index)?;
    index.check_tokenizer(tokenizer.fingerprint())?;
    let index = index.with_field(match args.field {
        FieldArg::Body => Field::Body,
        FieldArg::Title => Field::Title,
        FieldArg::Queries => Field::Queries,
    });
    // The leading space is the one that indexing puts before every field.
    let tokens = match args.text.trim_start() {
        "" => vec![],
        text => tokenizer.encode(&format!(" {text}"))?,
    };
    let answer = answer(&index, &tokenizer, &args.text, &tokens, args.limit);
    if args.json {
        return print_json(&answer);
    }
    say!("{} occurrences of {} tokens", answer.count, tokens.len());
    for next in &answer.continuations {
        say!("  followed by {:?} {} times", next.text, next.count);
    }
    for place in &answer.passages {
        say!(
            "  {} at token {}: {}",
            place.passage,
            place.position,
            place.context
        );
    }
    Ok(())
}

fn answer<'a>(
    index: &'a LiveIndex,
    tokenizer: &Tokenizer,
    text: &'a str,
    tokens: &'a [TokenId],
    limit: usize,
) -> Answer<'a> {
    let mut answer = Answer {
        text,
        tokens,
        count: 0,
        continuations: vec![],
        passages: vec![],
    };
    let Some(state) = index.find(tokens) else {
        return answer;
    };
    answer.count = index.count(state);
    let mut rows = Continuations::new();
    index.continuations(&[state], &mut rows);
    let row = rows.row(0);
    let mut order: Vec<usize> = (0..row.tokens.len()).collect();
    order.sort_by_key(|&nth| std::cmp::Reverse(row.count(nth)));
    answer.continuations = order
        .into_iter()
        .take(limit)
        .map(|nth| Continuation {
            token: row.tokens[nth],
            text: tokenizer.decode(&[row.tokens[nth]]),
            count: row.count(nth),
        })
        .collect();
    let mut occurrences: Vec<Occurrence> = vec![];
    index.occurrences(state, limit, &mut occurrences);
    let mut passage = vec![];
    for occurrence in occurrences {
        const AROUND: usize = 8;
        index.passage_tokens(occurrence.passage, &mut passage);
        let start = (occurrence.position as usize)
            .saturating_sub(AROUND)
            .min(passage.len());
        let at = (occurrence.position as usize).min(passage.len());
        let end = (at + tokens.len() + AROUND).min(passage.len());
        let (before, behind) = (&passage[start..at], &passage[at..end]);
        let before = before.rsplit(|token| *token == SEPARATOR).next();
        let behind = behind.split(|token| *token == SEPARATOR).next();
        let context = [before, behind].map(Option::unwrap_or_default).concat();
        answer.passages.push(Place {
            passage: index.doc_id(occurrence.passage),
            position: occurrence.position,
            context: tokenizer.decode(&context),
        });
    }
    answer
}
