//! The body of a request that a function reads while it is still coming: not more than so many bytes, each part of it
//! within a time.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use lambic_functions::BodyCut;
use tokio::time::{Sleep, sleep};

pub struct Bounded {
    body: Body,
    left: usize,
    idle_max: Duration,
    /// Since the last part.
    idle: Option<Pin<Box<Sleep>>>,
    is_over: IsOver,
}

/// Whether a body had more bytes than it may have; clones share it.
#[derive(Debug, Clone, Default)]
pub struct IsOver(Arc<AtomicBool>);

impl IsOver {
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Bounded {
    pub fn new(body: Body, bytes_max: usize, idle_max: Duration, is_over: IsOver) -> Bounded {
        Bounded {
            body,
            left: bytes_max,
            idle_max,
            idle: None,
            is_over,
        }
    }
}

impl HttpBody for Bounded {
    type Data = Bytes;
    type Error = BodyCut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyCut>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                this.idle = None;
                // Trailers are not passed on, and nothing follows them.
                let Some(data) = frame.data_ref() else {
                    this.body = Body::empty();
                    return Poll::Ready(None);
                };
                let Some(left) = this.left.checked_sub(data.len()) else {
                    this.is_over.0.store(true, Ordering::Release);
                    this.body = Body::empty();
                    return Poll::Ready(Some(Err(BodyCut::TooLarge)));
                };
                this.left = left;
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(BodyCut::BrokenOff))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                let idle_max = this.idle_max;
                let idle = this.idle.get_or_insert_with(|| Box::pin(sleep(idle_max)));
                ready!(idle.as_mut().poll(context));
                this.body = Body::empty();
                Poll::Ready(Some(Err(BodyCut::Stalled)))
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::{StreamExt, stream};

    use super::*;

    /// What comes of a body of at most 4 bytes.
    async fn read(body: Body) -> (String, Option<BodyCut>, bool) {
        let is_over = IsOver::default();
        let mut body = Bounded::new(body, 4, Duration::from_millis(10), is_over.clone());
        let mut came = String::new();
        loop {
            let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
            match frame {
                None => return (came, None, is_over.get()),
                Some(Err(cut)) => return (came, Some(cut), is_over.get()),
                Some(Ok(frame)) => {
                    let part = frame.into_data().unwrap();
                    came.push_str(std::str::from_utf8(&part).unwrap());
                }
            }
        }
    }

    fn parts(parts: &[&'static str]) -> Body {
        let parts: Vec<_> = parts.iter().copied().map(Ok::<_, std::io::Error>).collect();
        Body::from_stream(stream::iter(parts))
    }

    #[tokio::test]
    async fn a_body_has_bounds() {
        let broken = stream::iter([Ok("ab"), Err(std::io::Error::other("gone"))]);
        let stalled = stream::iter([Ok::<_, std::io::Error>("ab")]).chain(stream::pending());
        for (body, expected) in [
            (Body::empty(), ("", None, false)),
            (parts(&["ab", "cd"]), ("abcd", None, false)),
            (
                parts(&["ab", "cde", "f"]),
                ("ab", Some(BodyCut::TooLarge), true),
            ),
            (
                Body::from_stream(broken),
                ("ab", Some(BodyCut::BrokenOff), false),
            ),
            (
                Body::from_stream(stalled),
                ("ab", Some(BodyCut::Stalled), false),
            ),
        ] {
            let (came, cut, is_over) = read(body).await;
            assert_eq!((came.as_str(), cut, is_over), expected);
        }
    }
}
