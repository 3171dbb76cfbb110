//! Images of registries: the part of the OCI's distribution specification that it takes to pull one.
//!
//! Written on the HTTP client that backups to object stores bring along, because every answer has a bound here, and
//! because a registry that the operator did not name is asked at public addresses only, wherever its names and redirects
//! lead.

use std::{
    collections::BTreeMap,
    error::Error as _,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use lambic_sandbox::process::is_outside;
use reqwest::{
    Client, Response, StatusCode, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{ACCEPT, WWW_AUTHENTICATE},
    redirect,
};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::{
    Problem,
    blobs::{Blobs, Written},
    manifest::{
        DOCUMENT_BYTES_MAX, Descriptor, Digest, Document, INDEX_DOCKER, INDEX_OCI, INDEXES_MAX,
        MANIFEST_DOCKER, MANIFEST_OCI,
    },
    on_disk,
    reference::{Reach, Remote},
};

const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// Without a byte.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const REDIRECTS_MAX: usize = 5;
const TOKEN_BYTES_MAX: u64 = 64 << 10;
/// Between the network and the disk.
const CHUNKS_MAX: usize = 16;
const DOCUMENTS: [&str; 4] = [MANIFEST_OCI, MANIFEST_DOCKER, INDEX_OCI, INDEX_DOCKER];

/// Copies all parts of an image to `blobs`, and says which it is; those that were not there before are added to `new`.
pub async fn fetch(
    remote: &Remote,
    reach: Reach,
    accounts: Option<&Path>,
    blobs: &Blobs,
    bytes_max: u64,
    new: &mut Vec<Digest>,
) -> Result<Digest, Problem> {
    let account = match accounts {
        Some(file) => account(file, remote)?,
        None => None,
    };
    let mut session = Session {
        client: client(remote, reach)?,
        base: remote.base(),
        scope: format!("repository:{}:pull", remote.repository),
        account,
        pass: None,
    };
    let mut wanted = remote.wanted();
    for _ in 0..=INDEXES_MAX {
        let bytes = session.manifest(&wanted).await?;
        let digest = Digest::of(&bytes);
        if wanted.contains(':') && wanted != digest.to_string() {
            return Err(Problem::Bad(format!(
                "its part {wanted} has another content than its digest says"
            )));
        }
        let manifest = match Document::parse(&bytes)? {
            Document::Index(index) => {
                wanted = index.chosen()?.digest.to_string();
                continue;
            }
            Document::Manifest(manifest) => manifest,
        };
        manifest.check_bytes(bytes_max)?;
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            if !blobs.has(blob) {
                let written = session.blob(blob, blobs).await?;
                if written.is_new {
                    new.push(written.digest);
                }
            }
        }
        let blobs = blobs.clone();
        return on_disk(move || blobs.keep(&bytes)).await;
    }
    Err(Problem::Bad(format!(
        "its indexes name indexes more than {INDEXES_MAX} times"
    )))
}

