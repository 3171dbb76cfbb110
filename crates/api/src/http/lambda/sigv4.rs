//! AWS's Signature Version 4: what a request's signature claims, and whether it is right.
//!
//! Pure: it gets a head, the time and later the body, and knows nothing of connections. As AWS's signers for Lambda do,
//! the path is encoded once more as it was sent, parameters are decoded and encoded anew, and the body is always part of
//! what is signed: Lambda takes no `UNSIGNED-PAYLOAD`. A signature that comes twice is no replay: two requests of one
//! second that are alike have the same. Described in AWS's IAM User Guide, "AWS Signature Version 4 for API requests".

mod canonical;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::http::{
    HeaderMap, Uri,
    header::{AUTHORIZATION, DATE},
    request::Parts,
};
use chrono::{DateTime, NaiveDateTime};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::keys::{Key, Keys};
use canonical::{decode, encode};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const SERVICE: &str = "lambda";
const TERM: &str = "aws4_request";
/// How far the caller's clock may be off, either way.
const WINDOW_S: i64 = 5 * 60;
/// AWS's: a week.
const EXPIRES_S_MAX: i64 = 7 * 24 * 60 * 60;
const MISMATCH: &str = "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details.";

/// Why a request is not taken for its signer's. The texts are AWS's where it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is no signature.
    Missing,
    /// It lacks something, or has what cannot be read.
    Incomplete(String),
    /// Of a key, or a session token, that nobody has.
    UnknownKey,
    /// It is not right, not for this service, or not of this time.
    Invalid(String),
}

impl Refusal {
    fn mismatch() -> Refusal {
        Refusal::Invalid(MISMATCH.to_owned())
    }
}

/// A signature of a known key, of this time. Whether it is right shows with the body.
#[derive(Debug)]
pub struct Claim {
    pub key: Arc<Key>,
    pub region: String,
    timestamp: String,
    /// `20261127/us-east-1/lambda/aws4_request`
    scope: String,
    /// The canonical request but for the body's digest.
    head: Vec<u8>,
    /// The body's digest, where the request tells it.
    told: Option<String>,
    signature: [u8; 32],
}

/// Whether there is something to verify.
pub fn is_signed(head: &Parts) -> bool {
    in_header(&head.headers).is_some() || Query::of(head).get("X-Amz-Algorithm").is_some()
}

fn in_header(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(AUTHORIZATION)?.to_str().ok()?;
    text.starts_with("AWS4-").then_some(text)
}

/// The same without what a presigned URL proves itself with.
pub fn without_signature(uri: &Uri) -> Uri {
    const PROOF: [&[u8]; 3] = [
        b"X-Amz-Credential",
        b"X-Amz-Security-Token",
        b"X-Amz-Signature",
    ];
    let is_kept = |pair: &&str| {
        let name = pair.split('=').next().unwrap_or_default();
        !PROOF.contains(&decode(name).as_slice())
    };
    let query = uri.query().unwrap_or_default();
    let kept: Vec<&str> = query.split('&').filter(is_kept).collect();
    let target = match uri.query() {
        Some(_) => format!("{}?{}", uri.path(), kept.join("&")),
        None => uri.path().to_owned(),
    };
    // It is a part of one.
    Uri::try_from(target).unwrap_or_else(|_| Uri::from_static("/"))
}

impl Claim {
    /// Reads what a request claims; all that can be refused without its body is.
    pub fn read(keys: &Keys, head: &Parts, now_s: i64) -> Result<Claim, Refusal> {
        let query = Query::of(head);
        let given = match (in_header(&head.headers), query.get("X-Amz-Algorithm")) {
            (None, None) => return Err(Refusal::Missing),
            (Some(_), Some(_)) => {
                return Err(Refusal::Incomplete(
                    "A request is signed either in its Authorization header or in its query, not in both.".to_owned(),
                ));
            }
            (Some(text), None) => Given::in_header(text, &head.headers)?,
            (None, Some(algorithm)) => Given::in_query(&algorithm, &query)?,
        };
        let Scope {
            key_id,
            date,
            region,
            service,
            term,
        } = Scope::parse(&given.credential)?;
        let key = keys.get(key_id).ok_or(Refusal::UnknownKey)?;
        match (&key.session_token, &given.token) {
            (None, None) => {}
            (Some(token), Some(given)) if token.is(given) => {}
            _ => return Err(Refusal::UnknownKey),
        }
        if service != SERVICE {
            return Err(Refusal::Invalid(format!(
                "Credential should be scoped to correct service: '{SERVICE}'."
            )));
        }
        if term != TERM {
            return Err(Refusal::Invalid(format!(
                "Credential should be scoped with a valid terminator: '{TERM}', not '{term}'."
            )));
        }
        if !given.timestamp.starts_with(date) || date.len() != 8 {
            return Err(Refusal::Invalid(format!(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '{date}' != '{}', from '{}'.",
                &given.timestamp[..8],
                given.timestamp
            )));
        }
        in_time(&given, now_s)?;
        check_covered(&given.signed_headers, &head.headers)?;
        let without = given.expires_s.map(|_| "X-Amz-Signature");
        let covered = canonical::Head {
            method: head.method.as_str(),
            path: head.uri.path(),
            query: &query.canonical(without),
            signed_headers: &given.signed_headers,
        };
        let head = covered.text(&head.headers).ok_or_else(Refusal::mismatch)?;
        Ok(Claim {
            key: Arc::clone(key),
            region: region.to_owned(),
            scope: format!("{date}/{region}/{service}/{term}"),
            timestamp: given.timestamp,
            head,
            told: given.told,
            signature: given.signature,
        })
    }

