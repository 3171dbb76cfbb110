//! Why the doors do not open.

use std::{io, net::SocketAddr};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "{option} {address} is not a loopback address, and there everybody could do everything: configure keys \
         under [auth] in the settings (docs/security.md), or use {option} 127.0.0.1:{}", address.port()
    )]
    NotLoopback {
        option: &'static str,
        address: SocketAddr,
    },
    #[error(
        "{option} {address} is not a loopback address, and what passes there could be read and changed on the way: \
         name a certificate and its key under [tls] in the settings, or say there that a proxy encrypts \
         (by_proxy = true; docs/security.md), or use {option} 127.0.0.1:{}", address.port()
    )]
    NotEncrypted {
        option: &'static str,
        address: SocketAddr,
    },
    #[error("cannot listen on {address}: {source}; choose another address with {option}")]
    Bind {
        option: &'static str,
        address: SocketAddr,
        source: io::Error,
    },
    #[error("cannot start threads for SQL: {0}")]
    Threads(io::Error),
    #[error("cannot set up the Postgres catalog: {0}")]
    Catalog(String),
}

impl Error {
    pub(crate) fn bind(option: &'static str, address: SocketAddr, source: io::Error) -> Error {
        Error::Bind {
            option,
            address,
            source,
        }
    }
}
