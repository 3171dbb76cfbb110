//! The code of a function: read from where the user has it, known by its digest, checked where it is kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::{Code, Deployment, Error, Runtime, unzip};

/// AWS's bound of unzipped code.
pub(crate) const CODE_BYTES_MAX: u64 = 262_144_000;
pub(crate) const FILES_MAX: usize = 20_000;
/// The file that a component is kept in.
const COMPONENT: &str = "function.wasm";
pub(crate) const NO_IMAGE: &str =
    "a container image is code of the runtime `image`, and of no other";

/// Code that was read and checked for what can be seen without running it.
pub struct CodeFiles {
    pub runtime: Runtime,
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    pub digest: String,
    pub handler: String,
    pub bytes: u64,
}

/// Reads the code of a deployment and finds its handler.
pub fn read_code(deployment: &Deployment) -> Result<CodeFiles, Error> {
    match deployment.runtime {
        Runtime::Wasm => read_wasm(deployment),
        Runtime::Python | Runtime::Node | Runtime::Bootstrap => read_program(deployment),
        Runtime::Image => read_image(deployment),
    }
}

/// Its files are kept elsewhere.
fn read_image(deployment: &Deployment) -> Result<CodeFiles, Error> {
    let Code::Pulled(image) = &deployment.code else {
        return Err(refused(deployment, "it has no image".to_owned()));
    };
    Ok(CodeFiles {
        runtime: deployment.runtime,
        files: BTreeMap::new(),
        digest: image.digest.clone(),
        handler: String::new(),
        bytes: 0,
    })
}

fn refused(deployment: &Deployment, reason: String) -> Error {
    Error::BadDeployment {
        name: deployment.name.to_string(),
        reason,
    }
}

