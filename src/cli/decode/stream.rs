//! Queries from stdin, answers to stdout, one line each, until stdin ends.

use std::io::BufRead;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{DecodeArgs, Session, evidence};
use crate::cli::table::say;
use crate::types::{Query, QueryId};

/// A query as a JSON line.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    id: String,
    text: String,
}

/// Answers every line before the next is read. A line that is no query gets a line with `error` and its
/// number, and the next is read. Empty lines are passed over.
pub(super) fn run(session: &Session, args: &DecodeArgs) -> Result<()> {
    let retriever = session.views();
    eprintln!("ready");
    let mut input = std::io::stdin().lock();
    let mut bytes = vec![];
    let mut number = 0;
    loop {
        bytes.clear();
        if input
            .read_until(b'\n', &mut bytes)
            .context("reading stdin")?
            == 0
        {
            return Ok(());
        }
        number += 1;
        let answer = match parse(&bytes, number) {
            Ok(None) => continue,
            Ok(Some(query)) => match retriever.answer(std::slice::from_ref(&query), args.k) {
                Ok(answers) => {
                    let explain = args.explain.is_some();
                    let hits =
                        evidence::hits(&answers[0], &session.index, &session.tokenizer, explain);
                    json!({ "query": query.id, "hits": hits })
                }
                Err(error) => error_line(number, &format!("{:#}", anyhow::Error::from(error))),
            },
            Err(message) => error_line(number, &message),
        };
        say!("{answer}");
    }
}

/// The query of a line; `None` if the line is empty.
fn parse(bytes: &[u8], number: usize) -> Result<Option<Query>, String> {
    let line = std::str::from_utf8(bytes).map_err(|e| format!("not UTF-8: {e}"))?;
    let line = line.trim();
    if line.is_empty() {
        return Ok(None);
    }
    let (id, text) = if line.starts_with('{') {
        let line: Line = serde_json::from_str(line)
            .map_err(|e| format!("expected a text or {{\"id\", \"text\"}}: {e}"))?;
        (line.id, line.text)
    } else {
        (number.to_string(), line.to_string())
    };
    if text.trim().is_empty() {
        return Err(format!("query {id:?} has no text"));
    }
    Ok(Some(Query {
        id: QueryId::from(&id[..]),
        text,
    }))
}

fn error_line(number: usize, message: &str) -> Value {
    json!({ "line": number, "error": message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_queries_or_faults() {
        let query = |line: &str| {
            let query = parse(line.as_bytes(), 7).unwrap().unwrap();
            (query.id.as_str().to_string(), query.text)
        };
        assert_eq!(query("who\n"), ("7".into(), "who".into()));
        let json = "{\"id\": \"a\", \"text\": \"who was\"}\r\n";
        assert_eq!(query(json), ("a".into(), "who was".into()));
        assert!(parse(b"  \n", 1).unwrap().is_none());
        for bad in [
            &b"{\"id\": 3}"[..],
            b"{\"id\": \"a\", \"text\": \" \"}",
            b"{",
            b"\xff",
        ] {
            assert!(parse(bad, 1).is_err(), "{bad:?}");
        }
    }
}
