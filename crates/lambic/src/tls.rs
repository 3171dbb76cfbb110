//! `[tls]` in the settings, the certificate that the doors show, and the authorities that the CLI trusts.
//!
//! The files are looked at again while the server runs, so that a renewal needs no restart. What cannot be used is said
//! once, and the former certificate stays.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail};
use lambic_api::Identity;
use serde::Deserialize;
use tokio::{sync::watch, task::JoinHandle};
use tokio_rustls::rustls::{
    self, CertificateError,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use tracing::{info, warn};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::credentials::check_closed;

/// A chain of certificates takes some kilobytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// A file of all authorities of the world takes a few hundred.
const AUTHORITIES_BYTES_MAX: u64 = 16 << 20;
const LOOK_EVERY: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Empty: there is none.
    cert_file: PathBuf,
    key_file: PathBuf,
    by_proxy: bool,
}

impl Tls {
    /// What is wrong with it, as far as its text shows.
    pub fn check(&self) -> Result<(), &'static str> {
        let has = |path: &Path| !path.as_os_str().is_empty();
        match (has(&self.cert_file), has(&self.key_file), self.by_proxy) {
            (true, true, false) | (false, false, _) => Ok(()),
            (true, false, _) => Err("`cert_file` needs its `key_file`"),
            (false, true, _) => Err("`key_file` needs its `cert_file`"),
            (true, true, true) => Err(
                "`by_proxy` says that a proxy encrypts; without it the server does, as `cert_file`",
            ),
        }
    }

    /// Names of files are relative to `file`, where the settings stand.
    pub fn settle(&mut self, file: &Path) {
        let folder = file.parent().unwrap_or(Path::new("."));
        for path in [&mut self.cert_file, &mut self.key_file] {
            if !path.as_os_str().is_empty() {
                *path = folder.join(&*path);
            }
        }
    }

    /// Reads the certificate, and follows its files from then on.
    pub fn open(&self) -> anyhow::Result<(lambic_api::Tls, Option<Following>)> {
        if self.by_proxy {
            return Ok((lambic_api::Tls::ByProxy, None));
        }
        if self.cert_file.as_os_str().is_empty() {
            return Ok((lambic_api::Tls::Off, None));
        }
        let files = Files {
            certificate: self.cert_file.clone(),
            key: self.key_file.clone(),
        };
        // Before they are read: what changes meanwhile is read again.
        let mark = files.mark();
        let identity = files.read()?;
        let mut dates = Dates::default();
        dates.look(&files, &identity);
        let (newest, seen) = watch::channel(identity);
        let task = tokio::spawn(follow(files, mark, dates, newest));
        Ok((lambic_api::Tls::Own(seen), Some(Following(task))))
    }
}

/// Ends with this.
pub struct Following(JoinHandle<()>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Debug, Clone)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn read(&self) -> anyhow::Result<Identity> {
        let (certificate, key) = (self.certificate.display(), self.key.display());
        let cannot = |path: &Path| format!("cannot read {}, which [tls] names", path.display());
        let certificates = File::open(&self.certificate)
            .and_then(|file| bytes(file, FILE_BYTES_MAX))
            .with_context(|| cannot(&self.certificate))?;
        let file = File::open(&self.key).with_context(|| cannot(&self.key))?;
        check_closed(&file, &self.key)?;
        let secret = bytes(file, FILE_BYTES_MAX).with_context(|| cannot(&self.key))?;
        Identity::read(&certificates, &secret).with_context(|| {
            format!("the certificate in {certificate} and the key in {key} do not serve for TLS")
        })
    }

    fn mark(&self) -> Mark {
        Mark([&self.certificate, &self.key].map(|path| Look::at(path).ok()))
    }
}

fn bytes(file: File, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > most {
        true => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it has more than {most} bytes"),
        )),
        false => Ok(bytes),
    }
}

/// By which a file is known to have changed, or to have been put in the place of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    place: (u64, u64),
    bytes: u64,
    changed: (i64, i64),
    mode: u32,
}

impl Look {
    fn at(path: &Path) -> io::Result<Look> {
        let metadata = fs::metadata(path)?;
        Ok(Look {
            place: (metadata.dev(), metadata.ino()),
            bytes: metadata.len(),
            changed: (metadata.mtime(), metadata.mtime_nsec()),
            mode: metadata.mode(),
        })
    }
}

/// Of both files; `None`: it is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark([Option<Look>; 2]);

/// Decides when the files are read again.
#[derive(Debug)]
struct Renewal {
    read: Mark,
    seen: Mark,
}

