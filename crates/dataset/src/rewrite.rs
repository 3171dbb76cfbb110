//! One file in the place of one or several, without what was erased.

use arrow::{array::BooleanArray, compute::filter_record_batch};
use bytes::Bytes;
use lambic_model::{Erased, Fit, OffsetRange, Stream};
use object_store::{ObjectStoreExt as _, path::Path};

use crate::{
    DataFile, Dataset, Error,
    dataset::{Part, stored_under},
    parquet_file,
    seal::{FileEncoder, Sealed, places},
};

impl Dataset {
    /// The records of `files`, which follow one another in a partition, without those of `erased`. Each is verified
    /// before; one that keeps nothing is not even read.
    pub(crate) async fn rewritten(
        &self,
        part: &Part,
        files: Vec<DataFile>,
        erased: &Erased,
    ) -> Result<Sealed, Error> {
        let mut read = Vec::with_capacity(files.len());
        for file in files {
            let keeps = file.records() > file.holds(erased);
            let bytes = match keeps {
                true => Some(self.whole(&file).await?),
                false => None,
            };
            read.push((file, bytes));
        }
        let (stream, erased) = (part.now(), erased.clone());
        tokio::task::spawn_blocking(move || without(&stream, &read, &erased)).await?
    }

    async fn whole(&self, file: &DataFile) -> Result<Bytes, Error> {
        self.verify_once(file).await?;
        let path = Path::from(file.path.as_str());
        Ok(self.store().get(&path).await?.bytes().await?)
    }
}

fn without(
    stream: &Stream,
    files: &[(DataFile, Option<Bytes>)],
    erased: &Erased,
) -> Result<Sealed, Error> {
    let mut encoder = FileEncoder::new(stream)?;
    for (file, bytes) in files {
        if let Some(bytes) = bytes {
            add(&mut encoder, stream, file, bytes.clone(), erased)?;
        }
    }
    let (first, last) = (&files[0].0, &files[files.len() - 1].0);
    let range = OffsetRange {
        end: last.range.end,
        ..first.range
    };
    let mut sealed = encoder.finish(range, erased.number)?;
    sealed.compacted = files.len() > 1 || first.compacted;
    Ok(sealed)
}

fn add(
    encoder: &mut FileEncoder,
    stream: &Stream,
    file: &DataFile,
    bytes: Bytes,
    erased: &Erased,
) -> Result<(), Error> {
    let unreadable = |source| Error::FileUnreadable {
        path: file.path.clone(),
        source,
    };
    // It is written anew in the columns of today, without the values of those that were dropped.
    let stored = stored_under(stream, file)?;
    let columns: Vec<usize> = (0..stream.schema_with_system().fields().len()).collect();
    let fit = (!stream.shows(&stored)).then(|| Fit::read(&stored, stream, &columns));
    let mut rows = 0;
    for batch in parquet_file::decode_each(bytes).map_err(unreadable)? {
        let batch = batch.map_err(unreadable)?;
        rows += batch.num_rows() as u64;
        let places = places(&batch).map_err(|reason| Error::TailMismatch {
            stream: stream.name.clone(),
            reason,
        })?;
        let keep: BooleanArray = places
            .map(|(partition, offset)| Some(!erased.contains(partition, offset)))
            .collect();
        let kept = filter_record_batch(&batch, &keep)?;
        match &fit {
            Some(fit) => encoder.write(&fit.apply_to_all(&kept)?)?,
            None => encoder.write(&kept)?,
        }
    }
    if rows != file.records() {
        return Err(Error::TailMismatch {
            stream: stream.name.clone(),
            reason: format!(
                "`{}` has {rows} records instead of {}",
                file.path,
                file.records()
            ),
        });
    }
    Ok(())
}
