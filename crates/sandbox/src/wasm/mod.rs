//! WASI 0.2 components: compiled once, a fresh instance for every invocation.
//!
//! What a component exports says how it is invoked ([`World`]): with JSON (`handle`, see `wit/lambic.wit`), with HTTP
//! requests, as a command, or with batches of Arrow records (`handle-batch`). Other plain functions that it exports are
//! SQL functions; such a component may import WASI only, and its clocks, randomness and environment are fixed, so that
//! equal arguments give equal answers for ever. Each row has an instance of its own, so that an answer depends on the
//! arguments alone; but where there is `handle-batch`, it is asked for the rows of a batch at once, and vouches for that.
//! Nothing is preopened, there are no sockets, and HTTP requests get where [`Module::with_network`] allows it.

mod batch;
mod cache;
mod columns;
mod command;
mod compile;
mod engine;
mod event;
mod host;
mod http;
mod outgoing;
mod pace;
mod run;
mod scalar;
mod scalar_batch;
mod services;
mod slots;
mod world;

use std::{path::PathBuf, sync::Arc, time::Duration};

use lambic_base::spot;
use lambic_model::{Outcome, ScalarFunction};
use sha2::{Digest, Sha256};
use wasmtime::{
    Engine,
    component::{Component, InstancePre, Linker},
};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

pub use self::{
    columns::encode as arrow_stream,
    compile::{Compiler, compile_stdin},
    http::{BodyCut, HttpRequest, HttpResponse, RequestBody, Served},
    services::{HostServices, ServiceError},
    world::World,
};
use self::{
    engine::TICK,
    host::{Host, Outside},
    pace::{Ended, OnTheSpot, Pace, Timed, Work},
    run::Call,
    services::Services,
    slots::Slots,
};
use crate::{
    Error, Execution, Written, failure,
    process::{Network, StreamSink, egress::Rules},
};

/// Memories of handlers alive at one time; a component usually has one.
const HANDLERS_MAX: u32 = 100;
/// The same of SQL functions: they run on the threads of queries, of which there are few.
const SCALARS_MAX: u32 = 32;

/// The engine; clones share it.
#[derive(Clone)]
pub struct Wasm {
    engine: Engine,
    linker: Arc<Linker<Host>>,
    cache_dir: PathBuf,
    compiler: Option<Compiler>,
    slots: Slots,
}

/// Limits of one invocation, or of one row of a SQL function (one batch of rows with `handle-batch`).
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub timeout: Duration,
    pub memory_mb: u32,
    pub log_bytes_max: usize,
}

/// A component that was compiled and fits.
#[derive(Clone)]
pub struct Module {
    digest: String,
    handler: Option<Handler>,
    /// It exports `handle-batch`.
    batches: Option<InstancePre<Host>>,
    slots: Slots,
    /// By one instance.
    slots_taken: u32,
    scalars: Vec<Arc<scalar::Scalar>>,
    outside: Outside,
    pace: Arc<Pace>,
}

#[derive(Clone)]
enum Handler {
    Event(InstancePre<Host>),
    Http(ProxyPre<Host>),
    Command(CommandPre<Host>),
}