    /// What can be verified before the body is read: the signature, where the request tells its body's digest.
    pub fn check_head(&self) -> Result<(), Refusal> {
        match &self.told {
            Some(told) => self.check(told),
            None => Ok(()),
        }
    }

    /// The whole.
    pub fn check_body(&self, body: &[u8]) -> Result<(), Refusal> {
        let digest = hex(&Sha256::digest(body));
        if self.told.as_ref().is_some_and(|told| *told != digest) {
            return Err(Refusal::mismatch());
        }
        self.check(&digest)
    }

    fn check(&self, digest: &str) -> Result<(), Refusal> {
        let signed = signed(
            &self.key.secret,
            &self.scope,
            &self.timestamp,
            &self.head,
            digest,
        );
        // In a time that does not tell how much of it is right.
        let checked = signed.verify_slice(&self.signature);
        checked.map_err(|_| Refusal::mismatch())
    }
}

/// What a request says of its signature.
struct Given {
    credential: String,
    /// As they stand there: `host;x-amz-date`.
    signed_headers: String,
    signature: [u8; 32],
    /// `20261127T123045Z`
    timestamp: String,
    /// Of a presigned URL only.
    expires_s: Option<i64>,
    token: Option<String>,
    told: Option<String>,
}

impl Given {
    /// `AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…`
    fn in_header(text: &str, headers: &HeaderMap) -> Result<Given, Refusal> {
        let (algorithm, rest) = text.split_once(' ').unwrap_or((text, ""));
        check_algorithm(algorithm)?;
        let part = |name: &str| {
            let mut parts = rest
                .split(',')
                .filter_map(|part| part.trim().split_once('='));
            parts.find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        let header = |name: &str| {
            let value = headers.get(name)?.to_str().ok()?;
            Some(value.to_owned())
        };
        let mut wrong = String::new();
        for name in ["Credential", "Signature", "SignedHeaders"] {
            if part(name).is_none() {
                wrong += &format!("Authorization header requires '{name}' parameter. ");
            }
        }
        let timestamp = match (header("x-amz-date"), headers.get(DATE)) {
            (Some(date), _) => Some(date),
            (None, Some(date)) => Some(basic(date.to_str().unwrap_or_default())),
            (None, None) => None,
        };
        if timestamp.is_none() {
            wrong += "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. ";
        }
        let (Some(credential), Some(signature), Some(signed_headers), Some(timestamp)) = (
            part("Credential"),
            part("Signature"),
            part("SignedHeaders"),
            timestamp,
        ) else {
            return Err(Refusal::Incomplete(wrong.trim_end().to_owned()));
        };
        Ok(Given {
            credential: credential.to_owned(),
            signed_headers: signed_headers.to_owned(),
            signature: bytes_of(signature)?,
            timestamp: checked_time(timestamp)?,
            expires_s: None,
            token: header("x-amz-security-token"),
            told: header("x-amz-content-sha256")
                .map(checked_digest)
                .transpose()?,
        })
    }

    fn in_query(algorithm: &str, query: &Query) -> Result<Given, Refusal> {
        check_algorithm(algorithm)?;
        let mut wrong = String::new();
        let mut required = |name: &str| {
            query.get(name).unwrap_or_else(|| {
                wrong += &format!("AWS query-string parameters must include '{name}'. ");
                String::new()
            })
        };
        let credential = required("X-Amz-Credential");
        let timestamp = required("X-Amz-Date");
        let expires = required("X-Amz-Expires");
        let signed_headers = required("X-Amz-SignedHeaders");
        let signature = required("X-Amz-Signature");
        if !wrong.is_empty() {
            return Err(Refusal::Incomplete(wrong.trim_end().to_owned()));
        }
        let expires_s = expires.parse().ok();
        let expires_s = expires_s.filter(|seconds| (1..=EXPIRES_S_MAX).contains(seconds));
        let Some(expires_s) = expires_s else {
            return Err(Refusal::Incomplete(format!(
                "X-Amz-Expires must be a number of seconds from 1 to {EXPIRES_S_MAX}."
            )));
        };
        Ok(Given {
            credential,
            signed_headers,
            signature: bytes_of(&signature)?,
            timestamp: checked_time(timestamp)?,
            expires_s: Some(expires_s),
            token: query.get("X-Amz-Security-Token"),
            told: query
                .get("X-Amz-Content-Sha256")
                .map(checked_digest)
                .transpose()?,
        })
    }
}

fn check_algorithm(algorithm: &str) -> Result<(), Refusal> {
    match algorithm == ALGORITHM {
        true => Ok(()),
        false => Err(Refusal::Incomplete(format!(
            "Unsupported AWS 'algorithm': '{algorithm}'; {ALGORITHM} is taken."
        ))),
    }
}

fn bytes_of(signature: &str) -> Result<[u8; 32], Refusal> {
    let mut bytes = [0; 32];
    if signature.len() != 64 || !signature.is_ascii() {
        return Err(Refusal::mismatch());
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        let digits = &signature[at * 2..at * 2 + 2];
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        *byte = u8::from_str_radix(digits, 16)
            .ok()
            .filter(|_| is_hex)
            .ok_or_else(Refusal::mismatch)?;
    }
    Ok(bytes)
}

fn checked_digest(told: String) -> Result<String, Refusal> {
    let is_digest = told.len() == 64
        && told
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    match is_digest {
        true => Ok(told),
        false => Err(Refusal::Invalid(format!(
            "x-amz-content-sha256 must be the SHA-256 of the body in lower-case hexadecimal digits: Lambda takes no unsigned or chunked payloads such as '{}'.",
            told.chars().take(40).collect::<String>()
        ))),
    }
}

/// `key id/20261127/us-east-1/lambda/aws4_request`
struct Scope<'a> {
    key_id: &'a str,
    date: &'a str,
    region: &'a str,
    service: &'a str,
    term: &'a str,
}

