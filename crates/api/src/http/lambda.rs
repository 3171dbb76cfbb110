//! AWS Lambda's API: the part of it that is here. Everything else answers in AWS's error form.

use std::sync::LazyLock;

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use lambic_functions::{Error, FunctionInfo, InvokeResult, Runtime};
use lambic_model::FunctionName;
use serde_json::{Value, json};
use tracing::{Instrument, info_span};

use super::{App, Shared, body::Unread};

/// The service's own limits are tighter for events and exact; this one bounds what is read at all.
const PAYLOAD_BYTES_MAX: usize = 8 << 20;
const LATEST: &str = "$LATEST";
const ACCOUNT: &str = "000000000000";
const REGION: &str = "local";

const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");
const EXECUTED_VERSION: HeaderName = HeaderName::from_static("x-amz-executed-version");
const FUNCTION_ERROR: HeaderName = HeaderName::from_static("x-amz-function-error");
const LOG_RESULT: HeaderName = HeaderName::from_static("x-amz-log-result");

/// An error in AWS's form.
#[derive(Debug)]
pub struct AwsError {
    status: StatusCode,
    kind: &'static str,
    message: String,
    more: Option<(&'static str, &'static str)>,
}

impl AwsError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> AwsError {
        AwsError {
            status,
            kind,
            message: message.into(),
            more: None,
        }
    }
}

impl IntoResponse for AwsError {
    fn into_response(self) -> Response {
        let owner = if self.status.is_server_error() {
            "Service"
        } else {
            "User"
        };
        // AWS writes the message in both cases, by service and shape; clients look for either.
        let mut body = json!({ "Type": owner, "Message": self.message, "message": self.message });
        if let Some((name, value)) = self.more {
            body[name] = Value::from(value);
        }
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(ERROR_TYPE, HeaderValue::from_static(self.kind));
        headers.insert(REQUEST_ID, request_id());
        response
    }
}

impl From<Error> for AwsError {
    fn from(error: Error) -> AwsError {
        let message = error.to_string();
        match error {
            Error::NotFound { name } => {
                let message = format!("Function not found: {}. {message}", arn(&name));
                AwsError::new(StatusCode::NOT_FOUND, "ResourceNotFoundException", message)
            }
            Error::Throttled { .. } => {
                let mut throttled = AwsError::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "TooManyRequestsException",
                    message,
                );
                throttled.more = Some((
                    "Reason",
                    "ReservedFunctionConcurrentInvocationLimitExceeded",
                ));
                throttled
            }
            Error::PayloadTooLarge { .. } => AwsError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "RequestTooLargeException",
                message,
            ),
            Error::PayloadNotJson { .. } => AwsError::new(
                StatusCode::BAD_REQUEST,
                "InvalidRequestContentException",
                message,
            ),
            Error::NotInvocable { .. }
            | Error::UnknownRuntime { .. }
            | Error::BadDeployment { .. }
            | Error::BadStart { .. }
            | Error::UnknownStream { .. }
            | Error::TriggerLoop { .. } => AwsError::new(
                StatusCode::BAD_REQUEST,
                "InvalidParameterValueException",
                message,
            ),
            _ => AwsError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "ServiceException",
                message,
            ),
        }
    }
}

impl From<Unread> for AwsError {
    fn from(unread: Unread) -> AwsError {
        match unread {
            Unread::TooLarge => AwsError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "RequestTooLargeException",
                format!(
                    "Request must be smaller than {PAYLOAD_BYTES_MAX} bytes for the InvokeFunction operation"
                ),
            ),
            Unread::Busy => AwsError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "ServiceException",
                super::body::busy().message,
            ),
            unread @ (Unread::BrokenOff(_) | Unread::Stalled(_)) => {
                let failure = unread.into_failure(super::body::busy);
                AwsError::new(
                    failure.status,
                    "InvalidRequestContentException",
                    failure.message,
                )
            }
        }
    }
}

/// AWS's paths begin with the date of an API.
pub fn is_aws_path(path: &str) -> bool {
    let date = path.split('/').nth(1).unwrap_or_default();
    date.len() == 10
        && date.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        })
}

pub fn unknown(path: &str) -> Response {
    AwsError::new(
        StatusCode::NOT_FOUND,
        "UnknownOperationException",
        format!("Lambic does not have this operation of AWS Lambda yet ({path}); it has Invoke, ListFunctions, GetFunction, GetFunctionConfiguration and DeleteFunction"),
    )
    .into_response()
}

pub async fn list(State(app): Shared) -> Response {
    let functions: Vec<Value> = app.services.functions.list().iter().map(describe).collect();
    answered(
        StatusCode::OK,
        Json(json!({ "Functions": functions, "NextMarker": null })),
    )
}

pub async fn get(State(app): Shared, Path(name): Path<String>) -> Result<Response, AwsError> {
    let function = find(&app, &name)?;
    let body = json!({
        "Configuration": describe(&function),
        "Code": { "RepositoryType": "Lambic", "Location": format!("sha256:{}", function.digest) },
        "Tags": {},
    });
    Ok(answered(StatusCode::OK, Json(body)))
}

