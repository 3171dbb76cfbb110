//! `/lambda-url/{id}/…`: the HTTP endpoint of a function.
//!
//! On AWS the id is a part of the host's name; here it is a part of the path, which works without DNS. Pages of other
//! sites may call it as far as the function's CORS settings say.

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use lambic_base::spot;
use lambic_functions::{Chosen, Endpoint, Error, Event};
use serde_json::json;
use tracing::{Instrument, info_span};

use super::{
    super::{
        App, Shared,
        auth::Caller,
        error::Failure,
        new_id,
        server::{Peer, Secured},
    },
    answer::{ERROR_TYPE, REQUEST_ID, TRACE_ID, now_us, put, request_id},
    cors::Cors,
    invoke::PAYLOAD_BYTES_MAX,
    url_answer::reply,
    url_auth::admit,
    url_event::{Circumstances, event},
    url_http, url_stream,
    urls::PATH,
};

/// Whether a path is one of these: they have their own rules for pages of other sites.
pub fn is_function_url(path: &str) -> bool {
    let rest = path.strip_prefix(PATH);
    rest.is_some_and(|rest| rest.starts_with('/'))
}

/// The id, and the path behind it with its slash.
fn split(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix(PATH)?.strip_prefix('/')?;
    Some(match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    })
}

