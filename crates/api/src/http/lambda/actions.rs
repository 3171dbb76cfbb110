//! Whether a key may do what its request asks for.
//!
//! Keys of the account to which everything here belongs may do everything that no policy denies, as administrators; those
//! of other accounts what the resource policy of a function or layer lets them, and nothing else. A key of another account
//! is not told what there is.

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
};
use lambic_functions::{
    ACCOUNT, Policy, Qualifier,
    policy::{Decision, Request, decide},
};

use super::{
    super::App,
    error::AwsError,
    layers::Numbered,
    names::{Place, Target},
};
use crate::keys::Key;

/// Refuses what the key may not do; what the path names is read from `head`, as its handler will.
pub async fn authorize(app: &App, key: &Key, head: &mut Parts) -> Result<(), AwsError> {
    let asked = asked(app, head).await;
    let decision = match &asked {
        Some(asked) => asked.decided(key),
        None => Decision::Unmentioned,
    };
    match (decision, asked) {
        (Decision::Allowed, _) => Ok(()),
        (Decision::Unmentioned, _) if key.is_ours() => Ok(()),
        (_, None) => Err(not_ours(key)),
        (
            decision,
            Some(Asked {
                action, resource, ..
            }),
        ) => {
            let why = match decision {
                Decision::Denied => "with an explicit deny in a resource-based policy".to_owned(),
                _ => format!("because no resource-based policy allows the {action} action"),
            };
            Err(denied(format!(
                "User: {} is not authorized to perform: {action} on resource: {resource} {why}",
                key.arn
            )))
        }
    }
}

/// For what no policy can allow.
pub fn not_ours(key: &Key) -> AwsError {
    denied(format!(
        "User: {} is not authorized to do this: everything here belongs to account {ACCOUNT}",
        key.arn
    ))
}

fn denied(message: String) -> AwsError {
    AwsError::new(StatusCode::FORBIDDEN, "AccessDeniedException", message)
}

/// What is asked for, of something that can have a policy.
struct Asked {
    action: &'static str,
    resource: String,
    policy: Option<Policy>,
}

impl Asked {
    fn decided(&self, key: &Key) -> Decision {
        let request = Request {
            principal: key.principal(),
            action: self.action,
            resource: &self.resource,
            context: &[],
        };
        decide(self.policy.as_ref(), &request)
    }
}

async fn asked(app: &App, head: &mut Parts) -> Option<Asked> {
    let path = head.uri.path().to_owned();
    let parts: Vec<&str> = path.trim_end_matches('/').split('/').skip(2).collect();
    match parts.as_slice() {
        ["functions", _, rest @ ..] => {
            let action = action(head.method.as_str(), rest)?;
            let target = Target::from_request_parts(head, &()).await.ok()?;
            let key = target.key();
            let function = target.function(app).ok();
            Some(Asked {
                action,
                resource: match key {
                    Qualifier::LATEST => target.place.function(&target.name),
                    _ => target.arn(),
                },
                policy: function.and_then(|function| function.policies.get(&key).cloned()),
            })
        }
        ["layers", _, "versions", _] if head.method == "GET" => {
            let Numbered { name, number } = Numbered::from_request_parts(head, &()).await.ok()?;
            let layer = app.services.functions.layer(&name).ok();
            let version = layer.as_ref().and_then(|layer| layer.version(number).ok());
            Some(Asked {
                action: "lambda:GetLayerVersion",
                resource: Place::default().layer_version(&name, number),
                policy: version.map(|version| version.policy.clone()),
            })
        }
        _ => None,
    }
}