pub async fn configuration(
    State(app): Shared,
    Path(name): Path<String>,
) -> Result<Response, AwsError> {
    let function = find(&app, &name)?;
    Ok(answered(StatusCode::OK, Json(describe(&function))))
}

pub async fn delete(State(app): Shared, Path(name): Path<String>) -> Result<Response, AwsError> {
    let function = find(&app, &name)?;
    let views = views_with(&app, &function);
    if !views.is_empty() {
        return Err(AwsError::new(
            StatusCode::CONFLICT,
            "ResourceConflictException",
            format!(
                "function {} is called by {}; drop what calls it first: DROP MATERIALIZED VIEW {}",
                function.name,
                if views.len() == 1 {
                    format!("view {}", views[0])
                } else {
                    format!("views {}", views.join(", "))
                },
                views.join(", ")
            ),
        ));
    }
    // SQL forgets what it exported also if the client goes away.
    let removal = async move {
        let services = &app.services;
        services.functions.remove(&function.name).await?;
        services
            .database
            .set_functions(services.functions.scalars());
        Ok::<_, Error>(())
    };
    let removed = tokio::spawn(removal.in_current_span()).await;
    removed.unwrap_or(Err(Error::Closed))?;
    Ok(answered(StatusCode::NO_CONTENT, ()))
}

/// The views that call what the function exports, in the present code or in the code that they were created with.
fn views_with(app: &App, function: &FunctionInfo) -> Vec<String> {
    let scalars = app.services.functions.scalars();
    let names: Vec<&str> = scalars
        .iter()
        .filter(|scalar| scalar.digest() == function.digest)
        .map(|scalar| scalar.name())
        .collect();
    let views = app.services.database.definitions().into_iter();
    views
        .filter(|view| {
            let mut called = view.functions.iter();
            called
                .any(|(name, digest)| names.contains(&name.as_str()) || *digest == function.digest)
        })
        .map(|view| view.name.to_string())
        .collect()
}

pub async fn invoke(
    State(app): Shared,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, AwsError> {
    let function = find(&app, &name)?;
    let header = |name: &str, default: &'static str| {
        headers.get(name).map_or(default.to_owned(), |value| {
            value.to_str().unwrap_or("?").to_owned()
        })
    };
    let body = app.bounds.read(body, &headers, PAYLOAD_BYTES_MAX).await?;
    // AWS takes an empty body for an empty event.
    let payload = if body.bytes.is_empty() {
        b"{}".to_vec()
    } else {
        body.bytes.to_vec()
    };
    let kind = header("x-amz-invocation-type", "RequestResponse");
    let span = info_span!("invoke", function = %function.name, %kind);
    let functions = &app.services.functions;
    match kind.as_str() {
        "RequestResponse" => {
            let with_log = match header("x-amz-log-type", "None").as_str() {
                "Tail" => true,
                "None" => false,
                other => {
                    return Err(invalid(format!(
                        "Value '{other}' at 'logType' failed to satisfy constraint: Member must satisfy enum value set: [None, Tail]"
                    )));
                }
            };
            let result = functions
                .invoke(&function.name, payload)
                .instrument(span)
                .await?;
            Ok(invoked(&result, with_log))
        }
        "Event" => {
            let id = functions
                .invoke_async(&function.name, payload)
                .instrument(span)
                .await?;
            let mut response = answered(StatusCode::ACCEPTED, ());
            put(&mut response, REQUEST_ID, &id);
            Ok(response)
        }
        "DryRun" => {
            let mut response = answered(StatusCode::NO_CONTENT, ());
            put(&mut response, EXECUTED_VERSION, LATEST);
            Ok(response)
        }
        other => Err(invalid(format!(
            "Value '{other}' at 'invocationType' failed to satisfy constraint: Member must satisfy enum value set: [RequestResponse, Event, DryRun]"
        ))),
    }
}

fn invoked(result: &InvokeResult, with_log: bool) -> Response {
    let mut response = (
        StatusCode::OK,
        [("content-type", "application/json")],
        result.payload().to_vec(),
    )
        .into_response();
    put(&mut response, REQUEST_ID, &result.request_id);
    put(&mut response, EXECUTED_VERSION, LATEST);
    if !result.is_success() {
        put(&mut response, FUNCTION_ERROR, "Unhandled");
    }
    if with_log {
        let tail = result.log_tail.as_bytes();
        let tail = &tail[tail.len().saturating_sub(4096)..];
        put(&mut response, LOG_RESULT, &BASE64_STANDARD.encode(tail));
    }
    response
}

fn answered(status: StatusCode, body: impl IntoResponse) -> Response {
    let mut response = (status, body).into_response();
    response.headers_mut().insert(REQUEST_ID, request_id());
    response
}

