//! One deployment of a function, ready to run: its code, its turns and its warm environments.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use lambic_model::{InvocationKind, Outcome};
use lambic_sandbox::{
    Execution, LogLine, LogSource, failure,
    process::{Environment, Spec},
    wasm,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    Error, FunctionInfo, InvokeResult, Options,
    check::CONCURRENCY_MAX,
    recorder::Recorder,
    records::{InvocationRow, error_message},
    registry::Mapping,
};

const LOG_TAIL_BYTES: usize = 4 << 10;

pub enum Program {
    Wasm {
        module: wasm::Module,
        limits: wasm::Limits,
        environment: Vec<(String, String)>,
    },
    Process(Arc<Spec>),
    /// The code on disk could not be loaded at the start: said at each invocation.
    Broken(String),
}

pub struct Entry {
    pub info: FunctionInfo,
    pub mappings: Vec<Mapping>,
    pub program: Program,
    turns: Arc<Semaphore>,
    concurrency: usize,
    waiting: AtomicUsize,
    waiting_max: usize,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    environment: Environment,
    since: Instant,
}

/// What an invocation is besides its event.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    pub request_id: &'a str,
    pub kind: InvocationKind,
    /// From 1.
    pub attempt: u32,
}

pub fn kind_name(kind: InvocationKind) -> &'static str {
    match kind {
        InvocationKind::Sync => "sync",
        InvocationKind::Async => "async",
        InvocationKind::Stream => "stream",
    }
}

impl Entry {
    pub fn new(
        info: FunctionInfo,
        mappings: Vec<Mapping>,
        program: Program,
        options: &Options,
    ) -> Entry {
        let concurrency = info.concurrency.unwrap_or(options.concurrency);
        let concurrency = concurrency.clamp(1, CONCURRENCY_MAX);
        Entry {
            info,
            mappings,
            program,
            turns: Arc::new(Semaphore::new(concurrency)),
            concurrency,
            waiting: AtomicUsize::new(0),
            waiting_max: options.waiting_max,
            idle: Mutex::default(),
        }
    }

    pub fn keep_warm(&self, environment: Environment) {
        self.idle
            .lock()
            .expect("no panic while idle environments are held")
            .push(Idle {
                environment,
                since: Instant::now(),
            });
    }

    /// Ends environments that nobody used for `idle`.
    pub fn reap(&self, idle: Duration) {
        let ended: Vec<Idle> = self
            .idle
            .lock()
            .expect("no panic while idle environments are held")
            .extract_if(.., |kept| kept.since.elapsed() >= idle)
            .collect();
        drop(ended);
    }

    fn warm(&self) -> Option<Environment> {
        loop {
            // The one used last is the likeliest to be in memory.
            let mut kept = self
                .idle
                .lock()
                .expect("no panic while idle environments are held")
                .pop()?;
            if kept.environment.is_alive() {
                return Some(kept.environment);
            }
        }
    }

    /// Waits for a turn. Callers who wait are bounded; the queue and triggers, which have bounds of their own, are not
    /// throttled.
    pub async fn turn(self: &Arc<Self>, kind: InvocationKind) -> Result<Turn, Error> {
        let waiting = Waiting::enter(&self.waiting);
        if kind == InvocationKind::Sync
            && waiting.before >= self.waiting_max
            && self.turns.available_permits() == 0
        {
            return Err(Error::Throttled {
                name: self.info.name.to_string(),
                concurrency: self.concurrency,
                waiting: waiting.before,
            });
        }
        let turn = self.turns.clone().acquire_owned().await;
        Ok(Turn {
            entry: self.clone(),
            _turn: turn.map_err(|_| Error::Closed)?,
        })
    }

    /// A turn if one is free.
    pub fn turn_now(self: &Arc<Self>) -> Option<Turn> {
        let turn = self.turns.clone().try_acquire_owned().ok()?;
        Some(Turn {
            entry: self.clone(),
            _turn: turn,
        })
    }

