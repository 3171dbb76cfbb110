//! The handle through which the other rooms seal, list and verify the master dataset.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, RwLock, Weak},
};

use futures::{StreamExt as _, TryStreamExt as _};
use lambic_model::{
    Frontier, OffsetRange, PartitionId, Stream, StreamId, StreamName, StreamSchema,
};
use object_store::{
    Error as StoreError, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions,
    PutPayload, path::Path,
};

use crate::{
    DataFile, Error, Manifest, ManifestStore, Tail,
    manifest::{FileErased, contains, data_file_name, manifest_number, range_of},
    parquet_file,
    seal::{self, Sealed},
};

/// The dataset's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Sealing begins a new file at about this size, compressed.
    pub file_bytes_max: u64,
    /// Sealing begins a new file after this many records.
    pub file_rows_max: u64,
    /// How much of the log sealing holds in memory at a time.
    pub chunk_bytes: u64,
    /// So many small files that follow one another are worth being made one; 0: never.
    pub compact_files: usize,
    /// How many of a stream's newest manifests are kept; only the newest is read.
    pub manifests_kept: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            file_bytes_max: 64 << 20,
            file_rows_max: 2_000_000,
            chunk_bytes: 8 << 20,
            compact_files: 8,
            manifests_kept: 16,
        }
    }
}

/// All streams' sealed records. Clones are handles to the same dataset.
#[derive(Clone)]
pub struct Dataset(Arc<Inner>);

struct Inner {
    store: Arc<dyn ObjectStore>,
    options: Options,
    streams: RwLock<HashMap<StreamId, Arc<Part>>>,
    current: RwLock<Manifests>,
    /// What files were, by path, when their checksum was right last.
    verified: Mutex<HashMap<String, ObjectMeta>>,
}

/// The newest manifest of every stream, at one moment. Who holds it can read the files that it lists.
pub(crate) type Manifests = Arc<HashMap<StreamId, Arc<Manifest>>>;

/// One stream's part of the dataset.
pub(crate) struct Part {
    /// As it was when it was added: its name and id stay.
    pub(crate) stream: Arc<Stream>,
    /// As new as any record that a seal may read.
    now: RwLock<Arc<Stream>>,
    pub(crate) manifests: ManifestStore<Manifest>,
    /// Former manifests, as far as somebody still holds them.
    pub(crate) superseded: Mutex<Vec<Weak<Manifest>>>,
    /// Changes of one stream's manifest take turns. Holds the manifests of those that ended before they knew whether
    /// theirs was committed: whoever waits for a change may go away while the store is still at it.
    pub(crate) changing: tokio::sync::Mutex<Vec<Manifest>>,
}

impl Part {
    pub(crate) fn now(&self) -> Arc<Stream> {
        let now = self.now.read();
        Arc::clone(&now.expect("no one panics while holding the stream"))
    }
}

/// `dataset/<stream id>-<name>`, relative to the store's root.
pub(crate) fn directory(stream: &Stream) -> Path {
    directory_of(stream.id, &stream.name)
}

fn directory_of(stream: StreamId, name: &StreamName) -> Path {
    Path::from("dataset").join(format!("{stream}-{name}"))
}

fn path_of(
    stream: &Stream,
    range: OffsetRange,
    erased: Option<FileErased>,
    compacted: bool,
) -> Path {
    let erasure = erased.map(|erased| erased.number);
    directory(stream)
        .join(format!("p{}", range.partition))
        .join(data_file_name(range, erasure, compacted))
}

impl Dataset {
    /// `store` is rooted at the data folder; for a local one see [`crate::LocalStore`]. Streams are added one by one.
    pub async fn open(store: Arc<dyn ObjectStore>, options: Options) -> Result<Dataset, Error> {
        Ok(Dataset(Arc::new(Inner {
            store,
            options,
            streams: RwLock::default(),
            current: RwLock::default(),
            verified: Mutex::default(),
        })))
    }

    pub fn options(&self) -> &Options {
        &self.0.options
    }

    pub fn store(&self) -> Arc<dyn ObjectStore> {
        self.0.store.clone()
    }

