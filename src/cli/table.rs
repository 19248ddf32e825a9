//! Aligned tables on stdout.

use std::io::{self, Write};

use anyhow::Context;

/// Lines of `rows`, the first `left` columns flush left and the others flush right.
pub(super) fn table(rows: &[Vec<String>], left: usize) -> String {
    table_with(rows, &(0..left).collect::<Vec<_>>())
}

/// Lines of `rows`, the columns `left` flush left and the others flush right.
pub(super) fn table_with(rows: &[Vec<String>], left: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns)
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            if column > 0 {
                line.push_str("  ");
            }
            if left.contains(&column) {
                line.push_str(&format!("{cell:<width$}"));
            } else {
                line.push_str(&format!("{cell:>width$}"));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Writes to stdout. A reader that has seen enough, such as `head`, is no error.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("writing to stdout"),
    }
}

/// A line on stdout, as `println!`, but a reader that has gone away is no error.
macro_rules! say {
    ($($argument:tt)*) => {
        $crate::cli::table::print(&format!("{}\n", format_args!($($argument)*)))?
    };
}
pub(super) use say;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [["run", "RR", "n"], ["caf\u{e9}.trec", "0.5", "10"]];
        let rows: Vec<Vec<String>> = rows
            .iter()
            .map(|row| row.iter().map(ToString::to_string).collect())
            .collect();
        assert_eq!(
            table(&rows, 1),
            "run         RR   n\ncaf\u{e9}.trec  0.5  10\n"
        );
    }
}
