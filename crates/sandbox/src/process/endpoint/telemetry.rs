//! The paths of the Telemetry API and of the Logs API before it.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use serde_json::Value;

use super::{Shared, body, json_answer, refused};
use crate::process::telemetry::{Api, Invalid, Refused, Subscription};

/// By which API a path subscribes.
pub fn api_of(path: &str) -> Option<Api> {
    match path.trim_end_matches('/') {
        "/2022-07-01/telemetry" => Some(Api::Telemetry),
        "/2020-08-15/logs" => Some(Api::Logs {
            has_runtime_done: false,
        }),
        _ => None,
    }
}

pub async fn answer(
    shared: &Shared,
    request: Request<Incoming>,
    api: Api,
) -> Response<Full<Bytes>> {
    let (prefix, validation) = match api {
        Api::Telemetry => ("Telemetry", "ValidationError"),
        Api::Logs { .. } => ("Logs", "Logs.ValidationError"),
    };
    if request.method() != Method::PUT {
        return refused(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "subscriptions are PUT",
        );
    }
    let id = request.headers().get("Lambda-Extension-Identifier");
    let id = id
        .and_then(|id| id.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let extension = match shared.state().extensions.name(&id) {
        Ok(name) => name,
        Err(refusal) => return super::extension::not_allowed(refusal),
    };
    let asked = match body(request).await {
        Ok(body) => Subscription::read(api, &body),
        Err(status) => return refused(status, validation, "the body could not be read"),
    };
    let subscription = match asked {
        Ok(subscription) => subscription,
        Err(Invalid(faults)) => return refused(StatusCode::BAD_REQUEST, validation, &faults),
    };
    match shared.telemetry.subscribe(&extension, subscription) {
        Ok(()) => json_answer(StatusCode::OK, &Value::from("OK")),
        Err(Refused::Closed) => refused(
            StatusCode::FORBIDDEN,
            &format!("{prefix}.SubscriptionClosed"),
            &format!("{prefix} API subscription is closed already"),
        ),
        Err(Refused::ByOtherApi) => refused(
            StatusCode::BAD_REQUEST,
            validation,
            "the extension has subscribed by the other one of Telemetry API and Logs API",
        ),
        Err(Refused::TooMany) => refused(
            StatusCode::INTERNAL_SERVER_ERROR,
            &format!("{prefix}.SubscriptionFailed"),
            "there are as many subscriptions as there can be",
        ),
    }
}
