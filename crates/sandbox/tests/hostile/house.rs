//! Where attacks are run: their code, what they look for, and a neighbour that must not notice.

use std::{
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use lambic_model::Outcome;
use lambic_sandbox::{
    process::{Environment, Image, Interpreter, Isolation, Launch, Network, Part, Spec},
    wasm::{HostServices, Limits, Wasm},
};
use serde_json::{Value, json};

use crate::{
    common::{LONG, assert_gone, copy_libraries, invocation, python, spec, start},
    components::{self, Kept, SERVICES},
    left::assert_nothing_left,
    table::Ends,
};

/// What belongs to others has this word in it: files, code, variables.
pub const WORD: &str = "of-somebody-else";
/// What attacks that look around have; they end by themselves.
const PATIENT: Duration = Duration::from_secs(30);

/// Each environment has its own there.
const RUNTIME_API: u16 = 9_001;
/// Between two events of the neighbour.
const PAUSE: Duration = Duration::from_millis(5);

/// What is compiled: attacks without a runtime, which are in the container image, too.
const PROGRAMS: [&str; 3] = ["calls", "bombs", "looks"];
/// Names of stores, where bodies of `services` look for them: one of many keys, and one that never answers.
const STORES: &str = r#"(data (i32.const 1024) "many") (data (i32.const 1032) "never")"#;
const KEYS: usize = 1_000;

const NEIGHBOUR: &str = r#"
# of-somebody-else
import os

with open("/tmp/mine", "w") as file:
    file.write(os.environ["MINE"])


def handler(event, context):
    return [event, os.environ["MINE"]]
"#;

pub struct House {
    folder: tempfile::TempDir,
    python: Interpreter,
    node: Interpreter,
    isolation: Isolation,
    wasm: Wasm,
    services: Arc<Kept>,
    /// What a server has on the host: reachable by all there, and never asked.
    host: TcpListener,
    targets: Vec<(String, u16)>,
}

/// How an attack went.
pub struct Attacked {
    pub outcome: Outcome,
    /// Beyond its timeout, until all of it was gone.
    pub late: Duration,
    /// The same by the duration that is reported of it.
    pub late_reported: Duration,
}

impl House {
    pub async fn open() -> House {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let source = functions();
        for runtime in ["python", "node", "bash"] {
            copy(
                &source.join(runtime),
                &folder.path().join("codes").join(runtime),
            );
        }
        let programs = folder.path().join("image/srv");
        std::fs::create_dir_all(&programs).unwrap();
        for program in PROGRAMS {
            let code = folder.path().join("codes").join(program);
            std::fs::create_dir(&code).unwrap();
            let compiled = Command::new("cc")
                .args(["-O1", "-pthread", "-o"])
                .arg(code.join("bootstrap"))
                .arg(source.join(format!("c/{program}.c")))
                .status()
                .expect("a C compiler is needed");
            assert!(compiled.success(), "{program}.c does not compile");
            std::fs::copy(code.join("bootstrap"), programs.join(program)).unwrap();
            copy_libraries(&programs.join(program), &folder.path().join("image"));
        }
        let services = Arc::new(Kept::default());
        for index in 0..KEYS {
            let key = format!("{index:01000}");
            services.set("many", &key, Vec::new()).await.unwrap();
        }
        let neighbour = folder.path().join("codes/neighbour");
        std::fs::create_dir(&neighbour).unwrap();
        std::fs::write(neighbour.join("app.py"), NEIGHBOUR).unwrap();
        // Open to everybody on the host.
        let secret = folder.path().join("secret");
        std::fs::write(&secret, WORD).unwrap();
        std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o777)).unwrap();
        let isolation = Isolation::probe(Path::new("/nowhere")).await.unwrap();
        let mut lacks = isolation.lacks().to_vec();
        lacks.retain(|lack| lack.of.is_boundary() || lack.of == Part::ControlGroups);
        assert!(
            lacks.is_empty(),
            "this machine does not allow it: {lacks:?}"
        );
        let host = TcpListener::bind("0.0.0.0:0").unwrap();
        host.set_nonblocking(true).unwrap();
        House {
            python: python().await,
            node: Interpreter::node(Path::new("node"))
                .await
                .expect("node is installed"),
            isolation,
            wasm: Wasm::new(folder.path().join("compiled")).unwrap(),
            services,
            targets: targets(host.local_addr().unwrap().port()),
            host,
            folder,
        }
    }

    async fn spec(&self, runtime: &str, handler: &str) -> Spec {
        let (launch, name) = match runtime {
            "python" | "neighbour" => (
                Launch::Python(self.python.clone()),
                format!("python{}", self.python.version),
            ),
            "node" => (
                Launch::Node(self.node.clone()),
                format!("nodejs{}.x", self.node.version),
            ),
            "image" => (
                Launch::Image(Image {
                    root: self.folder.path().join("image"),
                    entry_point: vec![format!("/srv/{handler}")],
                    working_dir: "/".to_owned(),
                    environment: Vec::new(),
                }),
                String::new(),
            ),
            _ => (Launch::Bootstrap, "provided.al2023".to_owned()),
        };
        let code = self.folder.path().join("codes").join(runtime);
        let mut spec = spec(launch, &name, &code, handler).await;
        spec.isolation = self.isolation.clone();
        spec.network = Network::Open;
        spec.tmp_mb = 16;
        spec
    }

    /// Runs one attack of at most `timeout`, with `neighbour` beside it, and looks whether all is gone and nobody noticed.
    pub async fn attack(
        &self,
        file: &str,
        timeout: Duration,
        neighbour: &mut Neighbour,
    ) -> Attacked {
        let (path, bomb) = file.split_once('#').unwrap_or((file, ""));
        let (folder, name) = path.split_once('/').unwrap();
        let stem = name.split_once('.').unwrap().0;
        let (runtime, handler) = match folder {
            "c" => (stem, "any.thing".to_owned()),
            "image" => ("image", stem.to_owned()),
            folder => (folder, format!("{stem}.handler")),
        };
        let attacked = match folder {
            "wasm" | "wasi_http" | "wasi_command" | "services" => {
                self.attack_in_wasm(path, timeout, neighbour).await
            }
            _ => {
                self.attack_by_process(runtime, &handler, bomb, timeout, neighbour)
                    .await
            }
        };
        assert_eq!(
            self.host.accept().map(|_| ()).unwrap_err().kind(),
            std::io::ErrorKind::WouldBlock,
            "{file} reached the host"
        );
        attacked
    }

    async fn attack_by_process(
        &self,
        runtime: &str,
        handler: &str,
        bomb: &str,
        timeout: Duration,
        neighbour: &mut Neighbour,
    ) -> Attacked {
        let mark = format!(
            "lambic-mark-{}-{}",
            std::process::id(),
            uuid::Uuid::new_v4()
        );
        let event = json!({
            "bomb": bomb,
            "mark": mark,
            "word": WORD,
            "other_id": neighbour.next_id(),
            "ports": [self.host.local_addr().unwrap().port(), RUNTIME_API],
            "processes": [std::process::id(), std::os::unix::process::parent_id()],
            "paths": [
                self.folder.path(), self.folder.path().join("secret"), neighbour.environment.dir(), functions(),
                "/proc/1/root/etc/shadow",
            ],
            "targets": self.targets,
        });
        let spec = self.spec(runtime, handler).await;
        // Its start is beside the neighbour, too.
        let attack = async move {
            let mut environment = start(spec).await;
            let dir = environment.dir().to_owned();
            let began = Instant::now();
            let execution = environment
                .invoke(invocation(event.to_string().as_bytes(), timeout))
                .await;
            let late = began.elapsed().saturating_sub(timeout);
            environment.kill().await;
            (execution, late, dir)
        };
        let (execution, late, dir) = neighbour.asked_during(attack).await;
        assert_gone(&mark).await;
        assert_nothing_left(&dir).await;
        let said: usize = execution.lines.iter().map(|line| line.line.len()).sum();
        assert!(said < 128 << 10, "{said} bytes of log");
        Attacked {
            outcome: execution.outcome,
            late,
            late_reported: execution.duration.saturating_sub(timeout),
        }
    }

    async fn attack_in_wasm(
        &self,
        path: &str,
        timeout: Duration,
        neighbour: &mut Neighbour,
    ) -> Attacked {
        let limits = Limits {
            timeout,
            memory_mb: 16,
            log_bytes_max: 64 << 10,
        };
        let module = self.wasm.load(&component(path), limits).unwrap();
        let module = module.with_services(self.services.clone());
        let attack = async move {
            let began = Instant::now();
            let execution = module.invoke("id", b"{}", &[], limits).await;
            (execution, began.elapsed().saturating_sub(timeout))
        };
        let (execution, late) = neighbour.asked_during(attack).await;
        let said: usize = execution.lines.iter().map(|line| line.line.len()).sum();
        assert!(said < 128 << 10, "{said} bytes of log");
        assert!(execution.memory_peak_bytes <= 16 << 20);
        Attacked {
            outcome: execution.outcome,
            late,
            late_reported: execution.duration.saturating_sub(timeout),
        }
    }

    /// What an attack finds that is told to look for what is its own.
    pub async fn finds(&self, runtime: &str, stem: &str) -> Value {
        // The word is in its own code.
        let (runtime, handler, word) = match runtime {
            "c" => ("looks", "any.thing".to_owned(), "no such place"),
            "image" => ("image", "looks".to_owned(), "no such place"),
            runtime => (runtime, format!("{stem}.handler"), "handler"),
        };
        let event = json!({
            "bomb": stem,
            "word": word,
            "paths": [], "processes": [],
            "targets": [["127.0.0.1", RUNTIME_API]],
        });
        let mut environment = start(self.spec(runtime, &handler).await).await;
        let event = invocation(event.to_string().as_bytes(), PATIENT);
        crate::common::answer(&environment.invoke(event).await)
    }

    pub async fn neighbour(&self) -> Neighbour {
        let mut spec = self.spec("neighbour", "app.handler").await;
        spec.environment = vec![("MINE".to_owned(), format!("the variable {WORD}"))];
        Neighbour {
            environment: start(spec).await,
            asked: 0,
            times: Vec::new(),
        }
    }

    /// The names of the folders of its environments begin so.
    pub fn prefix(&self, neighbour: &Neighbour) -> String {
        let name = neighbour.environment.dir().file_name().unwrap();
        let name = name.to_string_lossy();
        name[..=name.rfind('-').unwrap()].to_owned()
    }
}

