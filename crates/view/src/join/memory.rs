//! How much memory the indexes of all joins may hold.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Shared by all views of a server, as an extension of the session's settings.
#[derive(Debug)]
pub struct IndexMemory {
    bytes_max: usize,
    held: AtomicUsize,
}

impl IndexMemory {
    pub fn new(bytes_max: usize) -> IndexMemory {
        IndexMemory {
            bytes_max,
            held: AtomicUsize::new(0),
        }
    }

    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

impl Default for IndexMemory {
    fn default() -> IndexMemory {
        IndexMemory::new(256 << 20)
    }
}

/// Memory that is held until it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    memory: Arc<IndexMemory>,
    bytes: usize,
}

impl Held {
    pub fn none(memory: Arc<IndexMemory>) -> Held {
        Held { memory, bytes: 0 }
    }

    /// How much more it could hold at the moment.
    pub fn room(&self) -> usize {
        self.memory.bytes_max.saturating_sub(self.memory.held())
    }

    /// Holds `bytes` from now on; false, and nothing changes, if that is more than there may be.
    pub fn resize(&mut self, bytes: usize) -> bool {
        let (before, bytes_max) = (self.bytes, self.memory.bytes_max);
        let changed = |held: usize| {
            let held = held - before + bytes;
            (bytes <= before || held <= bytes_max).then_some(held)
        };
        let order = Ordering::Relaxed;
        let taken = self.memory.held.fetch_update(order, order, changed).is_ok();
        if taken {
            self.bytes = bytes;
        }
        taken
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_bounded_and_given_back() {
        let memory = Arc::new(IndexMemory::new(100));
        let mut a = Held::none(Arc::clone(&memory));
        let mut b = Held::none(Arc::clone(&memory));
        assert!(a.resize(60));
        assert!(!b.resize(41));
        assert!(b.resize(40));
        assert!(!a.resize(61));
        assert_eq!(a.room(), 0);
        assert!(a.resize(10));
        assert_eq!(memory.held(), 50);
        drop(a);
        assert_eq!(memory.held(), 40);
        drop(b);
        assert_eq!(memory.held(), 0);
    }
}
