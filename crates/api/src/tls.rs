//! Keeps others from reading and changing what passes the doors: a certificate and its key.
//!
//! The files are read, and looked at again, by whoever opens the doors. A connection keeps the identity that was the
//! newest when it began.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use chrono::{DateTime, Utc};
use metrics::counter;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::watch,
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        crypto::ring,
        pki_types::{
            CertificateDer, PrivateKeyDer,
            pem::{self, PemObject},
        },
    },
    server::TlsStream,
};
use x509_certificate::CapturedX509Certificate;

/// How long a client may take for the handshake, which is a few messages.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// The first byte of TLS, which neither HTTP nor the Postgres wire begins with.
const HANDSHAKE: u8 = 0x16;
/// The name by which clients ask for the Postgres wire in the handshake.
pub(crate) const POSTGRES: &[u8] = b"postgresql";

/// Who encrypts what passes the doors.
#[derive(Debug, Clone, Default)]
pub enum Tls {
    /// Nobody: the doors open on loopback only.
    #[default]
    Off,
    /// A proxy before the doors.
    ByProxy,
    /// The doors themselves, as the newest of these. On loopback they take what is not encrypted, too.
    Own(watch::Receiver<Identity>),
}

impl Tls {
    pub(crate) fn identity(&self) -> Option<Identity> {
        match self {
            Tls::Own(newest) => Some(newest.borrow().clone()),
            Tls::Off | Tls::ByProxy => None,
        }
    }
}

/// Why a certificate and a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error(
        "there is no certificate in the certificate file; in PEM it begins with `-----BEGIN CERTIFICATE-----`"
    )]
    NoCertificate,
    #[error("the certificate file is no PEM: {0}")]
    CertificatePem(String),
    #[error("the certificate cannot be used: {0}")]
    Certificate(rustls::Error),
    #[error(
        "there is no private key in the key file; in PEM it begins with `-----BEGIN PRIVATE KEY-----`"
    )]
    NoKey,
    #[error("the key file is no PEM: {0}")]
    KeyPem(String),
    #[error(
        "the key is encrypted, and nobody is asked for its password; `openssl pkey -in OLD -out NEW` writes it without"
    )]
    KeyEncrypted,
    #[error("the key cannot be used: {0}; RSA, ECDSA (P-256, P-384, P-521) and Ed25519 are known")]
    Key(rustls::Error),
    #[error(
        "the key is not that of the first certificate in the certificate file; the server's own stands before those that signed it"
    )]
    KeyOfAnother,
}

/// A certificate, those that signed it, and its key. Clones share them.
#[derive(Clone)]
pub struct Identity {
    http: Arc<ServerConfig>,
    pg: Arc<ServerConfig>,
    /// Of the first certificate, if it is understood here.
    told: Option<Arc<Told>>,
}

/// What a certificate says of itself.
struct Told {
    from: DateTime<Utc>,
    until: DateTime<Utc>,
    pem: String,
}

impl Identity {
    /// Of two files in PEM. The server's own certificate stands first.
    pub fn read(certificates: &[u8], key: &[u8]) -> Result<Identity, Unusable> {
        let certificates = CertificateDer::pem_slice_iter(certificates)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Unusable::CertificatePem(error.to_string()))?;
        let Some(own) = certificates.first() else {
            return Err(Unusable::NoCertificate);
        };
        let own = CapturedX509Certificate::from_der(own.to_vec()).ok();
        let told = own.map(|own| Told {
            from: own.validity_not_before(),
            until: own.validity_not_after(),
            pem: own.encode_pem(),
        });
        let key = read_key(key)?;
        let config = |protocols: &[&[u8]]| {
            let provider = Arc::new(ring::default_provider());
            let mut config = ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(Unusable::Certificate)?
                .with_no_client_auth()
                .with_single_cert(certificates.clone(), key.clone_key())
                .map_err(unusable)?;
            config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            Ok::<_, Unusable>(Arc::new(config))
        };
        Ok(Identity {
            http: config(&[b"http/1.1", b"http/1.0"])?,
            pg: config(&[POSTGRES])?,
            told: told.map(Arc::new),
        })
    }

    /// What clients will say of the certificate's dates.
    pub fn untimely(&self, now: SystemTime) -> Option<String> {
        let Told { from, until, .. } = self.told.as_deref()?;
        let now = DateTime::<Utc>::from(now);
        if now > *until {
            return Some(format!("it expired at {until}"));
        }
        (now < *from).then(|| format!("it is not valid before {from}"))
    }

    /// The certificate that clients of Postgres bind their passwords to.
    pub(crate) fn certificate_pem(&self) -> Option<&str> {
        Some(&self.told.as_deref()?.pem)
    }

    pub(crate) async fn secure_http<S>(&self, socket: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        secure(&self.http, socket)
            .await
            .inspect_err(|_| counter!("lambic_http_handshakes_failed_total").increment(1))
    }

    pub(crate) async fn secure_pg(&self, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        secure(&self.pg, socket)
            .await
            .inspect_err(|_| counter!("lambic_postgres_handshakes_failed_total").increment(1))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Identity");
        if let Some(told) = &self.told {
            shown.field("until", &told.until);
        }
        shown.finish_non_exhaustive()
    }
}

