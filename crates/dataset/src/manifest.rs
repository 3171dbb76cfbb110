//! Numbered manifests: the one place that says what exists.
//!
//! A manifest is a small JSON object `<prefix>/manifest-<20 digits>.json`, put once with `PutMode::Create` and never
//! changed: the put is the commit, and of two writers of the same number one wins and the other learns of it. The
//! newest is the truth; the last few older ones are kept for people. Any flipped bit is noticed: the checksum covers
//! the number and the body, and the few bytes around them are compared literally.

use std::{marker::PhantomData, sync::Arc};

use lambic_model::{
    Erased, Frontier, Offset, OffsetRange, PartitionId, SchemaVersion, Stream, StreamId, StreamName,
};
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, path::Path};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::Error;

/// What one stream's part of the dataset consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// 0: nothing was sealed yet, and no manifest is stored.
    pub number: u64,
    pub stream: StreamId,
    pub name: StreamName,
    /// All records below it are in `files`.
    pub frontier: Frontier,
    /// By partition, then by offset; together exactly the records below `frontier`.
    pub files: Vec<DataFile>,
}

/// One immutable Parquet file: the columns that the stream had when it was written, then `_partition`, `_offset`, `_appended_at`, sorted by offset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFile {
    /// Relative to the store's root.
    pub path: String,
    pub range: OffsetRange,
    pub bytes: u64,
    /// Of the whole file.
    pub crc32c: u32,
    /// Set if records of the range were erased and are not in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erased: Option<FileErased>,
    /// The version of the stream's columns that the file has.
    #[serde(default, skip_serializing_if = "SchemaVersion::is_first")]
    pub schema: SchemaVersion,
    /// True if it took the place of several smaller ones.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub compacted: bool,
}

/// What a file lacks of its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileErased {
    /// The newest erasure whose records are not in the file.
    pub number: u64,
    /// How many records of the range were erased, by this and earlier erasures.
    pub records: u64,
}

impl DataFile {
    /// How many records are in the file.
    pub fn records(&self) -> u64 {
        let erased = self.erased.map_or(0, |erased| erased.records);
        self.range.records().saturating_sub(erased)
    }

    /// How many records of `erased` are still in the file.
    pub fn holds(&self, erased: &Erased) -> u64 {
        let number = self.erased.map_or(0, |erased| erased.number);
        erased.count_within_since(number, self.range)
    }
}

impl Manifest {
    /// The manifest of a stream of which nothing is sealed.
    pub fn empty(stream: &Stream) -> Manifest {
        Manifest {
            number: 0,
            stream: stream.id,
            name: stream.name.clone(),
            frontier: Frontier::zero(stream.partitions),
            files: Vec::new(),
        }
    }

    /// Sealed and not erased.
    pub fn records(&self) -> u64 {
        self.files.iter().map(DataFile::records).sum()
    }

    pub(crate) fn lists(&self, path: &str) -> bool {
        self.files.iter().any(|file| file.path == path)
    }

    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The files must lead from offset 0 to the frontier in every partition, without gap or overlap.
    pub fn check(&self) -> Result<(), String> {
        let mut reached = Frontier::zero(self.frontier.0.len() as u32);
        for file in &self.files {
            let OffsetRange {
                partition,
                first,
                end,
            } = file.range;
            let expected = reached.offset(partition);
            if first != expected || end <= first {
                return Err(format!(
                    "`{}` covers offsets {first} to {end} of partition {partition} where a file beginning at \
                     {expected} was expected",
                    file.path
                ));
            }
            reached.set(partition, end);
        }
        if reached != self.frontier {
            return Err(format!(
                "its files reach {reached}, but its frontier is {}",
                self.frontier
            ));
        }
        Ok(())
    }

    /// This manifest with more files, in the order that [`Manifest::check`] wants.
    pub(crate) fn extended(&self, added: Vec<DataFile>) -> Manifest {
        let mut next = self.clone();
        next.number += 1;
        for file in &added {
            next.frontier.set(file.range.partition, file.range.end);
        }
        next.files.extend(added);
        next.files.sort_by_key(|file| file.range);
        next
    }

