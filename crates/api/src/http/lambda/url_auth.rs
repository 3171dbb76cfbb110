//! Who may call a function's URL.
//!
//! One of `NONE` takes everybody whom its resource policy lets in, as AWS does, which is nobody without a statement. One
//! of `AWS_IAM` takes requests that are signed by a key that the server has: those of its own account, if no statement
//! denies it, and of other accounts, if one allows it. User and password are not taken here, for browsers send
//! those without being asked to, and pages of other sites may use a function's URL.

use axum::{
    body::Body,
    http::{StatusCode, header::AUTHORIZATION, request::Parts},
    response::{IntoResponse, Response},
};
use lambic_functions::{
    Endpoint, Qualifier,
    policy::{Decision, Principal, Request, decide},
};

use super::{
    super::{
        App,
        auth::{slow_down, strip, verified},
        server::Peer,
    },
    error::AwsError,
    invoke::PAYLOAD_BYTES_MAX,
    names::Place,
    policy::AUTH_TYPES,
    sigv4,
    url_door::refused,
};

const FORBIDDEN: &str = "Forbidden. For troubleshooting Function URL authorization issues, see: https://docs.aws.amazon.com/lambda/latest/dg/urls-auth.html";

/// Gives the body back, and leaves the caller with the head if there is one; or the answer if it may not.
///
/// The function does not see what a caller proved itself with.
pub async fn admit(
    app: &App,
    endpoint: &Endpoint,
    head: &mut Parts,
    body: Body,
) -> Result<Body, Response> {
    strip(&app.options.keys, &mut head.headers);
    if endpoint.url.is_public {
        let decide = |endpoint: &Endpoint| is_allowed(endpoint, Principal::Anybody, false);
        return match endpoint.is_open(decide) {
            true => Ok(body),
            false => Err(forbidden()),
        };
    }
    // Without keys there is nobody whose signature could be right.
    if app.options.keys.is_empty() || !sigv4::is_signed(head) {
        return Err(forbidden());
    }
    let (caller, body) = match verified(app, head, body, PAYLOAD_BYTES_MAX).await {
        Ok(verified) => verified,
        Err(refused) => {
            let peer = head.extensions.get::<Peer>().copied();
            slow_down(app, peer, &refused).await;
            return Err(AwsError::from(refused).into_response());
        }
    };
    if !is_allowed(endpoint, caller.key.principal(), caller.key.is_ours()) {
        return Err(forbidden());
    }
    head.headers.remove(AUTHORIZATION);
    head.headers.remove("x-amz-security-token");
    head.uri = sigv4::without_signature(&head.uri);
    head.extensions.insert(caller);
    Ok(body)
}

fn is_allowed(endpoint: &Endpoint, principal: Principal<'_>, is_ours: bool) -> bool {
    let place = Place::default();
    let resource = match &endpoint.qualifier {
        qualifier if *qualifier == Qualifier::LATEST => place.function(&endpoint.name),
        qualifier => place.qualified(&endpoint.name, qualifier),
    };
    let auth_type = AUTH_TYPES[usize::from(!endpoint.url.is_public)];
    let context = [
        ("lambda:FunctionUrlAuthType", auth_type),
        ("lambda:InvokedViaFunctionUrl", "true"),
    ];
    let decided = |action| {
        let request = Request {
            principal,
            action,
            resource: &resource,
            context: &context,
        };
        decide(endpoint.policy.as_ref(), &request)
    };
    // AWS wants both to be allowed for URLs made since October 2025; older templates have the first only.
    let is_denied = decided("lambda:InvokeFunction") == Decision::Denied;
    !is_denied
        && match decided("lambda:InvokeFunctionUrl") {
            Decision::Allowed => true,
            Decision::Unmentioned => is_ours,
            Decision::Denied => false,
        }
}

fn forbidden() -> Response {
    refused(StatusCode::FORBIDDEN, "AccessDeniedException", FORBIDDEN)
}

#[cfg(test)]
mod tests {
    use lambic_functions::{Policy, Url};
    use lambic_model::FunctionName;
    use serde_json::{Value, json};

    use super::*;

    fn endpoint(is_public: bool, statements: Vec<Value>) -> Endpoint {
        Endpoint::new(
            FunctionName::new("f").unwrap(),
            Qualifier::LATEST,
            Url {
                id: "id".to_owned(),
                is_public,
                cors: None,
                is_streamed: false,
                created_at_us: 0,
                changed_at_us: 0,
            },
            Some(Policy {
                statements,
                revision: String::new(),
            }),
        )
    }

    fn statement(changes: Value) -> Value {
        let mut statement = json!({
            "Effect": "Allow", "Principal": "*", "Action": "lambda:InvokeFunctionUrl",
            "Resource": "arn:aws:lambda:us-east-1:000000000000:function:f",
            "Condition": { "StringEquals": { "lambda:FunctionUrlAuthType": "NONE" } },
        });
        for (name, value) in changes.as_object().unwrap() {
            statement[name] = value.clone();
        }
        statement
    }

    #[test]
    fn only_a_statement_for_everybody_makes_a_url_public() {
        for (changes, expected) in [
            (json!({}), true),
            (json!({ "Principal": { "AWS": "*" } }), true),
            (json!({ "Condition": {} }), true),
            (
                json!({ "Condition": { "Bool": { "lambda:InvokedViaFunctionUrl": "true" } } }),
                true,
            ),
            (json!({ "Action": "lambda:*" }), true),
            (
                json!({ "Condition": { "StringEquals": { "lambda:FunctionUrlAuthType": "AWS_IAM" } } }),
                false,
            ),
            (
                json!({ "Condition": { "StringEquals": { "AWS:SourceAccount": "123456789012" } } }),
                false,
            ),
            (json!({ "Principal": { "AWS": "123456789012" } }), false),
            (json!({ "Action": "lambda:InvokeFunction" }), false),
            (json!({ "Effect": "Deny" }), false),
        ] {
            let endpoint = endpoint(true, vec![statement(changes.clone())]);
            assert_eq!(
                is_allowed(&endpoint, Principal::Anybody, false),
                expected,
                "{changes}"
            );
        }
        assert!(!is_allowed(
            &endpoint(true, vec![]),
            Principal::Anybody,
            false
        ));
    }

    #[test]
    fn a_url_of_iam_takes_its_own_account_and_whom_the_policy_lets_in() {
        let caller = Principal::User {
            account: "123456789012",
            arn: "arn:aws:iam::123456789012:user/ci",
        };
        let iam = json!({
            "Principal": { "AWS": "arn:aws:iam::123456789012:root" },
            "Condition": { "StringEquals": { "lambda:FunctionUrlAuthType": "AWS_IAM" } },
        });
        let deny = json!({ "Effect": "Deny", "Condition": {} });
        let deny_invoking =
            json!({ "Effect": "Deny", "Condition": {}, "Action": "lambda:InvokeFunction" });
        for (statements, is_ours, expected) in [
            (vec![], true, true),
            (vec![], false, false),
            (vec![iam.clone()], false, true),
            (vec![json!({})], false, false),
            (vec![iam.clone(), deny.clone()], false, false),
            (vec![deny], true, false),
            (vec![iam, deny_invoking.clone()], false, false),
            (vec![deny_invoking], true, false),
        ] {
            let shown = format!("{statements:?}");
            let endpoint = endpoint(false, statements.into_iter().map(statement).collect());
            assert_eq!(is_allowed(&endpoint, caller, is_ours), expected, "{shown}");
        }
    }
}
