//! Whose turn it is: queued events by function, in a fair order.
//!
//! Pure. Attempts share a number of turns, given to the functions in rotation. A function of which nothing runs needs none
//! of them, so that no other function can keep it waiting, however long its attempts take. A function has a bound of
//! events in memory; what is behind them stays in the stream, from its own place on.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
};

/// Events of one function in memory. They are small: the payload stays in the log until an attempt needs it.
const EVENTS_MAX: usize = 1_000;

/// An event that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    pub offset: u64,
    /// When it was queued, microseconds since 1970.
    pub at_us: i64,
    pub request_id: String,
    /// With the version or alias, if one was asked for: `f:live`.
    pub function: String,
    /// Of the function, so far.
    pub attempts: u32,
    /// How often it had to wait for what is not the function's fault, also for the disk.
    pub waits: u32,
}

#[derive(Debug, Default)]
struct Line {
    /// In their order, those to try now.
    ready: VecDeque<Queued>,
    /// In memory: ready, running, or waiting for the next attempt.
    events: usize,
    running: usize,
    /// The function itself runs as many invocations as it may.
    is_full: bool,
    /// Its first event in the stream that found no room here.
    behind: Option<u64>,
}

pub struct Lines {
    lines: BTreeMap<String, Line>,
    running: usize,
    turns_max: usize,
    /// The function that had the last turn.
    last: String,
}

impl Lines {
    pub fn new(turns_max: usize) -> Lines {
        Lines {
            lines: BTreeMap::new(),
            running: 0,
            turns_max,
            last: String::new(),
        }
    }

    fn line(&mut self, function: &str) -> &mut Line {
        self.lines.entry(function.to_owned()).or_default()
    }

    /// Takes an event that was found in the stream. If there is no room, its function is behind from there on.
    pub fn take(&mut self, event: Queued) -> bool {
        let line = self.line(&event.function);
        if line.events >= EVENTS_MAX {
            line.behind = Some(event.offset);
            return false;
        }
        line.events += 1;
        line.ready.push_back(event);
        true
    }

    /// The next attempt to make, if there is a turn for it; it counts as running.
    pub fn next_event(&mut self) -> Option<Queued> {
        let is_free = self.running < self.turns_max;
        let may_run =
            |line: &Line| !line.ready.is_empty() && !line.is_full && (is_free || line.running == 0);
        let behind_last = (Bound::Excluded(self.last.as_str()), Bound::Unbounded);
        let (function, _) = self
            .lines
            .range::<str, _>(behind_last)
            .chain(&self.lines)
            .find(|(_, line)| may_run(line))?;
        self.last = function.clone();
        let line = self.lines.get_mut(&self.last)?;
        let event = line.ready.pop_front()?;
        line.running += 1;
        self.running += 1;
        Some(event)
    }

    /// The function has no turn of its own for it: nothing of it runs until [`Lines::set_free`].
    pub fn set_full(&mut self, event: Queued) {
        self.stop_running(&event.function);
        let line = self.line(&event.function);
        line.is_full = true;
        line.ready.push_front(event);
    }

    /// An event that became too old while its function was full, if there is a turn for its end; it counts as running.
    /// `oldest_us`: what was queued before that is too old.
    pub fn next_too_old(&mut self, oldest_us: impl Fn(&str) -> i64) -> Option<Queued> {
        let is_free = self.running < self.turns_max;
        for (function, line) in &mut self.lines {
            let has_turn = is_free || line.running == 0;
            if !line.is_full || !has_turn {
                continue;
            }
            let oldest_us = oldest_us(function);
            let at = line.ready.iter().position(|event| event.at_us < oldest_us);
            if let Some(event) = at.and_then(|at| line.ready.remove(at)) {
                line.running += 1;
                self.running += 1;
                return Some(event);
            }
        }
        None
    }

    /// Some function runs as much as it may.
    pub fn has_full(&self) -> bool {
        self.lines.values().any(|line| line.is_full)
    }

    pub fn set_free(&mut self, function: &str) {
        if let Some(line) = self.lines.get_mut(function) {
            line.is_full = false;
        }
    }

    /// An attempt is over; its event is still in memory.
    pub fn stop_running(&mut self, function: &str) {
        if let Some(line) = self.lines.get_mut(function) {
            line.running -= 1;
            self.running -= 1;
        }
    }

    /// An event that waited is to be tried again.
    pub fn try_again(&mut self, event: Queued) {
        self.line(&event.function).ready.push_back(event);
    }

    /// An event is over.
    pub fn end(&mut self, function: &str) {
        if let Some(line) = self.lines.get_mut(function) {
            line.events -= 1;
            if line.events == 0 && line.behind.is_none() {
                self.lines.remove(function);
            }
        }
    }

    pub fn is_behind(&self, function: &str) -> bool {
        let line = self.lines.get(function);
        line.is_some_and(|line| line.behind.is_some())
    }

