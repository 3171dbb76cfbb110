//! `PUT /v1/functions/{name}`: deploys a function from the files of its folder, sent as JSON. `GET /v1/runtimes`: which
//! interpreters functions can have.

use std::{
    collections::BTreeMap, fs, io::ErrorKind, path::Component, path::Path as FilePath, sync::Arc,
    time::Duration,
};

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
use lambic_functions::{
    Code, Deployment, Error, FunctionInfo, ImageSource, ImageTrouble, Rules, Start, Trigger,
};
use lambic_model::{FunctionName, StreamName};
use serde::Deserialize;
use serde_json::json;
use tempfile::TempDir;
use tracing::{Instrument, info_span};

use super::{
    App, Shared,
    body::Held,
    error::{Failure, Owner},
};

/// AWS's 50 MB for a zip, and base64 around it.
pub const BODY_BYTES_MAX: usize = 72 << 20;
const FILES_MAX: usize = 5_000;

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
    hosts: Option<Vec<String>>,
    trigger: Option<TriggerRequest>,
    /// A container image, for the runtime `image`; then there are no files.
    image: Option<String>,
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
    filters: Option<Vec<String>>,
    bisect_batch_on_function_error: Option<bool>,
    report_batch_item_failures: Option<bool>,
    maximum_record_age_in_seconds: Option<u32>,
    on_failure: Option<String>,
    parallelization_factor: Option<u32>,
    tumbling_window_in_seconds: Option<u32>,
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
    // Neither megabytes of base64 nor a client that goes away may hold up what follows.
    let done = tokio::spawn(install(app, name, body).in_current_span());
    let info = done.await.map_err(|error| ours(error.to_string()))??;
    Ok(Json(info).into_response())
}

pub async fn runtimes(State(app): Shared) -> Response {
    let runtimes = app.services.functions.runtimes().await;
    let body = json!({
        "python": runtimes.python,
        "node": runtimes.node,
        "all": runtimes.all,
    });
    Json(body).into_response()
}

/// From the request to the moment when SQL knows what the function exports.
async fn install(app: Arc<App>, name: String, body: Held) -> Result<FunctionInfo, Failure> {
    let span = info_span!("deploy", function = %name);
    let unpacked = tokio::task::spawn_blocking(move || unpack(&name, &body.bytes));
    let (folder, deployment) = unpacked.await.map_err(|error| ours(error.to_string()))??;
    let services = &app.services;
    let info = services.functions.deploy(deployment).instrument(span).await;
    tokio::task::spawn_blocking(move || drop(folder));
    let info = info.map_err(not_deployed)?;
    services
        .database
        .set_functions(services.functions.scalars());
    Ok(info)
}

fn unpack(name: &str, request: &[u8]) -> Result<(TempDir, Deployment), Failure> {
    let request: Request =
        serde_json::from_slice(request).map_err(|error| Failure::bad_request(error.to_string()))?;
    if request.files.len() > FILES_MAX {
        return Err(Failure::bad_request(format!("more than {FILES_MAX} files")));
    }
    let folder = tempfile::tempdir().map_err(|error| unwritable(&error))?;
    for (path, content) in &request.files {
        write(folder.path(), path, content)?;
    }
    let deployment = deployment(name, request, folder.path())?;
    Ok((folder, deployment))
}

/// The user's mistakes have 400; what the machine refuses, and what only we can mend, say so.
fn not_deployed(error: Error) -> Failure {
    let message = error.to_string();
    match error {
        Error::NotFound { .. }
        | Error::Missing { .. }
        | Error::NoStatement { .. }
        | Error::Conflict { .. }
        | Error::WrongRevision
        | Error::BadValue { .. }
        | Error::NotShutIn { .. }
        | Error::NoRoot { .. }
        | Error::Image {
            trouble: ImageTrouble::Missing | ImageTrouble::Unsupported | ImageTrouble::Bad,
            ..
        }
        | Error::TooMuchMemory { .. }
        | Error::BadZip { .. }
        | Error::PolicyTooLong { .. }
        | Error::PayloadTooLarge { .. }
        | Error::PayloadNotJson { .. }
        | Error::UnknownRuntime { .. }
        | Error::BadDeployment { .. }
        | Error::BadStart { .. }
        | Error::NotInvocable { .. }
        | Error::WrongForm { .. }
        | Error::UnknownStream { .. }
        | Error::TriggerLoop { .. } => {
            Failure::new(StatusCode::BAD_REQUEST, "not_deployed", message)
        }
        Error::Throttled { .. }
        | Error::Full { .. }
        | Error::Log(_)
        | Error::Sandbox(_)
        | Error::Image {
            trouble: ImageTrouble::Outside,
            ..
        }
        | Error::Io { .. }
        // Of a start, so of none that anybody asks.
        | Error::Traces { .. }
        | Error::Closed => unavailable(message),
        Error::Damaged { .. } => ours(message),
    }
}

