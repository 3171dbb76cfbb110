//! A response's body that may not pause for too long.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep};
use wasmtime_wasi_http::{Error, Result};

pub struct Timed {
    body: Incoming,
    pause: Option<Pause>,
}

struct Pause {
    limit: Duration,
    over: Pin<Box<Sleep>>,
}

impl Timed {
    pub fn new(body: Incoming, limit: Option<Duration>) -> Timed {
        let pause = limit.map(|limit| Pause {
            limit,
            over: Box::pin(sleep(limit)),
        });
        Timed { body, pause }
    }
}

impl Body for Timed {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>>>> {
        let this = &mut *self;
        match (Pin::new(&mut this.body).poll_frame(cx), &mut this.pause) {
            (Poll::Ready(frame), pause) => {
                if let Some(pause) = pause {
                    pause.over.as_mut().reset(Instant::now() + pause.limit);
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Error::from)))
            }
            (Poll::Pending, None) => Poll::Pending,
            (Poll::Pending, Some(pause)) => {
                ready!(pause.over.as_mut().poll(cx));
                Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
