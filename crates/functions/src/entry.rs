//! One version of a function, ready to run: its code, its turns and its environments.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use lambic_base::{Clock, SystemClock};
use lambic_model::{InvocationKind, Outcome};
use lambic_sandbox::{
    Execution, LogLine, Written, failure,
    process::{Invocation, Restored, StreamSink},
    wasm::{HttpRequest, HttpResponse},
};
use tokio::sync::OnceCell;
use tracing::{Instrument, debug, field::Empty, info_span};

use crate::{
    Error, Form, FunctionInfo, Inner, InvokeResult, Options, Qualifier, function_arn,
    long_init::{Started, of_whole_timeout},
    notices::reason_not_run,
    platform::Report,
    pool::Pool,
    program::Program,
    records::{InvocationRow, error_message},
    said::Said,
    snap_start::restore,
    traces::{Times, Trace, new_trace_id, trace_root},
    turns::{Permit, Turns},
};

/// What an invocation runs on.
pub enum Input<'a> {
    /// In the form of the call.
    Event(&'a [u8]),
    Http(&'a mut Exchange),
}

/// A request, and then its response, unless that is streamed.
pub struct Exchange {
    request: Option<HttpRequest>,
    pub response: Option<HttpResponse>,
}

impl Exchange {
    pub fn new(request: HttpRequest) -> Exchange {
        Exchange {
            request: Some(request),
            response: None,
        }
    }
}

pub struct Entry {
    pub info: FunctionInfo,
    /// Published versions are made ready when they are invoked first.
    program: OnceCell<Program>,
    turns: Arc<Turns>,
    waiting: AtomicUsize,
    waiting_max: usize,
    pub pool: Pool,
}

/// What an invocation is besides its event.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    pub request_id: &'a str,
    pub kind: InvocationKind,
    pub form: Form,
    /// From 1.
    pub attempt: u32,
    /// The version or alias that was asked for.
    pub qualifier: Option<&'a Qualifier>,
    pub client_context: Option<&'a str>,
    pub trace_id: Option<&'a str>,
    /// Where a response goes that the function streams, as it comes.
    pub stream: Option<&'a StreamSink>,
    /// When a caller asked for it, or it was tried.
    pub arrived: Instant,
}

impl<'a> Call<'a> {
    /// One that nobody waits for.
    pub fn new(request_id: &'a str, kind: InvocationKind, attempt: u32) -> Call<'a> {
        Call {
            request_id,
            kind,
            form: Form::Json,
            attempt,
            qualifier: None,
            client_context: None,
            trace_id: None,
            stream: None,
            arrived: Instant::now(),
        }
    }

    /// As it was asked for.
    fn function_arn(&self, info: &FunctionInfo) -> String {
        match self.qualifier {
            Some(qualifier) => function_arn(&format!("{}:{qualifier}", info.name)),
            None => function_arn(info.name.as_str()),
        }
    }
}

pub fn kind_name(kind: InvocationKind) -> &'static str {
    match kind {
        InvocationKind::Sync => "sync",
        InvocationKind::Async => "async",
        InvocationKind::Stream => "stream",
    }
}

impl Entry {
    /// `program`: made ready already.
    pub fn new(
        info: FunctionInfo,
        program: Option<Program>,
        turns: Arc<Turns>,
        options: &Options,
    ) -> Entry {
        Entry {
            info,
            program: OnceCell::new_with(program),
            turns,
            waiting: AtomicUsize::new(0),
            waiting_max: options.waiting_max,
            pool: Pool::default(),
        }
    }

    /// `None`: nobody needed it yet.
    pub fn program(&self) -> Option<&Program> {
        self.program.get()
    }

