//! The paths of the Extensions API.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header::HeaderValue};
use serde_json::json;

use super::{Reported, Said, Shared, accepted, body, json_answer, refused};
use crate::process::{extensions::Refused, telemetry};

pub async fn answer(
    shared: &Shared,
    request: Request<Incoming>,
    path: &str,
) -> Response<Full<Bytes>> {
    let header = |name: &str| {
        let value = request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let (id, name) = (
        header("Lambda-Extension-Identifier"),
        header("Lambda-Extension-Name"),
    );
    match (request.method().clone(), path) {
        (Method::POST, "register") => register(shared, request, &name).await,
        (Method::GET, "event/next") => extension_next(shared, &id).await,
        (Method::POST, "init/error" | "exit/error") => {
            if let Err(refusal) = shared.state().extensions.check(&id) {
                return not_allowed(refusal);
            }
            let header = request
                .headers()
                .get("Lambda-Extension-Function-Error-Type");
            let kind = header
                .and_then(|kind| kind.to_str().ok())
                .map(str::to_owned);
            match body(request).await {
                Ok(body) => {
                    let ends = true;
                    shared.say(Said::ExtensionError(Reported { body, kind, ends }));
                    accepted()
                }
                Err(status) => refused(status, "InvalidRequest", "the body could not be read"),
            }
        }
        _ => refused(
            StatusCode::NOT_FOUND,
            "NotFound",
            "the Extensions API has no such path",
        ),
    }
}

async fn register(
    shared: &Shared,
    request: Request<Incoming>,
    name: &str,
) -> Response<Full<Bytes>> {
    #[derive(serde::Deserialize)]
    struct Wanted {
        #[serde(default)]
        events: Vec<String>,
    }
    let wanted = match body(request).await {
        Ok(body) => serde_json::from_slice::<Wanted>(&body),
        Err(status) => return refused(status, "InvalidRequest", "the body could not be read"),
    };
    let Ok(Wanted { events }) = wanted else {
        return refused(
            StatusCode::BAD_REQUEST,
            "InvalidRequestFormat",
            "the body is not `{\"events\": [...]}`",
        );
    };
    let id = uuid::Uuid::new_v4().to_string();
    {
        let mut state = shared.state();
        let is_starting = !state.is_started;
        let registered = state
            .extensions
            .register(id.clone(), name, &events, is_starting);
        if let Err(refusal) = registered {
            return not_allowed(refusal);
        }
    }
    let about = shared.about.lock().expect("held shortly").clone();
    let mut response = json_answer(
        StatusCode::OK,
        &json!({
            "functionName": about.function,
            "functionVersion": about.qualifier,
            "handler": about.handler,
        }),
    );
    let id = HeaderValue::from_str(&id).expect("a UUID is text");
    response
        .headers_mut()
        .insert("Lambda-Extension-Identifier", id);
    response
}

async fn extension_next(shared: &Shared, id: &str) -> Response<Full<Bytes>> {
    let ready = shared.state().extensions.becomes_ready(id);
    if let Some((name, events)) = ready {
        shared
            .telemetry
            .tell(|| telemetry::Event::extension(&name, &events));
    }
    loop {
        let moved = shared.extensions_moved.notified();
        tokio::pin!(moved);
        moved.as_mut().enable();
        {
            let mut state = shared.state();
            match state.extensions.next(id) {
                Err(refusal) => return not_allowed(refusal),
                Ok(Some(event)) => return json_answer(StatusCode::OK, &event),
                Ok(None) => shared.say_if_started(&mut state),
            }
        }
        shared.extensions_idle.notify_one();
        moved.await;
    }
}

pub fn not_allowed(Refused(kind, message): Refused) -> Response<Full<Bytes>> {
    refused(StatusCode::FORBIDDEN, kind, &message)
}
