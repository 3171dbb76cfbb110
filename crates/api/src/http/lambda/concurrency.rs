//! PutFunctionConcurrency, GetFunctionConcurrency, DeleteFunctionConcurrency: how many invocations of a function run
//! at one time.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use lambic_functions::Functions;
use lambic_model::FunctionName;
use serde::Deserialize;
use serde_json::json;

use super::{
    super::Shared,
    account::CONCURRENCY_MAX,
    answer::{self, Answer},
    check::Violations,
    error::AwsError,
    names::Target,
    request::{self, REQUEST_BYTES_MAX},
};

/// AWS's: what must be left for functions that reserve nothing.
const UNRESERVED_MIN: usize = 100;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Members {
    reserved_concurrent_executions: Option<i64>,
}

pub async fn put(State(app): Shared, target: Target, headers: HeaderMap, body: Body) -> Answer {
    let operation = "PutFunctionConcurrency";
    let members: Members =
        request::read(&app, &headers, body, REQUEST_BYTES_MAX, operation).await?;
    let wanted = members.reserved_concurrent_executions;
    let mut violations = Violations::default();
    violations.required("reservedConcurrentExecutions", &wanted);
    check_range(&mut violations, wanted);
    violations.end()?;
    target.unqualified()?;
    let wanted = usize::try_from(wanted.unwrap_or_default()).unwrap_or(usize::MAX);
    target.function(&app)?;
    let others = reserved(&app.services.functions, |name| *name != target.name);
    check(others, wanted)?;
    set(&app, &target, Some(wanted)).await?;
    let body = json!({ "ReservedConcurrentExecutions": wanted });
    Ok(answer::json(StatusCode::OK, &body))
}

/// What those functions that are counted have reserved together.
pub fn reserved(functions: &Functions, is_counted: impl Fn(&FunctionName) -> bool) -> usize {
    let there = functions.functions().into_iter();
    let counted = there.filter(|one| is_counted(&one.info.name));
    counted.filter_map(|one| one.info.concurrency).sum()
}

/// What PutFunctionConcurrency would refuse, as long as `others` reserve so much.
pub fn beforehand(wanted: i64, others: usize) -> Result<(), AwsError> {
    let mut violations = Violations::default();
    check_range(&mut violations, Some(wanted));
    violations.end()?;
    check(others, usize::try_from(wanted).unwrap_or(usize::MAX))
}

fn check_range(violations: &mut Violations, wanted: Option<i64>) {
    violations.range(
        "reservedConcurrentExecutions",
        wanted,
        0,
        i64::from(i32::MAX),
    );
}

/// `reserved` is what other functions have. To reserve nothing stops a function, which is always possible.
fn check(reserved: usize, wanted: usize) -> Result<(), AwsError> {
    let room = CONCURRENCY_MAX - UNRESERVED_MIN;
    if wanted > 0 && reserved.saturating_add(wanted) > room {
        return Err(AwsError::invalid(format!(
            "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below its minimum value of [{UNRESERVED_MIN}]."
        )));
    }
    Ok(())
}

pub async fn one(State(app): Shared, target: Target) -> Answer {
    target.unqualified()?;
    let function = target.function(&app)?;
    let body = match function.info.concurrency {
        Some(reserved) => json!({ "ReservedConcurrentExecutions": reserved }),
        None => json!({}),
    };
    Ok(answer::json(StatusCode::OK, &body))
}

pub async fn remove(State(app): Shared, target: Target) -> Answer {
    target.unqualified()?;
    set(&app, &target, None).await?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

async fn set(
    app: &super::super::App,
    target: &Target,
    reserved: Option<usize>,
) -> Result<(), AwsError> {
    let changed = app
        .services
        .functions
        .change(&target.name, move |function| {
            function.info.concurrency = reserved;
            Ok(())
        })
        .await;
    changed.map_err(|error| target.place.refuse(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_is_left_for_functions_that_reserve_nothing() {
        assert!(check(800, 100).is_ok());
        assert!(check(800, 101).is_err());
        assert!(check(2_000, 0).is_ok());
        assert!(check(0, usize::MAX).is_err());
    }
}
