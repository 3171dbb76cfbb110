//! Writes a batch view's file as its states come, so that it is never held as a whole.

use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use lambic_view::ViewPlan;
use object_store::{MultipartUpload, ObjectStoreExt, path::Path};
use parquet::{
    arrow::{AsyncArrowWriter, async_writer::AsyncFileWriter},
    errors::ParquetError,
};

use crate::{
    Error, Limits,
    merge::Merge,
    size::bytes_of,
    store::{Next, RunFile, properties},
};

/// Object stores take no smaller parts, but for the last.
const PART_BYTES: usize = 8 << 20;

/// The file of all that `merge` gives, not yet committed.
pub async fn write(
    next: &Next,
    plan: &ViewPlan,
    limits: &Limits,
    mut merge: Merge<'_>,
) -> Result<RunFile, Error> {
    let path = next.path();
    let upload = next.store.put_multipart(&Path::from(path.as_str())).await?;
    let schema = Arc::clone(&plan.state_schema);
    let parts = Parts {
        upload,
        part: Vec::new(),
        bytes: 0,
        crc32c: 0,
    };
    let mut writer = AsyncArrowWriter::try_new(parts, schema, Some(properties(plan)))?;
    let (mut rows, mut held) = (0, 0);
    let written = async {
        while let Some(states) = merge.next().await? {
            rows += states.num_rows() as u64;
            held += bytes_of(&states) as u64;
            if held > limits.view_bytes {
                return Err(Error::ViewTooLarge {
                    limit: limits.view_bytes,
                });
            }
            writer.write(&states).await?;
            if writer.memory_size() >= limits.file_bytes() {
                writer.flush().await?;
            }
        }
        writer.finish().await?;
        Ok(())
    };
    let written = written.await;
    let mut parts = writer.into_inner();
    match written {
        Ok(()) => Ok(RunFile {
            path,
            rows,
            bytes: parts.bytes,
            crc32c: parts.crc32c,
        }),
        Err(error) => {
            // What went wrong first counts.
            let _ = parts.upload.abort().await;
            Err(error)
        }
    }
}

struct Parts {
    upload: Box<dyn MultipartUpload>,
    part: Vec<u8>,
    bytes: u64,
    crc32c: u32,
}

impl Parts {
    async fn put(&mut self) -> Result<(), ParquetError> {
        let part = std::mem::take(&mut self.part);
        let put = self.upload.put_part(part.into()).await;
        put.map_err(|error| ParquetError::External(Box::new(error)))
    }
}

impl AsyncFileWriter for Parts {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), ParquetError>> {
        async move {
            self.bytes += bytes.len() as u64;
            self.crc32c = crc32c::crc32c_append(self.crc32c, &bytes);
            self.part.extend_from_slice(&bytes);
            match self.part.len() >= PART_BYTES {
                true => self.put().await,
                false => Ok(()),
            }
        }
        .boxed()
    }

    fn complete(&mut self) -> BoxFuture<'_, Result<(), ParquetError>> {
        async move {
            if !self.part.is_empty() {
                self.put().await?;
            }
            match self.upload.complete().await {
                Ok(_) => Ok(()),
                Err(error) => Err(ParquetError::External(Box::new(error))),
            }
        }
        .boxed()
    }
}
