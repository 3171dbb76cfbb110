//! What comes in: JSON bodies as typed requests, and the members of a query.

use std::{convert::Infallible, fmt};

use axum::{
    body::Body,
    extract::FromRequestParts,
    http::{HeaderMap, StatusCode, Uri, header::HOST, request::Parts},
};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use lambic_functions::Error;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Visitor},
};
use serde_json::{Value, error::Category};
use url::form_urlencoded;

use super::{
    super::{App, body::Held, server::Secured},
    error::AwsError,
};

/// AWS's, of a request that carries a zip.
pub const CODE_REQUEST_BYTES_MAX: usize = 70_167_211;
/// Of all others.
pub const REQUEST_BYTES_MAX: usize = 1 << 20;
/// A body above this is read on a thread where it holds nobody up.
const INLINE_BYTES_MAX: usize = 64 << 10;

/// Reads a body as a request; none at all counts as `{}`.
pub async fn read<T: DeserializeOwned + Send + 'static>(
    app: &App,
    headers: &HeaderMap,
    body: Body,
    bytes_max: usize,
    operation: &'static str,
) -> Result<T, AwsError> {
    let body = app.bounds.read(body, headers, bytes_max).await;
    let body = body.map_err(|unread| {
        AwsError::unread(unread, || {
            AwsError::too_large("RequestEntityTooLargeException", bytes_max, operation)
        })
    })?;
    if body.bytes.len() <= INLINE_BYTES_MAX {
        return parse(&body);
    }
    let parsed = tokio::task::spawn_blocking(move || parse(&body)).await;
    parsed.unwrap_or_else(|_| Err(AwsError::from(Error::Closed)))
}

fn parse<T: DeserializeOwned>(body: &Held) -> Result<T, AwsError> {
    parse_bytes(&body.bytes)
}

fn parse_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, AwsError> {
    let bytes = match bytes {
        [] => b"{}".as_slice(),
        bytes => bytes,
    };
    serde_json::from_slice(bytes).map_err(|error| match error.classify() {
        Category::Data => mistaken(&error),
        _ => AwsError::bad_content(format!("Could not parse request body into json: {error}")),
    })
}

/// A request that came within another one.
pub fn of_value<T: DeserializeOwned>(value: Value) -> Result<T, AwsError> {
    serde_json::from_value(value).map_err(|error| mistaken(&error))
}

/// JSON that is not of the shape that is wanted.
fn mistaken(error: &serde_json::Error) -> AwsError {
    AwsError::new(
        StatusCode::BAD_REQUEST,
        "SerializationException",
        error.to_string(),
    )
}

/// Bytes that are base64 in JSON.
#[derive(Default)]
pub struct Blob(pub Vec<u8>);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Blob, D::Error> {
        struct Decode;

        impl Visitor<'_> for Decode {
            type Value = Blob;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("base64")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Blob, E> {
                BASE64_STANDARD.decode(text).map(Blob).map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Decode)
    }
}

/// The members of a query, decoded.
#[derive(Debug, Clone, Default)]
pub struct Questions(Vec<(String, String)>);

impl Questions {
    pub fn of(uri: &Uri) -> Questions {
        let query = uri.query().unwrap_or_default();
        let pairs = form_urlencoded::parse(query.as_bytes()).into_owned();
        Questions(pairs.collect())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        let mut found = self.0.iter().filter(|(key, _)| key == name);
        found.next().map(|(_, value)| value.as_str())
    }

    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let found = self.0.iter().filter(move |(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn take(self, name: &str) -> Option<String> {
        let mut found = self.0.into_iter().filter(|(key, _)| key == name);
        found.next().map(|(_, value)| value)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Questions {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Questions, Infallible> {
        Ok(Questions::of(&parts.uri))
    }
}

/// How the caller reaches this server: the beginning of URLs that are handed out.
#[derive(Debug, Clone)]
pub struct Base(pub String);

impl Base {
    pub fn of(headers: &HeaderMap, is_secured: bool) -> Base {
        let host = headers.get(HOST).and_then(|value| value.to_str().ok());
        let host = host.unwrap_or("localhost");
        Base(format!("{}://{host}", scheme(is_secured)))
    }

    /// Where a zip that was uploaded can be fetched.
    pub fn code(&self, sha256: &str) -> String {
        format!("{}/v1/code/{sha256}.zip", self.0)
    }
}

/// How the caller sees the request, which came encrypted or not.
pub fn scheme(is_secured: bool) -> &'static str {
    match is_secured {
        true => "https",
        false => "http",
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Base {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Base, Infallible> {
        let is_secured = parts.extensions.get::<Secured>().is_some();
        Ok(Base::of(&parts.headers, is_secured))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Sample {
        zip_file: Option<Blob>,
        timeout: Option<i64>,
    }

    #[test]
    fn bodies_are_read_as_requests() {
        let read = |text: &str| parse_bytes::<Sample>(text.as_bytes());
        let sample = read(r#"{"ZipFile": "UEs\u003d", "Timeout": null, "Other": 1}"#).unwrap();
        assert_eq!(sample.zip_file.unwrap().0, b"PK");
        assert_eq!(sample.timeout, None);
        assert!(read("").unwrap().zip_file.is_none());
        for (text, kind) in [
            ("{", "InvalidRequestContentException"),
            (r#"{"Timeout": "3"}"#, "SerializationException"),
            (r#"{"ZipFile": "?"}"#, "SerializationException"),
        ] {
            assert_eq!(read(text).unwrap_err().kind, kind, "{text}");
        }
    }

    #[test]
    fn urls_begin_as_the_caller_reaches_the_server() {
        let base = |headers: &[(&'static str, &'static str)]| {
            let headers = headers.iter().map(|(name, value)| {
                let (name, value) = (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                );
                (name, value)
            });
            let headers: HeaderMap = headers.collect();
            let secured = Base::of(&headers, true).0;
            assert!(secured.starts_with("https://"), "{secured}");
            Base::of(&headers, false).0
        };
        assert_eq!(base(&[("host", "h:7070")]), "http://h:7070");
        // What clients say is not believed; what a proxy says is told with the request.
        assert_eq!(
            base(&[("host", "lambic.example"), ("x-forwarded-proto", "https")]),
            "http://lambic.example"
        );
        assert_eq!(base(&[]), "http://localhost");
    }

    #[test]
    fn queries_are_decoded() {
        let uri = "/x?tagKeys=a%20b&tagKeys=c&Marker=".parse().unwrap();
        let questions = Questions::of(&uri);
        assert_eq!(questions.all("tagKeys").collect::<Vec<_>>(), ["a b", "c"]);
        assert_eq!(questions.get("Marker"), Some(""));
        assert_eq!(questions.get("MaxItems"), None);
    }
}
