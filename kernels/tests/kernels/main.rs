//! Every operation against its reference in plain tensors, and against itself on other thread counts.

mod adamw;
mod beam_cache;
mod common;
#[cfg(feature = "cube")]
mod cube;
mod operations;
mod relative;
mod sparse_pool;
mod threads;
