//! What would be refused of a function, as clients ask it beforehand.

use serde_json::{Value, json};

use super::*;

async fn check(served: &Served, name: &str, body: &str) -> (u16, Value) {
    let path = format!("/v1/functions/{name}/check");
    let (status, answer) = served.post(&path, "application/json", body).await;
    (status, serde_json::from_str(&answer).unwrap())
}

/// What the problems are about.
async fn members(served: &Served, body: Value) -> Vec<String> {
    let (status, answer) = check(served, "f", &body.to_string()).await;
    assert_eq!(status, 200, "{answer}");
    let problems = answer["problems"].as_array().unwrap();
    let members = problems.iter().map(|problem| {
        assert_ne!(problem["message"], "", "{answer}");
        problem["member"].as_str().unwrap().to_owned()
    });
    members.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_question_is_refused() {
    let served = served(Options::default()).await;
    for body in [
        "{",
        "1",
        r#"{"before": "f"}"#,
        r#"{"reserved_beside": {"a": -1}}"#,
    ] {
        let (status, answer) = check(&served, "f", body).await;
        assert_eq!(status, 400, "{body}: {answer}");
    }
    let (status, answer) = check(&served, "f:live", "{}").await;
    assert_eq!(status, 400, "{answer}");
    assert!(answer.to_string().contains("functions only"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_problem_is_told_with_its_member() {
    let served = served(Options::default()).await;
    assert!(members(&served, json!({})).await.is_empty());
    let stream = |name: &str| {
        let arn = format!("arn:aws:lambic:us-east-1:000000000000:stream/{name}");
        json!({ "EventSourceArn": arn, "StartingPosition": "LATEST" })
    };
    let wrong = json!({
        "configuration": { "Timeout": 0 },
        "tags": { "aws:mine": "1" },
        "version_description": "d".repeat(257),
        "aliases": [{ "Name": "12" }, { "Name": "live" }],
        "event_source_mappings": [stream("notes"), stream("none")],
        "function_url_config": { "AuthType": "OPEN" },
        "provisioned_concurrency": [0],
    });
    let none = "arn:aws:lambic:us-east-1:000000000000:stream/none";
    assert_eq!(
        members(&served, wrong).await,
        [
            "",
            "Tags",
            "VersionDescription",
            "Aliases",
            "ProvisionedConcurrencyConfig",
            "FunctionUrlConfig",
            none,
        ]
    );
    assert!(served.functions.functions().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_will_have_reserved_counts() {
    let served = served(Options::default()).await;
    let asked = |beside: u32| json!({ "reserved_concurrency": 500, "reserved_beside": { "g": beside, "f": 900 } });
    assert!(members(&served, asked(400)).await.is_empty());
    assert_eq!(
        members(&served, asked(401)).await,
        ["ReservedConcurrentExecutions"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_will_be_there_may_be_named() {
    let served = served(Options::default()).await;
    let target = |name: &str| format!("arn:aws:lambda:us-east-1:000000000000:function:{name}");
    let asked = |before: Value, beside: Value| {
        let failures = json!({ "OnFailure": { "Destination": target("h:live") } });
        json!({
            "configuration": { "DeadLetterConfig": { "TargetArn": target("g") } },
            "event_invoke_config": { "DestinationConfig": failures },
            "before": before,
            "beside": beside,
        })
    };
    let there = members(&served, asked(json!(["g"]), json!(["h", "h:live"]))).await;
    assert!(there.is_empty(), "{there:?}");
    assert_eq!(
        members(&served, asked(json!([]), json!(["g", "h"]))).await,
        ["DeadLetterConfig", "EventInvokeConfig"]
    );
}
