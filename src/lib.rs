//! genret: generative, sparse and dense retrieval, from a corpus to a fitted scaling law.
//!
//! One binary trains language models to write n-grams of a corpus for a query, decodes them under the
//! constraint of an index, ranks passages by what was written, measures, and fits laws through models
//! of many sizes. `ARCHITECTURE.md` tells how the modules hang together; they are listed here lowest
//! first, and each uses only what stands above it.
#![deny(missing_docs, rustdoc::broken_intra_doc_links)]

pub mod types;

pub mod allocator;
pub mod atomic_file;
pub mod machine;
pub mod rng;
mod section_file;

pub mod data;
pub mod eval;
pub mod index;
pub mod record;
pub mod tokenizer;

pub mod docid;
pub mod model;
pub mod scaling;

pub mod decode;
pub mod train;

pub mod retrieve;

pub mod config;

pub mod plot;

pub mod experiment;

pub mod sweep;

pub mod cli;

#[cfg(test)]
#[path = "../tests/common/shared.rs"]
mod shared;
