//! A local directory as an object store whose puts are on disk when they return.
//!
//! `object_store`'s own `LocalFileSystem` (0.13) never calls fsync: after a power cut a manifest could be empty while
//! the log that it replaced is already trimmed. Here a put writes beside the target, syncs the file, moves it into
//! place and syncs the directories; reading, listing and deleting are `LocalFileSystem`'s.

use std::{
    fmt, fs, io,
    io::Write as _,
    path::{Path as FsPath, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::stream::BoxStream;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result, UploadPart, local::LocalFileSystem, path::Path,
};

/// The store of a local data folder.
#[derive(Debug)]
pub struct LocalStore {
    inner: Arc<LocalFileSystem>,
    root: PathBuf,
}

/// The folders below the root that are the store's own; everything else there belongs to other rooms.
const FOLDERS: [&str; 2] = ["dataset", "views"];
/// Staging files end in this, `#` and digits: `LocalFileSystem` leaves such names out of every listing.
const STAGED_SUFFIX: &str = ".lambic-staged";
/// What is stored here ends in one of these; the first version named staging files after it alone.
const OBJECT_SUFFIXES: [&str; 2] = [".parquet", ".json"];
static STAGED: AtomicU64 = AtomicU64::new(0);

impl LocalStore {
    /// The directory is created if it is not there, and what a killed process was still writing to the store's own
    /// folders is removed: the caller holds the data folder's lock.
    pub fn open(root: impl AsRef<FsPath>) -> Result<LocalStore> {
        let root = root.as_ref();
        create_dirs(root)?;
        let root = fs::canonicalize(root).map_err(|source| failed(root, source))?;
        for folder in FOLDERS.map(|folder| root.join(folder)) {
            match remove_staged(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed(&folder, error));
                }
                _ => {}
            }
        }
        Ok(LocalStore {
            inner: Arc::new(LocalFileSystem::new_with_prefix(&root)?),
            root,
        })
    }

    /// A directory that is there, to be read only: nothing is created, and nothing is removed.
    pub fn to_read(root: impl AsRef<FsPath>) -> Result<LocalStore> {
        let root = root.as_ref();
        let root = fs::canonicalize(root).map_err(|source| failed(root, source))?;
        Ok(LocalStore {
            inner: Arc::new(LocalFileSystem::new_with_prefix(&root)?),
            root,
        })
    }

    pub fn root(&self) -> &FsPath {
        &self.root
    }
}

fn failed(path: &FsPath, source: io::Error) -> Error {
    let path = path.display().to_string();
    match source.kind() {
        io::ErrorKind::NotFound => Error::NotFound {
            path,
            source: source.into(),
        },
        io::ErrorKind::AlreadyExists => Error::AlreadyExists {
            path,
            source: source.into(),
        },
        _ => Error::Generic {
            store: "LocalStore",
            source: format!("{path}: {source}").into(),
        },
    }
}

fn is_staged(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(object, digits)| {
        let is_ours = |suffix: &&str| object.ends_with(*suffix);
        !digits.is_empty()
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && OBJECT_SUFFIXES.iter().chain([&STAGED_SUFFIX]).any(is_ours)
    })
}

fn remove_staged(dir: &FsPath) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            remove_staged(&entry.path())?;
        } else if kind.is_file() && is_staged(&entry.file_name().to_string_lossy()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|source| Error::JoinError { source })?
}

fn sync_dir(dir: &FsPath) -> Result<()> {
    lambic_base::file::sync_dir(dir).map_err(|source| failed(dir, source))
}

fn create_dirs(dir: &FsPath) -> Result<()> {
    lambic_base::file::create_dirs(dir).map_err(|source| failed(dir, source))
}

fn parent_of(path: &FsPath) -> &FsPath {
    path.parent().expect("an object lies below the root")
}

