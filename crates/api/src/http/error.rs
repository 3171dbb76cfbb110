//! Errors of the HTTP door: JSON, with who can do something about it and whether to try again.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use lambic_model::AppendError;
use serde_json::{Value, json};

/// Who can mend it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    User,
    Outside,
    Ours,
}

#[derive(Debug, Clone)]
pub struct Failure {
    pub status: StatusCode,
    pub code: &'static str,
    pub sqlstate: Option<String>,
    pub message: String,
    pub hint: Option<String>,
    pub detail: Option<String>,
    pub position: Option<usize>,
    pub retry: bool,
    pub owner: Owner,
    /// More members of the error object.
    pub more: Option<(&'static str, Value)>,
}

impl Failure {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Failure {
        Failure {
            status,
            code,
            sqlstate: None,
            message: message.into(),
            hint: None,
            detail: None,
            position: None,
            retry: false,
            owner: if status.is_server_error() {
                Owner::Ours
            } else {
                Owner::User
            },
            more: None,
        }
    }

    pub fn bad_request(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub fn not_found(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    pub fn with_detail(mut self, detail: impl Into<String>) -> Failure {
        self.detail = Some(detail.into());
        self
    }

    pub fn with_retry(mut self) -> Failure {
        self.retry = true;
        self
    }

    pub fn with(mut self, name: &'static str, value: Value) -> Failure {
        self.more = Some((name, value));
        self
    }

    /// The `error` object.
    pub fn to_json(&self) -> Value {
        let owner = match self.owner {
            Owner::User => "user",
            Owner::Outside => "outside",
            Owner::Ours => "ours",
        };
        let mut error = json!({
            "code": self.code,
            "message": self.message,
            "retry": self.retry,
            "owner": owner,
        });
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                error[name] = value;
            }
        };
        put("sqlstate", self.sqlstate.clone().map(Value::from));
        put("hint", self.hint.clone().map(Value::from));
        put("detail", self.detail.clone().map(Value::from));
        put("position", self.position.map(Value::from));
        if let Some((name, value)) = &self.more {
            put(name, Some(value.clone()));
        }
        error
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = Json(json!({ "error": self.to_json() }));
        let mut response = (self.status, body).into_response();
        if self.retry {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<lambic_query::Error> for Failure {
    fn from(error: lambic_query::Error) -> Failure {
        let (status, code, retry, owner) = kind(error.sqlstate);
        Failure {
            status,
            code,
            sqlstate: Some(error.sqlstate.to_owned()),
            message: error.message,
            hint: error.hint,
            detail: error.detail,
            position: error.position,
            retry,
            owner,
            more: None,
        }
    }
}

/// What a SQLSTATE means for a caller.
fn kind(sqlstate: &str) -> (StatusCode, &'static str, bool, Owner) {
    match sqlstate {
        "42501" => (StatusCode::FORBIDDEN, "forbidden", false, Owner::User),
        "42P07" | "2BP01" => (StatusCode::CONFLICT, "conflict", false, Owner::User),
        "53400" => (StatusCode::TOO_MANY_REQUESTS, "busy", true, Owner::Ours),
        "53200" => (
            StatusCode::SERVICE_UNAVAILABLE,
            "out_of_memory",
            true,
            Owner::User,
        ),
        "XX001" => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "damaged",
            false,
            Owner::Outside,
        ),
        _ => match sqlstate.get(..2).unwrap_or_default() {
            "53" | "57" | "58" => (
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                true,
                Owner::Outside,
            ),
            "XX" => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                false,
                Owner::Ours,
            ),
            _ => (StatusCode::BAD_REQUEST, "bad_sql", false, Owner::User),
        },
    }
}

impl From<AppendError> for Failure {
    fn from(error: AppendError) -> Failure {
        match error {
            AppendError::Refused(message) => {
                Failure::new(StatusCode::BAD_REQUEST, "refused", message)
            }
            AppendError::SequenceForgotten(message) => {
                Failure::new(StatusCode::CONFLICT, "sequence_forgotten", message)
            }
            AppendError::Busy(message) => {
                let failure =
                    Failure::new(StatusCode::TOO_MANY_REQUESTS, "busy", message).with_retry();
                Failure {
                    owner: Owner::Ours,
                    ..failure
                }
            }
            AppendError::Unavailable(message) => {
                let failure = Failure::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
                    .with_retry()
                    .with_hint("repeat it with the same Lambic-Producer and Lambic-Sequence: it is not kept twice");
                Failure {
                    owner: Owner::Outside,
                    ..failure
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forgotten_sequence_is_a_conflict_that_a_repetition_does_not_mend() {
        let failure = Failure::from(AppendError::SequenceForgotten("why".to_owned()));
        assert_eq!(failure.status, StatusCode::CONFLICT);
        assert!(!failure.retry);
    }

    #[test]
    fn a_sqlstate_tells_whose_turn_it_is() {
        assert_eq!(kind("42601").0, StatusCode::BAD_REQUEST);
        assert_eq!(
            kind("53400"),
            (StatusCode::TOO_MANY_REQUESTS, "busy", true, Owner::Ours)
        );
        assert_eq!(kind("57P03").0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(kind("XX000").3, Owner::Ours);
        assert_eq!(kind("").0, StatusCode::BAD_REQUEST);
    }
}
