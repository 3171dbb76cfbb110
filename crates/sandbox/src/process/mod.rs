//! A process that speaks AWS's Runtime API: one environment, one invocation at a time, kept warm in between.
//!
//! The process has a folder of its own (a read-only copy of the code, a `tmp`), a cleared environment, limits of
//! [`isolation`], and a private [`endpoint`]. At the deadline it is killed with everything that it started. Between
//! two events all of it stands still, as in AWS: what a handler leaves running can do nothing while nobody looks.

mod capture;
mod endpoint;
mod isolation;
mod tree;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use lambic_base::{Clock, SystemClock};
use lambic_model::Outcome;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use self::{
    capture::Capture,
    endpoint::{Endpoint, Event, Said},
    tree::Process,
};
use crate::{
    Error, Execution, LogLine, execution, failure,
    files::set_mode,
    lines::{Lines, LogSource},
};

pub use self::isolation::Isolation;

const PYTHON_CLIENT: &str = include_str!("python.py");
/// How often memory and processes of a running invocation are counted.
const WATCH: Duration = Duration::from_millis(20);
/// Processes of one environment, the first included.
const PROCESSES_MAX: usize = 64;

/// What an environment is made of.
#[derive(Debug, Clone)]
pub struct Spec {
    pub function: String,
    /// AWS's qualifier: the deployment that runs.
    pub qualifier: String,
    /// `file.function`
    pub handler: String,
    /// Copied for each environment.
    pub code_dir: PathBuf,
    pub environment: Vec<(String, String)>,
    pub memory_mb: u32,
    pub log_bytes_max: usize,
    pub init_timeout: Duration,
    pub isolation: Isolation,
}

impl Spec {
    fn function_arn(&self) -> String {
        format!(
            "arn:aws:lambda:local:000000000000:function:{}",
            self.function
        )
    }
}

pub struct Environment {
    spec: Arc<Spec>,
    child: Child,
    /// The program itself; `child` may be a parent in between.
    process: Process,
    /// What stands still below it until the next event.
    stopped: Vec<Process>,
    endpoint: Endpoint,
    captures: [Capture; 2],
    lines: Arc<Mutex<Lines>>,
    init: Duration,
    has_ended: bool,
    dir: TempDir,
}

/// An environment that did not come up.
#[derive(Debug)]
pub struct FailedStart {
    pub outcome: Outcome,
    pub lines: Vec<LogLine>,
    pub init: Duration,
}

impl Environment {
    /// Starts the process and waits until it asks for its first event. The inner error is the function's own.
    pub async fn start(spec: Arc<Spec>) -> Result<Result<Environment, FailedStart>, Error> {
        let start = Instant::now();
        let dir = tokio::task::spawn_blocking({
            let spec = spec.clone();
            move || make_dir(&spec)
        })
        .await
        .map_err(|error| Error::Engine {
            reason: error.to_string(),
        })??;
        let spawn_error = |source| Error::Spawn {
            program: spec.isolation.program.display().to_string(),
            source,
        };
        let endpoint = Endpoint::open().await.map_err(spawn_error)?;
        let (stdout_in, stdout_out) = std::io::pipe().map_err(spawn_error)?;
        let (stderr_in, stderr_out) = std::io::pipe().map_err(spawn_error)?;
        let mut command = command(&spec, dir.path(), &endpoint);
        command.stdout(stdout_out).stderr(stderr_out);
        let (child, process) = spec
            .isolation
            .spawn(command, spec.memory_mb)
            .await
            .map_err(spawn_error)?;
        let lines = Arc::new(Mutex::new(Lines::new(spec.log_bytes_max)));
        let capture = |pipe: std::io::PipeReader, source| {
            Capture::start(OwnedFd::from(pipe), source, lines.clone()).map_err(spawn_error)
        };
        let captures = [
            capture(stdout_in, LogSource::Stdout)?,
            capture(stderr_in, LogSource::Stderr)?,
        ];
        let mut environment = Environment {
            spec: spec.clone(),
            child,
            process,
            stopped: Vec::new(),
            endpoint,
            captures,
            lines,
            init: Duration::ZERO,
            has_ended: false,
            dir,
        };
        let outcome = match environment.next_word("init", spec.init_timeout).await {
            Word::Said(Said::Ready) => {
                environment.init = start.elapsed();
                match environment.stand_still("init").await {
                    Ok(()) => return Ok(Ok(environment)),
                    Err(outcome) => outcome,
                }
            }
            Word::Said(Said::InitError(error)) => {
                execution::reported(error.to_vec(), "Runtime.InitError")
            }
            Word::Said(_) => failure("Runtime.Unknown", "the runtime broke the protocol"),
            Word::Failed(outcome) => outcome,
        };
        environment.kill().await;
        Ok(Err(FailedStart {
            outcome,
            lines: environment.take_lines(),
            init: start.elapsed(),
        }))
    }

