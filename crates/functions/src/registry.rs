//! What is deployed, on disk: `functions/<name>.json`, their names in `deployed.json`, `code/<digest>/` and its
//! limits, `code/<digest>.json`; `layers/<name>.json`; the zips as they were uploaded, `zips/<sha256>.zip`. Beside them stands what functions keep, `kv/`,
//! and what open windows hold, `windows/`.
//!
//! Code is addressed by its content and written before the file that names it; the file is swapped atomically.
//! So a crash or a refused deployment leaves the former one whole.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use lambic_model::{FunctionName, StreamId, StreamName};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    Error, Function, FunctionInfo, Layer, Upload,
    code::{self, CodeFiles},
};

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
    /// Whether it exports SQL functions, which views may call as long as those live; servers before this one did not
    /// say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scalars: Option<bool>,
}

/// A description's file, and what it says.
pub type Found = (PathBuf, Result<Function, Error>);

#[derive(Debug, Clone)]
pub struct Registry {
    dir: PathBuf,
}

/// A file of a layer, and what is in it.
pub type EachLayer = (PathBuf, Result<Layer, Error>);

impl Registry {
    pub fn open(dir: &Path) -> Result<Registry, Error> {
        for folder in ["functions", "code", "compiled", "layers", "zips"] {
            let path = dir.join(folder);
            lambic_base::file::create_dirs(&path).map_err(Error::io("create", &path))?;
        }
        Ok(Registry {
            dir: dir.to_owned(),
        })
    }

    /// Of a folder that is only looked at.
    pub fn look(dir: &Path) -> Registry {
        Registry {
            dir: dir.to_owned(),
        }
    }

    pub fn compiled_dir(&self) -> PathBuf {
        self.dir.join("compiled")
    }

    /// What functions keep.
    pub fn values_dir(&self) -> PathBuf {
        self.dir.join("kv")
    }

    pub fn zips(&self) -> PathBuf {
        self.dir.join("zips")
    }

    /// The folders of all code.
    pub fn codes(&self) -> PathBuf {
        self.dir.join("code")
    }

    pub fn code_dir(&self, digest: &str) -> PathBuf {
        self.codes().join(digest)
    }

    fn limits_path(&self, digest: &str) -> PathBuf {
        self.dir.join("code").join(format!("{digest}.json"))
    }

