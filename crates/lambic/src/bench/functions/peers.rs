//! Others that do a part of the same, as far as they are installed in a folder.
//!
//! `docs/performance.md` says how. Each is started, measured and ended here; none of them shuts functions in. One that does
//! not start or answer is left out, with the reason, and the others are measured all the same.

use std::{
    cell::Cell,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use super::{
    super::{Figure, latencies},
    PART,
    deploy::{Api, Program},
    failed_latencies,
    http::{self, Connection},
    process::{self, Server},
};

const INVOCATIONS: &str = "/2015-03-31/functions/function/invocations";
const EVENT: &[u8] = br#"{"a":1}"#;
const WORKER: &str = "export default { fetch() { return new Response('hello'); } };\n";
/// Until a server that listens has also started its function.
const READY_TIME_MAX: Duration = Duration::from_secs(60);

pub struct Peers {
    python: Option<PathBuf>,
    /// AWS's emulator of the Runtime API.
    emulator: Option<PathBuf>,
    ministack: Option<PathBuf>,
    workerd: Option<PathBuf>,
    folder: tempfile::TempDir,
}

const EMULATOR: &str = "AWS's emulator with awslambdaric";
const MINISTACK: &str = "ministack";
const WORKERD: &str = "workerd (JavaScript)";

/// A peer with the request that invokes its function, or why it cannot be measured.
pub struct Subject {
    pub name: &'static str,
    pub started: Result<(Server, Vec<u8>), String>,
}

impl Subject {
    /// Waits until the server answers what `request` makes.
    fn of(
        name: &'static str,
        server: anyhow::Result<Server>,
        request: impl Fn(&Server) -> anyhow::Result<Vec<u8>>,
    ) -> Subject {
        let started = server.and_then(|mut server| {
            let ready = patiently(&mut server, |server| {
                let request = request(server)?;
                Connection::open(&server.address)?.ask(&request)?;
                Ok(request)
            });
            Ok((ready?, server))
        });
        Subject {
            name,
            started: match started {
                Ok((request, server)) => Ok((server, request)),
                Err(error) => Err(left_out(name, &error)),
            },
        }
    }
}

/// Says that a peer cannot be measured, and why.
pub fn left_out(name: &str, error: &anyhow::Error) -> String {
    let why = format!("{error:#}");
    eprintln!("{name} is left out: {why}");
    why
}

impl Peers {
    pub fn find(folder: &Path) -> anyhow::Result<Peers> {
        let folder = folder
            .canonicalize()
            .with_context(|| format!("cannot read {}", folder.display()))?;
        let emulator = format!(
            "samcli/local/rapid/aws-lambda-rie-{}",
            if cfg!(target_arch = "aarch64") {
                "arm64"
            } else {
                "x86_64"
            }
        );
        let there = |path: PathBuf| Some(path).filter(|path| path.exists());
        let packages = std::fs::read_dir(folder.join("lib"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path().join("site-packages"));
        let peers = Peers {
            emulator: packages
                .into_iter()
                .find_map(|packages| there(packages.join(&emulator))),
            python: there(folder.join("bin/python")),
            ministack: there(folder.join("bin/ministack")),
            workerd: there(folder.join("node_modules/.bin/workerd")),
            folder: tempfile::tempdir()?,
        };
        let missing: Vec<&str> = [
            (
                "aws-sam-cli and awslambdaric (PyPI)",
                peers.emulator.is_none() || peers.python.is_none(),
            ),
            ("ministack (PyPI)", peers.ministack.is_none()),
            ("workerd (npm)", peers.workerd.is_none()),
        ]
        .into_iter()
        .filter_map(|(name, is_missing)| is_missing.then_some(name))
        .collect();
        if missing.len() == 3 {
            bail!(
                "{} has none of the peers ({}); `lambic bench functions --help` says how to install them",
                folder.display(),
                missing.join(", ")
            );
        }
        for name in missing {
            eprintln!("{name} is not in {}", folder.display());
        }
        Ok(peers)
    }

    pub fn workerd(&self) -> Option<Subject> {
        let workerd = self.workerd.as_ref()?;
        Some(Subject::of(
            WORKERD,
            self.start_workerd(workerd),
            |server| Ok(http::get(&server.address, "/")),
        ))
    }

    fn start_workerd(&self, workerd: &Path) -> anyhow::Result<Server> {
        let address = process::free_address()?;
        std::fs::write(self.folder.path().join("worker.js"), WORKER)?;
        let config = self.folder.path().join("workerd.capnp");
        let text = format!(
            "using Workerd = import \"/workerd/workerd.capnp\";\n\
             const config :Workerd.Config = (\n\
               services = [(name = \"main\", worker = (modules = [(name = \"worker.js\", esModule = embed \"worker.js\")],\n\
                 compatibilityDate = \"2025-01-01\"))],\n\
               sockets = [(name = \"http\", address = \"{address}\", http = (), service = \"main\")]);\n"
        );
        std::fs::write(&config, text)?;
        let mut command = Command::new(workerd);
        command.arg("serve").arg(&config);
        Server::start_at(command, address)
    }

    /// Those that invoke Python functions, each with one that is warm.
    pub fn emulators(&self) -> Vec<Subject> {
        let mut subjects = Vec::new();
        if let (Some(emulator), Some(python)) = (&self.emulator, &self.python) {
            let server = self.emulator(emulator, python);
            subjects.push(Subject::of(EMULATOR, server, |server| {
                Ok(invocation(server))
            }));
        }
        if let Some(ministack) = &self.ministack {
            let is_made = Cell::new(false);
            let server = self.ministack(ministack);
            subjects.push(Subject::of(MINISTACK, server, |server| {
                let api = Api::new(&server.address);
                if !is_made.get() {
                    api.create("warm", Program::Python, 0)?;
                    is_made.set(true);
                }
                Ok(api.invocation("warm", EVENT))
            }));
        }
        subjects
    }

    /// First calls: of a new emulator, and of functions that ministack was just given.
    pub fn cold(&self, count: usize) -> Vec<Figure> {
        let mut figures = Vec::new();
        let mut add = |name: &str, what: &str, times: anyhow::Result<Vec<Duration>>| {
            figures.extend(match times {
                Ok(times) => latencies(PART, what, times),
                Err(error) => failed_latencies(what, &left_out(name, &error)),
            });
        };
        if let (Some(emulator), Some(python)) = (&self.emulator, &self.python) {
            eprintln!("first calls of AWS's emulator");
            let what = format!("first call over HTTP, python, {EMULATOR}");
            add(EMULATOR, &what, self.cold_emulator(emulator, python, count));
        }
        if let Some(ministack) = &self.ministack {
            for program in [Program::Python, Program::Node] {
                eprintln!("first calls of ministack's {} functions", program.name());
                let what = format!("first call over HTTP, {}, {MINISTACK}", program.name());
                let times = self.cold_ministack(ministack, program, count);
                add(MINISTACK, &what, times);
            }
        }
        figures
    }

    fn cold_emulator(
        &self,
        emulator: &Path,
        python: &Path,
        count: usize,
    ) -> anyhow::Result<Vec<Duration>> {
        let mut times = Vec::new();
        for _ in 0..count {
            let server = self.emulator(emulator, python)?;
            let time = Connection::open(&server.address)
                .and_then(|mut there| there.time(&invocation(&server)));
            times.push(time.map_err(|error| server.explained(&error))?);
        }
        Ok(times)
    }

    fn cold_ministack(
        &self,
        ministack: &Path,
        program: Program,
        count: usize,
    ) -> anyhow::Result<Vec<Duration>> {
        let mut server = self.ministack(ministack)?;
        let api = Api::new(&server.address);
        // The first one waits until the server is there, and is not measured.
        patiently(&mut server, |_| api.create("first", program, count))?;
        let measured = || {
            let mut connection = Connection::open(&server.address)?;
            let mut times = Vec::new();
            for number in 0..count {
                let name = format!("cold_{number}");
                api.create(&name, program, number)?;
                times.push(connection.time(&api.invocation(&name, EVENT))?);
            }
            anyhow::Ok(times)
        };
        measured().map_err(|error| server.explained(&error))
    }

    fn emulator(&self, emulator: &Path, python: &Path) -> anyhow::Result<Server> {
        let code = self.folder.path().join("code");
        std::fs::create_dir_all(&code)?;
        std::fs::write(
            code.join("app.py"),
            "def handler(event, context):\n    return event\n",
        )?;
        let (address, runtime_api) = (process::free_address()?, process::free_address()?);
        let mut command = Command::new(emulator);
        command
            .args(["--runtime-interface-emulator-address", &address])
            .args(["--runtime-api-address", &runtime_api])
            .arg(python)
            .args(["-m", "awslambdaric", "app.handler"])
            .env("LAMBDA_TASK_ROOT", &code)
            .current_dir(&code);
        Server::start_at(command, address)
    }

    fn ministack(&self, ministack: &Path) -> anyhow::Result<Server> {
        let address = process::free_address()?;
        let port = address.rsplit(':').next().unwrap_or_default().to_owned();
        let mut command = Command::new(ministack);
        command
            .env("GATEWAY_PORT", port)
            .current_dir(self.folder.path());
        Server::start_at(command, address)
    }
}

/// Of the emulator's one function.
fn invocation(server: &Server) -> Vec<u8> {
    http::with_body("POST", &server.address, INVOCATIONS, EVENT)
}

/// Tries until it goes well, as long as a server may take to be ready; the error has what it wrote.
fn patiently<T>(
    server: &mut Server,
    mut attempt: impl FnMut(&Server) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        let error = match attempt(server) {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        if let Some(status) = server.ended() {
            return Err(server.explained(&error.context(format!("it ended: {status}"))));
        }
        if start.elapsed() > READY_TIME_MAX {
            let seconds = READY_TIME_MAX.as_secs();
            let error = error.context(format!("it does not answer after {seconds} seconds"));
            return Err(server.explained(&error));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of a peer. Another process writes it: none that is started meanwhile can hold it open then, and it can
    /// be run.
    fn program(path: &Path, script: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$2\" && chmod 755 \"$2\"";
        let written = Command::new("sh")
            .args(["-c", write, "sh", script])
            .arg(path)
            .status();
        assert!(written.unwrap().success());
    }

    #[test]
    fn a_peer_that_does_not_start_is_left_out_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        program(
            &dir.path().join("bin/ministack"),
            "echo no module named flask >&2; exit 1",
        );
        program(
            &dir.path().join("node_modules/.bin/workerd"),
            "echo wrong machine; exit 2",
        );
        let peers = Peers::find(dir.path()).unwrap();
        let subjects = peers.emulators();
        assert_eq!(subjects.len(), 1);
        assert_eq!(subjects[0].name, MINISTACK);
        let why = subjects[0].started.as_ref().err().unwrap();
        assert!(
            why.contains("exit status: 1\n  no module named flask"),
            "{why}"
        );
        let workerd = peers.workerd().unwrap();
        let why = workerd.started.as_ref().err().unwrap();
        assert!(why.contains("exit status: 2\n  wrong machine"), "{why}");
        // Each of its cells says that it failed, and why.
        let figures = peers.cold(1);
        assert_eq!(figures.len(), 4, "p50 and p99 of Python and Node");
        for figure in figures {
            assert_eq!(figure.value, None);
            assert!(figure.failed.is_some_and(|why| why.contains("flask")));
        }
    }

    #[test]
    fn a_folder_without_peers_says_what_belongs_there() {
        let dir = tempfile::tempdir().unwrap();
        let error = Peers::find(dir.path()).err().unwrap().to_string();
        for part in [
            "aws-sam-cli",
            "awslambdaric",
            "ministack (PyPI)",
            "workerd (npm)",
        ] {
            assert!(error.contains(part), "no {part} in {error}");
        }
    }
}
