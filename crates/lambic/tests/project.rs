//! `lambic dev` and `lambic serve PROJECT`: what is applied, followed, and refused.

mod common;

use std::{fs, path::Path};

use common::{Server, eventually};
use serde_json::json;

fn write(folder: &Path, path: &str, text: &str) {
    let path = folder.join(path);
    fs::create_dir_all(path.parent().expect("it has a folder")).expect("the folder is ours");
    fs::write(path, text).expect("the folder is ours");
}

fn visits(folder: &Path) {
    write(folder, "lambic.toml", "[project]\nname = \"visits\"\n");
    write(
        folder,
        "streams/visits.sql",
        "-- Visits.\nCREATE STREAM IF NOT EXISTS visits (url text, ms bigint);\n",
    );
    write(
        folder,
        "views/pages.sql",
        "CREATE MATERIALIZED VIEW IF NOT EXISTS pages AS\nSELECT url, count(*) AS n FROM visits GROUP BY url;\n",
    );
}

#[test]
fn a_project_is_followed_and_mistakes_leave_the_old_running() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    visits(folder.path());
    let data = folder.path().join(".lambic");
    let mut server = Server::start_with("dev", Some(folder.path()), &data, &[]);
    server.ok(&[
        "query",
        "INSERT INTO visits VALUES ('/', 1), ('/', 3), ('/a', 5)",
    ]);
    assert_eq!(
        server.rows("SELECT * FROM pages ORDER BY url"),
        [json!({"url": "/", "n": 2}), json!({"url": "/a", "n": 1})]
    );

    // A changed view is built anew from the whole history.
    write(
        folder.path(),
        "views/pages.sql",
        "CREATE MATERIALIZED VIEW IF NOT EXISTS pages AS\nSELECT url, sum(ms) AS ms FROM visits GROUP BY url;\n",
    );
    server
        .hear(|line| line.contains("view pages replaced"))
        .expect("the change is followed");
    eventually("the new version answers", || {
        server.rows("SELECT * FROM pages ORDER BY url")[0] == json!({"url": "/", "ms": 4})
    });

    // A mistake shows its place; what was running goes on.
    write(
        folder.path(),
        "views/pages.sql",
        "CREATE MATERIALIZED VIEW IF NOT EXISTS pages AS\nSELECT url, sum(msec) AS ms FROM visits GROUP BY url;\n",
    );
    let place = format!("{}:2:17", folder.path().join("views/pages.sql").display());
    server
        .hear(|line| line.starts_with(&place))
        .unwrap_or_else(|| panic!("no {place} in\n{}", server.said()));
    server
        .hear(|line| line.contains("what was running goes on"))
        .expect("it says so");
    assert_eq!(
        server.rows("SELECT ms FROM pages WHERE url = '/'"),
        [json!({"ms": 4})]
    );

    // What could be applied beside a mistake is said, and so is what is no longer in the project.
    write(
        folder.path(),
        "views/pages.sql",
        "CREATE MATERIALIZED VIEW IF NOT EXISTS other AS\nSELECT count(*) AS n FROM visits;\nCREATE MATERIALIZED VIEW third AS SELECT msec FROM visits;\n",
    );
    server
        .hear(|line| line.contains("view pages is no longer in the project and goes on; to end it: lambic view drop pages"))
        .unwrap_or_else(|| panic!("no orphan in\n{}", server.said()));
    server
        .hear(|line| line.contains("project applied in part: 1 change made, 1 mistake"))
        .unwrap_or_else(|| panic!("no summary in\n{}", server.said()));

    // So does one in the manifest, with a suggestion.
    write(
        folder.path(),
        "lambic.toml",
        "[project]\nnmae = \"visits\"\n",
    );
    server
        .hear(|line| line.contains("lambic.toml:2:1"))
        .expect("the place is shown");
    server
        .hear(|line| line.contains("did you mean `name`?"))
        .expect("a suggestion is made");
    assert!(server.terminate().success(), "{}", server.said());
}

#[test]
fn a_project_is_applied_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    visits(folder.path());
    let data = folder.path().join("data");
    for start in 0..2 {
        let mut server = Server::start_with("serve", Some(folder.path()), &data, &[]);
        server.ok(&["query", "INSERT INTO visits VALUES ('/', 1)"]);
        assert_eq!(
            server.rows("SELECT n FROM pages"),
            [json!({"n": start + 1})]
        );
        assert_eq!(
            server.rows("SELECT version FROM lambic_views WHERE name = 'pages'"),
            [json!({"version": 1})]
        );
        assert!(server.terminate().success(), "{}", server.said());
    }
}

#[test]
fn a_project_with_a_mistake_does_not_start_a_server() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    visits(folder.path());
    write(
        folder.path(),
        "views/bad.sql",
        "CREATE MATERIALIZED VIEW bad AS SELECT count(*) FROM visists;\n",
    );
    let output = common::lambic()
        .arg("serve")
        .arg(folder.path())
        .args(["--http", "127.0.0.1:0", "--pg", "127.0.0.1:0"])
        .output()
        .expect("the binary is there");
    let told = common::text(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{told}");
    assert!(
        told.contains("bad.sql:1:54") && told.contains("did you mean \"visits\"?"),
        "{told}"
    );
}
