//! Errors as Postgres's clients expect them: severity, SQLSTATE, message, hint, detail, position.

use lambic_query::{Error, PLAN_CHANGED};
use pgwire::error::{ErrorInfo, PgWireError};

pub fn wire(code: &str, message: impl Into<String>) -> PgWireError {
    PgWireError::UserError(Box::new(info("ERROR", code, message)))
}

pub fn with_hint(code: &str, message: impl Into<String>, hint: &str) -> PgWireError {
    let mut info = info("ERROR", code, message);
    info.hint = Some(hint.to_owned());
    PgWireError::UserError(Box::new(info))
}

/// Ends the connection.
pub fn fatal(code: &str, message: impl Into<String>, hint: Option<&str>) -> PgWireError {
    let mut info = info("FATAL", code, message);
    info.hint = hint.map(str::to_owned);
    PgWireError::UserError(Box::new(info))
}

pub fn info(severity: &str, code: &str, message: impl Into<String>) -> ErrorInfo {
    let mut info = ErrorInfo::new(severity.to_owned(), code.to_owned(), message.into());
    info.severity_nonlocalized = Some(severity.to_owned());
    info
}

/// `chars_before` is where the statement begins in what the client sent.
pub fn from_query(error: Error, chars_before: usize) -> PgWireError {
    // By the routine's name drivers such as asyncpg know to prepare the statement again.
    let routine = (error.message == PLAN_CHANGED).then(|| "RevalidateCachedQuery".to_owned());
    let mut info = info("ERROR", error.sqlstate, error.message);
    info.routine = routine;
    info.hint = error.hint;
    info.detail = error.detail;
    info.position = error
        .position
        .map(|position| (position + chars_before).to_string());
    PgWireError::UserError(Box::new(info))
}

pub fn cancelled(by_timeout: bool) -> PgWireError {
    let why = if by_timeout {
        "statement timeout"
    } else {
        "user request"
    };
    wire("57014", format!("canceling statement due to {why}"))
}
