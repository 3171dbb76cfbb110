//! What an object store reads, from a simulated disk; [`lambic_dataset::LocalStore`] itself does the writing.

use std::{fmt, io, path::PathBuf, time::SystemTime};

use bytes::Bytes;
use futures::{StreamExt as _, stream, stream::BoxStream};
use lambic_base::{Disk as _, disk::SimDisk, file::read_on};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    path::Path,
};

/// The files below a root.
#[derive(Debug)]
pub struct Reads {
    disk: SimDisk,
    root: PathBuf,
}

impl fmt::Display for Reads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reads({})", self.root.display())
    }
}

impl Reads {
    pub fn new(disk: SimDisk, root: PathBuf) -> Reads {
        Reads { disk, root }
    }

    fn meta(&self, location: Path, size: u64) -> ObjectMeta {
        ObjectMeta {
            location,
            last_modified: SystemTime::UNIX_EPOCH.into(),
            size,
            e_tag: None,
            version: None,
        }
    }

    fn failed(location: &Path, source: io::Error) -> Error {
        let path = location.to_string();
        match source.kind() {
            io::ErrorKind::NotFound => Error::NotFound {
                path,
                source: source.into(),
            },
            _ => Error::Generic {
                store: "Reads",
                source: format!("{path}: {source}").into(),
            },
        }
    }

    /// What stands directly in a folder: objects, and folders.
    fn entries(&self, prefix: &Path) -> Result<(Vec<ObjectMeta>, Vec<Path>)> {
        let folder = self.root.join(prefix.as_ref());
        let paths = match self.disk.list(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other.map_err(|error| Reads::failed(prefix, error))?,
        };
        let (mut objects, mut folders) = (Vec::new(), Vec::new());
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let location = prefix.clone().join(&*name);
            if self.disk.is_dir(&path) {
                folders.push(location);
            } else if !name.contains('#') {
                // As `LocalFileSystem`, which leaves out what is being written.
                let size = self.disk.open(&path).and_then(|file| file.len());
                let size = size.map_err(|error| Reads::failed(&location, error))?;
                objects.push(self.meta(location, size));
            }
        }
        Ok((objects, folders))
    }

    fn all(&self, prefix: &Path) -> Result<Vec<ObjectMeta>> {
        let (mut objects, folders) = self.entries(prefix)?;
        for folder in folders {
            objects.extend(self.all(&folder)?);
        }
        Ok(objects)
    }
}

fn not_here<T>(operation: &str) -> Result<T> {
    Err(Error::NotImplemented {
        operation: operation.to_owned(),
        implementer: "Reads".to_owned(),
    })
}

#[async_trait::async_trait]
impl ObjectStore for Reads {
    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        not_here("put")
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        not_here("a put in parts")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let bytes = read_on(&self.disk, &self.root.join(location.as_ref()))
            .map_err(|error| Reads::failed(location, error))?;
        let meta = self.meta(location.clone(), bytes.len() as u64);
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            None => 0..meta.size,
            Some(range) => range.as_range(meta.size).map_err(|error| Error::Generic {
                store: "Reads",
                source: error.into(),
            })?,
        };
        let bytes = Bytes::from(bytes).slice(range.start as usize..range.end as usize);
        Ok(GetResult {
            payload: GetResultPayload::Stream(stream::once(async { Ok(bytes) }).boxed()),
            meta,
            range,
            attributes: Default::default(),
        })
    }

    fn delete_stream(
        &self,
        _: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        stream::once(async { not_here("delete") }).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.all(&prefix.cloned().unwrap_or_default()) {
            Ok(objects) => stream::iter(objects.into_iter().map(Ok)).boxed(),
            Err(error) => stream::once(async { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (objects, common_prefixes) = self.entries(&prefix.cloned().unwrap_or_default())?;
        Ok(ListResult {
            common_prefixes,
            objects,
        })
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        not_here("copy")
    }
}
