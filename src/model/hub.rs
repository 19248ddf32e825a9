//! Checkpoints of the Hugging Face hub by name.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::ApiBuilder;
use hf_hub::{Cache, Repo};

use super::ModelError;

const SHARD_INDEX: &str = "model.safetensors.index.json";

/// The folder of the checkpoint `name`: itself if it is a folder, otherwise the snapshot of
/// `owner/name` on the hub, from the cache of `HF_HOME` or downloaded into it.
///
/// # Errors
/// [`ModelError::Hub`] says what to do, as when there is no connection.
pub fn folder(name: &str) -> Result<PathBuf, ModelError> {
    if Path::new(name).is_dir() {
        return Ok(name.into());
    }
    let problem = |message: String| ModelError::Hub {
        name: name.into(),
        message,
    };
    let mut parts = name.split('/');
    let is_name = |part: Option<&str>| part.is_some_and(|p| !p.is_empty() && !p.starts_with('.'));
    if !(is_name(parts.next()) && is_name(parts.next()) && parts.next().is_none()) {
        return Err(problem("there is no such folder".into()));
    }
    let cache = Cache::from_env().repo(Repo::model(name.into()));
    if let Some(folder) = complete(|file| cache.get(file)) {
        return Ok(folder);
    }
    let api = ApiBuilder::from_env()
        .with_progress(true)
        .build()
        .map_err(|e| problem(e.to_string()))?;
    let repo = api.model(name.into());
    let info = repo.info().map_err(|e| {
        problem(format!(
            "no such folder, and the hub did not answer: {e}. Without a connection, give a folder with config.json, tokenizer.json and model.safetensors; for a gated model set HF_TOKEN"
        ))
    })?;
    let files: Vec<&str> = info.siblings.iter().map(|s| s.rfilename.as_str()).collect();
    if !files.iter().any(|f| f.ends_with(".safetensors")) {
        return Err(problem("the repository holds no safetensors".into()));
    }
    // Old repositories hold the weights twice, whole and in shards.
    let sharded = files.contains(&SHARD_INDEX);
    let wanted = |file: &str| match file {
        "config.json" | "tokenizer.json" => true,
        SHARD_INDEX => sharded,
        "model.safetensors" => !sharded,
        _ => sharded && file.starts_with("model-") && file.ends_with(".safetensors"),
    };
    for file in files.into_iter().filter(|f| wanted(f)) {
        repo.get(file)
            .map_err(|e| problem(format!("{file} could not be downloaded: {e}")))?;
    }
    complete(|file| cache.get(file))
        .ok_or_else(|| problem("the repository lacks config.json or a part of the weights".into()))
}

/// The folder in which `find` finds a configuration and all weights.
fn complete(find: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let folder = find("config.json")?.parent()?.to_path_buf();
    let whole = folder.join("model.safetensors").exists();
    let shards =
        || super::checkpoint::shard_paths(&folder).is_ok_and(|s| s.iter().all(|p| p.exists()));
    (whole || shards()).then_some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_neither_folder_nor_name_is_refused() {
        for name in ["no/such/folder", "./missing", "/missing/folder", "owner/"] {
            let message = folder(name).unwrap_err().to_string();
            assert!(message.contains("no such folder"), "{message}");
        }
    }
}
