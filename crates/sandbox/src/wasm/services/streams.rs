//! `lambic:functions/streams`.

use super::{
    Host, ServiceError,
    bindings::lambic::functions::streams::{self, Error},
};

impl From<ServiceError> for Error {
    fn from(error: ServiceError) -> Error {
        match error {
            ServiceError::Denied(reason) => Error::Denied(reason),
            ServiceError::Invalid(reason) | ServiceError::Full(reason) => Error::Invalid(reason),
            ServiceError::Unavailable(reason) => Error::Unavailable(reason),
        }
    }
}

impl streams::Host for Host {
    async fn append(
        &mut self,
        name: String,
        records: String,
    ) -> wasmtime::Result<Result<(), Error>> {
        let services = self.services.clone();
        Ok(services.append(&name, records).await.map_err(Error::from))
    }
}
