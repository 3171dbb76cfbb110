//! A store that dies in one of its writes, for tests of what a kill leaves behind.

use std::{
    fmt,
    sync::atomic::{AtomicI64, Ordering},
};

use futures::{StreamExt as _, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};

use crate::LocalStore;

/// Answers nothing after the write that it dies in.
#[derive(Debug)]
pub struct Mortal {
    inner: LocalStore,
    writes_left: AtomicI64,
    last_happens: bool,
}

impl Mortal {
    /// Dies in the write after `writes_left` others; `last_happens` says whether that one happens all the same.
    pub fn new(inner: LocalStore, writes_left: i64, last_happens: bool) -> Mortal {
        Mortal {
            inner,
            writes_left: AtomicI64::new(writes_left),
            last_happens,
        }
    }

    /// Now.
    pub fn kill(&self) {
        self.writes_left.store(-1, Ordering::SeqCst);
    }

    pub fn is_dead(&self) -> bool {
        self.writes_left.load(Ordering::SeqCst) < 0
    }

    /// Whether the next write happens, and whether it is answered.
    fn spend(&self) -> (bool, bool) {
        match self.writes_left.fetch_sub(1, Ordering::SeqCst) {
            1.. => (true, true),
            0 => (self.last_happens, false),
            _ => (false, false),
        }
    }

    fn alive(&self) -> Result<()> {
        match self.is_dead() {
            true => Err(dead()),
            false => Ok(()),
        }
    }
}

fn dead() -> Error {
    Error::Generic {
        store: "Mortal",
        source: "it is dead".into(),
    }
}

impl fmt::Display for Mortal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mortal({})", self.inner)
    }
}

#[async_trait::async_trait]
impl ObjectStore for Mortal {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let (happens, answered) = self.spend();
        let put = match happens {
            true => self.inner.put_opts(location, payload, options).await,
            false => Err(dead()),
        };
        match answered {
            true => put,
            false => Err(dead()),
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.alive()?;
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.alive()?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        match self.spend() {
            (true, true) => self.inner.delete_stream(locations),
            (true, false) => {
                let deleted = self.inner.delete_stream(locations);
                Box::pin(deleted.map(|_| Err(dead())))
            }
            (false, _) => Box::pin(locations.map(|_| Err(dead()))),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.alive() {
            Ok(()) => self.inner.list(prefix),
            Err(error) => Box::pin(futures::stream::once(async { Err(error) })),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.alive()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.alive()?;
        self.inner.copy_opts(from, to, options).await
    }
}
