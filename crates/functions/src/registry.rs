//! What is deployed, on disk: `functions/<name>.json`, `code/<digest>/` and its limits, `code/<digest>.json`.
//!
//! Code is addressed by its content and written before the file that names it; the file is swapped atomically.
//! So a crash or a refused deployment leaves the former one whole.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use lambic_model::{FunctionName, StreamId, StreamName};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Code, Deployment, Error, FunctionInfo, Runtime};

/// AWS's bound of unzipped code.
const CODE_BYTES_MAX: u64 = 262_144_000;
const FILES_MAX: usize = 20_000;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stored {
    pub info: FunctionInfo,
    pub mappings: Vec<Mapping>,
}

/// A trigger's place in the log. The id is new for each new trigger, so that one that is dropped and made again
/// starts again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mapping {
    pub stream: StreamName,
    pub stream_id: StreamId,
    pub cursor: String,
}

/// What code may take; kept beside it, so that a view that was built with it runs it as it was.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    pub timeout_ms: u64,
    pub memory_mb: u32,
}

#[derive(Debug, Clone)]
pub struct Registry {
    dir: PathBuf,
}

/// Code that was read and checked for what can be seen without running it.
pub struct CodeFiles {
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    pub digest: String,
    pub handler: String,
    pub bytes: u64,
}

impl Registry {
    pub fn open(dir: &Path) -> Result<Registry, Error> {
        for folder in ["functions", "code", "compiled"] {
            let path = dir.join(folder);
            std::fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
        }
        Ok(Registry {
            dir: dir.to_owned(),
        })
    }

    pub fn compiled_dir(&self) -> PathBuf {
        self.dir.join("compiled")
    }

    pub fn code_dir(&self, digest: &str) -> PathBuf {
        self.dir.join("code").join(digest)
    }

    fn limits_path(&self, digest: &str) -> PathBuf {
        self.dir.join("code").join(format!("{digest}.json"))
    }

    /// Keeps what the code of this deployment may take; that of its latest deployment counts.
    pub fn keep_limits(&self, info: &FunctionInfo) -> Result<(), Error> {
        let limits = Limits {
            timeout_ms: info.timeout_ms,
            memory_mb: info.memory_mb,
        };
        let path = self.limits_path(&info.digest);
        let bytes = serde_json::to_vec_pretty(&limits).expect("plain data serialises");
        lambic_base::file::write_atomically(&path, &bytes).map_err(Error::io("write", &path))
    }

    pub fn has_limits(&self, digest: &str) -> bool {
        self.limits_path(digest).exists()
    }

    /// Of code that an older server deployed and replaced they are not known: it gets the defaults.
    pub fn limits(&self, digest: &str) -> Limits {
        let kept = std::fs::read(self.limits_path(digest)).ok();
        kept.and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or(Limits {
                timeout_ms: 3_000,
                memory_mb: 128,
            })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join("functions").join(format!("{name}.json"))
    }

    pub fn load(&self) -> Result<Vec<Stored>, Error> {
        let dir = self.dir.join("functions");
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(Error::io("read", &dir))? {
            let path = entry.map_err(Error::io("read", &dir))?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
            all.push(
                serde_json::from_slice(&bytes).map_err(|error| Error::Damaged {
                    path: path.clone(),
                    reason: error.to_string(),
                })?,
            );
        }
        Ok(all)
    }

    pub fn save(&self, stored: &Stored) -> Result<(), Error> {
        let path = self.path(stored.info.name.as_str());
        let bytes = serde_json::to_vec_pretty(stored).expect("plain data serialises");
        lambic_base::file::write_atomically(&path, &bytes).map_err(Error::io("write", &path))
    }

    pub fn remove(&self, name: &FunctionName) -> Result<(), Error> {
        let path = self.path(name.as_str());
        std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        let dir = self.dir.join("functions");
        lambic_base::file::sync_dir(&dir).map_err(Error::io("sync", &dir))
    }

    /// Keeps the code, durably, under its digest.
    pub fn store_code(&self, code: &CodeFiles) -> Result<PathBuf, Error> {
        let target = self.code_dir(&code.digest);
        if target.is_dir() {
            return Ok(target);
        }
        let parent = self.dir.join("code");
        let temporary = parent.join(format!("{}.tmp", uuid::Uuid::now_v7()));
        for (name, bytes) in &code.files {
            let path = temporary.join(name);
            let folder = path.parent().expect("it is below the temporary folder");
            std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
            lambic_base::file::write_atomically(&path, bytes).map_err(Error::io("write", &path))?;
        }
        lambic_base::file::sync_dir(&temporary).map_err(Error::io("sync", &temporary))?;
        std::fs::rename(&temporary, &target).map_err(Error::io("create", &target))?;
        lambic_base::file::sync_dir(&parent).map_err(Error::io("sync", &parent))?;
        Ok(target)
    }
}

/// True if the path stays in the folder that it is joined to.
fn is_within(path: &Path) -> bool {
    path.components()
        .all(|component| matches!(component, std::path::Component::Normal(_)))
}

