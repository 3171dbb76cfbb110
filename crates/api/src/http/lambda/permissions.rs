//! AddPermission, RemovePermission, GetPolicy: who may do what with a function.

use axum::{
    body::Body,
    extract::{FromRequestParts, State},
    http::{HeaderMap, StatusCode, request::Parts},
};
use lambic_functions::Qualifier;
use serde::Deserialize;
use serde_json::json;

use super::{
    super::Shared,
    answer::{self, Answer},
    check::Violations,
    error::AwsError,
    names::{Target, path},
    policy::{self, Permission},
    request::{self, Questions, REQUEST_BYTES_MAX},
};

/// A statement's id, from the path.
#[derive(Debug, Deserialize)]
pub struct Statement {
    pub statement: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Statement {
    type Rejection = AwsError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Statement, AwsError> {
        path(parts, state).await.map(|path| path.0)
    }
}

pub async fn add(State(app): Shared, target: Target, headers: HeaderMap, body: Body) -> Answer {
    let permission: Permission =
        request::read(&app, &headers, body, REQUEST_BYTES_MAX, "AddPermission").await?;
    let mut violations = Violations::default();
    permission.check(&mut violations);
    violations.end()?;
    if target.qualifier == Some(Qualifier::LATEST) {
        return Err(AwsError::invalid(
            "We currently do not support adding policies for $LATEST.",
        ));
    }
    target.alias_of(&*target.function(&app)?)?;
    let statement = permission.statement(&target.arn())?;
    let (key, adding) = (target.key(), statement.clone());
    let changed = app
        .services
        .functions
        .change(&target.name, move |function| {
            function.permit(key, adding, permission.revision_id.as_deref())
        })
        .await;
    changed.map_err(|error| target.place.refuse(error))?;
    let body = json!({ "Statement": statement.to_string() });
    Ok(answer::json(StatusCode::CREATED, &body))
}

pub async fn remove(
    State(app): Shared,
    target: Target,
    Statement { statement }: Statement,
    questions: Questions,
) -> Answer {
    let no_policy = |_| AwsError::not_found(format!("No policy found for: {}", target.arn()));
    let function = target.function(&app).map_err(no_policy)?;
    target.info(&function)?;
    let key = target.key();
    if !function.policies.contains_key(&key) {
        return Err(AwsError::not_found(
            "No policy is associated with the given resource.",
        ));
    }
    let changed = app
        .services
        .functions
        .change(&target.name, move |function| {
            function.forbid(&key, &statement, questions.get("RevisionId"))
        })
        .await;
    changed.map_err(|error| target.place.refuse(error))?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

pub async fn one(State(app): Shared, target: Target) -> Answer {
    let function = target.function(&app)?;
    target.info(&function)?;
    let policy = function.policies.get(&target.key());
    let policy = policy.ok_or_else(AwsError::no_resource)?;
    let body = json!({ "Policy": policy::document(policy), "RevisionId": policy.revision });
    Ok(answer::json(StatusCode::OK, &body))
}
