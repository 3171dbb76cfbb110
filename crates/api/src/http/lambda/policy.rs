//! Resource policies in IAM's shape: statements as AWS builds them. What they say is read by `lambic_functions::policy`.

use lambic_functions::Policy;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    check::{
        ACCOUNT, ACTION, ARN, EVENT_SOURCE_TOKEN, ORGANISATION, PRINCIPAL, STATEMENT_ID, Violations,
    },
    error::AwsError,
};

pub const AUTH_TYPES: [&str; 2] = ["NONE", "AWS_IAM"];

/// AddPermission's body.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Permission {
    pub statement_id: Option<String>,
    action: Option<String>,
    principal: Option<String>,
    source_arn: Option<String>,
    source_account: Option<String>,
    event_source_token: Option<String>,
    function_url_auth_type: Option<String>,
    invoked_via_function_url: Option<bool>,
    #[serde(rename = "PrincipalOrgID")]
    principal_org_id: Option<String>,
    pub revision_id: Option<String>,
}

impl Permission {
    pub fn check(&self, v: &mut Violations) {
        v.required("statementId", &self.statement_id);
        v.required("action", &self.action);
        v.required("principal", &self.principal);
        v.length("statementId", self.statement_id.as_deref(), 1, 100);
        v.pattern("statementId", self.statement_id.as_deref(), &STATEMENT_ID);
        v.pattern("action", self.action.as_deref(), &ACTION);
        v.pattern("principal", self.principal.as_deref(), &PRINCIPAL);
        v.pattern("sourceArn", self.source_arn.as_deref(), &ARN);
        v.pattern("sourceAccount", self.source_account.as_deref(), &ACCOUNT);
        v.length(
            "eventSourceToken",
            self.event_source_token.as_deref(),
            0,
            256,
        );
        v.pattern(
            "eventSourceToken",
            self.event_source_token.as_deref(),
            &EVENT_SOURCE_TOKEN,
        );
        v.one_of(
            "functionUrlAuthType",
            self.function_url_auth_type.as_deref(),
            &AUTH_TYPES,
        );
        v.pattern(
            "principalOrgID",
            self.principal_org_id.as_deref(),
            &ORGANISATION,
        );
    }

    /// On the function with this ARN.
    pub fn statement(&self, resource: &str) -> Result<Value, AwsError> {
        let principal = principal(self.principal.as_deref().unwrap_or_default())?;
        let mut equals = Map::new();
        for (key, value) in [
            ("lambda:FunctionUrlAuthType", &self.function_url_auth_type),
            ("aws:PrincipalOrgID", &self.principal_org_id),
            ("AWS:SourceAccount", &self.source_account),
            ("lambda:EventSourceToken", &self.event_source_token),
        ] {
            if let Some(value) = value {
                equals.insert(key.to_owned(), Value::from(value.as_str()));
            }
        }
        let mut condition = Map::new();
        if !equals.is_empty() {
            condition.insert("StringEquals".to_owned(), Value::Object(equals));
        }
        if let Some(arn) = &self.source_arn {
            condition.insert("ArnLike".to_owned(), json!({ "AWS:SourceArn": arn }));
        }
        if let Some(is_via_url) = self.invoked_via_function_url {
            let value = json!({ "lambda:InvokedViaFunctionUrl": is_via_url.to_string() });
            condition.insert("Bool".to_owned(), value);
        }
        let mut statement = json!({
            "Sid": self.statement_id,
            "Effect": "Allow",
            "Principal": principal,
            "Action": self.action,
            "Resource": resource,
        });
        if !condition.is_empty() {
            statement["Condition"] = Value::Object(condition);
        }
        Ok(statement)
    }
}

/// A service, an account, a user or role, or everybody.
fn principal(text: &str) -> Result<Value, AwsError> {
    let is_iam = || {
        let mut parts = text.split(':');
        parts.next() == Some("arn")
            && parts
                .next()
                .is_some_and(|partition| partition.starts_with("aws"))
            && matches!(parts.next(), Some("iam" | "sts"))
    };
    match text {
        "*" => Ok(Value::from("*")),
        service if service.ends_with(".amazonaws.com") => Ok(json!({ "Service": service })),
        account if ACCOUNT.matches(account) => {
            Ok(json!({ "AWS": format!("arn:aws:iam::{account}:root") }))
        }
        arn if is_iam() => Ok(json!({ "AWS": arn })),
        _ => Err(AwsError::invalid(
            "The provided principal was invalid. Please check the principal and try again.",
        )),
    }
}

/// The document, as text in the answers.
pub fn document(policy: &Policy) -> String {
    json!({ "Version": "2012-10-17", "Id": "default", "Statement": policy.statements }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(value: Value) -> Result<Value, AwsError> {
        let permission: Permission = serde_json::from_value(value).unwrap();
        permission.statement("arn")
    }

    #[test]
    fn statements_are_built_as_aws_builds_them() {
        let made = statement(json!({
            "StatementId": "s3", "Action": "lambda:InvokeFunction", "Principal": "s3.amazonaws.com",
            "SourceArn": "arn:aws:s3:::b", "SourceAccount": "123456789012",
        }));
        assert_eq!(
            made.unwrap(),
            json!({
                "Sid": "s3", "Effect": "Allow", "Principal": { "Service": "s3.amazonaws.com" },
                "Action": "lambda:InvokeFunction", "Resource": "arn",
                "Condition": {
                    "StringEquals": { "AWS:SourceAccount": "123456789012" },
                    "ArnLike": { "AWS:SourceArn": "arn:aws:s3:::b" },
                },
            })
        );
        for (principal, expected) in [
            ("*", Some(json!("*"))),
            (
                "123456789012",
                Some(json!({ "AWS": "arn:aws:iam::123456789012:root" })),
            ),
            (
                "arn:aws:iam::123456789012:role/r",
                Some(json!({ "AWS": "arn:aws:iam::123456789012:role/r" })),
            ),
            ("me", None),
            ("arn:aws:s3:::b", None),
        ] {
            let made = statement(json!({ "Principal": principal }));
            let made = made.ok().map(|made| made["Principal"].clone());
            assert_eq!(made, expected, "{principal}");
        }
    }

    #[test]
    fn permissions_are_checked() {
        let mut violations = Violations::default();
        let permission: Permission =
            serde_json::from_value(json!({ "StatementId": "a.b", "Action": "s3:Get" })).unwrap();
        permission.check(&mut violations);
        let message = violations.end().unwrap_err().message;
        assert!(message.starts_with("3 validation errors"), "{message}");
    }
}
