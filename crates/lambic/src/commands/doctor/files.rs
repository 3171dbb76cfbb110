//! Whether the files of a stopped server are whole: all are read, none is changed, and whatever is wrong is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    sync::Arc,
};

use anyhow::Context;
use lambic_base::DirLock;
use lambic_batch::BatchManifest;
use lambic_dataset::{DataFile, Dataset, ErasureLog, LocalStore, Manifest, ManifestStore};
use lambic_log::Inspected;
use lambic_model::{Frontier, Offset, OffsetRange, PartitionId, StreamId};
use lambic_query::Catalog;
use lambic_view::Definition;

use super::{Check, erasures};
use crate::{
    backup,
    commands::wait,
    exit::refusal,
    output::counted,
    server::{self, FIRST_STREAM_ID},
};

/// What is told of damage to something that can be computed again.
const DERIVED: &str = "it is derived data, and the next start computes it again";

pub fn check(data: &Path) -> anyhow::Result<Vec<Check>> {
    if !data.is_dir() {
        return Err(refusal(anyhow::anyhow!(
            "there is no data folder {}",
            data.display()
        )));
    }
    let _lock = DirLock::look(data).map_err(refusal)?;
    if let Some(unfinished) = backup::unfinished(data) {
        let shown = data.display().to_string();
        return Ok(vec![Check::trouble("data folder", shown, unfinished)]);
    }
    let ours = ["catalog.json", "log", "dataset", "views"];
    if !ours.iter().any(|name| data.join(name).exists()) {
        return Ok(vec![Check::trouble(
            "data folder",
            data.display().to_string(),
            format_args!(
                "this is no data folder of Lambic: it has none of {}",
                ours.join(", ")
            ),
        )]);
    }
    let mut checks = Vec::new();
    let catalog = catalog(data, &mut checks);
    let log = log(data, &mut checks);
    ids(data, &mut checks);
    if let Err(error) = server::described(data) {
        checks.push(Check::trouble("catalog", "missing", error));
    }
    wait(|| async {
        let store = Arc::new(
            LocalStore::to_read(data).with_context(|| format!("cannot read {}", data.display()))?,
        );
        let dataset = Dataset::open(store, lambic_dataset::Options::default()).await?;
        let erasures = erasures::check(&dataset, &mut checks).await;
        let (catalog, log) = (catalog.as_ref(), log.as_ref());
        streams(data, &dataset, catalog, log, erasures.as_ref(), &mut checks).await;
        if let Some(catalog) = catalog {
            views(&dataset, catalog, &mut checks).await;
        }
        Ok(())
    })?;
    functions(data, &mut checks);
    project(data, &mut checks);
    Ok(checks)
}

/// `None` if it cannot be trusted.
fn catalog(data: &Path, checks: &mut Vec<Check>) -> Option<Catalog> {
    const NAME: &str = "catalog";
    let path = data.join("catalog.json");
    match Catalog::open(path.clone(), &[]) {
        Ok(catalog) => {
            let streams = counted(catalog.streams().count() as u64, "stream");
            let views = counted(catalog.views().count() as u64, "view");
            checks.push(Check::fine(NAME, format!("{streams}, {views}")));
            Some(catalog)
        }
        Err(error) => {
            checks.push(Check::trouble(NAME, path.display().to_string(), error));
            None
        }
    }
}

fn log(data: &Path, checks: &mut Vec<Check>) -> Option<Inspected> {
    const NAME: &str = "log";
    let folder = data.join("log");
    let found = match lambic_log::inspect(&folder) {
        Ok(found) => found,
        Err(error) => {
            checks.push(Check::trouble(NAME, folder.display().to_string(), error));
            return None;
        }
    };
    let mut told = format!(
        "{} in {}, every frame read",
        counted(found.bytes, "byte"),
        counted(found.segments as u64, "segment")
    );
    if found.torn_bytes > 0 {
        told += &format!(
            "; {} of an append that was never acknowledged",
            counted(found.torn_bytes, "byte")
        );
    }
    checks.push(if found.segments > 0 && !found.mark_known {
        Check::trouble(
            NAME,
            told,
            "the file `acknowledged` beside the segments is missing or unreadable: the log's end may be cut without notice; the next start writes it anew",
        )
    } else {
        Check::fine(NAME, told)
    });
    Some(found)
}

/// The folders `dataset/<id>-<name>`.
fn folders(data: &Path) -> io::Result<BTreeMap<StreamId, String>> {
    let entries = match fs::read_dir(data.join("dataset")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        other => other?,
    };
    let mut folders = BTreeMap::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(id) = name.split('-').next().and_then(|id| id.parse().ok()) {
            folders.insert(StreamId(id), name);
        }
    }
    Ok(folders)
}

