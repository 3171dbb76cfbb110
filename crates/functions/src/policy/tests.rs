//! Statements and what they say to requests.

use serde_json::json;

use super::{Decision::*, *};

const FUNCTION: &str = "arn:aws:lambda:us-east-1:000000000000:function:f";
const BUCKET: &str = "arn:aws:s3:::pictures";
const ALICE: Principal<'_> = Principal::User {
    account: "123456789012",
    arn: "arn:aws:iam::123456789012:user/alice",
};
const S3: Principal<'_> = Principal::Service("s3.amazonaws.com");

/// The same statement with members changed; null takes one away.
fn with(changes: Value) -> Value {
    let mut statement = json!({
        "Sid": "s", "Effect": "Allow", "Principal": "*", "Action": "lambda:InvokeFunction", "Resource": FUNCTION,
    });
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(statement.as_object_mut().unwrap().remove(name)),
            value => statement[name] = value.clone(),
        }
    }
    statement
}

fn decided(statements: &[Value], principal: Principal<'_>, context: &[(&str, &str)]) -> Decision {
    let policy = Policy {
        statements: statements.to_vec(),
        revision: String::new(),
    };
    let request = Request {
        principal,
        action: "lambda:InvokeFunction",
        resource: FUNCTION,
        context,
    };
    decide(Some(&policy), &request)
}

#[track_caller]
fn check(changes: Value, principal: Principal<'_>, context: &[(&str, &str)], is: Decision) {
    let statement = with(changes);
    let found = decided(std::slice::from_ref(&statement), principal, context);
    assert_eq!(found, is, "{statement} to {principal:?} with {context:?}");
}

#[test]
fn a_principal_is_named_in_iams_ways() {
    let account = json!({ "AWS": "arn:aws:iam::123456789012:root" });
    for (named, principal, is) in [
        (json!("*"), Principal::Anybody, Allowed),
        (json!("*"), S3, Allowed),
        (json!({ "AWS": "*" }), ALICE, Allowed),
        (json!({ "AWS": "*" }), Principal::Anybody, Allowed),
        (account.clone(), ALICE, Allowed),
        (account.clone(), S3, Unmentioned),
        (account, Principal::Anybody, Unmentioned),
        (json!({ "AWS": "123456789012" }), ALICE, Allowed),
        (
            json!({ "AWS": "arn:aws:iam::210987654321:root" }),
            ALICE,
            Unmentioned,
        ),
        (
            json!({ "AWS": "arn:aws:iam::123456789012:user/alice" }),
            ALICE,
            Allowed,
        ),
        (
            json!({ "AWS": "arn:aws:iam::123456789012:user/*" }),
            ALICE,
            Unmentioned,
        ),
        (
            json!({ "AWS": ["arn:aws:iam::210987654321:root", "123456789012"] }),
            ALICE,
            Allowed,
        ),
        (json!({ "Service": "s3.amazonaws.com" }), S3, Allowed),
        (json!({ "Service": "sns.amazonaws.com" }), S3, Unmentioned),
        (json!({ "Service": "s3.amazonaws.com" }), ALICE, Unmentioned),
        (json!({ "Federated": "x" }), ALICE, Unmentioned),
        (json!(null), ALICE, Unmentioned),
    ] {
        check(json!({ "Principal": named }), principal, &[], is);
    }
    let but_alice = json!({ "Principal": null, "NotPrincipal": { "AWS": "123456789012" } });
    check(but_alice.clone(), ALICE, &[], Unmentioned);
    check(but_alice, S3, &[], Allowed);
}

