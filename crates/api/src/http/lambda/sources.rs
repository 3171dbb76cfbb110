//! The five operations on event source mappings: streams whose records invoke a function.
//!
//! A stream's ARN is `arn:aws:lambic:<region>:<account>:stream/<name>`; no other sources are read here.

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use lambic_functions::{Error, EventSource, NewSource, Qualifier, Start, Trigger};
use lambic_model::{FunctionName, StreamName};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::{App, Shared},
    answer::{self, Answer},
    check::Violations,
    error::AwsError,
    names::{self, Place, Target},
    page::Asked,
    request::{self, Questions, REQUEST_BYTES_MAX},
};

/// Members of AWS's that would change which records a function gets, or how, and that are not here yet.
const UNSUPPORTED: [&str; 12] = [
    "FilterCriteria",
    "KMSKeyArn",
    "ScalingConfig",
    "StartingPositionTimestamp",
    "TumblingWindowInSeconds",
    "Topics",
    "Queues",
    "SourceAccessConfigurations",
    "SelfManagedEventSource",
    "AmazonManagedKafkaEventSourceConfig",
    "SelfManagedKafkaEventSourceConfig",
    "DocumentDBEventSourceConfig",
];
/// Kept and given back.
const KEPT: [&str; 3] = ["MetricsConfig", "LoggingConfig", "ProvisionedPollerConfig"];

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Members {
    event_source_arn: Option<String>,
    function_name: Option<String>,
    enabled: Option<bool>,
    batch_size: Option<i64>,
    maximum_batching_window_in_seconds: Option<i64>,
    starting_position: Option<String>,
    maximum_retry_attempts: Option<i64>,
    maximum_record_age_in_seconds: Option<i64>,
    parallelization_factor: Option<i64>,
    bisect_batch_on_function_error: Option<bool>,
    function_response_types: Option<Vec<String>>,
    destination_config: Option<Value>,
    #[serde(flatten)]
    more: serde_json::Map<String, Value>,
}

impl Members {
    fn check(&self, is_new: bool) -> Result<(), AwsError> {
        let mut v = Violations::default();
        if is_new {
            v.required("functionName", &self.function_name);
        }
        v.range("batchSize", self.batch_size, 1, 10_000);
        v.range(
            "maximumBatchingWindowInSeconds",
            self.maximum_batching_window_in_seconds,
            0,
            300,
        );
        v.range(
            "maximumRetryAttempts",
            self.maximum_retry_attempts,
            -1,
            10_000,
        );
        v.range(
            "maximumRecordAgeInSeconds",
            self.maximum_record_age_in_seconds,
            -1,
            604_800,
        );
        v.range("parallelizationFactor", self.parallelization_factor, 1, 10);
        let starts = ["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"];
        v.one_of(
            "startingPosition",
            self.starting_position.as_deref(),
            &starts,
        );
        v.each_of(
            "functionResponseTypes",
            self.function_response_types.as_deref(),
            &["ReportBatchItemFailures"],
        );
        v.end()?;
        self.check_support()
    }

    /// What cannot be done as it is asked for is refused, not left out in silence.
    fn check_support(&self) -> Result<(), AwsError> {
        let refuse = |member: &str, why: &str| {
            Err(AwsError::invalid(format!(
                "{member} is not supported: {why}"
            )))
        };
        let given = |member: &&str| self.more.get(*member).is_some_and(|value| !value.is_null());
        if let Some(member) = UNSUPPORTED.iter().find(|member| given(member)) {
            return refuse(member, "Lambic does not have it yet");
        }
        if self.starting_position.as_deref() == Some("AT_TIMESTAMP") {
            return refuse("AT_TIMESTAMP", "start at TRIM_HORIZON or LATEST");
        }
        if self
            .parallelization_factor
            .is_some_and(|factor| factor != 1)
        {
            return refuse(
                "ParallelizationFactor",
                "a stream has one reader for each mapping",
            );
        }
        if self
            .maximum_record_age_in_seconds
            .is_some_and(|age| age != -1)
        {
            return refuse(
                "MaximumRecordAgeInSeconds",
                "records are tried whatever their age",
            );
        }
        let is_empty = |value: &Value| match value {
            Value::Null => true,
            Value::Object(members) => members.values().all(|member| {
                member.is_null() || member.as_object().is_some_and(serde_json::Map::is_empty)
            }),
            _ => false,
        };
        if self
            .destination_config
            .as_ref()
            .is_some_and(|config| !is_empty(config))
        {
            return refuse(
                "DestinationConfig",
                "records that keep failing go to lambic_dead_letters or the function's own stream of dead letters",
            );
        }
        Ok(())
    }