async fn streams(
    data: &Path,
    dataset: &Dataset,
    catalog: Option<&Catalog>,
    log: Option<&Inspected>,
    erasures: Option<&ErasureLog>,
    checks: &mut Vec<Check>,
) {
    let folders = match folders(data) {
        Ok(folders) => folders,
        Err(error) => {
            let folder = data.join("dataset").display().to_string();
            checks.push(Check::trouble("dataset", folder, error));
            return;
        }
    };
    let known: BTreeMap<StreamId, String> = catalog
        .into_iter()
        .flat_map(Catalog::streams)
        .map(|stream| (stream.id, stream.name.to_string()))
        .collect();
    // Dropped streams leave no trace in the dataset, but may in the log.
    let own = log
        .into_iter()
        .flat_map(|log| log.starts.0.keys())
        .filter(|id| id.0 < FIRST_STREAM_ID);
    let ids: BTreeSet<StreamId> = folders
        .keys()
        .chain(known.keys())
        .chain(own)
        .copied()
        .collect();
    let mut files = 0;
    for id in ids {
        let name = folders
            .get(&id)
            .or_else(|| known.get(&id))
            .cloned()
            .unwrap_or_else(|| format!("stream {id}"));
        let frontier = match folders.get(&id) {
            None => Frontier::default(),
            Some(folder) => match sealed(dataset, folder, erasures, checks, &mut files).await {
                Some(frontier) => frontier,
                None => continue,
            },
        };
        let is_own = id.0 < FIRST_STREAM_ID;
        if catalog.is_some_and(|catalog| catalog.dropped().contains_key(&id)) {
            // The next start deletes what is left of it.
            continue;
        }
        if catalog.is_some() && !is_own && !known.contains_key(&id) && frontier.records() > 0 {
            checks.push(Check::trouble(
                "dataset",
                name.clone(),
                "it holds records of a stream that the catalog does not list: the catalog is an older copy",
            ));
            continue;
        }
        let Some(log) = log else { continue };
        let start = log.starts.of(id);
        if !frontier.covers(&start) {
            checks.push(Check::trouble(
                "dataset",
                name.clone(),
                format_args!(
                    "records are missing: it is sealed up to {frontier}, and the log begins at {start}; restore what lies between from a backup"
                ),
            ));
        }
        let head = log.heads.of(id);
        if !head.covers(&frontier) {
            checks.push(Check::trouble(
                "log",
                name,
                format_args!(
                    "the log ends at {head}, before what is sealed up to {frontier}: it is an older copy or another log"
                ),
            ));
        }
    }
    checks.push(Check::fine(
        "dataset",
        format!("{} checked", counted(files, "file")),
    ));
}

/// Checks the newest manifest of a folder and the files that it lists; `None` if it cannot be trusted.
async fn sealed(
    dataset: &Dataset,
    folder: &str,
    erasures: Option<&ErasureLog>,
    checks: &mut Vec<Check>,
    files: &mut u64,
) -> Option<Frontier> {
    const NAME: &str = "dataset manifest";
    let manifests = ManifestStore::<Manifest>::new(dataset.store(), format!("dataset/{folder}"), 1);
    let manifest = match manifests.load().await {
        Ok(None) => return Some(Frontier::default()),
        Ok(Some((_, manifest))) => manifest,
        Err(error) => {
            checks.push(Check::trouble(NAME, folder, error));
            return None;
        }
    };
    let path = manifests.path(manifest.number).to_string();
    if format!("{}-{}", manifest.stream, manifest.name) != folder {
        checks.push(Check::trouble(
            NAME,
            path,
            format_args!(
                "it is the manifest of stream {} ({}); restore the folder from a backup",
                manifest.stream, manifest.name
            ),
        ));
        return None;
    }
    if let Some(erasures) = erasures {
        erasures::check_files(erasures, &manifest, &path, checks);
    }
    if let Err(reason) = manifest.check() {
        checks.push(Check::trouble(NAME, path, reason));
    }
    for file in &manifest.files {
        *files += 1;
        if let Err(error) = dataset.verify(file).await {
            checks.push(Check::trouble("dataset file", file.path.clone(), error));
        }
    }
    Some(manifest.frontier)
}

