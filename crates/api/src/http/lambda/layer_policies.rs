//! AddLayerVersionPermission, RemoveLayerVersionPermission, GetLayerVersionPolicy.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use lambic_functions::{Error, Layer, LayerVersion};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::Shared,
    answer::{self, Answer},
    check::{LAYER_ACTION, LAYER_PRINCIPAL, ORGANISATION, STATEMENT_ID, Violations},
    error::AwsError,
    layers::Numbered,
    names::Place,
    permissions::Statement,
    policy,
    request::{self, Questions, REQUEST_BYTES_MAX},
};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Members {
    statement_id: Option<String>,
    action: Option<String>,
    principal: Option<String>,
    organization_id: Option<String>,
}

impl Members {
    fn check(&self) -> Result<(), AwsError> {
        let mut v = Violations::default();
        v.required("statementId", &self.statement_id);
        v.required("action", &self.action);
        v.required("principal", &self.principal);
        v.length("statementId", self.statement_id.as_deref(), 1, 100);
        v.pattern("statementId", self.statement_id.as_deref(), &STATEMENT_ID);
        v.pattern("action", self.action.as_deref(), &LAYER_ACTION);
        v.pattern("principal", self.principal.as_deref(), &LAYER_PRINCIPAL);
        v.pattern(
            "organizationId",
            self.organization_id.as_deref(),
            &ORGANISATION,
        );
        v.end()
    }

    fn statement(&self, resource: &str) -> Value {
        let principal = match self.principal.as_deref().unwrap_or_default() {
            "*" => Value::from("*"),
            arn if arn.starts_with("arn:") => json!({ "AWS": arn }),
            account => json!({ "AWS": format!("arn:aws:iam::{account}:root") }),
        };
        let mut statement = json!({
            "Sid": self.statement_id,
            "Effect": "Allow",
            "Principal": principal,
            "Action": self.action,
            "Resource": resource,
        });
        if let Some(id) = &self.organization_id {
            statement["Condition"] = json!({ "StringEquals": { "aws:PrincipalOrgID": id } });
        }
        statement
    }
}

pub async fn add(
    State(app): Shared,
    place: Place,
    Numbered { name, number }: Numbered,
    questions: Questions,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let operation = "AddLayerVersionPermission";
    let members: Members =
        request::read(&app, &headers, body, REQUEST_BYTES_MAX, operation).await?;
    members.check()?;
    let arn = place.layer_version(&name, number);
    let statement = members.statement(&arn);
    let adding = statement.clone();
    let changed = app
        .services
        .functions
        .change_layer(&name, move |layer| {
            let policy = &mut version_mut(layer, number)?.policy;
            policy.permit(adding, questions.get("RevisionId"))?;
            Ok(policy.revision.clone())
        })
        .await;
    let revision = changed.map_err(|error| refuse(error, &arn))?;
    let body = json!({ "Statement": statement.to_string(), "RevisionId": revision });
    Ok(answer::json(StatusCode::CREATED, &body))
}

pub async fn remove(
    State(app): Shared,
    place: Place,
    Numbered { name, number }: Numbered,
    Statement { statement: sid }: Statement,
    questions: Questions,
) -> Answer {
    let arn = place.layer_version(&name, number);
    let changed = app
        .services
        .functions
        .change_layer(&name, move |layer| {
            let policy = &mut version_mut(layer, number)?.policy;
            policy.forbid(&sid, questions.get("RevisionId"))
        })
        .await;
    changed.map_err(|error| refuse(error, &arn))?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

pub async fn one(State(app): Shared, place: Place, Numbered { name, number }: Numbered) -> Answer {
    let arn = place.layer_version(&name, number);
    let layer = app.services.functions.layer(&name);
    let layer = layer.map_err(|error| refuse(error, &arn))?;
    let version = layer.version(number).map_err(|error| refuse(error, &arn))?;
    if version.policy.statements.is_empty() {
        return Err(AwsError::not_found(
            "No policy is associated with the given resource.",
        ));
    }
    let body = json!({
        "Policy": policy::document(&version.policy),
        "RevisionId": version.policy.revision,
    });
    Ok(answer::json(StatusCode::OK, &body))
}

fn version_mut(layer: &mut Layer, number: u64) -> Result<&mut LayerVersion, Error> {
    let name = format!("{}:{number}", layer.name);
    layer
        .versions
        .get_mut(&number)
        .ok_or(Error::Missing { name })
}

fn refuse(error: Error, arn: &str) -> AwsError {
    match error {
        Error::Missing { .. } => {
            AwsError::not_found(format!("Layer version {arn} does not exist."))
        }
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_of_layers_are_built_as_aws_builds_them() {
        let members: Members = serde_json::from_value(json!({
            "StatementId": "s", "Action": "lambda:GetLayerVersion", "Principal": "*",
            "OrganizationId": "o-0123456789",
        }))
        .unwrap();
        members.check().unwrap();
        assert_eq!(
            members.statement("arn"),
            json!({
                "Sid": "s", "Effect": "Allow", "Principal": "*",
                "Action": "lambda:GetLayerVersion", "Resource": "arn",
                "Condition": { "StringEquals": { "aws:PrincipalOrgID": "o-0123456789" } },
            })
        );
    }
}
