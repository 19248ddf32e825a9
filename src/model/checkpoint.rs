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
    let shards = shard_paths(folder)?
        .into_iter()
        .map(|path| {
            let file = File::open(&path).and_then(|file| {
                // SAFETY: the map is only read, and replaced files are renamed over, never changed.
                unsafe { Mmap::map(&file) }
            });
            file.map(|map| (path.clone(), map))
                .map_err(|source| ModelError::Io { path, source })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut views = BTreeMap::new();
    for (path, map) in &shards {
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
    from_views(module, &views, &folder.join(SINGLE))
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
    let path = folder.join("config.json");
    let text = serde_json::to_string_pretty(config).expect("a JSON value always serialises");
    atomic_file::write(&path, |w| writeln!(w, "{text}")).map_err(io_error(path))
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
    path: &Path,
) -> Result<M, ModelError> {
    let mut problems = Vec::new();
    let mut wanted = std::collections::BTreeSet::new();
    for parameter in parameters::list(&module) {
        match views.get(&parameter.name) {
            None => problems.push(format!(
                "  {}: missing, expected {:?}",
                parameter.name, parameter.shape
            )),
            Some(view) if view.shape() != parameter.shape => problems.push(format!(
                "  {}: has shape {:?}, expected {:?}",
                parameter.name,
                view.shape(),
                parameter.shape
            )),
            Some(view) if to_f32(view).is_none() => problems.push(format!(
                "  {}: has type {:?}; expected F32, F16 or BF16",
                parameter.name,
                view.dtype()
            )),
            Some(_) => {}
        }
        wanted.insert(parameter.name);
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
        let values = to_f32(&views[name]).expect("the type was checked above");
        let len = values.len();
        Tensor::from_data(TensorData::new(values, [len]), &old.device())
    }))
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

fn shard_paths(folder: &Path) -> Result<Vec<PathBuf>, ModelError> {
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
