//! Where a request runs: begun on the thread that asks for it, where most end before anybody could notice, and moved
//! to a thread of its own if it takes longer.
//!
//! To hand work over to another thread and wait for it costs more than many a handler does. But code yields at each tick
//! only, and ten milliseconds are long for whoever else waits on a thread of the runtime: a component that took long
//! has its next requests on threads of their own from the beginning, and so has one that nobody knows yet.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

/// What others may have to wait, more or less.
const QUICK: Duration = Duration::from_millis(1);
/// Requests that go to threads of their own after one that took long.
const APART: u32 = 64;
/// The first ones of a component.
const FIRST: u32 = 4;

pub type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Of a component, in all its instances.
#[derive(Debug)]
pub struct Pace {
    /// Requests that still go to threads of their own.
    apart: AtomicU32,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            apart: AtomicU32::new(FIRST),
        }
    }
}

impl Pace {
    /// Whether the next request may begin on the thread that asks.
    pub fn is_quick(&self) -> bool {
        // Of two at one time both may count as one, which is as good.
        match self.apart.load(Ordering::Relaxed) {
            0 => true,
            left => {
                self.apart.store(left - 1, Ordering::Relaxed);
                false
            }
        }
    }

    pub fn was_slow(&self) {
        self.apart.store(APART, Ordering::Relaxed);
    }
}

/// Work on a thread of its own: told of as slow, if it would have kept the one that asks.
pub struct Timed<T> {
    work: Work<T>,
    pace: Arc<Pace>,
}

impl<T> Timed<T> {
    pub fn new(work: Work<T>, pace: Arc<Pace>) -> Timed<T> {
        Timed { work, pace }
    }
}

impl<T> Future for Timed<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let start = Instant::now();
        let polled = self.work.as_mut().poll(cx);
        if start.elapsed() > QUICK {
            self.pace.was_slow();
        }
        polled
    }
}

/// Work on the thread that asks, as long as it does not keep it.
pub struct OnTheSpot<T> {
    work: Option<Work<T>>,
}

pub enum Ended<T> {
    /// True: it kept the thread for long.
    Done(T, bool),
    /// It is to go on elsewhere.
    Slow(Work<T>),
    Panicked(Box<dyn Any + Send>),
}

/// What a panic says.
pub fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words")
}

impl<T> OnTheSpot<T> {
    pub fn new(work: Work<T>) -> OnTheSpot<T> {
        OnTheSpot { work: Some(work) }
    }
}

impl<T> Future for OnTheSpot<T> {
    type Output = Ended<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended<T>> {
        let mut work = self.work.take().expect("it is not polled after its end");
        let start = Instant::now();
        // As on a thread of its own: whoever waits for it is told, and goes on.
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx)));
        let is_slow = start.elapsed() > QUICK;
        match polled {
            Err(panic) => Poll::Ready(Ended::Panicked(panic)),
            Ok(Poll::Ready(done)) => Poll::Ready(Ended::Done(done, is_slow)),
            Ok(Poll::Pending) if is_slow => Poll::Ready(Ended::Slow(work)),
            Ok(Poll::Pending) => {
                self.work = Some(work);
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_slow_is_tried_again_later() {
        let pace = Pace::default();
        for _ in 0..FIRST {
            assert!(!pace.is_quick(), "nobody knows it");
        }
        assert!(pace.is_quick() && pace.is_quick());
        pace.was_slow();
        for _ in 0..APART {
            assert!(!pace.is_quick());
        }
        assert!(pace.is_quick());
    }

    /// Keeps its thread at each of its turns, and needs two.
    fn busy(time: Duration) -> Work<&'static str> {
        Box::pin(async move {
            let start = Instant::now();
            while start.elapsed() < time {
                std::hint::spin_loop();
            }
            tokio::task::yield_now().await;
            "done"
        })
    }

    #[tokio::test]
    async fn what_is_slow_apart_stays_there() {
        let pace = Arc::new(Pace::default());
        for _ in 0..2 * FIRST {
            assert!(!pace.is_quick());
            Timed::new(busy(2 * QUICK), pace.clone()).await;
        }
    }

    #[tokio::test]
    async fn what_keeps_the_thread_goes_on_elsewhere() {
        let quick = OnTheSpot::new(Box::pin(async { "done" }) as Work<_>);
        assert!(matches!(quick.await, Ended::Done("done", _)));
        let Ended::Slow(rest) = OnTheSpot::new(busy(2 * QUICK)).await else {
            panic!("it kept the thread")
        };
        assert_eq!(tokio::spawn(rest).await.unwrap(), "done");
        let panics: Work<()> = Box::pin(async { panic!("a panic for a test") });
        assert!(matches!(OnTheSpot::new(panics).await, Ended::Panicked(_)));
    }
}
