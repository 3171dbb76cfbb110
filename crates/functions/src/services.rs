//! What a component may ask for while it runs: the values of its function, and appends to streams.

use std::sync::Weak;

use lambic_model::{Append, AppendError, FunctionName, Write};
use lambic_sandbox::wasm::{HostServices, ServiceError};

use crate::{Inner, check::SYSTEM_PREFIX, values};

/// Those of one function, in all its versions.
pub struct Services {
    pub function: FunctionName,
    pub inner: Weak<Inner>,
}

impl From<values::Error> for ServiceError {
    fn from(error: values::Error) -> ServiceError {
        match error {
            values::Error::Full { .. } => ServiceError::Full(error.to_string()),
            values::Error::Store(_) | values::Error::Damaged { .. } => {
                tracing::error!(%error, "values of a function");
                ServiceError::Unavailable(error.to_string())
            }
        }
    }
}

impl Services {
    fn inner(&self) -> Result<std::sync::Arc<Inner>, ServiceError> {
        let closing = || ServiceError::Unavailable("the server is stopping".to_owned());
        self.inner.upgrade().ok_or_else(closing)
    }

    async fn of_values<T: Send + 'static>(
        &self,
        work: impl FnOnce(&values::Values, &str) -> Result<T, values::Error> + Send + 'static,
    ) -> Result<T, ServiceError> {
        let (inner, function) = (self.inner()?, self.function.clone());
        let done = tokio::task::spawn_blocking(move || {
            // What was deleted meanwhile leaves nothing behind.
            if inner.entry(function.as_str()).is_none() {
                return Err(ServiceError::Denied(format!(
                    "function `{function}` was deleted"
                )));
            }
            Ok(work(&inner.values, function.as_str())?)
        });
        let stopped = || ServiceError::Unavailable("the server is stopping".to_owned());
        done.await.unwrap_or_else(|_| Err(stopped()))
    }
}

#[async_trait::async_trait]
impl HostServices for Services {
    async fn get(&self, store: &str, key: &str) -> Result<Option<Vec<u8>>, ServiceError> {
        let (store, key) = (store.to_owned(), key.to_owned());
        self.of_values(move |values, function| values.get(function, &store, &key))
            .await
    }

    async fn set(&self, store: &str, key: &str, value: Vec<u8>) -> Result<(), ServiceError> {
        let (store, key) = (store.to_owned(), key.to_owned());
        self.of_values(move |values, function| values.set(function, &store, &key, &value))
            .await
    }

    async fn delete(&self, store: &str, key: &str) -> Result<(), ServiceError> {
        let (store, key) = (store.to_owned(), key.to_owned());
        self.of_values(move |values, function| values.delete(function, &store, &key))
            .await
    }

    async fn keys(
        &self,
        store: &str,
        after: Option<&str>,
        count: usize,
    ) -> Result<Vec<String>, ServiceError> {
        let (store, after) = (store.to_owned(), after.map(str::to_owned));
        self.of_values(move |values, function| {
            values.keys(function, &store, after.as_deref(), count)
        })
        .await
    }

    async fn append(&self, stream: &str, records: Vec<u8>) -> Result<(), ServiceError> {
        let inner = self.inner()?;
        if stream.starts_with(SYSTEM_PREFIX) {
            return Err(ServiceError::Denied(format!(
                "`{stream}` is written by the system only"
            )));
        }
        if inner.is_fed_by(&self.function, stream) {
            return Err(ServiceError::Denied(format!(
                "`{stream}` triggers function `{}`, which would trigger itself for ever",
                self.function
            )));
        }
        let Some(stream) = (inner.options.lookup)(stream) else {
            return Err(ServiceError::Denied(format!(
                "stream `{stream}` does not exist"
            )));
        };
        let batch = (inner.options.decode)(&stream, records)
            .map_err(|reason| ServiceError::Invalid(format!("`{}`: {reason}", stream.name)))?;
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let append = Append {
            writes: vec![Write {
                stream: stream.id,
                partition: None,
                batch,
                schema: Some(stream.schema_version()),
            }],
            ..Append::default()
        };
        match inner.options.log.append(append).await {
            Ok(_) => Ok(()),
            Err(error) => Err(match AppendError::from(error) {
                AppendError::Refused(reason) | AppendError::SequenceForgotten(reason) => {
                    ServiceError::Invalid(reason)
                }
                AppendError::Busy(reason) | AppendError::Unavailable(reason) => {
                    ServiceError::Unavailable(reason)
                }
            }),
        }
    }
}