fn put(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

fn request_id() -> HeaderValue {
    HeaderValue::from_str(&uuid::Uuid::new_v4().to_string())
        .unwrap_or(HeaderValue::from_static("-"))
}

fn invalid(message: String) -> AwsError {
    AwsError::new(
        StatusCode::BAD_REQUEST,
        "InvalidParameterValueException",
        message,
    )
}

/// By name, `name:$LATEST`, partial or full ARN.
fn find(app: &App, given: &str) -> Result<FunctionInfo, AwsError> {
    let (name, qualifier) = name_and_qualifier(given);
    if let Some(qualifier) = qualifier
        && qualifier != LATEST
    {
        let message = format!(
            "Function not found: {}:{qualifier}. Versions and aliases are not kept yet; use $LATEST",
            arn(name)
        );
        return Err(AwsError::new(
            StatusCode::NOT_FOUND,
            "ResourceNotFoundException",
            message,
        ));
    }
    FunctionName::new(name).map_err(|error| {
        AwsError::new(
            StatusCode::BAD_REQUEST,
            "ValidationException",
            error.to_string(),
        )
    })?;
    app.services.functions.get(name).ok_or_else(|| {
        AwsError::from(Error::NotFound {
            name: name.to_owned(),
        })
    })
}

fn name_and_qualifier(given: &str) -> (&str, Option<&str>) {
    let after_arn = match given.split_once(":function:") {
        Some((_, rest)) => rest,
        None => given,
    };
    match after_arn.split_once(':') {
        Some((name, qualifier)) => (name, Some(qualifier)),
        None => (after_arn, None),
    }
}

fn arn(name: &str) -> String {
    format!("arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}")
}

fn describe(function: &FunctionInfo) -> Value {
    let runtime = match function.runtime {
        Runtime::Python => PYTHON.as_str(),
        Runtime::Wasm => "provided.wasm",
    };
    let name = function.name.to_string();
    json!({
        "FunctionName": name,
        "FunctionArn": arn(&name),
        "Runtime": runtime,
        "Role": format!("arn:aws:iam::{ACCOUNT}:role/lambic"),
        "Handler": function.handler,
        "CodeSize": function.code_bytes,
        "Description": "",
        "Timeout": function.timeout_ms.div_ceil(1000),
        "MemorySize": function.memory_mb,
        "LastModified": timestamp(function.deployed_at_us),
        "CodeSha256": BASE64_STANDARD.encode(unhex(&function.digest)),
        "Version": LATEST,
        "Environment": { "Variables": function.environment },
        "TracingConfig": { "Mode": "PassThrough" },
        "RevisionId": revision(&function.digest, function.deployment),
        "State": "Active",
        "LastUpdateStatus": "Successful",
        "PackageType": "Zip",
        "Architectures": [if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" }],
        "EphemeralStorage": { "Size": 512 },
    })
}

/// AWS's name of the runtime that the machine's interpreter is, such as `python3.12`.
static PYTHON: LazyLock<String> = LazyLock::new(|| {
    let said = std::process::Command::new("python3")
        .arg("--version")
        .output();
    let said = said.map_or_else(|_| Vec::new(), |output| output.stdout);
    python_runtime(&String::from_utf8_lossy(&said))
});

/// From what `python3 --version` says.
fn python_runtime(said: &str) -> String {
    let version = said.trim().strip_prefix("Python ").unwrap_or_default();
    match version.split('.').collect::<Vec<_>>().as_slice() {
        [major, minor, ..] => format!("python{major}.{minor}"),
        _ => "python3".to_owned(),
    }
}

/// As AWS writes it: `2026-11-23T21:00:00.000+0000`.
fn timestamp(us: i64) -> String {
    arrow::temporal_conversions::timestamp_us_to_datetime(us)
        .map(|time| time.format("%Y-%m-%dT%H:%M:%S%.3f+0000").to_string())
        .unwrap_or_default()
}

/// Changes with every deployment, and looks like AWS's: a UUID.
fn revision(digest: &str, deployment: u64) -> String {
    let hex = format!(
        "{:0<20}{deployment:012x}",
        digest.chars().take(20).collect::<String>()
    );
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

fn unhex(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .chars()
        .filter_map(|c| c.to_digit(16))
        .map(|digit| digit as u8)
        .collect();
    digits
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_read_as_hex() {
        assert_eq!(unhex("00ff10"), [0, 255, 16]);
    }

    #[test]
    fn functions_are_named_in_aws_ways() {
        assert_eq!(name_and_qualifier("f"), ("f", None));
        assert_eq!(name_and_qualifier("f:$LATEST"), ("f", Some("$LATEST")));
        assert_eq!(
            name_and_qualifier("arn:aws:lambda:eu-west-1:123456789012:function:f:7"),
            ("f", Some("7"))
        );
        assert_eq!(name_and_qualifier("123456789012:function:f"), ("f", None));
    }

    #[test]
    fn the_python_is_the_one_that_runs() {
        assert_eq!(python_runtime("Python 3.11.7\n"), "python3.11");
        assert_eq!(python_runtime("Python 3.14.0rc1"), "python3.14");
        assert_eq!(python_runtime(""), "python3");
    }

    #[test]
    fn aws_paths_begin_with_a_date() {
        assert!(is_aws_path("/2015-03-31/functions/f/policy"));
        assert!(is_aws_path("/2020-06-30/functions/f/code-signing-config"));
        assert!(!is_aws_path("/v1/streams"));
        assert!(!is_aws_path("/"));
    }
}