    /// This manifest with `file` in place of those of its range.
    pub(crate) fn replaced(&self, file: DataFile) -> Manifest {
        let mut next = self.clone();
        next.number += 1;
        next.files
            .retain(|former| !contains(file.range, former.range));
        let place = next.files.partition_point(|other| other.range < file.range);
        next.files.insert(place, file);
        next
    }
}

/// The manifests below one prefix of a store.
///
/// Bodies of any type: the batch layer keeps its published runs in the same way.
#[derive(Debug)]
pub struct ManifestStore<T> {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    kept: usize,
    body: PhantomData<fn(T) -> T>,
}

impl<T> Clone for ManifestStore<T> {
    fn clone(&self) -> Self {
        ManifestStore {
            store: self.store.clone(),
            prefix: self.prefix.clone(),
            kept: self.kept,
            body: PhantomData,
        }
    }
}

impl<T: Serialize + DeserializeOwned> ManifestStore<T> {
    /// Keeps the newest `kept` manifests (at least one).
    pub fn new(store: Arc<dyn ObjectStore>, prefix: impl Into<Path>, kept: usize) -> Self {
        ManifestStore {
            store,
            prefix: prefix.into(),
            kept: kept.max(1),
            body: PhantomData,
        }
    }

    /// Where manifest `number` is or would be.
    pub fn path(&self, number: u64) -> Path {
        self.prefix
            .clone()
            .join(format!("manifest-{number:020}.json"))
    }

    /// The newest manifest and its number; `None` if there is none. A damaged one is an error.
    pub async fn load(&self) -> Result<Option<(u64, T)>, Error> {
        match self.numbers().await?.last() {
            None => Ok(None),
            Some(&number) => Ok(Some((number, self.get(number).await?))),
        }
    }

    /// Manifest `number`, if it was not pruned.
    pub async fn get(&self, number: u64) -> Result<T, Error> {
        let path = self.path(number);
        let bytes = self.store.get(&path).await?.bytes().await?;
        decode(number, &bytes).map_err(|reason| Error::ManifestDamaged {
            path: path.to_string(),
            reason,
        })
    }

    /// Puts manifest `number`, which must be one more than the newest; then prunes old ones.
    ///
    /// [`Error::Conflict`]: another writer was faster, and nothing was committed.
    pub async fn commit(&self, number: u64, body: &T) -> Result<(), Error> {
        let path = self.path(number);
        let conflict = || Error::Conflict {
            path: path.to_string(),
        };
        let payload = PutPayload::from(encode(number, body));
        let options = PutOptions::from(PutMode::Create);
        match self.store.put_opts(&path, payload, options).await {
            Ok(_) => {}
            Err(object_store::Error::AlreadyExists { .. }) => return Err(conflict()),
            Err(error) => return Err(error.into()),
        }
        let numbers = self.numbers().await?;
        // A writer that lags so far behind that its number was pruned already finds the place free.
        if numbers.last().is_some_and(|&newest| newest > number) {
            self.store.delete(&path).await?;
            return Err(conflict());
        }
        for &old in numbers.iter().rev().skip(self.kept) {
            if let Err(error) = self.store.delete(&self.path(old)).await {
                tracing::warn!(path = %self.path(old), %error, "an old manifest could not be removed");
            }
        }
        Ok(())
    }

    /// The numbers of all stored manifests, ascending.
    pub async fn numbers(&self) -> Result<Vec<u64>, Error> {
        let listed = self.store.list_with_delimiter(Some(&self.prefix)).await?;
        let mut numbers: Vec<u64> = listed
            .objects
            .iter()
            .filter_map(|object| manifest_number(object.location.filename()?))
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }
}

/// The number in a manifest's file name.
pub fn manifest_number(file_name: &str) -> Option<u64> {
    let digits = file_name.strip_prefix("manifest-")?.strip_suffix(".json")?;
    (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| digits.parse().ok())?
}

fn checksum(number: u64, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), body)
}

