//! Events as requests, and responses as answers: AWS's payload format 2.0 of function URLs and HTTP APIs.
//!
//! An event of that format becomes the request that it tells of, and the response its answer. Any other event is posted to
//! `/` as it is; then a response of a 2xx status is the result as it is, which must be JSON or nothing. Pure.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    header::{CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HeaderName, HeaderValue, SET_COOKIE},
};
use lambic_model::Outcome;
use serde::{
    Deserialize, Serialize,
    de::{Error as _, IgnoredAny},
};

use crate::{execution, failure};

/// Of a response's body, in the message of a failure.
const SHOWN_BYTES_MAX: usize = 4 << 10;

/// How the one who asked wants to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Gateway,
    Plain,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    raw_path: String,
    #[serde(default)]
    raw_query_string: Option<String>,
    #[serde(default)]
    headers: Option<BTreeMap<String, String>>,
    #[serde(default)]
    cookies: Option<Vec<String>>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    is_base64_encoded: Option<bool>,
    request_context: Context,
}

#[derive(Deserialize)]
struct Context {
    http: Http,
}

#[derive(Deserialize)]
struct Http {
    method: String,
}

/// What tells that an event means to be of the format, right or not.
#[derive(Deserialize)]
struct Mark {
    #[serde(rename = "rawPath")]
    _raw_path: IgnoredAny,
    #[serde(rename = "requestContext")]
    _request_context: ContextMark,
}

#[derive(Deserialize)]
struct ContextMark {
    #[serde(rename = "http")]
    _http: IgnoredAny,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    status_code: u16,
    headers: BTreeMap<&'a str, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cookies: Vec<&'a str>,
    body: &'a str,
    is_base64_encoded: bool,
}

/// The request that an event stands for; the error is a failure of the event.
pub fn request(event: Bytes) -> Result<(Shape, Request<Bytes>), Outcome> {
    let is_gateway = serde_json::from_slice::<Mark>(&event).is_ok();
    if !is_gateway {
        let mut request = Request::new(event);
        *request.method_mut() = Method::POST;
        let length = HeaderValue::from(request.body().len());
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_LENGTH, length);
        return Ok((Shape::Plain, request));
    }
    let request = serde_json::from_slice::<Event>(&event).and_then(told);
    match request {
        Ok(request) => Ok((Shape::Gateway, request)),
        Err(error) => Err(failure(
            "Runtime.UnmarshalError",
            &format!("the event is no request of AWS's payload format 2.0: {error}"),
        )),
    }
}

/// The request that an event of the format tells of.
fn told(event: Event) -> Result<Request<Bytes>, serde_json::Error> {
    let wrong = |what: String| serde_json::Error::custom(what);
    let body = event.body.unwrap_or_default();
    let body = match event.is_base64_encoded {
        Some(true) => STANDARD
            .decode(&body)
            .map_err(|error| wrong(format!("its body is not base64: {error}")))?,
        _ => body.into_bytes(),
    };
    let query = event.raw_query_string.filter(|query| !query.is_empty());
    let target = match query {
        Some(query) => format!("{}?{query}", event.raw_path),
        None => event.raw_path,
    };
    if !target.starts_with('/') {
        return Err(wrong(format!("`rawPath` `{target}` begins with no slash")));
    }
    let uri: Uri = target
        .parse()
        .map_err(|error| wrong(format!("`{target}` is no path: {error}")))?;
    let method = Method::from_bytes(event.request_context.http.method.as_bytes())
        .map_err(|error| wrong(error.to_string()))?;
    let mut request = Request::new(Bytes::from(body));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    let length = request.body().len();
    let headers = request.headers_mut();
    for (name, value) in event.headers.unwrap_or_default() {
        let bad = |error: &dyn std::fmt::Display| wrong(format!("header `{name}`: {error}"));
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| bad(&error))?;
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|error| bad(&error))?;
        headers.append(name, value);
    }
    let cookies = event.cookies.unwrap_or_default();
    if !cookies.is_empty() {
        let cookies = HeaderValue::from_bytes(cookies.join("; ").as_bytes())
            .map_err(|error| wrong(format!("cookies: {error}")))?;
        headers.insert(COOKIE, cookies);
    }
    // That of the body as it is here.
    headers.remove(CONTENT_LENGTH);
    if length > 0 {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(request)
}

/// What the one who asked gets for a response.
pub fn outcome(shape: Shape, response: &Response<Bytes>) -> Outcome {
    match shape {
        Shape::Gateway => gateway(response),
        Shape::Plain => plain(response),
    }
}

