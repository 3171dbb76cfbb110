//! Batch views at rest: one Parquet file of states and a numbered manifest for each run.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{error::ArrowError, record_batch::RecordBatch};
use lambic_dataset::{ManifestStore, parquet_file};
use lambic_model::{Erasures, Frontiers};
use lambic_view::{Class, Definition, Run, ViewPlan};
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use parquet::{
    basic::Compression,
    errors::ParquetError,
    file::properties::{EnabledStatistics, WriterProperties},
    schema::types::ColumnPath,
};
use serde::{Deserialize, Serialize};

use crate::{
    Error, frontier,
    made_by::MadeBy,
    narrow::{narrowed, widened},
    unfinished,
};

/// Where all views have their folders, see [`Definition::directory`].
const FOLDER: &str = "views";
/// The newest and the one before; only the newest has its file.
const MANIFESTS_KEPT: usize = 2;

/// What makes a run the view's batch view.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BatchManifest {
    /// Where its states begin, if that is not with the first record: it is a checkpoint then, which follows a batch
    /// run that ends there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Frontiers>,
    #[serde(flatten)]
    pub made_by: MadeBy,
    pub frontier: Frontiers,
    /// The erasures that its states know.
    #[serde(default, skip_serializing_if = "Erasures::is_empty")]
    pub erasures: Erasures,
    pub file: RunFile,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunFile {
    pub path: String,
    pub rows: u64,
    pub bytes: u64,
    pub crc32c: u32,
}

/// What is kept of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// The states from the first record on.
    Batch,
    /// The states from there to where the speed layer had come.
    Checkpoint,
}

impl Kept {
    fn folder(self, definition: &Definition) -> String {
        match self {
            Kept::Batch => definition.directory(),
            Kept::Checkpoint => format!("{}/speed", definition.directory()),
        }
    }
}

fn manifests(store: &Arc<dyn ObjectStore>, folder: &str) -> ManifestStore<BatchManifest> {
    ManifestStore::new(Arc::clone(store), Path::from(folder), MANIFESTS_KEPT)
}

/// Keys repeat, and so may rows. States hardly ever do, and are always read whole: to look for repetitions and extremes in
/// them costs much and gives nothing, nor does it to compress them well: they are soon replaced.
pub fn properties(plan: &ViewPlan) -> WriterProperties {
    let mut properties = parquet_file::properties().set_statistics_enabled(EnabledStatistics::None);
    if plan.class == Class::Rows {
        return properties.build();
    }
    properties = properties
        .set_dictionary_enabled(false)
        .set_compression(Compression::LZ4_RAW);
    for field in &plan.state_schema.fields()[..plan.key_columns()] {
        let column = ColumnPath::from(field.name().as_str());
        properties = properties.set_column_dictionary_enabled(column, true);
    }
    properties.build()
}

pub async fn keep(
    store: Arc<dyn ObjectStore>,
    kept: Kept,
    definition: &Definition,
    plan: &ViewPlan,
    run: &Run,
    threads: usize,
) -> Result<u64, Error> {
    let states = match plan.class {
        // Rows are the user's own columns, for other readers too.
        Class::Rows => run.states.clone(),
        _ => narrowed(&run.states).map_err(ParquetError::from)?,
    };
    let file = parquet_file::encode_on(threads, &states, properties(plan))?;
    let next = Next::of(store, kept, definition).await?;
    let covers = Covers {
        from: (kept == Kept::Checkpoint).then(|| run.from.clone()),
        frontier: run.to.clone(),
        erasures: run.erasures.clone(),
    };
    let written = RunFile {
        path: next.path(),
        rows: run.rows() as u64,
        bytes: file.len() as u64,
        crc32c: crc32c::crc32c(&file),
    };
    next.store
        .put(&Path::from(next.path()), file.into())
        .await?;
    next.commit(MadeBy::new(definition, plan), covers, written)
        .await
}

/// Which records the states of a run are of.
pub struct Covers {
    pub from: Option<Frontiers>,
    pub frontier: Frontiers,
    pub erasures: Erasures,
}

/// The place of the next run.
pub struct Next {
    pub store: Arc<dyn ObjectStore>,
    folder: String,
    manifests: ManifestStore<BatchManifest>,
    newest: Option<BatchManifest>,
    number: u64,
}

impl Next {
    pub async fn of(
        store: Arc<dyn ObjectStore>,
        kept: Kept,
        definition: &Definition,
    ) -> Result<Next, Error> {
        let folder = kept.folder(definition);
        let manifests = manifests(&store, &folder);
        let newest = manifests.load().await?;
        Ok(Next {
            number: newest.as_ref().map_or(0, |(number, _)| *number) + 1,
            newest: newest.map(|(_, manifest)| manifest),
            store,
            folder,
            manifests,
        })
    }

    /// Of its file, which is nothing without a manifest: a crash before that leaves the former run in place.
    pub fn path(&self) -> String {
        format!("{}/states-{:020}.parquet", self.folder, self.number)
    }

    /// Makes the file that was written the view's run.
    pub async fn commit(
        self,
        made_by: MadeBy,
        covers: Covers,
        file: RunFile,
    ) -> Result<u64, Error> {
        let manifest = BatchManifest {
            from: covers.from,
            made_by,
            frontier: covers.frontier,
            erasures: covers.erasures,
            file,
        };
        self.manifests.commit(self.number, &manifest).await?;
        if let Some(old) = self.newest {
            remove_if_there(&self.store, &Path::from(old.file.path)).await?;
        }
        Ok(self.number)
    }
}

