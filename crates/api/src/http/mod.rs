//! The HTTP door.
//!
//! | path | |
//! |---|---|
//! | `GET /health`, `GET /metrics` | is it up; Prometheus text |
//! | `POST /v1/streams/{name}/records` | append |
//! | `POST /v1/append` | append to several streams at once |
//! | `GET /v1/streams`, `/v1/streams/{name}` | what streams there are |
//! | `POST /v1/sql` | any SQL |
//! | `GET /v1/views`, `/v1/views/{name}`, `/v1/views/{name}/changes` | views: list, lookup by key, follow |
//! | `PUT /v1/functions/{name}` | deploy a function from its files |
//! | `POST /v1/functions/{name}/check` | what would be refused of a function |
//! | `/2015-03-31/functions/…` and other dates | AWS Lambda's API |
//! | `/lambda-url/{id}/…`, `GET /v1/code/{sha256}.zip` | functions' own URLs; code that was uploaded |
//! | `GET /` | the console |
//!
//! A request passes, in this order: [`observe`], [`settle`], [`guard`] (what pages of other sites may), [`auth`] (whose it
//! is), and its handler.

mod answer;
mod append;
mod append_streams;
mod auth;
mod body;
mod changes;
mod error;
mod functions;
mod lambda;
mod patience;
mod server;
mod settle;
mod sql;
mod streams;
mod views;

use std::{sync::Arc, time::Instant};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{Html, IntoResponse, Response},
    routing::{get, post, put},
};
use metrics::{counter, histogram};
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
};
use tracing::{Instrument, debug, info_span};

use crate::{Options, Services, executor::Executor, refusals::Refusals, telemetry};
use body::Bounds;
use error::Failure;
pub use lambda::sigv4::{Signer, Unsigned};

/// What the handlers share.
pub struct App {
    options: Options,
    services: Services,
    executor: Executor,
    refusals: Arc<Refusals>,
    stopped: watch::Receiver<bool>,
    bounds: Bounds,
    /// One permit for every client that follows changes.
    changes: Arc<Semaphore>,
}

type Shared = State<Arc<App>>;

const REQUEST_ID: &str = "x-request-id";
/// Those that are counted each by itself.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// Serves until `stopped` turns true and the requests that run then have ended.
pub async fn serve(
    listener: TcpListener,
    options: Options,
    services: Services,
    executor: Executor,
    refusals: Arc<Refusals>,
    stopped: watch::Receiver<bool>,
) {
    telemetry::recorder();
    let changes = Arc::new(Semaphore::new(options.changes_clients_max));
    let bounds = Bounds::new(&options);
    let (connections_max, idle_max) = (options.http_connections_max, options.http_idle_max);
    let tls = options.tls.clone();
    let stop = stopped.clone();
    let router = router(Arc::new(App {
        options,
        services,
        executor,
        refusals,
        stopped,
        bounds,
        changes,
    }));
    server::serve(listener, tls, router, connections_max, idle_max, stop).await;
}

fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(|| async { Html(include_str!("console.html")) }))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/v1/sql", post(sql::run))
        .route("/v1/append", post(append_streams::append))
        .route("/v1/streams", get(streams::list))
        .route("/v1/streams/{name}", get(streams::one))
        .route("/v1/streams/{name}/records", post(append::append))
        .route("/v1/views", get(views::list))
        .route("/v1/views/{name}", get(views::lookup))
        .route("/v1/views/{name}/changes", get(changes::follow))
        .route("/v1/functions/{name}", put(functions::deploy))
        .route("/v1/functions/{name}/check", post(lambda::beforehand))
        .route("/v1/runtimes", get(functions::runtimes))
        .merge(lambda::routes())
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::disable())
        // From here on the last one is the first to see a request.
        .layer(from_fn_with_state(Arc::clone(&app), auth::authenticate))
        .layer(from_fn_with_state(Arc::clone(&app), guard))
        .layer(from_fn(settle::settle))
        .layer(from_fn(observe))
        .with_state(app)
}

