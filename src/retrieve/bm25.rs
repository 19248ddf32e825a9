//! stub
use crate::data::Corpus;
use crate::types::{Hit, PassageIdx};
/// stub
pub struct Bm25;
/// stub
#[derive(Default)]
pub struct Bm25Options;
impl Bm25 {
    /// stub
    pub fn of_corpus(_: &Corpus, _: Bm25Options) -> Self {
        Bm25
    }
    /// stub
    pub fn search(&self, _: &str, _: usize) -> Vec<Hit> {
        vec![]
    }
    /// stub
    pub fn score(&self, _: &str, _: PassageIdx) -> f32 {
        0.0
    }
}
