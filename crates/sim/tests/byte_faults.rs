//! Flipped bits, cuts, swaps and zeroed pages in every kind of file: an error names the file, and no wrong row is served.
//!
//! Every bit of one log segment and one data file with `LAMBIC_SIM_ALL`, otherwise some, from a place of chance.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use lambic_base::disk::SimDisk;
use lambic_dataset::{Dataset, LocalStore};
use lambic_log::Log;
use lambic_model::Stream;
use lambic_sim::{DATA, Machine, Node, Reads};

const PAGE: usize = 512;
const QUERIES: [&str; 2] = [
    "SELECT *, _partition, _offset FROM s ORDER BY _offset",
    "SELECT * FROM totals ORDER BY k",
];

type Answer = Result<Vec<Vec<String>>, String>;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made")
}

fn is_long() -> bool {
    std::env::var_os("LAMBIC_SIM_ALL").is_some()
}

/// Some of `0..count`, or all.
fn sample(count: usize, size: usize) -> impl Iterator<Item = usize> {
    let step = if is_long() { 1 } else { (count / size).max(1) };
    let first = rand::random_range(0..step);
    (first..count).step_by(step)
}

/// What lies on a disk whose server has stopped, and what that server answered.
struct AtRest {
    disk: SimDisk,
    stream: Arc<Stream>,
    answers: Vec<Answer>,
}

impl AtRest {
    /// Sealed files, batch views and several segments with records that are in no file yet.
    async fn make() -> AtRest {
        let disk = SimDisk::new(1);
        let machine = Machine::on(disk.clone());
        let node = Node::open(&machine).await.unwrap();
        let view = "SELECT k, count(*) AS n, sum(v) AS total FROM s GROUP BY k";
        let declared = format!(
            "CREATE STREAM s (id bigint, k text, v bigint); CREATE MATERIALIZED VIEW totals AS {view}"
        );
        node.sql(&declared).await.unwrap();
        let insert = async |ids: std::ops::Range<i64>| {
            let rows = ids.map(|id| format!("({id}, 'k{}', {})", id % 3, id * 7));
            let rows: Vec<String> = rows.collect();
            let sql = format!("INSERT INTO s VALUES {}", rows.join(", "));
            node.sql(&sql).await.unwrap();
        };
        insert(0..20).await;
        let stream = node.database.stream("s").unwrap();
        node.seal(stream.id).await.unwrap();
        node.sql("REFRESH MATERIALIZED VIEW totals").await.unwrap();
        for first in (20..60).step_by(4) {
            insert(first..first + 4).await;
        }
        let answers = answers(&node).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        node.close().await;
        AtRest {
            disk,
            stream,
            answers,
        }
    }

    fn files(&self, extension: &str) -> Vec<PathBuf> {
        let mut files = self.disk.files();
        files.retain(|path| path.extension().is_some_and(|found| found == extension));
        files
    }

    fn with(&self, changes: &[(&Path, Vec<u8>)]) -> SimDisk {
        let disk = self.disk.after_kill();
        for (path, bytes) in changes {
            disk.set_content(path, bytes.clone());
        }
        disk
    }

