//! Components with `wasi:http/incoming-handler`: a request in, a response out.
//!
//! The response is taken whole: it is ready when its body is, and no larger than any other answer. The instance may work
//! on until its handler returns or its deadline comes; what it does then cannot change the response any more.

pub mod event;

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    header::{CONTENT_LENGTH, HOST, HeaderValue},
    http::uri::{PathAndQuery, Scheme},
};
use lambic_model::Outcome;
use tokio::sync::oneshot;
use wasmtime_wasi_http::{
    WasiHttpView,
    p2::{
        bindings::{
            ProxyPre,
            http::types::{ErrorCode, Scheme as WasiScheme},
        },
        body::HyperOutgoingBody,
    },
};

use super::{
    host::Host,
    run::{Call, Run},
};
use crate::{Execution, execution, failure};

/// For requests that name no host.
const HOST_DEFAULT: HeaderValue = HeaderValue::from_static("localhost");

/// What became of a request.
#[derive(Debug)]
pub struct Served {
    /// Its outcome is a success without a payload if there is a response.
    pub execution: Execution,
    /// Whole, without `content-length`, which its body says.
    pub response: Option<Response<Bytes>>,
}

impl Served {
    pub fn failed(execution: Execution) -> Served {
        Served {
            execution,
            response: None,
        }
    }
}

/// Why there is no response.
enum Fault {
    /// The handler goes on: what becomes of it may tell more.
    Wait(Outcome),
    /// More of it would be of no use.
    Stop(Outcome),
}

type Answer = Result<Response<HyperOutgoingBody>, ErrorCode>;

pub async fn serve(handler: &ProxyPre<Host>, call: Call, request: Request<Bytes>) -> Served {
    let request_id = call.request_id.clone();
    let is_head = request.method() == Method::HEAD;
    let (scheme, request) = incoming(request);
    let mut run = Run::new(handler.engine(), call, None);
    // Outlives what is cut off at the deadline.
    let mut response = None;
    let ended = run
        .within(async |store| {
            let (sender, receiver) = oneshot::channel::<Answer>();
            let request = store
                .data_mut()
                .http()
                .new_incoming_request(scheme, request)?;
            let outparam = store.data_mut().http().new_response_outparam(sender)?;
            let proxy = handler.instantiate_async(&mut *store).await?;
            let handle =
                proxy
                    .wasi_http_incoming_handler()
                    .call_handle(&mut *store, request, outparam);
            let mut handle = pin!(handle);
            let answered = Cell::new(false);
            // Its turn must not end while there is something to read: once the handler has returned, nobody would
            // wake it.
            let collected = collect(receiver, &answered, is_head, &request_id);
            let mut collected = pin!(tokio::task::unconstrained(collected));
            let mut fault = None;
            let returned = loop {
                tokio::select! {
                    biased;
                    done = &mut collected, if response.is_none() && fault.is_none() => match done {
                        Ok(whole) => response = Some(whole),
                        Err(Fault::Stop(outcome)) => return Ok(Some(outcome)),
                        Err(Fault::Wait(outcome)) => fault = Some(outcome),
                    },
                    returned = &mut handle => break returned,
                }
            };
            if response.is_none() && fault.is_none() {
                // What it wrote last; nobody is left who could write more.
                match poll_fn(|cx| Poll::Ready(collected.as_mut().poll(cx))).await {
                    Poll::Ready(Ok(whole)) => response = Some(whole),
                    Poll::Ready(Err(Fault::Stop(outcome) | Fault::Wait(outcome))) => {
                        fault = Some(outcome);
                    }
                    Poll::Pending if answered.get() => {
                        let reason = "the handler returned before it finished its response's body";
                        fault = Some(cut(&request_id, reason));
                    }
                    Poll::Pending => fault = Some(no_response(&request_id)),
                }
            }
            returned?;
            Ok(fault)
        })
        .await;
    let outcome = match (&response, ended) {
        (Some(_), ended) => {
            if let Ok(Some(late)) | Err(late) = ended {
                run.note(&format!("after its response: {}", message(&late)));
            }
            Outcome::Success(Vec::new())
        }
        (None, Ok(Some(outcome)) | Err(outcome)) => outcome,
        (None, Ok(None)) => no_response(&request_id),
    };
    Served {
        execution: run.end(outcome),
        response,
    }
}