fn gateway(response: &Response<Bytes>) -> Outcome {
    let mut headers: BTreeMap<&str, String> = BTreeMap::new();
    let mut cookies = Vec::new();
    for (name, value) in response.headers() {
        let Ok(value) = std::str::from_utf8(value.as_bytes()) else {
            return failure(
                "Runtime.MarshalError",
                &format!("header `{name}` of the response is not UTF-8 text"),
            );
        };
        if name == SET_COOKIE {
            cookies.push(value);
            continue;
        }
        match headers.get_mut(name.as_str()) {
            Some(former) => {
                former.push(',');
                former.push_str(value);
            }
            None => {
                headers.insert(name.as_str(), value.to_owned());
            }
        }
    }
    let encoded;
    let text = std::str::from_utf8(response.body());
    let answer = Answer {
        status_code: response.status().as_u16(),
        headers,
        cookies,
        is_base64_encoded: text.is_err(),
        body: match text {
            Ok(text) => text,
            Err(_) => {
                encoded = STANDARD.encode(response.body());
                &encoded
            }
        },
    };
    let answer = serde_json::to_vec(&answer).expect("texts and numbers serialise");
    if answer.len() > execution::RESPONSE_BYTES_MAX {
        return execution::response_too_large();
    }
    Outcome::Success(answer)
}

fn plain(response: &Response<Bytes>) -> Outcome {
    let (status, body) = (response.status(), response.body());
    if !status.is_success() {
        return refused(status, body);
    }
    if body.trim_ascii().is_empty() {
        return Outcome::Success(b"null".to_vec());
    }
    // What is skipped in JSON is not looked at: texts that are not UTF-8 would pass.
    let is_json = std::str::from_utf8(body)
        .is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
    match is_json {
        true => Outcome::Success(body.to_vec()),
        false => failure(
            "Runtime.MarshalError",
            "the response to an event that is no request must be JSON",
        ),
    }
}