    /// A server on the damaged disk must name one of the files, and answer rightly or not at all.
    async fn check(&self, what: &str, changes: &[(&Path, Vec<u8>)]) {
        let said = match Node::open(&Machine::on(self.with(changes))).await {
            Err(error) => vec![error],
            Ok(node) => {
                let mut said = Vec::new();
                for (answer, right) in answers(&node).await.into_iter().zip(&self.answers) {
                    match answer {
                        Ok(rows) => assert_eq!(Ok(&rows), right.as_ref(), "{what}: wrong rows"),
                        Err(error) => said.push(error),
                    }
                }
                node.close().await;
                said
            }
        };
        let names_it = |said: &String| {
            let mut names = changes.iter().map(|(path, _)| name(path));
            names.any(|name| said.contains(&name))
        };
        assert!(
            said.iter().any(names_it),
            "{what}: not noticed, or not named: {said:?}"
        );
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

async fn answers(node: &Node) -> Vec<Answer> {
    let mut answers = Vec::new();
    for query in QUERIES {
        answers.push(node.sql(query).await);
    }
    answers
}

/// Of the manifests of a folder, only the newest is read. How far appends were acknowledged is said again by the
/// segments: without that file, they alone tell.
fn is_read(path: &Path, all: &[PathBuf]) -> bool {
    let is_newer = |other: &&PathBuf| {
        let same_folder = other.parent() == path.parent();
        same_folder && name(other).starts_with("manifest-") && name(other) > name(path)
    };
    let is_manifest = name(path).starts_with("manifest-");
    name(path) != "acknowledged" && !(is_manifest && all.iter().any(|other| is_newer(&other)))
}

fn flipped(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut flipped = bytes.to_vec();
    flipped[bit / 8] ^= 1 << (bit % 8);
    flipped
}

#[test]
fn damage_of_any_file_is_named_and_no_wrong_row_is_served() {
    runtime().block_on(async {
        let rest = AtRest::make().await;
        let mut files = rest.disk.files();
        let all = files.clone();
        files.retain(|path| is_read(path, &all));
        let mut tried = 0;
        for path in &files {
            let (path, name) = (path.as_path(), name(path));
            let bytes = rest.disk.content(path).unwrap();
            let step = (bytes.len() * 8 / if is_long() { 200 } else { 4 }).max(1);
            for bit in (rand::random_range(0..step)..bytes.len() * 8).step_by(step) {
                let damaged = flipped(&bytes, bit);
                rest.check(&format!("{name}, bit {bit}"), &[(path, damaged)])
                    .await;
                tried += 1;
            }
            for length in [0, bytes.len() / 2, bytes.len() - 1] {
                let cut = bytes[..length].to_vec();
                rest.check(&format!("{name}, cut at {length}"), &[(path, cut)])
                    .await;
            }
            let page = rand::random_range(0..bytes.len().div_ceil(PAGE)) * PAGE;
            let mut zeroed = bytes.clone();
            let end = bytes.len().min(page + PAGE);
            zeroed[page..end].fill(0);
            rest.check(&format!("{name}, page at {page} zeroed"), &[(path, zeroed)])
                .await;
            tried += 4;
        }
        for extension in ["segment", "parquet"] {
            let files = rest.files(extension);
            assert!(files.len() > 1, "{files:?}");
            for pair in files.windows(2) {
                let [one, other] =
                    [&pair[0], &pair[1]].map(|path| rest.disk.content(path).unwrap());
                if one.len() != other.len() || one != other {
                    let swapped = [(pair[0].as_path(), other), (pair[1].as_path(), one)];
                    rest.check(&format!("{pair:?} swapped"), &swapped).await;
                    tried += 1;
                }
            }
        }
        println!("{tried} damages of {} files, all named", files.len());
    });
}

#[test]
fn every_flipped_bit_of_a_segment_is_named() {
    runtime().block_on(async {
        let rest = AtRest::make().await;
        let segments = rest.files("segment");
        // Every frame of the newest was acknowledged.
        for path in [&segments[0], &segments[segments.len() - 1]] {
            let path = path.as_path();
            let bytes = rest.disk.content(path).unwrap();
            let mut tried = 0;
            for bit in sample(bytes.len() * 8, 300) {
                let disk = rest.with(&[(path, flipped(&bytes, bit))]);
                let options = lambic_log::Options {
                    disk: Arc::new(disk),
                    ..lambic_log::Options::new(Path::new(DATA).join("log"))
                };
                match Log::open(options, std::slice::from_ref(&rest.stream)) {
                    Err(lambic_log::Error::Damaged { path: named, .. }) => assert!(
                        // What follows a segment may say that the two do not fit.
                        segments.contains(&named),
                        "bit {bit}: {named:?}"
                    ),
                    other => panic!("bit {bit} of {}: {other:?}", path.display()),
                }
                tried += 1;
            }
            println!(
                "{tried} of {} bits of {}, all named",
                bytes.len() * 8,
                name(path)
            );
        }
    });
}

#[test]
fn every_flipped_bit_of_a_data_file_is_named() {
    runtime().block_on(async {
        let rest = AtRest::make().await;
        let root = PathBuf::from(DATA);
        let files = rest.files("parquet");
        let path = files
            .iter()
            .find(|path| path.starts_with(root.join("dataset")))
            .unwrap()
            .as_path();
        let bytes = rest.disk.content(path).unwrap();
        let mut tried = 0;
        for bit in sample(bytes.len() * 8, 300) {
            let disk = rest.with(&[(path, flipped(&bytes, bit))]);
            let reads = Arc::new(Reads::new(disk.clone(), root.clone()));
            let store = LocalStore::open_on(Arc::new(disk), reads, root.clone()).unwrap();
            let dataset = Dataset::open(Arc::new(store), Default::default())
                .await
                .unwrap();
            dataset.add_stream(rest.stream.clone()).await.unwrap();
            let manifest = dataset.manifest(rest.stream.id);
            let file = manifest
                .files
                .iter()
                .find(|file| path.ends_with(&file.path));
            match dataset.read(file.unwrap()).await {
                Err(lambic_dataset::Error::FileDamaged { path: named, .. }) => {
                    assert!(path.ends_with(named), "bit {bit}");
                }
                other => panic!("bit {bit}: {other:?}"),
            }
            tried += 1;
        }
        println!(
            "{tried} of {} bits of {}, all named",
            bytes.len() * 8,
            name(path)
        );
    });
}
