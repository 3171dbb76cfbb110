//! Real clients from PyPI (psycopg 3, asyncpg, SQLAlchemy, pandas …) against a real server: `tests/clients`.

mod common;

use std::process::Command;

use common::Server;

#[test]
fn clients_work_unchanged() {
    let root = common::root();
    let clients = root.join("tests/clients");
    let python = common::python_with(&clients.join("requirements.txt"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut server = Server::start(&folder.path().join("data"));
    let status = Command::new(&python)
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
        .arg(&clients)
        .env("LAMBIC_HTTP", server.url.trim_start_matches("http://"))
        .env("LAMBIC_PG", &server.pg)
        .env("LAMBIC_BIN", env!("CARGO_BIN_EXE_lambic"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(&root)
        .status()
        .expect("python runs");
    assert!(status.success(), "the server said:\n{}", server.said());
    assert!(server.terminate().success(), "{}", server.said());
}
