//! AWS's Runtime API for one environment, on a loopback port of its own.
//!
//! The protocol: `GET /invocation/next` waits for an event, then `POST /invocation/{id}/response` or `…/error`
//! ends it; `POST /init/error` ends the start. Bodies have AWS's bound. The port is chosen by the system and known
//! to the environment only; another process of this machine could still find it (a network namespace will
//! close that door).

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    sync::{Notify, Semaphore},
    task::JoinSet,
};

/// AWS's cap of a response.
const RESPONSE_BYTES_MAX: usize = 6_291_556;
/// Open connections of one environment. A runtime needs one; more wait until one of them is closed.
const CONNECTIONS_MAX: usize = 32;
/// After a connection could not be taken: mostly the server has no file number left for it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// One event on its way through the environment.
#[derive(Debug, Clone)]
pub struct Event {
    pub request_id: String,
    pub payload: Bytes,
    pub deadline_ms: i64,
    pub function_arn: String,
}

/// What the environment said.
#[derive(Debug)]
pub enum Said {
    /// It asked for its first event.
    Ready,
    /// It cannot start.
    InitError(Bytes),
    Response(Bytes),
    Error(Bytes),
    /// Its response was over AWS's cap.
    TooLarge,
}

#[derive(Default)]
struct State {
    is_ready: bool,
    event: Option<Event>,
    is_delivered: bool,
    said: Option<Said>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Wakes whoever waits for an event: the environment.
    event_set: Notify,
    /// Wakes whoever waits for a word of the environment: the host.
    word_said: Notify,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the state is held")
    }

    fn say(&self, said: Said) {
        self.state().said = Some(said);
        self.word_said.notify_one();
    }
}

pub struct Endpoint {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Endpoint {
    pub async fn open() -> std::io::Result<Endpoint> {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let server = tokio::spawn(serve(listener, shared.clone()));
        Ok(Endpoint {
            address,
            shared,
            server,
        })
    }

    pub fn set_event(&self, event: Event) {
        let mut state = self.shared.state();
        state.event = Some(event);
        state.is_delivered = false;
        state.said = None;
        drop(state);
        self.shared.event_set.notify_one();
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
        connections.spawn(async move {
            let _place = place;
            let answer = service_fn(|request| {
                let shared = shared.clone();
                async move { Ok::<_, Infallible>(answer(&shared, request).await) }
            });
            // An environment that was killed breaks its connection: nothing to report.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(connection), answer)
                .await;
        });
    }
}

async fn answer(shared: &Shared, request: Request<Incoming>) -> Response<Full<Bytes>> {
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
        (Method::POST, ["init", "error"]) => match body(request).await {
            Ok(error) => {
                shared.say(Said::InitError(error));
                accepted()
            }
            Err(status) => refused(status, "InvalidRequest", "the body could not be read"),
        },
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

async fn next(shared: &Shared) -> Response<Full<Bytes>> {
    let event = loop {
        {
            let mut state = shared.state();
            if !state.is_ready {
                state.is_ready = true;
                state.said = Some(Said::Ready);
                shared.word_said.notify_one();
            }
            if !state.is_delivered
                && let Some(event) = state.event.clone()
            {
                state.is_delivered = true;
                break event;
            }
        }
        shared.event_set.notified().await;
    };
    Response::builder()
        .header(header::CONTENT_TYPE, "application/json")
        .header("Lambda-Runtime-Aws-Request-Id", &event.request_id)
        .header("Lambda-Runtime-Deadline-Ms", event.deadline_ms)
        .header("Lambda-Runtime-Invoked-Function-Arn", &event.function_arn)
        .body(Full::new(event.payload))
        .expect("ids and names are valid header values")
}

async fn finish(
    shared: &Shared,
    request: Request<Incoming>,
    id: &str,
    is_error: bool,
) -> Response<Full<Bytes>> {
    {
        let state = shared.state();
        let Some(event) = state.event.as_ref().filter(|_| state.is_delivered) else {
            return refused(
                StatusCode::FORBIDDEN,
                "InvalidStateTransition",
                "no invocation is running",
            );
        };
        if event.request_id != id {
            return refused(
                StatusCode::BAD_REQUEST,
                "InvalidRequestID",
                "this is not the running invocation",
            );
        }
    }
    let said = match body(request).await {
        Ok(payload) if is_error => Said::Error(payload),
        Ok(payload) => Said::Response(payload),
        Err(StatusCode::PAYLOAD_TOO_LARGE) => Said::TooLarge,
        Err(status) => return refused(status, "InvalidRequest", "the body was cut off"),
    };
    let too_large = matches!(said, Said::TooLarge);
    {
        let mut state = shared.state();
        // The deadline may have passed while the body came in.
        if state
            .event
            .as_ref()
            .is_none_or(|event| event.request_id != id)
        {
            return refused(
                StatusCode::FORBIDDEN,
                "InvalidStateTransition",
                "the invocation has ended",
            );
        }
        state.event = None;
        state.said = Some(said);
    }
    shared.word_said.notify_one();
    if too_large {
        return refused(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            "the response is over 6291556 bytes",
        );
    }
    accepted()
}

async fn body(request: Request<Incoming>) -> Result<Bytes, StatusCode> {
    Limited::new(request.into_body(), RESPONSE_BYTES_MAX)
        .collect()
        .await
        .map(|collected| collected.to_bytes())
        .map_err(|error| {
            if error.is::<LengthLimitError>() {
                StatusCode::PAYLOAD_TOO_LARGE
            } else {
                StatusCode::BAD_REQUEST
            }
        })
}

fn accepted() -> Response<Full<Bytes>> {
    json(StatusCode::ACCEPTED, &serde_json::json!({ "status": "OK" }))
}

fn refused(status: StatusCode, kind: &str, message: &str) -> Response<Full<Bytes>> {
    json(
        status,
        &serde_json::json!({ "errorType": kind, "errorMessage": message }),
    )
}

fn json(status: StatusCode, value: &serde_json::Value) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(value.to_string())))
        .expect("constant headers are valid")
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    #[tokio::test]
    async fn an_environment_has_a_bound_of_connections() {
        let endpoint = Endpoint::open().await.unwrap();
        let connect = || TcpStream::connect(endpoint.address);
        let mut open = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            open.push(connect().await.unwrap());
        }
        let mut one_more = connect().await.unwrap();
        one_more
            .write_all(b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = [0; 12];
        let read = one_more.read_exact(&mut answer);
        tokio::pin!(read);
        let answered = tokio::time::timeout(Duration::from_millis(200), &mut read).await;
        assert!(answered.is_err(), "it was answered beyond the bound");
        open.pop();
        tokio::time::timeout(Duration::from_secs(60), read)
            .await
            .expect("its turn comes when another one is closed")
            .unwrap();
        assert_eq!(&answer, b"HTTP/1.1 404");
    }
}
