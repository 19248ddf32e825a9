//! Data and reference values that lie beside the repository.

use std::path::{Path, PathBuf};

/// A part of the shared data and fixtures, under `GENRET_SHARED` or beside the repository; `None`,
/// with a remark, if this machine lacks it.
pub fn shared(part: &str) -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let root = std::env::var_os("GENRET_SHARED").map_or_else(beside, PathBuf::from);
    let path = root.join(part);
    if !path.exists() {
        println!("skipped: {} is absent; set GENRET_SHARED", path.display());
        return None;
    }
    Some(path)
}
