//! The five operations on how queued events are tried and where their results go: EventInvokeConfig.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use lambic_functions::{AsyncSettings, Destination, Error};
use lambic_model::FunctionName;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::{App, Shared},
    answer::{self, Answer, now_us},
    check::{DESTINATION, Violations},
    error::AwsError,
    names::Target,
    page::Asked,
    provisioned::key,
    request::{self, Questions, REQUEST_BYTES_MAX},
};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Members {
    maximum_retry_attempts: Option<i64>,
    maximum_event_age_in_seconds: Option<i64>,
    destination_config: Option<DestinationConfig>,
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

impl Members {
    fn check(&self) -> Result<(), AwsError> {
        let mut v = Violations::default();
        v.range("maximumRetryAttempts", self.maximum_retry_attempts, 0, 2);
        v.range(
            "maximumEventAgeInSeconds",
            self.maximum_event_age_in_seconds,
            60,
            21_600,
        );
        for (member, arn) in [
            ("destinationConfig.onSuccess.destination", self.on_success()),
            ("destinationConfig.onFailure.destination", self.on_failure()),
        ] {
            v.length(member, arn, 0, 350);
            v.pattern(member, arn, &DESTINATION);
        }
        v.end()?;
        let is_empty = self.maximum_retry_attempts.is_none()
            && self.maximum_event_age_in_seconds.is_none()
            && self.destination_config.is_none();
        match is_empty {
            true => Err(AwsError::invalid(
                "You must specify at least one of error handling or destination setting.",
            )),
            false => Ok(()),
        }
    }

    fn on_success(&self) -> Option<&str> {
        let config = self.destination_config.as_ref()?;
        config.on_success.as_ref()?.destination.as_deref()
    }

    fn on_failure(&self) -> Option<&str> {
        let config = self.destination_config.as_ref()?;
        config.on_failure.as_ref()?.destination.as_deref()
    }

    /// What is given over what was; an empty destination takes one away.
    fn over(&self, former: AsyncSettings) -> AsyncSettings {
        let number = |value: Option<i64>| value.and_then(|value| u32::try_from(value).ok());
        let destination = |given: Option<&str>, former: Option<String>| match given {
            Some("") => None,
            Some(arn) => Some(arn.to_owned()),
            None => former,
        };
        AsyncSettings {
            retries: number(self.maximum_retry_attempts).or(former.retries),
            age_s_max: number(self.maximum_event_age_in_seconds).or(former.age_s_max),
            on_success: destination(self.on_success(), former.on_success),
            on_failure: destination(self.on_failure(), former.on_failure),
            changed_at_us: now_us(),
        }
    }
}

/// Replaces them.
pub async fn put(State(app): Shared, target: Target, headers: HeaderMap, body: Body) -> Answer {
    let operation = "PutFunctionEventInvokeConfig";
    let members: Members =
        request::read(&app, &headers, body, REQUEST_BYTES_MAX, operation).await?;
    set(&app, &target, members, false).await
}

/// Changes those that are given.
pub async fn update(State(app): Shared, target: Target, headers: HeaderMap, body: Body) -> Answer {
    let operation = "UpdateFunctionEventInvokeConfig";
    let members: Members =
        request::read(&app, &headers, body, REQUEST_BYTES_MAX, operation).await?;
    set(&app, &target, members, true).await
}

async fn set(app: &App, target: &Target, members: Members, is_update: bool) -> Answer {
    members.check()?;
    let destinations = check_destinations(target, &members)?;
    let function = target.function(app).map_err(no_function)?;
    target.info(&function)?;
    for destination in &destinations {
        let checked = app.services.functions.check_destination(destination);
        checked.map_err(|error| target.place.refuse(error))?;
    }
    if is_update && !function.async_settings.contains_key(&target.key()) {
        return Err(missing(target));
    }
    let key = target.key();
    let changed = app
        .services
        .functions
        .change(&target.name, move |function| {
            function.at(Some(&key))?;
            let former = match function.async_settings.remove(&key) {
                Some(former) if is_update => former,
                _ => AsyncSettings::default(),
            };
            let settings = members.over(former);
            function.async_settings.insert(key, settings.clone());
            Ok::<_, Error>(settings)
        })
        .await;
    let settings = changed.map_err(|error| target.place.refuse(error))?;
    Ok(answer::json(
        StatusCode::OK,
        &describe(arn(target), &settings),
    ))
}

/// What PutFunctionEventInvokeConfig would refuse of its body; gives the destinations, which have to be there.
pub fn beforehand(target: &Target, body: Value) -> Result<Vec<Destination>, AwsError> {
    let members: Members = request::of_value(body)?;
    members.check()?;
    check_destinations(target, &members)
}

/// Functions and streams only, and not the function itself: that would never end.
fn check_destinations(target: &Target, members: &Members) -> Result<Vec<Destination>, AwsError> {
    let given = [members.on_success(), members.on_failure()];
    let given = given.into_iter().flatten().filter(|arn| !arn.is_empty());
    given
        .map(|arn| check_destination(&target.name, arn))
        .collect()
}

/// Where what becomes of the function's events is to go, if such can go there. Whether it is there is another question.
pub fn check_destination(name: &FunctionName, arn: &str) -> Result<Destination, AwsError> {
    let Some(destination) = Destination::parse(arn) else {
        return Err(AwsError::invalid(format!(
            "The destination {arn} is not available on this server; it has functions (arn:aws:lambda:…:function:name) and streams (arn:aws:lambic:…:stream/name)"
        )));
    };
    if let Destination::Function(to) = &destination
        && to.split(':').next() == Some(name.as_str())
    {
        return Err(AwsError::invalid(
            "You can't specify the function as a destination for itself.",
        ));
    }
    Ok(destination)
}

fn no_function(_: AwsError) -> AwsError {
    AwsError::not_found("The function doesn't exist.")
}

pub async fn one(State(app): Shared, target: Target) -> Answer {
    let function = target.function(&app).map_err(|_| missing(&target))?;
    let settings = function.async_settings.get(&target.key());
    let settings = settings.ok_or_else(|| missing(&target))?;
    Ok(answer::json(
        StatusCode::OK,
        &describe(arn(&target), settings),
    ))
}

pub async fn list(State(app): Shared, target: Target, questions: Questions) -> Answer {
    let asked = Asked::of(&questions, 50)?;
    let function = target.function(&app).map_err(no_function)?;
    let items = function.async_settings.iter().map(|(qualifier, settings)| {
        let arn = target.place.qualified(&target.name, qualifier);
        (key(qualifier), (arn, settings))
    });
    let page = asked
        .page(items)
        .map(|(arn, settings)| describe(arn, settings));
    Ok(page.answer("FunctionEventInvokeConfigs"))
}

pub async fn remove(State(app): Shared, target: Target) -> Answer {
    let function = target.function(&app)?;
    if !function.async_settings.contains_key(&target.key()) {
        return Err(missing(&target));
    }
    let key = target.key();
    let changed = app
        .services
        .functions
        .change(&target.name, move |function| {
            function.async_settings.remove(&key);
            Ok(())
        })
        .await;
    changed.map_err(|error| target.place.refuse(error))?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

fn arn(target: &Target) -> String {
    target.place.qualified(&target.name, target.key())
}

fn missing(target: &Target) -> AwsError {
    let arn = arn(target);
    AwsError::not_found(format!(
        "The function {arn} doesn't have an EventInvokeConfig"
    ))
}

fn describe(arn: String, settings: &AsyncSettings) -> Value {
    let destination = |arn: &Option<String>| match arn {
        Some(arn) => json!({ "Destination": arn }),
        None => json!({}),
    };
    let mut body = json!({
        // Seconds since 1970.
        "LastModified": settings.changed_at_us as f64 / 1e6,
        "FunctionArn": arn,
        "DestinationConfig": {
            "OnSuccess": destination(&settings.on_success),
            "OnFailure": destination(&settings.on_failure),
        },
    });
    if let Some(retries) = settings.retries {
        body["MaximumRetryAttempts"] = Value::from(retries);
    }
    if let Some(age_s) = settings.age_s_max {
        body["MaximumEventAgeInSeconds"] = Value::from(age_s);
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
    fn settings_are_checked() {
        for (value, part) in [
            (json!({}), "at least one"),
            (
                json!({ "MaximumRetryAttempts": 3 }),
                "less than or equal to 2",
            ),
            (
                json!({ "MaximumEventAgeInSeconds": 59 }),
                "greater than or equal to 60",
            ),
            (
                json!({ "DestinationConfig": { "OnFailure": { "Destination": "x" } } }),
                "destinationConfig.onFailure.destination",
            ),
        ] {
            let message = members(value).check().unwrap_err().message;
            assert!(message.contains(part), "{message}");
        }
        assert!(
            members(json!({ "MaximumRetryAttempts": 0 }))
                .check()
                .is_ok()
        );
    }

    #[test]
    fn an_update_leaves_what_it_does_not_name() {
        let former = AsyncSettings {
            retries: Some(1),
            on_failure: Some("arn:aws:sqs:::q".to_owned()),
            ..AsyncSettings::default()
        };
        let settings = members(json!({ "MaximumEventAgeInSeconds": 60 })).over(former.clone());
        assert_eq!(settings.retries, Some(1));
        assert_eq!(settings.age_s_max, Some(60));
        assert_eq!(settings.on_failure, former.on_failure);
        let none = json!({ "DestinationConfig": { "OnFailure": { "Destination": "" } } });
        assert_eq!(members(none).over(former).on_failure, None);
    }

    #[test]
    fn results_go_to_other_functions_and_streams() {
        let target = super::super::names::target(Default::default(), "f", None).unwrap();
        let to = |arn: &str| {
            let value = json!({ "DestinationConfig": { "OnSuccess": { "Destination": arn } } });
            check_destinations(&target, &members(value)).is_ok()
        };
        let function = |name: &str| to(&target.place.function(name));
        assert!(!function("f"));
        assert!(!function("f:live"));
        assert!(function("f-2"));
        assert!(to("arn:aws:lambic:us-east-1:000000000000:stream/s"));
        assert!(!to("arn:aws:sqs:us-east-1:000000000000:q"));
        assert!(to(""));
    }
}
