//! What a GPU needs of the machine, asked for before any work begins.

use std::path::PathBuf;

use anyhow::Result;

use crate::model;

/// Opens the GPUs among `devices` and says what they lack; sets where compiled kernels are kept.
pub(super) fn prepare(devices: &str) -> Result<()> {
    if let Some(folder) = kernel_folder() {
        model::keep_kernels_in(&folder);
    }
    if devices.split(',').any(|name| name.starts_with("cuda:")) {
        model::open_devices(devices)?;
        let toolkit = folder("CUDA_PATH");
        model::check_math_library(toolkit.as_deref())?;
    }
    Ok(())
}

/// Where kernels are kept once compiled and measured: `GENRET_KERNELS`, else in the user's cache.
fn kernel_folder() -> Option<PathBuf> {
    folder("GENRET_KERNELS").or_else(|| {
        let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
        Some(cache.join("genret").join("kernels"))
    })
}

/// A folder that the environment names.
fn folder(name: &str) -> Option<PathBuf> {
    let value = std::env::var_os(name).filter(|value| !value.is_empty());
    value.map(PathBuf::from)
}
