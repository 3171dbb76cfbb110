//! Which records were erased: offsets of a stream, and the number of the erasure that a reading knows of.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{OffsetRange, PartitionId, StreamId};

/// A set of offsets, kept as ranges: as many as there are gaps, whatever the number of records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OffsetSet(BTreeMap<PartitionId, BTreeMap<u64, u64>>);

impl OffsetSet {
    /// Adds `range`, which may touch or overlap what is there.
    pub fn add(&mut self, range: OffsetRange) {
        if range.is_empty() {
            return;
        }
        let ranges = self.0.entry(range.partition).or_default();
        let (mut first, mut end) = (range.first.0, range.end.0);
        if let Some((&before, &before_end)) = ranges.range(..=first).next_back()
            && before_end >= first
        {
            ranges.remove(&before);
            (first, end) = (before, end.max(before_end));
        }
        while let Some((&after, &after_end)) = ranges.range(first..).next()
            && after <= end
        {
            ranges.remove(&after);
            end = end.max(after_end);
        }
        ranges.insert(first, end);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// By partition, then by offset; disjoint, none touches the next.
    pub fn ranges(&self) -> impl Iterator<Item = OffsetRange> + '_ {
        self.0.iter().flat_map(|(&partition, ranges)| {
            ranges.iter().map(move |(&first, &end)| OffsetRange {
                partition,
                first: crate::Offset(first),
                end: crate::Offset(end),
            })
        })
    }

    /// How many ranges it takes to say it.
    pub fn ranges_count(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    pub fn records(&self) -> u64 {
        self.ranges().map(|range| range.records()).sum()
    }

    pub fn contains(&self, partition: PartitionId, offset: u64) -> bool {
        let ranges = self.0.get(&partition);
        ranges
            .and_then(|ranges| ranges.range(..=offset).next_back())
            .is_some_and(|(_, &end)| offset < end)
    }

    /// Its offsets within `range`, as ranges.
    pub fn within(&self, range: OffsetRange) -> impl Iterator<Item = OffsetRange> + '_ {
        let ranges = self.0.get(&range.partition).into_iter();
        ranges.flat_map(move |ranges| {
            let (first, end) = (range.first.0, range.end.0);
            // The one before may reach into it.
            let before = ranges.range(..first).next_back();
            let from = before.map_or(first, |(&before, _)| before);
            ranges
                .range(from..end.max(from))
                .map(move |(&one, &one_end)| OffsetRange {
                    partition: range.partition,
                    first: crate::Offset(one.max(first)),
                    end: crate::Offset(one_end.min(end)),
                })
                .filter(|part| !part.is_empty())
        })
    }

    pub fn count_within(&self, range: OffsetRange) -> u64 {
        self.within(range).map(|part| part.records()).sum()
    }
}

/// What was erased of one stream, as far as its records may still be found: left out of every read.
#[derive(Debug, Clone, Default)]
pub struct Erased {
    /// Of the newest erasure from the stream; 0 if there was none.
    pub number: u64,
    /// By ascending number, the erasures whose records are not all gone from the files yet. No two have an offset in
    /// common: what is erased is not found again.
    pub sets: Vec<(u64, Arc<OffsetSet>)>,
}

impl Erased {
    pub fn contains(&self, partition: PartitionId, offset: u64) -> bool {
        (self.sets.iter()).any(|(_, offsets)| offsets.contains(partition, offset))
    }

    /// The erased offsets within `range`, as ranges, in order of each erasure.
    pub fn within(&self, range: OffsetRange) -> impl Iterator<Item = OffsetRange> + '_ {
        let sets = self.sets.iter();
        sets.flat_map(move |(_, offsets)| offsets.within(range))
    }

    pub fn count_within(&self, range: OffsetRange) -> u64 {
        self.within(range).map(|part| part.records()).sum()
    }

    /// What erasures after erasure `number` took of `range`.
    pub fn count_within_since(&self, number: u64, range: OffsetRange) -> u64 {
        let newer = self.sets.iter().filter(|(of, _)| *of > number);
        newer.map(|(_, offsets)| offsets.count_within(range)).sum()
    }
}

/// By stream, the number of the newest erasure that a reading of it knew of; streams without any have none.
///
/// What was computed by two readings can be merged only if both knew of the same erasures.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasures(pub BTreeMap<StreamId, u64>);

impl Erasures {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn of(&self, stream: StreamId) -> u64 {
        self.0.get(&stream).copied().unwrap_or(0)
    }

    /// Those of `streams` alone.
    pub fn of_streams(&self, streams: impl IntoIterator<Item = StreamId>) -> Erasures {
        let each = streams.into_iter();
        Erasures(
            each.filter_map(|stream| Some((stream, *self.0.get(&stream)?)))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Offset;

    fn range(first: u64, end: u64) -> OffsetRange {
        OffsetRange {
            partition: PartitionId(1),
            first: Offset(first),
            end: Offset(end),
        }
    }

    #[test]
    fn ranges_in_any_order_become_one_where_they_touch() {
        let mut set = OffsetSet::default();
        for (first, end) in [(7, 9), (1, 2), (3, 3), (2, 4), (8, 12), (20, 21), (19, 20)] {
            set.add(range(first, end));
        }
        let ranges: Vec<_> = set.ranges().collect();
        assert_eq!(ranges, [range(1, 4), range(7, 12), range(19, 21)]);
        assert_eq!((set.records(), set.ranges_count()), (10, 3));
    }

    #[test]
    fn it_agrees_with_a_list_of_offsets() {
        let mut set = OffsetSet::default();
        let mut list = [false; 64];
        let mut seed = 7u64;
        for _ in 0..40 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
            let first = (seed >> 33) % 60;
            let end = first + (seed >> 40) % 4;
            set.add(range(first, end));
            (first..end).for_each(|offset| list[offset as usize] = true);
            for first in 0..64 {
                assert_eq!(set.contains(PartitionId(1), first), list[first as usize]);
                assert!(!set.contains(PartitionId(0), first));
                for end in first..64 {
                    let found = &list[first as usize..end as usize];
                    let count = found.iter().filter(|erased| **erased).count() as u64;
                    assert_eq!(set.count_within(range(first, end)), count);
                }
            }
        }
    }
}
