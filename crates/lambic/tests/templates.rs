//! The templates of `lambic function new` that are built first: each is built as its README says, and passes its own tests.
//!
//! What they need is installed once, and what cargo builds for them is kept, in the target folder.

mod common;

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use common::{Server, text};

const WASM: &str = "wasm32-wasip2";

#[test]
fn rust() {
    let project = Project::new("rust");
    project.build_with_cargo();
    project.passes(2);
}

#[test]
fn wasm_rust() {
    with_the_wasm_target(|| {
        let project = Project::new("wasm-rust");
        project.build_with_cargo();
        project.passes(2);
    });
}

#[test]
fn wasm_http() {
    with_the_wasm_target(|| {
        let project = Project::new("wasm-http");
        project.build_with_cargo();
        project.passes(2);
    });
}

#[test]
fn wasm_python() {
    // Packages with worlds of their own, such as Spin's, stand beside componentize-py there.
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let python = common::python_with(&tests.join("aws/zips/requirements.txt"));
    let project = Project::new("wasm-python");
    let mut build = Command::new(project.path.join("build"));
    build.env(
        "PATH",
        path_with(python.parent().expect("it is in a folder")),
    );
    project.runs(build);
    project.passes(2);
}

#[test]
fn wasm_js() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let packages = common::node_with(&tests.join("templates/package-lock.json"));
    let project = Project::new("wasm-js");
    symlink(
        packages.join("node_modules"),
        project.path.join("node_modules"),
    )
    .expect("the folder is ours");
    let mut build = Command::new("npm");
    build.args(["run", "build", "--silent"]);
    project.runs(build);
    project.passes(2);
}

/// What a template made.
struct Project {
    folder: tempfile::TempDir,
    name: String,
    path: PathBuf,
}

impl Project {
    fn new(template: &str) -> Project {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let name = format!("my-{template}");
        let path = folder.path().join(&name);
        let project = Project { folder, name, path };
        let mut new = common::lambic();
        new.args(["function", "new", &project.name, "--template", template]);
        new.current_dir(project.folder.path());
        succeeds(new);
        project
    }

    /// The script `build` of those in Rust, but quicker: what is optimised here is of no use to anybody.
    fn build_with_cargo(&self) {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("templates-rust");
        fs::create_dir_all(kept.join("target")).expect("the target folder is ours");
        symlink(kept.join("target"), self.path.join("target")).expect("the folder is ours");
        // So that the same versions are built the next time.
        let (lock, kept_lock) = (
            self.path.join("Cargo.lock"),
            kept.join(format!("{}.lock", self.name)),
        );
        if kept_lock.exists() {
            fs::copy(&kept_lock, &lock).expect("the folder is ours");
        }
        let mut build = Command::new(self.path.join("build"));
        build
            .env("PATH", path_with(tools()))
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
            .env("CARGO_PROFILE_RELEASE_LTO", "false")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
        self.runs(build);
        fs::copy(&lock, &kept_lock).expect("the target folder is ours");
    }

    fn runs(&self, mut command: Command) {
        command.current_dir(&self.path);
        succeeds(command);
    }

    /// Its own events have the answers that it expects.
    fn passes(&self, events: usize) {
        let server = Server::start(&self.folder.path().join("data"));
        let mut test = common::lambic();
        test.args(["function", "test", &format!("./{}", self.name)])
            .current_dir(self.folder.path())
            .env("LAMBIC_URL", &server.url);
        let tested = succeeds(test);
        assert_eq!(tested.matches("passed").count(), events, "{tested}");
    }
}

/// Gives what it printed.
fn succeeds(mut command: Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let told = text(&output.stdout);
    assert!(
        output.status.success(),
        "{command:?}\n{told}{}",
        text(&output.stderr)
    );
    told
}

/// Where neither rustc has the target nor rustup can get it, nothing is shown, and the test says so.
fn with_the_wasm_target(test: impl FnOnce()) {
    if !has_wasm_target() {
        // It may be no toolchain of rustup's.
        let _ = Command::new("rustup")
            .args(["target", "add", WASM])
            .status();
    }
    match has_wasm_target() {
        true => test(),
        false => eprintln!("nothing was shown: this Rust has no target {WASM}"),
    }
}

fn has_wasm_target() -> bool {
    let mut asked = Command::new(tools().join("rustc"));
    asked.args(["--print", "target-libdir", "--target", WASM]);
    Path::new(succeeds(asked).trim()).is_dir()
}

/// The toolchain that runs this test.
fn tools() -> &'static Path {
    Path::new(env!("CARGO"))
        .parent()
        .expect("it is in a folder")
}

/// `PATH` with a folder before all others.
fn path_with(folder: &Path) -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = [folder.to_owned()]
        .into_iter()
        .chain(std::env::split_paths(&path));
    std::env::join_paths(all).expect("they were apart")
}
