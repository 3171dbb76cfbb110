//! Which program of this machine runs a function: AWS's name of a runtime, such as `python3.12`, wants that version.
//!
//! The configured interpreters come first, then those on the PATH and in the configured folders, wherever one of that
//! version is.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use lambic_sandbox::process::{Interpreter, Launch};
use tokio::sync::Mutex;

use crate::{Error, Functions, Options, Runtime, blocking};

/// Folders that are looked into below a configured one, and programs that are asked.
const FOLDERS_MAX: usize = 1_000;
const PROGRAMS_MAX: usize = 100;
/// So long a program has to say what it is: deployments wait for it, and so does the start of the server.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

pub struct Interpreters {
    python: PathBuf,
    node: PathBuf,
    places: Places,
    /// What programs said of themselves.
    asked: Mutex<BTreeMap<PathBuf, Interpreter>>,
    /// AWS's names of the configured ones, as soon as they are known.
    own_python: OnceLock<String>,
    own_node: OnceLock<String>,
}

/// What this machine has, by AWS's names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runtimes {
    /// Of functions that name no version; `None`: there is none.
    pub python: Option<String>,
    pub node: Option<String>,
    /// All that were found.
    pub all: BTreeSet<String>,
}

impl Runtimes {
    /// What there is without a server, by its settings: the interpreters of functions that name no version, and folders
    /// with more. Also why an interpreter of the first kind cannot be used.
    pub async fn of_machine(
        python: &Path,
        node: &Path,
        folders: Vec<PathBuf>,
    ) -> (Runtimes, BTreeMap<&'static str, String>) {
        let path = std::env::var_os("PATH");
        let interpreters = Interpreters::of(python, node, Places { path, folders });
        let mut found = Runtimes::default();
        let mut troubles = BTreeMap::new();
        for runtime in [Runtime::Python, Runtime::Node] {
            let own = interpreters.own(runtime).await;
            let (place, name) = match runtime {
                Runtime::Node => (&mut found.node, "node"),
                _ => (&mut found.python, "python"),
            };
            match own {
                Ok(own) => *place = Some(named(runtime, &own)),
                Err(error) => {
                    troubles.insert(name, error.to_string());
                }
            }
            found.all.extend(interpreters.there(runtime).await);
        }
        (found, troubles)
    }
}

impl Functions {
    /// AWS's name of what runs functions of this runtime that name no version; `None`: that did not work so far, or the
    /// runtime has no interpreter.
    pub fn own_runtime(&self, runtime: Runtime) -> Option<String> {
        self.0.interpreters.own_name(runtime)?.get().cloned()
    }

    /// The interpreters that functions can have here.
    pub async fn runtimes(&self) -> Runtimes {
        let interpreters = &self.0.interpreters;
        let mut all = BTreeSet::new();
        for runtime in [Runtime::Python, Runtime::Node] {
            all.extend(interpreters.there(runtime).await);
        }
        Runtimes {
            python: self.own_runtime(Runtime::Python),
            node: self.own_runtime(Runtime::Node),
            all,
        }
    }
}

impl Interpreters {
    pub fn new(options: &Options) -> Interpreters {
        Interpreters::of(
            &options.python,
            &options.node,
            Places {
                path: std::env::var_os("PATH"),
                folders: options.interpreters.clone(),
            },
        )
    }

    fn of(python: &Path, node: &Path, places: Places) -> Interpreters {
        Interpreters {
            python: python.to_owned(),
            node: node.to_owned(),
            places,
            asked: Mutex::default(),
            own_python: OnceLock::new(),
            own_node: OnceLock::new(),
        }
    }

    /// How the environments of a runtime are started; `name` is AWS's, empty for whatever there is.
    pub async fn launch(&self, runtime: Runtime, name: &str) -> Result<Launch, Error> {
        Ok(match runtime {
            Runtime::Python => Launch::Python(self.interpreter(name, runtime).await?),
            Runtime::Node => Launch::Node(self.interpreter(name, runtime).await?),
            Runtime::Bootstrap | Runtime::Wasm | Runtime::Image => Launch::Bootstrap,
        })
    }

    /// Finds out how functions are called that name no version, if there is one. Whoever runs it is told if it fails.
    pub async fn know(&self, runtime: Runtime, name: &str) {
        if name.is_empty() {
            let _ = self.launch(runtime, name).await;
        }
    }

    fn own_name(&self, runtime: Runtime) -> Option<&OnceLock<String>> {
        match runtime {
            Runtime::Python => Some(&self.own_python),
            Runtime::Node => Some(&self.own_node),
            Runtime::Bootstrap | Runtime::Wasm | Runtime::Image => None,
        }
    }

