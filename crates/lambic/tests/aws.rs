//! AWS's own clients from PyPI and npm (boto3, the AWS CLI, the SDK for JavaScript), unmodified, against a real server:
//! `tests/aws`.

mod common;

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
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
fn boto3_maps_streams_with_all_settings() {
    passes(python("mappings.py"));
}

#[test]
fn every_error_is_as_aws_has_it() {
    // It starts servers of its own as well, to bring them into trouble.
    let mut run = python("errors.py");
    run.env("LAMBIC", common::lambic().get_program());
    passes(run);
}

#[test]
fn unmodified_zips_run() {
    passes(python("runtimes.py"));
}

#[test]
fn responses_come_while_they_are_written() {
    passes(python("streaming.py"));
}

#[test]
fn container_images_run() {
    let project = tempfile::tempdir().expect("a temporary folder");
    let images = project.path().join("images");
    std::fs::create_dir(&images).expect("it is ours");
    let (folder, port) = (
        images.display().to_string(),
        common::free_port().to_string(),
    );
    let settings = format!("[settings.functions]\nimages = [\"127.0.0.1:{port}\", \"{folder}\"]\n");
    std::fs::write(project.path().join("lambic.toml"), settings).expect("it is ours");
    passes_with(
        python("images.py"),
        Some(project.path()),
        &[],
        &[&folder, &port],
    );
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
fn the_official_client_of_node_runs() {
    passes(node("ric.mjs"));
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
fn signatures_are_verified_and_policies_hold() {
    let told = python("signed.py").arg("--settings").output();
    let told = told.expect("python runs");
    assert!(told.status.success(), "{}", common::text(&told.stderr));
    let folder_of_settings = tempfile::tempdir().expect("a temporary folder");
    let settings = folder_of_settings.path().join("settings.toml");
    fs::write(&settings, told.stdout).expect("it is written");
    fs::set_permissions(&settings, Permissions::from_mode(0o600)).expect("it is ours");
    let cli = common::python_with(&folder().join("cli/requirements.txt"));
    let mut run = python("signed.py");
    run.env("AWS", cli.with_file_name("aws"));
    passes_with(run, None, &["--config", common::shown(&settings)], &[]);
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
    fs::create_dir_all(package.join("src")).expect("the target folder is ours");
    for file in ["Cargo.toml", "src/main.rs"] {
        let from = folder().join("rust/function").join(file);
        fs::copy(from, package.join(file)).expect("it is there");
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
fn passes(run: Command) {
    passes_with(run, None, &[], &[]);
}

/// The same, with a project and more arguments for the server, and what else the script is told.
fn passes_with(mut run: Command, project: Option<&Path>, extra: &[&str], more: &[&str]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start_with("serve", project, &folder.path().join("data"), extra);
    common::run_client_with(&mut run, more, server);
}
