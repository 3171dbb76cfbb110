//! Settings of the functions' service and what is handed to it.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use arrow::record_batch::RecordBatch;
use lambic_base::{Clock, SystemClock};
use lambic_log::Log;
use lambic_model::Stream;
use lambic_sandbox::wasm::Compiler;

use crate::{SystemStreams, TellLoading, TraceFile};

/// Finds a stream by name: the catalog lives elsewhere.
pub type StreamLookup = Arc<dyn Fn(&str) -> Option<Arc<Stream>> + Send + Sync>;

/// Reads a JSON list of objects as records of a stream, as strictly as what others append; the error says which and why.
pub type Decode = Arc<dyn Fn(&Stream, Vec<u8>) -> Result<RecordBatch, String> + Send + Sync>;

#[derive(Clone)]
pub struct Options {
    /// The durable registry: what is deployed, its code, and compiled components.
    pub dir: PathBuf,
    pub log: Log,
    /// The streams that functions write about themselves; declared to the log by the caller.
    pub streams: SystemStreams,
    pub lookup: StreamLookup,
    pub decode: Decode,
    /// The same of one Arrow IPC stream, where the system's columns are left out. Without, functions that take columns
    /// have no output.
    pub decode_arrow: Decode,
    pub clock: Arc<dyn Clock>,
    /// Invocations of all functions together at one time, AWS's of an account. What functions reserve is taken from it.
    pub concurrency: usize,
    /// Callers of one function that may wait for their turn; more are throttled.
    pub waiting_max: usize,
    /// Queued events that are worked on at one time.
    pub async_max: usize,
    /// The longest timeout that a function may have; AWS's is 15 minutes.
    pub timeout_max: Duration,
    pub payload_bytes_max: usize,
    pub payload_async_bytes_max: usize,
    /// Of a response that is streamed.
    pub stream_bytes_max: usize,
    /// What one invocation may write to the log.
    pub log_bytes_max: usize,
    /// A program that compiles components within limits; `None`: this one does, without.
    pub compiler: Option<Compiler>,
    /// What one function may keep as values.
    pub values_bytes_max: u64,
    /// An environment that nobody used for this long is ended.
    pub idle: Duration,
    /// What all environments together may use, each as much as its function may.
    pub memory_mb_max: u64,
    /// What all invocations that run in environments may use of processors together, in thousandths, each as much as AWS
    /// gives to a function of its memory.
    pub processors_milli_max: u64,
    /// Environments that start at one time.
    pub starts_max: usize,
    /// Environments of one function that may start one right after the other; then one more every `start_every`.
    pub starts_at_once: u32,
    pub start_every: Duration,
    /// Interpreters that are ready for the next function, of each that is in use.
    pub spares: usize,
    /// When the service closes: how long it waits for invocations whose callers wait.
    pub drain_max: Duration,
    /// A process must ask for its first event within this time, AWS's 10 seconds; otherwise it starts again, under the
    /// timeout of its function.
    pub init_timeout: Duration,
    /// The same of environments that are started before anybody asks, where the function's timeout is not longer.
    pub init_timeout_provisioned: Duration,
    /// The wait before the first retry of what is not a queued event's own failure; it doubles up to `retry_wait_max`.
    pub retry_wait: Duration,
    pub retry_wait_max: Duration,
    /// The waits before a queued event is given once more to the function that failed; the last one stands for all that
    /// follow. AWS's are one and two minutes.
    pub async_retry_waits: Vec<Duration>,
    /// What is not a function's fault is tried again after `retry_wait`, which doubles up to here.
    pub async_backoff_max: Duration,
    /// Queued events are not tried when they are older, unless their function says otherwise.
    pub async_age_max: Duration,
    /// Run processes also where the machine does not allow to shut them in on all sides.
    pub weak_isolation: bool,
    /// The interpreter of Python functions that name no version, and of those that name its own.
    pub python: PathBuf,
    /// The same of Node.
    pub node: PathBuf,
    /// Folders with more of them, in `bin` and in `*/bin`: `python3.12`, `node`.
    pub interpreters: Vec<PathBuf>,
    /// Where traces of invocations go, if they are wanted.
    pub traces: Option<TraceFile>,
    /// Where container images may come from: folders, registries (`localhost:5000`, `ghcr.io/team`), `*` for all
    /// registries that are public.
    pub images: Vec<String>,
    /// A `config.json` as Docker's clients keep it, with what registries want to see.
    pub registry_accounts: Option<PathBuf>,
    /// Is told how far a start is that takes long.
    pub loading: Option<TellLoading>,
}

impl Options {
    pub fn new(
        dir: impl Into<PathBuf>,
        log: Log,
        streams: SystemStreams,
        lookup: StreamLookup,
        decode: Decode,
    ) -> Options {
        Options {
            dir: dir.into(),
            log,
            streams,
            lookup,
            decode,
            decode_arrow: Arc::new(|_, _| Err("columns cannot be read here".to_owned())),
            clock: Arc::new(SystemClock),
            concurrency: 1_000,
            waiting_max: 1_000,
            async_max: 64,
            timeout_max: Duration::from_secs(900),
            payload_bytes_max: 6 << 20,
            payload_async_bytes_max: 1 << 20,
            stream_bytes_max: 200 << 20,
            log_bytes_max: 1 << 20,
            compiler: None,
            values_bytes_max: 1 << 30,
            idle: Duration::from_secs(300),
            drain_max: Duration::from_secs(20),
            memory_mb_max: 16 << 10,
            processors_milli_max: 8_000
                * std::thread::available_parallelism()
                    .map_or(1, |processors| processors.get() as u64),
            starts_max: 2 * std::thread::available_parallelism().map_or(1, usize::from),
            starts_at_once: 1_000,
            start_every: Duration::from_millis(10),
            spares: 2,
            init_timeout: Duration::from_secs(10),
            init_timeout_provisioned: Duration::from_secs(130),
            retry_wait: Duration::from_secs(1),
            retry_wait_max: Duration::from_secs(120),
            async_retry_waits: vec![Duration::from_secs(60), Duration::from_secs(120)],
            async_backoff_max: Duration::from_secs(300),
            async_age_max: Duration::from_secs(6 * 60 * 60),
            weak_isolation: false,
            python: PathBuf::from("python3"),
            node: PathBuf::from("node"),
            interpreters: Vec::new(),
            traces: None,
            images: Vec::new(),
            registry_accounts: None,
            loading: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}
