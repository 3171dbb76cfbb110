//! Holds the table of rooms: which crate may use which. Data flows one way.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

/// Room and what it may use besides `model` and `base`, in the order of ARCHITECTURE.md.
const ROOMS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("base", &[]),
    ("log", &[]),
    ("dataset", &["log"]),
    ("view", &[]),
    ("batch", &["dataset", "view"]),
    ("speed", &["log", "view"]),
    ("serving", &["view"]),
    ("query", &["dataset", "serving", "view"]),
    ("sandbox", &[]),
    ("functions", &["log", "sandbox"]),
    ("connectors", &["log"]),
    ("api", &["functions", "query", "log", "connectors"]),
];

/// Heavy things and the only rooms that may name them; the binary wires, so it may name what it hands over.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("wasmtime", &["sandbox"]),
    ("wasmtime-wasi", &["sandbox"]),
    ("wasmtime-wasi-http", &["sandbox"]),
    ("nix", &["sandbox"]),
    ("axum", &["api"]),
    ("pgwire", &["api"]),
    ("anyhow", &["lambic"]),
];

const DATAFUSION_NOT_IN: &[&str] = &["model", "base", "log", "sandbox", "functions"];

struct Crate {
    room: String,
    /// Names of dependencies that are not for tests only.
    uses: BTreeSet<String>,
}

fn crates() -> Vec<Crate> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(root)
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let packages = metadata["packages"].as_array().expect("there are packages");
    let name =
        |value: &serde_json::Value| value["name"].as_str().expect("it has a name").to_owned();
    packages
        .iter()
        .map(|package| Crate {
            room: name(package).trim_start_matches("lambic-").to_owned(),
            uses: package["dependencies"]
                .as_array()
                .expect("there are dependencies")
                .iter()
                .filter(|dependency| dependency["kind"].as_str() != Some("dev"))
                .map(name)
                .collect(),
        })
        .collect()
}

#[test]
fn every_crate_is_a_room_of_the_table() {
    let folders = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .expect("crates/ is readable")
        .flatten()
        .filter(|entry| entry.path().join("Cargo.toml").exists())
        .count();
    let crates = crates();
    assert_eq!(
        crates.len(),
        folders,
        "cargo sees fewer crates than there are folders"
    );
    let seen: BTreeSet<&str> = crates.iter().map(|found| found.room.as_str()).collect();
    let mut expected: BTreeSet<&str> = ROOMS.iter().map(|(room, _)| *room).collect();
    // They may use all.
    expected.extend(["lambic", "sim"]);
    assert_eq!(seen, expected);
}

#[test]
fn rooms_use_only_what_the_table_allows() {
    let allowed: BTreeMap<&str, &[&str]> = ROOMS.iter().copied().collect();
    for Crate { room, uses } in crates() {
        let Some(allowed) = allowed.get(room.as_str()) else {
            continue;
        };
        for used in uses.iter().filter_map(|used| used.strip_prefix("lambic-")) {
            assert!(
                used != room
                    && (["model", "base"].contains(&used) && room != "model"
                        || allowed.contains(&used)),
                "`{room}` must not use `{used}`"
            );
        }
    }
}

#[test]
fn heavy_dependencies_stay_in_their_rooms() {
    for Crate { room, uses } in crates() {
        for (heavy, rooms) in ONLY_IN {
            assert!(
                !uses.contains(*heavy) || rooms.contains(&room.as_str()),
                "`{heavy}` is for {rooms:?}, not for `{room}`"
            );
        }
        if DATAFUSION_NOT_IN.contains(&room.as_str()) {
            assert!(
                !uses.contains("datafusion"),
                "`{room}` must not know DataFusion"
            );
        }
    }
}