impl Renewal {
    /// A change is read when it has stood still from one look to the next: certificate and key are written one after the
    /// other, and between the two they do not fit. What was read is not read again, usable or not.
    fn is_due(&mut self, now: Mark) -> bool {
        let stands = self.seen == now;
        self.seen = now;
        let is_due = stands && self.read != now;
        if is_due {
            self.read = now;
        }
        is_due
    }
}

/// Says once of a certificate that its time is over, or not yet come.
#[derive(Debug, Default)]
struct Dates {
    told: Option<String>,
}

impl Dates {
    fn look(&mut self, files: &Files, identity: &Identity) {
        let told = identity.untimely(SystemTime::now());
        if let (Some(reason), true) = (&told, told != self.told) {
            let certificate = files.certificate.display();
            warn!(%certificate, reason, "clients will refuse the certificate of the doors");
        }
        self.told = told;
    }
}

/// Until nobody needs it any more.
async fn follow(files: Files, mark: Mark, mut dates: Dates, newest: watch::Sender<Identity>) {
    let mut renewal = Renewal {
        read: mark,
        seen: mark,
    };
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !newest.is_closed() {
        ticks.tick().await;
        // Folders of certificates may lie on a network.
        let look = files.clone();
        let Ok(now) = tokio::task::spawn_blocking(move || look.mark()).await else {
            return;
        };
        if renewal.is_due(now) {
            let read = files.clone();
            let read = tokio::task::spawn_blocking(move || read.read())
                .await
                .unwrap_or_else(|ended| Err(ended.into()));
            let certificate = files.certificate.display();
            match read {
                Ok(identity) => {
                    newest.send_replace(identity);
                    info!(%certificate, "the doors have a new certificate");
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    warn!(%certificate, error, "the new certificate cannot be used; the former one stays");
                }
            }
        }
        dates.look(&files, &newest.borrow());
    }
}

/// How the CLI looks at a server's certificate: by the authorities in a file, or by those of the machine.
pub fn client(ca_file: Option<&Path>) -> anyhow::Result<TlsConfig> {
    let authorities = match ca_file {
        Some(path) => authorities_in(path)?,
        None => authorities_of_machine()?,
    };
    let authorities = authorities
        .iter()
        .map(|authority| Certificate::from_der(authority).to_owned());
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(authorities.collect())))
        .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
        .build())
}

/// The file that is named: our own way first, else as AWS's clients take it.
pub fn ca_file(said: Option<&Path>) -> Option<PathBuf> {
    let by_aws = || std::env::var_os("AWS_CA_BUNDLE").filter(|path| !path.is_empty());
    match said {
        Some(path) => Some(path.to_owned()),
        None => by_aws().map(PathBuf::from),
    }
}

/// What to do about a handshake that failed, behind what failed.
pub fn hint(error: &ureq::Error) -> Option<&'static str> {
    let error = match error {
        ureq::Error::Rustls(error) => error,
        ureq::Error::Io(error) => error.get_ref()?.downcast_ref()?,
        _ => return None,
    };
    match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => Some(
            ": nobody whom this machine trusts has signed the server's certificate; name who did with --ca-file or LAMBIC_CA_FILE",
        ),
        rustls::Error::InvalidCertificate(CertificateError::Other(_)) => Some(
            ": the server's certificate may be that of an authority, as `openssl req -x509` makes them; make it with -addext basicConstraints=critical,CA:FALSE",
        ),
        rustls::Error::InvalidCertificate(_) => Some(": the server's certificate is not right"),
        rustls::Error::InvalidMessage(_) => {
            Some(": what answers there speaks no TLS; does the URL start with http://?")
        }
        _ => None,
    }
}

fn authorities_in(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let cannot = || {
        format!(
            "cannot read the authorities in {}, which --ca-file, LAMBIC_CA_FILE or AWS_CA_BUNDLE names",
            path.display()
        )
    };
    let text = File::open(path)
        .and_then(|file| bytes(file, AUTHORITIES_BYTES_MAX))
        .with_context(cannot)?;
    let authorities = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| anyhow::anyhow!("it is no PEM: {error}"))
        .with_context(cannot)?;
    if authorities.is_empty() {
        bail!(
            "there is no certificate in {}; in PEM it begins with `-----BEGIN CERTIFICATE-----`",
            path.display()
        );
    }
    Ok(authorities)
}

