//! Reads bodies of requests within bounds: how large one may be, how long it may take, and how much memory
//! all of them together may hold.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    http::{HeaderMap, StatusCode, header},
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    error::{Failure, Owner},
    patience::Patience,
};
use crate::Options;

/// How much of a body that is too large is read, in times of the limit.
const DISCARDED_TIMES_MAX: usize = 4;
/// What a body that does not tell its length reserves at a time.
const STEP_BYTES: usize = 1 << 20;
/// What a client must send in a second for which it is waited for, after the first minute: it holds memory meanwhile.
const BYTES_PER_S_MIN: u32 = 1 << 10;

/// What requests share and wait for.
pub struct Bounds {
    /// Bytes of bodies.
    bodies: Arc<Semaphore>,
    /// Bytes of bodies that are read before their requests are let in.
    ahead: Arc<Semaphore>,
    /// Bytes of the records that bodies were decoded to.
    records: Arc<Semaphore>,
    /// All of them.
    bytes_max: usize,
    statements: Arc<Semaphore>,
    idle_max: Duration,
    wait_max: Duration,
}

/// A body and its share of the memory for bodies, given back when this is dropped.
#[derive(Debug)]
pub struct Held {
    pub bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
}

impl Held {
    /// To be read again; it holds its share until then.
    pub fn into_body(self) -> Body {
        Body::from(Bytes::from_owner(self))
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Why a body was not read.
#[derive(Debug)]
pub enum Unread {
    TooLarge,
    BrokenOff(String),
    /// It was waited for this long, and longer as it came.
    Stalled(Duration),
    /// Too many others are at it.
    Busy,
}

impl Bounds {
    pub fn new(options: &Options) -> Bounds {
        // Whatever is allowed alone must fit in.
        let bytes_min = options
            .append_bytes_max
            .max(super::functions::BODY_BYTES_MAX);
        // A semaphore counts no further.
        let bytes_max = Semaphore::MAX_PERMITS.min(u32::MAX as usize);
        let bytes = options
            .http_bodies_bytes_max
            .clamp(bytes_min.min(bytes_max), bytes_max);
        Bounds {
            bodies: Arc::new(Semaphore::new(bytes)),
            ahead: Arc::new(Semaphore::new(bytes)),
            records: Arc::new(Semaphore::new(bytes)),
            bytes_max: bytes,
            statements: Arc::new(Semaphore::new(options.http_statements_max)),
            idle_max: options.http_idle_max,
            wait_max: options.http_wait_max,
        }
    }

    /// A whole body of at most `bytes_max`.
    pub async fn read(
        &self,
        body: Body,
        headers: &HeaderMap,
        bytes_max: usize,
    ) -> Result<Held, Unread> {
        self.read_in(&self.bodies, body, headers, bytes_max).await
    }

    /// The same for whoever needs it before the handler, which reads it again. The memory is other memory: whoever waits
    /// for the second share with the first in hand waits for those who need no third.
    pub async fn read_ahead(
        &self,
        body: Body,
        headers: &HeaderMap,
        bytes_max: usize,
    ) -> Result<Held, Unread> {
        self.read_in(&self.ahead, body, headers, bytes_max).await
    }

    async fn read_in(
        &self,
        room: &Arc<Semaphore>,
        body: Body,
        headers: &HeaderMap,
        bytes_max: usize,
    ) -> Result<Held, Unread> {
        let announced = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let announced = announced.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        let mut share = match announced {
            Some(bytes) if bytes <= bytes_max && bytes > 0 => {
                Some(self.wait(room, bytes).await.ok_or(Unread::Busy)?)
            }
            _ => None,
        };
        let mut kept =
            BytesMut::with_capacity(share.as_ref().map_or(0, |_| announced.unwrap_or(0)));
        let mut length = 0usize;
        let mut chunks = body.into_data_stream();
        let mut patience = Patience::new(self.idle_max, BYTES_PER_S_MIN);
        loop {
            let since = Instant::now();
            let chunk = match tokio::time::timeout(patience.left(), chunks.next()).await {
                Err(_) => return Err(Unread::Stalled(self.idle_max)),
                Ok(None) => break,
                Ok(Some(chunk)) => chunk.map_err(|error| Unread::BrokenOff(error.to_string()))?,
            };
            patience.waited(since.elapsed());
            patience.came(chunk.len());
            length = length.saturating_add(chunk.len());
            if length > bytes_max {
                // Read on for a while without keeping it: most clients send all before they read the answer.
                kept = BytesMut::new();
                share = None;
                if length > bytes_max.saturating_mul(DISCARDED_TIMES_MAX) {
                    break;
                }
                continue;
            }
            let reserved = share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            if length > reserved {
                // Waiting with a share in hand could be waiting for each other.
                let more = permits((length - reserved).max(STEP_BYTES));
                let more = Arc::clone(room)
                    .try_acquire_many_owned(more)
                    .map_err(|_| Unread::Busy)?;
                match &mut share {
                    Some(share) => share.merge(more),
                    None => share = Some(more),
                }
            }
            kept.extend_from_slice(&chunk);
        }
        if length > bytes_max {
            return Err(Unread::TooLarge);
        }
        Ok(Held {
            bytes: kept.freeze(),
            _share: share,
        })
    }

    /// Memory for the records of one append, before they are decoded.
    pub async fn records(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Failure> {
        // More than there is at all would be waited for in vain.
        let bytes = bytes.min(self.bytes_max);
        self.wait(&self.records, bytes).await.ok_or_else(busy)
    }

    /// A turn for one statement.
    pub async fn statement(&self) -> Result<OwnedSemaphorePermit, Failure> {
        self.wait(&self.statements, 1).await.ok_or_else(busy)
    }

    /// `None` if there is no room for too long.
    async fn wait(&self, room: &Arc<Semaphore>, wanted: usize) -> Option<OwnedSemaphorePermit> {
        let acquired = Arc::clone(room).acquire_many_owned(permits(wanted));
        bounded(self.wait_max, acquired).await?.ok()
    }
}

async fn bounded<T>(wait_max: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(wait_max, work).await.ok()
}

fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

pub fn busy() -> Failure {
    let message = "the server has as many requests in work as it takes at one time";
    Failure {
        owner: Owner::Ours,
        ..Failure::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message).with_retry()
    }
}

impl Unread {
    /// `too_large` says what the limit is and what to do.
    pub fn into_failure(self, too_large: impl FnOnce() -> Failure) -> Failure {
        match self {
            Unread::TooLarge => too_large(),
            Unread::BrokenOff(why) => {
                Failure::bad_request(format!("the body did not arrive whole: {why}")).with_retry()
            }
            Unread::Stalled(idle) => Failure::new(
                StatusCode::REQUEST_TIMEOUT,
                "stalled",
                format!(
                    "the body came too slowly: it was waited for {} s, and a second more for each {BYTES_PER_S_MIN} bytes",
                    idle.as_secs()
                ),
            )
            .with_retry(),
            Unread::Busy => busy(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 64 << 20;

    fn bounds() -> Bounds {
        Bounds::new(&Options {
            http_bodies_bytes_max: 0,
            append_bytes_max: 0,
            http_statements_max: 1,
            http_idle_max: Duration::from_millis(10),
            http_wait_max: Duration::from_millis(10),
            ..Options::default()
        })
    }

    fn announced(bytes: usize) -> HeaderMap {
        [(header::CONTENT_LENGTH, bytes.into())]
            .into_iter()
            .collect()
    }

    fn never() -> Body {
        Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>())
    }

    #[tokio::test]
    async fn a_body_holds_its_share_as_long_as_it_is_held() {
        let bounds = bounds();
        let free = bounds.bodies.available_permits();
        let held = bounds
            .read(Body::from("four"), &announced(4), LIMIT)
            .await
            .unwrap();
        assert_eq!(&held.bytes[..], b"four");
        assert_eq!(bounds.bodies.available_permits(), free - 4);
        drop(held);
        // Without a length it reserves in steps.
        let held = bounds
            .read(Body::from("four"), &HeaderMap::new(), LIMIT)
            .await
            .unwrap();
        assert_eq!(bounds.bodies.available_permits(), free - STEP_BYTES);
        drop(held);
        assert_eq!(bounds.bodies.available_permits(), free);
        let refused = bounds.read(Body::from("four"), &announced(4), 3).await;
        assert!(matches!(refused, Err(Unread::TooLarge)));
        assert_eq!(bounds.bodies.available_permits(), free);
    }

    #[tokio::test]
    async fn a_body_that_was_read_ahead_is_read_again() {
        let bounds = bounds();
        let free = bounds.ahead.available_permits();
        let headers = announced(4);
        let ahead = bounds.read_ahead(Body::from("four"), &headers, LIMIT).await;
        let body = ahead.unwrap().into_body();
        assert_eq!(bounds.ahead.available_permits(), free - 4);
        let read = bounds.read(body, &headers, LIMIT).await.unwrap();
        assert_eq!(&read.bytes[..], b"four");
        assert_eq!(bounds.ahead.available_permits(), free);
    }

    #[tokio::test]
    async fn where_there_is_no_room_a_body_waits_and_is_then_refused() {
        let bounds = bounds();
        let room = bounds.bodies.available_permits();
        let all = Arc::clone(&bounds.bodies)
            .try_acquire_many_owned(permits(room))
            .unwrap();
        let waiting = bounds.read(never(), &announced(4), LIMIT).await;
        assert!(matches!(waiting, Err(Unread::Busy)));
        // Nothing was announced, so there was nothing to wait for.
        let unannounced = bounds
            .read(Body::from("four"), &HeaderMap::new(), LIMIT)
            .await;
        assert!(matches!(unannounced, Err(Unread::Busy)));
        let headers = announced(4);
        let (read, ()) = tokio::join!(bounds.read(Body::from("four"), &headers, LIMIT), async {
            drop(all)
        });
        assert_eq!(&read.unwrap().bytes[..], b"four");
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_gives_its_share_back() {
        let bounds = bounds();
        let room = bounds.bodies.available_permits();
        let stalled = bounds.read(never(), &announced(4), LIMIT).await;
        assert!(matches!(stalled, Err(Unread::Stalled(_))));
        assert_eq!(bounds.bodies.available_permits(), room);
    }

    #[tokio::test]
    async fn a_body_that_only_trickles_gives_its_share_back() {
        let bounds = bounds();
        let room = bounds.bodies.available_permits();
        // No pause is as long as they may be in all.
        let parts = futures::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(4)).await;
            Some((Ok::<_, std::io::Error>("x"), ()))
        });
        let body = Body::from_stream(parts);
        let trickled = bounds.read(body, &announced(LIMIT), LIMIT).await;
        assert!(matches!(trickled, Err(Unread::Stalled(_))));
        assert_eq!(bounds.bodies.available_permits(), room);
    }

    #[tokio::test]
    async fn statements_take_turns() {
        let bounds = bounds();
        let first = bounds.statement().await.unwrap();
        let refused = bounds.statement().await.unwrap_err();
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(refused.retry);
        drop(first);
        assert!(bounds.statement().await.is_ok());
    }
}
