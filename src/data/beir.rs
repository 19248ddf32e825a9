//! BEIR JSON lines: passages (`_id`, `title`, `text`) and queries (`_id`, `text`).
//!
//! Other members are ignored, except `metadata.answers` of queries where they are asked for. Texts
//! are taken as they are.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::DataError;
use super::reader::parse_lines;
use crate::types::{DocId, Passage, Query, QueryId};

#[derive(Deserialize)]
struct PassageRow {
    #[serde(rename = "_id")]
    id: Option<String>,
    title: Option<String>,
    text: Option<String>,
}

#[derive(Deserialize)]
struct QueryRow {
    #[serde(rename = "_id")]
    id: Option<String>,
    text: Option<String>,
}

#[derive(Deserialize)]
struct AnswerRow {
    #[serde(rename = "_id")]
    id: Option<String>,
    metadata: Option<serde_json::Value>,
}

/// Hands over every passage, or what is wrong with its line, in file order.
pub(super) fn passages(
    path: &Path,
    take: impl FnMut(usize, Result<Passage, DataError>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let expected = "an object with the strings \"_id\" and \"text\" and perhaps \"title\"";
    let parse = |line, json: &str| {
        let row: PassageRow = object(path, line, json, expected)?;
        let id = present(path, line, row.id, || "\"_id\" of the passage".into())?;
        let text = present(path, line, row.text, || format!("text of passage {id:?}"))?;
        Ok(Passage {
            id: DocId::from(&id[..]),
            title: row.title.unwrap_or_default(),
            text,
        })
    };
    parse_lines(path, parse, take)
}

/// Hands over every query, or what is wrong with its line, in file order.
pub(super) fn queries(
    path: &Path,
    take: impl FnMut(usize, Result<Query, DataError>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let expected = "an object with the strings \"_id\" and \"text\"";
    let parse = |line, json: &str| {
        let row: QueryRow = object(path, line, json, expected)?;
        let id = present(path, line, row.id, || "\"_id\" of the query".into())?;
        let text = present(path, line, row.text, || format!("text of query {id:?}"))?;
        Ok(Query {
            id: QueryId::from(&id[..]),
            text,
        })
    };
    parse_lines(path, parse, take)
}

/// The answer strings (`metadata.answers`) of every query of a BEIR `queries.jsonl` that has some,
/// in file order.
///
/// # Errors
/// Lines that are not BEIR queries, answers that are not a list of strings.
pub fn load_answers(path: &Path) -> Result<Vec<(QueryId, Vec<String>)>, DataError> {
    let expected = "an object with the string \"_id\" and perhaps \"metadata\"";
    let mut answers = vec![];
    let parse = |line, json: &str| {
        let row: AnswerRow = object(path, line, json, expected)?;
        let id = present(path, line, row.id, || "\"_id\" of the query".into())?;
        let list = row.metadata.as_ref().and_then(|m| m.get("answers"));
        let list: Vec<String> = match list {
            None | Some(serde_json::Value::Null) => vec![],
            Some(list) => Vec::deserialize(list).map_err(|e| DataError::Json {
                path: path.into(),
                line,
                column: 1,
                expected: "\"metadata\".\"answers\" to be a list of strings",
                message: e.to_string(),
            })?,
        };
        Ok((QueryId::from(&id[..]), list))
    };
    parse_lines(path, parse, |_, row| {
        let (id, list) = row?;
        if !list.is_empty() {
            answers.push((id, list));
        }
        Ok::<_, DataError>(())
    })?;
    Ok(answers)
}

/// The row of a line of JSON.
fn object<T: DeserializeOwned>(
    path: &Path,
    line: usize,
    json: &str,
    expected: &'static str,
) -> Result<T, DataError> {
    serde_json::from_str(json).map_err(|e| {
        let message = e.to_string();
        // The parser sees one line, so its "line 1" would mislead.
        let message = message
            .split(" at line ")
            .next()
            .unwrap_or_default()
            .to_string();
        DataError::Json {
            path: path.into(),
            line,
            column: e.column(),
            expected,
            message,
        }
    })
}

/// The text of a field that must be there and not blank.
fn present(
    path: &Path,
    line: usize,
    value: Option<String>,
    what: impl FnOnce() -> String,
) -> Result<String, DataError> {
    let (how, remedy) = match value {
        Some(text) if !text.trim().is_empty() => return Ok(text),
        Some(_) => ("empty", "fill it in or remove the line"),
        None => ("missing", "add it or remove the line"),
    };
    Err(DataError::EmptyField {
        path: path.into(),
        line,
        what: what(),
        how,
        remedy,
    })
}
