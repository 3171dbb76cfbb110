//! AWS's own clients from PyPI (boto3, the AWS CLI), unmodified, against a real server: `tests/aws`.

mod common;

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
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
    passes(python("errors.py"));
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

/// Runs it against a server of its own, which must end well afterwards.
fn passes(run: Command) {
    passes_with(run, None, &[], &[]);
}

/// The same, with a project and more arguments for the server, and what else the script is told.
fn passes_with(mut run: Command, project: Option<&Path>, extra: &[&str], more: &[&str]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut server = Server::start_with("serve", project, &folder.path().join("data"), extra);
    // Neither a key nor a proxy of whoever runs the tests.
    for name in [
        "AWS_PROFILE",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_LAMBDA",
        "AWS_SESSION_TOKEN",
    ] {
        run.env_remove(name);
    }
    let status = run
        .arg(&server.url)
        .args(more)
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("NO_PROXY", "127.0.0.1,localhost")
        .status()
        .expect("it runs");
    assert!(status.success(), "the server said:\n{}", server.said());
    assert!(server.terminate().success(), "{}", server.said());
}
