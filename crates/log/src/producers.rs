//! Which sequences of each producer were acknowledged: bounded, and honest about what is no longer known.
//!
//! Sequences are kept as runs without gaps. A producer that counts 1, 2, 3, … is one run however long it
//! lives, so every repetition of it is recognised; a gap is a sequence that was refused or has yet to arrive,
//! and is taken when it comes. Only of producers that leave many gaps are the oldest runs forgotten.

use std::collections::{BTreeMap, HashMap};

use lambic_model::Producer;
use serde::{Deserialize, Serialize};

use crate::options::PRODUCERS_BYTES_MAX;

/// Runs kept of each producer.
const RUNS_MAX: usize = 64;

/// What an append's sequence is to its producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Never acknowledged.
    New,
    Duplicate,
    /// At or below this one it is not known any more.
    Forgotten(u64),
}

/// The acknowledged appends of one producer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Remembered {
    /// With the highest acknowledged sequence.
    pub producer: Producer,
    /// The commit of the last append.
    pub commit: u64,
    /// First and last of each run, ascending, never touching. Missing in the checkpoints of the first
    /// version, which kept the highest alone.
    #[serde(default)]
    runs: Vec<(u64, u64)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forgotten: Option<u64>,
}

impl Remembered {
    pub(crate) fn new(producer: Producer, commit: u64) -> Remembered {
        Remembered {
            runs: vec![(producer.sequence, producer.sequence)],
            producer,
            commit,
            forgotten: None,
        }
    }

    pub(crate) fn seen(&self, sequence: u64) -> Seen {
        let next = self.runs.partition_point(|&(first, _)| first <= sequence);
        if next > 0 && sequence <= self.runs[next - 1].1 {
            return Seen::Duplicate;
        }
        match self.forgotten {
            Some(forgotten) if sequence <= forgotten => Seen::Forgotten(forgotten),
            _ => Seen::New,
        }
    }

    pub(crate) fn add(&mut self, sequence: u64, commit: u64) {
        self.commit = commit;
        self.producer.sequence = self.producer.sequence.max(sequence);
        if self.seen(sequence) == Seen::Duplicate {
            return;
        }
        let next = self.runs.partition_point(|&(first, _)| first <= sequence);
        self.runs.insert(next, (sequence, sequence));
        for left in [next, next.saturating_sub(1)] {
            if let (Some(&(first, last)), Some(&(follows, end))) =
                (self.runs.get(left), self.runs.get(left + 1))
                && last.checked_add(1) == Some(follows)
            {
                self.runs[left] = (first, end);
                self.runs.remove(left + 1);
            }
        }
        if self.runs.len() > RUNS_MAX {
            // Not the one that was just added: its acknowledgement may get lost, and it be repeated at once.
            let oldest = usize::from(self.runs[0] == (sequence, sequence));
            let (_, last) = self.runs.remove(oldest);
            self.forgotten = self.forgotten.max(Some(last));
        }
    }

    /// About what it takes in a checkpoint, at most.
    fn bytes(&self) -> usize {
        // Names and punctuation with three numbers of 20 digits; two more for each run.
        2 * self.producer.id.len() + 128 + 43 * self.runs.len()
    }

    /// Of a checkpoint of the first version only the highest sequence is known.
    fn upgraded(mut self) -> Remembered {
        let highest = self.producer.sequence;
        if self.runs.is_empty() {
            self.runs.push((highest, highest));
            self.forgotten = highest.checked_sub(1);
        }
        self
    }
}

/// All producers, bounded in number and bytes; the least recently used leaves first.
#[derive(Debug, Default)]
pub(crate) struct Producers {
    max: usize,
    /// About what they take in a checkpoint.
    bytes: usize,
    by_id: HashMap<String, Remembered>,
    by_commit: BTreeMap<u64, String>,
}

impl Producers {
    pub(crate) fn new(max: usize) -> Producers {
        Producers {
            max,
            ..Producers::default()
        }
    }