async fn health() -> Response {
    let body = json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") });
    ([(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

async fn metrics(State(app): Shared) -> Result<Response, Failure> {
    match telemetry::render(&app.services) {
        Some(text) => {
            Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
        }
        None => Err(Failure::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "this program records its metrics elsewhere",
        )),
    }
}

async fn unknown(uri: Uri) -> Response {
    let path = uri.path();
    if lambda::is_aws_path(path) {
        return lambda::unknown(path);
    }
    Failure::not_found(format!("there is nothing at {path}"))
        .with_hint("POST /v1/streams/{name}/records; POST /v1/append; POST /v1/sql; GET /v1/streams[/{name}]; GET /v1/views[/{name}[/changes]]; PUT /v1/functions/{name}; POST /v1/functions/{name}/check; AWS Lambda's API, such as POST /2015-03-31/functions/{name}/invocations; GET /health, /metrics, and the console at /; docs/http.md describes them all")
        .into_response()
}

async fn wrong_method(uri: Uri) -> Response {
    let path = uri.path();
    if lambda::is_aws_path(path) {
        return lambda::unknown(path);
    }
    Failure::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!("{path} does not take this method"),
    )
    .into_response()
}

/// A page of another site that is open in the user's browser must not reach this server: neither from that site's
/// origin, nor, where it takes anybody on loopback, under a name that it made point here.
async fn guard(State(app): Shared, request: Request, next: Next) -> Response {
    // A function's own URL is made for pages of other sites, and its bodies are the function's business.
    let is_own = lambda::is_function_url(request.uri().path());
    let headers = request.headers();
    let refused = match (app.options.keys.is_empty(), is_own) {
        (true, true) => foreign_host(headers).map(|refused| (refused, LOOPBACK_HINT)),
        (true, false) => foreign(headers).map(|refused| (refused, LOOPBACK_HINT)),
        (false, true) => None,
        (false, false) => foreign_origin(headers).map(|refused| (refused, ORIGIN_HINT)),
    };
    if let Some((refused, hint)) = refused {
        return Failure::new(StatusCode::FORBIDDEN, "forbidden", refused)
            .with_hint(hint)
            .into_response();
    }
    if !is_own && let Some(refused) = encoded(headers) {
        return refused.into_response();
    }
    next.run(request).await
}

const LOOPBACK_HINT: &str = "use http://127.0.0.1 or http://localhost";
const ORIGIN_HINT: &str =
    "pages are served by this server itself; a proxy before it must pass the header Host on";

/// A compressed body is not unpacked, so it must not be taken for what is inside.
fn encoded(headers: &HeaderMap) -> Option<Response> {
    let encoding = headers.get(header::CONTENT_ENCODING)?;
    let encoding = encoding.to_str().unwrap_or("?");
    if encoding.trim().is_empty() || encoding.trim().eq_ignore_ascii_case("identity") {
        return None;
    }
    let failure = Failure::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        format!("bodies with Content-Encoding: {encoding} are not understood"),
    )
    .with_hint("send the body as it is, without Content-Encoding");
    let mut response = failure.into_response();
    // As RFC 9110 wants it: what would be understood.
    response.headers_mut().insert(
        header::ACCEPT_ENCODING,
        HeaderValue::from_static("identity"),
    );
    Some(response)
}

fn foreign(headers: &HeaderMap) -> Option<String> {
    if let Some(refused) = foreign_host(headers) {
        return Some(refused);
    }
    let origin = header_text(headers, &header::ORIGIN)?;
    let host = origin.split_once("://").map_or(origin, |(_, host)| host);
    (!is_loopback(host)).then(|| format!("pages of {origin} may not use this server"))
}

/// Where a request shows a key, its host may be any; but browsers show the key that they were given to every page that
/// asks for something here.
fn foreign_origin(headers: &HeaderMap) -> Option<String> {
    let origin = header_text(headers, &header::ORIGIN)?;
    let host = origin.split_once("://").map_or(origin, |(_, host)| host);
    let is_own =
        header_text(headers, &header::HOST).is_some_and(|own| own.eq_ignore_ascii_case(host));
    (!is_own).then(|| format!("pages of {origin} may not use this server"))
}

fn foreign_host(headers: &HeaderMap) -> Option<String> {
    let host = header_text(headers, &header::HOST)?;
    (!is_loopback(host)).then(|| format!("this server does not answer as {host}"))
}

fn header_text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap_or("?"))
}

fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// By the thread's own source of chance, which asks the system for some once in a while and not each time.
fn new_id() -> uuid::Uuid {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid()
}

/// Gives every request an id and a span, and measures it.
async fn observe(mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let given = request
        .headers()
        .get(REQUEST_ID)
        .filter(|id| id.len() <= 128)
        .cloned();
    let id = given
        .or_else(|| HeaderValue::try_from(new_id().to_string()).ok())
        .unwrap_or(HeaderValue::from_static("-"));
    request.headers_mut().insert(REQUEST_ID, id.clone());
    // Any word is a method to HTTP, and every one that is counted is kept.
    let mut methods = METHODS.into_iter();
    let method = methods
        .find(|known| *known == request.method().as_str())
        .unwrap_or("other");
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "other".to_owned(), |path| path.as_str().to_owned());
    let span = info_span!("http", %method, %route, request = id.to_str().unwrap_or_default());
    let response = async move {
        let mut response = next.run(request).await;
        debug!(status = response.status().as_u16(), "answered");
        response.headers_mut().entry(REQUEST_ID).or_insert(id);
        response
    }
    .instrument(span)
    .await;
    let status = response.status().as_u16().to_string();
    histogram!("lambic_http_seconds", "route" => route.clone())
        .record(started.elapsed().as_secs_f64());
    counter!("lambic_http_requests_total", "method" => method, "route" => route, "status" => status).increment(1);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_ours() {
        for ours in [
            "127.0.0.1:7070",
            "localhost",
            "LOCALHOST:1",
            "[::1]:7070",
            "127.9.9.9",
        ] {
            assert!(is_loopback(ours), "{ours}");
        }
        for foreign in [
            "evil.example",
            "evil.example:7070",
            "localhost.evil.example",
            "192.168.0.1",
            "[::2]",
            "null",
            "",
        ] {
            assert!(!is_loopback(foreign), "{foreign}");
        }
    }

    #[test]
    fn a_compressed_body_is_refused() {
        let encoded = |value: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(value));
            }
            encoded(&headers).map(|response| response.status().as_u16())
        };
        assert_eq!(encoded(None), None);
        assert_eq!(encoded(Some("identity")), None);
        assert_eq!(encoded(Some("gzip")), Some(415));
        assert_eq!(encoded(Some("gzip, br")), Some(415));
    }

    #[test]
    fn foreign_pages_are_refused() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("127.0.0.1:7070"));
        assert_eq!(foreign(&headers), None);
        headers.insert(
            header::ORIGIN,
            HeaderValue::from_static("https://evil.example"),
        );
        assert!(foreign(&headers).is_some());
        headers.insert(
            header::ORIGIN,
            HeaderValue::from_static("http://localhost:7070"),
        );
        assert_eq!(foreign(&headers), None);
    }

    #[test]
    fn pages_of_this_host_are_not_foreign() {
        let foreign = |host: &'static str, origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(host));
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            }
            foreign_origin(&headers).is_some()
        };
        assert!(!foreign("lambic.example", None));
        assert!(!foreign("lambic.example", Some("https://lambic.example")));
        assert!(!foreign("10.0.0.1:7070", Some("http://10.0.0.1:7070")));
        for other in ["https://evil.example", "http://localhost:3000", "null", ""] {
            assert!(foreign("localhost:7070", Some(other)), "{other}");
        }
    }

    #[test]
    fn no_other_host_is_answered() {
        let host = [(header::HOST, HeaderValue::from_static("evil.example"))];
        let headers: HeaderMap = host.into_iter().collect();
        assert!(foreign_host(&headers).is_some());
        assert!(foreign(&headers).is_some());
        assert_eq!(foreign_host(&HeaderMap::new()), None);
    }
}
