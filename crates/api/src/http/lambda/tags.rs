//! TagResource, UntagResource, ListTags, of functions.

use std::collections::BTreeMap;

use axum::{
    body::Body,
    extract::{FromRequestParts, State},
    http::{HeaderMap, StatusCode, request::Parts},
};
use serde::Deserialize;
use serde_json::json;

use super::{
    super::Shared,
    answer::{self, Answer},
    check::Violations,
    error::AwsError,
    names::{self, Place, Target, path},
    request::{self, Questions, REQUEST_BYTES_MAX},
    settings::check_tags,
};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Members {
    tags: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct InPath {
    resource: String,
}

/// The function whose ARN stands in the path.
#[derive(Debug)]
pub struct Tagged(Target);

impl<S: Send + Sync> FromRequestParts<S> for Tagged {
    type Rejection = AwsError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Tagged, AwsError> {
        let Ok(place) = Place::from_request_parts(parts, state).await;
        let InPath { resource } = path(parts, state).await?.0;
        names::taggable(place, &resource).map(Tagged)
    }
}

pub async fn list(State(app): Shared, Tagged(target): Tagged) -> Answer {
    let function = target.function(&app)?;
    Ok(answer::json(
        StatusCode::OK,
        &json!({ "Tags": function.tags }),
    ))
}

/// What TagResource would refuse of these.
pub fn beforehand(tags: &BTreeMap<String, String>) -> Result<(), AwsError> {
    let mut violations = Violations::default();
    check_tags(&mut violations, tags);
    violations.end()?;
    lambic_functions::check_tags(tags).map_err(AwsError::from)
}

pub async fn add(
    State(app): Shared,
    Tagged(target): Tagged,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let members: Members =
        request::read(&app, &headers, body, REQUEST_BYTES_MAX, "TagResource").await?;
    let mut violations = Violations::default();
    violations.required("tags", &members.tags);
    let tags = members.tags.unwrap_or_default();
    check_tags(&mut violations, &tags);
    violations.end()?;
    if tags.is_empty() {
        return Err(AwsError::invalid(
            "An error occurred and the request cannot be processed.",
        ));
    }
    let functions = &app.services.functions;
    let changed = functions
        .change(&target.name, move |function| function.tag(tags))
        .await;
    changed.map_err(|error| target.place.refuse(error))?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

pub async fn remove(State(app): Shared, Tagged(target): Tagged, questions: Questions) -> Answer {
    let keys: Vec<String> = questions.all("tagKeys").map(str::to_owned).collect();
    let mut violations = Violations::default();
    violations.required("tagKeys", &keys.first());
    violations.end()?;
    let changed = app
        .services
        .functions
        .change(&target.name, move |function| {
            function.tags.retain(|key, _| !keys.contains(key));
            Ok(())
        })
        .await;
    changed.map_err(|error| target.place.refuse(error))?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}