    /// Loads the stream's newest manifest, and checks that every file it lists is there in its full size. What a seal or
    /// an erasure left that was killed stays until [`Dataset::tidy`].
    pub async fn add_stream(&self, stream: Arc<Stream>) -> Result<(), Error> {
        let manifests = ManifestStore::<Manifest>::new(
            self.store(),
            directory(&stream),
            self.0.options.manifests_kept,
        );
        let manifest = match manifests.load().await? {
            None => Manifest::empty(&stream),
            Some((number, manifest)) => {
                check_manifest(&stream, number, &manifest).map_err(|reason| {
                    Error::ManifestInconsistent {
                        path: manifests.path(number).to_string(),
                        reason,
                    }
                })?;
                manifest
            }
        };
        self.check_files(&stream, &manifest).await?;
        let part = Part {
            manifests,
            superseded: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            now: RwLock::new(stream.clone()),
            stream: stream.clone(),
        };
        self.change_current(|current| {
            current.insert(stream.id, Arc::new(manifest));
        });
        self.streams_mut().insert(stream.id, Arc::new(part));
        Ok(())
    }

    /// From now on the stream, if it is there, has these columns: those of a later version of its schema.
    pub fn change_stream(&self, stream: Arc<Stream>) {
        if let Ok(part) = self.part(stream.id) {
            let now = part.now.write();
            *now.expect("no one panics while holding the stream") = stream;
        }
    }

    /// The stream in its present columns.
    pub(crate) fn stream(&self, stream: StreamId) -> Option<Arc<Stream>> {
        Some(self.part(stream).ok()?.now())
    }

    /// Forgets the stream; its files stay. See [`Dataset::erase_stream`].
    pub fn remove_stream(&self, stream: StreamId) {
        self.streams_mut().remove(&stream);
        self.change_current(|current| {
            current.remove(&stream);
        });
    }