    /// The same, made ready if it is not.
    pub async fn ready(&self, inner: &Inner) -> Result<&Program, Error> {
        let make = || inner.program_or_damaged(&self.info);
        self.program.get_or_try_init(make).await
    }

    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.info.timeout_ms)
    }

    /// Waits for a turn. Callers wait as long as their event might take, and no more of them than there is room for;
    /// the queue and triggers, which have bounds of their own, are not throttled.
    pub async fn turn(self: &Arc<Self>, kind: InvocationKind) -> Result<Turn, Error> {
        if let Some(turn) = self.turn_now() {
            return Ok(turn);
        }
        let turn = async {
            Turn {
                entry: self.clone(),
                _turn: self.turns.next().await,
            }
        };
        if kind != InvocationKind::Sync {
            return Ok(turn.await);
        }
        let waiting = self.wait();
        if !self.turns.is_free() && (waiting.is_over() || self.turns.limit() == 0) {
            return Err(self.throttled());
        }
        tokio::select! {
            biased;
            turn = turn => Ok(turn),
            () = self.turns.stopped() => Err(self.throttled()),
            () = tokio::time::sleep(self.timeout()) => Err(self.throttled()),
        }
    }

    /// One more caller waits, as long as this lives.
    pub fn wait(&self) -> Waiting<'_> {
        Waiting {
            before: self.waiting.fetch_add(1, Ordering::Relaxed),
            entry: self,
        }
    }

    fn throttled(&self) -> Error {
        let name = self.info.name.to_string();
        let waiting = self.waiting.load(Ordering::Relaxed).saturating_sub(1);
        match self.turns.reserved() {
            Some(concurrency) => Error::Throttled {
                name,
                concurrency,
                waiting,
            },
            None => Error::Full {
                name,
                reason: format!(
                    "all {} invocations that functions without a `concurrency` of their own may run together are running, and {waiting} more wait",
                    self.turns.limit()
                ),
            },
        }
    }

    /// There is a turn, and nothing to run it in.
    pub fn full(&self) -> Error {
        Error::Full {
            name: self.info.name.to_string(),
            reason: "other environments take what memory and processors this machine has for them"
                .to_owned(),
        }
    }

    /// One more environment may start, or how long that takes.
    pub fn start_turn(&self) -> Result<(), Duration> {
        self.turns.start()
    }

    /// A turn if one is free.
    pub fn turn_now(self: &Arc<Self>) -> Option<Turn> {
        Some(Turn {
            entry: self.clone(),
            _turn: self.turns.now()?,
        })
    }

    async fn execute(
        &self,
        call: Call<'_>,
        input: Input<'_>,
        inner: &Inner,
        said: &mut Said<'_>,
    ) -> Result<Executed, Error> {
        match self.ready(inner).await? {
            Program::Wasm {
                module,
                limits,
                environment,
            } => {
                let _room = inner.component(self, call).await?;
                let (request_id, limits) = (call.request_id, *limits);
                said.start(self.info.version);
                let written = Written::new(limits.log_bytes_max);
                let execution = match input {
                    Input::Event(payload) if call.form == Form::Arrow => {
                        let batch = payload.to_vec();
                        let execution = module.invoke_batch(request_id, batch, environment, limits);
                        execution.await
                    }
                    Input::Event(payload) => {
                        let run =
                            module.invoke_into(request_id, payload, environment, limits, &written);
                        said.while_running(&written, run).await
                    }
                    Input::Http(exchange) => {
                        let request = exchange.request.take();
                        let request = request.expect("an exchange is for one execution");
                        let sink = call.stream.cloned();
                        let served = module.serve(request_id, request, environment, limits, sink);
                        let served = served.await;
                        exchange.response = served.response;
                        served.execution
                    }
                };
                Ok(Executed {
                    // It may have waited for an instance before.
                    began: Instant::now().checked_sub(execution.duration),
                    execution,
                    init: None,
                    restore: None,
                })
            }
            Program::Broken { error_type, reason } => {
                said.start(self.info.version);
                Ok(not_run(error_type, reason))
            }
            Program::Process(spec) => {
                let Input::Event(payload) = input else {
                    said.start(self.info.version);
                    let reason = "the function takes events, and was given a request";
                    return Ok(not_run("Runtime.HandlerNotFound", reason));
                };
                let started = inner.started(self, spec, call, said).await?;
                let Started { found, init, spent } = started;
                let mut environment = match found {
                    Ok(environment) => environment,
                    Err(failed) => {
                        // What the start said comes before the invocation.
                        said.add(failed.lines);
                        said.start(self.info.version);
                        let execution = Execution {
                            duration: spent,
                            memory_peak_bytes: failed.memory_peak_bytes,
                            ..unstarted(failed.outcome)
                        };
                        return Ok(Executed {
                            execution,
                            init,
                            restore: None,
                            began: None,
                        });
                    }
                };
                // A start has a time of its own, which may be longer than the function's.
                let waits = match init {
                    Some(_) => Call {
                        arrived: Instant::now(),
                        ..call
                    },
                    None => call,
                };
                let processor = match inner.processor(self, spec.memory_mb, waits).await {
                    Ok(processor) => processor,
                    Err(full) => {
                        inner.give_back(self, environment);
                        return Err(full);
                    }
                };
                let invocation = Invocation {
                    request_id: call.request_id.to_owned(),
                    payload: payload.to_vec().into(),
                    timeout: self.timeout().saturating_sub(spent),
                    function_arn: call.function_arn(&self.info),
                    trace_id: call.trace_id.unwrap_or_default().to_owned(),
                    client_context: call.client_context.unwrap_or_default().to_owned(),
                    cognito_identity: String::new(),
                };
                let restored = restore(&mut environment, spec, call.request_id, said).await;
                let restore = restored.as_ref().map(|restored| restored.duration);
                if let Some(Restored {
                    outcome: Err(outcome),
                    memory_peak_bytes,
                    ..
                }) = restored
                {
                    said.start(self.info.version);
                    let execution = Execution {
                        duration: spent,
                        memory_peak_bytes,
                        ..unstarted(outcome)
                    };
                    return Ok(Executed {
                        execution,
                        init,
                        restore,
                        began: None,
                    });
                }
                let written = environment.written();
                let run = async {
                    match call.stream {
                        Some(sink) => environment.invoke_streamed(invocation, sink.clone()).await,
                        None => environment.invoke(invocation).await,
                    }
                };
                said.start(self.info.version);
                let run = run.instrument(info_span!("run"));
                let began = Some(Instant::now());
                let mut execution = said.while_running(&written, run).await;
                drop(processor);
                match execution.reusable {
                    true => inner.give_back(self, environment),
                    false if spent > Duration::ZERO => {
                        let outcome = execution.outcome;
                        let timeout = self.timeout();
                        execution.outcome = of_whole_timeout(outcome, call.request_id, timeout);
                    }
                    false => {}
                }
                execution.duration += spent;
                Ok(Executed {
                    execution,
                    init,
                    restore,
                    began,
                })
            }
        }
    }
}

