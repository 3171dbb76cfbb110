//! The catalog: every stream and view that exists, in one small file that is replaced atomically.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::datatypes::{Field, Schema};
use lambic_base::{
    Disk, RealDisk,
    file::{read_on, write_atomically_on},
};
use lambic_model::{
    Column, ColumnId, Constant, Evolution, SchemaVersion, Stream, StreamId, StreamName,
    StreamSchema,
};
use lambic_view::{Definition, ViewVersion};
use serde::{Deserialize, Serialize};

use crate::{Retention, types};

/// The first id of users' streams; those below are the house's own.
const FIRST_STREAM_ID: u32 = 100;

#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("the catalog {path} cannot be read or written: {source}")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the catalog {path} is damaged: {what}; restore it from a backup")]
    Damaged { path: PathBuf, what: String },
    #[error(
        "the catalog {path} is missing, although {data} holds data that it described; restore it from a backup, or move the whole data folder away to begin an empty one"
    )]
    Missing { path: PathBuf, data: PathBuf },
}

/// What exists. Changes are durable before they are visible.
#[derive(Debug, Clone)]
pub struct Catalog {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    next_stream: u32,
    streams: BTreeMap<String, Arc<Stream>>,
    views: BTreeMap<String, Definition>,
    /// Versions that were served before, the newest last.
    former: BTreeMap<String, Vec<Definition>>,
    /// Of streams that do not keep their records for ever.
    retention: BTreeMap<String, Retention>,
    /// Streams whose files are still to be deleted.
    dropped: BTreeMap<StreamId, StreamName>,
}

/// Former versions of a view that are kept for a way back.
const FORMER_VERSIONS_MAX: usize = 3;

// The checksum is of what is understood: a name that is not known, perhaps for a flipped bit, must not pass for
// something that was left out.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    checksum: u32,
    catalog: StoredCatalog,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredCatalog {
    next_stream: u32,
    streams: Vec<StoredStream>,
    views: Vec<Definition>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    former: BTreeMap<String, Vec<Definition>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    retention: BTreeMap<String, Retention>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    dropped: BTreeMap<StreamId, StreamName>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredStream {
    id: StreamId,
    name: StreamName,
    columns: Vec<StoredColumn>,
    partitions: u32,
    event_time: Option<String>,
    record_id: Option<String>,
    partition_by: Option<String>,
    /// All versions of its columns, the oldest first; none if it is as it was declared and has no defaults.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    schemas: Vec<Vec<StoredVersioned>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredColumn {
    name: String,
    #[serde(rename = "type")]
    sql_type: String,
    nullable: bool,
}

/// A column of one version; values are text, see [`Constant::of_text`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredVersioned {
    id: ColumnId,
    name: String,
    #[serde(rename = "type")]
    sql_type: String,
    nullable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    missing: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    default: Option<String>,
}

impl StoredVersioned {
    fn of(column: &Column) -> StoredVersioned {
        let text = |value: &Option<Constant>| value.as_ref().map(Constant::text);
        StoredVersioned {
            id: column.id,
            name: column.name.clone(),
            sql_type: types::sql_name(&column.data_type),
            nullable: column.nullable,
            missing: text(&column.missing),
            default: text(&column.default),
        }
    }

    /// The error says what is wrong.
    fn column(self) -> Result<Column, String> {
        let data_type = types::of_sql_name(&self.sql_type);
        let data_type = data_type.ok_or_else(|| unknown_type(&self.sql_type))?;
        let value = |text: Option<String>| match text {
            None => Ok(None),
            Some(text) => Constant::of_text(&data_type, &text)
                .map(Some)
                .ok_or_else(|| format!("`{text}` is no {}", self.sql_type)),
        };
        Ok(Column {
            id: self.id,
            name: self.name,
            nullable: self.nullable,
            missing: value(self.missing)?,
            default: value(self.default)?,
            data_type,
        })
    }
}

fn unknown_type(name: &str) -> String {
    format!("column type `{name}` is not known")
}

/// The error says what is wrong.
fn evolution(schemas: Vec<Vec<StoredVersioned>>, schema: &Schema) -> Result<Evolution, String> {
    if schemas.is_empty() {
        return Ok(Evolution::default());
    }
    let mut versions = Vec::with_capacity(schemas.len());
    for (number, columns) in (1..).zip(schemas) {
        let columns = columns.into_iter().map(StoredVersioned::column);
        versions.push(StreamSchema {
            version: SchemaVersion(number),
            columns: columns.collect::<Result<_, _>>()?,
        });
    }
    let newest = versions.last().map(StreamSchema::arrow);
    if newest.as_deref() != Some(schema) {
        return Err("a stream's columns are not those of their newest version".to_owned());
    }
    Evolution::of(versions).ok_or_else(|| "versions of columns are missing".to_owned())
}