fn refused(status: StatusCode, body: &Bytes) -> Outcome {
    let shown = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES_MAX)]);
    let shown = shown.trim();
    let message = match shown.is_empty() {
        true => status.to_string(),
        false => format!("{status}: {shown}"),
    };
    let is_error = serde_json::from_slice::<serde_json::Value>(body)
        .is_ok_and(|error| error.get("errorType").is_some_and(|kind| kind.is_string()));
    match is_error {
        true => execution::reported(body.to_vec(), "HandlerError"),
        false => failure("HandlerError", &message),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check_request(event: &str, expected: Expect) {
        let found = match request(Bytes::copy_from_slice(event.as_bytes())) {
            Ok((shape, request)) => {
                let mut text = format!("{shape:?} {} {}\n", request.method(), request.uri());
                for (name, value) in request.headers() {
                    let value = String::from_utf8_lossy(value.as_bytes());
                    text.push_str(&format!("{name}: {value}\n"));
                }
                text.push_str(&String::from_utf8_lossy(request.body()));
                text
            }
            Err(Outcome::Failure { payload, .. }) => String::from_utf8(payload).unwrap(),
            Err(Outcome::Success(_)) => unreachable!("an error is a failure"),
        };
        expected.assert_eq(&found);
    }

    #[test]
    fn events_become_requests() {
        check_request(
            r#"{"version": "2.0", "rawPath": "/a/b%20c", "rawQueryString": "x=1&y=%2F", "cookies": ["a=1", "b=2"],
                "headers": {"Host": "f.example", "X-Many": "1,2"}, "body": "aMOk", "isBase64Encoded": true,
                "requestContext": {"http": {"method": "PUT", "path": "/a/b c"}}}"#,
            expect![[r#"
                Gateway PUT /a/b%20c?x=1&y=%2F
                host: f.example
                x-many: 1,2
                cookie: a=1; b=2
                content-length: 3
                hä"#]],
        );
        check_request(
            r#"{"rawPath": "/", "rawQueryString": "", "headers": {"content-length": "7"},
                "requestContext": {"http": {"method": "GET"}}}"#,
            expect![[r#"
                Gateway GET /
            "#]],
        );
        check_request(
            r#"{"rawPath": "/no request"}"#,
            expect![[r#"
                Plain POST /
                content-type: application/json
                content-length: 26
                {"rawPath": "/no request"}"#]],
        );
        check_request(
            "not json",
            expect![[r#"
                Plain POST /
                content-type: application/json
                content-length: 8
                not json"#]],
        );
    }

    #[test]
    fn what_means_to_be_a_request_and_is_none_is_refused() {
        for (members, expected) in [
            (
                r#""rawPath": 1"#,
                expect![[
                    r#"{"errorMessage":"the event is no request of AWS's payload format 2.0: invalid type: integer `1`, expected a string at line 1 column 13","errorType":"Runtime.UnmarshalError"}"#
                ]],
            ),
            (
                r#""rawPath": "a""#,
                expect![[
                    r#"{"errorMessage":"the event is no request of AWS's payload format 2.0: `rawPath` `a` begins with no slash","errorType":"Runtime.UnmarshalError"}"#
                ]],
            ),
            (
                r#""rawPath": "/a b""#,
                expect![[
                    r#"{"errorMessage":"the event is no request of AWS's payload format 2.0: `/a b` is no path: invalid uri character","errorType":"Runtime.UnmarshalError"}"#
                ]],
            ),
            (
                r#""rawPath": "/", "headers": {"a b": "c"}"#,
                expect![[
                    r#"{"errorMessage":"the event is no request of AWS's payload format 2.0: header `a b`: invalid HTTP header name","errorType":"Runtime.UnmarshalError"}"#
                ]],
            ),
            (
                r#""rawPath": "/", "headers": {"a": "b\nc"}"#,
                expect![[
                    r#"{"errorMessage":"the event is no request of AWS's payload format 2.0: header `a`: failed to parse header value","errorType":"Runtime.UnmarshalError"}"#
                ]],
            ),
            (
                r#""rawPath": "/", "body": "!!!!", "isBase64Encoded": true"#,
                expect![[
                    r#"{"errorMessage":"the event is no request of AWS's payload format 2.0: its body is not base64: Invalid symbol 33, offset 0.","errorType":"Runtime.UnmarshalError"}"#
                ]],
            ),
        ] {
            let context = r#""requestContext": {"http": {"method": "GET"}}"#;
            check_request(&format!("{{{members}, {context}}}"), expected);
        }
    }

    fn check_outcome(shape: Shape, response: Response<Bytes>, expected: Expect) {
        let found = match outcome(shape, &response) {
            Outcome::Success(answer) => String::from_utf8(answer).unwrap(),
            Outcome::Failure { payload, .. } => {
                format!("failed {}", String::from_utf8(payload).unwrap())
            }
        };
        expected.assert_eq(&found);
    }

    fn response(status: u16, headers: &[(&str, &[u8])], body: &[u8]) -> Response<Bytes> {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        response.body(Bytes::copy_from_slice(body)).unwrap()
    }

    #[test]
    fn responses_become_answers_of_the_format() {
        check_outcome(
            Shape::Gateway,
            response(
                201,
                &[
                    ("content-type", b"text/plain"),
                    ("set-cookie", b"a=1; Path=/"),
                    ("x", b"1"),
                    ("set-cookie", b"b=2"),
                    ("x", b"2"),
                ],
                "hä\n".as_bytes(),
            ),
            expect![[
                r#"{"statusCode":201,"headers":{"content-type":"text/plain","x":"1,2"},"cookies":["a=1; Path=/","b=2"],"body":"hä\n","isBase64Encoded":false}"#
            ]],
        );
        check_outcome(
            Shape::Gateway,
            response(500, &[], b"\xff\0"),
            expect![[r#"{"statusCode":500,"headers":{},"body":"/wA=","isBase64Encoded":true}"#]],
        );
        check_outcome(
            Shape::Gateway,
            response(200, &[("x", b"\xff")], b""),
            expect![[
                r#"failed {"errorMessage":"header `x` of the response is not UTF-8 text","errorType":"Runtime.MarshalError"}"#
            ]],
        );
        let large = vec![b'\n'; execution::RESPONSE_BYTES_MAX / 2];
        check_outcome(
            Shape::Gateway,
            response(200, &[], &large),
            expect![[
                r#"failed {"errorMessage":"Response payload size exceeded maximum allowed payload size (6291556 bytes).","errorType":"Function.ResponseSizeTooLarge"}"#
            ]],
        );
    }

    #[test]
    fn responses_to_plain_events_are_results() {
        for (status, body, expected) in [
            (200, &b"{\"a\": 1}"[..], expect![[r#"{"a": 1}"#]]),
            (204, b"", expect!["null"]),
            (
                200,
                b"hello",
                expect![[
                    r#"failed {"errorMessage":"the response to an event that is no request must be JSON","errorType":"Runtime.MarshalError"}"#
                ]],
            ),
            (
                200,
                b"\"\xff\"",
                expect![[
                    r#"failed {"errorMessage":"the response to an event that is no request must be JSON","errorType":"Runtime.MarshalError"}"#
                ]],
            ),
            (
                404,
                b"no such page\n",
                expect![[
                    r#"failed {"errorMessage":"404 Not Found: no such page","errorType":"HandlerError"}"#
                ]],
            ),
            (
                302,
                b"",
                expect![[r#"failed {"errorMessage":"302 Found","errorType":"HandlerError"}"#]],
            ),
            (
                500,
                b"{\"errorType\": \"Mine\", \"errorMessage\": \"no\"}",
                expect![[r#"failed {"errorType": "Mine", "errorMessage": "no"}"#]],
            ),
        ] {
            check_outcome(Shape::Plain, response(status, &[], body), expected);
        }
    }
}