fn head(number: u64, checksum: u32) -> String {
    format!("{{\"number\":{number},\"checksum\":\"{checksum:08x}\",\"body\":")
}

const TAIL: &[u8] = b"}\n";

fn encode<T: Serialize>(number: u64, body: &T) -> Vec<u8> {
    let body = serde_json::to_vec(body).expect("manifests hold only what JSON can say");
    let mut bytes = head(number, checksum(number, &body)).into_bytes();
    bytes.extend_from_slice(&body);
    bytes.extend_from_slice(TAIL);
    bytes
}

fn decode<T: DeserializeOwned>(number: u64, bytes: &[u8]) -> Result<T, String> {
    let head_bytes = head(number, 0).len();
    let body = bytes
        .get(head_bytes..)
        .and_then(|rest| rest.strip_suffix(TAIL))
        .ok_or("it is cut or not a manifest")?;
    if bytes[..head_bytes] != *head(number, checksum(number, body)).as_bytes() {
        return Err("its checksum does not match".to_owned());
    }
    serde_json::from_slice(body).map_err(|error| format!("its body is not understood: {error}"))
}

/// True if all of `inner` is in `outer`.
pub(crate) fn contains(outer: OffsetRange, inner: OffsetRange) -> bool {
    outer.partition == inner.partition && outer.first <= inner.first && inner.end <= outer.end
}

/// The name of a data file: offsets in 20 digits so that names sort as offsets do; the end is exclusive. A file
/// that lacks records of an erasure says its number, and one that holds those of several former files says so: no file ever changes
/// under its name.
pub(crate) fn data_file_name(range: OffsetRange, erasure: Option<u64>, compacted: bool) -> String {
    let erasure = erasure.map_or(String::new(), |number| format!(".e{number}"));
    let compacted = if compacted { COMPACTED } else { "" };
    format!(
        "{:020}-{:020}{erasure}{compacted}.parquet",
        range.first.0, range.end.0
    )
}

const COMPACTED: &str = ".c";

