//! Every operation against its reference in plain tensors, and against itself on other thread counts.

mod adamw;
mod beam_cache;
mod common;
mod operations;
mod relative;
mod sparse_pool;
mod threads;