    /// `None`: not given. `Some(None)`: for ever.
    fn retries(&self) -> Option<Option<u32>> {
        let attempts = self.maximum_retry_attempts?;
        Some(u32::try_from(attempts).ok())
    }

    fn change(&self, source: &mut EventSource) {
        change(
            self,
            &mut source.trigger,
            &mut source.is_enabled,
            &mut source.retries,
        );
        source.kept.extend(self.kept());
    }

    fn kept(&self) -> impl Iterator<Item = (String, Value)> {
        let kept = KEPT.iter().filter_map(|member| {
            let value = self.more.get(*member).filter(|value| !value.is_null())?;
            Some(((*member).to_owned(), value.clone()))
        });
        let flags = [
            (
                "BisectBatchOnFunctionError",
                self.bisect_batch_on_function_error.map(Value::from),
            ),
            (
                "FunctionResponseTypes",
                self.function_response_types.clone().map(Value::from),
            ),
        ];
        let flags = flags
            .into_iter()
            .filter_map(|(member, value)| Some((member.to_owned(), value?)));
        kept.chain(flags)
    }
}

fn change(
    members: &Members,
    trigger: &mut Trigger,
    is_enabled: &mut bool,
    retries: &mut Option<u32>,
) {
    let number = |value: i64| usize::try_from(value).unwrap_or_default();
    if let Some(size) = members.batch_size {
        trigger.batch_size = number(size);
    }
    if let Some(seconds) = members.maximum_batching_window_in_seconds {
        trigger.window_ms = u64::try_from(seconds).unwrap_or_default() * 1_000;
    }
    if let Some(enabled) = members.enabled {
        *is_enabled = enabled;
    }
    if let Some(given) = members.retries() {
        *retries = given;
    }
}

/// The stream that an ARN names.
fn stream_of(arn: &str) -> Option<StreamName> {
    let mut parts = arn.splitn(6, ':');
    let is_ours = parts.next() == Some("arn")
        && parts
            .next()
            .is_some_and(|partition| partition.starts_with("aws"))
        && parts.next() == Some("lambic");
    let resource = parts.nth(2).filter(|_| is_ours)?;
    StreamName::new(resource.strip_prefix("stream/")?).ok()
}

pub async fn create(State(app): Shared, place: Place, headers: HeaderMap, body: Body) -> Answer {
    let operation = "CreateEventSourceMapping";
    let members: Members =
        request::read(&app, &headers, body, REQUEST_BYTES_MAX, operation).await?;
    members.check(true)?;
    let target = names::target(
        place,
        members.function_name.as_deref().unwrap_or_default(),
        None,
    )?;
    let Some(arn) = &members.event_source_arn else {
        return Err(AwsError::invalid("Unrecognized event source."));
    };
    let Some(stream) = stream_of(arn) else {
        return Err(AwsError::invalid(
            "Unrecognized event source. A stream's ARN is arn:aws:lambic:<region>:<account>:stream/<name>.",
        ));
    };
    let start = match members.starting_position.as_deref() {
        Some("TRIM_HORIZON") => Start::Earliest,
        Some(_) => Start::Latest,
        None => {
            return Err(AwsError::validation(
                "1 validation error detected: Value null at 'startingPosition' failed to satisfy constraint: Member must not be null.",
            ));
        }
    };
    let no_function = |_| AwsError::invalid("Function does not exist");
    target
        .function(&app)
        .and_then(|function| target.info(&function).map(drop))
        .map_err(no_function)?;
    let stream_name = stream.clone();
    let mut new = NewSource {
        trigger: Trigger {
            start,
            ..Trigger::new(stream)
        },
        qualifier: target.qualifier.clone(),
        is_enabled: true,
        retries: None,
        kept: [("EventSourceArn".to_owned(), Value::from(arn.as_str()))].into(),
    };
    change(
        &members,
        &mut new.trigger,
        &mut new.is_enabled,
        &mut new.retries,
    );
    new.kept.extend(members.kept());
    let made = app
        .services
        .functions
        .create_source(&target.name, new)
        .await;
    let (uuid, source) = made.map_err(|error| match error {
        Error::UnknownStream { .. } => AwsError::invalid(format!("Stream not found: {arn}")),
        Error::TriggerLoop { .. }
            if app.services.database.stream(stream_name.as_str()).is_none() =>
        {
            AwsError::invalid(format!("Stream not found: {arn}"))
        }
        error => target.place.refuse(error),
    })?;
    let state = match source.is_enabled {
        true => "Creating",
        false => "Disabled",
    };
    let body = describe(&app, &target.place, &target.name, &uuid, &source, state);
    Ok(answer::json(StatusCode::ACCEPTED, &body))
}

