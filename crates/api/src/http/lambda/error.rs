//! Errors in AWS's form: a status, a name in the header `x-amzn-ErrorType`, and `{"Type", "Message"}`.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use lambic_functions::Error;
use serde_json::{Value, json};

use super::{
    super::body::{self, Unread},
    answer::{ERROR_TYPE, REQUEST_ID, request_id},
};

#[derive(Debug, Clone, PartialEq)]
pub struct AwsError {
    pub status: StatusCode,
    pub kind: &'static str,
    pub message: String,
    /// The member `Reason` of throttled requests.
    reason: Option<&'static str>,
}

impl AwsError {
    pub fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> AwsError {
        AwsError {
            status,
            kind,
            message: message.into(),
            reason: None,
        }
    }

    /// A value that is well-formed and still cannot be.
    pub fn invalid(message: impl Into<String>) -> AwsError {
        AwsError::new(
            StatusCode::BAD_REQUEST,
            "InvalidParameterValueException",
            message,
        )
    }

    /// A value that breaks a constraint of its shape.
    pub fn validation(message: impl Into<String>) -> AwsError {
        AwsError::new(StatusCode::BAD_REQUEST, "ValidationException", message)
    }

    pub fn not_found(message: impl Into<String>) -> AwsError {
        AwsError::new(StatusCode::NOT_FOUND, "ResourceNotFoundException", message)
    }

    /// AWS's words where it does not say what is missing.
    pub fn no_resource() -> AwsError {
        AwsError::not_found("The resource you requested does not exist.")
    }

    pub fn conflict(message: impl Into<String>) -> AwsError {
        AwsError::new(StatusCode::CONFLICT, "ResourceConflictException", message)
    }

    pub fn bad_content(message: impl Into<String>) -> AwsError {
        AwsError::new(
            StatusCode::BAD_REQUEST,
            "InvalidRequestContentException",
            message,
        )
    }

    /// An event that is written in another form than is taken.
    pub fn unsupported_media(message: impl Into<String>) -> AwsError {
        AwsError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaTypeException",
            message,
        )
    }

    pub fn too_large(kind: &'static str, bytes_max: usize, operation: &str) -> AwsError {
        AwsError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            kind,
            format!("Request must be smaller than {bytes_max} bytes for the {operation} operation"),
        )
    }

    /// An invocation of what was deployed and cannot be run any more.
    pub fn invalid_zip(message: impl Into<String>) -> AwsError {
        AwsError::new(StatusCode::BAD_GATEWAY, "InvalidZipFileException", message)
    }

    /// The same, for want of an interpreter.
    pub fn invalid_runtime(message: impl Into<String>) -> AwsError {
        AwsError::new(StatusCode::BAD_GATEWAY, "InvalidRuntimeException", message)
    }

    fn throttled(reason: &'static str) -> AwsError {
        AwsError {
            reason: Some(reason),
            ..AwsError::new(
                StatusCode::TOO_MANY_REQUESTS,
                "TooManyRequestsException",
                "Rate Exceeded.",
            )
        }
    }

    /// An event over the limit of its kind of invocation.
    pub fn payload_too_large(bytes: usize, limit: usize, kind: &str) -> AwsError {
        AwsError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestTooLargeException",
            format!(
                "{bytes} byte payload is too large for the {kind} invocation type (limit {limit} bytes)"
            ),
        )
    }

    /// A body that was not read; `too_large` is what it means here that it is too long.
    pub fn unread(unread: Unread, too_large: impl FnOnce() -> AwsError) -> AwsError {
        match unread {
            Unread::TooLarge => too_large(),
            Unread::Busy => AwsError::throttled("CallerRateLimitExceeded"),
            unread @ (Unread::BrokenOff(_) | Unread::Stalled(_)) => {
                let failure = unread.into_failure(body::busy);
                AwsError {
                    status: failure.status,
                    ..AwsError::bad_content(failure.message)
                }
            }
        }
    }
}

/// AWS's shapes of errors spell it one way or the other.
fn message_member(kind: &str) -> &'static str {
    match kind {
        "AccessDeniedException"
        | "CodeSigningConfigNotFoundException"
        | "InvalidRuntimeException"
        | "InvalidZipFileException"
        | "PublicPolicyException"
        | "ResourceInUseException"
        | "ResourceNotFoundException"
        | "ServiceException" => "Message",
        _ => "message",
    }
}