    /// How long the start took.
    pub fn init(&self) -> Duration {
        self.init
    }

    /// False if the process ended on its own while nobody looked.
    pub fn is_alive(&mut self) -> bool {
        if !self.has_ended && !matches!(self.child.try_wait(), Ok(None)) {
            self.set_ended();
        }
        !self.has_ended
    }

    /// Where the environment lives; gone when it ends.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub async fn invoke(
        &mut self,
        request_id: &str,
        payload: &[u8],
        timeout: Duration,
    ) -> Execution {
        let start = Instant::now();
        self.endpoint.set_event(Event {
            request_id: request_id.to_owned(),
            payload: Bytes::copy_from_slice(payload),
            deadline_ms: SystemClock.now_us() / 1_000 + timeout.as_millis() as i64,
            function_arn: self.spec.function_arn(),
        });
        for process in self.stopped.drain(..) {
            process.go_on();
        }
        self.process.go_on();
        let (outcome, answered) = match self.next_word(request_id, timeout).await {
            Word::Said(Said::Response(answer)) => (answer_of(&answer), true),
            Word::Said(Said::Error(error)) => {
                (execution::reported(error.to_vec(), "Runtime.Error"), true)
            }
            Word::Said(Said::TooLarge) => (
                failure(
                    "Function.ResponseSizeTooLarge",
                    "Response payload size exceeded maximum allowed payload size (6291556 bytes).",
                ),
                true,
            ),
            Word::Said(Said::Ready | Said::InitError(_)) => (
                failure("Runtime.Unknown", "the runtime broke the protocol"),
                false,
            ),
            Word::Failed(outcome) => (outcome, false),
        };
        let duration = start.elapsed();
        let memory_peak_bytes = self.process.memory_bytes("VmHWM");
        // An answer that was given stands, whatever is found in the environment afterwards.
        let reusable = answered && self.stand_still(request_id).await.is_ok();
        if !reusable {
            self.kill().await;
        }
        Execution {
            outcome,
            duration,
            memory_peak_bytes,
            lines: self.take_lines(),
            reusable,
        }
    }

    /// Kills the process and everything that it started, and waits until it is gone.
    pub async fn kill(&mut self) {
        if self.has_ended {
            return;
        }
        self.has_ended = true;
        self.process.kill_all();
        let _ = self.child.start_kill();
        let _ = self.child.wait().await;
        self.process.forget_number();
    }

    /// The child was waited for.
    fn set_ended(&mut self) {
        self.has_ended = true;
        self.process.forget_number();
        // Only what a pidfd still holds.
        self.process.kill_all();
    }

    /// Stops everything until the next event, so that the limits hold in between; the error says which of them does
    /// not hold.
    async fn stand_still(&mut self, request_id: &str) -> Result<(), Outcome> {
        self.stopped = self
            .process
            .stop_all(PROCESSES_MAX)
            .await
            .map_err(|reason| {
                failure(
                    "Runtime.ExitError",
                    &format!(
                        "RequestId: {request_id} Error: Runtime does not stand still: {reason}"
                    ),
                )
            })?;
        self.over_limit(&self.stopped, request_id)
            .map_or(Ok(()), Err)
    }

    /// What the environment says next, or how it failed to.
    async fn next_word(&mut self, request_id: &str, timeout: Duration) -> Word {
        let deadline = tokio::time::sleep(timeout);
        tokio::pin!(deadline);
        let mut watch = tokio::time::interval(WATCH);
        watch.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                said = self.endpoint.said() => return Word::Said(said),
                () = &mut deadline => {
                    return Word::Failed(execution::timed_out(request_id, timeout));
                }
                status = self.child.wait() => {
                    self.set_ended();
                    return Word::Failed(exited(request_id, status));
                }
                _ = watch.tick() => {
                    if let Some(outcome) = self.over_limit(&self.process.below(), request_id) {
                        return Word::Failed(outcome);
                    }
                }
            }
        }
    }

    /// The limits that hold for all processes of an environment together.
    fn over_limit(&self, below: &[Process], request_id: &str) -> Option<Outcome> {
        if below.len() >= PROCESSES_MAX {
            return Some(failure(
                "Runtime.TooManyProcesses",
                &format!("RequestId: {request_id} Error: More than {PROCESSES_MAX} processes"),
            ));
        }
        let used: u64 = below
            .iter()
            .chain([&self.process])
            .map(|process| process.memory_bytes("VmRSS"))
            .sum();
        (used > u64::from(self.spec.memory_mb) << 20)
            .then(|| execution::out_of_memory(request_id, self.spec.memory_mb))
    }

    fn take_lines(&self) -> Vec<LogLine> {
        for capture in &self.captures {
            capture.drain();
        }
        self.lines
            .lock()
            .expect("no panic while lines are held")
            .take()
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        if !self.has_ended {
            // The child itself is killed and reaped by `kill_on_drop`.
            self.process.kill_all();
        }
    }
}

