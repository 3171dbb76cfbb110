//! Who may use this door.
//!
//! Without keys everybody may who reaches it, which is this machine only. With keys a request says whose it is: it is
//! signed as AWS's are ([`sigv4`]), which sends no secret, or has a key's id and secret as user and password (HTTP
//! Basic), which browsers, curl and Prometheus do. Functions' own URLs have rules of their own.

use std::sync::Arc;

use axum::{
    body::{Body, HttpBody},
    extract::{Request, State},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{AUTHORIZATION, WWW_AUTHENTICATE},
        request::Parts,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::prelude::{BASE64_STANDARD, Engine as _};

use super::{
    App, Shared,
    body::Unread,
    error::Failure,
    functions,
    lambda::{
        self, AwsError,
        sigv4::{self, Claim, Refusal},
    },
    server::Peer,
};
use crate::keys::{Key, Keys};

/// A body above this is digested on a thread where it holds nobody up.
const INLINE_BYTES_MAX: usize = 256 << 10;

/// Whose request it is.
#[derive(Debug, Clone)]
pub struct Caller {
    pub key: Arc<Key>,
    /// For which it is signed.
    pub region: Option<String>,
}

/// Why a request goes no further.
pub enum Refused {
    Signature(Refusal),
    /// Its body, which the signature covers, did not come within this many bytes.
    Body(Unread, usize),
    /// In AWS's form.
    NotAllowed(AwsError),
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        Refused::Signature(refusal)
    }
}

/// Lets those through who show a key, and leaves the [`Caller`] with the request.
pub async fn authenticate(State(app): Shared, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if app.options.keys.is_empty() || is_open(path) {
        return next.run(request).await;
    }
    let is_aws = lambda::is_aws_path(path);
    let peer = request.extensions().get::<Peer>().copied();
    let refused = match admitted(&app, request, is_aws).await {
        Ok(request) => return next.run(request).await,
        Err(refused) => refused,
    };
    slow_down(&app, peer, &refused).await;
    match is_aws {
        true => AwsError::from(refused).into_response(),
        false => as_own(refused),
    }
}

/// Before a caller is told that what it showed is wrong. Who shows nothing tries nothing: browsers begin so.
pub async fn slow_down(app: &App, peer: Option<Peer>, refused: &Refused) {
    let is_try = match refused {
        Refused::Signature(refusal) => *refusal != Refusal::Missing,
        Refused::Body(..) | Refused::NotAllowed(_) => false,
    };
    if let Some(Peer(address)) = peer
        && is_try
    {
        app.refusals.turn(address).await;
    }
}

/// Whether a path takes everybody: is the server up; what is found only by those who know its digest or id.
fn is_open(path: &str) -> bool {
    path == "/health" || path.starts_with("/v1/code/") || lambda::is_function_url(path)
}

async fn admitted(app: &App, request: Request, is_aws: bool) -> Result<Request, Refused> {
    let (mut head, body) = request.into_parts();
    let (caller, body) = match sigv4::is_signed(&head) {
        true => {
            let bytes_max = match is_aws {
                true => lambda::body_bytes_max(head.uri.path()),
                false => app.options.append_bytes_max.max(functions::BODY_BYTES_MAX),
            };
            verified(app, &head, body, bytes_max).await?
        }
        false => {
            let key = basic(&app.options.keys, &head.headers)?;
            (Caller { key, region: None }, body)
        }
    };
    match is_aws {
        true => lambda::authorize(app, &caller.key, &mut head)
            .await
            .map_err(Refused::NotAllowed)?,
        false if caller.key.is_ours() => {}
        false => {
            return Err(Refused::NotAllowed(lambda::not_ours(&caller.key)));
        }
    }
    head.extensions.insert(caller);
    Ok(Request::from_parts(head, body))
}

/// Verifies a signature, for which the body is read; it is given back to be read again.
pub async fn verified(
    app: &App,
    head: &Parts,
    body: Body,
    bytes_max: usize,
) -> Result<(Caller, Body), Refused> {
    let now_s = lambda::now_us() / 1_000_000;
    let claim = Claim::read(&app.options.keys, head, now_s)?;
    claim.check_head()?;
    let caller = Caller {
        key: Arc::clone(&claim.key),
        region: Some(claim.region.clone()),
    };
    if body.is_end_stream() {
        claim.check_body(b"")?;
        return Ok((caller, body));
    }
    let read = app.bounds.read_ahead(body, &head.headers, bytes_max).await;
    let held = read.map_err(|unread| Refused::Body(unread, bytes_max))?;
    let is_large = held.bytes.len() > INLINE_BYTES_MAX;
    let check = move || claim.check_body(&held.bytes).map(|()| held);
    let held = match is_large {
        true => tokio::task::spawn_blocking(check)
            .await
            .map_err(|_| Refused::Body(Unread::Busy, bytes_max))?,
        false => check(),
    }?;
    Ok((caller, held.into_body()))
}