fn not_run(error_type: &str, reason: &str) -> Executed {
    Executed {
        execution: unstarted(failure(error_type, reason)),
        init: None,
        restore: None,
        began: None,
    }
}

/// What became of an event.
struct Executed {
    execution: Execution,
    /// How long the start took, if one was needed.
    init: Option<Duration>,
    /// How long it took to restore the environment, if that was new to events.
    restore: Option<Duration>,
    /// When the code began to run; `None`: it did not.
    began: Option<Instant>,
}

/// Of an event that the function did not get.
fn unstarted(outcome: Outcome) -> Execution {
    Execution {
        outcome,
        duration: Duration::ZERO,
        memory_peak_bytes: 0,
        lines: Vec::new(),
        reusable: false,
    }
}

/// The right to run one event or request.
pub struct Turn {
    pub entry: Arc<Entry>,
    _turn: Permit,
}

impl Turn {
    pub async fn run(
        self,
        call: Call<'_>,
        input: Input<'_>,
        inner: &Inner,
    ) -> Result<InvokeResult, Error> {
        let (result, row, lines) = self.run_unrecorded(call, input, inner).await?;
        inner.recorder.record(row, lines).await;
        Ok(result)
    }

    /// The same for what keeps a success in an append of its own: its row goes with that, or is to be recorded if there
    /// is none. A failure is recorded.
    pub async fn run_to_keep(
        self,
        call: Call<'_>,
        input: Input<'_>,
        inner: &Inner,
    ) -> Result<(InvokeResult, Option<InvocationRow>), Error> {
        let (result, row, lines) = self.run_unrecorded(call, input, inner).await?;
        if row.error.is_some() {
            inner.recorder.record(row, lines).await;
            return Ok((result, None));
        }
        inner.recorder.record_lines(&row, lines).await;
        Ok((result, Some(row)))
    }

