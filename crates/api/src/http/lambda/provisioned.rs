//! Provisioned concurrency: environments that are kept ready for a version or alias.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use lambic_functions::{
    Error, Function, FunctionVersion, Functions, Provisioned, ProvisionedStatus, Qualifier,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::Shared,
    answer::{self, Answer, modified, now_us},
    check::Violations,
    error::AwsError,
    names::Target,
    page::Asked,
    request::{self, Questions, REQUEST_BYTES_MAX},
};

/// What an account has.
const UNRESERVED: i64 = 1_000;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Members {
    provisioned_concurrent_executions: Option<i64>,
}

pub async fn put(State(app): Shared, target: Target, headers: HeaderMap, body: Body) -> Answer {
    let operation = "PutProvisionedConcurrencyConfig";
    let members: Members =
        request::read(&app, &headers, body, REQUEST_BYTES_MAX, operation).await?;
    let wanted = members.provisioned_concurrent_executions;
    let mut violations = Violations::default();
    violations.required("qualifier", &target.qualifier);
    violations.required("provisionedConcurrentExecutions", &wanted);
    check_range(&mut violations, wanted);
    violations.end()?;
    let key = target.key();
    if key == Qualifier::LATEST {
        return Err(AwsError::invalid(
            "Provisioned Concurrency Configs cannot be applied to unpublished function versions.",
        ));
    }
    target.alias_of(&*target.function(&app)?)?;
    check_room(wanted)?;
    let provisioned = Provisioned {
        environments: usize::try_from(wanted.unwrap_or_default()).unwrap_or(usize::MAX),
        changed_at_us: now_us(),
    };
    let (setting, of) = (provisioned.clone(), key.clone());
    let functions = &app.services.functions;
    let changed = functions.change(&target.name, move |function| {
        check(function, &of, setting.environments)?;
        function.provisioned.insert(of, setting);
        Ok(())
    });
    changed.await.map_err(|error| target.place.refuse(error))?;
    let status = functions.provisioned(&*target.function(&app)?, &key);
    let body = describe(&provisioned, &status);
    Ok(answer::json(StatusCode::ACCEPTED, &body))
}

fn check_range(violations: &mut Violations, wanted: Option<i64>) {
    violations.range(
        "provisionedConcurrentExecutions",
        wanted,
        1,
        i64::from(i32::MAX),
    );
}

fn check_room(wanted: Option<i64>) -> Result<(), AwsError> {
    if wanted.is_some_and(|wanted| wanted > UNRESERVED) {
        return Err(AwsError::invalid(format!(
            "Specified ConcurrentExecutions for function is greater than account's unreserved concurrency [{UNRESERVED}]."
        )));
    }
    Ok(())
}

/// What PutProvisionedConcurrencyConfig would refuse of a version that is not there yet.
pub fn beforehand(wanted: i64, reserved: Option<usize>) -> Result<(), AwsError> {
    let mut violations = Violations::default();
    check_range(&mut violations, Some(wanted));
    violations.end()?;
    check_room(Some(wanted))?;
    let environments = usize::try_from(wanted).unwrap_or(usize::MAX);
    check_reserved(reserved, environments).map_err(AwsError::from)
}