/// The key whose id and secret are sent as user and password.
fn basic(keys: &Keys, headers: &HeaderMap) -> Result<Arc<Key>, Refusal> {
    if !headers.contains_key(AUTHORIZATION) {
        return Err(Refusal::Missing);
    }
    let (user, password) = user_and_password(headers).ok_or_else(|| {
        Refusal::Incomplete(
            "Authorization must be a signature (AWS4-HMAC-SHA256), or Basic with a key's id and secret.".to_owned(),
        )
    })?;
    let key = keys.get(&user).filter(|key| key.opens_with(&password));
    key.cloned().ok_or(Refusal::UnknownKey)
}

fn user_and_password(headers: &HeaderMap) -> Option<(String, String)> {
    let text = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = BASE64_STANDARD.decode(encoded.trim()).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// Takes a key out of a request that goes on to a function. Browsers send what they were once asked for to all paths of
/// this server.
pub fn strip(keys: &Keys, headers: &mut HeaderMap) {
    let is_key = user_and_password(headers).is_some_and(|(user, _)| keys.get(&user).is_some());
    if is_key {
        headers.remove(AUTHORIZATION);
    }
}

impl From<Refused> for AwsError {
    fn from(refused: Refused) -> AwsError {
        match refused {
            Refused::Signature(refusal) => AwsError::from(refusal),
            Refused::Body(unread, bytes_max) => AwsError::unread(unread, || {
                AwsError::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "RequestEntityTooLargeException",
                    format!("Request must be smaller than {bytes_max} bytes"),
                )
            }),
            Refused::NotAllowed(error) => error,
        }
    }
}

fn as_own(refused: Refused) -> Response {
    let unauthorized = |message: String| {
        let failure = Failure::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
            .with_hint("send a key's id and secret as user and password (curl -u), or sign the request (AWS4-HMAC-SHA256, service lambda); the CLI takes LAMBIC_ACCESS_KEY_ID and LAMBIC_SECRET_ACCESS_KEY");
        let mut response = failure.into_response();
        // Browsers ask for user and password then.
        response.headers_mut().insert(
            WWW_AUTHENTICATE,
            HeaderValue::from_static("Basic realm=\"Lambic\", charset=\"UTF-8\""),
        );
        response
    };
    match refused {
        Refused::Signature(Refusal::Missing) => {
            unauthorized("this server takes requests with a key only".to_owned())
        }
        Refused::Signature(Refusal::UnknownKey) => unauthorized(
            "the key is not known here, or its secret or session token is another".to_owned(),
        ),
        Refused::Signature(Refusal::Incomplete(why) | Refusal::Invalid(why)) => unauthorized(why),
        Refused::Body(unread, bytes_max) => {
            let too_large = || {
                let message = format!("the body is over the limit of {bytes_max} bytes");
                Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
            };
            unread.into_failure(too_large).into_response()
        }
        Refused::NotAllowed(error) => {
            Failure::new(StatusCode::FORBIDDEN, "forbidden", error.message).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Secret;

    fn with(authorization: &str) -> HeaderMap {
        let value = HeaderValue::from_str(authorization).unwrap();
        [(AUTHORIZATION, value)].into_iter().collect()
    }

    fn encoded(text: &str) -> String {
        format!("Basic {}", BASE64_STANDARD.encode(text))
    }

    #[test]
    fn a_key_is_read_from_user_and_password() {
        let keys = Keys::new([Key::new("AKID", Secret::new("se:cret"), None, None)]);
        let read = |text: &str| basic(&keys, &with(text)).map(|key| key.id.clone());
        assert_eq!(read(&encoded("AKID:se:cret")).unwrap(), "AKID");
        assert!(read(&encoded("AKID:se:cret").replace("Basic", "bAsIc")).is_ok());
        for (text, refusal) in [
            (encoded("AKID:secret"), Refusal::UnknownKey),
            (encoded("AKID:"), Refusal::UnknownKey),
            (encoded("other:se:cret"), Refusal::UnknownKey),
        ] {
            assert_eq!(read(&text).unwrap_err(), refusal, "{text}");
        }
        for text in [&encoded("AKID"), "Basic ?", "Basic", "Bearer x", ""] {
            let refusal = read(text).unwrap_err();
            assert!(
                matches!(refusal, Refusal::Incomplete(_)),
                "{text}: {refusal:?}"
            );
        }
        let none = basic(&keys, &HeaderMap::new());
        assert_eq!(none.unwrap_err(), Refusal::Missing);
    }

    #[test]
    fn functions_see_no_keys() {
        let keys = Keys::new([Key::new("AKID", Secret::new("secret"), None, None)]);
        for (text, is_kept) in [
            (encoded("AKID:secret"), false),
            (encoded("AKID:wrong"), false),
            (encoded("alice:secret"), true),
            ("Bearer x".to_owned(), true),
        ] {
            let mut headers = with(&text);
            strip(&keys, &mut headers);
            assert_eq!(headers.contains_key(AUTHORIZATION), is_kept, "{text}");
        }
    }

    #[test]
    fn only_what_is_found_by_its_name_is_open() {
        for (path, expected) in [
            ("/health", true),
            ("/lambda-url/0123/x", true),
            ("/v1/code/0123.zip", true),
            ("/", false),
            ("/metrics", false),
            ("/v1/sql", false),
            ("/v1/codes", false),
            ("/2015-03-31/functions", false),
            ("/nowhere", false),
        ] {
            assert_eq!(is_open(path), expected, "{path}");
        }
    }
}