impl Wasm {
    /// Compiled code is kept in `cache_dir`, a folder of its own.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Result<Wasm, Error> {
        Wasm::with_slots(cache_dir.into(), HANDLERS_MAX, SCALARS_MAX)
    }

    fn with_slots(cache_dir: PathBuf, handlers: u32, scalars: u32) -> Result<Wasm, Error> {
        cache::open(&cache_dir)?;
        let engine = engine::start(handlers + scalars)?;
        let mut linker = Linker::<Host>::new(&engine);
        host::link(&mut linker).map_err(|error| Error::Engine {
            reason: format!("{error:#}"),
        })?;
        Ok(Wasm {
            engine,
            linker: Arc::new(linker),
            cache_dir,
            compiler: None,
            slots: Slots::new(handlers, scalars),
        })
    }

    /// Compiles in a child process from now on, within limits; without, it happens here and without.
    pub fn with_compiler(mut self, compiler: Compiler) -> Wasm {
        self.compiler = Some(compiler);
        self
    }

    /// Compiles `code` (a component, binary or text) or takes it from the cache, and checks that it fits.
    /// `limits` hold for each row of its SQL functions.
    pub fn load(&self, code: &[u8], limits: Limits) -> Result<Module, Error> {
        let digest = hex(&Sha256::digest(code));
        let compiler = self.compiler.as_ref();
        let component = cache::component(&self.engine, compiler, &self.cache_dir, &digest, code)?;
        self.module(&component, digest, limits)
    }

    fn module(
        &self,
        component: &Component,
        digest: String,
        limits: Limits,
    ) -> Result<Module, Error> {
        let fit = world::fit(&self.engine, component)?;
        let slots_taken = fit.memories.max(1);
        let linker = &self.linker;
        let instance = linker.instantiate_pre(component).map_err(wrong_world)?;
        let handler = match fit.world {
            None | Some(World::Batch) => None,
            Some(World::Event) => Some(Handler::Event(instance.clone())),
            Some(World::Http) => {
                let proxy = ProxyPre::new(instance.clone()).map_err(wrong_world)?;
                Some(Handler::Http(proxy))
            }
            Some(World::Command) => {
                let command = CommandPre::new(instance.clone()).map_err(wrong_world)?;
                Some(Handler::Command(command))
            }
        };
        let scalars = fit
            .signatures
            .into_iter()
            .map(|signature| {
                let scalar = scalar::Scalar::new(
                    signature,
                    digest.clone(),
                    instance.clone(),
                    fit.is_pure,
                    limits,
                    self.slots.clone(),
                    slots_taken,
                );
                Arc::new(scalar.with_batches(fit.takes_batches))
            })
            .collect();
        Ok(Module {
            digest,
            handler,
            batches: fit.takes_batches.then_some(instance),
            slots: self.slots.clone(),
            slots_taken,
            scalars,
            outside: Outside::default(),
            pace: Arc::default(),
        })
    }
}

impl Module {
    /// Its invocations may send requests there; by default nowhere.
    pub fn with_network(mut self, network: Network) -> Module {
        self.outside.rules = Some(Arc::new(Rules::of(network)));
        self
    }

    /// Its invocations may ask for these; SQL functions have none.
    pub fn with_services(mut self, services: Arc<dyn HostServices>) -> Module {
        self.outside.services = Services(Some(services));
        self
    }

    /// SHA-256 of the code, hex.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// True if it can be invoked with an event.
    pub fn is_handler(&self) -> bool {
        self.takes_events() || self.takes_batches()
    }

    /// True if [`Module::invoke`] can be called.
    pub fn takes_events(&self) -> bool {
        self.handler.is_some()
    }

    /// True if [`Module::invoke_batch`] can be called.
    pub fn takes_batches(&self) -> bool {
        self.batches.is_some()
    }

    /// How it is invoked; `None`: not at all, it has SQL functions only.
    pub fn world(&self) -> Option<World> {
        let Some(handler) = &self.handler else {
            return self.takes_batches().then_some(World::Batch);
        };
        Some(match handler {
            Handler::Event(_) => World::Event,
            Handler::Http(_) => World::Http,
            Handler::Command(_) => World::Command,
        })
    }

