//! How an event source mapping delivers beside its batches and their window: AWS's settings of it.

use lambic_model::{FunctionName, Stream};
use serde::{Deserialize, Serialize};

use crate::{
    Destination, Error,
    filter::{FILTERS_MAX, Filters, PATTERN_CHARS_MAX},
};

/// AWS's: 7 days.
const AGE_S_MAX: u32 = 604_800;
const AGE_S_MIN: u32 = 60;
/// AWS's: 15 minutes.
const WINDOW_S_MAX: u32 = 900;
/// AWS's.
pub const LANES_MAX: u32 = 10;

/// The default is AWS's: no filter, whole batches, records of any age.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rules {
    /// Patterns of which a record has to match one; without any, all records are delivered.
    pub filters: Vec<String>,
    /// A batch that fails is cut in halves, until the record that fails stands alone.
    pub bisects: bool,
    /// Answers name the records that failed: `batchItemFailures`.
    pub reports_failures: bool,
    /// Older records are given up.
    pub age_s_max: Option<u32>,
    /// Where AWS's record of a batch goes that was given up: an ARN.
    pub on_failure: Option<String>,
    /// Batches of one partition at one time, 1 to 10; those of one key stay in their order.
    pub lanes: u32,
    /// The length of tumbling windows; 0: none.
    pub window_s: u32,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            filters: Vec::new(),
            bisects: false,
            reports_failures: false,
            age_s_max: None,
            on_failure: None,
            lanes: 1,
            window_s: 0,
        }
    }
}

impl Rules {
    /// Of a deployment's triggers that say nothing else, and of mappings that were made before there were rules.
    pub fn of_triggers() -> Rules {
        Rules {
            bisects: true,
            reports_failures: true,
            ..Rules::default()
        }
    }

    pub(crate) fn are_of_triggers(&self) -> bool {
        *self == Rules::of_triggers()
    }

    /// Whether there is any stream whose records can be delivered so.
    pub fn check_alone(&self) -> Result<(), Error> {
        let refuse = |reason: String| Err(Error::BadValue { reason });
        if self.filters.len() > FILTERS_MAX {
            return refuse(format!(
                "The number of filters is {}, over the limit of {FILTERS_MAX}.",
                self.filters.len()
            ));
        }
        let mut filters = self.filters.iter();
        if filters.any(|pattern| pattern.chars().count() > PATTERN_CHARS_MAX) {
            return refuse(format!(
                "Invalid filter pattern definition. A pattern has at most {PATTERN_CHARS_MAX} characters."
            ));
        }
        if let Err(reason) = Filters::parse(&self.filters) {
            return refuse(format!(
                "Invalid filter pattern definition. Reason: {reason}"
            ));
        }
        if let Some(age_s) = self.age_s_max
            && !(AGE_S_MIN..=AGE_S_MAX).contains(&age_s)
        {
            return refuse(format!(
                "MaximumRecordAgeInSeconds must be -1, or {AGE_S_MIN} to {AGE_S_MAX}, not {age_s}."
            ));
        }
        if self.window_s > WINDOW_S_MAX {
            return refuse(format!(
                "TumblingWindowInSeconds must be 0 to {WINDOW_S_MAX}, not {}.",
                self.window_s
            ));
        }
        if !(1..=LANES_MAX).contains(&self.lanes) {
            return refuse(format!(
                "ParallelizationFactor must be 1 to {LANES_MAX}, not {}.",
                self.lanes
            ));
        }
        if self.lanes > 1 && self.window_s > 0 {
            return refuse(
                "TumblingWindowInSeconds needs a ParallelizationFactor of 1: a partition has one window at a time."
                    .to_owned(),
            );
        }
        match &self.on_failure {
            Some(arn) if Destination::parse(arn).is_none() => refuse(format!(
                "The destination {arn} is not available on this server; it has functions (arn:aws:lambda:…:function:name) and streams (arn:aws:lambic:…:stream/name)"
            )),
            _ => Ok(()),
        }
    }

