//! Hugging Face folders: `config.json`, `model.safetensors` (or shards with an index), read and written.
//!
//! Files are memory-mapped and each tensor goes straight to the device. A tensor that is missing,
//! unknown or of another shape is named with both shapes, and nothing is loaded. Stored `bfloat16`
//! and `float16` become `f32`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::{ModelError, parameters};
use crate::atomic_file;

const SINGLE: &str = "model.safetensors";
const SHARD_INDEX: &str = "model.safetensors.index.json";

/// Names that published checkpoints carry although the model computes them itself or has no use for
/// them.
const IGNORED_SUFFIXES: [&str; 2] = [
    "rotary_emb.inv_freq",
    "EncDecAttention.relative_attention_bias.weight",
];

/// Names under which some checkpoints hold another tensor again.
const COPIES: [(&str, &str); 4] = [
    ("lm_head.weight", "model.embed_tokens.weight"),
    ("lm_head.weight", "shared.weight"),
    ("encoder.embed_tokens.weight", "shared.weight"),
    ("decoder.embed_tokens.weight", "shared.weight"),
];

/// Fills `module` from the safetensors of `folder`.
pub fn load<M: Module>(module: M, folder: &Path) -> Result<M, ModelError> {
    fill(module, &shard_paths(folder)?, &|name| Some(name.into()))
}

/// Fills those parameters of `module` that `stored` gives the name of a tensor of `file` to.
pub fn load_some<M: Module>(
    module: M,
    file: &Path,
    stored: &dyn Fn(&str) -> Option<String>,
) -> Result<M, ModelError> {
    fill(module, &[file.into()], stored)
}

fn fill<M: Module>(
    module: M,
    files: &[PathBuf],
    stored: &dyn Fn(&str) -> Option<String>,
) -> Result<M, ModelError> {
    let maps = files
        .iter()
        .map(|path| {
            let file = File::open(path).and_then(|file| {
                // SAFETY: the map is only read, and replaced files are renamed over, never changed.
                unsafe { Mmap::map(&file) }
            });
            file.map_err(|source| ModelError::Io {
                path: path.clone(),
                source,
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut views = BTreeMap::new();
    for (path, map) in files.iter().zip(&maps) {
        let bad = |e: safetensors::SafeTensorError| ModelError::Config {
            path: path.clone(),
            message: format!("not a readable safetensors file: {e}"),
        };
        let tensors = SafeTensors::deserialize(map).map_err(bad)?;
        for (name, view) in tensors.tensors() {
            views.insert(name, view);
        }
    }
    views.retain(|name, _| !IGNORED_SUFFIXES.iter().any(|suffix| name.ends_with(suffix)));
    from_views(module, &views, stored, &files[0])
}

/// The `f32` tensors of one safetensors file, flat, by name.
pub fn read(path: &Path) -> Result<BTreeMap<String, Vec<f32>>, ModelError> {
    let bad = |message: String| ModelError::Config {
        path: path.into(),
        message,
    };
    let bytes = std::fs::read(path).map_err(|source| ModelError::Io {
        path: path.into(),
        source,
    })?;
    let tensors = SafeTensors::deserialize(&bytes)
        .map_err(|e| bad(format!("not a readable safetensors file: {e}")))?;
    tensors
        .iter()
        .map(|(name, view)| {
            let values =
                to_f32(&view).ok_or_else(|| bad(format!("`{name}` is not a float tensor")))?;
            Ok((name.to_string(), values))
        })
        .collect()
}

/// Writes `config.json` and `model.safetensors` into `folder`, each complete or not at all.
pub fn save<M: Module>(
    module: &M,
    config: &serde_json::Value,
    folder: &Path,
) -> Result<(), ModelError> {
    let io_error = |path: PathBuf| move |source| ModelError::Io { path, source };
    std::fs::create_dir_all(folder).map_err(io_error(folder.into()))?;
    let tensors = parameters::list(module)
        .into_iter()
        .map(|p| (p.name, p.shape, values(p.values)))
        .collect();
    let path = folder.join(SINGLE);
    write(&path, tensors).map_err(io_error(path))?;
    save_config(config, folder)
}

/// Writes `config.json` into `folder`.
pub fn save_config(config: &serde_json::Value, folder: &Path) -> Result<(), ModelError> {
    let path = folder.join("config.json");
    let text = serde_json::to_string_pretty(config).expect("a JSON value always serialises");
    atomic_file::write(&path, |w| writeln!(w, "{text}"))
        .map_err(|source| ModelError::Io { path, source })
}

/// Hash of everything that decides the model of `folder`: configuration, weights, adapters.
/// Reads all of it once, at the speed of the disk.
pub fn fingerprint(folder: &Path) -> Result<u64, ModelError> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect())
        .map_err(|source| ModelError::Io {
            path: folder.into(),
            source,
        })?;
    files.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".safetensors") || name == "config.json" || name == "adapter_config.json"
    });
    files.sort();
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    for path in files {
        let io_error = |source| ModelError::Io {
            path: path.clone(),
            source,
        };
        let mut file = File::open(&path).map_err(io_error)?;
        hasher.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = io::Read::read(&mut file, &mut buffer).map_err(io_error)?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
        }
    }
    Ok(hasher.digest())
}

