//! AWS's own clients from PyPI and npm (boto3, the AWS CLI, the SDK for JavaScript), unmodified, against a real server:
//! `tests/aws`.

mod common;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

use common::Server;

#[test]
fn the_model_catches_wrong_answers() {
    let status = python("shapes.py").status().expect("python runs");
    assert!(status.success(), "shapes.py does not hold itself");
}

#[test]
fn boto3_lives_the_life_of_a_function() {
    passes(python("life.py"));
}

#[test]
fn every_error_is_as_aws_has_it() {
    passes(python("errors.py"));
}

#[test]
fn unmodified_zips_run() {
    passes(python("runtimes.py"));
}

#[test]
fn what_others_package_runs() {
    let interpreter = common::python_with(&folder().join("zips/requirements.txt"));
    let mut run = Command::new(interpreter);
    run.arg(folder().join("zips/zips.py"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    passes(run);
}

#[test]
fn the_sdk_for_javascript_lives_the_life_of_a_function() {
    passes(node("sdk.mjs"));
}

#[test]
fn answers_stream() {
    passes(node("streaming.mjs"));
}

#[test]
fn the_aws_cli_lives_the_life_of_a_function() {
    let interpreter = common::python_with(&folder().join("cli/requirements.txt"));
    let mut run = Command::new("bash");
    run.arg(folder().join("cli.sh"))
        .env("AWS", interpreter.with_file_name("aws"))
        .env("PYTHON", &interpreter);
    passes(run);
}

#[test]
fn a_rust_bootstrap_runs() {
    let mut run = Command::new(rust_python());
    run.arg(folder().join("rust/bootstrap.py"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PROGRAM", rust_function());
    passes(run);
}

#[test]
fn cargo_lambda_deploys_and_invokes() {
    let tools = rust_python().with_file_name("");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path: Vec<_> = [tools]
        .into_iter()
        .chain(std::env::split_paths(&path))
        .collect();
    let mut run = Command::new("bash");
    run.arg(folder().join("rust/cargo_lambda.sh"))
        .env("PROGRAM", rust_function())
        .env("PATH", std::env::join_paths(path).expect("they were apart"));
    passes(run);
}

fn rust_python() -> PathBuf {
    let requirements = folder().join("rust/requirements.txt");
    common::python_with_options(&requirements, &["--no-deps"])
}

/// The program of `rust/function`, built in a folder of its own, where its lock file stays as well.
fn rust_function() -> PathBuf {
    static BUILDING: Mutex<()> = Mutex::new(());
    let _turn = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let package = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rust-function");
    std::fs::create_dir_all(package.join("src")).expect("the target folder is ours");
    for file in ["Cargo.toml", "src/main.rs"] {
        let from = folder().join("rust/function").join(file);
        std::fs::copy(from, package.join(file)).expect("it is there");
    }
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--manifest-path"])
        .arg(package.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(package.join("target"))
        .status()
        .expect("cargo runs this");
    assert!(built.success(), "the Rust function does not build");
    package.join("target/debug/greeter")
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/aws")
}

/// A script of the folder, ready but for the server's URL.
fn python(script: &str) -> Command {
    let interpreter = common::python_with(&folder().join("requirements.txt"));
    let mut run = Command::new(interpreter);
    run.arg(folder().join(script))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    run
}

/// A script of AWS's client for JavaScript.
fn node(script: &str) -> Command {
    let packages = common::node_with(&folder().join("js/package-lock.json"));
    let mut run = Command::new("node");
    run.arg(folder().join("js").join(script))
        .env("PACKAGES", packages);
    run
}

/// Runs it against a server of its own, which must end well afterwards.
fn passes(mut run: Command) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    common::run_client(&mut run, Server::start(&folder.path().join("data")));
}
