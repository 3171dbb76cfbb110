//! What becomes of a body that its request's handler did not read.
//!
//! Most clients send all of a request before they read the answer, and send the next one on the same connection. So
//! a rest that is short is read and dropped, and the connection goes on. Where it is long, or does not come, the answer says
//! that the connection closes, and what the client still sends is taken for a while ([`super::server`]): a system that is
//! sent something on a closed connection resets it, and the answer can be lost.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    extract::Request,
    http::{
        HeaderValue,
        header::{CONNECTION, EXPECT},
    },
    middleware::Next,
    response::Response,
};
use bytes::Bytes;
use futures::StreamExt;
use hyper::body::{Frame, SizeHint};

/// Of a rest that is read and dropped.
const REST_BYTES_MAX: u64 = 1 << 20;
const REST_WAIT_MAX: Duration = Duration::from_secs(1);

/// Told to a connection that its last answer went out before the request was read.
#[derive(Debug, Clone, Default)]
pub struct IsCutShort(Arc<AtomicBool>);

impl IsCutShort {
    fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Reads what the handler left of a body, or says that the connection closes.
pub async fn settle(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let is_cut_short = request.extensions().get::<IsCutShort>().cloned();
    // Such a client sends its body when it is asked for, which reading does.
    let waits = request.headers().contains_key(EXPECT);
    let (head, body) = request.into_parts();
    let lent = Lent::new(body);
    let lending = Body::new(lent.clone());
    let mut response = next.run(Request::from_parts(head, lending)).await;
    if !lent.finish(waits).await {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
        if let Some(is_cut_short) = is_cut_short {
            is_cut_short.set();
        }
    }
    response
}

/// A body that comes back when it was not read.
#[derive(Clone)]
struct Lent(Arc<Mutex<Reading>>);

struct Reading {
    body: Body,
    is_begun: bool,
    is_ended: bool,
}

impl Lent {
    fn new(body: Body) -> Lent {
        Lent(Arc::new(Mutex::new(Reading {
            body,
            is_begun: false,
            is_ended: false,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Reading> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the whole body has been read then.
    async fn finish(self, waits: bool) -> bool {
        {
            let reading = self.lock();
            if reading.is_ended {
                return true;
            }
            let is_long = reading.body.size_hint().lower() > REST_BYTES_MAX;
            // What is still being read elsewhere is not ours to take.
            let is_elsewhere = Arc::strong_count(&self.0) > 1;
            if is_long || is_elsewhere || (waits && !reading.is_begun) {
                return false;
            }
        }
        let mut chunks = Body::new(self).into_data_stream();
        let rest = async {
            let mut bytes = 0;
            while let Some(chunk) = chunks.next().await {
                let Ok(chunk) = chunk else { return false };
                bytes += chunk.len() as u64;
                if bytes > REST_BYTES_MAX {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(REST_WAIT_MAX, rest)
            .await
            .unwrap_or(false)
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut reading = self.lock();
        reading.is_begun = true;
        let polled = Pin::new(&mut reading.body).poll_frame(context);
        if let Poll::Ready(None | Some(Err(_))) = &polled {
            reading.is_ended = true;
        }
        // A body that tells its length is over with its last byte: nobody asks again.
        if reading.body.is_end_stream() {
            reading.is_ended = true;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.lock().body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, http::StatusCode, middleware::from_fn, routing::post};
    use futures::stream;
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;

    use super::*;

    fn router() -> Router {
        Router::new()
            .route("/refused", post(|| async { StatusCode::NOT_FOUND }))
            .route("/read", post(|body: Bytes| async move { body }))
            .layer(from_fn(settle))
    }

    /// Whether the connection goes on.
    async fn goes_on(path: &str, headers: &[(&str, &str)], body: Body) -> bool {
        let is_cut_short = IsCutShort::default();
        let mut request = axum::http::Request::post(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(body).unwrap();
        request.extensions_mut().insert(is_cut_short.clone());
        let response = TowerToHyperService::new(router())
            .call(request)
            .await
            .unwrap();
        let closes = response.headers().contains_key(CONNECTION);
        assert_eq!(closes, is_cut_short.get());
        !closes
    }

    fn endless(chunk: usize) -> Body {
        let chunk = Bytes::from(vec![0; chunk]);
        Body::from_stream(stream::repeat_with(move || {
            Ok::<_, std::io::Error>(chunk.clone())
        }))
    }

    fn silent() -> Body {
        Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>())
    }

    #[tokio::test]
    async fn a_short_rest_is_read() {
        assert!(goes_on("/refused", &[], Body::empty()).await);
        assert!(goes_on("/refused", &[], Body::from("short")).await);
        assert!(goes_on("/read", &[], Body::from("read")).await);
        assert!(goes_on("/read", &[("expect", "100-continue")], Body::from("read")).await);
        let chunks = stream::iter(["a", "b"]).map(Ok::<_, std::io::Error>);
        assert!(goes_on("/refused", &[], Body::from_stream(chunks)).await);
    }

    #[tokio::test]
    async fn else_the_connection_closes() {
        let long = Body::from(vec![0; REST_BYTES_MAX as usize + 1]);
        assert!(!goes_on("/refused", &[], long).await);
        assert!(!goes_on("/refused", &[], endless(1 << 10)).await);
        assert!(!goes_on("/refused", &[], silent()).await);
        let expected = goes_on("/refused", &[("expect", "100-continue")], Body::from("x"));
        assert!(!expected.await);
    }
}