impl IntoResponse for AwsError {
    fn into_response(self) -> Response {
        let owner = match self.status.is_server_error() {
            true => "Service",
            false => "User",
        };
        let mut body = json!({ "Type": owner, message_member(self.kind): self.message });
        if let Some(reason) = self.reason {
            body["Reason"] = Value::from(reason);
        }
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(ERROR_TYPE, HeaderValue::from_static(self.kind));
        headers.insert(REQUEST_ID, request_id());
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<Error> for AwsError {
    fn from(error: Error) -> AwsError {
        let message = error.to_string();
        match error {
            Error::NotFound { name } => AwsError::not_found(format!("Function not found: {name}")),
            Error::Missing { .. } => AwsError::no_resource(),
            Error::NoStatement { sid } => {
                AwsError::not_found(format!("Statement {sid} is not found in resource policy."))
            }
            Error::Throttled { .. } => {
                AwsError::throttled("ReservedFunctionConcurrentInvocationLimitExceeded")
            }
            Error::Full { .. } => AwsError::throttled("ConcurrentInvocationLimitExceeded"),
            Error::PayloadTooLarge { bytes, limit } => {
                AwsError::payload_too_large(bytes, limit, "RequestResponse")
            }
            Error::PayloadNotJson { reason } => {
                AwsError::bad_content(format!("Could not parse request body into json: {reason}"))
            }
            Error::WrongForm { .. } => AwsError::unsupported_media(message),
            Error::Conflict { .. } => AwsError::conflict(message),
            Error::WrongRevision => AwsError::new(
                StatusCode::PRECONDITION_FAILED,
                "PreconditionFailedException",
                message,
            ),
            Error::PolicyTooLong { .. } => AwsError::new(
                StatusCode::BAD_REQUEST,
                "PolicyLengthExceededException",
                message,
            ),
            // AWS's words for these two are the reasons themselves.
            Error::BadZip { reason, .. }
                if reason.starts_with("Unzipped size") || reason.starts_with("Uploaded file") =>
            {
                AwsError::invalid(reason)
            }
            Error::BadZip { name, reason } => {
                tracing::info!(function = name, reason, "a zip was refused");
                AwsError::invalid(
                    "Could not unzip uploaded file. Please check your file, then try to upload again.",
                )
            }
            Error::NotInvocable { .. }
            | Error::UnknownRuntime { .. }
            | Error::BadDeployment { .. }
            | Error::BadStart { .. }
            | Error::BadValue { .. }
            | Error::NotShutIn { .. }
            | Error::NoRoot { .. }
            | Error::Image { .. }
            | Error::TooMuchMemory { .. }
            | Error::UnknownStream { .. }
            | Error::TriggerLoop { .. } => AwsError::invalid(message),
            _ => AwsError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "ServiceException",
                message,
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_name_and_status_that_aws_gives_them() {
        let text = || "x".to_owned();
        for (error, status, kind) in [
            (
                Error::NotFound { name: text() },
                404,
                "ResourceNotFoundException",
            ),
            (
                Error::Missing { name: text() },
                404,
                "ResourceNotFoundException",
            ),
            (
                Error::Conflict { reason: text() },
                409,
                "ResourceConflictException",
            ),
            (Error::WrongRevision, 412, "PreconditionFailedException"),
            (
                Error::BadValue { reason: text() },
                400,
                "InvalidParameterValueException",
            ),
            (
                Error::PayloadTooLarge { bytes: 2, limit: 1 },
                413,
                "RequestTooLargeException",
            ),
            (
                Error::Throttled {
                    name: text(),
                    concurrency: 1,
                    waiting: 0,
                },
                429,
                "TooManyRequestsException",
            ),
            (
                Error::WrongForm {
                    name: text(),
                    form: lambic_functions::Form::Json,
                },
                415,
                "UnsupportedMediaTypeException",
            ),
            (Error::Closed, 500, "ServiceException"),
        ] {
            let error = AwsError::from(error);
            assert_eq!((error.status.as_u16(), error.kind), (status, kind));
        }
    }

    #[test]
    fn who_finds_no_room_for_a_body_is_throttled() {
        let error = AwsError::unread(Unread::Busy, || AwsError::invalid("not this"));
        assert_eq!(error.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(error.reason, Some("CallerRateLimitExceeded"));
    }

    #[test]
    fn a_throttled_invocation_says_by_what() {
        let name = || "f".to_owned();
        let reserved = Error::Throttled {
            name: name(),
            concurrency: 1,
            waiting: 0,
        };
        let full = Error::Full {
            name: name(),
            reason: String::new(),
        };
        for (error, reason) in [
            (
                reserved,
                "ReservedFunctionConcurrentInvocationLimitExceeded",
            ),
            (full, "ConcurrentInvocationLimitExceeded"),
        ] {
            let error = AwsError::from(error);
            assert_eq!(error.status, StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(error.reason, Some(reason));
        }
    }
}
