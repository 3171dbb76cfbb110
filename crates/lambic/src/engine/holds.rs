//! What the log must keep for views that are being built and are not served yet.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lambic_model::{Frontier, Frontiers, StreamId};

#[derive(Debug, Default, Clone)]
pub struct Holds(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    next: u64,
    frontiers: HashMap<u64, Frontiers>,
}

/// The records from its frontiers on stay in the log until it is dropped.
#[derive(Debug)]
pub struct Hold {
    holds: Holds,
    number: u64,
}

impl Holds {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn take(&self, frontiers: Frontiers) -> Hold {
        let mut held = self.held();
        let number = held.next;
        held.next += 1;
        held.frontiers.insert(number, frontiers);
        Hold {
            holds: self.clone(),
            number,
        }
    }

    /// The earliest point of `stream` that is held, at most `from`.
    pub fn earliest(&self, stream: StreamId, from: Frontier) -> Frontier {
        let held = self.held();
        let holding = held.frontiers.values().filter_map(|f| f.0.get(&stream));
        holding.fold(from, |from, held| from.min(held))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.holds.held().frontiers.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use lambic_model::Offset;

    use super::*;

    #[test]
    fn the_log_keeps_what_is_held_until_it_is_let_go() {
        let at = |offset| Frontier(vec![Offset(offset)]);
        let holds = Holds::default();
        let mut frontiers = Frontiers::default();
        frontiers.set(StreamId(7), at(10));
        let hold = holds.take(frontiers);
        assert_eq!(holds.earliest(StreamId(7), at(50)), at(10));
        assert_eq!(holds.earliest(StreamId(7), at(5)), at(5));
        assert_eq!(holds.earliest(StreamId(8), at(50)), at(50));
        drop(hold);
        assert_eq!(holds.earliest(StreamId(7), at(50)), at(50));
    }
}