    /// The execution, and how long the start took if one was needed.
    async fn execute(
        &self,
        request_id: &str,
        payload: &[u8],
    ) -> Result<(Execution, Option<Duration>), Error> {
        let timeout = Duration::from_millis(self.info.timeout_ms);
        match &self.program {
            Program::Wasm {
                module,
                limits,
                environment,
            } => Ok((
                module
                    .invoke(request_id, payload, environment, *limits)
                    .await,
                None,
            )),
            Program::Broken(reason) => Ok((
                Execution {
                    outcome: failure("Runtime.Broken", reason),
                    duration: Duration::ZERO,
                    memory_peak_bytes: 0,
                    lines: Vec::new(),
                    reusable: false,
                },
                None,
            )),
            Program::Process(spec) => {
                let (mut environment, init) = match self.warm() {
                    Some(environment) => (environment, None),
                    None => match Environment::start(spec.clone()).await? {
                        Ok(environment) => {
                            let init = environment.init();
                            (environment, Some(init))
                        }
                        Err(failed) => {
                            return Ok((
                                Execution {
                                    outcome: failed.outcome,
                                    duration: Duration::ZERO,
                                    memory_peak_bytes: 0,
                                    lines: failed.lines,
                                    reusable: false,
                                },
                                Some(failed.init),
                            ));
                        }
                    },
                };
                let execution = environment.invoke(request_id, payload, timeout).await;
                if execution.reusable {
                    self.keep_warm(environment);
                }
                Ok((execution, init))
            }
        }
    }
}

/// The right to run one event.
pub struct Turn {
    pub entry: Arc<Entry>,
    _turn: OwnedSemaphorePermit,
}

impl Turn {
    pub async fn run(
        self,
        call: Call<'_>,
        payload: &[u8],
        recorder: &Recorder,
    ) -> Result<InvokeResult, Error> {
        let info = &self.entry.info;
        let mut platform = vec![LogLine::now(
            LogSource::Platform,
            format!(
                "START RequestId: {} Version: {}",
                call.request_id, info.deployment
            ),
        )];
        let (execution, init) = self.entry.execute(call.request_id, payload).await?;
        let duration_ms = execution.duration.as_secs_f64() * 1e3;
        let billed_ms = duration_ms.ceil() as u64;
        let memory_peak_mb = execution.memory_peak_bytes.div_ceil(1 << 20);
        let init_ms = init.map(|init| init.as_secs_f64() * 1e3);
        let error = match &execution.outcome {
            Outcome::Success(_) => None,
            Outcome::Failure {
                error_type,
                payload,
            } => Some((error_type.clone(), error_message(payload))),
        };
        platform.extend(execution.lines);
        let mut report = format!(
            "REPORT RequestId: {}\tDuration: {duration_ms:.2} ms\tBilled Duration: {billed_ms} ms\t\
             Memory Size: {} MB\tMax Memory Used: {memory_peak_mb} MB",
            call.request_id, info.memory_mb
        );
        if let Some(init_ms) = init_ms {
            report.push_str(&format!("\tInit Duration: {init_ms:.2} ms"));
        }
        if let Some((error_type, message)) = &error
            && (error_type.starts_with("Runtime.") || error_type.starts_with("Sandbox."))
        {
            platform.push(LogLine::now(
                LogSource::Platform,
                format!("{error_type}: {message}"),
            ));
        }
        for line in [format!("END RequestId: {}", call.request_id), report] {
            platform.push(LogLine::now(LogSource::Platform, line));
        }
        let log_tail = tail(&platform);
        let row = InvocationRow {
            at_us: platform[0].at_us,
            request_id: call.request_id.to_owned(),
            function: info.name.to_string(),
            digest: info.digest.clone(),
            kind: kind_name(call.kind),
            error,
            duration_ms,
            billed_ms: billed_ms as i64,
            init_ms,
            memory_mb: memory_peak_mb as i64,
            cold: init.is_some(),
            attempt: call.attempt as i32,
        };
        recorder.record(row, platform).await;
        Ok(InvokeResult {
            request_id: call.request_id.to_owned(),
            outcome: execution.outcome,
            digest: info.digest.clone(),
            duration_ms,
            billed_ms,
            init_ms,
            memory_peak_mb,
            cold: init.is_some(),
            log_tail,
        })
    }
}

/// Counts those who wait, also when their caller gives up.
struct Waiting<'a> {
    count: &'a AtomicUsize,
    before: usize,
}

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize) -> Waiting<'a> {
        Waiting {
            before: count.fetch_add(1, Ordering::Relaxed),
            count,
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

fn tail(lines: &[LogLine]) -> String {
    let mut text = String::new();
    for line in lines {
        text.push_str(&line.line);
        text.push('\n');
    }
    let mut start = text.len().saturating_sub(LOG_TAIL_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text.split_off(start)
}