impl Scope<'_> {
    fn parse(credential: &str) -> Result<Scope<'_>, Refusal> {
        match credential.split('/').collect::<Vec<_>>().as_slice() {
            [key_id, date, region, service, term] => Ok(Scope {
                key_id,
                date,
                region,
                service,
                term,
            }),
            _ => Err(Refusal::Incomplete(format!(
                "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got '{}'",
                credential.chars().take(200).collect::<String>()
            ))),
        }
    }
}

/// The host and all that AWS's headers say must be covered; what proxies of AWS add of their own is not.
fn check_covered(signed_headers: &str, headers: &HeaderMap) -> Result<(), Refusal> {
    let is_covered = |name: &str| signed_headers.split(';').any(|covered| covered == name);
    if !is_covered("host") {
        return Err(Refusal::Invalid(
            "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.".to_owned(),
        ));
    }
    let mut names = headers.keys().map(|name| name.as_str());
    let open = names.find(|name| {
        name.starts_with("x-amz-") && !name.starts_with("x-amz-cf-") && !is_covered(name)
    });
    match open {
        Some(name) => Err(Refusal::Invalid(format!(
            "'{name}' must be a 'SignedHeader' in the AWS Authorization."
        ))),
        None => Ok(()),
    }
}

fn in_time(given: &Given, now_s: i64) -> Result<(), Refusal> {
    let at = &given.timestamp;
    let at_s = seconds(at).unwrap_or_default();
    let now = timestamp(now_s);
    let (lifetime_s, lifetime) = match given.expires_s {
        None => (WINDOW_S, format!("{} min.", WINDOW_S / 60)),
        Some(expires_s) => (expires_s, format!("{expires_s} sec.")),
    };
    let earliest_s = now_s - lifetime_s;
    if at_s < earliest_s {
        return Err(Refusal::Invalid(format!(
            "Signature expired: {at} is now earlier than {} ({now} - {lifetime})",
            timestamp(earliest_s)
        )));
    }
    let latest_s = now_s + WINDOW_S;
    if at_s > latest_s {
        return Err(Refusal::Invalid(format!(
            "Signature not yet current: {at} is still later than {} ({now} + {} min.)",
            timestamp(latest_s),
            WINDOW_S / 60
        )));
    }
    Ok(())
}

fn checked_time(text: String) -> Result<String, Refusal> {
    match seconds(&text) {
        Some(_) => Ok(text),
        None => Err(Refusal::Incomplete(format!(
            "Date must be in ISO-8601 'basic format'. Got '{}'. See http://en.wikipedia.org/wiki/ISO_8601",
            text.chars().take(40).collect::<String>()
        ))),
    }
}

