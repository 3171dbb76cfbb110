//! Where a record stands: partition, offset, and the frontiers at which batch and speed meet.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::StreamId;

/// A partition of a stream, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionId(pub u32);

/// The place of a record within its partition, counted from 0 without gaps. A record that was erased leaves its
/// place empty for ever.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Offset(pub u64);

impl Offset {
    pub const ZERO: Offset = Offset(0);

    pub fn plus(self, records: u64) -> Offset {
        Offset(self.0 + records)
    }

    /// Records between `earlier` and here; 0 if `earlier` is not earlier.
    pub fn since(self, earlier: Offset) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The records `first..end` of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OffsetRange {
    pub partition: PartitionId,
    pub first: Offset,
    /// Exclusive.
    pub end: Offset,
}

impl OffsetRange {
    pub fn records(&self) -> u64 {
        self.end.since(self.first)
    }

    pub fn is_empty(&self) -> bool {
        self.records() == 0
    }
}

/// For every partition of one stream, the first offset that is *not* covered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frontier(pub Vec<Offset>);

impl Frontier {
    pub fn zero(partitions: u32) -> Frontier {
        Frontier(vec![Offset::ZERO; partitions as usize])
    }

    pub fn offset(&self, partition: PartitionId) -> Offset {
        self.0
            .get(partition.0 as usize)
            .copied()
            .unwrap_or_default()
    }

    pub fn set(&mut self, partition: PartitionId, offset: Offset) {
        let index = partition.0 as usize;
        if self.0.len() <= index {
            self.0.resize(index + 1, Offset::ZERO);
        }
        self.0[index] = offset;
    }

    /// Records between `earlier` and this frontier, summed over partitions.
    pub fn since(&self, earlier: &Frontier) -> u64 {
        self.ranges_since(earlier)
            .map(|range| range.records())
            .sum()
    }

    /// The non-empty ranges that lead from `earlier` to this frontier.
    pub fn ranges_since<'a>(
        &'a self,
        earlier: &'a Frontier,
    ) -> impl Iterator<Item = OffsetRange> + 'a {
        (0u32..).zip(&self.0).filter_map(|(partition, &end)| {
            let partition = PartitionId(partition);
            let range = OffsetRange {
                partition,
                first: earlier.offset(partition),
                end,
            };
            (!range.is_empty()).then_some(range)
        })
    }

    /// True if every partition of `self` is at or past that of `other`.
    pub fn covers(&self, other: &Frontier) -> bool {
        let partitions = self.0.len().max(other.0.len()) as u32;
        (0..partitions)
            .map(PartitionId)
            .all(|p| self.offset(p) >= other.offset(p))
    }

    /// The earlier of both, partition by partition.
    pub fn min(&self, other: &Frontier) -> Frontier {
        let partitions = self.0.len().max(other.0.len()) as u32;
        Frontier(
            (0..partitions)
                .map(PartitionId)
                .map(|p| self.offset(p).min(other.offset(p)))
                .collect(),
        )
    }

    /// The later of both, partition by partition.
    pub fn max(&self, other: &Frontier) -> Frontier {
        let partitions = self.0.len().max(other.0.len()) as u32;
        let later = |p| self.offset(p).max(other.offset(p));
        Frontier((0..partitions).map(PartitionId).map(later).collect())
    }

    pub fn records(&self) -> u64 {
        self.0.iter().map(|offset| offset.0).sum()
    }
}

/// `0:1200,1:1187`: partition and offset, the form shown to people.
impl fmt::Display for Frontier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (partition, offset) in self.0.iter().enumerate() {
            let comma = if partition == 0 { "" } else { "," };
            write!(f, "{comma}{partition}:{offset}")?;
        }
        Ok(())
    }
}

/// A frontier for every stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frontiers(pub BTreeMap<StreamId, Frontier>);

impl Frontiers {
    pub fn of(&self, stream: StreamId) -> Frontier {
        self.0.get(&stream).cloned().unwrap_or_default()
    }

    pub fn set(&mut self, stream: StreamId, frontier: Frontier) {
        self.0.insert(stream, frontier);
    }

    pub fn covers(&self, other: &Frontiers) -> bool {
        other
            .0
            .iter()
            .all(|(stream, frontier)| self.of(*stream).covers(frontier))
    }

    pub fn since(&self, earlier: &Frontiers) -> u64 {
        self.0
            .iter()
            .map(|(stream, frontier)| frontier.since(&earlier.of(*stream)))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frontier(offsets: &[u64]) -> Frontier {
        Frontier(offsets.iter().copied().map(Offset).collect())
    }

    #[test]
    fn a_partition_that_is_missing_counts_as_zero() {
        assert!(frontier(&[1]).covers(&frontier(&[1, 0])));
        assert!(!frontier(&[1]).covers(&frontier(&[1, 1])));
        assert_eq!(frontier(&[3, 5]).min(&frontier(&[4])), frontier(&[3, 0]));
    }

    #[test]
    fn ranges_lead_from_one_frontier_to_the_next() {
        let ranges: Vec<_> = frontier(&[5, 2, 9])
            .ranges_since(&frontier(&[1, 2]))
            .collect();
        assert_eq!(
            ranges,
            [
                OffsetRange {
                    partition: PartitionId(0),
                    first: Offset(1),
                    end: Offset(5)
                },
                OffsetRange {
                    partition: PartitionId(2),
                    first: Offset(0),
                    end: Offset(9)
                },
            ]
        );
        assert_eq!(frontier(&[5, 2, 9]).since(&frontier(&[1, 2])), 13);
        assert_eq!(frontier(&[5, 2]).to_string(), "0:5,1:2");
    }
}
