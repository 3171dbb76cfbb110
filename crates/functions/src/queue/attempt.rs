//! One attempt to run a queued event.

use std::{sync::Arc, time::Duration};

use lambic_model::{InvocationKind, Outcome};
use tracing::warn;

use super::{
    intake::{self, Content},
    lines::Queued,
    retry::{Cause, is_too_old},
};
use crate::{
    AsyncSettings, Destination, FunctionVersion, Inner,
    destination::Last,
    entry::{Call, Entry, Input, Turn},
    notices::SERVICE_ERROR,
    records::{InvocationRow, error_message},
};

/// What there is for an event.
pub enum Found {
    /// A turn of its function.
    Turn(Turn),
    /// Nothing more, since it is too old.
    TooOld(Arc<Entry>),
    /// The function does not exist any more.
    Gone,
}

/// How an attempt went.
pub enum Attempt {
    Success {
        follow: Vec<Follow>,
        /// What is known of the invocation; it is recorded with the end of the event.
        row: Option<Box<InvocationRow>>,
    },
    Failure {
        cause: Cause,
        error_type: String,
        message: String,
        /// What was tried, for the dead letter.
        payload: String,
        /// How often the function wants a failed event to be tried again.
        retries: u32,
        /// The event is not tried again when it is older.
        age_max: Duration,
        follow: Vec<Follow>,
    },
    /// There was none: the event could not be read.
    Unread(String),
}

/// Where the result goes if the event ends with it.
pub struct Follow {
    pub to: Destination,
    pub last: Last,
}

/// How old an event of a function with these settings may get.
pub fn age_max(inner: &Inner, settings: &AsyncSettings) -> Duration {
    let own = settings.age_s_max.map(u64::from).map(Duration::from_secs);
    own.unwrap_or(inner.options.async_age_max)
}

pub async fn attempt(inner: Arc<Inner>, event: Queued, found: Found) -> Attempt {
    let _running = inner.running();
    let Content { payload, trace_id } = match read(&inner, event.offset).await {
        Ok(content) => content,
        Err(reason) => return Attempt::Unread(reason),
    };
    let settings = inner.async_settings(&event.function).unwrap_or_default();
    let age_max = age_max(&inner, &settings);
    let (entry, turn) = match found {
        Found::Turn(turn) => (turn.entry.clone(), Some(turn)),
        Found::TooOld(entry) => (entry, None),
        Found::Gone => {
            return Attempt::Failure {
                cause: Cause::Gone,
                error_type: "ResourceNotFoundException".to_owned(),
                message: format!("there is no function `{}` any more", event.function),
                payload,
                retries: 0,
                age_max,
                follow: Vec::new(),
            };
        }
    };
    let info = &entry.info;
    let version = info.version;
    let retries = settings.retries.unwrap_or(info.retries);
    // Both get it, as on AWS, and one that is named twice gets it once.
    let on_failure = settings.on_failure.as_deref();
    let target = info.settings.dead_letter_target();
    let target = target.filter(|target| Some(*target) != on_failure);
    let failed_to: Vec<&str> = on_failure.into_iter().chain(target).collect();
    let failed_to = || failed_to.iter().copied();
    let age_us = inner.options.clock.now_us() - event.at_us;
    let Some(turn) = turn.filter(|_| !is_too_old(age_us, age_max)) else {
        let message = format!(
            "the event is older than its MaximumEventAgeInSeconds, {}",
            age_max.as_secs()
        );
        return Attempt::Failure {
            cause: Cause::TooOld,
            follow: follow(&payload, failed_to(), true, version, message.as_bytes()),
            error_type: "EventAgeExceeded".to_owned(),
            message,
            payload,
            retries,
            age_max,
        };
    };
    let attempt = event.attempts.saturating_add(1);
    let call = Call {
        trace_id: trace_id.as_deref(),
        ..Call::new(&event.request_id, InvocationKind::Async, attempt)
    };
    let run = turn.run_to_keep(call, Input::Event(payload.as_bytes()), &inner);
    let (cause, error_type, message, follow) = match run.await {
        Ok((result, row)) => match result.outcome {
            Outcome::Success(answer) => {
                let to = settings.on_success.as_deref();
                return Attempt::Success {
                    row: row.map(Box::new),
                    follow: follow(&payload, to, false, version, &answer),
                };
            }
            Outcome::Failure {
                error_type,
                payload: error,
            } => (
                Cause::Function,
                error_type,
                error_message(&error),
                follow(&payload, failed_to(), true, version, &error),
            ),
        },
        Err(error) => {
            warn!(function = %event.function, %error, "a queued event could not be run");
            let message = error.to_string();
            let follow = follow(&payload, failed_to(), true, version, message.as_bytes());
            (Cause::Platform, SERVICE_ERROR.to_owned(), message, follow)
        }
    };
    Attempt::Failure {
        cause,
        error_type,
        message,
        payload,
        retries,
        age_max,
        follow,
    }
}

fn follow<'a>(
    payload: &str,
    to: impl IntoIterator<Item = &'a str>,
    is_failure: bool,
    version: FunctionVersion,
    response: &[u8],
) -> Vec<Follow> {
    let destinations = to.into_iter().filter_map(Destination::parse);
    destinations
        .map(|to| Follow {
            to,
            last: Last {
                version,
                is_failure,
                request: payload.to_owned(),
                response: response.to_vec(),
            },
        })
        .collect()
}

async fn read(inner: &Inner, offset: u64) -> Result<Content, String> {
    let (snapshot, queue) = (inner.options.log.snapshot(), inner.options.streams.queue.id);
    tokio::task::spawn_blocking(move || intake::content(&snapshot, queue, offset))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())
}
