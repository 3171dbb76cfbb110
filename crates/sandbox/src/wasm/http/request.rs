//! What a component of HTTP gets: a request, whose body may still be coming.

use bytes::Bytes;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::{
    Request, Uri,
    body::Body,
    header::{HOST, HeaderValue},
    http::{
        request::Parts,
        uri::{PathAndQuery, Scheme},
    },
};
use wasmtime_wasi_http::{Error, p2::bindings::http::types::Scheme as WasiScheme};

/// For requests that name no host.
const HOST_DEFAULT: HeaderValue = HeaderValue::from_static("localhost");

/// Its URI has a path; its host is that of the URI or of the header `host`.
pub type HttpRequest = Request<RequestBody>;

#[derive(Debug)]
pub enum RequestBody {
    Whole(Bytes),
    /// Whoever sends it bounds its size, and how long its parts may be in coming.
    Coming(UnsyncBoxBody<Bytes, BodyCut>),
}

/// Why no more of a body comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyCut {
    #[error("the body is larger than a request's may be")]
    TooLarge,
    #[error("nothing more of the body came for too long")]
    Stalled,
    #[error("the body broke off")]
    BrokenOff,
}

impl RequestBody {
    pub fn coming(body: impl Body<Data = Bytes, Error = BodyCut> + Send + 'static) -> RequestBody {
        RequestBody::Coming(body.boxed_unsync())
    }

    /// How many, if it is whole.
    pub fn bytes(&self) -> Option<usize> {
        match self {
            RequestBody::Whole(bytes) => Some(bytes.len()),
            RequestBody::Coming(_) => None,
        }
    }
}

impl From<Bytes> for RequestBody {
    fn from(bytes: Bytes) -> RequestBody {
        RequestBody::Whole(bytes)
    }
}

impl From<BodyCut> for Error {
    fn from(cut: BodyCut) -> Error {
        match cut {
            BodyCut::TooLarge => Error::HttpRequestBodySize(None),
            BodyCut::Stalled => Error::ConnectionReadTimeout,
            BodyCut::BrokenOff => Error::ConnectionTerminated,
        }
    }
}

/// What `wasi:http` wants to know of a request: a host, and a path with a slash.
pub fn incoming(request: HttpRequest) -> (WasiScheme, Parts, RequestBody) {
    let (mut head, body) = request.into_parts();
    if head.uri.authority().is_none() && !head.headers.contains_key(HOST) {
        head.headers.insert(HOST, HOST_DEFAULT);
    }
    if head.uri.path_and_query().is_none() {
        let mut uri = head.uri.into_parts();
        uri.path_and_query = Some(PathAndQuery::from_static("/"));
        head.uri = Uri::from_parts(uri).unwrap_or_else(|_| Uri::from_static("/"));
    }
    let is_https = head.uri.scheme() == Some(&Scheme::HTTPS)
        || head
            .headers
            .get("x-forwarded-proto")
            .is_some_and(|scheme| scheme == "https");
    let scheme = match is_https {
        true => WasiScheme::Https,
        false => WasiScheme::Http,
    };
    (scheme, head, body)
}