/// Reads the code of a deployment and finds its handler.
pub fn read_code(deployment: &Deployment) -> Result<CodeFiles, Error> {
    let refuse = |reason: String| Error::BadDeployment {
        name: deployment.name.to_string(),
        reason,
    };
    match deployment.runtime {
        Runtime::Wasm => {
            let (file, bytes) = match &deployment.code {
                Code::Bytes(bytes) => ("function.wasm".to_owned(), bytes.clone()),
                Code::Folder(folder) => {
                    let file = match &deployment.handler {
                        Some(file) if is_within(Path::new(file)) => file.clone(),
                        Some(file) => {
                            return Err(refuse(format!(
                                "its handler `{file}` is not the name of a file in its folder"
                            )));
                        }
                        None => only_component(folder).map_err(refuse)?,
                    };
                    let path = folder.join(&file);
                    if !path.is_file() {
                        return Err(refuse(format!("`{}` does not exist", path.display())));
                    }
                    (
                        file,
                        std::fs::read(&path).map_err(Error::io("read", &path))?,
                    )
                }
            };
            let digest = digest_of(&bytes);
            Ok(CodeFiles {
                bytes: bytes.len() as u64,
                files: [(PathBuf::from("function.wasm"), bytes)].into(),
                digest,
                handler: file,
            })
        }
        Runtime::Python => {
            let handler = deployment
                .handler
                .clone()
                .unwrap_or_else(|| "handler.handler".to_owned());
            let Some((module, _)) = handler
                .rsplit_once('.')
                .filter(|(module, function)| !module.is_empty() && !function.is_empty())
            else {
                return Err(refuse(format!(
                    "`{handler}` is not a handler; write `file.function`, as in `handler.handler`"
                )));
            };
            let module = PathBuf::from(module.replace('.', "/"));
            if !is_within(&module) {
                return Err(refuse(format!(
                    "its handler `{handler}` is not the name of a file in its folder"
                )));
            }
            let files = match &deployment.code {
                Code::Bytes(bytes) => [(module.with_extension("py"), bytes.clone())].into(),
                Code::Folder(folder) => read_folder(folder).map_err(|error| match error {
                    FolderError::Refused(reason) => refuse(reason),
                    FolderError::Io(error) => error,
                })?,
            };
            let is_there = files.contains_key(&module.with_extension("py"))
                || files.contains_key(&module.join("__init__.py"));
            if !is_there {
                return Err(refuse(format!(
                    "its handler `{handler}` needs the file `{}`, which is not in the code",
                    module.with_extension("py").display()
                )));
            }
            let mut sum = Sha256::new();
            let mut bytes = 0;
            for (path, content) in &files {
                let path = path.to_string_lossy();
                sum.update((path.len() as u64).to_le_bytes());
                sum.update(path.as_bytes());
                sum.update((content.len() as u64).to_le_bytes());
                sum.update(content);
                bytes += content.len() as u64;
            }
            Ok(CodeFiles {
                digest: hex(&sum.finalize()),
                files,
                handler,
                bytes,
            })
        }
    }
}

fn only_component(folder: &Path) -> Result<String, String> {
    let entries = std::fs::read_dir(folder)
        .map_err(|error| format!("cannot read `{}`: {error}", folder.display()))?;
    let mut found: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".wasm"))
        .collect();
    found.sort_unstable();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(format!(
            "`{}` has no `.wasm` file; build the component first",
            folder.display()
        )),
        several => Err(format!(
            "`{}` has several components ({}); name one as `handler`",
            folder.display(),
            several.join(", ")
        )),
    }
}

enum FolderError {
    Refused(String),
    Io(Error),
}

fn read_folder(folder: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>, FolderError> {
    let mut files = BTreeMap::new();
    let mut bytes = 0;
    let mut left = vec![PathBuf::new()];
    while let Some(below) = left.pop() {
        let dir = folder.join(&below);
        let io = |action, path: &Path| {
            let make = Error::io(action, path.to_owned());
            move |error| FolderError::Io(make(error))
        };
        for entry in std::fs::read_dir(&dir).map_err(io("read", &dir))? {
            let entry = entry.map_err(io("read", &dir))?;
            let (path, name) = (entry.path(), entry.file_name());
            if name == "__pycache__" || name == ".git" {
                continue;
            }
            let metadata = std::fs::metadata(&path).map_err(io("read", &path))?;
            if metadata.is_dir() {
                left.push(below.join(name));
                continue;
            }
            bytes += metadata.len();
            if bytes > CODE_BYTES_MAX || files.len() >= FILES_MAX {
                return Err(FolderError::Refused(format!(
                    "the code in `{}` is over {CODE_BYTES_MAX} bytes or {FILES_MAX} files",
                    folder.display()
                )));
            }
            let content = std::fs::read(&path).map_err(io("read", &path))?;
            files.insert(below.join(name), content);
        }
    }
    Ok(files)
}

/// Of a component.
pub fn digest_of(code: &[u8]) -> String {
    hex(&Sha256::digest(code))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
