//! PublishVersion: `$LATEST`, frozen under the next number.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use lambic_functions::{Error, Function, FunctionInfo, Qualifier, check_revision};
use serde::Deserialize;

use super::{
    super::Shared,
    answer::{self, Answer},
    check::Violations,
    configuration::{self, Phase, sha256_base64},
    error::AwsError,
    names::Target,
    request::{self, REQUEST_BYTES_MAX},
};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Members {
    code_sha256: Option<String>,
    description: Option<String>,
    revision_id: Option<String>,
}

pub async fn publish(State(app): Shared, target: Target, headers: HeaderMap, body: Body) -> Answer {
    let members: Members =
        request::read(&app, &headers, body, REQUEST_BYTES_MAX, "PublishVersion").await?;
    check_description(members.description.as_deref())?;
    target.unqualified()?;
    let functions = &app.services.functions;
    let published = functions
        .change(&target.name, move |function| members.publish(function))
        .await;
    let info = published.map_err(|error| target.place.refuse(error))?;
    let qualifier = Qualifier::Version(info.version);
    let body = configuration::of(&app, &target.place, &info, Some(&qualifier), Phase::Settled);
    Ok(answer::json(StatusCode::CREATED, &body))
}

/// What PublishVersion would refuse of a description.
pub fn beforehand(description: &str) -> Result<(), AwsError> {
    check_description(Some(description))
}

fn check_description(description: Option<&str>) -> Result<(), AwsError> {
    let mut violations = Violations::default();
    violations.length("description", description, 0, 256);
    violations.end()
}

impl Members {
    /// If `$LATEST` is what the caller believes it to be.
    fn publish(self, function: &mut Function) -> Result<FunctionInfo, Error> {
        let info = &function.info;
        check_revision(&configuration::revision(info), self.revision_id.as_deref())?;
        let present = info
            .upload
            .as_ref()
            .map_or(&info.digest, |upload| &upload.sha256);
        let present = sha256_base64(present);
        if let Some(seen) = self.code_sha256.filter(|seen| !seen.is_empty())
            && seen != present
        {
            return Err(Error::BadValue {
                reason: format!(
                    "CodeSHA256 ({seen}) is different from current CodeSHA256 in $LATEST ({present}). Please try again with the CodeSHA256 in $LATEST."
                ),
            });
        }
        function.publish(self.description)
    }
}