    async fn run_unrecorded(
        &self,
        call: Call<'_>,
        input: Input<'_>,
        inner: &Inner,
    ) -> Result<(InvokeResult, InvocationRow, Vec<LogLine>), Error> {
        let info = &self.entry.info;
        // Whoever sends a request cannot ask for it.
        let has_tail = matches!(input, Input::Event(_));
        let trace_id = call.trace_id.map_or_else(new_trace_id, str::to_owned);
        let call = Call {
            trace_id: Some(&trace_id),
            ..call
        };
        let span = info_span!(
            "invocation",
            function = %info.name,
            invocation = call.request_id,
            version = %info.version,
            trace_id = trace_root(&trace_id),
            init_ms = Empty,
            duration_ms = Empty,
            overhead_ms = Empty,
        );
        let start_us = SystemClock.now_us();
        let mut said = Said::new(inner, info, call, start_us);
        let executed = self.entry.execute(call, input, inner, &mut said);
        let executed = match executed.instrument(span.clone()).await {
            Ok(executed) => executed,
            Err(error) => {
                said.not_run();
                if let Some(reason) = reason_not_run(&error) {
                    inner.note_not_run(info, call, start_us, reason).await;
                }
                return Err(error);
            }
        };
        let (ended, ended_us) = (Instant::now(), SystemClock.now_us());
        let Executed {
            execution,
            init,
            restore,
            began,
        } = executed;
        let told = execution.duration + init.unwrap_or_default() + restore.unwrap_or_default();
        let overhead_ms = (ended - call.arrived).saturating_sub(told).as_secs_f64() * 1e3;
        let duration_ms = execution.duration.as_secs_f64() * 1e3;
        let restore_ms = restore.map(|restore| restore.as_secs_f64() * 1e3);
        let restore_billed_ms = restore_ms.unwrap_or_default().ceil() as u64;
        let billed_ms = duration_ms.ceil() as u64 + restore_billed_ms;
        let memory_peak_mb = execution.memory_peak_bytes.div_ceil(1 << 20);
        let init_ms = init.map(|init| init.as_secs_f64() * 1e3);
        let error = match &execution.outcome {
            Outcome::Success(_) => None,
            Outcome::Failure {
                error_type,
                payload,
            } => Some((error_type.clone(), error_message(payload))),
        };
        span.record("init_ms", init_ms);
        span.record("duration_ms", duration_ms);
        span.record("overhead_ms", overhead_ms);
        debug!(parent: &span, is_success = error.is_none(), "invocation ended");
        inner.traces.record(|| Trace {
            request_id: call.request_id.to_owned(),
            function: info.name.to_string(),
            version: info.version.to_string(),
            memory_mb: info.memory_mb,
            kind: call.kind,
            attempt: call.attempt,
            header: trace_id.clone(),
            error: error.clone(),
            times: Times {
                arrived: call.arrived,
                init,
                began,
                duration: execution.duration,
                ended,
                ended_us,
            },
        });
        said.add(execution.lines);
        let (lines, tail) = said.end(&Report {
            request_id: call.request_id,
            duration_ms,
            billed_ms,
            memory_mb: info.memory_mb,
            memory_used_mb: Some(memory_peak_mb),
            init_ms,
            restore_ms,
            error: error.as_ref().map(|(kind, message)| (&**kind, &**message)),
            timeout_ms: info.timeout_ms,
        });
        let log_tail = match has_tail {
            true => tail,
            false => String::new(),
        };
        let row = InvocationRow {
            at_us: start_us,
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
            overhead_ms,
            trace_id: trace_root(&trace_id).to_owned(),
        };
        let result = InvokeResult {
            request_id: call.request_id.to_owned(),
            outcome: execution.outcome,
            version: info.version,
            digest: info.digest.clone(),
            duration_ms,
            billed_ms,
            init_ms,
            overhead_ms,
            memory_peak_mb,
            cold: init.is_some(),
            log_tail,
        };
        Ok((result, row, lines))
    }
}

/// A caller who waits, also one that gives up.
pub struct Waiting<'a> {
    entry: &'a Entry,
    before: usize,
}

impl Waiting<'_> {
    /// True if there are more than may wait.
    pub fn is_over(&self) -> bool {
        self.before >= self.entry.waiting_max
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.entry.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