    /// Its SQL functions.
    pub fn scalars(&self) -> impl Iterator<Item = Arc<dyn ScalarFunction>> + '_ {
        self.scalars
            .iter()
            .map(|scalar| scalar.clone() as Arc<dyn ScalarFunction>)
    }

    /// The SQL functions as people read them: `geohash(double precision, integer) -> text`.
    pub fn signatures(&self) -> Vec<String> {
        self.scalars
            .iter()
            .map(|scalar| scalar.signature().to_string())
            .collect()
    }

    /// Runs it on one event in an instance of its own; waits while too many are alive, which does not count as its
    /// time. What an event is to a component of HTTP: see [`http::event`].
    pub async fn invoke(
        &self,
        request_id: &str,
        payload: &[u8],
        environment: &[(String, String)],
        limits: Limits,
    ) -> Execution {
        let written = Written::new(limits.log_bytes_max);
        self.invoke_into(request_id, payload, environment, limits, &written)
            .await
    }

    /// The same; what it writes can be read from `written` before it has ended, within the bound of that.
    pub async fn invoke_into(
        &self,
        request_id: &str,
        payload: &[u8],
        environment: &[(String, String)],
        limits: Limits,
        written: &Written,
    ) -> Execution {
        let Some(handler) = self.handler.clone() else {
            return Execution::unstarted(match self.takes_batches() {
                true => failure(
                    "Runtime.UnmarshalError",
                    "the component takes batches of Arrow records (`handle-batch`), not events in JSON",
                ),
                false => failure(
                    "Runtime.HandlerNotFound",
                    "the component exports SQL functions only",
                ),
            });
        };
        let Ok(event) = std::str::from_utf8(payload).map(str::to_owned) else {
            return Execution::unstarted(failure(
                "Runtime.UnmarshalError",
                "the event is not UTF-8 text",
            ));
        };
        let call = self.call(request_id, environment, limits, written);
        let ran = match handler {
            Handler::Event(handler) => {
                self.apart(async move || event::run(&handler, call, event).await)
                    .await
            }
            Handler::Command(command) => {
                self.apart(async move || command::run(&command, call, event.into()).await)
                    .await
            }
            Handler::Http(handler) => {
                let event_bytes = event.len();
                let read = move || http::event::request(event.into());
                let (shape, request) = match spot::work_on(event_bytes, read).await.map_err(crashed)
                {
                    Ok(Ok(request)) => request,
                    Ok(Err(failed)) | Err(failed) => return Execution::unstarted(failed),
                };
                let request = request.map(RequestBody::Whole);
                self.on_the_spot(async move {
                    let served = http::serve(handler, call, request, None).await;
                    let mut execution = served.execution;
                    if let Some(response) = served.response {
                        let response_bytes = response.body().len();
                        let make = move || http::event::outcome(shape, &response);
                        execution.outcome =
                            match spot::work_on(response_bytes, make).await.map_err(crashed) {
                                Ok(outcome) | Err(outcome) => outcome,
                            };
                    }
                    execution
                })
                .await
            }
        };
        ran.unwrap_or_else(Execution::unstarted)
    }

    /// The same with one Arrow IPC stream, for a component that exports `handle-batch`; the answer is one too, as the
    /// component says.
    pub async fn invoke_batch(
        &self,
        request_id: &str,
        batch: Vec<u8>,
        environment: &[(String, String)],
        limits: Limits,
    ) -> Execution {
        let Some(handler) = self.batches.clone() else {
            return Execution::unstarted(failure(
                "Runtime.UnmarshalError",
                "the component does not export `handle-batch`, which takes batches of Arrow records",
            ));
        };
        let written = Written::new(limits.log_bytes_max);
        let call = self.call(request_id, environment, limits, &written);
        self.apart(async move || batch::run(&handler, call, batch).await)
            .await
            .unwrap_or_else(Execution::unstarted)
    }

    /// The same for a component of HTTP, without JSON on the way. Headers that belong to one connection do not get to the
    /// component. `sink`: where the response goes as it comes; without, it is taken whole.
    pub async fn serve(
        &self,
        request_id: &str,
        request: HttpRequest,
        environment: &[(String, String)],
        limits: Limits,
        sink: Option<StreamSink>,
    ) -> Served {
        let Some(Handler::Http(handler)) = self.handler.clone() else {
            return Served::failed(Execution::unstarted(failure(
                "Runtime.HandlerNotFound",
                "the component does not export `wasi:http/incoming-handler`",
            )));
        };
        let written = Written::new(limits.log_bytes_max);
        let call = self.call(request_id, environment, limits, &written);
        self.on_the_spot(http::serve(handler, call, request, sink))
            .await
            .unwrap_or_else(|failed| Served::failed(Execution::unstarted(failed)))
    }

    fn call(
        &self,
        request_id: &str,
        environment: &[(String, String)],
        limits: Limits,
        written: &Written,
    ) -> Call {
        Call {
            request_id: request_id.to_owned(),
            environment: environment.to_vec(),
            limits,
            outside: self.outside.clone(),
            lines: written.lines(),
        }
    }

    /// On a thread of its own: the code yields at each tick only, and ten milliseconds are long for whoever else waits on
    /// this runtime.
    async fn apart<T: Send + 'static>(
        &self,
        work: impl AsyncFnOnce() -> T + Send + 'static,
    ) -> Result<T, Outcome> {
        let slots = self.slots.for_handler(self.slots_taken).await;
        let runtime = tokio::runtime::Handle::current();
        let run = tokio::task::spawn_blocking(move || {
            // Given back when the instance is gone, also if the caller went away before.
            let _slots = slots;
            runtime.block_on(work())
        });
        run.await.map_err(crashed)
    }

    /// On the thread that asks as long as it is quick, then on one of its own ([`pace`]).
    async fn on_the_spot<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Outcome> {
        let slots = self.slots.for_handler(self.slots_taken).await;
        let work: Work<T> = Box::pin(async move {
            let done = work.await;
            // Given back when the instance is gone.
            drop(slots);
            done
        });
        let work = match self.pace.is_quick() {
            false => Box::pin(Timed::new(work, self.pace.clone())),
            true => match OnTheSpot::new(work).await {
                Ended::Done(done, is_slow) => {
                    if is_slow {
                        self.pace.was_slow();
                    }
                    return Ok(done);
                }
                Ended::Slow(rest) => {
                    self.pace.was_slow();
                    rest
                }
                Ended::Panicked(panic) => {
                    return Err(failure("Runtime.Crash", pace::said(&*panic)));
                }
            },
        };
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || runtime.block_on(work))
            .await
            .map_err(crashed)
    }
}