/// A function that minds its own business.
pub struct Neighbour {
    pub environment: Environment,
    asked: u64,
    /// How long each of its events took.
    pub times: Vec<Duration>,
}

impl Neighbour {
    fn next_id(&self) -> String {
        format!("neighbour-{}", self.asked)
    }

    /// Asks it all the time that something else takes, which runs beside it.
    async fn asked_during<T: Send + 'static>(
        &mut self,
        other: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let other = tokio::spawn(other);
        while !other.is_finished() {
            self.ask().await;
            tokio::time::sleep(PAUSE).await;
        }
        other.await.expect("it does not panic")
    }

    /// Asks it so often with nobody beside it, at the same distance.
    pub async fn asked_alone(&mut self, events: usize) {
        for _ in 0..events {
            self.ask().await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// It answers what it was asked, with what is its own.
    async fn ask(&mut self) {
        let event = lambic_sandbox::process::Invocation {
            request_id: self.next_id(),
            ..invocation(self.asked.to_string().as_bytes(), LONG)
        };
        let began = Instant::now();
        let execution = self.environment.invoke(event).await;
        self.times.push(began.elapsed());
        let wanted = json!([self.asked, format!("the variable {WORD}")]);
        assert_eq!(crate::common::answer(&execution), wanted);
        assert!(execution.reusable, "{execution:?}");
        self.asked += 1;
    }
}

/// How long an attack may take, when bombs are given `bomb`.
pub fn timeout_of(ends: &Ends, bomb: Duration) -> Duration {
    match ends {
        Ends::Fails(["Sandbox.Timedout"]) => bomb,
        Ends::Fails(kinds) if kinds.contains(&"Sandbox.Timedout") => bomb,
        Ends::Fails(_) | Ends::Answers(_) => PATIENT,
    }
}

/// Nothing if it ended as it must, else what it did.
pub fn differs(ends: &Ends, outcome: &Outcome) -> Option<String> {
    let shown = |payload: &[u8]| {
        let text = String::from_utf8_lossy(payload);
        text.chars().take(2_000).collect::<String>()
    };
    match (ends, outcome) {
        (Ends::Answers(wanted), Outcome::Success(answer)) => {
            let wanted: Value = serde_json::from_str(wanted).unwrap();
            let is_same = serde_json::from_slice::<Value>(answer).is_ok_and(|has| has == wanted);
            (!is_same).then(|| format!("it answered {}", shown(answer)))
        }
        (
            Ends::Fails(kinds),
            Outcome::Failure {
                error_type,
                payload,
            },
        ) => {
            let is_one = kinds.contains(&error_type.as_str());
            (!is_one).then(|| format!("it failed with {}", shown(payload)))
        }
        (_, Outcome::Success(payload) | Outcome::Failure { payload, .. }) => {
            Some(format!("it ended with {}", shown(payload)))
        }
    }
}

/// The component of a file: in the text format, or the body of one.
fn component(path: &str) -> Vec<u8> {
    let code = std::fs::read_to_string(functions().join(path)).unwrap();
    match path.split_once('/').unwrap().0 {
        "wasi_http" => components::http("", &code),
        "wasi_command" => components::command("", &code),
        "services" => components::http_with(SERVICES, STORES, &code),
        _ => code.into_bytes(),
    }
}

fn functions() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile/functions")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        std::fs::copy(entry.path(), &target).unwrap();
        if entry.file_name() == "bootstrap" {
            std::fs::set_permissions(&target, PermissionsExt::from_mode(0o755)).unwrap();
        }
    }
}

/// What a function has no business with: the host by all its names, the metadata address, private ranges.
fn targets(port: u16) -> Vec<(String, u16)> {
    let mut hosts: Vec<String> = [
        "127.0.0.1",
        "127.1.2.3",
        "localhost",
        "0.0.0.0",
        "::1",
        "::",
        "::ffff:127.0.0.1",
        "2130706433",
        "0x7f000001",
        "127.1",
    ]
    .map(str::to_owned)
    .into();
    // Its other addresses.
    let own = Command::new("hostname").arg("-I").output();
    let own = own.map_or_else(|_| Vec::new(), |output| output.stdout);
    hosts.extend(
        String::from_utf8_lossy(&own)
            .split_whitespace()
            .map(str::to_owned),
    );
    let mut targets: Vec<_> = hosts.into_iter().map(|host| (host, port)).collect();
    for host in [
        "169.254.169.254",
        "169.254.170.2",
        "fd00:ec2::254",
        "10.0.0.1",
        "172.17.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "fe80::1",
        "224.0.0.1",
        "255.255.255.255",
    ] {
        targets.push((host.to_owned(), 80));
    }
    targets
}
