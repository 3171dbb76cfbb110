//! Tells how far a start is while functions are made ready.
//!
//! Compiled components are kept, but a server that was restored from a backup, or whose engine is a newer one, compiles all
//! of them once. That may take minutes, in which it looks dead to whoever waits. A start that is short says nothing.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};

/// Before the first word.
const FIRST: Duration = Duration::from_secs(2);
const EVERY: Duration = Duration::from_secs(5);

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loading {
    Working {
        /// Functions that are ready, of those that there are.
        ready: usize,
        of: usize,
        /// The one that is worked on.
        function: String,
        /// It is a component, and most likely compiled.
        is_component: bool,
    },
    /// Said only if something was said before.
    Done { of: usize, took: Duration },
}

/// Shows it; must not wait.
pub type TellLoading = Arc<dyn Fn(Loading) + Send + Sync>;

pub struct Teller {
    /// `None`: nobody wants to know.
    tell: Option<TellLoading>,
    of: usize,
    began: Instant,
    next: Instant,
    every: Duration,
    has_told: bool,
}

impl Teller {
    pub fn new(tell: Option<TellLoading>, of: usize) -> Teller {
        Teller::with_times(tell, of, FIRST, EVERY)
    }

    fn with_times(
        tell: Option<TellLoading>,
        of: usize,
        first: Duration,
        every: Duration,
    ) -> Teller {
        let began = Instant::now();
        Teller {
            tell,
            of,
            began,
            next: began + first,
            every,
            has_told: false,
        }
    }

    /// Does `work` on a function, and tells of it when it is time.
    pub async fn during<T>(
        &mut self,
        ready: usize,
        function: &str,
        is_component: bool,
        work: impl Future<Output = T>,
    ) -> T {
        let Some(tell) = self.tell.clone() else {
            return work.await;
        };
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = sleep_until(self.next) => {
                    self.next = Instant::now() + self.every;
                    self.has_told = true;
                    tell(Loading::Working {
                        ready,
                        of: self.of,
                        function: function.to_owned(),
                        is_component,
                    });
                }
            }
        }
    }

    pub fn done(self) {
        if let Some(tell) = self.tell.filter(|_| self.has_told) {
            tell(Loading::Done {
                of: self.of,
                took: self.began.elapsed(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn long_work_is_told_and_short_work_is_not() {
        let (told, heard) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
        let tell: TellLoading = {
            let (told, heard) = (told.clone(), heard.clone());
            Arc::new(move |loading| {
                told.lock().unwrap().push(loading);
                heard.notify_one();
            })
        };
        let hour = Duration::from_secs(3_600);
        let mut teller = Teller::with_times(Some(tell.clone()), 3, hour, hour);
        assert_eq!(teller.during(0, "f", false, async { 7 }).await, 7);
        teller.done();
        assert!(told.lock().unwrap().is_empty());

        let mut teller = Teller::with_times(Some(tell), 3, Duration::ZERO, hour);
        // It goes on until it was told of.
        teller.during(1, "slow", true, heard.notified()).await;
        teller.done();
        let told = told.lock().unwrap();
        let working = Loading::Working {
            ready: 1,
            of: 3,
            function: "slow".to_owned(),
            is_component: true,
        };
        assert_eq!(told[0], working);
        assert!(matches!(told[1], Loading::Done { of: 3, .. }), "{told:?}");
    }

    #[tokio::test]
    async fn nobody_has_to_listen() {
        let mut teller = Teller::with_times(None, 1, Duration::ZERO, Duration::ZERO);
        assert_eq!(teller.during(0, "f", false, async { 7 }).await, 7);
        teller.done();
    }
}