fn read_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, Unusable> {
    let has = |mark: &[u8]| text.windows(mark.len()).any(|part| part == mark);
    if has(b"BEGIN ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED") {
        return Err(Unusable::KeyEncrypted);
    }
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        pem::Error::NoItemsFound => Unusable::NoKey,
        // What the others quote may be of the key.
        _ => Unusable::KeyPem("a line of it is broken".to_owned()),
    })
}

fn unusable(error: rustls::Error) -> Unusable {
    match error {
        rustls::Error::InconsistentKeys(_) => Unusable::KeyOfAnother,
        rustls::Error::InvalidCertificate(_) => Unusable::Certificate(error),
        _ => Unusable::Key(error),
    }
}

async fn secure<S>(config: &Arc<ServerConfig>, socket: S) -> io::Result<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let secured = TlsAcceptor::from(Arc::clone(config)).accept(socket);
    timeout(HANDSHAKE_MAX, secured).await.unwrap_or_else(|_| {
        let reason = "the handshake was not finished in time";
        Err(io::Error::new(io::ErrorKind::TimedOut, reason))
    })
}

/// Whether the client begins with TLS; waits for its first byte.
pub(crate) async fn begins_with_tls(socket: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    Ok(socket.peek(&mut first).await? == 1 && first[0] == HANDSHAKE)
}

/// Whether both ends are on this machine, between which nobody listens in.
pub(crate) fn is_within_machine(socket: &TcpStream) -> bool {
    let is_loopback = |end: io::Result<SocketAddr>| {
        end.is_ok_and(|address| address.ip().to_canonical().is_loopback())
    };
    is_loopback(socket.local_addr()) && is_loopback(socket.peer_addr())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Of `localhost` and 127.0.0.1, signed by the authority, for a hundred years; they are good for nothing else.
    pub const CERTIFICATE: &str = include_str!("tests/tls/server.pem");
    pub const KEY: &str = include_str!("tests/tls/server.key");
    pub const AUTHORITY: &str = include_str!("tests/tls/authority.pem");
    /// Of another key.
    const EXPIRED: &str = include_str!("tests/tls/expired.pem");
    const EXPIRED_KEY: &str = include_str!("tests/tls/expired.key");
    const ENCRYPTED_KEY: &str = include_str!("tests/tls/encrypted.key");
    const RSA_KEY_ENCRYPTED: &str = include_str!("tests/tls/encrypted-rsa.key");

    pub fn identity() -> Identity {
        Identity::read(CERTIFICATE.as_bytes(), KEY.as_bytes()).unwrap()
    }

    /// A client that trusts the authority, and speaks these protocols.
    pub async fn connect(
        socket: TcpStream,
        protocols: &[&[u8]],
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut authorities = rustls::RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(AUTHORITY.as_bytes()).unwrap();
        authorities.add(authority).unwrap();
        let provider = Arc::new(ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(authorities)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let name = "localhost".try_into().unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, socket)
            .await
    }

    fn seconds(since: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(since)
    }

    #[test]
    fn what_cannot_be_used_is_told_apart() {
        let broken_key = KEY.replace("PRIVATE KEY-----\n", "PRIVATE KEY-----\n!");
        let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let no_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let cut = &CERTIFICATE[..CERTIFICATE.len() / 3];
        for (certificate, key, said) in [
            ("", KEY, "no certificate"),
            (KEY, KEY, "no certificate"),
            (cut, KEY, "is no PEM"),
            (no_certificate, KEY, "the certificate cannot be used"),
            (CERTIFICATE, "", "no private key"),
            (CERTIFICATE, CERTIFICATE, "no private key"),
            (CERTIFICATE, &broken_key, "a line of it is broken"),
            (CERTIFICATE, no_key, "the key cannot be used"),
            (CERTIFICATE, ENCRYPTED_KEY, "is encrypted"),
            (CERTIFICATE, RSA_KEY_ENCRYPTED, "is encrypted"),
            (CERTIFICATE, EXPIRED_KEY, "not that of the first"),
            (EXPIRED, KEY, "not that of the first"),
        ] {
            let told = Identity::read(certificate.as_bytes(), key.as_bytes());
            let told = told.expect_err(said).to_string();
            assert!(told.contains(said), "{told}");
        }
    }

    #[test]
    fn certificates_stand_in_any_company() {
        let both = format!("Some words.\n{KEY}\n{CERTIFICATE}\n{AUTHORITY}");
        assert!(Identity::read(both.as_bytes(), both.as_bytes()).is_ok());
        let wrong = format!("{AUTHORITY}\n{CERTIFICATE}");
        let told = Identity::read(wrong.as_bytes(), KEY.as_bytes()).unwrap_err();
        assert!(matches!(told, Unusable::KeyOfAnother));
    }

    #[test]
    fn dates_are_told() {
        let now = seconds(1_900_000_000);
        assert_eq!(identity().untimely(now), None);
        let early = identity().untimely(seconds(1_000_000_000)).unwrap();
        assert!(early.contains("not valid before"), "{early}");
        let expired = Identity::read(EXPIRED.as_bytes(), EXPIRED_KEY.as_bytes()).unwrap();
        let told = expired.untimely(now).unwrap();
        assert!(told.contains("expired at 2021-01-01"), "{told}");
    }

    #[test]
    fn a_key_is_not_shown() {
        let shown = format!("{:?}", identity());
        assert!(shown.contains("until") && shown.len() < 200, "{shown}");
    }
}