enum Word {
    Said(Said),
    Failed(Outcome),
}

fn answer_of(answer: &[u8]) -> Outcome {
    if answer.is_empty() {
        return Outcome::Success(b"null".to_vec());
    }
    // As text, because bytes that nobody looks at are not checked to be UTF-8.
    let problem = match std::str::from_utf8(answer) {
        Ok(text) => serde_json::from_str::<serde::de::IgnoredAny>(text)
            .err()
            .map(|error| error.to_string()),
        Err(error) => Some(error.to_string()),
    };
    match problem {
        None => Outcome::Success(answer.to_vec()),
        Some(problem) => failure(
            "Runtime.MarshalError",
            &format!("the answer is not JSON: {problem}"),
        ),
    }
}

fn exited(request_id: &str, status: std::io::Result<ExitStatus>) -> Outcome {
    use std::os::unix::process::ExitStatusExt;
    let how = match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(0), _) => "Runtime exited without providing a reason".to_owned(),
            (Some(code), _) => format!("Runtime exited with error: exit status {code}"),
            (_, Some(9)) => "Runtime exited with error: signal: killed".to_owned(),
            (_, signal) => {
                format!("Runtime exited with error: signal {}", signal.unwrap_or(0))
            }
        },
        Err(error) => format!("Runtime was lost: {error}"),
    };
    failure(
        "Runtime.ExitError",
        &format!("RequestId: {request_id} Error: {how}"),
    )
}

/// The names of the environments of those who keep their code in `codes`, in the folder for what is temporary: their
/// users may not be let through to the code itself.
fn prefix(codes: &Path) -> String {
    let codes = codes.canonicalize().unwrap_or_else(|_| codes.to_owned());
    let mut hasher = DefaultHasher::new();
    codes.hash(&mut hasher);
    format!("lambic-environment-{:016x}-", hasher.finish())
}

/// Removes the environments of a server that was killed. Whoever calls it is the only one who keeps code in `codes`.
pub fn remove_left_behind(codes: &Path) {
    let prefix = prefix(codes);
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix)
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            tracing::warn!(%error, path = %entry.path().display(), "the folder of an environment that was killed stays");
        }
    }
}

