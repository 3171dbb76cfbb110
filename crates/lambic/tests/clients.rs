//! Real clients from PyPI (psycopg 3, asyncpg, SQLAlchemy, pandas …) against a real server: `tests/clients`.
//!
//! A virtual environment is kept in the target folder, so that only the first run installs anything.

mod common;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use common::Server;

#[test]
fn clients_work_unchanged() {
    let root = common::root();
    let clients = root.join("tests/clients");
    let python = environment(&clients.join("requirements.txt"));
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

/// The interpreter of an environment with the packages that `requirements` names.
fn environment(requirements: &Path) -> PathBuf {
    let wanted =
        std::fs::read_to_string(requirements).expect("tests/clients/requirements.txt is there");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients");
    let python = folder.join("bin/python");
    let installed = folder.join("installed.txt");
    if std::fs::read_to_string(&installed).is_ok_and(|had| had == wanted) && python.exists() {
        return python;
    }
    let _ = std::fs::remove_dir_all(&folder);
    let run = |command: &mut Command| {
        let output = command
            .output()
            .expect("python3 with venv is needed for the tests of clients");
        assert!(
            output.status.success(),
            "{command:?}\n{}{}",
            common::text(&output.stdout),
            common::text(&output.stderr)
        );
    };
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder));
    run(Command::new(&python)
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "-r",
        ])
        .arg(requirements));
    // Last, because its presence means that the work is done.
    std::fs::write(&installed, wanted).expect("the target folder is ours");
    python
}
