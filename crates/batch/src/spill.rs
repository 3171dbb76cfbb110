//! States on their way to a batch view: runs of them, sorted by key, in files beside it.
//!
//! A run is a list of chunks, each one batch of states in Arrow's IPC format with its checksum, so that it is read back
//! bit by bit. What is in the folder and not listed by who uses it is nothing.

use std::{
    collections::{BTreeMap, HashSet},
    io::Cursor,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arrow::{
    ipc::{reader::StreamReader, writer::StreamWriter},
    record_batch::RecordBatch,
};
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use serde::{Deserialize, Serialize};

use crate::{Error, Limits, size::bytes_of};

const SUFFIX: &str = ".states";
/// Counts the users of folders: what one was still writing when it was cancelled has no name that the next one takes.
static OPENED: AtomicU64 = AtomicU64::new(0);

/// A stretch of one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    pub path: String,
    /// Where in the file it begins.
    pub first: u64,
    pub bytes: u64,
    pub rows: u64,
    pub crc32c: u32,
}

/// At most one state of each key, in the order of the keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpilledRun {
    pub chunks: Vec<Chunk>,
}

impl SpilledRun {
    fn files(&self) -> BTreeMap<&str, u64> {
        let mut files = BTreeMap::new();
        for chunk in &self.chunks {
            *files.entry(chunk.path.as_str()).or_default() += chunk.bytes;
        }
        files
    }

    pub fn bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.bytes).sum()
    }
}

/// The folder of one view's runs.
pub struct Spills {
    store: Arc<dyn ObjectStore>,
    folder: Path,
    limits: Limits,
    next: AtomicU64,
    user: u64,
    /// Bytes that are there now.
    used: AtomicU64,
    /// Bytes that were ever written, for those who watch.
    written: Arc<AtomicU64>,
}

impl Spills {
    /// Opens the folder with these runs in it, and removes what else is there.
    pub async fn open(
        store: Arc<dyn ObjectStore>,
        folder: Path,
        kept: &[SpilledRun],
        limits: Limits,
        written: Arc<AtomicU64>,
    ) -> Result<Spills, Error> {
        let files = kept.iter().flat_map(|run| run.files().into_keys());
        let newest = remove_others(&store, &folder, &files.collect()).await?;
        Ok(Spills {
            store,
            folder,
            limits,
            next: AtomicU64::new(newest + 1),
            user: OPENED.fetch_add(1, Ordering::Relaxed),
            used: AtomicU64::new(kept.iter().map(SpilledRun::bytes).sum()),
            written,
        })
    }

    /// True if a file was written.
    pub fn is_used(&self) -> bool {
        self.written.load(Ordering::Relaxed) > 0
    }

    pub fn writer(&self) -> Writer<'_> {
        Writer {
            spills: self,
            path: String::new(),
            file: Vec::new(),
            run: SpilledRun::default(),
        }
    }

    /// One run of states that are in order.
    pub async fn write(&self, states: &RecordBatch) -> Result<SpilledRun, Error> {
        let mut writer = self.writer();
        writer.push(states).await?;
        writer.finish().await
    }

    pub async fn read(&self, chunk: &Chunk) -> Result<RecordBatch, Error> {
        let damaged = |what: String| Error::SpillDamaged {
            path: chunk.path.clone(),
            what,
        };
        let path = Path::from(chunk.path.as_str());
        let range = chunk.first..chunk.first + chunk.bytes;
        let bytes = match self.store.get_range(&path, range).await {
            Err(object_store::Error::NotFound { .. }) => {
                return Err(damaged("it is missing".to_owned()));
            }
            read => read?,
        };
        if bytes.len() as u64 != chunk.bytes || crc32c::crc32c(&bytes) != chunk.crc32c {
            return Err(damaged("its checksum is another".to_owned()));
        }
        let mut batches = StreamReader::try_new(Cursor::new(bytes), None)?;
        match batches.next() {
            Some(states) => Ok(states?),
            None => Err(damaged("it has no states".to_owned())),
        }
    }

    pub async fn remove(&self, runs: &[SpilledRun]) -> Result<(), Error> {
        for run in runs {
            for (path, bytes) in run.files() {
                match self.store.delete(&Path::from(path)).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
                self.used.fetch_sub(bytes, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

/// Returns the highest number of a file that was there.
async fn remove_others(
    store: &Arc<dyn ObjectStore>,
    folder: &Path,
    kept: &HashSet<&str>,
) -> Result<u64, Error> {
    let mut newest = 0;
    let objects: Vec<_> = store.list(Some(folder)).try_collect().await?;
    for object in objects {
        let path = object.location;
        let number = path
            .filename()
            .and_then(|name| name.strip_suffix(SUFFIX))
            .and_then(|name| name.split_once('-')?.0.parse::<u64>().ok());
        let Some(number) = number else {
            continue;
        };
        newest = newest.max(number);
        if !kept.contains(path.as_ref()) {
            match store.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(newest)
}

/// A run in the making.
pub struct Writer<'a> {
    spills: &'a Spills,
    path: String,
    file: Vec<u8>,
    run: SpilledRun,
}

impl Writer<'_> {
    /// States that come after those before.
    pub async fn push(&mut self, states: &RecordBatch) -> Result<(), Error> {
        let limits = &self.spills.limits;
        let (rows, bytes) = (states.num_rows(), bytes_of(states).max(1));
        let rows_each = (rows * limits.chunk_bytes() / bytes).clamp(1, rows.max(1));
        for first in (0..rows).step_by(rows_each) {
            self.add(&states.slice(first, rows_each.min(rows - first)))?;
            if self.file.len() >= limits.file_bytes() {
                self.put().await?;
            }
        }
        Ok(())
    }

    fn add(&mut self, states: &RecordBatch) -> Result<(), Error> {
        if self.file.is_empty() {
            let number = self.spills.next.fetch_add(1, Ordering::Relaxed);
            let Spills { folder, user, .. } = self.spills;
            self.path = format!("{folder}/{number:020}-{user}{SUFFIX}");
        }
        let first = self.file.len();
        let mut writer = StreamWriter::try_new(&mut self.file, &states.schema())?;
        writer.write(states)?;
        writer.finish()?;
        drop(writer);
        let chunk = &self.file[first..];
        self.run.chunks.push(Chunk {
            path: self.path.clone(),
            first: first as u64,
            bytes: chunk.len() as u64,
            rows: states.num_rows() as u64,
            crc32c: crc32c::crc32c(chunk),
        });
        Ok(())
    }

    async fn put(&mut self) -> Result<(), Error> {
        let file = std::mem::take(&mut self.file);
        let (spills, bytes) = (self.spills, file.len() as u64);
        let used = spills.used.load(Ordering::Relaxed) + bytes;
        if used > spills.limits.disk_bytes {
            return Err(Error::Disk {
                used,
                limit: spills.limits.disk_bytes,
            });
        }
        let path = Path::from(self.path.as_str());
        spills.store.put(&path, file.into()).await?;
        spills.used.store(used, Ordering::Relaxed);
        spills.written.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    pub async fn finish(mut self) -> Result<SpilledRun, Error> {
        if !self.file.is_empty() {
            self.put().await?;
        }
        Ok(self.run)
    }
}
