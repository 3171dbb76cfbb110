//! A few pieces of work on a few threads.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The results of `work` on each item, in their order. At most `threads` run at once, this one among them.
pub fn each<I, R>(threads: usize, items: I, work: impl Fn(I::Item) -> R + Sync) -> Vec<R>
where
    I: IntoIterator<IntoIter: ExactSizeIterator + Send>,
    R: Send,
{
    let items = items.into_iter();
    let threads = threads.min(items.len());
    if threads <= 1 {
        return items.map(work).collect();
    }
    let done = Mutex::new(Vec::with_capacity(items.len()));
    let left = Mutex::new(items.enumerate());
    let take = || lock(&left).next();
    let work_on = || {
        while let Some((index, item)) = take() {
            let result = work(item);
            lock(&done).push((index, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work_on);
        }
        work_on();
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items() {
        let items: Vec<u64> = (0..1000).collect();
        for threads in [0, 1, 2, 7, 2000] {
            let squares = each(threads, &items, |item| item * item);
            assert!(
                squares
                    .iter()
                    .zip(&items)
                    .all(|(square, item)| *square == item * item)
            );
            assert_eq!(squares.len(), items.len());
        }
        assert!(each(4, [0u8; 0], |_| ()).is_empty());
    }

    #[test]
    #[should_panic(expected = "a scoped thread panicked")]
    fn a_panic_is_not_lost() {
        // Two threads wait for one another, so that the one that panics is not always this one.
        let both = std::sync::Barrier::new(2);
        let here = std::thread::current().id();
        each(2, [0, 1], |_| {
            both.wait();
            assert_eq!(std::thread::current().id(), here);
        });
    }
}
