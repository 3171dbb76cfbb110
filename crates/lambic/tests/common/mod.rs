//! A real server for tests: the built binary on free ports, over a folder of its own.

// Each test program uses its own part of this.
#![allow(dead_code)]

pub mod pg;

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use serde_json::Value;

/// Long enough for a busy machine; nothing waits this long on purpose.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub fn lambic() -> Command {
    // LAMBIC_BIN: another build of it, such as the release build for the long forms.
    let built = env!("CARGO_BIN_EXE_lambic").into();
    let mut command = Command::new(std::env::var_os("LAMBIC_BIN").unwrap_or(built));
    // The surroundings of the tests say nothing about which server is meant.
    command.env_remove("LAMBIC_URL").env_remove("LAMBIC_LOG");
    for name in ["ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"] {
        command.env_remove(format!("LAMBIC_{name}"));
        command.env_remove(format!("AWS_{name}"));
    }
    command
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener
        .local_addr()
        .expect("a bound socket has an address")
        .port()
}

/// Two ports at once, so that they differ.
pub fn free_ports() -> (u16, u16) {
    let one = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let two = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = |listener: TcpListener| {
        listener
            .local_addr()
            .expect("a bound socket has an address")
            .port()
    };
    (port(one), port(two))
}

pub struct Server {
    pub child: Child,
    /// `http://127.0.0.1:PORT`
    pub url: String,
    /// `127.0.0.1:PORT`
    pub pg: String,
    /// All that it said on stderr so far.
    pub said: Arc<Mutex<Vec<String>>>,
    lines: mpsc::Receiver<String>,
}

impl Server {
    pub fn start(data: &Path) -> Server {
        Server::start_with("serve", None, data, &[])
    }

    /// `serve` or `dev` on a project.
    pub fn start_with(
        command: &str,
        project: Option<&Path>,
        data: &Path,
        extra: &[&str],
    ) -> Server {
        loop {
            let (http, pg) = free_ports();
            match Server::start_on(command, project, data, http, pg, extra) {
                Ok(server) => return server,
                // Another test was given the port meanwhile.
                Err(said)
                    if said
                        .iter()
                        .any(|line| line.contains("Address already in use")) => {}
                Err(said) => panic!("the server did not start:\n{}", said.join("\n")),
            }
        }
    }

    /// `Err` with what it said if it ended before it was ready.
    pub fn start_on(
        command: &str,
        project: Option<&Path>,
        data: &Path,
        http: u16,
        pg: u16,
        extra: &[&str],
    ) -> Result<Server, Vec<String>> {
        let mut run = lambic();
        run.arg(command);
        Server::start_by(run, project, data, http, pg, extra)
    }

