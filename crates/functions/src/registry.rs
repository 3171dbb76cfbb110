//! What is deployed, on disk: `functions/<name>.json`, `code/<digest>/` and its limits, `code/<digest>.json`.
//!
//! Code is addressed by its content and written before the file that names it; the file is swapped atomically.
//! So a crash or a refused deployment leaves the former one whole.

use std::path::{Path, PathBuf};

use lambic_model::{FunctionName, StreamId, StreamName};
use serde::{Deserialize, Serialize};

use crate::{
    Error, FunctionInfo,
    code::{self, CodeFiles},
};

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

    /// Keeps the code, durably, under its digest. What stands there already and is not this code is replaced.
    pub fn store_code(&self, code: &CodeFiles) -> Result<(), Error> {
        let target = self.code_dir(&code.digest);
        if code::verify(&target, code.runtime, &code.digest).is_ok() {
            return Ok(());
        }
        let parent = self.dir.join("code");
        let temporary = || parent.join(format!("{}.tmp", uuid::Uuid::now_v7()));
        let written = temporary();
        if let Err(error) = write(&written, code) {
            // A full disk needs the room.
            let _ = std::fs::remove_dir_all(&written);
            return Err(error);
        }
        let damaged = temporary();
        match std::fs::rename(&target, &damaged) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("move away", &target)(error));
            }
            _ => {}
        }
        std::fs::rename(&written, &target).map_err(Error::io("create", &target))?;
        lambic_base::file::sync_dir(&parent).map_err(Error::io("sync", &parent))?;
        // What is left of it takes room and nothing else.
        let _ = std::fs::remove_dir_all(&damaged);
        Ok(())
    }
}

fn write(dir: &Path, code: &CodeFiles) -> Result<(), Error> {
    for (name, bytes) in &code.files {
        let path = dir.join(name);
        let folder = path.parent().unwrap_or(dir);
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        lambic_base::file::write_atomically(&path, bytes).map_err(Error::io("write", &path))?;
    }
    lambic_base::file::sync_dir(dir).map_err(Error::io("sync", dir))
}
