//! What a request says of a mapping: checked by AWS's constraints, and what it changes.
//!
//! Pure, but for the clock.

use lambic_functions::{EventSource, Rules, Start, Trigger};
use serde::Deserialize;
use serde_json::Value;

use super::super::{
    answer::now_us,
    check::{DESTINATION, Violations},
    error::AwsError,
};

/// Members of AWS's that would change which records a function gets, or how, and that are not here yet.
const UNSUPPORTED: [&str; 9] = [
    "KMSKeyArn",
    "ScalingConfig",
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
pub struct Members {
    pub event_source_arn: Option<String>,
    pub function_name: Option<String>,
    pub enabled: Option<bool>,
    batch_size: Option<i64>,
    maximum_batching_window_in_seconds: Option<i64>,
    starting_position: Option<String>,
    /// Seconds since 1970.
    starting_position_timestamp: Option<f64>,
    maximum_retry_attempts: Option<i64>,
    maximum_record_age_in_seconds: Option<i64>,
    parallelization_factor: Option<i64>,
    bisect_batch_on_function_error: Option<bool>,
    function_response_types: Option<Vec<String>>,
    destination_config: Option<DestinationConfig>,
    filter_criteria: Option<FilterCriteria>,
    tumbling_window_in_seconds: Option<i64>,
    #[serde(flatten)]
    more: serde_json::Map<String, Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct DestinationConfig {
    on_success: Option<Named>,
    on_failure: Option<Named>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Named {
    destination: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct FilterCriteria {
    filters: Option<Vec<FilterPattern>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct FilterPattern {
    pattern: Option<String>,
}

impl Members {
    pub fn check(&self, is_new: bool) -> Result<(), AwsError> {
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
        v.range(
            "tumblingWindowInSeconds",
            self.tumbling_window_in_seconds,
            0,
            900,
        );
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
        v.length(
            "destinationConfig.onFailure.destination",
            self.on_failure(),
            0,
            350,
        );
        v.pattern(
            "destinationConfig.onFailure.destination",
            self.on_failure(),
            &DESTINATION,
        );
        for (filter, number) in self.patterns().into_iter().flatten().zip(1..) {
            let member = format!("filterCriteria.filters.{number}.member.pattern");
            v.length(&member, Some(filter), 0, 4_096);
        }
        v.end()?;
        self.check_support()
    }

    /// What cannot be done as it is asked for is refused, not left out in silence.
    fn check_support(&self) -> Result<(), AwsError> {
        let given = |member: &&str| self.more.get(*member).is_some_and(|value| !value.is_null());
        if let Some(member) = UNSUPPORTED.iter().find(|member| given(member)) {
            return Err(AwsError::invalid(format!(
                "{member} is not supported: Lambic does not have it yet"
            )));
        }
        let config = self.destination_config.as_ref();
        let on_success = config.and_then(|config| config.on_success.as_ref());
        if on_success.is_some_and(|named| {
            named
                .destination
                .as_deref()
                .is_some_and(|to| !to.is_empty())
        }) {
            return Err(AwsError::invalid(
                "Unsupported DestinationConfig parameter for given event source mapping type.",
            ));
        }
        Ok(())
    }

    pub fn on_failure(&self) -> Option<&str> {
        let config = self.destination_config.as_ref()?;
        config.on_failure.as_ref()?.destination.as_deref()
    }

    /// `None`: not given. Without any, there is no filter any more.
    fn patterns(&self) -> Option<Vec<&str>> {
        let filters = self.filter_criteria.as_ref()?.filters.iter().flatten();
        let patterns = filters.map(|filter| filter.pattern.as_deref().unwrap_or_default());
        Some(patterns.collect())
    }

    /// Where a new mapping starts.
    pub fn start(&self) -> Result<Start, AwsError> {
        let refuse = |message: &str| Err(AwsError::invalid(message));
        match (
            self.starting_position.as_deref(),
            self.starting_position_timestamp,
        ) {
            (None, _) => Err(AwsError::validation(
                "1 validation error detected: Value null at 'startingPosition' failed to satisfy constraint: Member must not be null.",
            )),
            (Some("AT_TIMESTAMP"), None) => refuse(
                "StartingPositionTimestamp is required when StartingPosition is AT_TIMESTAMP.",
            ),
            (Some("AT_TIMESTAMP"), Some(seconds)) => {
                let at_us = seconds * 1e6;
                if at_us > now_us() as f64 {
                    return refuse("StartingPositionTimestamp cannot be in the future.");
                }
                // What lies before 1970 is before everything.
                Ok(Start::AtUs(at_us.max(0.0) as i64))
            }
            (Some(_), Some(_)) => refuse(
                "StartingPositionTimestamp is only valid when StartingPosition is AT_TIMESTAMP.",
            ),
            (Some("TRIM_HORIZON"), None) => Ok(Start::Earliest),
            (Some(_), None) => Ok(Start::Latest),
        }
    }

    /// `None`: not given. `Some(None)`: for ever.
    fn retries(&self) -> Option<Option<u32>> {
        let attempts = self.maximum_retry_attempts?;
        Some(u32::try_from(attempts).ok())
    }

    pub fn change(&self, source: &mut EventSource) {
        change(
            self,
            &mut source.trigger,
            &mut source.is_enabled,
            &mut source.retries,
            &mut source.rules,
        );
        source.kept.extend(self.kept());
    }

    pub fn kept(&self) -> impl Iterator<Item = (String, Value)> {
        KEPT.iter().filter_map(|member| {
            let value = self.more.get(*member).filter(|value| !value.is_null())?;
            Some(((*member).to_owned(), value.clone()))
        })
    }
}

/// The parts of a mapping, whether it is there already or is to be made.
pub fn change(
    members: &Members,
    trigger: &mut Trigger,
    is_enabled: &mut bool,
    retries: &mut Option<u32>,
    rules: &mut Rules,
) {
    let number = |value: i64| u32::try_from(value).unwrap_or_default();
    if let Some(size) = members.batch_size {
        trigger.batch_size = number(size) as usize;
    }
    if let Some(seconds) = members.maximum_batching_window_in_seconds {
        trigger.window_ms = u64::from(number(seconds)) * 1_000;
    }
    if let Some(enabled) = members.enabled {
        *is_enabled = enabled;
    }
    if let Some(given) = members.retries() {
        *retries = given;
    }
    if let Some(age_s) = members.maximum_record_age_in_seconds {
        rules.age_s_max = u32::try_from(age_s).ok();
    }
    if let Some(factor) = members.parallelization_factor {
        rules.lanes = number(factor);
    }
    if let Some(seconds) = members.tumbling_window_in_seconds {
        rules.window_s = number(seconds);
    }
    if let Some(bisects) = members.bisect_batch_on_function_error {
        rules.bisects = bisects;
    }
    if let Some(types) = &members.function_response_types {
        rules.reports_failures = !types.is_empty();
    }
    if let Some(patterns) = members.patterns() {
        rules.filters = patterns.into_iter().map(str::to_owned).collect();
    }
    // An empty destination, or none in the configuration, takes one away.
    if members.destination_config.is_some() {
        let given = members.on_failure().filter(|arn| !arn.is_empty());
        rules.on_failure = given.map(str::to_owned);
    }
}

#[cfg(test)]
mod tests {
    use lambic_model::StreamName;
    use serde_json::json;

    use super::*;

    fn members(value: Value) -> Members {
        serde_json::from_value(value).unwrap()
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
                json!({ "ScalingConfig": { "MaximumConcurrency": 2 } }),
                "ScalingConfig",
            ),
            (
                json!({ "ParallelizationFactor": 11 }),
                "parallelizationFactor",
            ),
            (
                json!({ "MaximumRecordAgeInSeconds": -2 }),
                "maximumRecordAgeInSeconds",
            ),
            (
                json!({ "TumblingWindowInSeconds": 901 }),
                "tumblingWindowInSeconds",
            ),
            (
                json!({ "FilterCriteria": { "Filters": [{ "Pattern": "x".repeat(4_097) }] } }),
                "filterCriteria.filters.1.member.pattern",
            ),
            (
                json!({ "DestinationConfig": { "OnFailure": { "Destination": "x" } } }),
                "destinationConfig.onFailure.destination",
            ),
            (
                json!({ "DestinationConfig": { "OnSuccess": { "Destination": "arn:aws:lambic:us-east-1:000000000000:stream/s" } } }),
                "Unsupported DestinationConfig",
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
    fn a_new_mapping_starts_where_it_is_said() {
        let start = |value: Value| members(value).start().map_err(|error| error.message);
        for (value, expected) in [
            (json!({ "StartingPosition": "LATEST" }), Start::Latest),
            (
                json!({ "StartingPosition": "TRIM_HORIZON" }),
                Start::Earliest,
            ),
            (
                json!({ "StartingPosition": "AT_TIMESTAMP", "StartingPositionTimestamp": 1.5 }),
                Start::AtUs(1_500_000),
            ),
            (
                json!({ "StartingPosition": "AT_TIMESTAMP", "StartingPositionTimestamp": -7 }),
                Start::AtUs(0),
            ),
        ] {
            assert_eq!(start(value), Ok(expected));
        }
        for (value, part) in [
            (json!({}), "'startingPosition'"),
            (json!({ "StartingPosition": "AT_TIMESTAMP" }), "is required"),
            (
                json!({ "StartingPosition": "AT_TIMESTAMP", "StartingPositionTimestamp": 4e9 }),
                "in the future",
            ),
            (
                json!({ "StartingPosition": "LATEST", "StartingPositionTimestamp": 1 }),
                "only valid",
            ),
        ] {
            let message = start(value).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn rules_are_taken_from_what_is_given() {
        let mut trigger = Trigger::new(StreamName::new("s").unwrap());
        let (mut is_enabled, mut retries, mut rules) = (true, None, Rules::default());
        let mut change = |value: Value| {
            let (trigger, retries) = (&mut trigger, &mut retries);
            change(
                &members(value),
                trigger,
                &mut is_enabled,
                retries,
                &mut rules,
            );
            rules.clone()
        };
        let to = "arn:aws:lambic:us-east-1:000000000000:stream/lost";
        let all = Rules {
            filters: vec!["{\"data\": {\"n\": [1]}}".to_owned()],
            bisects: true,
            reports_failures: true,
            age_s_max: Some(60),
            on_failure: Some(to.to_owned()),
            lanes: 2,
            window_s: 30,
        };
        let given = json!({
            "BisectBatchOnFunctionError": true,
            "DestinationConfig": { "OnFailure": { "Destination": to } },
            "FilterCriteria": { "Filters": [{ "Pattern": "{\"data\": {\"n\": [1]}}" }] },
            "FunctionResponseTypes": ["ReportBatchItemFailures"],
            "MaximumRecordAgeInSeconds": 60,
            "ParallelizationFactor": 2,
            "TumblingWindowInSeconds": 30,
        });
        assert_eq!(change(given), all);
        assert_eq!(change(json!({ "BatchSize": 3 })), all);
        let taken_away = json!({
            "BisectBatchOnFunctionError": false,
            "DestinationConfig": { "OnFailure": {} },
            "FilterCriteria": {},
            "FunctionResponseTypes": [],
            "MaximumRecordAgeInSeconds": -1,
            "ParallelizationFactor": 1,
            "TumblingWindowInSeconds": 0,
        });
        assert_eq!(change(taken_away), Rules::default());
    }

    #[test]
    fn an_update_leaves_what_it_does_not_name() {
        let mut trigger = Trigger::new(StreamName::new("s").unwrap());
        let (mut is_enabled, mut retries) = (true, Some(3));
        let mut rules = Rules::default();
        let update = members(json!({ "Enabled": false, "MaximumBatchingWindowInSeconds": 2 }));
        change(
            &update,
            &mut trigger,
            &mut is_enabled,
            &mut retries,
            &mut rules,
        );
        assert_eq!((trigger.batch_size, trigger.window_ms), (100, 2_000));
        assert_eq!((is_enabled, retries), (false, Some(3)));
        let for_ever = members(json!({ "MaximumRetryAttempts": -1 }));
        change(
            &for_ever,
            &mut trigger,
            &mut is_enabled,
            &mut retries,
            &mut rules,
        );
        assert_eq!(retries, None);
    }
}