pub async fn list(State(app): Shared, place: Place, questions: Questions) -> Answer {
    let asked = Asked::of(&questions, 10_000)?;
    let wanted: Option<Target> = match questions.get("FunctionName") {
        Some(name) => Some(names::target(place.clone(), name, None)?),
        None => None,
    };
    let source_arn = questions.get("EventSourceArn");
    let all = app.services.functions.sources();
    let items = all.iter().filter(|(function, _, source)| {
        let is_function = wanted
            .as_ref()
            .is_none_or(|target| target.name == *function && target.key() == qualifier(source));
        is_function && source_arn.is_none_or(|arn| arn == source_arn_of(source))
    });
    let mut items: Vec<_> = items.map(|item| (item.1.clone(), item)).collect();
    items.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    let page = asked.page(items).map(|(function, uuid, source)| {
        describe(&app, &place, function, uuid, source, state(source))
    });
    Ok(page.answer("EventSourceMappings"))
}

fn qualifier(source: &EventSource) -> Qualifier {
    source.qualifier.clone().unwrap_or(Qualifier::LATEST)
}

pub async fn one(State(app): Shared, place: Place, Path(uuid): Path<String>) -> Answer {
    let all = app.services.functions.sources();
    let found = all.iter().find(|(_, id, _)| *id == uuid);
    let (function, _, source) = found.ok_or_else(AwsError::no_resource)?;
    let body = describe(&app, &place, function, &uuid, source, state(source));
    Ok(answer::json(StatusCode::OK, &body))
}

pub async fn update(
    State(app): Shared,
    place: Place,
    Path(uuid): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let operation = "UpdateEventSourceMapping";
    let members: Members =
        request::read(&app, &headers, body, REQUEST_BYTES_MAX, operation).await?;
    members.check(false)?;
    let target = match &members.function_name {
        Some(name) => Some(names::target(place.clone(), name, None)?),
        None => None,
    };
    let all = app.services.functions.sources();
    let found = all.iter().find(|(_, id, _)| *id == uuid);
    let (function, ..) = found.ok_or_else(AwsError::no_resource)?;
    if target
        .as_ref()
        .is_some_and(|target| target.name != *function)
    {
        return Err(AwsError::invalid(
            "An event source mapping stays with its function; delete it and create one for the other function.",
        ));
    }
    let changed = app.services.functions.update_source(&uuid, move |source| {
        members.change(source);
        if let Some(target) = target {
            source.qualifier = target.qualifier;
        }
        Ok(())
    });
    let (function, source) = changed.await.map_err(|error| place.refuse(error))?;
    let body = describe(&app, &place, &function, &uuid, &source, "Updating");
    Ok(answer::json(StatusCode::ACCEPTED, &body))
}

pub async fn remove(State(app): Shared, place: Place, Path(uuid): Path<String>) -> Answer {
    let removed = app.services.functions.remove_source(&uuid).await;
    let (function, source) = removed?;
    let body = describe(&app, &place, &function, &uuid, &source, "Deleting");
    Ok(answer::json(StatusCode::ACCEPTED, &body))
}

fn state(source: &EventSource) -> &'static str {
    match source.is_enabled {
        true => "Enabled",
        false => "Disabled",
    }
}