#[test]
fn actions_and_resources_are_patterns() {
    for (changes, is) in [
        (json!({ "Action": "lambda:*" }), Allowed),
        (json!({ "Action": "*" }), Allowed),
        (json!({ "Action": "LAMBDA:invokefunction" }), Allowed),
        (
            json!({ "Action": ["lambda:GetPolicy", "lambda:Invoke*"] }),
            Allowed,
        ),
        (json!({ "Action": "lambda:InvokeFunctionUrl" }), Unmentioned),
        (json!({ "Action": "lambda:Invoke" }), Unmentioned),
        (json!({ "Action": 7 }), Unmentioned),
        (json!({ "Action": null }), Unmentioned),
        (
            json!({ "Action": null, "NotAction": "lambda:GetPolicy" }),
            Allowed,
        ),
        (
            json!({ "Action": null, "NotAction": "lambda:Invoke*" }),
            Unmentioned,
        ),
        (json!({ "Resource": "*" }), Allowed),
        (
            json!({ "Resource": "arn:aws:lambda:eu-west-1:123456789012:function:f" }),
            Allowed,
        ),
        (
            json!({ "Resource": format!("{FUNCTION}:live") }),
            Unmentioned,
        ),
        (
            json!({ "Resource": "arn:aws:lambda:us-east-1:000000000000:function:*" }),
            Allowed,
        ),
        (
            json!({ "Resource": "arn:aws:lambda:us-east-1:000000000000:function:${x}" }),
            Unmentioned,
        ),
        (
            json!({ "Resource": null, "NotResource": FUNCTION }),
            Unmentioned,
        ),
    ] {
        check(changes, ALICE, &[], is);
    }
}

#[test]
fn a_source_is_held_by_its_arn_and_account() {
    let from = json!({ "Condition": {
        "StringEquals": { "AWS:SourceAccount": "123456789012" },
        "ArnLike": { "AWS:SourceArn": BUCKET },
    } });
    let arn = ("aws:SourceArn", BUCKET);
    let account = ("aws:SourceAccount", "123456789012");
    for (context, is) in [
        (&[arn, account][..], Allowed),
        (&[arn, ("aws:SourceAccount", "210987654321")], Unmentioned),
        (
            &[("aws:SourceArn", "arn:aws:s3:::other"), account],
            Unmentioned,
        ),
        (&[account], Unmentioned),
        (&[arn], Unmentioned),
        (&[], Unmentioned),
    ] {
        check(from.clone(), S3, context, is);
    }
}

#[test]
fn conditions_are_read_as_iam_reads_them() {
    let context = [
        ("aws:SourceArn", "arn:aws:sns:eu-west-1:123456789012:topic"),
        ("lambda:EventSourceToken", "Token"),
    ];
    for (condition, is) in [
        (
            json!({ "StringEquals": { "lambda:EventSourceToken": "Token" } }),
            Allowed,
        ),
        (
            json!({ "StringEquals": { "LAMBDA:EVENTSOURCETOKEN": ["a", "Token"] } }),
            Allowed,
        ),
        (
            json!({ "StringEquals": { "lambda:EventSourceToken": "token" } }),
            Unmentioned,
        ),
        (
            json!({ "StringEqualsIgnoreCase": { "lambda:EventSourceToken": "token" } }),
            Allowed,
        ),
        (
            json!({ "StringNotEquals": { "lambda:EventSourceToken": "token" } }),
            Allowed,
        ),
        (
            json!({ "StringNotEquals": { "lambda:EventSourceToken": ["x", "Token"] } }),
            Unmentioned,
        ),
        (
            json!({ "StringLike": { "lambda:EventSourceToken": "T?k*" } }),
            Allowed,
        ),
        (
            json!({ "StringNotLike": { "lambda:EventSourceToken": "T*" } }),
            Unmentioned,
        ),
        (
            json!({ "ArnLike": { "aws:SourceArn": "arn:aws:sns:*:123456789012:t*" } }),
            Allowed,
        ),
        (
            json!({ "ArnEquals": { "aws:SourceArn": "arn:aws:sns:*:*:topic" } }),
            Allowed,
        ),
        (
            json!({ "ArnLike": { "aws:SourceArn": "arn:aws:sns:*:topic" } }),
            Unmentioned,
        ),
        (
            json!({ "ArnNotLike": { "aws:SourceArn": "arn:aws:s3:*:*:*" } }),
            Allowed,
        ),
        // Two keys, two operators: all must hold.
        (
            json!({ "StringEquals": { "lambda:EventSourceToken": "Token", "aws:SourceAccount": "1" } }),
            Unmentioned,
        ),
        (
            json!({
                "StringEquals": { "lambda:EventSourceToken": "Token" },
                "ArnLike": { "aws:SourceArn": "arn:aws:s3:::*" },
            }),
            Unmentioned,
        ),
        // What is not there.
        (
            json!({ "StringEquals": { "aws:PrincipalOrgID": "o-1" } }),
            Unmentioned,
        ),
        (
            json!({ "StringEqualsIfExists": { "aws:PrincipalOrgID": "o-1" } }),
            Allowed,
        ),
        (
            json!({ "StringNotEquals": { "aws:PrincipalOrgID": "o-1" } }),
            Allowed,
        ),
        (json!({ "Null": { "aws:PrincipalOrgID": "true" } }), Allowed),
        (
            json!({ "Null": { "aws:PrincipalOrgID": false } }),
            Unmentioned,
        ),
        (json!({ "Null": { "aws:SourceArn": "false" } }), Allowed),
        (
            json!({ "Bool": { "lambda:InvokedViaFunctionUrl": "true" } }),
            Unmentioned,
        ),
        // What the principal tells.
        (
            json!({ "StringEquals": { "aws:PrincipalAccount": "123456789012" } }),
            Allowed,
        ),
        (
            json!({ "ArnLike": { "aws:PrincipalArn": "arn:aws:iam::*:user/a*" } }),
            Allowed,
        ),
        (
            json!({ "Bool": { "aws:PrincipalIsAWSService": false } }),
            Allowed,
        ),
        // What is not understood.
        (
            json!({ "IpAddress": { "aws:SourceIp": "0.0.0.0/0" } }),
            Unmentioned,
        ),
        (
            json!({ "StringNotEquals": { "aws:SourceVpc": "vpc-1" } }),
            Unmentioned,
        ),
        (
            json!({ "ForAnyValue:StringEquals": { "aws:SourceArn": "x" } }),
            Unmentioned,
        ),
        (json!({ "StringEquals": "x" }), Unmentioned),
        (json!("x"), Unmentioned),
        (json!({}), Allowed),
    ] {
        check(json!({ "Condition": condition }), ALICE, &context, is);
    }
}

