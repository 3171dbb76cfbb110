//! Data folders in which something is missing or damaged: what the server and `lambic doctor` say of them.

use std::{fs, path::Path};

use crate::{
    common::{self, Server, text},
    fails,
};

#[test]
fn the_doctor_tells_all_that_is_wrong_and_changes_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let strange = folder.path().join("strange");
    fs::create_dir(&strange).expect("the folder is ours");
    fs::write(strange.join("notes.txt"), "x").expect("the folder is ours");
    let told = doctor(&strange, 1);
    assert!(told.contains("no data folder of Lambic"), "{told}");
    assert_eq!(contents(&strange).len(), 1);
    assert_eq!(fs::read_dir(&strange).expect("it is there").count(), 1);

    let data = folder.path().join("data");
    let mut server = Server::start(&data);
    server.ok(&[
        "query",
        "CREATE STREAM s (a bigint); INSERT INTO s SELECT 1 FROM generate_series(1, 1000); \
         CREATE MATERIALIZED VIEW v AS SELECT a, count(*) AS n FROM s GROUP BY a; \
         CREATE MATERIALIZED VIEW w AS SELECT max(a) AS n FROM s",
    ]);
    let output = common::lambic()
        .args(["doctor", "--data"])
        .arg(&data)
        .output()
        .expect("the binary is there");
    fails(&output, 78, &["in use by process"]);
    // The machine can be looked at all the same.
    let told = text(&output.stdout);
    for part in ["\ndisk free ", "\nzygote ", "\ngroups left "] {
        assert!(told.contains(part), "no {part:?} in {told}");
    }
    assert!(server.terminate().success(), "{}", server.said());
    let before = contents(&data);
    doctor(&data, 0);
    assert_eq!(contents(&data), before);

    // One flipped bit here and there.
    let flip = |is: &dyn Fn(&str) -> bool| {
        let mut files = walk(&data);
        files.retain(|path| is(&path.display().to_string()));
        files.sort();
        let path = files.pop().expect("there is such a file");
        let mut bytes = fs::read(&path).expect("it is readable");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        fs::write(&path, bytes).expect("the folder is ours");
    };
    flip(&|path| path.contains("/dataset/100-s/") && path.ends_with(".parquet"));
    flip(&|path| path.contains("/views/v/") && path.ends_with(".parquet"));
    flip(&|path| path.contains("/views/w/") && path.ends_with(".json"));
    fs::write(data.join("project.json"), "{").expect("the folder is ours");
    let before = contents(&data);
    let told = doctor(&data, 1);
    for wanted in [
        "dataset/100-s/",
        "views/v/v1",
        "views/w/v1",
        "project.json",
        "4 of ",
    ] {
        assert!(told.contains(wanted), "no {wanted:?} in\n{told}");
    }
    assert_eq!(contents(&data), before);
    flip(&|path| path.contains("/dataset/100-s/") && path.ends_with(".json"));
    flip(&|path| path.ends_with("catalog.json"));
    flip(&|path| path.ends_with(".segment"));
    let told = doctor(&data, 1);
    for wanted in ["catalog.json", "manifest", ".segment"] {
        assert!(told.contains(wanted), "no {wanted:?} in\n{told}");
    }
}

#[test]
fn a_missing_catalog_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    for sealed in [false, true] {
        let mut server = Server::start(&data);
        server.ok(&[
            "query",
            "CREATE STREAM IF NOT EXISTS s (a bigint); INSERT INTO s VALUES (1)",
        ]);
        if sealed {
            server.ok(&[
                "query",
                "CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM s",
            ]);
        }
        assert!(server.terminate().success(), "{}", server.said());
        let catalog = data.join("catalog.json");
        let kept = folder.path().join("catalog.json");
        fs::rename(&catalog, &kept).expect("the folder is ours");
        let (http, pg) = common::free_ports();
        let told = Server::start_on("serve", None, &data, http, pg, &[])
            .err()
            .expect("it must not start")
            .join("\n");
        assert!(
            told.contains("catalog.json is missing") && told.contains("restore it from a backup"),
            "{told}"
        );
        let told = doctor(&data, 1);
        assert!(told.contains("catalog.json is missing"), "{told}");
        fs::rename(&kept, &catalog).expect("the folder is ours");
    }
}

#[test]
fn a_damaged_file_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let mut server = Server::start(&data);
    server.ok(&[
        "query",
        "CREATE STREAM s (a bigint); INSERT INTO s SELECT 1 FROM generate_series(1, 1000)",
    ]);
    assert!(server.terminate().success(), "{}", server.said());
    let mut segments: Vec<_> = walk(&data.join("log"))
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "segment"))
        .collect();
    segments.sort();
    let segment = segments.first().expect("there is a segment");
    let mut bytes = fs::read(segment).expect("it is readable");
    // Behind the head of the segment, within records.
    let records = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .expect("it is not empty")
        / 2;
    bytes[records] ^= 0x40;
    fs::write(segment, bytes).expect("the folder is ours");
    let (http, pg) = common::free_ports();
    let told = Server::start_on("serve", None, &data, http, pg, &[])
        .err()
        .expect("it must not start")
        .join("\n");
    let name = segment
        .file_name()
        .expect("it has a name")
        .to_string_lossy()
        .into_owned();
    assert!(told.contains(&name), "no {name} in\n{told}");
}

pub fn doctor(data: &Path, code: i32) -> String {
    let output = common::lambic()
        .arg("doctor")
        .arg("--data")
        .arg(data)
        .output()
        .expect("the binary is there");
    let told = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{told}");
    told
}

/// Every file with its content.
fn contents(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = walk(folder)
        .into_iter()
        .map(|path| (path.clone(), fs::read(path).expect("it is readable")))
        .collect();
    files.sort();
    files
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("it is there").flatten() {
        if entry.path().is_dir() {
            found.extend(walk(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}
