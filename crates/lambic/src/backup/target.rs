//! Where backups are: a folder, or what a URL names.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    path::Path as FsPath,
    sync::Arc,
};

use futures::TryStreamExt as _;
use lambic_base::file;
use lambic_dataset::LocalStore;
use object_store::{
    Error as StoreError, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions,
    buffered::BufWriter, path::Path,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use super::{
    Error, Manifest, hex,
    place::{self, Place},
};

const MARK: &str = "lambic-backup.json";
const FORMAT: u32 = 1;
const FILES: &str = "files";
const BACKUPS: &str = "backups";
/// Of a file, read at a time.
const READ_BYTES: usize = 1 << 20;

#[derive(Clone)]
pub struct Target {
    store: Arc<dyn ObjectStore>,
    /// Below which everything is.
    prefix: Path,
    /// Of a folder on this machine.
    local: Option<Arc<LocalStore>>,
    /// As it was named.
    shown: String,
}

#[derive(Serialize, Deserialize)]
struct Mark {
    format: u32,
}

impl Target {
    fn in_folder(folder: &FsPath, local: LocalStore) -> Target {
        let local = Arc::new(local);
        Target {
            store: Arc::clone(&local) as Arc<dyn ObjectStore>,
            prefix: Path::default(),
            local: Some(local),
            shown: folder.display().to_string(),
        }
    }

    fn in_store(text: &str, store: Arc<dyn ObjectStore>, prefix: Path) -> Target {
        Target {
            store,
            prefix,
            local: None,
            shown: text.trim_end_matches('/').to_owned(),
        }
    }

    pub fn shown(&self) -> &str {
        &self.shown
    }

    pub fn folder(&self) -> Option<&FsPath> {
        self.local.as_ref().map(|local| local.root())
    }

    pub(super) fn at(&self, parts: &[&str]) -> Path {
        parts
            .iter()
            .fold(self.prefix.clone(), |path, part| path.join(*part))
    }

    fn content(&self, sha256: &str) -> Path {
        self.at(&[FILES, sha256.get(..2).unwrap_or_default(), sha256])
    }

    pub(super) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    pub(super) async fn get(&self, path: &Path) -> Result<Option<bytes::Bytes>, Error> {
        match self.store.get(path).await {
            Ok(found) => Ok(Some(found.bytes().await?)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// To read backups that are there.
    pub async fn open(text: &str) -> Result<Target, Error> {
        let none = |shown: &str| {
            Error::Refused(format!(
                "there are no backups in `{shown}`: it has no {MARK}"
            ))
        };
        let target = match Place::named(text)? {
            Place::Folder(folder) if !folder.is_dir() => {
                return Err(none(&folder.display().to_string()));
            }
            Place::Folder(folder) => Target::in_folder(&folder, LocalStore::to_read(&folder)?),
            Place::Store { store, prefix } => Target::in_store(text, store, prefix),
        };
        match target.get(&target.at(&[MARK])).await? {
            None => Err(none(&target.shown)),
            Some(mark) => target.check(&mark).map(|()| target),
        }
    }

    fn check(&self, mark: &[u8]) -> Result<(), Error> {
        let path = format!("{}/{MARK}", self.shown);
        match serde_json::from_slice::<Mark>(mark) {
            Ok(Mark { format: FORMAT }) => Ok(()),
            Ok(Mark { format }) => Err(Error::Refused(format!(
                "the backups in `{}` have format {format}, which this version does not know; use the version that made them",
                self.shown
            ))),
            Err(error) => Err(Error::Damaged(format!("`{path}` is damaged: {error}"))),
        }
    }

    /// To write backups of the data folder `data` to: one that has some, or is empty, or is not there yet.
    pub async fn create(text: &str, data: &FsPath) -> Result<Target, Error> {
        let target = match Place::named(text)? {
            Place::Folder(folder) => {
                place::outside(&folder, data)?;
                if folder.exists() && !folder.is_dir() {
                    return Err(Error::Refused(format!(
                        "`{}` is a file, not a folder",
                        folder.display()
                    )));
                }
                Target::in_folder(&folder, LocalStore::shared(&folder)?)
            }
            Place::Store { store, prefix } => Target::in_store(text, store, prefix),
        };
        let mark = target.at(&[MARK]);
        if let Some(found) = target.get(&mark).await? {
            return target.check(&found).map(|()| target);
        }
        if let Some(other) = target.anything().await? {
            return Err(Error::Refused(format!(
                "`{}` is not empty and holds no backups of Lambic (there is `{other}`): name a new or an empty folder",
                target.shown
            )));
        }
        let bytes = serde_json::to_vec(&Mark { format: FORMAT }).expect("plain data serialises");
        target.put_new(&mark, bytes).await?;
        Ok(target)
    }

    /// The name of something that is there.
    async fn anything(&self) -> Result<Option<String>, Error> {
        if let Some(folder) = self.folder() {
            let entries = fs::read_dir(folder).map_err(Error::io("list", folder))?;
            let names = entries
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned());
            // What a killed process was still writing, and what a disk of its own has.
            let mut others = names.filter(|name| !name.starts_with(MARK) && name != "lost+found");
            return Ok(others.next());
        }
        let mut objects = self.store.list(Some(&self.prefix));
        while let Some(object) = objects.try_next().await? {
            // What consoles of stores make where they are asked for a folder.
            let is_folder = object.size == 0 && object.location == self.prefix;
            if !is_folder {
                return Ok(Some(object.location.to_string()));
            }
        }
        Ok(None)
    }

    /// It may be there already.
    pub(super) async fn put_new(&self, path: &Path, bytes: Vec<u8>) -> Result<(), Error> {
        let create = PutOptions::from(PutMode::Create);
        match self.store.put_opts(path, bytes.into(), create).await {
            Ok(_) | Err(StoreError::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The hashes of all content, with sizes.
    pub async fn contents(&self) -> Result<BTreeMap<String, u64>, Error> {
        let objects = self.store.list(Some(&self.at(&[FILES])));
        let each = objects.try_filter_map(|object| async move {
            let name = object.location.filename().map(str::to_owned);
            Ok(name.map(|name| (name, object.size)))
        });
        Ok(each.try_collect().await?)
    }

    /// Ids of all backups, the oldest first.
    pub async fn ids(&self) -> Result<Vec<String>, Error> {
        let listed = self
            .store
            .list_with_delimiter(Some(&self.at(&[BACKUPS])))
            .await?;
        let names = listed.objects.iter();
        let names = names.filter_map(|object| object.location.filename()?.strip_suffix(".json"));
        let mut ids: Vec<String> = names.map(str::to_owned).collect();
        ids.sort();
        Ok(ids)
    }

    fn manifest_path(&self, id: &str) -> Path {
        self.at(&[BACKUPS, &format!("{id}.json")])
    }

    pub async fn manifest(&self, id: &str) -> Result<Manifest, Error> {
        let path = self.manifest_path(id);
        let Some(bytes) = self.get(&path).await? else {
            let ids = self.ids().await?;
            let there = match ids.as_slice() {
                [] => "none are".to_owned(),
                ids => format!("there are {}", ids.join(", ")),
            };
            return Err(Error::Refused(format!(
                "there is no backup {id} in `{}`; {there}",
                self.shown
            )));
        };
        let damaged = |reason: String| {
            Error::Damaged(format!(
                "the list of backup {id} (`{path}`) is damaged: {reason}; take another backup"
            ))
        };
        let manifest = Manifest::decode(&bytes).map_err(damaged)?;
        match manifest.id == id {
            true => Ok(manifest),
            false => Err(damaged(format!("it is that of backup {}", manifest.id))),
        }
    }

    pub async fn put_manifest(&self, manifest: &Manifest) -> Result<(), Error> {
        let path = self.manifest_path(&manifest.id);
        self.put_new(&path, manifest.encode()).await
    }

    pub async fn delete_manifest(&self, id: &str) -> Result<(), Error> {
        self.delete(&self.manifest_path(id)).await
    }

    pub async fn delete_content(&self, sha256: &str) -> Result<(), Error> {
        self.delete(&self.content(sha256)).await
    }

    pub(super) async fn delete(&self, path: &Path) -> Result<(), Error> {
        match self.store.delete(path).await {
            Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// What killed backups were still writing; nobody else may be at work.
    pub fn remove_litter(&self) -> Result<(), Error> {
        match &self.local {
            Some(local) => Ok(local.remove_staged()?),
            None => Ok(()),
        }
    }

    /// Copies a file whose content has this hash; it is there as a whole, durably, or not at all.
    pub async fn put_content(&self, from: &FsPath, sha256: &str) -> Result<(), Error> {
        let to = self.content(sha256);
        if let Some(folder) = self.folder() {
            let (from, to, sha256) = (from.to_owned(), folder.join(to.as_ref()), sha256.to_owned());
            let put = move || put_local(&from, &to, &sha256);
            return tokio::task::spawn_blocking(put).await?;
        }
        let mut writer = BufWriter::new(Arc::clone(&self.store), to);
        let uploaded = upload(from, sha256, &mut writer).await;
        if uploaded.is_err() {
            // The error is the one to tell. Without this the store keeps, and charges for, what has come.
            let _ = writer.abort().await;
        }
        uploaded
    }

    /// Reads content piece by piece and compares it with its hash at the end. `None` if it is not there.
    pub async fn read_content(
        &self,
        sha256: &str,
        mut each: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<Option<bool>, Error> {
        let found = match self.store.get(&self.content(sha256)).await {
            Ok(found) => found,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut pieces = found.into_stream();
        let mut hash = Sha256::new();
        while let Some(piece) = pieces.try_next().await? {
            hash.update(&piece);
            each(&piece)?;
        }
        Ok(Some(hex(hash.finalize()) == sha256))
    }

    /// Where content is, to be named.
    pub fn content_shown(&self, sha256: &str) -> String {
        format!(
            "{}/{FILES}/{}/{sha256}",
            self.shown,
            sha256.get(..2).unwrap_or_default()
        )
    }
}

fn changed(path: &FsPath) -> Error {
    Error::Damaged(format!(
        "`{}` changed while it was copied; is another program writing to the data folder?",
        path.display()
    ))
}

async fn upload(from: &FsPath, sha256: &str, writer: &mut BufWriter) -> Result<(), Error> {
    let mut hash = Sha256::new();
    let failed = |error| Error::io("copy", from)(error);
    let mut file = tokio::fs::File::open(from).await.map_err(failed)?;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = tokio::io::AsyncReadExt::read(&mut file, &mut buffer);
        let read = read.await.map_err(failed)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        writer.write_all(&buffer[..read]).await.map_err(failed)?;
    }
    match hex(hash.finalize()) == sha256 {
        true => writer.shutdown().await.map_err(failed),
        false => Err(changed(from)),
    }
}

fn put_local(from: &FsPath, to: &FsPath, sha256: &str) -> Result<(), Error> {
    let folder = to.parent().expect("content lies below the target");
    file::create_dirs(folder).map_err(Error::io("create", folder))?;
    let chance = uuid::Uuid::new_v4().as_u64_pair().0;
    let staged = folder.join(format!("{sha256}#{chance}"));
    let copied = copy_hashed(from, &staged);
    let copied = copied.and_then(|found| match found == sha256 {
        true => fs::rename(&staged, to).map_err(Error::io("create", to)),
        false => Err(changed(from)),
    });
    if copied.is_err() {
        // The error is the one to tell.
        let _ = fs::remove_file(&staged);
    }
    copied?;
    file::sync_dir(folder).map_err(Error::io("sync", folder))
}

/// Returns the hash of what was copied, durably.
fn copy_hashed(from: &FsPath, to: &FsPath) -> Result<String, Error> {
    let mut reading = fs::File::open(from).map_err(Error::io("read", from))?;
    let mut writing = fs::File::create(to).map_err(Error::io("create", to))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = reading.read(&mut buffer).map_err(Error::io("read", from))?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        writing
            .write_all(&buffer[..read])
            .map_err(Error::io("write", to))?;
    }
    writing.sync_all().map_err(Error::io("sync", to))?;
    Ok(hex(hash.finalize()))
}

/// SHA-256 and CRC32C of a file, and its size.
pub fn hashed(path: &FsPath) -> Result<(String, u32, u64), Error> {
    let mut file = fs::File::open(path).map_err(Error::io("read", path))?;
    let (mut hash, mut crc, mut bytes) = (Sha256::new(), 0, 0);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if read == 0 {
            return Ok((hex(hash.finalize()), crc, bytes));
        }
        hash.update(&buffer[..read]);
        crc = crc32c::crc32c_append(crc, &buffer[..read]);
        bytes += read as u64;
    }
}