#[test]
fn a_denial_overrides() {
    let allow = with(json!({}));
    let deny = with(json!({ "Effect": "Deny" }));
    for (statements, is) in [
        (vec![], Unmentioned),
        (vec![allow.clone()], Allowed),
        (vec![allow.clone(), deny.clone()], Denied),
        (vec![deny.clone(), allow.clone()], Denied),
        (
            vec![
                with(json!({ "Effect": "Deny", "Action": "lambda:GetPolicy" })),
                allow.clone(),
            ],
            Allowed,
        ),
        (
            vec![
                allow.clone(),
                with(json!({ "Effect": "Deny", "Principal": { "AWS": "210987654321" } })),
            ],
            Allowed,
        ),
        // What is not understood denies, unless another part of it says that it is about something else.
        (
            vec![
                allow.clone(),
                with(
                    json!({ "Effect": "Deny", "Condition": { "IpAddress": { "aws:SourceIp": "x" } } }),
                ),
            ],
            Denied,
        ),
        (
            vec![
                allow.clone(),
                with(json!({
                    "Effect": "Deny", "Action": "lambda:GetPolicy",
                    "Condition": { "IpAddress": { "aws:SourceIp": "x" } },
                })),
            ],
            Allowed,
        ),
        (
            vec![allow.clone(), with(json!({ "Effect": "Perhaps" }))],
            Denied,
        ),
        (
            vec![
                allow.clone(),
                with(json!({ "Effect": "Deny", "Principal": null })),
            ],
            Denied,
        ),
        (vec![allow, json!("x")], Denied),
    ] {
        assert_eq!(decided(&statements, ALICE, &[]), is, "{statements:?}");
    }
    let request = Request {
        principal: ALICE,
        action: "lambda:InvokeFunction",
        resource: FUNCTION,
        context: &[],
    };
    assert_eq!(decide(None, &request), Unmentioned);
}

#[test]
fn patterns_match_whole_texts() {
    for (pattern, text, is) in [
        ("", "", true),
        ("*", "", true),
        ("a*c", "abbc", true),
        ("a*c", "abcb", false),
        ("a*b*c", "a-b-b-c", true),
        ("*a", "aaa", true),
        ("a?", "a", false),
        ("?*", "x", true),
        ("a", "ab", false),
        ("ab", "a", false),
    ] {
        assert_eq!(matches(pattern, text), is, "{pattern} {text}");
    }
    // Takes the product of the lengths, not more.
    assert!(!matches(&"*a".repeat(500), &"a".repeat(499)));
}