/// Writes named `f32` tensors as one safetensors file, in the order of their names.
pub fn write(path: &Path, tensors: Vec<(String, Vec<usize>, Vec<f32>)>) -> io::Result<()> {
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, shape, values)| {
            (
                name,
                shape,
                values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            )
        })
        .collect();
    let views = bytes.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes)
            .expect("the values were listed with their shape");
        (name.as_str(), view)
    });
    let metadata = Some(std::collections::HashMap::from([(
        "format".into(),
        "pt".into(),
    )]));
    let file = safetensors::serialize(views, metadata).map_err(io::Error::other)?;
    atomic_file::write(path, |w| w.write_all(&file))
}

/// The values of a tensor on the host.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor
        .into_data()
        .convert::<f32>()
        .try_into_vec()
        .expect("the data was converted to f32")
}

fn from_views<M: Module>(
    module: M,
    views: &BTreeMap<String, TensorView<'_>>,
    stored: &dyn Fn(&str) -> Option<String>,
    path: &Path,
) -> Result<M, ModelError> {
    let mut problems = Vec::new();
    let mut wanted = std::collections::BTreeSet::new();
    for (name, expected) in parameters::shapes(&module) {
        let Some(name) = stored(&name) else {
            continue;
        };
        match views.get(&name) {
            None => problems.push(format!("  {name}: missing, expected {expected:?}")),
            Some(view) if view.shape() != expected => problems.push(format!(
                "  {name}: has shape {:?}, expected {expected:?}",
                view.shape(),
            )),
            Some(view) if !is_float(view.dtype()) => problems.push(format!(
                "  {name}: has type {:?}; expected F32, F16 or BF16",
                view.dtype()
            )),
            Some(_) => {}
        }
        wanted.insert(name);
    }
    for (name, view) in views {
        let repeated = COPIES
            .iter()
            .filter(|(copy, _)| copy == name)
            .filter_map(|(_, of)| views.get(*of))
            .any(|of| of.data() == view.data());
        if !wanted.contains(name) && !repeated {
            problems.push(format!(
                "  {name}: not part of the model, has shape {:?}",
                view.shape()
            ));
        }
    }
    if !problems.is_empty() {
        return Err(ModelError::Tensors {
            path: path.into(),
            problems,
        });
    }
    Ok(parameters::replace(module, |name, _, old| {
        let Some(name) = stored(name) else {
            return old;
        };
        let device = old.device();
        drop(old);
        let values = to_f32(&views[&name]).expect("the type was checked above");
        let len = values.len();
        Tensor::from_data(TensorData::new(values, [len]), &device)
    }))
}

fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

fn to_f32(view: &TensorView<'_>) -> Option<Vec<f32>> {
    let data = view.data();
    Some(match view.dtype() {
        Dtype::F32 => data
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        Dtype::F16 => data
            .as_chunks()
            .0
            .iter()
            .map(|b| half::f16::from_le_bytes(*b).to_f32())
            .collect(),
        Dtype::BF16 => data
            .as_chunks()
            .0
            .iter()
            .map(|b| half::bf16::from_le_bytes(*b).to_f32())
            .collect(),
        _ => return None,
    })
}

pub(super) fn shard_paths(folder: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let index = folder.join(SHARD_INDEX);
    if !index.exists() {
        return Ok(vec![folder.join(SINGLE)]);
    }
    #[derive(serde::Deserialize)]
    struct ShardIndex {
        weight_map: BTreeMap<String, String>,
    }
    let text = std::fs::read_to_string(&index).map_err(|source| ModelError::Io {
        path: index.clone(),
        source,
    })?;
    let parsed: ShardIndex = serde_json::from_str(&text).map_err(|e| ModelError::Config {
        path: index,
        message: e.to_string(),
    })?;
    let mut names: Vec<String> = parsed.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}