impl Catalog {
    /// Opens the catalog at `path`; a new one is empty but for `system`, the house's own streams.
    pub fn open(path: PathBuf, system: &[Arc<Stream>]) -> Result<Catalog, CatalogError> {
        Catalog::open_on(Arc::new(RealDisk), path, system)
    }

    /// [`Catalog::open`] on any disk.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        path: PathBuf,
        system: &[Arc<Stream>],
    ) -> Result<Catalog, CatalogError> {
        let mut catalog = match read_on(&*disk, &path) {
            Ok(bytes) => Catalog::decode(disk, path, &bytes)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if let Some(data) = described(&*disk, &path)? {
                    return Err(CatalogError::Missing { path, data });
                }
                Catalog {
                    disk,
                    path,
                    next_stream: FIRST_STREAM_ID,
                    streams: BTreeMap::new(),
                    views: BTreeMap::new(),
                    former: BTreeMap::new(),
                    retention: BTreeMap::new(),
                    dropped: BTreeMap::new(),
                }
            }
            Err(source) => return Err(CatalogError::Io { path, source }),
        };
        for stream in system {
            catalog
                .streams
                .insert(stream.name.to_string(), Arc::clone(stream));
        }
        Ok(catalog)
    }

    fn decode(disk: Arc<dyn Disk>, path: PathBuf, bytes: &[u8]) -> Result<Catalog, CatalogError> {
        let damaged = |what: String| CatalogError::Damaged {
            path: path.clone(),
            what,
        };
        let stored: Stored =
            serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        if checksum(&stored.catalog) != stored.checksum {
            return Err(damaged("its checksum does not match".to_owned()));
        }
        let mut streams = BTreeMap::new();
        for stream in stored.catalog.streams {
            let mut fields = Vec::with_capacity(stream.columns.len());
            for column in stream.columns {
                let data_type = types::of_sql_name(&column.sql_type)
                    .ok_or_else(|| damaged(unknown_type(&column.sql_type)))?;
                fields.push(Field::new(column.name, data_type, column.nullable));
            }
            let schema = Arc::new(Schema::new(fields));
            let stream = Stream {
                evolution: evolution(stream.schemas, &schema).map_err(damaged)?,
                id: stream.id,
                name: stream.name,
                schema,
                partitions: stream.partitions,
                event_time: stream.event_time,
                record_id: stream.record_id,
                partition_by: stream.partition_by,
            };
            streams.insert(stream.name.to_string(), Arc::new(stream));
        }
        let views = stored
            .catalog
            .views
            .into_iter()
            .map(|view| (view.name.to_string(), view))
            .collect();
        Ok(Catalog {
            disk,
            path,
            next_stream: stored.catalog.next_stream,
            streams,
            views,
            former: stored.catalog.former,
            retention: stored.catalog.retention,
            dropped: stored.catalog.dropped,
        })
    }

    fn save(&self) -> Result<(), CatalogError> {
        let own = self
            .streams
            .values()
            .filter(|stream| stream.id.0 >= FIRST_STREAM_ID);
        let streams = own.map(|stream| StoredStream {
            id: stream.id,
            name: stream.name.clone(),
            columns: stream
                .schema
                .fields()
                .iter()
                .map(|field| StoredColumn {
                    name: field.name().clone(),
                    sql_type: types::sql_name(field.data_type()),
                    nullable: field.is_nullable(),
                })
                .collect(),
            partitions: stream.partitions,
            event_time: stream.event_time.clone(),
            record_id: stream.record_id.clone(),
            partition_by: stream.partition_by.clone(),
            schemas: stream
                .evolution
                .versions()
                .map_or_else(Vec::new, |versions| {
                    let columns = |schema: &StreamSchema| {
                        schema.columns.iter().map(StoredVersioned::of).collect()
                    };
                    versions.iter().map(columns).collect()
                }),
        });
        let catalog = StoredCatalog {
            next_stream: self.next_stream,
            streams: streams.collect(),
            views: self.views.values().cloned().collect(),
            former: self.former.clone(),
            retention: self.retention.clone(),
            dropped: self.dropped.clone(),
        };
        let stored = Stored {
            checksum: checksum(&catalog),
            catalog,
        };
        let bytes = serde_json::to_vec_pretty(&stored).expect("a catalog serialises");
        let written = write_atomically_on(&*self.disk, &self.path, &bytes);
        written.map_err(|source| CatalogError::Io {
            path: self.path.clone(),
            source,
        })
    }

    pub fn streams(&self) -> impl Iterator<Item = &Arc<Stream>> {
        self.streams.values()
    }

    pub fn stream(&self, name: &str) -> Option<&Arc<Stream>> {
        self.streams.get(name)
    }

    pub fn views(&self) -> impl Iterator<Item = &Definition> {
        self.views.values()
    }

    pub fn view(&self, name: &str) -> Option<&Definition> {
        self.views.get(name)
    }

    /// Names of everything that can be selected from.
    pub fn names(&self) -> Vec<String> {
        self.streams
            .keys()
            .chain(self.views.keys())
            .cloned()
            .collect()
    }

    pub fn is_system(stream: &Stream) -> bool {
        stream.id.0 < FIRST_STREAM_ID
    }

    pub fn next_stream(&self) -> StreamId {
        StreamId(self.next_stream)
    }

    /// Changes a copy and saves it; the catalog is as before if that fails.
    fn change(&mut self, change: impl FnOnce(&mut Catalog)) -> Result<(), CatalogError> {
        let mut changed = self.clone();
        change(&mut changed);
        changed.save()?;
        *self = changed;
        Ok(())
    }

    pub fn add_stream(&mut self, stream: Arc<Stream>) -> Result<(), CatalogError> {
        self.add_stream_with(stream, Retention::default())
    }

    pub fn add_stream_with(
        &mut self,
        stream: Arc<Stream>,
        retention: Retention,
    ) -> Result<(), CatalogError> {
        self.change(|catalog| {
            catalog.retain(stream.name.as_str(), retention);
            catalog.next_stream = catalog.next_stream.max(stream.id.0 + 1);
            catalog.streams.insert(stream.name.to_string(), stream);
        })
    }

    /// Puts the stream in place of the one of its name, and each of `views` in place of the version that is served:
    /// that one could not read what the stream takes from now on, and is not kept.
    pub fn alter_stream(
        &mut self,
        stream: Arc<Stream>,
        views: &[Definition],
    ) -> Result<(), CatalogError> {
        self.change(|catalog| {
            catalog.streams.insert(stream.name.to_string(), stream);
            for view in views {
                catalog.views.insert(view.name.to_string(), view.clone());
            }
        })
    }

    /// Its files are to be deleted; then comes [`Catalog::forget_dropped`].
    pub fn remove_stream(&mut self, name: &str) -> Result<(), CatalogError> {
        self.change(|catalog| {
            if let Some(stream) = catalog.streams.remove(name) {
                catalog.dropped.insert(stream.id, stream.name.clone());
            }
            catalog.retention.remove(name);
        })
    }

    /// Streams that were dropped and whose files may still be there.
    pub fn dropped(&self) -> &BTreeMap<StreamId, StreamName> {
        &self.dropped
    }

    /// Nothing is left of the stream.
    pub fn forget_dropped(&mut self, stream: StreamId) -> Result<(), CatalogError> {
        self.change(|catalog| {
            catalog.dropped.remove(&stream);
        })
    }

    /// How long the stream keeps its records.
    pub fn retention(&self, name: &str) -> Retention {
        self.retention.get(name).cloned().unwrap_or_default()
    }

    pub fn set_retention(&mut self, name: &str, retention: Retention) -> Result<(), CatalogError> {
        self.change(|catalog| catalog.retain(name, retention))
    }

    fn retain(&mut self, name: &str, retention: Retention) {
        match retention.is_for_ever() {
            true => self.retention.remove(name),
            false => self.retention.insert(name.to_owned(), retention),
        };
    }

    /// The versions of a view that were served before, the newest last.
    pub fn former_versions(&self, name: &str) -> &[Definition] {
        self.former.get(name).map_or(&[], Vec::as_slice)
    }

    /// A number that no version of the view has had as far as is known.
    pub fn next_version(&self, name: &str) -> ViewVersion {
        let former = self.former_versions(name).iter();
        let known = former.chain(self.views.get(name));
        ViewVersion(known.map(|view| view.version.0).max().unwrap_or(0) + 1)
    }

    /// Makes `view` the version that is served, and the one before it a former version. Returns the
    /// versions that are no longer kept.
    pub fn put_view(&mut self, view: Definition) -> Result<Vec<Definition>, CatalogError> {
        let mut outdated = Vec::new();
        self.change(|catalog| {
            let name = view.name.to_string();
            let former = catalog.former.entry(name.clone()).or_default();
            former.retain(|kept| kept.version != view.version);
            former.extend(catalog.views.insert(name, view));
            let excess = former.len().saturating_sub(FORMER_VERSIONS_MAX);
            outdated = former.drain(..excess).collect();
            catalog.former.retain(|_, versions| !versions.is_empty());
        })?;
        Ok(outdated)
    }

    /// Removes a view with its former versions; returns all of them.
    pub fn remove_view(&mut self, name: &str) -> Result<Vec<Definition>, CatalogError> {
        let mut removed = Vec::new();
        self.change(|catalog| {
            removed = catalog.former.remove(name).unwrap_or_default();
            removed.extend(catalog.views.remove(name));
        })?;
        Ok(removed)
    }
}

