//! The body of a request that a function reads while it is still coming: not more than so many bytes, and not too slowly.
//!
//! A function that waits for its caller has a place that others want. So the caller has a time for which it may be waited for
//! in all; what it sends gives it more of it, up to that again. It counts from when the function finds nothing to read until
//! it finds something.

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
use tokio::time::{Instant, Sleep, sleep};

use super::super::patience::Patience;

/// What a caller must send in a second for which it is waited for, after the first seconds.
const BYTES_PER_S_MIN: u32 = 16 << 10;

pub struct Bounded {
    body: Body,
    left: usize,
    patience: Patience,
    /// While it is waited for: since when, and until when at most.
    wait: Option<(Instant, Pin<Box<Sleep>>)>,
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
    /// `wait_max`: how long it is waited for a caller who sends nothing.
    pub fn new(body: Body, bytes_max: usize, wait_max: Duration, is_over: IsOver) -> Bounded {
        Bounded {
            body,
            left: bytes_max,
            patience: Patience::new(wait_max, BYTES_PER_S_MIN),
            wait: None,
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
        let polled = Pin::new(&mut this.body).poll_frame(context);
        if polled.is_ready()
            && let Some((since, _)) = this.wait.take()
        {
            this.patience.waited(since.elapsed());
        }
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
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
                this.patience.came(data.len());
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(BodyCut::BrokenOff))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                let left = this.patience.left();
                let begin = || (Instant::now(), Box::pin(sleep(left)));
                let (_, wait) = this.wait.get_or_insert_with(begin);
                ready!(wait.as_mut().poll(context));
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
    async fn parts_that_are_small_and_rare_are_not_waited_for() {
        let parts = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((Ok::<_, std::io::Error>("a"), ()))
        });
        let body = Body::from_stream(parts);
        let is_over = IsOver::default();
        let mut body = Bounded::new(body, 1 << 20, Duration::from_millis(100), is_over);
        let mut came = 0;
        let cut = loop {
            let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
            match frame.expect("it has no end") {
                Ok(_) => came += 1,
                Err(cut) => break cut,
            }
        };
        assert_eq!(cut, BodyCut::Stalled);
        assert!(came <= 6, "{came}");
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
