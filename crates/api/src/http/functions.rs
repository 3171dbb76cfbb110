//! `PUT /v1/functions/{name}`: deploys a function from the files of its folder, sent as JSON.

use std::{collections::BTreeMap, fs, path::Component, path::Path as FilePath, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use lambic_functions::{Code, Deployment, Start, Trigger};
use lambic_model::{FunctionName, StreamName};
use serde::Deserialize;
use tracing::{Instrument, info_span};

use super::{
    Shared,
    error::{Failure, Owner},
};

/// AWS's 50 MB for a zip, and base64 around it.
pub const BODY_BYTES_MAX: usize = 72 << 20;
const FILES_MAX: usize = 5_000;
/// AWS Lambda's: 15 minutes.
const TIMEOUT_S_MAX: f64 = 900.0;

/// RFC 4648, with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    runtime: String,
    handler: Option<String>,
    timeout_s: Option<f64>,
    memory_mb: Option<u32>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    output: Option<String>,
    retries: Option<u32>,
    dead_letter: Option<String>,
    concurrency: Option<usize>,
    trigger: Option<TriggerRequest>,
    /// Path inside the folder to content, base64.
    files: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TriggerRequest {
    stream: String,
    batch: Option<usize>,
    window_ms: Option<u64>,
    start: Option<Start>,
}

pub async fn deploy(
    State(app): Shared,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let too_large = || {
        let message = format!("the function is over the limit of {BODY_BYTES_MAX} bytes");
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
            .with_hint("leave out files that it does not need")
    };
    let body = app
        .bounds
        .read(body, &headers, BODY_BYTES_MAX)
        .await
        .map_err(|unread| unread.into_failure(too_large))?;
    let request: Request = serde_json::from_slice(&body.bytes)
        .map_err(|error| Failure::bad_request(error.to_string()))?;
    if request.files.len() > FILES_MAX {
        return Err(Failure::bad_request(format!("more than {FILES_MAX} files")));
    }
    let folder = tempfile::tempdir().map_err(|error| unwritable(&error))?;
    for (path, content) in &request.files {
        write(folder.path(), path, content)?;
    }
    let deployment = deployment(&name, request, folder.path())?;
    let services = &app.services;
    let info = services
        .functions
        .deploy(deployment)
        .instrument(info_span!("deploy", function = %name))
        .await
        .map_err(|error| {
            Failure::new(StatusCode::BAD_REQUEST, "not_deployed", error.to_string())
        })?;
    services
        .database
        .set_functions(services.functions.scalars());
    Ok(Json(info).into_response())
}

fn unwritable(error: &std::io::Error) -> Failure {
    let failure = Failure::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "unavailable",
        format!("cannot unpack the function: {error}"),
    );
    Failure {
        owner: Owner::Outside,
        ..failure.with_retry()
    }
}

fn deployment(name: &str, request: Request, folder: &FilePath) -> Result<Deployment, Failure> {
    let bad = |error: &dyn std::fmt::Display| Failure::bad_request(error.to_string());
    let stream = |name: &Option<String>| {
        name.as_ref()
            .map(StreamName::new)
            .transpose()
            .map_err(|error| bad(&error))
    };
    let runtime = request
        .runtime
        .parse()
        .map_err(|error: lambic_functions::Error| bad(&error))?;
    let name = FunctionName::new(name).map_err(|error| bad(&error))?;
    let mut deployment = Deployment::new(name, runtime, Code::Folder(folder.to_owned()));
    deployment.handler = request.handler;
    deployment.output = stream(&request.output)?;
    deployment.dead_letter = stream(&request.dead_letter)?;
    deployment.environment = request.environment;
    deployment.concurrency = request.concurrency;
    if let Some(seconds) = request.timeout_s {
        if !(seconds > 0.0 && seconds <= TIMEOUT_S_MAX) {
            return Err(Failure::bad_request(format!(
                "timeout_s is {seconds}; it must be above 0 and at most {TIMEOUT_S_MAX}"
            )));
        }
        deployment.timeout = Duration::try_from_secs_f64(seconds).map_err(|error| bad(&error))?;
    }
    if let Some(memory_mb) = request.memory_mb {
        deployment.memory_mb = memory_mb;
    }
    if let Some(retries) = request.retries {
        deployment.retries = retries;
    }
    if let Some(trigger) = request.trigger {
        let mut made = Trigger::new(StreamName::new(&trigger.stream).map_err(|error| bad(&error))?);
        made.batch_size = trigger.batch.unwrap_or(made.batch_size);
        made.window_ms = trigger.window_ms.unwrap_or(made.window_ms);
        made.start = trigger.start.unwrap_or(made.start);
        deployment.triggers.push(made);
    }
    Ok(deployment)
}

fn write(folder: &FilePath, path: &str, content: &str) -> Result<(), Failure> {
    let inside = FilePath::new(path);
    // A path must not lead out of the folder.
    if path.is_empty()
        || !inside
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
    {
        return Err(Failure::bad_request(format!(
            "\"{path}\" is not a path inside the function's folder"
        )));
    }
    let bytes = BASE64.decode(content).map_err(|error| {
        Failure::bad_request(format!("the content of \"{path}\" is not base64: {error}"))
    })?;
    let target = folder.join(inside);
    let parent = target.parent().unwrap_or(folder);
    fs::create_dir_all(parent)
        .and_then(|()| fs::write(&target, bytes))
        .map_err(|error| unwritable(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_stay_inside_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["../x", "/etc/x", "", "a/../../x", "./x/.."] {
            assert!(write(folder.path(), path, "Zg==").is_err(), "{path}");
        }
        // Padding is left out by some writers.
        write(folder.path(), "a/b.py", "Zg").unwrap();
        write(folder.path(), "a/b.py", "Zg==").unwrap();
        assert!(write(folder.path(), "a/c.py", "Zg!").is_err());
        assert_eq!(fs::read(folder.path().join("a/b.py")).unwrap(), b"f");
    }
}
