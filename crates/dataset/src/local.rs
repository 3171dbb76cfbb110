//! A local directory as an object store whose puts are on disk when they return.
//!
//! `object_store`'s own `LocalFileSystem` (0.13) never calls fsync: after a power cut a manifest could be empty while
//! the log that it replaced is already trimmed. Here a put writes beside the target, syncs the file, moves it into
//! place and syncs the directories; reading and listing are `LocalFileSystem`'s. Everything that changes something
//! goes through [`Disk`].

use std::{
    collections::HashSet,
    fmt, fs, io,
    path::{Path as FsPath, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::{StreamExt as _, stream::BoxStream};
use lambic_base::{Disk, RealDisk};
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result, UploadPart, local::LocalFileSystem, path::Path,
};

use crate::manifest::manifest_number;

/// The store of a local data folder.
#[derive(Debug)]
pub struct LocalStore {
    files: Arc<Files>,
    /// Reads and lists the same objects.
    reads: Arc<dyn ObjectStore>,
}

/// What changes files.
#[derive(Debug)]
struct Files {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    /// Folders below the root whose own entries are durable for certain: one that is there may be what is left of an
    /// attempt that failed.
    folders: Mutex<HashSet<PathBuf>>,
}

/// The folders below the root that are the store's own; everything else there belongs to other rooms.
const FOLDERS: [&str; 3] = ["dataset", "erasures", "views"];
/// Staging files end in this, `#` and digits: `LocalFileSystem` leaves such names out of every listing.
const STAGED_SUFFIX: &str = ".lambic-staged";
/// What is stored here ends in one of these; the first version named staging files after it alone.
const OBJECT_SUFFIXES: [&str; 2] = [".parquet", ".json"];
static STAGED: AtomicU64 = AtomicU64::new(0);

/// Files that are deleted at a time.
const DELETES_AT_A_TIME: usize = 8;

impl LocalStore {
    /// The directory is created if it is not there, and what a killed process was still writing to the store's own
    /// folders is removed: the caller holds the data folder's lock.
    pub fn open(root: impl AsRef<FsPath>) -> Result<LocalStore> {
        let reading = LocalStore::shared(root)?;
        let root = reading.root().to_owned();
        LocalStore::open_on(Arc::new(RealDisk), reading.reads, root)
    }

    /// A directory that others may write to at the same time: it is created if it is not there, and nothing is removed.
    pub fn shared(root: impl AsRef<FsPath>) -> Result<LocalStore> {
        let root = root.as_ref();
        RealDisk
            .create_dir(root)
            .map_err(|source| failed(root, source))?;
        LocalStore::to_read(root)
    }

    /// Removes what killed processes were still writing anywhere below the root; nobody may write meanwhile.
    pub fn remove_staged(&self) -> Result<()> {
        let is_staged = |name: &str| {
            name.rsplit_once('#')
                .is_some_and(|(_, digits)| digits.bytes().all(|byte| byte.is_ascii_digit()))
        };
        let removed = tidy(&*self.files.disk, self.root(), &is_staged);
        removed.map_err(|source| failed(self.root(), source))
    }

    /// As [`LocalStore::open`], on any disk; `reads` is a store of the files that are there below `root`, which exists.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        reads: Arc<dyn ObjectStore>,
        root: PathBuf,
    ) -> Result<LocalStore> {
        for folder in FOLDERS.map(|folder| root.join(folder)) {
            match tidy(&*disk, &folder, &is_staged) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed(&folder, error));
                }
                _ => {}
            }
        }
        // The folders themselves.
        disk.sync_dir(&root)
            .map_err(|source| failed(&root, source))?;
        Ok(LocalStore::with(disk, reads, root))
    }

    /// A directory that is there, to be read only: nothing is created, and nothing is removed.
    pub fn to_read(root: impl AsRef<FsPath>) -> Result<LocalStore> {
        let root = root.as_ref();
        let root = fs::canonicalize(root).map_err(|source| failed(root, source))?;
        let reads = Arc::new(LocalFileSystem::new_with_prefix(&root)?);
        Ok(LocalStore::with(Arc::new(RealDisk), reads, root))
    }

    fn with(disk: Arc<dyn Disk>, reads: Arc<dyn ObjectStore>, root: PathBuf) -> LocalStore {
        let files = Arc::new(Files {
            disk,
            root,
            folders: Mutex::default(),
        });
        LocalStore { files, reads }
    }

    pub fn root(&self) -> &FsPath {
        &self.files.root
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

/// Removes what a killed process was still writing, and makes durable what it put without coming to that.
fn tidy(disk: &dyn Disk, dir: &FsPath, is_staged: &dyn Fn(&str) -> bool) -> io::Result<()> {
    for path in disk.list(dir)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if disk.is_dir(&path) {
            tidy(disk, &path, is_staged)?;
        } else if is_staged(&name) {
            disk.remove(&path)?;
        }
    }
    disk.sync_dir(dir)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|source| Error::JoinError { source })?
}