fn check_reserved(reserved: Option<usize>, environments: usize) -> Result<(), Error> {
    match reserved {
        Some(reserved) if environments > reserved => Err(Error::BadValue {
            reason: "Requested Provisioned Concurrency should not be greater than the reservedConcurrentExecution for function".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// AWS's rules: within what is reserved, and not for a version and for an alias of it.
fn check(function: &Function, key: &Qualifier, environments: usize) -> Result<(), Error> {
    let version = function.at(Some(key))?.version;
    check_reserved(function.info.concurrency, environments)?;
    let others = function.provisioned.keys().filter(|other| *other != key);
    for other in others {
        if function
            .at(Some(other))
            .is_ok_and(|info| info.version == version)
        {
            let reason = match key {
                Qualifier::Alias(_) => {
                    "Alias can't be used for Provisioned Concurrency configuration on an already Provisioned version"
                }
                Qualifier::Version(_) => "Version is pointed to by a Provisioned Concurrency alias",
            };
            return Err(Error::Conflict {
                reason: reason.to_owned(),
            });
        }
    }
    Ok(())
}

/// Also ListProvisionedConcurrencyConfigs, which is the same path with `?List=ALL`.
pub async fn get(State(app): Shared, target: Target, questions: Questions) -> Answer {
    let function = target.function(&app)?;
    let functions = &app.services.functions;
    if questions.get("List") == Some("ALL") {
        return list(functions, &target, &function, &questions);
    }
    let mut violations = Violations::default();
    violations.required("qualifier", &target.qualifier);
    violations.end()?;
    if target.key() == Qualifier::LATEST {
        return Err(AwsError::invalid(
            "The function resource provided must be an alias or a published version.",
        ));
    }
    target.info(&function)?;
    let provisioned = function.provisioned.get(&target.key()).ok_or_else(|| {
        AwsError::new(
            StatusCode::NOT_FOUND,
            "ProvisionedConcurrencyConfigNotFoundException",
            "No Provisioned Concurrency Config found for this function",
        )
    })?;
    let status = functions.provisioned(&function, &target.key());
    Ok(answer::json(
        StatusCode::OK,
        &describe(provisioned, &status),
    ))
}

fn list(
    functions: &Functions,
    target: &Target,
    function: &Function,
    questions: &Questions,
) -> Answer {
    let asked = Asked::of(questions, 50)?;
    let items = function.provisioned.iter().map(|(qualifier, provisioned)| {
        let arn = target.place.qualified(&target.name, qualifier);
        (key(qualifier), (arn, qualifier, provisioned))
    });
    let page = asked.page(items).map(|(arn, qualifier, provisioned)| {
        let mut body = describe(provisioned, &functions.provisioned(function, qualifier));
        body["FunctionArn"] = Value::from(arn);
        body
    });
    Ok(page.answer("ProvisionedConcurrencyConfigs"))
}

/// In the order in which a map has qualifiers: versions by number, then aliases by name.
pub fn key(qualifier: &Qualifier) -> String {
    match qualifier {
        Qualifier::Version(FunctionVersion::Latest) => "0".to_owned(),
        Qualifier::Version(FunctionVersion::Number(number)) => format!("1{number:020}"),
        Qualifier::Alias(name) => format!("2{name}"),
    }
}

pub async fn remove(State(app): Shared, target: Target) -> Answer {
    let mut violations = Violations::default();
    violations.required("qualifier", &target.qualifier);
    violations.end()?;
    let key = target.key();
    let changed = app
        .services
        .functions
        .change(&target.name, move |function| {
            function.provisioned.remove(&key);
            Ok(())
        })
        .await;
    changed.map_err(|error| target.place.refuse(error))?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

fn describe(provisioned: &Provisioned, status: &ProvisionedStatus) -> Value {
    let is_ready = status.available >= provisioned.environments;
    let mut body = json!({
        "RequestedProvisionedConcurrentExecutions": provisioned.environments,
        "AvailableProvisionedConcurrentExecutions": status.available,
        "AllocatedProvisionedConcurrentExecutions": status.allocated,
        "Status": match (is_ready, &status.trouble) {
            (true, _) => "READY",
            (false, None) => "IN_PROGRESS",
            (false, Some(_)) => "FAILED",
        },
        "LastModified": modified(provisioned.changed_at_us),
    });
    if let Some(reason) = status.trouble.as_ref().filter(|_| !is_ready) {
        body["StatusReason"] = Value::from(reason.as_str());
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_the_order_of_the_map() {
        let number = |number| Qualifier::Version(FunctionVersion::Number(number));
        let alias = |name: &str| Qualifier::Alias(name.to_owned());
        let mut qualifiers = [
            alias("b"),
            number(10),
            alias("a"),
            Qualifier::LATEST,
            number(9),
        ];
        qualifiers.sort();
        let keys: Vec<String> = qualifiers.iter().map(key).collect();
        assert!(keys.is_sorted(), "{keys:?}");
    }

    #[test]
    fn a_status_says_how_far_it_has_come() {
        let provisioned = Provisioned {
            environments: 2,
            changed_at_us: 0,
        };
        let no = || Some("no".to_owned());
        for (available, trouble, status, reason) in [
            (0, None, "IN_PROGRESS", None),
            (1, no(), "FAILED", Some("no")),
            (2, None, "READY", None),
            (2, no(), "READY", None),
        ] {
            let body = describe(
                &provisioned,
                &ProvisionedStatus {
                    allocated: 2,
                    available,
                    trouble,
                },
            );
            assert_eq!(body["Status"], status);
            assert_eq!(body["StatusReason"].as_str(), reason);
            assert_eq!(body["AvailableProvisionedConcurrentExecutions"], available);
        }
    }
}
