//! Others that do a part of the same, as far as they are installed in a folder.
//!
//! `docs/performance.md` says how. Each is started, measured and ended here; none of them shuts functions in.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use super::{
    super::{Figure, latencies},
    PART,
    deploy::{Api, Program},
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

/// A server with the request that invokes its function.
type Subject = (String, Server, Vec<u8>);

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
            ("aws-sam-cli", peers.emulator.is_none()),
            ("ministack", peers.ministack.is_none()),
            ("workerd", peers.workerd.is_none()),
        ]
        .into_iter()
        .filter_map(|(name, is_missing)| is_missing.then_some(name))
        .collect();
        if missing.len() == 3 {
            bail!(
                "{} has none of the peers; docs/performance.md says how to install them",
                folder.display()
            );
        }
        for name in missing {
            eprintln!("{name} is not in {}", folder.display());
        }
        Ok(peers)
    }

    pub fn workerd(&self) -> anyhow::Result<Option<Server>> {
        let Some(workerd) = &self.workerd else {
            return Ok(None);
        };
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
        Server::start_at(command, address).map(Some)
    }

    /// Those that invoke Python functions, each with one that is warm.
    pub fn emulators(&self) -> anyhow::Result<Vec<Subject>> {
        let mut subjects = Vec::new();
        if let (Some(emulator), Some(python)) = (&self.emulator, &self.python) {
            let server = self.emulator(emulator, python)?;
            let request = http::with_body("POST", &server.address, INVOCATIONS, EVENT);
            until_ready(&server, &request)?;
            subjects.push((
                "AWS's emulator with awslambdaric".to_owned(),
                server,
                request,
            ));
        }
        if let Some(ministack) = &self.ministack {
            let server = self.ministack(ministack)?;
            let api = Api::new(&server.address);
            api.create("warm", Program::Python, 0)?;
            let request = api.invocation("warm", EVENT);
            until_ready(&server, &request)?;
            subjects.push(("ministack".to_owned(), server, request));
        }
        Ok(subjects)
    }

    /// First calls: of a new emulator, and of functions that ministack was just given.
    pub fn cold(&self, count: usize) -> anyhow::Result<Vec<Figure>> {
        let mut figures = Vec::new();
        if let (Some(emulator), Some(python)) = (&self.emulator, &self.python) {
            eprintln!("first calls of AWS's emulator");
            let mut times = Vec::new();
            for _ in 0..count {
                let server = self.emulator(emulator, python)?;
                let request = http::with_body("POST", &server.address, INVOCATIONS, EVENT);
                times.push(Connection::open(&server.address)?.time(&request)?);
            }
            figures.extend(latencies(
                PART,
                "first call over HTTP, python, AWS's emulator with awslambdaric",
                times,
            ));
        }
        if let Some(ministack) = &self.ministack {
            for program in [Program::Python, Program::Node] {
                eprintln!("first calls of ministack's {} functions", program.name());
                let server = self.ministack(ministack)?;
                let api = Api::new(&server.address);
                let mut connection = Connection::open(&server.address)?;
                let mut times = Vec::new();
                for number in 0..count {
                    let name = format!("cold_{number}");
                    api.create(&name, program, number)?;
                    times.push(connection.time(&api.invocation(&name, EVENT))?);
                }
                let what = format!("first call over HTTP, {}, ministack", program.name());
                figures.extend(latencies(PART, &what, times));
            }
        }
        Ok(figures)
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

fn until_ready(server: &Server, request: &[u8]) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        let asked = Connection::open(&server.address).and_then(|mut there| there.ask(request));
        match asked {
            Ok(_) => return Ok(()),
            Err(error) if start.elapsed() > READY_TIME_MAX => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}
