//! AWS's Runtime API for one environment, on a listener of its own.
//!
//! The protocol: `GET /invocation/next` waits for an event, then `POST /invocation/{id}/response` or `…/error`
//! ends it; `POST /init/error` ends the start. Bodies have AWS's bound. In a network of the environment's own nobody
//! else can reach it; on the host's loopback, the port is chosen by the system, and another process of this machine
//! could find it.

mod extension;
mod restore;
mod stream;
mod telemetry;
#[cfg(test)]
mod tests;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderMap, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use lambic_base::Eager;
use lambic_model::Outcome;
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::{Notify, Semaphore},
    task::JoinSet,
};

pub use self::stream::{ResponseHead, StreamPart, StreamSink};
use super::{
    Invocation,
    extensions::Extensions,
    refusals::Refusals,
    telemetry::{Event as Happened, Status, Telemetry},
};
use crate::execution;
pub(super) use crate::execution::RESPONSE_BYTES_MAX;

/// Open connections of one environment. A runtime needs one; more wait until one of them is closed.
const CONNECTIONS_MAX: usize = 32;
/// After a connection could not be taken: mostly the server has no file number left for it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// One event on its way through the environment.
#[derive(Debug, Clone)]
pub struct Event {
    pub invocation: Invocation,
    pub deadline_ms: i64,
    /// Where a streamed response goes as it comes; without it, it is kept together as any other.
    pub stream: Option<StreamSink>,
}

/// What the environment said.
#[derive(Debug)]
pub enum Said {
    /// It asked whose it is to be.
    Spare,
    /// It asked for its first event.
    Ready,
    /// It cannot start.
    InitError(Reported),
    /// It was restored, and asked for its first event.
    Restored,
    /// It cannot be restored.
    RestoreError(Reported),
    Response(Bytes),
    /// A streamed response that nobody took as it came.
    Raw(Bytes),
    /// All of a streamed response has gone where it was wanted.
    Streamed,
    Error(Reported),
    /// An extension gave up.
    ExtensionError(Reported),
    /// Its response was over AWS's cap.
    TooLarge,
    /// The same of a streamed one, which the function may still be writing.
    StreamTooLarge {
        bytes_max: usize,
    },
}

/// An error as the environment told it.
#[derive(Debug)]
pub struct Reported {
    pub body: Bytes,
    /// Of the header; not all clients send it.
    pub kind: Option<String>,
    /// It is the last word of the runtime.
    pub ends: bool,
}

impl Reported {
    pub fn outcome(self, kind_default: &str) -> Outcome {
        let kind = self.kind.as_deref().unwrap_or(kind_default);
        execution::reported(self.body.to_vec(), kind)
    }
}

/// How far a runtime is that wants to be restored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Restore {
    /// It did not ask, or it is over.
    #[default]
    No,
    Waits,
    Runs,
}

#[derive(Default)]
struct State {
    /// What a spare one is told; taken once.
    assignment: Option<Bytes>,
    is_assigned: bool,
    is_ready: bool,
    /// The start has ended: the runtime and all extensions ask for their first event.
    is_started: bool,
    restore: Restore,
    extensions: Extensions,
    event: Option<Event>,
    is_delivered: bool,
    said: Option<Said>,
    /// The runtime said with its last word that it ends.
    is_ending: bool,
}

struct Shared {
    telemetry: Arc<Telemetry>,
    about: Mutex<About>,
    state: Mutex<State>,
    refusals: Refusals,
    /// Wakes whoever waits for an event or an assignment: the environment.
    event_set: Notify,
    /// Wakes extensions that wait for an event.
    extensions_moved: Notify,
    /// Wakes the host that waits for them.
    extensions_idle: Notify,
    /// Wakes whoever waits for a word of the environment: the host.
    word_said: Notify,
}

