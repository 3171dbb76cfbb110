//! Makes few large files of many small ones, which sealing leaves where little is appended at a time.
//!
//! The records and their offsets stay as they are. The merged file is put under a name of its own, one manifest puts it
//! in the place of the smaller ones, and those are deleted when nobody who began before reads them any more: as an
//! erasure does it (`erase`), so a kill at any moment leaves the one or the other.
//!
//! Files are not merged across the frontiers that the caller names: where the last batch of a view stands, files part,
//! so that its next one reads only what is new.

use std::ops::Range;

use lambic_model::{Erased, Frontier, StreamId};

use crate::{DataFile, Dataset, Error, Manifest, Options, dataset::Part};

impl Dataset {
    /// True if [`Dataset::compact_next`] would find something to do.
    pub fn is_compaction_due(
        &self,
        stream: StreamId,
        files_min: Option<usize>,
        parts: &[Frontier],
    ) -> bool {
        let manifest = self.manifest(stream);
        next_group(&manifest.files, parts, files_min, self.options()).is_some()
    }

    /// Makes one file of a group of small ones, of at least `files_min`, or, with `None`, of any that can be put together;
    /// how many they were, 0 if there is none. `parts` are frontiers at which files must part,
    /// `erased` is what reads of the stream leave out.
    pub async fn compact_next(
        &self,
        stream: StreamId,
        files_min: Option<usize>,
        parts: &[Frontier],
        erased: &Erased,
    ) -> Result<usize, Error> {
        let part = self.part(stream)?;
        let mut undecided = self.turn(&part).await?;
        loop {
            let compacted = self
                .compact_once(&part, files_min, parts, erased, &mut undecided)
                .await;
            match compacted {
                Err(error) => self.again_after(&part, &mut undecided, error).await?,
                compacted => return compacted,
            }
        }
    }

    async fn compact_once(
        &self,
        part: &Part,
        files_min: Option<usize>,
        parts: &[Frontier],
        erased: &Erased,
        undecided: &mut Vec<Manifest>,
    ) -> Result<usize, Error> {
        let manifest = self.present(part.stream.id)?;
        let group = next_group(&manifest.files, parts, files_min, self.options());
        let Some(group) = group else {
            return Ok(0);
        };
        let files = manifest.files[group].to_vec();
        let compacted = files.len();
        let sealed = self.rewritten(part, files, erased).await?;
        let new = self.put_file(part, &manifest, sealed).await?;
        let path = new.path.clone();
        self.commit(part, manifest.replaced(new), undecided).await?;
        tracing::debug!(stream = %part.stream.name, path, compacted, "small files compacted");
        Ok(compacted)
    }

    /// Sealing and merging could make it larger.
    pub fn is_small(&self, file: &DataFile) -> bool {
        is_small(file, self.options())
    }
}

fn is_small(file: &DataFile, options: &Options) -> bool {
    file.bytes < options.file_bytes_max / 2 && file.records() < options.file_rows_max / 2
}

/// With fewer there is nothing to put together.
const FILES_MIN: usize = 2;

/// The first files that are to be compacted: at least `files_min`, together no larger than a file may be. None of them is
/// larger than the others together, so that a record is not written again with every few that come after it, but a
/// number of times that grows with the logarithm of their number.
fn next_group(
    files: &[DataFile],
    parts: &[Frontier],
    files_min: Option<usize>,
    options: &Options,
) -> Option<Range<usize>> {
    let is_thrifty = files_min.is_some();
    let files_min = files_min.unwrap_or(FILES_MIN);
    if files_min < FILES_MIN {
        return None;
    }
    let parts_before = |file: &DataFile| {
        let mut offsets = parts.iter().map(|part| part.offset(file.range.partition));
        offsets.any(|offset| offset == file.range.first)
    };
    let mut start = 0;
    while start < files.len() {
        let (mut bytes, mut records) = (0, 0);
        let mut end = start;
        while let Some(file) = files.get(end)
            && is_small(file, options)
            && (end == start
                || file.range.partition == files[start].range.partition && !parts_before(file))
            && bytes + file.bytes <= options.file_bytes_max
            && records + file.records() <= options.file_rows_max
        {
            bytes += file.bytes;
            records += file.records();
            end += 1;
        }
        let mut window = start..end;
        let mut next = end.max(start + 1);
        while let Some(largest) = largest(&files[window.clone()])
            && window.len() >= files_min
        {
            let bytes: u64 = files[window.clone()].iter().map(|file| file.bytes).sum();
            if !is_thrifty || 2 * files[window.start + largest].bytes <= bytes {
                return Some(window);
            }
            // Without the largest: what is before it, or else what follows.
            next = window.start + largest + 1;
            window.end = window.start + largest;
        }
        start = next;
    }
    None
}