    /// The same, by a command that is ready but for its arguments.
    pub fn start_by(
        mut run: Command,
        project: Option<&Path>,
        data: &Path,
        http: u16,
        pg: u16,
        extra: &[&str],
    ) -> Result<Server, Vec<String>> {
        run.args(project);
        run.arg("--data").arg(data);
        run.args([
            "--http",
            &format!("127.0.0.1:{http}"),
            "--pg",
            &format!("127.0.0.1:{pg}"),
        ]);
        run.args(extra);
        run.stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = run.spawn().expect("the binary is there");
        let stderr = child.stderr.take().expect("stderr is piped");
        let said = Arc::new(Mutex::new(Vec::new()));
        let (tell, lines) = mpsc::channel();
        let keep = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                keep.lock().expect("no holder panics").push(line.clone());
                let _ = tell.send(line);
            }
        });
        let mut server = Server {
            child,
            url: format!("http://127.0.0.1:{http}"),
            pg: format!("127.0.0.1:{pg}"),
            said,
            lines,
        };
        if server.hear(|line| line.starts_with("ready")).is_some() {
            Ok(server)
        } else {
            let _ = server.child.kill();
            let _ = server.child.wait();
            Err(server.said.lock().expect("no holder panics").clone())
        }
    }

    /// Waits for a line on stderr; `None` if the server ended, or patience did.
    pub fn hear(&mut self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self
                .lines
                .recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                Ok(line) if wanted(&line) => return Some(line),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    pub fn said(&self) -> String {
        self.said.lock().expect("no holder panics").join("\n")
    }

    /// Runs a command of the CLI against this server.
    pub fn cli(&self, args: &[&str]) -> Output {
        lambic()
            .env("LAMBIC_URL", &self.url)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .expect("the binary is there")
    }

    /// The same, and it must succeed; gives stdout.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.cli(args);
        assert!(
            output.status.success(),
            "lambic {args:?}: {}\n{}\nserver: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr),
            self.said()
        );
        String::from_utf8(output.stdout).expect("stdout is UTF-8")
    }

    /// Rows as JSON, in an order of their own, for views have none; in one answer, however many there are.
    pub fn sorted(&self, sql: &str) -> Vec<String> {
        let request =
            ureq::post(format!("{}/v1/sql", self.url)).header("accept", "application/x-ndjson");
        let mut answer = request
            .send(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        let text = answer.body_mut().read_to_string().expect("text");
        let mut rows: Vec<String> = text.lines().map(str::to_owned).collect();
        rows.sort();
        rows
    }

    /// The value of one line of `/metrics`; none before something was counted.
    pub fn metric(&self, name: &str) -> Option<String> {
        let answer = ureq::get(format!("{}/metrics", self.url)).call();
        let text = answer.expect("it answers").body_mut().read_to_string();
        let text = text.expect("text");
        let mut lines = text.lines();
        lines
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .map(str::to_owned)
    }

    /// The text that a statement gives.
    pub fn one(&self, sql: &str) -> String {
        let rows = self.rows(sql);
        let value = rows[0].as_object().and_then(|row| row.values().next());
        value.and_then(Value::as_str).expect("one text").to_owned()
    }

    /// The rows of one statement, as objects.
    pub fn rows(&self, sql: &str) -> Vec<Value> {
        let text = self.ok(&["query", "--json", sql]);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    pub fn kill(&mut self) {
        // SIGKILL; the server may have ended by itself, which the caller will notice.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, as an init system sends it.
    pub fn terminate(&mut self) -> ExitStatus {
        let id = self.child.id().to_string();
        let sent = Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .expect("kill(1) is there");
        assert!(sent.success());
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return status;
            }
            assert!(
                Instant::now() < until,
                "the server does not stop:\n{}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Asks again until the answer is yes, with a bound.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "still not: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("it exists")
}

/// The interpreter of a virtual environment with the packages that `requirements` names; it is kept in the target
/// folder, so that only the first run installs anything.
pub fn python_with(requirements: &Path) -> PathBuf {
    // Tests of one binary run at the same time.
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _turn = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let wanted = std::fs::read_to_string(requirements).expect("the requirements are there");
    let name = requirements.parent().and_then(Path::file_name);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name.expect("it has a folder"));
    let python = folder.join("bin/python");
    let installed = folder.join("installed.txt");
    if std::fs::read_to_string(&installed).is_ok_and(|had| had == wanted) && python.exists() {
        return python;
    }
    let _ = std::fs::remove_dir_all(&folder);
    let run = |command: &mut Command| {
        let output = command.output().expect("python3 with venv is needed");
        assert!(
            output.status.success(),
            "{command:?}\n{}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
    };
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder));
    let install = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-r",
    ];
    run(Command::new(&python).args(install).arg(requirements));
    // Last, because its presence means that the work is done.
    std::fs::write(&installed, wanted).expect("the target folder is ours");
    python
}

/// It must fail with this code, and say this.
#[track_caller]
pub fn refused(output: &Output, code: i32, said: &[&str]) {
    let told = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{told}");
    for said in said {
        assert!(told.contains(said), "no {said:?} in: {told}");
    }
}

pub fn shown(path: &Path) -> &str {
    path.to_str().expect("a temporary path is UTF-8")
}

pub fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}
