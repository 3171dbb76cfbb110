//! One attempt to run a queued event.

use std::sync::Arc;

use lambic_model::{InvocationKind, Outcome};
use tracing::warn;

use super::{intake, lines::Queued};
use crate::{
    Destination, FunctionVersion, Inner,
    destination::Last,
    entry::{Call, Turn},
    notices::SERVICE_ERROR,
    records::error_message,
};

/// How an attempt went.
pub enum Attempt {
    Success {
        follow: Option<Follow>,
    },
    Failure {
        error_type: String,
        message: String,
        /// What was tried, for the dead letter.
        payload: String,
        /// How often the function wants a failed event to be tried again.
        retries: u32,
        /// The event is not tried again when it is older.
        age_s_max: Option<u32>,
        follow: Option<Follow>,
    },
    /// There was none: the event could not be read.
    Unread(String),
}

/// Where the result goes if the event ends with it.
pub struct Follow {
    pub to: Destination,
    pub last: Last,
}

/// `turn` is of the event's function; `None` if that does not exist any more.
pub async fn attempt(inner: Arc<Inner>, event: Queued, turn: Option<Turn>) -> Attempt {
    let _running = inner.running();
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
            age_s_max: None,
            follow: None,
        };
    };
    let info = &turn.entry.info;
    let (version, retries) = (info.version, info.retries);
    let settings = inner.async_settings(&event.function).unwrap_or_default();
    let age_us = inner.options.clock.now_us() - event.at_us;
    if settings
        .age_s_max
        .is_some_and(|max| age_us > i64::from(max) * 1_000_000)
    {
        let message = "the event is older than MaximumEventAgeInSeconds".to_owned();
        return Attempt::Failure {
            follow: follow(
                &payload,
                &settings.on_failure,
                true,
                version,
                message.as_bytes(),
            ),
            error_type: "EventAgeExceeded".to_owned(),
            message,
            payload,
            // It ends for its age, however often it may be tried.
            retries: u32::MAX,
            age_s_max: settings.age_s_max,
        };
    }
    let call = Call::new(&event.request_id, InvocationKind::Async, event.attempts + 1);
    let (error_type, message, follow) = match turn.run(call, payload.as_bytes(), &inner).await {
        Ok(result) => match result.outcome {
            Outcome::Success(answer) => {
                return Attempt::Success {
                    follow: follow(&payload, &settings.on_success, false, version, &answer),
                };
            }
            Outcome::Failure {
                error_type,
                payload: error,
            } => (
                error_type,
                error_message(&error),
                follow(&payload, &settings.on_failure, true, version, &error),
            ),
        },
        Err(error) => {
            warn!(function = %event.function, %error, "a queued event could not be run");
            let message = error.to_string();
            let follow = follow(
                &payload,
                &settings.on_failure,
                true,
                version,
                message.as_bytes(),
            );
            (SERVICE_ERROR.to_owned(), message, follow)
        }
    };
    Attempt::Failure {
        error_type,
        message,
        payload,
        retries: settings.retries.unwrap_or(retries),
        age_s_max: settings.age_s_max,
        follow,
    }
}

fn follow(
    payload: &str,
    to: &Option<String>,
    is_failure: bool,
    version: FunctionVersion,
    response: &[u8],
) -> Option<Follow> {
    Some(Follow {
        to: Destination::parse(to.as_ref()?)?,
        last: Last {
            version,
            is_failure,
            request: payload.to_owned(),
            response: response.to_vec(),
        },
    })
}

async fn read(inner: &Inner, offset: u64) -> Result<String, String> {
    let (snapshot, queue) = (inner.options.log.snapshot(), inner.options.streams.queue.id);
    tokio::task::spawn_blocking(move || intake::payload(&snapshot, queue, offset))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())
}