pub async fn call(State(app): Shared, request: Request) -> Response {
    let (mut head, body) = request.into_parts();
    let uri = head.uri.clone();
    let found =
        split(uri.path()).and_then(|(id, path)| Some((app.services.functions.endpoint(id)?, path)));
    let Some((endpoint, path)) = found else {
        return refused(
            StatusCode::NOT_FOUND,
            "ResourceNotFoundException",
            "Not Found",
        );
    };
    let mut for_pages = HeaderMap::new();
    if head.headers.contains_key(header::ORIGIN)
        && let Some(cors) = Cors::of_value(endpoint.url.cors.as_ref())
    {
        if let Some(headers) = cors.preflight(&head.method, &head.headers) {
            return (StatusCode::OK, headers).into_response();
        }
        for_pages = cors.headers(&head.headers);
    }
    let mut response = match admit(&app, &endpoint, &mut head, body).await {
        Ok(body) => answer(&app, &endpoint, path, head, body).await,
        Err(refused) => refused,
    };
    for (name, value) in for_pages {
        if let Some(name) = name {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

async fn answer(app: &App, endpoint: &Endpoint, path: &str, head: Parts, body: Body) -> Response {
    let trace_id = trace_id(&head.headers);
    let answered = answered(app, endpoint, path, head, body, &trace_id).await;
    let mut response = answered.unwrap_or_else(|error| not_invoked(&error));
    let headers = response.headers_mut();
    headers.entry(REQUEST_ID).or_insert_with(request_id);
    headers.insert(TRACE_ID, trace_id);
    shut_out(headers);
    response
}

/// The error is of a function that did not run.
async fn answered(
    app: &App,
    endpoint: &Endpoint,
    path: &str,
    head: Parts,
    body: Body,
    trace_id: &HeaderValue,
) -> Result<Response, Error> {
    let functions = &app.services.functions;
    let chosen = functions.choose(&endpoint.name, Some(endpoint.qualifier.clone()))?;
    let is_streamed = endpoint.url.is_streamed;
    match chosen.takes_http().await? {
        true => url_http::answer(app, chosen, is_streamed, path, head, body, trace_id).await,
        false => with_event(app, endpoint, chosen, path, head, body, trace_id).await,
    }
}

async fn with_event(
    app: &App,
    endpoint: &Endpoint,
    chosen: Chosen,
    path: &str,
    head: Parts,
    body: Body,
    trace_id: &HeaderValue,
) -> Result<Response, Error> {
    let read = app.bounds.read(body, &head.headers, PAYLOAD_BYTES_MAX);
    let body = match read.await {
        Ok(body) => body,
        Err(unread) => {
            let failure = unread.into_failure(too_large);
            let kind = "RequestTooLargeException";
            return Ok(refused(failure.status, kind, &failure.message));
        }
    };
    let request_id = new_id().to_string();
    let trace_id = trace_id.to_str().unwrap_or_default().to_owned();
    let body_bytes = body.bytes.len();
    let make = {
        let (url_id, path) = (endpoint.url.id.clone(), path.to_owned());
        let (request_id, trace_id) = (request_id.clone(), trace_id.clone());
        // The body is given back when its event is made.
        move || {
            let around = Circumstances {
                url_id: &url_id,
                request_id: &request_id,
                trace_id: &trace_id,
                now_us: now_us(),
                source: head.extensions.get::<Peer>().copied(),
                is_secured: head.extensions.get::<Secured>().is_some(),
                caller: head.extensions.get::<Caller>().map(|caller| &*caller.key),
            };
            let (method, uri, headers) = (&head.method, &head.uri, &head.headers);
            event(method, uri, &path, headers, &body.bytes, &around)
                .to_string()
                .into_bytes()
        }
    };
    let payload = spot::work_on(body_bytes, make)
        .await
        .map_err(|_| Error::Closed)?;
    let event = Event {
        payload,
        trace_id: Some(trace_id),
        ..Event::default()
    };
    let span = info_span!("invoke", function = %endpoint.name, kind = "url");
    let invoked = invoked(chosen, endpoint.url.is_streamed, event).instrument(span);
    // The caller is not told what went wrong inside.
    let mut response = invoked.await?.unwrap_or_else(internal);
    put(&mut response, REQUEST_ID, &request_id);
    Ok(response)
}

/// `None`: it failed, or gave what cannot be a response.
async fn invoked(
    chosen: Chosen,
    is_streamed: bool,
    event: Event,
) -> Result<Option<Response>, Error> {
    if is_streamed {
        let streamed = chosen.invoke_streamed(event).await?;
        return Ok(url_stream::reply(streamed).await);
    }
    let result = chosen.invoke(event).await?;
    match result.is_success() {
        true => {
            let bytes = result.payload().len();
            let reply = spot::work_on(bytes, move || whole(result.payload())).await;
            reply.map_err(|_| Error::Closed)
        }
        false => Ok(None),
    }
}

fn whole(payload: &[u8]) -> Option<Response> {
    let reply = reply(payload)?;
    let mut response = (reply.status, Body::from(reply.body)).into_response();
    *response.headers_mut() = reply.headers;
    Some(response)
}

/// What a function answers stands at the same host and port as the console and the API. A browser is told to take its
/// pages for those of nobody, which the API refuses, and its scripts for no service workers.
fn shut_out(headers: &mut HeaderMap) {
    headers.remove("service-worker-allowed");
    headers.append(
        "content-security-policy",
        HeaderValue::from_static(
            "sandbox allow-downloads allow-forms allow-modals allow-popups allow-scripts",
        ),
    );
}

pub fn too_large() -> Failure {
    Failure::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too_large",
        "Request Entity Too Large",
    )
}

fn not_invoked(error: &Error) -> Response {
    match error {
        Error::Throttled { .. } | Error::Full { .. } => refused(
            StatusCode::TOO_MANY_REQUESTS,
            "TooManyRequestsException",
            "Rate Exceeded.",
        ),
        Error::PayloadTooLarge { .. } => refused(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestTooLargeException",
            "Request Entity Too Large",
        ),
        Error::NotFound { .. } | Error::Missing { .. } => refused(
            StatusCode::NOT_FOUND,
            "ResourceNotFoundException",
            "Not Found",
        ),
        error => {
            tracing::warn!(%error, "a function's URL was called in vain");
            internal()
        }
    }
}

/// AWS's answer when a function fails or gives back what is no response.
pub fn internal() -> Response {
    let json = [("content-type", "application/json")];
    (StatusCode::BAD_GATEWAY, json, "Internal Server Error").into_response()
}

pub fn refused(status: StatusCode, kind: &'static str, message: &str) -> Response {
    let mut response = (status, axum::Json(json!({ "Message": message }))).into_response();
    response
        .headers_mut()
        .insert(ERROR_TYPE, HeaderValue::from_static(kind));
    response
}

/// The caller's, or a new one.
fn trace_id(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(TRACE_ID);
    let readable = given.filter(|given| given.to_str().is_ok());
    readable.cloned().unwrap_or_else(|| {
        let id = new_id().simple().to_string();
        let seconds = now_us() / 1_000_000;
        let made = format!("Root=1-{seconds:08x}-{}", &id[..24]);
        HeaderValue::try_from(made).expect("it is of letters, digits and signs")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_split_behind_the_id() {
        assert_eq!(split("/lambda-url/id"), Some(("id", "/")));
        assert_eq!(split("/lambda-url/id/"), Some(("id", "/")));
        assert_eq!(split("/lambda-url/id/a/b%20c"), Some(("id", "/a/b%20c")));
        assert_eq!(split("/lambda-urls/id"), None);
        assert!(is_function_url("/lambda-url/id"));
        assert!(!is_function_url("/lambda-urls/id"));
        assert!(!is_function_url("/v1/sql"));
    }

    #[test]
    fn traces_look_like_those_of_aws() {
        let made = trace_id(&HeaderMap::new());
        assert_eq!(made.len(), "Root=1-5759e988-bd862e3fe1be46a994272793".len());
        let given = [(TRACE_ID, HeaderValue::from_static("Root=1-a-b"))];
        assert_eq!(trace_id(&given.into_iter().collect()), "Root=1-a-b");
    }
}
