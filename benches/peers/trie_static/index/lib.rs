//! The modules of genret that its indexes need, without tensors, so that the peer's benchmark builds in seconds.

#[path = "../../../../src/types.rs"]
pub mod types;

#[path = "../../../../src/atomic_file.rs"]
pub mod atomic_file;
#[path = "../../../../src/rng.rs"]
pub mod rng;
#[path = "../../../../src/section_file/mod.rs"]
pub mod section_file;

#[path = "../../../../src/index/mod.rs"]
pub mod index;