/// The failure of an event whose work on another thread did not end.
fn crashed(error: tokio::task::JoinError) -> Outcome {
    failure("Runtime.Crash", &error.to_string())
}

fn wrong_world(error: wasmtime::Error) -> Error {
    Error::WrongWorld {
        reason: format!("{error:#}"),
    }
}

/// The innermost cause: the outer ones are a backtrace of addresses.
fn reason(error: &wasmtime::Error) -> String {
    error.root_cause().to_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int32Array};

    use super::*;
    use crate::execution;

    const LIMITS: Limits = Limits {
        timeout: Duration::from_millis(100),
        memory_mb: 16,
        log_bytes_max: 1 << 10,
    };

    /// `handle` that never ends.
    const ENDLESS: &str = r#"
(component
  (core module $m
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 64))
    (func (export "handle") (param i32 i32) (result i32) (loop (br 0)) (unreachable)))
  (core instance $i (instantiate $m))
  (func (export "handle") (param "event" string) (result (result string (error string)))
    (canon lift (core func $i "handle") (memory (core memory $i "memory"))
      (realloc (core func $i "realloc")))))
"#;

    /// A SQL function of several thousand steps.
    const BUSY: &str = r#"
(component
  (core module $m
    (memory (export "memory") 1)
    (func (export "f") (param i32) (result i32) (local i32)
      (loop
        (local.set 1 (i32.add (local.get 1) (i32.const 1)))
        (br_if 0 (i32.lt_u (local.get 1) (i32.const 10000))))
      (local.get 0)))
  (core instance $i (instantiate $m))
  (func (export "f") (param "a" s32) (result s32) (canon lift (core func $i "f"))))
"#;

    #[tokio::test(flavor = "multi_thread")]
    async fn who_finds_no_free_instance_waits() {
        let dir = tempfile::tempdir().unwrap();
        let wasm = Wasm::with_slots(dir.path().to_owned(), 2, 1).unwrap();
        let endless = wasm.load(ENDLESS.as_bytes(), LIMITS).unwrap();
        let mut running = tokio::task::JoinSet::new();
        for _ in 0..9 {
            let endless = endless.clone();
            running.spawn(async move { endless.invoke("id", b"{}", &[], LIMITS).await.outcome });
        }
        for outcome in running.join_all().await {
            assert_eq!(outcome, execution::timed_out("id", LIMITS.timeout));
        }
        let limits = Limits {
            timeout: Duration::from_secs(60),
            ..LIMITS
        };
        let busy = wasm.load(BUSY.as_bytes(), limits).unwrap();
        let column: ArrayRef = Arc::new(Int32Array::from_iter_values(0..1_000));
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    let busy = busy.scalars().next().unwrap();
                    let answer = busy.call(std::slice::from_ref(&column), 1_000).unwrap();
                    assert_eq!(&answer, &column);
                });
            }
        });
    }
}
