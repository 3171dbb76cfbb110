//! How a mapping is described.

use lambic_functions::{EventSource, Start};
use lambic_model::FunctionName;
use serde_json::{Value, json};

use super::super::{super::App, names::Place};

pub fn state(source: &EventSource) -> &'static str {
    match source.is_enabled {
        true => "Enabled",
        false => "Disabled",
    }
}

pub fn source_arn_of(source: &EventSource) -> &str {
    let arn = source.kept.get("EventSourceArn");
    arn.and_then(Value::as_str).unwrap_or_default()
}

pub fn describe(
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
    let rules = &source.rules;
    let start = match source.trigger.start {
        Start::Earliest => "TRIM_HORIZON",
        Start::Latest => "LATEST",
        Start::AtUs(_) => "AT_TIMESTAMP",
    };
    let response_types: &[&str] = match rules.reports_failures {
        true => &["ReportBatchItemFailures"],
        false => &[],
    };
    let on_failure = match &rules.on_failure {
        Some(arn) => json!({ "Destination": arn }),
        None => json!({}),
    };
    let mut body = json!({
        "UUID": uuid,
        "EventSourceMappingArn": place.mapping(uuid),
        "FunctionArn": arn,
        "EventSourceArn": source_arn_of(source),
        "BatchSize": source.trigger.batch_size,
        "MaximumBatchingWindowInSeconds": source.trigger.window_ms / 1_000,
        "ParallelizationFactor": rules.lanes,
        "MaximumRetryAttempts": source.retries.map_or(-1, i64::from),
        "MaximumRecordAgeInSeconds": rules.age_s_max.map_or(-1, i64::from),
        "BisectBatchOnFunctionError": rules.bisects,
        "FunctionResponseTypes": response_types,
        "TumblingWindowInSeconds": rules.window_s,
        "StartingPosition": start,
        "DestinationConfig": { "OnFailure": on_failure },
        "State": state,
        "StateTransitionReason": "User action",
        "LastProcessingResult": app.services.functions.processed(source),
        // Seconds since 1970.
        "LastModified": source.changed_at_us as f64 / 1e6,
    });
    if let Start::AtUs(at_us) = source.trigger.start {
        body["StartingPositionTimestamp"] = Value::from(at_us as f64 / 1e6);
    }
    if !rules.filters.is_empty() {
        let filters = rules.filters.iter();
        let filters: Vec<Value> = filters
            .map(|pattern| json!({ "Pattern": pattern }))
            .collect();
        body["FilterCriteria"] = json!({ "Filters": filters });
    }
    // What older servers kept of the members above has no effect any more.
    for (member, value) in &source.kept {
        if body.get(member).is_none() {
            body[member] = value.clone();
        }
    }
    body
}