/// Writes `payload` to `path` as a whole, durably.
fn put(path: &FsPath, payload: &PutPayload, mode: &PutMode) -> Result<()> {
    let parent = parent_of(path);
    if !parent.is_dir() {
        create_dirs(parent)?;
    }
    let mut staged = path.as_os_str().to_owned();
    staged.push(format!(
        "{STAGED_SUFFIX}#{}{}",
        std::process::id(),
        STAGED.fetch_add(1, Ordering::Relaxed)
    ));
    let staged = PathBuf::from(staged);
    let written = (|| {
        let mut file = fs::File::create(&staged)?;
        for part in payload.iter() {
            file.write_all(part)?;
        }
        file.sync_all()?;
        match mode {
            PutMode::Create => {
                // A link, unlike a rename, fails if the target is there: this is the compare-and-swap.
                fs::hard_link(&staged, path)?;
                // The object is in place; a staging file left over is only litter.
                let _ = fs::remove_file(&staged);
                Ok(())
            }
            _ => fs::rename(&staged, path),
        }
    })();
    if let Err(error) = written {
        let _ = fs::remove_file(&staged);
        return Err(failed(path, error));
    }
    sync_dir(parent)
}

impl fmt::Display for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalStore({})", self.root.display())
    }
}

#[async_trait::async_trait]
impl ObjectStore for LocalStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        if matches!(options.mode, PutMode::Update(_)) || !options.attributes.is_empty() {
            return Err(Error::NotImplemented {
                operation: "a put with an update mode or attributes".to_owned(),
                implementer: self.to_string(),
            });
        }
        let path = self.inner.path_to_filesystem(location)?;
        blocking(move || put(&path, &payload, &options.mode)).await?;
        Ok(PutResult {
            e_tag: None,
            version: None,
        })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let path = self.inner.path_to_filesystem(location)?;
        let parent = parent_of(&path).to_owned();
        blocking(move || create_dirs(&parent)).await?;
        let upload = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(Upload { upload, path }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let mode = match options.mode {
            CopyMode::Overwrite => PutMode::Overwrite,
            CopyMode::Create => PutMode::Create,
        };
        let bytes = self.inner.get(from).await?.bytes().await?;
        self.put_opts(to, bytes.into(), mode.into()).await?;
        Ok(())
    }
}

/// A file written in parts; durable when `complete` returns.
#[derive(Debug)]
struct Upload {
    upload: Box<dyn MultipartUpload>,
    path: PathBuf,
}

#[async_trait::async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.upload.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let result = self.upload.complete().await?;
        let path = self.path.clone();
        blocking(move || {
            fs::File::open(&path)
                .and_then(|file| file.sync_all())
                .map_err(|source| failed(&path, source))?;
            sync_dir(parent_of(&path))
        })
        .await?;
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_a_killed_put_left_is_removed() {
        let scratch = tempfile::tempdir().unwrap();
        let left = [
            "dataset/7-s/p0/0-1.parquet.lambic-staged#12",
            "views/v/v1/manifest-1.json.lambic-staged#3",
            // As the first version named them.
            "dataset/7-s/p0/0-1.parquet#12",
        ];
        let kept = [
            "functions/code/abc/data#1",
            "functions/code/abc/a.parquet#1",
            "log/x.lambic-staged#1",
            "notes#2",
            "dataset/7-s/p0/0-1.parquet",
            "dataset/7-s/notes#1",
        ];
        for path in left.iter().chain(&kept) {
            let path = scratch.path().join(path);
            fs::create_dir_all(parent_of(&path)).unwrap();
            fs::write(path, "x").unwrap();
        }
        LocalStore::open(scratch.path()).unwrap();
        let there = |path: &&str| scratch.path().join(path).exists();
        assert!(!left.iter().any(there));
        assert!(kept.iter().all(there));
    }

    #[tokio::test]
    async fn what_is_being_written_is_not_listed() {
        let scratch = tempfile::tempdir().unwrap();
        let store = LocalStore::open(scratch.path()).unwrap();
        let object = Path::from("dataset/a.parquet");
        store.put(&object, "x".into()).await.unwrap();
        let staged = format!("dataset/b.parquet{STAGED_SUFFIX}#1");
        fs::write(scratch.path().join(staged), "x").unwrap();
        let listed = store
            .list_with_delimiter(Some(&Path::from("dataset")))
            .await;
        let listed: Vec<_> = listed.unwrap().objects;
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].location, object);
    }
}
