//! A request at the URL of a component of HTTP: the component gets it as it is, and its response goes back so.
//!
//! What stands before the path of the URL is taken off, and the headers that AWS adds are added. A body is here before the
//! function has its turn, so that a client that sends slowly takes nobody's place. One whose length nobody knows may come
//! while the function answers, where it answers in parts; such a client must not be waited for too long.

use std::time::Duration;

use axum::{
    body::{Body, HttpBody},
    http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, request::Parts},
    response::Response,
};
use bytes::Bytes;
use lambic_functions::{Chosen, Error, HttpRequest, HttpResponse, RequestBody};

use super::{
    super::{
        App,
        server::{Peer, Secured},
    },
    answer::{REQUEST_ID, TRACE_ID, put},
    request::scheme,
    url_answer::OF_THE_CONNECTION,
    url_body::{Bounded, IsOver},
    url_door::{internal, refused, too_large},
    url_event, url_stream,
};

/// How long a function that has its place waits for its caller, who sends nothing.
const WAIT_MAX: Duration = Duration::from_secs(10);

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// `path` is what stands behind the URL, with a slash. The error is of a function that did not run.
pub async fn answer(
    app: &App,
    chosen: Chosen,
    is_streamed: bool,
    path: &str,
    head: Parts,
    body: Body,
    trace_id: &HeaderValue,
) -> Result<Response, Error> {
    let is_over = IsOver::default();
    let body = match bounded(app, &head, body, is_streamed, &is_over).await {
        Ok(body) => body,
        Err(refused) => return Ok(*refused),
    };
    let request = request(path, head, body, trace_id);
    let trace_id = trace_id.to_str().ok().map(str::to_owned);
    let (request_id, response) = match is_streamed {
        true => {
            let streamed = chosen.serve_streamed(request, trace_id).await?;
            let request_id = streamed.request_id.clone();
            (request_id, url_stream::reply(streamed).await)
        }
        false => {
            let served = chosen.serve(request, trace_id).await?;
            (served.result.request_id, served.response.map(whole))
        }
    };
    let mut response = match response {
        // Whatever the function made of the part that it saw.
        _ if is_over.get() => refused_as_too_large(),
        Some(response) => response,
        // The caller is not told what went wrong inside.
        None => internal(),
    };
    put(&mut response, REQUEST_ID, &request_id);
    Ok(response)
}

/// The body within its bounds, or the answer if it is not taken.
async fn bounded(
    app: &App,
    head: &Parts,
    body: Body,
    is_streamed: bool,
    is_over: &IsOver,
) -> Result<RequestBody, Box<Response>> {
    if body.is_end_stream() {
        return Ok(RequestBody::Whole(Bytes::new()));
    }
    let bytes_max = app.services.functions.payload_bytes_max();
    match body.size_hint().exact() {
        Some(bytes) if bytes > bytes_max as u64 => Err(Box::new(refused_as_too_large())),
        None if is_streamed => {
            let body = Bounded::new(body, bytes_max, WAIT_MAX, is_over.clone());
            Ok(RequestBody::coming(body))
        }
        _ => match app.bounds.read(body, &head.headers, bytes_max).await {
            Ok(held) => Ok(RequestBody::Whole(Bytes::from_owner(held))),
            Err(unread) => {
                let failure = unread.into_failure(too_large);
                let kind = "RequestTooLargeException";
                Err(Box::new(refused(failure.status, kind, &failure.message)))
            }
        },
    }
}

fn refused_as_too_large() -> Response {
    let failure = too_large();
    refused(failure.status, "RequestTooLargeException", &failure.message)
}

/// As the component sees it.
fn request(path: &str, head: Parts, body: RequestBody, trace_id: &HeaderValue) -> HttpRequest {
    let peer = head.extensions.get::<Peer>().copied();
    let is_secured = head.extensions.get::<Secured>().is_some();
    let uri = target(&head.uri, path);
    let mut headers = head.headers;
    add_forwarded(&mut headers, &url_event::source(peer), is_secured);
    headers.insert(TRACE_ID, trace_id.clone());
    let mut request = Request::new(body);
    *request.method_mut() = head.method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    request
}

fn target(uri: &Uri, path: &str) -> Uri {
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    // It is a part of one.
    Uri::try_from(target).unwrap_or_else(|_| Uri::from_static("/"))
}

/// What the client says of them itself is not passed on.
fn add_forwarded(headers: &mut HeaderMap, source: &str, is_secured: bool) {
    let proto = scheme(is_secured);
    let port = HeaderValue::from_str(url_event::port(headers, proto));
    let source = HeaderValue::from_str(source);
    for (name, value) in [(FORWARDED_FOR, source), (FORWARDED_PORT, port)] {
        match value {
            Ok(value) => drop(headers.insert(name, value)),
            Err(_) => drop(headers.remove(name)),
        }
    }
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(proto));
}

fn whole(response: HttpResponse) -> Response {
    let (mut head, body) = response.into_parts();
    for name in &OF_THE_CONNECTION {
        head.headers.remove(name);
    }
    Response::from_parts(head, Body::from(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(uri: &str, path: &str, headers: &[(&'static str, &'static str)]) -> HttpRequest {
        let mut made = Request::post(uri);
        for (name, value) in headers {
            made = made.header(*name, *value);
        }
        let (head, ()) = made.body(()).unwrap().into_parts();
        let body = RequestBody::Whole(Bytes::new());
        request(path, head, body, &HeaderValue::from_static("Root=1"))
    }

    #[test]
    fn a_component_sees_what_stands_behind_the_url() {
        for (uri, path, expected) in [
            ("/lambda-url/id", "/", "/"),
            ("/lambda-url/id?a=1", "/", "/?a=1"),
            (
                "/lambda-url/id/a%20b/?c=d%26&e",
                "/a%20b/",
                "/a%20b/?c=d%26&e",
            ),
            ("/lambda-url/id//x", "//x", "//x"),
        ] {
            let request = made(uri, path, &[]);
            assert_eq!(request.uri().to_string(), expected);
            assert_eq!(request.method(), "POST");
        }
    }

    #[test]
    fn headers_pass_as_they_are_and_aws_s_are_added() {
        let request = made(
            "/lambda-url/id/",
            "/",
            &[
                ("host", "localhost:7070"),
                ("cookie", "a=1; b=2"),
                ("x-two", "1"),
                ("x-two", "2"),
                ("x-forwarded-for", "192.0.2.9"),
                ("x-forwarded-proto", "https"),
            ],
        );
        let headers = request.headers();
        let two: Vec<_> = headers.get_all("x-two").iter().collect();
        assert_eq!(two, ["1", "2"]);
        for (name, expected) in [
            ("cookie", "a=1; b=2"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-port", "7070"),
            ("x-amzn-trace-id", "Root=1"),
        ] {
            let values: Vec<_> = headers.get_all(name).iter().collect();
            assert_eq!(values, [expected], "{name}");
        }
    }

    #[test]
    fn what_belongs_to_the_connection_is_the_servers() {
        let mut response = HttpResponse::new(Bytes::from_static(b"x"));
        let headers = response.headers_mut();
        headers.insert("trailer", HeaderValue::from_static("x"));
        headers.append("set-cookie", HeaderValue::from_static("a=1"));
        headers.append("set-cookie", HeaderValue::from_static("b=2"));
        let response = whole(response);
        let headers = response.headers();
        assert!(!headers.contains_key("trailer"));
        assert_eq!(headers.get_all("set-cookie").iter().count(), 2);
    }
}