    /// Keeps what the code of this deployment may take; that of its latest deployment counts.
    pub fn keep_limits(&self, info: &FunctionInfo) -> Result<(), Error> {
        let limits = Limits {
            timeout_ms: info.timeout_ms,
            memory_mb: info.memory_mb,
            scalars: Some(!info.scalars.is_empty()),
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
                scalars: None,
            })
    }

    /// Gives all code the rights that it was stored with: copies of it have others.
    pub fn open_codes(&self) -> Result<(), Error> {
        let codes = self.codes();
        let folders = match std::fs::read_dir(&codes) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(Error::io("read", &codes))?,
        };
        let mut left = Vec::new();
        for folder in folders {
            let path = folder.map_err(Error::io("read", &codes))?.path();
            // Beside them stands what they may take.
            if path.is_dir() {
                left.push(path);
            }
        }
        while let Some(path) = left.pop() {
            open_to_all(&path).map_err(Error::io("change", &path))?;
            if path.is_dir() {
                for entry in std::fs::read_dir(&path).map_err(Error::io("read", &path))? {
                    left.push(entry.map_err(Error::io("read", &path))?.path());
                }
            }
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join("functions").join(format!("{name}.json"))
    }

    /// Everything that is deployed; what is damaged or missing is an error that names it.
    pub fn load(&self) -> Result<Vec<Function>, Error> {
        self.each()?.into_iter().map(|(_, found)| found).collect()
    }

    /// The same, each with its file.
    pub fn each(&self) -> Result<Vec<Found>, Error> {
        let dir = self.dir.join("functions");
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(Error::io("read", &dir))? {
            let path = entry.map_err(Error::io("read", &dir))?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                let stored = read(&path);
                all.push((path, stored));
            }
        }
        let names = self.names()?.unwrap_or_default();
        for path in names.iter().map(|name| self.path(name)) {
            if !path.exists() {
                let reason = "it is missing: bring it back from a backup, or remove `deployed.json` of the functions to start without it";
                let missing = Error::Damaged {
                    path: path.clone(),
                    reason: reason.to_owned(),
                };
                all.push((path, Err(missing)));
            }
        }
        Ok(all)
    }

    pub fn save(&self, stored: &Function) -> Result<(), Error> {
        let name = stored.info.name.as_str();
        keep(&self.path(name), stored)?;
        // It is among those that are found already.
        let are_kept = self.names_path().exists();
        let mut names = self.names_or_found()?;
        match names.insert(name.to_owned()) || !are_kept {
            true => keep(&self.names_path(), &names),
            false => Ok(()),
        }
    }

    pub fn remove(&self, name: &FunctionName) -> Result<(), Error> {
        let mut names = self.names_or_found()?;
        names.remove(name.as_str());
        keep(&self.names_path(), &names)?;
        let path = self.path(name.as_str());
        std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        let dir = self.dir.join("functions");
        lambic_base::file::sync_dir(&dir).map_err(Error::io("sync", &dir))
    }

    fn names_path(&self) -> PathBuf {
        self.dir.join("deployed.json")
    }

    /// Of all that is deployed; `None` if nobody wrote them down.
    fn names(&self) -> Result<Option<BTreeSet<String>>, Error> {
        let path = self.names_path();
        match path.exists() {
            true => read(&path).map(Some),
            false => Ok(None),
        }
    }

    fn names_or_found(&self) -> Result<BTreeSet<String>, Error> {
        if let Some(names) = self.names()? {
            return Ok(names);
        }
        let all = self.each()?.into_iter();
        let stems = all.filter_map(|(path, _)| Some(path.file_stem()?.to_str()?.to_owned()));
        Ok(stems.collect())
    }

    pub fn load_layers(&self) -> Result<Vec<Layer>, Error> {
        let each = self.each_layer()?.into_iter();
        each.map(|(_, found)| found).collect()
    }

    /// The same, each with its file.
    pub fn each_layer(&self) -> Result<Vec<EachLayer>, Error> {
        let dir = self.dir.join("layers");
        let entries = match std::fs::read_dir(&dir) {
            // Of a folder that is only looked at.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(Error::io("read", &dir))?,
        };
        let mut layers = Vec::new();
        for entry in entries {
            let path = entry.map_err(Error::io("read", &dir))?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                let stored = read(&path);
                layers.push((path, stored));
            }
        }
        Ok(layers)
    }

    pub fn save_layer(&self, layer: &Layer) -> Result<(), Error> {
        keep(&self.layer_path(&layer.name), layer)
    }

    pub fn layer_path(&self, name: &str) -> PathBuf {
        self.dir.join("layers").join(format!("{name}.json"))
    }

    pub fn zip_path(&self, sha256: &str) -> PathBuf {
        self.zips().join(format!("{sha256}.zip"))
    }

    /// Keeps a zip as it came, for those who ask for it.
    pub fn keep_zip(&self, zip: &[u8]) -> Result<Upload, Error> {
        let upload = Upload {
            sha256: code::hex(&Sha256::digest(zip)),
            bytes: zip.len() as u64,
        };
        let path = self.zip_path(&upload.sha256);
        if std::fs::read(&path).is_ok_and(|kept| kept == zip) {
            return Ok(upload);
        }
        lambic_base::file::write_atomically(&path, zip).map_err(Error::io("write", &path))?;
        Ok(upload)
    }

    pub fn zip(&self, sha256: &str) -> Option<PathBuf> {
        let path = self.zip_path(sha256);
        (code::is_digest(sha256) && path.is_file()).then_some(path)
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
        lambic_base::file::create_dirs(folder).map_err(Error::io("create", folder))?;
        lambic_base::file::write_atomically(&path, bytes).map_err(Error::io("write", &path))?;
        open_to_all(&path).map_err(Error::io("change", &path))?;
    }
    let below = code.files.keys().flat_map(|name| name.ancestors().skip(1));
    let folders: BTreeSet<&Path> = below.collect();
    let folders = folders
        .into_iter()
        .filter(|folder| *folder != Path::new(""));
    for folder in folders {
        let folder = dir.join(folder);
        open_to_all(&folder).map_err(Error::io("change", &folder))?;
    }
    open_to_all(dir).map_err(Error::io("change", dir))
}