    async fn interpreter(&self, name: &str, runtime: Runtime) -> Result<Interpreter, Error> {
        let own = self.own(runtime).await;
        let fits = |one: &Interpreter| name == named(runtime, one);
        if name.is_empty() || own.as_ref().is_ok_and(fits) {
            return own;
        }
        for program in self.places.programs(runtime).await? {
            if may_be(&program, runtime, name)
                && let Ok(interpreter) = self.ask(runtime, &program).await
                && fits(&interpreter)
            {
                return Ok(interpreter);
            }
        }
        let there: Vec<String> = self.there(runtime).await.into_iter().collect();
        match own {
            Err(error) if there.is_empty() => Err(error),
            _ => Err(Error::BadValue {
                reason: format!(
                    "the runtime {name} is not on this machine, which has {}; install it, name a folder that has it in `functions.interpreters`, or choose one of those that are there",
                    there.join(", ")
                ),
            }),
        }
    }

    /// The configured one.
    async fn own(&self, runtime: Runtime) -> Result<Interpreter, Error> {
        let program = match runtime {
            Runtime::Node => &self.node,
            _ => &self.python,
        };
        let own = self.ask(runtime, program).await?;
        if let Some(name) = self.own_name(runtime) {
            name.get_or_init(|| named(runtime, &own));
        }
        Ok(own)
    }

    /// AWS's names of all that work.
    async fn there(&self, runtime: Runtime) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        if let Ok(own) = self.own(runtime).await {
            names.insert(named(runtime, &own));
        }
        for program in self.places.programs(runtime).await.unwrap_or_default() {
            if let Ok(interpreter) = self.ask(runtime, &program).await {
                let name = named(runtime, &interpreter);
                // What is called otherwise is not found by its name.
                if may_be(&program, runtime, &name) {
                    names.insert(name);
                }
            }
        }
        names
    }

    /// One at a time: they are many, and what was asked is known.
    async fn ask(&self, runtime: Runtime, program: &Path) -> Result<Interpreter, Error> {
        let mut asked = self.asked.lock().await;
        if let Some(interpreter) = asked.get(program) {
            return Ok(interpreter.clone());
        }
        let answer = async {
            match runtime {
                Runtime::Node => Interpreter::node(program).await,
                _ => Interpreter::python(program).await,
            }
        };
        let Ok(interpreter) = tokio::time::timeout(ANSWER_TIME_MAX, answer).await else {
            return Err(Error::BadValue {
                reason: format!(
                    "`{}` does not say within {} seconds which interpreter it is; remove it, or name another one",
                    program.display(),
                    ANSWER_TIME_MAX.as_secs()
                ),
            });
        };
        let interpreter = interpreter?;
        asked.insert(program.to_owned(), interpreter.clone());
        Ok(interpreter)
    }
}

/// Where interpreters are looked for.
#[derive(Debug, Clone, Default)]
struct Places {
    path: Option<OsString>,
    /// Those in `bin` and in `*/bin` count.
    folders: Vec<PathBuf>,
}

impl Places {
    /// Programs that are called as interpreters are.
    async fn programs(&self, runtime: Runtime) -> Result<Vec<PathBuf>, Error> {
        let places = self.clone();
        blocking(move || {
            let folders = places.all_folders();
            let programs = folders.iter().flat_map(|folder| {
                let mut programs = entries(folder);
                programs.retain(|program| is_interpreter(program, runtime));
                programs
            });
            Ok(programs.take(PROGRAMS_MAX).collect())
        })
        .await
    }

    fn all_folders(&self) -> Vec<PathBuf> {
        let path = self.path.iter().flat_map(std::env::split_paths);
        // An empty one would be wherever the server was started.
        let mut folders: Vec<PathBuf> = path.filter(|folder| folder.is_absolute()).collect();
        for folder in &self.folders {
            folders.push(folder.join("bin"));
            let below = entries(folder).into_iter().take(FOLDERS_MAX);
            folders.extend(below.map(|below| below.join("bin")));
        }
        folders
    }
}

/// What stands in a folder, in the order of the names; nothing if there is none.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut entries: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    entries.sort();
    entries
}

/// The version in the name of a program: `3.12` of `python3.12`, `22` of `node22`, nothing of `node`. `None`: it is
/// called otherwise.
fn version_of(program: &Path, runtime: Runtime) -> Option<&str> {
    let name = program.file_name()?.to_str()?;
    let version = match runtime {
        Runtime::Python => name.strip_prefix("python")?,
        Runtime::Node => name.strip_prefix("node")?,
        Runtime::Bootstrap | Runtime::Wasm | Runtime::Image => return None,
    };
    let is_version = version
        .split('.')
        .all(|part| part.bytes().all(|b| b.is_ascii_digit()));
    is_version.then_some(version)
}

fn is_interpreter(program: &Path, runtime: Runtime) -> bool {
    match version_of(program, runtime) {
        // `python` and `python3` are links to one that is there too.
        Some(version) => runtime == Runtime::Node || version.contains('.'),
        None => false,
    }
}

/// Whether a program could be the runtime that AWS calls `name`.
fn may_be(program: &Path, runtime: Runtime, name: &str) -> bool {
    match version_of(program, runtime) {
        Some("") => true,
        Some(version) => name == format!("python{version}") || name == format!("nodejs{version}.x"),
        None => false,
    }
}

/// AWS's name of the runtime that an interpreter is.
fn named(runtime: Runtime, interpreter: &Interpreter) -> String {
    match runtime {
        Runtime::Node => format!("nodejs{}.x", interpreter.version),
        _ => format!("python{}", interpreter.version),
    }
}