fn parent_of(path: &FsPath) -> &FsPath {
    path.parent().expect("an object lies below the root")
}

impl Files {
    fn path_of(&self, location: &Path) -> PathBuf {
        self.root.join(location.as_ref())
    }

    /// The folder is there, and will be after a crash.
    fn make_folder(&self, folder: &FsPath) -> io::Result<()> {
        let known = || self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if folder == self.root || known().contains(folder) {
            return Ok(());
        }
        self.make_folder(parent_of(folder))?;
        self.disk.create_dir(folder)?;
        known().insert(folder.to_owned());
        Ok(())
    }

    /// Writes `payload` to `path` as a whole, durably. [`io::ErrorKind::AlreadyExists`] is answered about what is durable.
    fn put(&self, path: &FsPath, payload: &PutPayload, mode: &PutMode) -> io::Result<()> {
        let (disk, parent) = (&self.disk, parent_of(path));
        self.make_folder(parent)?;
        let mut staged = path.as_os_str().to_owned();
        staged.push(format!(
            "{STAGED_SUFFIX}#{}{}",
            std::process::id(),
            STAGED.fetch_add(1, Ordering::Relaxed)
        ));
        let staged = PathBuf::from(staged);
        let written = disk.create(&staged).and_then(|file| {
            let mut position = 0;
            for part in payload.iter() {
                file.write_all_at(part, position)?;
                position += part.len() as u64;
            }
            file.sync()?;
            match mode {
                PutMode::Create => {
                    // A link, unlike a rename, fails if the target is there: this is the compare-and-swap.
                    disk.link(&staged, path)?;
                    // The object is in place; a staging file left over is only litter.
                    let _ = disk.remove(&staged);
                    Ok(())
                }
                _ => disk.rename(&staged, path),
            }
        });
        if let Err(error) = written {
            let _ = disk.remove(&staged);
            if error.kind() == io::ErrorKind::AlreadyExists {
                // The put that made it may have failed at this very step.
                disk.sync_dir(parent)?;
            }
            return Err(error);
        }
        disk.sync_dir(parent)
    }

    fn remove(&self, location: &Path) -> Result<()> {
        let path = self.path_of(location);
        let removed = self.disk.remove(&path).and_then(|()| {
            // Its files go next: it must not outlive them where the power goes off.
            let is_manifest = location.filename().and_then(manifest_number).is_some();
            match is_manifest {
                true => self.disk.sync_dir(parent_of(&path)),
                false => Ok(()),
            }
        });
        removed.map_err(|source| failed(&path, source))
    }
}

impl fmt::Display for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalStore({})", self.root().display())
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
        let (files, path) = (Arc::clone(&self.files), self.files.path_of(location));
        blocking(move || {
            let done = files.put(&path, &payload, &options.mode);
            done.map_err(|source| failed(&path, source))
        })
        .await?;
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
        let (files, path) = (Arc::clone(&self.files), self.files.path_of(location));
        let parent = parent_of(&path).to_owned();
        blocking(move || {
            let made = files.make_folder(&parent);
            made.map_err(|source| failed(&parent, source))
        })
        .await?;
        let upload = self.reads.put_multipart_opts(location, options).await?;
        let disk = Arc::clone(&self.files.disk);
        Ok(Box::new(Upload { upload, disk, path }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.reads.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let files = Arc::clone(&self.files);
        let remove = move |location: Result<Path>| {
            let files = Arc::clone(&files);
            async move {
                let location = location?;
                let removed = location.clone();
                blocking(move || files.remove(&removed)).await?;
                Ok(location)
            }
        };
        locations.map(remove).buffered(DELETES_AT_A_TIME).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.reads.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.reads.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let mode = match options.mode {
            CopyMode::Overwrite => PutMode::Overwrite,
            CopyMode::Create => PutMode::Create,
        };
        let bytes = self.reads.get(from).await?.bytes().await?;
        self.put_opts(to, bytes.into(), mode.into()).await?;
        Ok(())
    }
}

/// A file written in parts; durable when `complete` returns.
#[derive(Debug)]
struct Upload {
    upload: Box<dyn MultipartUpload>,
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

#[async_trait::async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.upload.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let result = self.upload.complete().await?;
        let (disk, path) = (Arc::clone(&self.disk), self.path.clone());
        blocking(move || {
            let synced = disk.open(&path).and_then(|file| {
                file.sync()?;
                disk.sync_dir(parent_of(&path))
            });
            synced.map_err(|source| failed(&path, source))
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
