//! Where a long batch is cut into slices.
//!
//! Pure. A cut is a frontier: one partition of one stream after the other is gone through, and a slice ends where it has
//! enough records, if it can be at the end of a file.

use lambic_model::{Frontiers, Offset, OffsetRange, StreamId};

/// The ends of the slices of about `records` records that lead from `from` to `to`; the last one is `to`. `files` are
/// those of the streams, in any order. None if there are no records between.
pub fn ends(
    files: &[(StreamId, OffsetRange)],
    from: &Frontiers,
    to: &Frontiers,
    records: u64,
) -> Vec<Frontiers> {
    let records = records.max(1);
    let mut files: Vec<_> = files.to_vec();
    files.sort_unstable();
    let (mut ends, mut at, mut taken) = (Vec::new(), from.clone(), 0);
    for (stream, range) in files {
        let end = range.end.min(to.of(stream).offset(range.partition));
        let mut first = range.first.max(from.of(stream).offset(range.partition));
        while first < end {
            let left = end.since(first);
            let wanted = records - taken;
            // What is left of a file is not worth a slice of its own.
            let take = if left <= wanted.saturating_add(records / 2) {
                left
            } else {
                wanted
            };
            first = first.plus(take);
            taken += take;
            advance(&mut at, stream, range, first);
            if taken >= records {
                ends.push(at.clone());
                taken = 0;
            }
        }
    }
    let last_is_short = taken == 0 || taken < records / 2;
    match ends.last_mut() {
        Some(last) if last_is_short => *last = to.clone(),
        None if taken == 0 => {}
        _ => ends.push(to.clone()),
    }
    ends
}

fn advance(at: &mut Frontiers, stream: StreamId, range: OffsetRange, to: Offset) {
    let mut frontier = at.of(stream);
    frontier.set(range.partition, to);
    at.set(stream, frontier);
}

#[cfg(test)]
mod tests {
    use lambic_model::{Frontier, PartitionId};
    use proptest::prelude::*;

    use super::*;

    fn file(stream: u32, partition: u32, first: u64, end: u64) -> (StreamId, OffsetRange) {
        let range = OffsetRange {
            partition: PartitionId(partition),
            first: Offset(first),
            end: Offset(end),
        };
        (StreamId(stream), range)
    }

    fn frontiers(of: &[(u32, &[u64])]) -> Frontiers {
        let mut frontiers = Frontiers::default();
        for (stream, offsets) in of {
            let offsets = offsets.iter().map(|offset| Offset(*offset)).collect();
            frontiers.set(StreamId(*stream), Frontier(offsets));
        }
        frontiers
    }

    #[test]
    fn slices_end_with_files_where_they_can() {
        let files = [file(7, 1, 0, 90), file(7, 0, 100, 210), file(7, 0, 0, 100)];
        let (from, to) = (Frontiers::default(), frontiers(&[(7, &[210, 90])]));
        let ends_at = |records| ends(&files, &from, &to, records);
        assert_eq!(
            ends_at(100),
            [
                frontiers(&[(7, &[100])]),
                frontiers(&[(7, &[210])]),
                to.clone()
            ]
        );
        assert_eq!(ends_at(210), [frontiers(&[(7, &[210])]), to.clone()][1..]);
        assert_eq!(ends_at(1000), std::slice::from_ref(&to));
        assert_eq!(ends_at(u64::MAX), std::slice::from_ref(&to));
        // A large file is cut within.
        assert_eq!(
            ends_at(40)[..2],
            [frontiers(&[(7, &[40])]), frontiers(&[(7, &[100])])]
        );
        assert!(ends(&files, &to, &to, 10).is_empty());
        assert!(ends(&[], &from, &from, 10).is_empty());
    }

    proptest! {
        #[test]
        fn slices_follow_one_another_and_none_is_empty_or_large(
            lengths in proptest::collection::vec((0..2u32, 0..3u32, 1..50u64), 0..20),
            records in 1..80u64,
            skipped in 0..30u64,
        ) {
            let mut to = Frontiers::default();
            let mut files = Vec::new();
            for (stream, partition, length) in lengths {
                let id = PartitionId(partition);
                let first = to.of(StreamId(stream)).offset(id).0;
                files.push(file(stream, partition, first, first + length));
                advance(&mut to, StreamId(stream), files[files.len() - 1].1, Offset(first + length));
            }
            let mut from = Frontiers::default();
            for (stream, frontier) in &to.0 {
                let offsets = frontier.0.iter().map(|end| Offset(end.0.min(skipped)));
                from.set(*stream, Frontier(offsets.collect()));
            }
            let ends = ends(&files, &from, &to, records);
            let between = |from: &Frontiers, to: &Frontiers| -> u64 {
                to.0.iter().map(|(stream, end)| end.since(&from.of(*stream))).sum()
            };
            let total = between(&from, &to);
            prop_assert_eq!(ends.is_empty(), total == 0);
            let mut at = from.clone();
            let mut sum = 0;
            for end in &ends {
                prop_assert!(end.covers(&at));
                let here = between(&at, end);
                prop_assert!(here > 0 && here <= records * 2 + 1, "{here} of {records}");
                sum += here;
                at = end.clone();
            }
            prop_assert_eq!(sum, total);
            if let Some(last) = ends.last() {
                prop_assert_eq!(last, &to);
            }
        }
    }
}