async fn views(dataset: &Dataset, catalog: &Catalog, checks: &mut Vec<Check>) {
    let mut files = 0;
    for definition in catalog.views() {
        if let Err(error) = view(dataset, definition, &mut files).await {
            checks.push(Check::trouble(
                "view",
                definition.directory(),
                format_args!("{}; {DERIVED}", without_advice(&error.to_string())),
            ));
        }
    }
    checks.push(Check::fine(
        "views",
        format!("{} checked", counted(files, "file")),
    ));
}

/// What is derived needs no backup.
fn without_advice(error: &str) -> &str {
    error
        .split("; restore it from a backup")
        .next()
        .unwrap_or(error)
}

async fn view(
    dataset: &Dataset,
    definition: &Definition,
    files: &mut u64,
) -> Result<(), lambic_dataset::Error> {
    // What the speed layer had come to is beside.
    for directory in [
        definition.directory(),
        format!("{}/speed", definition.directory()),
    ] {
        let manifests = ManifestStore::<BatchManifest>::new(dataset.store(), directory, 1);
        // A view without a batch view is one that is not built to the end.
        let Some((_, manifest)) = manifests.load().await? else {
            continue;
        };
        *files += 1;
        let file = DataFile {
            path: manifest.file.path,
            range: OffsetRange {
                partition: PartitionId(0),
                first: Offset(0),
                end: Offset(manifest.file.rows),
            },
            bytes: manifest.file.bytes,
            crc32c: manifest.file.crc32c,
            erased: None,
            schema: Default::default(),
            compacted: false,
        };
        dataset.verify(&file).await?;
    }
    Ok(())
}

/// What is deployed: its description, whether its code is what was deployed, and what functions keep.
fn functions(data: &Path, checks: &mut Vec<Check>) {
    const NAME: &str = "function";
    let folder = data.join("functions");
    if !folder.join("functions").is_dir() {
        return;
    }
    let all = match lambic_functions::inspect(&folder) {
        Ok(all) => all,
        Err(error) => {
            checks.push(Check::trouble(NAME, folder.display().to_string(), error));
            return;
        }
    };
    let found = all.len() as u64;
    let beside = match lambic_functions::inspect_beside(&folder) {
        Ok(beside) => beside,
        Err(error) => {
            checks.push(Check::trouble(NAME, folder.display().to_string(), error));
            Vec::new()
        }
    };
    for inspected in all.into_iter().chain(beside) {
        if let Some(trouble) = inspected.trouble {
            let shown = inspected.path.display().to_string();
            checks.push(Check::trouble(NAME, shown, trouble));
        }
    }
    checks.push(Check::fine("functions", counted(found, "function")));
    let values = folder.join("kv");
    index(
        &values,
        ("values of functions", "value"),
        |copy| lambic_functions::inspect_values(copy).map_err(|error| error.to_string()),
        checks,
    );
}

fn ids(data: &Path, checks: &mut Vec<Check>) {
    let folder = data.join("log").join("ids");
    let inspect = |copy: &Path| lambic_log::inspect_ids(copy).map_err(|error| error.to_string());
    index(&folder, ("record ids", "id"), inspect, checks);
}

/// An index, read in a copy: its store would mend what it can where it stands.
fn index(
    folder: &Path,
    (name, noun): (&'static str, &str),
    inspect: impl Fn(&Path) -> Result<u64, String>,
    checks: &mut Vec<Check>,
) {
    if !folder.is_dir() {
        return;
    }
    let shown = folder.display().to_string();
    let copied = tempfile::tempdir().and_then(|copy| {
        copy_below(folder, &copy.path().join("index"))?;
        Ok(copy)
    });
    checks.push(match copied {
        Err(error) => Check::trouble(
            name,
            shown,
            format_args!(
                "it cannot be copied to be looked at: {error}; TMPDIR chooses another place for the copy where there is no room"
            ),
        ),
        Ok(copy) => match inspect(&copy.path().join("index")) {
            Ok(found) => Check::fine(name, counted(found, noun)),
            Err(error) => Check::trouble(name, shown, error),
        },
    });
}

fn copy_below(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_below(&entry.path(), &target)?,
            false => drop(fs::copy(entry.path(), target)?),
        }
    }
    Ok(())
}

/// What `serve` and `dev` remember of the project.
fn project(data: &Path, checks: &mut Vec<Check>) {
    let path = data.join("project.json");
    let read = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        other => other.map_err(|error| error.to_string()),
    };
    let read = read.and_then(|bytes| {
        serde_json::from_slice::<BTreeMap<String, String>>(&bytes).map_err(|e| e.to_string())
    });
    if let Err(error) = read {
        checks.push(Check::trouble(
            "project",
            path.display().to_string(),
            format_args!("{error}; remove it to apply everything again"),
        ));
    }
}
