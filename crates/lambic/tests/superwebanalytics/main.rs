//! `examples/superwebanalytics` against its golden table: at every split between batch and speed, in many orders of
//! arrival, in every variant, and through the story of its README.
//!
//! `golden` holds the table and a model of the three answers; `splits` the orders and splits; `variants` what else must
//! hold of the records; `ranges` the covers; `story` the mistake and the way back.

#[path = "../common/mod.rs"]
mod common;
mod golden;
mod ranges;
mod splits;
mod story;
mod variants;

use std::{
    fs,
    path::{Path, PathBuf},
};

use common::Server;
use golden::Fact;
use serde_json::{Value, json};

fn example() -> PathBuf {
    common::root().join("examples/superwebanalytics")
}

/// The example's server over a folder of its own.
struct Site {
    server: Server,
    folder: tempfile::TempDir,
}

impl Site {
    fn start() -> Site {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder.path().join("data");
        let server = Server::start_with("serve", Some(&example()), &data, &[]);
        Site { server, folder }
    }

    fn restarted(mut self) -> Site {
        self.server.kill();
        let data = self.folder.path().join("data");
        self.server = Server::start_with("serve", Some(&example()), &data, &[]);
        self
    }

    fn append_file(&self, stream: &str, file: &Path) {
        let file = file.to_str().expect("paths of tests are text");
        self.server.ok(&["append", stream, file]);
    }

    /// The facts, in the order given within each stream.
    fn append<'a>(&self, facts: impl IntoIterator<Item = &'a Fact>) {
        let (mut views, mut equivs) = (String::new(), String::new());
        for fact in facts {
            let (lines, record) = match fact {
                Fact::View(view) => (
                    &mut views,
                    json!({"person": view.person, "url": view.url, "nonce": view.nonce, "at_s": view.at_s}),
                ),
                Fact::Equiv(a, b) => (
                    &mut equivs,
                    json!({"person_a": a, "person_b": b, "at_s": 20_000}),
                ),
            };
            lines.push_str(&record.to_string());
            lines.push('\n');
        }
        for (stream, lines) in [("page_view", views), ("equiv", equivs)] {
            if !lines.is_empty() {
                let file = self.folder.path().join("facts.ndjson");
                fs::write(&file, lines).expect("the folder is ours");
                self.append_file(stream, &file);
            }
        }
    }

    /// Replaces a view by its file, changed.
    fn replace(&self, view: &str, from: &str, to: &str) {
        let text = fs::read_to_string(example().join(format!("views/{view}.sql")))
            .expect("the view has a file");
        assert!(text.contains(from), "no {from:?} in {text}");
        let changed = text.replace(from, to).replace(
            "CREATE MATERIALIZED VIEW IF NOT EXISTS",
            "CREATE OR REPLACE MATERIALIZED VIEW",
        );
        self.run(&changed);
    }

    /// The rows of a text of SQL as it stands in a file, comments and all.
    fn run(&self, sql: &str) -> Vec<Value> {
        let file = self.folder.path().join("statement.sql");
        fs::write(&file, sql).expect("the folder is ours");
        let file = file.to_str().expect("paths of tests are text");
        let answer = self.server.ok(&["query", "--json", "-f", file]);
        match answer.is_empty() {
            true => Vec::new(),
            false => serde_json::from_str(&answer).expect("JSON"),
        }
    }

    fn audit(&self) {
        self.server.ok(&["audit", "--all"]);
    }
}

/// A query of the example, with one literal put in place of another.
fn query(name: &str, changes: &[(&str, &str)]) -> String {
    let mut text = fs::read_to_string(example().join(format!("queries/{name}.sql")))
        .expect("the query has a file");
    for (from, to) in changes {
        assert!(text.contains(from), "no {from:?} in {text}");
        text = text.replace(from, to);
    }
    text
}
