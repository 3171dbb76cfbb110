//! An object store that moves no more than so many bytes in a second.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use futures::stream::BoxStream;
use lambic_base::{Clock, SystemClock, rate::Bucket};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart, path::Path,
};

/// What is read waits before it is handed on, what is written before it is taken.
#[derive(Debug)]
pub struct Throttled {
    store: Arc<dyn ObjectStore>,
    bucket: Arc<Mutex<Bucket>>,
}

impl Throttled {
    pub fn new(store: Arc<dyn ObjectStore>, bytes_per_s: u64) -> Throttled {
        let bucket = Bucket::new(bytes_per_s, SystemClock.monotonic());
        Throttled {
            store,
            bucket: Arc::new(Mutex::new(bucket)),
        }
    }
}

async fn wait(bucket: &Mutex<Bucket>, bytes: u64) {
    let pause = {
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(bytes, SystemClock.monotonic())
    };
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
}

impl fmt::Display for Throttled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Throttled({})", self.store)
    }
}

#[async_trait]
impl ObjectStore for Throttled {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        wait(&self.bucket, payload.content_length() as u64).await;
        self.store.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.store.put_multipart_opts(location, options).await?;
        let bucket = Arc::clone(&self.bucket);
        Ok(Box::new(Upload { upload, bucket }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let is_head = options.head;
        let found = self.store.get_opts(location, options).await?;
        if !is_head {
            wait(&self.bucket, found.range.end - found.range.start).await;
        }
        Ok(found)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct Upload {
    upload: Box<dyn MultipartUpload>,
    bucket: Arc<Mutex<Bucket>>,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (bucket, bytes) = (Arc::clone(&self.bucket), data.content_length() as u64);
        let part = self.upload.put_part(data);
        Box::pin(async move {
            wait(&bucket, bytes).await;
            part.await
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.upload.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}

#[cfg(test)]
mod tests {
    use lambic_dataset::LocalStore;
    use object_store::ObjectStoreExt;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn what_is_moved_is_counted_both_ways() {
        let scratch = tempfile::tempdir().unwrap();
        let store = Arc::new(LocalStore::open(scratch.path()).unwrap());
        let throttled = Throttled::new(store, 10_000);
        let path = Path::from("views/a.states");
        let start = Instant::now();
        throttled.put(&path, vec![7; 6_000].into()).await.unwrap();
        let read = throttled.get_range(&path, 1_000..4_500).await.unwrap();
        assert_eq!(read.len(), 3_500);
        // 9,500 of the 10,000 are used, by no more than what was asked for; 3,000 more take about a quarter of a second.
        let mut upload = throttled.put_multipart(&path).await.unwrap();
        upload.put_part(vec![8; 3_000].into()).await.unwrap();
        upload.complete().await.unwrap();
        let head = throttled.head(&path).await.unwrap();
        assert_eq!(head.size, 3_000);
        // It cannot have gone faster than the bucket lets it; how much slower says nothing.
        assert!(start.elapsed().as_millis() >= 240);
    }
}
