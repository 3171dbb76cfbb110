//! TLS of requests: certificates are checked against the authorities that this machine trusts.

use std::{io, sync::Arc};

use tokio::{net::TcpStream, sync::OnceCell, time::timeout};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{InvalidDnsNameError, ServerName},
    },
};
use wasmtime_wasi_http::Error;

use super::CONNECT_TIME_MAX;

#[derive(Debug, thiserror::Error)]
pub enum NotSecured {
    #[error("{host} cannot have a certificate: {source}")]
    BadName {
        host: String,
        source: InvalidDnsNameError,
    },
    #[error(
        "this machine has no certificates of authorities ({reason}); install `ca-certificates`, or name a file of them in SSL_CERT_FILE"
    )]
    NoAuthorities { reason: String },
    #[error("{host}: {source}")]
    Certificate { host: String, source: rustls::Error },
    #[error("{host}: {source}")]
    Handshake { host: String, source: io::Error },
    #[error("{host} did not finish the TLS handshake in time")]
    TooSlow { host: String },
}

impl From<NotSecured> for Error {
    fn from(error: NotSecured) -> Error {
        match error {
            NotSecured::BadName { .. } => Error::HttpRequestUriInvalid,
            NotSecured::NoAuthorities { .. } => Error::ConfigurationError,
            NotSecured::Certificate { .. } => Error::TlsCertificateError,
            NotSecured::Handshake { .. } => Error::TlsProtocolError,
            NotSecured::TooSlow { .. } => Error::ConnectionTimeout,
        }
    }
}

/// What certificates are checked against, read from this machine once.
pub async fn trusted() -> Result<Arc<ClientConfig>, NotSecured> {
    static CONFIG: OnceCell<Arc<ClientConfig>> = OnceCell::const_new();
    let config = CONFIG.get_or_try_init(|| async {
        let read = tokio::task::spawn_blocking(of_machine);
        let failed = |reason: String| NotSecured::NoAuthorities { reason };
        read.await
            .map_err(|error| failed(error.to_string()))?
            .map_err(failed)
    });
    Ok(config.await?.clone())
}

pub async fn secure(
    plain: TcpStream,
    host: &str,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, NotSecured> {
    let name = ServerName::try_from(host.to_owned()).map_err(|source| NotSecured::BadName {
        host: host.to_owned(),
        source,
    })?;
    let host = || host.to_owned();
    let secured = TlsConnector::from(config).connect(name, plain);
    match timeout(CONNECT_TIME_MAX, secured).await {
        Ok(Ok(secured)) => Ok(secured),
        Ok(Err(source)) => Err(explain(host(), source)),
        Err(_) => Err(NotSecured::TooSlow { host: host() }),
    }
}

fn explain(host: String, source: io::Error) -> NotSecured {
    let inner = source.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(error @ rustls::Error::InvalidCertificate(_)) => NotSecured::Certificate {
            source: rustls::Error::clone(error),
            host,
        },
        _ => NotSecured::Handshake { host, source },
    }
}

fn of_machine() -> Result<Arc<ClientConfig>, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut authorities = RootCertStore::empty();
    // Some machines have certificates that nobody can read beside many that are fine.
    let (known, _) = authorities.add_parsable_certificates(found.certs);
    if known == 0 {
        let first = found.errors.first().map(ToString::to_string);
        return Err(first.unwrap_or_else(|| "none were found".to_owned()));
    }
    trusting(authorities)
}

pub fn trusting(authorities: RootCertStore) -> Result<Arc<ClientConfig>, String> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(authorities)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