/// IAM's name of an operation on a function; `rest` is the path behind the function's name.
fn action(method: &str, rest: &[&str]) -> Option<&'static str> {
    Some(match (method, rest) {
        ("POST", ["invocations" | "response-streaming-invocations"]) => "lambda:InvokeFunction",
        ("POST", ["invoke-async"]) => "lambda:InvokeAsync",
        ("GET", []) => "lambda:GetFunction",
        ("DELETE", []) => "lambda:DeleteFunction",
        ("GET", ["configuration"]) => "lambda:GetFunctionConfiguration",
        ("PUT", ["configuration"]) => "lambda:UpdateFunctionConfiguration",
        ("PUT", ["code"]) => "lambda:UpdateFunctionCode",
        ("GET", ["versions"]) => "lambda:ListVersionsByFunction",
        ("POST", ["versions"]) => "lambda:PublishVersion",
        ("GET", ["aliases"]) => "lambda:ListAliases",
        ("POST", ["aliases"]) => "lambda:CreateAlias",
        ("GET", ["aliases", _]) => "lambda:GetAlias",
        ("PUT", ["aliases", _]) => "lambda:UpdateAlias",
        ("DELETE", ["aliases", _]) => "lambda:DeleteAlias",
        ("GET", ["policy"]) => "lambda:GetPolicy",
        ("POST", ["policy"]) => "lambda:AddPermission",
        ("DELETE", ["policy", _]) => "lambda:RemovePermission",
        ("GET", ["concurrency"]) => "lambda:GetFunctionConcurrency",
        ("PUT", ["concurrency"]) => "lambda:PutFunctionConcurrency",
        ("DELETE", ["concurrency"]) => "lambda:DeleteFunctionConcurrency",
        ("GET", ["provisioned-concurrency"]) => "lambda:GetProvisionedConcurrencyConfig",
        ("PUT", ["provisioned-concurrency"]) => "lambda:PutProvisionedConcurrencyConfig",
        ("DELETE", ["provisioned-concurrency"]) => "lambda:DeleteProvisionedConcurrencyConfig",
        ("GET", ["event-invoke-config"]) => "lambda:GetFunctionEventInvokeConfig",
        ("PUT", ["event-invoke-config"]) => "lambda:PutFunctionEventInvokeConfig",
        ("POST", ["event-invoke-config"]) => "lambda:UpdateFunctionEventInvokeConfig",
        ("DELETE", ["event-invoke-config"]) => "lambda:DeleteFunctionEventInvokeConfig",
        ("GET", ["event-invoke-config", "list"]) => "lambda:ListFunctionEventInvokeConfigs",
        ("GET", ["code-signing-config"]) => "lambda:GetFunctionCodeSigningConfig",
        ("GET", ["runtime-management-config"]) => "lambda:GetRuntimeManagementConfig",
        ("PUT", ["runtime-management-config"]) => "lambda:PutRuntimeManagementConfig",
        ("GET", ["url"]) => "lambda:GetFunctionUrlConfig",
        ("POST", ["url"]) => "lambda:CreateFunctionUrlConfig",
        ("PUT", ["url"]) => "lambda:UpdateFunctionUrlConfig",
        ("DELETE", ["url"]) => "lambda:DeleteFunctionUrlConfig",
        ("GET", ["urls"]) => "lambda:ListFunctionUrlConfigs",
        ("GET", ["recursion-config"]) => "lambda:GetFunctionRecursionConfig",
        ("PUT", ["recursion-config"]) => "lambda:PutFunctionRecursionConfig",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::keys::Secret;

    #[test]
    fn operations_are_named_as_iam_names_them() {
        for (method, rest, expected) in [
            ("POST", &["invocations"][..], Some("lambda:InvokeFunction")),
            ("GET", &[], Some("lambda:GetFunction")),
            ("DELETE", &["aliases", "live"], Some("lambda:DeleteAlias")),
            ("GET", &["invocations"], None),
            ("POST", &["new"], None),
        ] {
            assert_eq!(action(method, rest), expected, "{method} {rest:?}");
        }
    }

    #[test]
    fn a_key_of_another_account_needs_a_statement() {
        let decided = |statements: Vec<serde_json::Value>, account| {
            let asked = Asked {
                action: "lambda:InvokeFunction",
                resource: Place::default().function("f"),
                policy: Some(Policy {
                    statements,
                    revision: String::new(),
                }),
            };
            asked.decided(&Key::new(
                "AKID",
                Secret::new("s"),
                Some(account),
                Some("ci"),
            ))
        };
        let allow = json!({
            "Effect": "Allow", "Principal": { "AWS": "arn:aws:iam::123456789012:user/ci" },
            "Action": "lambda:InvokeFunction", "Resource": "arn:aws:lambda:eu-west-1:000000000000:function:f",
        });
        assert_eq!(
            decided(vec![allow.clone()], "123456789012"),
            Decision::Allowed
        );
        assert_eq!(decided(vec![allow], "210987654321"), Decision::Unmentioned);
        assert_eq!(decided(vec![], ACCOUNT), Decision::Unmentioned);
    }
}
