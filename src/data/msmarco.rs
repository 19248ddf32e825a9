//! MS MARCO tables: `id<TAB>text`, no header, for passages and queries.

use std::path::Path;

use super::DataError;
use super::reader::parse_lines;
use crate::types::{DocId, Passage, Query, QueryId};

/// Hands over every passage, or what is wrong with its line, in file order.
pub(super) fn passages(
    path: &Path,
    take: impl FnMut(usize, Result<Passage, DataError>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let parse = |line, row: &str| {
        let (id, text) = columns(path, line, row, "passage")?;
        Ok(Passage {
            id: DocId::from(id),
            title: String::new(),
            text: text.into(),
        })
    };
    parse_lines(path, parse, take)
}

/// Hands over every query, or what is wrong with its line, in file order.
pub(super) fn queries(
    path: &Path,
    take: impl FnMut(usize, Result<Query, DataError>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let parse = |line, row: &str| {
        let (id, text) = columns(path, line, row, "query")?;
        Ok(Query {
            id: QueryId::from(id),
            text: text.into(),
        })
    };
    parse_lines(path, parse, take)
}

fn columns<'a>(
    path: &Path,
    line: usize,
    row: &'a str,
    kind: &str,
) -> Result<(&'a str, &'a str), DataError> {
    let found = row.split('\t').count();
    let Some((id, text)) = row.split_once('\t').filter(|_| found == 2) else {
        let expected = "2 columns (id, text) between a tab";
        return Err(DataError::Columns {
            path: path.into(),
            line,
            expected,
            found,
        });
    };
    let id = id.trim();
    let what = match (id.is_empty(), text.trim().is_empty()) {
        (false, false) => return Ok((id, text)),
        (true, _) => format!("id of the {kind}"),
        (false, true) => format!("text of {kind} {id:?}"),
    };
    let remedy = "fill it in or remove the line";
    Err(DataError::EmptyField {
        path: path.into(),
        line,
        what,
        how: "empty",
        remedy,
    })
}
