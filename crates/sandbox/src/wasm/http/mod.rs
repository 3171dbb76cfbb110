//! Components with `wasi:http/incoming-handler`: a request in, a response out.
//!
//! A response that is taken whole is ready when its body is, and no larger than any other answer; one that is passed on goes
//! to its caller as the handler writes it. The instance may work on until its handler returns or its deadline comes; what
//! it does then cannot change the response any more.

pub mod event;
mod request;
mod response;

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response};
use lambic_model::Outcome;
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime_wasi_http::{WasiHttpView, p2::bindings::ProxyPre};

pub use self::request::{BodyCut, HttpRequest, RequestBody};
use self::response::{Answer, Fault, Taken, Taker, cut, no_response};
use super::{
    host::Host,
    run::{Call, Run},
};
use crate::{Execution, process::StreamSink};

/// Whole, without `content-length`, which its body says.
pub type HttpResponse = Response<Bytes>;

/// What became of a request.
#[derive(Debug)]
pub struct Served {
    /// Its outcome is a success without a payload if there is a response.
    pub execution: Execution,
    /// `None` also if it was passed on.
    pub response: Option<HttpResponse>,
}

impl Served {
    pub fn failed(execution: Execution) -> Served {
        Served {
            execution,
            response: None,
        }
    }
}

/// `sink`: where the response goes as it comes; without, it is taken whole.
pub async fn serve(
    handler: ProxyPre<Host>,
    call: Call,
    request: HttpRequest,
    sink: Option<StreamSink>,
) -> Served {
    let is_head = request.method() == Method::HEAD;
    let taker = Taker::new(call.request_id.clone(), is_head, sink);
    let timeout = call.limits.timeout;
    let mut run = Run::new(handler.engine(), call, None);
    // Outlives what is cut off at the deadline.
    let mut taken = None;
    let work = exchange(&handler, run.store(), request, &taker, &mut taken);
    let worked = tokio::time::timeout(timeout, work).await;
    let ended = run.ended(worked);
    let outcome = match (&taken, ended) {
        (Some(_), ended) => {
            if let Ok(Some(late)) | Err(late) = ended {
                run.note(&format!("after its response: {}", message(&late)));
            }
            Outcome::Success(Vec::new())
        }
        (None, Ok(Some(outcome)) | Err(outcome)) => outcome,
        (None, Ok(None)) => no_response(&taker.request_id),
    };
    Served {
        execution: run.end(outcome),
        response: match taken {
            Some(Taken::Whole(response)) => Some(response),
            Some(Taken::PassedOn) | None => None,
        },
    }
}

/// Runs the handler, and takes its response as it comes. The outcome is a failure that the handler did not end with.
async fn exchange(
    handler: &ProxyPre<Host>,
    store: &mut Store<Host>,
    request: HttpRequest,
    taker: &Taker,
    taken: &mut Option<Taken>,
) -> wasmtime::Result<Option<Outcome>> {
    let (sender, receiver) = oneshot::channel::<Answer>();
    let (scheme, head, body) = request::incoming(request);
    let (request, outparam) = {
        let mut http = store.data_mut().http();
        let request = match body {
            RequestBody::Whole(bytes) => {
                http.new_incoming_request(scheme, Request::from_parts(head, Full::new(bytes)))?
            }
            RequestBody::Coming(body) => {
                http.new_incoming_request(scheme, Request::from_parts(head, body))?
            }
        };
        (request, http.new_response_outparam(sender)?)
    };
    let proxy = handler.instantiate_async(&mut *store).await?;
    let handle = proxy
        .wasi_http_incoming_handler()
        .call_handle(&mut *store, request, outparam);
    let mut handle = pin!(handle);
    // Its turn must not end while there is something to read: once the handler has returned, nobody would wake it.
    let mut taking = pin!(tokio::task::unconstrained(taker.take(receiver)));
    let mut fault = None;
    let returned = loop {
        tokio::select! {
            biased;
            done = &mut taking, if taken.is_none() && fault.is_none() => match done {
                Ok(all) => *taken = Some(all),
                Err(Fault::Stop(outcome)) => return Ok(Some(outcome)),
                Err(Fault::Wait(outcome)) => fault = Some(outcome),
            },
            returned = &mut handle => break returned,
        }
    };
    if taken.is_none() && fault.is_none() {
        // What it wrote last; nobody is left who could write more.
        let last = poll_fn(|cx| match taking.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if taker.is_sending() => Poll::Pending,
            Poll::Pending => Poll::Ready(None),
        });
        match last.await {
            Some(Ok(all)) => *taken = Some(all),
            Some(Err(Fault::Stop(outcome) | Fault::Wait(outcome))) => fault = Some(outcome),
            None if taker.has_begun() => {
                let reason = "the handler returned before it finished its response's body";
                fault = Some(cut(&taker.request_id, reason));
            }
            None => fault = Some(no_response(&taker.request_id)),
        }
    }
    returned?;
    Ok(fault)
}

fn message(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Success(_) => String::new(),
        Outcome::Failure { payload, .. } => String::from_utf8_lossy(payload).into_owned(),
    }
}
