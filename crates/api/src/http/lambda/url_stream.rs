//! What a function streams to its URL, as an HTTP response that goes out as it comes.
//!
//! Status and headers stand before the body where its content type says so: a prelude of JSON, then 8 NUL bytes. Without
//! it the answer is 200 with the stream's content type. The answer of a function that does not stream is a body as it is.
//! A component of HTTP has said status and headers by itself.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use lambic_functions::{Chunk, Streamed};
use serde_json::Value;

use super::url_answer::{OF_THE_CONNECTION, head};

const WITH_PRELUDE: &str = "application/vnd.awslambda.http-integration-response";
const PRELUDE_END: [u8; 8] = [0; 8];
/// AWS's API Gateway takes as much.
const PRELUDE_BYTES_MAX: usize = 16 << 10;
const CONTENT_TYPE_DEFAULT: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// `None`: there is nothing to answer with, as it failed before its first bytes or they cannot begin a response.
pub async fn reply(mut streamed: Streamed) -> Option<Response> {
    if let Some((status, mut headers)) = streamed.head.take() {
        for name in &OF_THE_CONNECTION {
            headers.remove(name);
        }
        return Some(made(status, headers, Bytes::new(), streamed));
    }
    let content_type = streamed.content_type.clone();
    match content_type.as_deref() {
        Some(WITH_PRELUDE) => {
            let (status, headers, first) = after_prelude(&mut streamed).await?;
            Some(made(status, headers, first, streamed))
        }
        content_type => {
            // Its answer is JSON.
            let content_type = content_type.unwrap_or("application/json");
            let content_type = HeaderValue::from_str(content_type).unwrap_or(CONTENT_TYPE_DEFAULT);
            let headers = [(header::CONTENT_TYPE, content_type)].into_iter().collect();
            let first = match streamed.next().await? {
                Chunk::Bytes(first) => first,
                Chunk::End(Ok(result)) if result.is_success() => Bytes::new(),
                Chunk::End(_failed) => return None,
            };
            Some(made(StatusCode::OK, headers, first, streamed))
        }
    }
}

fn made(status: StatusCode, headers: HeaderMap, first: Bytes, streamed: Streamed) -> Response {
    let first = stream::iter((!first.is_empty()).then_some(Ok(first)));
    let body = Body::from_stream(first.chain(rest(streamed)));
    let mut response = (status, body).into_response();
    *response.headers_mut() = headers;
    response
}

/// A failure breaks the connection, so that nobody takes what has come for all of it.
fn rest(streamed: Streamed) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static {
    stream::unfold(streamed, |mut streamed| async move {
        match streamed.next().await? {
            Chunk::Bytes(bytes) => Some((Ok(bytes), streamed)),
            Chunk::End(Ok(result)) if result.is_success() => None,
            Chunk::End(_failed) => {
                // What came before goes out first; an error at once would take it along.
                tokio::task::yield_now().await;
                let failed = std::io::Error::other("the function failed in its response");
                Some((Err(failed), streamed))
            }
        }
    })
}

/// Status, headers, and what came of the body with them.
async fn after_prelude(streamed: &mut Streamed) -> Option<(StatusCode, HeaderMap, Bytes)> {
    let mut came = BytesMut::new();
    loop {
        let Chunk::Bytes(bytes) = streamed.next().await? else {
            return None;
        };
        came.extend_from_slice(&bytes);
        match parted(&came) {
            Parted::Yes(at) => {
                let prelude = came.split_to(at).freeze();
                let body = came.freeze().slice(PRELUDE_END.len()..);
                let (status, headers) = of_prelude(&prelude)?;
                return Some((status, headers, body));
            }
            Parted::NotYet => {}
            Parted::Never => return None,
        }
    }
}

#[derive(Debug, PartialEq)]
enum Parted {
    /// The prelude has so many bytes.
    Yes(usize),
    NotYet,
    /// It is too long.
    Never,
}

fn parted(came: &[u8]) -> Parted {
    let end = came
        .windows(PRELUDE_END.len())
        .position(|window| window == PRELUDE_END);
    match end {
        Some(at) if at <= PRELUDE_BYTES_MAX => Parted::Yes(at),
        None if came.len() < PRELUDE_BYTES_MAX + PRELUDE_END.len() => Parted::NotYet,
        _ => Parted::Never,
    }
}

/// A prelude may leave everything out.
fn of_prelude(prelude: &[u8]) -> Option<(StatusCode, HeaderMap)> {
    let mut prelude: Value = serde_json::from_slice(prelude).ok()?;
    let members = prelude.as_object_mut()?;
    members.entry("statusCode").or_insert_with(|| 200.into());
    let (status, mut headers) = head(&prelude)?;
    headers
        .entry(header::CONTENT_TYPE)
        .or_insert(CONTENT_TYPE_DEFAULT);
    Some((status, headers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prelude_ends_with_eight_nuls() {
        for (came, expected) in [
            (&b""[..], Parted::NotYet),
            (b"{}", Parted::NotYet),
            (b"{}\0\0\0\0\0\0\0", Parted::NotYet),
            (b"{}\0\0\0\0\0\0\0\0", Parted::Yes(2)),
            (b"{}\0\0\0\0\0\0\0\0body\0\0\0\0\0\0\0\0", Parted::Yes(2)),
            (b"\0\0\0\0\0\0\0\0", Parted::Yes(0)),
        ] {
            assert_eq!(parted(came), expected, "{came:?}");
        }
        let mut long = vec![b' '; PRELUDE_BYTES_MAX];
        long.extend(PRELUDE_END);
        assert_eq!(parted(&long[..long.len() - 1]), Parted::NotYet);
        assert_eq!(parted(&long), Parted::Yes(PRELUDE_BYTES_MAX));
        long.insert(0, b' ');
        assert_eq!(parted(&long), Parted::Never);
        assert_eq!(parted(&long[..long.len() - 1]), Parted::Never);
    }

    #[test]
    fn a_prelude_says_status_and_headers() {
        let (status, headers) = of_prelude(
            br#"{"statusCode": 201, "headers": {"X-A": "1", "Content-Length": "9"}, "cookies": ["a=1", "b=2"]}"#,
        )
        .unwrap();
        assert_eq!(status, StatusCode::CREATED);
        assert_eq!(headers["x-a"], "1");
        assert_eq!(headers["content-type"], "application/octet-stream");
        assert!(!headers.contains_key("content-length"));
        let cookies: Vec<_> = headers.get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["a=1", "b=2"]);
        let (status, headers) =
            of_prelude(br#"{"headers": {"content-type": "text/html"}}"#).unwrap();
        assert_eq!(status, StatusCode::OK);
        assert_eq!(headers["content-type"], "text/html");
        for bad in [
            "",
            "[]",
            "{",
            r#"{"statusCode": 99}"#,
            r#"{"headers": {"a b": ""}}"#,
        ] {
            assert!(of_prelude(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
