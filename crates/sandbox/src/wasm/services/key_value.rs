//! `lambic:functions/key-value`.

use super::{
    Host, ServiceError,
    bindings::lambic::functions::key_value::{self, Error},
};

impl From<ServiceError> for Error {
    fn from(error: ServiceError) -> Error {
        match error {
            ServiceError::Invalid(reason) | ServiceError::Denied(reason) => Error::Invalid(reason),
            ServiceError::Full(reason) => Error::Full(reason),
            ServiceError::Unavailable(reason) => Error::Unavailable(reason),
        }
    }
}

impl key_value::Host for Host {
    async fn get(
        &mut self,
        store: String,
        key: String,
    ) -> wasmtime::Result<Result<Option<Vec<u8>>, Error>> {
        let services = self.services.clone();
        Ok(services.get(&store, &key).await.map_err(Error::from))
    }

    async fn set(
        &mut self,
        store: String,
        key: String,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), Error>> {
        let services = self.services.clone();
        Ok(services.set(&store, &key, value).await.map_err(Error::from))
    }

    async fn delete(&mut self, store: String, key: String) -> wasmtime::Result<Result<(), Error>> {
        let services = self.services.clone();
        Ok(services.delete(&store, &key).await.map_err(Error::from))
    }

    async fn keys(
        &mut self,
        store: String,
        after: Option<String>,
        limit: u32,
    ) -> wasmtime::Result<Result<Vec<String>, Error>> {
        let services = self.services.clone();
        let keys = services.keys(&store, after.as_deref(), limit as usize);
        Ok(keys.await.map_err(Error::from))
    }
}
