//! The erasure log: what was erased, by whom, when and how far it has come. Kept for ever.
//!
//! ```text
//! erasures/manifest-<20 digits>.json    one entry each, put once
//! erasures/offsets-<20 digits>.parquet  which records an erasure took, until it is finished
//! ```
//!
//! An erasure is decided once: the statement finds the records, and their *offsets* are what is put down. So its
//! meaning cannot change while it is carried out, and nothing of the records is kept. It happens at the put of its
//! entry: before, a kill leaves nothing; after, every start reads the offsets back, leaves the records out of all
//! reads and goes on until they are gone.
//!
//! Each entry has the SHA-256 of the one before and of its own content, so that an entry that was changed, taken
//! out or put in is noticed, unless all entries after it were forged as well: whoever must show more notes the
//! newest hash elsewhere.
//!
//! The predicate may itself hold what was to be erased. So its literals are kept as `?` unless the user asked for
//! the whole text; a salted hash of the text lets who knows it show that this was it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arrow::{
    array::{AsArray as _, Int32Array, Int64Array, RecordBatch},
    datatypes::{DataType, Field, Int32Type, Int64Type, Schema},
};
use lambic_model::{Frontier, Offset, OffsetRange, OffsetSet, PartitionId, StreamId, StreamName};
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt as _, path::Path};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Error, ManifestStore, parquet_file};

const FOLDER: &str = "erasures";

/// One entry of the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// SHA-256 of the entry before, in hexadecimal; empty in the first.
    former: String,
    content: Content,
    /// SHA-256 of `former` and `content`.
    sha256: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    at_us: i64,
    /// Counts the erasures from 1.
    erasure: u64,
    event: Event,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Event {
    Begun(Begun),
    Finished(Finished),
}

/// What an erasure takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    pub by: String,
    pub stream: StreamId,
    pub name: StreamName,
    pub predicate: Predicate,
    /// Records from here on were appended later and are not concerned.
    pub frontier: Frontier,
    pub records: u64,
    /// SHA-256 of the file with the offsets; [`ErasureLog::begin`] fills it in.
    #[serde(default)]
    pub offsets_sha256: String,
    /// If it takes all records before `frontier` because the stream keeps them no longer: when the newest of them was
    /// appended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Predicate {
    /// With `?` for literals, unless the text was to be kept.
    pub shown: String,
    pub salt: String,
    /// Of the salt and the text.
    pub sha256: String,
}

impl Predicate {
    pub fn new(text: &str, shown: String, salt: String) -> Predicate {
        Predicate {
            shown,
            sha256: hex(&[salt.as_bytes(), text.as_bytes()]),
            salt,
        }
    }
}

/// What it took to erase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    pub files_rewritten: u64,
}

/// An erasure as the log tells it.
#[derive(Debug, Clone)]
pub struct Erasure {
    pub number: u64,
    pub at_us: i64,
    pub begun: Begun,
    /// With the time; `None` as long as it is carried out.
    pub finished: Option<(i64, Finished)>,
    /// Of its newest entry.
    pub sha256: String,
}

#[derive(Clone)]
pub struct ErasureLog(Arc<Inner>);

struct Inner {
    store: Arc<dyn ObjectStore>,
    entries: ManifestStore<Entry>,
    known: Mutex<Known>,
    /// Entries are put one by one.
    putting: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    /// Entries so far.
    count: u64,
    /// Of the newest entry.
    sha256: String,
    erasures: BTreeMap<u64, Erasure>,
    /// Where the chain is broken.
    broken: Vec<String>,
}

impl Known {
    fn take(&mut self, entry: Entry) {
        let Content {
            at_us,
            erasure: number,
            event,
        } = entry.content;
        self.count += 1;
        self.sha256 = entry.sha256.clone();
        match event {
            Event::Begun(begun) => {
                let erasure = Erasure {
                    number,
                    at_us,
                    begun,
                    finished: None,
                    sha256: entry.sha256,
                };
                self.erasures.insert(number, erasure);
            }
            Event::Finished(finished) => {
                if let Some(erasure) = self.erasures.get_mut(&number) {
                    erasure.finished = Some((at_us, finished));
                    erasure.sha256 = entry.sha256;
                }
            }
        }
    }
}