fn client(remote: &Remote, reach: Reach) -> Result<Client, Problem> {
    let is_loopback = remote.is_loopback();
    let mut builder = Client::builder()
        .user_agent(concat!("lambic/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIME_MAX)
        .read_timeout(SILENCE_MAX)
        .https_only(!is_loopback)
        .redirect(redirect::Policy::custom(move |next| {
            if next.previous().len() > REDIRECTS_MAX {
                return next.error("too many redirects");
            }
            match reach == Reach::Named || is_name_or_public(next.url()) {
                true => next.follow(),
                false => next.error("a redirect to an address that is not public"),
            }
        }));
    if is_loopback {
        builder = builder.no_proxy();
    }
    if reach == Reach::Public {
        builder = builder.dns_resolver(Arc::new(PublicNames));
    }
    builder.build().map_err(|error| outside(&error))
}

/// Names are looked up by [`PublicNames`], addresses are not looked up.
fn is_name_or_public(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => is_outside(IpAddr::V4(address)),
        Some(url::Host::Ipv6(address)) => is_outside(IpAddr::V6(address)),
        Some(url::Host::Domain(_)) => true,
        None => false,
    }
}

/// Knows public addresses only.
struct PublicNames;

impl Resolve for PublicNames {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<_> = found.filter(|found| is_outside(found.ip())).collect();
            if public.is_empty() {
                return Err(io::Error::other(format!(
                    "`{}` has no public address; name the registry in `functions.images` of the settings",
                    name.as_str()
                ))
                .into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// With what is behind it: the client's own words do not say it.
fn outside(error: &reqwest::Error) -> Problem {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        told.push_str(&format!(": {error}"));
        source = error.source();
    }
    Problem::Outside(told)
}

/// Requests to one repository.
struct Session {
    client: Client,
    base: String,
    scope: String,
    account: Option<Account>,
    /// The header `Authorization` that opened it.
    pass: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Account(String);

impl Session {
    async fn manifest(&mut self, wanted: &str) -> Result<Vec<u8>, Problem> {
        let url = format!("{}/manifests/{wanted}", self.base);
        let response = self.get(&url).await?;
        match response.status() {
            StatusCode::NOT_FOUND => {
                return Err(Problem::Missing(
                    "the registry has no such image".to_owned(),
                ));
            }
            status => succeeded(status, "the image")?,
        }
        bounded(response, DOCUMENT_BYTES_MAX).await
    }

    async fn blob(&mut self, blob: &Descriptor, blobs: &Blobs) -> Result<Written, Problem> {
        let url = format!("{}/blobs/{}", self.base, blob.digest);
        let mut response = self.get(&url).await?;
        match response.status() {
            StatusCode::NOT_FOUND => {
                return Err(Problem::Bad(format!(
                    "its part {} is missing in the registry",
                    blob.digest
                )));
            }
            status => succeeded(status, &format!("its part {}", blob.digest))?,
        }
        let (chunks, mut arriving) = mpsc::channel::<Bytes>(CHUNKS_MAX);
        let mut writer = blobs.writer(Some(blob))?;
        let written = on_disk(move || {
            while let Some(chunk) = arriving.blocking_recv() {
                writer.write(&chunk)?;
            }
            writer.finish()
        });
        let read = async move {
            while let Some(chunk) = response.chunk().await.map_err(|error| outside(&error))? {
                if chunks.send(chunk).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        let (read, written): (Result<(), Problem>, _) = tokio::join!(read, written);
        // What broke off on the way is not complete either.
        read.and(written)
    }

    /// Shows what the registry wants to see, once it has said so.
    async fn get(&mut self, url: &str) -> Result<Response, Problem> {
        let response = self.ask(url).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let headers = response.headers().get_all(WWW_AUTHENTICATE).into_iter();
        let challenges = headers.filter_map(|value| Challenge::parse(value.to_str().ok()?));
        let challenges: Vec<Challenge> = challenges.collect();
        self.pass = self.answer(&challenges).await?;
        match self.pass {
            Some(_) => self.ask(url).await,
            None => Ok(response),
        }
    }

    async fn ask(&self, url: &str) -> Result<Response, Problem> {
        let mut request = self.client.get(url).header(ACCEPT, DOCUMENTS.join(", "));
        if let Some(pass) = &self.pass {
            request = request.header(reqwest::header::AUTHORIZATION, pass);
        }
        request.send().await.map_err(|error| outside(&error))
    }

    async fn answer(&self, challenges: &[Challenge]) -> Result<Option<String>, Problem> {
        let basic = self
            .account
            .as_ref()
            .map(|Account(pair)| format!("Basic {pair}"));
        for challenge in challenges {
            match challenge {
                Challenge::Basic if basic.is_some() => return Ok(basic),
                Challenge::Basic => {}
                Challenge::Bearer {
                    realm,
                    service,
                    scope,
                } => {
                    let scope = scope.as_deref().unwrap_or(&self.scope);
                    let token = self.token(realm, service.as_deref(), scope, basic.as_deref());
                    return token.await.map(Some);
                }
            }
        }
        Ok(None)
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: &str,
        basic: Option<&str>,
    ) -> Result<String, Problem> {
        let mut url = Url::parse(realm).map_err(|error| {
            Problem::Outside(format!(
                "the registry asks for a token of `{realm}`: {error}"
            ))
        })?;
        url.query_pairs_mut()
            .extend_pairs(service.map(|service| ("service", service)))
            .append_pair("scope", scope);
        let mut request = self.client.get(url);
        if let Some(basic) = basic {
            request = request.header(reqwest::header::AUTHORIZATION, basic);
        }
        let response = request.send().await.map_err(|error| outside(&error))?;
        succeeded(response.status(), "a token for it")?;
        let bytes = bounded(response, TOKEN_BYTES_MAX).await?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|error| {
            Problem::Outside(format!("the registry's token cannot be read: {error}"))
        })?;
        let token = token.token.or(token.access_token).unwrap_or_default();
        Ok(format!("Bearer {token}"))
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

fn succeeded(status: StatusCode, what: &str) -> Result<(), Problem> {
    match status {
        status if status.is_success() => Ok(()),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Problem::Bad(format!(
            "the registry does not give {what} to this server ({status}); `functions.registry_accounts` of the settings may have what it wants to see"
        ))),
        status => Err(Problem::Outside(format!(
            "the registry did not give {what}: {status}"
        ))),
    }
}

async fn bounded(mut response: Response, bytes_max: u64) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| outside(&error))? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > bytes_max {
            return Err(Problem::Bad(format!(
                "an answer of the registry is over the limit of {bytes_max} bytes"
            )));
        }
    }
    Ok(bytes)
}

/// What a registry wants to see (RFC 9110, `WWW-Authenticate`).
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer {
        /// Where tokens are given out.
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

impl Challenge {
    fn parse(header: &str) -> Option<Challenge> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut said = parameters(rest);
        Some(Challenge::Bearer {
            realm: said.remove("realm")?,
            service: said.remove("service"),
            scope: said.remove("scope"),
        })
    }
}

/// `name="value", name=value`: a value in quotes may have commas.
fn parameters(mut text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    while let Some((name, rest)) = text.split_once('=') {
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_once(',').unwrap_or((rest, "")),
        };
        let name = name.trim().trim_start_matches(',').trim();
        found.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        text = rest;
    }
    found
}

/// The `config.json` that Docker's clients keep their accounts in.
#[derive(Deserialize)]
struct Accounts {
    #[serde(default)]
    auths: BTreeMap<String, Kept>,
}

#[derive(Deserialize)]
struct Kept {
    /// Base64 of name, colon, password.
    auth: Option<String>,
}

fn account(file: &Path, remote: &Remote) -> Result<Option<Account>, Problem> {
    let path: PathBuf = file.to_owned();
    let bytes = std::fs::read(file).map_err(crate::Error::io("read", &path))?;
    let accounts: Accounts = serde_json::from_slice(&bytes).map_err(|error| {
        crate::Error::io("read", &path)(io::Error::new(io::ErrorKind::InvalidData, error))
    })?;
    let found = accounts.auths.into_iter().find_map(|(name, kept)| {
        let is_docker = remote.registry == "docker.io" && name == "https://index.docker.io/v1/";
        let is_it = is_docker || name.trim_start_matches("https://") == remote.registry;
        kept.auth.filter(|_| is_it)
    });
    // As a header it must be what it should be.
    Ok(found
        .filter(|pair| BASE64_STANDARD.decode(pair).is_ok())
        .map(Account))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_understood() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        };
        for (header, expected) in [
            (
                r#"Bearer realm="https://auth.example/token",service="registry",scope="repository:a/b:pull,push""#,
                Some(bearer(
                    "https://auth.example/token",
                    Some("registry"),
                    Some("repository:a/b:pull,push"),
                )),
            ),
            (
                r#"bearer Service=x, Realm="https://auth.example/""#,
                Some(bearer("https://auth.example/", Some("x"), None)),
            ),
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            ("Bearer service=x", None),
            ("Negotiate", None),
            ("", None),
            (
                "Bearer realm=\"unclosed",
                Some(bearer("unclosed", None, None)),
            ),
        ] {
            assert_eq!(Challenge::parse(header), expected, "{header}");
        }
    }

    #[test]
    fn an_account_is_found_by_its_registry() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        std::fs::write(
            &file,
            r#"{"auths": {"https://index.docker.io/v1/": {"auth": "ZG9ja2VyOng="}, "localhost:5000": {"auth": "bG9jYWw6eA=="},
                "https://ghcr.io": {"auth": "Z2hjcjp4"}, "empty.example": {}, "odd.example": {"auth": "a\r\nb"}}, "credsStore": "x"}"#,
        )
        .unwrap();
        for (image, expected) in [
            ("team/app", Some("ZG9ja2VyOng=")),
            ("localhost:5000/app", Some("bG9jYWw6eA==")),
            ("ghcr.io/team/app", Some("Z2hjcjp4")),
            ("empty.example/app", None),
            ("odd.example/app", None),
            ("localhost:5001/app", None),
        ] {
            let Ok(super::super::reference::Reference::Remote(remote)) = image.parse() else {
                panic!("{image}")
            };
            let found = account(&file, &remote).unwrap();
            assert_eq!(
                found,
                expected.map(|pair| Account(pair.to_owned())),
                "{image}"
            );
        }
        std::fs::write(&file, "{").unwrap();
        let Ok(super::super::reference::Reference::Remote(remote)) = "app".parse() else {
            panic!("it is one")
        };
        assert!(account(&file, &remote).is_err());
    }

    #[test]
    fn addresses_that_are_not_public_are_not_redirected_to() {
        for (url, is) in [
            ("https://cdn.example/x", true),
            ("https://1.1.1.1/x", true),
            ("https://127.0.0.1/x", false),
            ("https://[::1]/x", false),
            ("https://169.254.169.254/latest", false),
            ("data:x", false),
        ] {
            assert_eq!(is_name_or_public(&url.parse().unwrap()), is, "{url}");
        }
    }
}
