//! A bounded amount of something, given out fairly: in the order of arrival within a line; of the lines, to the one that
//! has least, and in rotation where they have as much.
//!
//! The lines are functions; what is given out are turns, memory, starts. Nobody passes who came earlier in the same line,
//! and a line of thousands takes nothing from one that has less. Who is next waits until there is enough for them: a large
//! share is not passed for ever by small ones.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::oneshot;

/// Lines that are kept although they are empty.
const LINES_KEPT: usize = 64;

pub struct Fair(Mutex<State>);

struct State {
    limit: u64,
    /// May be over the limit for a while after that was lowered.
    used: u64,
    /// Those that have something or wait for it, and some others.
    lines: BTreeMap<Arc<str>, Line>,
    /// How many wait.
    waiting: usize,
    /// The line that was served last.
    last: Arc<str>,
}

#[derive(Default)]
struct Line {
    held: u64,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    amount: u64,
    give: oneshot::Sender<Share>,
}

/// An amount, given back when it is dropped.
#[must_use]
pub struct Share {
    /// `None`: it was given back.
    of: Option<Arc<Fair>>,
    line: Arc<str>,
    amount: u64,
}

/// A place in a line; given up when it is dropped.
#[must_use]
pub struct Place {
    fair: Arc<Fair>,
    line: Arc<str>,
    given: oneshot::Receiver<Share>,
    is_over: bool,
}

/// The one whose turn it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    pub line: Arc<str>,
    pub amount: u64,
    /// What its line has already.
    pub held: u64,
}