fn source_arn_of(source: &EventSource) -> &str {
    let arn = source.kept.get("EventSourceArn");
    arn.and_then(Value::as_str).unwrap_or_default()
}

fn describe(
    app: &App,
    place: &Place,
    function: &FunctionName,
    uuid: &str,
    source: &EventSource,
    state: &str,
) -> Value {
    let arn = match &source.qualifier {
        Some(qualifier) => place.qualified(function, qualifier),
        None => place.function(function),
    };
    let start = match source.trigger.start {
        Start::Earliest => "TRIM_HORIZON",
        Start::Latest => "LATEST",
    };
    let mut body = json!({
        "UUID": uuid,
        "EventSourceMappingArn": place.mapping(uuid),
        "FunctionArn": arn,
        "EventSourceArn": source_arn_of(source),
        "BatchSize": source.trigger.batch_size,
        "MaximumBatchingWindowInSeconds": source.trigger.window_ms / 1_000,
        "ParallelizationFactor": 1,
        "MaximumRetryAttempts": source.retries.map_or(-1, i64::from),
        "MaximumRecordAgeInSeconds": -1,
        "BisectBatchOnFunctionError": true,
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
        "TumblingWindowInSeconds": 0,
        "StartingPosition": start,
        "DestinationConfig": { "OnFailure": {} },
        "State": state,
        "StateTransitionReason": "USER_INITIATED",
        "LastProcessingResult": app.services.functions.processed(source),
        // Seconds since 1970.
        "LastModified": source.changed_at_us as f64 / 1e6,
    });
    for (member, value) in &source.kept {
        body[member] = value.clone();
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(value: Value) -> Members {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn streams_are_named_by_arns() {
        let name = |arn| stream_of(arn).map(|name| name.to_string());
        assert_eq!(
            name("arn:aws:lambic:us-east-1:000000000000:stream/clicks").as_deref(),
            Some("clicks")
        );
        for arn in [
            "arn:aws:kinesis:us-east-1:000000000000:stream/clicks",
            "arn:aws:lambic:us-east-1:000000000000:view/clicks",
            "arn:aws:lambic:us-east-1:000000000000:stream/No",
            "clicks",
            "",
        ] {
            assert_eq!(name(arn), None, "{arn}");
        }
    }

    #[test]
    fn what_is_not_here_is_refused() {
        for (value, part) in [
            (json!({ "BatchSize": 0 }), "batchSize"),
            (
                json!({ "MaximumRetryAttempts": -2 }),
                "maximumRetryAttempts",
            ),
            (json!({ "StartingPosition": "NOW" }), "startingPosition"),
            (
                json!({ "StartingPosition": "AT_TIMESTAMP" }),
                "AT_TIMESTAMP",
            ),
            (
                json!({ "FilterCriteria": { "Filters": [] } }),
                "FilterCriteria",
            ),
            (
                json!({ "ParallelizationFactor": 2 }),
                "ParallelizationFactor",
            ),
            (
                json!({ "DestinationConfig": { "OnFailure": { "Destination": "x" } } }),
                "DestinationConfig",
            ),
        ] {
            let message = members(value).check(false).unwrap_err().message;
            assert!(message.contains(part), "{message}");
        }
        let fine = json!({
            "BatchSize": 10,
            "DestinationConfig": { "OnFailure": {} },
            "FilterCriteria": null,
            "MaximumRecordAgeInSeconds": -1,
        });
        assert!(members(fine).check(false).is_ok());
        assert!(members(json!({})).check(true).is_err());
    }

    #[test]
    fn an_update_leaves_what_it_does_not_name() {
        let mut trigger = Trigger::new(StreamName::new("s").unwrap());
        let (mut is_enabled, mut retries) = (true, Some(3));
        let update = members(json!({ "Enabled": false, "MaximumBatchingWindowInSeconds": 2 }));
        change(&update, &mut trigger, &mut is_enabled, &mut retries);
        assert_eq!((trigger.batch_size, trigger.window_ms), (100, 2_000));
        assert_eq!((is_enabled, retries), (false, Some(3)));
        let for_ever = members(json!({ "MaximumRetryAttempts": -1 }));
        change(&for_ever, &mut trigger, &mut is_enabled, &mut retries);
        assert_eq!(retries, None);
    }
}
