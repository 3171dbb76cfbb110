//! One attempt to run a queued event.

use std::sync::Arc;

use lambic_model::{InvocationKind, Outcome};
use tracing::warn;

use super::{intake, lines::Queued};
use crate::{
    Inner,
    entry::{Call, Turn},
    records::error_message,
};

/// How an attempt went.
pub enum Attempt {
    Success,
    Failure {
        error_type: String,
        message: String,
        /// What was tried, for the dead letter.
        payload: String,
        /// How often the function wants a failed event to be tried again.
        retries: u32,
    },
    /// There was none: the event could not be read.
    Unread(String),
}

/// `turn` is of the event's function; `None` if that does not exist any more.
pub async fn attempt(inner: Arc<Inner>, event: Queued, turn: Option<Turn>) -> Attempt {
    let payload = match read(&inner, event.offset).await {
        Ok(payload) => payload,
        Err(reason) => return Attempt::Unread(reason),
    };
    let Some(turn) = turn else {
        return Attempt::Failure {
            error_type: "ResourceNotFoundException".to_owned(),
            message: format!("there is no function `{}` any more", event.function),
            payload,
            retries: 0,
        };
    };
    let retries = turn.entry.info.retries;
    let call = Call {
        request_id: &event.request_id,
        kind: InvocationKind::Async,
        attempt: event.attempts + 1,
    };
    let (error_type, message) = match turn.run(call, payload.as_bytes(), &inner.recorder).await {
        Ok(result) => match result.outcome {
            Outcome::Success(_) => return Attempt::Success,
            Outcome::Failure {
                error_type,
                payload,
            } => (error_type, error_message(&payload)),
        },
        Err(error) => {
            warn!(function = %event.function, %error, "a queued event could not be run");
            ("ServiceException".to_owned(), error.to_string())
        }
    };
    Attempt::Failure {
        error_type,
        message,
        payload,
        retries,
    }
}

async fn read(inner: &Inner, offset: u64) -> Result<String, String> {
    let (snapshot, queue) = (inner.options.log.snapshot(), inner.options.streams.queue.id);
    tokio::task::spawn_blocking(move || intake::payload(&snapshot, queue, offset))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())
}
