//! `wasi:keyvalue/store`: a bucket is a store of the same values.

use wasmtime::component::Resource;

use super::{
    Host, KEYS_MAX, ServiceError,
    bindings::wasi::keyvalue::store::{self, Error, KeyResponse},
    check_store,
};

/// The store of the empty name, which other hosts take as well.
const DEFAULT: &str = "default";

pub struct Bucket {
    store: String,
    /// The last key of each list that was given in a row: a cursor is its place here.
    lists: Vec<String>,
}

impl From<ServiceError> for Error {
    fn from(error: ServiceError) -> Error {
        match error {
            ServiceError::Denied(_) => Error::AccessDenied,
            error => Error::Other(error.to_string()),
        }
    }
}

impl store::Host for Host {
    async fn open(
        &mut self,
        identifier: String,
    ) -> wasmtime::Result<Result<Resource<Bucket>, Error>> {
        let store = match identifier.is_empty() {
            true => DEFAULT.to_owned(),
            false => identifier,
        };
        if check_store(&store).is_err() {
            return Ok(Err(Error::NoSuchStore));
        }
        let lists = Vec::new();
        Ok(Ok(self.table.push(Bucket { store, lists })?))
    }
}

impl store::HostBucket for Host {
    async fn get(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<Option<Vec<u8>>, Error>> {
        let services = self.services.clone();
        let bucket = self.table.get_mut(&bucket)?;
        let got = services.get(&bucket.store, &key).await;
        Ok(got.map_err(Error::from))
    }

    async fn set(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), Error>> {
        let services = self.services.clone();
        let bucket = self.table.get_mut(&bucket)?;
        let done = services.set(&bucket.store, &key, value).await;
        Ok(done.map_err(Error::from))
    }

    async fn delete(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<(), Error>> {
        let services = self.services.clone();
        let bucket = self.table.get_mut(&bucket)?;
        let done = services.delete(&bucket.store, &key).await;
        Ok(done.map_err(Error::from))
    }

    async fn exists(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<bool, Error>> {
        let got = store::HostBucket::get(self, bucket, key).await?;
        Ok(got.map(|value| value.is_some()))
    }

    async fn list_keys(
        &mut self,
        bucket: Resource<Bucket>,
        cursor: Option<u64>,
    ) -> wasmtime::Result<Result<KeyResponse, Error>> {
        let services = self.services.clone();
        let bucket = self.table.get_mut(&bucket)?;
        // Where the list before this one ended.
        let given = cursor.map_or(Ok(0), usize::try_from).ok();
        let Some(given) = given.filter(|&given| given <= bucket.lists.len()) else {
            let reason = "the cursor is not of a list of this bucket";
            return Ok(Err(Error::Other(reason.to_owned())));
        };
        bucket.lists.truncate(given);
        let after = bucket.lists.last().map(String::as_str);
        let keys = match services.keys(&bucket.store, after, KEYS_MAX).await {
            Ok(keys) => keys,
            Err(error) => return Ok(Err(error.into())),
        };
        let cursor = match keys.last() {
            Some(last) if keys.len() == KEYS_MAX => {
                bucket.lists.push(last.clone());
                Some(bucket.lists.len() as u64)
            }
            _ => None,
        };
        Ok(Ok(KeyResponse { keys, cursor }))
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}