    /// Forgets the stream and deletes its manifests and files, for a dropped stream; nothing brings them back.
    pub async fn erase_stream(&self, stream: StreamId, name: &StreamName) -> Result<(), Error> {
        let part = self.part(stream).ok();
        self.remove_stream(stream);
        // A seal that is at it ends first; one that waits finds the stream gone.
        let _turn = match &part {
            Some(part) => Some(part.changing.lock().await),
            None => None,
        };
        // Manifests go first: a crash in between must not leave a manifest that lists deleted files.
        let mut objects = self.objects(directory_of(stream, name)).await?;
        objects.sort_by_key(|object| {
            object
                .location
                .filename()
                .and_then(manifest_number)
                .map_or((1, 0), |number| (0, number))
        });
        for object in objects {
            match self.0.store.delete(&object.location).await {
                Ok(()) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The stream's present manifest; an empty one (number 0) if the stream is not part of the dataset.
    pub fn manifest(&self, stream: StreamId) -> Arc<Manifest> {
        manifest_in(&self.manifests(), stream)
    }

    pub(crate) fn manifests(&self) -> Manifests {
        let current = self.0.current.read();
        Arc::clone(&current.expect("no one panics while holding the manifests"))
    }

    pub(crate) fn change_current(
        &self,
        change: impl FnOnce(&mut HashMap<StreamId, Arc<Manifest>>),
    ) {
        let current = self.0.current.write();
        let mut current = current.expect("no one panics while holding the manifests");
        // Who holds the former set goes on with it.
        change(Arc::make_mut(&mut current));
    }

    /// Makes everything up to the log's head part of the dataset, and returns the manifest that says so. Without new
    /// records nothing is written and the present manifest is returned.
    pub async fn seal(
        &self,
        stream: StreamId,
        log: &lambic_log::Snapshot,
    ) -> Result<Arc<Manifest>, Error> {
        self.seal_from(stream, log).await
    }

    /// [`Dataset::seal`], reading from anything that is like the log.
    pub async fn seal_from(
        &self,
        stream: StreamId,
        tail: &impl Tail,
    ) -> Result<Arc<Manifest>, Error> {
        let part = self.part(stream)?;
        let mut undecided = self.turn(&part).await?;
        loop {
            match self.seal_once(&part, tail, &mut undecided).await {
                Err(error) => self.again_after(&part, &mut undecided, error).await?,
                // That of a change of this process that was broken off.
                Ok(manifest) if !manifest.frontier.covers(&tail.head(stream)) => {}
                sealed => return sealed,
            }
        }
    }

    async fn seal_once(
        &self,
        part: &Arc<Part>,
        tail: &impl Tail,
        undecided: &mut Vec<Manifest>,
    ) -> Result<Arc<Manifest>, Error> {
        let stream = part.stream.id;
        let manifest = self.present(stream)?;
        let head = tail.head(stream);
        // Another seal had its turn since this look at the log.
        if manifest.frontier.covers(&head) {
            return Ok(manifest);
        }
        if !head.covers(&manifest.frontier) {
            return Err(Error::LogBehind {
                stream: part.stream.name.clone(),
                head,
                frontier: manifest.frontier.clone(),
            });
        }
        let start = tail.start(stream);
        let mut added = Vec::new();
        for range in head.ranges_since(&manifest.frontier) {
            let log_start = start.offset(range.partition);
            if log_start > range.first {
                return Err(Error::Gap {
                    stream: part.stream.name.clone(),
                    partition: range.partition,
                    dataset_end: range.first,
                    log_start,
                });
            }
            self.write_range(part, &manifest, tail, range, &mut added)
                .await?;
        }
        if added.is_empty() {
            return Ok(manifest);
        }
        let next = manifest.extended(added);
        if let Err(reason) = next.check() {
            panic!("sealing left a gap or an overlap: {reason}");
        }
        let files = next.files.len() - manifest.files.len();
        let next = self.commit(part, next, undecided).await?;
        tracing::debug!(
            stream = %part.stream.name,
            manifest = next.number,
            frontier = %next.frontier,
            files,
            "sealed"
        );
        Ok(next)
    }

    /// Writes the records of `range` as one or more files, not yet part of any manifest.
    async fn write_range(
        &self,
        part: &Arc<Part>,
        manifest: &Manifest,
        tail: &impl Tail,
        range: OffsetRange,
        added: &mut Vec<DataFile>,
    ) -> Result<(), Error> {
        let mut next = range.first;
        while next < range.end {
            let (stream, tail, options) = (part.now(), tail.clone(), self.0.options.clone());
            let rest = OffsetRange {
                first: next,
                ..range
            };
            let sealed = tokio::task::spawn_blocking(move || {
                seal::encode_next(&stream, &tail, rest, &options)
            })
            .await??;
            next = sealed.range.end;
            added.push(self.put_file(part, manifest, sealed).await?);
        }
        Ok(())
    }

    /// A file of this name can only be what a killed seal left behind, or that of another writer, who must win.
    pub(crate) async fn put_file(
        &self,
        part: &Part,
        manifest: &Manifest,
        sealed: Sealed,
    ) -> Result<DataFile, Error> {
        let path = path_of(&part.stream, sealed.range, sealed.erased, sealed.compacted);
        let file = DataFile {
            path: path.to_string(),
            range: sealed.range,
            bytes: sealed.file.len() as u64,
            crc32c: sealed.crc32c,
            erased: sealed.erased,
            schema: sealed.schema,
            compacted: sealed.compacted,
        };
        let payload = PutPayload::from(sealed.file);
        let create = PutOptions::from(PutMode::Create);
        match self.0.store.put_opts(&path, payload.clone(), create).await {
            Ok(_) => return Ok(file),
            Err(StoreError::AlreadyExists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(&newest) = part.manifests.numbers().await?.last()
            && newest > manifest.number
        {
            return Err(Error::Conflict {
                path: part.manifests.path(newest).to_string(),
            });
        }
        self.0.store.put(&path, payload).await?;
        Ok(file)
    }

    /// Reads the whole file and compares its checksum with the manifest's.
    pub async fn verify(&self, file: &DataFile) -> Result<(), Error> {
        let path = Path::from(file.path.as_str());
        let result = match self.0.store.get(&path).await {
            Ok(result) => result,
            Err(StoreError::NotFound { .. }) => return Err(missing(file)),
            Err(error) => return Err(error.into()),
        };
        let meta = result.meta.clone();
        check_size(file, meta.size)?;
        let found = result
            .into_stream()
            .try_fold(0, |crc, part| async move {
                Ok(crc32c::crc32c_append(crc, &part))
            })
            .await?;
        if found != file.crc32c {
            return Err(Error::FileDamaged {
                path: file.path.clone(),
                expected: file.crc32c,
                found,
            });
        }
        self.verified().insert(file.path.clone(), meta);
        Ok(())
    }

    /// [`Dataset::verify`] unless the file was found right before in this process, and was not written to since: for
    /// readers, before they use a file.
    pub async fn verify_once(&self, file: &DataFile) -> Result<(), Error> {
        let known = self.verified().get(&file.path).cloned();
        if let Some(known) = known {
            let now = self.0.store.head(&Path::from(file.path.as_str())).await;
            if now.is_ok_and(|now| now == known) {
                return Ok(());
            }
        }
        self.verify(file).await
    }

    /// Verifies all files of a stream, and returns what is wrong with them.
    pub async fn verify_stream(&self, stream: StreamId) -> Vec<Error> {
        let manifest = self.manifest(stream);
        futures::stream::iter(&manifest.files)
            .filter_map(|file| async move { self.verify(file).await.err() })
            .collect()
            .await
    }

    /// A file's records, after its checksum was verified.
    pub async fn read(&self, file: &DataFile) -> Result<Vec<arrow::array::RecordBatch>, Error> {
        self.verify_once(file).await?;
        let bytes = self
            .0
            .store
            .get(&Path::from(file.path.as_str()))
            .await?
            .bytes()
            .await?;
        tokio::task::spawn_blocking(move || parquet_file::decode(bytes))
            .await?
            .map_err(|source| Error::FileUnreadable {
                path: file.path.clone(),
                source,
            })
    }

    /// Compares the directory with the manifest.
    async fn check_files(&self, stream: &Stream, manifest: &Manifest) -> Result<(), Error> {
        let objects = self.objects(directory(stream)).await?;
        let sizes: HashMap<String, u64> = objects
            .into_iter()
            .map(|object| (object.location.to_string(), object.size))
            .collect();
        for file in &manifest.files {
            let size = sizes.get(&file.path).ok_or_else(|| missing(file))?;
            check_size(file, *size)?;
        }
        Ok(())
    }

    /// Removes the files of the stream that a seal or an erasure left that was killed. `log_start` is where the log
    /// begins: a file beyond the newest manifest holds what the log still has, or else a manifest is missing.
    pub async fn tidy(&self, stream: StreamId, log_start: &Frontier) -> Result<(), Error> {
        let manifest = self.manifest(stream);
        let stream = self.part(stream)?.now();
        if let Some(range) = log_start.ranges_since(&manifest.frontier).next() {
            return Err(Error::Gap {
                stream: stream.name.clone(),
                partition: range.partition,
                dataset_end: range.first,
                log_start: range.end,
            });
        }
        let listed: HashSet<&str> = manifest
            .files
            .iter()
            .map(|file| file.path.as_str())
            .collect();
        for object in self.objects(directory(&stream)).await? {
            let path = object.location.to_string();
            if listed.contains(path.as_str()) {
                continue;
            }
            match kind_of(&stream, &object.location, &manifest) {
                Kind::Manifest => {}
                Kind::Orphan | Kind::Replaced => {
                    tracing::debug!(
                        path,
                        "removing a file that was replaced or never became part of the dataset"
                    );
                    self.0.store.delete(&object.location).await?;
                }
                Kind::Foreign => tracing::warn!(
                    path,
                    "a file that is not part of the dataset lies in its folder; it is never read, move it away"
                ),
            }
        }
        Ok(())
    }

    pub(crate) async fn objects(&self, directory: Path) -> Result<Vec<ObjectMeta>, Error> {
        Ok(self.0.store.list(Some(&directory)).try_collect().await?)
    }

    pub(crate) fn part(&self, stream: StreamId) -> Result<Arc<Part>, Error> {
        self.0
            .streams
            .read()
            .expect("no one panics while holding the streams")
            .get(&stream)
            .cloned()
            .ok_or(Error::UnknownStream { stream })
    }

    fn streams_mut(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<StreamId, Arc<Part>>> {
        self.0
            .streams
            .write()
            .expect("no one panics while holding the streams")
    }

    fn verified(&self) -> std::sync::MutexGuard<'_, HashMap<String, ObjectMeta>> {
        self.0
            .verified
            .lock()
            .expect("no one panics while holding what was verified")
    }
}

/// The stream's manifest among `manifests`; an empty one if it is not there.
pub(crate) fn manifest_in(manifests: &Manifests, stream: StreamId) -> Arc<Manifest> {
    if let Some(manifest) = manifests.get(&stream) {
        return Arc::clone(manifest);
    }
    Arc::new(Manifest {
        number: 0,
        stream,
        name: lambic_model::StreamName::new("_unknown").expect("it is an identifier"),
        frontier: Default::default(),
        files: Vec::new(),
    })
}

/// The columns that `file` was written with; `stream` is as new as the file.
pub(crate) fn stored_under(stream: &Stream, file: &DataFile) -> Result<StreamSchema, Error> {
    let stored = stream.schema_of(file.schema);
    stored.ok_or_else(|| Error::SchemaUnknown {
        path: file.path.clone(),
        version: file.schema,
        stream: stream.name.clone(),
    })
}

fn missing(file: &DataFile) -> Error {
    Error::FileMissing {
        path: file.path.clone(),
        records: file.records(),
    }
}

fn check_size(file: &DataFile, bytes_found: u64) -> Result<(), Error> {
    if bytes_found == file.bytes {
        return Ok(());
    }
    Err(Error::FileCut {
        path: file.path.clone(),
        bytes_expected: file.bytes,
        bytes_found,
    })
}

fn check_manifest(stream: &Stream, number: u64, manifest: &Manifest) -> Result<(), String> {
    if manifest.number != number {
        return Err(format!("it says that its number is {}", manifest.number));
    }
    if manifest.stream != stream.id {
        return Err(format!(
            "it belongs to stream {}, not to {}",
            manifest.stream, stream.id
        ));
    }
    if let Some(file) = manifest.files.iter().find(|file| {
        file.path != path_of(stream, file.range, file.erased, file.compacted).to_string()
    }) {
        return Err(format!(
            "`{}` is not where records {} to {} of partition {} belong",
            file.path, file.range.first, file.range.end, file.range.partition
        ));
    }
    if manifest.frontier.0.len() > stream.partitions as usize {
        return Err(format!(
            "it has {} partitions, the stream only {}",
            manifest.frontier.0.len(),
            stream.partitions
        ));
    }
    manifest.check()
}

/// What a file is that no manifest lists.
#[derive(Debug, PartialEq)]
pub(crate) enum Kind {
    Manifest,
    /// Named as the next file of its partition would be: written by a seal that did not come to its commit.
    Orphan,
    /// Has the range of one that is listed, or a part of that of one that was compacted: it was replaced, or what was to
    /// replace it did not come to its commit.
    Replaced,
    Foreign,
}

pub(crate) fn kind_of(stream: &Stream, location: &Path, manifest: &Manifest) -> Kind {
    let base = directory(stream);
    let Some(parts) = location.prefix_match(&base) else {
        return Kind::Foreign;
    };
    let parts: Vec<_> = parts.collect();
    match parts.as_slice() {
        [name] if manifest_number(name.as_ref()).is_some() => Kind::Manifest,
        [directory, name] => match range_of(directory.as_ref(), name.as_ref()) {
            Some((range, _)) if is_orphan(range, manifest, stream) => Kind::Orphan,
            Some((range, compacted)) if is_replaced(range, compacted, manifest) => Kind::Replaced,
            _ => Kind::Foreign,
        },
        _ => Kind::Foreign,
    }
}

fn is_replaced(range: OffsetRange, compacted: bool, manifest: &Manifest) -> bool {
    let is_known = range.end <= manifest.frontier.offset(range.partition);
    let mut files = manifest.files.iter();
    compacted && is_known
        || files.any(|file| file.range == range || file.compacted && contains(file.range, range))
}

fn is_orphan(range: OffsetRange, manifest: &Manifest, stream: &Stream) -> bool {
    range.partition < PartitionId(stream.partitions)
        && range.first >= manifest.frontier.offset(range.partition)
}