fn ours(message: String) -> Failure {
    Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
}

fn unavailable(message: String) -> Failure {
    let failure = Failure::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message);
    Failure {
        owner: Owner::Outside,
        ..failure.with_retry()
    }
}

fn unwritable(error: &std::io::Error) -> Failure {
    unavailable(format!("cannot unpack the function: {error}"))
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
    let code = match request.image {
        Some(_) if !request.files.is_empty() => {
            return Err(Failure::bad_request("an image and files at once"));
        }
        Some(uri) => Code::Image(ImageSource {
            uri,
            by_operator: false,
        }),
        None => Code::Folder(folder.to_owned()),
    };
    let mut deployment = Deployment::new(name, runtime, code);
    deployment.handler = request.handler;
    deployment.output = stream(&request.output)?;
    deployment.dead_letter = stream(&request.dead_letter)?;
    deployment.environment = request.environment;
    deployment.concurrency = request.concurrency;
    deployment.settings.hosts = request.hosts;
    if let Some(seconds) = request.timeout_s {
        // What is too long is refused with everything else that is.
        if seconds <= 0.0 {
            return Err(Failure::bad_request(format!(
                "timeout_s is {seconds}; it must be above 0"
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
        let usual = made.rules;
        made.rules = Rules {
            filters: trigger.filters.unwrap_or(usual.filters),
            bisects: trigger
                .bisect_batch_on_function_error
                .unwrap_or(usual.bisects),
            reports_failures: trigger
                .report_batch_item_failures
                .unwrap_or(usual.reports_failures),
            age_s_max: trigger.maximum_record_age_in_seconds,
            on_failure: trigger.on_failure,
            lanes: trigger.parallelization_factor.unwrap_or(usual.lanes),
            window_s: trigger.tumbling_window_in_seconds.unwrap_or(usual.window_s),
        };
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
        .map_err(|error| match error.kind() {
            // Below a file, in the place of a folder, or longer than a name may be.
            ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::AlreadyExists
            | ErrorKind::InvalidFilename
            | ErrorKind::InvalidInput => {
                Failure::bad_request(format!("\"{path}\" cannot be a file: {error}"))
            }
            _ => unwritable(&error),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_a_deployment_have_the_status_of_who_can_mend_them() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        for (error, status, owner) in [
            (
                Error::BadDeployment {
                    name: "f".to_owned(),
                    reason: "no".to_owned(),
                },
                400,
                Owner::User,
            ),
            (
                Error::Io {
                    action: "write",
                    path: "f".into(),
                    source: full,
                },
                503,
                Owner::Outside,
            ),
            (Error::Closed, 503, Owner::Outside),
            (
                Error::Damaged {
                    path: "f".into(),
                    reason: "no".to_owned(),
                },
                500,
                Owner::Ours,
            ),
        ] {
            let failure = not_deployed(error);
            assert_eq!(failure.status.as_u16(), status, "{}", failure.message);
            assert_eq!(failure.owner, owner, "{}", failure.message);
            assert_eq!(failure.retry, status == 503, "{}", failure.message);
        }
    }

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
        for path in ["a", "a/b.py/c.py", "x\0", &"x".repeat(300)] {
            let failure = write(folder.path(), path, "Zg").unwrap_err();
            assert_eq!(failure.owner, Owner::User, "{path}: {}", failure.message);
        }
        assert_eq!(fs::read(folder.path().join("a/b.py")).unwrap(), b"f");
    }
}
