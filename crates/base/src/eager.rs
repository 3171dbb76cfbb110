//! A future that is polled again at once when it has woken itself.
//!
//! A scheduler of several threads takes a task that wakes itself while it runs for one that yields: it goes to the end of
//! the queue, and another thread is woken to take it. hyper does that for each body that it hands to a service (from 1.12
//! on), and to wake a thread costs more than to answer most requests.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::task::AtomicWaker;

/// Polls one after the other; then it yields as any other: what is always ready must not keep the thread.
const POLLS_MAX: usize = 4;

const POLLED: u8 = 1;
const WOKEN: u8 = 2;

pub struct Eager<F> {
    future: Pin<Box<F>>,
    state: Arc<State>,
    waker: Waker,
}

#[derive(Default)]
struct State {
    flags: AtomicU8,
    task: AtomicWaker,
}

impl Wake for State {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // While it is polled, whoever polls it looks.
        if self.flags.fetch_or(WOKEN, Ordering::AcqRel) & POLLED == 0 {
            self.task.wake();
        }
    }
}

impl<F: Future> Eager<F> {
    pub fn new(future: F) -> Eager<F> {
        let state = Arc::new(State::default());
        Eager {
            future: Box::pin(future),
            waker: state.clone().into(),
            state,
        }
    }
}

impl<F: Future> Future for Eager<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        this.state.task.register(context.waker());
        let mut own = Context::from_waker(&this.waker);
        for _ in 0..POLLS_MAX {
            this.state.flags.store(POLLED, Ordering::Release);
            if let Poll::Ready(output) = this.future.as_mut().poll(&mut own) {
                return Poll::Ready(output);
            }
            if this.state.flags.swap(0, Ordering::AcqRel) & WOKEN == 0 {
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin, sync::atomic::AtomicUsize};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Count {
        fn wakes(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn what_wakes_itself_goes_on_and_yields_in_the_end() {
        let count = Arc::new(Count::default());
        let waker = count.clone().into();
        let mut context = Context::from_waker(&waker);
        let after = |polls: usize| {
            let mut left = polls;
            poll_fn(move |context: &mut Context<'_>| {
                if left == 0 {
                    return Poll::Ready(());
                }
                left -= 1;
                context.waker().wake_by_ref();
                Poll::Pending
            })
        };
        let mut short = pin!(Eager::new(after(POLLS_MAX - 1)));
        assert!(short.as_mut().poll(&mut context).is_ready());
        assert_eq!(count.wakes(), 0);
        let mut long = pin!(Eager::new(after(POLLS_MAX)));
        assert!(long.as_mut().poll(&mut context).is_pending());
        assert_eq!(count.wakes(), 1, "nobody else would poll it again");
        assert!(long.as_mut().poll(&mut context).is_ready());
    }

    #[test]
    fn what_others_wake_is_polled_again_by_its_task() {
        let count = Arc::new(Count::default());
        let waker = count.clone().into();
        let mut context = Context::from_waker(&waker);
        let (say, said) = tokio::sync::oneshot::channel();
        let mut waits = pin!(Eager::new(said));
        assert!(waits.as_mut().poll(&mut context).is_pending());
        assert_eq!(count.wakes(), 0);
        say.send(7).unwrap();
        assert_eq!(count.wakes(), 1);
        assert_eq!(waits.as_mut().poll(&mut context), Poll::Ready(Ok(7)));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_is_lost_between_threads() {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
        let sends = tokio::spawn(async move {
            for number in 0..20_000 {
                sender.send(number).await.unwrap();
            }
        });
        let receives = tokio::spawn(Eager::new(async move {
            let mut sum = 0_u64;
            while let Some(number) = receiver.recv().await {
                sum += number;
            }
            sum
        }));
        sends.await.unwrap();
        assert_eq!(receives.await.unwrap(), 20_000 * 19_999 / 2);
    }
}
