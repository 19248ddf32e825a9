//! Devices by name.

use std::path::Path;

use burn::tensor::Device;

use super::ModelError;

/// Opens devices by name, separated by commas; the first holds what is trained.
///
/// # Errors
/// As [`open_device`].
pub fn open_devices(names: &str) -> Result<Vec<Device>, ModelError> {
    names.split(',').map(open_device).collect()
}

/// Opens the device `cpu`, `cuda:N`, or `cubecl`: the kernels of the GPU on the CPU, slow, to try them.
///
/// # Errors
/// [`ModelError::Device`] if the name means nothing, this build or this machine has no CUDA, or no such GPU.
pub fn open_device(name: &str) -> Result<Device, ModelError> {
    match name.split_once(':') {
        None if name == "cpu" => Ok(Device::flex()),
        #[cfg(feature = "cuda")]
        None if name == "cubecl" => Ok(Device::cpu()),
        #[cfg(feature = "cuda")]
        Some(("cuda", index)) => cuda(name, index),
        #[cfg(not(feature = "cuda"))]
        Some(("cuda", _)) => Err(ModelError::Device(format!(
            "device `{name}`: this build has no CUDA; build with `cargo build --release --features cuda`, or use `--device cpu`"
        ))),
        _ => Err(ModelError::Device(format!(
            "device `{name}` is not known: use `cpu` or `cuda:N`"
        ))),
    }
}

/// Opens a GPU after asking the driver for it: CubeCL itself panics where there is none.
#[cfg(feature = "cuda")]
fn cuda(name: &str, index: &str) -> Result<Device, ModelError> {
    let index: usize = index.parse().map_err(|_| {
        ModelError::Device(format!("device `{name}`: expected a number after `cuda:`"))
    })?;
    // SAFETY: opens and closes the driver's library, whose initialisation has no demands.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        return Err(ModelError::Device(format!(
            "device `{name}`: no NVIDIA driver on this machine (libcuda.so.1 was not found); install the driver, or use `--device cpu`"
        )));
    }
    let found =
        cudarc::driver::result::init().and_then(|()| cudarc::driver::result::device::get_count());
    match found {
        Ok(count) if usize::try_from(count).is_ok_and(|count| index < count) => {
            Ok(Device::cuda(index))
        }
        Ok(count) => Err(ModelError::Device(format!(
            "device `{name}`: this machine has {count} GPUs that CUDA sees, counted from `cuda:0` (CUDA_VISIBLE_DEVICES hides others)"
        ))),
        Err(error) => Err(ModelError::Device(format!(
            "device `{name}`: the NVIDIA driver says {error}; does `nvidia-smi` work here? Else use `--device cpu`"
        ))),
    }
}

/// Looks for CUDA's library of functions such as `exp`, which kernels are linked with when they are compiled:
/// `nvvm/libdevice/libdevice.10.bc` in `toolkit` (the value of `CUDA_PATH`), or where it is absent in the usual places.
///
/// # Errors
/// [`ModelError::Device`] if it is not there.
pub fn check_math_library(toolkit: Option<&Path>) -> Result<(), ModelError> {
    let places = match toolkit {
        Some(toolkit) => vec![toolkit],
        None => TOOLKITS.map(Path::new).to_vec(),
    };
    let library = Path::new("nvvm/libdevice/libdevice.10.bc");
    if places.iter().any(|place| place.join(library).is_file()) {
        return Ok(());
    }
    let places: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
    Err(ModelError::Device(format!(
        "CUDA's {} was found in none of {}: install CUDA's toolkit, or set CUDA_PATH to a folder that holds this one file \
         (Python's triton and nvidia-cuda-nvcc packages carry it); or use `--device cpu`",
        library.display(),
        places.join(", ")
    )))
}

/// Where CubeCL looks for a toolkit.
const TOOLKITS: [&str; 4] = ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda", "/usr"];

/// Keeps compiled kernels and what was measured of them in `folder`, from run to run; without effect in a build
/// that has no kernels to compile. To be called before the first tensor is made.
pub fn keep_kernels_in(folder: &Path) {
    #[cfg(feature = "cuda")]
    cubecl::environment::set_root(folder);
    #[cfg(not(feature = "cuda"))]
    let _ = folder;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_mean_nothing_are_refused() {
        for name in ["gpu", "cuda", "cuda:x", "cpu:0", ""] {
            let error = open_device(name).expect_err(name).to_string();
            assert!(error.contains(&format!("device `{name}`")), "{error}");
        }
        assert!(open_devices("cpu,cpu").is_ok());
        assert!(open_devices("cpu,gpu").is_err());
    }

    #[test]
    fn a_toolkit_without_the_library_is_refused() {
        let folder = std::env::temp_dir().join(format!("genret-toolkit-{}", std::process::id()));
        let error = check_math_library(Some(&folder))
            .expect_err("nothing is there")
            .to_string();
        assert!(
            error.contains("libdevice.10.bc") && error.contains("CUDA_PATH"),
            "{error}"
        );
        std::fs::create_dir_all(folder.join("nvvm/libdevice")).unwrap();
        std::fs::write(folder.join("nvvm/libdevice/libdevice.10.bc"), "").unwrap();
        assert!(check_math_library(Some(&folder)).is_ok());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