/// `task` (the code), `tmp` and `client`, for the environment's user only.
fn make_dir(spec: &Spec) -> Result<TempDir, Error> {
    let codes = spec.code_dir.parent().unwrap_or(&spec.code_dir);
    let dir = tempfile::Builder::new()
        .prefix(&prefix(codes))
        .tempdir()
        .map_err(Error::io("create a folder in", std::env::temp_dir()))?;
    let (task, tmp, client) = (
        dir.path().join("task"),
        dir.path().join("tmp"),
        dir.path().join("client.py"),
    );
    copy(&spec.code_dir, &task)?;
    std::fs::create_dir(&tmp).map_err(Error::io("create", &tmp))?;
    std::fs::write(&client, PYTHON_CLIENT).map_err(Error::io("write", &client))?;
    set_mode(&client, 0o444)?;
    if let Some(user) = spec.isolation.user {
        std::os::unix::fs::chown(&tmp, Some(user), Some(user))
            .map_err(Error::io("hand over", &tmp))?;
        // The folder stays ours: its user may pass through, not list or change it.
        set_mode(dir.path(), 0o711)?;
    }
    set_mode(&tmp, 0o700)?;
    Ok(dir)
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    std::fs::create_dir(to).map_err(Error::io("create", to))?;
    for entry in std::fs::read_dir(from).map_err(Error::io("read", from))? {
        let entry = entry.map_err(Error::io("read", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry
            .file_type()
            .map_err(Error::io("read", &source))?
            .is_dir()
        {
            copy(&source, &target)?;
        } else {
            std::fs::copy(&source, &target).map_err(Error::io("copy", &source))?;
            set_mode(&target, 0o555)?;
        }
    }
    set_mode(to, 0o755)
}

fn command(spec: &Spec, dir: &Path, endpoint: &Endpoint) -> Command {
    let mut command = Command::new(&spec.isolation.program);
    let (task, tmp) = (dir.join("task"), dir.join("tmp"));
    command
        .arg("-B")
        .arg(dir.join("client.py"))
        .current_dir(&task)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("LANG", "C.UTF-8")
        .env("TZ", ":UTC")
        .env("HOME", &tmp)
        .env("TMPDIR", &tmp)
        .envs(spec.environment.iter().map(|(name, value)| (name, value)))
        .env("AWS_LAMBDA_RUNTIME_API", endpoint.address.to_string())
        .env("_HANDLER", &spec.handler)
        .env("LAMBDA_TASK_ROOT", &task)
        .env("LAMBDA_RUNTIME_DIR", dir)
        .env("AWS_EXECUTION_ENV", "AWS_Lambda_python3")
        .env("AWS_REGION", "local")
        .env("AWS_DEFAULT_REGION", "local")
        .env("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")
        .env("AWS_LAMBDA_FUNCTION_NAME", &spec.function)
        .env("AWS_LAMBDA_FUNCTION_VERSION", &spec.qualifier)
        .env(
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
            spec.memory_mb.to_string(),
        )
        .env(
            "AWS_LAMBDA_LOG_GROUP_NAME",
            format!("/aws/lambda/{}", spec.function),
        )
        .env(
            "AWS_LAMBDA_LOG_STREAM_NAME",
            dir.file_name().unwrap_or_default(),
        );
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kill_left_is_removed_and_nothing_else() {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let left = |codes: &Path| {
            let dir = tempfile::Builder::new().prefix(&prefix(codes)).tempdir();
            let dir = dir.unwrap().keep();
            std::fs::write(dir.join("handler.py"), "code").unwrap();
            dir
        };
        let (one, two, other) = (left(ours.path()), left(ours.path()), left(theirs.path()));
        remove_left_behind(ours.path());
        assert!(!one.exists() && !two.exists() && other.exists());
        remove_left_behind(theirs.path());
        assert!(!other.exists());
    }

    #[test]
    fn an_answer_is_json_in_utf_8() {
        for (answer, is_success) in [
            (&b""[..], true),
            ("{\"a\": \"ä\"}".as_bytes(), true),
            (b"{\"a\": \"\xff\"}", false),
            (b"{", false),
        ] {
            let outcome = answer_of(answer);
            assert_eq!(
                matches!(outcome, Outcome::Success(_)),
                is_success,
                "{outcome:?}"
            );
        }
    }
}