impl ErasureLog {
    /// Reads all entries. A damaged one is an error: without it records that were erased might be shown. A chain
    /// that does not close is told by [`ErasureLog::broken`].
    pub async fn open(store: Arc<dyn ObjectStore>) -> Result<ErasureLog, Error> {
        let entries = ManifestStore::new(Arc::clone(&store), FOLDER, usize::MAX);
        let mut known = Known::default();
        for number in entries.numbers().await? {
            let entry: Entry = entries.get(number).await?;
            let path = entries.path(number);
            if number != known.count + 1 {
                known
                    .broken
                    .push(format!("an entry before `{path}` is missing"));
                known.count = number - 1;
            } else if entry.former != known.sha256 {
                known
                    .broken
                    .push(format!("`{path}` does not continue the entry before it"));
            }
            if entry.sha256 != hash_of(&entry.former, &entry.content) {
                known.broken.push(format!(
                    "`{path}` is not what was written: its hash is of another content"
                ));
            }
            known.take(entry);
        }
        Ok(ErasureLog(Arc::new(Inner {
            store,
            entries,
            known: Mutex::new(known),
            putting: tokio::sync::Mutex::default(),
        })))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where entries were changed, taken out or put in by others; empty if nowhere.
    pub fn broken(&self) -> Vec<String> {
        self.known().broken.clone()
    }

    /// How many entries there are, and the hash of the newest.
    pub fn newest(&self) -> (u64, String) {
        let known = self.known();
        (known.count, known.sha256.clone())
    }

    pub fn erasures(&self) -> Vec<Erasure> {
        self.known().erasures.values().cloned().collect()
    }

    /// Those that are not finished, the oldest first.
    pub fn pending(&self) -> Vec<Erasure> {
        let mut all = self.erasures();
        all.retain(|erasure| erasure.finished.is_none());
        all
    }

    /// The number of the newest erasure that took records of the stream; 0 if there is none.
    pub fn newest_of(&self, stream: StreamId) -> u64 {
        let known = self.known();
        let mut newest = known.erasures.values().rev();
        newest
            .find(|erasure| erasure.begun.stream == stream && erasure.begun.records > 0)
            .map_or(0, |erasure| erasure.number)
    }

    /// Before it, the stream's records have expired.
    pub fn start_of(&self, stream: StreamId) -> Frontier {
        let known = self.known();
        let of_stream = known.erasures.values().map(|erasure| &erasure.begun);
        let expired = of_stream.filter(|begun| begun.expires.is_some() && begun.stream == stream);
        expired.fold(Frontier::default(), |start, begun| {
            start.max(&begun.frontier)
        })
    }

    /// When the newest record of the stream was appended that has expired; `None` if none has.
    pub fn expired_until(&self, stream: StreamId) -> Option<i64> {
        let known = self.known();
        let of_stream = known.erasures.values().map(|erasure| &erasure.begun);
        let of_stream = of_stream.filter(|begun| begun.stream == stream);
        of_stream.filter_map(|begun| begun.expires).max()
    }

    pub fn is_finished(&self, number: u64) -> bool {
        let known = self.known();
        let erasure = known.erasures.get(&number);
        erasure.is_some_and(|erasure| erasure.finished.is_some())
    }

    /// No erasure begins or is finished as long as this is held.
    pub async fn standstill(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.0.putting.lock().await
    }

    /// The newest erasure before which all are finished, itself too; 0 if there is none. Expiries do not count.
    pub fn finished_upto(&self) -> u64 {
        let known = self.known();
        let asked = known
            .erasures
            .values()
            .filter(|e| e.begun.expires.is_none());
        let finished = asked.take_while(|erasure| erasure.finished.is_some());
        finished.last().map_or(0, |erasure| erasure.number)
    }

    /// Deletes what a killed server left of erasures that did not happen or are finished.
    pub async fn tidy(&self) -> Result<(), Error> {
        let pending: Vec<Path> = self
            .pending()
            .iter()
            .map(|e| offsets_path(e.number))
            .collect();
        let folder = Path::from(FOLDER);
        for object in self
            .0
            .store
            .list_with_delimiter(Some(&folder))
            .await?
            .objects
        {
            let name = object.location.filename().unwrap_or_default();
            if name.starts_with("offsets-") && !pending.contains(&object.location) {
                self.0.store.delete(&object.location).await?;
            }
        }
        Ok(())
    }

    /// Puts an erasure down: from here on it happens, whatever is killed next. Returns its number.
    pub async fn begin(
        &self,
        at_us: i64,
        mut begun: Begun,
        offsets: &OffsetSet,
    ) -> Result<u64, Error> {
        let _turn = self.0.putting.lock().await;
        let newest = self.known().erasures.keys().next_back().copied();
        let number = newest.unwrap_or(0) + 1;
        let file = encode(offsets)?;
        begun.offsets_sha256 = hex(&[&file]);
        // A file that no entry speaks of is nothing.
        self.0.store.put(&offsets_path(number), file.into()).await?;
        let event = Event::Begun(begun);
        self.put(at_us, number, event).await?;
        Ok(number)
    }

    /// Nothing of the records is left.
    pub async fn finish(&self, at_us: i64, number: u64, finished: Finished) -> Result<(), Error> {
        let _turn = self.0.putting.lock().await;
        self.put(at_us, number, Event::Finished(finished)).await?;
        match self.0.store.delete(&offsets_path(number)).await {
            Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn put(&self, at_us: i64, erasure: u64, event: Event) -> Result<(), Error> {
        let content = Content {
            at_us,
            erasure,
            event,
        };
        let (count, former) = self.newest();
        let entry = Entry {
            sha256: hash_of(&former, &content),
            former,
            content,
        };
        if let Err(error) = self.0.entries.commit(count + 1, &entry).await {
            // The store may have kept the entry although it answered with an error: look.
            let newest = self.0.entries.load().await;
            if !matches!(&newest, Ok(Some((number, stored))) if *number == count + 1 && *stored == entry)
            {
                return Err(error);
            }
        }
        self.known().take(entry);
        Ok(())
    }

    /// The records of an erasure that is not finished.
    pub async fn offsets(&self, erasure: &Erasure) -> Result<OffsetSet, Error> {
        let path = offsets_path(erasure.number);
        let unreadable = |source| Error::FileUnreadable {
            path: path.to_string(),
            source,
        };
        let file = match self.0.store.get(&path).await {
            Ok(found) => found.bytes().await?,
            Err(StoreError::NotFound { .. }) => {
                return Err(Error::FileMissing {
                    path: path.to_string(),
                    records: 0,
                });
            }
            Err(error) => return Err(error.into()),
        };
        if hex(&[&file]) != erasure.begun.offsets_sha256 {
            return Err(Error::ErasureDamaged {
                path: path.to_string(),
            });
        }
        let mut offsets = OffsetSet::default();
        for batch in parquet_file::decode(file).map_err(unreadable)? {
            let column = |index: usize| batch.column(index).as_primitive::<Int64Type>();
            let partitions = batch.column(0).as_primitive::<Int32Type>();
            for row in 0..batch.num_rows() {
                offsets.add(OffsetRange {
                    partition: PartitionId(partitions.value(row).cast_unsigned()),
                    first: Offset(column(1).value(row).cast_unsigned()),
                    end: Offset(column(2).value(row).cast_unsigned()),
                });
            }
        }
        Ok(offsets)
    }
}

fn offsets_path(number: u64) -> Path {
    Path::from(FOLDER).join(format!("offsets-{number:020}.parquet"))
}

fn encode(offsets: &OffsetSet) -> Result<bytes::Bytes, Error> {
    let schema = Arc::new(Schema::new(vec![
        Field::new("partition", DataType::Int32, false),
        Field::new("first", DataType::Int64, false),
        Field::new("end", DataType::Int64, false),
    ]));
    let partitions = offsets
        .ranges()
        .map(|range| range.partition.0.cast_signed());
    let firsts = offsets.ranges().map(|range| range.first.0.cast_signed());
    let ends = offsets.ranges().map(|range| range.end.0.cast_signed());
    let batch = RecordBatch::try_new(
        schema.clone(),
        vec![
            Arc::new(Int32Array::from_iter_values(partitions)),
            Arc::new(Int64Array::from_iter_values(firsts)),
            Arc::new(Int64Array::from_iter_values(ends)),
        ],
    )?;
    Ok(parquet_file::encode(
        &schema,
        [&batch],
        parquet_file::properties().build(),
    )?)
}

fn hash_of(former: &str, content: &Content) -> String {
    let content = serde_json::to_vec(content).expect("entries hold only what JSON can say");
    hex(&[former.as_bytes(), &content])
}

fn hex(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        // Lengths, so that no two lists of parts read alike.
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
