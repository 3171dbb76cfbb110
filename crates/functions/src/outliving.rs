//! Work that goes on when whoever waits for it has gone.
//!
//! As long as they wait, they do it themselves: a task of its own for each piece of work costs more than most of it.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::runtime::Handle;

/// Dropped before its end, it becomes a task.
pub struct Outliving<T: Send + 'static>(Option<Pin<Box<dyn Future<Output = T> + Send>>>);

impl<T: Send + 'static> Outliving<T> {
    pub fn new(work: impl Future<Output = T> + Send + 'static) -> Outliving<T> {
        Outliving(Some(Box::pin(work)))
    }
}

impl<T: Send + 'static> Future for Outliving<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let work = self.0.as_mut().expect("it is not polled after its end");
        let done = ready!(work.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(done)
    }
}

impl<T: Send + 'static> Drop for Outliving<T> {
    fn drop(&mut self) {
        // What has panicked cannot go on; without a runtime nothing can.
        if let Some(work) = self.0.take()
            && !std::thread::panicking()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn whoever_goes_away_does_not_take_it_along() {
        assert_eq!(Outliving::new(async { 7 }).await, 7);
        let (go_on, gone_on) = oneshot::channel::<()>();
        let (done, ended) = oneshot::channel();
        let work = Outliving::new(async move {
            let _ = gone_on.await;
            let _ = done.send(());
        });
        let waited = tokio::time::timeout(Duration::ZERO, work).await;
        assert!(waited.is_err());
        go_on.send(()).unwrap();
        ended.await.unwrap();
    }
}