    /// Where the stream has been looked through for a function that was behind.
    pub fn set_behind(&mut self, function: &str, behind: Option<u64>) {
        let line = self.line(function);
        line.behind = behind;
        if line.events == 0 && behind.is_none() {
            self.lines.remove(function);
        }
    }

    /// The function that is furthest behind of those with room for many events, and from where on.
    pub fn furthest_behind(&self) -> Option<(&str, u64)> {
        let with_room = self
            .lines
            .iter()
            .filter(|(_, line)| line.events <= EVENTS_MAX / 2);
        with_room
            .filter_map(|(function, line)| Some((function.as_str(), line.behind?)))
            .min_by_key(|&(_, behind)| behind)
    }

    /// The oldest event that is not in memory, of those that were passed.
    pub fn oldest_behind(&self) -> Option<u64> {
        self.lines.values().filter_map(|line| line.behind).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(function: &str, offset: u64) -> Queued {
        Queued {
            offset,
            at_us: 0,
            request_id: String::new(),
            function: function.to_owned(),
            attempts: 0,
            waits: 0,
        }
    }

    fn turns(lines: &mut Lines) -> Vec<(String, u64)> {
        std::iter::from_fn(|| {
            lines
                .next_event()
                .map(|event| (event.function, event.offset))
        })
        .collect()
    }

    fn named(turns: &[(&str, u64)]) -> Vec<(String, u64)> {
        turns
            .iter()
            .map(|&(name, offset)| (name.to_owned(), offset))
            .collect()
    }

    #[test]
    fn turns_go_around_and_a_function_of_which_nothing_runs_needs_none() {
        let mut lines = Lines::new(3);
        for offset in 0..4 {
            assert!(lines.take(event("a", offset)));
        }
        assert!(lines.take(event("b", 4)));
        assert_eq!(turns(&mut lines), named(&[("a", 0), ("b", 4), ("a", 1)]));
        assert!(lines.take(event("c", 5)));
        assert!(lines.take(event("b", 6)));
        assert_eq!(turns(&mut lines), named(&[("c", 5)]), "all turns are taken");
        lines.stop_running("a");
        assert!(turns(&mut lines).is_empty());
        lines.stop_running("a");
        assert_eq!(turns(&mut lines), named(&[("a", 2)]), "nothing of it ran");
        lines.stop_running("b");
        assert_eq!(turns(&mut lines), named(&[("b", 6)]));
    }

    #[test]
    fn a_function_that_is_full_lets_others_pass_and_keeps_its_order() {
        let mut lines = Lines::new(8);
        for (function, offset) in [("a", 0), ("a", 1), ("b", 2)] {
            lines.take(event(function, offset));
        }
        let first = lines.next_event().unwrap();
        lines.set_full(first);
        assert_eq!(turns(&mut lines), named(&[("b", 2)]));
        lines.set_free("a");
        assert_eq!(turns(&mut lines), named(&[("a", 0), ("a", 1)]));
    }

    #[test]
    fn events_of_a_full_function_end_when_they_are_too_old() {
        let mut lines = Lines::new(1);
        let at = |function: &str, offset: u64, at_us: i64| Queued {
            at_us,
            ..event(function, offset)
        };
        for event in [
            at("a", 0, 30),
            at("a", 1, 10),
            at("a", 2, 40),
            at("b", 3, 5),
        ] {
            lines.take(event);
        }
        assert_eq!(lines.next_too_old(|_| 100), None, "nothing is full");
        let first = lines.next_event().unwrap();
        lines.set_full(first);
        assert!(lines.has_full());
        let too_old = |lines: &mut Lines| {
            let event = lines.next_too_old(|function| if function == "a" { 35 } else { 0 });
            event.map(|event| event.offset)
        };
        assert_eq!(too_old(&mut lines), Some(0));
        assert_eq!(too_old(&mut lines), None, "the turn is taken");
        lines.stop_running("a");
        assert_eq!(too_old(&mut lines), Some(1));
        lines.stop_running("a");
        assert_eq!(too_old(&mut lines), None);
        assert_eq!(turns(&mut lines), named(&[("b", 3)]));
    }

    #[test]
    fn what_finds_no_room_stays_in_the_stream() {
        let mut lines = Lines::new(1);
        let max = EVENTS_MAX as u64;
        for offset in 0..max {
            assert!(lines.take(event("a", offset)));
        }
        assert!(!lines.take(event("a", max + 7)));
        assert!(lines.is_behind("a") && !lines.is_behind("b"));
        assert!(lines.take(event("b", max + 8)));
        assert_eq!(lines.oldest_behind(), Some(max + 7));
        assert_eq!(lines.furthest_behind(), None, "it has no room");
        for _ in 0..max {
            let event = lines.next_event().unwrap();
            lines.stop_running(&event.function);
            lines.end(&event.function);
        }
        assert_eq!(lines.furthest_behind(), Some(("a", max + 7)));
        lines.set_behind("a", None);
        while let Some(event) = lines.next_event() {
            lines.stop_running(&event.function);
            lines.end(&event.function);
        }
        assert!(lines.lines.is_empty());
        assert_eq!(lines.running, 0);
    }
}