impl Shared {
    fn new(about: About, telemetry: Arc<Telemetry>) -> Shared {
        Shared {
            telemetry,
            about: Mutex::new(about),
            state: Mutex::default(),
            refusals: Refusals::default(),
            event_set: Notify::new(),
            extensions_moved: Notify::new(),
            extensions_idle: Notify::new(),
            word_said: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the state is held")
    }

    /// The runtime has done its part of the start.
    fn becomes_ready(&self, state: &mut State) {
        state.is_ready = true;
        self.telemetry
            .tell(|| Happened::init_runtime_done(&Status::Success));
        self.say_if_started(state);
    }

    /// The start has ended when the runtime is ready and the extensions are.
    fn say_if_started(&self, state: &mut State) {
        if state.is_ready && !state.is_started && state.extensions.are_idle() {
            state.is_started = true;
            self.telemetry.close();
            state.said = Some(Said::Ready);
            self.word_said.notify_one();
        }
    }

    fn say(&self, said: Said) {
        self.state().said = Some(said);
        self.word_said.notify_one();
    }
}

/// What is known of the function; extensions are told its names.
#[derive(Debug, Clone, Default)]
pub struct About {
    pub function: String,
    pub qualifier: String,
    pub handler: String,
    /// Its runtime may wait to be restored.
    pub is_restored: bool,
}

pub struct Endpoint {
    shared: Arc<Shared>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.server.abort();
        self.shared.telemetry.end();
    }
}

impl Endpoint {
    /// Answers who connects to `listener`; the start waits for these extensions.
    pub fn serve(
        listener: TcpListener,
        about: About,
        extensions: Vec<String>,
        telemetry: Arc<Telemetry>,
    ) -> Endpoint {
        let shared = Arc::new(Shared::new(about, telemetry));
        shared.state().extensions.expect(extensions);
        let server = tokio::spawn(serve(listener, shared.clone()));
        Endpoint { shared, server }
    }

    /// Tells a spare environment what it is from now on: its variables, as JSON.
    pub fn assign(&self, about: About, variables: Bytes) {
        self.belongs_to(about);
        self.shared.state().assignment = Some(variables);
        self.shared.event_set.notify_one();
    }

    pub fn belongs_to(&self, about: About) {
        *self.shared.about.lock().expect("held shortly") = about;
    }

    /// True if the runtime is about to end: it must not get another event.
    pub fn is_ending(&self) -> bool {
        self.shared.state().is_ending
    }

    pub fn set_event(&self, event: Event) {
        let mut state = self.shared.state();
        state.extensions.tell_invoke(&json!({
            "eventType": "INVOKE",
            "deadlineMs": event.deadline_ms,
            "requestId": event.invocation.request_id,
            "invokedFunctionArn": event.invocation.function_arn,
            "tracing": { "type": "X-Amzn-Trace-Id", "value": event.invocation.trace_id },
        }));
        state.event = Some(event);
        state.is_delivered = false;
        state.said = None;
        drop(state);
        self.shared.event_set.notify_one();
        self.shared.extensions_moved.notify_waiters();
    }

    /// Lets a runtime go on that waits to be restored; false if it does not.
    pub fn restore(&self) -> bool {
        let mut state = self.shared.state();
        if state.restore != Restore::Waits {
            return false;
        }
        state.restore = Restore::Runs;
        state.said = None;
        drop(state);
        self.shared.event_set.notify_one();
        true
    }

    /// Waits until no extension has anything to do.
    pub async fn extensions_idle(&self) {
        while !self.shared.state().extensions.are_idle() {
            // A permit is stored if the last one asks between the look and the wait.
            self.shared.extensions_idle.notified().await;
        }
    }

    /// Tells the extensions that it is over; false if none wants to know.
    pub fn tell_shutdown(&self, reason: &str, deadline_ms: i64) -> bool {
        let event = json!({
            "eventType": "SHUTDOWN",
            "shutdownReason": reason,
            "deadlineMs": deadline_ms,
        });
        let is_wanted = self.shared.state().extensions.tell_shutdown(&event);
        self.shared.extensions_moved.notify_waiters();
        is_wanted
    }

    /// What is said about the event from now on comes too late.
    pub fn forget_event(&self) {
        self.shared.state().event = None;
    }

