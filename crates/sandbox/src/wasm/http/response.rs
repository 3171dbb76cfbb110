//! Takes the response that a component gives: whole, or passed on to its caller as it comes.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::{
    Response, StatusCode,
    header::{CONTENT_LENGTH, HeaderValue},
    http::response::Parts,
};
use lambic_model::Outcome;
use tokio::sync::oneshot;
use wasmtime_wasi_http::p2::{bindings::http::types::ErrorCode, body::HyperOutgoingBody};

use crate::{
    execution, failure,
    process::{StreamPart, StreamSink},
};

pub type Answer = Result<Response<HyperOutgoingBody>, ErrorCode>;

/// All of a response.
pub enum Taken {
    Whole(Response<Bytes>),
    PassedOn,
}

/// Why there is no response.
pub enum Fault {
    /// The handler goes on: what becomes of it may tell more.
    Wait(Outcome),
    /// More of it would be of no use.
    Stop(Outcome),
}

pub struct Taker {
    pub request_id: String,
    /// Of a request of the method `HEAD`.
    pub is_head: bool,
    /// `None`: the response is taken whole.
    pub sink: Option<StreamSink>,
    has_begun: AtomicBool,
    is_sending: AtomicBool,
}

impl Taker {
    pub fn new(request_id: String, is_head: bool, sink: Option<StreamSink>) -> Taker {
        Taker {
            request_id,
            is_head,
            sink,
            has_begun: AtomicBool::new(false),
            is_sending: AtomicBool::new(false),
        }
    }

    /// Whether the handler has begun to answer.
    pub fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// Whether it waits for its caller, and not for the handler.
    pub fn is_sending(&self) -> bool {
        self.is_sending.load(Ordering::Relaxed)
    }

    pub async fn take(&self, receiver: oneshot::Receiver<Answer>) -> Result<Taken, Fault> {
        let answer = match receiver.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(code)) => {
                let reason = format!(
                    "RequestId: {} Error: the handler failed: {code:?}",
                    self.request_id
                );
                return Err(Fault::Wait(failure("HandlerError", &reason)));
            }
            Err(_) => return Err(Fault::Wait(no_response(&self.request_id))),
        };
        self.has_begun.store(true, Ordering::Relaxed);
        let (head, body) = answer.into_parts();
        if head.status.is_informational() {
            let reason = format!("{} cannot be the status of a response", head.status);
            return Err(self.cut(&reason));
        }
        match &self.sink {
            None => Ok(Taken::Whole(self.whole(head, body).await?)),
            Some(sink) => {
                self.pass_on(head, body, sink).await?;
                Ok(Taken::PassedOn)
            }
        }
    }

    async fn whole(
        &self,
        mut head: Parts,
        mut body: HyperOutgoingBody,
    ) -> Result<Response<Bytes>, Fault> {
        let mut whole = Whole::Nothing;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| self.given_up())?;
            // Trailers have no place in a response that is given whole.
            if let Ok(part) = frame.into_data() {
                if whole.len() + part.len() > execution::RESPONSE_BYTES_MAX {
                    return Err(Fault::Stop(execution::response_too_large()));
                }
                whole.add(part);
            }
        }
        let whole = whole.into_bytes();
        let is_bodyless = self.is_head || head.status == StatusCode::NOT_MODIFIED;
        if let Some(said) = head.headers.remove(CONTENT_LENGTH)
            && !is_bodyless
            && said != HeaderValue::from(whole.len())
        {
            let reason = format!(
                "the response says that it has {} bytes and has {}",
                String::from_utf8_lossy(said.as_bytes()),
                whole.len()
            );
            return Err(self.cut(&reason));
        }
        Ok(Response::from_parts(head, whole))
    }

    /// Whoever takes it too slowly slows the handler down, whoever has gone does not.
    async fn pass_on(
        &self,
        mut head: Parts,
        mut body: HyperOutgoingBody,
        sink: &StreamSink,
    ) -> Result<(), Fault> {
        // Where it ends is told by its last part.
        head.headers.remove(CONTENT_LENGTH);
        self.send(sink, StreamPart::Head(head.status, head.headers))
            .await;
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| self.given_up())?;
            if let Ok(part) = frame.into_data() {
                bytes += part.len();
                if bytes > sink.bytes_max {
                    return Err(Fault::Stop(execution::too_large(sink.bytes_max)));
                }
                self.send(sink, StreamPart::Bytes(part)).await;
            }
        }
        Ok(())
    }

    async fn send(&self, sink: &StreamSink, part: StreamPart) {
        self.is_sending.store(true, Ordering::Relaxed);
        let _ = sink.parts.send(part).await;
        self.is_sending.store(false, Ordering::Relaxed);
    }

    fn given_up(&self) -> Fault {
        self.cut("the handler gave up its response's body before it was finished, or wrote another length than it had said")
    }

    fn cut(&self, reason: &str) -> Fault {
        Fault::Wait(cut(&self.request_id, reason))
    }
}

/// A body that grows; one that comes in one part is not copied.
enum Whole {
    Nothing,
    One(Bytes),
    More(BytesMut),
}

impl Whole {
    fn len(&self) -> usize {
        match self {
            Whole::Nothing => 0,
            Whole::One(one) => one.len(),
            Whole::More(more) => more.len(),
        }
    }

    fn add(&mut self, part: Bytes) {
        match self {
            Whole::Nothing => *self = Whole::One(part),
            Whole::One(one) => {
                let mut more = BytesMut::with_capacity(2 * (one.len() + part.len()));
                more.extend_from_slice(one);
                more.extend_from_slice(&part);
                *self = Whole::More(more);
            }
            Whole::More(more) => more.extend_from_slice(&part),
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Whole::Nothing => Bytes::new(),
            Whole::One(one) => one,
            Whole::More(more) => more.freeze(),
        }
    }
}

pub fn no_response(request_id: &str) -> Outcome {
    failure(
        "Runtime.NoResponse",
        &format!(
            "RequestId: {request_id} Error: the handler returned without a response; it must set its `response-outparam`"
        ),
    )
}

pub fn cut(request_id: &str, reason: &str) -> Outcome {
    failure(
        "Runtime.TruncatedResponse",
        &format!("RequestId: {request_id} Error: {reason}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_become_one_body() {
        let mut whole = Whole::Nothing;
        for (part, expected) in [("a", "a"), ("", "a"), ("bc", "abc"), ("d", "abcd")] {
            whole.add(Bytes::from_static(part.as_bytes()));
            assert_eq!(whole.len(), expected.len());
        }
        assert_eq!(whole.into_bytes(), "abcd");
        let one = Bytes::from_static(b"one");
        let mut whole = Whole::Nothing;
        whole.add(one.clone());
        assert_eq!(whole.into_bytes().as_ptr(), one.as_ptr());
        assert_eq!(Whole::Nothing.into_bytes(), "");
    }
}