impl Fair {
    pub fn new(limit: u64) -> Arc<Fair> {
        Arc::new(Fair(Mutex::new(State {
            limit,
            used: 0,
            lines: BTreeMap::new(),
            waiting: 0,
            last: Arc::from(""),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic while it is held")
    }

    pub fn limit(&self) -> u64 {
        self.state().limit
    }

    pub fn used(&self) -> u64 {
        self.state().used
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.state().waiting
    }

    /// What a line has.
    pub fn held(&self, line: &str) -> u64 {
        self.state().lines.get(line).map_or(0, |line| line.held)
    }

    /// What was given stays given; from now on there is no more than `limit`.
    pub fn set_limit(self: &Arc<Self>, limit: u64) {
        self.state().limit = limit;
        self.give();
    }

    /// True if the next one who asks for `amount` would have it at once.
    pub fn is_free(&self, amount: u64) -> bool {
        self.state().is_free(amount)
    }

    /// What is free, if nobody waits for it.
    pub fn now(self: &Arc<Self>, line: &str, amount: u64) -> Option<Share> {
        let mut state = self.state();
        if !state.is_free(amount) {
            return None;
        }
        let line = state.line(line);
        state.hand_out(&line, amount);
        drop(state);
        Some(self.share(line, amount))
    }

    /// Stands in `line` from this moment on.
    pub fn line_up(self: &Arc<Self>, line: &str, amount: u64) -> Place {
        let (give, given) = oneshot::channel();
        let mut state = self.state();
        let line = state.line(line);
        let in_line = state.lines.entry(line.clone()).or_default();
        in_line.waiting.push_back(Waiting { amount, give });
        state.waiting += 1;
        drop(state);
        self.give();
        Place {
            fair: self.clone(),
            line,
            given,
            is_over: false,
        }
    }

    pub async fn next(self: &Arc<Self>, line: &str, amount: u64) -> Share {
        self.line_up(line, amount).given().await
    }

    /// What all who wait lack together.
    pub fn lacking(&self) -> u64 {
        let state = self.state();
        let waiting = state.lines.values().flat_map(|line| &line.waiting);
        let wanted: u64 = waiting.map(|waiting| waiting.amount).sum();
        match wanted {
            0 => 0,
            wanted => (state.used + wanted).saturating_sub(state.limit),
        }
    }

    /// Whose turn it is, if anybody waits.
    pub fn whose_turn(&self) -> Option<Next> {
        self.state().next()
    }

    /// Somebody of `line` was served by other means.
    pub fn set_last(&self, line: &str) {
        let mut state = self.state();
        state.last = state.line(line);
    }

    fn share(self: &Arc<Self>, line: Arc<str>, amount: u64) -> Share {
        Share {
            of: Some(self.clone()),
            line,
            amount,
        }
    }

    /// Gives out what there is.
    fn give(self: &Arc<Self>) {
        loop {
            let Some((line, waiting)) = self.state().take_next() else {
                return;
            };
            let share = self.share(line, waiting.amount);
            if let Err(mut share) = waiting.give.send(share) {
                // Whoever waited has gone. Not by its drop, which would come here again for each of them.
                share.of = None;
                self.state().take_back(&share.line, share.amount);
            }
        }
    }
}

impl State {
    /// Its name, once for all shares of it.
    fn line(&self, line: &str) -> Arc<str> {
        match self.lines.get_key_value(line) {
            Some((line, _)) => line.clone(),
            None => Arc::from(line),
        }
    }

    fn is_free(&self, amount: u64) -> bool {
        self.waiting == 0 && self.used + amount <= self.limit
    }

    fn hand_out(&mut self, line: &Arc<str>, amount: u64) {
        self.used += amount;
        self.lines.entry(line.clone()).or_default().held += amount;
    }

    fn take_back(&mut self, line: &str, amount: u64) {
        self.used -= amount;
        if let Some(of) = self.lines.get_mut(line) {
            of.held -= amount;
        }
        self.forget(line);
    }

    /// A line that has nothing and wants nothing, where there are many: those of busy functions come and go all the time.
    fn forget(&mut self, line: &str) {
        if self.lines.len() <= LINES_KEPT {
            return;
        }
        let is_over = |line: &Line| line.held == 0 && line.waiting.is_empty();
        if self.lines.get(line).is_some_and(is_over) {
            self.lines.remove(line);
        }
    }

    fn next(&self) -> Option<Next> {
        if self.waiting == 0 {
            return None;
        }
        let last: &str = &self.last;
        let behind_last = (Bound::Excluded(last), Bound::Unbounded);
        let up_to_last = (Bound::Unbounded, Bound::Included(last));
        let behind = self.lines.range::<str, _>(behind_last);
        let in_rotation = behind.chain(self.lines.range::<str, _>(up_to_last));
        let waiting = in_rotation.filter_map(|(line, of)| {
            Some(Next {
                line: line.clone(),
                amount: of.waiting.front()?.amount,
                held: of.held,
            })
        });
        // The first one of several.
        waiting.min_by_key(|next| next.held)
    }

    /// Takes the next one out of its line, with what it wants.
    fn take_next(&mut self) -> Option<(Arc<str>, Waiting)> {
        let next = self.next()?;
        if self.used + next.amount > self.limit {
            return None;
        }
        let waiting = self.lines.get_mut(&next.line)?.waiting.pop_front()?;
        self.waiting -= 1;
        self.hand_out(&next.line, next.amount);
        self.last = next.line.clone();
        Some((next.line, waiting))
    }
}

impl Share {
    pub fn amount(&self) -> u64 {
        self.amount
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(fair) = self.of.take() {
            fair.state().take_back(&self.line, self.amount);
            fair.give();
        }
    }
}

impl Place {
    /// Waits until there is enough. Cancelling it keeps the place.
    pub async fn given(&mut self) -> Share {
        let share = (&mut self.given).await;
        self.is_over = true;
        share.expect("places are given up by their owners only")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        self.given.close();
        // What came meanwhile goes back.
        drop(self.given.try_recv());
        {
            let mut state = self.fair.state();
            if let Some(of) = state.lines.get_mut(&self.line) {
                let before = of.waiting.len();
                of.waiting.retain(|waiting| !waiting.give.is_closed());
                let left = before - of.waiting.len();
                state.waiting -= left;
            }
            state.forget(&self.line);
        }
        // It may have been what the others waited for.
        self.fair.give();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of those who stand in lines, who has been given something by now.
    fn served(places: &mut Vec<(&'static str, Place)>) -> Vec<(&'static str, Share)> {
        let mut served = Vec::new();
        let mut left = Vec::new();
        for (name, mut place) in places.drain(..) {
            match place.given.try_recv() {
                Ok(share) => {
                    place.is_over = true;
                    served.push((name, share));
                }
                Err(_) => left.push((name, place)),
            }
        }
        *places = left;
        served
    }

    fn names<T>(of: &[(&'static str, T)]) -> Vec<&'static str> {
        of.iter().map(|(name, _)| *name).collect()
    }

    #[test]
    fn lines_take_turns_and_keep_their_order() {
        let fair = Fair::new(1);
        let first = fair.now("z", 1).unwrap();
        assert!(fair.now("z", 1).is_none());
        let mut places: Vec<_> = [
            ("a1", "a"),
            ("a2", "a"),
            ("a3", "a"),
            ("b1", "b"),
            ("c1", "c"),
        ]
        .map(|(name, line)| (name, fair.line_up(line, 1)))
        .into();
        assert!(served(&mut places).is_empty());
        let mut running = first;
        let mut order = Vec::new();
        while !places.is_empty() {
            drop(running);
            let mut one = served(&mut places);
            assert_eq!(one.len(), 1, "as many as there are");
            let (name, share) = one.remove(0);
            order.push(name);
            running = share;
        }
        assert_eq!(order, ["a1", "b1", "c1", "a2", "a3"]);
        drop(running);
        assert_eq!((fair.used(), fair.waiting()), (0, 0));
    }

    #[test]
    fn a_limit_holds_at_once_and_lets_nobody_pass() {
        let fair = Fair::new(3);
        let mut running: Vec<Share> = std::iter::from_fn(|| fair.now("z", 1)).collect();
        assert_eq!(running.len(), 3);
        let mut places = vec![
            ("first", fair.line_up("f", 1)),
            ("second", fair.line_up("f", 1)),
        ];
        fair.set_limit(1);
        for _ in 0..2 {
            running.pop();
            assert!(served(&mut places).is_empty(), "{} run", running.len());
        }
        running.pop();
        let one = served(&mut places);
        assert_eq!(names(&one), ["first"]);
        assert!(!fair.is_free(1));
        fair.set_limit(2);
        assert_eq!(names(&served(&mut places)), ["second"]);
        fair.set_limit(0);
        drop(one);
        assert!(fair.now("z", 1).is_none());
        assert_eq!(fair.used(), 0);
    }

    #[test]
    fn a_large_share_is_not_passed_by_small_ones() {
        let fair = Fair::new(10);
        let small = fair.now("z", 6).unwrap();
        let mut places = vec![
            ("large", fair.line_up("a", 8)),
            ("small", fair.line_up("b", 2)),
        ];
        assert!(served(&mut places).is_empty());
        assert!(fair.now("z", 1).is_none(), "others wait");
        assert_eq!(fair.lacking(), 6);
        drop(small);
        assert_eq!(names(&served(&mut places)), ["large", "small"]);
    }

    #[test]
    fn whoever_goes_away_leaves_nothing_behind() {
        let fair = Fair::new(2);
        let all = fair.now("z", 2).unwrap();
        let large = fair.line_up("a", 2);
        let gone = fair.line_up("a", 1);
        let mut places = vec![("stays", fair.line_up("a", 1))];
        drop(gone);
        assert_eq!(fair.waiting(), 2);
        drop(all);
        // It was given to `large`, which does not take it.
        drop(large);
        let one = served(&mut places);
        assert_eq!(names(&one), ["stays"]);
        assert_eq!(fair.used(), 1);
        // One that only stood in the way.
        let large = fair.line_up("b", 2);
        places.push(("small", fair.line_up("c", 1)));
        assert!(served(&mut places).is_empty());
        drop(large);
        assert_eq!(names(&served(&mut places)), ["small"]);
    }

    #[test]
    fn who_was_served_by_other_means_counts_as_served() {
        let fair = Fair::new(1);
        let _all = fair.now("z", 1).unwrap();
        let (_a, _b) = (fair.line_up("a", 1), fair.line_up("b", 1));
        let turn = || fair.whose_turn().unwrap().line;
        assert_eq!(&*turn(), "a");
        fair.set_last("a");
        assert_eq!(&*turn(), "b");
        fair.set_last("b");
        assert_eq!(&*turn(), "a");
    }

    #[test]
    fn lines_without_end_are_not_kept() {
        let fair = Fair::new(1);
        for number in 0..3 * LINES_KEPT {
            drop(fair.now(&number.to_string(), 1).unwrap());
            drop(fair.line_up(&number.to_string(), 1));
        }
        assert!(fair.state().lines.len() <= LINES_KEPT + 1);
        assert_eq!((fair.used(), fair.waiting()), (0, 0));
    }

    #[test]
    fn a_line_that_has_less_goes_first() {
        let fair = Fair::new(4);
        let mut many: Vec<Share> = std::iter::from_fn(|| fair.now("a", 1)).collect();
        let mut places: Vec<_> = [
            ("a1", "a"),
            ("a2", "a"),
            ("b1", "b"),
            ("b2", "b"),
            ("b3", "b"),
        ]
        .map(|(name, line)| (name, fair.line_up(line, 1)))
        .into();
        let mut order = Vec::new();
        let mut running = Vec::new();
        while many.pop().is_some() {
            let one = served(&mut places);
            order.extend(names(&one));
            running.extend(one);
        }
        assert_eq!(order, ["b1", "b2", "a1", "a2"]);
        assert_eq!((fair.held("a"), fair.held("b")), (2, 2));
    }
}