    pub(crate) fn from_checkpoint(
        max: usize,
        oldest_first: impl IntoIterator<Item = Remembered>,
    ) -> Producers {
        let mut producers = Producers::new(max);
        for remembered in oldest_first {
            producers.keep(remembered.upgraded());
        }
        producers
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Remembered> {
        self.by_id.get(id)
    }

    pub(crate) fn remember(&mut self, producer: &Producer, commit: u64) {
        let remembered = match self.by_id.remove(&producer.id) {
            Some(mut known) => {
                self.by_commit.remove(&known.commit);
                self.bytes -= known.bytes();
                known.add(producer.sequence, commit);
                known
            }
            None => Remembered::new(producer.clone(), commit),
        };
        self.keep(remembered);
    }

    fn keep(&mut self, remembered: Remembered) {
        let id = remembered.producer.id.clone();
        self.bytes += remembered.bytes();
        self.by_commit.insert(remembered.commit, id.clone());
        self.by_id.insert(id, remembered);
        while self.by_id.len() > self.max || self.bytes > PRODUCERS_BYTES_MAX {
            let Some((_, oldest)) = self.by_commit.pop_first() else {
                break;
            };
            if let Some(forgotten) = self.by_id.remove(&oldest) {
                self.bytes -= forgotten.bytes();
            }
        }
    }

    pub(crate) fn oldest_first(&self) -> impl Iterator<Item = &Remembered> {
        self.by_commit.values().filter_map(|id| self.by_id.get(id))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn producer(sequence: u64) -> Producer {
        Producer {
            id: "p".to_owned(),
            sequence,
        }
    }

    proptest! {
        /// Nothing acknowledged is taken for new, and what is called a duplicate was acknowledged.
        #[test]
        fn nothing_is_taken_for_what_it_is_not(sequences in prop::collection::vec(0u64..400, 1..300)) {
            let mut remembered = Remembered::new(producer(sequences[0]), 1);
            let mut acknowledged = BTreeSet::from([sequences[0]]);
            for (sequence, commit) in sequences.into_iter().zip(1..) {
                match remembered.seen(sequence) {
                    Seen::New => prop_assert!(!acknowledged.contains(&sequence)),
                    Seen::Duplicate => prop_assert!(acknowledged.contains(&sequence)),
                    Seen::Forgotten(below) => {
                        prop_assert!(sequence <= below);
                        continue;
                    }
                }
                remembered.add(sequence, commit);
                acknowledged.insert(sequence);
                prop_assert!(remembered.runs.len() <= RUNS_MAX);
                let apart = |pair: &[(u64, u64)]| pair[0].1 + 1 < pair[1].0;
                prop_assert!(remembered.runs.windows(2).all(apart));
                prop_assert_eq!(remembered.seen(sequence), Seen::Duplicate);
            }
        }
    }

    #[test]
    fn without_gaps_nothing_is_forgotten() {
        let mut remembered = Remembered::new(producer(0), 1);
        for sequence in 1..10_000 {
            remembered.add(sequence, sequence);
        }
        assert_eq!(remembered.runs, [(0, 9_999)]);
        assert_eq!(remembered.seen(3), Seen::Duplicate);
        remembered.add(u64::MAX, 1);
        assert_eq!(remembered.seen(u64::MAX - 1), Seen::New);
    }

    #[test]
    fn many_gaps_are_forgotten_from_the_oldest_on() {
        let mut remembered = Remembered::new(producer(10), 1);
        for number in 1..=RUNS_MAX as u64 {
            remembered.add(10 + 2 * number, number);
        }
        assert_eq!(remembered.seen(9), Seen::Forgotten(10));
        assert_eq!(remembered.seen(10), Seen::Forgotten(10));
        assert_eq!(remembered.seen(11), Seen::New);
        assert_eq!(remembered.seen(12), Seen::Duplicate);
    }

    #[test]
    fn a_checkpoint_of_producers_is_bounded_by_bytes() {
        let mut producers = Producers::new(usize::MAX);
        let producer = |number: u64, sequence| Producer {
            id: format!("{number:0200}"),
            sequence,
        };
        for number in 0..30_000 {
            for gap in 0..8 {
                let sequence = u64::MAX - 2 * gap;
                producers.remember(&producer(number, sequence), 8 * number + gap);
            }
        }
        let encoded = |remembered| serde_json::to_vec(remembered).unwrap().len();
        let bytes: usize = producers.oldest_first().map(encoded).sum();
        assert!(bytes <= PRODUCERS_BYTES_MAX && bytes > PRODUCERS_BYTES_MAX / 4);
        assert_eq!(
            producers
                .oldest_first()
                .map(Remembered::bytes)
                .sum::<usize>(),
            producers.bytes
        );
        assert!(producers.get(&producer(29_999, 0).id).is_some());
        assert!(producers.get(&producer(0, 0).id).is_none());
    }

    #[test]
    fn a_checkpoint_of_the_first_version_knows_the_highest_alone() {
        let text = r#"{"producer":{"id":"p","sequence":7},"appended":{"writes":[{"stream":1,
            "ranges":[{"partition":0,"first":0,"end":1}],"records_known":0,"frontier":[1]}],
            "duplicate":false},"commit":9}"#;
        let producers = Producers::from_checkpoint(4, [serde_json::from_str(text).unwrap()]);
        let remembered = producers.get("p").unwrap();
        assert_eq!(remembered.seen(6), Seen::Forgotten(6));
        assert_eq!(remembered.seen(7), Seen::Duplicate);
        assert_eq!(remembered.seen(8), Seen::New);
        // What is written now comes back as it was.
        let text = serde_json::to_string(remembered).unwrap();
        let again = Producers::from_checkpoint(4, [serde_json::from_str(&text).unwrap()]);
        assert_eq!(again.get("p"), Some(remembered));
    }
}
