//! What an instance may ask of its host while it runs: values that stay, and records for streams.
//!
//! What these are is the implementer's affair; bounds are kept here. Guests see them as `lambic:functions`
//! (`wit/deps/lambic-functions.wit`), and the values as `wasi:keyvalue/store` too.

mod key_value;
mod store;
mod streams;

use std::sync::Arc;

use async_trait::async_trait;
use wasmtime::component::{HasSelf, Linker};

use super::host::Host;

const STORE_BYTES_MAX: usize = 64;
const KEY_BYTES_MAX: usize = 1 << 10;
const VALUE_BYTES_MAX: usize = 1 << 20;
/// Of one list.
const KEYS_MAX: usize = 1_000;
/// One append, as it is written; no more than an event may have.
const RECORDS_BYTES_MAX: usize = 6 << 20;

/// The services of one function; it knows which.
#[async_trait]
pub trait HostServices: Send + Sync {
    async fn get(&self, store: &str, key: &str) -> Result<Option<Vec<u8>>, ServiceError>;

    /// Returns when the value is durable.
    async fn set(&self, store: &str, key: &str, value: Vec<u8>) -> Result<(), ServiceError>;

    /// Returns when that is durable; a key that is not there is no error.
    async fn delete(&self, store: &str, key: &str) -> Result<(), ServiceError>;

    /// Up to `count` keys behind `after`, in the order of their bytes; `count` is at most 1,000.
    async fn keys(
        &self,
        store: &str,
        after: Option<&str>,
        count: usize,
    ) -> Result<Vec<String>, ServiceError>;

    /// Appends records, a JSON list of objects; returns when all of them are durable and visible.
    async fn append(&self, stream: &str, records: Vec<u8>) -> Result<(), ServiceError>;
}

/// Why a service was not done, in words for the function's author.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// What was asked for is outside of its bounds, or does not fit.
    #[error("{0}")]
    Invalid(String),
    /// This function may not.
    #[error("{0}")]
    Denied(String),
    /// It has as much as it may keep.
    #[error("{0}")]
    Full(String),
    /// It failed on this side; whether it was done is not known.
    #[error("{0}")]
    Unavailable(String),
}

mod bindings {
    wasmtime::component::bindgen!({
        path: ["wit/deps/lambic-functions.wit", "wit/deps/wasi-keyvalue.wit"],
        inline: "
            package lambic:host;
            world host {
                include lambic:functions/services@0.1.0;
                include wasi:keyvalue/keyvalue@0.2.0-draft;
            }
        ",
        world: "lambic:host/host",
        imports: { default: async | trappable },
        with: { "wasi:keyvalue/store.bucket": super::store::Bucket },
        require_store_data_send: true,
    });
}

pub fn link(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    bindings::lambic::functions::key_value::add_to_linker::<_, HasSelf<Host>>(linker, |host| host)?;
    bindings::lambic::functions::streams::add_to_linker::<_, HasSelf<Host>>(linker, |host| host)?;
    bindings::wasi::keyvalue::store::add_to_linker::<_, HasSelf<Host>>(linker, |host| host)
}

/// What an instance was given, within its bounds.
#[derive(Clone, Default)]
pub struct Services(pub Option<Arc<dyn HostServices>>);

impl Services {
    fn given(&self) -> Result<&dyn HostServices, ServiceError> {
        let given = self.0.as_deref();
        given.ok_or_else(|| ServiceError::Unavailable("there are no services here".to_owned()))
    }

    async fn get(&self, store: &str, key: &str) -> Result<Option<Vec<u8>>, ServiceError> {
        check_key(store, key)?;
        self.given()?.get(store, key).await
    }

    async fn set(&self, store: &str, key: &str, value: Vec<u8>) -> Result<(), ServiceError> {
        check_key(store, key)?;
        check_value(&value)?;
        self.given()?.set(store, key, value).await
    }

    async fn delete(&self, store: &str, key: &str) -> Result<(), ServiceError> {
        check_key(store, key)?;
        self.given()?.delete(store, key).await
    }

    async fn keys(
        &self,
        store: &str,
        after: Option<&str>,
        count: usize,
    ) -> Result<Vec<String>, ServiceError> {
        check_store(store)?;
        self.given()?.keys(store, after, count.min(KEYS_MAX)).await
    }

    async fn append(&self, stream: &str, records: String) -> Result<(), ServiceError> {
        check_records(&records)?;
        self.given()?.append(stream, records.into_bytes()).await
    }
}

fn check_store(name: &str) -> Result<(), ServiceError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match (1..=STORE_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain) {
        true => Ok(()),
        false => Err(ServiceError::Invalid(format!(
            "`{}` is not the name of a store: use 1 to {STORE_BYTES_MAX} letters, digits, `-`, `_` and `.`",
            shown(name)
        ))),
    }
}

fn check_key(store: &str, key: &str) -> Result<(), ServiceError> {
    check_store(store)?;
    match (1..=KEY_BYTES_MAX).contains(&key.len()) {
        true => Ok(()),
        false => Err(ServiceError::Invalid(format!(
            "the key has {} bytes; a key has 1 to {KEY_BYTES_MAX}",
            key.len()
        ))),
    }
}

fn check_value(value: &[u8]) -> Result<(), ServiceError> {
    match value.len() <= VALUE_BYTES_MAX {
        true => Ok(()),
        false => Err(ServiceError::Invalid(format!(
            "the value has {} bytes, over the limit of {VALUE_BYTES_MAX}",
            value.len()
        ))),
    }
}

fn check_records(records: &str) -> Result<(), ServiceError> {
    match records.len() <= RECORDS_BYTES_MAX {
        true => Ok(()),
        false => Err(ServiceError::Invalid(format!(
            "the records have {} bytes, over the limit of {RECORDS_BYTES_MAX}; append them in parts",
            records.len()
        ))),
    }
}

/// As much of a name as a message needs.
fn shown(name: &str) -> String {
    name.chars().take(STORE_BYTES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_kept() {
        let long = "k".repeat(KEY_BYTES_MAX + 1);
        for (store, key, fits) in [
            ("default", "a key: größe\0\n", true),
            ("a.b-c_D9", "k", true),
            (&long[..STORE_BYTES_MAX], &long[..KEY_BYTES_MAX], true),
            ("", "k", false),
            ("a b", "k", false),
            ("a\0b", "k", false),
            ("größe", "k", false),
            (&long[..STORE_BYTES_MAX + 1], "k", false),
            ("default", "", false),
            ("default", &long, false),
        ] {
            assert_eq!(check_key(store, key).is_ok(), fits, "{store:?} {key:?}");
        }
        assert!(check_value(&vec![0; VALUE_BYTES_MAX]).is_ok());
        assert!(check_value(&vec![0; VALUE_BYTES_MAX + 1]).is_err());
        assert!(check_records(&" ".repeat(RECORDS_BYTES_MAX)).is_ok());
        assert!(check_records(&" ".repeat(RECORDS_BYTES_MAX + 1)).is_err());
    }
}