fn read_wasm(deployment: &Deployment) -> Result<CodeFiles, Error> {
    let refuse = |reason| refused(deployment, reason);
    let (file, bytes) = match &deployment.code {
        Code::Bytes(bytes) => (COMPONENT.to_owned(), bytes.clone()),
        Code::Folder(folder) => {
            let named = named_component(deployment)?;
            let file = match named {
                Some(file) => file,
                None => only_component(
                    &names(folder).map_err(refuse)?,
                    &folder.display().to_string(),
                )
                .map_err(refuse)?,
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
        Code::Zip(zip) => {
            let mut files = unzipped(deployment, zip)?;
            let named =
                named_component(deployment)?.filter(|file| files.contains_key(Path::new(file)));
            let file = match named {
                Some(file) => file,
                None => {
                    let names: Vec<String> = files
                        .keys()
                        .map(|path| path.to_string_lossy().into_owned())
                        .collect();
                    only_component(&names, "the zip").map_err(refuse)?
                }
            };
            let bytes = files.remove(Path::new(&file)).unwrap_or_default();
            (file, bytes)
        }
        Code::Image(_) | Code::Pulled(_) => return Err(refuse(NO_IMAGE.to_owned())),
    };
    let digest = hex(&Sha256::digest(&bytes));
    Ok(CodeFiles {
        runtime: deployment.runtime,
        bytes: bytes.len() as u64,
        files: [(PathBuf::from(COMPONENT), bytes)].into(),
        digest,
        handler: file,
    })
}

/// The component that `handler` names.
fn named_component(deployment: &Deployment) -> Result<Option<String>, Error> {
    match &deployment.handler {
        Some(file) if !is_within(Path::new(file)) => Err(refused(
            deployment,
            format!("its handler `{file}` is not the name of a file in its folder"),
        )),
        handler => Ok(handler.clone()),
    }
}

fn read_program(deployment: &Deployment) -> Result<CodeFiles, Error> {
    let refuse = |reason| Err(refused(deployment, reason));
    let runtime = deployment.runtime;
    let handler = match (&deployment.handler, runtime) {
        (Some(handler), _) => handler.clone(),
        (None, Runtime::Node) => "index.handler".to_owned(),
        (None, Runtime::Bootstrap) => "bootstrap".to_owned(),
        (None, _) => "handler.handler".to_owned(),
    };
    let candidates = candidates(runtime, &handler);
    // What AWS takes, and says at each invocation, is refused only if it was to be tried.
    let is_strict = deployment.trial || matches!(deployment.code, Code::Bytes(_));
    let is_inside = |files: &Vec<PathBuf>| files.iter().all(|file| is_within(file));
    let candidates = match candidates {
        Some(candidates) if is_inside(&candidates) => candidates,
        _ if !is_strict => {
            let files = files(deployment, Path::new(""))?;
            return Ok(with_digest(runtime, files, handler));
        }
        Some(_) => {
            return refuse(format!(
                "its handler `{handler}` is not the name of a file in its folder"
            ));
        }
        None => {
            return refuse(format!(
                "`{handler}` is not a handler; write `file.function`, as in `handler.handler`"
            ));
        }
    };
    let files = files(deployment, &candidates[0])?;
    if is_strict && !candidates.iter().any(|file| files.contains_key(file)) {
        return refuse(format!(
            "its handler `{handler}` needs the file `{}`, which is not in the code",
            candidates[0].display()
        ));
    }
    Ok(with_digest(runtime, files, handler))
}

/// The files that may hold a handler, the usual one first; `None` if it does not name one.
fn candidates(runtime: Runtime, handler: &str) -> Option<Vec<PathBuf>> {
    if runtime == Runtime::Bootstrap {
        return Some(vec![PathBuf::from("bootstrap")]);
    }
    let (module, _) = handler
        .rsplit_once('.')
        .filter(|(module, function)| !module.is_empty() && !function.is_empty())?;
    Some(match runtime {
        Runtime::Node => ["js", "mjs", "cjs"]
            .iter()
            .map(|extension| PathBuf::from(format!("{module}.{extension}")))
            .collect(),
        _ => {
            let module = PathBuf::from(module.replace('.', "/"));
            vec![module.with_extension("py"), module.join("__init__.py")]
        }
    })
}

fn files(deployment: &Deployment, single: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>, Error> {
    match &deployment.code {
        Code::Bytes(bytes) => Ok([(single.to_owned(), bytes.clone())].into()),
        Code::Zip(zip) => unzipped(deployment, zip),
        Code::Folder(folder) => read_folder(folder).map_err(|error| match error {
            FolderError::TooLarge(reason) => refused(deployment, reason),
            FolderError::Io(error) => error,
        }),
        Code::Image(_) | Code::Pulled(_) => Err(refused(deployment, NO_IMAGE.to_owned())),
    }
}

fn unzipped(deployment: &Deployment, zip: &[u8]) -> Result<BTreeMap<PathBuf, Vec<u8>>, Error> {
    unzip::read(zip).map_err(|reason| Error::BadZip {
        name: deployment.name.to_string(),
        reason,
    })
}

fn with_digest(runtime: Runtime, files: BTreeMap<PathBuf, Vec<u8>>, handler: String) -> CodeFiles {
    let mut sum = FilesSum::default();
    let mut bytes = 0;
    for (path, content) in &files {
        sum.add(path, content);
        bytes += content.len() as u64;
    }
    CodeFiles {
        runtime,
        digest: sum.digest(),
        files,
        handler,
        bytes,
    }
}

/// The files of a layer.
pub fn read_layer(name: &str, zip: &[u8]) -> Result<CodeFiles, Error> {
    let files = unzip::read(zip).map_err(|reason| Error::BadZip {
        name: name.to_owned(),
        reason,
    })?;
    // Kept and checked as any folder of files.
    Ok(with_digest(Runtime::Bootstrap, files, String::new()))
}

/// True if the path stays in the folder that it is joined to.
pub(crate) fn is_within(path: &Path) -> bool {
    path.components()
        .all(|component| matches!(component, std::path::Component::Normal(_)))
}

fn names(folder: &Path) -> Result<Vec<String>, String> {
    let entries = std::fs::read_dir(folder)
        .map_err(|error| format!("cannot read `{}`: {error}", folder.display()))?;
    Ok(entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect())
}

/// The one component of `names`, which stand in `place`.
fn only_component(names: &[String], place: &str) -> Result<String, String> {
    let mut found: Vec<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|name| name.ends_with(".wasm"))
        .collect();
    found.sort_unstable();
    match found.as_slice() {
        [one] => Ok((*one).to_owned()),
        [] => Err(format!(
            "`{place}` has no `.wasm` file; build the component first"
        )),
        several => Err(format!(
            "`{place}` has several components ({}); name one as `handler`",
            several.join(", ")
        )),
    }
}

enum FolderError {
    TooLarge(String),
    Io(Error),
}

impl FolderError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> FolderError {
        let make = Error::io(action, path);
        move |error| FolderError::Io(make(error))
    }
}

fn read_folder(folder: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>, FolderError> {
    let mut files = BTreeMap::new();
    for file in list(folder, |name| name == "__pycache__" || name == ".git")? {
        let path = folder.join(&file);
        let content = std::fs::read(&path).map_err(FolderError::io("read", &path))?;
        files.insert(file, content);
    }
    Ok(files)
}

/// The files below `folder`, by their paths from there.
fn list(folder: &Path, is_left_out: fn(&OsStr) -> bool) -> Result<BTreeSet<PathBuf>, FolderError> {
    let mut files = BTreeSet::new();
    let mut bytes = 0;
    let mut left = vec![PathBuf::new()];
    while let Some(below) = left.pop() {
        let dir = folder.join(&below);
        for entry in std::fs::read_dir(&dir).map_err(FolderError::io("read", &dir))? {
            let entry = entry.map_err(FolderError::io("read", &dir))?;
            let (path, name) = (entry.path(), entry.file_name());
            if is_left_out(&name) {
                continue;
            }
            let metadata = std::fs::metadata(&path).map_err(FolderError::io("read", &path))?;
            if metadata.is_dir() {
                left.push(below.join(name));
                continue;
            }
            bytes += metadata.len();
            if bytes > CODE_BYTES_MAX || files.len() >= FILES_MAX {
                return Err(FolderError::TooLarge(format!(
                    "the code in `{}` is over {CODE_BYTES_MAX} bytes or {FILES_MAX} files",
                    folder.display()
                )));
            }
            files.insert(below.join(name));
        }
    }
    Ok(files)
}

/// Checks that `dir` holds the code with this digest and nothing else that could run.
pub fn verify(dir: &Path, runtime: Runtime, digest: &str) -> Result<(), Error> {
    match runtime {
        Runtime::Wasm => read_component(dir, digest).map(drop),
        Runtime::Python | Runtime::Node | Runtime::Bootstrap => {
            let found = folder_digest(dir).map_err(|error| match error {
                FolderError::TooLarge(reason) => damaged(dir, &reason),
                FolderError::Io(error) => missing(dir, error),
            })?;
            same(dir, &found, digest)
        }
        // Looked after by itself.
        Runtime::Image => Ok(()),
    }
}

/// The component that `dir` holds, if it is the one with this digest.
pub fn read_component(dir: &Path, digest: &str) -> Result<Vec<u8>, Error> {
    let path = dir.join(COMPONENT);
    let code =
        std::fs::read(&path).map_err(|error| missing(dir, Error::io("read", &path)(error)))?;
    same(dir, &hex(&Sha256::digest(&code)), digest)?;
    Ok(code)
}

/// One file at a time: all of them may be large.
fn folder_digest(dir: &Path) -> Result<String, FolderError> {
    let mut sum = FilesSum::default();
    for file in list(dir, |_| false)? {
        let path = dir.join(&file);
        let content = std::fs::read(&path).map_err(FolderError::io("read", &path))?;
        sum.add(&file, &content);
    }
    Ok(sum.digest())
}

fn same(dir: &Path, found: &str, deployed: &str) -> Result<(), Error> {
    if found == deployed {
        return Ok(());
    }
    Err(damaged(dir, "its content is not what was deployed"))
}

fn missing(dir: &Path, error: Error) -> Error {
    match error {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            damaged(dir, "files of it are missing")
        }
        error => error,
    }
}

fn damaged(dir: &Path, reason: &str) -> Error {
    Error::Damaged {
        path: dir.to_owned(),
        reason: reason.to_owned(),
    }
}

/// The digest of several files, added in the order of their paths.
#[derive(Default)]
struct FilesSum(Sha256);

impl FilesSum {
    fn add(&mut self, path: &Path, content: &[u8]) {
        let path = path.to_string_lossy();
        self.0.update((path.len() as u64).to_le_bytes());
        self.0.update(path.as_bytes());
        self.0.update((content.len() as u64).to_le_bytes());
        self.0.update(content);
    }

    fn digest(self) -> String {
        hex(&self.0.finalize())
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