/// For the function itself, which may ask (`AWS_EXECUTION_ENV`).
pub fn runtime_name(launch: &Launch, asked_for: &str) -> String {
    match launch {
        Launch::Python(interpreter) => named(Runtime::Python, interpreter),
        Launch::Node(interpreter) => named(Runtime::Node, interpreter),
        Launch::Bootstrap if asked_for.is_empty() => "provided.al2023".to_owned(),
        Launch::Bootstrap | Launch::Image(_) => asked_for.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A program that says what an interpreter says when it is asked. Another process writes it: none that is started
    /// meanwhile can hold it open then, and it can be run.
    fn program(path: &Path, said: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let script = format!("#!/bin/sh\nprintf '{said}'\n");
        let write = "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"";
        let written = Command::new("sh")
            .args(["-c", write, "sh", &script])
            .arg(path)
            .status();
        assert!(written.unwrap().success());
    }

    fn python(path: &Path, version: &str) {
        program(
            path,
            &format!("{}\\n{version}\\n/p\\n/p\\n", path.display()),
        );
    }

    fn node(path: &Path, version: &str) {
        program(path, &format!("{}\\n{version}\\n", path.display()));
    }

    #[tokio::test]
    async fn versions_are_found_wherever_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        python(&at("own/python3"), "3.11");
        node(&at("own/node"), "20");
        python(&at("path/python3.9"), "3.9");
        node(&at("path/node18"), "18");
        python(&at("folder/bin/python3.12"), "3.12");
        python(&at("folder/cpython-3.13/bin/python3.13"), "3.13");
        node(&at("folder/v22/bin/node"), "22");
        // Neither does one run that is not what it is called, nor what is broken.
        python(&at("folder/other/bin/python3.8"), "3.7");
        program(&at("folder/broken/bin/python3.10"), "");
        fs::write(at("folder/file"), "").unwrap();
        let places = Places {
            path: Some(std::env::join_paths([at("path"), at("none")]).unwrap()),
            folders: vec![at("missing"), at("folder")],
        };
        let found = Interpreters::of(&at("own/python3"), &at("own/node"), places);
        for (runtime, name, expected) in [
            (Runtime::Python, "", "own/python3"),
            (Runtime::Python, "python3.11", "own/python3"),
            (Runtime::Python, "python3.9", "path/python3.9"),
            (Runtime::Python, "python3.12", "folder/bin/python3.12"),
            (
                Runtime::Python,
                "python3.13",
                "folder/cpython-3.13/bin/python3.13",
            ),
            (Runtime::Node, "nodejs20.x", "own/node"),
            (Runtime::Node, "nodejs18.x", "path/node18"),
            (Runtime::Node, "nodejs22.x", "folder/v22/bin/node"),
        ] {
            let launch = found.launch(runtime, name).await.unwrap();
            assert_eq!(
                launch.interpreter().unwrap().program,
                at(expected),
                "{name}"
            );
        }
        for (runtime, name, there) in [
            (
                Runtime::Python,
                "python3.8",
                "which has python3.11, python3.12, python3.13, python3.9;",
            ),
            (Runtime::Python, "python3.10", "which has python3.11"),
            (
                Runtime::Node,
                "nodejs24.x",
                "which has nodejs18.x, nodejs20.x, nodejs22.x;",
            ),
        ] {
            let error = found.launch(runtime, name).await.unwrap_err().to_string();
            assert!(error.contains(there), "{error}");
        }
        let own = |runtime| found.own_name(runtime).and_then(OnceLock::get);
        assert_eq!(own(Runtime::Python).unwrap(), "python3.11");
        assert_eq!(own(Runtime::Node).unwrap(), "nodejs20.x");
        assert_eq!(own(Runtime::Wasm), None);
    }

    #[tokio::test]
    async fn a_machine_is_looked_at_without_a_server() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        python(&at("own/python3"), "3.11");
        python(&at("folder/bin/python3.99"), "3.99");
        let folders = vec![at("folder")];
        let (found, troubles) =
            Runtimes::of_machine(&at("own/python3"), &at("none/node"), folders).await;
        assert_eq!(found.python.as_deref(), Some("python3.11"));
        assert_eq!(found.node, None);
        assert!(found.all.contains("python3.99"), "{found:?}");
        assert!(troubles["node"].contains("none/node"), "{troubles:?}");
        assert!(!troubles.contains_key("python"));
    }

    #[tokio::test]
    async fn a_machine_with_none_says_what_is_wrong_with_the_configured_one() {
        let dir = tempfile::tempdir().unwrap();
        let lacking = dir.path().join("python3");
        let found = Interpreters::of(&lacking, &lacking, Places::default());
        for name in ["", "python3.12"] {
            let error = found.launch(Runtime::Python, name).await.unwrap_err();
            let told = error.to_string();
            assert!(told.contains(&*lacking.to_string_lossy()), "{told}");
        }
        assert_eq!(found.own_name(Runtime::Python).unwrap().get(), None);
    }
}
