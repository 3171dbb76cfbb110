//! A real server for tests: the built binary on free ports, over a folder of its own.

// Each test program uses its own part of this.
#![allow(dead_code)]

pub mod aws;
pub mod disk;
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
    for name in [
        "LAMBIC_URL",
        "LAMBIC_LOG",
        "LAMBIC_CA_FILE",
        "AWS_CA_BUNDLE",
    ] {
        command.env_remove(name);
    }
    for name in ["ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"] {
        command.env_remove(format!("LAMBIC_{name}"));
        command.env_remove(format!("AWS_{name}"));
    }
    command
}

/// A number that the surroundings may give, such as how long a test's long form takes.
pub fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    let parsed = value.parse();
    Some(parsed.unwrap_or_else(|_| panic!("{name} is a number, not {value:?}")))
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
        run: Command,
        project: Option<&Path>,
        data: &Path,
        http: u16,
        pg: u16,
        extra: &[&str],
    ) -> Result<Server, Vec<String>> {
        let at = |port| format!("127.0.0.1:{port}");
        Server::start_at(run, project, data, [&at(http), &at(pg)], extra)
    }

    /// The same, at these addresses of its HTTP and its Postgres door.
    pub fn start_at(
        mut run: Command,
        project: Option<&Path>,
        data: &Path,
        [http, pg]: [&str; 2],
        extra: &[&str],
    ) -> Result<Server, Vec<String>> {
        run.args(project);
        run.arg("--data").arg(data);
        run.args(["--http", http, "--pg", pg]).args(extra);
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
            url: format!("http://{http}"),
            pg: pg.to_owned(),
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
        let body = answer.body_mut().with_config().limit(1 << 30);
        let text = body.read_to_string().expect("text");
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
    python_with_options(requirements, &[])
}

/// The same, with options for `pip install`.
pub fn python_with_options(requirements: &Path, options: &[&str]) -> PathBuf {
    let folder = installed(requirements, "bin/python", |folder| {
        run(Command::new("python3").args(["-m", "venv"]).arg(folder));
        let mut install = Command::new(folder.join("bin/python"));
        install.args(["-m", "pip", "install", "--quiet"]);
        install.args(["--disable-pip-version-check"]).args(options);
        run(install.arg("-r").arg(requirements));
    });
    folder.join("bin/python")
}

/// A folder with the npm packages that `package-lock.json` names, kept in the same way.
pub fn node_with(lock: &Path) -> PathBuf {
    installed(lock, "node_modules", |folder| {
        std::fs::create_dir_all(folder).expect("the target folder is ours");
        for file in [lock, &lock.with_file_name("package.json")] {
            let name = file.file_name().expect("it is a file");
            std::fs::copy(file, folder.join(name)).expect("it is there");
        }
        let mut install = Command::new("npm");
        install.args([
            "ci",
            "--silent",
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
        ]);
        run(install.current_dir(folder));
    })
}

/// The folder that `install` filled with what the file `wanted` says, `sign` among it. It is named after the file's own
/// folder.
fn installed(wanted: &Path, sign: &str, install: impl FnOnce(&Path)) -> PathBuf {
    // Tests of one binary run at the same time.
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _turn = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let name = wanted.parent().and_then(Path::file_name);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name.expect("it has a folder"));
    let wanted = std::fs::read_to_string(wanted).expect("the list of packages is there");
    let installed = folder.join("installed.txt");
    let is_same = std::fs::read_to_string(&installed).is_ok_and(|had| had == wanted);
    if is_same && folder.join(sign).exists() {
        return folder;
    }
    let _ = std::fs::remove_dir_all(&folder);
    install(&folder);
    // Last, because its presence means that the work is done.
    std::fs::write(&installed, wanted).expect("the target folder is ours");
    folder
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?} is needed: {error}"));
    assert!(
        output.status.success(),
        "{command:?}\n{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
}

/// Runs a script of a client of AWS against a server of its own, which must end well afterwards.
pub fn run_client(script: &mut Command, server: Server) {
    run_client_with(script, &[], server);
}

/// The same, with more arguments behind the server's URL.
pub fn run_client_with(script: &mut Command, more: &[&str], mut server: Server) {
    // Neither a key nor a proxy of whoever runs the tests.
    for name in [
        "AWS_PROFILE",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_LAMBDA",
        "AWS_SESSION_TOKEN",
    ] {
        script.env_remove(name);
    }
    let status = script
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