/// The range that a data file's directory and name say, and whether it was compacted; `None` if it is not named as ours
/// are.
pub(crate) fn range_of(directory: &str, file_name: &str) -> Option<(OffsetRange, bool)> {
    let partition = directory.strip_prefix('p')?.parse().ok()?;
    let stem = file_name.strip_suffix(".parquet")?;
    let (stem, compacted) = match stem.strip_suffix(COMPACTED) {
        Some(stem) => (stem, true),
        None => (stem, false),
    };
    let (stem, erasure) = match stem.split_once(".e") {
        None => (stem, None),
        Some((stem, number)) => (stem, Some(number.parse().ok()?)),
    };
    let (first, end) = stem.split_once('-')?;
    let range = OffsetRange {
        partition: PartitionId(partition),
        first: Offset(first.parse().ok()?),
        end: Offset(end.parse().ok()?),
    };
    let is_ours = directory == format!("p{partition}")
        && file_name == data_file_name(range, erasure, compacted);
    is_ours.then_some((range, compacted))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::LocalStore;

    fn store_in(dir: &tempfile::TempDir, kept: usize) -> ManifestStore<Vec<String>> {
        let store = Arc::new(LocalStore::open(dir.path()).unwrap());
        ManifestStore::new(store, "a/b", kept)
    }

    fn body(text: &str) -> Vec<String> {
        vec![text.to_owned()]
    }

    #[tokio::test]
    async fn the_newest_is_loaded_and_old_ones_are_pruned() {
        let dir = tempfile::tempdir().unwrap();
        let manifests = store_in(&dir, 3);
        assert_eq!(manifests.load().await.unwrap(), None);
        for number in 1..=7 {
            manifests
                .commit(number, &body(&format!("n{number}")))
                .await
                .unwrap();
        }
        assert_eq!(manifests.load().await.unwrap(), Some((7, body("n7"))));
        assert_eq!(manifests.numbers().await.unwrap(), [5, 6, 7]);
        assert_eq!(manifests.get(5).await.unwrap(), body("n5"));

        let file = dir.path().join("a/b/manifest-00000000000000000007.json");
        expect![[r#"
            {"number":7,"checksum":"33fca42e","body":["n7"]}
        "#]]
        .assert_eq(&std::fs::read_to_string(file).unwrap());
    }

    #[tokio::test]
    async fn of_two_writers_one_wins() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (store_in(&dir, 3), store_in(&dir, 3));
        let (one_body, two_body) = (body("one"), body("two"));
        let (first, second) = tokio::join!(one.commit(1, &one_body), two.commit(1, &two_body));
        let (winner, loser) = match (first, second) {
            (Ok(()), Err(error)) => (one_body, error),
            (Err(error), Ok(())) => (two_body, error),
            both => panic!("exactly one must win: {both:?}"),
        };
        expect![
            "another writer committed `a/b/manifest-00000000000000000001.json` or a later manifest first; only one server may write a dataset: stop the other one, then restart this one"
        ]
        .assert_eq(&loser.to_string());
        assert_eq!(one.load().await.unwrap(), Some((1, winner)));
    }

    #[tokio::test]
    async fn a_writer_behind_the_pruned_ones_loses_too() {
        let dir = tempfile::tempdir().unwrap();
        let manifests = store_in(&dir, 2);
        for number in 1..=9 {
            manifests.commit(number, &body("fast")).await.unwrap();
        }
        let error = manifests.commit(3, &body("slow")).await.unwrap_err();
        assert!(matches!(error, Error::Conflict { .. }), "{error}");
        assert_eq!(manifests.numbers().await.unwrap(), [8, 9]);
    }

    #[tokio::test]
    async fn every_flipped_bit_and_every_cut_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let manifests = store_in(&dir, 3);
        manifests.commit(1, &body("older")).await.unwrap();
        manifests.commit(2, &body("newest")).await.unwrap();
        let file = dir.path().join("a/b/manifest-00000000000000000002.json");
        let bytes = std::fs::read(&file).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(
                decode::<Vec<String>>(2, &flipped).is_err(),
                "bit {bit} of {:?}",
                String::from_utf8_lossy(&flipped)
            );
        }
        for length in 0..bytes.len() {
            std::fs::write(&file, &bytes[..length]).unwrap();
            let error = manifests.load().await.unwrap_err();
            assert!(matches!(error, Error::ManifestDamaged { .. }), "{error}");
        }
        // One manifest under the name of another.
        std::fs::copy(
            dir.path().join("a/b/manifest-00000000000000000001.json"),
            &file,
        )
        .unwrap();
        expect![
            "manifest `a/b/manifest-00000000000000000002.json` is damaged: its checksum does not match; restore it from a backup (older manifests beside it lack the newest files, so they are not used in its place)"
        ]
        .assert_eq(&manifests.load().await.unwrap_err().to_string());
    }

    #[test]
    fn names_say_the_range_and_nothing_else_does() {
        let range = OffsetRange {
            partition: PartitionId(3),
            first: Offset(7),
            end: Offset(1200),
        };
        let rewritten = data_file_name(range, Some(12), false);
        assert_eq!(
            rewritten,
            "00000000000000000007-00000000000000001200.e12.parquet"
        );
        assert_eq!(range_of("p3", &rewritten), Some((range, false)));
        for erasure in [None, Some(12)] {
            let compacted = data_file_name(range, erasure, true);
            assert_eq!(range_of("p3", &compacted), Some((range, true)));
        }
        let name = data_file_name(range, None, false);
        assert_eq!(name, "00000000000000000007-00000000000000001200.parquet");
        assert_eq!(range_of("p3", &name), Some((range, false)));
        for (directory, file_name) in [
            ("p03", name.as_str()),
            ("q3", name.as_str()),
            ("p3", "7-1200.parquet"),
            ("p3", "part-0.parquet"),
            (
                "p3",
                "00000000000000000007-00000000000000001200.parquet.bak",
            ),
            (
                "p3",
                "00000000000000000007-00000000000000001200.e012.parquet",
            ),
        ] {
            assert_eq!(
                range_of(directory, file_name),
                None,
                "{directory}/{file_name}"
            );
        }
    }
}