/// Since 1970.
fn seconds(timestamp: &str) -> Option<i64> {
    let is_so = timestamp.len() == 16
        && timestamp.bytes().enumerate().all(|(at, byte)| match at {
            8 => byte == b'T',
            15 => byte == b'Z',
            _ => byte.is_ascii_digit(),
        });
    let parsed = NaiveDateTime::parse_from_str(timestamp, "%Y%m%dT%H%M%SZ").ok();
    parsed
        .filter(|_| is_so)
        .map(|time| time.and_utc().timestamp())
}

fn timestamp(seconds: i64) -> String {
    let time = DateTime::from_timestamp(seconds, 0).unwrap_or_default();
    time.format("%Y%m%dT%H%M%SZ").to_string()
}

/// A `Date` header in the form that is signed; what is no date stays what it is.
fn basic(date: &str) -> String {
    match DateTime::parse_from_rfc2822(date) {
        Ok(time) => timestamp(time.timestamp()),
        Err(_) => date.to_owned(),
    }
}

/// The parameters of a query, decoded.
struct Query(Vec<(Vec<u8>, Vec<u8>)>);

impl Query {
    fn of(head: &Parts) -> Query {
        Query::parse(head.uri.query().unwrap_or_default())
    }

    fn parse(text: &str) -> Query {
        let pairs = text.split('&').filter(|_| !text.is_empty());
        Query(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<String> {
        let mut found = self.0.iter().filter(|(key, _)| key == name.as_bytes());
        let (_, value) = found.next()?;
        String::from_utf8(value.clone()).ok()
    }

    fn canonical(&self, without: Option<&str>) -> String {
        let pairs = self.0.iter();
        let pairs = pairs.filter(|(name, _)| without.is_none_or(|out| name != out.as_bytes()));
        let mut pairs: Vec<_> = pairs
            .map(|(name, value)| (encode(name, b""), encode(value, b"")))
            .collect();
        pairs.sort();
        let pairs: Vec<String> = pairs
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        pairs.join("&")
    }
}

/// The signature of a request, before it is read out or verified.
fn signed(
    secret: &crate::keys::Secret,
    scope: &str,
    timestamp: &str,
    head: &[u8],
    digest: &str,
) -> Hmac<Sha256> {
    let request = [head, digest.as_bytes()].concat();
    let text = format!(
        "{ALGORITHM}\n{timestamp}\n{scope}\n{}",
        hex(&Sha256::digest(&request))
    );
    let first = format!("AWS4{}", secret.expose()).into_bytes();
    let key = scope.split('/').fold(first, |key, part| {
        mac(&key, part.as_bytes()).finalize().into_bytes().to_vec()
    });
    mac(&key, text.as_bytes())
}

fn mac(key: &[u8], text: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text);
    mac
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Who signs requests of our own client.
#[derive(Debug, Clone)]
pub struct Signer {
    pub key_id: String,
    pub secret: crate::keys::Secret,
    pub session_token: Option<crate::keys::Secret>,
    pub region: String,
}

/// A request that is to be signed.
#[derive(Debug, Clone, Copy)]
pub struct Unsigned<'a> {
    pub method: &'a str,
    /// As it is sent, encoded.
    pub path: &'a str,
    pub query: &'a str,
    /// Those that are signed beside what [`Signer::sign`] adds: `host`, and all that begin with `x-amz-`.
    pub headers: &'a [(&'a str, &'a str)],
    pub body: &'a [u8],
}

impl Signer {
    /// The headers that make it a signed request. `now_s` since 1970.
    pub fn sign(&self, request: &Unsigned<'_>, now_s: i64) -> Vec<(&'static str, String)> {
        let timestamp = timestamp(now_s);
        let digest = hex(&Sha256::digest(request.body));
        let mut added = vec![
            ("x-amz-content-sha256", digest.clone()),
            ("x-amz-date", timestamp.clone()),
        ];
        if let Some(token) = &self.session_token {
            added.push(("x-amz-security-token", token.expose().to_owned()));
        }
        let given = request.headers.iter().copied();
        let mut headers: Vec<(String, &str)> = given
            .chain(added.iter().map(|(name, value)| (*name, value.as_str())))
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .collect();
        headers.sort();
        let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        let signed_headers = names.join(";");
        let covered = canonical::Head {
            method: request.method,
            path: request.path,
            query: &Query::parse(request.query).canonical(None),
            signed_headers: &signed_headers,
        };
        let values = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()));
        let head = covered.text_of(values.collect());
        let scope = format!("{}/{}/{SERVICE}/{TERM}", &timestamp[..8], self.region);
        let signed = signed(&self.secret, &scope, &timestamp, &head, &digest);
        let signature = hex(&signed.finalize().into_bytes());
        added.push((
            "authorization",
            format!(
                "{ALGORITHM} Credential={}/{scope}, SignedHeaders={signed_headers}, Signature={signature}",
                self.key_id
            ),
        ));
        added
    }
}
