//! Views of a passage: what is written of it for a query.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::index::Field;

/// What a target is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum View {
    /// A span of the passage's text.
    #[serde(rename = "body")]
    Ngram,
    /// The passage's title.
    #[serde(rename = "title")]
    Title,
    /// A pseudo-query of the passage.
    #[serde(rename = "queries")]
    Queries,
    /// The passage's identifier.
    #[serde(rename = "docid")]
    Docid,
}

impl View {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ngram, Self::Title, Self::Queries, Self::Docid];

    /// The name, as configurations and the command line have it.
    pub fn name(self) -> &'static str {
        match self.field() {
            Some(field) => field.name(),
            None => "docid",
        }
    }

    /// The field of the n-gram index whose n-grams are written; none of identifiers.
    pub fn field(self) -> Option<Field> {
        match self {
            Self::Ngram => Some(Field::Body),
            Self::Title => Some(Field::Title),
            Self::Queries => Some(Field::Queries),
            Self::Docid => None,
        }
    }
}

/// A number per view: how much is learned of it, or how much it counts in a ranking; 0 for not at all.
///
/// As text, a list such as `body,title=2`: what is named without a number has 1, what is not named 0.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ViewWeights {
    /// Of n-grams of texts; default 1.
    pub body: f64,
    /// Of n-grams of titles; default 0.
    pub title: f64,
    /// Of n-grams of pseudo-queries; default 0.
    pub queries: f64,
    /// Of identifiers; default 0.
    pub docid: f64,
}

impl Default for ViewWeights {
    fn default() -> Self {
        Self {
            body: 1.0,
            ..Self::NONE
        }
    }
}

impl ViewWeights {
    /// Nothing of any view.
    pub const NONE: Self = Self {
        body: 0.0,
        title: 0.0,
        queries: 0.0,
        docid: 0.0,
    };
    /// The largest number.
    const MOST: f64 = 1e6;

    /// Whether these are the default.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The number of a view.
    pub fn of(&self, view: View) -> f64 {
        match view {
            View::Ngram => self.body,
            View::Title => self.title,
            View::Queries => self.queries,
            View::Docid => self.docid,
        }
    }

    fn set(&mut self, view: View, weight: f64) {
        match view {
            View::Ngram => self.body = weight,
            View::Title => self.title = weight,
            View::Queries => self.queries = weight,
            View::Docid => self.docid = weight,
        }
    }

    /// The views with a number above 0, with it.
    pub fn iter(self) -> impl Iterator<Item = (View, f64)> {
        let views = View::ALL.into_iter().map(move |view| (view, self.of(view)));
        views.filter(|(_, weight)| *weight > 0.0)
    }

    /// Those of the views that have a field in the n-gram index.
    pub fn fields(self) -> impl Iterator<Item = (View, Field, f64)> {
        self.iter()
            .filter_map(|(view, weight)| Some((view, view.field()?, weight)))
    }

    /// The sum of those that have a field in the n-gram index.
    pub fn of_texts(self) -> f64 {
        self.fields().map(|(_, _, weight)| weight).sum()
    }

    /// Checks that every number can be used and one is above 0.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        for view in View::ALL {
            if !(0.0..=Self::MOST).contains(&self.of(view)) {
                let (name, found) = (view.name(), self.of(view));
                return Err(format!("{name} = {found} must lie between 0 and 1,000,000"));
            }
        }
        match self.iter().next() {
            Some(_) => Ok(()),
            None => {
                Err("body, title, queries and docid are all 0: give one of them a weight".into())
            }
        }
    }
}

impl FromStr for ViewWeights {
    type Err = String;

    fn from_str(list: &str) -> Result<Self, String> {
        let mut weights = Self::NONE;
        for item in list.split(',') {
            let (name, weight) = item.split_once('=').unwrap_or((item, "1"));
            let view = View::ALL
                .into_iter()
                .find(|view| view.name() == name.trim());
            let unknown = || format!("no view {name:?}; there are body, title, queries and docid");
            let number = || format!("{item:?}: expected a number behind `=`, such as title=2");
            weights.set(
                view.ok_or_else(unknown)?,
                weight.trim().parse().map_err(|_| number())?,
            );
        }
        weights.check()?;
        Ok(weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_name_views_and_weights() {
        let parse = |list: &str| list.parse::<ViewWeights>();
        assert_eq!(parse("body").unwrap(), ViewWeights::default());
        let found = parse("title=2, queries,docid=0.5").unwrap();
        let all: Vec<_> = found.iter().map(|(view, w)| (view.name(), w)).collect();
        assert_eq!(all, [("title", 2.0), ("queries", 1.0), ("docid", 0.5)]);
        let fields: Vec<_> = found.fields().map(|(_, field, _)| field).collect();
        assert_eq!(fields, [Field::Title, Field::Queries]);
        for (list, said) in [
            ("text", "body, title, queries and docid"),
            ("body=x", "title=2"),
            ("body=-1", "between 0"),
            ("body=nan", "between 0"),
            ("body=0", "all 0"),
            ("", "no view"),
        ] {
            assert!(parse(list).unwrap_err().contains(said), "{list}");
        }
    }
}