fn authorities_of_machine() -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found = rustls_native_certs::load_native_certs();
    // Some machines have certificates that nobody can read beside many that are fine.
    if found.certs.is_empty() {
        let first = found.errors.first().map(ToString::to_string);
        bail!(
            "this machine has no certificates of authorities ({}); install `ca-certificates`, or name a file of them with --ca-file",
            first.unwrap_or_else(|| "none were found".to_owned())
        );
    }
    Ok(found.certs)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const CERTIFICATE: &str = include_str!("../../api/src/tests/tls/server.pem");
    const KEY: &str = include_str!("../../api/src/tests/tls/server.key");
    const OTHER_KEY: &str = include_str!("../../api/src/tests/tls/renewed.key");

    fn tls(cert_file: &str, key_file: &str, by_proxy: bool) -> Tls {
        Tls {
            cert_file: cert_file.into(),
            key_file: key_file.into(),
            by_proxy,
        }
    }

    #[test]
    fn what_does_not_go_together_is_told() {
        for (tls, said) in [
            (tls("", "", false), None),
            (tls("", "", true), None),
            (tls("c", "k", false), None),
            (tls("c", "", false), Some("needs its `key_file`")),
            (tls("", "k", true), Some("needs its `cert_file`")),
            (tls("c", "k", true), Some("`by_proxy`")),
        ] {
            let wrong = tls.check().err();
            assert_eq!(wrong.is_some(), said.is_some(), "{tls:?}: {wrong:?}");
            assert!(wrong.unwrap_or_default().contains(said.unwrap_or_default()));
        }
    }

    #[test]
    fn files_lie_beside_the_settings() {
        let mut relative = tls("c.pem", "/etc/k.pem", false);
        relative.settle(Path::new("/srv/lambic/settings.toml"));
        let absolute = tls("/srv/lambic/c.pem", "/etc/k.pem", false);
        assert_eq!(relative, absolute);
        let mut none = Tls::default();
        none.settle(Path::new("/srv/lambic/settings.toml"));
        assert_eq!(none, Tls::default());
    }

    fn write(path: &Path, content: &str, mode: u32) {
        fs::write(path, content).expect("it is ours");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
    }

    #[test]
    fn a_pair_is_read_if_it_is_safe_and_fits() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let files = Files {
            certificate: folder.path().join("c.pem"),
            key: folder.path().join("k.pem"),
        };
        let told = |files: &Files| format!("{:#}", files.read().expect_err("it cannot be used"));
        assert!(told(&files).contains("c.pem"));
        write(&files.certificate, CERTIFICATE, 0o644);
        assert!(told(&files).contains("k.pem"));
        write(&files.key, KEY, 0o644);
        assert!(told(&files).contains("chmod 600"));
        write(&files.key, KEY, 0o640);
        assert!(files.read().is_ok());
        write(&files.key, OTHER_KEY, 0o600);
        assert!(told(&files).contains("is not that of the first certificate"));
        write(&files.certificate, &" ".repeat(2 << 20), 0o644);
        assert!(told(&files).contains("more than"));
    }

    #[test]
    fn a_change_is_read_when_it_stands_still() {
        let look = |bytes| {
            Some(Look {
                place: (1, 1),
                bytes,
                changed: (1, 1),
                mode: 0o600,
            })
        };
        let first = Mark([look(1), look(1)]);
        let mut renewal = Renewal {
            read: first,
            seen: first,
        };
        assert!(!renewal.is_due(first));
        // The certificate first, then its key.
        let half = Mark([look(2), look(1)]);
        let whole = Mark([look(2), look(2)]);
        assert!(!renewal.is_due(half));
        assert!(!renewal.is_due(whole));
        assert!(renewal.is_due(whole));
        assert!(!renewal.is_due(whole));
        // One that is gone is a change, too, and what was there before is one again.
        let gone = Mark([look(2), None]);
        assert!(!renewal.is_due(gone));
        assert!(renewal.is_due(gone));
        assert!(!renewal.is_due(whole));
        assert!(renewal.is_due(whole));
    }

    #[test]
    fn authorities_are_read_from_a_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("ca.pem");
        let told = || format!("{:#}", authorities_in(&path).expect_err("there are none"));
        assert!(told().contains("--ca-file"));
        write(&path, "nothing", 0o644);
        assert!(told().contains("no certificate in"));
        write(&path, &CERTIFICATE[..100], 0o644);
        assert!(told().contains("no PEM"));
        write(&path, &CERTIFICATE.repeat(2), 0o644);
        assert_eq!(authorities_in(&path).expect("two").len(), 2);
        assert!(client(Some(&path)).is_ok());
    }
}