/// What `wasi:http` wants to know of a request: a host, and a path with a slash.
fn incoming(request: Request<Bytes>) -> (WasiScheme, Request<Full<Bytes>>) {
    let (mut head, body) = request.into_parts();
    if head.uri.authority().is_none() && !head.headers.contains_key(HOST) {
        head.headers.insert(HOST, HOST_DEFAULT);
    }
    if head.uri.path_and_query().is_none() {
        let mut uri = head.uri.into_parts();
        uri.path_and_query = Some(PathAndQuery::from_static("/"));
        head.uri = Uri::from_parts(uri).unwrap_or_else(|_| Uri::from_static("/"));
    }
    let is_https = head.uri.scheme() == Some(&Scheme::HTTPS)
        || head
            .headers
            .get("x-forwarded-proto")
            .is_some_and(|scheme| scheme == "https");
    let scheme = match is_https {
        true => WasiScheme::Https,
        false => WasiScheme::Http,
    };
    (scheme, Request::from_parts(head, Full::new(body)))
}

/// The whole response; `answered` once it has begun.
async fn collect(
    receiver: oneshot::Receiver<Answer>,
    answered: &Cell<bool>,
    is_head: bool,
    request_id: &str,
) -> Result<Response<Bytes>, Fault> {
    let answer = match receiver.await {
        Ok(Ok(answer)) => answer,
        Ok(Err(code)) => {
            let reason = format!("RequestId: {request_id} Error: the handler failed: {code:?}");
            return Err(Fault::Wait(failure("HandlerError", &reason)));
        }
        Err(_) => return Err(Fault::Wait(no_response(request_id))),
    };
    answered.set(true);
    let (mut head, mut body) = answer.into_parts();
    if head.status.is_informational() {
        let reason = format!("{} cannot be the status of a response", head.status);
        return Err(Fault::Wait(cut(request_id, &reason)));
    }
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            let reason = "the handler gave up its response's body before it was finished, or wrote another length than it had said";
            Fault::Wait(cut(request_id, reason))
        })?;
        // Trailers have no place in a response that is given whole.
        if let Ok(part) = frame.into_data() {
            if whole.len() + part.len() > execution::RESPONSE_BYTES_MAX {
                return Err(Fault::Stop(execution::response_too_large()));
            }
            whole.extend_from_slice(&part);
        }
    }
    let is_bodyless = is_head || head.status == StatusCode::NOT_MODIFIED;
    if let Some(said) = head.headers.remove(CONTENT_LENGTH)
        && !is_bodyless
        && said != HeaderValue::from(whole.len())
    {
        let reason = format!(
            "the response says that it has {} bytes and has {}",
            String::from_utf8_lossy(said.as_bytes()),
            whole.len()
        );
        return Err(Fault::Wait(cut(request_id, &reason)));
    }
    Ok(Response::from_parts(head, whole.freeze()))
}

fn no_response(request_id: &str) -> Outcome {
    failure(
        "Runtime.NoResponse",
        &format!(
            "RequestId: {request_id} Error: the handler returned without a response; it must set its `response-outparam`"
        ),
    )
}

fn cut(request_id: &str, reason: &str) -> Outcome {
    failure(
        "Runtime.TruncatedResponse",
        &format!("RequestId: {request_id} Error: {reason}"),
    )
}

fn message(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Success(_) => String::new(),
        Outcome::Failure { payload, .. } => String::from_utf8_lossy(payload).into_owned(),
    }
}