/// Whatever its zip said: a bootstrap must be executable and others may be, and environments have users of their own.
/// Durable, like the content: code that cannot be read after a power cut does not run.
fn open_to_all(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    std::fs::File::open(path)?.sync_all()
}

/// What is kept in a file, with the checksum of what it means.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Checked<T> {
    sha256: String,
    content: T,
}

fn checksum<T: Serialize>(content: &T) -> String {
    let bytes = serde_json::to_vec(content).expect("plain data serialises");
    code::hex(&Sha256::digest(bytes))
}

/// Writes what [`read`] takes back, durably.
pub fn keep<T: Serialize + DeserializeOwned>(path: &Path, content: &T) -> Result<(), Error> {
    let checked = Checked {
        sha256: checksum(content),
        content,
    };
    let bytes = serde_json::to_vec_pretty(&checked).expect("plain data serialises");
    // Users' values may be nested too deeply to be read, or have numbers that come back as others: such a file would be
    // taken for damaged.
    if let Err(error) = parse::<T>(path, &bytes) {
        return Err(Error::BadValue {
            reason: format!(
                "it cannot be kept, since it would not be read as it was written: {error}"
            ),
        });
    }
    lambic_base::file::write_atomically(path, &bytes).map_err(Error::io("write", path))
}

/// Files of servers before this one have no checksum.
pub fn read<T: Serialize + DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    parse(path, &bytes)
}

fn parse<T: Serialize + DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, Error> {
    let damaged = |reason: String| Error::Damaged {
        path: path.to_owned(),
        reason,
    };
    let value: Value = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
    if value.get("sha256").is_none() {
        return serde_json::from_value(value).map_err(|error| damaged(error.to_string()));
    }
    let checked: Checked<T> =
        serde_json::from_value(value).map_err(|error| damaged(error.to_string()))?;
    if checksum(&checked.content) != checked.sha256 {
        return Err(damaged("its checksum does not match".to_owned()));
    }
    Ok(checked.content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path, content: &[&str]) -> PathBuf {
        let path = dir.join("names.json");
        let content: BTreeSet<String> = content.iter().map(|name| (*name).to_owned()).collect();
        keep(&path, &content).unwrap();
        path
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = names(dir.path(), &["flag", "geohash"]);
        let whole: BTreeSet<String> = read(&path).unwrap();
        assert_eq!(whole.len(), 2);
        let bytes = std::fs::read(&path).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &flipped).unwrap();
            // White space means nothing.
            match read::<BTreeSet<String>>(&path) {
                Err(Error::Damaged { path: named, .. }) => assert_eq!(named, path),
                Ok(found) => assert_eq!(found, whole, "bit {bit}"),
                Err(other) => panic!("bit {bit}: {other}"),
            }
        }
    }

    #[test]
    fn what_would_not_be_read_again_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("value.json");
        let mut nested = Value::Null;
        for _ in 0..130 {
            nested = Value::from(vec![nested]);
        }
        assert!(matches!(keep(&path, &nested), Err(Error::BadValue { .. })));
        assert!(!path.exists());
        keep(&path, &Value::from(0.25)).unwrap();
        assert_eq!(read::<Value>(&path).unwrap(), 0.25);
    }

    #[test]
    fn files_without_a_checksum_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("names.json");
        std::fs::write(&path, r#"["flag"]"#).unwrap();
        let names: BTreeSet<String> = read(&path).unwrap();
        assert_eq!(names.len(), 1);
    }
}