/// What stands beside the catalog and is nothing without it: sealed records of users' streams, or batch views.
fn described(disk: &dyn Disk, catalog: &Path) -> Result<Option<PathBuf>, CatalogError> {
    let folder = catalog.parent().unwrap_or(Path::new("."));
    let is_described = |path: &Path| {
        let id = path
            .file_name()
            .and_then(|name| name.to_str()?.split('-').next());
        id.and_then(|id| id.parse::<u32>().ok())
            .is_some_and(|id| id >= FIRST_STREAM_ID)
    };
    let streams = entries(disk, &folder.join("dataset"))?;
    let views = entries(disk, &folder.join("views"))?;
    let mut candidates = streams
        .into_iter()
        .filter(|path| is_described(path))
        .chain(views);
    Ok(candidates.find(|path| disk.is_dir(path) && has_file(disk, path)))
}

fn has_file(disk: &dyn Disk, folder: &Path) -> bool {
    // What cannot be read is taken for data.
    entries(disk, folder).map_or(true, |paths| {
        paths
            .iter()
            .any(|path| !disk.is_dir(path) || has_file(disk, path))
    })
}

/// Sorted, so that the same folder gives the same message.
fn entries(disk: &dyn Disk, folder: &Path) -> Result<Vec<PathBuf>, CatalogError> {
    match disk.list(folder) {
        Ok(mut paths) => {
            paths.sort();
            Ok(paths)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(CatalogError::Io {
            path: folder.to_owned(),
            source,
        }),
    }
}

fn checksum(catalog: &StoredCatalog) -> u32 {
    crc32c::crc32c(&serde_json::to_vec(catalog).expect("a catalog serialises"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_catalog_is_no_empty_one() {
        let check = |file: Option<&str>, refused: bool| {
            let data = tempfile::tempdir().unwrap();
            if let Some(file) = file {
                let file = data.path().join(file);
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                std::fs::write(file, "x").unwrap();
            }
            let path = data.path().join("catalog.json");
            match Catalog::open(path.clone(), &[]) {
                Err(error @ CatalogError::Missing { .. }) if refused => {
                    assert!(error.to_string().contains(&path.display().to_string()));
                }
                Ok(_) if !refused => {}
                other => panic!("{file:?}: {other:?}"),
            }
        };
        check(None, false);
        check(Some("dataset/1-lambic_logs/p0/x.parquet"), false);
        check(Some("dataset/100-visits/p0/x.parquet"), true);
        check(Some("views/pages/v1/states.parquet"), true);
    }

    #[test]
    fn a_dropped_stream_is_known_until_nothing_is_left_of_it() {
        let data = tempfile::tempdir().unwrap();
        let open = || Catalog::open(data.path().join("catalog.json"), &[]).unwrap();
        let stream = Stream {
            id: StreamId(FIRST_STREAM_ID),
            name: StreamName::new("s").unwrap(),
            schema: Arc::new(Schema::new(vec![Field::new(
                "a",
                arrow::datatypes::DataType::Int64,
                true,
            )])),
            partitions: 1,
            event_time: None,
            record_id: None,
            partition_by: None,
            evolution: Default::default(),
        };
        let mut catalog = open();
        catalog.add_stream(Arc::new(stream.clone())).unwrap();
        catalog.remove_stream("s").unwrap();
        let mut catalog = open();
        assert_eq!(
            catalog.dropped(),
            &BTreeMap::from([(stream.id, stream.name)])
        );
        assert_eq!(catalog.streams().count(), 0);
        catalog.forget_dropped(stream.id).unwrap();
        assert!(open().dropped().is_empty());
    }
}