fn largest(files: &[DataFile]) -> Option<usize> {
    let bytes = files.iter().map(|file| file.bytes);
    bytes.zip(0..).max().map(|(_, place)| place)
}

#[cfg(test)]
mod tests {
    use lambic_model::{Offset, OffsetRange, PartitionId};

    use super::*;

    /// Files of these sizes, of one record each, in one partition.
    fn files(partition: u32, sizes: &[u64]) -> Vec<DataFile> {
        let each = sizes.iter().zip(0..).map(|(&bytes, first)| DataFile {
            path: format!("p{partition}/{first}"),
            range: OffsetRange {
                partition: PartitionId(partition),
                first: Offset(first),
                end: Offset(first + 1),
            },
            bytes,
            crc32c: 0,
            erased: None,
            schema: Default::default(),
            compacted: false,
        });
        each.collect()
    }

    fn options() -> Options {
        Options {
            file_bytes_max: 100,
            file_rows_max: 1_000,
            ..Options::default()
        }
    }

    #[test]
    fn groups_are_large_enough_and_not_too_large() {
        let check = |sizes: &[u64], parts: &[u64], expected: Option<Range<usize>>| {
            let parts: Vec<Frontier> = parts.iter().map(|o| Frontier(vec![Offset(*o)])).collect();
            let found = next_group(&files(0, sizes), &parts, Some(3), &options());
            assert_eq!(found, expected, "{sizes:?} {parts:?}");
        };
        check(&[1, 1, 1], &[], Some(0..3));
        check(&[1, 1], &[], None);
        check(&[60, 1, 1, 1], &[], Some(1..4));
        check(&[40, 40, 10, 10, 40], &[], Some(0..4));
        // One that is larger than the others together waits for more of them.
        check(&[8, 1, 1, 1], &[], Some(1..4));
        check(&[8, 1, 1], &[], None);
        check(&[3, 1, 1, 1], &[], Some(0..4));
        check(&[1, 1, 1, 9, 1], &[], Some(0..3));
        check(&[1, 9, 1, 1, 1], &[], Some(2..5));
        // Where a batch stands files part, also where nothing is compacted for it.
        check(&[1, 1, 1, 1, 1], &[2], Some(2..5));
        check(&[1, 1, 1, 1], &[2], None);
        check(&[1, 1, 1, 1, 1, 1], &[3], Some(0..3));
        check(&[1, 1, 1], &[0, 3], Some(0..3));
        check(&[], &[], None);
        assert_eq!(
            next_group(&files(0, &[9, 1]), &[], None, &options()),
            Some(0..2)
        );
        assert_eq!(next_group(&files(0, &[9]), &[], None, &options()), None);
        assert_eq!(
            next_group(&files(0, &[1, 1]), &[], Some(0), &options()),
            None
        );
    }

    #[test]
    fn partitions_are_not_mixed() {
        let mut all = files(0, &[1, 1]);
        all.extend(files(1, &[1, 1]));
        assert_eq!(next_group(&all, &[], Some(3), &options()), None);
        assert_eq!(next_group(&all, &[], None, &options()), Some(0..2));
    }

    #[test]
    fn a_record_is_not_written_with_every_few_that_follow() {
        let options = Options {
            file_bytes_max: 1 << 30,
            file_rows_max: 1 << 30,
            ..Options::default()
        };
        let mut sizes: Vec<u64> = Vec::new();
        let mut written = 0;
        for size in std::iter::repeat_n(1, 4_096) {
            sizes.push(size);
            while let Some(group) = next_group(&files(0, &sizes), &[], Some(8), &options) {
                let compacted: u64 = sizes[group.clone()].iter().sum();
                written += compacted;
                sizes.splice(group, [compacted]);
            }
        }
        assert!(written <= 4_096 * 12, "{written} written for 4096");
        assert!(sizes.len() < 60, "{} files are left", sizes.len());
    }
}