    /// Whether records of `stream` can be delivered so to `function`.
    pub fn check(&self, function: &FunctionName, stream: &Stream) -> Result<(), Error> {
        self.check_alone()?;
        let refuse = |reason: String| Err(Error::BadValue { reason });
        if self.lanes > 1 && stream.partition_by.is_none() {
            return refuse(format!(
                "ParallelizationFactor must be 1: records of stream {} have no key whose order could be kept. A stream that is created WITH (partition_by = 'column') has one.",
                stream.name
            ));
        }
        match self.on_failure.as_deref().and_then(Destination::parse) {
            Some(Destination::Function(name))
                if name.split(':').next() == Some(function.as_str()) =>
            {
                refuse("You can't specify the function as a destination for itself.".to_owned())
            }
            Some(to) if to.is_of_system() => refuse(format!(
                "The destination {} is not available: it is written by the system only.",
                self.on_failure.as_deref().unwrap_or_default()
            )),
            Some(Destination::Stream(name)) if name == stream.name => refuse(format!(
                "You can't specify the stream {name} as a destination for its own records."
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema};
    use lambic_model::{StreamId, StreamName};

    use super::*;

    fn stream(partition_by: Option<&str>) -> Stream {
        Stream {
            id: StreamId(1),
            name: StreamName::new("s").unwrap(),
            schema: Arc::new(Schema::new(vec![Field::new("k", DataType::Utf8, true)])),
            partitions: 2,
            event_time: None,
            record_id: None,
            partition_by: partition_by.map(str::to_owned),
            evolution: Default::default(),
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        let function = FunctionName::new("f").unwrap();
        let with = |change: fn(&mut Rules)| {
            let mut rules = Rules::default();
            change(&mut rules);
            rules
        };
        assert!(Rules::default().check(&function, &stream(None)).is_ok());
        for (rules, part) in [
            (
                with(|r| r.filters = vec!["{\"a\": [1]}".to_owned(); 6]),
                "number of filters is 6",
            ),
            (
                with(|r| r.filters = vec!["{".to_owned()]),
                "Invalid filter pattern definition.",
            ),
            (
                with(|r| r.filters = vec![format!("{{\"a\": [\"{}\"]}}", "x".repeat(4_096))]),
                "at most 4096 characters",
            ),
            (
                with(|r| r.age_s_max = Some(59)),
                "-1, or 60 to 604800, not 59",
            ),
            (with(|r| r.age_s_max = Some(604_801)), "not 604801"),
            (with(|r| r.window_s = 901), "0 to 900"),
            (with(|r| r.lanes = 0), "1 to 10"),
            (with(|r| r.lanes = 11), "1 to 10"),
            (with(|r| r.lanes = 2), "no key whose order"),
            (
                with(|r| r.on_failure = Some("arn:aws:sqs:us-east-1:000000000000:q".to_owned())),
                "is not available",
            ),
            (
                with(|r| {
                    r.on_failure =
                        Some("arn:aws:lambda:us-east-1:000000000000:function:f:live".to_owned())
                }),
                "for itself",
            ),
            (
                with(|r| {
                    r.on_failure = Some("arn:aws:lambic:local:000000000000:stream/s".to_owned())
                }),
                "its own records",
            ),
        ] {
            let error = rules.check(&function, &stream(None)).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
        let keyed = stream(Some("k"));
        let mut rules = with(|r| r.lanes = 10);
        assert!(rules.check(&function, &keyed).is_ok());
        rules.window_s = 1;
        assert!(rules.check(&function, &keyed).is_err());
    }

    #[test]
    fn rules_of_older_servers_are_not_written() {
        assert!(Rules::of_triggers().are_of_triggers());
        assert!(!Rules::default().are_of_triggers());
        let rules: Rules = serde_json::from_str("{\"lanes\": 3}").unwrap();
        assert_eq!((rules.lanes, rules.bisects), (3, false));
    }
}
