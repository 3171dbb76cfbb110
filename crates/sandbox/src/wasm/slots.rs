//! How many instances may be alive at one time: who comes later waits, instead of failing.
//!
//! Handlers and SQL functions have slots of their own, so that neither takes what the other needs. A component
//! takes one slot for each memory that it has, since memories are what the pool has fewest of.

use std::sync::{Arc, Condvar, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Clones share them.
#[derive(Clone)]
pub struct Slots {
    handlers: Arc<Semaphore>,
    scalars: Arc<Scalars>,
}

struct Scalars {
    free: Mutex<Free>,
    given_back: Condvar,
}

struct Free {
    slots: u32,
    waiting: u32,
}

/// Slots of a SQL function, given back on drop.
pub struct ScalarSlots<'a> {
    scalars: &'a Scalars,
    count: u32,
}

impl Slots {
    pub fn new(handlers: u32, scalars: u32) -> Slots {
        Slots {
            handlers: Arc::new(Semaphore::new(handlers as usize)),
            scalars: Arc::new(Scalars {
                free: Mutex::new(Free {
                    slots: scalars,
                    waiting: 0,
                }),
                given_back: Condvar::new(),
            }),
        }
    }

    /// For a handler; the caller must see to it that `count` is not more than there are.
    pub async fn for_handler(&self, count: u32) -> OwnedSemaphorePermit {
        let slots = self.handlers.clone().acquire_many_owned(count).await;
        slots.expect("it is never closed")
    }

    /// For one row of a SQL function, or one batch of rows, whose callers are threads that may wait; `count` as above.
    pub fn for_scalar(&self, count: u32) -> ScalarSlots<'_> {
        let scalars = &*self.scalars;
        let mut free = scalars.free.lock().expect("no panic while it is held");
        free.waiting += 1;
        let mut free = scalars
            .given_back
            .wait_while(free, |free| free.slots < count)
            .expect("no panic while it is held");
        free.waiting -= 1;
        free.slots -= count;
        ScalarSlots { scalars, count }
    }
}

impl Drop for ScalarSlots<'_> {
    fn drop(&mut self) {
        let scalars = self.scalars;
        let mut free = scalars.free.lock().expect("no panic while it is held");
        free.slots += self.count;
        // Only if needed, since it is a system call for each row. All, since the first may need more than there is.
        if free.waiting > 0 {
            scalars.given_back.notify_all();
        }
    }
}