    /// The next thing that the environment says; waits for ever.
    pub async fn said(&self) -> Said {
        loop {
            if let Some(said) = self.shared.state().said.take() {
                return said;
            }
            // A permit is stored if the word is said between the look and the wait.
            self.shared.word_said.notified().await;
        }
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task: connections end with the endpoint.
    let mut connections = JoinSet::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(place) = places.clone().acquire_owned().await {
        while connections.try_join_next().is_some() {}
        let (connection, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection of an environment cannot be taken; it is tried again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let _ = connection.set_nodelay(true);
        let shared = shared.clone();
        connections.spawn(Eager::new(async move {
            let _place = place;
            let answer = service_fn(|request| {
                let shared = shared.clone();
                async move {
                    let answer = answer(&shared, request).await;
                    if answer.status().is_client_error() {
                        shared.refusals.turn().await;
                    }
                    Ok::<_, Infallible>(answer)
                }
            });
            // An environment that was killed breaks its connection: nothing to report.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(connection), answer)
                .await;
        }));
    }
}

const EXTENSION: &str = "/2020-01-01/extension/";
/// Where our own clients ask whose they are to be.
const ASSIGNMENT: &str = "/lambic/assignment";

async fn answer(shared: &Shared, request: Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() == Method::GET && request.uri().path() == ASSIGNMENT {
        return assignment(shared).await;
    }
    if let Some(path) = request.uri().path().strip_prefix(EXTENSION) {
        let path = path.to_owned();
        return extension::answer(shared, request, &path).await;
    }
    if let Some(api) = telemetry::api_of(request.uri().path()) {
        return telemetry::answer(shared, request, api).await;
    }
    let path = request
        .uri()
        .path()
        .strip_prefix("/2018-06-01/runtime/")
        .unwrap_or_default()
        .to_owned();
    match (
        request.method().clone(),
        path.split('/').collect::<Vec<_>>().as_slice(),
    ) {
        (Method::GET, ["invocation", "next"]) => next(shared).await,
        (Method::POST, ["init", "error"]) => {
            if shared.state().is_ready {
                return wrong_state("the start has ended");
            }
            let kind = kind_of(request.headers());
            match body(request).await {
                Ok(body) => {
                    let ends = true;
                    shared.say(Said::InitError(Reported { body, kind, ends }));
                    accepted()
                }
                Err(status) => refused(status, "InvalidRequest", "the body could not be read"),
            }
        }
        (Method::GET, ["restore", "next"]) => restore::next(shared).await,
        (Method::POST, ["restore", "error"]) => restore::error(shared, request).await,
        (Method::POST, ["invocation", id, end @ ("response" | "error")]) => {
            finish(shared, request, id, *end == "error").await
        }
        _ => refused(
            StatusCode::NOT_FOUND,
            "NotFound",
            "the Runtime API has no such path",
        ),
    }
}

async fn assignment(shared: &Shared) -> Response<Full<Bytes>> {
    {
        let mut state = shared.state();
        if state.is_assigned || state.is_ready {
            return wrong_state("it is assigned already");
        }
        state.is_assigned = true;
    }
    shared.say(Said::Spare);
    loop {
        if let Some(variables) = shared.state().assignment.take() {
            return Response::new(Full::new(variables));
        }
        shared.event_set.notified().await;
    }
}

async fn next(shared: &Shared) -> Response<Full<Bytes>> {
    let event = loop {
        {
            let mut state = shared.state();
            if !state.is_ready {
                shared.becomes_ready(&mut state);
            }
            match state.restore {
                Restore::No => {}
                Restore::Waits => return wrong_state("it waits to be restored"),
                Restore::Runs => {
                    state.restore = Restore::No;
                    state.said = Some(Said::Restored);
                    shared.word_said.notify_one();
                }
            }
            match state.event.clone() {
                Some(_) if state.is_delivered => {
                    return wrong_state("the running invocation was not answered");
                }
                Some(event) => {
                    state.is_delivered = true;
                    break event;
                }
                None => {}
            }
        }
        shared.event_set.notified().await;
    };
    let Invocation {
        request_id,
        payload,
        function_arn,
        trace_id,
        client_context,
        cognito_identity,
        timeout: _,
    } = event.invocation;
    let mut response = Response::builder()
        .header(header::CONTENT_TYPE, "application/json")
        .header("Lambda-Runtime-Deadline-Ms", event.deadline_ms);
    for (name, value) in [
        ("Lambda-Runtime-Aws-Request-Id", request_id),
        ("Lambda-Runtime-Invoked-Function-Arn", function_arn),
        ("Lambda-Runtime-Trace-Id", trace_id),
        ("Lambda-Runtime-Client-Context", client_context),
        ("Lambda-Runtime-Cognito-Identity", cognito_identity),
    ] {
        if !value.is_empty() {
            response = response.header(name, header_value(&value));
        }
    }
    response
        .body(Full::new(payload))
        .expect("names are constant and values were cleaned")
}

/// Line ends, which JSON may have between its parts, end a header.
fn header_value(text: &str) -> HeaderValue {
    let bytes: Vec<u8> = text
        .bytes()
        .map(|byte| if byte.is_ascii_control() { b' ' } else { byte })
        .collect();
    HeaderValue::from_bytes(&bytes).expect("it has no control characters")
}

fn kind_of(headers: &HeaderMap) -> Option<String> {
    let kind = headers.get("Lambda-Runtime-Function-Error-Type")?;
    Some(kind.to_str().ok()?.to_owned()).filter(|kind| !kind.is_empty())
}

fn wrong_state(message: &str) -> Response<Full<Bytes>> {
    refused(StatusCode::FORBIDDEN, "InvalidStateTransition", message)
}

/// Our own clients say so of a process that an exception has left in no state to go on.
const ENDS: &str = "Lambic-Runtime-Ends";
/// Our own clients take the next event for an answer to a response: one way less for each event.
const NEXT: &str = "Lambic-Runtime-Next";

async fn finish(
    shared: &Shared,
    request: Request<Incoming>,
    id: &str,
    is_error: bool,
) -> Response<Full<Bytes>> {
    {
        let state = shared.state();
        let Some(event) = state.event.as_ref().filter(|_| state.is_delivered) else {
            return wrong_state("no invocation is running");
        };
        if event.invocation.request_id != id {
            return refused(
                StatusCode::BAD_REQUEST,
                "InvalidRequestID",
                "this is not the running invocation",
            );
        }
    }
    let kind = kind_of(request.headers());
    let ends = request.headers().contains_key(ENDS);
    let asks_for_next = request.headers().contains_key(NEXT);
    let is_stream = !is_error
        && request
            .headers()
            .get("Lambda-Runtime-Function-Response-Mode")
            .is_some_and(|mode| mode == "streaming");
    let heard = if is_stream {
        let event = shared.state().event.clone();
        stream::heard(request, event.and_then(|event| event.stream)).await
    } else {
        match body(request).await {
            Ok(body) if is_error => Ok(Said::Error(Reported { body, kind, ends })),
            Err(StatusCode::PAYLOAD_TOO_LARGE) => Ok(Said::TooLarge),
            body => body.map(Said::Response),
        }
    };
    let said = match heard {
        Ok(said) => said,
        Err(status) => return refused(status, "InvalidRequest", "the body was cut off"),
    };
    let over = match &said {
        Said::TooLarge => Some(RESPONSE_BYTES_MAX),
        Said::StreamTooLarge { bytes_max } => Some(*bytes_max),
        _ => None,
    };
    {
        let mut state = shared.state();
        // The deadline may have passed while the body came in.
        if state
            .event
            .as_ref()
            .is_none_or(|event| event.invocation.request_id != id)
        {
            return wrong_state("the invocation has ended");
        }
        state.event = None;
        state.is_ending |= matches!(&said, Said::Error(error) if error.ends);
        state.said = Some(said);
    }
    shared.word_said.notify_one();
    if asks_for_next && over.is_none() {
        return next(shared).await;
    }
    if let Some(bytes_max) = over {
        return refused(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            &format!("the response is over {bytes_max} bytes"),
        );
    }
    accepted()
}

async fn body(request: Request<Incoming>) -> Result<Bytes, StatusCode> {
    Limited::new(request.into_body(), RESPONSE_BYTES_MAX)
        .collect()
        .await
        .map(|collected| collected.to_bytes())
        .map_err(|error| status_of(&*error))
}

fn status_of(error: &(dyn std::error::Error + Send + Sync + 'static)) -> StatusCode {
    if error.is::<LengthLimitError>() {
        StatusCode::PAYLOAD_TOO_LARGE
    } else {
        StatusCode::BAD_REQUEST
    }
}

fn accepted() -> Response<Full<Bytes>> {
    json_answer(StatusCode::ACCEPTED, &json!({ "status": "OK" }))
}

fn refused(status: StatusCode, kind: &str, message: &str) -> Response<Full<Bytes>> {
    json_answer(
        status,
        &json!({ "errorType": kind, "errorMessage": message }),
    )
}

fn json_answer(status: StatusCode, value: &serde_json::Value) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(value.to_string())))
        .expect("constant headers are valid")
}