fn is_data(path: &Path) -> bool {
    path.extension() == Some("parquet")
}

fn is_manifest(path: &Path) -> bool {
    let name = path.filename();
    name.is_some_and(|name| lambic_dataset::manifest_number(name).is_some())
}

/// Deletes manifests before the files that they name, the newest last: a crash leaves none whose file is gone.
async fn remove(store: &Arc<dyn ObjectStore>, mut paths: Vec<Path>) -> Result<(), Error> {
    paths.sort_by_cached_key(|path| (!is_manifest(path), path.clone()));
    for path in &paths {
        remove_if_there(store, path).await?;
    }
    Ok(())
}

fn folder_of(path: &Path) -> Path {
    let parts: Vec<_> = path.parts().collect();
    let folder = parts.iter().take(parts.len().saturating_sub(1));
    folder.cloned().collect()
}

async fn remove_if_there(store: &Arc<dyn ObjectStore>, path: &Path) -> Result<(), Error> {
    match store.delete(path).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

pub async fn load(
    store: Arc<dyn ObjectStore>,
    kept: Kept,
    definition: &Definition,
    plan: &ViewPlan,
    threads: usize,
) -> Result<Option<(Run, u64)>, Error> {
    let folder = kept.folder(definition);
    let damaged = |path: String, what: String| Error::Damaged {
        path,
        folder: folder.clone(),
        what,
    };
    let manifests = manifests(&store, &folder);
    let (number, manifest) = match manifests.load().await {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(None),
        Err(error @ lambic_dataset::Error::ManifestDamaged { .. }) => {
            return Err(damaged(folder.clone(), error.to_string()));
        }
        Err(error) => return Err(error.into()),
    };
    let fits = manifest.made_by.fits(definition, plan, &manifest.frontier);
    if !fits {
        return Ok(None);
    }
    let damaged = |what: String| damaged(manifest.file.path.clone(), what);
    let read = store.get(&Path::from(manifest.file.path.clone())).await;
    let bytes = match read {
        Ok(found) => found.bytes().await?,
        Err(object_store::Error::NotFound { .. }) => {
            return Err(damaged("it is missing".to_owned()));
        }
        Err(error) => return Err(error.into()),
    };
    if bytes.len() as u64 != manifest.file.bytes || crc32c::crc32c(&bytes) != manifest.file.crc32c {
        return Err(damaged(
            "its checksum does not match its manifest".to_owned(),
        ));
    }
    let states = parquet_file::decode(bytes)?;
    let states = states
        .iter()
        .map(|batch| widened(batch, &plan.state_schema));
    let states: Result<Vec<RecordBatch>, ArrowError> = states.collect();
    let states = states.map_err(ParquetError::from)?;
    let from = manifest.from.unwrap_or_default();
    let run = plan.sorted(states, threads, from, manifest.frontier)?;
    Ok(Some((run.knowing(manifest.erasures), number)))
}

pub async fn forget_outdated(
    store: Arc<dyn ObjectStore>,
    erasures: &Erasures,
) -> Result<(), Error> {
    use futures::TryStreamExt;
    let all = store.list(Some(&Path::from(FOLDER)));
    let mut folders: BTreeMap<Path, Vec<Path>> = BTreeMap::new();
    let mut objects = all.map_ok(|object| object.location);
    while let Some(path) = objects.try_next().await? {
        folders.entry(folder_of(&path)).or_default().push(path);
    }
    // A frontier tells of offsets alone, which an erasure leaves as they are.
    folders.retain(|folder, _| folder.filename() != Some(frontier::FOLDER));
    for (folder, mut paths) in folders {
        let manifests: ManifestStore<BatchManifest> =
            ManifestStore::new(Arc::clone(&store), folder, MANIFESTS_KEPT);
        // One that cannot be read is computed again in any case.
        let newest = manifests.load().await.ok().flatten();
        let current = newest.as_ref().filter(|(_, manifest)| {
            let streams = manifest.frontier.0.keys().copied();
            manifest.erasures == erasures.of_streams(streams)
        });
        paths.retain(|path| {
            let stays = current
                .is_some_and(|(_, manifest)| path.as_ref() == manifest.file.path || !is_data(path));
            !stays
        });
        remove(&store, paths).await?;
    }
    Ok(())
}

/// Deletes what is kept; `but` for a folder in it.
pub async fn forget(
    store: Arc<dyn ObjectStore>,
    kept: Kept,
    definition: &Definition,
    but: Option<Path>,
) -> Result<(), Error> {
    use futures::TryStreamExt;
    let prefix = Path::from(kept.folder(definition));
    let paths: Vec<Path> = store
        .list(Some(&prefix))
        .map_ok(|object| object.location)
        .try_filter(|path| {
            let stays = but.as_ref().is_some_and(|but| path.prefix_matches(but));
            std::future::ready(!stays)
        })
        .try_collect()
        .await?;
    remove(&store, paths).await
}

/// Of all views, those that have one.
pub async fn folders_of_slices(store: &Arc<dyn ObjectStore>) -> Result<Vec<Path>, Error> {
    use futures::TryStreamExt;
    let mut objects = store.list(Some(&Path::from(FOLDER)));
    let mut folders = std::collections::BTreeSet::new();
    while let Some(object) = objects.try_next().await? {
        let folder = folder_of(&object.location);
        if folder.filename() == Some(unfinished::FOLDER) {
            folders.insert(folder);
        }
    }
    Ok(folders.into_iter().collect())
}
